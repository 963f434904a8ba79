"""Settlement cycles: netted, claimed, settled, swept and paid once, whatever is cut off where."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

import msgspec
import pytest

from devices.messages import Status
from devices.receipts import decode_receipt
from gateway.config import SettlementConfig
from gateway.keys import key_ring
from gateway.records import (
    CycleEnded,
    CycleStarted,
    PayeesMet,
    PayoutsPaid,
    PayoutsSigned,
    TransactionMined,
    TransactionSigned,
)
from settlement import calls
from settlement.errors import ChainUnavailable
from settlement.genesis import TOKEN_ADDRESS
from tests.support.gateway_devices import Earner, Payer, secret, to_json
from tests.support.gateway_world import COIN, SEED, TOKEN, Crash, World, until

Make = Callable[..., Awaitable[World]]
# Asked by the watcher at any time, so not part of a cycle's own order.
WATCHERS = frozenset({"head", "events", "transfers_to", "block"})


class Site:
    """Three payers, a party that pays and earns, and two earners; it knows what everybody should have in the end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.payers: list[Payer] = []
        self.earners: list[Earner] = []

    @classmethod
    async def build(cls, world: World) -> "Site":
        """Open everything."""
        site = cls(world)
        for number in range(1, 5):
            site.payers.append(await world.opened(f"meter-{number}", 50_000_000))
        # meter-1's payer has a roof of its own, the others earn without paying.
        site.earners.append(await world.joined("solar-1", payee_key=site.payers[0].payer_key))
        site.earners.append(await world.joined("solar-2"))
        site.earners.append(await world.joined("air-3", service="air-quality"))
        return site

    async def traffic(self, rng: random.Random) -> None:
        """Let everybody pay and earn something."""
        for payer in self.payers:
            payer.settled_elsewhere = self.world.channel(payer).offset
            await self.world.pay(payer, rng.randrange(1, 500))
        for earner in self.earners:
            await self.world.earn(earner, rng.randrange(1, 900))

    async def settled(self) -> None:
        """Check that all is settled to the unit: on the chain, in the books, and against each other."""
        world = self.world
        await world.seen()
        assert await world.faults() == []
        assert not world.ledger.cycles, "a cycle is still open"
        fees = offsets = 0
        for earner in self.earners:
            account = world.account(earner)
            assert account.earned == earner.earned
            assert account.fee == sum_of_fees(earner)
            fees += account.fee
            offsets += account.offset
        for payer in self.payers:
            channel = world.channel(payer)
            assert channel.charged == payer.charged
            assert channel.claimed == channel.owed == payer.charged - channel.offset
            assert (await world.view(payer.id)).total_claimed == channel.claimed
        assert sum(world.channel(payer).offset for payer in self.payers) == offsets
        for earner in self.earners:
            due = world.account(earner).net
            assert world.ledger.party(earner.payee).paid == due, "a payee is not paid in full"
        for earner in self.earners[1:]:
            assert await world.balance(earner.payee) == world.account(earner).net, "a payee was not paid exactly once"
        both = self.payers[0]
        account = world.account(self.earners[0])
        assert await world.balance(both.payer) == 100 * TOKEN - 50_000_000 + account.net
        assert account.offset == world.channel(both).offset
        # All that came in and was not paid out is in the treasury: the float, and what the operator earned.
        claimed = sum(world.channel(payer).claimed for payer in self.payers)
        paid = sum(world.account(earner).net for earner in self.earners)
        assert await world.balance(world.keys.treasury.address) == 1_000 * TOKEN + claimed - paid
        assert all([await world.balance(key.address) == 0 for key in world.keys.lanes])


def sum_of_fees(earner: Earner) -> int:
    """The operator's share, rounded down over the whole sum: one percent of the gross."""
    return earner.earned * 100 // 10_000


async def test_a_cycle_settles_everybody(world: World) -> None:
    site = await Site.build(world)
    rng = random.Random(1)
    for number in range(1, 4):
        await site.traffic(rng)
        before = {payer.id: world.channel(payer).claimed for payer in site.payers}
        ended = await world.gateway.settler.settle()
        assert ended is not None
        claimed = sum(world.channel(payer).claimed - before[payer.id] for payer in site.payers)
        assert (ended.number, ended.claimed, ended.settled) == (number, claimed, claimed)
        assert ended.offset > 0
        assert ended.paid > 0
        assert 3 <= ended.rows <= 4
        assert ended.gas_used > 100_000
        await site.settled()
    assert await world.gateway.settler.settle() is None, "there is nothing to settle"
    assert world.troubles == []


