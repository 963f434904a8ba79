"""Messages of docs/protocol.md 3 as an outsider writes and reads them, in JSON and in CBOR.

Receipts are read strictly: a key, a type or a form that the document does not have is an error.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import cbor2

STATUS = {0: "accepted", 1: "duplicate", 2: "refused"}
REASONS = {
    1: "too_large", 2: "malformed", 3: "unknown_channel", 4: "wrong_device", 5: "bad_signature", 6: "seq_conflict",
    7: "seq_old", 8: "seq_jump", 9: "not_open", 10: "offer_unknown", 11: "offer_expired", 12: "offer_regressed",
    13: "register_lower", 14: "register_jump", 15: "overflow", 16: "ceiling_too_low", 17: "ceiling_above_balance",
    18: "ceiling_too_far", 19: "chain_stale", 20: "deposit_pending", 21: "deposit_invalid", 22: "config_mismatch",
    23: "service_unknown", 24: "deposit_too_small", 25: "not_enrolled", 26: "busy", 28: "channel_taken",
}  # fmt: skip
KEYS = {
    1: "id", 2: "seq", 3: "register", 4: "time", 5: "offer", 6: "maxClaimableAmount", 7: "signature", 8: "status",
    9: "reason", 10: "cumulative", 11: "balance", 12: "requiredCeiling", 13: "commit", 14: "readingSignature",
    15: "answers", 16: "lastSeq", 17: "lastRegister", 18: "lastRemainder", 19: "lastOffer", 20: "offset",
    21: "refunded",
}  # fmt: skip
NUMBER_OF = {name: number for number, name in KEYS.items()}
_BYTES = {"id": 32, "signature": 65, "answers": 8, "lastOffer": 16}
_AMOUNTS = {"maxClaimableAmount", "cumulative", "balance", "requiredCeiling", "lastRemainder", "offset", "refunded"}
_NUMBERS = {"seq", "commit", "lastSeq", "lastRegister"}
_JSON_NAMES = {
    "channelId": "id", "accountId": "id",
    "chargedCumulativeAmount": "cumulative", "earnedCumulativeAmount": "cumulative",
}  # fmt: skip
NUMBER_MAX = 2**53 - 1


class NotAsDocumented(AssertionError):
    """A receipt is not what docs/protocol.md says."""


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise NotAsDocumented(what)


def json_reading(leaf: str, fields: dict[str, Any]) -> bytes:
    """Write `usage` or `earn`: bytes as hex, amounts and what is above 2⁵³−1 as decimal strings."""
    names = {"id": "channelId" if leaf == "usage" else "accountId"}
    return json.dumps({names.get(name, name): _json_value(name, value) for name, value in fields.items()}).encode()


def _json_value(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    return str(value) if name == "maxClaimableAmount" or value > NUMBER_MAX else value


def cbor_reading(fields: dict[str, Any]) -> bytes:
    """Write `usage` or `earn` with the integer keys of the table."""
    return cbor2.dumps({NUMBER_OF[name]: value for name, value in fields.items()})


def plain(value: Any) -> Any:
    """Return the JSON form of an `open`: bytes as hex, every integer but the delay as a decimal string."""
    if isinstance(value, dict):
        return {
            name: member if name == "withdrawDelay" and isinstance(member, int) else plain(member)
            for name, member in value.items()
        }
    if isinstance(value, bytes):
        return "0x" + value.hex()
    return str(value) if isinstance(value, int) else value


def read_receipt(payload: bytes) -> dict[str, Any]:
    """Return a receipt with bytes and integers, and under `encoding` how it was written.

    The ids and cumulative amounts of channels and accounts are called `id` and `cumulative`; in JSON their own
    names are kept in `names`.
    """
    return _read_json(payload) if payload[:1] == b"{" else _read_cbor(payload)


def _read_json(payload: bytes) -> dict[str, Any]:
    pairs = json.loads(payload, object_pairs_hook=list)
    names = [name for name, _ in pairs]
    _must(len(set(names)) == len(names), f"a JSON receipt repeats a key: {names}")
    receipt: dict[str, Any] = {"encoding": "json", "names": set(names) & set(_JSON_NAMES)}
    for written, value in pairs:
        name = _JSON_NAMES.get(written, written)
        if name in _BYTES:
            _must(isinstance(value, str) and re.fullmatch(r"0x[0-9a-f]*", value) is not None, f"{written}: {value!r}")
            receipt[name] = bytes.fromhex(value[2:])
            _must(len(receipt[name]) == _BYTES[name], f"{written} has {len(receipt[name])} bytes")
        elif name in _AMOUNTS:
            _must(isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]*", value) is not None, f"{written}: {value!r}")
            receipt[name] = int(value)
        elif name in _NUMBERS:
            _must(type(value) in (int, str), f"{written}: {value!r}")
            receipt[name] = int(value)
            _must((type(value) is int) == (receipt[name] <= NUMBER_MAX), f"{written}: {value!r}")
        elif name == "status":
            _must(value in STATUS.values(), f"status {value!r}")
            receipt[name] = value
        elif name == "reason":
            _must(value in REASONS.values(), f"reason {value!r}")
            receipt[name] = value
        else:
            raise NotAsDocumented(f"a JSON receipt with the key {written!r}")
    return receipt


def _read_cbor(payload: bytes) -> dict[str, Any]:
    items = list(_top_level(payload))
    numbers = [number for number, _ in items]
    _must(len(set(numbers)) == len(numbers), f"a CBOR receipt repeats a key: {numbers}")
    receipt: dict[str, Any] = {"encoding": "cbor", "names": set()}
    for number, value in items:
        _must(type(number) is int and number in KEYS, f"a CBOR receipt with the key {number!r}")
        name = KEYS[number]
        if name in _BYTES:
            _must(type(value) is bytes and len(value) == _BYTES[name], f"key {number}: {value!r}")
            receipt[name] = value
        elif name == "status":
            receipt[name] = STATUS[value]
        elif name == "reason":
            receipt[name] = REASONS[value]
        else:
            _must(name in _AMOUNTS | _NUMBERS and type(value) is int and value >= 0, f"key {number}: {value!r}")
            receipt[name] = value
    return receipt


def _top_level(payload: bytes) -> Iterator[tuple[Any, Any]]:
    """Walk a map by hand: only definite lengths, and tag 2 for integers of 2⁶⁴ and above."""
    major, count, at = _head(payload, 0)
    _must(major == 5, "a CBOR receipt is not a map")
    for _ in range(count):
        name, at = _item(payload, at)
        value, at = _item(payload, at)
        yield name, value
    _must(at == len(payload), "bytes follow a CBOR receipt")


def _head(payload: bytes, at: int) -> tuple[int, int, int]:
    major, low = payload[at] >> 5, payload[at] & 31
    if low < 24:
        return major, low, at + 1
    _must(low < 28, f"an indefinite or reserved length at {at}")
    size = 1 << low - 24
    return major, int.from_bytes(payload[at + 1 : at + 1 + size], "big"), at + 1 + size


def _item(payload: bytes, at: int) -> tuple[Any, int]:
    major, value, at = _head(payload, at)
    if major == 0:
        return value, at
    if major == 6:
        _must(value == 2, f"tag {value}")
        content, at = _item(payload, at)
        _must(type(content) is bytes and len(content) > 8 and content[0] > 0, f"tag 2 over {content!r}")
        return int.from_bytes(content, "big"), at
    _must(major == 2, f"a CBOR item of major type {major} in a receipt")
    return payload[at : at + value], at + value
