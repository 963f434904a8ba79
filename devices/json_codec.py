"""JSON payloads, strictly typed and bounded (docs/protocol.md 3).

msgspec decodes straight into typed structs and skips unknown keys; ranges and lengths are checked here. What
msgspec cannot see (a key given twice, nesting below unknown keys) is checked in a second pass, which the plain
messages that devices send do not need.
"""

import json
from binascii import unhexlify
from collections.abc import Callable

import msgspec
from msgspec import UNSET, UnsetType

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

# Numbers above this are not exact in every JSON reader, so they travel as decimal strings.
NUMBER_MAX = 2**53 - 1
_U128_DIGITS = 39
_U256_DIGITS = 78


class _Usage(msgspec.Struct, rename="camel", gc=False):
    channel_id: str
    seq: int | str
    register: int | str
    time: int | str
    offer: str
    max_claimable_amount: str
    signature: str
    reading_signature: str | UnsetType = UNSET


class _Earn(msgspec.Struct, rename="camel", gc=False):
    account_id: str
    seq: int | str
    register: int | str
    time: int | str
    offer: str
    reading_signature: str


class _Config(msgspec.Struct, rename="camel", gc=False):
    payer: str
    payer_authorizer: str
    receiver: str
    receiver_authorizer: str
    token: str
    withdraw_delay: int | str
    salt: str


class _Erc3009(msgspec.Struct, rename="camel", gc=False):
    valid_after: int | str
    valid_before: int | str
    salt: str
    signature: str


class _Authorization(msgspec.Struct, gc=False):
    erc3009: _Erc3009 = msgspec.field(name="erc3009Authorization")


class _Deposit(msgspec.Struct, gc=False):
    amount: str
    authorization: _Authorization


class _Earner(msgspec.Struct, rename="camel", gc=False):
    payee: str
    meter_key: str
    salt: str
    signature: str


class _Open(msgspec.Struct, rename="camel", gc=False):
    service: str
    register: int | str = 0
    offer: str | UnsetType = UNSET
    channel_config: _Config | UnsetType = UNSET
    deposit: _Deposit | UnsetType = UNSET
    binding: str | UnsetType = UNSET
    earner: _Earner | UnsetType = UNSET


class _Close(msgspec.Struct, rename="camel", gc=False):
    channel_id: str
    seq: int | str
    signature: str


class _State(msgspec.Struct, gc=False):
    state: str
    session: int | str | UnsetType = UNSET
    firmware: str | UnsetType = UNSET


_decode_usage = msgspec.json.Decoder(_Usage).decode
_decode_earn = msgspec.json.Decoder(_Earn).decode
_decode_open = msgspec.json.Decoder(_Open).decode
_decode_close = msgspec.json.Decoder(_Close).decode
_decode_state = msgspec.json.Decoder(_State).decode


def _hex(text: str, size: int) -> bytes:
    """Return the bytes of `0x` and exactly 2 × size hex digits of any case. Raises ValueError."""
    if len(text) != 2 + 2 * size or text[:2] != "0x":
        raise ValueError("not 0x-hex of the right length")
    return unhexlify(text[2:])


def _decimal(text: str, digits: int, limit: int) -> int:
    """Return the value of `0|[1-9][0-9]*` up to `limit`. Raises ValueError."""
    if len(text) > digits or not text.isascii() or not text.isdigit() or (text[0] == "0" and text != "0"):
        raise ValueError("not a canonical decimal number")
    value = int(text)
    if value > limit:
        raise ValueError("out of range")
    return value


def _integer(value: int | str, digits: int = 20, limit: int = U64_MAX) -> int:
    """Return a JSON number up to 2⁵³−1 or a decimal string up to `limit`. Raises ValueError."""
    if isinstance(value, str):
        return _decimal(value, digits, limit)
    if not 0 <= value <= NUMBER_MAX or value > limit:
        raise ValueError("out of range")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key appears twice")
    return members


_walk = json.JSONDecoder(object_pairs_hook=_unique).decode


def _second_pass(payload: bytes) -> None:
    """Refuse repeated keys, nesting over DEPTH_MAX and bytes that are not UTF-8. Raises ValueError."""
    depth = 0
    quoted = escaped = False
    for byte in payload:
        if quoted:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                quoted = False
        elif byte == 0x22:
            quoted = True
        elif byte in b"{[":
            depth += 1
            if depth > DEPTH_MAX:
                raise ValueError("nested too deep")
        elif byte in b"}]":
            depth -= 1
    _walk(payload.decode())


