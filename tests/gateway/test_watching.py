"""The watcher over a model chain, case by case: what it notices, when, and what it says to whom."""

import asyncio
import random
from collections.abc import AsyncIterator, ItemsView, Iterator, KeysView, Sequence, ValuesView
from pathlib import Path
from typing import Any

import cbor2
import pytest
from msgspec.structs import replace

from channels.machine import Contradiction
from channels.state import Channel, ContractReceiveWithdrawInitiated, Phase
from gateway import records as r
from gateway.chain_effects import REORG_BLOCKS_MAX, differences
from gateway.entries import Totals
from gateway.errors import JournalFault
from gateway.ledger import Ledger
from gateway.reorgs import known_blocks, read_reverted
from gateway.tables import Table
from settlement.errors import ChainMisbehaved, ChainUnavailable
from tests.support.gateway_records import KEYS
from tests.support.gateway_world import until
from tests.support.model_chain import ModelChain, State
from tests.support.reorg_life import FOUNDED, GAS, ReorgLife

LANE = KEYS.lanes[0].address


@pytest.fixture
async def life(tmp_path: Path) -> AsyncIterator[ReorgLife]:
    """Books over a chain without confirmations, with one channel in it."""
    made = await begin(tmp_path, 0)
    yield made
    await made.close()


@pytest.fixture
async def late(tmp_path: Path) -> AsyncIterator[ReorgLife]:
    """The same with two confirmations."""
    made = await begin(tmp_path, 2)
    yield made
    await made.close()


async def begin(path: Path, confirmations: int) -> ReorgLife:
    """Found the books and take up a channel with 1,000 in it."""
    life = ReorgLife(path / "journal.sqlite", 1, confirmations)
    await life.found()
    identifier = life.announce()
    life.chain.act(identifier, "deposit", 1_000)
    await deep(life)
    assert await life.bind(identifier)
    assert life.only.balance == 1_000
    return life


async def deep(life: ReorgLife) -> None:
    """Make what is pending final, and look."""
    for _ in range(life.confirmations + 1):
        life.chain.mine()
    await life.watcher.step()


def kinds(life: ReorgLife) -> list[str]:
    """Return the names of all records."""
    return [type(record).__name__ for record in life.records()]


# -- withdrawals at first sight --


async def test_a_withdrawal_counts_before_it_is_final(late: ReorgLife) -> None:
    late.chain.act(late.only.id, "initiate_withdraw", 700)
    await late.watcher.step()
    assert late.only.usable_balance == 1_000, "it is in no block yet"
    late.chain.mine()
    await late.watcher.step()
    channel = late.only
    assert (channel.phase, channel.withdrawing, channel.foreseen, channel.usable_balance) == (Phase.OPEN, 0, 700, 300)
    assert channel.finalize_after == late.chain.pending.channels[channel.id].ends
    assert late.withdrawals == [channel.id]
    await late.watcher.step()
    assert kinds(late).count("WithdrawalForeseen") == 1, "once is enough"
    await deep(late)
    channel = late.only
    assert (channel.phase, channel.withdrawing, channel.foreseen) == (Phase.WITHDRAWING, 700, 0)
    assert late.withdrawals == [channel.id], "it was told at first sight"
    late.check()


class Unwalked(Table[Channel]):
    """Channels that are asked for one by one, and never looked through."""

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("somebody looks through all channels")

    def keys(self) -> KeysView[bytes]:
        return KeysView(self)

    def values(self) -> ValuesView[Channel]:
        return ValuesView(self)

    def items(self) -> ItemsView[bytes, Channel]:
        return ItemsView(self)


async def test_a_block_costs_the_same_with_many_channels(late: ReorgLife) -> None:
    """There is one every second or more often, and receipts wait meanwhile."""
    stranger = late.announce()
    late.books.ledger.channels.__class__ = Unwalked
    with pytest.raises(AssertionError, match="looks through"):
        late.only  # noqa: B018  # it does that
    late.chain.act(stranger, "deposit", 1_000)
    late.chain.act(stranger, "initiate_withdraw", 700)
    for _ in range(4):
        late.chain.mine()
        await late.watcher.step()
    late.books.ledger.channels.__class__ = Table


