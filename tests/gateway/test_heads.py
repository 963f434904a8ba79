"""Heads that a node makes up, and how long nothing was read: one lie is over with the next answer."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from channels.refusals import Refusal
from channels.state import Phase
from channels.types import SETTLEMENT_ADDRESS
from gateway.config import OfferConfig, SettlementConfig
from gateway.heads import Heads
from gateway.ledger import Ledger
from gateway.terms import TermsBook, delays_of
from settlement import calls
from settlement.errors import ChainUnavailable
from settlement.port import Block, TxReceipt
from tests.support.gateway_devices import Payer, to_json
from tests.support.gateway_world import World, until
from tests.support.reorg_world import ForkWorld

Make = Callable[..., Awaitable[World]]
MakeFork = Callable[[int], Awaitable[ForkWorld]]
Lie = Callable[[Block], Block]
FAR = 10**9


@pytest.fixture
async def make_fork(tmp_path: Path) -> AsyncIterator[MakeFork]:
    """Make worlds with so many confirmations and a running gateway."""
    made: list[ForkWorld] = []

    async def make(confirmations: int) -> ForkWorld:
        world = ForkWorld(tmp_path / f"world-{len(made)}", confirmations=confirmations)
        made.append(world)
        await world.begin()
        return world

    yield make
    for world in made:
        fault = await world.crash()
        assert fault is None, f"the gateway had stopped: {fault!r}"


def far(head: Block) -> Block:
    return dataclasses.replace(head, number=head.number + FAR, hash=b"\7" * 32, parent_hash=b"\6" * 32)


def far_in_time(head: Block) -> Block:
    return dataclasses.replace(far(head), timestamp=2**40)


def next_one(head: Block) -> Block:
    return dataclasses.replace(head, number=head.number + 1, hash=b"\7" * 32, parent_hash=head.hash)


def another(head: Block) -> Block:
    return dataclasses.replace(head, hash=b"\7" * 32)


def one_before(head: Block) -> Block:
    return dataclasses.replace(head, number=head.number - 1, hash=b"\7" * 32, parent_hash=b"\6" * 32)


def the_first(head: Block) -> Block:
    return dataclasses.replace(head, number=0, hash=b"\7" * 32, parent_hash=bytes(32), timestamp=1)


LIES = (far, far_in_time, next_one, another, one_before, the_first)


def lies_about_its_head(world: World, lie: Lie, times: int = 1) -> Callable[[], bool]:
    """Let the node name another head, so many times; returns whether it has done so."""
    inner = world.layer._inner
    truth, left = inner.head, times

    async def head() -> Block:
        nonlocal left
        found = await truth()
        if not left:
            return found
        left -= 1
        return lie(found)

    inner.head = head  # type: ignore[method-assign]
    return lambda: not left


@pytest.mark.parametrize("confirmations", [0, 2])
@pytest.mark.parametrize("lie", LIES, ids=[lie.__name__ for lie in LIES])
async def test_a_head_that_is_made_up_once(make_fork: MakeFork, lie: Lie, confirmations: int) -> None:
    world = await make_fork(confirmations)
    async with world.ticking():
        payer = await world.opened()
    await world.pay(payer, 1_000)
    told = lies_about_its_head(world, lie)
    await until(told)
    await withdrawal_is_seen(world, payer, confirmations)
    await world.seen()
    heads = world.gateway.watcher.heads
    assert heads.chain_time == heads.read.timestamp == world.miner.now  # type: ignore[union-attr]
    assert not world.gateway.terms.chain_stale


async def withdrawal_is_seen(world: World, payer: Payer, confirmations: int) -> None:
    """A payer's withdrawal is foreseen at first sight, stays so, and is booked when it is final."""
    data = calls.initiate_withdraw(payer.config, 5_000_000)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, data)
    await until(lambda: world.channel(payer).usable_balance == 0)
    for _ in range(confirmations):
        world.mine(1)
    await until(lambda: world.channel(payer).phase is Phase.WITHDRAWING)


async def test_a_made_up_head_forgets_no_withdrawal(make_fork: MakeFork) -> None:
    """One that is foreseen stays so: no head that cannot be read says that its block is gone."""
    world = await make_fork(2)
    async with world.ticking():
        payer = await world.opened()
    data = calls.initiate_withdraw(payer.config, 5_000_000)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, data)
    await until(lambda: world.channel(payer).foreseen == 5_000_000)
    journal = world.gateway.books.journal
    before = journal.number
    for lie in LIES:
        told = lies_about_its_head(world, lie)
        await until(told)
        await world.seen()
    assert world.channel(payer).foreseen == 5_000_000
    assert journal.number == before, "nothing was written about it"


