"""The outbox: journaled in one commit before anything is sent, followed in the background, never signed twice."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from channels.types import Address
from gateway.errors import JournalFault
from gateway.journal import read_commits
from gateway.records import TransactionLost, TransactionMined, TransactionSigned, TransactionUnmined
from settlement.errors import ChainRefused, ChainUnavailable
from settlement.port import Call, Fees, Revert, TxReceipt
from settlement.sender import Order
from settlement.streams import Outstanding
from settlement.transactions import read_transaction
from tests.support.gateway_devices import Payer
from tests.support.gateway_world import COIN, Crash, World, until
from tests.support.sending import Clock

Make = Callable[..., Awaitable[World]]
RECEIVER = b"\x77" * 20


def gift(world: World, value: int, sender: Address | None = None) -> Order:
    """A call that is told by its value."""
    return Call(sender or world.keys.operator.address, RECEIVER, b"", value), f"gift {value}"


def journaled(world: World, kind: type) -> list[list[Any]]:
    """Return what each commit on disk holds of one kind of record."""
    path = Path(world.config.data_dir) / "journal.sqlite"
    found = [[record for record in records if isinstance(record, kind)] for _, records in read_commits(path, 0)]
    return [records for records in found if records]


async def given(world: World) -> int:
    (coins,) = await world.layer._inner.native_balances([RECEIVER])
    return coins


def set_clock(world: World) -> Clock:
    """Let the outbox's clock stand still."""
    follower = world.gateway.outbox._sender._follower
    follower.clock = clock = Clock(follower.clock())
    return clock


def suggest(world: World, fee: int) -> None:
    """Let the chain suggest this fee per gas."""

    async def fees() -> Fees:
        return Fees(fee, fee)

    world.layer._inner.fees = fees  # type: ignore[method-assign]


async def test_all_keys_are_one_commit_that_is_on_disk_before_the_chain_sees_it(world: World) -> None:
    addresses = [world.keys.lanes[0].address, world.keys.operator.address, world.keys.lanes[1].address]
    before = len(journaled(world, TransactionSigned))
    on_disk: list[int] = []

    async def look(raws: list[bytes]) -> None:
        on_disk.extend(len(records) for records in journaled(world, TransactionSigned)[before:])

    world.layer.once_before("send_all", look)
    outcomes = await world.gateway.outbox.execute_all([gift(world, 1 + n, addresses[n % 3]) for n in range(12)])
    assert on_disk == [12]
    assert all(isinstance(outcome, TxReceipt) and outcome.succeeded for outcome in outcomes)
    assert await given(world) == sum(range(1, 13))
    assert not world.ledger.transactions
    booked = journaled(world, TransactionMined)[-1]
    assert {record.hash for record in booked} == {each.tx_hash for each in outcomes if isinstance(each, TxReceipt)}


async def test_outcomes_are_told_apart(world: World) -> None:
    token = world.gateway.token
    operator = world.keys.operator.address
    asked: list[str] = []

    async def count(moment: str, method: str) -> None:
        asked.append(method)

    world.layer.every = count
    calls = [gift(world, 5), (Call(operator, token, b"\xa9\x05\x9c\xbb" + bytes(63)), "bad"), gift(world, 6)]
    good, bad, other = await world.gateway.outbox.execute_all(calls)
    assert isinstance(good, TxReceipt)
    assert isinstance(bad, Revert)
    assert isinstance(other, TxReceipt)
    assert asked.count("estimate_all") == asked.count("send_all") == 2, "each once, before and after"
    assert isinstance(await world.gateway.outbox.execute(*calls[1]), Revert)


async def test_a_refused_call_is_an_outcome_of_its_own(world: World) -> None:
    async def refuse(wanted: list[Call]) -> list[Any]:
        return [ChainRefused(-32000, "no"), *[21_000] * (len(wanted) - 1)]

    world.layer._inner.estimate_all = refuse  # type: ignore[method-assign]
    first, second = await world.gateway.outbox.execute_all([gift(world, 1), gift(world, 2)])
    assert isinstance(first, ChainRefused)
    assert isinstance(second, TxReceipt)
    with pytest.raises(ChainRefused, match="no"):
        await world.gateway.outbox.execute(*gift(world, 3))
    assert await given(world) == 2


CUTS = [
    (when, method)
    for method in ("estimate_all", "head", "fees", "nonces", "send_all", "receipts")
    for when in ("before", "after")
]


