"""A device that closes its channel: paid for first, asked until answered, opened again with a new deposit."""

import json

import cbor2
import pytest
from sim_gateway import CHAIN, NANO, PRICES, SimGateway
from sim_harness import BadWire, Bench, earner, identity

from firmware_sim.digests import close_digest
from firmware_sim.keys import recover

GRID = PRICES["grid-power"][1]


def _reboot_open(bench: Bench) -> None:
    bench.device.dirty = True
    bench.save()
    bench.reboot()


@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_a_close_is_signed_and_answered(encoding: str) -> None:
    bench = Bench(identity(encoding=encoding)).start()
    bench.read(1100)
    bench.close()
    (message,) = bench.leaves("close")
    if encoding == "json":
        document = json.loads(message.payload)
        channel, signature = (bytes.fromhex(document[name][2:]) for name in ("channelId", "signature"))
        assert set(document) == {"channelId", "seq", "signature"}
    else:
        document = cbor2.loads(message.payload)
        channel, signature = document["channelId"], document["signature"]
    digest = close_digest(CHAIN, channel, "gw1", "home-001", 2)
    assert (document["seq"], recover(digest, signature)) == (2, bench.who.meter_key.address)
    device = bench.device
    assert (device.closing.done, device.stopped) == (True, "")
    assert device.closing.refunded == bench.account.refunded == 2_000_000 - 100 * GRID // NANO
    assert device.books.balance == bench.account.balance == 100 * GRID // NANO
    bench.read(1200)
    bench.wait(60)
    assert device.meter == 1100, "nothing is metered any more"
    assert len(bench.leaves("close")) == 1


def test_what_was_read_is_paid_for_first() -> None:
    bench = Bench(depth=2).start()
    held = [*bench.hold(1100), *bench.hold(1150), *bench.hold(1170)]
    bench.sent.clear()
    messages = bench.device.close(bench.now)
    assert messages == []
    bench.deliver(held)
    assert [message.leaf for message in bench.sent] == ["usage", "usage", "usage", "close"]
    assert bench.device.closing.done
    assert bench.account.exact == 170 * GRID
    assert bench.account.closed


def test_a_channel_that_was_never_used_is_closed_with_its_first_seq() -> None:
    bench = Bench().start()
    bench.close()
    assert (bench.account.seq, bench.account.refunded, bench.device.closing.refunded) == (1, 2_000_000, 2_000_000)


def test_an_unanswered_close_is_sent_again_unchanged() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.gateway.unanswered = 3
    bench.close()
    bench.wait(200)
    sent = [message.payload for message in bench.leaves("close")]
    assert len(sent) == 4
    assert len(set(sent)) == 1
    assert bench.device.closing.done
    assert bench.device.closing.refunded == bench.account.refunded > 0


def test_a_close_survives_a_power_cut() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.gateway.unanswered = 1
    bench.close()
    first = bench.leaves("close")[0].payload
    bench.reboot()
    assert [message.payload for message in bench.leaves("close")] == [first, first]
    assert bench.device.closing.done
    bench.agree()


def test_a_power_cut_before_the_close_went_out() -> None:
    bench = Bench().start()
    bench.hold(1100)
    bench.device.close(bench.now)
    bench.save()
    bench.reboot()
    assert bench.device.closing.done
    assert bench.account.exact == 100 * GRID


@pytest.mark.parametrize("reason", ["deposit_pending", "busy", "chain_stale"])
def test_refusals_in_passing_are_waited_out(reason: str) -> None:
    bench = Bench().start()
    bench.gateway.close_refusals = [reason] * 3
    bench.close()
    assert not bench.device.closing.done
    bench.wait(60)
    assert bench.device.closing.done
    assert len({message.payload for message in bench.leaves("close")}) == 1
    assert bench.counters.refused[reason] == 3


def test_a_seq_that_is_used_up_is_numbered_anew() -> None:
    """The flash was rolled back: readings of this very key are accepted that the device does not know of."""
    bench = Bench().start()
    bench.read(1100)
    _reboot_open(bench)
    old = bench.flash
    bench.read(1200)
    bench.flash = old
    bench.reboot()
    bench.device.meter = 1200
    bench.close()
    assert bench.device.stopped == ""
    assert bench.device.closing.done
    assert bench.account.seq == 3
    assert bench.account.exact == 200 * GRID


def test_the_operator_was_faster() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.account.closed = True
    bench.close()
    assert (bench.device.closing.done, bench.device.stopped) == (True, "")


@pytest.mark.parametrize("reason", ["bad_signature", "wrong_device", "malformed"])
def test_other_refusals_stop_it(reason: str) -> None:
    bench = Bench().start()
    bench.gateway.close_refusals = [reason]
    bench.close()
    assert bench.device.stopped == f"closing: refused, {reason}"


def test_refusals_without_end_stop_it() -> None:
    bench = Bench().start()
    bench.gateway.close_refusals = ["seq_old"] * 9
    bench.close()
    bench.wait(100)
    assert bench.device.stopped == "closing: refused, seq_old"


