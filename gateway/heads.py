"""The chain's latest block: how far it was read, what time it is there, and for how long nothing was read.

A head is believed once everything up to it was read. A node that lies once, or a balancer that asked another chain
once, can name any block; blocks that are not there cannot be read, so the next answer puts it right.
"""

import time
from collections.abc import Callable

from gateway.ledger import Ledger
from settlement.errors import ChainUnavailable
from settlement.port import Block

# A node that lags is waited for in silence, but not longer.
LAG_S = 30.0


class Heads:
    """The heads of one chain as a watcher sees them.

    `wall` is the clock that chain time is held against, seconds since 1970. Public chains and our embedded layer keep
    its time; for a chain with a time of its own something else has to stand there, as in tests.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.read: Block | None = None  # everything up to here was read, by this run
        self._moved_at = 0.0  # when a block with a later time than all before was read
        self._looked_at = 0.0  # when everything up to the head was read, new or not
        self._named: Block | None = None  # what the node last named, read or not
        self._time: int | None = None  # of the latest block that was read, or that the node did not take back
        self._lags_since: float | None = None
        self.wall: Callable[[], float] = time.time

    @property
    def chain_time(self) -> int:
        """Chain seconds of the latest block: one read, or one after which the node named no lower one."""
        return self._ledger.totals.block_time if self._time is None else self._time

    @property
    def silence_s(self) -> float:
        """Seconds since a later block was read, on a clock that nobody can set; infinite before the first one."""
        return float("inf") if self.read is None else time.monotonic() - self._moved_at

    @property
    def unread_s(self) -> float:
        """Seconds of the chain's life of which nothing is known; infinite before anything was read.

        The longest of: how long ago a later block was read; how old the last block read is by the wall clock; how far
        the chain's own head is ahead of it. The second holds across a restart, and when a node that was away catches
        up. A wall clock that is behind takes away nothing but that, one that is ahead makes the chain look older.
        """
        if self.read is None:
            return float("inf")
        last = self.read.timestamp
        return max(self.silence_s, self.wall() - last, self.chain_time - last)

    def named(self, head: Block) -> None:
        """The node named its head, which is not below what was read."""
        before = self._named
        if before is not None and head.number >= before.number and head.timestamp >= before.timestamp:
            self._time = before.timestamp
        self._named = head

    def has_read(self, head: Block) -> None:
        """Everything up to this head was read."""
        now = time.monotonic()
        last = self.read
        if last is None or (head.number > last.number and head.timestamp > last.timestamp):
            self._moved_at = now
        self.read = self._named = head
        self._time = head.timestamp
        self._looked_at, self._lags_since = now, None

    def lags(self, words: str) -> None:
        """The node knows less than was read: that says nothing. Raises ChainUnavailable when it lasts."""
        now = time.monotonic()
        if self._lags_since is None:
            self._lags_since = now
        if now - self._lags_since > LAG_S:
            raise ChainUnavailable(words)

    def lacks(self, block: int, since: float) -> bool:
        """Tell whether a block is not on the chain, although it was looked for since then (monotonic seconds)."""
        return self.read is not None and self.read.number < block and self._looked_at - since > LAG_S
