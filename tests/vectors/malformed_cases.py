"""Payloads that are refused."""

from hashlib import sha256
from typing import Any

import cbor2

from channels.refusals import Refusal
from tests.vectors.message_cases import close, earn, open_channel, open_earner, reading_cbor, string_keyed, usage
from tests.vectors.setting import Case, compact, hexed


def _bad(name: str, leaf: str, payload: bytes, refusal: Refusal = Refusal.MALFORMED) -> Case:
    is_json = payload[:1] == b"{"
    try:
        text = payload.decode() if is_json else None
    except UnicodeDecodeError:
        text = None
    return {
        "name": name,
        "kind": leaf,
        "input": {"payload": hexed(payload)},
        "json": text,
        "cbor": None if is_json else hexed(payload),
        "refusal": refusal.wire_name,
        "number": int(refusal),
        "answers": hexed(sha256(payload).digest()[:8]),
    }


def _bad_json() -> list[Case]:
    good = usage(7, 1234, 1_760_000_000_123, 185_100)
    text = compact(good)
    changed: list[tuple[str, str, object]] = [
        ("seq is a float", "seq", 7.0),
        ("seq is true", "seq", True),
        ("seq is null", "seq", None),
        ("seq is negative", "seq", -1),
        ("seq is a number above 2^53-1", "seq", 2**53),
        ("seq is 2^64", "seq", str(2**64)),
        ("seq has a leading zero", "seq", "07"),
        ("seq has a sign", "seq", "+7"),
        ("seq is empty", "seq", ""),
        ("seq has a space", "seq", " 7"),
        ("seq is in other digits", "seq", "٧"),
        ("seq is hex", "seq", "0x7"),
        ("seq is a list", "seq", [7]),
        ("ceiling is a number", "maxClaimableAmount", 185_100),
        ("ceiling is 2^128", "maxClaimableAmount", str(2**128)),
        ("ceiling has a leading zero", "maxClaimableAmount", "0185100"),
        ("ceiling has a fraction", "maxClaimableAmount", "185100.0"),
        ("channel id of 31 bytes", "channelId", good["channelId"][:-2]),
        ("channel id of 33 bytes", "channelId", good["channelId"] + "00"),
        ("channel id with an odd digit", "channelId", good["channelId"] + "0"),
        ("channel id without 0x", "channelId", good["channelId"][2:] + "00"),
        ("channel id with 0X", "channelId", "0X" + good["channelId"][2:]),
        ("channel id with a space inside", "channelId", good["channelId"][:-1] + " "),
        ("offer of 32 bytes", "offer", good["offer"] + "00" * 16),
        ("signature of 64 bytes", "signature", good["signature"][:-2]),
        ("signature is not hex", "signature", good["signature"][:-1] + "g"),
        ("reading signature is null", "readingSignature", None),
        ("reading signature of 64 bytes", "readingSignature", good["readingSignature"][:-2]),
    ]
    cases = [_bad(f"JSON: {name}", "usage", compact({**good, field: value}).encode()) for name, field, value in changed]
    for field in good:
        if field != "readingSignature":
            missing = {name: value for name, value in good.items() if name != field}
            cases.append(_bad(f"JSON: no {field}", "usage", compact(missing).encode()))
    deep = text[:-1] + ',"x":' + "[" * 8 + "]" * 8 + "}"
    cases += [
        _bad("JSON: cut short", "usage", text[:-1].encode()),
        _bad("JSON: something after it", "usage", text.encode() + b"{}"),
        _bad("JSON: a key twice", "usage", (text[:-1] + ',"seq":7}').encode()),
        _bad("JSON: an unknown key twice", "usage", (text[:-1] + ',"x":1,"x":1}').encode()),
        _bad("JSON: nested nine deep", "usage", deep.encode()),
        _bad("JSON: not UTF-8", "usage", text[:-1].encode() + b',"x":"\xff"}'),
        _bad("JSON: NaN", "usage", (text[:-1] + ',"x":NaN}').encode()),
        _bad("JSON: an empty object", "usage", b"{}"),
        _bad("JSON: only a brace", "usage", b"{"),
        _bad("JSON: a list (and no CBOR either)", "usage", b"[]"),
        _bad("JSON: white space first (and no CBOR either)", "usage", b" " + text.encode()),
    ]
    unsigned = {n: v for n, v in earn(3, 900, 0).items() if n != "readingSignature"}
    cases.append(_bad("JSON: earn without its reading signature", "earn", compact(unsigned).encode()))
    cases.append(
        _bad("JSON: earn with a channel id", "earn", compact({**unsigned, "channelId": good["channelId"]}).encode())
    )
    return cases


