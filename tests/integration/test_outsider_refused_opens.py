"""What an outsider is told when its `open` is wrong: the reason of docs/protocol.md 5, and nothing is bound."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.outsider import ABOUT_CHANNEL, ABOUT_UNKNOWN, BARE, Outsider, checked
from tests.support.outsider_link import answers_of
from tests.support.outsider_signing import Config, address, high_s, key, sign
from tests.support.outsider_site import FUNDED_TOKENS, TOKEN, Site
from tests.support.outsider_wire import plain

ENCODINGS = ("json", "cbor")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site("opens", 16)
    try:
        site.demo.broker_answers()
        yield site
    finally:
        site.end()


@pytest.fixture(scope="module")
def newcomer(site: Site) -> Outsider:
    """A device that never opens anything: all its opens are refused."""
    return site.join("newcomer")


def _config(**changes: Any) -> Callable[[Outsider], dict[str, Any]]:
    def make(device: Outsider) -> dict[str, Any]:
        return device.opening(device.new_config(**changes), 2 * TOKEN)

    return make


def _other_lane(device: Outsider) -> dict[str, Any]:
    lanes = [bytes.fromhex(lane["payTo"][2:]) for lane in device.offer["lanes"]]
    other = next(lane for lane in lanes if lane != device.lane())
    return device.opening(device.new_config(receiver=other), 2 * TOKEN)


def _plain(**changes: Any) -> Callable[[Outsider], dict[str, Any]]:
    def make(device: Outsider) -> dict[str, Any]:
        amount = changes.get("amount", 2 * TOKEN)
        rest = {name: value for name, value in changes.items() if name != "amount"}
        return device.opening(device.new_config(), amount, **rest)

    return make


def _broken_binding(change: Callable[[Outsider, Config], bytes]) -> Callable[[Outsider], dict[str, Any]]:
    def make(device: Outsider) -> dict[str, Any]:
        config = device.new_config()
        return {**device.opening(config, 2 * TOKEN), "binding": change(device, config)}

    return make


def _unfunded(device: Outsider) -> dict[str, Any]:
    poor = key("nobody funded this")
    lanes = device.offer["lanes"]
    lane = lanes[int.from_bytes(address(poor), "big") % len(lanes)]["payTo"]
    config = device.new_config(payer=address(poor), receiver=bytes.fromhex(lane[2:]))
    return device.opening(config, 2 * TOKEN, signer=poor)


def _earner(**changes: Any) -> Callable[[Outsider], dict[str, Any]]:
    def make(device: Outsider) -> dict[str, Any]:
        service = changes.get("service", "solar-export")
        rest = {name: value for name, value in changes.items() if name != "service"}
        return device.earner(key("payee", 7), key("meter", 7), service, **rest)

    return make


_SOON = 30  # s: a deposit that expires before it can be mined
OPENS: list[tuple[str, str, Callable[[Outsider], dict[str, Any]]]] = [
    ("config_mismatch", "another token", _config(token=bytes(19) + b"\x09")),
    ("config_mismatch", "a shorter delay", _config(withdrawDelay=900)),
    ("config_mismatch", "a delay out of range", _config(withdrawDelay=2**40 - 1)),
    ("config_mismatch", "another receiverAuthorizer", _config(receiverAuthorizer=b"\x09" * 20)),
    ("config_mismatch", "no receiverAuthorizer", _config(receiverAuthorizer=bytes(20))),
    ("config_mismatch", "another receiver", _config(receiver=b"\x09" * 20)),
    ("config_mismatch", "the receiver of another lane", _other_lane),
    ("config_mismatch", "no payerAuthorizer", _config(payerAuthorizer=bytes(20))),
    ("service_unknown", "never heard of", _plain(service="gas")),
    ("service_unknown", "one that earns", _plain(service="solar-export")),
    ("service_unknown", "an earner of one that pays", _earner(service="grid-power")),
    ("service_unknown", "an earner of none", _earner(service="gas")),
    ("offer_unknown", "a random one", _plain(offer=b"\x09" * 16)),
    ("offer_unknown", "an earner's", _earner(offer=b"\x09" * 16)),
    ("deposit_too_small", "by one", _plain(amount=TOKEN - 1)),
    ("deposit_too_small", "zero", _plain(amount=0)),
    ("deposit_invalid", "signed by a stranger", _plain(signer=key("a stranger"))),
    ("deposit_invalid", "for another amount", _plain(signed_amount=3 * TOKEN)),
    ("deposit_invalid", "expired", _plain(valid_before=1)),
    ("deposit_invalid", "about to expire", lambda d: _plain(valid_before=int(time.time()) + _SOON)(d)),
    ("deposit_invalid", "not valid yet", lambda d: _plain(valid_after=int(time.time()) + 3_600)(d)),
    ("deposit_invalid", "more than there is", _plain(amount=FUNDED_TOKENS + 1)),
    ("deposit_invalid", "of a payer without money", _unfunded),
    ("deposit_invalid", "the largest", _plain(amount=2**128 - 1)),
    ("bad_signature", "a binding of the payer", _broken_binding(lambda d, c: _bound(d, c, d.payer))),
    ("bad_signature", "a binding to another device", _broken_binding(lambda d, c: _bound(d, c, device="other"))),
    ("bad_signature", "a binding to another gateway", _broken_binding(lambda d, c: _bound(d, c, gateway="gw2"))),
    ("bad_signature", "a binding to another service", _broken_binding(lambda d, c: _bound(d, c, service="water"))),
    ("bad_signature", "a binding to another register", _broken_binding(lambda d, c: _bound(d, c, register=1))),
    ("bad_signature", "a binding with high s", _broken_binding(lambda d, c: high_s(_bound(d, c)))),
    ("bad_signature", "an earner signed by another", _earner(signer=key("a stranger"))),
]


def _bound(of: Outsider, config: Config, signer: Any = None, **changes: Any) -> bytes:
    members = {"gateway": "gw1", "device": of.device, "service": "grid-power", "register": 0, **changes}
    what = of.chain.binding(of.chain.channel_id(config), **members)
    return sign(signer or of.authorizer, what)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("reason", "case", "make"), OPENS, ids=[f"{r}-{c}" for r, c, _ in OPENS])
def test_a_wrong_open_is_refused_for_its_reason(
    newcomer: Outsider, encoding: str, reason: str, case: str, make: Callable[[Outsider], dict[str, Any]]
) -> None:
    newcomer.encoding = encoding
    message = make(newcomer)
    payload = newcomer.encoded(message)
    receipt = newcomer.connection.ask("open", payload)
    assert receipt["reason"] == reason, (case, receipt)
    assert set(receipt) - {"encoding", "names"} == ABOUT_UNKNOWN
    assert (receipt["encoding"], receipt["seq"], receipt["answers"]) == (encoding, 0, answers_of(payload))
    if "channelConfig" in message:
        assert receipt["id"] == newcomer.chain.channel_id(Config(**message["channelConfig"]))
    # Nothing is bound: the id stays unknown.
    again = newcomer.send("usage", _any_reading(newcomer, receipt["id"]))
    assert again["reason"] == "unknown_channel"


def _any_reading(device: Outsider, channel: bytes) -> dict[str, Any]:
    return {
        "id": channel, "seq": 1, "register": 1, "time": 1, "offer": device.offer_id, "maxClaimableAmount": 150,
        "signature": sign(device.authorizer, device.chain.voucher(channel, 150)),
    }  # fmt: skip


def test_a_refused_open_leaves_the_way_free_for_a_right_one(site: Site) -> None:
    device = site.join("second-try")
    config = device.new_config()
    wrong = device.encoded(device.opening(config, 2 * TOKEN, signer=key("a stranger")))
    assert device.connection.ask("open", wrong)["reason"] == "deposit_invalid"
    right = device.encoded(device.opening(config, 2 * TOKEN))
    assert device.connection.ask("open", right)["balance"] == 2 * TOKEN


@pytest.mark.parametrize(
    "change",
    [
        "no service",
        "no config",
        "no deposit",
        "both forms",
        "a number for an amount",
        "a short salt",
        "register 2^64",
        "no name",
    ],
)
def test_what_is_no_open_is_malformed(newcomer: Outsider, change: str) -> None:
    item = plain(newcomer.opening(newcomer.new_config(), 2 * TOKEN))
    if change == "both forms":
        item["earner"] = plain(newcomer.earner(key(1), key(2), "solar-export"))["earner"]
    elif change == "a number for an amount":
        item["deposit"]["amount"] = 2 * TOKEN
    elif change == "a short salt":
        item["channelConfig"]["salt"] = "0x01"
    elif change == "no name":
        item["service"] = ""
    elif change == "register 2^64":
        item["register"] = str(2**64)
    else:
        del item[{"no service": "service", "no config": "channelConfig", "no deposit": "deposit"}[change]]
    receipt = newcomer.connection.ask("open", json.dumps(item).encode())
    assert receipt["reason"] == "malformed", receipt
    assert set(receipt) - {"encoding", "names"} == BARE


def test_a_channel_of_another_device_or_service_is_taken(site: Site) -> None:
    owner = site.join("owner")
    owner.open(2 * TOKEN)
    thief = site.join("thief", payer=owner.payer)
    message = thief.opening(owner.config, 2 * TOKEN)
    receipt = thief.connection.ask("open", thief.encoded(message))
    assert receipt["reason"] == "channel_taken"
    assert set(receipt) - {"encoding", "names"} == ABOUT_UNKNOWN
    other = owner.opening(owner.config, 2 * TOKEN, service="water")
    assert owner.connection.ask("open", owner.encoded(other))["reason"] == "channel_taken"
    assert owner.probe()["balance"] == 2 * TOKEN
    checked(owner.pay(1), owner, 1)


def test_one_deposit_is_in_flight_per_device(site: Site) -> None:
    device = site.join("eager")
    payloads = [device.encoded(device.opening(device.new_config(), 2 * TOKEN)) for _ in range(2)]
    for payload in payloads:
        device.connection.publish("open", payload)
    first, second = (device.connection.answer(payload) for payload in payloads)
    assert (first["status"], second.get("reason")) == ("accepted", "deposit_pending")
    # It is transient: the very same message is taken later.
    assert device.connection.ask("open", payloads[1])["status"] == "accepted"


def test_a_channel_whose_deposit_is_not_there_is_not_open(site: Site) -> None:
    """Two opens of one payer whose money is enough for one: the second deposit fails in its block."""
    for _ in range(5):
        payer = site.payer()
        devices = [site.join("poor", payer=payer) for _ in range(2)]
        for device in devices:
            device.config = device.new_config()
        payloads = [device.encoded(device.opening(device.config, 600 * TOKEN)) for device in devices]
        for device, payload in zip(devices, payloads, strict=True):
            device.connection.publish("open", payload)
        receipts = [device.connection.answer(payload) for device, payload in zip(devices, payloads, strict=True)]
        outcomes = {receipt.get("reason", "accepted") for receipt in receipts}
        assert outcomes == {"accepted", "deposit_invalid"}, receipts
        late = next(device for device, receipt in zip(devices, receipts, strict=True) if "reason" in receipt)
        channel = late.chain.channel_id(late.config)
        answer = late.send("usage", _any_reading(late, channel))
        if answer["reason"] == "unknown_channel":
            continue  # the first deposit was mined before the second was looked at: it was never bound
        assert answer["reason"] == "not_open", answer
        assert set(answer) - {"encoding", "names"} == ABOUT_CHANNEL | {"reason"}
        assert (answer["balance"], answer["cumulative"], answer["lastSeq"]) == (0, 0, 0)
        # With money behind it, the same channel opens and works.
        again = late.encoded(late.opening(late.config, 300 * TOKEN))
        receipt = late.connection.ask("open", again)
        assert (receipt.get("reason"), receipt.get("balance")) == (None, 300 * TOKEN)
        assert late.send("usage", _any_reading(late, channel))["status"] == "accepted"
        return
    pytest.fail("two deposits never met in one block")


def test_a_reading_that_comes_before_its_deposit_is_mined_is_refused_until_then(site: Site) -> None:
    device = site.join("hasty")
    config = device.new_config()
    opening = device.encoded(device.opening(config, 2 * TOKEN))
    reading = device.written("usage", _any_reading(device, device.chain.channel_id(config)))
    device.connection.publish("open", opening)
    reasons: list[str] = []
    deadline = time.monotonic() + 60
    while (receipt := device.connection.ask("usage", reading))["status"] == "refused":
        reasons.append(receipt["reason"])
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert receipt["status"] == "accepted"
    assert set(reasons) <= {"unknown_channel", "not_open"}
    assert reasons == sorted(reasons, reverse=True), "first unknown, then known without its money"


def test_the_demo_counts_every_refusal_and_keeps_its_books(site: Site) -> None:
    """The last test of this module: the demo ends with its books conserved after all of the above."""
    site.leave()
    site.demo.process.terminate()
    result = site.demo.result()
    assert result["conserved"] is True
    assert result["refused_by_reason"] == dict(site.told() + Counter(result["fleet"]["refused"]))
    assert result["refused"] == sum(result["refused_by_reason"].values())
    named = {reason for reason, _, _ in OPENS}
    assert named <= result["refused_by_reason"].keys()