async def test_channels_are_compared_after_a_lie_about_the_time(make_world: Make) -> None:
    world = await make_world()
    payer = await world.opened()
    await world.pay(payer)
    told = lies_about_its_head(world, far_in_time, times=3)
    await until(told)
    world.layer.asked.clear()
    for _ in range(2):
        world.mine(61)
        await world.seen()
        await until(lambda: "channels" in world.layer.asked)
        world.layer.asked.clear()


async def test_a_receipt_from_far_ahead_is_no_receipt_yet(make_world: Make) -> None:
    world = await make_world()
    payer = await world.opened()
    await world.pay(payer, 1_000)
    inner = world.layer._inner
    truth, lies = inner.receipts, 2

    async def receipts(hashes: Sequence[bytes]) -> list[TxReceipt | None]:
        nonlocal lies
        found = await truth(hashes)
        if not lies or not any(found):
            return found
        lies -= 1
        return [each and dataclasses.replace(each, block_number=each.block_number + FAR, logs=()) for each in found]

    inner.receipts = receipts  # type: ignore[method-assign, assignment]
    await world.settle()
    assert not lies
    assert (await world.view(payer.id)).total_claimed == payer.charged
    assert max(mined.block for mined in world.ledger.mined.values()) < FAR
    assert await world.faults() == []


