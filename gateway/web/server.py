"""Listening: where, with TLS or not, and for whom not at all; connections that hold on to the line are cut off."""

import asyncio
import logging
import ssl
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from parallel_evm import BlockStats, Chain
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.chain_server import Server, bind
from gateway.config import Config, WebConfig
from gateway.errors import SetupError
from gateway.service import Gateway
from gateway.web.access import Access
from gateway.web.app import Site, read_metrics_token
from gateway.web.desk import Desk
from gateway.web.store import OperatorStore

log = logging.getLogger("metergate.web")

# Browsers hold six connections each, and 64 streams at most; more at once is no operator.
CONNECTIONS_MAX = 256
SHUTDOWN_S = 2
# A request's line and headers arrive at once; a client that takes longer holds the line.
HEADERS_WAIT_S = 10.0
# What is sent fits into the buffers on the way, or is taken within this.
SEND_WAIT_S = 10.0

_transports: dict[Any, asyncio.BaseTransport] = {}


class Connection(H11Protocol):
    """uvicorn's connection, but one whose request does not arrive, or whose answer is not taken, is cut off."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take note of a connection."""
        super().connection_made(transport)
        _transports[self.client] = transport
        self._waiting_since: float | None = time.monotonic()
        self._look = self.loop.call_later(HEADERS_WAIT_S, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._look.cancel()
        _transports.pop(self.client, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes in, and note since when a request is incomplete."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = time.monotonic()

    def _check(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        since = self._waiting_since
        if not answering and since is not None and time.monotonic() - since >= HEADERS_WAIT_S:
            self.transport.abort()
            return
        self._look = self.loop.call_later(HEADERS_WAIT_S, self._check)


class Patience:
    """Cuts off clients that do not take what they asked for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def patient(message: Message) -> None:
            try:
                async with asyncio.timeout(SEND_WAIT_S):
                    await send(message)
            except TimeoutError:
                transport = _transports.get(scope.get("client"))
                if isinstance(transport, asyncio.WriteTransport):
                    transport.abort()

        await self._app(scope, receive, patient)


class WebServer:
    """Serves one started gateway. `serve` until cancelled; `desk.run` beside it is the caller's task."""

    def __init__(self, gateway: Gateway, web: WebConfig, *, chain: Chain | None = None) -> None:
        self._gateway = gateway
        self._web = web
        self._store = OperatorStore(Path(gateway.config.data_dir))
        self.access = Access(self._store)
        self.desk = Desk(gateway, chain)
        self._context = _context(web)

    @property
    def url(self) -> str:
        """Where a browser on this machine, or through the proxy, finds it."""
        if self._web.public_url:
            return self._web.public_url
        host = f"[{self._web.host}]" if ":" in self._web.host else self._web.host
        if not is_loopback(self._web.host) and is_any(self._web.host):
            host = "127.0.0.1"
        return f"{'https' if self._context else 'http'}://{host}:{self._web.port}"

    def took_block(self, stats: BlockStats) -> None:
        """Take note of a block of the embedded layer."""
        self.desk.blocks.take(stats)

    async def serve(self) -> None:
        """Serve until cancelled. Raises SetupError for what the operator can mend."""
        web, config = self._web, self._gateway.config
        try:
            await self._store.open()
            refuse_public(config, web, operators=bool(await self._store.operators()))
            site = Site(
                self.desk,
                self.access,
                hosts=_hosts(web),
                tls=self._context is not None or web.public_url.startswith("https:"),
                metrics_token=read_metrics_token(web.metrics_token_file),
            )
            listener = bind(web.port, "--http-port" if config.demo else "web.port", web.host)
            await self._welcome()
            async with asyncio.TaskGroup() as group:
                group.create_task(self.desk.run())
                await _serve(Patience(site.app), listener, self._context, self.desk)
        finally:
            await self._store.close()

    async def _welcome(self) -> None:
        if self._gateway.config.demo:
            return
        code = await self.access.setup_code()
        if code is not None:
            print(
                f"there is no operator yet: open {self.url}/setup#{code} once, or run `metergate operator add NAME`",
                file=sys.stderr,
                flush=True,
            )


async def _serve(app: ASGIApp, listener: Any, context: ssl.SSLContext | None, desk: Desk) -> None:
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        date_header=True,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=SHUTDOWN_S,
        proxy_headers=False,
    )
    config.load()
    config.ssl = context
    server = Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        desk.hub.close()  # streams never end by themselves
        server.should_exit = True
        await serving
        raise


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a listener at this host."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_any(host: str) -> bool:
    """Tell whether a host means every address of this machine."""
    return host in ("0.0.0.0", "::")  # noqa: S104  # compared, not bound


def refuse_public(config: Config, web: WebConfig, *, operators: bool) -> None:
    """Raise SetupError for an address that others reach without login, or with one that goes in the clear."""
    if is_loopback(web.host):
        return
    if config.demo:
        raise SetupError(f"the demo needs no login, so it is served on loopback only, not on {web.host}.")
    if not (web.tls_cert or web.public_url.startswith("https:")):
        raise SetupError(
            f"web.host {web.host} is reached by others, and without TLS passwords would go in the clear: set"
            " web.tls_cert and web.tls_key, or web.public_url to the https URL of the proxy before it."
        )
    if not operators:
        raise SetupError(
            f"web.host {web.host} is reached by others and there is no operator yet: run `metergate operator add NAME`"
            " first."
        )


def _hosts(web: WebConfig) -> list[str]:
    """Return the names under which it may be asked; none, and so any, for an address that others reach by theirs."""
    public = [urlsplit(web.public_url).hostname or ""] if web.public_url else []
    if is_loopback(web.host):
        return ["127.0.0.1", "localhost", "[::1]", web.host, *public]
    return [*public, web.host] if public and not is_any(web.host) else []


def _context(web: WebConfig) -> ssl.SSLContext | None:
    if not web.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(web.tls_cert, web.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise SetupError(
            f"web.tls_cert {web.tls_cert} with web.tls_key {web.tls_key} cannot be used: {error}."
        ) from error
    return context


@asynccontextmanager
async def serving(server: WebServer) -> AsyncIterator[Mapping[str, str]]:
    """Serve beside the body, and end in order after it; a fault of the server ends the body with it."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.serve())
        yield {"url": server.url}
        task.cancel()
