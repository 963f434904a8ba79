"""Gateways that were away for long, and events that were kept from them, on a node with the states of 128 blocks."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from channels.digests import channel_id, voucher_digest
from channels.signatures import key_address, sign
from channels.state import Phase
from channels.types import SETTLEMENT_ADDRESS
from settlement import calls
from settlement.calls import VoucherClaim
from settlement.errors import ChainUnavailable
from settlement.events import ChainEvent, Deposited, WithdrawFinalized, WithdrawInitiated
from settlement.port import Block
from tests.support.gateway_devices import Payer, to_json
from tests.support.gateway_world import World, until
from tests.support.reorg_world import ForkWorld

Make = Callable[..., Awaitable[World]]
TOY = b"Toy".ljust(20, b"\1")
# A token of which everybody has 1 more at every look: who deposits it needs no money.
TOY_CODE = "0x60003560e01c6370a0823114601957600160005401600055005b60005460005260206000f3"
TOYS = {"0x" + TOY.hex(): {"balance": "0x0", "nonce": "0x1", "code": TOY_CODE}}
HOUR_BLOCKS = 1_200


async def stranger_claims(world: World, payer: Payer) -> None:
    """Let somebody claim on a channel of a token of their own: on a public chain that happens all the time."""
    me = key_address(world.stranger_key)
    config = dataclasses.replace(
        payer.config, payer=me, payer_authorizer=me, receiver=me, receiver_authorizer=me, token=TOY
    )
    identifier = channel_id(config, payer.network)
    await world.transact(world.stranger_key, SETTLEMENT_ADDRESS, calls.deposit(config, 1, TOY, b""))
    signature = sign(voucher_digest(identifier, 1, payer.network), world.stranger_key)
    data = calls.claim([VoucherClaim(config, 1, signature, 1)])
    await world.transact(world.stranger_key, SETTLEMENT_ADDRESS, data)


def hour(world: World) -> None:
    for _ in range(HOUR_BLOCKS):
        world.mine(2)


async def test_an_hour_switched_off(make_world: Make) -> None:
    world = await make_world(extra_alloc=TOYS)
    payer = await world.opened()
    await world.pay(payer)
    await world.crash()
    await stranger_claims(world, payer)
    hour(world)
    await world.give(world.keys.lanes[0].address, 5)
    await world.start()
    assert world.gateway.watcher.block == world.head
    await world.pay(payer)
    assert await world.faults() == []


async def test_a_restart_after_a_quiet_hour(make_world: Make) -> None:
    """The cursor in the journal is far behind, as nothing was worth a record."""
    world = await make_world(extra_alloc=TOYS)
    payer = await world.opened()
    await world.pay(payer)
    await stranger_claims(world, payer)
    for _ in range(24):
        for _ in range(HOUR_BLOCKS // 24):
            world.mine(2)
        await world.seen()
    assert world.gateway.watcher.block == world.head
    await world.crash()
    await world.start()
    assert world.gateway.watcher.block == world.head
    await world.pay(payer)


async def test_an_hour_without_an_uplink(make_world: Make) -> None:
    world = await make_world(extra_alloc=TOYS)
    payer = await world.opened()
    await world.pay(payer)
    away = True

    async def uplink(when: str, method: str) -> None:
        if away and when == "before":
            raise ChainUnavailable("the uplink is down")

    world.layer.every = uplink
    await stranger_claims(world, payer)
    hour(world)
    away = False
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 4_000_000))
    await until(lambda: world.channel(payer).withdrawing == 4_000_000)


async def test_what_strangers_brought_our_lane_is_counted_later(make_world: Make) -> None:
    """Their claims are seen a thousand blocks behind the head; the lane's total is read when it can be."""
    world = await make_world()
    payer = await world.opened()
    other = world.payer("meter-2")
    await world.crash()
    await world.deposit(other.config, 1_000_000, other.authorization(1_000_000))
    signature = sign(voucher_digest(other.id, 700, other.network), other.device_key)
    data = calls.claim([VoucherClaim(other.config, 700, signature, 700)])
    lane = next(key for key in world.keys.lanes if key.address == other.config.receiver)
    await world.transact(lane.private, SETTLEMENT_ADDRESS, data)  # as an earlier journal on these keys would
    hour(world)
    await world.start()
    assert world.ledger.foreign.get(lane.address) == 700
    assert await world.faults() == []
    await world.pay(payer)


async def test_the_last_blocks_were_replaced_while_it_was_switched_off(tmp_path: Path) -> None:
    """Of the block where both chains part no full node has the state any more: what was kept of it stands in."""
    world = ForkWorld(tmp_path / "world")
    await world.begin()
    payer, earner = await world.opened(), await world.joined()
    lane = world.keys.lanes[0].address
    await world.give(lane, 3)
    for _ in range(2):
        await world.pay(payer, 1_000)
        await world.earn(earner, 500)
        world.keep()
        await world.settle()  # its transactions are in the blocks that are replaced
        await world.seen()
    await world.give(lane, 4)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 1_000_000))
    await until(lambda: world.channel(payer).claimed == payer.charged)
    await world.seen()
    received = world.ledger.totals.received
    await world.crash()
    world.drop(more=200)
    await world.start()
    try:
        assert world.ledger.totals.received == received - 4
        assert world.channel(payer).withdrawing == 0
        await world.pay(payer, 10)
        await world.settle()
        await world.seen()
        assert world.channel(payer).claimed == payer.charged
        assert (await world.view(payer.id)).total_claimed == payer.charged
        assert await world.faults() == []
        await world.crash()
        await world.start()
        assert await world.faults() == []
    finally:
        await world.crash()