async def test_nobody_waits_for_a_block_that_was_made_up(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.heads.LAG_S", 0.2)
    world = await make_world()
    await world.gateway.watcher.passed(world.head)
    soon = asyncio.create_task(world.gateway.watcher.passed(world.head + 1))
    with pytest.raises(ChainUnavailable, match=f"named block {FAR}, and the chain does not get there"):
        await asyncio.wait_for(world.gateway.watcher.passed(FAR), 60)
    with pytest.raises(ChainUnavailable):
        await soon
    waiting = asyncio.create_task(world.gateway.watcher.passed(world.head + 1))
    world.mine(1)
    await waiting


async def test_an_opening_outlasts_a_head_that_was_made_up(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its deposit was submitted by somebody else already, so that it waits for the head that it was told."""
    monkeypatch.setattr("gateway.heads.LAG_S", 0.2)
    monkeypatch.setattr("gateway.openings.RETRY_S", 0.05)
    world = await make_world()
    payer = world.payer()
    fields = payer.open(5_000_000)
    await world.deposit(payer.config, 5_000_000, payer.authorization(5_000_000))
    told: list[bool] = []

    async def lie(*arguments: Any) -> None:
        lies_about_its_head(world, far)
        told.append(True)

    world.layer.once_after("authorization_used", lie)
    receipt = await world.ask(payer.device, "open", to_json(fields))
    assert told
    assert (receipt.reason, receipt.balance) == (None, 5_000_000)


# -- for how long nothing was read --


@dataclasses.dataclass
class Clock:
    """In the place of `time`: stands still until it is set."""

    now: float = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the machine."""
    made = Clock()
    monkeypatch.setattr("gateway.heads.time", made)
    return made


def block(number: int, timestamp: int) -> Block:
    return Block(number, number.to_bytes(32, "big"), (number - 1).to_bytes(32, "big"), timestamp, 7)


def test_nothing_was_read_yet(clock: Clock) -> None:
    heads = Heads(Ledger())
    assert heads.silence_s == heads.unread_s == float("inf")
    heads.named(block(5, 1_000))
    assert heads.silence_s == heads.unread_s == float("inf"), "to see a head is not to read it"
    assert heads.chain_time == 0
    heads.has_read(block(5, 1_000))
    assert heads.silence_s == heads.unread_s == 0
    assert heads.chain_time == 1_000


def test_silence_ends_with_a_later_time_in_a_higher_block(clock: Clock) -> None:
    heads = Heads(Ledger())
    heads.wall = lambda: 0.0
    heads.has_read(block(5, 1_000))
    clock.now += 50
    for same in (block(5, 1_000), block(6, 1_000), block(4, 1_001)):
        heads.has_read(same)
        assert heads.silence_s == 50, "nothing that was unknown is known now"
    heads.has_read(block(5, 1_002))
    assert heads.silence_s == 0


def test_the_age_of_the_last_block_counts(clock: Clock) -> None:
    """It was read just now, by a gateway that was started just now."""
    heads = Heads(Ledger())
    clock.now = 9_000.0
    heads.has_read(block(5, 1_000))
    assert (heads.silence_s, heads.unread_s) == (0, 8_000)
    heads.wall = lambda: 500.0  # a clock that is behind takes away nothing but that
    assert heads.unread_s == 0
    clock.now += 70
    assert heads.unread_s == 70


def test_a_head_counts_when_the_next_one_is_not_below_it(clock: Clock) -> None:
    heads = Heads(Ledger())
    heads.has_read(block(5, 1_000))
    heads.named(block(FAR, 10**9))
    heads.named(block(6, 1_010))
    assert (heads.chain_time, heads.unread_s) == (1_000, 0), "one of them was a lie"
    heads.named(block(7, 1_020))
    assert (heads.chain_time, heads.unread_s) == (1_010, 10)
    heads.named(block(7, 1_020))
    assert (heads.chain_time, heads.unread_s) == (1_020, 20)
    heads.has_read(block(7, 1_020))
    assert (heads.chain_time, heads.unread_s) == (1_020, 0)


def test_who_lags_for_long_is_told(clock: Clock) -> None:
    heads = Heads(Ledger())
    heads.has_read(block(5, 1_000))
    clock.now += 1_000  # a quiet chain: no blocks, which is not to lag
    heads.lags("the node lags")
    clock.now += 30
    heads.lags("the node lags")
    clock.now += 1
    with pytest.raises(ChainUnavailable, match="the node lags"):
        heads.lags("the node lags")
    heads.has_read(block(5, 1_000))
    heads.lags("the node lags")


# -- whose delay counts --


def test_another_delay_has_the_same_share_of_a_margin() -> None:
    terms = TermsBook(86_400, 21_600)
    stale = {}
    for delays in ((), (86_400,), (86_400, 900), (7_200, 86_400), (172_800,)):
        terms.delays = lambda delays=delays: delays  # type: ignore[misc]
        terms._shortest = None
        silent = 1
        while True:
            terms.silence = lambda silent=silent: silent  # type: ignore[misc]
            if terms.chain_stale:
                break
            silent += 1
        stale[delays] = silent - 1
    assert stale == {(): 64_800, (86_400,): 64_800, (86_400, 900): 675, (7_200, 86_400): 5_400, (172_800,): 129_600}


def test_delays_are_looked_through_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("gateway.terms.time", clock)
    terms = TermsBook(86_400, 21_600)
    looked: list[float] = []

    def delays() -> list[int]:
        looked.append(clock.now)
        return [900 if clock.now > 1_004 else 86_400]

    terms.delays, terms.silence = delays, lambda: 675.0
    assert not any(terms.chain_stale for _ in range(1_000))
    assert looked == [], "no withdrawal is so fast"
    terms.silence = lambda: 676.0
    assert not any(terms.chain_stale for _ in range(1_000))
    clock.now += 5
    assert all(terms.chain_stale for _ in range(1_000))
    assert len(looked) == 2


async def test_the_shortest_delay_of_any_open_channel_counts(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator has made the configured one longer; channels keep what they were opened with."""
    monkeypatch.setattr("gateway.terms.DELAYS_EVERY_S", 0.0)
    world = await make_world()
    short = await world.opened()
    await world.pay(short)
    await world.crash()
    offer = OfferConfig(withdraw_delay=86_400, max_ahead="1000000")
    world.config = msgspec.structs.replace(
        world.config, offer=offer, settlement=SettlementConfig(every_s=43_200, fee_bps=100)
    )
    await world.start()
    terms = world.gateway.terms
    long = await world.opened("meter-2")
    assert sorted(delays_of(world.ledger.channels.values())) == [900, 86_400]
    terms.silence = lambda: 3_600.0  # a withdrawal of the first one may have begun and ended
    short.offer = terms.current
    answer = await world.ask("meter-1", "usage", to_json(short.usage(10)))
    assert answer.reason is Refusal.CHAIN_STALE
    terms.silence = lambda: 0.0
    await world.gateway.closings.close("meter-1", None)
    await world.settle()
    await until(lambda: world.channel(short).phase is Phase.CLOSED)
    terms.silence = lambda: 3_600.0
    assert not terms.chain_stale
    await world.pay(long)