async def test_nothing_to_settle_is_no_commit(world: World) -> None:
    await world.opened()
    number = world.gateway.books.journal.number
    assert await world.gateway.settler.settle() is None
    assert world.gateway.books.journal.number == number


async def test_a_partys_two_sides_are_netted(make_world: Make) -> None:
    """One party, two channels and two accounts: only the difference moves, on one side."""
    world = await make_world(settlement=SettlementConfig(every_s=86_400, fee_bps=0))
    first = await world.opened("meter-1", salt=1)
    second = await world.opened("meter-1", salt=2)
    one = await world.joined("solar-1", payee_key=first.payer_key)
    two = await world.joined("solar-1", payee_key=first.payer_key, salt=2)
    await world.pay(first, 100)  # 15,000
    await world.pay(second, 10)  # 1,500
    await world.earn(one, 50)  # 4,000
    await world.earn(two, 25)  # 2,000
    ended = await world.gateway.settler.settle()
    assert ended is not None
    assert (ended.offset, ended.claimed, ended.paid) == (6_000, 10_500, 0)
    assert world.channel(first).offset + world.channel(second).offset == 6_000
    for payer in (first, second):
        payer.settled_elsewhere = world.channel(payer).offset
        receipt = await world.pay(payer, 1)
        assert receipt.offset == payer.settled_elsewhere
    await world.earn(one, 1_000)  # 80,000
    ended = await world.gateway.settler.settle()
    assert ended is not None
    assert (ended.offset, ended.claimed, ended.paid) == (300, 0, 79_700)
    assert await world.balance(first.payer) == 100 * TOKEN - 10_000_000 + 79_700
    assert await world.faults() == []


@pytest.mark.parametrize("basis_points", [0, 1, 33, 9_999, 10_000])
async def test_the_fee_is_rounded_on_the_whole_sum(make_world: Make, basis_points: int) -> None:
    world = await make_world(settlement=SettlementConfig(every_s=86_400, fee_bps=basis_points))
    earner = await world.joined(service="air-quality")
    rng = random.Random(basis_points)
    for _ in range(5):
        for _ in range(7):
            await world.earn(earner, rng.randrange(1, 60))
        await world.gateway.settler.settle()
        account = world.account(earner)
        assert account.earned == earner.earned
        assert account.fee == earner.earned * basis_points // 10_000
        assert await world.balance(earner.payee) == account.earned - account.fee
    assert await world.faults() == []


async def test_want_of_cash_defers_payouts(make_world: Make) -> None:
    world = await make_world(float_tokens=10_000)
    small, large, huge = [await world.joined(f"solar-{number}") for number in (1, 2, 3)]
    for earner, units in ((large, 110), (small, 40), (huge, 100_000)):
        await world.earn(earner, units)
    net = {each.device: each.earned - sum_of_fees(each) for each in (small, large, huge)}
    ended = await world.gateway.settler.settle()
    assert ended is not None
    assert ended.paid == net["solar-1"], "the smallest go first"
    assert any("lacks" in trouble for trouble in world.troubles)
    assert await world.faults() == []
    assert (await world.balance(large.payee), await world.balance(huge.payee)) == (0, 0)
    # While it lacks, another cycle moves nothing and breaks nothing.
    await world.gateway.settler.settle()
    assert await world.balance(world.keys.treasury.address) == 10_000 - net["solar-1"]
    await world.restart()
    # A payer's money comes in, and later the operator's.
    payer = await world.opened()
    await world.pay(payer, 100)
    await world.gateway.settler.settle()
    assert await world.balance(large.payee) == net["solar-2"]
    await world.give(world.keys.treasury.address, 100 * TOKEN)
    await world.gateway.settler.settle()
    assert await world.balance(huge.payee) == net["solar-3"]
    assert await world.faults() == []


async def test_more_rows_than_a_transaction_takes(make_world: Make) -> None:
    world = await make_world(settlement=SettlementConfig(every_s=86_400, rows_max=2))
    payers = [await world.opened("meter-1", 1_000_000, salt=number) for number in range(1, 8)]
    earners = [await world.joined(f"solar-{number}") for number in range(1, 6)]
    for payer in payers:
        await world.pay(payer, 100)
    for earner in earners:
        await world.earn(earner, 100)
    ended = await world.gateway.settler.settle()
    assert ended is not None
    assert (ended.rows, ended.claimed) == (7, 105_000)
    for earner in earners:
        assert await world.balance(earner.payee) == 7_920
    assert await world.faults() == []
    journal = world.gateway.books.journal
    records = [record for number in range(1, journal.number + 1) for record in journal.records(number)]
    sent = [record.purpose for record in records if isinstance(record, TransactionSigned)]
    assert sent.count("claim 2") == 3
    assert sent.count("claim 1") == 1
    assert (sent.count("pay 2"), sent.count("pay 1")) == (2, 1)


