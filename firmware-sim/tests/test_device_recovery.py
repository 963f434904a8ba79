"""Power cuts, forgotten state and gateways that forgot theirs; and devices that earn."""

import json

import cbor2
import pytest
from sim_gateway import CHAIN, NANO, PRICES, SimGateway
from sim_harness import SECOND, Bench, earner, identity

from firmware_sim.digests import reading_digest
from firmware_sim.flash import SLOT_BYTES, Flash
from firmware_sim.keys import recover

GRID = PRICES["grid-power"][1]
SOLAR = PRICES["solar-export"][1]


def test_a_power_cut_after_sending_resends_the_same_bytes() -> None:
    bench = Bench().start()
    bench.read(1100)
    (message,) = bench.hold(1200)
    bench.gateway.handle(bench.who.device, message.leaf, message.payload)  # accepted, the receipt is lost
    bench.reboot()
    assert bench.leaves("usage")[-1].payload == message.payload
    assert bench.counters.duplicates == 1
    bench.read(1300)
    bench.agree()
    assert bench.account.exact == 300 * GRID
    assert bench.device.session == 2
    assert bench.device.taken == 3


def test_a_power_cut_while_a_deposit_is_on_its_way_does_not_deposit_twice() -> None:
    bench = Bench()
    bench.device.on_connected(bench.now)
    (opening,) = bench.device.on_offer(bench.gateway.offer_payload(), bench.now)
    bench.save()
    bench.gateway.handle(bench.who.device, opening.leaf, opening.payload)
    bench.reboot()
    assert bench.device.opened
    assert bench.account.balance == 2_000_000
    assert bench.device.deposits.spent == 2_000_000


def test_raw_and_refused_readings_survive() -> None:
    bench = Bench(depth=1).start()
    bench.gateway.transient = ["chain_stale"]
    held = bench.hold(1100) + bench.hold(1200)
    bench.deliver(held)
    bench.device.dirty = True
    bench.save()
    bench.reboot()
    bench.wait(2)
    assert bench.account.register == 1200
    bench.agree()


def test_pins_and_the_highest_serial_survive() -> None:
    bench = Bench().start()
    old = bench.gateway.offer_payload()
    bench.publish_offer(PRICES)
    bench.save()
    bench.reboot()
    assert bench.device.tariffs.current.serial == 2
    fresh = Bench()
    fresh.flash = bench.flash
    fresh.device = bench.device
    fresh.reboot()
    fresh.device.tariffs.current = None
    assert not fresh.device.tariffs.take(old, fresh.now)
    stranger = SimGateway(seed=2)
    stranger.serial = 9
    assert not fresh.device.tariffs.take(stranger.publish_offer(PRICES), fresh.now)


def test_state_of_another_key_is_not_taken() -> None:
    from firmware_sim import snapshot

    bench = Bench().start()
    bench.read(1100)
    bench.device.dirty = True
    bench.save()
    other = Bench(earner())
    from firmware_sim.keys import derive_key

    stranger = Bench(identity(meter_key=derive_key(5, "other")))
    assert bench.flash is not None
    assert not snapshot.restore(stranger.device, bench.flash)
    assert stranger.device.books.base is None
    assert not snapshot.restore(other.device, cbor2.dumps({"v": 2}))


def test_lost_state_is_adopted_with_the_own_voucher() -> None:
    bench = Bench(identity(encoding="cbor")).start()
    bench.read(1100)
    bench.read(1250)
    bench.device.on_disconnected()
    bench.reboot(forget=True)
    assert bench.counters.duplicates == 1
    bench.read(1300)
    bench.agree()
    assert bench.account.exact == 300 * GRID
    assert bench.account.balance == 2_000_000


def test_lost_state_and_a_voucher_that_does_not_verify_starts_at_zero_and_stops() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.account.voucher = bench.gateway.key.sign(bytes(32))
    bench.reboot(forget=True)
    assert bench.device.money == 0
    bench.read(1300)
    assert bench.leaves("usage")[-1].payload
    assert json.loads(bench.leaves("usage")[-1].payload)["maxClaimableAmount"] == str(200 * 150)
    assert bench.device.stopped.startswith("ceiling_too_low")


