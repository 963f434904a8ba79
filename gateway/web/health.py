"""Is it alive, is it ready: two public answers without detail, for whoever restarts or routes."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gateway.web.desk import Desk


class HealthChecks:
    """The answers of one gateway."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def alive(self, request: Request) -> Response:
        """Say that the process serves: its event loop turns, or nothing would be answered."""
        return PlainTextResponse("ok\n")

    async def ready(self, request: Request) -> Response:
        """Say whether readings are taken: the broker is there, and the chain not silent for too long."""
        gateway = self._desk.gateway
        ready = gateway.link.connected and not gateway.terms.chain_stale
        return PlainTextResponse("ready\n" if ready else "not ready\n", 200 if ready else 503)
