"""Polling beside events: some channels now and then against what the chain says of them.

A node may keep events from us: an index that is behind, a balancer whose nodes differ. A withdrawal that is missed
that way must be seen long before it ends, so every channel is compared several times within its delay.
"""

from collections.abc import Mapping, Sequence

from channels.types import ChannelId
from gateway.ledger import Ledger
from settlement.port import ChannelView

# In chain seconds: a withdrawal takes at least 900 of them.
COMPARE_EVERY_S = 60
# Every channel is compared so often within the shortest delay of any.
ROUNDS_PER_DELAY = 4
# So few are read in one request anyway.
AT_LEAST = 64


class Comparison:
    """Chooses which channels are compared next, in turns."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._last: int | None = None  # chain seconds
        self._next = 0  # where the next turn begins, among the channels in the order in which they were taken up
        self.suspects: frozenset[ChannelId] = frozenset()  # differed once, after which their events were read again

    def due(self, now: int) -> list[ChannelId]:
        """Return the channels to compare at this chain time; empty while it is too early."""
        if self._last is None:
            self._last = now
        elapsed = now - self._last
        if elapsed < COMPARE_EVERY_S and not self.suspects:
            return []
        ids = list(self._ledger.channels)
        if not ids:
            return []
        shortest = min(channel.config.withdraw_delay for channel in self._ledger.channels.values())
        share = -(-len(ids) * elapsed * ROUNDS_PER_DELAY // shortest)
        count = min(len(ids), max(AT_LEAST, share))
        first = self._next % len(ids)
        turn = (ids + ids)[first : first + count]
        return turn + sorted(self.suspects.difference(turn))

    def done(self, now: int, ids: Sequence[ChannelId]) -> None:
        """These channels are what the chain says: the next turn begins behind them."""
        self._last = now
        self._next += len(ids)
        self.suspects = self.suspects.difference(ids)

    def differences(self, views: Mapping[ChannelId, ChannelView]) -> dict[ChannelId, str]:
        """Return in words which channels are not what the chain says of them."""
        found = {}
        for identifier, view in views.items():
            channel = self._ledger.channels[identifier]
            kept = (channel.balance, channel.claimed, channel.withdrawing)
            read = (view.balance, view.total_claimed, view.withdrawing)
            if kept != read:
                found[identifier] = f"balance, claimed, withdrawing are {read}, by the events {kept}"
        return found
