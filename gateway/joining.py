"""Permit-join: for some minutes, devices that nobody enrolled may ask to join, and wait for the operator's word.

Nothing here enrols anybody: a device that waits is answered `busy`, which is transient, so it asks again by itself;
once the operator has accepted it, it is enrolled like any other and its next `open` goes through. The window and
the list live in memory: after a restart the window is closed, and whoever still asks is told `not_enrolled`.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from channels.refusals import Refusal
from channels.types import Address
from gateway.records import DeviceAdded

WINDOW_S_MAX = 3600
# A person looks at each of them; more than fit on a page or two are asked to come again.
WAITING_MAX = 64
# Whoever has not asked for so long has gone, or was switched off.
WAITING_S = 900.0
REJECTED_MAX = 256


@dataclass(frozen=True, slots=True)
class Waiting:
    """A device at the door, with what it asked for; its signatures were verified.

    `id` is the channel's or the account's. `earner`: it asks for an earner account, and `party` is the payee,
    else the payer with a first deposit of `deposit` base units. Times are Unix seconds.
    """

    id: bytes
    device: str
    service: str
    party: Address
    register: int
    deposit: int = 0
    earner: bool = False
    first_at: float = 0.0
    seen_at: float = 0.0
    asked: int = 1

    def enrolment(self) -> DeviceAdded:
        """Return what enrols it: the device with this payer, or with this account."""
        if self.earner:
            return DeviceAdded(self.device, (), "", (self.id,))
        return DeviceAdded(self.device, (self.party,), "")


class Joining:
    """The window, who waits, and who was turned away. `on_change` is called without an await."""

    def __init__(self) -> None:
        self._until = 0.0  # monotonic: a clock that is set must not open doors
        self._waiting: OrderedDict[bytes, Waiting] = OrderedDict()
        self._rejected: OrderedDict[bytes, None] = OrderedDict()
        self.on_change: Callable[[str], None] = lambda words: None

    @property
    def left_s(self) -> float:
        """Seconds until the window closes; 0 when it is closed."""
        return max(0.0, self._until - time.monotonic())

    @property
    def waiting(self) -> list[Waiting]:
        """Who waits, the longest first."""
        oldest = time.time() - WAITING_S
        for key in [key for key, each in self._waiting.items() if each.seen_at < oldest]:
            del self._waiting[key]
        return list(self._waiting.values())

    def open(self, seconds: float) -> None:
        """Open the window for so long from now. Whoever was rejected may ask again."""
        self._until = time.monotonic() + min(seconds, WINDOW_S_MAX)
        self._rejected.clear()
        self.on_change(f"devices may ask to join for {seconds:.0f} s")

    def close(self) -> None:
        """Close the window; who waits can still be accepted."""
        self._until = 0.0
        self.on_change("devices may not ask to join any more")

    def knock(self, who: Waiting) -> Refusal:
        """Take note of a device that nobody enrolled; returns what it is told."""
        if not self.left_s or who.id in self._rejected:
            return Refusal.NOT_ENROLLED
        now = time.time()
        known = self._waiting.get(who.id)
        if known is not None and known.device == who.device:
            self._waiting[who.id] = replace(who, first_at=known.first_at, seen_at=now, asked=known.asked + 1)
        elif known is not None:
            return Refusal.NOT_ENROLLED  # another device claims the same channel: the first one stays
        elif len(self.waiting) < WAITING_MAX:
            self._waiting[who.id] = replace(who, first_at=now, seen_at=now)
            self.on_change(f"device {who.device} asks to join")
        return Refusal.BUSY

    def find(self, identifier: bytes) -> Waiting | None:
        """Return who waits under this id, or None."""
        return next((each for each in self.waiting if each.id == identifier), None)

    def accepted(self, identifier: bytes) -> None:
        """It was enrolled: it waits no more."""
        who = self._waiting.pop(identifier, None)
        if who is not None:
            self.on_change(f"device {who.device} may join")

    def reject(self, identifier: bytes) -> bool:
        """Turn it away while this window is open; tells whether it waited."""
        who = self._waiting.pop(identifier, None)
        if who is None:
            return False
        self._rejected[identifier] = None
        while len(self._rejected) > REJECTED_MAX:
            self._rejected.popitem(last=False)
        self.on_change(f"device {who.device} was turned away")
        return True
