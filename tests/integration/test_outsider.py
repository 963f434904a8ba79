"""A device that was written from docs/protocol.md alone joins a demo, pays, earns and loses its state."""

import ast
import time
from collections.abc import Iterator
from pathlib import Path

import cbor2
import pytest

from tests.support import outsider as outsiders
from tests.support.outsider import ABOUT_CHANNEL, Outsider, checked
from tests.support.outsider_link import Connection, answers_of
from tests.support.outsider_signing import address, checked_offer, key
from tests.support.outsider_site import TOKEN, Site
from tests.support.outsider_wire import json_reading, plain

ENCODINGS = ("json", "cbor")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site("outsider", 44)
    try:
        site.demo.broker_answers()
        yield site
    finally:
        site.end()


@pytest.fixture(autouse=True)
def _leave(site: Site) -> Iterator[None]:
    yield
    site.leave()


def opened(site: Site, encoding: str = "json", amount: int = 5 * TOKEN, **options: object) -> Outsider:
    device = site.join("dev", encoding=encoding)
    receipt = device.open(amount, **options)
    assert receipt["status"] == "accepted", receipt
    return device


def test_the_outsider_shares_no_code_with_the_project() -> None:
    """An oracle that imports what it checks checks nothing."""
    ours = {"channels", "devices", "settlement", "gateway", "firmware_sim", "parallel_evm"}
    for path in Path(outsiders.__file__).parent.glob("outsider*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in names} & ours, path.name


def test_who_connects_as_soon_as_the_broker_answers_gets_a_signed_offer(site: Site) -> None:
    early = Connection(site.demo.mqtt_port, "early")
    early.first_offer()
    early.close()
    payload, retained = site.join().connection.first_offer()
    assert retained
    offer = checked_offer(payload)
    assert (offer["version"], offer["gateway"], offer["network"]) == (1, "gw1", "eip155:31402")
    assert offer["services"]["grid-power"]["unit"] == "Wh"
    assert offer["services"]["grid-power"]["price"] == "150000000000"
    assert offer["services"]["grid-power"]["direction"] == "pay"
    assert {name: (line["price"], line["direction"]) for name, line in offer["services"].items()} == {
        "grid-power": ("150000000000", "pay"),
        "ev-charging": ("250000000000", "pay"),
        "water": ("4000000000000", "pay"),
        "solar-export": ("80000000000", "earn"),
        "air-quality": ("500000000000", "earn"),
    }
    assert offer["serial"] >= 1
    assert 900 <= offer["withdrawDelay"] <= 30 * 86_400
    assert offer["validFrom"] <= time.time() < offer["validUntil"]
    assert abs(offer["validFrom"] - time.time()) < 600, "the demo's chain time is the wall clock"
    assert all(isinstance(offer[name], str) for name in ("minDeposit", "maxAhead"))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("bound", [False, True], ids=["unbound", "bound"])
def test_opening_needs_no_gas_and_gives_seq_zero_and_the_balance(site: Site, encoding: str, bound: bool) -> None:
    device = site.join(encoding=encoding)
    config = device.new_config()
    payload = device.encoded(device.opening(config, 3 * TOKEN, bound=bound, register=700))
    receipt = device.connection.ask("open", payload)
    assert set(receipt) - {"encoding", "names"} == ABOUT_CHANNEL
    assert receipt["encoding"] == encoding
    assert receipt["answers"] == answers_of(payload)
    assert (receipt["status"], receipt["seq"], receipt["balance"]) == ("accepted", 0, 3 * TOKEN)
    assert receipt["id"] == device.chain.channel_id(config)
    assert (receipt["maxClaimableAmount"], receipt["cumulative"], receipt["offset"]) == (0, 0, 0)
    assert (receipt["lastSeq"], receipt["lastRegister"], receipt["lastRemainder"]) == (0, 700, 0)
    assert receipt["lastOffer"] == device.offer_id


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_same_open_again_is_a_duplicate(site: Site, encoding: str) -> None:
    device = site.join(encoding=encoding)
    payload = device.encoded(device.opening(device.new_config(), 2 * TOKEN))
    first = device.connection.ask("open", payload)
    again = device.connection.ask("open", payload)
    assert (first["status"], again["status"]) == ("accepted", "duplicate")
    unchanged = ABOUT_CHANNEL - {"status", "commit"}
    assert {name: again[name] for name in unchanged} == {name: first[name] for name in unchanged}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_paying_gets_a_receipt_with_every_field_right(site: Site, encoding: str) -> None:
    device = opened(site, encoding, register=10**6)
    device.book.register = 10**6
    for units, ahead in ((1, 0), (7, 0), (0, 0), (13, 1_000), (3, 0), (1, 0)):
        # After a voucher that runs ahead, a tight one below it is accepted, and the highest stays held.
        fields = device.usage(units, ahead=ahead)
        payload = device.written("usage", fields)
        receipt = device.connection.ask("usage", payload)
        device.book.take(units, fields["seq"], fields["maxClaimableAmount"], fields["signature"], fields["offer"])
        checked(receipt, device, fields["seq"], payload)
    assert device.book.cumulative == 25 * 150
    assert device.book.ceiling == 21 * 150 + 1_000


def test_one_channel_speaks_json_and_cbor_in_turn(site: Site) -> None:
    device = opened(site)
    for encoding in ("json", "cbor", "json", "cbor"):
        device.encoding = encoding
        receipt = device.pay(5)
        checked(receipt, device, device.book.seq)


@pytest.mark.parametrize("form", ["upper case hex", "seq as a string", "unknown keys", "a clock at zero"])
def test_json_is_taken_in_every_form_that_the_document_allows(site: Site, form: str) -> None:
    device = opened(site)
    fields = device.usage(4)
    text = json_reading("usage", fields).decode()
    if form == "upper case hex":
        text = text.replace(fields["id"].hex(), fields["id"].hex().upper())
        text = text.replace(fields["signature"].hex(), fields["signature"].hex().upper())
    elif form == "seq as a string":
        text = text.replace('"seq": 1', '"seq": "1"').replace('"register": 4', '"register": "4"')
    elif form == "unknown keys":
        text = '{"extra": {"a": [1, null, true]}, ' + text[1:]
    else:
        text = text.replace(f'"time": {fields["time"]}', '"time": 0')
    receipt = device.connection.ask("usage", text.encode())
    assert receipt["status"] == "accepted", receipt


def test_cbor_takes_tag_two_and_unknown_keys(site: Site) -> None:
    """A ceiling of 2⁶⁴ is beyond any balance here, so its refusal shows that it was read as what it is."""
    device = opened(site, "cbor")
    fields = device.usage(1, maxClaimableAmount=2**64)
    assert b"\xc2\x49" in device.written("usage", fields)
    receipt = device.send("usage", fields)
    assert receipt["reason"] == "ceiling_above_balance", receipt
    item = cbor2.loads(device.written("usage", device.usage(1))) | {99: "x", "name": [1, {"a": b"b"}]}
    assert device.connection.ask("usage", cbor2.dumps(item))["status"] == "accepted"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_replay_is_a_duplicate_with_the_receipt_of_then(site: Site, encoding: str) -> None:
    device = opened(site, encoding)
    fields = device.usage(9)
    payload = device.written("usage", fields)
    first = device.connection.ask("usage", payload)
    device.book.take(9, 1, fields["maxClaimableAmount"], fields["signature"], fields["offer"])
    device.pay(20, ahead=500)
    before = device.probe()
    again = device.connection.ask("usage", payload)
    assert again["status"] == "duplicate"
    assert {**again, "status": "accepted"} == first
    assert device.probe() == before
    device.pay(1)


def test_a_replay_in_the_other_encoding_is_the_same_reading(site: Site) -> None:
    """What counts are the decoded members; `answers` and the encoding are of the payload answered now."""
    device = opened(site)
    fields = device.usage(9)
    first = device.send("usage", fields)
    device.encoding = "cbor"
    later = {**fields, "time": fields["time"] + 5}
    again = device.send("usage", later)
    assert (again["status"], again["encoding"]) == ("duplicate", "cbor")
    assert again["answers"] == answers_of(device.written("usage", later))
    unchanged = ABOUT_CHANNEL - {"status", "answers"}
    assert {name: again[name] for name in unchanged} == {name: first[name] for name in unchanged}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_top_up_adds_to_the_balance_and_changes_nothing_else(site: Site, encoding: str) -> None:
    device = opened(site, encoding, amount=2 * TOKEN)
    device.pay(100)
    before = device.probe()
    receipt = device.top_up(1)
    assert (receipt["status"], receipt["seq"], receipt["balance"]) == ("accepted", 0, 2 * TOKEN + 1)
    assert device.probe() == {**before, "balance": 2 * TOKEN + 1}
    checked(device.pay(5), device, 2)


def test_a_channel_pays_on_after_its_top_up_beyond_the_first_deposit(site: Site) -> None:
    device = opened(site, amount=TOKEN)
    assert device.pay(6_666)["status"] == "accepted"
    assert device.pay(1)["reason"] == "ceiling_above_balance"
    assert device.top_up(3 * TOKEN)["balance"] == 4 * TOKEN
    checked(device.pay(10_000), device, 2)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_device_that_lost_its_state_takes_it_from_a_receipt(site: Site, encoding: str) -> None:
    device = opened(site, encoding, register=50)
    device.pay(11, ahead=40)
    device.pay(2)
    told = device.book
    device.forget()
    # It begins again at seq 1: a conflict with what it sent before, and the answer tells where it was.
    receipt = device.pay(0, register=0)
    assert receipt["reason"] == "seq_conflict", receipt
    device.adopt(receipt)
    assert (device.book.seq, device.book.register, device.book.cumulative) == (2, 63, told.cumulative)
    assert (device.book.ceiling, device.book.signature) == (told.ceiling, told.signature)
    checked(device.pay(30), device, 3)
    assert device.book.cumulative == 43 * 150


def test_gaps_in_the_sequence_are_allowed(site: Site) -> None:
    device = opened(site)
    for seq in (5, 6, 1_000, 1_000 + 2**20):
        checked(device.pay(1, seq=seq), device, seq)


def test_the_ceiling_may_run_ahead_by_just_max_ahead(site: Site) -> None:
    device = opened(site, amount=12 * TOKEN)
    receipt = device.pay(3, ahead=int(device.offer["maxAhead"]))
    checked(receipt, device, 1)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_earner_account_earns(site: Site, encoding: str) -> None:
    device = site.join("pv", encoding=encoding)
    payee, meter = key("payee", device.device), key("meter", device.device)
    receipt = device.open_earner(payee, meter, register=77)
    checked(receipt, device, 0)
    if encoding == "json":
        assert receipt["names"] == {"accountId", "earnedCumulativeAmount"}
    for units in (1, 12, 0):
        fields = device.earning(units)
        payload = device.written("earn", fields)
        answer = device.connection.ask("earn", payload)
        device.book.take(units, fields["seq"], 0, None, fields["offer"])
        checked(answer, device, fields["seq"], payload)
    again = device.connection.ask("earn", payload)
    assert again == {**answer, "status": "duplicate"}
    assert device.book.cumulative == 13 * 80


def test_the_same_earner_open_again_is_a_duplicate(site: Site) -> None:
    device = site.join("pv")
    message = device.encoded(device.earner(key("payee", 1), key("meter", 1), "air-quality"))
    assert device.connection.ask("open", message)["status"] == "accepted"
    again = device.connection.ask("open", message)
    assert (again["status"], again["seq"]) == ("duplicate", 0)


def test_an_earner_is_paid_on_chain_and_nets_with_its_own_channel(site: Site) -> None:
    """One party that pays and earns: what it earns is first taken off what it owes."""
    payer = site.payer()
    meter = site.join("house", payer=payer)
    meter.open(5 * TOKEN)
    meter.pay(100)  # owes 15,000
    roof = site.join("roof", payer=payer)
    roof.open_earner(payer, key("meter", roof.device))
    roof.earn(100)  # earned 8,000, of which the operator keeps 1 %
    deadline = time.monotonic() + 60
    while (state := meter.probe())["offset"] == 0:
        assert time.monotonic() < deadline, "no settlement netted the party"
        time.sleep(0.3)
    assert state["offset"] == 8_000 - 80
    meter.book.offset = state["offset"]
    checked(meter.pay(10), meter, 2)
    account = roof.earn(0)
    assert (account["offset"], account["cumulative"]) == (7_920, 8_000)


def test_many_readings_in_flight_are_answered_each_once_and_in_order(site: Site) -> None:
    device = opened(site, "cbor")
    payloads = []
    for _ in range(40):
        fields = device.usage(2)
        payloads.append(device.written("usage", fields))
        device.book.take(2, fields["seq"], fields["maxClaimableAmount"], fields["signature"], fields["offer"])
    for payload in payloads:
        device.connection.publish("usage", payload)
    receipts = [device.connection.answer(payload) for payload in payloads]
    assert [receipt["status"] for receipt in receipts] == ["accepted"] * 40
    assert [receipt["cumulative"] for receipt in receipts] == [300 * number for number in range(1, 41)]
    assert [device.connection.count(payload) for payload in payloads] == [1] * 40


def test_state_messages_are_taken_and_not_answered(site: Site) -> None:
    device = opened(site)
    device.connection.publish("state", b'{"state":"online","session":1,"firmware":"1.0"}')
    device.connection.publish("state", b'{"state":"lost"}')
    checked(device.pay(1), device, 1)


def test_a_device_hears_what_it_subscribed_and_nothing_else(site: Site) -> None:
    """The retained states of the demo's own devices, and every receipt of others, stay away from it."""
    first, second = opened(site), opened(site)
    first.pay(1)
    second.pay(1)
    late = site.join("late")
    assert late.connection.ask("usage", b"{}")["reason"] == "malformed"
    assert (first.connection.strays, second.connection.strays, late.connection.strays) == ([], [], [])


def test_two_devices_of_one_payer_each_have_a_channel(site: Site) -> None:
    payer = site.payer()
    first, second = site.join("a", payer=payer), site.join("b", payer=payer, encoding="cbor")
    assert first.open(2 * TOKEN, bound=True)["balance"] == 2 * TOKEN
    assert second.open(3 * TOKEN, service="water")["balance"] == 3 * TOKEN
    checked(first.pay(3), first, 1)
    checked(second.pay(3), second, 1)
    assert (first.book.cumulative, second.book.cumulative) == (450, 12_000)
    assert address(first.payer) == address(second.payer)


def test_an_open_in_cbor_may_write_its_values_as_in_json(site: Site) -> None:
    device = site.join(encoding="cbor")
    message = plain(device.opening(device.new_config(), 2 * TOKEN))
    receipt = device.connection.ask("open", cbor2.dumps(message))
    assert (receipt["status"], receipt["encoding"]) == ("accepted", "cbor"), receipt
