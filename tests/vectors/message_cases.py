"""Messages of devices in both encodings."""

import json
from hashlib import sha256
from typing import Any

import cbor2

from channels import digests, signatures
from channels.types import U64_MAX, U128_MAX
from tests.vectors.setting import (
    ACCOUNT,
    ADDRESS,
    CHAIN_TIME,
    CHANNEL,
    CONFIG,
    DEVICE,
    EARNER_SALT,
    GATEWAY,
    NETWORK,
    OFFER,
    TOKEN,
    Case,
    compact,
    config_json,
    hexed,
    key,
)

_USAGE_KEYS = {
    "channelId": 1,
    "accountId": 1,
    "seq": 2,
    "register": 3,
    "time": 4,
    "offer": 5,
    "maxClaimableAmount": 6,
    "signature": 7,
    "readingSignature": 14,
}


def _cbor_value(name: str, value: Any) -> Any:
    if isinstance(value, str) and value.startswith("0x"):
        return bytes.fromhex(value[2:])
    return int(value)


def reading_cbor(given: Case) -> bytes:
    """Return a reading in CBOR: integer keys, integers and byte strings."""
    return cbor2.dumps({_USAGE_KEYS[name]: _cbor_value(name, value) for name, value in given.items()})


def string_keyed(value: Any, name: str = "") -> Any:
    """Return `open` and `state` as CBOR has them: bytes as byte strings, amounts and times as integers."""
    if isinstance(value, dict):
        return {inner: string_keyed(item, inner) for inner, item in value.items()}
    if isinstance(value, str) and value.startswith("0x"):
        return bytes.fromhex(value[2:])
    if name in ("amount", "validAfter", "validBefore", "register"):
        return int(value)
    return value


def usage(seq: int, register: int, time: int, ceiling: int, *, reading: bool = True) -> Case:
    """Return a `usage` message as its JSON members."""
    members: Case = {
        "channelId": hexed(CHANNEL),
        "seq": seq,
        "register": register,
        "time": time,
        "offer": hexed(OFFER.id),
        "maxClaimableAmount": str(ceiling),
        "signature": hexed(signatures.sign(digests.voucher_digest(CHANNEL, ceiling, NETWORK), key("payerAuthorizer"))),
    }
    if reading:
        digest = digests.reading_digest(CHANNEL, seq, register, time, OFFER.id, ceiling, NETWORK)
        members["readingSignature"] = hexed(signatures.sign(digest, key("payerAuthorizer")))
    return members


def earn(seq: int, register: int, time: int) -> Case:
    """Return an `earn` message as its JSON members."""
    digest = digests.reading_digest(ACCOUNT, seq, register, time, OFFER.id, 0, NETWORK)
    return {
        "accountId": hexed(ACCOUNT),
        "seq": seq,
        "register": register,
        "time": time,
        "offer": hexed(OFFER.id),
        "readingSignature": hexed(signatures.sign(digest, key("meterKey"))),
    }


def open_channel(*, optional: bool = True) -> Case:
    """Return an `open` message as its JSON members."""
    deposit = digests.deposit_digest(
        CHANNEL, ADDRESS["payer"], 5_000_000, 0, CHAIN_TIME + 3600, 1, TOKEN, NETWORK.chain_id
    )
    members: Case = {
        "channelConfig": config_json(CONFIG),
        "service": "grid-power",
        "deposit": {
            "amount": "5000000",
            "authorization": {
                "erc3009Authorization": {
                    "validAfter": "0",
                    "validBefore": str(CHAIN_TIME + 3600),
                    "salt": hexed((1).to_bytes(32, "big")),
                    "signature": hexed(signatures.sign(deposit, key("payer"))),
                }
            },
        },
    }
    if optional:
        binding = digests.open_digest(CHANNEL, GATEWAY, DEVICE, "grid-power", 123_456, NETWORK)
        members["offer"] = hexed(OFFER.id)
        members["register"] = "123456"
        members["binding"] = hexed(signatures.sign(binding, key("payerAuthorizer")))
    return members


def open_earner(*, optional: bool = True) -> Case:
    """Return the earner form of `open` as its JSON members."""
    members: Case = {
        "service": "solar-export",
        "earner": {
            "payee": hexed(ADDRESS["payee"]),
            "meterKey": hexed(ADDRESS["meterKey"]),
            "salt": hexed(EARNER_SALT),
            "signature": hexed(signatures.sign(ACCOUNT, key("payee"))),
        },
    }
    if optional:
        members["offer"] = hexed(OFFER.id)
        members["register"] = "900"
    return members


def close(seq: int) -> Case:
    """Return a `close` message as its JSON members."""
    digest = digests.close_digest(CHANNEL, GATEWAY, DEVICE, seq, NETWORK)
    signature = hexed(signatures.sign(digest, key("payerAuthorizer")))
    return {"channelId": hexed(CHANNEL), "seq": seq, "signature": signature}


def _strings(members: Case) -> Case:
    """Return the same message with every number written as a decimal string."""
    return {name: str(value) if isinstance(value, int) else value for name, value in members.items()}


