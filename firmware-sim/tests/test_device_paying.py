"""A paying device: every way from a reading to its receipt, and every refusal on the way."""

import itertools
import json

import cbor2
import pytest
from sim_gateway import NANO, PRICES, SimGateway
from sim_harness import SECOND, Bench, identity

from firmware_sim.digests import reading_digest, voucher_digest
from firmware_sim.keys import recover

GRID = PRICES["grid-power"]


def dearer(price: int) -> dict:
    return PRICES | {"grid-power": ("Wh", price, "pay")}


@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_reads_signs_and_is_charged_exactly(encoding: str) -> None:
    bench = Bench(identity(encoding=encoding), SimGateway(prices=dearer(1_333_333_333))).start()
    for register in (1000, 1001, 1001, 1010, 1500):
        bench.read(register)
    bench.agree()
    assert bench.account.exact == 500 * 1_333_333_333
    assert bench.device.money == 666
    assert bench.device.register_units == 500
    assert bench.account.ceiling == 666
    assert (bench.counters.published, bench.counters.accepted, bench.counters.refused) == (5, 5, {})
    assert all((p.payload[:1] == b"{") is (encoding == "json") for p in bench.sent[1:])


def test_birth_comes_first_and_is_retained() -> None:
    bench = Bench(session=7).start(offer=False)
    (birth,) = bench.sent
    assert (birth.leaf, birth.retain) == ("state", True)
    assert json.loads(birth.payload)["session"] == 7
    assert not any(message.retain for message in bench.start().sent[2:])


@pytest.mark.parametrize(("bind", "sign"), [(True, False), (False, True)])
def test_binding_and_reading_signature_are_options(bind: bool, sign: bool) -> None:
    bench = Bench(identity(bind=bind, sign_readings=sign, encoding="cbor")).start()
    bench.read(1001)
    opening = cbor2.loads(bench.leaves("open")[0].payload)
    reading = cbor2.loads(bench.leaves("usage")[0].payload)
    assert ("binding" in opening) is bind
    assert (14 in reading) is sign
    digest = voucher_digest(31402, reading[1], reading[6])
    assert recover(digest, reading[7]) == bench.who.meter_key.address
    if sign:
        digest = reading_digest(31402, reading[1], reading[2], reading[3], reading[4], reading[5], reading[6])
        assert recover(digest, reading[14]) == bench.who.meter_key.address


def test_nothing_is_said_before_an_offer_and_readings_wait() -> None:
    bench = Bench().start(offer=False)
    bench.read(1010)
    bench.read(1020)
    assert [message.leaf for message in bench.sent] == ["state"]
    bench.start()
    assert bench.account.register == 1020
    assert bench.counters.accepted == 2


def test_a_full_queue_folds_into_one_register() -> None:
    bench = Bench(queue=3).start(offer=False)
    for register in range(1001, 1021):
        bench.read(register)
    assert bench.device.window.folded == 17
    bench.start()
    assert bench.counters.accepted == 3
    assert (bench.account.register, bench.account.exact) == (1020, 20 * GRID[1])


def test_the_window_bounds_what_is_in_flight_and_keeps_the_order() -> None:
    bench = Bench(depth=3).start()
    held = [m for register in range(1001, 1007) for m in bench.hold(register)]
    assert len(held) == 3
    bench.deliver(held)
    seqs = [json.loads(message.payload)["seq"] for message in bench.leaves("usage")]
    assert seqs == [1, 2, 3, 4, 5, 6]
    bench.agree()


def test_no_answer_resends_the_same_bytes_with_longer_and_longer_pauses() -> None:
    bench = Bench().start()
    bench.read(1005)
    first = bench.hold(1010) + bench.hold(1020)
    assert len(first) == 2
    times = []
    for second in range(1, 200):
        bench.now += SECOND
        again = bench.device.on_tick(bench.now)
        if again:
            assert again == first[:1], "only the first, until the gateway is heard of"
            times.append(second)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert times[0] in (5, 6)
    assert gaps == sorted(gaps)
    assert gaps[-1] == 41
    bench.deliver(first[:1])
    assert bench.counters.accepted == 3
    assert [m.payload for m in bench.leaves("usage")[-1:]] == [first[1].payload]
    bench.agree()


def test_a_later_receipt_does_not_keep_a_lost_reading_waiting() -> None:
    bench = Bench(depth=2).start()
    bench.read(1005)
    (lost,) = bench.hold(1010)
    for register in range(1020, 1090, 10):
        bench.wait(1)
        bench.read(register)
    assert lost in bench.leaves("usage")
    assert bench.counters.refused == {"seq_old": 1}
    assert bench.counters.superseded == 1
    bench.agree()


