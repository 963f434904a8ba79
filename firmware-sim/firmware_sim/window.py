"""Readings between the meter and their receipts: a bounded queue, then a window of signed ones."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from firmware_sim.books import Position


class Flight(IntEnum):
    """Where a signed reading stands."""

    READY = 0  # signed, not sent since it was signed or cleared for resending
    FLYING = 1  # sent, no answer yet
    UNKNOWN = 2  # sent, and the answer may be lost: must be resent unchanged
    DENIED = 3  # refused: certainly not accepted


@dataclass(slots=True)
class Raw:
    """A meter reading not yet signed; offer is the id current when it was taken.

    sent_us: when an earlier signature of it was first sent, 0 if never.
    """

    register: int
    time_ms: int
    offer: bytes
    sent_us: int = 0


@dataclass(slots=True, eq=False)
class Signed:
    """A signed reading; the payload never changes. sent_us is the first sending, 0 before it, last_us the last.

    `flight` is changed by the window alone, which counts.
    """

    position: Position
    price: int
    offer: bytes
    time_ms: int
    payload: bytes
    answers: bytes
    flight: Flight = Flight.READY
    sent_us: int = 0
    last_us: int = 0
    reason: str = ""


@dataclass(slots=True)
class Window:
    """At most `depth` signed readings, in the order of their seq, and at most `queue` raw ones behind them.

    A full queue folds a new reading into the last one: registers are cumulative, so no usage is lost.
    """

    depth: int
    queue: int
    raw: deque[Raw] = field(default_factory=deque)
    signed: list[Signed] = field(default_factory=list)
    folded: int = 0
    _counts: list[int] = field(default_factory=lambda: [0] * len(Flight))

    def push(self, reading: Raw) -> None:
        """Queue a reading, or fold it into the last one when the queue is full."""
        if len(self.raw) >= self.queue:
            self.raw[-1] = reading
            self.folded += 1
        else:
            self.raw.append(reading)

    def add(self, entry: Signed) -> None:
        """Append a signed reading."""
        self.signed.append(entry)
        self._counts[entry.flight] += 1

    def find(self, answers: bytes) -> Signed | None:
        """The signed reading whose payload a receipt answers."""
        for entry in self.signed:
            if entry.answers == answers:
                return entry
        return None

    def count(self, flight: Flight) -> int:
        """How many signed readings stand there."""
        return self._counts[flight]

    def move(self, entry: Signed, flight: Flight) -> None:
        """Change where a signed reading stands."""
        self._counts[entry.flight] -= 1
        self._counts[flight] += 1
        entry.flight = flight

    def remove(self, entry: Signed) -> None:
        """The reading is settled."""
        self.signed.remove(entry)
        self._counts[entry.flight] -= 1

    def lose(self, before_us: int | None = None) -> bool:
        """Give up waiting for what is flying, all of it or what was last sent before a time; whether there was any."""
        lost = False
        if self._counts[Flight.FLYING]:
            for entry in self.signed:
                if entry.flight is Flight.FLYING and (before_us is None or entry.last_us < before_us):
                    self.move(entry, Flight.UNKNOWN)
                    lost = True
        return lost

    def denied(self) -> list[Signed]:
        """Refused readings, in order."""
        if not self._counts[Flight.DENIED]:
            return []
        return [entry for entry in self.signed if entry.flight is Flight.DENIED]

    def unsign(self) -> list[Position]:
        """Turn refused and unsent readings back into raw ones, before the queue; returns positions that were sent."""
        back = self._take(entry for entry in self.signed if entry.flight in (Flight.DENIED, Flight.READY))
        self.raw.extendleft(Raw(e.position.register, e.time_ms, e.offer, e.sent_us) for e in reversed(back))
        return [entry.position for entry in back if entry.sent_us]

    def idle(self) -> bool:
        """Nothing waits for anything."""
        return not self.raw and not self.signed

    def _take(self, entries: Iterable[Signed]) -> list[Signed]:
        taken = list(entries)
        for entry in taken:
            self.remove(entry)
        return taken