def test_lost_state_and_a_charge_above_the_voucher_is_not_adopted() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.account.exact += NANO
    bench.reboot(forget=True)
    assert bench.device.money == 0


def test_lost_state_after_netting_adopts_charge_and_offset() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.account.offset = 6_000
    bench.reboot(forget=True)
    bench.read(1300)
    bench.agree()
    assert bench.account.ceiling == 300 * 150 - 6_000
    assert bench.counters.refused == {}


def test_readings_below_an_adopted_register_are_not_billed_again() -> None:
    bench = Bench().start()
    bench.read(1200)
    bench.reboot(forget=True)
    bench.read(1100)
    bench.read(1200)
    bench.read(1210)
    bench.agree()
    assert bench.account.exact == 210 * GRID
    assert bench.counters.superseded == 1


def test_a_flash_that_went_back_resynchronises_by_the_own_voucher() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.device.dirty = True
    bench.save()
    old = bench.flash
    bench.read(1200)
    bench.read(1300)
    bench.flash = old
    bench.reboot()
    bench.read(1400)
    bench.agree()
    assert bench.account.exact == 400 * GRID
    assert bench.counters.refused["seq_conflict"] == 1
    assert not bench.device.stopped


def test_a_gateway_that_forgot_the_channel_gets_it_back_without_a_second_charge() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.read(1200)
    bench.gateway.accounts.clear()
    bench.read(1300)
    # It is opened again with the deposit that is already on the chain, from the last accepted register on.
    assert bench.counters.refused == {"unknown_channel": 1}
    assert bench.account.balance == 2_000_000
    assert (bench.device.deposits.spent, bench.device.deposits.count) == (2_000_000, 1)
    assert bench.account.exact == 100 * GRID
    assert json.loads(bench.leaves("open")[-1].payload)["register"] == "1200"
    bench.agree()
    assert not bench.device.stopped


