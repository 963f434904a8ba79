"""What a reorganisation may drop, as scenes for any world: what was there before is there again, or is rightly gone."""

from collections.abc import Awaitable, Callable
from typing import Any

from channels.refusals import Refusal
from channels.state import Phase
from channels.types import SETTLEMENT_ADDRESS
from gateway.records import ChainReverted, Record, RefundSigned
from settlement import calls
from tests.support.gateway_devices import Payer, to_json
from tests.support.gateway_world import states, until
from tests.support.reorg_world import ForkWorld

Scene = Callable[[ForkWorld], Awaitable[None]]


async def opened(world: ForkWorld, device: str = "meter-1") -> Payer:
    """Open a channel; its deposit becomes final."""
    async with world.ticking():
        return await world.opened(device)


async def settled(world: ForkWorld) -> Any:
    """Run a settlement cycle to its end."""
    async with world.ticking():
        return await world.gateway.settler.settle(whatever_it_costs=True)


async def back(world: ForkWorld, times: int = 1) -> None:
    """Wait until the reorganisation was noticed, and all own transactions are on the chain again."""
    await until(lambda: world.ledger.totals.reorgs == times or not world.running)
    async with world.ticking():
        await until(lambda: not (world.ledger.transactions or world.ledger.cycles) or not world.running)
    assert world.running
    await world.deep()


async def whole(world: ForkWorld) -> None:
    """The books are conserved to the unit, now and after a crash; a replay leads to the same states."""
    await world.deep()
    async with world.ticking():  # what a cycle of the gateway's own accord may have begun
        await until(lambda: not (world.ledger.transactions or world.ledger.cycles) or not world.running)
    await world.deep()
    assert await world.faults() == []
    before = states(world.ledger)
    await world.crash()
    await world.begin()
    after = states(world.ledger)
    for kind in ("channel", "account", "party", "foreign", "transaction", "mined", "reorg", "undo", "sums-before"):
        assert after[kind] == before[kind], kind
    assert await world.faults() == []


async def a_deposit(world: ForkWorld) -> None:
    """A stranger's deposit is dropped: the money is not there, and readings that need it are refused."""
    payer = await opened(world)
    kept = world.keep()
    await world.deposit(payer.config, 700_000, payer.authorization(700_000, 9))
    await world.deep()
    assert world.channel(payer).balance == 5_700_000
    await world.pay(payer, 100, ahead=5_600_000 - 15_000)
    world.drop()
    await back(world)
    channel = world.channel(payer)
    assert (channel.phase, channel.balance, channel.charged) == (Phase.OPEN, 5_000_000, 15_000)
    answer = await world.ask(payer.device, "usage", to_json(payer.usage(1, ahead=5_000_000)))
    assert answer.reason is Refusal.CEILING_ABOVE_BALANCE
    (reorg,) = world.ledger.reorgs.values()
    assert (reorg.channels, reorg.transactions) == (1, 0)
    assert reorg.to_block <= kept
    await world.deposit(payer.config, 700_000, payer.authorization(700_000, 9))
    await world.deep()
    assert world.channel(payer).balance == 5_700_000
    await world.pay(payer)
    await whole(world)


async def the_opening(world: ForkWorld) -> None:
    """The only deposit of a channel is dropped: it stays open without money until the gateway has sent it again."""
    world.keep()
    payer = await opened(world)
    await world.pay(payer, 100)
    world.drop()
    await until(lambda: world.ledger.totals.reorgs == 1 or not world.running)
    await back(world)
    channel = world.channel(payer)
    assert (channel.phase, channel.balance, channel.charged, channel.ceiling) == (Phase.OPEN, 5_000_000, 15_000, 15_000)
    await world.pay(payer)
    await whole(world)


