"""The messages of docs/protocol.md 3 as a device writes and reads them, in JSON and CBOR, and the receipts to them."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import cbor2

from firmware_sim.canonical import SAFE_INTEGER
from firmware_sim.digests import ChannelConfig

Encoding = Literal["json", "cbor"]

# Receipts are about 700 bytes; the gateway's own limit for messages is the bound here too.
RECEIPT_BYTES_MAX = 4096

ACCEPTED, DUPLICATE, REFUSED = 0, 1, 2
STATUSES = ("accepted", "duplicate", "refused")

REASONS = {
    1: "too_large",
    2: "malformed",
    3: "unknown_channel",
    4: "wrong_device",
    5: "bad_signature",
    6: "seq_conflict",
    7: "seq_old",
    8: "seq_jump",
    9: "not_open",
    10: "offer_unknown",
    11: "offer_expired",
    12: "offer_regressed",
    13: "register_lower",
    14: "register_jump",
    15: "overflow",
    16: "ceiling_too_low",
    17: "ceiling_above_balance",
    18: "ceiling_too_far",
    19: "chain_stale",
    20: "deposit_pending",
    21: "deposit_invalid",
    22: "config_mismatch",
    23: "service_unknown",
    24: "deposit_too_small",
    25: "not_enrolled",
    26: "busy",
    28: "channel_taken",
}
TRANSIENT = frozenset({"chain_stale", "deposit_pending", "busy"})
# A refusal for one of these reasons means that device and gateway see different states, not a faulty device.
RESYNC = frozenset(
    {
        "seq_conflict",
        "seq_old",
        "seq_jump",
        "offer_unknown",
        "offer_expired",
        "offer_regressed",
        "register_lower",
        "register_jump",
        "ceiling_too_low",
        "ceiling_above_balance",
        "ceiling_too_far",
        "unknown_channel",
    }
)

# The retained `state` that the broker publishes for a device that vanished, and the device when it leaves.
WILL = b'{"state":"lost"}'

_U64 = 1 << 64
_U128 = 1 << 128
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,38}")
_HEX = re.compile(r"0x[0-9a-fA-F]*")


@dataclass(frozen=True, slots=True)
class Reading:
    """A reading ready for the wire. `voucher` is None when earning; `time_ms` is Unix ms by the device's clock."""

    id: bytes
    seq: int
    register: int
    time_ms: int
    offer: bytes
    ceiling: int
    voucher: bytes | None
    signature: bytes | None


@dataclass(frozen=True, slots=True)
class Authorization:
    """An ERC-3009 deposit authorization: amount in base units, times in chain seconds, 32-byte salt."""

    amount: int
    valid_after: int
    valid_before: int
    salt: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Earner:
    """Who is paid and which key signs readings; signature is the payee's over the account's id."""

    payee: bytes
    meter_key: bytes
    salt: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """A decoded receipt; fields that the message did not carry are None."""

    status: int
    id: bytes | None = None
    seq: int | None = None
    reason: str | None = None
    ceiling: int | None = None
    signature: bytes | None = None
    charged: int | None = None
    balance: int | None = None
    required_ceiling: int | None = None
    commit: int | None = None
    answers: bytes | None = None
    last_seq: int | None = None
    last_register: int | None = None
    last_remainder: int | None = None
    last_offer: bytes | None = None
    offset: int | None = None
    refunded: int | None = None


def hex_of(value: bytes) -> str:
    """0x-hex in lower case."""
    return "0x" + value.hex()


def answers_of(payload: bytes) -> bytes:
    """What a receipt's `answers` names `payload` by: the first 8 bytes of its SHA-256."""
    return hashlib.sha256(payload).digest()[:8]


def _number(value: int) -> int | str:
    return value if value <= SAFE_INTEGER else str(value)


