"""Receipts in both encodings."""

from hashlib import sha256
from typing import Any

from channels import digests, signatures
from channels.refusals import Refusal
from channels.types import U64_MAX, U128_MAX
from devices.messages import Encoding, Receipt, Status
from devices.receipts import encode_receipt
from tests.vectors.setting import ACCOUNT, CHANNEL, NETWORK, OFFER, Case, hexed, key


def _receipt(name: str, receipt: Receipt) -> Case:
    given: Case = {"status": receipt.status.wire_name, "answers": hexed(receipt.answers)}
    if receipt.account:
        given["account"] = True
    if receipt.reason is not None:
        given["reason"] = receipt.reason.wire_name
        given["reasonNumber"] = int(receipt.reason)
    names = {
        "id": receipt.id,
        "seq": receipt.seq,
        "maxClaimableAmount": receipt.ceiling,
        "signature": receipt.signature,
        "cumulative": receipt.cumulative,
        "balance": receipt.balance,
        "requiredCeiling": receipt.required_ceiling,
        "commit": receipt.commit,
        "lastSeq": receipt.last_seq,
        "lastRegister": receipt.last_register,
        "lastRemainder": receipt.last_remainder,
        "lastOffer": receipt.last_offer,
        "offset": receipt.offset,
        "refunded": receipt.refunded,
    }
    for field, value in names.items():
        if value is not None:
            given[field] = hexed(value) if isinstance(value, bytes) else str(value)
    text = encode_receipt(receipt, Encoding.JSON).decode()
    binary = encode_receipt(receipt, Encoding.CBOR)
    return {"name": name, "kind": "receipt", "input": given, "json": text, "cbor": hexed(binary)}


def receipt_cases() -> list[Case]:
    """Return receipts of every kind."""
    answers = sha256(b"metergate vector payload").digest()[:8]
    voucher = signatures.sign(digests.voucher_digest(CHANNEL, 185_100, NETWORK), key("payerAuthorizer"))
    known: dict[str, Any] = {
        "answers": answers,
        "id": CHANNEL,
        "seq": 7,
        "ceiling": 185_100,
        "signature": voucher,
        "cumulative": 185_100,
        "balance": 5_000_000,
        "commit": 42,
        "last_seq": 7,
        "last_register": 1234,
        "last_remainder": 0,
        "last_offer": OFFER.id,
        "offset": 0,
    }
    opened = {
        **{name: known[name] for name in ("answers", "id", "balance", "last_offer")},
        "seq": 0,
        "ceiling": 0,
        "cumulative": 0,
        "commit": 1,
        "last_seq": 0,
        "last_register": 123_456,
        "last_remainder": 0,
        "offset": 0,
    }
    account: dict[str, Any] = {
        "answers": answers,
        "account": True,
        "id": ACCOUNT,
        "seq": 3,
        "cumulative": 72_000,
        "commit": 43,
        "last_seq": 3,
        "last_register": 900,
        "last_remainder": 0,
        "last_offer": OFFER.id,
        "offset": 10_000,
    }
    refused = Status.REFUSED
    low = {**known, "seq": 8, "required_ceiling": 186_000}
    closed = {**known, "seq": 8, "balance": 185_100, "commit": 44, "last_seq": 8, "refunded": 4_814_900}
    huge = {**known, "seq": U64_MAX, "commit": 2**53, "last_seq": U64_MAX, "last_register": 2**53 - 1}
    amounts = {"ceiling": U128_MAX, "cumulative": U128_MAX, "balance": U128_MAX, "offset": U128_MAX}
    return [
        _receipt("accepted", Receipt(status=Status.ACCEPTED, **known)),
        _receipt("duplicate", Receipt(status=Status.DUPLICATE, **known)),
        _receipt("opened: no voucher yet", Receipt(status=Status.ACCEPTED, **opened)),
        _receipt("refused: ceiling too low", Receipt(status=refused, reason=Refusal.CEILING_TOO_LOW, **low)),
        _receipt(
            "refused: the register went back",
            Receipt(status=refused, reason=Refusal.REGISTER_LOWER, **{**known, "seq": 8}),
        ),
        _receipt("everything at its greatest", Receipt(status=Status.ACCEPTED, **{**huge, **amounts})),
        _receipt("closed", Receipt(status=Status.ACCEPTED, **closed)),
        _receipt("closed, sent again", Receipt(status=Status.DUPLICATE, **closed)),
        _receipt("closed with nothing to give back", Receipt(status=Status.ACCEPTED, **{**closed, "refunded": 0})),
        _receipt("closed at the greatest", Receipt(status=Status.ACCEPTED, **{**closed, "refunded": U128_MAX})),
        _receipt("refused: closing", Receipt(status=refused, reason=Refusal.NOT_OPEN, **{**known, "seq": 9})),
        _receipt(
            "refused: unknown channel",
            Receipt(status=refused, reason=Refusal.UNKNOWN_CHANNEL, answers=answers, id=b"\x11" * 32, seq=5),
        ),
        _receipt(
            "refused: another device's channel",
            Receipt(status=refused, reason=Refusal.WRONG_DEVICE, answers=answers, id=CHANNEL, seq=5),
        ),
        _receipt(
            "refused: open that is not enrolled",
            Receipt(status=refused, reason=Refusal.NOT_ENROLLED, answers=answers, id=CHANNEL, seq=0),
        ),
        _receipt("refused: undecodable", Receipt(status=refused, reason=Refusal.MALFORMED, answers=answers)),
        _receipt("refused: too large", Receipt(status=refused, reason=Refusal.TOO_LARGE, answers=answers)),
        _receipt("account: accepted", Receipt(status=Status.ACCEPTED, **account)),
        _receipt("account: refused", Receipt(status=refused, reason=Refusal.SEQ_OLD, **{**account, "seq": 2})),
        _receipt(
            "account: unknown",
            Receipt(
                status=refused,
                reason=Refusal.UNKNOWN_CHANNEL,
                answers=answers,
                account=True,
                id=b"\x22" * 32,
                seq=1,
            ),
        ),
    ]