def test_a_slow_gateway_is_not_asked_twice() -> None:
    bench = Bench(depth=1).start()
    for register in range(1010, 1210, 10):
        (message,) = bench.hold(register)
        for _ in range(4):
            bench.now += SECOND
            assert bench.device.on_tick(bench.now) == []
        bench.deliver([message])
    (message,) = bench.hold(1300)
    for _ in range(12):
        bench.now += SECOND
        assert bench.device.on_tick(bench.now) == [], "receipts take 4 s here"
    for _ in range(6):
        bench.now += SECOND
        bench.deliver(bench.device.on_tick(bench.now))
    assert bench.counters.resent == 1
    bench.agree()


def test_a_new_connection_resends_at_once() -> None:
    bench = Bench().start()
    lost = bench.hold(1010)
    bench.device.on_disconnected()
    assert bench.hold(1020) == []
    bench.start()
    bench.agree()
    assert next(m.payload for m in bench.leaves("usage")) == lost[0].payload
    assert (bench.counters.resent, bench.counters.published, bench.counters.accepted) == (1, 2, 2)


def test_a_lost_receipt_ends_in_a_duplicate_and_one_charge() -> None:
    bench = Bench().start()
    (message,) = bench.hold(1010)
    bench.gateway.handle(bench.who.device, message.leaf, message.payload)
    bench.wait(15)
    assert bench.counters.duplicates == 1
    assert bench.counters.accepted == 1
    assert bench.account.exact == 10 * GRID[1]
    bench.agree()


def test_transient_refusals_resend_unchanged_after_a_pause() -> None:
    bench = Bench(depth=2).start()
    bench.gateway.transient = ["chain_stale"] * 4
    held = bench.hold(1010) + bench.hold(1020)
    bench.deliver(held)
    assert len(bench.leaves("usage")) == 2
    bench.wait(10)
    payloads = [m.payload for m in bench.leaves("usage")]
    assert payloads[:2] == payloads[2:4] == payloads[4:6] == [m.payload for m in held]
    assert bench.counters.refused == {"chain_stale": 4}
    assert bench.counters.accepted == 2
    bench.agree()


def test_after_a_transient_refusal_nothing_overtakes() -> None:
    bench = Bench(depth=4).start()
    bench.gateway.transient = ["busy"]
    first = bench.hold(1010)
    bench.deliver(first)
    assert bench.hold(1020) == []
    bench.wait(3)
    seqs = [json.loads(message.payload)["seq"] for message in bench.leaves("usage")]
    assert seqs == [1, 1, 2]
    bench.agree()


def test_price_changes_and_the_offer_of_the_time_of_reading() -> None:
    bench = Bench(depth=1).start()
    old = bench.device.tariffs.current.id
    first = bench.hold(1010)
    bench.hold(1020)
    bench.publish_offer(dearer(2 * GRID[1]))
    bench.deliver(first)
    bench.read(1030)
    # Taken under the old offer, priced under it; the one taken later under the new.
    assert bench.account.exact == 20 * GRID[1] + 10 * 2 * GRID[1]
    offers = [bytes.fromhex(json.loads(m.payload)["offer"][2:]) for m in bench.leaves("usage")]
    assert offers == [old, old, bench.device.tariffs.current.id]
    bench.agree()


def test_a_reading_older_than_the_grace_takes_the_new_price() -> None:
    bench = Bench().start()
    bench.device.on_disconnected()
    bench.hold(1010)
    payload = bench.gateway.publish_offer(dearer(2 * GRID[1]))
    bench.device.on_offer(payload, bench.now)
    bench.now += 1000 * SECOND
    bench.gateway.now_s += 1000
    bench.start()
    assert bench.account.exact == 10 * 2 * GRID[1]
    assert bench.counters.refused == {}
    bench.agree()


def test_offer_expired_is_priced_anew() -> None:
    bench = Bench().start()
    first = bench.hold(1010)
    bench.hold(1020)
    payload = bench.gateway.publish_offer(dearer(3 * GRID[1]))
    bench.gateway.now_s += 10_000
    bench.now += 10_000 * SECOND
    bench.deliver(bench.device.on_offer(payload, bench.now))
    bench.deliver(first)
    bench.wait(12)
    bench.agree()
    assert bench.counters.refused == {"offer_expired": 2}
    assert bench.account.exact == 20 * 3 * GRID[1]


def test_an_offer_that_the_gateway_does_not_know_waits_for_another() -> None:
    bench = Bench().start()
    stray = SimGateway(seed=1)
    stray.publish_offer(PRICES)
    bench.device.on_offer(stray.publish_offer(dearer(1)), bench.now)
    bench.read(1010)
    assert bench.counters.refused == {"offer_unknown": 1}
    bench.gateway.serial = 5
    bench.publish_offer(PRICES)
    bench.agree()
    assert bench.account.exact == 10 * GRID[1]
    assert not bench.device.stopped


