"""The channel state machine: every transition in one table.

`transition` is pure: it returns the next channel, the same one (for a replay) or a refusal.
A pair that the table does not hold is refused by the table. Changes from the chain and from the gateway
itself that contradict what is known raise `Contradiction`, a fault: the process stops rather than guess.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from msgspec.structs import replace

from channels.readings import metered, sequence_refusal
from channels.refusals import Refusal
from channels.state import (
    ActionClose,
    ActionClosed,
    ActionForgive,
    ActionOffset,
    ActionOpen,
    ActionSignClaim,
    Change,
    Channel,
    ContractReceiveClaim,
    ContractReceiveDeposit,
    ContractReceiveForeseen,
    ContractReceiveRefund,
    ContractReceiveReverted,
    ContractReceiveWithdrawFinalized,
    ContractReceiveWithdrawInitiated,
    Meter,
    Phase,
    ReceiveClose,
    ReceiveReading,
)

Handler: TypeAlias = Callable[[Channel, Any], Channel | Refusal]


class Contradiction(Exception):
    """A change that cannot follow from the known state: a fault of ours or of the chain, not of a device."""


def open_channel(change: ActionOpen) -> Channel:
    """Return a channel the gateway has not known before: open if it is funded, else waiting for its deposit.

    With history on chain it starts at charged = claimed = totalClaimed: what was claimed before was paid. The register
    may be from before that: see `_priced`.
    """
    return Channel(
        id=change.id,
        config=change.config,
        device=change.device,
        service=change.service,
        lane=change.lane,
        phase=_opened(change.funded, change.withdrawing),
        meter=Meter(0, change.register, 0, change.offer, change.offer_serial),
        charged=change.claimed,
        committed=change.claimed,
        claimed=change.claimed,
        balance=change.balance,
        withdrawing=change.withdrawing,
        position=change.position,
        proven=True,
        first_register=change.register,
        withdraw_after=change.withdraw_after,
    )


def _opened(funded: bool, withdrawing: int) -> Phase:
    if not funded:
        return Phase.OPENING
    return Phase.WITHDRAWING if withdrawing else Phase.OPEN


def reopen(channel: Channel, change: ActionOpen) -> Channel | Refusal:
    """Take a closed channel up again: seq, register, remainder, charged and offset go on as they were."""
    if (channel.device, channel.service) != (change.device, change.service):
        return Refusal.CHANNEL_TAKEN
    if channel.phase is not Phase.CLOSED:
        return Refusal.NOT_OPEN
    return replace(channel, phase=_opened(change.funded, channel.withdrawing), proven=True)


def transition(channel: Channel, change: Change) -> Channel | Refusal:
    """Apply one change: the next channel, the same object for a replay, or a refusal."""
    handler = TRANSITIONS.get((channel.phase, type(change)))
    if handler is None:
        return Refusal.NOT_OPEN
    return handler(channel, change)


def required_ceiling(channel: Channel, reading: ReceiveReading) -> int:
    """Return what is owed after this reading: the lowest ceiling that covers it (0 without a price)."""
    priced = _priced(channel, reading)
    return 0 if isinstance(priced, Refusal) else channel.owed + priced[1]


def _priced(channel: Channel, reading: ReceiveReading) -> tuple[Meter, int] | Refusal:
    """Return the meter after a reading and what it adds.

    The first reading of a channel that was claimed before it was taken up here is charged at most what its ceiling
    proves. The books that knew its registers are lost: a device that sends the `open` of then names a register whose
    price is claimed already, and rightly signs for its own arithmetic only (docs/protocol.md 3.10). So if the ceiling
    does not cover the price, the least is charged that does not leave it too far ahead.
    """
    priced = metered(channel.meter, channel.charged, reading)
    if isinstance(priced, Refusal):
        return priced
    meter, added = priced
    if channel.charged == 0 or channel.meter.seq > 0 or reading.ceiling >= channel.owed + added:
        return priced
    assert reading.terms is not None  # metered() refused otherwise
    return replace(meter, remainder=0), max(0, reading.ceiling - reading.terms.max_ahead - channel.owed)


def _reading(channel: Channel, reading: ReceiveReading) -> Channel | Refusal:
    refusal = sequence_refusal(channel.meter, channel.device, reading)
    if refusal is not None:
        return refusal
    priced = _priced(channel, reading)
    if isinstance(priced, Refusal):
        return priced
    meter, added = priced
    owed = channel.owed + added
    if reading.ceiling < owed:
        return Refusal.CEILING_TOO_LOW
    if reading.ceiling > channel.usable_balance:
        return Refusal.CEILING_ABOVE_BALANCE
    assert reading.terms is not None  # metered() refused otherwise
    if reading.ceiling > owed + reading.terms.max_ahead:
        return Refusal.CEILING_TOO_FAR
    if reading.chain_stale:
        return Refusal.CHAIN_STALE
    if reading.ceiling > channel.ceiling:
        return replace(
            channel,
            meter=meter,
            charged=channel.charged + added,
            ceiling=reading.ceiling,
            ceiling_signature=reading.signature,
        )
    return replace(channel, meter=meter, charged=channel.charged + added)


def _unopened(channel: Channel, message: ReceiveReading | ReceiveClose) -> Refusal:
    # The sequence is checked before the phase (docs/protocol.md 5).
    return sequence_refusal(channel.meter, channel.device, message) or Refusal.NOT_OPEN


def _deposit(channel: Channel, change: ContractReceiveDeposit) -> Channel:
    if change.position <= channel.position:
        return channel
    if change.balance <= channel.balance:
        raise Contradiction(f"a deposit took the balance from {channel.balance} to {change.balance}")
    phase = channel.phase
    if phase is Phase.OPENING:
        phase = _opened(True, channel.withdrawing)
    return replace(channel, phase=phase, balance=change.balance, position=change.position)


def _claim(channel: Channel, change: ContractReceiveClaim) -> Channel:
    if change.position <= channel.position:
        return channel
    if not channel.claimed < change.total_claimed <= channel.committed:
        # Only our lane keys can claim: one above all that we signed means a leaked key.
        raise Contradiction(
            f"claimed {change.total_claimed} on chain after {channel.claimed}, with {channel.committed} signed"
        )
    return replace(channel, claimed=change.total_claimed, position=change.position)


def _withdraw_initiated(channel: Channel, change: ContractReceiveWithdrawInitiated) -> Channel:
    if change.position <= channel.position:
        return channel
    if change.amount > channel.balance - channel.claimed:
        raise Contradiction(f"withdrawal of {change.amount} with {channel.balance - channel.claimed} unclaimed")
    phase = Phase.WITHDRAWING if channel.phase is Phase.OPEN else channel.phase
    return replace(
        channel,
        phase=phase,
        withdrawing=change.amount,
        withdraw_after=change.finalize_after,
        position=change.position,
    )


def _withdraw_finalized(channel: Channel, change: ContractReceiveWithdrawFinalized) -> Channel:
    if change.position <= channel.position:
        return channel
    if change.amount > channel.balance - channel.claimed:
        raise Contradiction(f"withdrew {change.amount} with {channel.balance - channel.claimed} unclaimed")
    phase = Phase.OPEN if channel.phase is Phase.WITHDRAWING else channel.phase
    return replace(
        channel,
        phase=phase,
        balance=channel.balance - change.amount,
        withdrawing=0,
        withdraw_after=0,
        withdrawn=channel.withdrawn + change.amount,
        position=change.position,
    )


def _refund(channel: Channel, change: ContractReceiveRefund) -> Channel:
    if change.position <= channel.position:
        return channel
    balance = channel.balance - change.amount
    if balance < channel.claimed:
        raise Contradiction(f"refunded {change.amount} with {channel.balance - channel.claimed} unclaimed")
    # As the contract does: what is left of a withdrawal stays armed, even above what is unclaimed now.
    withdrawing = max(0, channel.withdrawing - change.amount)
    phase = Phase.OPEN if channel.phase is Phase.WITHDRAWING and withdrawing == 0 else channel.phase
    return replace(
        channel,
        phase=phase,
        balance=balance,
        withdrawing=withdrawing,
        withdraw_after=channel.withdraw_after if withdrawing else 0,
        refunded=channel.refunded + change.amount,
        position=change.position,
    )


def _foreseen(channel: Channel, change: ContractReceiveForeseen) -> Channel:
    if (change.amount, change.finalize_after) == (channel.foreseen, channel.foreseen_after):
        return channel
    return replace(channel, foreseen=change.amount, foreseen_after=change.finalize_after)


def _reverted(channel: Channel, change: ContractReceiveReverted) -> Channel:
    if change.claimed > channel.committed:
        raise Contradiction(f"{change.claimed} claimed before the blocks taken back, with {channel.committed} signed")
    phase = channel.phase
    if phase in (Phase.OPEN, Phase.WITHDRAWING):
        # Also without money: what it has charged, signed and owed stays, and a new deposit makes it usable again.
        phase = _opened(True, change.withdrawing)
    elif phase is Phase.CLOSED and change.closing:
        phase = Phase.CLOSING
    after = replace(
        channel,
        phase=phase,
        balance=change.balance,
        claimed=change.claimed,
        withdrawing=change.withdrawing,
        withdrawn=change.withdrawn,
        refunded=change.refunded,
        position=change.position,
        withdraw_after=change.withdraw_after,
    )
    return channel if after == channel else after


def _offset(channel: Channel, change: ActionOffset) -> Channel:
    if change.offset <= channel.offset:
        return channel
    # A claim in flight and an offset never take the same money twice (docs/protocol.md 6).
    if change.offset - channel.offset > channel.owed - channel.committed:
        raise Contradiction(f"offset {change.offset} with {channel.owed - channel.committed} free to offset")
    return replace(channel, offset=change.offset)


def _sign_claim(channel: Channel, change: ActionSignClaim) -> Channel:
    if change.total_claimed <= channel.committed:
        return channel
    if change.total_claimed > min(channel.owed, channel.ceiling):
        raise Contradiction(f"claim of {change.total_claimed} with {channel.owed} owed")
    return replace(channel, committed=change.total_claimed)


def _forgive(channel: Channel, change: ActionForgive) -> Channel:
    if change.forgiven <= channel.forgiven:
        return channel
    if change.forgiven - channel.forgiven > channel.owed - channel.committed:
        raise Contradiction(f"forgiven {change.forgiven} with {channel.owed - channel.committed} not yet signed for")
    return replace(channel, forgiven=change.forgiven)


def _asked_to_close(channel: Channel, close: ReceiveClose) -> Channel | Refusal:
    # Also while it closes already: a device that lost its memory, or whose operator was faster, gets its answer too.
    refusal = sequence_refusal(channel.meter, channel.device, close)
    if refusal is not None:
        return refusal
    # With the seq used up, the same message cannot close the channel once more after it was opened again.
    return replace(channel, phase=Phase.CLOSING, meter=replace(channel.meter, seq=close.seq))


def _close(channel: Channel, change: ActionClose) -> Channel:
    return replace(channel, phase=Phase.CLOSING)


def _closed(channel: Channel, change: ActionClosed) -> Channel:
    return replace(channel, phase=Phase.CLOSED)


def _same(channel: Channel, change: Change) -> Channel:
    return channel


_CHAIN: Mapping[type, Handler] = {
    ContractReceiveDeposit: _deposit,
    ContractReceiveClaim: _claim,
    ContractReceiveWithdrawInitiated: _withdraw_initiated,
    ContractReceiveWithdrawFinalized: _withdraw_finalized,
    ContractReceiveRefund: _refund,
    ContractReceiveForeseen: _foreseen,
    ContractReceiveReverted: _reverted,
}
_MONEY: Mapping[type, Handler] = {
    ActionOffset: _offset,
    ActionSignClaim: _sign_claim,
    ActionForgive: _forgive,
}

# The chain does what it does in any phase, so its events are in every row; what differs is written out.
_ROWS: Mapping[Phase, Mapping[type, Handler]] = {
    # Nothing closes while the deposit is on its way: it would arrive in a closed channel. One that was open before may
    # owe something, which is offset or claimed as in any other.
    Phase.OPENING: {ReceiveReading: _unopened, ReceiveClose: _unopened, **_MONEY, **_CHAIN},
    Phase.OPEN: {ReceiveReading: _reading, ReceiveClose: _asked_to_close, ActionClose: _close, **_MONEY, **_CHAIN},
    Phase.WITHDRAWING: {
        ReceiveReading: _reading,
        ReceiveClose: _asked_to_close,
        ActionClose: _close,
        **_MONEY,
        **_CHAIN,
    },
    Phase.CLOSING: {
        ReceiveReading: _unopened,
        ReceiveClose: _asked_to_close,
        ActionClose: _same,
        ActionClosed: _closed,
        **_MONEY,
        **_CHAIN,
    },
    # A debt that the balance did not cover outlives the channel: it can be offset, forgiven, or claimed later.
    Phase.CLOSED: {ReceiveReading: _unopened, ReceiveClose: _unopened, ActionClosed: _same, **_MONEY, **_CHAIN},
}

TRANSITIONS: Mapping[tuple[Phase, type], Handler] = {
    (phase, change): handler for phase, row in _ROWS.items() for change, handler in row.items()
}