def _upper(members: Case) -> Case:
    return {
        name: "0x" + value[2:].upper() if isinstance(value, str) and value.startswith("0x") else value
        for name, value in members.items()
    }


def _safe_numbers(members: Case) -> Case:
    """Write integers above 2⁵³−1 as JSON must: as decimal strings."""
    return {n: str(v) if isinstance(v, int) and v > 2**53 - 1 else v for n, v in members.items()}


def _message(name: str, leaf: str, given: Case, text: str | None, binary: bytes | None) -> Case:
    case: Case = {"name": name, "kind": leaf, "input": given}
    case["json"] = text
    case["cbor"] = None if binary is None else hexed(binary)
    if text is not None:
        case["answersJson"] = hexed(sha256(text.encode()).digest()[:8])
    if binary is not None:
        case["answersCbor"] = hexed(sha256(binary).digest()[:8])
    return case


def reading_cases() -> list[Case]:
    """Return `usage` and `earn` messages."""
    plain = usage(7, 1234, 1_760_000_000_123, 185_100)
    unsigned = usage(8, 1240, 1_760_000_060_123, 186_000, reading=False)
    first = usage(1, 0, 0, 0)
    large = usage(U64_MAX, U64_MAX, U64_MAX, U128_MAX)
    above = usage(9, 2**53 - 1, 2**53, 2**64)
    earned = earn(3, 900, 1_760_000_000_456)
    cases = [
        _message(name, "usage", _strings(members), compact(_safe_numbers(members)), reading_cbor(members))
        for name, members in (
            ("paying reading with reading signature", plain),
            ("paying reading without", unsigned),
            ("everything at its least", first),
            ("everything at its greatest", large),
            ("just inside and outside what JSON numbers and CBOR integers hold", above),
        )
    ]
    cases += [
        _message("numbers as decimal strings", "usage", _strings(plain), compact(_strings(plain)), None),
        _message("upper-case hex", "usage", _strings(plain), compact(_upper(plain)), None),
        _message("white space", "usage", _strings(plain), json.dumps(plain, indent=2), None),
        _message(
            "unknown keys are passed over",
            "usage",
            _strings(plain),
            compact({**plain, "note": {"a": [1, 2.5, None]}, "channelID": "x"}),
            _with_unknown(reading_cbor(plain)),
        ),
        _message(
            "keys in another order",
            "usage",
            _strings(plain),
            compact(dict(reversed(plain.items()))),
            reading_cbor(dict(reversed(plain.items()))),
        ),
        _message("integers longer than needed", "usage", _strings(plain), None, _padded(plain)),
        _message("earning reading", "earn", _strings(earned), compact(earned), reading_cbor(earned)),
    ]
    return cases


def _with_unknown(message: bytes) -> bytes:
    return cbor2.dumps({**cbor2.loads(message), 99: [1, 2.5, None], "note": {"a": b"\1"}})


def _padded(members: Case) -> bytes:
    """Write seq in eight bytes: CBOR allows it, and the protocol does not forbid it."""
    short = cbor2.dumps({2: members["seq"]})[1:]
    return reading_cbor(members).replace(short, b"\x02\x1b" + members["seq"].to_bytes(8, "big"), 1)


def close_cases() -> list[Case]:
    """Return `close` messages."""
    plain = close(8)
    cases = [
        _message(name, "close", _strings(members), compact(_safe_numbers(members)), cbor2.dumps(string_keyed(members)))
        for name, members in (("close", plain), ("the last seq there is", close(U64_MAX)))
    ]
    unknown = {**plain, "note": {"a": [1, None]}}
    cases += [
        _message("seq as a decimal string", "close", _strings(plain), compact(_strings(plain)), None),
        _message("CBOR written as JSON is: text", "close", _strings(plain), None, cbor2.dumps(_strings(plain))),
        _message("white space", "close", _strings(plain), json.dumps(plain, indent=2), None),
        _message(
            "unknown keys are passed over",
            "close",
            _strings(plain),
            compact(unknown),
            cbor2.dumps(string_keyed(unknown)),
        ),
    ]
    return cases


def open_cases() -> list[Case]:
    """Return `open` and `state` messages."""
    cases = []
    for name, members in (
        ("open with every optional field", open_channel()),
        ("open with none", open_channel(optional=False)),
        ("open an earner account", open_earner()),
        ("open an earner account, least", open_earner(optional=False)),
    ):
        binary = cbor2.dumps(string_keyed(members))
        cases.append(_message(name, "open", members, compact(members), binary))
    members = open_channel()
    cases.append(_message("CBOR written as JSON is: text", "open", members, None, cbor2.dumps(members)))
    for name, state in (
        ("birth", {"state": "online", "session": 4, "firmware": "1.2.0"}),
        ("birth, least", {"state": "online"}),
        ("will", {"state": "lost"}),
    ):
        cases.append(_message(name, "state", state, compact(state), cbor2.dumps(state)))
    return cases
