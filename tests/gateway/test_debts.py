"""What a party owes and no claim can reach any more is offset by what it earns, whatever it tries."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from channels.refusals import Refusal
from channels.signatures import key_address
from channels.state import Phase
from channels.types import SETTLEMENT_ADDRESS
from settlement import calls
from settlement.genesis import TOKEN_ADDRESS
from tests.support.gateway_devices import Payer, to_json
from tests.support.gateway_world import World, until

Make = Callable[..., Awaitable[World]]
DEBT = 3_000_000
EARNED = 8_000_000  # 1 % of it is the operator's fee


async def with_debt(world: World) -> Payer:
    """A payer that took its deposit back while the gateway was away, and whose channel was closed then."""
    payer = await world.opened(amount=5_000_000)
    await world.pay(payer, 20_000)
    await world.crash()
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 5_000_000))
    world.mine(901)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))
    await world.start()
    await world.seen()
    channel = world.channel(payer)
    assert (channel.owed, channel.balance, channel.committed) == (DEBT, 0, 0)
    await world.gateway.closings.close("meter-1", None)
    await until(lambda: world.channel(payer).phase is Phase.CLOSED)
    return payer


async def earns(world: World, payer: Payer) -> int:
    """Its solar roof earns; returns what the next settlement pays out for it."""
    earner = await world.joined("solar-1", payee_key=payer.payer_key)
    await world.earn(earner, 100_000)
    assert world.account(earner).earned == EARNED
    before = await world.balance(payer.payer)
    await world.gateway.settler.settle()
    return await world.balance(payer.payer) - before


@pytest.mark.parametrize("again", [False, True], ids=["closed", "opened again without money"])
async def test_a_debt_is_offset(make_world: Make, again: bool) -> None:
    """A deposit that fails on its way leaves the channel waiting for it, and what it owes as it was."""
    world = await make_world()
    payer = await with_debt(world)
    if again:

        async def spend(*_: Any) -> None:
            data = calls.transfer(key_address(world.stranger_key), await world.balance(payer.payer))
            await world.transact(payer.payer_key, TOKEN_ADDRESS, data)

        world.layer.once_after("simulate", spend)
        answer = await world.ask("meter-1", "open", to_json(payer.open(1_000_000, salt=7)))
        assert answer.reason is Refusal.DEPOSIT_INVALID
        assert world.channel(payer).phase is Phase.OPENING
    got = await earns(world, payer)
    assert world.channel(payer).offset == DEBT
    assert got == EARNED * 99 // 100 - DEBT


async def test_a_claim_that_was_never_signed_keeps_nothing_from_being_offset(make_world: Make) -> None:
    """The withdrawal ends when a cycle has journaled its claims and has signed none of them."""
    world = await make_world()
    payer = await world.opened(amount=5_000_000)
    await world.pay(payer, 20_000)
    await world.crash()
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 5_000_000))
    world.mine(901)
    await world.start()

    async def take(*_: Any) -> None:
        await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))

    world.layer.once_before("estimate_all", take)
    await world.gateway.settler.settle()
    await world.seen()
    channel = world.channel(payer)
    assert (channel.balance, channel.claimed, channel.committed, channel.owed) == (0, 0, 0, DEBT)
    assert payer.id in world.ledger.aside
    got = await earns(world, payer)
    assert world.channel(payer).offset == DEBT
    assert got == EARNED * 99 // 100 - DEBT
