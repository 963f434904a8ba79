"""Real reorganisations on anvil while money is under way: the gateway goes back with the chain, and on again.

Each happens at a known moment of a cycle, before the chain answers the question named; what was mined in the blocks
that are replaced is gone until somebody sends it again.
"""

import asyncio

import pytest

from channels.refusals import Refusal
from tests.support.gateway_devices import Payer, secret
from tests.support.proof_fixtures import Make
from tests.support.proof_world import PATIENCE_S, ProofWorld

# Before which call of a method, and how many blocks: every transaction is a block of its own here.
MOMENTS = (
    ("eth_sendRawTransaction", 0, 1),
    ("eth_sendRawTransaction", 3, 3),
    ("eth_getTransactionReceipt", 0, 2),
    ("eth_getTransactionReceipt", 4, 1),
    ("eth_getLogs", 0, 3),
    ("eth_getLogs", 3, 1),
    ("eth_call", 1, 2),
)


async def flow(world: ProofWorld) -> list[Payer]:
    """Two payers and two earners, one of them at home with a payer, with something to settle."""
    for _ in range(8):  # blocks that may be replaced: never those before the gateway began
        world.ground.mine()
    if world.config.chain.confirmations == 0:
        await world.until(lambda: world.gateway.watcher.block >= world.observer.head)
    payers = [await world.opened("meter-1"), await world.opened("meter-2")]
    home = secret("payer of meter-2")
    earners = [await world.joined("solar-1"), await world.joined("solar-2", payee_key=home)]
    for payer in payers:
        await world.pay(payer, 300)
    for earner in earners:
        await world.earn(earner, 200)
    return payers


async def pays_on(world: ProofWorld, payer: Payer, units: int = 5) -> None:
    """A device whose deposit is gone with its block repeats its reading until the money is back, as devices do."""
    payload = payer.next_usage(units)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            receipt = await world.ask_again(payer.device, "usage", payload)
            if receipt.reason is None:
                return
            assert receipt.reason is Refusal.CEILING_ABOVE_BALANCE, receipt
            await asyncio.sleep(0.1)


async def proved(world: ProofWorld) -> None:
    """The books hold, now and after a crash, and every receipt stands."""
    await world.settle_all()
    await world.prove()
    await world.crash()
    await world.start()
    await world.settle_all()
    await world.prove()
    await world.honoured()


@pytest.mark.parametrize(("method", "skip", "depth"), MOMENTS)
async def test_a_reorganisation_in_a_cycle(make_world: Make, method: str, skip: int, depth: int) -> None:
    world = await make_world("anvil")
    payers = await flow(world)
    world.proxy.inject("reorg", method, skip=skip, amount=depth)
    for _ in range(2):
        await world.settle()
        for payer in payers:
            await pays_on(world, payer)
    assert world.proxy.counts["reorg"] == 1
    await proved(world)


@pytest.mark.parametrize("depth", [2, 5])
async def test_a_reorganisation_that_takes_deposits_back(make_world: Make, depth: int) -> None:
    """Channels whose deposits vanish are refused until the money is back, by the same transactions; nothing is lost."""
    world = await make_world("anvil")
    payers = await flow(world)
    payers.append(await world.opened("meter-3"))
    await asyncio.to_thread(world.proxy.reorganise, depth)
    await world.until(lambda: world.ledger.totals.reorgs > 0)
    await world.until(lambda: all(world.observer.channel(payer.id)[0] == 5_000_000 for payer in payers))
    await world.until(lambda: all(world.ledger.channels[payer.id].balance == 5_000_000 for payer in payers))
    for payer in payers:
        await world.pay(payer, 20)
    await proved(world)
    assert world.ledger.totals.reorgs > 0, "it is not shown"


async def test_a_reorganisation_while_the_gateway_is_away(make_world: Make) -> None:
    world = await make_world("anvil")
    payers = await flow(world)
    await world.settle_all()
    await world.crash()
    await asyncio.to_thread(world.proxy.reorganise, 4)
    await world.start()
    await world.until(lambda: world.ledger.totals.reorgs > 0)
    for payer in payers:
        await world.pay(payer, 20)
    await proved(world)


async def test_confirmations_keep_reorganisations_out(make_world: Make) -> None:
    """What is not deep enough has not happened for the gateway, so nothing is taken back; it only takes longer."""
    world = await make_world("anvil", start=False, confirmations=4)
    await world.mine_on()
    await world.start()
    payers = await flow(world)
    for depth in (1, 2, 3):
        world.proxy.inject("reorg", "eth_getTransactionReceipt", skip=depth, amount=depth)
        await world.settle()
        for payer in payers:
            await world.pay(payer, 5)
    assert world.proxy.counts["reorg"] >= 2
    assert world.ledger.totals.reorgs == 0
    await proved(world)


@pytest.mark.parametrize("seed", [1, 2])
async def test_reorganisations_at_random(make_world: Make, seed: int) -> None:
    world = await make_world("anvil", seed=seed)
    payers = await flow(world)
    for depth in (1, 2, 4):
        world.proxy.inject("reorg", share=0.02, times=2, amount=depth)
    for _ in range(6):
        await world.settle()
        for payer in payers:
            await pays_on(world, payer)
    assert world.proxy.counts["reorg"] >= 2, f"seed {seed}"
    world.proxy.clear()
    await proved(world)
