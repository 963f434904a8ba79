"""Small states of the ledger that are not channels or accounts: parties, devices, totals, histories as stored."""

import struct
from collections.abc import Iterator

import msgspec

from channels.state import ContractReceiveReverted
from channels.types import AccountId, Address
from gateway.records import TransactionSigned

# However often a row failed, it is tried again in the end: what was wrong may have been mended.
ASIDE_PAUSE_MAX = 64


class Party(msgspec.Struct, frozen=True, array_like=True):
    """Payouts to one payee, cumulative: the highest ever signed, and what the chain has."""

    signed: int = 0
    paid: int = 0
    base: int = 0  # what the contract's total was before this journal


class Device(msgspec.Struct, frozen=True, array_like=True):
    """A device that the operator enrolled."""

    payers: tuple[Address, ...]
    note: str
    accounts: tuple[AccountId, ...] = ()


class Totals(msgspec.Struct, frozen=True, array_like=True):
    """Counts and sums over all time."""

    payments: int = 0  # accepted paying readings
    earnings: int = 0  # accepted earning readings
    received: int = 0  # tokens that reached lanes or treasury from outside, the float included
    cycles: int = 0
    settled: int = 0  # moved from the contract to lanes
    gas_used: int = 0
    gas_fee: int = 0  # wei
    settlements: int = 0  # cycles that ended
    block: int = -1  # the last block whose events are all in
    block_hash: bytes = b""
    block_time: int = 0
    reorgs: int = 0  # reorganisations of the chain that undid something in these books


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """A block up to which everything is in the ledger."""

    hash: bytes
    timestamp: int  # chain seconds


class Image(msgspec.Struct, frozen=True, array_like=True):
    """What a channel was on the chain before a block changed it; None: it was taken up as of that block."""

    before: ContractReceiveReverted | None


class SumsBefore(msgspec.Struct, frozen=True, array_like=True):
    """`received` and `settled` of the totals before a block added to them."""

    received: int
    settled: int


class Mined(msgspec.Struct, frozen=True, array_like=True):
    """An own transaction in a block that may still be replaced."""

    transaction: TransactionSigned
    block: int
    gas_used: int
    fee: int  # wei
    succeeded: bool = True
    block_hash: bytes = b""  # empty: not told
    others: tuple[TransactionSigned, ...] = ()  # of the same sender and nonce: another block may hold one of them


class Reorganisation(msgspec.Struct, frozen=True, array_like=True):
    """Blocks that were replaced, and what that took back from the books."""

    from_block: int  # the last block there was
    to_block: int  # the last one that stayed
    at: int  # chain seconds
    channels: int
    transactions: int
    received: int  # base units
    settled: int  # base units
    missed: bool = False  # the blocks stayed: the node had kept some of their events from us


class Aside(msgspec.Struct, frozen=True, array_like=True):
    """A row of a settlement that reverted alone: what it was, why, when last, and how often in a row."""

    name: str
    reason: str
    cycle: int
    times: int

    @property
    def pause(self) -> int:
        """How many settlements leave it out: more and more, as each attempt burdens the node."""
        return min(1 << (self.times - 1), ASIDE_PAUSE_MAX)

    @property
    def retry_cycle(self) -> int:
        """The cycle in which it is tried again at the latest, if every settlement has something to do."""
        return self.cycle + self.pause


class Closing(msgspec.Struct, frozen=True, array_like=True):
    """A channel's closing: the message that is answered at the end, the refund signed, where the money stood before."""

    seq: int  # of the device's message; 0 when only the operator asked
    answers: bytes
    cbor: bool
    claimed: int  # before the closing
    refunded: int  # before the closing
    refund_nonce: int = 0  # of the last refund signed
    refund_amount: int = 0  # 0: none was signed
    refunds: int = 0  # how many were signed
    block: int = 0  # where it was seen as done


class SignedRefund(msgspec.Struct, frozen=True, array_like=True):
    """A refund that was signed; `refunded` is what the channel had given back by then."""

    nonce: int
    amount: int
    refunded: int


class Refunds(msgspec.Struct, frozen=True, array_like=True):
    """A channel's refunds: the next nonce when its last closing ended, and all that may still be valid one day."""

    nonce: int = 0
    signed: tuple[SignedRefund, ...] = ()


class StoredHistory(msgspec.Struct, frozen=True, array_like=True):
    """A channel's readings as earlier versions stored them: two little-endian u64 arrays."""

    seqs: bytes
    commits: bytes

    def readings(self) -> Iterator[tuple[int, int]]:
        """Yield each (seq, commit)."""
        return zip(*(struct.unpack(f"<{len(each) // 8}Q", each) for each in (self.seqs, self.commits)), strict=True)


class StoredReadings(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A run of a channel's readings: the first one's commit, and what each one adds to the one before.

    `data` holds a number for each reading but the first: twice the rise of the commit, plus 1 if another number
    follows, the rise of the seq, which otherwise is 1.
    """

    commit: int
    count: int
    last_seq: int
    last_commit: int
    data: bytes
