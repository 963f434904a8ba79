"""What an outsider is told when it is wrong: the reason of docs/protocol.md 5, and nothing has changed."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cbor2
import pytest

from tests.support.outsider import ABOUT_CHANNEL, ABOUT_UNKNOWN, BARE, Outsider, checked
from tests.support.outsider_link import answers_of
from tests.support.outsider_signing import high_s, key, sign, with_v
from tests.support.outsider_site import TOKEN, Site
from tests.support.outsider_wire import cbor_reading, json_reading

ENCODINGS = ("json", "cbor")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site("readings", 8)
    try:
        site.demo.broker_answers()
        yield site
    finally:
        site.end()


@pytest.fixture(scope="module")
def meter(site: Site) -> Outsider:
    """One channel that all refused readings are about: 12 tokens, with some readings accepted."""
    device = site.join("meter")
    assert device.open(12 * TOKEN, register=1_000)["status"] == "accepted"
    device.book.register = 1_000
    checked(device.pay(100, seq=2, ahead=700), device, 2)
    checked(device.pay(1, seq=9), device, 9)
    return device


@pytest.fixture(scope="module")
def newcomer(site: Site) -> Outsider:
    """A device that never opens anything: all its opens are refused."""
    return site.join("newcomer")


def proven_unchanged(device: Outsider, before: dict[str, Any]) -> None:
    """The next tight voucher is accepted, and its receipt goes on from the state of before."""
    assert device.expected() == before
    checked(device.pay(1), device, device.book.seq)


# -- readings --

Change = Callable[[Outsider], dict[str, Any]]
REFUSED: list[tuple[str, str, Change]] = [
    ("bad_signature", "high s", lambda d: _signature(d, high_s)),
    ("bad_signature", "v 0 or 1", lambda d: _signature(d, lambda made: with_v(made, made[64] - 27))),
    ("bad_signature", "the other v", lambda d: _signature(d, lambda made: with_v(made, 55 - made[64]))),
    ("bad_signature", "v 29", lambda d: _signature(d, lambda made: with_v(made, 29))),
    ("bad_signature", "r of zero", lambda d: _signature(d, lambda made: bytes(32) + made[32:])),
    ("bad_signature", "all zero", lambda d: _signature(d, lambda made: bytes(65))),
    ("bad_signature", "signed by the payer", lambda d: d.usage(3, signer=d.payer)),
    ("bad_signature", "signed by a stranger", lambda d: d.usage(3, signer=key("a stranger"))),
    ("bad_signature", "another ceiling", lambda d: d.usage(3, signed_ceiling=d.book.owed_after(3) - 1)),
    ("bad_signature", "another chain", lambda d: _other_chain(d)),
    ("bad_signature", "a reading signature of a stranger", lambda d: {**d.usage(3), "readingSignature": bytes(65)}),
    ("seq_conflict", "another register", lambda d: d.usage(5, seq=d.book.seq)),
    ("seq_conflict", "another ceiling", lambda d: d.usage(0, seq=d.book.seq, ahead=1)),
    ("seq_conflict", "an older one", lambda d: d.usage(5, seq=2)),
    ("seq_old", "never used", lambda d: d.usage(5, seq=5)),
    ("seq_old", "zero", lambda d: d.usage(5, seq=0)),
    ("seq_jump", "one too far", lambda d: d.usage(5, seq=d.book.seq + 2**20 + 1)),
    ("seq_jump", "the largest", lambda d: d.usage(5, seq=2**64 - 1)),
    ("offer_unknown", "a random one", lambda d: d.usage(5, offer=hashlib.sha256(b"?").digest()[:16])),
    ("register_lower", "by one", lambda d: d.usage(0, register=d.book.register - 1)),
    ("register_lower", "zero", lambda d: d.usage(0, register=0)),
    ("register_jump", "one above maxStep", lambda d: d.usage(_max_step(d) + 1, maxClaimableAmount=10 * TOKEN)),
    ("register_jump", "the largest", lambda d: d.usage(0, register=2**64 - 1)),
    ("ceiling_too_low", "by one", lambda d: d.usage(9, ahead=-1)),
    ("ceiling_too_low", "zero", lambda d: d.usage(9, maxClaimableAmount=0)),
    ("ceiling_above_balance", "by one", lambda d: d.usage(9, maxClaimableAmount=12 * TOKEN + 1)),
    ("ceiling_above_balance", "the largest", lambda d: d.usage(9, maxClaimableAmount=2**128 - 1)),
    ("ceiling_too_far", "by one", lambda d: d.usage(9, ahead=int(d.offer["maxAhead"]) + 1)),
]


def _signature(device: Outsider, change: Callable[[bytes], bytes]) -> dict[str, Any]:
    fields = device.usage(3)
    return {**fields, "signature": change(fields["signature"])}


def _other_chain(device: Outsider) -> dict[str, Any]:
    fields = device.usage(3)
    what = replace(device.chain, chain_id=1).voucher(fields["id"], fields["maxClaimableAmount"])
    return {**fields, "signature": sign(device.authorizer, what)}


def _max_step(device: Outsider) -> int:
    return int(device.offer["services"]["grid-power"]["maxStep"])


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("reason", "case", "change"), REFUSED, ids=[f"{r}-{c}" for r, c, _ in REFUSED])
def test_a_wrong_reading_is_refused_for_its_reason(
    meter: Outsider, encoding: str, reason: str, case: str, change: Change
) -> None:
    meter.encoding = encoding
    before = meter.expected()
    fields = change(meter)
    payload = meter.written("usage", fields)
    receipt = meter.connection.ask("usage", payload)
    assert receipt["reason"] == reason, (case, receipt)
    expected = ABOUT_CHANNEL | {"reason", "signature"}
    if reason == "ceiling_too_low":
        expected |= {"requiredCeiling"}
        assert receipt["requiredCeiling"] == meter.book.owed_after(9)
    assert set(receipt) - {"encoding", "names"} == expected
    assert (receipt["encoding"], receipt["status"], receipt["answers"]) == (encoding, "refused", answers_of(payload))
    assert (receipt["id"], receipt["seq"]) == (meter.book.id, fields["seq"])
    assert {name: receipt[name] for name in before} == before
    proven_unchanged(meter, before)


def test_a_refused_reading_may_be_mended_under_its_seq(meter: Outsider) -> None:
    """Only accepted readings consume a seq, and refusals are never replayed from store."""
    meter.encoding = "json"
    low = meter.usage(4, ahead=-1)
    payload = meter.written("usage", low)
    for _ in range(2):
        assert meter.connection.ask("usage", payload)["reason"] == "ceiling_too_low"
    receipt = meter.pay(4, maxClaimableAmount=meter.connection.ask("usage", payload)["requiredCeiling"])
    checked(receipt, meter, low["seq"])
    assert meter.connection.ask("usage", payload)["reason"] == "seq_conflict"


def test_the_first_failing_check_names_the_refusal(meter: Outsider) -> None:
    """Readings that are wrong in several ways, each with one fault less, from the top of the list down."""
    meter.encoding = "cbor"
    before = meter.expected()
    unknown = hashlib.sha256(b"?").digest()[:16]
    jump = meter.book.seq + 2**20 + 1
    rows = [
        ("bad_signature", {"seq": meter.book.seq, "offer": unknown, "register": 0, "signer": key("a stranger")}),
        ("seq_conflict", {"seq": meter.book.seq, "offer": unknown, "register": 0, "maxClaimableAmount": 0}),
        ("seq_old", {"seq": 1, "offer": unknown, "register": 0, "maxClaimableAmount": 0}),
        ("seq_jump", {"seq": jump, "offer": unknown, "register": 0, "maxClaimableAmount": 0}),
        ("offer_unknown", {"offer": unknown, "register": 0, "maxClaimableAmount": 0}),
        ("register_lower", {"register": 0, "maxClaimableAmount": 0}),
        ("register_jump", {"register": meter.book.register + _max_step(meter) + 1, "maxClaimableAmount": 0}),
        ("ceiling_too_low", {"register": meter.book.register + 100_000, "maxClaimableAmount": 12 * TOKEN + 1}),
        ("ceiling_above_balance", {"maxClaimableAmount": 12 * TOKEN + 1}),
        ("ceiling_too_far", {"maxClaimableAmount": 12 * TOKEN}),
    ]
    for reason, changes in rows:
        assert meter.send("usage", meter.usage(0, **changes))["reason"] == reason
    proven_unchanged(meter, before)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_unknown_channel_is_told_nothing(meter: Outsider, encoding: str) -> None:
    meter.encoding = encoding
    before = meter.expected()
    receipt = meter.send("usage", meter.usage(1, id=hashlib.sha256(b"no channel").digest()))
    assert receipt["reason"] == "unknown_channel"
    assert set(receipt) - {"encoding", "names"} == ABOUT_UNKNOWN
    earn = meter.send("earn", meter.earning(1, id=meter.book.id))
    assert earn["reason"] == "unknown_channel", "a channel is not an earner account"
    assert set(earn) - {"encoding", "names"} == ABOUT_UNKNOWN
    proven_unchanged(meter, before)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_another_devices_channel_is_told_nothing(
    site: Site, meter: Outsider, newcomer: Outsider, encoding: str
) -> None:
    meter.encoding = encoding
    before = meter.expected()
    fields = meter.usage(1)
    payload = meter.written("usage", fields)
    receipt = newcomer.connection.ask("usage", payload)
    assert receipt["reason"] == "wrong_device"
    assert set(receipt) - {"encoding", "names"} == ABOUT_UNKNOWN
    assert (receipt["id"], receipt["seq"]) == (meter.book.id, fields["seq"])
    assert meter.connection.count(payload) == 0, "the answer goes to the sender alone"
    proven_unchanged(meter, before)


def test_a_replay_by_another_device_is_refused(meter: Outsider, newcomer: Outsider) -> None:
    meter.encoding = "json"
    fields = meter.usage(1)
    assert meter.send("usage", fields)["status"] == "accepted"
    meter.book.take(1, fields["seq"], fields["maxClaimableAmount"], fields["signature"], fields["offer"])
    receipt = newcomer.connection.ask("usage", meter.written("usage", fields))
    assert receipt["reason"] == "wrong_device"
    assert set(receipt) - {"encoding", "names"} == ABOUT_UNKNOWN


# -- bytes that are no message --


def _json_with(**changes: Any) -> Callable[[Outsider], bytes]:
    def write(device: Outsider) -> bytes:
        item = json.loads(json_reading("usage", device.usage(2)))
        for name, value in changes.items():
            if value is ...:
                del item[name]
            else:
                item[name] = value
        return json.dumps(item).encode()

    return write


def _cbor_with(number: int, value: Any) -> Callable[[Outsider], bytes]:
    def write(device: Outsider) -> bytes:
        item = cbor2.loads(cbor_reading(device.usage(2)))
        if value is ...:
            del item[number]
        else:
            item[number] = value
        return cbor2.dumps(item)

    return write


def _cbor_text(change: Callable[[bytes, dict[str, Any]], bytes]) -> Callable[[Outsider], bytes]:
    def write(device: Outsider) -> bytes:
        fields = device.usage(2)
        return change(cbor_reading(fields), fields)

    return write


_TAG = cbor2.CBORTag
MALFORMED: dict[str, Callable[[Outsider], bytes]] = {
    "nothing": lambda d: b"",
    "an opening brace": lambda d: b"{",
    "an empty object": lambda d: b"{}",
    "an empty map": lambda d: b"\xa0",
    "text": lambda d: b"register 5",
    "random": lambda d: bytes(range(255, 0, -1)),
    "a JSON array": lambda d: b"[1,2]",
    "JSON and more": lambda d: json_reading("usage", d.usage(2)) + b" {}",
    "half of it": lambda d: json_reading("usage", d.usage(2))[:120],
    "no UTF-8": lambda d: json_reading("usage", d.usage(2)).replace(b'"seq"', b'"s\xff"'),
    "deep": lambda d: b'{"a":' * 300 + b"1" + b"}" * 300,
    "deep CBOR": lambda d: b"\x81" * 2_000 + b"\x01",
    "no seq": _json_with(seq=...),
    "no signature": _json_with(signature=...),
    "null": _json_with(seq=None),
    "true": _json_with(seq=True),
    "seq below zero": _json_with(seq=-1),
    "seq with a point": _json_with(seq=10.0),
    "seq of 2^53 as a number": _json_with(seq=2**53),
    "seq of 2^64": _json_with(seq=str(2**64)),
    "seq with a zero before it": _json_with(seq="010"),
    "seq with a sign": _json_with(seq="+10"),
    "seq in full-width digits": _json_with(seq="１０"),
    "an amount as a number": _json_with(maxClaimableAmount=5_000),
    "an amount with a zero before it": _json_with(maxClaimableAmount="05000"),
    "an amount below zero": _json_with(maxClaimableAmount="-1"),
    "an amount with a space": _json_with(maxClaimableAmount=" 5000"),
    "an amount with an exponent": _json_with(maxClaimableAmount="5e3"),
    "an empty amount": _json_with(maxClaimableAmount=""),
    "an amount of 2^128": _json_with(maxClaimableAmount=str(2**128)),
    "an id without 0x": _json_with(channelId="00" * 32),
    "an id that is too short": _json_with(channelId="0x" + "00" * 31),
    "an id that is no hex": _json_with(channelId="0x" + "zz" * 32),
    "an offer of 32 bytes": _json_with(offer="0x" + "00" * 32),
    "a signature of 64 bytes": _json_with(signature="0x" + "00" * 64),
    "an empty reading signature": _json_with(readingSignature="0x"),
    "CBOR without seq": _cbor_with(2, ...),
    "CBOR seq below zero": _cbor_with(2, -1),
    "CBOR seq of 2^64": _cbor_with(2, 2**64),
    "CBOR seq as text": _cbor_with(2, "10"),
    "CBOR seq as a float": _cbor_with(2, 10.0),
    "CBOR seq as true": _cbor_with(2, True),
    "CBOR id as text": _cbor_with(1, "0x" + "00" * 32),
    "CBOR ceiling of 2^128": _cbor_with(6, 2**128),
    "CBOR ceiling below zero by tag 3": _cbor_with(6, -(2**64) - 1),
    "CBOR with a tag around it": lambda d: cbor2.dumps(_TAG(55_799, cbor2.loads(cbor_reading(d.usage(2))))),
    "CBOR with a tagged time": _cbor_with(4, _TAG(1, 5)),
    "CBOR with string keys": lambda d: cbor2.dumps(d.usage(2)),
    "tag 2 below 2^64": _cbor_text(lambda t, f: t.replace(_ceiling(f), b"\x06\xc2\x48" + _eight(f))),
    "tag 2 with zeros": _cbor_text(lambda t, f: t.replace(_ceiling(f), b"\x06\xc2\x4a\x00" + b"\x01" * 9)),
    "bytes that follow": _cbor_text(lambda t, f: t + b"\x00"),
    "an indefinite map": _cbor_text(lambda t, f: b"\xbf" + t[1:] + b"\xff"),
    "an indefinite signature": _cbor_text(
        lambda t, f: t.replace(b"\x58\x41" + f["signature"], b"\x5f\x58\x41" + f["signature"] + b"\xff")
    ),
    "a key twice": _cbor_text(lambda t, f: bytes([t[0] + 1]) + t[1:] + b"\x02\x05"),
    "half of CBOR": _cbor_text(lambda t, f: t[:90]),
}


def _ceiling(fields: dict[str, Any]) -> bytes:
    return b"\x06" + cbor2.dumps(fields["maxClaimableAmount"])


def _eight(fields: dict[str, Any]) -> bytes:
    return int(fields["maxClaimableAmount"]).to_bytes(8, "big")


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_reading_is_malformed(meter: Outsider, case: str) -> None:
    meter.encoding = "json"
    before = meter.expected()
    payload = MALFORMED[case](meter)
    receipt = meter.connection.ask("usage", payload)
    assert receipt["reason"] == "malformed", receipt
    assert set(receipt) - {"encoding", "names"} == BARE
    assert (receipt["encoding"], receipt["answers"]) == ("json", answers_of(payload))
    assert meter.probe() == before


@pytest.mark.parametrize("leaf", ["usage", "earn", "open"])
@pytest.mark.parametrize("first", [b"{", b"\xa1"], ids=ENCODINGS)
def test_over_four_kib_is_refused_unread(meter: Outsider, leaf: str, first: bytes) -> None:
    for size in (4_097, 60_000):
        payload = first + b" " * (size - 1)
        receipt = meter.connection.ask(leaf, payload)
        assert receipt["reason"] == "too_large"
        assert set(receipt) - {"encoding", "names"} == BARE
        assert receipt["encoding"] == "json"


def test_a_reading_of_just_four_kib_is_read(meter: Outsider) -> None:
    meter.encoding = "json"
    fields = meter.usage(1)
    text = json_reading("usage", fields)
    for size, outcome in ((4_097, "refused"), (4_096, "accepted")):
        padded = text[:-1] + b" " * (size - len(text)) + text[-1:]
        assert len(padded) == size
        assert meter.connection.ask("usage", padded)["status"] == outcome
    meter.book.take(1, fields["seq"], fields["maxClaimableAmount"], fields["signature"], fields["offer"])
    checked(meter.pay(1), meter, meter.book.seq)


def test_topics_that_are_none_of_ours_are_not_answered(site: Site, meter: Outsider) -> None:
    before = meter.expected()
    payload = meter.written("usage", meter.usage(1))
    meter.connection.publish("usage/extra", payload)
    meter.connection.publish("receipts", payload)
    meter.connection.publish("usage", payload, device="not a device")
    meter.connection.publish("usage", payload, device="x" * 65)
    proven_unchanged(meter, before)
    assert meter.connection.count(payload) == 0


# -- earning --

EARNINGS: list[tuple[str, str, Callable[[Outsider], dict[str, Any]]]] = [
    ("bad_signature", "high s", lambda d: _earning_signature(d, high_s)),
    ("bad_signature", "v 0 or 1", lambda d: _earning_signature(d, lambda made: with_v(made, made[64] - 27))),
    ("bad_signature", "a stranger", lambda d: d.earning(3, signer=key("a stranger"))),
    ("bad_signature", "the payee instead of the meter", lambda d: d.earning(3, signer=key("earning payee"))),
    ("bad_signature", "another time", lambda d: {**d.earning(3), "time": 1}),
    ("seq_conflict", "another register", lambda d: d.earning(5, seq=d.book.seq)),
    ("seq_old", "never used", lambda d: d.earning(5, seq=3)),
    ("seq_jump", "one too far", lambda d: d.earning(5, seq=d.book.seq + 2**20 + 1)),
    ("offer_unknown", "a random one", lambda d: d.earning(5, offer=b"\x09" * 16)),
    ("register_lower", "by one", lambda d: d.earning(0, register=d.book.register - 1)),
    ("register_jump", "by one", lambda d: d.earning(int(d.offer["services"]["solar-export"]["maxStep"]) + 1)),
]


def _earning_signature(device: Outsider, change: Callable[[bytes], bytes]) -> dict[str, Any]:
    fields = device.earning(3)
    return {**fields, "readingSignature": change(fields["readingSignature"])}


@pytest.fixture(scope="module")
def roof(site: Site) -> Outsider:
    device = site.join("roof")
    assert device.open_earner(key("earning payee"), key("earning meter"), register=40)["status"] == "accepted"
    checked(device.earn(2, seq=7), device, 7)
    return device


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("reason", "case", "change"), EARNINGS, ids=[f"{r}-{c}" for r, c, _ in EARNINGS])
def test_a_wrong_earning_is_refused_for_its_reason(
    roof: Outsider, encoding: str, reason: str, case: str, change: Change
) -> None:
    roof.encoding = encoding
    receipt = roof.send("earn", change(roof))
    assert receipt["reason"] == reason, (case, receipt)
    state = (receipt["lastSeq"], receipt["lastRegister"], receipt["lastRemainder"], receipt["cumulative"])
    assert state == (roof.book.seq, roof.book.register, roof.book.exact % 10**9, roof.book.cumulative)
    assert "maxClaimableAmount" not in receipt
    assert "balance" not in receipt
    checked(roof.earn(1), roof, roof.book.seq)


def test_an_account_of_another_device_is_told_nothing(roof: Outsider, newcomer: Outsider) -> None:
    receipt = newcomer.connection.ask("earn", roof.written("earn", roof.earning(1)))
    assert receipt["reason"] == "wrong_device"
    assert set(receipt) - {"encoding", "names"} == ABOUT_UNKNOWN


def test_the_demo_counts_every_refusal_and_keeps_its_books(site: Site) -> None:
    """The last test of this module: the demo ends with its books conserved after all of the above."""
    site.leave()
    site.demo.process.terminate()
    result = site.demo.result()
    assert result["conserved"] is True
    assert result["refused_by_reason"] == dict(site.told() + Counter(result["fleet"]["refused"]))
    assert result["refused"] == sum(result["refused_by_reason"].values())
    named = {reason for reason, _, _ in (*REFUSED, *EARNINGS)}
    assert named <= result["refused_by_reason"].keys()
