"""Offers: the signed, retained terms of a gateway (docs/protocol.md 3).

An offer's id and signature cover every key of its JSON, unknown ones included, so parsing keeps the hash of what
was read rather than of what was understood.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import rfc8785

from channels.signatures import key_address, recover, sign
from channels.types import (
    U64_MAX,
    U128_MAX,
    WITHDRAW_DELAY_MAX,
    WITHDRAW_DELAY_MIN,
    ZERO_ADDRESS,
    Address,
    OfferId,
    Signature,
)
from devices.messages import TEXT_MAX
from devices.topics import is_id

VERSION = 1
PAY = "pay"
EARN = "earn"

# Generous for 256 services and 64 lanes; a device that cannot hold so much need not: it reads its own service.
OFFER_MAX = 65_536
SERVICES_MAX = 256
LANES_MAX = 64
# Also the greatest `serial` and time: JSON numbers that every reader holds exactly.
NUMBER_MAX = 2**53 - 1

_CHAIN_PREFIX = "eip155:"


class OfferInvalid(Exception):
    """An offer that is not one; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is metered, and for how much."""

    unit: str  # never changes for a service
    price: int  # 10⁻⁹ token base units per register unit, < 2⁶⁴
    max_step: int  # register units that one reading may add
    direction: str = PAY  # or EARN: the gateway pays


@dataclass(frozen=True, slots=True)
class OfferTerms:
    """All that a gateway says in an offer. Amounts are base units, times chain seconds."""

    serial: int  # only rises
    gateway: str
    chain_id: int
    asset: Address
    asset_name: str  # the token's EIP-712 domain
    asset_version: str
    lanes: tuple[Address, ...]  # receiver keys
    receiver_authorizer: Address
    withdraw_delay: int  # seconds
    min_deposit: int
    max_ahead: int
    grace: int  # seconds
    services: Mapping[str, Service]
    valid_from: int
    valid_until: int

    @property
    def network(self) -> str:
        """The CAIP-2 name of the chain."""
        return f"{_CHAIN_PREFIX}{self.chain_id}"

    def lane(self, payer: Address) -> int:
        """Return the index of the lane that this payer's channels belong to."""
        return int.from_bytes(payer, "big") % len(self.lanes)


@dataclass(frozen=True, slots=True)
class Offer(OfferTerms):
    """A signed offer and the payload in which it is retained."""

    id: OfferId
    digest: bytes  # SHA-256 of the canonical JSON without id and signature, 32 bytes
    signature: Signature  # receiverAuthorizer's, over `digest`
    payload: bytes


def _members(terms: OfferTerms) -> dict[str, Any]:
    return {
        "version": VERSION,
        "serial": terms.serial,
        "gateway": terms.gateway,
        "network": terms.network,
        "asset": "0x" + terms.asset.hex(),
        "assetName": terms.asset_name,
        "assetVersion": terms.asset_version,
        "lanes": [{"payTo": "0x" + lane.hex()} for lane in terms.lanes],
        "receiverAuthorizer": "0x" + terms.receiver_authorizer.hex(),
        "withdrawDelay": terms.withdraw_delay,
        "minDeposit": str(terms.min_deposit),
        "maxAhead": str(terms.max_ahead),
        "grace": terms.grace,
        "services": {
            name: {
                "unit": service.unit,
                "price": str(service.price),
                "direction": service.direction,
                "maxStep": str(service.max_step),
            }
            for name, service in terms.services.items()
        },
        "validFrom": terms.valid_from,
        "validUntil": terms.valid_until,
    }


def offer_digest(members: Mapping[str, Any]) -> bytes:
    """Return SHA-256 over the RFC 8785 form of an offer's JSON without `id` and `signature`, 32 bytes.

    Raises OfferInvalid for values that RFC 8785 cannot write (integers beyond 2⁵³−1, NaN).
    """
    unsigned = {name: value for name, value in members.items() if name not in ("id", "signature")}
    try:
        return sha256(rfc8785.dumps(unsigned)).digest()
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise OfferInvalid(f"it has no canonical JSON: {error}") from error


def sign_offer(terms: OfferTerms, private_key: bytes) -> Offer:
    """Sign terms with the 32-byte key of their receiverAuthorizer. Raises OfferInvalid for bad terms or key."""
    if key_address(private_key) != terms.receiver_authorizer:
        raise OfferInvalid("the signing key is not that of receiverAuthorizer")
    members = _members(terms)
    digest = offer_digest(members)
    members["id"] = "0x" + digest[:16].hex()
    members["signature"] = "0x" + sign(digest, private_key).hex()
    # What is published went through the same checks as what is read: a gateway cannot publish what no device
    # would take.
    return parse_offer(json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode())


