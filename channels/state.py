"""What is known of one channel and of one earner account, and the changes that may happen to them.

Prefixes of changes say who caused them: Receive… a device, ContractReceive… the chain, Action… the gateway or
its operator. States are frozen; `channels.machine` and `channels.earning` make the next ones.
"""

from enum import IntEnum
from typing import TypeAlias

import msgspec

from channels.types import AccountId, Address, ChannelConfig, ChannelId, OfferId, Signature


class Phase(IntEnum):
    """The phases of a channel. Numbers are in journals: never renumbered."""

    OPENING = 1  # bound to device and service; its deposit is not final yet
    OPEN = 2
    WITHDRAWING = 3  # the payer has started a withdrawal on chain; what stays is still usable
    CLOSING = 4  # no new readings; a final claim and refund are under way
    CLOSED = 5


class Terms(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One service's line in one offer."""

    offer: OfferId
    serial: int  # rises with each offer
    price: int  # 10⁻⁹ token base units per register unit
    max_step: int  # register units that one reading may add
    max_ahead: int  # base units by which a ceiling may exceed what is owed
    expired: bool = False  # superseded longer ago than the grace period


class Meter(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The position of the last accepted reading; before the first one, where metering begins."""

    seq: int  # 0 before the first reading
    register: int  # cumulative, in the service's unit
    remainder: int  # nano base units carried, 0 ≤ remainder < 10⁹
    offer: OfferId
    offer_serial: int


class Channel(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A payment channel as the gateway holds it. Amounts are cumulative, in token base units."""

    id: ChannelId
    config: ChannelConfig
    device: str
    service: str
    lane: int
    phase: Phase
    meter: Meter
    charged: int = 0  # all that readings came to
    offset: int = 0  # settled by netting against what the party earned
    forgiven: int = 0  # given up by the operator
    ceiling: int = 0  # the highest maxClaimableAmount held
    ceiling_signature: Signature = b""
    committed: int = 0  # the highest totalClaimed ever signed for the chain
    claimed: int = 0  # totalClaimed on chain
    balance: int = 0  # on chain: deposited − withdrawn − refunded
    withdrawing: int = 0  # amount of a pending withdrawal
    withdrawn: int = 0
    refunded: int = 0
    position: int = 0  # the last chain event applied: block number × 2³² + log index
    proven: bool = False  # the gateway itself verified the payer's deposit authorization
    first_register: int = 0  # where metering began
    withdraw_after: int = 0  # chain seconds from which the pending withdrawal can be taken; 0: not known, or none
    foreseen: int = 0  # what withdrawals in blocks that are not final yet can take, a pending one included
    foreseen_after: int = 0  # chain seconds from which that can be taken

    @property
    def units(self) -> int:
        """Register units metered so far."""
        return self.meter.register - self.first_register

    @property
    def owed(self) -> int:
        """What the payer owes on chain: charged less what was offset or forgiven."""
        return self.charged - self.offset - self.forgiven

    @property
    def unclaimed(self) -> int:
        """What is owed and not yet claimed on chain."""
        return self.owed - self.claimed

    @property
    def withdrawable(self) -> int:
        """What a withdrawal, pending or foreseen, can take at most; 0 without one."""
        return max(self.withdrawing, self.foreseen)

    @property
    def usable_balance(self) -> int:
        """The on-chain balance less what a withdrawal, pending or foreseen, can take: what a ceiling may reach.

        A withdrawal counts at first sight, final or not (docs/protocol.md 6). It is capped by the contract to what
        is unclaimed when it ends.
        """
        if not (self.withdrawing or self.foreseen):  # nearly always: readings ask for it three times
            return self.balance
        return max(self.balance - self.withdrawable, self.claimed)

    @property
    def finalize_after(self) -> int:
        """Chain seconds from which a withdrawal, pending or foreseen, can take money.

        It is 0 without one, and for one whose end is not known: that may be any moment.
        """
        ends = []
        if self.withdrawing:
            ends.append(self.withdraw_after)
        if self.foreseen:
            ends.append(self.foreseen_after)
        return min(ends, default=0)

    @property
    def deposited(self) -> int:
        """All deposits that this gateway has seen or found when it took the channel up."""
        return self.balance + self.withdrawn + self.refunded


class Account(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An earner account: what the gateway owes a payee for one metered service."""

    id: AccountId
    device: str
    service: str
    payee: Address
    meter_key: Address
    meter: Meter
    earned: int = 0  # gross
    fee: int = 0  # the operator's share of it
    fee_remainder: int = 0  # 10⁻⁴ base units carried
    offset: int = 0  # settled by netting against what the party owed
    first_register: int = 0  # where metering began
    past: bool = False  # an earlier journal may have paid for some of its registers: its first reading tells which

    @property
    def net(self) -> int:
        """What is due to the payee before payouts: earned less fee and offset."""
        return self.earned - self.fee - self.offset


class ReceiveReading(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A decoded `usage` or `earn` message together with what the caller found out about it.

    `ceiling` and `signature` are 0 and empty for an earning reading.
    """

    seq: int
    register: int
    time: int  # device clock, Unix ms, advisory
    offer: OfferId
    ceiling: int
    signature: Signature
    device: str  # of the topic
    signed: bool  # every required signature verified under the channel's keys
    terms: Terms | None  # the offer's line for this service; None when the offer is unknown
    repeats_seq: bool = False  # another reading was accepted under this seq
    chain_stale: bool = False


class ReceiveClose(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A decoded `close` message together with what the caller found out about it. It uses up its seq like a reading."""

    seq: int
    device: str  # of the topic
    signed: bool  # by the channel's payerAuthorizer, for this channel, device and seq
    repeats_seq: bool = False  # a reading or another close was accepted under this seq


class ActionOpen(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The gateway accepts an `open`: terms checked, the payer's deposit authorization verified.

    `balance`, `claimed`, `withdrawing` and `position` are read from the chain at one block. `funded`: there
    is money to spend in it already, for others may submit a deposit first.
    """

    id: ChannelId
    config: ChannelConfig
    device: str
    service: str
    lane: int
    register: int
    offer: OfferId
    offer_serial: int
    balance: int
    claimed: int
    withdrawing: int
    position: int
    funded: bool
    withdraw_after: int = 0  # chain seconds; 0 without a withdrawal


class ActionOffset(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Netting settles part of what is owed; `offset` is the new cumulative amount."""

    offset: int


class ActionSignClaim(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The gateway is about to sign a claim of `total_claimed` (cumulative)."""

    total_claimed: int


class ActionForgive(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The operator gives up part of what is owed; `forgiven` is the new cumulative amount."""

    forgiven: int


class ActionClose(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The operator closes the channel: no further readings, it settles finally."""


class ActionClosed(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The final claim and refund are done."""


class ContractReceiveDeposit(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="deposit"):
    """A final `Deposited` event."""

    position: int
    balance: int  # after the deposit


class ContractReceiveClaim(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="claim"):
    """A `Claimed` event."""

    position: int
    total_claimed: int


class ContractReceiveWithdrawInitiated(
    msgspec.Struct, frozen=True, gc=False, array_like=True, tag="withdraw-initiated"
):
    """A `WithdrawInitiated` event; the payer can end it from chain second `finalize_after` on."""

    position: int
    amount: int
    finalize_after: int = 0


class ContractReceiveWithdrawFinalized(
    msgspec.Struct, frozen=True, gc=False, array_like=True, tag="withdraw-finalized"
):
    """A `WithdrawFinalized` event; the amount may be lower than what was asked for."""

    position: int
    amount: int


class ContractReceiveRefund(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="refund"):
    """A `Refunded` event; it reduces or clears a pending withdrawal."""

    position: int
    amount: int


class ContractReceiveForeseen(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Withdrawals in blocks that are not final yet: what they can take in all; 0: there is none any more."""

    amount: int
    finalize_after: int  # chain seconds


class ContractReceiveReverted(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A reorganisation took blocks back: the chain's side of the channel as it was before them.

    `closing`: the channel was seen to be done in those blocks, so that its closing goes on.
    """

    balance: int
    claimed: int
    withdrawing: int
    withdrawn: int
    refunded: int
    position: int
    withdraw_after: int
    closing: bool = False


ChainChange: TypeAlias = (
    ContractReceiveDeposit
    | ContractReceiveClaim
    | ContractReceiveWithdrawInitiated
    | ContractReceiveWithdrawFinalized
    | ContractReceiveRefund
)

Change: TypeAlias = (
    ReceiveReading
    | ReceiveClose
    | ActionOffset
    | ActionSignClaim
    | ActionForgive
    | ActionClose
    | ActionClosed
    | ChainChange
    | ContractReceiveForeseen
    | ContractReceiveReverted
)
