"""Tokens of no good as the gateway's asset: it refuses what it cannot carry out, and no book is wrong."""

import pytest

from channels.refusals import Refusal
from channels.state import Phase
from settlement.genesis import TOKEN_ADDRESS
from tests.hostile.tokens import FALSE, FEE, FINE, PAUSED, behave, block, moody, silent
from tests.support.gateway_devices import Earner, Payer, to_json
from tests.support.proof_fixtures import Make
from tests.support.proof_world import ProofWorld

LAYERS = pytest.mark.parametrize("layer", ["embedded", "anvil"])


async def turn(world: ProofWorld, data: bytes) -> None:
    """Change how the token behaves."""
    await world.transact(world.stranger_key, TOKEN_ADDRESS, data)


async def flow(world: ProofWorld) -> tuple[list[Payer], list[Earner]]:
    """Payers and earners with something to settle, on both lanes."""
    payers = [await world.opened(f"meter-{number}") for number in range(1, 5)]
    assert len({payer.config.receiver for payer in payers}) == 2
    earners = [await world.joined(f"solar-{number}") for number in range(1, 4)]
    for payer in payers:
        await world.pay(payer, 500)
    for earner in earners:
        await world.earn(earner, 300)
    return payers, earners


@LAYERS
async def test_a_token_that_returns_nothing_is_as_good_as_any(make_world: Make, layer: str) -> None:
    world = await make_world(layer, codes={TOKEN_ADDRESS: silent()})
    await flow(world)
    await world.settle_all()
    await world.prove()
    await world.honoured()


@LAYERS
@pytest.mark.parametrize("mode", [FEE, FALSE, PAUSED], ids=["fee", "false", "paused"])
async def test_a_deposit_that_does_not_arrive_whole_is_none(make_world: Make, layer: str, mode: int) -> None:
    world = await make_world(layer, codes={TOKEN_ADDRESS: moody()})
    await turn(world, behave(mode))
    payer = world.payer()
    answer = await world.ask("meter-1", "open", to_json(payer.open(1_000_000)))
    assert answer.reason is Refusal.DEPOSIT_INVALID
    assert world.observer.channel(payer.id) == (0, 0)
    await world.prove()
    await turn(world, behave(FINE))
    assert (await world.ask("meter-1", "open", to_json(payer.open(1_000_000)))).reason is None
    await world.pay(payer, 100)
    await world.settle_all()
    await world.prove()


@LAYERS
@pytest.mark.parametrize("mode", [FALSE, PAUSED], ids=["false", "paused"])
async def test_a_token_that_stops_moving_stops_no_service(make_world: Make, layer: str, mode: int) -> None:
    """Claims need no transfer and go on; what is to be transferred waits until the token moves again."""
    world = await make_world(layer, codes={TOKEN_ADDRESS: moody()})
    payers, earners = await flow(world)
    await turn(world, behave(mode))
    for _ in range(3):
        await world.settle()
        await world.pay(payers[0], 10)
    assert all(world.observer.claimed(payer.id) > 0 for payer in payers)
    assert all(world.observer.tokens(earner.payee) == 0 for earner in earners)
    await world.prove()
    await turn(world, behave(FINE))
    await world.settle_all()
    await world.prove()
    await world.honoured()


@LAYERS
async def test_a_token_that_begins_to_take_a_fee_is_shown_and_pays_nobody_twice(make_world: Make, layer: str) -> None:
    """What the token keeps is gone: the audit says so, instead of a book that agrees with itself."""
    world = await make_world(layer, codes={TOKEN_ADDRESS: moody()})
    await flow(world)
    await turn(world, behave(FEE))
    await world.settle()
    assert any("cash" in text for text in await world.audited())
    assert world.books.faults() == []
    await turn(world, behave(FINE))
    for _ in range(3):
        await world.settle()
    assert world.books.faults() == []
    assert any("cash" in text for text in await world.audited())


@LAYERS
async def test_a_blocked_payee_delays_no_other(make_world: Make, layer: str) -> None:
    world = await make_world(layer, codes={TOKEN_ADDRESS: moody()})
    _, (bad, *others) = await flow(world)
    await turn(world, block(bad.payee))
    await world.settle()
    assert [world.observer.tokens(earner.payee) for earner in others] == [
        world.books.net(each.earned) for each in others
    ]
    assert world.observer.tokens(bad.payee) == 0
    assert bad.payee in world.ledger.aside, "it is not shown"
    for earner in (bad, *others):
        await world.earn(earner, 50)
    await world.settle()
    await world.prove()
    await turn(world, block(bad.payee, False))
    await world.settle_all()
    assert world.observer.tokens(bad.payee) == world.books.net(bad.earned)
    assert bad.payee not in world.ledger.aside
    await world.prove()
    await world.honoured()


@LAYERS
async def test_a_blocked_lane_holds_up_no_other(make_world: Make, layer: str) -> None:
    world = await make_world(layer, codes={TOKEN_ADDRESS: moody()})
    payers, earners = await flow(world)
    blocked, free = (lane.address for lane in world.keys.lanes)
    await turn(world, block(blocked))
    await world.settle()
    claimed, settled = world.observer.receiver(blocked)
    assert (claimed > 0, settled) == (True, 0)
    claimed, settled = world.observer.receiver(free)
    assert claimed == settled > 0
    assert all(world.observer.tokens(earner.payee) == world.books.net(earner.earned) for earner in earners)
    await world.prove()
    await turn(world, block(blocked, False))
    await world.pay(payers[0], 10)
    await world.settle_all()
    await world.settle()
    assert all(world.observer.receiver(lane.address)[1] > 0 for lane in world.keys.lanes)
    await world.prove()


@LAYERS
async def test_a_blocked_payer_that_closes_is_claimed_and_refunded_later(make_world: Make, layer: str) -> None:
    """The refund cannot be carried out; the claim in the same transaction must not wait for it."""
    world = await make_world(layer, codes={TOKEN_ADDRESS: moody()})
    payers, _ = await flow(world)
    leaving, *others = payers
    await turn(world, block(leaving.payer))
    close = to_json(leaving.close())
    await world.link.send(leaving.device, "close", close)
    await world.until(lambda: leaving.id in world.ledger.closings)
    await world.settle_until(lambda: world.observer.claimed(leaving.id) == leaving.charged)
    for payer in others:
        await world.pay(payer, 10)
    await world.settle_all()
    await world.prove()
    assert world.ledger.channels[leaving.id].phase is Phase.CLOSING
    assert world.link.receipts_to(leaving.device, close) == []
    await turn(world, block(leaving.payer, False))
    await world.settle_until(lambda: not world.ledger.closings)
    receipt = await world.ask(leaving.device, "close", close)
    assert receipt.reason is None, receipt
    assert world.observer.channel(leaving.id) == (leaving.charged, leaving.charged)
    await world.settle_all()
    await world.prove()


@LAYERS
async def test_a_treasury_without_tokens_pays_when_they_come(make_world: Make, layer: str) -> None:
    """Earners wait for cash, smallest first, and nobody is told or paid more than there is."""
    keys = (await make_world(layer, start=False)).keys
    world = await make_world(layer, tokens={keys.treasury.address: 0})
    earner = await world.joined()
    await world.earn(earner, 300)
    await world.settle()
    assert world.observer.tokens(earner.payee) == 0
    assert world.books.faults() == []
    payer = await world.opened()
    await world.pay(payer, 1_000)
    await world.settle_all()
    assert world.observer.tokens(earner.payee) == world.books.net(earner.earned)
    await world.prove()