async def test_two_requests_at_once_are_one_after_the_other(world: World) -> None:
    site = await Site.build(world)
    await site.traffic(random.Random(2))
    outcomes = await asyncio.gather(*(world.gateway.settler.settle() for _ in range(3)))
    assert [outcome is None for outcome in outcomes] == [False, True, True]
    await site.settled()


# -- cut off anywhere --


async def _count(site: Site, rng: random.Random) -> int:
    """Return how many questions one cycle asks the layer."""
    await site.traffic(rng)
    asked = 0

    async def count(when: str, method: str) -> None:
        nonlocal asked
        asked += method not in WATCHERS

    site.world.layer.every = count
    await site.world.gateway.settler.settle()
    site.world.layer.every = None
    return asked


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
async def test_a_crash_at_any_question_to_the_chain(world: World, part: int) -> None:
    seed = 100 + part
    rng = random.Random(seed)
    print(f"seed {seed}")
    site = await Site.build(world)
    moments = await _count(site, rng)
    assert moments > 60
    crashes = 0
    for moment in range(part, moments, 4):
        await site.traffic(rng)
        left = moment

        async def cut(when: str, method: str) -> None:
            nonlocal left
            if method in WATCHERS:
                return
            left -= 1
            if left < 0:
                raise Crash

        world.layer.every = cut
        try:  # a cycle with less to do may be over before
            await world.settle()
        except Crash:
            crashes += 1
        fault = await world.crash()
        assert fault is None or isinstance(fault, Crash)
        world.layer.every = None
        await world.start()
        assert await world.faults() == [], f"seed {seed}, moment {moment}"
        if rng.random() < 0.5:
            await site.traffic(rng)
        await world.gateway.settler.settle()
        await site.settled()
        assert not world.ledger.transactions
    assert crashes > moments // 4 * 2 // 3


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "kind", [CycleStarted, PayoutsSigned, PayoutsPaid, CycleEnded, TransactionSigned, TransactionMined]
)
async def test_a_crash_at_each_commit_of_a_cycle(world: World, kind: type, after: bool) -> None:
    site = await Site.build(world)
    rng = random.Random(7)
    for skip in range(1 if kind not in (TransactionSigned, TransactionMined) else 4):
        await site.traffic(rng)
        books = world.gateway.books
        books.write = _cut_at(books.write, kind, skip, after)  # type: ignore[method-assign]
        with pytest.raises(Crash):
            await world.settle()
        await world.restart()
        assert await world.faults() == []
        await world.gateway.settler.settle()
        await site.settled()


def _cut_at(write: Callable[[Any], Any], kind: type, skip: int, after: bool) -> Callable[[Any], Any]:
    """Cut the power at the commit of the `skip`-th record of this kind, before or after it is on disk."""
    left = skip

    def cut(records: Any) -> Any:
        nonlocal left
        if any(isinstance(record, kind) for record in records):
            left -= 1
            if left < 0:
                if not after:
                    raise Crash
                return then(write(records))
        return write(records)

    async def then(written: Any) -> None:
        await written
        raise Crash

    return cut