def decode_usage(payload: bytes, answers: bytes) -> Usage:
    """Read a `usage` payload. Raises ValueError (or a msgspec error) for anything malformed."""
    raw = _decode_usage(payload)
    optional = raw.reading_signature
    # No value of a plain usage message has a colon: another count means unknown or repeated keys.
    if payload.count(b":") != (7 if optional is UNSET else 8):
        _second_pass(payload)
    return Usage(
        _hex(raw.channel_id, 32),
        _integer(raw.seq),
        _integer(raw.register),
        _integer(raw.time),
        _hex(raw.offer, 16),
        _decimal(raw.max_claimable_amount, _U128_DIGITS, U128_MAX),
        _hex(raw.signature, 65),
        None if optional is UNSET else _hex(optional, 65),
        Encoding.JSON,
        answers,
    )


def decode_earn(payload: bytes, answers: bytes) -> Earn:
    """Read an `earn` payload. Raises ValueError (or a msgspec error) for anything malformed."""
    raw = _decode_earn(payload)
    if payload.count(b":") != 6:
        _second_pass(payload)
    return Earn(
        _hex(raw.account_id, 32),
        _integer(raw.seq),
        _integer(raw.register),
        _integer(raw.time),
        _hex(raw.offer, 16),
        _hex(raw.reading_signature, 65),
        Encoding.JSON,
        answers,
    )


def decode_open(payload: bytes, answers: bytes) -> Open | OpenEarner:
    """Read either form of an `open` payload. Raises ValueError (or a msgspec error) if malformed."""
    raw = _decode_open(payload)
    _second_pass(payload)
    service = checked_text(raw.service)
    register = _integer(raw.register)
    offer = None if raw.offer is UNSET else _hex(raw.offer, 16)
    if raw.earner is not UNSET:
        if raw.channel_config is not UNSET or raw.deposit is not UNSET:
            raise ValueError("both forms of open in one message")
        earner = raw.earner
        return OpenEarner(
            service,
            register,
            _hex(earner.payee, 20),
            _hex(earner.meter_key, 20),
            _hex(earner.salt, 32),
            _hex(earner.signature, 65),
            offer,
            Encoding.JSON,
            answers,
        )
    if raw.channel_config is UNSET or raw.deposit is UNSET:
        raise ValueError("neither form of open")
    erc3009 = raw.deposit.authorization.erc3009
    return Open(
        _config(raw.channel_config),
        service,
        register,
        _decimal(raw.deposit.amount, _U128_DIGITS, U128_MAX),
        Authorization(
            _integer(erc3009.valid_after, _U256_DIGITS, U256_MAX),
            _integer(erc3009.valid_before, _U256_DIGITS, U256_MAX),
            int.from_bytes(_hex(erc3009.salt, 32), "big"),
            _hex(erc3009.signature, 65),
        ),
        offer,
        None if raw.binding is UNSET else _hex(raw.binding, 65),
        Encoding.JSON,
        answers,
    )


def _config(raw: _Config) -> ChannelConfig:
    return ChannelConfig(
        payer=_hex(raw.payer, 20),
        payer_authorizer=_hex(raw.payer_authorizer, 20),
        receiver=_hex(raw.receiver, 20),
        receiver_authorizer=_hex(raw.receiver_authorizer, 20),
        token=_hex(raw.token, 20),
        withdraw_delay=_integer(raw.withdraw_delay, 13, U40_MAX),
        salt=_hex(raw.salt, 32),
    )


def decode_close(payload: bytes, answers: bytes) -> Close:
    """Read a `close` payload. Raises ValueError (or a msgspec error) for anything malformed."""
    raw = _decode_close(payload)
    _second_pass(payload)
    return Close(_hex(raw.channel_id, 32), _integer(raw.seq), _hex(raw.signature, 65), Encoding.JSON, answers)


def decode_state(payload: bytes, answers: bytes) -> State:
    """Read a `state` payload. Raises ValueError (or a msgspec error) for anything malformed."""
    raw = _decode_state(payload)
    _second_pass(payload)
    if raw.state not in ("online", "lost"):
        raise ValueError("neither online nor lost")
    return State(
        raw.state == "online",
        None if raw.session is UNSET else _integer(raw.session),
        None if raw.firmware is UNSET else checked_text(raw.firmware),
        Encoding.JSON,
        answers,
    )


DECODERS: dict[str, Callable[[bytes, bytes], Message]] = {
    "usage": decode_usage,
    "earn": decode_earn,
    "open": decode_open,
    "close": decode_close,
    "state": decode_state,
}