def _bad_cbor() -> list[Case]:
    good: dict[Any, Any] = cbor2.loads(reading_cbor(usage(7, 1234, 1_760_000_000_123, 185_100)))
    plain = cbor2.dumps(good)
    body = plain[1:]  # the map has fewer than 24 entries: one byte of header
    changed: list[tuple[str, int, object]] = [
        ("seq is a float", 2, 7.0),
        ("seq is true", 2, True),
        ("seq is null", 2, None),
        ("seq is undefined", 2, cbor2.undefined),
        ("seq is negative", 2, -1),
        ("seq is text", 2, "7"),
        ("seq is 2^64", 2, 2**64),
        ("ceiling is 2^128", 6, 2**128),
        ("ceiling is text", 6, "185100"),
        ("channel id of 31 bytes", 1, good[1][:-1]),
        ("channel id is text", 1, hexed(good[1])),
        ("signature of 64 bytes", 7, good[7][:-1]),
        ("reading signature is null", 14, None),
        ("offer of 15 bytes", 5, good[5][:-1]),
    ]
    cases = [_bad(f"CBOR: {name}", "usage", cbor2.dumps({**good, field: value})) for name, field, value in changed]
    for field in (1, 2, 3, 4, 5, 6, 7):
        missing = {number: value for number, value in good.items() if number != field}
        cases.append(_bad(f"CBOR: no key {field}", "usage", cbor2.dumps(missing)))

    def raw(seq: str) -> bytes:
        rest = cbor2.dumps({number: value for number, value in good.items() if number != 2})
        return bytes((rest[0] + 1,)) + rest[1:] + b"\x02" + bytes.fromhex(seq)

    def extra(entry: str) -> bytes:
        return bytes((plain[0] + 1,)) + body + bytes.fromhex(entry)

    cases += [
        _bad("CBOR: tag 2 for an integer below 2^64", "usage", raw("c24107")),
        _bad("CBOR: tag 2 with a leading zero", "usage", raw("c249000000000000000007")),
        _bad("CBOR: tag 2 of an empty string", "usage", raw("c240")),
        _bad("CBOR: tag 3", "usage", raw("c34107")),
        _bad("CBOR: another tag around an integer", "usage", raw("d8640 7".replace(" ", ""))),
        _bad("CBOR: a date under an unknown key", "usage", extra("1863c11a00000001")),
        _bad("CBOR: self-described", "usage", b"\xd9\xd9\xf7" + plain),
        _bad("CBOR: a map of indefinite length", "usage", b"\xbf" + body + b"\xff"),
        _bad("CBOR: a byte string of indefinite length", "usage", extra("18635f4101ff")),
        _bad("CBOR: a key twice", "usage", extra("0207")),
        _bad("CBOR: a key twice, once longer", "usage", extra("180207")),
        _bad("CBOR: a float as a key", "usage", extra("fb405900000000000001")),
        _bad("CBOR: true as a key", "usage", extra("f501")),
        _bad("CBOR: a byte string as a key below an unknown one", "usage", extra("1863a1410101")),
        _bad("CBOR: bytes after it", "usage", plain + b"\x00"),
        _bad("CBOR: itself twice", "usage", plain + plain),
        _bad("CBOR: cut short", "usage", plain[:-1]),
        _bad("CBOR: nested nine deep", "usage", extra("1863" + "81" * 8 + "01")),
        _bad("CBOR: text that is not UTF-8", "usage", extra("186361ff")),
        _bad("CBOR: a length beyond the message", "usage", extra("18635affffffff00")),
        _bad("CBOR: reserved additional information", "usage", extra("18631c")),
        _bad("CBOR: an empty map", "usage", b"\xa0"),
        _bad("CBOR: an integer", "usage", b"\x07"),
        _bad("CBOR: a break alone", "usage", b"\xff"),
        _bad("CBOR: string keys in a reading", "usage", cbor2.dumps(usage(7, 1234, 0, 185_100))),
        _bad("empty", "usage", b""),
    ]
    return cases


