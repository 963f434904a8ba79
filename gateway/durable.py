"""Nothing is shown before it is on disk: the states in memory are ahead of the journal by the commit under way."""

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.journal import Journal


class ShownWhenDurable:
    """Holds each part of an answer back until every commit that it may tell of is on disk.

    `covers` tells by its path which answers are held back; health checks are not, as they tell of no money. Raises
    JournalFault, and shows nothing, when the disk has failed: the gateway is ending then.
    """

    def __init__(self, app: ASGIApp, journal: Journal, covers: Callable[[str], bool] = lambda path: True) -> None:
        self._app = app
        self._journal = journal
        self._covers = covers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def send_when_durable(message: Message) -> None:
            await self._journal.durable()
            await send(message)

        covered = scope["type"] == "http" and self._covers(scope["path"])
        await self._app(scope, receive, send_when_durable if covered else send)