@pytest.mark.parametrize("mined", [True, False], ids=["mined", "waiting"])
@pytest.mark.parametrize("moment", CUTS, ids=lambda moment: "-".join(moment))
async def test_whatever_is_cut_off_where_it_is_sent_once(
    make_world: Make, moment: tuple[str, str], mined: bool
) -> None:
    """Whoever planned it executes it again after the restart, and joins what is outstanding."""
    world = await make_world(start=False)
    await world.start(run=False)
    outbox = world.gateway.outbox
    world.miner.auto = mined

    async def cut(*_: Any) -> None:
        raise Crash

    getattr(world.layer, f"once_{moment[0]}")(moment[1], cut)
    orders = [gift(world, value, key.address) for value, key in enumerate((*world.keys.lanes, *world.keys.lanes), 1)]
    if not mined and moment == ("after", "nonces"):
        world.layer.after["nonces"].insert(0, lambda *_: asyncio.sleep(0))  # the one that finds it waiting
    with pytest.raises(Crash):
        await outbox.execute_all(orders)
    await world.crash()
    world.layer.before.clear()
    world.layer.after.clear()
    signed = [record for records in journaled(world, TransactionSigned) for record in records]
    sent = [record for record in signed if record.purpose.startswith("gift")]
    assert len(sent) in (0, 4)
    world.miner.auto = True
    await world.start()
    if sent:
        await until(lambda: not world.ledger.transactions)
    else:
        await world.gateway.outbox.execute_all(orders)
    assert await given(world) == 10
    assert [world.miner.chain.nonce(key.address) for key in world.keys.lanes] == [2, 2]
    gifts = [record for records in journaled(world, TransactionSigned) for record in records]
    assert len([record for record in gifts if record.purpose.startswith("gift")]) == 4


async def test_what_is_outstanding_is_joined_after_a_restart(world: World) -> None:
    world.miner.auto = False
    waiting = asyncio.create_task(world.gateway.outbox.execute(*gift(world, 5)))
    await until(lambda: bool(world.miner.chain.pending_count))
    waiting.cancel()
    await world.crash()
    await world.start()
    again = asyncio.create_task(world.gateway.outbox.execute(*gift(world, 5)))
    other = asyncio.create_task(world.gateway.outbox.execute(*gift(world, 6)))
    await until(lambda: world.miner.chain.pending_count == 2)
    world.mine()
    assert isinstance(await again, TxReceipt)
    assert isinstance(await other, TxReceipt)
    assert await given(world) == 11


async def test_a_replacement_is_journaled_and_survives_a_restart(world: World) -> None:
    clock = set_clock(world)
    world.miner.auto = False
    waiting = asyncio.create_task(world.gateway.outbox.execute(*gift(world, 5)))
    await until(lambda: bool(world.miner.chain.pending_count))
    suggest(world, 1_000)
    clock.now += world.config.chain.replace_after_s
    (entry,) = world.gateway.outbox.stream(world.keys.operator.address)
    await until(lambda: len(entry.variants) == 2 and entry.held and not entry.sending)
    assert {record.nonce for record in world.ledger.transactions.values()} == {0}
    waiting.cancel()
    await world.crash()
    await world.start()
    (entry,) = world.gateway.outbox.stream(world.keys.operator.address)
    assert [variant.tx_hash for variant in entry.variants] == list(world.ledger.transactions)
    world.mine()
    await until(lambda: entry.receipt is not None)
    assert entry.receipt is not None
    assert not world.ledger.transactions
    assert entry.receipt.tx_hash == entry.variants[1].tx_hash
    assert [len(records) for records in journaled(world, TransactionMined)][-1:] == [1]
    assert await given(world) == 5
    assert world.miner.chain.nonce(world.keys.operator.address) == 1


async def test_the_configured_ceiling_holds(make_world: Make) -> None:
    world = await make_world()
    clock = set_clock(world)
    world.miner.auto = False
    suggest(world, 5_000 * 10**9)
    waiting = asyncio.create_task(world.gateway.outbox.execute(*gift(world, 5)))
    await until(lambda: bool(world.miner.chain.pending_count))
    (entry,) = world.gateway.outbox.stream(world.keys.operator.address)
    assert entry.newest.fees == Fees(10**12, 10**12), "chain.fee_max_gwei"
    for _ in range(3):
        clock.now += 300
        await until(lambda: bool(world.troubles))
    assert len(world.ledger.transactions) == 1
    assert [text for text in world.troubles if "ceiling" in text]
    world.mine()
    assert isinstance(await waiting, TxReceipt)


