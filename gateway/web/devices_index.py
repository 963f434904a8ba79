"""Every device as the list shows it, and sums over all of them, kept up to date by what changed.

The ledger's tables note the keys of what changes; once a second those devices are read anew. So a site of ten
thousand devices costs as much as the devices that did something, and a page costs as much as what is on it.
"""

import time
from bisect import bisect_right, insort
from dataclasses import dataclass
from typing import Any

from channels.state import Account, Channel, Phase
from devices.registry import Registry
from gateway.ledger import Ledger

# A voucher's ceiling cannot pass the balance: from here on somebody should top up.
FILL_LOW = 0.8
# A rate is over at least this long, so that it does not jump with each reading.
RATE_WINDOW_S = 60.0


@dataclass(slots=True)
class Row:
    """A device. Amounts are base units; `rate_*` are where the window before and the present one began."""

    device: str
    note: str = ""
    enrolled: bool = False
    services: tuple[str, ...] = ()
    channels: int = 0
    accounts: int = 0
    register: int = 0
    charged: int = 0
    claimed: int = 0
    offset: int = 0
    unclaimed: int = 0
    balance: int = 0
    earned: int = 0
    fee: int = 0
    due: int = 0  # to payees, before payouts: earned less fee and offset
    withdrawing: int = 0
    fill: float | None = None
    problem: str = ""
    window_at: float = 0.0
    window_charged: int = 0
    before_at: float = 0.0
    before_charged: int = 0

    def rate(self, now: float) -> int:
        """Return base units per hour, over one to two windows; `now` is monotonic."""
        since, charged = (
            (self.before_at, self.before_charged) if self.before_at else (self.window_at, self.window_charged)
        )
        return int((self.charged - charged) * 3600 / max(now - since, RATE_WINDOW_S))


SUMMED = ("charged", "claimed", "offset", "unclaimed", "earned", "fee", "due", "withdrawing")


class DeviceIndex:
    """The rows of one gateway."""

    def __init__(self, ledger: Ledger, registry: Registry) -> None:
        self._ledger = ledger
        self._registry = registry
        self._channels = ledger.channels.follow()
        self._accounts = ledger.accounts.follow()
        self._devices = ledger.devices.follow()
        self._parties = ledger.parties.follow()
        self.rows: dict[str, Row] = {}
        self.names: list[str] = []  # sorted
        self.sums: dict[str, int] = dict.fromkeys(SUMMED, 0)
        self.problems: dict[str, int] = {}
        self.paid = 0
        self.changed: set[str] = set()  # names, for whoever empties it
        now = time.monotonic()
        for device in list(registry.devices):
            self._renew(device.id, now)
        self.paid = sum(party.paid for party in ledger.parties.values())

    @property
    def payable(self) -> int:
        """What earners are due and have not got yet."""
        return self.sums["due"] - self.paid

    def refresh(self) -> None:
        """Read anew what changed since the last call."""
        ledger = self._ledger
        names = {ledger.channels[key].device for key in self._channels if key in ledger.channels}
        names |= {ledger.accounts[key].device for key in self._accounts if key in ledger.accounts}
        names |= {key.decode() for key in self._devices}
        for changed in (self._channels, self._accounts, self._devices):
            changed.clear()
        if self._parties:
            self._parties.clear()
            self.paid = sum(party.paid for party in ledger.parties.values())
        now = time.monotonic()
        for name in names:
            self._renew(name, now)
        self.changed |= names

    def after(self, name: str, limit: int) -> list[Row]:
        """Return up to `limit` rows behind this name, by name."""
        start = bisect_right(self.names, name) if name else 0
        return [self.rows[each] for each in self.names[start : start + limit]]

    def _renew(self, name: str, now: float) -> None:
        row = self.rows.get(name)
        fresh = self._read(name)
        if row is None:
            insort(self.names, name)
            fresh.window_at, fresh.window_charged = now, fresh.charged
            before = dict.fromkeys(SUMMED, 0)
        else:
            before = {field: getattr(row, field) for field in SUMMED}
            _carry_rate(row, fresh, now)
            if row.problem:
                self.problems[row.problem] -= 1
        for field in SUMMED:
            self.sums[field] += getattr(fresh, field) - before[field]
        if fresh.problem:
            self.problems[fresh.problem] = self.problems.get(fresh.problem, 0) + 1
        self.rows[name] = fresh

    def _read(self, name: str) -> Row:
        ledger = self._ledger
        known = self._registry.device(name)
        enrolled = ledger.devices.get(name.encode())
        # A channel is bound a moment before the ledger has it.
        channels = [ledger.channels[key] for key in (known.channels if known else ()) if key in ledger.channels]
        accounts = [ledger.accounts[key] for key in (known.accounts if known else ()) if key in ledger.accounts]
        row = Row(
            name,
            note="" if enrolled is None else enrolled.note,
            enrolled=enrolled is not None,
            services=tuple(dict.fromkeys([*(each.service for each in channels), *(each.service for each in accounts)])),
            channels=len(channels),
            accounts=len(accounts),
            charged=sum(channel.charged for channel in channels),
            claimed=sum(channel.claimed for channel in channels),
            offset=sum(channel.offset for channel in channels),
            unclaimed=sum(channel.unclaimed for channel in channels),
            balance=sum(channel.balance for channel in channels),
            earned=sum(account.earned for account in accounts),
            fee=sum(account.fee for account in accounts),
            due=sum(account.net for account in accounts),
            withdrawing=sum(1 for channel in channels if channel.withdrawable),
        )
        row.register = _register(channels, accounts)
        row.fill = max((fill for channel in channels if (fill := fill_of(channel)) is not None), default=None)
        row.problem = _problem(row, channels, accounts)
        return row


def fill_of(channel: Channel) -> float | None:
    """Return how much of a channel's deposits is used up, 0 to 1; None while there is none, or it is closed."""
    if channel.phase in (Phase.OPENING, Phase.CLOSED) or not channel.usable_balance:
        return None
    return round(min(1.0, channel.owed / channel.usable_balance), 4)


def _register(channels: list[Channel], accounts: list[Account]) -> int:
    """Return the register of what is metered now: of the last channel that is not closed, or of the account."""
    live = [channel for channel in channels if channel.phase is not Phase.CLOSED] or channels
    holders: list[Any] = [*live[-1:], *accounts[:1]]
    return int(holders[0].meter.register) if holders else 0


def _problem(row: Row, channels: list[Channel], accounts: list[Account]) -> str:
    if row.withdrawing:
        return "withdrawing"
    if any(channel.phase is Phase.CLOSED and channel.unclaimed for channel in channels):
        return "owes"
    if not accounts and all(channel.phase is Phase.OPENING for channel in channels):
        return "no_deposit"
    if row.fill is not None and row.fill >= FILL_LOW:
        return "deposit_low"
    if channels and not accounts and all(channel.phase is Phase.CLOSED for channel in channels):
        return "closed"
    return ""


def _carry_rate(row: Row, fresh: Row, now: float) -> None:
    fresh.window_at, fresh.window_charged = row.window_at, row.window_charged
    fresh.before_at, fresh.before_charged = row.before_at, row.before_charged
    if now - row.window_at >= RATE_WINDOW_S:
        fresh.before_at, fresh.before_charged = row.window_at, row.window_charged
        fresh.window_at, fresh.window_charged = now, row.charged
