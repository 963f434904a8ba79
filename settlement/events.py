"""The events of the settlement contract, typed (docs/protocol.md 1).

A position orders everything on one chain: block number × 2³² + index of the log in its block. It is what
`channels.state.Channel.position` holds. Amounts are token base units, times chain seconds.
"""

from dataclasses import dataclass

from channels.types import Address, ChannelConfig, ChannelId

LOG_INDEX_BITS = 32


def position_of(block_number: int, log_index: int) -> int:
    """Return the position of a log: block number × 2³² + log index."""
    return block_number << LOG_INDEX_BITS | log_index


@dataclass(frozen=True, slots=True)
class Log:
    """An undecoded log: the emitting contract, up to four 32-byte topics, data, and where it stands."""

    address: Address
    topics: tuple[bytes, ...]
    data: bytes
    position: int
    block_hash: bytes
    tx_hash: bytes

    @property
    def block_number(self) -> int:
        """The number of the block that holds this log."""
        return self.position >> LOG_INDEX_BITS


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """What all events share: where it stands on the chain."""

    position: int
    block_hash: bytes  # 32 bytes; compare it with the chain's to notice a reorganisation
    tx_hash: bytes  # 32 bytes

    @property
    def block_number(self) -> int:
        """The number of the block that holds this event."""
        return self.position >> LOG_INDEX_BITS


@dataclass(frozen=True, slots=True)
class ChannelCreated(ChainEvent):
    """A channel exists; it may fire again after the channel was drained."""

    channel_id: ChannelId
    config: ChannelConfig


@dataclass(frozen=True, slots=True)
class ChannelClosed(ChainEvent):
    """A channel of which nothing was ever claimed was drained."""

    channel_id: ChannelId
    config: ChannelConfig


@dataclass(frozen=True, slots=True)
class Deposited(ChainEvent):
    """`amount` was paid in; the channel's balance is now `balance`."""

    channel_id: ChannelId
    sender: Address
    amount: int
    balance: int


@dataclass(frozen=True, slots=True)
class Claimed(ChainEvent):
    """`amount` was claimed; the channel's totalClaimed is now `total_claimed`."""

    channel_id: ChannelId
    sender: Address
    amount: int
    total_claimed: int


@dataclass(frozen=True, slots=True)
class Transfer(ChainEvent):
    """`amount` of an ERC-20 token moved; not an event of the settlement contract."""

    sender: Address
    receiver: Address
    amount: int


@dataclass(frozen=True, slots=True)
class Settled(ChainEvent):
    """`amount` of `token` moved from the contract to a receiver (a lane)."""

    receiver: Address
    token: Address
    sender: Address
    amount: int


@dataclass(frozen=True, slots=True)
class Refunded(ChainEvent):
    """`amount` went back to the payer by the receiver's consent."""

    channel_id: ChannelId
    sender: Address
    amount: int


@dataclass(frozen=True, slots=True)
class WithdrawInitiated(ChainEvent):
    """The payer wants `amount` back; it can be taken from `finalize_after` (chain seconds) on."""

    channel_id: ChannelId
    amount: int
    finalize_after: int


@dataclass(frozen=True, slots=True)
class WithdrawFinalized(ChainEvent):
    """`amount` went back to the payer after the delay."""

    channel_id: ChannelId
    sender: Address
    amount: int
