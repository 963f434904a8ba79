"""Decoding and encoding against the golden vectors."""

from typing import Any

import cbor2
import pytest

from channels.refusals import Refusal
from devices.codec import decode
from devices.messages import (
    Close,
    Earn,
    Encoding,
    Message,
    Open,
    OpenEarner,
    Receipt,
    State,
    Status,
    Undecodable,
    Usage,
    answers_of,
    undecodable_receipt,
)
from devices.receipts import decode_receipt, encode_receipt
from tests.devices.test_vectors import cases


def hexed(value: bytes) -> str:
    return "0x" + value.hex()


def meaning(message: Message) -> dict[str, Any]:
    """Return a message as the vectors write it."""
    match message:
        case Usage():
            said = _reading(message, "channelId")
            said |= {"maxClaimableAmount": str(message.ceiling), "signature": hexed(message.signature)}
            if message.reading_signature is not None:
                said["readingSignature"] = hexed(message.reading_signature)
            return said
        case Earn():
            return _reading(message, "accountId") | {"readingSignature": hexed(message.reading_signature)}
        case Open():
            return _open(message)
        case OpenEarner():
            earner = {"payee": hexed(message.payee), "meterKey": hexed(message.meter_key)}
            earner |= {"salt": hexed(message.salt), "signature": hexed(message.signature)}
            return _optional({"service": message.service, "earner": earner}, message)
        case Close():
            return {"channelId": hexed(message.id), "seq": str(message.seq), "signature": hexed(message.signature)}
        case State():
            said = {"state": "online" if message.online else "lost"}
            said |= {} if message.session is None else {"session": message.session}
            return said | ({} if message.firmware is None else {"firmware": message.firmware})


def _reading(message: Usage | Earn, name: str) -> dict[str, Any]:
    said = {name: hexed(message.id), "seq": str(message.seq), "register": str(message.register)}
    return said | {"time": str(message.time), "offer": hexed(message.offer)}


def _open(message: Open) -> dict[str, Any]:
    config, given = message.config, message.authorization
    authorization = {"validAfter": str(given.valid_after), "validBefore": str(given.valid_before)}
    authorization |= {"salt": f"0x{given.salt:064x}", "signature": hexed(given.signature)}
    said: dict[str, Any] = {
        "channelConfig": {
            "payer": hexed(config.payer),
            "payerAuthorizer": hexed(config.payer_authorizer),
            "receiver": hexed(config.receiver),
            "receiverAuthorizer": hexed(config.receiver_authorizer),
            "token": hexed(config.token),
            "withdrawDelay": config.withdraw_delay,
            "salt": hexed(config.salt),
        },
        "service": message.service,
        "deposit": {
            "amount": str(message.amount),
            "authorization": {"erc3009Authorization": authorization},
        },
    }
    if message.binding is not None:
        said["binding"] = hexed(message.binding)
    return _optional(said, message)


def _optional(said: dict[str, Any], message: Open | OpenEarner) -> dict[str, Any]:
    if message.offer is not None:
        said["offer"] = hexed(message.offer)
    if message.register:
        said["register"] = str(message.register)
    return said


def payloads(case: dict[str, Any]) -> list[tuple[Encoding, bytes, str]]:
    found = []
    if case["json"] is not None:
        found.append((Encoding.JSON, case["json"].encode(), case["answersJson"]))
    if case["cbor"] is not None:
        found.append((Encoding.CBOR, bytes.fromhex(case["cbor"][2:]), case["answersCbor"]))
    return found


@pytest.mark.parametrize("case", [*cases("readings"), *cases("opens"), *cases("closes")])
def test_messages(case: dict[str, Any]) -> None:
    written = payloads(case)
    assert written
    for encoding, payload, answers in written:
        message = decode(case["kind"], payload)
        assert not isinstance(message, Undecodable)
        assert meaning(message) == case["input"]
        assert message.encoding is encoding
        assert hexed(message.answers) == answers


@pytest.mark.parametrize("case", cases("malformed"))
def test_malformed(case: dict[str, Any]) -> None:
    payload = bytes.fromhex(case["input"]["payload"][2:])
    found = decode(case["kind"], payload)
    assert isinstance(found, Undecodable), found
    assert found.refusal is Refusal(case["number"])
    assert found.refusal.wire_name == case["refusal"]
    assert found.encoding is Encoding.JSON
    assert hexed(found.answers) == case["answers"]


def test_exactly_the_greatest_size_is_read() -> None:
    case = next(c.values[0] for c in cases("readings") if c.values[0]["kind"] == "usage")
    payload = case["json"].encode().ljust(4096)
    assert isinstance(decode("usage", payload), Usage)
    assert decode("usage", payload + b" ") == Undecodable(Refusal.TOO_LARGE, Encoding.JSON, answers_of(payload + b" "))


def test_a_leaf_that_devices_do_not_send_is_a_fault_of_the_caller() -> None:
    with pytest.raises(KeyError):
        decode("receipt", b"{}")


def _receipt(given: dict[str, Any]) -> Receipt:
    names = {
        "id": "id",
        "seq": "seq",
        "maxClaimableAmount": "ceiling",
        "signature": "signature",
        "cumulative": "cumulative",
        "balance": "balance",
        "requiredCeiling": "required_ceiling",
        "commit": "commit",
        "lastSeq": "last_seq",
        "lastRegister": "last_register",
        "lastRemainder": "last_remainder",
        "lastOffer": "last_offer",
        "offset": "offset",
        "refunded": "refunded",
    }
    fields: dict[str, Any] = {}
    for name, attribute in names.items():
        if name in given:
            value = given[name]
            fields[attribute] = bytes.fromhex(value[2:]) if value.startswith("0x") else int(value)
    return Receipt(
        status=Status[given["status"].upper()],
        answers=bytes.fromhex(given["answers"][2:]),
        account=given.get("account", False),
        reason=Refusal(given["reasonNumber"]) if "reasonNumber" in given else None,
        **fields,
    )


@pytest.mark.parametrize("case", cases("receipts"))
def test_receipts(case: dict[str, Any]) -> None:
    receipt = _receipt(case["input"])
    text, binary = case["json"].encode(), bytes.fromhex(case["cbor"][2:])
    assert encode_receipt(receipt, Encoding.JSON) == text
    assert encode_receipt(receipt, Encoding.CBOR) == binary
    assert decode_receipt(text) == receipt
    # CBOR has no word for an account: key 1 is its id as well.
    account_less = _receipt({**case["input"], "account": False})
    assert decode_receipt(binary) == account_less
    assert set(cbor2.loads(binary)) <= set(range(1, 22))
    assert len(text) <= 1024


def test_the_receipt_of_what_could_not_be_read_says_only_that() -> None:
    found = decode("usage", b"nonsense")
    assert isinstance(found, Undecodable)
    receipt = undecodable_receipt(found)
    assert encode_receipt(receipt, found.encoding) == (
        b'{"status":"refused","answers":"0x' + answers_of(b"nonsense").hex().encode() + b'","reason":"malformed"}'
    )


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"{}", b"\xa0", b"\x01", b'{"status":"odd","answers":"0x"}'])
def test_what_is_no_receipt_is_said_to_be_none(payload: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        decode_receipt(payload)
