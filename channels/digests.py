"""EIP-712 digests of x402 `batch-settlement`, of ERC-3009 and of Metergate itself (docs/protocol.md 1 and 2).

Every function returns the 32-byte digest that is signed. Domain separators are cached because a gateway uses
a handful of them for its whole life; the caches are bounded.
"""

from collections.abc import Sequence
from functools import lru_cache

from sha3 import keccak_256

from channels.types import (
    COLLECTOR_ADDRESS,
    AccountId,
    Address,
    ChannelConfig,
    ChannelId,
    Digest,
    Network,
    OfferId,
    TokenDomain,
)

METERGATE_DOMAIN = ("Metergate", "1")
SETTLEMENT_DOMAIN = ("x402 Batch Settlement", "1")


def keccak(data: bytes) -> bytes:
    """Return keccak-256 of `data`, 32 bytes."""
    digest: bytes = keccak_256(data).digest()
    return digest


DOMAIN_TYPE = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
CHANNEL_CONFIG_TYPE = keccak(
    b"ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,"
    b"address token,uint40 withdrawDelay,bytes32 salt)"
)
VOUCHER_TYPE = keccak(b"Voucher(bytes32 channelId,uint128 maxClaimableAmount)")
CLAIM_ENTRY_TYPE = keccak(b"ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)")
CLAIM_BATCH_TYPE = keccak(
    b"ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
)
REFUND_TYPE = keccak(b"Refund(bytes32 channelId,uint256 nonce,uint128 amount)")
RECEIVE_AUTHORIZATION_TYPE = keccak(
    b"ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
    b"bytes32 nonce)"
)
OPEN_TYPE = keccak(b"Open(bytes32 channelId,string gateway,string device,string service,uint64 register)")
READING_TYPE = keccak(
    b"Reading(bytes32 id,uint64 seq,uint64 register,uint64 time,bytes16 offer,uint128 maxClaimableAmount)"
)
CLOSE_TYPE = keccak(b"Close(bytes32 channelId,string gateway,string device,uint64 seq)")
EARNER_TYPE = keccak(b"Earner(string gateway,string device,string service,address payee,address meterKey,bytes32 salt)")


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _address(value: Address) -> bytes:
    return value.rjust(32, b"\0")


def _text(value: str) -> bytes:
    return keccak(value.encode())


@lru_cache(maxsize=64)  # a gateway speaks for one chain and one token; tests use some dozens
def domain_separator(name: str, version: str, chain_id: int, contract: Address) -> Digest:
    """Return the EIP-712 domain separator of (name, version, chainId, verifyingContract)."""
    return keccak(DOMAIN_TYPE + _text(name) + _text(version) + _word(chain_id) + _address(contract))


def _typed(separator: Digest, struct_hash: bytes) -> Digest:
    return keccak(b"\x19\x01" + separator + struct_hash)


def settlement_separator(network: Network) -> Digest:
    """Return the settlement contract's domain separator."""
    return domain_separator(*SETTLEMENT_DOMAIN, network.chain_id, network.settlement)


def metergate_separator(network: Network) -> Digest:
    """Return the separator of Metergate's own messages, bound to the same chain and contract."""
    return domain_separator(*METERGATE_DOMAIN, network.chain_id, network.settlement)


def channel_id(config: ChannelConfig, network: Network) -> ChannelId:
    """Return the channel id: the full EIP-712 digest of its configuration."""
    struct = keccak(
        CHANNEL_CONFIG_TYPE
        + _address(config.payer)
        + _address(config.payer_authorizer)
        + _address(config.receiver)
        + _address(config.receiver_authorizer)
        + _address(config.token)
        + _word(config.withdraw_delay)
        + config.salt
    )
    return _typed(settlement_separator(network), struct)


def voucher_digest(channel: ChannelId, max_claimable: int, network: Network) -> Digest:
    """Return the digest of `Voucher(channelId, maxClaimableAmount)`; the amount is in token base units."""
    return _typed(settlement_separator(network), keccak(VOUCHER_TYPE + channel + _word(max_claimable)))


def claim_batch_digest(rows: Sequence[tuple[ChannelId, int, int]], network: Network) -> Digest:
    """Return the digest of `ClaimBatch`; a row is (channelId, maxClaimableAmount, totalClaimed)."""
    entries = b"".join(
        keccak(CLAIM_ENTRY_TYPE + channel + _word(ceiling) + _word(claimed)) for channel, ceiling, claimed in rows
    )
    return _typed(settlement_separator(network), keccak(CLAIM_BATCH_TYPE + keccak(entries)))


def refund_digest(channel: ChannelId, nonce: int, amount: int, network: Network) -> Digest:
    """Return the digest of `Refund(channelId, nonce, amount)`."""
    return _typed(settlement_separator(network), keccak(REFUND_TYPE + channel + _word(nonce) + _word(amount)))


def deposit_nonce(channel: ChannelId, salt: int) -> bytes:
    """Return the ERC-3009 nonce of a deposit: keccak256(abi.encode(channelId, salt))."""
    return keccak(channel + _word(salt))


def deposit_digest(
    channel: ChannelId,
    payer: Address,
    amount: int,
    valid_after: int,
    valid_before: int,
    salt: int,
    token: TokenDomain,
    chain_id: int,
) -> Digest:
    """Return the digest of the `ReceiveWithAuthorization` that pays `amount` into the channel.

    `to` is the deposit collector; times are chain seconds.
    """
    struct = keccak(
        RECEIVE_AUTHORIZATION_TYPE
        + _address(payer)
        + _address(COLLECTOR_ADDRESS)
        + _word(amount)
        + _word(valid_after)
        + _word(valid_before)
        + deposit_nonce(channel, salt)
    )
    return _typed(domain_separator(token.name, token.version, chain_id, token.address), struct)


def open_digest(channel: ChannelId, gateway: str, device: str, service: str, register: int, network: Network) -> Digest:
    """Return the digest of `Open`, which binds a channel to a device, a service and a first register."""
    struct = keccak(OPEN_TYPE + channel + _text(gateway) + _text(device) + _text(service) + _word(register))
    return _typed(metergate_separator(network), struct)


def close_digest(channel: ChannelId, gateway: str, device: str, seq: int, network: Network) -> Digest:
    """Return the digest of `Close`, by which a device asks for the final claim and the refund of the rest."""
    struct = keccak(CLOSE_TYPE + channel + _text(gateway) + _text(device) + _word(seq))
    return _typed(metergate_separator(network), struct)


def reading_digest(
    identifier: bytes,
    seq: int,
    register: int,
    time: int,
    offer: OfferId,
    max_claimable: int,
    network: Network,
) -> Digest:
    """Return the digest of `Reading`; `identifier` is a channel id or an account id, `time` is Unix ms."""
    struct = keccak(
        READING_TYPE
        + identifier
        + _word(seq)
        + _word(register)
        + _word(time)
        + offer.ljust(32, b"\0")
        + _word(max_claimable)
    )
    return _typed(metergate_separator(network), struct)


def account_id(
    gateway: str, device: str, service: str, payee: Address, meter_key: Address, salt: bytes, network: Network
) -> AccountId:
    """Return the earner account's id, which is also the digest that its payee signs."""
    struct = keccak(
        EARNER_TYPE + _text(gateway) + _text(device) + _text(service) + _address(payee) + _address(meter_key) + salt
    )
    return _typed(metergate_separator(network), struct)