def test_no_way_past_a_lasting_refusal_stops_with_the_reason() -> None:
    bench = Bench().start()
    stray = SimGateway(seed=1)
    stray.publish_offer(PRICES)
    bench.device.on_offer(stray.publish_offer(dearer(1)), bench.now)
    bench.read(1010)
    bench.wait(120)
    assert "offer_unknown" in bench.device.stopped
    sent = len(bench.sent)
    bench.read(1020)
    bench.wait(60)
    assert len(bench.sent) == sent


def test_netting_lowers_the_next_ceilings() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.account.offset = 9_000
    bench.gateway.max_ahead = 10**9
    bench.read(1200)  # signed before the offset was known, within maxAhead
    bench.gateway.max_ahead = 0
    bench.read(1300)
    assert bench.device.books.offset == 9_000
    assert json.loads(bench.leaves("usage")[-1].payload)["maxClaimableAmount"] == str(300 * 150 - 9_000)
    assert bench.counters.refused == {}
    bench.agree()


def test_ceiling_too_far_teaches_the_offset() -> None:
    bench = Bench(depth=3).start()
    bench.read(1100)
    bench.account.offset = 5_000
    bench.deliver(bench.hold(1200) + bench.hold(1300))
    assert bench.counters.refused["ceiling_too_far"] == 2
    assert bench.account.register == 1300
    assert bench.account.ceiling == 300 * 150 - 5_000
    bench.agree()


def test_a_charge_above_the_own_price_stops() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.account.exact += NANO
    bench.read(1200)
    assert "ceiling_too_low" in bench.device.stopped
    assert bench.counters.accepted == 1
    assert max(int(json.loads(m.payload)["maxClaimableAmount"]) for m in bench.leaves("usage")) == 200 * 150


def test_a_receipt_that_charges_more_stops() -> None:
    bench = Bench().start()
    (message,) = bench.hold(1100)
    answer = json.loads(bench.gateway.handle(bench.who.device, message.leaf, message.payload))
    answer["chargedCumulativeAmount"] = str(int(answer["chargedCumulativeAmount"]) + 1)
    bench.device.on_receipt(json.dumps(answer).encode(), bench.now)
    assert "own price" in bench.device.stopped


def test_a_big_step_is_cut_below_max_step() -> None:
    bench = Bench(gateway=SimGateway(max_step=100), depth=2).start()
    bench.read(1350)
    registers = [json.loads(m.payload)["register"] for m in bench.leaves("usage")]
    assert registers == [1100, 1200, 1300, 1350]
    assert bench.counters.refused == {}
    bench.agree()


def test_tops_up_before_it_runs_dry() -> None:
    bench = Bench(identity(deposit=1_000_000, low_water=250_000)).start()
    for register in range(2000, 21000, 1000):
        bench.read(register)
    deposits = [json.loads(m.payload)["deposit"] for m in bench.leaves("open")]
    salts = [d["authorization"]["erc3009Authorization"]["salt"] for d in deposits]
    assert len(set(salts)) == len(salts) == 4
    assert bench.account.balance == 4_000_000
    assert bench.counters.topups == 3
    assert bench.counters.refused == {}
    bench.agree()


def test_waits_for_the_deposit_when_the_balance_is_gone() -> None:
    bench = Bench(identity(deposit=1_000_000)).start()
    bench.gateway.open_refusals = ["deposit_pending"] * 2
    bench.read(1000 + 6_666)
    bench.read(1000 + 7_000)
    assert bench.counters.accepted == 1
    assert len(bench.leaves("open")) == 2
    bench.wait(20)
    payloads = {m.payload for m in bench.leaves("open")[1:]}
    assert len(payloads) == 1
    assert bench.counters.refused == {"deposit_pending": 2}
    assert bench.counters.accepted == 2
    bench.agree()


def test_one_reading_larger_than_a_deposit_gets_a_deposit_of_its_size() -> None:
    bench = Bench(identity(deposit=1_000_000)).start()
    bench.read(1000 + 40_000)
    assert bench.account.balance == 6_000_000
    bench.agree()


def test_an_empty_wallet_stops_with_the_figures() -> None:
    bench = Bench(identity(deposit=1_000_000, wallet=1_500_000)).start()
    bench.read(1000 + 12_000)
    assert bench.device.stopped == "the wallet is empty: 500000 left, 1000000 needed"


def test_a_pending_withdrawal_lowers_the_balance_and_calls_for_a_deposit() -> None:
    bench = Bench(identity(deposit=1_000_000)).start()
    bench.read(1100)
    bench.account.balance = 20_000
    bench.read(1200)
    assert bench.counters.refused == {"ceiling_above_balance": 1}
    assert bench.account.balance == 1_020_000
    assert bench.account.register == 1200
    bench.agree()