async def a_claim(world: ForkWorld) -> None:
    """A whole cycle is dropped: its transactions are sent again, and nothing is claimed or netted twice."""
    payer = await opened(world)
    await world.pay(payer, 1_000)
    world.keep()
    ended = await settled(world)
    assert ended.claimed == 150_000
    before = (world.channel(payer).claimed, world.ledger.totals.settled)
    assert before == (150_000, 150_000)
    world.drop()
    await back(world)
    channel = world.channel(payer)
    assert (channel.claimed, world.ledger.totals.settled) == before
    assert (channel.committed, channel.owed, channel.offset) == (150_000, 150_000, 0)
    (reorg,) = world.ledger.reorgs.values()
    assert (reorg.channels, reorg.settled) == (1, 150_000)
    assert reorg.transactions >= 2
    assert await settled(world) is None
    await whole(world)


async def a_payout(world: ForkWorld) -> None:
    """A payout is dropped: the payee has it again without a second one being signed."""
    await opened(world)
    async with world.ticking():
        earner = await world.joined()
    await world.earn(earner, 1_000)
    world.keep()
    ended = await settled(world)
    due = world.account(earner).net
    payee = world.account(earner).payee
    assert ended.paid == due > 0
    world.drop()
    await until(lambda: world.ledger.totals.reorgs == 1 or not world.running)
    await back(world)
    await until(lambda: world.ledger.party(payee).paid == due or not world.running)
    assert world.ledger.party(payee).signed == due
    assert await world.balance(payee) == due
    assert await settled(world) is None
    await whole(world)


async def a_withdrawal(world: ForkWorld) -> None:
    """A withdrawal is dropped at its beginning: all the money is usable again. Then at its end: it is pending again."""
    payer = await opened(world)
    world.keep()
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 4_000_000))
    await world.deep()
    channel = world.channel(payer)
    assert (channel.phase, channel.usable_balance) == (Phase.WITHDRAWING, 1_000_000)
    assert channel.finalize_after > world.gateway.watcher.chain_time
    world.drop()
    await back(world)
    channel = world.channel(payer)
    assert (channel.phase, channel.usable_balance, channel.finalize_after) == (Phase.OPEN, 5_000_000, 0)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 3_000_000))
    world.mine(901)
    await world.deep()
    pending = world.channel(payer)
    world.keep()
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))
    await world.deep()
    channel = world.channel(payer)
    assert (channel.phase, channel.balance, channel.withdrawn) == (Phase.OPEN, 2_000_000, 3_000_000)
    world.drop()
    await back(world, 2)
    assert world.channel(payer) == pending
    assert pending.phase is Phase.WITHDRAWING
    await world.pay(payer)
    await whole(world)


async def a_closing(world: ForkWorld) -> None:
    """The final claim and refund are dropped: the channel closes once more, and is not refunded twice."""
    payer = await opened(world)
    await world.pay(payer, 1_000)
    await world.deep()
    world.keep()
    async with world.ticking():
        receipt = await world.ask(payer.device, "close", to_json(payer.close()))
    assert (receipt.reason, receipt.refunded) == (None, 4_850_000)
    assert world.channel(payer).phase is Phase.CLOSED
    world.drop()
    await until(lambda: world.ledger.totals.reorgs == 1 or not world.running)
    async with world.ticking():
        await until(lambda: world.channel(payer).phase is Phase.CLOSED or not world.running)
    await back(world)
    channel = world.channel(payer)
    assert (channel.phase, channel.balance, channel.claimed) == (Phase.CLOSED, 150_000, 150_000)
    assert channel.refunded == 4_850_000
    assert (await world.view(payer.id)).balance == 150_000
    (signed,) = [record for record in records(world) if isinstance(record, RefundSigned)]
    assert signed.amount == 4_850_000
    await whole(world)


SCENES: dict[str, Scene] = {
    "closing": a_closing,
    "deposit": a_deposit,
    "opening": the_opening,
    "claim": a_claim,
    "payout": a_payout,
    "withdrawal": a_withdrawal,
}


def records(world: ForkWorld) -> list[Record]:
    """Return everything in the journal."""
    journal = world.gateway.books.journal
    return [record for number in range(1, journal.number + 1) for record in journal.records(number)]


def reverts(world: ForkWorld) -> list[ChainReverted]:
    """Return every reorganisation in the journal."""
    return [record for record in records(world) if isinstance(record, ChainReverted)]
