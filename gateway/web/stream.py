"""The live stream: server-sent events to any number of browsers, bounded everywhere.

Publishing costs the same whether nobody or everybody listens for longer than a queue's length: a client that does
not keep up is dropped, never waited for. What was missed is sent again from a short buffer; what is no longer in it
is a `reset`, upon which a page loads anew.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable

import msgspec

STREAMS_MAX = 64
STREAMS_PER_CALLER_MAX = 8
# About a minute of everything that is sent at most, so that a short loss of the line shows no gap.
KEPT = 512
QUEUE_MAX = 64
# Proxies and phones cut silent connections; browsers notice a dead one only when something is sent.
PING_EVERY_S = 15.0


class StreamsBusy(Exception):
    """There are too many streams, in all or of one caller."""


class Hub:
    """Takes events in and hands them to all listeners."""

    def __init__(self) -> None:
        self._number = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=KEPT)
        self._queues: dict[asyncio.Queue[bytes | None], str] = {}

    @property
    def listeners(self) -> int:
        """How many streams are open."""
        return len(self._queues)

    def publish(self, event: str, data: object) -> None:
        """Send an event to everybody who listens. Does not wait."""
        self._number += 1
        frame = _frame(self._number, event, msgspec.json.encode(data))
        self._kept.append((self._number, frame))
        for queue in list(self._queues):
            try:
                queue.put_nowait(frame)
            except asyncio.QueueFull:
                del self._queues[queue]
                while not queue.empty():  # so that the end reaches it before what it could not keep up with
                    queue.get_nowait()
                queue.put_nowait(None)

    def listen(self, caller: str, last_id: str | None) -> "Listener":
        """Return a listener that gets what comes after `last_id`. Raises StreamsBusy."""
        if len(self._queues) >= STREAMS_MAX:
            raise StreamsBusy(f"there are {STREAMS_MAX} streams already")
        if Counter(self._queues.values())[caller] >= STREAMS_PER_CALLER_MAX:
            raise StreamsBusy(f"{caller} has {STREAMS_PER_CALLER_MAX} streams already")
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_MAX)
        self._queues[queue] = caller
        return Listener(queue, self._missed(last_id), self._leave)

    def _leave(self, queue: "asyncio.Queue[bytes | None]") -> None:
        self._queues.pop(queue, None)

    def close(self) -> None:
        """End all streams."""
        for queue in list(self._queues):
            del self._queues[queue]
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(None)

    def _missed(self, last_id: str | None) -> list[bytes]:
        if last_id is None:
            return []
        since = int(last_id) if last_id.isascii() and last_id.isdigit() and len(last_id) < 20 else -1
        oldest = self._kept[0][0] if self._kept else self._number + 1
        if not oldest - 1 <= since <= self._number:
            return [_frame(self._number, "reset", b"{}")]
        return [frame for number, frame in self._kept if number > since]


class Listener:
    """One stream's side of the hub. Call `leave` at the end, also when nothing was ever asked for."""

    def __init__(
        self,
        queue: "asyncio.Queue[bytes | None]",
        missed: list[bytes],
        leave: Callable[["asyncio.Queue[bytes | None]"], None],
    ) -> None:
        self._queue = queue
        self._missed = missed
        self._leave = leave

    def leave(self) -> None:
        """Take no more events."""
        self._leave(self._queue)

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield frames until the hub drops this listener or ends."""
        yield b"retry: 2000\n\n"
        for frame in self._missed:
            yield frame
        while True:
            try:
                async with asyncio.timeout(PING_EVERY_S):
                    next_frame = await self._queue.get()
            except TimeoutError:
                yield b": ping\n\n"
                continue
            if next_frame is None:
                return
            yield next_frame


def _frame(number: int, event: str, data: bytes) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, event.encode(), data)
