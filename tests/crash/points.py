"""Where a gateway is killed: every named point of it, and which one is due next.

A point is a side of something that cannot be undone or has not been done yet:

    commit before|after NAME     the journal commits records, NAME is a record's tag; "tx:claim" is a signed claim
    disk before|after NAME       something else is written to the journal's file (states, statements)
    rpc before|after METHOD      a question or a transaction goes to the chain; sends are named by their purpose
    receipts before|after        receipts go to the broker
    ack before|after             messages are acknowledged to the broker

At "commit before" the states in memory have changed and nothing is on disk; the disk stays like this for a moment, and
whoever acts too early is caught. At "commit after" it is on disk and nobody knows.
"""

import random
from collections import Counter
from collections.abc import Iterable

from gateway.records import Record

# Every tag of the journal's vocabulary, by who writes it. The test below holds the two beside each other, so that a
# new record is a kill point or breaks the test.
CYCLE = frozenset(
    {"cycle", "claims", "refund", "closed", "payouts", "payees", "paid", "tx", "mined", "aside", "cycle-end"}
)
CHAIN = frozenset({"c", "settled", "h", "cash", "foreign", "foreseen", "reverted", "unmined"})
DEVICES = frozenset({"r", "e", "open", "opened", "channel", "account", "closing"})
SET_UP = frozenset({"founded", "offer", "device"})
# Another program has used one of the gateway's keys: no run of this harness does that.
NEVER_HERE = frozenset({"lost"})
# What only real reorganisations write, so only runs on anvil; and what only an operator's command writes.
ONLY_ON_ANVIL = frozenset({"reverted", "unmined"})
BY_COMMAND = frozenset({"device"})

# They pass once in a journal's life: a new site is killed there first.
FIRST = tuple(f"commit {side} {name}" for name in ("founded", "tx:approve", "offer") for side in ("before", "after"))


def tags() -> frozenset[str]:
    """Return the tag of every record that there is."""
    union = Record.__args__  # type: ignore[attr-defined]
    return frozenset(str(record.__struct_config__.tag) for record in union)


def classified() -> frozenset[str]:
    """Return every tag that this module knows."""
    return CYCLE | CHAIN | DEVICES | SET_UP | NEVER_HERE


def kind(point: str) -> str:
    """Return a point's kind: its first two words, or "random"."""
    return " ".join(point.split()[:2])


# A transaction is sent again by the life after one that ended between its commit and the chain.
RESENT = "rpc before eth_sendRawTransaction:resent"
_UNSENT = ("commit after tx:", "rpc before eth_sendRawTransaction:", "rpc before send")


class Schedule:
    """Chooses where to kill next: at random moments for a share, else at the named point least met so far.

    `killed` counts kills by point, over all sites that share it.
    """

    def __init__(self, rng: random.Random, killed: Counter[str] | None = None, *, random_share: float = 0.0) -> None:
        self._rng = rng
        self._random_share = random_share
        self.known: set[str] = set()
        self.passed: Counter[str] = Counter()  # how often a point was passed, over all lives
        self.killed: Counter[str] = Counter() if killed is None else killed
        self.missed: Counter[str] = Counter()  # how often a life did not come to the point it was to end at
        self._last = ""
        self.lives = 0

    def learn(self, points: Iterable[str]) -> None:
        """Note the points that one life passed."""
        self.lives += 1
        for point in points:
            self.known.add(point)
            self.passed[point] += 1

    def next(self) -> tuple[str, int] | None:
        """Return (point, at which of its occurrences), or None for a random moment."""
        if self._last.startswith(_UNSENT) and self.killed[RESENT] <= min(self.killed[each] for each in self.known):
            return RESENT, 1
        if not self.known or self._rng.random() < self._random_share:
            return None
        # Rare points are tried as often as others; those that were waited for in vain come later.
        candidates = self.known - {RESENT}
        least = min(self.killed[point] + self.missed[point] for point in candidates)
        due = sorted(point for point in candidates if self.killed[point] + self.missed[point] == least)
        point = self._rng.choice(due)
        # Anywhere in a life: what passes often is met late as well as early.
        usual = self.passed[point] // (self.lives + 1)
        return point, self._rng.randint(1, usual) if usual > 1 and not self.missed[point] else 1

    def ended(self, wanted: str | None, *, reached: bool) -> None:
        """Note how a life ended: at the point it was to end at, or where it was."""
        self._last = wanted if wanted is not None and reached else ""
        self.killed[self._last or "random"] += 1
        if wanted is not None and not reached:
            self.missed[wanted] += 1

    @property
    def covered(self) -> int:
        """How many of the points known here were killed at."""
        return sum(1 for point in self.known if self.killed[point])


def by_kind(killed: Counter[str]) -> Counter[str]:
    """Return kills by kind of point."""
    found: Counter[str] = Counter()
    for point, times in killed.items():
        found[kind(point)] += times
    return found


def uncovered(killed: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Return the record tags of `wanted` at which no kill happened on both sides of the commit."""
    points = set(killed)
    met = {side: {_tag(point) for point in points if point.startswith(f"commit {side} ")} for side in _SIDES}
    return sorted(tag for tag in wanted if any(tag not in met[side] for side in _SIDES))


_SIDES = ("before", "after")


def _tag(point: str) -> str:
    return point.split()[2].split(":")[0]
