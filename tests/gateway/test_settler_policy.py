"""When the settler settles by itself, what it claims and what it holds, and what it does about rows that fail."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from channels.types import SETTLEMENT_ADDRESS
from gateway.config import SettlementConfig
from gateway.entries import ASIDE_PAUSE_MAX, Aside
from gateway.records import CycleStarted, RowsSetAside
from settlement import calls
from settlement.claim_terms import Reason
from settlement.port import Call, Revert
from tests.support.gateway_devices import Payer
from tests.support.gateway_world import Crash, World, until

Make = Callable[..., Awaitable[World]]
# At the test chain's 7 wei per gas a claim's row then costs some 0.4 tokens alone in its lane.
DEAR = "400000000000000000"


def weighed(**more: Any) -> SettlementConfig:
    """Settlement that weighs gas, and never begins on schedule within a test."""
    return SettlementConfig(every_s=450, coin_price=DEAR, **more)


async def reasons(world: World) -> dict[bytes, Reason]:
    """What the settler would do now, by channel."""
    outlook = await world.gateway.settler.outlook()
    return {decision.row.id: decision.reason for decision in outlook.claiming.decisions}


async def withdraw(world: World, payer: Payer, amount: int) -> None:
    """The payer starts a withdrawal on chain."""
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, amount))
    await world.seen()


async def test_dust_is_held_and_all_is_claimed_when_the_operator_says_so(make_world: Make) -> None:
    world = await make_world(settlement=weighed())
    payer = await world.opened()
    await world.pay(payer, 1)
    assert await reasons(world) == {payer.id: Reason.DUST}
    number = world.gateway.books.journal.number
    assert await world.gateway.settler.settle() is None, "nothing is worth its gas"
    assert world.gateway.books.journal.number == number, "and nothing is journaled"
    ended = await world.gateway.settler.settle(whatever_it_costs=True)
    assert ended is not None
    assert ended.claimed == world.channel(payer).claimed == payer.charged
    assert await world.faults() == []


async def test_a_withdrawal_that_touches_what_is_owed_is_answered_by_a_claim_at_once(make_world: Make) -> None:
    """Dust or not worth it yet: what a payer could take back is claimed long before the delay is over."""
    world = await make_world(settlement=weighed())
    payer = await world.opened(amount=5_000_000)
    await world.pay(payer, 12_000)  # 1.8 tokens
    held = await world.gateway.settler.outlook()
    assert [decision.claims for decision in held.claiming.decisions] == [False]
    started = world.miner.now
    await withdraw(world, payer, 4_000_000)  # leaves 1.0 for the 1.8 that is owed
    await until(lambda: world.channel(payer).claimed == payer.charged)
    assert world.miner.now < started + 900 // 4, "claimed in the first quarter of the delay"
    assert any("withdraws" in trouble for trouble in world.troubles), "and the operator is told"
    # The payer ends its withdrawal: what it gets is what was not owed.
    before = await world.balance(payer.payer)
    world.mine(901)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))
    await world.seen()
    assert await world.balance(payer.payer) - before == 5_000_000 - payer.charged
    assert await world.faults() == []


async def test_a_withdrawal_that_leaves_enough_presses_nobody(make_world: Make) -> None:
    world = await make_world(settlement=weighed())
    payer = await world.opened(amount=5_000_000)
    await world.pay(payer, 12_000)
    await withdraw(world, payer, 3_000_000)
    assert not await world.gateway.settler.pressing()
    assert await reasons(world) == {payer.id: Reason.WAITING}
    # The margin is a quarter of 900 s: from 675 s on after the start it is claimed, whatever the schedule says.
    world.mine(674 - 450)
    await world.seen()
    assert not await world.gateway.settler.pressing()
    world.mine(452)
    await until(lambda: world.channel(payer).claimed == payer.charged)


@pytest.mark.parametrize("bound", ["exposure_channel_max", "exposure_party_max", "exposure_total_max"])
async def test_more_than_the_operator_wants_is_claimed_at_once(make_world: Make, bound: str) -> None:
    world = await make_world(settlement=weighed(**{bound: "2000000"}))
    one, two = await world.opened("meter-1", 50_000_000), await world.opened("meter-2", 50_000_000)
    await world.pay(one, 12_000)  # 1.8 tokens
    assert not await world.gateway.settler.pressing()
    other = one if bound == "exposure_channel_max" else two
    if bound == "exposure_party_max":
        other = one
    await world.pay(other, 2_000)  # 0.3 more
    await until(lambda: world.channel(one).claimed == one.charged)
    assert world.channel(two).claimed == 0, "the largest is enough"
    assert await world.faults() == []


async def test_payouts_that_wait_for_cash_are_a_reason_to_claim(make_world: Make) -> None:
    world = await make_world(settlement=weighed(), float_tokens=0)
    payer, earner = await world.opened(amount=50_000_000), await world.joined("solar-1")
    await world.pay(payer, 20_000)  # 3 tokens
    assert await reasons(world) == {payer.id: Reason.WAITING}
    await world.earn(earner, 30_000)  # 2.4 tokens
    assert await reasons(world) == {payer.id: Reason.CASH_NEEDED}
    ended = await world.gateway.settler.settle()
    assert ended is not None
    assert ended.paid == world.account(earner).net == await world.balance(earner.payee)


async def test_small_payouts_wait_until_they_add_up(make_world: Make) -> None:
    world = await make_world(settlement=SettlementConfig(every_s=450, fee_bps=0, payout_min="5000"))
    earner = await world.joined("solar-1")
    await world.earn(earner, 60)  # 4,800
    outlook = await world.gateway.settler.outlook()
    assert [payout.amount for payout in outlook.small] == [4_800]
    assert await world.gateway.settler.settle() is None
    await world.earn(earner, 10)
    ended = await world.gateway.settler.settle()
    assert ended is not None
    assert ended.paid == 5_600


async def test_a_bad_row_is_set_aside_and_starves_no_other(make_world: Make) -> None:
    """One row of a batch reverts: found by halving, shown with its reason, tried later and later, cleared at last."""
    world = await make_world(settlement=SettlementConfig(every_s=450))
    payers = [await world.opened(f"meter-{number}", 5_000_000) for number in range(1, 8)]
    for payer in payers:
        await world.pay(payer, 10)
    bad = payers[3]
    estimate_all = world.layer._inner.estimate_all
    tried: list[int] = []

    async def poisoned(asked: Any) -> list[Any]:
        found = await estimate_all(asked)
        tried.append(sum(_holds(call, bad) for call in asked))
        return [
            Revert("ClaimExceedsBalance") if _holds(call, bad) else gas for call, gas in zip(asked, found, strict=True)
        ]

    world.layer._inner.estimate_all = poisoned  # type: ignore[method-assign]
    ended = await world.gateway.settler.settle()
    assert ended is not None
    assert ended.claimed == sum(payer.charged for payer in payers) - bad.charged
    assert world.ledger.aside[bad.id] == Aside("claim", "ClaimExceedsBalance", 1, 1)
    rows = sum(world.channel(payer).lane == world.channel(bad).lane for payer in payers)
    assert 2 <= sum(tried) <= rows.bit_length() + 1, "each time in half as many rows"
    assert any("set aside: ClaimExceedsBalance" in trouble for trouble in world.troubles)

    for payer in payers:
        await world.pay(payer, 10)
    tried.clear()
    ended = await world.gateway.settler.settle()
    assert ended is not None
    assert ended.claimed == 6 * 1_500
    assert sum(tried) == 1, "it goes alone from now on"
    assert world.ledger.aside[bad.id].times == 2

    for payer in payers:
        await world.pay(payer, 10)
    tried.clear()
    await world.gateway.settler.settle()
    assert sum(tried) == 0, "and is left out for a while"
    await world.restart()
    assert world.ledger.aside[bad.id].cycle == 2, "a restart remembers"
    world.layer._inner.estimate_all = estimate_all  # type: ignore[method-assign]
    for _ in range(2):
        await world.pay(payers[0], 10)
        ended = await world.gateway.settler.settle()
    assert world.channel(bad).claimed == bad.charged, "what was wrong was mended meanwhile"
    assert bad.id not in world.ledger.aside
    assert await world.faults() == []


def _holds(call: Call, payer: Payer) -> bool:
    return call.to == SETTLEMENT_ADDRESS and payer.config.salt in call.data and payer.payer in call.data


def test_a_failed_row_is_tried_again_later_and_later() -> None:
    assert [Aside("claim", "x", 10, times).pause for times in (1, 2, 3, 7, 8, 4_000)] == [
        1, 2, 4, 64, ASIDE_PAUSE_MAX, ASIDE_PAUSE_MAX,
    ]  # fmt: skip


async def test_a_pressing_cycle_that_fails_is_not_repeated_without_pause(make_world: Make) -> None:
    world = await make_world(settlement=weighed())
    payer = await world.opened(amount=5_000_000)
    await world.pay(payer, 12_000)
    estimate_all = world.layer._inner.estimate_all

    async def refused(asked: Any) -> list[Any]:
        return [Revert("no reason given") for _ in await estimate_all(asked)]

    world.layer._inner.estimate_all = refused  # type: ignore[method-assign]
    await withdraw(world, payer, 4_000_000)
    await until(lambda: payer.id in world.ledger.aside)
    cycles = world.ledger.totals.cycles
    assert not await world.gateway.settler.pressing()
    await asyncio.sleep(1.5)
    assert world.ledger.totals.cycles == cycles
    world.layer._inner.estimate_all = estimate_all  # type: ignore[method-assign]
    await world.gateway.settler.settle()
    assert world.channel(payer).claimed == payer.charged, "a withdrawal is never left out of a cycle"


async def test_a_crash_between_failing_and_setting_aside_loses_nothing(make_world: Make) -> None:
    world = await make_world(settlement=SettlementConfig(every_s=450))
    payer = await world.opened()
    await world.pay(payer, 10)
    estimate_all = world.layer._inner.estimate_all

    async def refused(asked: Any) -> list[Any]:
        return [Revert("no reason given") for _ in await estimate_all(asked)]

    world.layer._inner.estimate_all = refused  # type: ignore[method-assign]
    write = world.gateway.books.write

    def cut(records: Any) -> Any:
        if isinstance(records[0], RowsSetAside):
            raise Crash
        assert isinstance(records[0], CycleStarted)
        return write(records)

    world.gateway.books.write = cut  # type: ignore[method-assign]
    with pytest.raises(Crash):
        await world.settle()
    world.layer._inner.estimate_all = estimate_all  # type: ignore[method-assign]
    await world.restart()
    await world.gateway.settler.settle()
    assert world.channel(payer).claimed == payer.charged
    assert not world.ledger.aside
    assert not world.ledger.cycles
    assert await world.balance(world.keys.treasury.address) == 1_000_001_500
