"""Reorganisations on the embedded layer: what the blocks that are gone did is undone, and all adds up again."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from channels.refusals import Refusal
from channels.state import Phase
from channels.types import SETTLEMENT_ADDRESS
from devices.receipts import decode_receipt
from gateway.config import OfferConfig
from gateway.errors import SetupError
from settlement import calls
from tests.support.gateway_devices import to_json
from tests.support.gateway_world import Crash, until
from tests.support.reorg_scenes import SCENES, Scene, back, opened, reverts, settled, whole
from tests.support.reorg_world import ForkWorld

Make = Callable[..., Awaitable[ForkWorld]]


@pytest.fixture
async def make_fork(tmp_path: Path) -> AsyncIterator[Make]:
    """Make worlds that can replace blocks, with a running gateway."""
    made: list[ForkWorld] = []

    async def make(confirmations: int = 0, **options: Any) -> ForkWorld:
        world = ForkWorld(tmp_path / f"world-{len(made)}", confirmations=confirmations, **options)
        made.append(world)
        await world.begin()
        return world

    yield make
    for world in made:
        if world._task is not None:
            fault = await world.crash()
            assert fault is None, f"the gateway had stopped: {fault!r}"


@pytest.mark.parametrize("confirmations", [0, 2])
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
async def test_what_is_dropped(make_fork: Make, scene: Scene, confirmations: int) -> None:
    await scene(await make_fork(confirmations))


# -- within the confirmations --


async def test_a_deposit_that_is_dropped_before_it_is_final(make_fork: Make) -> None:
    """Nothing was booked, so nothing goes back: it is sent again, and its device gets its answer when it is final."""
    world = await make_fork(6)  # what else the gateway may send meanwhile makes a block or two
    payer = world.payer()
    payload = to_json(payer.open())
    operator = world.keys.operator.address
    nonce = world.miner.chain.nonce(operator)
    world.keep()
    await world.link.send(payer.device, "open", payload)
    await until(lambda: world.miner.chain.nonce(operator) > nonce)
    world.mine(1)
    await world.seen()
    world.drop()
    assert world.miner.chain.nonce(operator) == nonce
    await world.seen()
    assert not world.link.published
    async with world.ticking():
        receipt = decode_receipt(await world.link.receipt(payer.device, payload))
    assert (receipt.status, receipt.balance) == (0, 5_000_000)
    assert reverts(world) == []
    await world.pay(payer)
    await whole(world)


# -- while the gateway is away, and deeper than can be --


@pytest.mark.parametrize("confirmations", [0, 2])
async def test_a_reorganisation_while_the_gateway_is_down(make_fork: Make, confirmations: int) -> None:
    world = await make_fork(confirmations)
    payer = await opened(world)
    await world.pay(payer, 1_000)
    world.keep()
    await world.deposit(payer.config, 700_000, payer.authorization(700_000, 9))
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 1_000_000))
    await settled(world)
    assert world.channel(payer).claimed == 150_000
    await world.stop()
    world.drop()
    await world.begin()
    channel = world.channel(payer)
    assert (channel.phase, channel.balance, channel.charged) == (Phase.OPEN, 5_000_000, 150_000)
    await back(world)
    assert world.channel(payer).claimed == 150_000, "its claim was sent again"
    (shown,) = world.ledger.reorgs.values()
    assert shown.channels == 1
    await whole(world)


async def test_a_chain_that_was_reset_is_refused_at_the_start(make_fork: Make, tmp_path: Path) -> None:
    world = await make_fork()
    await opened(world)
    await world.stop()
    other = ForkWorld(tmp_path / "other")
    while other.head <= world.head:
        other.mine(7)
    world.layer = other.layer
    for _ in range(2):
        with pytest.raises(SetupError, match=r"is not the one in the journal, nor is any before it .* it was reset"):
            await world.start()


async def test_a_reorganisation_of_the_founding_block_is_refused(make_fork: Make, tmp_path: Path) -> None:
    world = ForkWorld(tmp_path / "young")
    world.keep()
    world.mine(1)
    await world.begin()
    await world.stop()
    world.drop(more=5)
    with pytest.raises(SetupError, match="does not fit: its block"):
        await world.start()


# -- the power fails meanwhile --


@pytest.mark.parametrize("number", random.Random(7).sample(range(40), 8))
async def test_a_crash_at_any_question_to_the_chain(make_fork: Make, number: int) -> None:
    """Whatever was asked last: the next start finds the same reorganisation, or that it was written down."""
    world = await make_fork()
    payer = await opened(world)
    await world.pay(payer, 1_000)
    world.keep()
    await settled(world)
    world.drop()
    left = number

    async def crash(when: str, method: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash(method)

    world.layer.every = crash
    await until(lambda: not world.running)
    world.layer.every = None
    assert isinstance(await world.crash(), Crash)
    await world.begin()
    await until(lambda: world.ledger.totals.reorgs == 1 or not world.running)
    await back(world)
    assert (world.channel(payer).claimed, world.ledger.totals.settled) == (150_000, 150_000)
    await whole(world)


# -- a payer who says nothing, and a gateway that is away --


@pytest.mark.parametrize("confirmations", [0, 2])
@pytest.mark.parametrize("crashed", [False, True])
async def test_a_silent_payer_and_an_offline_hour(make_fork: Make, confirmations: int, crashed: bool) -> None:
    """It pays with vouchers, and withdraws everything while nobody looks: the hour is well within the delay."""
    world = await make_fork(confirmations, offer=OfferConfig(withdraw_delay=7_200, max_ahead="1000000"))
    payer = await opened(world)
    await world.pay(payer, 10_000)
    owed = world.channel(payer).owed
    assert owed == 1_500_000
    await (world.crash() if crashed else world.stop())
    began = world.miner.now
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 5_000_000))
    world.mine(3_600)
    async with world.ticking():
        await world.start(run=False)
    told: list[bytes] = []
    world.gateway.watcher.on_withdrawal = told.append
    world.run()
    await until(lambda: bool(told))
    assert set(told) == {payer.id}
    channel = world.channel(payer)
    assert channel.usable_balance == channel.claimed == 0
    assert channel.finalize_after == began + 7_200
    assert channel.finalize_after - world.gateway.watcher.chain_time > 3_000, "there is time to claim"
    answer = await world.ask(payer.device, "usage", to_json(payer.usage(1)))
    assert answer.reason is Refusal.CEILING_ABOVE_BALANCE, "no more than is safe"
    await settled(world)
    assert world.channel(payer).claimed == owed
    assert world.gateway.watcher.chain_time < channel.finalize_after
    world.mine(3_600)
    before = await world.balance(payer.config.payer)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))
    assert await world.balance(payer.config.payer) - before == 5_000_000 - owed
    await world.deep()
    channel = world.channel(payer)
    assert (channel.phase, channel.balance, channel.claimed) == (Phase.OPEN, owed, owed)
    await whole(world)


async def test_at_first_sight_a_channel_takes_no_more_than_is_safe(make_fork: Make) -> None:
    """The withdrawal is in a block that is not final yet."""
    world = await make_fork(2)
    payer = await opened(world)
    await world.pay(payer, 1_000)
    told: list[bytes] = []
    world.gateway.watcher.on_withdrawal = told.append
    world.keep()
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 4_900_000))
    await world.seen()
    assert told == [payer.id]
    assert (world.channel(payer).withdrawing, world.channel(payer).usable_balance) == (0, 100_000)
    answer = await world.ask(payer.device, "usage", to_json(payer.usage(1)))
    assert (answer.reason, answer.balance) == (Refusal.CEILING_ABOVE_BALANCE, 100_000)
    world.drop()
    await world.seen()
    assert (await world.pay(payer)).balance == 5_000_000
    assert reverts(world) == []
    await whole(world)
