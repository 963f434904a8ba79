"""A device link in memory: frames in, receipts out, and a note of everything in the order in which it happened."""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from devices.link import Frame, Token
from devices.messages import Receipt
from devices.receipts import decode_receipt

# A receipt takes milliseconds; a busy machine may be far slower. Only a lost receipt waits this long.
ANSWER_WAIT_S = 60.0


def answers(payload: bytes) -> bytes:
    """Return what a receipt to this payload carries in `answers`."""
    return sha256(payload).digest()[:8]


class MemoryLink:
    """Takes the place of `devices.client.DeviceLink`.

    At each receipt it looks, through a connection of its own, whether the commit that the receipt names is on
    disk: `not_durable` holds the receipts for which it was not.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._queue: deque[Frame] = deque()
        self._news = asyncio.Condition()
        self._stopped = False
        self._packets = 0
        self.connected = False
        self.offers: list[bytes] = []
        self.acknowledged: list[Frame] = []
        self.published: list[tuple[str, bytes]] = []
        self.log: list[tuple[str, object]] = []
        self.not_durable: list[Receipt] = []

    async def start(self) -> None:
        """Connect."""
        self.connected = True

    async def stop(self) -> None:
        """Disconnect: whoever receives gets an empty list."""
        async with self._news:
            self._stopped = True
            self.connected = False
            self._news.notify_all()

    @property
    def queued(self) -> int:
        """How many frames wait."""
        return len(self._queue)

    def frame(self, device: str, leaf: str, payload: bytes) -> Frame:
        """Return a frame with a packet id of its own."""
        self._packets += 1
        return Frame(device, leaf, payload, False, Token(1, self._packets))

    async def send(self, device: str, leaf: str, *payloads: bytes) -> list[Frame]:
        """Let a device publish; all payloads are there at once."""
        frames = [self.frame(device, leaf, payload) for payload in payloads]
        await self.deliver(frames)
        return frames

    async def deliver(self, frames: Sequence[Frame]) -> None:
        """Put frames into the queue, all at once."""
        async with self._news:
            self._queue.extend(frames)
            self._news.notify_all()

    async def receive(
        self, limit: int, window_s: float, *, enough: int | None = None, silence_s: float | None = None
    ) -> list[Frame]:
        """Return what is there, at least one frame, or nothing once stopped."""
        async with self._news:
            await self._news.wait_for(lambda: self._queue or self._stopped)
            if self._stopped:
                return []
            return [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]

    def acknowledge(self, frames: Sequence[Frame]) -> None:
        """Note the acknowledgement."""
        self.log += [("ack", frame) for frame in frames]
        self.acknowledged += frames

    async def publish_receipt(self, device: str, payload: bytes) -> None:
        """Publish one receipt."""
        await self.publish_receipts([(device, payload)])

    async def publish_receipts(self, receipts: Sequence[tuple[str, bytes]]) -> None:
        """Note the receipts and whether what they tell is on disk."""
        last = self._last_commit() if receipts else 0
        async with self._news:
            for device, payload in receipts:
                receipt = decode_receipt(payload)
                if receipt.commit is not None and receipt.commit > last:
                    self.not_durable.append(receipt)
                self.log.append(("receipt", (device, payload)))
                self.published.append((device, payload))
            self._news.notify_all()

    def publish_offer(self, payload: bytes) -> None:
        """Retain the offer."""
        self.offers.append(payload)

    def _last_commit(self) -> int:
        db = sqlite3.connect(f"file:{self._journal}?mode=ro", uri=True)
        try:
            return int(db.execute("SELECT coalesce(max(number), 0) FROM commits").fetchone()[0])
        finally:
            db.close()

    def receipts_to(self, device: str, payload: bytes, since: int = 0) -> list[bytes]:
        """Return the receipts to `device` that answer this payload, from the `since`-th published one on."""
        wanted = answers(payload)
        return [each for to, each in self.published[since:] if to == device and decode_receipt(each).answers == wanted]

    async def receipt(self, device: str, payload: bytes, since: int = 0) -> bytes:
        """Wait for the receipt that answers this payload."""
        async with asyncio.timeout(ANSWER_WAIT_S), self._news:
            await self._news.wait_for(lambda: self.receipts_to(device, payload, since))
        return self.receipts_to(device, payload, since)[0]
