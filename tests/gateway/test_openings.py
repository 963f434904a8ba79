"""Opening and topping up, against a chain on which others act too (docs/protocol.md 3 and 5)."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from channels.digests import deposit_nonce, domain_separator, keccak
from channels.refusals import Refusal
from channels.signatures import key_address, sign
from channels.state import Phase
from channels.types import SETTLEMENT_ADDRESS
from devices.messages import Receipt, Status
from devices.receipts import decode_receipt
from gateway import openings
from gateway.config import ServiceConfig
from gateway.records import OpenReceived
from settlement import calls
from settlement.abi import call_data
from settlement.errors import ChainUnavailable
from settlement.genesis import TOKEN_ADDRESS
from settlement.port import Call
from tests.support.gateway_devices import Payer, secret, to_cbor, to_json
from tests.support.gateway_world import CHAIN_ID, COIN, EPOCH, SERVICES, TOKEN, Crash, World, until

Make = Callable[..., Awaitable[World]]


async def never(*_: Any) -> None:
    """Wait for ever, as a call whose answer never comes."""
    await asyncio.Event().wait()


async def cut(*_: Any) -> None:
    """Cut the power here."""
    raise Crash


def opening(answer: Receipt, payer: Payer, balance: int) -> None:
    """Check the receipt of an opened channel."""
    assert answer.reason is None, answer
    assert (answer.id, answer.seq, answer.balance) == (payer.id, 0, balance)
    assert (answer.last_seq, answer.cumulative, answer.offset) == (0, 0, 0)


async def credited(world: World, payer: Payer, balance: int) -> None:
    """Check that the chain and the books hold exactly this, and that the channel takes a reading."""
    await world.seen()
    assert (await world.view(payer.id)).balance == balance
    assert world.channel(payer).balance == balance
    assert world.channel(payer).phase is Phase.OPEN
    await world.pay(payer)
    assert await world.faults() == []


@pytest.mark.parametrize("write", [to_json, to_cbor], ids=["json", "cbor"])
async def test_an_open_is_answered_when_its_deposit_is_final(world: World, write: Callable[..., bytes]) -> None:
    world.miner.auto = False
    payer = world.payer()
    payload = write(payer.open(3_000_000, register=77))
    await world.link.send("meter-1", "open", payload)
    await until(lambda: world.miner.chain.pending_count > 0)
    await world.seen()
    assert world.link.published == [], "answered before the deposit was mined"
    assert world.link.acknowledged, "not acknowledged although the intent is on disk"
    # Another one meanwhile has to wait.
    other = to_json(payer.open(4_000_000, salt=2))
    waiting = await world.ask("meter-1", "open", other)
    assert (waiting.reason, waiting.id, waiting.seq) == (Refusal.DEPOSIT_PENDING, payer.id, 0)
    # Readings on a channel that is not open yet are refused.
    early = await world.ask("meter-1", "usage", to_json(payer.usage(register=80)))
    assert early.reason is Refusal.NOT_OPEN
    world.mine()
    answer = decode_receipt(await world.link.receipt("meter-1", payload))
    opening(answer, payer, 3_000_000)
    assert answer.status is Status.ACCEPTED
    assert (answer.last_register, answer.last_offer, answer.last_remainder) == (77, payer.offer.id, 0)
    assert (answer.ceiling, answer.signature) == (0, None)
    world.miner.auto = True
    payer.register = 77
    await credited(world, payer, 3_000_000)


async def test_the_same_open_again_is_a_duplicate_and_pays_once(world: World) -> None:
    payer = await world.opened(amount=2_000_000)
    payload = to_json(payer.open(2_000_000))
    for _ in range(2):
        answer = await world.ask("meter-1", "open", payload)
        assert answer.status is Status.DUPLICATE
        opening(answer, payer, 2_000_000)
        await world.restart()
    await credited(world, payer, 2_000_000)


async def test_topping_up_adds_to_the_balance_and_keeps_the_meter(world: World) -> None:
    payer = await world.opened(amount=2_000_000)
    await world.pay(payer, 100)
    # A top-up has no least amount, and its register means nothing any more.
    answer = await world.ask("meter-1", "open", to_json(payer.open(1, salt=2, register=5)))
    assert (answer.status, answer.balance, answer.seq) == (Status.ACCEPTED, 2_000_001, 0)
    assert (answer.last_seq, answer.last_register, answer.cumulative) == (1, 100, payer.charged)
    assert answer.signature is not None
    again = await world.ask("meter-1", "open", to_json(payer.open(1, salt=2, register=5)))
    assert (again.status, again.balance) == (Status.DUPLICATE, 2_000_001)
    await credited(world, payer, 2_000_001)


async def test_many_devices_open_at_once(world: World) -> None:
    devices = [world.payer(f"meter-{number}") for number in range(1, 9)]
    answers = await asyncio.gather(*(world.ask(each.device, "open", to_json(each.open())) for each in devices))
    for answer, payer in zip(answers, devices, strict=True):
        opening(answer, payer, 5_000_000)
    for payer in devices:
        await credited(world, payer, 5_000_000)


async def test_more_opens_than_may_be_in_flight_are_busy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openings, "IN_FLIGHT_MAX", 2)
    world.miner.auto = False
    devices = [world.payer(f"meter-{number}") for number in range(1, 4)]
    frames = [world.link.frame(each.device, "open", to_json(each.open())) for each in devices]
    await world.link.deliver(frames)  # in one batch
    answer = decode_receipt(await world.link.receipt("meter-3", frames[2].payload))
    assert (answer.reason, answer.id) == (Refusal.BUSY, devices[2].id)
    assert answer.reason.transient
    late = await world.ask("meter-3", "open", frames[2].payload)  # in another one
    assert late.reason is Refusal.BUSY
    world.miner.auto = True
    world.mine()
    for frame in frames[:2]:
        assert decode_receipt(await world.link.receipt(frame.device, frame.payload)).status is Status.ACCEPTED
    opening(await world.ask("meter-3", "open", frames[2].payload), devices[2], 5_000_000)


# -- others on the chain --


async def test_a_third_party_deposits_first(world: World) -> None:
    payer = world.payer()
    await world.deposit(payer.config, 5_000_000, payer.authorization(5_000_000))
    await world.seen()
    opening(await world.ask("meter-1", "open", to_json(payer.open())), payer, 5_000_000)
    await credited(world, payer, 5_000_000)


MOMENTS = [
    ("before", "authorization_used"), ("after", "authorization_used"), ("before", "head"), ("after", "head"),
    ("before", "simulate"), ("after", "simulate"), ("before", "channels"), ("after", "channels"),
    ("before", "estimate_all"), ("after", "estimate_all"), ("before", "send_all"), ("after", "send_all"),
]  # fmt: skip


@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: "-".join(moment))
async def test_a_third_party_deposits_while_we_do(world: World, moment: tuple[str, str], watched: bool) -> None:
    payer = world.payer()

    async def run_in_front(*_: Any) -> None:
        if moment == ("after", "send_all"):
            return  # ours is mined by then; the authorization is used
        await world.deposit(payer.config, 5_000_000, payer.authorization(5_000_000))
        if watched:
            await world.seen()

    payload = to_json(payer.open())
    await _pause_watcher(world)
    getattr(world.layer, f"once_{moment[0]}")(moment[1], run_in_front)
    await world.link.send("meter-1", "open", payload)
    waiting = asyncio.ensure_future(world.link.receipt("meter-1", payload))
    hooks = (world.layer.before if moment[0] == "before" else world.layer.after)[moment[1]]
    while not waiting.done() and world.running:
        if not hooks:  # the watcher asks the same layer, and must not meet the hook
            await world.seen()
        await asyncio.sleep(0.002)
    opening(decode_receipt(await waiting), payer, 5_000_000)
    await credited(world, payer, 5_000_000)


async def _pause_watcher(world: World) -> None:
    """Let the watcher step only when the test says so, so that hooks meet the opening alone."""
    world.gateway.watcher._poll_s = 3600.0
    await asyncio.sleep(0.03)


async def test_the_payer_withdraws_what_a_third_party_deposited_in_between(world: World) -> None:
    """Nobody outside can stop the gateway by events that it has read before it knew the channel."""
    payer = world.payer()
    await _pause_watcher(world)

    async def run_in_front(*_: Any) -> None:
        await world.deposit(payer.config, 5_000_000, payer.authorization(5_000_000))
        await world.seen()

    world.layer.once_after("channels", run_in_front)
    await world.ask("meter-1", "open", to_json(payer.open()))
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 5_000_000))
    await world.seen()
    assert world.channel(payer).withdrawing == 5_000_000
    assert await world.faults() == []


async def cancel(world: World, payer: Payer, salt: int) -> None:
    """The payer makes its own authorization void, as ERC-3009 lets it."""
    nonce = deposit_nonce(payer.id, salt)
    typed = keccak(b"CancelAuthorization(address authorizer,bytes32 nonce)")
    struct = keccak(typed + payer.payer.rjust(32, b"\0") + nonce)
    domain = domain_separator("USD Coin", "2", CHAIN_ID, TOKEN_ADDRESS)
    signature = sign(keccak(b"\x19\x01" + domain + struct), payer.payer_key)
    data = call_data("cancelAuthorization(address,bytes32,bytes)", payer.payer, nonce, signature)
    await world.transact(world.stranger_key, TOKEN_ADDRESS, data)


async def test_a_cancelled_authorization_is_no_deposit(world: World) -> None:
    """A used nonce alone is no success: there must be a matching deposit (docs/protocol.md 1)."""
    payer = world.payer()
    world.layer.once_before("estimate_all", lambda *_: cancel(world, payer, 1))
    answer = await world.ask("meter-1", "open", to_json(payer.open()))
    assert (answer.status, answer.reason) == (Status.REFUSED, Refusal.DEPOSIT_INVALID)
    later = await world.ask("meter-1", "open", to_json(payer.open()))
    assert (later.status, later.reason) == (Status.REFUSED, Refusal.DEPOSIT_INVALID)
    assert await world.faults() == []
    # The channel itself is not spoilt by it.
    answer = await world.ask("meter-1", "open", to_json(payer.open(salt=2)))
    opening(answer, payer, 5_000_000)
    await credited(world, payer, 5_000_000)


async def test_a_top_up_that_is_cancelled_on_the_way_is_no_top_up(world: World) -> None:
    payer = await world.opened()
    world.layer.once_before("estimate_all", lambda *_: cancel(world, payer, 2))
    answer = await world.ask("meter-1", "open", to_json(payer.open(1_000_000, salt=2)))
    assert answer.balance == 5_000_000
    assert (answer.status, answer.reason) == (Status.REFUSED, Refusal.DEPOSIT_INVALID)
    answer = await world.ask("meter-1", "open", to_json(payer.open(1_000_000, salt=3)))
    assert (answer.status, answer.balance) == (Status.ACCEPTED, 6_000_000)
    await credited(world, payer, 6_000_000)


async def test_a_payer_without_the_money_is_refused(world: World) -> None:
    payer = world.payer()
    answer = await world.ask("meter-1", "open", to_json(payer.open(100 * TOKEN + 1)))
    assert (answer.status, answer.reason) == (Status.REFUSED, Refusal.DEPOSIT_INVALID)
    assert (answer.id, answer.seq, answer.balance) == (payer.id, 0, None)
    assert world.gateway.pipeline.counters.refused == {"deposit_invalid": 1}
    assert payer.id not in world.ledger.channels
    # Nothing is left of it: another device may open that very channel.
    other = world.payer("meter-2", payer_key=payer.payer_key, device_key=payer.device_key)
    assert other.id == payer.id
    opening(await world.ask("meter-2", "open", to_json(other.open())), other, 5_000_000)


# As a key's code under EIP-7702: isValidSignature says yes, after so many rounds of a loop of 26 gas.
def code_of(rounds: int) -> str:
    loop = f"63{rounds:08x}5b600190038060055750" if rounds else ""
    return f"0x{loop}631626ba7e60e01b60005260206000f3"


async def with_code(make_world: Make, rounds: int) -> World:
    """A world in which the payer of meter-1 is a key with code."""
    payer = key_address(secret("payer of meter-1"))
    return await make_world(extra_alloc={f"0x{payer.hex()}": {"balance": hex(COIN), "code": code_of(rounds)}})


@pytest.mark.parametrize("rounds", [0, 12_000])
async def test_a_payer_with_code_that_verifies_its_signature(make_world: Make, rounds: int) -> None:
    """Also with 330,000 gas for a curve that the chain does not know."""
    world = await with_code(make_world, rounds)
    before = world.ledger.totals.gas_used
    payer = await world.opened()
    assert rounds * 26 < world.ledger.totals.gas_used - before < openings.DEPOSIT_GAS_MAX
    await credited(world, payer, 5_000_000)


async def test_a_payer_with_code_that_burns_gas_is_refused(make_world: Make, caplog: pytest.LogCaptureFixture) -> None:
    world = await with_code(make_world, 2_000_000)
    before = world.ledger.totals.gas_used
    payer = world.payer()
    for salt in (1, 2):
        answer = await world.ask("meter-1", "open", to_json(payer.open(salt=salt)))
        assert (answer.status, answer.reason) == (Status.REFUSED, Refusal.DEPOSIT_INVALID)
    assert world.ledger.totals.gas_used == before, "nothing was sent"
    assert (await world.view(payer.id)).balance == 0
    assert "the deposit of meter-1 is not submitted: it needs 5" in caplog.text
    assert "942000 is the most that it is worth" in caplog.text
    # Another device is served meanwhile.
    await credited(world, await world.opened("meter-2"), 5_000_000)


async def test_a_plain_deposit_takes_what_the_bound_rests_on(world: World) -> None:
    payer = world.payer()
    estimates: list[Any] = []

    async def note(wanted: Sequence[Call]) -> None:
        estimates.extend([await world.layer._inner.estimate_gas(call) for call in wanted])

    for salt in (1, 2):
        world.layer.once_before("estimate_all", note)
        assert (await world.ask("meter-1", "open", to_json(payer.open(salt=salt)))).reason is None
    first, top_up = estimates
    assert first == pytest.approx(openings.PLAIN_DEPOSIT_GAS, rel=0.02)
    assert top_up < first


async def test_a_deposit_that_fails_on_the_way_leaves_nothing_behind(world: World) -> None:
    """The payer moves its money away between our simulation and our transaction."""
    payer = world.payer()

    async def spend(*_: Any) -> None:
        data = calls.transfer(secret("elsewhere")[:20], 100 * TOKEN)
        await world.transact(payer.payer_key, TOKEN_ADDRESS, data)

    world.layer.once_before("estimate_all", spend)
    answer = await world.ask("meter-1", "open", to_json(payer.open()))
    assert (answer.status, answer.reason) == (Status.REFUSED, Refusal.DEPOSIT_INVALID)
    await world.give(payer.payer, 10 * TOKEN)
    # Another device opens that very channel: what the gateway then says must hold.
    other = world.payer("meter-2", payer_key=payer.payer_key, device_key=payer.device_key)
    assert other.id == payer.id
    answer = await world.ask("meter-2", "open", to_json(other.open()))
    assert answer.status is Status.ACCEPTED or answer.reason is Refusal.CHANNEL_TAKEN
    owner = other if answer.status is Status.ACCEPTED else payer
    if owner is payer:
        opening(await world.ask("meter-1", "open", to_json(payer.open())), payer, 5_000_000)
    await credited(world, owner, 5_000_000)
    await world.restart()
    await world.pay(owner)


async def test_a_known_channel_is_topped_up_by_a_stranger(world: World) -> None:
    payer = await world.opened()
    await world.deposit(payer.config, 1_000_000, payer.authorization(1_000_000, 2))
    answer = await world.ask("meter-1", "open", to_json(payer.open(1_000_000, salt=2)))
    assert (answer.status, answer.balance) == (Status.DUPLICATE, 6_000_000)
    await credited(world, payer, 6_000_000)


# -- channels with a past --


async def test_an_unknown_channel_with_history_starts_at_what_was_claimed(make_world: Make) -> None:
    """The journal is lost, the keys are not: devices open their channels again (docs/protocol.md 6)."""
    world = await make_world()
    payer = await world.opened()
    await world.pay(payer, 1_000)
    assert await world.gateway.settler.settle() is not None
    claimed = payer.charged
    await world.crash()
    world.config = _elsewhere(world)
    await world.start()
    assert await world.faults() == []
    unknown = await world.ask("meter-1", "usage", to_json(payer.usage()))
    assert unknown.reason is Refusal.UNKNOWN_CHANNEL
    answer = await world.ask("meter-1", "open", to_json(payer.open(1_000_000, salt=2, register=1_000)))
    assert (answer.status, answer.balance) == (Status.ACCEPTED, 6_000_000)
    assert (answer.cumulative, answer.last_seq, answer.last_register) == (claimed, 0, 1_000)
    assert await world.faults() == []
    payer.seq = 0
    await world.pay(payer, 100)
    assert await world.gateway.settler.settle() is not None
    assert world.channel(payer).claimed == payer.charged
    assert await world.faults() == []


async def test_an_unknown_channel_whose_deposit_is_older_than_the_journal(make_world: Make) -> None:
    world = await make_world()
    payer = await world.opened()
    await world.pay(payer, 1_000)
    await world.gateway.settler.settle()
    await world.crash()
    world.config = _elsewhere(world)
    await world.start()
    # The very same open as then: its authorization is used, and the money is still there.
    answer = await world.ask("meter-1", "open", to_json(payer.open()))
    assert (answer.status, answer.balance, answer.cumulative) == (Status.ACCEPTED, 5_000_000, payer.charged)
    assert await world.faults() == []


async def test_an_unknown_channel_that_was_drained_is_no_deposit(make_world: Make) -> None:
    world = await make_world()
    payer = world.payer()
    await world.deposit(payer.config, 5_000_000, payer.authorization(5_000_000))
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 5_000_000))
    world.mine(900)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))
    answer = await world.ask("meter-1", "open", to_json(payer.open()))
    assert answer.reason is Refusal.DEPOSIT_INVALID
    assert await world.faults() == []
    # Put something in again: then it is a channel like any other.
    opening(await world.ask("meter-1", "open", to_json(payer.open(2_000_000, salt=2))), payer, 2_000_000)
    await credited(world, payer, 2_000_000)


async def test_an_unknown_channel_with_a_withdrawal_under_way(world: World) -> None:
    payer = world.payer()
    await world.deposit(payer.config, 5_000_000, payer.authorization(5_000_000))
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 4_999_000))
    answer = await world.ask("meter-1", "open", to_json(payer.open()))
    assert (answer.status, answer.balance) == (Status.ACCEPTED, 1_000)
    assert world.channel(payer).phase is Phase.WITHDRAWING
    assert (await world.ask("meter-1", "usage", to_json(payer.usage(7)))).reason is Refusal.CEILING_ABOVE_BALANCE
    await world.pay(payer, 6)
    assert await world.faults() == []


def _elsewhere(world: World) -> Any:
    import msgspec

    return msgspec.structs.replace(world.config, data_dir=f"{world.config.data_dir}-2")


# -- the power goes --

# Where the power is cut while one open is carried out, and what is journaled by then.
CUTS = [
    ("before", "authorization_used"), ("before", "head"), ("before", "simulate"), ("before", "channels"),
    ("after", "channels"), ("before", "estimate_all"), ("after", "estimate_all"), ("before", "fees"),
    ("before", "send_all"), ("after", "send_all"), ("before", "receipts"), ("after", "receipts"), ("before", "events"),
]  # fmt: skip


@pytest.mark.parametrize("auto", [True, False], ids=["mined-at-once", "mined-later"])
@pytest.mark.parametrize("moment", CUTS, ids=lambda moment: "-".join(moment))
async def test_a_restart_in_the_middle_ends_with_one_deposit(world: World, moment: tuple[str, str], auto: bool) -> None:
    payer = world.payer()
    payload = to_json(payer.open())
    await _pause_watcher(world)
    world.miner.auto = auto
    getattr(world.layer, f"once_{moment[0]}")(moment[1], cut)
    await world.link.send("meter-1", "open", payload)
    if moment[1] == "events":
        deposits = world.miner.chain.nonce  # by the operator, who does nothing else
        await until(lambda: deposits(world.keys.operator.address, pending=True) > 0)
        world.mine()
        with pytest.raises(Crash):
            await world.seen()
    else:
        assert isinstance(await world.fault(), Crash)
    assert world.link.published == []
    assert [frame.payload for frame in world.link.acknowledged] == [payload]
    fault = await world.crash()
    assert fault is None or isinstance(fault, Crash)
    world.layer.before.clear()
    world.layer.after.clear()
    world.miner.auto = True
    world.mine()
    await world.start()
    assert isinstance(next(iter(world.ledger.opens.values())), OpenReceived)
    opening(decode_receipt(await world.link.receipt("meter-1", payload)), payer, 5_000_000)
    await credited(world, payer, 5_000_000)
    assert not world.ledger.opens
    await world.restart()
    await world.pay(payer)
    assert await world.balance(payer.payer) == 95 * TOKEN, "not exactly one deposit was taken"


async def test_a_restart_without_the_power_cut_resumes_too(world: World) -> None:
    payer = world.payer()
    payload = to_json(payer.open())
    world.layer.once_before("simulate", never)
    await world.link.send("meter-1", "open", payload)
    await until(lambda: not world.layer.before["simulate"])
    await world.stop()
    await world.start()
    opening(decode_receipt(await world.link.receipt("meter-1", payload)), payer, 5_000_000)
    await credited(world, payer, 5_000_000)


async def test_an_open_waits_while_the_chain_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openings, "RETRY_S", 0.001)

    async def away(*_: Any) -> None:
        raise ChainUnavailable("the cable is out")

    payer = world.payer()
    for method in ("authorization_used", "head", "simulate", "channels"):
        for _ in range(3):
            world.layer.once_before(method, away)
    opening(await world.ask("meter-1", "open", to_json(payer.open())), payer, 5_000_000)
    assert world.running
    await credited(world, payer, 5_000_000)


async def test_a_lost_answer_of_the_chain_is_no_second_deposit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.sending._RETRY_S", 0.001)

    async def lost(*_: Any) -> None:
        raise ChainUnavailable("the answer was lost")

    payer = world.payer()
    for method in ("estimate_all", "fees", "send_all", "receipts"):
        world.layer.once_after(method, lost)
    opening(await world.ask("meter-1", "open", to_json(payer.open())), payer, 5_000_000)
    assert await world.balance(payer.payer) == 95 * TOKEN
    await credited(world, payer, 5_000_000)


# -- refusals without the chain --


def _changed(**changed: Any) -> Callable[[World, Payer], dict[str, Any]]:
    return lambda world, payer: payer.open(**changed)


def _set(name: str, value: Any) -> Callable[[World, Payer], dict[str, Any]]:
    return lambda world, payer: payer.open() | {name: value}


def _authorized(**changed: Any) -> Callable[[World, Payer], dict[str, Any]]:
    return lambda world, payer: payer.open(authorization=payer.authorization(5_000_000, **changed))


def _other_lane(world: World, payer: Payer) -> dict[str, Any]:
    lanes = list(payer.offer.lanes)
    lanes.remove(payer.config.receiver)
    return payer.open(receiver=lanes[0])


REFUSED: list[tuple[str, Callable[[World, Payer], dict[str, Any]], Refusal]] = [
    ("unknown offer", _set("offer", bytes(16)), Refusal.OFFER_UNKNOWN),
    ("unknown service", _set("service", "tea"), Refusal.SERVICE_UNKNOWN),
    ("a service that earns", _set("service", "solar-export"), Refusal.SERVICE_UNKNOWN),
    ("another token", _changed(token=bytes(19) + b"\1"), Refusal.CONFIG_MISMATCH),
    ("another delay", _changed(withdrawDelay=901), Refusal.CONFIG_MISMATCH),
    ("another authorizer", _changed(receiverAuthorizer=bytes(19) + b"\1"), Refusal.CONFIG_MISMATCH),
    ("another receiver", _changed(receiver=bytes(19) + b"\1"), Refusal.CONFIG_MISMATCH),
    ("another lane", _other_lane, Refusal.CONFIG_MISMATCH),
    ("no payer authorizer", _changed(payerAuthorizer=bytes(20)), Refusal.CONFIG_MISMATCH),
    ("a binding by another key", _set("binding", sign(bytes(32), secret("nobody"))), Refusal.BAD_SIGNATURE),
    ("too little", lambda world, payer: payer.open(999_999), Refusal.DEPOSIT_TOO_SMALL),
    ("nothing", lambda world, payer: payer.open(0), Refusal.DEPOSIT_TOO_SMALL),
    ("expired", _authorized(valid_before=EPOCH), Refusal.DEPOSIT_INVALID),
    ("about to expire", _authorized(valid_before=EPOCH + 60), Refusal.DEPOSIT_INVALID),
    ("not valid yet", _authorized(valid_after=EPOCH), Refusal.DEPOSIT_INVALID),
    ("signed by another", _authorized(key=secret("nobody")), Refusal.DEPOSIT_INVALID),
    (
        "signed for another amount",
        lambda world, payer: payer.open(5_000_000, authorization=payer.authorization(4_999_999)),
        Refusal.DEPOSIT_INVALID,
    ),
]


@pytest.mark.parametrize(("make", "refusal"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_what_needs_no_chain_is_refused_at_once(
    world: World, make: Callable[[World, Payer], dict[str, Any]], refusal: Refusal
) -> None:
    payer = world.payer()
    number = world.gateway.books.journal.number
    for write in (to_json, to_cbor):
        fields = await world.fields("meter-1", "open", write(make(world, payer)))
        names = {"status", "reason", "answers", "channelId", "seq"} if write is to_json else {8, 9, 15, 1, 2}
        assert set(fields) == names, "an unknown channel's refusal tells nothing else"
        assert fields["reason" if write is to_json else 9] == (refusal.wire_name if write is to_json else refusal)
    assert world.gateway.books.journal.number == number, "a refusal changed the journal"
    assert not world.ledger.channels
    assert "simulate" not in world.layer.asked[-4:]
    opening(await world.ask("meter-1", "open", to_json(payer.open())), payer, 5_000_000)


async def test_a_channel_is_its_first_devices(world: World) -> None:
    payer = await world.opened()
    thief = world.payer("meter-2", payer_key=payer.payer_key, device_key=payer.device_key)
    fields = await world.fields("meter-2", "open", to_json(thief.open(salt=2)))
    assert fields["reason"] == "channel_taken"
    assert set(fields) == {"status", "reason", "answers", "channelId", "seq"}
    # The same device for another service.
    other = world.payer(service="ev-charging", payer_key=payer.payer_key, device_key=payer.device_key)
    answer = await world.ask("meter-1", "open", to_json(other.open(salt=2)))
    assert answer.reason is Refusal.CHANNEL_TAKEN
    await world.restart()
    assert (await world.ask("meter-2", "open", to_json(thief.open(salt=2)))).reason is Refusal.CHANNEL_TAKEN
    assert await world.balance(payer.payer) == 95 * TOKEN


async def test_a_channel_is_taken_while_another_device_opens_it(world: World) -> None:
    world.miner.auto = False
    payer = world.payer()
    thief = world.payer("meter-2", payer_key=payer.payer_key, device_key=payer.device_key)
    payload = to_json(payer.open())
    await world.link.deliver(
        [
            world.link.frame("meter-1", "open", payload),
            world.link.frame("meter-2", "open", to_json(thief.open(salt=2))),
        ]
    )
    answer = decode_receipt(await world.link.receipt("meter-2", to_json(thief.open(salt=2))))
    assert answer.reason is Refusal.CHANNEL_TAKEN
    world.miner.auto = True
    world.mine()
    opening(decode_receipt(await world.link.receipt("meter-1", payload)), payer, 5_000_000)


async def test_a_device_has_sixteen_channels_at_most(world: World) -> None:
    for number in range(16):
        await world.opened(amount=1_000_000, salt=number + 1)
    payer = world.payer(salt=99)
    answer = await world.ask("meter-1", "open", to_json(payer.open(1_000_000)))
    assert (answer.reason, answer.balance) == (Refusal.LIMIT, None)
    await world.restart()
    assert (await world.ask("meter-1", "open", to_json(payer.open(1_000_000)))).reason is Refusal.LIMIT
    first = world.payer(salt=1)
    top_up = await world.ask("meter-1", "open", to_json(first.open(1, salt=2)))
    assert (top_up.status, top_up.balance) == (Status.ACCEPTED, 1_000_001)


async def test_an_older_offer_is_usable_for_its_grace(make_world: Make) -> None:
    world = await make_world()
    payer = world.payer()
    old = await world.opened("meter-2")
    await world.stop()
    dearer = ServiceConfig(unit="Wh", price="200000000000")
    world.config = _with(world, services=SERVICES | {"grid-power": dearer})
    await world.start()
    assert world.gateway.terms.current.id != payer.offer.id
    opening(await world.ask("meter-1", "open", to_json(payer.open(1_000_000))), payer, 1_000_000)
    await world.pay(old, 10)
    world.mine(world.config.offer.grace)
    await world.seen()
    await world.pay(old, 10)
    world.mine(1)
    await world.seen()
    answer = await world.ask("meter-1", "open", to_json(payer.open(1_000_000, salt=2)))
    assert answer.reason is Refusal.OFFER_EXPIRED
    assert (await world.ask("meter-2", "usage", to_json(old.usage()))).reason is Refusal.OFFER_EXPIRED
    # Readings that were priced under it are still explained after a restart.
    await world.restart()
    assert world.channel(old).charged == old.charged


def _with(world: World, **changed: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(world.config, **changed)


# -- without permit-join --


async def test_without_permit_join_a_device_must_be_enrolled(make_world: Make) -> None:
    world = await make_world(demo=False)
    payer = world.payer()
    for binding in (False, True):
        answer = await world.ask("meter-1", "open", to_json(payer.open(binding=binding)))
        assert answer.reason is Refusal.NOT_ENROLLED
    from gateway.enrolment import add_device, parse_device

    await add_device(world.gateway.books, world.gateway.registry, parse_device({"device": "meter-1"}))
    assert (await world.ask("meter-1", "open", to_json(payer.open()))).reason is Refusal.NOT_ENROLLED
    wrong = payer.open(binding=True, register=1) | {"register": 2}
    assert (await world.ask("meter-1", "open", to_json(wrong))).reason is Refusal.BAD_SIGNATURE
    opening(await world.ask("meter-1", "open", to_json(payer.open(binding=True))), payer, 5_000_000)
    # With the payer enrolled no binding is needed, after a restart neither.
    other = world.payer("meter-2")
    record = parse_device({"device": "meter-2", "payers": [f"0x{other.payer.hex()}"]})
    await add_device(world.gateway.books, world.gateway.registry, record)
    await world.restart()
    opening(await world.ask("meter-2", "open", to_json(other.open())), other, 5_000_000)
    earner = world.earner("meter-2")
    assert (await world.ask("meter-2", "open", to_json(earner.open()))).reason is Refusal.NOT_ENROLLED


# -- earner accounts --


@pytest.mark.parametrize("write", [to_json, to_cbor], ids=["json", "cbor"])
async def test_an_earner_account_opens_at_once(world: World, write: Callable[..., bytes]) -> None:
    earner = world.earner()
    fields = await world.fields("solar-1", "open", write(earner.open()))
    if write is to_json:
        names = {
            "status", "answers", "accountId", "seq", "earnedCumulativeAmount", "commit", "lastSeq", "lastRegister",
            "lastRemainder", "lastOffer", "offset",
        }  # fmt: skip
        assert set(fields) == names
        assert fields["accountId"] == f"0x{earner.id.hex()}"
        assert (fields["status"], fields["seq"]) == ("accepted", 0)
    else:
        assert set(fields) == {1, 2, 8, 10, 13, 15, 16, 17, 18, 19, 20}
        assert (fields[1], fields[2], fields[8]) == (earner.id, 0, 0)
    again = await world.ask("solar-1", "open", write(earner.open()))
    assert (again.status, again.id) == (Status.DUPLICATE, earner.id)
    await world.earn(earner, 10)
    await world.restart()
    again = await world.ask("solar-1", "open", write(earner.open()))
    assert (again.status, again.cumulative, again.last_seq) == (Status.DUPLICATE, earner.earned, 1)
    assert len(world.ledger.accounts) == 1


async def test_bad_earner_accounts_are_refused(world: World) -> None:
    earner = world.earner()
    own = world.keys.treasury.private
    rows = [
        (earner.open(key=secret("nobody")), Refusal.BAD_SIGNATURE),
        (earner.open(meterKey=bytes(20)), Refusal.CONFIG_MISMATCH),
        (earner.open(payee=bytes(20)), Refusal.CONFIG_MISMATCH),
        (earner.open() | {"service": "grid-power"}, Refusal.SERVICE_UNKNOWN),
        (earner.open() | {"offer": bytes(16)}, Refusal.OFFER_UNKNOWN),
        (world.earner(payee_key=own).open(), Refusal.CONFIG_MISMATCH),
    ]
    for message, refusal in rows:
        fields = await world.fields("solar-1", "open", to_json(message))
        assert fields["reason"] == refusal.wire_name
        assert set(fields) == {"status", "reason", "answers", "accountId", "seq"}
    # The account's id holds the device: what one device was given is nothing to another.
    assert (await world.ask("solar-2", "open", to_json(earner.open()))).reason is Refusal.BAD_SIGNATURE
    for salt in range(16):
        await world.joined(salt=salt + 1)
    assert (await world.ask("solar-1", "open", to_json(world.earner(salt=99).open()))).reason is Refusal.LIMIT
    assert len(world.ledger.accounts) == 16


async def test_the_receipt_of_a_top_up_tells_nothing_that_is_not_on_disk(world: World) -> None:
    """Durable before visible: a reading that is being written shows in no receipt yet."""
    payer = await world.opened()
    books = world.gateway.books
    write = books.write
    import threading

    gate = threading.Event()
    reading: list[asyncio.Task[Any]] = []

    def slow_from_now_on(records: Any) -> Any:
        written = write(records)
        if type(records[0]).__name__ != "OpenEnded":
            return written

        async def then() -> None:
            await written
            books.journal._writer.submit(gate.wait, 5)  # the disk is busy
            frame = world.link.frame("meter-1", "usage", payer.next_usage(10))
            reading.append(asyncio.create_task(world.gateway.pipeline.process([frame])))
            await until(lambda: world.channel(payer).meter.seq > 0)

        return then()

    books.write = slow_from_now_on  # type: ignore[method-assign]
    answer = await world.ask("meter-1", "open", to_json(payer.open(1_000_000, salt=2)))
    gate.set()
    await asyncio.gather(*reading)
    assert answer.balance == 6_000_000
    assert answer.last_seq == 0, "the receipt shows a reading that was not on disk"
    assert world.link.not_durable == []
