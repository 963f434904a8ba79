"""What a cycle would do is decided in another thread, while readings, deposits and withdrawals come in."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from channels.types import SETTLEMENT_ADDRESS
from gateway.outlook import Outlook, Question
from gateway.positions import Holdings
from settlement import calls
from settlement.claim_terms import Reason
from tests.gateway.test_settler_policy import weighed
from tests.support.gateway_devices import Payer, to_json
from tests.support.gateway_world import World

Make = Callable[..., Awaitable[World]]
Meanwhile = Callable[[], Awaitable[object]]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that decide, one for each decision."""
    answer, names = Question.answer, []

    def noted(question: Question) -> Outlook:
        names.append(threading.current_thread().name)
        return answer(question)

    monkeypatch.setattr(Question, "answer", noted)
    return names


def during_the_first(monkeypatch: pytest.MonkeyPatch, meanwhile: Meanwhile) -> None:
    """Let something happen while the first decision is made."""
    loop, answer = asyncio.get_running_loop(), Question.answer
    left = [meanwhile]

    def slow(question: Question) -> Outlook:
        if left:
            asyncio.run_coroutine_threadsafe(_awaited(left.pop()), loop).result(60)
        return answer(question)

    monkeypatch.setattr(Question, "answer", slow)


async def _awaited(meanwhile: Meanwhile) -> None:
    await meanwhile()


async def begin_withdrawal(world: World, payer: Payer, amount: int) -> None:
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, amount))
    await world.seen()


async def test_readings_that_come_meanwhile_wait_for_the_next_cycle(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, threads: list[str]
) -> None:
    world = await make_world()
    payer = await world.opened(amount=50_000_000)
    await world.pay(payer, 1_000)
    before = payer.charged
    during_the_first(monkeypatch, lambda: world.pay(payer, 2_000))
    ended = await world.gateway.settler.settle()
    assert len(threads) == 1
    assert threads != [threading.current_thread().name]
    assert ended is not None
    assert (ended.claimed, payer.charged > before) == (before, True)
    assert world.channel(payer).unclaimed == payer.charged - before
    await world.gateway.settler.settle()
    assert world.channel(payer).claimed == payer.charged
    assert await world.faults() == []


async def test_a_withdrawal_that_comes_meanwhile_is_decided_about(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, threads: list[str]
) -> None:
    world = await make_world(settlement=weighed())
    payer = await world.opened(amount=5_000_000)
    await world.pay(payer, 12_000)  # 1.8 tokens
    during_the_first(monkeypatch, lambda: begin_withdrawal(world, payer, 4_000_000))
    # The settler claims it by itself as well: whoever comes first.
    outlook = await world.gateway.settler.outlook()
    reasons = {decision.row.id: decision.reason for decision in outlook.claiming.decisions}
    assert reasons in ({payer.id: Reason.WITHDRAWAL_URGENT}, {})
    assert len(threads) >= 2


async def test_what_never_stands_still_is_decided_on_the_spot(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, threads: list[str]
) -> None:
    world = await make_world()
    await world.pay(await world.opened(), 1_000)
    monkeypatch.setattr(Holdings, "overtaken", lambda holdings, ledger: True)
    await world.gateway.settler.outlook()
    here = threading.current_thread().name
    assert [name == here for name in threads] == [False, False, True]


async def test_what_overtakes_a_decision(make_world: Make) -> None:
    world = await make_world()
    payer, earner = await world.opened("meter-1", 50_000_000), await world.joined("solar-1")
    await world.pay(payer, 1_000)
    await world.earn(earner, 1_000)
    ledger = world.ledger

    async def overtaken(meanwhile: Meanwhile) -> bool:
        holdings = Holdings.of(ledger)
        assert not holdings.overtaken(ledger)
        await meanwhile()
        assert holdings.channels != ledger.channels.copy() or holdings.accounts != ledger.accounts.copy()
        return holdings.overtaken(ledger)

    assert not await overtaken(lambda: world.pay(payer, 1_000))
    assert not await overtaken(lambda: world.earn(earner, 1_000))
    assert not await overtaken(lambda: world.opened("meter-2", 5_000_000))
    assert not await overtaken(lambda: world.ask("meter-1", "open", to_json(payer.open(1_000_000, salt=2))))
    assert await overtaken(lambda: begin_withdrawal(world, payer, 1_000_000))
    assert await overtaken(world.gateway.settler.settle)
