"""Statements: what one party paid, earned and was paid, signed by the gateway (docs/protocol.md 10).

A statement is EIP-712 typed data in the Metergate domain, signed by receiverAuthorizer. All its figures are
cumulative, so one statement less the one before is what happened in between, and each names the digest of the
one before. `settlement.statement_json` has their JSON form, `settlement.statement_checks` proves them.
Amounts are token base units.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from channels.digests import keccak, metergate_separator
from channels.state import Account, Channel
from channels.types import AccountId, Address, ChannelId, Digest, Network, Signature

# EIP-712: struct name → ((member, type), …), in the order in which they are hashed. Never changed for version 1.
TYPES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "Statement": (
        ("gateway", "string"),
        ("token", "address"),
        ("party", "address"),
        ("receiverAuthorizer", "address"),
        ("cycle", "uint64"),
        ("commit", "uint64"),
        ("block", "uint64"),
        ("blockHash", "bytes32"),
        ("time", "uint64"),
        ("reorgs", "uint64"),
        ("fromCommit", "uint64"),
        ("fromBlock", "uint64"),
        ("fromTime", "uint64"),
        ("channels", "ChannelLine[]"),
        ("accounts", "AccountLine[]"),
        ("totals", "Totals"),
        ("previous", "bytes32"),
    ),
    "ChannelLine": (
        ("channelId", "bytes32"),
        ("device", "string"),
        ("service", "string"),
        ("unit", "string"),
        ("registerFrom", "uint64"),
        ("registerTo", "uint64"),
        ("charged", "uint128"),
        ("offset", "uint128"),
        ("forgiven", "uint128"),
        ("claimed", "uint128"),
        ("unclaimed", "uint128"),
        ("committed", "uint128"),
        ("remainder", "uint64"),
        ("ceiling", "uint128"),
        ("balance", "uint128"),
        ("withdrawn", "uint128"),
        ("refunded", "uint128"),
    ),
    "AccountLine": (
        ("accountId", "bytes32"),
        ("device", "string"),
        ("service", "string"),
        ("unit", "string"),
        ("registerFrom", "uint64"),
        ("registerTo", "uint64"),
        ("earned", "uint128"),
        ("fee", "uint128"),
        ("offset", "uint128"),
        ("net", "uint128"),
        ("remainder", "uint64"),
        ("feeRemainder", "uint64"),
    ),
    "Totals": (
        ("charged", "uint256"),
        ("offset", "uint256"),
        ("forgiven", "uint256"),
        ("claimed", "uint256"),
        ("unclaimed", "uint256"),
        ("earned", "uint256"),
        ("fee", "uint256"),
        ("net", "uint256"),
        ("signed", "uint256"),
        ("paid", "uint256"),
        ("payable", "uint256"),
    ),
}


class ChannelLine(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One channel of the party, as it stands; all but the last registers' unit is cumulative."""

    channel_id: ChannelId
    device: str
    service: str
    unit: str
    register_from: int  # where billing began
    register_to: int  # of the last accepted reading
    charged: int  # claimed + offset + forgiven + unclaimed
    offset: int
    forgiven: int
    claimed: int
    unclaimed: int
    committed: int  # the highest claim signed, claimed ≤ committed ≤ claimed + unclaimed
    remainder: int  # 10⁻⁹ base units carried to the next reading
    ceiling: int  # the highest voucher held: what the chain would let the gateway claim, never what is owed
    balance: int
    withdrawn: int
    refunded: int

    @property
    def deposited(self) -> int:
        """All that was put into the channel."""
        return self.balance + self.withdrawn + self.refunded


