"""Devices as a test moves them: what they would sign and send, right or wrong in any field."""

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import cbor2

from channels.digests import (
    account_id,
    channel_id,
    close_digest,
    deposit_digest,
    open_digest,
    reading_digest,
    voucher_digest,
)
from channels.signatures import key_address, sign
from channels.types import Authorization, ChannelConfig, Network, TokenDomain
from devices.offers import Offer

FOREVER = 2**40
_CBOR_KEYS = {
    "channelId": 1, "accountId": 1, "seq": 2, "register": 3, "time": 4, "offer": 5, "maxClaimableAmount": 6,
    "signature": 7, "readingSignature": 14,
}  # fmt: skip
CLOSE_KEYS = {"channelId", "seq", "signature"}
_NUMBERS = frozenset({"seq", "register", "time", "session"})


def secret(name: str) -> bytes:
    """Return the private key of a role."""
    return sha256(f"metergate gateway test key {name}".encode()).digest()


def _hex(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, dict):
        return {name: _json_value(name, each) for name, each in value.items()}
    return value


def _json_value(name: str, value: Any) -> Any:
    if type(value) is int:
        return value if name in _NUMBERS and value <= 2**53 - 1 else str(value)
    return _hex(value)


def to_json(fields: dict[str, Any]) -> bytes:
    """Write a message in JSON."""
    return json.dumps(_hex(fields), separators=(",", ":")).encode()


def to_cbor(fields: dict[str, Any]) -> bytes:
    """Write a reading in CBOR with integer keys, or an `open` or `close` with string keys."""
    if ("channelId" in fields or "accountId" in fields) and fields.keys() != CLOSE_KEYS:
        return cbor2.dumps({_CBOR_KEYS[name]: value for name, value in fields.items()})
    return cbor2.dumps(fields)


def without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the fields without one."""
    return {key: value for key, value in fields.items() if key != name}


@dataclass
class Payer:
    """A device with one paying channel, and its payer's keys."""

    device: str
    offer: Offer
    service: str = "grid-power"
    payer_key: bytes = b""
    device_key: bytes = b""
    salt: int = 1
    register: int = 0
    seq: int = 0
    exact: int = 0
    settled_elsewhere: int = 0  # offset, as receipts told it
    config: ChannelConfig = field(init=False)
    id: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.payer_key = self.payer_key or secret(f"payer of {self.device}")
        self.device_key = self.device_key or secret(f"device {self.device}")
        self.config = ChannelConfig(
            payer=self.payer,
            payer_authorizer=key_address(self.device_key),
            receiver=self.offer.lanes[self.offer.lane(self.payer)],
            receiver_authorizer=self.offer.receiver_authorizer,
            token=self.offer.asset,
            withdraw_delay=self.offer.withdraw_delay,
            salt=self.salt.to_bytes(32, "big"),
        )
        self.id = channel_id(self.config, self.network)

    @property
    def payer(self) -> bytes:
        """The payer's address."""
        return key_address(self.payer_key)

    @property
    def network(self) -> Network:
        """Where it signs for."""
        return Network(self.offer.chain_id)

    @property
    def price(self) -> int:
        """10⁻⁹ base units per register unit."""
        return self.offer.services[self.service].price

    @property
    def charged(self) -> int:
        """What its own arithmetic says is charged."""
        return self.exact // 10**9

    def authorization(self, amount: int, salt: int = 1, **changed: Any) -> Authorization:
        """The payer's ERC-3009 signature for a deposit."""
        values = {"valid_after": 0, "valid_before": FOREVER, "key": self.payer_key, **changed}
        token = TokenDomain(self.offer.asset, self.offer.asset_name, self.offer.asset_version)
        digest = deposit_digest(
            self.id, self.payer, amount, values["valid_after"], values["valid_before"], salt, token, self.offer.chain_id
        )
        return Authorization(values["valid_after"], values["valid_before"], salt, sign(digest, values["key"]))

    def open(
        self,
        amount: int = 5_000_000,
        *,
        salt: int = 1,
        register: int | None = None,
        authorization: Authorization | None = None,
        binding: bool = False,
        **changed: Any,
    ) -> dict[str, Any]:
        """The fields of `open`; `changed` replaces members of channelConfig."""
        given = authorization or self.authorization(amount, salt)
        config = {
            "payer": self.config.payer,
            "payerAuthorizer": self.config.payer_authorizer,
            "receiver": self.config.receiver,
            "receiverAuthorizer": self.config.receiver_authorizer,
            "token": self.config.token,
            "withdrawDelay": self.config.withdraw_delay,
            "salt": self.config.salt,
        } | changed
        fields: dict[str, Any] = {
            "offer": self.offer.id,
            "channelConfig": config,
            "service": self.service,
            "deposit": {
                "amount": amount,
                "authorization": {
                    "erc3009Authorization": {
                        "validAfter": given.valid_after,
                        "validBefore": given.valid_before,
                        "salt": given.salt.to_bytes(32, "big"),
                        "signature": given.signature,
                    }
                },
            },
        }
        if register is not None:
            fields["register"] = register
        if binding:
            digest = open_digest(self.id, self.offer.gateway, self.device, self.service, register or 0, self.network)
            fields["binding"] = sign(digest, self.device_key)
        return fields

    def usage(
        self,
        units: int = 10,
        *,
        seq: int | None = None,
        register: int | None = None,
        ceiling: int | None = None,
        ahead: int = 0,
        key: bytes | None = None,
        reading_key: bytes | None = None,
        **changed: Any,
    ) -> dict[str, Any]:
        """The next reading's fields, by default with the tight voucher; nothing is remembered: see `took`."""
        seq = self.seq + 1 if seq is None else seq
        register = self.register + units if register is None else register
        if ceiling is None:
            exact = self.exact + max(0, register - self.register) * self.price
            ceiling = exact // 10**9 - self.settled_elsewhere + ahead
        fields: dict[str, Any] = {
            "channelId": self.id,
            "seq": seq,
            "register": register,
            "time": 1_760_000_000_000,
            "offer": self.offer.id,
            "maxClaimableAmount": ceiling,
        } | changed
        digest = voucher_digest(fields["channelId"], fields["maxClaimableAmount"], self.network)
        fields["signature"] = sign(digest, key or self.device_key)
        if reading_key is not None:
            fields["readingSignature"] = sign(_reading(fields, fields["maxClaimableAmount"], self.network), reading_key)
        return fields

    def took(self, fields: dict[str, Any]) -> None:
        """Remember a reading that was accepted."""
        self.seq = fields["seq"]
        self.exact += (fields["register"] - self.register) * self.price
        self.register = fields["register"]

    def next_usage(self, units: int = 10, **changed: Any) -> bytes:
        """The next reading in JSON, taken for accepted."""
        fields = self.usage(units, **changed)
        self.took(fields)
        return to_json(fields)

    def close(
        self, *, seq: int | None = None, device: str | None = None, key: bytes | None = None, **changed: Any
    ) -> dict[str, Any]:
        """The fields of `close`; `device` is the one that the signature names, `changed` replaces fields after it."""
        seq = self.seq + 1 if seq is None else seq
        digest = close_digest(self.id, self.offer.gateway, device or self.device, seq, self.network)
        return {"channelId": self.id, "seq": seq, "signature": sign(digest, key or self.device_key)} | changed


