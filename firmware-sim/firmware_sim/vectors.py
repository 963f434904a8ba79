"""Checks golden vectors (tests/vectors/README.md): the same files that the gateway is checked against, other code.

A device only writes readings, openings and closes, so those cases are written from their meaning and compared with the
vector by meaning, and byte for byte where the vector is canonical. Refused payloads are checked for what a device
sees of them: `answers` and the reason's number.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2

from firmware_sim import digests
from firmware_sim.books import NANO, Position
from firmware_sim.canonical import canonical, parse
from firmware_sim.digests import ChannelConfig
from firmware_sim.keys import Key, keccak, recover
from firmware_sim.offers import offer_hash, read_offer
from firmware_sim.wire import (
    REASONS,
    STATUSES,
    Authorization,
    Earner,
    Encoding,
    Reading,
    Receipt,
    answers_of,
    decode_receipt,
    encode_birth,
    encode_close,
    encode_earner_open,
    encode_open,
    encode_reading,
    hex_of,
)

Case = dict[str, Any]

_HEX = re.compile(r"0x([0-9a-fA-F]{2})*")
_DECIMAL = re.compile(r"0|[1-9][0-9]*")
# Names of the integer keys of readings (docs/protocol.md 3).
_READING_KEYS = {2: "seq", 3: "register", 4: "time", 5: "offer", 6: "maxClaimableAmount", 7: "signature"}
_READING_KEYS[14] = "readingSignature"

_CLAIM_ENTRY = b"ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
_CLAIM_BATCH = b"ClaimBatch(ClaimEntry[] claims)" + _CLAIM_ENTRY
_REFUND = b"Refund(bytes32 channelId,uint256 nonce,uint128 amount)"


class Mismatch(ValueError):
    """What a vector says and what this code says."""


def check_directory(directory: Path) -> tuple[dict[str, int], list[str]]:
    """Check every *.json file; returns the number of cases per file and a line for each failed one."""
    counts: dict[str, int] = {}
    failures: list[str] = []
    for path in sorted(directory.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        counts[path.name] = len(document["cases"])
        for case in document["cases"]:
            try:
                check_case(path.name, case, document.get("setting", {}))
            except (ValueError, KeyError, TypeError) as error:
                failures.append(f"{path.name}: {case.get('name')}: {type(error).__name__}: {error}")
    return counts, failures


def check_case(file: str, case: Case, setting: Case) -> None:
    """Check one case; ValueError (Mismatch among them), KeyError or TypeError when it does not hold."""
    if file == "malformed.json":
        _malformed(case)
    elif case["kind"] in _CHECKS:
        _CHECKS[case["kind"]](case, setting)
    else:
        _digest(case, setting)


def _same(what: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise Mismatch(f"{what}: {ours!r} here, {theirs!r} in the vector")


def _raw(text: str) -> bytes:
    if not _HEX.fullmatch(text):
        raise Mismatch(f"{text!r} is not 0x-hex")
    return bytes.fromhex(text[2:])


# ---- digests and signatures


def _config(fields: Case) -> ChannelConfig:
    return ChannelConfig(
        _raw(fields["payer"]),
        _raw(fields["payerAuthorizer"]),
        _raw(fields["receiver"]),
        _raw(fields["receiverAuthorizer"]),
        _raw(fields["token"]),
        int(fields["withdrawDelay"]),
        _raw(fields["salt"]),
    )


def _channel(case: Case, setting: Case) -> None:
    given = case["input"]
    _same("id", hex_of(digests.channel_id(given["chainId"], _config(given["config"]))), case["id"])


def _digest(case: Case, setting: Case) -> None:
    kind, given, chain = case["kind"], case["input"], setting["chainId"]
    digest = _digest_of(kind, given, chain)
    _same("digest", hex_of(digest), case["digest"])
    key = Key(_raw(setting["keys"][case["signer"]]["private"]))
    _same("address", hex_of(key.address), setting["keys"][case["signer"]]["address"])
    _same("signature", hex_of(key.sign(digest)), case["signature"])
    _same("signer", recover(digest, _raw(case["signature"])), key.address)
    if kind == "deposit":
        nonce = digests.deposit_nonce(_raw(given["channelId"]), _raw(given["salt"]))
        _same("nonce", hex_of(nonce), case["nonce"])
    if kind == "earner":
        _same("id", hex_of(digest), case["id"])


def _digest_of(kind: str, given: Case, chain: int) -> bytes:
    if kind == "voucher":
        return digests.voucher_digest(chain, _raw(given["channelId"]), int(given["maxClaimableAmount"]))
    if kind == "open":
        who = (given["gateway"], given["device"], given["service"])
        return digests.open_digest(chain, _raw(given["channelId"]), *who, int(given["register"]))
    if kind == "close":
        gateway, device = given["gateway"], given["device"]
        return digests.close_digest(chain, _raw(given["channelId"]), gateway, device, int(given["seq"]))
    if kind == "reading":
        numbers = (int(given["seq"]), int(given["register"]), int(given["time"]))
        ceiling = int(given["maxClaimableAmount"])
        return digests.reading_digest(chain, _raw(given["id"]), *numbers, _raw(given["offer"]), ceiling)
    if kind == "earner":
        who = (given["gateway"], given["device"], given["service"])
        keys = (_raw(given["payee"]), _raw(given["meterKey"]), _raw(given["salt"]))
        return digests.earner_digest(chain, *who, *keys)
    if kind == "deposit":
        token = given["token"]
        return digests.receive_digest(
            chain,
            (_raw(token["address"]), token["name"], token["version"]),
            _raw(given["payer"]),
            int(given["amount"]),
            int(given["validAfter"]),
            int(given["validBefore"]),
            digests.deposit_nonce(_raw(given["channelId"]), _raw(given["salt"])),
            _raw(given["collector"]),
        )
    if kind in ("claimBatch", "refund"):
        # Signed by the gateway; a device that watches over its channel checks them.
        return digests.typed(digests.settlement_domain(chain), _gateway_struct(kind, given))
    raise Mismatch(f"unknown kind {kind!r}")


def _gateway_struct(kind: str, given: Case) -> bytes:
    def word(text: str) -> bytes:
        return int(text).to_bytes(32, "big")

    if kind == "refund":
        amounts = word(given["nonce"]) + word(given["amount"])
        return keccak(keccak(_REFUND) + _raw(given["channelId"]) + amounts)
    entries = b"".join(
        keccak(
            keccak(_CLAIM_ENTRY)
            + _raw(entry["channelId"])
            + word(entry["maxClaimableAmount"])
            + word(entry["totalClaimed"])
        )
        for entry in given["claims"]
    )
    return keccak(keccak(_CLAIM_BATCH) + keccak(entries))


def _signature(case: Case, setting: Case) -> None:
    given = case["input"]
    signer = recover(_raw(given["digest"]), _raw(given["signature"]))
    _same("valid", signer == _raw(given["signer"]), case["valid"])


# ---- messages that a device writes


def _meaning(value: object) -> object:
    """The same for all ways to write it: hex as bytes, decimal strings as integers, integer keys as names."""
    if isinstance(value, dict):
        return {_READING_KEYS.get(key, key): _meaning(item) for key, item in value.items()}
    if isinstance(value, str) and _HEX.fullmatch(value):
        return bytes.fromhex(value[2:])
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return int(value)
    return value


def _written(case: Case, write: Callable[[Encoding], bytes], id_name: str) -> None:
    """Compare the vector's payloads with what `write` gives, and both with `answers`."""
    known = _meaning(case["input"])
    assert isinstance(known, dict)
    if case["json"] is not None:
        theirs = case["json"].encode()
        _same("answersJson", hex_of(answers_of(theirs)), case["answersJson"])
        ours = write("json")
        _same("own JSON", _meaning(json.loads(ours)), known)
        _same("JSON", _subset(_meaning(json.loads(theirs)), known), known)
    if case["cbor"] is not None:
        theirs = _raw(case["cbor"])
        _same("answersCbor", hex_of(answers_of(theirs)), case["answersCbor"])
        ours = write("cbor")
        _same("own CBOR", _renamed(_meaning(cbor2.loads(ours)), id_name), known)
        decoded = cbor2.loads(theirs)
        _same("CBOR", _subset(_renamed(_meaning(decoded), id_name), known), known)
        shortest = cbor2.dumps(decoded, canonical=True) == theirs
        if shortest and cbor2.loads(ours) == decoded:
            _same("CBOR bytes", ours.hex(), theirs.hex())


