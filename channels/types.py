"""Plain value types of the protocol. Byte values are `bytes`; money, registers and times are `int`."""

from dataclasses import dataclass
from typing import TypeAlias

Address: TypeAlias = bytes  # 20 bytes
ChannelId: TypeAlias = bytes  # 32 bytes: the EIP-712 digest of the channel's configuration
AccountId: TypeAlias = bytes  # 32 bytes: the EIP-712 digest of the earner account
OfferId: TypeAlias = bytes  # 16 bytes
Digest: TypeAlias = bytes  # 32 bytes
Signature: TypeAlias = bytes  # 65 bytes: r, s, v

U40_MAX = 2**40 - 1
U64_MAX = 2**64 - 1
U128_MAX = 2**128 - 1
U256_MAX = 2**256 - 1

ZERO_ADDRESS = bytes(20)

# The same on every chain: x402 `batch-settlement` on EVM.
SETTLEMENT_ADDRESS = bytes.fromhex("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003")
COLLECTOR_ADDRESS = bytes.fromhex("4020806089470a89826cB9fB1f4059150b550004")

# Bounds that the settlement contract enforces on `withdrawDelay`, in seconds.
WITHDRAW_DELAY_MIN = 900
WITHDRAW_DELAY_MAX = 30 * 86_400


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """The immutable terms of a channel; its EIP-712 digest is the channel id (x402 `ChannelConfig`).

    Addresses are 20 bytes, `withdraw_delay` is in seconds (uint40), `salt` is 32 bytes.
    """

    payer: Address
    payer_authorizer: Address
    receiver: Address
    receiver_authorizer: Address
    token: Address
    withdraw_delay: int
    salt: bytes

    def __post_init__(self) -> None:
        for value in (self.payer, self.payer_authorizer, self.receiver, self.receiver_authorizer, self.token):
            if len(value) != 20:
                raise ValueError("an address has 20 bytes")
        if len(self.salt) != 32:
            raise ValueError("a salt has 32 bytes")
        if not 0 <= self.withdraw_delay <= U40_MAX:
            raise ValueError("withdraw_delay is a uint40")


@dataclass(frozen=True, slots=True)
class Network:
    """Where signatures are bound to: the EVM chain id and the settlement contract's address."""

    chain_id: int
    settlement: Address = SETTLEMENT_ADDRESS


@dataclass(frozen=True, slots=True)
class TokenDomain:
    """The token's own EIP-712 domain: address, `name()` and `version()`."""

    address: Address
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Authorization:
    """An ERC-3009 `ReceiveWithAuthorization` for one deposit; its nonce is keccak256(channelId, salt)."""

    valid_after: int  # chain seconds
    valid_before: int  # chain seconds
    salt: int  # uint256
    signature: Signature
