"""CBOR payloads, strictly typed and bounded (docs/protocol.md 3).

Readings use the integer keys of the table; `open`, `close` and `state` the string keys of their JSON form. cbor2
parses; what it would tolerate (trailing bytes, tags, keys that are equal only in Python) is refused here.
"""

from binascii import unhexlify
from collections.abc import Callable, Mapping
from typing import Any

import cbor2

from channels.types import U40_MAX, U64_MAX, U128_MAX, U256_MAX, Authorization, ChannelConfig
from devices.messages import (
    DEPTH_MAX,
    Close,
    Earn,
    Encoding,
    Message,
    Open,
    OpenEarner,
    State,
    Usage,
    checked_text,
)

ID, SEQ, REGISTER, TIME, OFFER, CEILING, SIGNATURE = 1, 2, 3, 4, 5, 6, 7
STATUS, REASON, CUMULATIVE, BALANCE, REQUIRED_CEILING, COMMIT = 8, 9, 10, 11, 12, 13
READING_SIGNATURE, ANSWERS = 14, 15
LAST_SEQ, LAST_REGISTER, LAST_REMAINDER, LAST_OFFER, OFFSET = 16, 17, 18, 19, 20
REFUNDED = 21

_BIGNUM = 2
_KEY_TYPES = frozenset({int, str})


def _bignum(value: object, _immutable: bool) -> int:
    """Read tag 2: an integer of 2⁶⁴ or more, without leading zeros."""
    if type(value) is not bytes or len(value) < 9 or value[0] == 0:
        raise ValueError("tag 2 is for integers of 2**64 and above, without leading zeros")
    return int.from_bytes(value, "big")


def _no_tag(_value: object, _immutable: bool) -> object:
    raise ValueError("tags other than 2 are not part of the protocol")


def _checked_map(value: Mapping[Any, Any], _immutable: bool) -> Mapping[Any, Any]:
    """Refuse keys that are neither integers nor text: 1.0 or true would pass for 1."""
    if not _KEY_TYPES.issuperset(map(type, value)):
        raise ValueError("a key that is neither integer nor text")
    return value


class _Tags(dict[int, Callable[[Any, bool], Any]]):
    """Every tag but 2 is refused, those included that cbor2 understands by itself."""

    def __missing__(self, tag: int) -> Callable[[Any, bool], Any]:
        return _no_tag


_TAGS = _Tags({_BIGNUM: _bignum})


def loads(payload: bytes, answers: bytes) -> dict[Any, Any]:
    """Return the one map that the payload holds. Raises ValueError for anything else.

    The item is wrapped in an array together with a sentinel, so that trailing bytes show: they would be read
    in the sentinel's place. The sentinel is the payload's own hash, which no payload can contain by design.
    """
    pair = cbor2.loads(
        b"\x82" + payload + b"\x48" + answers,
        object_hook=_checked_map,
        semantic_decoders=_TAGS,
        max_depth=DEPTH_MAX + 1,
        allow_indefinite=False,
        allow_duplicate_keys=False,
    )
    if pair[1] != answers:
        raise ValueError("bytes after the message")
    return _members(pair[0])


def _members(value: object) -> dict[Any, Any]:
    if type(value) is not dict:
        raise ValueError("not a map")
    return value


def _bytes(value: object, size: int) -> bytes:
    if type(value) is not bytes or len(value) != size:
        raise ValueError("not a byte string of the right length")
    return value


def _integer(value: object, limit: int = U64_MAX) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError("not an unsigned integer in range")
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError("not text")
    return checked_text(value)


def _flexible_bytes(value: object, size: int) -> bytes:
    """In string-keyed maps, bytes may also be written as in JSON, 0x-hex."""
    if type(value) is str:
        if len(value) != 2 + 2 * size or value[:2] != "0x":
            raise ValueError("not 0x-hex of the right length")
        return unhexlify(value[2:])
    return _bytes(value, size)


def _flexible_integer(value: object, limit: int = U64_MAX) -> int:
    """In string-keyed maps, integers may also be written as in JSON, as decimal strings."""
    if type(value) is str:
        if len(value) > len(str(limit)) or not value.isascii() or not value.isdigit():
            raise ValueError("not a decimal number")
        if value[0] == "0" and value != "0":
            raise ValueError("not a canonical decimal number")
        value = int(value)
    return _integer(value, limit)