def test_a_gateway_that_forgot_the_channel_gets_it_back_and_closes_it() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.gateway.accounts.clear()
    bench.close()
    bench.wait(30)
    assert bench.device.stopped == ""
    assert bench.device.closing.done
    assert bench.account.refunded == 2_000_000


def test_a_gateway_that_keeps_more_than_is_owed_is_found_out() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.account.exact += 5 * NANO
    bench.close()
    owed = 100 * GRID // NANO
    assert bench.device.stopped == f"closing: {owed + 5} were kept where {owed} are owed"


def test_a_device_that_opened_nothing_has_nothing_to_close() -> None:
    bench = Bench().start(offer=False)
    bench.close()
    bench.deliver(bench.device.on_offer(bench.gateway.offer_payload(), bench.now))
    assert bench.device.closing.done
    assert bench.gateway.accounts == {}


def test_one_that_is_just_opening_closes_when_it_is_open() -> None:
    bench = Bench().start(offer=False)
    opening = bench.device.on_offer(bench.gateway.offer_payload(), bench.now)
    bench.save()
    assert bench.device.close(bench.now) == []
    bench.deliver(opening)
    assert bench.device.closing.done
    assert bench.account.refunded == 2_000_000


def test_an_opening_that_is_refused_leaves_nothing_to_close() -> None:
    bench = Bench().start(offer=False)
    bench.gateway.open_refusals = ["deposit_invalid"]
    opening = bench.device.on_offer(bench.gateway.offer_payload(), bench.now)
    bench.device.close(bench.now)
    bench.deliver(opening)
    assert bench.device.closing.done
    assert bench.gateway.accounts == {}, "no other deposit was made"


def test_no_top_up_begins_when_it_ends() -> None:
    bench = Bench(identity(low_water=1_990_000)).start()
    bench.gateway.unanswered = 1
    bench.close()
    assert len(bench.leaves("open")) == 1 + bench.counters.topups
    before = len(bench.leaves("open"))
    bench.wait(60)
    assert len(bench.leaves("open")) == before


def test_an_earner_has_nothing_to_close() -> None:
    bench = Bench(earner()).start()
    bench.read(1100)
    bench.close()
    assert bench.device.closing.done
    assert bench.leaves("close") == []
    _reboot_open(bench)
    bench.read(1200)
    bench.agree()


def test_after_closing_a_restart_opens_again_with_a_new_deposit() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.close()
    before = bench.account
    _reboot_open(bench)
    assert bench.device.opened
    assert bench.account is before
    assert not before.closed
    assert len(bench.leaves("open")) == 2
    assert bench.leaves("open")[0].payload != bench.leaves("open")[1].payload
    bench.read(1300)
    bench.agree()
    assert bench.account.exact == 300 * GRID
    assert bench.account.seq == 3, "it numbers on behind the close"
    spent, returned = bench.device.deposits.spent, bench.device.deposits.returned
    assert (spent, returned) == (4_000_000, 2_000_000 - 100 * GRID // NANO)
    bench.close()
    assert bench.account.refunded == 4_000_000 - 300 * GRID // NANO == bench.device.closing.refunded


def test_what_came_back_can_be_deposited_again() -> None:
    bench = Bench(identity(wallet=2_000_000)).start()
    bench.read(1100)
    bench.close()
    _reboot_open(bench)
    assert bench.device.stopped == ""
    assert bench.account.balance == 2_000_000, "all that is left in the wallet"


def test_states_of_before_devices_could_close_are_read() -> None:
    bench = Bench().start()
    bench.read(1100)
    bench.device.dirty = True
    bench.save()
    assert bench.flash is not None
    state = cbor2.loads(bench.flash)
    del state["closing"]
    state["deposits"] = state["deposits"][:2]
    bench.flash = cbor2.dumps(state)
    bench.reboot()
    bench.read(1200)
    bench.agree()


@pytest.mark.parametrize("seed", range(81, 91))
def test_closing_over_a_bad_wire(seed: int) -> None:
    """Lost, repeated and reordered closes and reboots: in the end it is closed once, and all is paid for."""
    print(f"seed {seed}")
    bench = Bench(identity(encoding="cbor" if seed % 2 else "json"), SimGateway(), depth=3)
    wire = BadWire(bench, seed, loss=30, jitter_ms=3000)
    wire.connect()
    for step in range(1, 11):
        wire.run(1_500_000)
        wire.send(bench.device.on_reading(1000 + 10 * step, bench.now))
    while not bench.device.opened:
        wire.run(5_000_000)
    bench.gateway.unanswered = 2
    wire.send(bench.device.close(bench.now))
    for _ in range(100):
        wire.run(5_000_000)
        if bench.device.closing.done:
            break
        if wire.random.randrange(8) == 0:
            wire.reboot()
            wire.connect()
    assert bench.device.stopped == ""
    assert bench.device.closing.done
    assert bench.account.exact == 100 * GRID
    assert bench.account.refunded == 2_000_000 - 100 * GRID // NANO
    bench.agree()
