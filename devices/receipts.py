"""Receipts in both encodings (docs/protocol.md 3)."""

import json
from collections.abc import Callable
from typing import Any

import cbor2

from channels.refusals import Refusal
from devices import cbor_codec as key
from devices.json_codec import NUMBER_MAX
from devices.messages import Encoding, Receipt, Status

# (attribute, JSON name, CBOR key), in the order in which they are written. For earner accounts two JSON names
# differ. `status` and `reason` are written by name in JSON and by number in CBOR.
_BYTES = (
    ("id", "channelId", key.ID),
    ("signature", "signature", key.SIGNATURE),
    ("answers", "answers", key.ANSWERS),
    ("last_offer", "lastOffer", key.LAST_OFFER),
)
_AMOUNTS = (
    ("ceiling", "maxClaimableAmount", key.CEILING),
    ("cumulative", "chargedCumulativeAmount", key.CUMULATIVE),
    ("balance", "balance", key.BALANCE),
    ("required_ceiling", "requiredCeiling", key.REQUIRED_CEILING),
    ("last_remainder", "lastRemainder", key.LAST_REMAINDER),
    ("offset", "offset", key.OFFSET),
    ("refunded", "refunded", key.REFUNDED),
)
_NUMBERS = (
    ("seq", "seq", key.SEQ),
    ("commit", "commit", key.COMMIT),
    ("last_seq", "lastSeq", key.LAST_SEQ),
    ("last_register", "lastRegister", key.LAST_REGISTER),
)
_ACCOUNT_NAMES = {"channelId": "accountId", "chargedCumulativeAmount": "earnedCumulativeAmount"}

_STATUS_NAMES = {status.wire_name: status for status in Status}
_REASON_NAMES = {refusal.wire_name: refusal for refusal in Refusal}


def encode_receipt(receipt: Receipt, encoding: Encoding) -> bytes:
    """Return the payload of a receipt; fields that are None are left out."""
    return _cbor(receipt) if encoding is Encoding.CBOR else _json(receipt)


def _number(value: int) -> str:
    return str(value) if value <= NUMBER_MAX else f'"{value}"'


def _json(r: Receipt) -> bytes:
    # Written out by hand: a general encoder needs an intermediate dict and takes three times as long.
    parts = [f'{{"status":"{r.status.wire_name}","answers":"0x{r.answers.hex()}"']
    add = parts.append
    if r.reason is not None:
        add(f',"reason":"{r.reason.wire_name}"')
    if r.id is not None:
        add(f',"{"accountId" if r.account else "channelId"}":"0x{r.id.hex()}"')
    if r.seq is not None:
        add(f',"seq":{_number(r.seq)}')
    if r.ceiling is not None:
        add(f',"maxClaimableAmount":"{r.ceiling}"')
    if r.signature is not None:
        add(f',"signature":"0x{r.signature.hex()}"')
    if r.cumulative is not None:
        name = "earnedCumulativeAmount" if r.account else "chargedCumulativeAmount"
        add(f',"{name}":"{r.cumulative}"')
    if r.balance is not None:
        add(f',"balance":"{r.balance}"')
    if r.required_ceiling is not None:
        add(f',"requiredCeiling":"{r.required_ceiling}"')
    if r.commit is not None:
        add(f',"commit":{_number(r.commit)}')
    if r.last_seq is not None:
        add(f',"lastSeq":{_number(r.last_seq)}')
    if r.last_register is not None:
        add(f',"lastRegister":{_number(r.last_register)}')
    if r.last_remainder is not None:
        add(f',"lastRemainder":"{r.last_remainder}"')
    if r.last_offer is not None:
        add(f',"lastOffer":"0x{r.last_offer.hex()}"')
    if r.offset is not None:
        add(f',"offset":"{r.offset}"')
    if r.refunded is not None:
        add(f',"refunded":"{r.refunded}"')
    add("}")
    return "".join(parts).encode()


def _cbor(r: Receipt) -> bytes:
    fields = (
        (key.ID, r.id),
        (key.SEQ, r.seq),
        (key.CEILING, r.ceiling),
        (key.SIGNATURE, r.signature),
        (key.STATUS, int(r.status)),
        (key.REASON, None if r.reason is None else int(r.reason)),
        (key.CUMULATIVE, r.cumulative),
        (key.BALANCE, r.balance),
        (key.REQUIRED_CEILING, r.required_ceiling),
        (key.COMMIT, r.commit),
        (key.ANSWERS, r.answers),
        (key.LAST_SEQ, r.last_seq),
        (key.LAST_REGISTER, r.last_register),
        (key.LAST_REMAINDER, r.last_remainder),
        (key.LAST_OFFER, r.last_offer),
        (key.OFFSET, r.offset),
        (key.REFUNDED, r.refunded),
    )
    return cbor2.dumps({number: value for number, value in fields if value is not None})


def decode_receipt(payload: bytes) -> Receipt:
    """Read a receipt, as a device or a watcher does. Raises ValueError or KeyError for what is not one.

    CBOR does not say whether an id is a channel's or an account's: `account` is then False.
    """
    if payload[:1] == b"{":
        item = json.loads(payload)
        account = "accountId" in item
        names = _ACCOUNT_NAMES if account else {}
        return _receipt(
            lambda name, _: item.get(names.get(name, name)),
            account,
            lambda text: bytes.fromhex(text[2:]),
            _STATUS_NAMES[item["status"]],
            _REASON_NAMES[item["reason"]] if "reason" in item else None,
        )
    try:
        item = cbor2.loads(payload, allow_indefinite=False, allow_duplicate_keys=False)
    except cbor2.CBORError as error:
        raise ValueError(f"it is neither JSON nor CBOR: {error}") from error
    if type(item) is not dict:
        raise ValueError("it is not a map")
    reason = item.get(key.REASON)
    return _receipt(
        lambda _, number: item.get(number),
        False,
        bytes,
        Status(item[key.STATUS]),
        None if reason is None else Refusal(reason),
    )


def _receipt(
    get: Callable[[str, int], Any],
    account: bool,
    to_bytes: Callable[[Any], bytes],
    status: Status,
    reason: Refusal | None,
) -> Receipt:
    fields: dict[str, Any] = {}
    for attribute, name, number in _BYTES:
        value = get(name, number)
        fields[attribute] = None if value is None else to_bytes(value)
    for attribute, name, number in (*_AMOUNTS, *_NUMBERS):
        value = get(name, number)
        fields[attribute] = None if value is None else int(value)
    return Receipt(status=status, reason=reason, account=account, **fields)