def parse_offer(payload: bytes) -> Offer:
    """Read and verify a retained offer. Raises OfferInvalid, which says what is wrong."""
    if len(payload) > OFFER_MAX:
        raise OfferInvalid(f"it is larger than {OFFER_MAX} bytes")
    try:
        members = json.loads(payload.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise OfferInvalid(f"it is not JSON: {error}") from error
    if not isinstance(members, dict):
        raise OfferInvalid("it is not a JSON object")
    reader = _Reader(members)
    if reader.number("version") != VERSION:
        raise OfferInvalid(f"version: expected {VERSION}")
    chain = reader.text("network")
    digest = offer_digest(members)
    offer = Offer(
        serial=reader.number("serial"),
        gateway=reader.text("gateway"),
        chain_id=_chain_id(chain),
        asset=reader.hex("asset", 20),
        asset_name=reader.text("assetName"),
        asset_version=reader.text("assetVersion"),
        lanes=tuple(_Reader(lane, "lanes").hex("payTo", 20) for lane in reader.list("lanes")),
        receiver_authorizer=reader.hex("receiverAuthorizer", 20),
        withdraw_delay=reader.number("withdrawDelay"),
        min_deposit=reader.amount("minDeposit", U128_MAX),
        max_ahead=reader.amount("maxAhead", U128_MAX),
        grace=reader.number("grace"),
        services={name: _service(name, value) for name, value in reader.map("services").items()},
        valid_from=reader.number("validFrom"),
        valid_until=reader.number("validUntil"),
        id=reader.hex("id", 16),
        digest=digest,
        signature=reader.hex("signature", 65),
        payload=payload,
    )
    _check(offer)
    return offer


def _check(offer: Offer) -> None:
    problems = (
        (not is_id(offer.gateway), "gateway: expected 1 to 64 of A-Z a-z 0-9 _ -"),
        (not 1 <= len(offer.lanes) <= LANES_MAX, f"lanes: expected 1 to {LANES_MAX}"),
        (len(set(offer.lanes)) != len(offer.lanes), "lanes: one is listed twice"),
        (ZERO_ADDRESS in (*offer.lanes, offer.asset, offer.receiver_authorizer), "an address is zero"),
        (
            not WITHDRAW_DELAY_MIN <= offer.withdraw_delay <= WITHDRAW_DELAY_MAX,
            f"withdrawDelay: expected {WITHDRAW_DELAY_MIN} to {WITHDRAW_DELAY_MAX}",
        ),
        (offer.min_deposit == 0, "minDeposit: expected more than 0"),
        (not 1 <= len(offer.services) <= SERVICES_MAX, f"services: expected 1 to {SERVICES_MAX}"),
        (offer.valid_from >= offer.valid_until, "validUntil: expected a time after validFrom"),
        (offer.id != offer.digest[:16], "id: it is not the hash of the content"),
        (
            recover(offer.digest, offer.signature) != offer.receiver_authorizer,
            "signature: it is not receiverAuthorizer's",
        ),
    )
    for wrong, text in problems:
        if wrong:
            raise OfferInvalid(text)


def _service(name: str, value: object) -> Service:
    if not 0 < len(name.encode(errors="replace")) <= TEXT_MAX:
        raise OfferInvalid(f"services: a name has 1 to {TEXT_MAX} bytes")
    reader = _Reader(value, f"services.{name}")
    direction = reader.text("direction") if "direction" in reader.members else PAY
    if direction not in (PAY, EARN):
        raise OfferInvalid(f"services.{name}.direction: expected pay or earn")
    return Service(
        unit=reader.text("unit"),
        price=reader.amount("price", U64_MAX),
        max_step=reader.amount("maxStep", U64_MAX),
        direction=direction,
    )


def _chain_id(network: str) -> int:
    number = network.removeprefix(_CHAIN_PREFIX)
    if number == network or not _is_decimal(number, U64_MAX) or number == "0":
        raise OfferInvalid("network: expected eip155: and a chain id")
    return int(number)


def _is_decimal(text: str, limit: int) -> bool:
    return (
        text.isascii()
        and text.isdigit()
        and len(text) <= len(str(limit))
        and (text[0] != "0" or text == "0")
        and int(text) <= limit
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key appears twice")
    return members


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


class _Reader:
    """Typed access to a JSON object; every complaint names the key."""

    __slots__ = ("members", "path")

    def __init__(self, members: object, path: str = "") -> None:
        if not isinstance(members, dict):
            raise OfferInvalid(f"{path}: expected an object")
        self.members = members
        self.path = f"{path}." if path else ""

    def _get(self, name: str, kind: type, check: Callable[[Any], bool], expected: str) -> Any:
        value = self.members.get(name)
        if type(value) is not kind or not check(value):
            raise OfferInvalid(f"{self.path}{name}: expected {expected}")
        return value

    def number(self, name: str) -> int:
        value: int = self._get(name, int, lambda v: 0 <= v <= NUMBER_MAX, "a number from 0 to 2**53-1")
        return value

    def amount(self, name: str, limit: int) -> int:
        text = self._get(name, str, lambda v: _is_decimal(v, limit), f"a decimal string up to {limit}")
        return int(text)

    def text(self, name: str) -> str:
        expected = f"text of 1 to {TEXT_MAX} bytes"
        value: str = self._get(name, str, lambda v: 0 < len(v.encode(errors="replace")) <= TEXT_MAX, expected)
        return value

    def hex(self, name: str, size: int) -> bytes:
        expected = f"0x and {2 * size} hex digits"
        text: str = self._get(name, str, lambda v: len(v) == 2 + 2 * size and v[:2] == "0x", expected)
        try:
            value = bytes.fromhex(text[2:])
        except ValueError:
            value = b""
        if len(value) != size:
            raise OfferInvalid(f"{self.path}{name}: expected {expected}")
        return value

    def list(self, name: str) -> list[Any]:
        value: list[Any] = self._get(name, list, lambda v: True, "a list")
        return value

    def map(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = self._get(name, dict, lambda v: True, "an object")
        return value
