"""Polling beside events: some channels now and then against what the chain says of them.

A node may keep events from us: an index that is behind, a balancer whose nodes differ. A withdrawal that is missed
that way must be seen long before it ends, so every channel is compared several times within its delay.
"""

from collections.abc import Iterable, Mapping, Sequence

from channels.machine import Contradiction, transition
from channels.refusals import Refusal
from channels.state import (
    ChainChange,
    Channel,
    ContractReceiveClaim,
    ContractReceiveDeposit,
    ContractReceiveRefund,
    ContractReceiveWithdrawFinalized,
    ContractReceiveWithdrawInitiated,
    Phase,
)
from channels.types import ChannelId
from gateway.ledger import Ledger
from gateway.records import ChainChanged
from gateway.reorgs import withdraw_after
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
        if self._last is None or now < self._last:  # after a reorganisation, by some seconds
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

    def taken_over(
        self, found: Iterable[ChannelId], views: Mapping[ChannelId, ChannelView], block: int
    ) -> list[ChainChanged]:
        """Return what leads suspects to what the chain shows of them at the end of `block`, as events would have.

        Theirs were read again, and are not told: the node left them out for good, or they are further back than it
        can be asked. Empty when there is no suspect among those that differ, or when no events could lead there.
        """
        records = []
        again = sorted(self.suspects.intersection(found))
        for identifier in again:
            changes = _as_events(self._ledger.channels[identifier], views[identifier], block)
            if changes is None:
                return []
            records += [ChainChanged(identifier, change) for change in changes]
        self.suspects = self.suspects.difference(again)
        return records


def in_words(found: Mapping[ChannelId, str]) -> str:
    """Return which channels differ, and how, as one line."""
    return "; ".join(f"channel 0x{identifier.hex()}: {text}" for identifier, text in found.items())


def _as_events(channel: Channel, view: ChannelView, block: int) -> list[ChainChange] | None:
    """Return what a channel's events must have been, at the least; None when none lead to this view."""
    after = withdraw_after(view, channel.config.withdraw_delay)
    gone, pending = channel.balance - view.balance, channel.withdrawing
    last = (block + 1 << 32) - 1  # their places in the block are not known: the last ones, so that all else is before
    changes: list[ChainChange] = []
    if gone < 0:
        changes.append(ContractReceiveDeposit(last - 3, view.balance))
    if view.total_claimed > channel.claimed:
        changes.append(ContractReceiveClaim(last - 2, view.total_claimed))
    if gone > 0 and channel.phase in (Phase.CLOSING, Phase.CLOSED):  # most likely by our own refund
        changes.append(ContractReceiveRefund(last - 1, gone))
        pending = max(0, pending - gone)
    elif gone > 0:
        changes.append(ContractReceiveWithdrawFinalized(last - 1, gone))
        pending = 0
    if view.withdrawing != pending and view.withdrawing:
        changes.append(ContractReceiveWithdrawInitiated(last, view.withdrawing, after))
    for change in changes:
        try:
            result = transition(channel, change)
        except Contradiction:
            return None
        assert not isinstance(result, Refusal), "the chain's changes are in every row of the table"
        channel = result
    reached = (channel.balance, channel.claimed, channel.withdrawing)
    return changes if reached == (view.balance, view.total_claimed, view.withdrawing) else None
