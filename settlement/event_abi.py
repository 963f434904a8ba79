"""Decoding of the settlement contract's logs into typed events."""

from collections.abc import Callable, Iterable
from typing import Any

from channels.digests import keccak
from channels.types import Address, ChannelConfig
from settlement.abi import decode
from settlement.calls import CONFIG
from settlement.errors import ChainMisbehaved
from settlement.events import (
    ChainEvent,
    ChannelClosed,
    ChannelCreated,
    Claimed,
    Deposited,
    Log,
    Refunded,
    Settled,
    Transfer,
    WithdrawFinalized,
    WithdrawInitiated,
)

# Per event: its signature, the types of its indexed arguments and of its data, and what it becomes.
_Row = tuple[str, tuple[str, ...], str, Callable[..., ChainEvent]]


def _with_config(kind: Callable[..., ChainEvent]) -> Callable[..., ChainEvent]:
    def build(position: int, block: bytes, tx: bytes, channel: bytes, config: tuple[Any, ...]) -> ChainEvent:
        return kind(position, block, tx, channel, ChannelConfig(*config))

    return build


_ROWS: tuple[_Row, ...] = (
    (f"ChannelCreated(bytes32,{CONFIG})", ("bytes32",), f"({CONFIG})", _with_config(ChannelCreated)),
    (f"ChannelClosed(bytes32,{CONFIG})", ("bytes32",), f"({CONFIG})", _with_config(ChannelClosed)),
    ("Deposited(bytes32,address,uint128,uint128)", ("bytes32", "address"), "(uint128,uint128)", Deposited),
    ("Claimed(bytes32,address,uint128,uint128)", ("bytes32", "address"), "(uint128,uint128)", Claimed),
    ("Settled(address,address,address,uint128)", ("address", "address", "address"), "(uint128)", Settled),
    ("Refunded(bytes32,address,uint128)", ("bytes32", "address"), "(uint128)", Refunded),
    ("WithdrawInitiated(bytes32,uint128,uint40)", ("bytes32",), "(uint128,uint40)", WithdrawInitiated),
    ("WithdrawFinalized(bytes32,address,uint128)", ("bytes32", "address"), "(uint128)", WithdrawFinalized),
)
_TRANSFER: _Row = ("Transfer(address,address,uint256)", ("address", "address"), "(uint256)", Transfer)
_BY_TOPIC: dict[bytes, _Row] = {keccak(row[0].encode()): row for row in _ROWS}

EVENT_TOPICS = tuple(_BY_TOPIC)
TRANSFER_TOPIC = keccak(_TRANSFER[0].encode())


def decode_event(log: Log) -> ChainEvent | None:
    """Return the typed event of a log of the settlement contract, or None for an event not in use.

    Raises ChainMisbehaved for a log whose topic is known and whose content does not fit it.
    """
    row = _BY_TOPIC.get(log.topics[0]) if log.topics else None
    if row is None:
        return None
    return _decode(row, log)


def decode_transfer(log: Log) -> Transfer:
    """Return an ERC-20 `Transfer`. Raises ChainMisbehaved when the log is not one."""
    if log.topics[:1] != (TRANSFER_TOPIC,):
        raise ChainMisbehaved("asked for transfers, got another event")
    transfer = _decode(_TRANSFER, log)
    assert isinstance(transfer, Transfer)
    return transfer


def _decode(row: _Row, log: Log) -> ChainEvent:
    _, indexed, data, build = row
    if len(log.topics) != len(indexed) + 1:
        raise ChainMisbehaved(f"{row[0]} with {len(log.topics)} topics")
    topics = tuple(decode(kind, topic) for kind, topic in zip(indexed, log.topics[1:], strict=True))
    return build(log.position, log.block_hash, log.tx_hash, *topics, *decode(data, log.data))


def settlement_events(logs: Iterable[Log], settlement: Address) -> list[ChainEvent]:
    """Decode those logs that the settlement contract emitted, in the order given; others are left out."""
    events = (decode_event(log) for log in logs if log.address == settlement)
    return [event for event in events if event is not None]