async def test_a_cancelled_step_books_nothing_twice(life: ReorgLife) -> None:
    """Cash has no place in the chain by which a second look would know it."""
    write, before = life.books.write, life.books.ledger.totals.received

    def hanging(records: Sequence[r.Record]) -> "asyncio.Future[None]":
        write(records)
        return asyncio.get_running_loop().create_future()

    life.chain.give(LANE, 500)
    life.chain.mine()
    life.books.write = hanging  # type: ignore[method-assign]
    step = asyncio.create_task(life.watcher.step())
    await until(lambda: life.books.ledger.totals.received == before + 500)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    life.books.write = write  # type: ignore[method-assign]
    life.chain.give(LANE, 30)
    life.chain.mine()
    await life.watcher.step()
    assert life.books.ledger.totals.received == before + 530
    assert life.watcher.block == life.watcher.applied == life.chain.tip


async def test_without_confirmations_first_sight_is_the_event(life: ReorgLife) -> None:
    life.chain.act(life.only.id, "initiate_withdraw", 700)
    life.chain.mine()
    await life.watcher.step()
    assert (life.only.withdrawing, life.only.foreseen) == (700, 0)
    assert life.withdrawals == [life.only.id]


async def test_a_foreseen_withdrawal_that_is_dropped_is_forgotten(late: ReorgLife) -> None:
    before = late.only
    late.chain.act(late.only.id, "initiate_withdraw", 700)
    late.chain.mine()
    await late.watcher.step()
    late.chain.drop(1)
    late.chain.mine()
    await late.watcher.step()
    assert late.only == before
    assert "ChainReverted" not in kinds(late), "nothing that was final is gone"


@pytest.mark.parametrize(
    ("final", "zone", "foreseen"),
    [
        ((), ("deposit 500", "initiate_withdraw 1200"), 1_200),  # the deposit may go and the withdrawal stay
        ((), ("initiate_withdraw 200", "refund 50"), 200),
        ((), ("refund 50",), 0),
        (("initiate_withdraw 300",), ("finalize_withdraw",), 0),  # it takes what was counted already
        (("initiate_withdraw 300",), ("finalize_withdraw", "initiate_withdraw 100"), 400),
        (("initiate_withdraw 300",), ("refund 100",), 0),
        (("initiate_withdraw 300",), ("refund 300", "initiate_withdraw 100"), 400),
    ],
)
async def test_what_is_foreseen(late: ReorgLife, final: tuple[str, ...], zone: tuple[str, ...], foreseen: int) -> None:
    late.act_all(*final)
    await deep(late)
    late.act_all(*zone)
    late.chain.mine()
    await late.watcher.step()
    channel = late.only
    assert channel.foreseen == foreseen
    contract = late.chain.pending.channels[channel.id]
    if zone != ("refund 50",):  # which is our own doing
        assert channel.usable_balance <= contract.balance - contract.withdrawable()
    await deep(late)
    assert late.only.foreseen == 0
    late.check()


async def test_a_second_withdrawal_is_told_as_well(late: ReorgLife) -> None:
    late.act_all("initiate_withdraw 300")
    await deep(late)
    late.act_all("finalize_withdraw", "initiate_withdraw 500")
    late.chain.mine()
    await late.watcher.step()
    assert late.withdrawals == [late.only.id] * 2
    assert late.only.usable_balance == 200


async def test_fewer_confirmations_than_before_leave_nothing_foreseen(late: ReorgLife) -> None:
    late.act_all("initiate_withdraw 300")
    late.chain.mine()
    await late.watcher.step()
    assert late.only.foreseen == 300
    late.confirmations = 0
    await late.crash()
    await late.watcher.step()
    assert (late.only.foreseen, late.only.withdrawing) == (0, 300)


async def test_a_channel_taken_up_late_sees_what_is_under_way(late: ReorgLife) -> None:
    """Its payer's withdrawal is behind the last final block when it is taken up; no new block comes."""
    identifier = late.announce()
    late.chain.act(identifier, "deposit", 1_000)
    await deep(late)
    late.chain.act(identifier, "initiate_withdraw", 600)
    late.chain.mine()
    await late.watcher.step()
    assert await late.bind(identifier)
    await late.watcher.step()
    assert late.books.ledger.channels[identifier].usable_balance == 400
    assert late.withdrawals == [identifier]


async def test_after_a_restart_pending_withdrawals_are_told_again(late: ReorgLife) -> None:
    late.act_all("initiate_withdraw 300")
    late.chain.mine()
    await late.watcher.step()
    await late.crash()
    late.withdrawals.clear()
    running = asyncio.create_task(late.watcher.run(lambda text: None))
    await until(lambda: bool(late.withdrawals))
    running.cancel()
    assert late.withdrawals == [late.only.id]