def _json(document: dict[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def encode_reading(reading: Reading, encoding: Encoding) -> bytes:
    """Payload of a `usage` (with voucher) or `earn` (without) message."""
    pays = reading.voucher is not None
    if encoding == "cbor":
        fields: dict[int, object] = {
            1: reading.id,
            2: reading.seq,
            3: reading.register,
            4: reading.time_ms,
            5: reading.offer,
        }
        if pays:
            fields[6] = reading.ceiling
            fields[7] = reading.voucher
        if reading.signature is not None:
            fields[14] = reading.signature
        return cbor2.dumps(fields, canonical=True)
    document: dict[str, object] = {
        "channelId" if pays else "accountId": hex_of(reading.id),
        "seq": _number(reading.seq),
        "register": _number(reading.register),
        "time": _number(reading.time_ms),
        "offer": hex_of(reading.offer),
    }
    if reading.voucher is not None:
        document["maxClaimableAmount"] = str(reading.ceiling)
        document["signature"] = hex_of(reading.voucher)
    if reading.signature is not None:
        document["readingSignature"] = hex_of(reading.signature)
    return _json(document)


def encode_open(
    offer: bytes | None,
    config: ChannelConfig,
    service: str,
    register: int | None,
    deposit: Authorization,
    binding: bytes | None,
    encoding: Encoding,
) -> bytes:
    """Payload of an `open` that opens or tops up a channel; without offer the current one, without register 0."""
    raw, amount = _forms(encoding)
    document = _opening(offer, service, register, encoding)
    document["channelConfig"] = {
        "payer": raw(config.payer),
        "payerAuthorizer": raw(config.payer_authorizer),
        "receiver": raw(config.receiver),
        "receiverAuthorizer": raw(config.receiver_authorizer),
        "token": raw(config.token),
        "withdrawDelay": config.withdraw_delay,
        "salt": raw(config.salt),
    }
    document["deposit"] = {
        "amount": amount(deposit.amount),
        "authorization": {
            "erc3009Authorization": {
                "validAfter": amount(deposit.valid_after),
                "validBefore": amount(deposit.valid_before),
                "salt": raw(deposit.salt),
                "signature": raw(deposit.signature),
            }
        },
    }
    if binding is not None:
        document["binding"] = raw(binding)
    return _encoded(document, encoding)


def encode_earner_open(
    offer: bytes | None,
    service: str,
    register: int | None,
    earner: Earner,
    encoding: Encoding,
) -> bytes:
    """Payload of an `open` that enrols an earner account."""
    raw, _ = _forms(encoding)
    document = _opening(offer, service, register, encoding)
    document["earner"] = {
        "payee": raw(earner.payee),
        "meterKey": raw(earner.meter_key),
        "salt": raw(earner.salt),
        "signature": raw(earner.signature),
    }
    return _encoded(document, encoding)


def encode_close(channel: bytes, seq: int, signature: bytes, encoding: Encoding) -> bytes:
    """Payload of a `close` message."""
    raw, _ = _forms(encoding)
    number = seq if encoding == "cbor" else _number(seq)
    return _encoded({"channelId": raw(channel), "seq": number, "signature": raw(signature)}, encoding)


def encode_birth(session: int, firmware: str) -> bytes:
    """Payload of the retained `state` of a device that came online; `session` counts its starts."""
    return _json({"state": "online", "session": _number(session), "firmware": firmware})


def _opening(offer: bytes | None, service: str, register: int | None, encoding: Encoding) -> dict[str, object]:
    raw, amount = _forms(encoding)
    document: dict[str, object] = {"service": service}
    if offer is not None:
        document["offer"] = raw(offer)
    if register is not None:
        document["register"] = amount(register)
    return document


def _forms(encoding: Encoding) -> tuple[Callable[[bytes], object], Callable[[int], object]]:
    """How bytes and amounts of an `open` or `close` are written: CBOR has the names of JSON, raw bytes and integers."""
    return (bytes, int) if encoding == "cbor" else (hex_of, str)


def _encoded(document: dict[str, object], encoding: Encoding) -> bytes:
    return cbor2.dumps(document, canonical=True) if encoding == "cbor" else _json(document)


def decode_receipt(payload: bytes) -> Receipt:
    """A receipt from its JSON or CBOR form; ValueError for anything else."""
    if len(payload) > RECEIPT_BYTES_MAX:
        raise ValueError("receipt: too large")
    if payload[:1] == b"{":
        return _from_json(payload)
    return _from_cbor(payload)


def _from_json(payload: bytes) -> Receipt:
    try:
        document = json.loads(payload)
    except RecursionError:
        raise ValueError("receipt: nested too deep") from None
    if not isinstance(document, dict) or document.get("status") not in STATUSES:
        raise ValueError("receipt: no status")
    reason = document.get("reason")
    if reason is not None and not isinstance(reason, str):
        raise ValueError("receipt: reason must be a name")
    charged = "earnedCumulativeAmount" if "earnedCumulativeAmount" in document else "chargedCumulativeAmount"
    return Receipt(
        status=STATUSES.index(document["status"]),
        id=_json_bytes(document, "accountId" if "accountId" in document else "channelId", 32),
        seq=_json_number(document, "seq", _U64),
        reason=reason,
        ceiling=_json_amount(document, "maxClaimableAmount"),
        signature=_json_bytes(document, "signature", 65),
        charged=_json_amount(document, charged),
        balance=_json_amount(document, "balance"),
        required_ceiling=_json_amount(document, "requiredCeiling"),
        commit=_json_number(document, "commit", _U64),
        answers=_json_bytes(document, "answers", 8),
        last_seq=_json_number(document, "lastSeq", _U64),
        last_register=_json_number(document, "lastRegister", _U64),
        last_remainder=_json_amount(document, "lastRemainder"),
        last_offer=_json_bytes(document, "lastOffer", 16),
        offset=_json_amount(document, "offset"),
        refunded=_json_amount(document, "refunded"),
    )


def _json_amount(document: dict[str, object], key: str) -> int | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value) or int(value) >= _U128:
        raise ValueError(f"receipt: {key} is not an amount")
    return int(value)


def _json_number(document: dict[str, object], key: str, limit: int) -> int | None:
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        number = int(value)
    elif isinstance(value, int) and not isinstance(value, bool) and value <= SAFE_INTEGER:
        number = value
    else:
        raise ValueError(f"receipt: {key} is not a number")
    if not 0 <= number < limit:
        raise ValueError(f"receipt: {key} out of range")
    return number


def _json_bytes(document: dict[str, object], key: str, size: int) -> bytes | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) != 2 + 2 * size or not _HEX.fullmatch(value):
        raise ValueError(f"receipt: {key} is not {size} bytes of 0x-hex")
    return bytes.fromhex(value[2:])


