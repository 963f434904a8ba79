"""Nodes that make up refund nonces while channels close: no refund that was signed reaches what is owed, ever."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from channels.digests import refund_digest
from channels.signatures import sign
from channels.state import Phase
from channels.types import SETTLEMENT_ADDRESS
from gateway.entries import Closing, Refunds, SignedRefund
from gateway.ledger import Ledger
from gateway.records import RefundSigned, encode
from settlement import calls
from tests.support.gateway_devices import Payer, to_json
from tests.support.gateway_world import World, until

Make = Callable[..., Awaitable[World]]
pytestmark = pytest.mark.usefixtures("by_hand")
# A look asks twice (the last block, the last final one), and a cycle looks twice.
ONE_LOOK, ONE_CYCLE = 2, 4


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing settles by itself: tests say when."""

    async def never(_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("gateway.settler.Settler.run", never)


def lie(world: World, times: int, by: int = 1) -> None:
    """Let the node name refund nonces that are too high, so many times."""
    inner, left = world.layer._inner, [times]
    honest = inner.refund_nonces

    async def lying(ids: Sequence[bytes], block: int | None = None) -> list[int]:
        found: list[int] = await honest(ids, block)
        if not left[0]:
            return found
        left[0] -= 1
        return [nonce + by for nonce in found]

    inner.refund_nonces = lying


def signed(world: World) -> list[tuple[int, int]]:
    """Return every (nonce, amount) that a refund was signed for."""
    journal = world.gateway.books.journal
    records = [record for number in range(1, journal.number + 1) for record in journal.records(number)]
    return [(record.nonce, record.amount) for record in records if isinstance(record, RefundSigned)]


async def closed(world: World, payer: Payer) -> None:
    """Settle until the channel is closed."""
    for _ in range(10):
        await world.settle()
        await world.seen()
        if world.channel(payer).phase is Phase.CLOSED:
            return
    raise AssertionError("it does not close")


async def nonce_of(world: World, payer: Payer) -> int:
    """Return what the contract says."""
    (nonce,) = await world.layer.refund_nonces([payer.id])
    return int(nonce)


async def use_up(world: World, payer: Payer) -> None:
    """Let the payer submit every signed refund that the contract takes, one after the other."""
    for nonce, amount in sorted(signed(world)):
        if nonce == await nonce_of(world, payer):
            digest = refund_digest(payer.id, nonce, amount, payer.network)
            signature = sign(digest, world.keys.authorizer.private)
            data = calls.refund_with_signature(payer.config, amount, nonce, signature)
            await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, data)


async def test_a_nonce_that_is_made_up_once_is_not_signed_for(world: World) -> None:
    payer = await world.opened()
    await world.pay(payer, 20_000)  # 3 tokens
    await world.gateway.closings.close("meter-1", None)
    lie(world, ONE_LOOK)
    await closed(world, payer)
    assert signed(world) == [(0, 2_000_000)]
    view = await world.view(payer.id)
    assert (view.balance, view.total_claimed) == (3_000_000, 3_000_000)
    assert await world.faults() == []


@pytest.mark.parametrize("restarting", [False, True])
async def test_a_nonce_that_is_made_up_for_long_is_used_up_before_the_channel_is_closed(
    world: World, restarting: bool
) -> None:
    """The lie lasted from one cycle into the next; then a payer submits all that was signed, at the worst moment."""
    payer = await world.opened()
    await world.pay(payer, 20_000)  # 3 tokens
    await world.gateway.closings.close("meter-1", None)
    lie(world, ONE_CYCLE + ONE_LOOK)
    await world.settle()
    assert signed(world) == []
    await world.settle()
    assert signed(world) == [(1, 2_000_000)]
    if restarting:
        await world.restart()

    async def faster(*_: Any) -> None:
        await use_up(world, payer)

    for _ in range(2):
        world.layer.once_before("estimate_all", faster)
        await world.settle()
        await world.seen()
    await closed(world, payer)
    assert sorted(signed(world)) == [(0, 2_000_000), (1, 2_000_000)]
    assert await nonce_of(world, payer) == 2
    view = await world.view(payer.id)
    assert (view.balance, view.total_claimed) == (3_000_000, 3_000_000)
    assert await world.faults() == []


async def test_one_that_is_left_for_a_nonce_to_come_reaches_no_channel_that_is_opened_again(make_world: Make) -> None:
    world = await make_world()
    payer = await world.opened()
    await world.pay(payer, 10_000)  # 1.5 tokens
    await world.gateway.closings.close("meter-1", None)
    lie(world, ONE_CYCLE + ONE_LOOK, by=2)
    await closed(world, payer)
    assert sorted(signed(world)) == [(0, 3_500_000), (2, 3_500_000)]
    await world.restart()
    receipt = await world.ask("meter-1", "open", to_json(payer.open(4_000_000, salt=5)))
    assert receipt.reason is None
    await world.pay(payer, 10_000)
    await use_up(world, payer)
    assert (await world.view(payer.id)).balance == 5_500_000, "nonce 1 was not signed for: nothing is valid"
    await world.gateway.closings.close("meter-1", None)

    async def faster(*_: Any) -> None:
        await use_up(world, payer)

    for _ in range(3):
        world.layer.once_before("estimate_all", faster)
        await world.settle()
        await world.seen()
    await closed(world, payer)
    view = await world.view(payer.id)
    assert (view.balance, view.total_claimed, payer.charged) == (3_000_000, 3_000_000, 3_000_000)
    assert await nonce_of(world, payer) == 3, "the one that was left is used up, too"
    assert await world.faults() == []


async def test_a_channel_with_refunds_before_this_journal_closes(make_world: Make) -> None:
    world = await make_world()
    payer = await world.opened()
    await world.gateway.closings.close("meter-1", None)
    await closed(world, payer)
    await world.stop()
    world.config = msgspec.structs.replace(world.config, data_dir=str(Path(world.config.data_dir).parent / "anew"))
    await world.start()
    receipt = await world.ask("meter-1", "open", to_json(payer.open(4_000_000, salt=5)))
    assert receipt.reason is None
    await world.gateway.closings.close("meter-1", None)
    await world.settle()
    assert signed(world) == [], "nothing in this journal explains nonce 1"
    assert world.gateway.closings.pressing
    await closed(world, payer)
    assert signed(world) == [(1, 4_000_000)]
    assert await nonce_of(world, payer) == 2
    await until(lambda: not world.gateway.closings.under_way)


def test_a_closing_that_an_earlier_version_stored_keeps_its_refund() -> None:
    """It kept the last refund with the closing, and no table of all of them."""
    ledger = Ledger()
    ledger.load("closing", b"\1" * 32, encode(Closing(1, b"", False, 0, 30, refund_nonce=2, refund_amount=70)))
    ledger.load("closed", b"\2" * 32, encode(Closing(1, b"", False, 0, 0, refund_nonce=0, refund_amount=5, block=9)))
    ledger.load("closing", b"\3" * 32, encode(Closing(1, b"", False, 0, 0)))
    ledger.loaded()
    assert dict(ledger.refunds.items()) == {
        b"\1" * 32: Refunds(signed=(SignedRefund(2, 70, 30),)),
        b"\2" * 32: Refunds(signed=(SignedRefund(0, 5, 0),)),
    }
