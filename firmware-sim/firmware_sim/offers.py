"""Offers: the gateway's signed terms. Parsing, the id, and the proof of who made them (docs/protocol.md 3)."""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

from firmware_sim.canonical import canonical, parse
from firmware_sim.keys import recover

# An offer holds a few services and lanes; more than this is not an offer of ours, and a device has little memory.
OFFER_BYTES_MAX = 16 * 1024

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,38}")
_HEX = re.compile(r"0x[0-9a-fA-F]*")
_NETWORK = re.compile(r"eip155:(0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Terms:
    """One service: price in 10⁻⁹ token base units per register unit; max_step in register units (0: no limit)."""

    unit: str
    price: int
    earns: bool
    max_step: int


@dataclass(frozen=True, slots=True)
class Offer:
    """A verified offer. Times in chain seconds, amounts in token base units, lanes as 20-byte addresses."""

    serial: int
    id: bytes
    gateway: str
    network: str
    chain_id: int
    asset: bytes
    asset_name: str
    asset_version: str
    lanes: tuple[bytes, ...]
    authorizer: bytes
    withdraw_delay: int
    min_deposit: int
    max_ahead: int
    grace: int
    services: dict[str, Terms]
    valid_from: int
    valid_until: int

    def lane_of(self, payer: bytes) -> bytes:
        """The receiver of channels of `payer`: lanes[uint256(payer) mod len(lanes)]."""
        return self.lanes[int.from_bytes(payer, "big") % len(self.lanes)]


def offer_hash(document: dict[str, object]) -> bytes:
    """SHA-256 of the canonical JSON of an offer without id and signature; its first 16 bytes are the id."""
    body = {key: value for key, value in document.items() if key not in ("id", "signature")}
    return hashlib.sha256(canonical(body)).digest()


def _text(document: dict[str, object], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise ValueError(f"offer: {key} must be a string")
    return value


def _count(document: dict[str, object], key: str) -> int:
    value = document.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"offer: {key} must be a non-negative integer")
    return value


def _amount(document: dict[str, object], key: str, bits: int = 128) -> int:
    value = document.get(key)
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value) or int(value) >> bits:
        raise ValueError(f"offer: {key} must be a decimal string below 2^{bits}")
    return int(value)


def _bytes(document: dict[str, object], key: str, size: int) -> bytes:
    value = _text(document, key)
    if not _HEX.fullmatch(value) or len(value) != 2 + 2 * size:
        raise ValueError(f"offer: {key} must be {size} bytes of 0x-hex")
    return bytes.fromhex(value[2:])


def _terms(document: dict[str, object]) -> dict[str, Terms]:
    services = document.get("services")
    if not isinstance(services, dict):
        raise ValueError("offer: services must be an object")
    result = {}
    for name, entry in services.items():
        if not isinstance(entry, dict) or entry.get("direction", "pay") not in ("pay", "earn"):
            raise ValueError(f"offer: service {name[:64]!r} is malformed")
        max_step = _amount(entry, "maxStep", 64) if "maxStep" in entry else 0
        result[name] = Terms(
            _text(entry, "unit"), _amount(entry, "price", 64), entry.get("direction") == "earn", max_step
        )
    return result


@lru_cache(maxsize=32)
def read_offer(payload: bytes) -> Offer:
    """Parse an offer and prove that its receiverAuthorizer signed it; ValueError says what is wrong.

    Cached because a fleet in one process gets the same retained bytes once per device.
    """
    if len(payload) > OFFER_BYTES_MAX:
        raise ValueError(f"offer: longer than {OFFER_BYTES_MAX} bytes")
    document = parse(payload)
    if not isinstance(document, dict) or document.get("version") != 1:
        raise ValueError("offer: not a version 1 offer")
    network = _text(document, "network")
    chain = _NETWORK.fullmatch(network)
    lanes = document.get("lanes")
    if chain is None or not isinstance(lanes, list) or not lanes:
        raise ValueError("offer: network or lanes malformed")
    try:
        digest = offer_hash(document)
    except RecursionError:
        raise ValueError("offer: nested too deep") from None
    if _bytes(document, "id", 16) != digest[:16]:
        raise ValueError("offer: the id is not the hash of the content")
    authorizer = _bytes(document, "receiverAuthorizer", 20)
    if recover(digest, _bytes(document, "signature", 65)) != authorizer:
        raise ValueError("offer: not signed by its receiverAuthorizer")
    return Offer(
        serial=_count(document, "serial"),
        id=digest[:16],
        gateway=_text(document, "gateway"),
        network=network,
        chain_id=int(chain[1]),
        asset=_bytes(document, "asset", 20),
        asset_name=_text(document, "assetName"),
        asset_version=_text(document, "assetVersion"),
        lanes=tuple(_lane(lane) for lane in lanes),
        authorizer=authorizer,
        withdraw_delay=_count(document, "withdrawDelay"),
        min_deposit=_amount(document, "minDeposit"),
        max_ahead=_amount(document, "maxAhead"),
        grace=_count(document, "grace"),
        services=_terms(document),
        valid_from=_count(document, "validFrom"),
        valid_until=_count(document, "validUntil"),
    )


def _lane(entry: object) -> bytes:
    if not isinstance(entry, dict):
        raise ValueError("offer: a lane must be an object")
    return _bytes(entry, "payTo", 20)
