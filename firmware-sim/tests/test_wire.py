"""Encodings: what a device writes, what it reads, and that nothing it reads can hurt it."""

import json
from random import Random

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_gateway import _encode

from firmware_sim.digests import ChannelConfig
from firmware_sim.wire import (
    REASONS,
    Authorization,
    Earner,
    Reading,
    Receipt,
    answers_of,
    decode_receipt,
    encode_earner_open,
    encode_open,
    encode_reading,
)

ID, OFFER, SIG = b"\xab" * 32, b"\xcd" * 16, b"\xef" * 65


def reading(**changes) -> Reading:
    fields = {"id": ID, "seq": 7, "register": 12, "time_ms": 1_700_000_000_123, "offer": OFFER}
    fields |= {"ceiling": 5, "voucher": SIG, "signature": None}
    return Reading(**(fields | changes))


def test_usage_json() -> None:
    document = json.loads(encode_reading(reading(), "json"))
    assert document == {
        "channelId": "0x" + "ab" * 32,
        "seq": 7,
        "register": 12,
        "time": 1_700_000_000_123,
        "offer": "0x" + "cd" * 16,
        "maxClaimableAmount": "5",
        "signature": "0x" + "ef" * 65,
    }


def test_numbers_that_json_cannot_carry_become_strings() -> None:
    big = reading(seq=2**53, register=2**64 - 1, ceiling=2**128 - 1)
    document = json.loads(encode_reading(big, "json"))
    assert document["seq"] == "9007199254740992"
    assert document["register"] == "18446744073709551615"
    assert document["maxClaimableAmount"] == str(2**128 - 1)
    assert json.loads(encode_reading(reading(seq=2**53 - 1), "json"))["seq"] == 2**53 - 1


def test_usage_cbor_is_canonical_with_big_ceilings_as_tag_2() -> None:
    payload = encode_reading(reading(ceiling=2**64, signature=SIG), "cbor")
    assert payload[0] == 0xA0 + 8
    assert b"\x06\xc2\x49\x01" + bytes(8) in payload
    assert cbor2.loads(payload) == {
        1: ID,
        2: 7,
        3: 12,
        4: 1_700_000_000_123,
        5: OFFER,
        6: 2**64,
        7: SIG,
        14: SIG,
    }
    assert b"\x06\x1b" + b"\xff" * 8 in encode_reading(reading(ceiling=2**64 - 1), "cbor")


def test_earn_has_no_money() -> None:
    earning = reading(voucher=None, ceiling=0, signature=SIG)
    assert set(cbor2.loads(encode_reading(earning, "cbor"))) == {1, 2, 3, 4, 5, 14}
    assert set(json.loads(encode_reading(earning, "json"))) == {
        "accountId",
        "seq",
        "register",
        "time",
        "offer",
        "readingSignature",
    }


CONFIG = ChannelConfig(*(bytes([i]) * 20 for i in range(1, 6)), 86400, b"\x06" * 32)
EARNER = Earner(ID[:20], ID[:20], ID, SIG)
DEPOSIT = Authorization(5_000_000, 0, 1_800_000_000, b"\x07" * 32, SIG)


def test_open_json() -> None:
    document = json.loads(encode_open(OFFER, CONFIG, "grid-power", 10, DEPOSIT, SIG, "json"))
    assert document == {
        "offer": "0x" + "cd" * 16,
        "channelConfig": {
            "payer": "0x" + "01" * 20,
            "payerAuthorizer": "0x" + "02" * 20,
            "receiver": "0x" + "03" * 20,
            "receiverAuthorizer": "0x" + "04" * 20,
            "token": "0x" + "05" * 20,
            "withdrawDelay": 86400,
            "salt": "0x" + "06" * 32,
        },
        "service": "grid-power",
        "register": "10",
        "deposit": {
            "amount": "5000000",
            "authorization": {
                "erc3009Authorization": {
                    "validAfter": "0",
                    "validBefore": "1800000000",
                    "salt": "0x" + "07" * 32,
                    "signature": "0x" + "ef" * 65,
                }
            },
        },
        "binding": "0x" + "ef" * 65,
    }