def _renamed(value: object, id_name: str) -> object:
    if isinstance(value, dict) and 1 in value:
        return {id_name if key == 1 else key: item for key, item in value.items()}
    return value


def _subset(value: object, known: Case) -> object:
    """Without the keys that a reader passes over."""
    return {key: item for key, item in value.items() if key in known} if isinstance(value, dict) else value


def _reading(case: Case, setting: Case) -> None:
    given = case["input"]
    pays = case["kind"] == "usage"
    id_name = "channelId" if pays else "accountId"
    reading = Reading(
        id=_raw(given[id_name]),
        seq=int(given["seq"]),
        register=int(given["register"]),
        time_ms=int(given["time"]),
        offer=_raw(given["offer"]),
        ceiling=int(given["maxClaimableAmount"]) if pays else 0,
        voucher=_raw(given["signature"]) if pays else None,
        signature=_raw(given["readingSignature"]) if "readingSignature" in given else None,
    )
    _written(case, lambda encoding: encode_reading(reading, encoding), id_name)


def _open(case: Case, setting: Case) -> None:
    given = case["input"]
    if "digest" in case:
        _digest(case, setting)
        return
    offer = _raw(given["offer"]) if "offer" in given else None
    register = int(given["register"]) if "register" in given else None
    service = given["service"]
    if "earner" in given:
        who = given["earner"]
        earner = Earner(*(_raw(who[name]) for name in ("payee", "meterKey", "salt", "signature")))
        _written(case, lambda encoding: encode_earner_open(offer, service, register, earner, encoding), "")
        return
    config = _config(given["channelConfig"])
    signed = given["deposit"]["authorization"]["erc3009Authorization"]
    deposit = Authorization(
        int(given["deposit"]["amount"]),
        int(signed["validAfter"]),
        int(signed["validBefore"]),
        _raw(signed["salt"]),
        _raw(signed["signature"]),
    )
    binding = _raw(given["binding"]) if "binding" in given else None

    def write(encoding: Encoding) -> bytes:
        return encode_open(offer, config, service, register, deposit, binding, encoding)

    _written(case, write, "")


