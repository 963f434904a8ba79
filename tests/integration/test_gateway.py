"""A gateway without demo mode: `metergate init` and `run`, on mosquitto and on anvil, a chain nobody here wrote."""

import stat
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.demo_gateway import FLOAT, TOKEN, Household
from tests.support.outsider import ABOUT_UNKNOWN, Outsider, checked
from tests.support.outsider_chain import ChainView
from tests.support.outsider_link import Connection
from tests.support.outsider_signing import key

PAYERS = [key("household", number) for number in range(6)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    home = Household(tmp_path_factory.mktemp("gateway"), PAYERS)
    try:
        home.run()
        yield home
    finally:
        home.end()


@pytest.fixture(scope="module")
def view(home: Household) -> ChainView:
    return ChainView(home.anvil.url, bytes.fromhex(home.token[2:]), home.payouts)


@pytest.fixture(scope="module")
def meter(home: Household) -> Iterator[Outsider]:
    """An enrolled device with an open channel; its payer is known, so it needs no binding."""
    device = Outsider(Connection(home.broker.port, "meter-1"), PAYERS[0], sign_readings=True)
    added = home.ask("device", "add", "meter-1", "--payer", PAYERS[0].address, "--note", "kitchen")
    assert added.process.returncode == 0, added.report()
    receipt = device.open(20 * TOKEN)
    assert (receipt.get("reason"), receipt.get("balance")) == (None, 20 * TOKEN)
    yield device
    device.connection.close()


def until(found: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := found()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.1)
    return value


def moved(home: Household, view: ChainView) -> int:
    """Sum of what the chain has settled to the lanes."""
    return sum(view.receiver(home.addresses[f"lane {number}"])[1] for number in range(4))


def held(home: Household, view: ChainView) -> int:
    """Sum of the tokens of all lanes and of the treasury: where between them they are is the gateway's business."""
    return sum(view.tokens(each) for name, each in home.addresses.items() if name != "operator")


def test_init_made_keys_for_the_owner_alone(home: Household) -> None:
    keys = home.home / "keys.json"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert set(home.addresses) == {"operator", "treasury", "lane 0", "lane 1", "lane 2", "lane 3"}


def test_an_unknown_device_is_not_enrolled_and_an_enrolled_one_is_accepted(home: Household) -> None:
    device = Outsider(Connection(home.broker.port, "stranger-1"), PAYERS[1], encoding="cbor", sign_readings=True)
    with device:
        for bound in (False, True):
            receipt = device.open(2 * TOKEN, bound=bound)
            assert receipt["reason"] == "not_enrolled"
            assert set(receipt) - {"encoding", "names"} == ABOUT_UNKNOWN
        assert home.ask("device", "add", "stranger-1").process.returncode == 0
        # Enrolled without this payer: the binding is required, and enough.
        assert device.open(2 * TOKEN)["reason"] == "not_enrolled"
        assert device.open(2 * TOKEN, bound=True)["balance"] == 2 * TOKEN
        checked(device.pay(3), device, 1)


def test_readings_carry_their_own_signature(home: Household, meter: Outsider) -> None:
    before = meter.probe()
    for encoding in ("json", "cbor"):
        meter.encoding = encoding
        fields = meter.usage(5)
        bare = {name: value for name, value in fields.items() if name != "readingSignature"}
        assert meter.send("usage", bare)["reason"] == "bad_signature"
        assert meter.send("usage", {**fields, "time": fields["time"] + 1})["reason"] == "bad_signature"
        assert meter.send("usage", {**fields, "register": fields["register"] - 1})["reason"] == "bad_signature"
    assert meter.probe() == before
    checked(meter.pay(5), meter, 1)
    checked(meter.pay(995, ahead=100), meter, 2)


def test_an_earner_account_must_be_enrolled(home: Household) -> None:
    device = Outsider(Connection(home.broker.port, "roof-1"), PAYERS[2], sign_readings=True)
    with device:
        assert home.ask("device", "add", "roof-1").process.returncode == 0
        assert device.open_earner(key("payee"), key("meter"))["reason"] == "not_enrolled"


def test_commands_ask_the_running_gateway(home: Household, meter: Outsider) -> None:
    listed = {row["device"]: row for row in home.json("device", "list")["devices"]}
    assert (listed["meter-1"]["channels"], listed["meter-1"]["charged"]) == (1, str(meter.book.cumulative))
    shown = home.json("device", "show", "meter-1")
    assert shown["note"] == "kitchen"
    assert shown["payers"] == [PAYERS[0].address.lower()]
    (channel,) = shown["channels"]
    assert channel["channelId"] == "0x" + meter.book.id.hex()
    assert (channel["charged"], channel["balance"]) == (str(meter.book.cumulative), str(20 * TOKEN))
    assert (channel["lastSeq"], channel["register"]) == (meter.book.seq, meter.book.register)
    status = home.json("status")
    assert status["running"] is True
    assert status["broker_connected"] is True
    assert status["chain"]["id"] == 31402
    assert status["chain"]["block"] > 0
    assert int(status["charged"]) >= meter.book.cumulative
    for arguments in (("device", "list"), ("device", "show", "meter-1"), ("status",), ("doctor",)):
        child = home.ask(*arguments)
        assert child.process.returncode == 0, child.report()
        assert child.stdout.strip(), child.report()
    missing = home.ask("device", "show", "nobody")
    assert (missing.process.returncode, len(missing.stderr.splitlines())) == (2, 1), missing.report()
    bad = home.ask("device", "add", "not a name")
    assert (bad.process.returncode, len(bad.stderr.splitlines())) == (2, 1), bad.report()


def test_settling_now_moves_the_money_on_anvil(home: Household, meter: Outsider, view: ChainView) -> None:
    owed = meter.book.cumulative
    lane = "0x" + meter.lane().hex()
    answer = home.json("settle", "--now")
    assert answer["settled"] is True
    assert int(answer["claimed"]) >= owed
    assert view.channel(meter.book.id) == (20 * TOKEN, owed)
    claimed, settled = view.receiver(lane)
    assert claimed == settled >= owed
    assert held(home, view) == FLOAT + moved(home, view)
    assert home.json("settle", "--now") == {"settled": False}
    (row,) = home.json("device", "show", "meter-1")["channels"]
    assert (row["claimed"], row["owed"]) == (str(owed), str(owed))
    assert home.json("status")["settled"] == str(moved(home, view))


def test_doctor_while_it_runs(home: Household, meter: Outsider) -> None:
    findings = {row["check"]: row for row in home.json("doctor")}
    assert {"configuration", "keys", "disk", "broker", "chain", "clock", "books"} <= findings.keys()
    assert all(row["good"] for row in findings.values()), findings


def test_a_second_gateway_on_the_same_books_is_refused(home: Household, meter: Outsider) -> None:
    child = home.ask("run")
    assert child.process.returncode == 2, child.report()
    (line,) = child.stderr.splitlines()
    assert "another Metergate is running on" in line
    checked(meter.pay(1), meter, meter.book.seq)


def test_nothing_is_lost_when_the_plug_is_pulled(home: Household, meter: Outsider, view: ChainView) -> None:
    """Every reading that was answered survives, those sent meanwhile are answered later, a replay is a duplicate."""
    meter.encoding = "json"
    sent = []
    for _ in range(30):
        fields = meter.usage(2)
        sent.append(meter.written("usage", fields))
        meter.book.take(2, fields["seq"], fields["maxClaimableAmount"], fields["signature"], fields["offer"])
        meter.connection.publish("usage", sent[-1])
    first = [meter.connection.answer(payload) for payload in sent[:10]]
    home.kill()
    for _ in range(5):
        fields = meter.usage(3)
        sent.append(meter.written("usage", fields))
        meter.book.take(3, fields["seq"], fields["maxClaimableAmount"], fields["signature"], fields["offer"])
        meter.connection.publish("usage", sent[-1])
    offline = home.json("status")
    assert offline["running"] is False
    assert int(offline["charged"]) >= first[-1]["cumulative"]
    home.run()
    receipts = [meter.connection.answer(payload) for payload in sent]
    assert {receipt["status"] for receipt in receipts} <= {"accepted", "duplicate"}, receipts
    assert [receipt["seq"] for receipt in receipts] == list(range(meter.book.seq - 34, meter.book.seq + 1))
    assert receipts[-1]["cumulative"] == meter.book.cumulative
    again = meter.connection.ask("usage", sent[0])
    assert again == {**first[0], "status": "duplicate"}
    checked(meter.pay(1), meter, meter.book.seq)
    # Exactly what was signed for is charged, and claimed on the chain.
    assert home.json("settle", "--now")["settled"] is True
    assert view.channel(meter.book.id) == (20 * TOKEN, meter.book.cumulative)


def test_a_deposit_under_way_survives_the_plug(home: Household, view: ChainView) -> None:
    assert home.ask("device", "add", "meter-2", "--payer", PAYERS[3].address).process.returncode == 0
    device = Outsider(Connection(home.broker.port, "meter-2"), PAYERS[3], sign_readings=True)
    with device:
        config = device.new_config()
        payload = device.encoded(device.opening(config, 7 * TOKEN))
        home.anvil.rpc("evm_setAutomine", False)
        device.connection.publish("open", payload)
        time.sleep(0.15)  # no blocks come: the deposit is journaled, perhaps sent, not mined
        home.kill()
        home.anvil.rpc("evm_setAutomine", True)
        home.run()
        receipt = device.connection.ask("open", payload) if device.connection.count(payload) else None
        if receipt is None:
            receipt = until(
                lambda: device.connection.count(payload) and device.connection.answer(payload), "the receipt"
            )
        assert receipt["status"] in ("accepted", "duplicate")
        assert receipt["balance"] == 7 * TOKEN
        assert view.channel(device.chain.channel_id(config)) == (7 * TOKEN, 0)
        assert view.tokens(PAYERS[3].address) == 993 * TOKEN, "the money was taken once"


def test_a_changed_price_is_a_new_offer_and_an_old_one_does_not_come_back(home: Household, meter: Outsider) -> None:
    first = meter.offer_id
    assert home.stop() == 0
    home.set("price", '"160000000000"')
    home.set("grace", "0")
    home.run()
    until(lambda: _took(meter, first), "the new offer")
    second = meter.offer_id
    assert meter.offer["services"]["grid-power"]["price"] == "160000000000"
    checked(meter.pay(10, offer=first), meter, meter.book.seq)  # within the grace that it was given
    meter.book.price = 160_000_000_000
    checked(meter.pay(10), meter, meter.book.seq)
    before = meter.probe()
    assert meter.send("usage", meter.usage(10, offer=first))["reason"] == "offer_regressed"
    assert meter.probe() == before
    assert home.stop() == 0
    home.set("price", '"170000000000"')
    home.run()
    until(lambda: _took(meter, second), "the newest offer")
    now = meter.probe()  # the second offer has no grace, but stays usable in the chain second of its end
    assert now["lastOffer"] == second
    time.sleep(1.1)
    home.anvil.rpc("evm_mine")
    block = int(home.anvil.rpc("eth_blockNumber"), 16)
    until(lambda: home.json("status")["chain"]["block"] >= block, "the block")
    before = meter.probe()
    assert meter.send("usage", meter.usage(10, offer=second))["reason"] == "offer_expired"
    assert meter.probe() == before
    meter.book.price = 170_000_000_000
    checked(meter.pay(10), meter, meter.book.seq)


def _took(device: Outsider, old: bytes) -> bool:
    device.take_offer()
    return device.offer_id != old


def _of(device: Outsider, meter: Outsider, offer: bytes) -> dict[str, Any]:
    device.book, device.authorizer = meter.book, meter.authorizer
    return device.usage(10, offer=offer)


def test_an_earner_is_paid_on_anvil(home: Household, view: ChainView) -> None:
    """Earner accounts are enrolled by the operator, so this gateway runs in demo mode for once."""
    assert home.stop() == 0
    text = home.config.read_text()
    home.config.write_text("demo = true\n" + text)
    home.run()
    payee = key("paid on anvil")
    device = Outsider(Connection(home.broker.port, "roof-2"), PAYERS[4], encoding="cbor")
    treasury = home.addresses["treasury"]
    with device:
        receipt = device.open_earner(payee, key("its meter"))
        assert receipt["status"] == "accepted", receipt
        device.earn(1_000)
        earned, fee = device.book.cumulative, device.book.cumulative // 100
        answer = home.json("settle", "--now")
        assert (answer["settled"], answer["paid"]) == (True, str(earned - fee))
        assert view.tokens(payee.address) == earned - fee == 79_200
        assert view.payouts is not None
        paid = view.payouts.functions.paid(
            view.web3.to_checksum_address(treasury), view.token.address, payee.address
        ).call()
        assert paid == earned - fee
        assert held(home, view) == FLOAT + moved(home, view) - paid
        checked(device.earn(0), device, 2)
    assert home.stop() == 0
    home.config.write_text(text)
    home.run()
    assert home.json("status")["paid_out"] == "79200"


def _enrolled(home: Household, name: str, payer: int, encoding: str = "json") -> Outsider:
    assert home.ask("device", "add", name, "--payer", PAYERS[payer].address).process.returncode == 0
    return Outsider(Connection(home.broker.port, name), PAYERS[payer], encoding=encoding, sign_readings=True)


@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_a_device_closes_its_channel_and_opens_it_again(home: Household, view: ChainView, encoding: str) -> None:
    """By strangers' code on a stranger's chain: the payer gets back what it deposited less what it owed, exactly."""
    with _enrolled(home, f"closer-{encoding}", 5, encoding) as device:
        before = view.tokens(PAYERS[5].address)
        assert device.open(3 * TOKEN)["balance"] == 3 * TOKEN
        checked(device.pay(700), device, 1)
        owed = device.book.cumulative
        for flaw in ({"signer": key("a stranger")}, {"signed_device": "meter-1"}):
            assert device.close(**flaw)["reason"] == "bad_signature"
        assert device.close(seq=1)["reason"] == "seq_conflict"
        receipt = device.close()
        assert (receipt["status"], receipt["seq"], receipt["cumulative"]) == ("accepted", 2, owed)
        assert (receipt["balance"], receipt["refunded"]) == (owed, 3 * TOKEN - owed)
        assert view.channel(device.book.id) == (owed, owed)
        assert view.tokens(PAYERS[5].address) == before - owed
        assert device.close(seq=2)["status"] == "duplicate"
        assert device.pay(1)["reason"] == "not_open"
        assert device.close()["reason"] == "not_open"
        assert device.reopen(2 * TOKEN)["balance"] == 2 * TOKEN + owed
        checked(device.pay(100), device, 3)
        assert device.close(seq=2)["status"] == "duplicate"
        checked(device.pay(100), device, 4)
        owed = device.book.cumulative
        receipt = device.close()
        assert (receipt["seq"], receipt["refunded"]) == (5, 5 * TOKEN - owed)
        assert view.channel(device.book.id) == (owed, owed)
        assert view.tokens(PAYERS[5].address) == before - owed
    findings = {row["check"]: row for row in home.json("doctor")}
    assert findings["books"]["good"], findings["books"]


def test_the_operator_closes_by_command(home: Household, view: ChainView) -> None:
    with _enrolled(home, "closed-1", 2) as device:
        before = view.tokens(PAYERS[2].address)
        device.open(4 * TOKEN)
        checked(device.pay(1_000), device, 1)
        owed = device.book.cumulative
        child = home.ask("device", "close", "closed-1", "--channel", "0x" + device.book.id.hex())
        assert child.process.returncode == 0, child.report()
        assert "is closed" in child.stdout
        assert f"claimed {owed / TOKEN:.6f}, gave {4 - owed / TOKEN:.6f} back" in child.stdout
        assert view.channel(device.book.id) == (owed, owed)
        assert view.tokens(PAYERS[2].address) == before - owed
        assert device.pay(1)["reason"] == "not_open"
        again = home.json("device", "close", "closed-1", "--channel", "0x" + device.book.id.hex())
        assert (again["closed"], again["channels"][0]["refunded"]) == (True, str(4 * TOKEN - owed))
    for arguments, words in (
        (("closed-1",), "has no open channel"),
        (("nobody",), "has no open channel"),
        (("closed-1", "--channel", "0x12"), "a channel id"),
    ):
        child = home.ask("device", "close", *arguments)
        assert (child.process.returncode, words in child.stderr) == (2, True), child.report()


def test_the_broker_may_be_away_for_a_while(home: Household, meter: Outsider) -> None:
    home.broker.stop()
    until(lambda: home.json("status")["broker_connected"] is False, "the loss")
    home.broker.start()
    until(lambda: home.json("status")["broker_connected"] is True, "the return", 40)
    fresh = Outsider(Connection(home.broker.port, "meter-1"), PAYERS[0], sign_readings=True)
    with fresh:
        assert fresh.send("usage", _of(fresh, meter, fresh.offer_id))["status"] == "accepted"


def test_the_doctor_of_a_stopped_gateway(home: Household, meter: Outsider) -> None:
    """The last test of this module: stopped in order, and the books still balance against the chain."""
    home.json("settle", "--now")
    charged = home.json("status")["charged"]
    assert home.stop() == 0
    assert "Traceback" not in (home.gateway.stderr if home.gateway else "")
    findings = {row["check"]: row for row in home.json("doctor")}
    assert all(row["good"] for row in findings.values()), findings
    assert "conserved" in findings["books"]["text"]
    status = home.json("status")
    assert (status["running"], status["charged"]) == (False, charged)
    for command in (("settle", "--now"), ("device", "close", "meter-1")):
        refused = home.ask(*command)
        assert (refused.process.returncode, len(refused.stderr.splitlines())) == (2, 1), refused.report()
    home.broker.stop()
    sick = home.ask("doctor")
    assert sick.process.returncode == 1, sick.report()
    assert "BAD  broker" in sick.stdout