def _from_cbor(payload: bytes) -> Receipt:
    source = BytesIO(payload)
    try:
        document = cbor2.load(source, allow_indefinite=False, allow_duplicate_keys=False)
    except (cbor2.CBORDecodeError, RecursionError) as error:
        raise ValueError(f"receipt: {error}") from None
    if source.tell() != len(payload):
        raise ValueError("receipt: more than one item")
    status = document.get(8) if isinstance(document, dict) else None
    if isinstance(status, bool) or status not in (ACCEPTED, DUPLICATE, REFUSED):
        raise ValueError("receipt: no status")
    reason = _cbor_number(document, 9, _U64)
    return Receipt(
        status=status,
        id=_cbor_bytes(document, 1, 32),
        seq=_cbor_number(document, 2, _U64),
        reason=None if reason is None else REASONS.get(reason, f"reason_{reason}"),
        ceiling=_cbor_number(document, 6, _U128),
        signature=_cbor_bytes(document, 7, 65),
        charged=_cbor_number(document, 10, _U128),
        balance=_cbor_number(document, 11, _U128),
        required_ceiling=_cbor_number(document, 12, _U128),
        commit=_cbor_number(document, 13, _U64),
        answers=_cbor_bytes(document, 15, 8),
        last_seq=_cbor_number(document, 16, _U64),
        last_register=_cbor_number(document, 17, _U64),
        last_remainder=_cbor_number(document, 18, _U128),
        last_offer=_cbor_bytes(document, 19, 16),
        offset=_cbor_number(document, 20, _U128),
        refunded=_cbor_number(document, 21, _U128),
    )


def _cbor_number(document: dict[object, object], key: int, limit: int) -> int | None:
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < limit:
        raise ValueError(f"receipt: field {key} out of range")
    return value


def _cbor_bytes(document: dict[object, object], key: int, size: int) -> bytes | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, bytes) or len(value) != size:
        raise ValueError(f"receipt: field {key} is not {size} bytes")
    return value