# -- how far back --


async def test_nothing_of_ours_is_gone(life: ReorgLife) -> None:
    """Empty blocks are replaced by empty blocks: nobody has to be told."""
    await deep(life)
    records = kinds(life)
    for depth in (1, 3):
        for _ in range(5):
            life.chain.mine()
        await life.watcher.step()
        life.chain.drop(depth)
        for _ in range(depth + 1):
            life.chain.mine()
        await life.watcher.step()
        assert life.watcher.block == life.chain.tip
    assert kinds(life) == records


async def test_it_goes_back_no_further_than_needed(life: ReorgLife) -> None:
    life.act_all("deposit 10")
    await deep(life)
    for _ in range(7):  # quiet blocks, of which the journal has none
        await deep(life)
    fork = life.chain.tip
    life.act_all("deposit 20")
    await deep(life)
    life.chain.drop(1)
    life.chain.mine()
    await life.watcher.step()
    (reverted,) = [record for record in life.records() if isinstance(record, r.ChainReverted)]
    assert (reverted.number, reverted.was) == (fork, fork + 1)
    assert life.only.balance == 1_010
    (shown,) = life.books.ledger.reorgs.values()
    assert (shown.from_block, shown.to_block, shown.channels, shown.missed) == (fork + 1, fork, 1, False)


async def test_after_a_restart_it_goes_back_as_far(life: ReorgLife) -> None:
    """The block before the one with something of ours was written down with it."""
    for _ in range(30):
        await deep(life)
    fork = life.chain.tip
    life.act_all("deposit 20")
    await deep(life)
    await life.close()
    life.chain.drop(1)
    life.chain.mine()
    life.chain.mine()
    life.reopen()
    await life.watcher.recognise()
    assert life.watcher.block == fork
    assert life.only.balance == 1_000
    await life.watcher.step()
    life.check()


