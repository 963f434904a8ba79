"""Where readings come from: simulated meters at a constant rate, or a file as fast as receipts come."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from firmware_sim.link import Link
from firmware_sim.loads import Meter
from firmware_sim.replay import Track

# Readings taken in one turn of the loop, so that receipts are read in between.
BURST_MAX = 256
# A schedule this far behind (the process was suspended) starts anew instead of catching up.
LAG_US_MAX = 5_000_000


class Feed(Protocol):
    """Hands readings to links."""

    def feed(self, now_us: int) -> None:
        """Hand out what is due."""

    def finished(self) -> bool:
        """No reading will come any more and every one has its receipt."""

    def next_us(self, now_us: int) -> int:
        """When `feed` has something to do again."""


@dataclass(slots=True)
class _Metered:
    link: Link
    meter: Meter
    since_us: int = 0


class Simulated:
    """`rate_milli` thousandths of a reading per second, over all devices in turn; simulated time runs faster."""

    def __init__(self, metered: Sequence[tuple[Link, Meter]], rate_milli: int, speedup: int, start_us: int) -> None:
        self._metered = [_Metered(link, meter) for link, meter in metered]
        self._speedup = speedup
        self._interval_ns = 10**12 // rate_milli
        self._due_ns = start_us * 1000
        self._turn = 0
        self.skipped = 0

    def feed(self, now_us: int) -> None:
        """Read the meters whose turn has come; devices that are not open yet let theirs pass."""
        behind = now_us * 1000 - self._due_ns
        if behind > LAG_US_MAX * 1000:
            self.skipped += behind // self._interval_ns
            self._due_ns = now_us * 1000
        for _ in range(BURST_MAX):
            if now_us * 1000 < self._due_ns:
                return
            self._due_ns += self._interval_ns
            entry = self._metered[self._turn]
            self._turn = (self._turn + 1) % len(self._metered)
            if entry.link.device.opened and not entry.link.device.stopped:
                self._read(entry, now_us)

    def _read(self, entry: _Metered, now_us: int) -> None:
        device, meter = entry.link.device, entry.meter
        if not entry.since_us:
            # Billing begins now. A device that lost or restored its state finds its meter further on.
            entry.since_us = now_us
            if device.known_register > device.identity.opening_register:
                meter.rebase(device.known_register)
        seconds = (now_us - entry.since_us) * self._speedup // 1_000_000
        entry.since_us += seconds * 1_000_000 // self._speedup
        entry.link.read_meter(meter.advance(seconds))

    def finished(self) -> bool:
        """Simulated meters never end."""
        return False

    def next_us(self, now_us: int) -> int:
        """The next turn."""
        return self._due_ns // 1000 + 1


class Replayed:
    """Every row of a file, in order, as soon as the device's window takes it."""

    def __init__(self, tracks: Sequence[tuple[Link, Track]]) -> None:
        self._tracks = list(tracks)

    def feed(self, now_us: int) -> None:
        """Fill every open window."""
        for link, track in self._tracks:
            device = link.device
            registers = track.registers
            if not device.opened or device.stopped:
                continue
            while device.room > 0 and device.taken < len(registers):
                link.read_meter(registers[device.taken])

    def finished(self) -> bool:
        """All rows taken and answered, by every device that has not stopped."""
        return all(
            link.device.stopped or (link.device.taken >= len(track.registers) and link.device.window.idle())
            for link, track in self._tracks
        )

    def next_us(self, now_us: int) -> int:
        """Receipts, not time, make room."""
        return now_us + 50_000