def test_open_cbor_has_the_same_names_with_raw_values() -> None:
    document = cbor2.loads(encode_open(OFFER, CONFIG, "grid-power", 10, DEPOSIT, None, "cbor"))
    assert document["channelConfig"]["payer"] == b"\x01" * 20
    assert document["deposit"]["amount"] == 5_000_000
    assert document["register"] == 10
    assert "binding" not in document
    earner = cbor2.loads(encode_earner_open(OFFER, "solar-export", 3, EARNER, "cbor"))
    assert earner["earner"] == {"payee": ID[:20], "meterKey": ID[:20], "salt": ID, "signature": SIG}
    text = json.loads(encode_earner_open(OFFER, "solar-export", 3, EARNER, "json"))
    assert text["register"] == "3"
    assert text["earner"]["meterKey"] == "0x" + "ab" * 20


FULL = {
    1: ID,
    2: 7,
    6: 2**100,
    7: SIG,
    8: 2,
    9: 16,
    10: 2**90,
    11: 9,
    12: 11,
    13: 2**60,
    15: b"12345678",
    16: 6,
    17: 2**63,
    18: 999_999_999,
    19: OFFER,
    20: 3,
}


@pytest.mark.parametrize("earns", [False, True])
def test_receipts_read_the_same_in_both_encodings(earns: bool) -> None:
    fields = {key: value for key, value in FULL.items() if not (earns and key in (6, 7, 11, 12))}
    text = decode_receipt(_encode(fields, earns, True))
    assert text == decode_receipt(_encode(fields, earns, False))
    assert (text.reason, text.commit, text.charged, text.last_offer) == ("ceiling_too_low", 2**60, 2**90, OFFER)


def test_an_undecodable_message_gets_a_receipt_without_an_id() -> None:
    receipt = decode_receipt(_encode({8: 2, 9: 2, 15: b"12345678"}, False, True))
    assert receipt == Receipt(status=2, reason="malformed", answers=b"12345678")


def test_reasons_are_numbered_for_ever() -> None:
    assert len(REASONS) == 27
    assert 27 not in REASONS
    assert [REASONS[n] for n in (1, 5, 9, 19, 20, 26, 28)] == [
        "too_large",
        "bad_signature",
        "not_open",
        "chain_stale",
        "deposit_pending",
        "busy",
        "channel_taken",
    ]
    unknown = decode_receipt(cbor2.dumps({8: 2, 9: 99}))
    assert unknown.reason == "reason_99"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", "maybe"),
        ("status", 0),
        ("seq", -1),
        ("seq", 1.0),
        ("seq", True),
        ("seq", "01"),
        ("seq", str(2**64)),
        ("seq", 2**53),
        ("balance", 5),
        ("balance", "-1"),
        ("balance", str(2**128)),
        ("channelId", "0xab"),
        ("channelId", "ab" * 33),
        ("signature", 5),
        ("reason", 5),
        ("answers", "0x" + "zz" * 8),
    ],
)
def test_malformed_json_receipts(key: str, value: object) -> None:
    with pytest.raises(ValueError):
        decode_receipt(json.dumps({"status": "accepted", key: value}).encode())


@pytest.mark.parametrize(
    ("key", "value"),
    [(8, 3), (8, True), (8, "accepted"), (2, -1), (2, 2**64), (2, 1.5), (1, b"x"), (1, "x"), (11, 2**128), (9, "x")],
)
def test_malformed_cbor_receipts(key: int, value: object) -> None:
    with pytest.raises(ValueError):
        decode_receipt(cbor2.dumps({8: 0} | {key: value}))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b'{"status":"accepted"}' + b" " * 4096,
        b'{"status":' + b"[" * 2000 + b"]" * 2000 + b"}",
        b"\xbf\x08\x00\xff",
        b"\xa2\x08\x00\x08\x01",
        b"\x81" * 2000,
        cbor2.dumps({8: 0}) + b"\x00",
    ],
)
def test_not_receipts(payload: bytes) -> None:
    with pytest.raises(ValueError):
        decode_receipt(payload)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_never_raise_anything_else(payload: bytes) -> None:
    try:
        decode_receipt(payload)
    except ValueError:
        return


def test_mutated_receipts_never_raise_anything_else() -> None:
    seed = 77
    print(f"seed {seed}")
    random = Random(seed)
    originals = [_encode(FULL, False, as_json) for as_json in (True, False)]
    refused = 0
    for _ in range(5000):
        payload = bytearray(random.choice(originals))
        for _ in range(random.randint(1, 4)):
            payload[random.randrange(len(payload))] = random.randrange(256)
        try:
            decode_receipt(bytes(payload))
        except ValueError:
            refused += 1
    assert refused > 1000


def test_answers_name_the_payload() -> None:
    assert answers_of(b"").hex() == "e3b0c44298fc1c14"