async def test_the_deepest_reorganisation_that_can_be_taken_back(life: ReorgLife) -> None:
    for number in range(3 * REORG_BLOCKS_MAX // 2):
        if number % 3 == 0:
            life.act_all("deposit 1")
        await deep(life)
    ledger = life.books.ledger
    assert len(ledger.marks) <= REORG_BLOCKS_MAX + 2
    assert len(ledger.undo) <= REORG_BLOCKS_MAX
    balance = life.only.balance
    life.chain.drop(REORG_BLOCKS_MAX)
    while life.chain.tip <= life.watcher.block:
        life.chain.mine()
    await life.watcher.step()
    life.check()
    gone = range(REORG_BLOCKS_MAX // 2, 3 * REORG_BLOCKS_MAX // 2)
    assert balance - life.only.balance == sum(number % 3 == 0 for number in gone)
    await life.crash()
    life.check()


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_deeper_one_is_a_fault(life: ReorgLife, restarted: bool) -> None:
    for _ in range(2 * REORG_BLOCKS_MAX):
        life.act_all("deposit 1")
        await deep(life)
    life.chain.drop(REORG_BLOCKS_MAX + 5)
    while life.chain.tip <= life.watcher.block:
        life.chain.mine()
    if restarted:
        await life.close()
        life.reopen()
    with pytest.raises(ChainMisbehaved, match="replaced more blocks than can be taken back"):
        await (life.watcher.recognise if restarted else life.watcher.step)()
    assert "ChainReverted" not in kinds(life)


async def test_below_the_founding_block_is_a_fault(life: ReorgLife) -> None:
    life.chain.drop(life.chain.tip - FOUNDED + 1)
    while life.chain.tip <= life.watcher.block:
        life.chain.mine()
    with pytest.raises(ChainMisbehaved, match=f"from block {FOUNDED} on: it was reset"):
        await life.watcher.step()


async def test_another_chain_is_a_fault(life: ReorgLife) -> None:
    other = ModelChain(State())
    while other.tip <= life.chain.tip:
        other.made += 100
        other.mine()
    life.chain.blocks = other.blocks
    with pytest.raises(ChainMisbehaved, match="it is another chain"):
        await life.watcher.step()


async def test_a_chain_that_is_only_shorter_is_waited_for(life: ReorgLife, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that lags: it has nothing that contradicts what was seen, so nothing is taken back."""
    life.act_all("deposit 5")
    await deep(life)
    kept = life.chain.blocks
    head = life.watcher.head
    life.chain.blocks = kept[:-2]
    for _ in range(3):
        await life.watcher.step()
    assert life.watcher.head == head, "an older block is no news"
    monkeypatch.setattr("gateway.heads.LAG_S", -1.0)
    with pytest.raises(ChainUnavailable, match=r"the node lags"):
        await life.watcher.step()
    assert life.only.balance == 1_005
    await life.close()
    life.reopen()
    with pytest.raises(ChainUnavailable, match=r"it has no block \d+, and nothing else in its place"):
        await life.watcher.recognise()
    life.chain.blocks = kept
    await life.watcher.recognise()
    await life.watcher.step()
    assert life.only.balance == 1_005
    assert "ChainReverted" not in kinds(life)


async def test_a_node_that_lags_now_and_then(late: ReorgLife) -> None:
    """Behind a balancer every answer may come from another node: none of that is a reorganisation."""
    late.chain.laggard = random.Random(5)
    for number in range(40):
        if number % 5 == 0:
            late.act_all("deposit 1")
        if number == 20:
            late.act_all("initiate_withdraw 300")
        late.chain.mine()
        await late._asking(late.watcher.step)
    late.chain.laggard = None
    await deep(late)
    late.check()
    assert "ChainReverted" not in kinds(late)
    assert [type(record).__name__ for record in late.records()].count("WithdrawalForeseen") == 2, (
        "once there, once final"
    )
    assert late.withdrawals == [late.only.id]


async def test_a_shorter_chain_that_is_another_one_is_followed_at_once(life: ReorgLife) -> None:
    await deep(life)
    life.act_all("deposit 5")
    await deep(life)
    await deep(life)
    life.chain.drop(3)
    life.chain.mine()
    assert life.chain.tip < life.watcher.block
    await life.watcher.step()
    assert life.only.balance == 1_000
    life.check()


async def test_blocks_that_are_replaced_all_the_time_are_left_for_later(life: ReorgLife) -> None:
    async def churn() -> None:
        life.chain.drop(1)
        life.chain.mine()

    life.chain.mine()
    life.chain.chaos = churn
    with pytest.raises(ChainUnavailable, match="last blocks cannot be read: "):
        await life.watcher.step()
    life.chain.chaos = None
    await life.watcher.step()
    life.check()


async def test_a_chain_that_contradicts_what_is_kept_is_a_fault(life: ReorgLife) -> None:
    """At a block that is still there a channel has another balance than it had."""
    life.act_all("deposit 5")
    await deep(life)
    life.chain.drop(1)
    life.chain.blocks[-1].state.channels[life.only.id].balance += 1
    life.chain.mine()
    life.chain.mine()
    with pytest.raises(ChainMisbehaved, match="is not what it was: channel 0x"):
        await life.watcher.step()


# -- own transactions --


async def test_a_transaction_in_a_block_that_is_gone_before_it_was_read(life: ReorgLife) -> None:
    """Booked in block n; another block n comes before the watcher is there: no event of ours tells."""
    told: list[int] = []
    life.watcher.on_reverted = lambda: told.append(1)
    await life._sign("claim", LANE, [])
    tx_hash = next(iter(life.mempool))
    life.chain.pending.mined[tx_hash] = len(life.chain.blocks)
    life.chain.mine()
    await life.book()
    assert tx_hash in life.books.ledger.mined
    life.chain.drop(1)
    life.chain.mine()
    await life.watcher.step()
    assert tx_hash in life.books.ledger.transactions
    assert life.books.ledger.totals.gas_used == 0
    assert told == [1]
    assert kinds(life)[-1] == "TransactionUnmined"
    life.chain.pending.mined[tx_hash] = len(life.chain.blocks)
    life.chain.mine()
    await life.book()
    await life.watcher.step()
    assert life.books.ledger.totals.gas_used == GAS
    assert not life.books.ledger.transactions
    await life.crash()
    await life.watcher.step()
    assert life.books.ledger.totals.gas_used == GAS


async def test_every_variant_of_a_transaction_is_outstanding_again(life: ReorgLife) -> None:
    """Replaced ones may be what the other blocks hold."""
    ledger = life.books.ledger
    variants = [r.TransactionSigned(bytes([n]) * 32, LANE, 7, "claim 1", bytes([n])) for n in (1, 2, 3)]
    await life.books.write([*variants, r.TransactionSigned(b"\x09" * 32, LANE, 8, "claim 1", b"other")])
    assert ledger.nonces[LANE] == 9
    life.chain.mine()
    block = life.chain.blocks[-1].block
    await life.books.write([r.TransactionMined(variants[1].hash, True, block.number, GAS, 9, block.hash)])
    assert [each.hash for each in ledger.transactions.values()] == [b"\x09" * 32]
    assert [each.hash for each in ledger.mined[variants[1].hash].others] == [variants[0].hash, variants[2].hash]
    life.chain.mine()
    await life.watcher.step()
    life.chain.drop(2)
    for _ in range(3):
        life.chain.mine()
    await life.watcher.step()
    assert {each.hash for each in ledger.transactions.values()} == {each.hash for each in variants} | {b"\x09" * 32}
    assert not ledger.mined
    assert (ledger.totals.gas_used, ledger.totals.gas_fee) == (0, 0)
    (shown,) = ledger.reorgs.values()
    assert (shown.channels, shown.transactions) == (0, 1)
    assert ledger.nonces[LANE] == 9, "a nonce that was used may be used again by these only"


# -- events that a node keeps from us --


async def hide(life: ReorgLife, act: str) -> int:
    """Let something happen that the node does not tell; returns the position of its log."""
    life.act_all(act)
    life.chain.mine()
    (event,) = life.chain.blocks[-1].events
    life.chain.hidden.add(event.position)
    await life.watcher.step()
    return event.position


def later(life: ReorgLife, seconds: int = 60) -> None:
    """Let chain time go on."""
    for _ in range(seconds // 10):
        life.chain.mine()


async def test_a_missed_event_is_noticed_and_read_again(life: ReorgLife) -> None:
    await life.watcher.compare()
    await hide(life, "initiate_withdraw 400")
    await life.watcher.compare()
    assert life.only.usable_balance == 1_000, "it is not time yet"
    later(life)
    await life.watcher.step()
    life.chain.hidden.clear()
    await life.watcher.compare()
    await life.watcher.step()
    await life.watcher.compare()
    assert (life.only.usable_balance, life.only.phase) == (600, Phase.WITHDRAWING)
    assert life.withdrawals == [life.only.id]
    life.check()
    await life.crash()
    life.check()


async def test_one_that_is_missed_twice_is_taken_from_the_view(life: ReorgLife) -> None:
    await life.watcher.compare()
    await hide(life, "deposit 400")
    later(life)
    await life.watcher.step()
    await life.watcher.compare()
    await life.watcher.step()
    assert life.only.balance == 1_000
    await life.watcher.compare()
    assert life.only.balance == 1_400
    await life.crash()
    assert life.only.balance == 1_400


async def test_a_view_to_which_no_events_lead_is_a_fault(life: ReorgLife) -> None:
    """What is claimed was never signed."""
    await life.watcher.compare()
    life.chain.act(life.only.id, "claim", 700, 700)
    life.chain.mine()
    (event,) = life.chain.blocks[-1].events
    life.chain.hidden.add(event.position)
    later(life)
    await life.watcher.step()
    await life.watcher.compare()
    await life.watcher.step()
    with pytest.raises(ChainMisbehaved, match="do not lead to the state that it shows"):
        await life.watcher.compare()


async def test_an_event_that_cannot_follow_shows_that_one_was_missed(life: ReorgLife) -> None:
    """A withdrawal of more than there is, as the deposit before it was not told."""
    await hide(life, "deposit 400")
    life.act_all("initiate_withdraw 1200")
    life.chain.mine()
    life.chain.hidden.clear()
    await life.watcher.step()
    assert (life.only.balance, life.only.usable_balance) == (1_400, 200)
    (reverted,) = [record for record in life.records() if isinstance(record, r.ChainReverted)]
    assert reverted.missed
    (shown,) = life.books.ledger.reorgs.values()
    assert shown.missed
    life.check()


async def test_one_that_never_can_follow_is_a_fault(life: ReorgLife) -> None:
    await hide(life, "deposit 400")
    life.act_all("initiate_withdraw 1200")
    life.chain.mine()
    before = kinds(life)
    with pytest.raises(ChainMisbehaved, match="withdrawal of 1200 with 1000 unclaimed"):
        await life.watcher.step()
    assert set(kinds(life)[len(before) :]) <= {"ChainReverted", "ChainChanged", "ChainSeen"}


async def test_every_channel_has_its_turn(life: ReorgLife, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.comparing.AT_LEAST", 2)
    for _ in range(6):
        identifier = life.announce()
        assert await life.bind(identifier)
    asked: list[list[bytes]] = []
    views = life.chain.channels

    async def channels(ids: list[bytes], block: int | None = None) -> object:
        asked.append(list(ids))
        return await views(ids, block)

    monkeypatch.setattr(life.chain, "channels", channels)
    await life.watcher.compare()
    for _ in range(5):
        later(life)
        await life.watcher.step()
        await life.watcher.compare()
        await life.watcher.compare()
    assert [len(ids) for ids in asked] == [2, 2, 2, 2, 2]
    assert sorted({identifier for ids in asked[:4] for identifier in ids}) == sorted(life.books.ledger.channels)
    # After a long silence all of them: a quarter of the withdrawal delay went by.
    later(life, 230)
    await life.watcher.step()
    await life.watcher.compare()
    assert sorted(asked[-1]) == sorted(life.books.ledger.channels)


async def test_nothing_is_compared_without_channels(tmp_path: Path) -> None:
    life = ReorgLife(tmp_path / "journal.sqlite", 1, 0)
    await life.found()
    await life.watcher.step()
    await life.watcher.compare()
    later(life)
    await life.watcher.step()
    await life.watcher.compare()
    await life.close()


# -- what the journal says --


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"channels": ()}, "other channels were read than were changed"),
        ({"balance": 999}, "balance, claimed, withdrawing are"),
        ({"claimed": 5}, "5 is claimed and less was signed"),
        ({"lanes": ()}, "the lanes were not read"),
        ({"settled": 3}, "was settled to the lanes, kept was"),
        ({"total": 10**6 - 1}, "its own channels' claims exceed its total by 1"),
        ({"paid": ((b"\x01" * 20, 1),)}, "was paid 1, 0 was signed"),
        ({"paid": ((b"\x01" * 20, -1),)}, "was paid -1, 0 was signed"),
    ],
)
async def test_a_record_that_cannot_be_stops_the_books(life: ReorgLife, changed: dict[str, Any], words: str) -> None:
    fork = life.chain.blocks[-1].block
    ledger = life.books.ledger
    life.act_all("deposit 10")
    life.chain.give(LANE, 7)
    await deep(life)
    good = await read_reverted(life.chain, ledger, fork, was=life.watcher.block, at=9)  # type: ignore[arg-type]
    assert good is not None
    assert differences(ledger, good) == []
    row, lane = good.channels[0], good.lanes[0]
    parts = {
        "channels": (replace(row, **{name: changed[name] for name in ("balance", "claimed") if name in changed}),),
        "lanes": (replace(lane, total_settled=lane.total_settled + changed.get("settled", 0)), *good.lanes[1:]),
    }
    if "total" in changed:
        parts["lanes"] = tuple(replace(each, total_claimed=-1) for each in good.lanes)
    parts |= {name: changed[name] for name in ("channels", "lanes", "paid") if name in changed}
    bad = replace(good, **parts)
    assert [text for text in differences(ledger, bad) if words in text], differences(ledger, bad)
    with pytest.raises(Contradiction, match=f"the chain went back to block {fork.number}"):
        await life.books.write([bad])
    with pytest.raises(JournalFault):
        await life.books.write([good])


def test_books_that_kept_no_blocks_yet_know_their_last_one() -> None:
    ledger = Ledger()
    ledger.load("totals", b"", r.encode(Totals(block=7, block_hash=b"\1" * 32, block_time=9)))
    ledger.loaded()
    assert known_blocks(ledger) == {7: b"\1" * 32}
    empty = Ledger()
    empty.loaded()
    assert known_blocks(empty) == {}


def test_records_of_before_are_read() -> None:
    """Fields that were added since have their defaults."""
    mined = ["mined", b"h" * 32, True, 5, 6, 7]
    begun = ["c", b"i" * 32, ["withdraw-initiated", 9, 10]]
    founded = ["founded", "gw1", 1, b"t" * 20, b"p" * 20, b"y" * 20, [], 3, 4, []]
    records = r.decode_records(cbor2.dumps([mined, begun, founded]))
    assert records == [
        r.TransactionMined(b"h" * 32, True, 5, 6, 7, b""),
        r.ChainChanged(b"i" * 32, ContractReceiveWithdrawInitiated(9, 10, 0)),
        r.Founded("gw1", 1, b"t" * 20, b"p" * 20, b"y" * 20, (), 3, 4, (), b"", 0),
    ]
