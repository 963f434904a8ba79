"""The one MQTT client (docs/protocol.md 3): frames in, receipts out, acknowledged only after the commit.

`DeviceLink` is the asyncio side. The network runs in a thread of its own (`devices.network`), and the two meet
in batches: one wake-up of the event loop for many frames, one wake-up of the thread for many receipts.

Errors: LinkUnavailable at start (no broker, refused, bad TLS files) and for calls after `stop`. Later losses of
the connection are repaired by reconnecting and show only in `connected` and the counters.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from devices.exchange import Exchange
from devices.link import Frame, LinkCounters, LinkSettings, LinkUnavailable, MqttVersion
from devices.network import Network

__all__ = ["DeviceLink", "Frame", "LinkCounters", "LinkSettings", "LinkUnavailable", "MqttVersion"]


class DeviceLink:
    """One gateway's connection to its broker. One task receives; any task of the same loop may publish."""

    def __init__(self, settings: LinkSettings) -> None:
        """Take settings; nothing happens before `start`. Raises ValueError for a gateway id that is not one."""
        self.settings = settings
        self.counters = LinkCounters()
        self._exchange = Exchange(settings, self.counters)
        self._network = Network(settings, self._exchange, self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started: asyncio.Future[None] | None = None
        self._queue: deque[Frame] = deque()  # bounded by the network thread, which stops reading
        self._wanted = 1
        self._arrival: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._ended = False
        self._stopping = False

    @property
    def connected(self) -> bool:
        """True while the broker has accepted us and our subscriptions."""
        return self._network.connected

    @property
    def queued(self) -> int:
        """How many frames wait for `receive`."""
        return len(self._queue)

    async def start(self) -> None:
        """Connect and subscribe. Raises LinkUnavailable, one clear sentence, if that fails now."""
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.create_future()
        self._network.start(self._loop)
        try:
            await self._started
        except BaseException:  # cancelled, too: no thread is left behind
            await self.stop()
            raise

    async def stop(self) -> None:
        """Send what is waiting, say goodbye and disconnect. Frames not acknowledged are delivered again."""
        self._stopping = True
        self._network.request_stop()
        await asyncio.to_thread(self._network.join)
        self.link_ended()

    async def receive(
        self, limit: int, window_s: float, *, enough: int | None = None, silence_s: float | None = None
    ) -> list[Frame]:
        """Return up to `limit` frames: waits for one, then up to `window_s` seconds until there are `enough`.

        It waits no longer when none has come in a stretch of `silence_s`. By default `limit` are enough, and silence
        is borne.

        An empty list means that the link was stopped. Raises LinkUnavailable if its thread ended by itself.
        """
        await self._wait_for_frames(1, None)
        if window_s > 0:
            await self._gather(min(limit, enough or limit), window_s, silence_s or window_s)
        queue = self._queue
        frames = [queue.popleft() for _ in range(min(limit, len(queue)))]
        if frames:
            was_full = self._exchange.is_full
            self._exchange.taken(frames)
            if was_full and not self._exchange.is_full:
                self._network.wake()
        elif self._ended and not self._stopping:
            raise LinkUnavailable("the MQTT client ended unexpectedly; its error is on stderr")
        return frames

    async def _gather(self, enough: int, window_s: float, silence_s: float) -> None:
        deadline = time.monotonic() + window_s
        while len(self._queue) < enough and not self._ended:
            left, count = deadline - time.monotonic(), len(self._queue)
            if left <= 0:
                return
            # Arrivals are not looked at one by one: each look is a future, a timer and three turns of the event loop.
            await self._wait_for_frames(enough, min(left, silence_s))
            if len(self._queue) == count:
                return

    async def _wait_for_frames(self, count: int, timeout_s: float | None) -> None:
        if len(self._queue) >= count or self._ended:
            return
        if self._arrival is not None:
            raise RuntimeError("only one task may receive")
        self._wanted = count
        self._arrival = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait((self._arrival,), timeout=timeout_s)
        finally:
            self._arrival = None

    def acknowledge(self, frames: Sequence[Frame]) -> None:
        """Acknowledge frames to the broker (PUBACK), after what they led to was committed.

        Frames of an earlier connection are passed over: the broker delivers them again, and packet ids may
        mean other messages by now.
        """
        self._exchange.acknowledge([frame.token for frame in frames])
        self._network.wake()

    async def publish_receipt(self, device: str, payload: bytes) -> None:
        """Publish one receipt at QoS 1; see `publish_receipts`."""
        await self.publish_receipts(((device, payload),))

    async def publish_receipts(self, receipts: Sequence[tuple[str, bytes]]) -> None:
        """Publish (device, payload) pairs at QoS 1, in order.

        Waits while `outgoing_max` receipts are on their way; during an outage until the broker is back. Raises
        LinkUnavailable once the link was stopped.
        """
        exchange = self._exchange
        for device, payload in receipts:
            while exchange.room <= 0:
                await self._wait_for_room()
            if self._ended:
                raise LinkUnavailable("the link to the broker was stopped")
            exchange.enqueue(device, payload)
        self._network.wake()

    async def _wait_for_room(self) -> None:
        if self._ended:
            raise LinkUnavailable("the link to the broker was stopped")
        if self._room is None:
            self._room = asyncio.get_running_loop().create_future()
        self._exchange.publisher_waits = True
        self._network.wake()
        # The thread may have made room before it saw the flag.
        if self._exchange.room <= 0:
            await asyncio.wait((self._room,))

    def publish_offer(self, payload: bytes) -> None:
        """Retain `payload` as the gateway's offer, now and again at every connect."""
        self._exchange.set_offer(payload)
        self._network.wake()

    # What the network thread reports, through call_soon_threadsafe

    def link_started(self, error: LinkUnavailable | None) -> None:
        """The first connection is up, or cannot be."""
        if self._started is None or self._started.done():
            return
        if error is None:
            self._started.set_result(None)
        else:
            self._started.set_exception(error)

    def frames_arrived(self, frames: Sequence[Frame]) -> None:
        """A batch of frames came in."""
        self._queue.extend(frames)
        if len(self._queue) >= self._wanted:
            _wake(self._arrival)

    def room_made(self) -> None:
        """The broker acknowledged receipts while a publisher waited."""
        _wake(self._room)
        self._room = None

    def link_ended(self) -> None:
        """The thread is gone: whoever waits is told."""
        self._ended = True
        self.link_started(LinkUnavailable("the link to the broker was stopped"))
        _wake(self._arrival)
        _wake(self._room)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