def test_reopened_at_the_claimed_amount_costs_no_more() -> None:
    bench = Bench().start()
    bench.read(1200)
    claimed = bench.account.exact
    bench.gateway.accounts.clear()
    (message,) = bench.hold(1300)
    answer = bench.gateway.handle(bench.who.device, message.leaf, message.payload)
    (reopening,) = bench.device.on_receipt(answer, bench.now)
    answer = bench.gateway.handle(bench.who.device, reopening.leaf, reopening.payload)
    bench.account.exact = claimed
    state = json.loads(answer) | {"chargedCumulativeAmount": str(claimed // NANO)}
    bench.deliver(bench.device.on_receipt(json.dumps(state).encode(), bench.now))
    bench.agree()
    assert bench.device.money == 300 * 150


def test_a_gateway_that_forgot_and_claims_more_is_refused() -> None:
    bench = Bench().start()
    bench.read(1200)
    bench.gateway.accounts.clear()
    (message,) = bench.hold(1300)
    answer = bench.gateway.handle(bench.who.device, message.leaf, message.payload)
    (reopening,) = bench.device.on_receipt(answer, bench.now)
    answer = bench.gateway.handle(bench.who.device, reopening.leaf, reopening.payload)
    state = json.loads(answer) | {"chargedCumulativeAmount": str(200 * 150 + 1)}
    bench.device.on_receipt(json.dumps(state).encode(), bench.now)
    assert "own records" in bench.device.stopped


def test_seq_far_ahead_of_a_gateway_that_went_back() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.device.books.next_seq = 5 + (1 << 21)
    bench.read(1200)
    assert bench.counters.refused == {"seq_jump": 1}
    bench.agree()
    assert bench.account.seq == 2


def test_a_late_copy_of_a_refused_reading_is_harmless() -> None:
    """A refusal comes back while a second copy of the reading is still on its way."""
    bench = Bench().start()
    bench.read(1100)
    bench.account.offset = 3_000
    (message,) = bench.hold(1200)
    refusal = bench.gateway.handle(bench.who.device, message.leaf, message.payload)
    assert json.loads(refusal)["reason"] == "ceiling_too_far"
    bench.gateway.max_ahead = 10**9
    bench.gateway.handle(bench.who.device, message.leaf, message.payload)  # the copy, accepted now
    bench.deliver(bench.device.on_receipt(refusal, bench.now))
    bench.read(1300)
    bench.agree()
    assert bench.account.exact == 300 * GRID


def test_a_gateway_restored_from_a_backup_is_followed_where_it_costs_no_more() -> None:
    """After the rollback the same usage costs less under the present price: the device takes the lower charge."""
    bench = Bench().start()
    bench.read(1100)
    account = bench.account
    backup = (account.seq, account.register, account.exact, account.offer, account.serial, bench.gateway.commit)
    bench.read(1200)
    bench.publish_offer(PRICES | {"grid-power": ("Wh", GRID // 3, "pay")})
    *fields, bench.gateway.commit = backup
    account.seq, account.register, account.exact, account.offer, account.serial = fields
    bench.read(1300)
    assert set(bench.counters.refused) == {"ceiling_too_far"}
    assert bench.account.exact == 100 * GRID + 200 * (GRID // 3)
    bench.agree()
    assert not bench.device.stopped


def test_an_overtaken_refusal_does_not_take_the_device_back() -> None:
    bench = Bench(depth=2).start()
    bench.read(1100)
    (first,) = bench.hold(1200)
    cheaper = PRICES | {"grid-power": ("Wh", GRID // 2, "pay")}
    bench.device.on_offer(bench.gateway.publish_offer(cheaper), bench.now)
    (second,) = bench.hold(1300)
    late = bench.gateway.handle(bench.who.device, second.leaf, second.payload)  # too far: it came first
    assert json.loads(late)["lastRegister"] == 1100
    bench.deliver([first])
    bench.deliver(bench.device.on_receipt(late, bench.now))
    bench.agree()
    assert bench.account.exact == 200 * GRID + 100 * (GRID // 2)
    assert bench.counters.refused == {"ceiling_too_far": 1}


def test_a_late_copy_under_an_older_price_is_recognised() -> None:
    """It was signed here at that price, so the charge is right, although the reading was priced anew since."""
    bench = Bench().start()
    bench.read(1100)
    bench.account.offset = 3_000
    (message,) = bench.hold(1200)
    refusal = bench.gateway.handle(bench.who.device, message.leaf, message.payload)
    cheaper = PRICES | {"grid-power": ("Wh", GRID // 2, "pay")}
    bench.device.on_offer(bench.gateway.publish_offer(cheaper), bench.now)
    bench.gateway.max_ahead = 10**9
    bench.gateway.handle(bench.who.device, message.leaf, message.payload)  # accepted at the old price
    bench.gateway.max_ahead = 0
    bench.now += 500 * SECOND  # too late for the old offer, by the device's own clock
    bench.deliver(bench.device.on_receipt(refusal, bench.now))
    bench.wait(3)
    bench.read(1300)
    assert not bench.device.stopped
    bench.agree()
    assert bench.account.exact == 200 * GRID + 100 * (GRID // 2)


# ---- earning


@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_earns_with_signed_readings(encoding: str) -> None:
    bench = Bench(earner(encoding=encoding)).start()
    for register in (1000, 1010, 1500):
        bench.read(register)
    bench.agree()
    assert bench.device.money == 500 * SOLAR // NANO
    assert {m.leaf for m in bench.sent} == {"state", "open", "earn"}
    last = bench.leaves("earn")[-1].payload
    if encoding == "cbor":
        fields = cbor2.loads(last)
        digest = reading_digest(CHAIN, fields[1], fields[2], fields[3], fields[4], fields[5], 0)
        assert recover(digest, fields[14]) == bench.who.meter_key.address


def test_an_earner_resends_and_survives_a_power_cut() -> None:
    bench = Bench(earner()).start()
    (message,) = bench.hold(1100)
    bench.gateway.handle(bench.who.device, message.leaf, message.payload)
    bench.reboot()
    bench.read(1200)
    bench.agree()
    assert bench.account.exact == 200 * SOLAR
    assert bench.counters.duplicates == 1


def test_an_earner_that_forgot_goes_on_where_the_gateway_stands() -> None:
    bench = Bench(earner()).start()
    bench.read(1100)
    bench.reboot(forget=True)
    bench.read(1200)
    bench.agree()
    assert bench.account.exact == 200 * SOLAR


def test_an_earner_is_not_paid_short() -> None:
    bench = Bench(earner()).start()
    bench.read(1100)
    bench.account.exact -= NANO
    bench.read(1200)
    assert "own price" in bench.device.stopped


def test_a_forgotten_earner_account_is_enrolled_again() -> None:
    bench = Bench(earner()).start()
    bench.read(1100)
    bench.gateway.accounts.clear()
    bench.read(1200)
    # What was earned before is gone with the gateway's journal: that is less than the own records say.
    assert bench.counters.refused == {"unknown_channel": 1}
    assert "own records" in bench.device.stopped


def test_an_earner_waits_for_enrolment() -> None:
    bench = Bench(earner())
    bench.gateway.open_refusals = ["not_enrolled"]
    bench.start()
    assert not bench.device.opened
    bench.wait(20)
    assert bench.device.opened


# ---- flash


def test_flash_keeps_the_newest_state(tmp_path) -> None:
    path = tmp_path / "device.flash"
    flash = Flash(path)
    assert flash.load() is None
    for text in (b"one", b"two" * 1000, b"three"):
        flash.save(text)
    flash.close()
    flash = Flash(path, sync=True)
    assert flash.load() == b"three"
    flash.save(b"four")
    flash.close()
    assert Flash(path).load() == b"four"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", [0, 1, 4, 12, 20, 31, 32, 33, 36])
def test_a_torn_write_leaves_the_state_before_it(tmp_path, cut: int) -> None:
    path = tmp_path / "device.flash"
    flash = Flash(path)
    flash.save(b"old")  # counter 1, slot 1
    flash.save(b"state")  # counter 2, slot 0
    before = path.read_bytes()
    flash.save(b"newer")  # counter 3, slot 1
    flash.close()
    after = path.read_bytes()
    torn = bytearray(before)
    torn[SLOT_BYTES : SLOT_BYTES + cut] = after[SLOT_BYTES : SLOT_BYTES + cut]
    path.write_bytes(bytes(torn))
    again = Flash(path)
    assert again.load() == b"state"
    again.save(b"next")
    again.close()
    assert Flash(path).load() == b"next"


def test_every_flipped_bit_is_noticed(tmp_path) -> None:
    path = tmp_path / "device.flash"
    flash = Flash(path)
    flash.save(b"state")
    flash.close()
    good = path.read_bytes()
    for index in range(SLOT_BYTES, len(good)):
        path.write_bytes(good[:index] + bytes([good[index] ^ 1]) + good[index + 1 :])
        spoilt = Flash(path)
        assert spoilt.load() is None
        spoilt.close()


def test_a_state_larger_than_a_slot_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="larger"):
        Flash(tmp_path / "device.flash").save(bytes(SLOT_BYTES))


def test_the_largest_state_fits_a_slot() -> None:
    bench = Bench(identity(sign_readings=True), depth=64, queue=64).start()
    for register in range(1001, 1200):
        bench.hold(register)
    bench.now += SECOND
    bench.device.dirty = True
    bench.save()
    assert bench.flash is not None
    assert len(bench.device.window.signed) == len(bench.device.window.raw) == 64
    assert len(bench.flash) < SLOT_BYTES - 64
