"""Small states of the ledger that are not channels or accounts: parties, devices, totals, histories as stored."""

import msgspec

from channels.types import AccountId, Address


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


class StoredHistory(msgspec.Struct, frozen=True, array_like=True):
    """A history as it is stored."""

    seqs: bytes
    commits: bytes
