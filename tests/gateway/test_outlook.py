"""What a cycle would do is decided in another thread, while readings, deposits and withdrawals come in."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from channels.state import Phase
from channels.types import SETTLEMENT_ADDRESS
from gateway.config import SettlementConfig
from gateway.entries import Party
from gateway.ledger import Ledger
from gateway.outlook import Outlook, Question
from gateway.positions import Holdings
from settlement import calls
from settlement.claim_terms import Reason
from settlement.netting import ClaimTarget
from tests.gateway.test_settler_policy import weighed
from tests.support.gateway_devices import Payer
from tests.support.gateway_world import World, until

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
    world.settles_when_told()  # the settler itself does not come before
    during_the_first(monkeypatch, lambda: begin_withdrawal(world, payer, 4_000_000))
    outlook = await world.gateway.settler.outlook()
    assert {decision.row.id: decision.reason for decision in outlook.claiming.decisions} == {
        payer.id: Reason.WITHDRAWAL_URGENT
    }
    assert len(threads) == 2
    assert threading.current_thread().name not in threads


async def test_what_is_claimed_beside_a_cycle_is_judged_after_the_cycle_has_netted(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A party that pays and earns withdraws while a cycle is decided: its urgent claim waits for the offset."""
    world = await make_world(settlement=SettlementConfig(every_s=450, fee_bps=0))
    payer = await world.opened(amount=5_000_000)
    earner = await world.joined("solar-1", payee_key=payer.payer_key)
    await world.pay(payer, 12_000)
    await world.earn(earner, 1_000)
    rescue, waits = world.gateway.settler._rescue, threading.Event()
    claim = rescue.claim

    async def noted(threatened: Callable[[], Sequence[ClaimTarget]]) -> None:
        waits.set()
        await claim(threatened)

    async def until_the_guard_waits() -> None:
        await asyncio.to_thread(waits.wait, 60)

    monkeypatch.setattr(rescue, "claim", noted)
    during_the_first(monkeypatch, until_the_guard_waits)
    # Not yet read by the gateway: the watcher comes upon it, and wakes the settler.
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 4_000_000))
    await until(lambda: waits.is_set() and world.channel(payer).claimed == world.channel(payer).owed > 0)
    assert world.channel(payer).offset == earner.earned > 0
    assert await world.faults() == []


async def test_what_never_stands_still_is_decided_on_the_spot(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, threads: list[str]
) -> None:
    world = await make_world()
    await world.pay(await world.opened(), 1_000)
    monkeypatch.setattr(Holdings, "overtaken", lambda holdings, ledger: True)
    await world.gateway.settler.outlook()
    here = threading.current_thread().name
    assert [name == here for name in threads] == [False, False, True]


@pytest.mark.parametrize(
    ("overtaken", "changed"),
    [
        (False, {}),
        (False, {"charged": 999}),
        (False, {"ceiling": 999, "ceiling_signature": b"s"}),
        (False, {"balance": 5_000_001, "position": 2**40}),
        (True, {"balance": 4_999_999}),
        (True, {"committed": 7}),
        (True, {"claimed": 7}),
        (True, {"offset": 7}),
        (True, {"forgiven": 7}),
        (True, {"withdrawing": 7}),
        (True, {"withdraw_after": 7}),
        (True, {"foreseen": 7}),
        (True, {"foreseen_after": 7}),
        (True, {"withdrawn": 7}),
        (True, {"refunded": 7}),
        (True, {"proven": False}),
        (True, {"phase": Phase.CLOSING}),
    ],
    ids=str,
)
async def test_what_overtakes_a_channel(make_world: Make, overtaken: bool, changed: dict[str, Any]) -> None:
    world = await make_world()
    payer = await world.opened(amount=5_000_000)
    ledger = Ledger()
    ledger.channels[payer.id] = world.channel(payer)
    holdings = Holdings.of(ledger)
    ledger.channels[payer.id] = replace(world.channel(payer), **changed)
    assert holdings.overtaken(ledger) is overtaken


async def test_what_overtakes_an_account_or_a_party(make_world: Make) -> None:
    world = await make_world()
    earner = await world.joined("solar-1")
    await world.earn(earner, 1_000)
    ledger = Ledger()
    account = ledger.accounts[earner.id] = world.account(earner)
    ledger.parties[account.payee] = Party(signed=5)
    holdings = Holdings.of(ledger)
    ledger.accounts[earner.id] = replace(account, earned=account.earned + 1)
    assert not holdings.overtaken(ledger)
    ledger.accounts[earner.id] = replace(account, offset=account.offset + 1)
    assert holdings.overtaken(ledger)
    ledger.accounts[earner.id] = account
    for party in (Party(signed=6), Party(signed=5, paid=5)):
        ledger.parties[account.payee] = party
        assert holdings.overtaken(ledger)


async def test_a_channel_without_money_or_a_new_one_overtakes_nothing(make_world: Make) -> None:
    world = await make_world()
    payer = await world.opened(amount=5_000_000)
    ledger = Ledger()
    opening = replace(world.channel(payer), phase=Phase.OPENING, balance=0)
    ledger.channels[payer.id] = opening
    holdings = Holdings.of(ledger)
    ledger.channels[payer.id] = world.channel(payer)
    ledger.channels[bytes(32)] = replace(opening, id=bytes(32))
    assert not holdings.overtaken(ledger)
