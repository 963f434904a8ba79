"""The web application: routes from the endpoint table, the front end, health, metrics, and what all answers pass."""

import hmac
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.durable import ShownWhenDurable
from gateway.errors import JournalFault, SetupError
from gateway.web.access import Access, Scope
from gateway.web.api import overview
from gateway.web.api.devices import Devices
from gateway.web.api.layer import Layer
from gateway.web.api.operating import Operating
from gateway.web.api.people import People
from gateway.web.api.settlement import Settlement
from gateway.web.desk import Desk
from gateway.web.endpoints import Asked, Endpoint, Problem
from gateway.web.event_stream import EventStream
from gateway.web.guard import Guard, allow, problem_response
from gateway.web.headers import SecureHeaders
from gateway.web.health import HealthChecks
from gateway.web.metrics import Metrics
from gateway.web.openapi import document
from gateway.web.shapes_money import Json
from gateway.web.static import PAGES, FrontEnd
from gateway.web.stream import StreamsBusy

PREFIX = "/api/v1"
GZIP_FROM = 500
# Of a request's path and query: nothing of ours comes near.
TARGET_MAX = 4_096

Answerer = Callable[[Request], Awaitable[Response]]


class Site:
    """One gateway's web application."""

    def __init__(
        self,
        desk: Desk,
        access: Access,
        *,
        hosts: Iterable[str] = (),
        tls: bool = False,
        metrics_token: str = "",
        dist: Path | None = None,
    ) -> None:
        """`hosts` are the names it is reached under, none: any. `metrics_token` opens /metrics besides a login."""
        self.desk = desk
        self.guard = Guard(access, demo=desk.gateway.config.demo, secure=tls)
        self._metrics = Metrics(desk)
        self._metrics_token = metrics_token
        self.front_end = FrontEnd() if dist is None else FrontEnd(dist)
        self.endpoints = self._endpoints()
        self._document = msgspec.json.encode(document(self.endpoints, PREFIX))
        self.app = Starlette(
            routes=[*self._api_routes(), *self._other_routes()],
            middleware=[
                Middleware(SecureHeaders, hosts=hosts, tls=tls),
                Middleware(GZipMiddleware, minimum_size=GZIP_FROM, compresslevel=6),
                Middleware(ShownWhenDurable, journal=desk.gateway.books.journal, covers=_tells_of_money),
            ],
            exception_handlers={HTTPException: _http_error, JournalFault: _fault},
        )

    # -- the table --

    def _endpoints(self) -> list[Endpoint]:
        desk = self.desk
        return [
            *People(desk, self.guard).endpoints(),
            *overview.endpoints(desk),
            *Devices(desk).endpoints(),
            *Settlement(desk).endpoints(),
            *Layer(desk).endpoints(),
            *Operating(desk).endpoints(),
            Endpoint(
                "GET", "/stream", Scope.READ, self._stream, None, "Server-sent events", "stream", errors=(429,)
            ),
            Endpoint("GET", "/openapi.json", None, self._openapi, Json, "This document", "meta"),
        ]  # fmt: skip

    def _api_routes(self) -> list[Route]:
        by_path: dict[str, dict[str, Answerer]] = defaultdict(dict)
        for endpoint in self.endpoints:
            by_path[endpoint.path][endpoint.method] = self.guard.route(endpoint)
        # What has no parameter first: /enrolment/window is not an id.
        paths = sorted(by_path, key=lambda path: (path.count("{"), path))
        return [Route(PREFIX + path, _by_method(by_path[path]), methods=list(by_path[path])) for path in paths]

    async def _openapi(self, asked: Asked) -> Response:
        return Response(self._document, media_type="application/json")

    async def _stream(self, asked: Asked) -> Response:
        if asked.request.method == "HEAD":
            return Response(media_type=EventStream.media_type)
        try:
            listener = self.desk.hub.listen(asked.caller.name, asked.request.headers.get("last-event-id"))
        except StreamsBusy as error:
            raise Problem(429, "too_many_streams", str(error), {"retry-after": "10"}) from error
        return EventStream(listener)

    # -- everything else --

    def _other_routes(self) -> list[Route]:
        health = HealthChecks(self.desk)
        files = [Route(path, self.front_end.file) for path in self.front_end.paths]
        return [
            Route("/healthz", health.alive),
            Route("/readyz", health.ready),
            Route("/metrics", self._show_metrics),
            *files,
            *(Route(path, self.front_end.page) for path in PAGES),
        ]

    async def _show_metrics(self, request: Request) -> Response:
        try:
            kind, _, secret = request.headers.get("authorization", "").partition(" ")
            token = self._metrics_token
            let_in = (
                bool(token)
                and kind.lower() == "bearer"
                and hmac.compare_digest(secret.strip().encode(), token.encode())
            )
            if not let_in:
                allow(await self.guard.caller(request), Scope.READ)
        except Problem as problem:
            return problem_response(problem)
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _tells_of_money(path: str) -> bool:
    return path.startswith("/api/") or path == "/metrics"


def read_metrics_token(path: str) -> str:
    """Return the token in a file. Raises SetupError for one that cannot be read or is empty."""
    if not path:
        return ""
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"cannot read web.metrics_token_file {path}: {error}.") from error
    if len(token) < 16:
        raise SetupError(f"web.metrics_token_file {path} holds less than 16 characters: anybody could guess that.")
    return token


def _by_method(handlers: Mapping[str, Answerer]) -> Answerer:
    async def answer(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return answer


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers: Mapping[str, Any] = error.headers or {}
    if request.url.path.startswith("/api/"):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        return problem_response(Problem(error.status_code, code, error.detail, headers))
    return PlainTextResponse(f"{error.detail}\n", error.status_code, dict(headers))


async def _fault(request: Request, error: Exception) -> Response:
    return problem_response(Problem(500, "fault", str(error)))


def routes_of(endpoints: Sequence[Endpoint]) -> list[tuple[str, str]]:
    """Return (method, full path) of all endpoints, for tests and docs."""
    return [(endpoint.method, PREFIX + endpoint.path) for endpoint in endpoints]
