"""Closing on a chain that replaces its last blocks: the embedded layer by its snapshots, anvil by `anvil_reorg`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from channels.refusals import Refusal
from channels.state import Phase
from devices.messages import Status
from devices.receipts import decode_receipt
from tests.support.gateway_devices import to_json
from tests.support.gateway_world import TOKEN, until
from tests.support.reorg_scenes import back, opened, whole
from tests.support.reorg_world import AnvilWorld, ForkWorld

Make = Callable[[int], Awaitable[ForkWorld]]
WALLET = 100 * TOKEN


@pytest.fixture(params=[ForkWorld, AnvilWorld], ids=["embedded", "anvil"])
async def make_world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Make]:
    """Make worlds with a running gateway, over either chain."""
    made: list[ForkWorld] = []

    async def make(confirmations: int) -> ForkWorld:
        world: ForkWorld = request.param(tmp_path / f"world-{len(made)}", confirmations=confirmations)
        made.append(world)
        await world.begin()
        return world

    yield make
    for world in made:
        fault = await world.crash() if world._task is not None else None
        if isinstance(world, AnvilWorld):
            await world.end()
        assert fault is None, f"the gateway had stopped: {fault!r}"


@pytest.mark.parametrize("confirmations", [0, 2])
async def test_a_closing_on_either_chain(make_world: Make, confirmations: int) -> None:
    """With the amounts read from the chain: the payer has all but what it owed, the lane just that."""
    world = await make_world(confirmations)
    payer = await opened(world)
    await world.pay(payer, 1_000)
    payload = to_json(payer.close())
    async with world.ticking():
        receipt = await world.ask(payer.device, "close", payload)
    assert (receipt.status, receipt.seq, receipt.balance, receipt.refunded) == (
        Status.ACCEPTED, 2, 150_000, 4_850_000,
    )  # fmt: skip
    view = await world.view(payer.id)
    assert (view.balance, view.total_claimed) == (150_000, 150_000)
    assert await world.balance(payer.payer) == WALLET - 150_000
    async with world.ticking():
        await until(lambda: bool(world.ledger.ended))
    assert await world.balance(world.keys.treasury.address) == 1_000 * TOKEN + 150_000
    async with world.ticking():
        again = await world.ask(payer.device, "open", to_json(payer.open(2_000_000, salt=2)))
    assert (again.reason, again.balance, again.last_seq) == (None, 2_150_000, 2)
    payer.seq = 2
    await world.pay(payer)
    await whole(world)


@pytest.mark.parametrize("confirmations", [0, 2])
async def test_the_refund_is_dropped_and_comes_back(make_world: Make, confirmations: int) -> None:
    """The channel is closing again until the refund has landed: nobody can open it over that."""
    world = await make_world(confirmations)
    payer = await opened(world)
    await world.pay(payer, 1_000)
    world.keep()
    payload = to_json(payer.close())
    async with world.ticking():
        await world.ask(payer.device, "close", payload)
        await until(lambda: not world.ledger.cycles)
    await world.deep()
    assert world.channel(payer).phase is Phase.CLOSED
    world.drop()
    await back(world)
    async with world.ticking():
        await until(lambda: world.channel(payer).phase is Phase.CLOSED or not world.running)
    assert await world.layer.refund_nonces([payer.id]) == [1]
    view = await world.view(payer.id)
    assert (view.balance, view.total_claimed) == (150_000, 150_000)
    assert await world.balance(payer.payer) == WALLET - 150_000
    receipts = [decode_receipt(each) for each in world.link.receipts_to(payer.device, payload)]
    assert len(receipts) == 2, "told again, as of the chain that is"
    assert {(receipt.status, receipt.refunded) for receipt in receipts} == {(Status.ACCEPTED, 4_850_000)}
    await whole(world)


async def test_while_the_refund_is_missing_nothing_is_opened(tmp_path: Path) -> None:
    world = ForkWorld(tmp_path)
    await world.begin()
    try:
        payer = await opened(world)
        await world.pay(payer, 1_000)
        world.keep()
        async with world.ticking():
            await world.ask(payer.device, "close", to_json(payer.close()))
            await until(lambda: not world.ledger.cycles)
        world.miner.auto = False  # what is sent again waits
        world.drop()
        await until(lambda: world.channel(payer).phase is Phase.CLOSING)
        refused = await world.ask(payer.device, "open", to_json(payer.open(2_000_000, salt=2)))
        assert refused.reason is Refusal.NOT_OPEN
        world.miner.auto = True
        async with world.ticking():
            await until(lambda: world.channel(payer).phase is Phase.CLOSED)
            again = await world.ask(payer.device, "open", to_json(payer.open(2_000_000, salt=2)))
        assert (again.reason, again.balance) == (None, 2_150_000)
        assert await world.layer.refund_nonces([payer.id]) == [1]
        await whole(world)
    finally:
        assert await world.crash() is None
