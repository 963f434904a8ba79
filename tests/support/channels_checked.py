"""What a channel's life is checked against after every step; `channels_life` has the rules of the life."""

from hypothesis.stateful import RuleBasedStateMachine, invariant

from channels.invariants import check
from channels.machine import Contradiction, transition
from channels.refusals import Refusal
from channels.state import (
    Change,
    Channel,
    ReceiveReading,
)
from tests.support.channels_auditor import ChannelAuditor, Contract


class CheckedLife(RuleBasedStateMachine):
    """A channel, its books as the auditor keeps them, and its side of the simulated contract."""

    channel: Channel

    def __init__(self) -> None:
        super().__init__()
        self.contract = Contract()
        self.audit = ChannelAuditor()
        self.seen = 0  # logs delivered
        self.base = 0  # logs from before the gateway knew the channel
        self.signed: list[tuple[int, int]] = []  # (ceiling, totalClaimed) of every claim ever signed
        self.accepted: list[ReceiveReading] = []
        self.outcomes: set[tuple[str, str, str]] = set()  # phase, change, next phase or refusal

    def next(self, change: Change) -> Channel | Refusal:
        """What the machine makes of a change, kept for the test that asks where the lives went."""
        before = self.channel.phase.name
        after = transition(self.channel, change)
        came = after.wire_name if isinstance(after, Refusal) else after.phase.name
        self.outcomes.add((before, type(change).__name__, came))
        return after

    def act(self, change: Change, allowed: bool, replay: bool = False) -> bool:
        """Apply a change of the gateway's own; tells whether it took effect."""
        if not (allowed or replay):
            try:
                self.next(change)
            except Contradiction:
                return False
            raise AssertionError("a contradiction was let through")
        after = self.next(change)
        assert isinstance(after, Channel)
        assert (after is self.channel) == replay
        self.channel = after
        return not replay

    # --- what holds after every step ---

    @invariant()
    def machine_and_auditor_agree(self) -> None:
        channel = self.channel
        shown = {
            name: getattr(channel.meter if name in channel.meter.__struct_fields__ else channel, name)
            for name in self.audit.books()
        }
        assert shown | {"phase": channel.phase.name} == self.audit.books()

    @invariant()
    def shared_invariants_hold(self) -> None:
        check([self.channel], [])

    @invariant()
    def the_books_of_the_channel_balance(self) -> None:
        channel, contract = self.channel, self.contract
        # docs/protocol.md 7, with the chain's side read from the simulated contract
        gone = sum(event.amount for event in contract.log if event.kind in ("finalized", "refund"))
        came = sum(event.amount for event in contract.log if event.kind == "deposit")
        assert came == contract.balance + gone
        assert 0 <= contract.claimed <= contract.balance
        assert channel.charged == channel.claimed + channel.offset + channel.forgiven + channel.unclaimed
        assert min(channel.claimed, channel.offset, channel.forgiven, channel.unclaimed) >= 0
        # No money twice: what landed on chain, whether seen or not, and what was offset or forgiven.
        assert channel.claimed <= contract.claimed <= channel.committed
        assert contract.claimed + channel.offset + channel.forgiven <= channel.charged
        # Any claim signed that may still land is covered by what is still owed.
        assert all(total <= channel.owed for _, total in self.signed)

    @invariant()
    def once_all_is_delivered_the_chain_is_known(self) -> None:
        channel, contract = self.channel, self.contract
        if self.seen < len(contract.log):
            return
        assert (channel.balance, channel.claimed, channel.withdrawing) == (
            contract.balance,
            contract.claimed,
            contract.pending,
        )
        # What counts as usable is what the payer cannot take back.
        leaves = max(contract.pending, channel.foreseen)
        assert channel.usable_balance == contract.balance - min(leaves, contract.balance - contract.claimed)
