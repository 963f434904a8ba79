"""A withdrawal is answered by a claim whatever else is under way: neither cycle, payout nor lane delays it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from channels.types import SETTLEMENT_ADDRESS
from gateway.config import SettlementConfig
from gateway.rescue import Rescue
from settlement import calls
from settlement.genesis import PAYOUTS_ADDRESS
from settlement.netting import ClaimTarget
from settlement.port import Call, Revert
from settlement.transactions import Transaction, read_transaction
from tests.support.gateway_devices import Payer
from tests.support.gateway_world import World, config, until

Make = Callable[..., Awaitable[World]]
BLOCK_S = 12
CONFIRMATIONS = 50  # ten minutes of blocks until something is final


def swallow(world: World, which: Callable[[Transaction], bool]) -> None:
    """The node takes these transactions and never mines them."""
    inner = world.layer._inner
    send_all = inner.send_all

    async def some(raws: Sequence[bytes]) -> list[Any]:
        answers: list[Any] = []
        for raw in raws:
            answers += [None] if which(read_transaction(raw)) else await send_all([raw])
        return answers

    inner.send_all = some  # type: ignore[method-assign]


async def withdraws(world: World, payer: Payer, amount: int) -> None:
    data = calls.initiate_withdraw(payer.config, amount)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, data)


def outstanding(world: World, name: str) -> Callable[[], bool]:
    return lambda: any(each.purpose.startswith(name) for each in world.ledger.transactions.values())


async def test_beside_a_payout_that_is_never_mined(make_world: Make) -> None:
    world = await make_world()
    payer, earner = await world.opened(amount=5_000_000), await world.joined("solar-1")
    await world.pay(payer, 1_000)
    await world.earn(earner, 1_000)
    swallow(world, lambda transaction: transaction.to == PAYOUTS_ADDRESS)
    cycle = asyncio.create_task(world.gateway.settler.settle())
    await until(outstanding(world, "pay"))
    await world.pay(payer, 20_000)
    await withdraws(world, payer, 4_850_000)
    await until(lambda: world.channel(payer).claimed == payer.charged)
    assert not cycle.done()
    cycle.cancel()


async def test_beside_another_lane_that_is_stuck(make_world: Make) -> None:
    world = await make_world()
    payers = [await world.opened(f"meter-{number}", 5_000_000) for number in range(1, 9)]
    stuck = payers[0]
    other = next(payer for payer in payers if payer.config.receiver != stuck.config.receiver)
    await world.pay(stuck, 1_000)
    swallow(world, lambda transaction: stuck.config.payer in transaction.data)
    cycle = asyncio.create_task(world.gateway.settler.settle())
    await until(outstanding(world, "claim"))
    await world.pay(other, 20_000)
    await withdraws(world, other, 5_000_000)
    await until(lambda: world.channel(other).claimed == other.charged)
    assert not cycle.done()
    cycle.cancel()


async def test_while_a_cycle_waits_until_its_claims_are_final(make_world: Make, tmp_path: Path) -> None:
    """Seen in the block that shows it; the cycle needs four times ten minutes, the withdrawal ends after fifteen."""
    chain = msgspec.structs.replace(config(tmp_path).chain, confirmations=CONFIRMATIONS, poll_ms=2)
    world = await make_world(start=False, chain=chain)
    for _ in range(CONFIRMATIONS + 1):
        world.mine(BLOCK_S)

    runs = asyncio.Event()

    async def blocks() -> None:
        """The chain's time flies, but never past what a slow machine's gateway has seen."""
        while True:
            seen = world.gateway.watcher.head if runs.is_set() else None
            if seen is None or seen.number == world.head:
                world.mine(BLOCK_S)
            await asyncio.sleep(0.05)

    mining = asyncio.create_task(blocks())
    world.miner.auto = False
    try:
        await world.start()
        runs.set()
        payer, earner = await world.opened(amount=5_000_000), await world.joined("solar-1")
        await world.pay(payer, 1_000)
        await world.earn(earner, 1_000)
        cycle = asyncio.create_task(world.gateway.settler.settle())
        await until(outstanding(world, "claim"))
        await world.pay(payer, 20_000)
        world.miner.auto = True
        await withdraws(world, payer, 4_850_000)
        world.miner.auto = False
        ends = world.miner.now + 900
        await until(lambda: world.miner.now >= ends)
        assert (await world.view(payer.id)).total_claimed == payer.charged
        cycle.cancel()
    finally:
        mining.cancel()


async def test_a_row_that_was_set_aside(make_world: Make) -> None:
    """What reverted before is tried again at once, and then with pauses, not with every look."""
    world = await make_world(settlement=SettlementConfig(every_s=450))
    payer = await world.opened(amount=5_000_000)
    await world.pay(payer, 12_000)
    inner = world.layer._inner
    estimate_all, sick, asked = inner.estimate_all, [True], [0]

    async def lagging(orders: Any) -> list[Any]:
        asked[0] += 1
        found = await estimate_all(orders)
        return [Revert("ClaimExceedsBalance") for _ in found] if sick[0] else list(found)

    inner.estimate_all = lagging  # type: ignore[method-assign]
    await world.gateway.settler.settle()
    assert payer.id in world.ledger.aside
    await withdraws(world, payer, 5_000_000)
    await world.seen()
    before = asked[0]
    await until(lambda: asked[0] > before)
    await asyncio.sleep(3)
    assert asked[0] - before <= 2
    sick[0] = False
    await until(lambda: world.channel(payer).claimed == payer.charged)


async def test_a_gas_price_that_was_high_for_a_while(make_world: Make) -> None:
    """Dust at the price of the first look is none when the spike is over."""
    world = await make_world(settlement=SettlementConfig(every_s=450, coin_price="400000000000000000"))
    payer = await world.opened(amount=5_000_000)
    await world.pay(payer, 12_000)
    inner = world.layer._inner
    fees, more = inner.fees, [1_000_000]

    async def dear() -> Any:
        found = await fees()
        return type(found)(found.max_fee_per_gas + more[0], found.max_priority_fee_per_gas + more[0])

    inner.fees = dear  # type: ignore[method-assign]
    await withdraws(world, payer, 5_000_000)
    await world.seen()
    await until(lambda: world.gateway.settler._gas_price > 1_000_000)
    assert not await world.gateway.settler.pressing()
    more[0] = 0
    await until(lambda: world.channel(payer).claimed == payer.charged)


async def test_an_urgent_claim_is_sent_once(make_world: Make) -> None:
    world = await make_world()
    payer, earner = await world.opened(amount=5_000_000), await world.joined("solar-1")
    await world.pay(payer, 1_000)
    await world.earn(earner, 1_000)
    swallow(world, lambda transaction: True)
    cycle = asyncio.create_task(world.gateway.settler.settle())
    await until(outstanding(world, "claim"))
    await world.pay(payer, 20_000)
    await withdraws(world, payer, 4_850_000)

    def claims() -> int:
        return sum(each.purpose.startswith("claim") for each in world.ledger.transactions.values())

    await until(lambda: claims() == 2)
    await asyncio.sleep(3)
    assert claims() == 2
    cycle.cancel()


async def test_the_first_cycle_of_a_run_is_due_by_the_last_one_before_it(make_world: Make) -> None:
    """A box whose power fails more often than it settles settles all the same."""
    world = await make_world(settlement=SettlementConfig(every_s=450, fee_bps=100))
    payer = await world.opened()
    await world.pay(payer, 100)
    world.mine(440)
    await world.seen()
    await world.restart()
    assert 0 < world.gateway.settler._first_in_s() <= 10
    world.mine(20)
    await world.seen()
    await world.restart()
    await until(lambda: world.ledger.totals.settlements > 0)


async def test_a_row_that_reverts_for_days_is_tried_again_for_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """A payer may leave a withdrawal pending for ever; the pauses between attempts stay what they are."""
    now = [0.0]
    monkeypatch.setattr("gateway.rescue.monotonic", lambda: now[0])
    row = ClaimTarget(bytes(32), 0, 5, 5)
    tried = []

    class Reverting:
        async def send_all(self, orders: Sequence[Any]) -> list[Revert]:
            tried.append(now[0])
            return [Revert("ClaimExceedsBalance") for _ in orders]

    def call(rows: Sequence[ClaimTarget]) -> Call:
        return Call(bytes(20), bytes(20), b"")

    rescue = Rescue(Reverting(), call, asyncio.Lock(), 10)  # type: ignore[arg-type]  # all that it asks of an outbox
    while len(tried) < 2_000:
        if rescue.may_try(row):
            await rescue.claim(lambda: [row])
        now[0] += 1.0
    pauses = [after - before for before, after in pairwise(tried)]
    assert pauses[:6] == [5, 10, 20, 40, 80, 80]
    assert set(pauses[5:]) == {80}