# -- events that a node leaves out --


def leaves_out(world: World, *kinds: type[ChainEvent], always: bool = False) -> list[ChainEvent]:
    """Let the node keep the first event of each of these kinds to itself, once or always; returns what it kept."""
    inner = world.layer._inner
    truth = inner.events
    kept: list[ChainEvent] = []

    async def events(first: int, last: int, block_hash: bytes | None = None) -> list[ChainEvent]:
        found = []
        for event in await truth(first, last, block_hash):
            if isinstance(event, kinds) and type(event) not in map(type, kept):
                kept.append(event)
            elif not (always and event in kept):
                found.append(event)
        return found

    inner.events = events  # type: ignore[method-assign, assignment]
    return kept


def tells_all(world: World) -> None:
    """Let the node keep nothing to itself: the proof counts what is on the chain by its events."""
    del world.layer._inner.events


async def pass_blocks(world: World, blocks: int, seconds: int) -> None:
    """Let blocks come while the gateway looks."""
    for number in range(blocks):
        world.mine(seconds)
        if number % 10 == 0:
            await world.seen()
    await world.seen()


async def test_an_old_gateway_reads_again_what_it_can(make_world: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The journal remembers a block of an hour ago, whose state no full node has any more."""
    world = await make_world()
    payer = await world.opened()
    await world.pay(payer, 20_000)
    await pass_blocks(world, 300, 12)
    kept = leaves_out(world, WithdrawInitiated)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 4_900_000))
    await world.seen()
    assert kept
    assert world.channel(payer).withdrawing == 0
    await pass_blocks(world, 8, 12)
    await until(lambda: world.channel(payer).claimed == payer.charged)
    assert "events are read again" in caplog.text
    assert "chain's own views" not in caplog.text
    assert await world.faults() == []


@pytest.mark.parametrize("always", [False, True])
async def test_events_out_of_reach_are_taken_from_the_views(make_world: Make, always: bool) -> None:
    """Blocks of 0.4 s: when it is time to compare, what was left out is more than 128 blocks back."""
    world = await make_world()
    payer = await world.opened()
    await world.pay(payer, 20_000)
    kept = leaves_out(world, WithdrawInitiated, always=always)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 4_900_000))
    await world.seen()
    assert kept
    for _ in range(3):
        await pass_blocks(world, 150, 0)
        world.mine(60)
        await world.seen()
        await asyncio.sleep(0.1)
    await until(lambda: world.channel(payer).claimed == payer.charged)
    assert world.running
    assert world.channel(payer).phase is Phase.WITHDRAWING
    before = world.channel(payer)
    await world.crash()
    await world.start()
    assert world.channel(payer) == before
    tells_all(world)
    assert await world.faults() == []


async def test_a_contradiction_of_one_blinds_nobody_else(make_world: Make) -> None:
    world = await make_world()
    payer, other = await world.opened(), await world.opened("meter-2")
    await world.pay(other, 20_000)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 5_000_000))
    await pass_blocks(world, 300, 12)
    assert leaves_out(world, WithdrawFinalized) == []
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))
    await world.seen()
    await world.deposit(payer.config, 1_000_000, payer.authorization(1_000_000, 9))
    await world.transact(other.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(other.config, 5_000_000))
    await until(lambda: world.channel(other).withdrawing > 0)
    await until(lambda: world.channel(payer).balance == 1_000_000)
    assert world.running


@pytest.mark.parametrize(
    "kinds", [(Deposited,), (WithdrawInitiated, WithdrawFinalized), (WithdrawFinalized, Deposited)]
)
async def test_whatever_was_left_out_for_good(make_world: Make, kinds: tuple[type[ChainEvent], ...]) -> None:
    world = await make_world()
    payer = await world.opened()
    kept = leaves_out(world, *kinds, always=True)
    if Deposited in kinds:
        await world.deposit(payer.config, 1_000_000, payer.authorization(1_000_000, 9))
    if WithdrawFinalized in kinds:
        data = calls.initiate_withdraw(payer.config, 4_500_000)
        await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, data)
        world.mine(900)
        await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))
    await world.seen()
    assert {type(event) for event in kept} == set(kinds)
    view = await world.view(payer.id)

    def agree() -> bool:
        channel = world.channel(payer)
        return (channel.balance, channel.claimed, channel.withdrawing) == (view.balance, 0, 0)

    for _ in range(20):
        world.mine(60)
        await world.seen()
        await asyncio.sleep(0.05)
        if agree():
            break
    assert agree()
    assert world.running
    tells_all(world)
    assert await world.faults() == []


# -- offers --


async def test_a_time_that_never_was_ends_no_offer(make_world: Make) -> None:
    """A node is wrong about the time just when the offer is looked at."""
    world = await make_world()
    payer = await world.opened()
    await world.pay(payer)
    inner = world.layer._inner
    truth, wrong = inner.head, True

    async def head() -> Block:
        found = await truth()
        return dataclasses.replace(found, timestamp=found.timestamp + 10**9) if wrong else found

    inner.head = head  # type: ignore[method-assign]
    world.mine(1)
    await until(lambda: world.gateway.watcher.chain_time > 2 * 10**9)
    await world.gateway._renew_offer()
    wrong = False
    world.mine(1)
    await until(lambda: world.gateway.watcher.chain_time < 2 * 10**9)
    await world.gateway._renew_offer()
    assert world.gateway.terms.current.valid_from <= world.gateway.watcher.chain_time
    payer.offer = world.gateway.terms.current
    answer: Any = await world.ask(payer.device, "usage", to_json(payer.usage(10)))
    assert answer.reason is None