class AccountLine(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One earner account of the party, as it stands."""

    account_id: AccountId
    device: str
    service: str
    unit: str
    register_from: int
    register_to: int
    earned: int  # fee + offset + net
    fee: int
    offset: int
    net: int
    remainder: int  # 10⁻⁹ base units carried
    fee_remainder: int  # 10⁻⁴ base units carried


class Totals(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Sums over the lines, and the party's payouts. What carries to the next: unclaimed, and payable."""

    charged: int
    offset: int
    forgiven: int
    claimed: int
    unclaimed: int  # the party owes this
    earned: int
    fee: int
    net: int
    signed: int  # payouts ever signed
    paid: int  # of these, found on the chain
    payable: int  # net − paid: the party is owed this


class Statement(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a gateway says to one party after one settlement cycle."""

    chain_id: int
    settlement: Address
    gateway: str
    token: Address
    party: Address
    receiver_authorizer: Address  # who signs
    cycle: int
    commit: int  # as of this commit of the gateway's journal
    block: int  # the last block whose events are in it
    block_hash: bytes  # zero before the journal holds a block
    time: int  # chain seconds of that block
    reorgs: int  # reorganisations of the chain up to here that undid something in these books
    from_commit: int  # commit, block and time of the statement before, 0 for the first
    from_block: int
    from_time: int
    channels: tuple[ChannelLine, ...]  # by id
    accounts: tuple[AccountLine, ...]  # by id
    totals: Totals
    previous: Digest  # of the statement before, zero for the first

    @property
    def network(self) -> Network:
        """Where the signature is bound to."""
        return Network(self.chain_id, self.settlement)


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement with its signature."""

    statement: Statement
    signature: Signature


class Link(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a party's next statement takes over from its last one. `figures` is the digest of its lines and totals."""

    digest: Digest
    figures: Digest
    commit: int
    block: int
    time: int


FIRST = Link(bytes(32), b"", 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Issue:
    """What all statements of one cycle have in common."""

    network: Network
    gateway: str
    token: Address
    receiver_authorizer: Address
    cycle: int
    commit: int
    block: int
    block_hash: bytes
    time: int
    reorgs: int


def draft(
    issue: Issue,
    party: Address,
    channels: Iterable[Channel],
    accounts: Iterable[Account],
    payouts: tuple[int, int],
    unit_of: Callable[[str], str],
    last: Link,
) -> tuple[Statement, Digest] | None:
    """Return a party's statement and the digest of its figures, or None when they are those of its last one.

    `payouts` is (signed, paid), cumulative; `unit_of` tells the unit of a service.
    """
    lines = tuple(sorted((_channel_line(each, unit_of) for each in channels), key=attrgetter("channel_id")))
    earners = tuple(sorted((_account_line(each, unit_of) for each in accounts), key=attrgetter("account_id")))
    totals = add_up(lines, earners, *payouts)
    figures = keccak(_list_hash("ChannelLine", lines) + _list_hash("AccountLine", earners) + _hash("Totals", totals))
    if figures == last.figures:
        return None
    return Statement(
        chain_id=issue.network.chain_id,
        settlement=issue.network.settlement,
        gateway=issue.gateway,
        token=issue.token,
        party=party,
        receiver_authorizer=issue.receiver_authorizer,
        cycle=issue.cycle,
        commit=issue.commit,
        block=issue.block,
        block_hash=issue.block_hash,
        time=issue.time,
        reorgs=issue.reorgs,
        from_commit=last.commit,
        from_block=last.block,
        from_time=last.time,
        channels=lines,
        accounts=earners,
        totals=totals,
        previous=last.digest,
    ), figures


def add_up(channels: Sequence[ChannelLine], accounts: Sequence[AccountLine], signed: int, paid: int) -> Totals:
    """Return the totals of these lines."""
    net = sum(line.net for line in accounts)
    return Totals(
        charged=sum(line.charged for line in channels),
        offset=sum(line.offset for line in channels),
        forgiven=sum(line.forgiven for line in channels),
        claimed=sum(line.claimed for line in channels),
        unclaimed=sum(line.unclaimed for line in channels),
        earned=sum(line.earned for line in accounts),
        fee=sum(line.fee for line in accounts),
        net=net,
        signed=signed,
        paid=paid,
        payable=net - paid,
    )


def _channel_line(channel: Channel, unit_of: Callable[[str], str]) -> ChannelLine:
    return ChannelLine(
        channel_id=channel.id,
        device=channel.device,
        service=channel.service,
        unit=unit_of(channel.service),
        register_from=channel.first_register,
        register_to=channel.meter.register,
        charged=channel.charged,
        offset=channel.offset,
        forgiven=channel.forgiven,
        claimed=channel.claimed,
        unclaimed=channel.unclaimed,
        committed=channel.committed,
        remainder=channel.meter.remainder,
        ceiling=channel.ceiling,
        balance=channel.balance,
        withdrawn=channel.withdrawn,
        refunded=channel.refunded,
    )


def _account_line(account: Account, unit_of: Callable[[str], str]) -> AccountLine:
    return AccountLine(
        account_id=account.id,
        device=account.device,
        service=account.service,
        unit=unit_of(account.service),
        register_from=account.first_register,
        register_to=account.meter.register,
        earned=account.earned,
        fee=account.fee,
        offset=account.offset,
        net=account.net,
        remainder=account.meter.remainder,
        fee_remainder=account.fee_remainder,
    )


# -- EIP-712 --


def statement_digest(statement: Statement) -> Digest:
    """Return the 32-byte EIP-712 digest that receiverAuthorizer signs."""
    return keccak(b"\x19\x01" + metergate_separator(statement.network) + _hash("Statement", statement))


def link(statement: Statement, digest: Digest, figures: Digest) -> Link:
    """Return what the party's next statement takes over."""
    return Link(digest, figures, statement.commit, statement.block, statement.time)


def snake(name: str) -> str:
    """Return the attribute of a member: `blockHash` is `block_hash`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _referred(kind: str) -> set[str]:
    names = {member.removesuffix("[]") for _, member in TYPES[kind]} & TYPES.keys()
    return names.union(*map(_referred, names))


def _type_hash(kind: str) -> bytes:
    parts = (kind, *sorted(_referred(kind)))
    return keccak(
        "".join(f"{name}({','.join(f'{of} {member}' for member, of in TYPES[name])})" for name in parts).encode()
    )


@lru_cache(maxsize=4096)  # services and units repeat; devices of a larger site are hashed again
def _text_hash(text: str) -> bytes:
    return keccak(text.encode())


def _uint_word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _address_word(value: Address) -> bytes:
    return value.rjust(32, b"\0")


def _fixed_word(value: bytes) -> bytes:
    return value.ljust(32, b"\0")


def _word_of(kind: str) -> Callable[[Any], bytes]:
    """Return what encodes a member of this type as one word."""
    if kind == "string":
        return _text_hash
    if kind == "address":
        return _address_word
    if kind == "bytes32":
        return _fixed_word
    if kind.startswith("uint"):
        return _uint_word
    if kind.endswith("[]"):
        return lambda rows: _list_hash(kind[:-2], rows)
    return lambda value: _hash(kind, value)


_LAYOUT = {
    name: (
        _type_hash(name),
        attrgetter(*(snake(member) for member, _ in members)),
        tuple(_word_of(kind) for _, kind in members),
    )
    for name, members in TYPES.items()
}


def _hash(kind: str, value: Any) -> bytes:
    type_hash, members, words = _LAYOUT[kind]
    return keccak(type_hash + b"".join([word(member) for word, member in zip(words, members(value), strict=True)]))


def _list_hash(kind: str, values: Sequence[Any]) -> bytes:
    return keccak(b"".join([_hash(kind, value) for value in values]))