def _bad_open() -> list[Case]:
    good = open_channel()
    earner = open_earner()
    deposit = good["deposit"]["authorization"]["erc3009Authorization"]

    def with_deposit(**changes: object) -> Case:
        changed = {"authorization": {"erc3009Authorization": {**deposit, **changes}}}
        return {**good, "deposit": {**good["deposit"], **changed}}

    def with_config(**changes: object) -> Case:
        return {**good, "channelConfig": {**good["channelConfig"], **changes}}

    bad: list[tuple[str, Case]] = [
        ("no service", {n: v for n, v in good.items() if n != "service"}),
        ("an empty service", {**good, "service": ""}),
        ("a service of 65 bytes", {**good, "service": "s" * 65}),
        ("no deposit", {n: v for n, v in good.items() if n != "deposit"}),
        ("both forms", {**good, "earner": earner["earner"]}),
        ("neither form", {"service": "grid-power"}),
        ("offer is null", {**good, "offer": None}),
        ("register is negative", {**good, "register": -1}),
        ("register of 2^64", {**good, "register": str(2**64)}),
        ("amount of 2^128", {**good, "deposit": {**good["deposit"], "amount": str(2**128)}}),
        ("validBefore of 2^256", with_deposit(validBefore=str(2**256))),
        ("a deposit salt of 31 bytes", with_deposit(salt=deposit["salt"][:-2])),
        ("withdrawDelay of 2^40", with_config(withdrawDelay=2**40)),
        ("payer of 19 bytes", with_config(payer=good["channelConfig"]["payer"][:-2])),
        ("no receiver", {**good, "channelConfig": {n: v for n, v in good["channelConfig"].items() if n != "receiver"}}),
        ("config is a list", {**good, "channelConfig": []}),
        ("an earner's salt of 31 bytes", {**earner, "earner": {**earner["earner"], "salt": "0x" + "11" * 31}}),
        ("binding of 64 bytes", {**good, "binding": good["binding"][:-2]}),
    ]
    cases = [_bad(f"JSON open: {name}", "open", compact(members).encode()) for name, members in bad]
    cases += [_bad(f"CBOR open: {name}", "open", cbor2.dumps(string_keyed(members))) for name, members in bad]
    text_only = [bad[name] for name in (5, 8, 16)]
    assert [name for name, _ in text_only] == ["neither form", "register of 2^64", "an earner's salt of 31 bytes"]
    text_only += [
        ("a service of bytes", {**good, "service": b"grid-power"}),
        ("register 07", {**good, "register": "07"}),
    ]
    cases += [_bad(f"CBOR open as text: {name}", "open", cbor2.dumps(members)) for name, members in text_only]
    number = {**good, "deposit": {**good["deposit"], "amount": 5_000_000}}
    cases.append(_bad("JSON open: amount is a number", "open", compact(number).encode()))
    for name, state in (
        ("an unknown state", {"state": "asleep"}),
        ("no state", {"session": 1}),
        ("session is text", {"state": "online", "session": "one"}),
        ("firmware of 65 bytes", {"state": "online", "firmware": "f" * 65}),
    ):
        cases.append(_bad(f"JSON state: {name}", "state", compact(state).encode()))
        cases.append(_bad(f"CBOR state: {name}", "state", cbor2.dumps(state)))
    return cases


def _bad_close() -> list[Case]:
    good = close(8)
    text = compact(good)
    bad: list[tuple[str, Case]] = [
        *((f"no {field}", {name: value for name, value in good.items() if name != field}) for field in good),
        ("seq is negative", {**good, "seq": -1}),
        ("seq is 2^64", {**good, "seq": str(2**64)}),
        ("seq is a float", {**good, "seq": 8.0}),
        ("seq is null", {**good, "seq": None}),
        ("channel id of 31 bytes", {**good, "channelId": good["channelId"][:-2]}),
        ("signature of 64 bytes", {**good, "signature": good["signature"][:-2]}),
        ("signature is a list", {**good, "signature": []}),
        ("an account id", {"accountId": good["channelId"], "seq": 8, "signature": good["signature"]}),
    ]
    cases = [_bad(f"JSON close: {name}", "close", compact(members).encode()) for name, members in bad]
    cases += [_bad(f"CBOR close: {name}", "close", cbor2.dumps(string_keyed(members))) for name, members in bad]
    keyed = cbor2.dumps({1: bytes.fromhex(good["channelId"][2:]), 2: 8, 7: bytes.fromhex(good["signature"][2:])})
    cases += [
        _bad("JSON close: a key twice", "close", (text[:-1] + ',"seq":8}').encode()),
        _bad("JSON close: something after it", "close", text.encode() + b"{}"),
        _bad("JSON close: nested nine deep", "close", (text[:-1] + ',"x":' + "[" * 8 + "]" * 8 + "}").encode()),
        _bad("CBOR close: integer keys", "close", keyed),
        _bad("CBOR close: bytes after it", "close", cbor2.dumps(string_keyed(good)) + b"\x00"),
        _bad(
            "CBOR close: a tag around seq", "close", cbor2.dumps({**string_keyed(good), "seq": cbor2.CBORTag(100, 8)})
        ),
    ]
    return cases


def _too_large() -> list[Case]:
    text = compact(usage(7, 1234, 1_760_000_000_123, 185_100))
    fits = text + " " * (4096 - len(text))
    over = fits + " "
    return [
        _bad("4,097 bytes of JSON", "usage", over.encode(), Refusal.TOO_LARGE),
        _bad("4,097 bytes of anything", "usage", b"\x00" * 4097, Refusal.TOO_LARGE),
    ]


def malformed_cases() -> list[Case]:
    """Return payloads that are refused, whatever the channel."""
    return [*_bad_json(), *_bad_cbor(), *_bad_open(), *_bad_close(), *_too_large()]
