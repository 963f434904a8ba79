"""What an outsider signs, from docs/protocol.md 1 to 3 alone: EIP-712 by eth-account, hashes by hashlib.

Nothing of this project is imported here: a mistake that both sides share could not show otherwise.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import rfc8785
from eth_abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_account.signers.local import LocalAccount
from eth_utils import keccak, to_checksum_address

SETTLEMENT = "0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003"
COLLECTOR = "0x4020806089470a89826cB9fB1f4059150b550004"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

_CONFIG = (
    "address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,"
    "uint40 withdrawDelay,bytes32 salt"
)
_DEPOSIT = "address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce"
_OPEN = "bytes32 channelId,string gateway,string device,string service,uint64 register"
_EARNER = "string gateway,string device,string service,address payee,address meterKey,bytes32 salt"
_CLOSE = "bytes32 channelId,string gateway,string device,uint64 seq"
_READING = "bytes32 id,uint64 seq,uint64 register,uint64 time,bytes16 offer,uint128 maxClaimableAmount"


def key(*labels: object) -> LocalAccount:
    """Return the same account for the same labels, on every run."""
    return Account.from_key(hashlib.sha256(repr(labels).encode()).digest())


def address(account: LocalAccount) -> bytes:
    """Return the 20 bytes of an account's address."""
    return bytes.fromhex(account.address[2:])


def digest(domain: dict[str, Any], name: str, fields: str, values: dict[str, Any]) -> bytes:
    """Return the EIP-712 digest of one struct; `fields` is written as in Solidity."""
    members = [dict(zip(("type", "name"), field.split(" "), strict=True)) for field in fields.split(",")]
    signable = encode_typed_data(domain, {name: members}, values)
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def sign(account: LocalAccount, what: bytes) -> bytes:
    """Return r, s and v (27 or 28) over a digest."""
    return bytes(account.unsafe_sign_hash(what).signature)


def high_s(signature: bytes) -> bytes:
    """Return the other signature that recovers to the same key: the one that must not be accepted."""
    s = ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


def with_v(signature: bytes, v: int) -> bytes:
    """Return the signature with another last byte."""
    return signature[:64] + bytes([v])


def recover(what: bytes, signature: bytes) -> bytes:
    """Return the address that signed a raw digest."""
    return bytes.fromhex(Account._recover_hash(what, signature=signature)[2:])


@dataclass(frozen=True, slots=True)
class Config:
    """A channel's configuration."""

    payer: bytes
    payerAuthorizer: bytes
    receiver: bytes
    receiverAuthorizer: bytes
    token: bytes
    withdrawDelay: int
    salt: bytes

    def values(self) -> dict[str, Any]:
        """Return the members as the struct has them."""
        return {name: getattr(self, name) for name in self.__slots__}

    def abi(self) -> tuple[Any, ...]:
        """Return the members as web3.py takes them."""
        return tuple(
            to_checksum_address(value) if isinstance(value, bytes) and len(value) == 20 else value
            for value in self.values().values()
        )


@dataclass(frozen=True, slots=True)
class Chain:
    """What a device is provisioned with: the chain and the token with its EIP-712 domain."""

    chain_id: int
    token: bytes
    token_name: str
    token_version: str

    @classmethod
    def of(cls, offer: dict[str, Any]) -> "Chain":
        """Read it from an offer."""
        return cls(
            int(offer["network"].removeprefix("eip155:")),
            bytes.fromhex(offer["asset"][2:]),
            offer["assetName"],
            offer["assetVersion"],
        )

    def _domain(self, name: str, version: str, contract: str) -> dict[str, Any]:
        return {"name": name, "version": version, "chainId": self.chain_id, "verifyingContract": contract}

    def _settlement(self) -> dict[str, Any]:
        return self._domain("x402 Batch Settlement", "1", SETTLEMENT)

    def _metergate(self) -> dict[str, Any]:
        return self._domain("Metergate", "1", SETTLEMENT)

    def channel_id(self, config: Config) -> bytes:
        """Return the id of a channel."""
        return digest(self._settlement(), "ChannelConfig", _CONFIG, config.values())

    def voucher(self, channel: bytes, ceiling: int) -> bytes:
        """Return the digest of a voucher."""
        values = {"channelId": channel, "maxClaimableAmount": ceiling}
        return digest(self._settlement(), "Voucher", "bytes32 channelId,uint128 maxClaimableAmount", values)

    def deposit(self, config: Config, amount: int, valid_after: int, valid_before: int, salt: bytes) -> bytes:
        """Return the digest of the payer's ERC-3009 authorization of a deposit."""
        nonce = keccak(encode(["bytes32", "uint256"], [self.channel_id(config), int.from_bytes(salt, "big")]))
        values = {
            "from": config.payer,
            "to": bytes.fromhex(COLLECTOR[2:]),
            "value": amount,
            "validAfter": valid_after,
            "validBefore": valid_before,
            "nonce": nonce,
        }
        domain = self._domain(self.token_name, self.token_version, to_checksum_address(self.token))
        return digest(domain, "ReceiveWithAuthorization", _DEPOSIT, values)

    def binding(self, channel: bytes, gateway: str, device: str, service: str, register: int) -> bytes:
        """Return the digest by which a payer's authorizer binds a channel to a device."""
        values = {"channelId": channel, "gateway": gateway, "device": device, "service": service, "register": register}
        return digest(self._metergate(), "Open", _OPEN, values)

    def account_id(self, gateway: str, device: str, service: str, payee: bytes, meter: bytes, salt: bytes) -> bytes:
        """Return the id of an earner account, which is what the payee signs."""
        values = {"gateway": gateway, "device": device, "service": service, "payee": payee, "meterKey": meter}
        return digest(self._metergate(), "Earner", _EARNER, {**values, "salt": salt})

    def reading(self, identifier: bytes, seq: int, register: int, time: int, offer: bytes, ceiling: int) -> bytes:
        """Return the digest of a reading's own signature."""
        values = {"id": identifier, "seq": seq, "register": register, "time": time, "offer": offer}
        return digest(self._metergate(), "Reading", _READING, {**values, "maxClaimableAmount": ceiling})

    def closing(self, channel: bytes, gateway: str, device: str, seq: int) -> bytes:
        """Return the digest of a close."""
        values = {"channelId": channel, "gateway": gateway, "device": device, "seq": seq}
        return digest(self._metergate(), "Close", _CLOSE, values)


def offer_hash(offer: dict[str, Any]) -> bytes:
    """Return the hash whose first half is an offer's id and which the receiverAuthorizer signs."""
    body = {name: value for name, value in offer.items() if name not in ("id", "signature")}
    return hashlib.sha256(rfc8785.dumps(body)).digest()


def checked_offer(payload: bytes) -> dict[str, Any]:
    """Return the offer in a retained message. Raises ValueError when id or signature are not right."""
    offer: dict[str, Any] = json.loads(payload)
    whole = offer_hash(offer)
    if offer["id"] != "0x" + whole[:16].hex():
        raise ValueError(f"the offer's id {offer['id']} is not that of its content, 0x{whole[:16].hex()}")
    signature = bytes.fromhex(offer["signature"][2:])
    if signature[64] not in (27, 28) or int.from_bytes(signature[32:64], "big") > ORDER // 2:
        raise ValueError("the offer's signature is not in the form of docs/protocol.md")
    if recover(whole, signature) != bytes.fromhex(offer["receiverAuthorizer"][2:]):
        raise ValueError("the receiverAuthorizer did not sign this offer")
    return offer
