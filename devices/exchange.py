"""What the event loop and the network thread exchange: frames in, acknowledgements and receipts out, all bounded.

Each side changes only its own counters, so their differences need no lock; a `deque` takes both ends by itself.
"""

import time
from collections import deque
from collections.abc import Sequence

from devices.link import Frame, LinkCounters, LinkSettings, Token
from devices.topics import Topics

# Topics whose meaning is remembered; each costs some 300 bytes.
_TOPICS_MAX = 20_000


class Exchange:
    """The queues of one link, and what the thread knows of messages under way."""

    def __init__(self, settings: LinkSettings, counters: LinkCounters) -> None:
        self.topics = Topics(settings.gateway)
        self.counters = counters
        self._settings = settings
        self.publisher_waits = False
        self._frames_in = 0  # thread
        self._bytes_in = 0
        self._frames_out = 0  # event loop
        self._bytes_out = 0
        self._receipts_in = 0  # event loop
        self._receipts_out = 0  # thread
        self._outgoing: deque[tuple[str, bytes]] = deque()
        self._acknowledgements: deque[Sequence[Token]] = deque()
        self._offer: bytes | None = None
        self._offer_due = False
        # The thread's own
        self.connection = 0
        self.window = settings.outgoing_window
        self.batch: list[Frame] = []
        self._in_flight = 0
        self._own_ids: set[int] = set()  # packet ids of the offer and of the gateway's state
        self._parsed: dict[bytes, tuple[str, str] | None] = {}

    # -- the event loop's side --

    def taken(self, frames: Sequence[Frame]) -> None:
        """The consumer took frames off the queue."""
        self._frames_out += len(frames)
        self._bytes_out += sum(len(frame.payload) for frame in frames)

    def acknowledge(self, tokens: Sequence[Token]) -> None:
        """Queue acknowledgements; bounded by the frames there are."""
        self._acknowledgements.append(tokens)

    @property
    def room(self) -> int:
        """How many more receipts may be queued."""
        return self._settings.outgoing_max - (self._receipts_in - self._receipts_out)

    def enqueue(self, device: str, payload: bytes) -> None:
        """Queue a receipt; the caller has checked `room`."""
        self._receipts_in += 1
        self._outgoing.append((self.topics.receipt(device), payload))

    def set_offer(self, payload: bytes) -> None:
        """Replace the retained offer; only the newest is ever sent."""
        self._offer = payload
        self._offer_due = True

    # -- both --

    @property
    def room_for_frames(self) -> tuple[int, int]:
        """How many more frames, and bytes of them, may wait; nothing is read while there is no room."""
        frames = self._settings.queue_max - (self._frames_in - self._frames_out)
        return frames, self._settings.queue_bytes_max - (self._bytes_in - self._bytes_out)

    @property
    def is_full(self) -> bool:
        """True when no more frames should be read."""
        return min(self.room_for_frames) <= 0

    # -- the thread's side --

    def parse(self, topic: bytes) -> tuple[str, str] | None:
        """Return (device, leaf) of a topic that is a device's, or None; remembered, as topics come again and again."""
        if topic in self._parsed:
            return self._parsed[topic]
        if len(self._parsed) >= _TOPICS_MAX:
            self._parsed.clear()
        try:
            parsed = self.topics.parse(topic.decode())
        except UnicodeDecodeError:  # brokers should not let such topics pass
            parsed = None
        self._parsed[topic] = parsed
        return parsed

    def arrived(self, messages: Sequence[tuple[tuple[str, str], bytes, int, bool]]) -> None:
        """Take messages in that came at one time: (device and leaf, payload, packet id or 0 at QoS 0, retained).

        When the queue is full those at QoS 0 are dropped: QoS 0 promises nothing.
        """
        now, connection = time.monotonic(), self.connection
        if self.is_full:
            kept = [message for message in messages if message[2]]
            self.counters.dropped += len(messages) - len(kept)
            messages = kept
        self.counters.frames += len(messages)
        self._frames_in += len(messages)
        self._bytes_in += sum([len(message[1]) for message in messages])
        self.batch += [
            Frame(device, leaf, payload, retained, Token(connection, packet_id), now)
            for (device, leaf), payload, packet_id, retained in messages
        ]

    def acknowledgements(self) -> list[int]:
        """Return the packet ids to acknowledge; those of earlier connections are passed over."""
        ids: list[int] = []
        while self._acknowledgements:
            for token in self._acknowledgements.popleft():
                if token.connection != self.connection:
                    self.counters.stale_acknowledgements += 1
                elif token.packet_id:
                    ids.append(token.packet_id)
        return ids

    def next_offer(self) -> bytes | None:
        """Return the offer if it is to be sent."""
        if not self._offer_due:
            return None
        self._offer_due = False
        return self._offer

    def offer_again(self) -> None:
        """A new connection: the offer is due once more."""
        self._offer_due = self._offer is not None

    def next_receipt(self) -> tuple[str, bytes] | None:
        """Return the next receipt (topic, payload) if the broker's window has room; it is under way from now on."""
        if not self._outgoing or self._in_flight >= self.window:
            return None
        self._in_flight += 1
        return self._outgoing.popleft()

    def own(self, packet_id: int) -> None:
        """This one is no receipt."""
        self._own_ids.add(packet_id)

    def acknowledged(self, packet_id: int, *, taken: bool) -> None:
        """The broker has one of our messages, or turned it away."""
        if packet_id in self._own_ids:
            self._own_ids.discard(packet_id)
            return
        self._in_flight -= 1
        self._receipts_out += 1
        self.counters.receipts_sent += 1
        self.counters.receipts_refused += not taken

    @property
    def is_quiet(self) -> bool:
        """True when nothing of ours waits for the broker."""
        return not (self._outgoing or self._in_flight or self._own_ids)
