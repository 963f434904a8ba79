"""The embedded execution layer of one site: made from a genesis, producing blocks, served over HTTP."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator

import uvicorn
from parallel_evm import BlockStats, Chain, RpcError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.errors import SetupError

# Above the largest batch a stock client sends, below what would hurt a Raspberry Pi.
BODY_MAX = 5 * 2**20
# A block without transactions this often keeps chain time near the wall clock.
HEARTBEAT_S = 1.0
SHUTDOWN_S = 2  # for requests under way when a server ends

log = logging.getLogger("metergate")


async def produce_blocks(
    chain: Chain, block_ms: int, on_block: Callable[[BlockStats], None] = lambda stats: None
) -> None:
    """Make a block every `block_ms` when transactions wait, and an empty one every second otherwise."""
    last = 0.0
    while True:
        now = time.monotonic()
        if chain.pending_count or now - last >= HEARTBEAT_S:
            try:
                on_block(await asyncio.to_thread(chain.produce_block))
            except RpcError as error:  # its disk is full: nothing acknowledged is lost, and room may come back
                log.warning("no block can be written: %s", error)
                await asyncio.sleep(HEARTBEAT_S)
            last = now
        await asyncio.sleep(block_ms / 1000)


def application(chain: Chain) -> Starlette:
    """Return the HTTP application that answers JSON-RPC by POST at any path."""

    async def rpc(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > BODY_MAX:
                return PlainTextResponse(f"a request has at most {BODY_MAX} bytes\n", 413)
        answer = await run_in_threadpool(chain.rpc, bytes(body))
        return Response(answer, media_type="application/json")

    return Starlette(routes=[Route("/{path:path}", rpc, methods=["POST"])])


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: whoever runs it decides when it ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def bind(port: int, option: str, host: str = "127.0.0.1") -> socket.socket:
    """Return a listening TCP socket. Raises SetupError that names the option to change when the port is taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise SetupError(
            f"port {port} on {host} cannot be used ({error.strerror}): "
            f"end what uses it, or choose another with {option}."
        ) from error
    listener.setblocking(False)
    return listener


async def serve(application: Starlette, listener: socket.socket) -> None:
    """Serve until cancelled."""
    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    server = Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True  # requests under way are answered first
        await serving
        raise