@dataclass
class Earner:
    """A device with one earner account."""

    device: str
    offer: Offer
    service: str = "solar-export"
    payee_key: bytes = b""
    meter_key: bytes = b""
    salt: int = 1
    register: int = 0
    seq: int = 0
    exact: int = 0
    id: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.payee_key = self.payee_key or secret(f"payee of {self.device}")
        self.meter_key = self.meter_key or secret(f"meter {self.device}")
        self.id = account_id(
            self.offer.gateway,
            self.device,
            self.service,
            self.payee,
            key_address(self.meter_key),
            self.salt.to_bytes(32, "big"),
            self.network,
        )

    @property
    def payee(self) -> bytes:
        """The payee's address."""
        return key_address(self.payee_key)

    @property
    def network(self) -> Network:
        """Where it signs for."""
        return Network(self.offer.chain_id)

    @property
    def earned(self) -> int:
        """What its own arithmetic says is earned, gross."""
        return self.exact // 10**9

    def open(self, *, key: bytes | None = None, **changed: Any) -> dict[str, Any]:
        """The fields of the earner form of `open`; `changed` replaces members of `earner`."""
        earner = {
            "payee": self.payee,
            "meterKey": key_address(self.meter_key),
            "salt": self.salt.to_bytes(32, "big"),
            "signature": sign(self.id, key or self.payee_key),
        } | changed
        return {"offer": self.offer.id, "service": self.service, "register": 0, "earner": earner}

    def earn(
        self,
        units: int = 10,
        *,
        seq: int | None = None,
        register: int | None = None,
        key: bytes | None = None,
        **changed: Any,
    ) -> dict[str, Any]:
        """The next reading's fields; nothing is remembered: see `took`."""
        fields: dict[str, Any] = {
            "accountId": self.id,
            "seq": self.seq + 1 if seq is None else seq,
            "register": self.register + units if register is None else register,
            "time": 1_760_000_000_000,
            "offer": self.offer.id,
        } | changed
        fields["readingSignature"] = sign(_reading(fields, 0, self.network), key or self.meter_key)
        return fields

    def took(self, fields: dict[str, Any]) -> None:
        """Remember a reading that was accepted."""
        self.seq = fields["seq"]
        self.exact += (fields["register"] - self.register) * self.offer.services[self.service].price
        self.register = fields["register"]

    def next_earn(self, units: int = 10, **changed: Any) -> bytes:
        """The next reading in JSON, taken for accepted."""
        fields = self.earn(units, **changed)
        self.took(fields)
        return to_json(fields)


def _reading(fields: dict[str, Any], ceiling: int, network: Network) -> bytes:
    identifier = fields.get("channelId") or fields["accountId"]
    return reading_digest(
        identifier, fields["seq"], fields["register"], fields["time"], fields["offer"], ceiling, network
    )