@pytest.mark.parametrize(
    "reason", ["too_large", "malformed", "wrong_device", "bad_signature", "overflow", "not_open", "reason_27"]
)
def test_refusals_that_no_resending_can_mend_stop(reason: str) -> None:
    bench = Bench().start()
    (message,) = bench.hold(1100)
    answers = json.loads(bench.gateway.handle("other", message.leaf, message.payload))["answers"]
    refusal = {"status": "refused", "reason": reason, "answers": answers}
    bench.deliver(bench.device.on_receipt(json.dumps(refusal).encode(), bench.now))
    assert reason in bench.device.stopped


def test_a_meter_that_runs_backwards_stops() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.read(1099)
    assert bench.device.stopped == "the meter went back from 1100 to 1099"


def test_foreign_and_broken_receipts_change_nothing() -> None:
    bench = Bench().start()
    (message,) = bench.hold(1100)
    before = bench.device.books.base
    answer = json.loads(bench.gateway.handle(bench.who.device, message.leaf, message.payload))
    for broken in (b"", b"{", json.dumps(answer | {"channelId": "0x" + "11" * 32}).encode()):
        assert bench.device.on_receipt(broken, bench.now) == []
    unknown = json.dumps(answer | {"answers": "0x" + "11" * 8}).encode()
    assert bench.device.on_receipt(unknown, bench.now) == []
    assert bench.device.books.base == before
    assert bench.counters.strays == 4
    bench.device.on_receipt(json.dumps(answer).encode(), bench.now)
    bench.agree()


# ---- opening


def test_no_answer_to_open_asks_again_with_the_same_deposit() -> None:
    bench = Bench()
    bench.device.on_connected(bench.now)
    (first,) = bench.device.on_offer(bench.gateway.offer_payload(), bench.now)
    again = []
    for _ in range(60):
        bench.now += SECOND
        again += bench.device.on_tick(bench.now)
    assert len(again) == 3
    assert {m.payload for m in again} == {first.payload}
    bench.deliver(again)
    assert bench.device.opened
    assert bench.account.balance == 2_000_000


@pytest.mark.parametrize("reason", ["busy", "deposit_pending", "not_enrolled"])
def test_opening_is_asked_again_unchanged(reason: str) -> None:
    bench = Bench()
    bench.gateway.open_refusals = [reason] * 3
    bench.start()
    bench.wait(120)
    assert bench.device.opened
    assert len({m.payload for m in bench.leaves("open")}) == 1
    assert bench.counters.refused == {reason: 3}


@pytest.mark.parametrize("reason", ["service_unknown", "channel_taken", "wrong_device", "bad_signature"])
def test_opening_refused_for_good(reason: str) -> None:
    bench = Bench()
    bench.gateway.open_refusals = [reason]
    bench.start()
    assert bench.device.stopped == f"opening was refused: {reason}"


def test_an_invalid_deposit_is_replaced_by_another_a_few_times() -> None:
    bench = Bench()
    bench.gateway.open_refusals = ["deposit_invalid"] * 2
    bench.start()
    bench.wait(5)
    assert bench.device.opened
    assert len({m.payload for m in bench.leaves("open")}) == 3
    hopeless = Bench()
    hopeless.gateway.open_refusals = ["deposit_invalid"] * 100
    hopeless.start()
    hopeless.wait(100)
    assert hopeless.device.stopped == "opening was refused: deposit_invalid"
    assert len(hopeless.leaves("open")) == 4


def test_a_new_lane_before_opening_makes_another_channel() -> None:
    bench = Bench()
    lanes = bench.gateway.lanes
    bench.gateway.open_refusals = ["config_mismatch"]
    bench.start()
    assert not bench.device.opened
    bench.publish_offer(PRICES, lanes=lanes[::-1])
    bench.wait(5)
    assert bench.device.opened
    configs = [json.loads(m.payload)["channelConfig"]["receiver"] for m in bench.leaves("open")]
    assert configs[0] != configs[-1]


def test_the_smallest_deposit_of_the_offer_is_met() -> None:
    bench = Bench(identity(deposit=5), SimGateway(min_deposit=1_234_567)).start()
    assert bench.account.balance == 1_234_567


def test_deposit_too_small_follows_a_raised_minimum() -> None:
    bench = Bench(identity(deposit=5), SimGateway(min_deposit=1_000_000))
    bench.device.on_connected(bench.now)
    opening = bench.device.on_offer(bench.gateway.offer_payload(), bench.now)
    bench.gateway.min_deposit = 3_000_000
    bench.device.on_offer(bench.gateway.publish_offer(PRICES), bench.now)
    bench.deliver(opening)
    assert bench.counters.refused == {"deposit_too_small": 1}
    assert bench.account.balance == 3_000_000