async def test_a_cancelled_cycle_is_taken_up(world: World) -> None:
    site = await Site.build(world)
    rng = random.Random(8)
    await site.traffic(rng)
    reached = asyncio.Event()

    async def hang(*_: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    world.layer.once_before("paid", hang)
    cycle = asyncio.create_task(world.gateway.settler.settle())
    await reached.wait()
    cycle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cycle
    await site.traffic(rng)
    await world.gateway.settler.settle()
    await site.settled()


async def test_a_mined_claim_whose_books_are_lost_is_not_claimed_twice(world: World) -> None:
    """The chain is ahead of the journal: the claim is mined, the crash came before anything noticed."""
    site = await Site.build(world)
    await site.traffic(random.Random(9))
    world.gateway.watcher._poll_s = 3600.0

    async def cut(*_: Any) -> None:
        raise Crash

    world.layer.once_before("receipts", cut)
    with pytest.raises(Crash):
        await world.settle()
    await world.restart()
    await world.gateway.settler.settle()
    await site.settled()


# -- a flaky line --


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
async def test_the_gateway_outlives_a_flaky_line(make_world: Make, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Every eighth question is lost, or its answer: the gateway goes on, and in the end all is settled."""
    monkeypatch.setattr("gateway.sending._RETRY_S", 0.01)
    seed = 55
    rng = random.Random(seed)
    world = await make_world()
    site = await Site.build(world)
    await world.stop()
    await world.start(run=False)
    world.gateway.settler._every_s = 0.01
    world.run()

    async def flaky(moment: str, method: str) -> None:
        if moment == when and rng.random() < 0.12:
            raise ChainUnavailable("the cable is out")

    for _ in range(4):
        world.layer.every = flaky
        await site.traffic(rng)
        cycles = world.ledger.totals.cycles
        for _ in range(2_000):
            if world.ledger.totals.cycles > cycles or not world.running:
                break
            await asyncio.sleep(0.002)
        assert world.running, f"seed {seed}: {await world.fault()!r}"
        world.layer.every = None
    world.gateway.settler._every_s = 86_400
    for _ in range(3):
        await world.gateway.settler.settle()
    assert world.running, f"seed {seed}"
    await site.settled()


async def test_a_lane_without_coins_waits_and_disturbs_nobody(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sending._RETRY_S", 0.01)
    poor = key_ring(SEED, 2).lanes[0]
    world = await make_world(coins={poor.address: 0})
    payers = [await world.opened(f"meter-{number}") for number in range(1, 9)]
    assert {payer.config.receiver for payer in payers} == {key.address for key in world.keys.lanes}
    for payer in payers:
        await world.pay(payer, 100)
    cycle = asyncio.create_task(world.gateway.settler.settle())
    await until(lambda: bool(world.troubles) or cycle.done())
    assert world.running
    for payer in payers:
        await world.pay(payer, 1)  # readings go on
        if payer.config.receiver != poor.address:
            await world.seen()
            assert world.channel(payer).claimed == 15_000, "the other lane's claim waits for the poor one's"
    await world.transact(world.stranger_key, poor.address, b"", value=COIN // 2)
    async with asyncio.timeout(30):
        await cycle
    await world.gateway.settler.settle()
    assert all(world.channel(payer).claimed == payer.charged for payer in payers)
    assert await world.faults() == []


# -- readings meanwhile --


async def test_readings_while_settling(world: World) -> None:
    seed = 77
    rng = random.Random(seed)
    site = await Site.build(world)
    await site.traffic(rng)
    done = False
    accepted = 0

    async def read(device: Payer | Earner) -> None:
        nonlocal accepted
        while not done:
            if isinstance(device, Payer):
                device.settled_elsewhere = world.channel(device).offset
                fields = device.usage(rng.randrange(1, 50), ahead=200_000)
                leaf = "usage"
            else:
                fields = device.earn(rng.randrange(1, 50))
                leaf = "earn"
            receipt = await world.ask(device.device, leaf, to_json(fields))
            assert receipt.status is Status.ACCEPTED, f"seed {seed}: {receipt}"
            device.took(fields)
            accepted += 1
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(read(device)) for device in (*site.payers, *site.earners)]
    for _ in range(8):
        await world.gateway.settler.settle()
        assert await world.faults() == [], f"seed {seed}"
    done = True
    await asyncio.gather(*tasks)
    assert accepted > 60
    await world.gateway.settler.settle()
    await site.settled()
    world.link.acknowledged.clear()


async def test_a_reading_between_netting_and_claim(world: World) -> None:
    """The claim carries what the cycle journaled, not what came in since."""
    payer = await world.opened()
    await world.pay(payer, 100)

    async def read(*_: Any) -> None:
        await world.pay(payer, 100)

    world.layer.once_before("estimate_all", read)
    ended = await world.gateway.settler.settle()
    assert ended is not None
    assert ended.claimed == 15_000
    assert world.channel(payer).claimed == 15_000
    assert world.channel(payer).owed == 30_000
    assert await world.faults() == []


async def test_opens_while_settling(world: World) -> None:
    site = await Site.build(world)
    await site.traffic(random.Random(4))

    async def open_and_pay() -> None:
        site.payers.append(await world.opened("meter-5", 1_000_000))
        await world.pay(site.payers[-1], 10)

    joining: list[asyncio.Task[None]] = []

    async def join(*_: Any) -> None:
        joining.append(asyncio.create_task(open_and_pay()))
        await asyncio.sleep(0.05)  # its deposit is signed with the next transactions, after those of the cycle

    world.layer.once_before("estimate_all", join)
    await world.gateway.settler.settle()
    await joining[0]
    await world.gateway.settler.settle()
    await site.settled()


async def test_a_treasury_that_is_emptied_behind_our_back_pays_nobody_twice(world: World) -> None:
    """Payouts were signed, then the money went elsewhere: they stay owed, and are paid once there is cash again."""
    earner = await world.joined()
    await world.earn(earner, 1_000)
    treasury = world.keys.treasury
    elsewhere = secret("elsewhere")[:20]

    async def empty(*_: Any) -> None:
        await world.transact(treasury.private, TOKEN_ADDRESS, calls.transfer(elsewhere, 1_000 * TOKEN))

    world.gateway.books.write = _then(world.gateway.books.write, PayoutsSigned, empty)  # type: ignore[method-assign]
    await world.gateway.settler.settle()
    assert world.troubles
    assert await world.balance(earner.payee) == 0
    # Its nonce was used outside, so the sender asks again after a restart. There is cash for what was signed only.
    await world.restart()
    await world.give(treasury.address, 80_000)
    later = await world.joined("solar-2")
    await world.earn(later, 500)
    await world.gateway.settler.settle()
    assert await world.balance(earner.payee) == world.account(earner).net == 79_200
    assert await world.balance(later.payee) == 0
    assert world.ledger.party(later.payee).signed == 0, "signed without the cash for it"
    await world.give(treasury.address, 10 * TOKEN)
    for _ in range(2):
        await world.gateway.settler.settle()
        assert await world.balance(earner.payee) == 79_200
        assert await world.balance(later.payee) == 39_600


def _then(write: Callable[[Any], Any], kind: type, hook: Callable[..., Awaitable[None]]) -> Callable[[Any], Any]:
    def wrapped(records: Any) -> Any:
        written = write(records)
        if not isinstance(records[0], kind):
            return written

        async def both() -> None:
            await written
            await hook()

        return both()

    return wrapped


@pytest.mark.parametrize("cut", [None, PayeesMet, PayoutsSigned])
async def test_a_lost_journal_costs_an_earner_one_reading(world: World, cut: type | None) -> None:
    """What the treasury paid in an earlier life is neither paid again nor taken off what is earned now."""
    earner = await world.joined()
    stays = await world.joined("solar-2")
    await world.earn(earner, 100)
    await world.earn(stays, 50)
    await world.gateway.settler.settle()
    assert await world.balance(earner.payee) == 7_920
    await world.crash()
    world.config = msgspec.structs.replace(world.config, data_dir=f"{world.config.data_dir}-2")
    await world.start()
    assert await world.faults() == []
    earner.seq = earner.exact = 0
    answer = await world.ask("solar-1", "open", to_json(earner.open() | {"register": 100}))
    assert (answer.status, answer.last_register, answer.cumulative) == (Status.ACCEPTED, 100, 0)
    assert await world.faults() == []
    assert (await world.earn(earner, 100)).cumulative == 0, "who knows whether it was paid for?"
    for paid in (15_840, 23_760):
        await world.earn(earner, 100)
        assert await world.faults() == []
        if cut is not None:
            books = world.gateway.books
            books.write = _cut_at(books.write, cut, 0, True)  # type: ignore[method-assign]
            with pytest.raises(Crash) if paid == 15_840 or cut is PayoutsSigned else nullcontext():
                await world.gateway.settler.settle()
            await world.restart()
        await world.gateway.settler.settle()
        assert await world.balance(earner.payee) == paid
        assert await world.faults() == []
    assert world.ledger.party(earner.payee).paid == world.account(earner).net == 15_840
    assert await world.balance(stays.payee) == 3_960
    await world.restart()
    assert await world.faults() == []


async def test_the_receipt_tells_the_offset(world: World) -> None:
    payer = await world.opened()
    earner = await world.joined("meter-1", payee_key=payer.payer_key)
    await world.pay(payer, 100)
    await world.earn(earner, 100)
    await world.gateway.settler.settle()
    payer.settled_elsewhere = 7_920
    receipt = await world.pay(payer, 1)
    assert (receipt.offset, receipt.cumulative) == (7_920, 15_150)
    assert receipt.ceiling == 15_000, "the highest ceiling stays held: it is claimable for ever"
    raw = await world.ask_raw("meter-1", "earn", earner.next_earn(1))
    assert (decode_receipt(raw).offset, decode_receipt(raw).cumulative) == (7_920, 8_080)
    assert await world.faults() == []
    # Claimed by somebody with our key or not: never above what is owed.
    await world.gateway.settler.settle()
    assert world.channel(payer).claimed == world.channel(payer).owed == 15_150 - world.channel(payer).offset