def _close(case: Case, setting: Case) -> None:
    given = case["input"]
    if "digest" in case:
        _digest(case, setting)
        return
    channel, seq, signature = _raw(given["channelId"]), int(given["seq"]), _raw(given["signature"])
    _written(case, lambda encoding: encode_close(channel, seq, signature, encoding), "")
    key = Key(_raw(setting["keys"]["payerAuthorizer"]["private"]))
    digest = digests.close_digest(setting["chainId"], channel, setting["gateway"], setting["device"], seq)
    _same("signature", hex_of(key.sign(digest)), given["signature"])


def _state(case: Case, setting: Case) -> None:
    given = case["input"]
    theirs = case["json"].encode()
    _same("answersJson", hex_of(answers_of(theirs)), case["answersJson"])
    _same("JSON", json.loads(theirs), given)
    if "session" in given:
        _same("own JSON", json.loads(encode_birth(given["session"], given["firmware"])), given)


# ---- messages that a device reads


def _offer(case: Case, setting: Case) -> None:
    payload = case["json"].encode()
    document = parse(payload)
    assert isinstance(document, dict)
    body = {key: value for key, value in document.items() if key not in ("id", "signature")}
    _same("canonical", canonical(body).decode(), case["canonical"])
    _same("digest", hex_of(offer_hash(document)), case["digest"])
    try:
        offer = read_offer(payload)
    except ValueError:
        _same("valid", False, case["valid"])
        return
    _same("valid", True, case["valid"])
    _same("id", hex_of(offer.id), case["id"])


def _receipt(case: Case, setting: Case) -> None:
    given = case["input"]

    def number(name: str) -> int | None:
        return int(given[name]) if name in given else None

    def octets(name: str) -> bytes | None:
        return _raw(given[name]) if name in given else None

    expected = Receipt(
        status=STATUSES.index(given["status"]),
        id=octets("id"),
        seq=number("seq"),
        reason=given.get("reason"),
        ceiling=number("maxClaimableAmount"),
        signature=octets("signature"),
        charged=number("cumulative"),
        balance=number("balance"),
        required_ceiling=number("requiredCeiling"),
        commit=number("commit"),
        answers=octets("answers"),
        last_seq=number("lastSeq"),
        last_register=number("lastRegister"),
        last_remainder=number("lastRemainder"),
        last_offer=octets("lastOffer"),
        offset=number("offset"),
        refunded=number("refunded"),
    )
    if case["json"] is not None:
        _same("JSON", decode_receipt(case["json"].encode()), expected)
    if case["cbor"] is not None:
        _same("CBOR", decode_receipt(_raw(case["cbor"])), expected)


# ---- the rest


def _pricing(case: Case, setting: Case) -> None:
    given = case["input"]
    position = Position(0, int(given["register"]), 0)
    for reading, result in zip(given["readings"], case["results"], strict=True):
        position = position.after(position.seq + 1, int(reading["register"]), int(reading["price"]))
        _same("charged", str(position.charged), result["charged"])
        _same("remainder", str(position.exact % NANO), result["remainder"])


def _fee(case: Case, setting: Case) -> None:
    given = case["input"]
    for earned, result in zip(given["earned"], case["results"], strict=True):
        fee, remainder = divmod(int(earned) * given["basisPoints"], 10**4)
        _same("fee", str(fee), result["fee"])
        _same("remainder", str(remainder), result["remainder"])


def _malformed(case: Case) -> None:
    payload = _raw(case["input"]["payload"])
    _same("answers", hex_of(answers_of(payload)), case["answers"])
    _same("refusal", REASONS[case["number"]], case["refusal"])


_CHECKS: dict[str, Callable[[Case, Case], None]] = {
    "channelId": _channel,
    "signature": _signature,
    "usage": _reading,
    "earn": _reading,
    "open": _open,
    "close": _close,
    "state": _state,
    "offer": _offer,
    "receipt": _receipt,
    "pricing": _pricing,
    "fee": _fee,
}