async def test_after_a_reorganisation_it_is_sent_and_booked_again(world: World) -> None:
    outbox, operator = world.gateway.outbox, world.keys.operator.address
    world.gateway.watcher._poll_s = 3600.0  # the books are put back by hand here
    await asyncio.sleep(0.05)
    go_back = world.miner.chain.snapshot()
    receipts = await outbox.execute_all([gift(world, 1), gift(world, 2)])
    assert not world.ledger.transactions
    world.miner.auto = False
    world.miner.chain.revert(go_back)
    assert await given(world) == 0
    await world.gateway.books.write(
        [TransactionUnmined(receipt.tx_hash) for receipt in receipts if isinstance(receipt, TxReceipt)]
    )
    assert len(world.ledger.transactions) == 2
    outbox.resend()
    await until(lambda: world.miner.chain.pending_count == 2)
    third = asyncio.create_task(outbox.execute(*gift(world, 4)))
    await until(lambda: world.miner.chain.pending_count == 3)
    world.mine()
    assert isinstance(await third, TxReceipt)
    await until(lambda: not world.ledger.transactions)
    assert await given(world) == 7
    assert world.miner.chain.nonce(operator) == 3
    await world.gateway.books.journal.durable()
    gas = sum(record.gas_used for records in journaled(world, TransactionMined) for record in records)
    assert world.ledger.totals.gas_used == gas - 2 * 21_000, "what was undone is not counted twice"


async def test_a_restored_journal_may_name_what_was_replaced(make_world: Make, tmp_path: Path) -> None:
    """The backup was taken before the replacement; the replacement was mined."""
    world = await make_world()
    world.miner.auto = False
    waiting = asyncio.create_task(world.gateway.outbox.execute(*gift(world, 5)))
    await until(lambda: bool(world.miner.chain.pending_count))
    await world.stop()
    waiting.cancel()
    shutil.copytree(world.config.data_dir, tmp_path / "backup")
    await world.start()
    clock = set_clock(world)
    suggest(world, 1_000)
    clock.now += 2_000
    (entry,) = world.gateway.outbox.stream(world.keys.operator.address)
    await until(lambda: len(entry.variants) == 2 and entry.held and not entry.sending)
    world.mine()
    await until(lambda: not world.ledger.transactions)
    await world.stop()
    shutil.rmtree(world.config.data_dir)
    shutil.copytree(tmp_path / "backup", world.config.data_dir)
    await world.start()
    assert len(world.ledger.transactions) == 1
    clock = set_clock(world)
    (entry,) = world.gateway.outbox.stream(world.keys.operator.address)
    await until(lambda: entry.passed_at is not None)
    clock.now += 2_000
    await until(lambda: entry.lost)
    assert not world.ledger.transactions
    assert [len(records) for records in journaled(world, TransactionLost)] == [1]
    assert [text for text in world.troubles if "given up" in text]
    world.miner.auto = True
    assert isinstance(await world.gateway.outbox.execute(*gift(world, 6)), TxReceipt)
    assert await given(world) == 11
    await world.restart()
    assert not world.ledger.transactions


async def test_it_waits_for_a_chain_that_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.sending._RETRY_S", 0.001)

    async def away(*_: Any) -> None:
        raise ChainUnavailable("the cable is out")

    for method in ("estimate_all", "send_all", "receipts"):
        for _ in range(3):
            world.layer.once_before(method, away)
    assert isinstance(await world.gateway.outbox.execute(*gift(world, 5)), TxReceipt)
    assert world.troubles.count("the cable is out") == 3
    assert await given(world) == 5