def decode_usage(payload: bytes, answers: bytes) -> Usage:
    """Read a `usage` payload. Raises ValueError, KeyError or a cbor2 error for anything malformed."""
    item = loads(payload, answers)
    optional = item.get(READING_SIGNATURE)
    if optional is not None or READING_SIGNATURE in item:
        _bytes(optional, 65)
    return Usage(
        _bytes(item[ID], 32),
        _integer(item[SEQ]),
        _integer(item[REGISTER]),
        _integer(item[TIME]),
        _bytes(item[OFFER], 16),
        _integer(item[CEILING], U128_MAX),
        _bytes(item[SIGNATURE], 65),
        optional,
        Encoding.CBOR,
        answers,
    )


def decode_earn(payload: bytes, answers: bytes) -> Earn:
    """Read an `earn` payload. Raises ValueError, KeyError or a cbor2 error for anything malformed."""
    item = loads(payload, answers)
    return Earn(
        _bytes(item[ID], 32),
        _integer(item[SEQ]),
        _integer(item[REGISTER]),
        _integer(item[TIME]),
        _bytes(item[OFFER], 16),
        _bytes(item[READING_SIGNATURE], 65),
        Encoding.CBOR,
        answers,
    )


def decode_open(payload: bytes, answers: bytes) -> Open | OpenEarner:
    """Read either form of an `open` payload. Raises ValueError, KeyError or a cbor2 error if malformed."""
    item = loads(payload, answers)
    service = _text(item["service"])
    register = _flexible_integer(item.get("register", 0))
    offer = _flexible_bytes(item["offer"], 16) if "offer" in item else None
    if "earner" in item:
        if "channelConfig" in item or "deposit" in item:
            raise ValueError("both forms of open in one message")
        earner = _members(item["earner"])
        return OpenEarner(
            service,
            register,
            _flexible_bytes(earner["payee"], 20),
            _flexible_bytes(earner["meterKey"], 20),
            _flexible_bytes(earner["salt"], 32),
            _flexible_bytes(earner["signature"], 65),
            offer,
            Encoding.CBOR,
            answers,
        )
    deposit = _members(item["deposit"])
    erc3009 = _members(_members(deposit["authorization"])["erc3009Authorization"])
    return Open(
        _config(_members(item["channelConfig"])),
        service,
        register,
        _flexible_integer(deposit["amount"], U128_MAX),
        Authorization(
            _flexible_integer(erc3009["validAfter"], U256_MAX),
            _flexible_integer(erc3009["validBefore"], U256_MAX),
            int.from_bytes(_flexible_bytes(erc3009["salt"], 32), "big"),
            _flexible_bytes(erc3009["signature"], 65),
        ),
        offer,
        _flexible_bytes(item["binding"], 65) if "binding" in item else None,
        Encoding.CBOR,
        answers,
    )


def _config(raw: dict[Any, Any]) -> ChannelConfig:
    return ChannelConfig(
        payer=_flexible_bytes(raw["payer"], 20),
        payer_authorizer=_flexible_bytes(raw["payerAuthorizer"], 20),
        receiver=_flexible_bytes(raw["receiver"], 20),
        receiver_authorizer=_flexible_bytes(raw["receiverAuthorizer"], 20),
        token=_flexible_bytes(raw["token"], 20),
        withdraw_delay=_flexible_integer(raw["withdrawDelay"], U40_MAX),
        salt=_flexible_bytes(raw["salt"], 32),
    )


def decode_close(payload: bytes, answers: bytes) -> Close:
    """Read a `close` payload. Raises ValueError, KeyError or a cbor2 error for anything malformed."""
    item = loads(payload, answers)
    return Close(
        _flexible_bytes(item["channelId"], 32),
        _flexible_integer(item["seq"]),
        _flexible_bytes(item["signature"], 65),
        Encoding.CBOR,
        answers,
    )


def decode_state(payload: bytes, answers: bytes) -> State:
    """Read a `state` payload. Raises ValueError, KeyError or a cbor2 error for anything malformed."""
    item = loads(payload, answers)
    state = item["state"]
    if type(state) is not str or state not in ("online", "lost"):
        raise ValueError("neither online nor lost")
    return State(
        state == "online",
        _flexible_integer(item["session"]) if "session" in item else None,
        _text(item["firmware"]) if "firmware" in item else None,
        Encoding.CBOR,
        answers,
    )


DECODERS: dict[str, Callable[[bytes, bytes], Message]] = {
    "usage": decode_usage,
    "earn": decode_earn,
    "open": decode_open,
    "close": decode_close,
    "state": decode_state,
}
