"""The journal's vocabulary: what happened, one record each, enough to rebuild every state by replay.

A record holds what was decided, so that replay never asks a clock, the chain or a signature again. Records are
CBOR arrays that begin with their tag; amounts are integers of any size. Tags and the order of fields are on
disk: fields are only ever added at the end, with a default.
"""

from typing import TypeAlias

import cbor2
import msgspec

from channels.state import Account, ActionOpen, ChainChange
from channels.types import AccountId, Address, ChannelId, OfferId, Signature
from gateway.errors import JournalFault


class _Record(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Base of all records."""


class Founded(_Record, frozen=True, gc=False, array_like=True, tag="founded"):
    """The journal's first record: whose books these are, and where the chain stood.

    `held` is what lanes and treasury held at that block (the operator's float), `lane_totals` each lane's
    (totalClaimed, totalSettled) in the contract by then, all in base units.
    """

    gateway: str
    chain_id: int
    token: Address
    payouts: Address
    treasury: Address
    lanes: tuple[Address, ...]
    block: int
    held: int
    lane_totals: tuple[tuple[int, int], ...]
    hash: bytes = b""  # of that block
    timestamp: int = 0  # chain seconds
    balances: tuple[int, ...] = ()  # what `held` is the sum of: the treasury's, then each lane's
    past: bool = False  # the treasury had sent transactions before: an earlier journal of these keys is lost


class OfferIssued(_Record, frozen=True, gc=False, array_like=True, tag="offer"):
    """A new current offer, as it was published; `at` is chain seconds."""

    body: bytes
    at: int


class DeviceAdded(_Record, frozen=True, gc=False, array_like=True, tag="device"):
    """The operator enrolled a device, with the payers and the earner accounts it may open."""

    device: str
    payers: tuple[Address, ...]
    note: str
    accounts: tuple[AccountId, ...] = ()


class AccountOpened(_Record, frozen=True, gc=False, array_like=True, tag="account"):
    """An earner account was enrolled; its payee signed for it."""

    account: Account


class OpenReceived(_Record, frozen=True, gc=False, array_like=True, tag="open"):
    """A device's `open` passed every check that needs no chain: the intent, before anything is sent."""

    device: str
    payload: bytes
    at: int


class OpenEnded(_Record, frozen=True, gc=False, array_like=True, tag="opened"):
    """That intent ended: 0, or the number of the refusal. A deposit that was credited is named by its nonce."""

    device: str
    refusal: int
    channel: ChannelId = b""
    nonce: bytes = b""


class ChannelTaken(_Record, frozen=True, gc=False, array_like=True, tag="channel"):
    """A channel is bound to its device, service and lane, and waits for its deposit unless it is funded.

    `at` is chain seconds.
    """

    action: ActionOpen
    at: int = 0


class Charged(_Record, frozen=True, gc=False, array_like=True, tag="r"):
    """An accepted paying reading and what it led to; everything from `charged` on is the state after it."""

    id: ChannelId
    seq: int
    register: int
    time: int
    offer: OfferId
    ceiling: int
    signature: Signature
    reading_signature: Signature
    charged: int
    remainder: int
    balance: int
    offset: int
    held_ceiling: int
    held_signature: Signature  # empty when the reading's own signature is the one held


class Earned(_Record, frozen=True, gc=False, array_like=True, tag="e"):
    """An accepted earning reading and what it led to."""

    id: AccountId
    seq: int
    register: int
    time: int
    offer: OfferId
    reading_signature: Signature
    fee_basis_points: int
    earned: int
    remainder: int
    offset: int


class ChainChanged(_Record, frozen=True, gc=False, array_like=True, tag="c"):
    """The chain changed one of our channels."""

    id: ChannelId
    change: ChainChange


class ForeignClaimed(_Record, frozen=True, gc=False, array_like=True, tag="foreign"):
    """Strangers' channels were claimed for one of our lanes: `total` is cumulative."""

    lane: Address
    total: int


class CashReceived(_Record, frozen=True, gc=False, array_like=True, tag="cash"):
    """Tokens reached a lane or the treasury from outside: the operator's float, or a gift."""

    position: int
    holder: Address
    sender: Address
    amount: int


class LaneSettled(_Record, frozen=True, gc=False, array_like=True, tag="settled"):
    """Claimed tokens moved from the settlement contract to a lane; anyone may cause it."""

    position: int
    lane: Address
    amount: int


class ChainSeen(_Record, frozen=True, gc=False, array_like=True, tag="h"):
    """Every event up to this block is in the journal."""

    number: int
    hash: bytes
    timestamp: int


class WithdrawalForeseen(_Record, frozen=True, gc=False, array_like=True, tag="foreseen"):
    """A payer's withdrawals in blocks that are not final yet: what they can take in all; 0: none any more."""

    id: ChannelId
    amount: int
    finalize_after: int  # chain seconds; 0 with amount 0


class RevertedChannel(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A channel as the chain has it at the last block that stays."""

    id: ChannelId
    balance: int
    claimed: int
    withdrawing: int
    withdraw_after: int  # chain seconds; 0 without a withdrawal


class RevertedLane(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A lane's totals in the contract at the last block that stays."""

    lane: Address
    total_claimed: int
    total_settled: int


class ChainReverted(_Record, frozen=True, gc=False, array_like=True, tag="reverted"):
    """The chain replaced its last blocks: what they did is undone, and read again from the blocks that came instead.

    `number` is the last block that stays, `was` the last one there had been. `channels` are all that the others
    had changed, `paid` what each payee has got since this journal began. `missed`: the blocks stayed, but some of
    their events had been kept from us.
    """

    number: int
    hash: bytes
    timestamp: int  # chain seconds
    was: int
    at: int  # chain seconds when it was noticed
    channels: tuple[RevertedChannel, ...]
    lanes: tuple[RevertedLane, ...]
    paid: tuple[tuple[Address, int], ...]
    missed: bool = False


class CycleStarted(_Record, frozen=True, gc=False, array_like=True, tag="cycle"):
    """A settlement cycle: what is netted, and the claims about to be signed. All amounts are cumulative."""

    number: int
    at: int
    channel_offsets: tuple[tuple[ChannelId, int], ...]
    account_offsets: tuple[tuple[AccountId, int], ...]
    claims: tuple[tuple[ChannelId, int], ...]
    chain_time: int = 0  # chain seconds of the last block seen


class PayoutsSigned(_Record, frozen=True, gc=False, array_like=True, tag="payouts"):
    """Payouts about to be signed: (payee, cumulative amount)."""

    cycle: int
    rows: tuple[tuple[Address, int], ...]


class PayeesMet(_Record, frozen=True, gc=False, array_like=True, tag="payees"):
    """Payees before their first payout: (payee, what the treasury had paid them before this journal)."""

    rows: tuple[tuple[Address, int], ...]


class PayoutsPaid(_Record, frozen=True, gc=False, array_like=True, tag="paid"):
    """Payouts found on chain: (payee, cumulative amount since this journal began)."""

    rows: tuple[tuple[Address, int], ...]


class TransactionSigned(_Record, frozen=True, gc=False, array_like=True, tag="tx"):
    """A signed transaction, written before it is sent."""

    hash: bytes
    sender: Address
    nonce: int
    purpose: str
    raw: bytes


class TransactionMined(_Record, frozen=True, gc=False, array_like=True, tag="mined"):
    """That transaction is final; `fee` is in wei."""

    hash: bytes
    succeeded: bool
    block: int
    gas_used: int
    fee: int
    block_hash: bytes = b""  # so that the watcher sees when that block is replaced


class TransactionUnmined(_Record, frozen=True, gc=False, array_like=True, tag="unmined"):
    """The block that held that transaction is not on the chain: it is outstanding again."""

    hash: bytes


class ChannelClosing(_Record, frozen=True, gc=False, array_like=True, tag="closing"):
    """A channel closes: by its device's signed message, which is answered at the end, or by the operator (seq 0)."""

    id: ChannelId
    seq: int
    signature: Signature
    answers: bytes
    cbor: bool  # the message's encoding, and so its receipt's


class ClaimsSigned(_Record, frozen=True, gc=False, array_like=True, tag="claims"):
    """Claims, in the commit that holds the transaction signed for them: (id, totalClaimed)."""

    rows: tuple[tuple[ChannelId, int], ...]


class RefundSigned(_Record, frozen=True, gc=False, array_like=True, tag="refund"):
    """A refund about to be signed by the authorizer: valid until the chain has used up this nonce."""

    id: ChannelId
    nonce: int
    amount: int


class ChannelClosed(_Record, frozen=True, gc=False, array_like=True, tag="closed"):
    """Everything claimable is claimed and no signed refund is valid, as seen at this block.

    `refund_nonce` is the channel's next one; 0 is also what earlier versions did not tell.
    """

    id: ChannelId
    block: int
    refund_nonce: int = 0


class RowsSetAside(_Record, frozen=True, gc=False, array_like=True, tag="aside"):
    """Rows that reverted alone, (name, key, the chain's reason), and rows of before that went through, (name, key).

    A name is "claim", "close", "pay", "settle" or "sweep"; a key is a channel id or an address.
    """

    cycle: int
    rows: tuple[tuple[str, bytes, str], ...]
    cleared: tuple[tuple[str, bytes], ...] = ()


class TransactionLost(_Record, frozen=True, gc=False, array_like=True, tag="lost"):
    """Another transaction was mined under that one's nonce: it, and whatever replaced it, can never be mined."""

    hash: bytes


class CycleEnded(_Record, frozen=True, gc=False, array_like=True, tag="cycle-end"):
    """The cycle's transactions are final; amounts are what this cycle moved, in base units."""

    number: int
    at: int
    offset: int
    claimed: int
    settled: int
    paid: int
    rows: int
    gas_used: int


Record: TypeAlias = (
    Founded
    | OfferIssued
    | DeviceAdded
    | AccountOpened
    | OpenReceived
    | OpenEnded
    | ChannelTaken
    | Charged
    | Earned
    | ChainChanged
    | ForeignClaimed
    | CashReceived
    | LaneSettled
    | ChainSeen
    | CycleStarted
    | PayoutsSigned
    | PayeesMet
    | PayoutsPaid
    | TransactionSigned
    | TransactionMined
    | TransactionLost
    | CycleEnded
    | RowsSetAside
    | ChannelClosing
    | ClaimsSigned
    | RefundSigned
    | ChannelClosed
    | WithdrawalForeseen
    | ChainReverted
    | TransactionUnmined
)


def encode(value: object) -> bytes:
    """Return records or states as CBOR."""
    return cbor2.dumps(msgspec.to_builtins(value, builtin_types=(bytes,)))


def decode_records(body: bytes) -> list[Record]:
    """Return the records of one commit. Raises JournalFault for a body that is not one of ours."""
    try:
        return msgspec.convert(cbor2.loads(body), list[Record])
    except (cbor2.CBORDecodeError, msgspec.ValidationError) as error:
        raise JournalFault(f"a commit of the journal cannot be read: {error}") from error