async def test_one_key_without_coins_holds_up_no_other(make_world: Make) -> None:
    """What it has signed stays outstanding, and is mined when coins arrive."""
    world = await make_world(start=False)
    poor = world.keys.lanes[1].address
    await world.start(run=False)
    coins = world.miner.chain.balance(poor)
    drain = Call(poor, RECEIVER, b"", coins - 30 * 21_000 * 2)
    assert isinstance(await world.gateway.outbox.execute(drain, "drain"), TxReceipt)
    before = await given(world)
    suggest(world, 10**9)
    outcomes = await world.gateway.outbox.execute_all([gift(world, 1, poor), gift(world, 2)])
    assert isinstance(outcomes[0], ChainRefused)
    assert isinstance(outcomes[1], TxReceipt)
    assert [record.purpose for record in world.ledger.transactions.values()] == ["gift 1"]
    assert isinstance((await world.gateway.outbox.execute_all([gift(world, 3, poor)]))[0], ChainRefused)
    world.run()
    await world.transact(world.stranger_key, poor, b"", value=COIN // 2)
    await until(lambda: not world.ledger.transactions)
    assert await given(world) == before + 3


async def test_strange_records_are_damage(make_world: Make) -> None:
    world = await make_world(start=False)
    await world.start(run=False)
    strange = TransactionSigned(bytes(32), world.keys.operator.address, 3, "gift", b"\x02\xc0")
    await world.gateway.books.write([strange])
    with pytest.raises(JournalFault, match="not one of ours"):
        world.gateway.outbox.resend()
    await world.crash()


async def test_a_next_nonce_far_too_high_is_not_filled_up_to(world: World) -> None:
    """The node says for one lane, at its first transaction, that thousands were mined."""
    payer = await world.opened()
    await world.pay(payer, 1_000)
    lane = world.channel(payer).config.receiver
    inner, left = world.layer._inner, [2]  # it is asked twice
    honest = inner.nonces

    async def lying(addresses: Sequence[Address]) -> list[int]:
        if list(addresses) == [lane] and left[0]:
            left[0] -= 1
            return [2_000]
        return await honest(addresses)

    inner.nonces = lying  # type: ignore[method-assign]
    await world.gateway.settler.settle()
    assert world.channel(payer).claimed == payer.charged
    assert any("names 2000 as the next nonce" in trouble for trouble in world.troubles)
    (used,) = await honest([lane])
    assert used == world.gateway.outbox.stream(lane).next_nonce == 3, "claim, settle, sweep"


async def two_lanes(world: World) -> tuple[Payer, Payer]:
    """Return two payers of different lanes."""
    one = await world.opened("meter-1")
    for number in range(2, 9):
        other = await world.opened(f"meter-{number}")
        if other.config.receiver != one.config.receiver:
            return one, other
    raise AssertionError("all are of one lane")


async def test_a_key_in_doubt_holds_up_no_other_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane's key was used by an earlier journal, and what it sent still changes: the other lane claims."""
    monkeypatch.setattr("gateway.sending._RETRY_S", 0.05)
    one, other = await two_lanes(world)
    for payer in (one, other):
        await world.pay(payer, 1_000)
    inner, lane, used = world.layer._inner, one.config.receiver, count(100)
    honest = inner.nonces

    async def many(addresses: Sequence[Address]) -> list[int]:
        said = zip(addresses, await honest(addresses), strict=True)
        return [next(used) if address == lane else each for address, each in said]

    inner.nonces = many  # type: ignore[method-assign]
    cycle = asyncio.ensure_future(world.gateway.settler.settle())
    await until(lambda: world.channel(other).claimed == other.charged)
    assert world.channel(one).claimed == 0
    inner.nonces = honest  # type: ignore[method-assign]
    await cycle
    assert world.channel(one).claimed == one.charged
    claims = [each.purpose for commit in journaled(world, TransactionSigned) for each in commit]
    assert claims.count("claim 1") == 2, "neither was signed twice"


async def test_a_key_whose_transaction_may_be_lost_holds_up_no_other_key(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one lane sends is answered "timed out", again and again; what another sends beside it is signed and sent."""
    monkeypatch.setattr("gateway.sending._RETRY_S", 0.05)
    stuck, free = world.keys.lanes[0].address, world.keys.lanes[1].address
    inner = world.layer._inner
    honest = inner.send_all

    async def some(raws: Sequence[bytes]) -> list[Any]:
        return [
            ChainUnavailable("request timed out") if read_transaction(raw).value in (1, 2) else (await honest([raw]))[0]
            for raw in raws
        ]

    inner.send_all = some  # type: ignore[method-assign]
    (entry,) = await world.gateway.outbox.send_all([gift(world, 1, stuck)])
    assert isinstance(entry, Outstanding)
    await until(lambda: not entry.sending)
    refused, sent = await world.gateway.outbox.send_all([gift(world, 2, stuck), gift(world, 4, free)])
    assert isinstance(refused, ChainRefused)
    assert "gift 1, sent before, is outstanding" in str(refused)
    assert isinstance(sent, Outstanding)
    both = asyncio.ensure_future(world.gateway.outbox.execute_all([gift(world, 8, stuck), gift(world, 16, free)]))
    await until(lambda: any(each.transaction.purpose == "gift 16" for each in world.ledger.mined.values()))
    inner.send_all = honest  # type: ignore[method-assign]
    assert all(isinstance(each, TxReceipt) for each in await both)
    assert await given(world) == 1 + 4 + 8 + 16
