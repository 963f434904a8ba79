"""EIP-712 digests that a device signs or checks: channel, voucher, reading, open, earner, ERC-3009 transfer.

Own code by intent: the gateway has another implementation, and golden vectors hold the two together.
Addresses are 20 bytes, ids and salts 32, offer ids 16; amounts, registers and times are integers.
"""

from dataclasses import dataclass
from functools import lru_cache

from firmware_sim.keys import keccak

SETTLEMENT = bytes.fromhex("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003")
COLLECTOR = bytes.fromhex("4020806089470a89826cB9fB1f4059150b550004")

_DOMAIN = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_CHANNEL = keccak(
    b"ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,"
    b"address token,uint40 withdrawDelay,bytes32 salt)"
)
_VOUCHER = keccak(b"Voucher(bytes32 channelId,uint128 maxClaimableAmount)")
_READING = keccak(
    b"Reading(bytes32 id,uint64 seq,uint64 register,uint64 time,bytes16 offer,uint128 maxClaimableAmount)"
)
_OPEN = keccak(b"Open(bytes32 channelId,string gateway,string device,string service,uint64 register)")
_CLOSE = keccak(b"Close(bytes32 channelId,string gateway,string device,uint64 seq)")
_EARNER = keccak(b"Earner(string gateway,string device,string service,address payee,address meterKey,bytes32 salt)")
_RECEIVE = keccak(
    b"ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
    b"uint256 validBefore,bytes32 nonce)"
)


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """The seven fields that name a payment channel (docs/protocol.md 1); withdraw_delay in seconds."""

    payer: bytes
    payer_authorizer: bytes
    receiver: bytes
    receiver_authorizer: bytes
    token: bytes
    withdraw_delay: int
    salt: bytes


def _word(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _address(address: bytes) -> bytes:
    return address.rjust(32, b"\0")


@lru_cache(maxsize=64)
def domain_separator(name: str, version: str, chain_id: int, contract: bytes) -> bytes:
    """EIP-712 domain separator, 32 bytes. A fleet sees few domains: three per gateway."""
    return keccak(_DOMAIN + keccak(name.encode()) + keccak(version.encode()) + _word(chain_id) + _address(contract))


def settlement_domain(chain_id: int) -> bytes:
    """Domain of channels and vouchers."""
    return domain_separator("x402 Batch Settlement", "1", chain_id, SETTLEMENT)


def metergate_domain(chain_id: int) -> bytes:
    """Domain of readings, openings and earner accounts."""
    return domain_separator("Metergate", "1", chain_id, SETTLEMENT)


def typed(domain: bytes, struct_hash: bytes) -> bytes:
    """EIP-712 digest of a struct hash under a domain separator."""
    return keccak(b"\x19\x01" + domain + struct_hash)


def channel_id(chain_id: int, config: ChannelConfig) -> bytes:
    """The channel's id: the full EIP-712 digest of its configuration."""
    return typed(
        settlement_domain(chain_id),
        keccak(
            _CHANNEL
            + _address(config.payer)
            + _address(config.payer_authorizer)
            + _address(config.receiver)
            + _address(config.receiver_authorizer)
            + _address(config.token)
            + _word(config.withdraw_delay)
            + config.salt
        ),
    )


def voucher_digest(chain_id: int, channel: bytes, ceiling: int) -> bytes:
    """Digest of a voucher for the cumulative `ceiling` in token base units."""
    return typed(settlement_domain(chain_id), keccak(_VOUCHER + channel + _word(ceiling)))


def reading_digest(
    chain_id: int, id_: bytes, seq: int, register: int, time_ms: int, offer: bytes, ceiling: int
) -> bytes:
    """Digest of a reading; `ceiling` is 0 when earning."""
    return typed(
        metergate_domain(chain_id),
        keccak(
            _READING + id_ + _word(seq) + _word(register) + _word(time_ms) + offer.ljust(32, b"\0") + _word(ceiling)
        ),
    )


def open_digest(chain_id: int, channel: bytes, gateway: str, device: str, service: str, register: int) -> bytes:
    """Digest that binds a channel to one device and service from `register` on."""
    return typed(
        metergate_domain(chain_id),
        keccak(
            _OPEN
            + channel
            + keccak(gateway.encode())
            + keccak(device.encode())
            + keccak(service.encode())
            + _word(register)
        ),
    )


def close_digest(chain_id: int, channel: bytes, gateway: str, device: str, seq: int) -> bytes:
    """Digest by which a device asks for the final claim and the refund of the rest."""
    return typed(
        metergate_domain(chain_id),
        keccak(_CLOSE + channel + keccak(gateway.encode()) + keccak(device.encode()) + _word(seq)),
    )


def earner_digest(
    chain_id: int, gateway: str, device: str, service: str, payee: bytes, meter_key: bytes, salt: bytes
) -> bytes:
    """Digest that the payee signs; it is also the account's id."""
    return typed(
        metergate_domain(chain_id),
        keccak(
            _EARNER
            + keccak(gateway.encode())
            + keccak(device.encode())
            + keccak(service.encode())
            + _address(payee)
            + _address(meter_key)
            + salt
        ),
    )


def deposit_nonce(channel: bytes, salt: bytes) -> bytes:
    """ERC-3009 nonce of a deposit into `channel`: keccak256(abi.encode(channelId, salt))."""
    return keccak(channel + salt)


def receive_digest(
    chain_id: int,
    token: tuple[bytes, str, str],
    payer: bytes,
    amount: int,
    valid_after: int,
    valid_before: int,
    nonce: bytes,
    collector: bytes = COLLECTOR,
) -> bytes:
    """ERC-3009 ReceiveWithAuthorization digest; `token` = (address, EIP-712 name, EIP-712 version), times in s."""
    address, name, version = token
    return typed(
        domain_separator(name, version, chain_id, address),
        keccak(
            _RECEIVE
            + _address(payer)
            + _address(collector)
            + _word(amount)
            + _word(valid_after)
            + _word(valid_before)
            + nonce
        ),
    )
