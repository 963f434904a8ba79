"""Payers who take their money back: what was served is claimed first, whatever the schedule says."""

import pytest

from channels.refusals import Refusal
from channels.types import SETTLEMENT_ADDRESS
from gateway.config import OfferConfig, SettlementConfig
from settlement import calls
from tests.support.gateway_devices import Payer
from tests.support.proof_fixtures import Make
from tests.support.proof_world import ProofWorld

LAYERS = pytest.mark.parametrize("layer", ["embedded", "anvil"])
DELAY = 900
MARGIN = DELAY // 4
DEPOSIT = 5_000_000


async def leaves(world: ProofWorld, payer: Payer, amount: int) -> int:
    """Let a payer start a withdrawal; returns the chain second after which it can be ended."""
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, amount))
    _, initiated_at = world.observer.pending(payer.id)
    assert initiated_at
    return initiated_at + payer.config.withdraw_delay


async def takes(world: ProofWorld, payer: Payer, *, succeeds: bool = True) -> None:
    """Let a payer end its withdrawal."""
    data = calls.finalize_withdraw(payer.config)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, data, succeeds=succeeds)


def pass_to(world: ProofWorld, chain_time: int) -> None:
    """Let the chain's clock come to a second."""
    world.ground.mine(max(0, chain_time - world.observer.time))
    assert world.observer.time >= chain_time


async def claimed_in_full(world: ProofWorld, payer: Payer) -> None:
    """Wait until all that the meter says is claimed, with no settlement asked for."""
    await world.until(lambda: world.observer.claimed(payer.id) == payer.charged)


@LAYERS
async def test_a_payer_that_withdraws_while_it_pays(make_world: Make, layer: str) -> None:
    world = await make_world(layer)
    payer, other = await world.opened(), await world.opened("meter-2")
    await world.pay(payer, 1_000)
    await world.pay(other, 500)
    ends = await leaves(world, payer, DEPOSIT - 300_000)
    await world.until(lambda: world.ledger.channels[payer.id].withdrawing > 0)
    # What cannot be taken away is still usable, and not a unit more.
    await world.pay(payer, 900)
    answer = await world.refused(payer, payer.usage(10_000))
    assert answer.reason is Refusal.CEILING_ABOVE_BALANCE
    pass_to(world, ends - MARGIN)
    await claimed_in_full(world, payer)
    assert world.observer.time < ends
    pass_to(world, ends)
    await takes(world, payer)
    assert world.observer.channel(payer.id) == (300_000, payer.charged)
    await world.pay(other, 10)
    await world.settle_all()
    await world.prove()
    await world.honoured()


@LAYERS
async def test_a_payer_that_takes_everything_and_pays_on(make_world: Make, layer: str) -> None:
    """The withdrawal takes what is unclaimed at its end: everything was claimed before, and nothing is served after."""
    world = await make_world(layer)
    payer = await world.opened()
    await world.pay(payer, 1_000)
    ends = await leaves(world, payer, DEPOSIT)
    await claimed_in_full(world, payer)  # nothing of it is safe, so it does not wait for the margin
    await world.until(lambda: world.ledger.channels[payer.id].withdrawing > 0)
    answer = await world.refused(payer, payer.usage(1))
    assert answer.reason is Refusal.CEILING_ABOVE_BALANCE
    pass_to(world, ends)
    await takes(world, payer)
    assert world.observer.channel(payer.id) == (payer.charged, payer.charged)
    await world.until(lambda: world.ledger.channels[payer.id].withdrawn > 0)
    answer = await world.refused(payer, payer.usage(1))
    assert answer.reason is Refusal.CEILING_ABOVE_BALANCE
    await world.prove()
    # It pays in again and goes on where it was.
    await world.top_up(payer, 1_000_000)
    await world.pay(payer, 100)
    await world.settle_all()
    await world.prove()
    await world.honoured()


@LAYERS
async def test_a_payer_that_withdraws_while_the_gateway_is_away_for_an_hour(make_world: Make, layer: str) -> None:
    offer = OfferConfig(withdraw_delay=5_400, max_ahead="1000000", min_deposit="1")
    world = await make_world(layer, offer=offer, settlement=SettlementConfig(every_s=2_700, fee_bps=100))
    payer, other = await world.opened(), await world.opened("meter-2")
    for _ in range(3):
        await world.pay(payer, 1_000)
        await world.pay(other, 100)
    await world.crash()
    ends = await leaves(world, payer, DEPOSIT)
    pass_to(world, ends - 5_400 + 3_600)
    await takes(world, payer, succeeds=False)
    await world.start()
    pass_to(world, ends - 5_400 // 4)
    await claimed_in_full(world, payer)
    assert world.observer.time < ends
    pass_to(world, ends)
    await takes(world, payer)
    assert world.observer.channel(payer.id) == (payer.charged, payer.charged)
    await world.settle_all()
    await world.prove()
    await world.honoured()


@LAYERS
async def test_a_gateway_away_for_longer_than_the_delay_loses_what_was_not_claimed_and_says_so(
    make_world: Make, layer: str
) -> None:
    """docs/operating.md asks for a delay of twice the longest outage: this is what it is for."""
    world = await make_world(layer)
    payer, other = await world.opened(), await world.opened("meter-2")
    await world.pay(payer, 1_000)
    await world.settle_all()
    claimed = payer.charged
    await world.pay(payer, 1_000)
    await world.pay(other, 1_000)
    await world.crash()
    ends = await leaves(world, payer, DEPOSIT - claimed)
    pass_to(world, ends)
    await takes(world, payer)
    await world.start()
    await world.until(lambda: world.ledger.channels[payer.id].withdrawn > 0)
    assert world.observer.channel(payer.id) == (claimed, claimed)
    assert world.ledger.channels[payer.id].unclaimed == payer.charged - claimed
    world.books.forgone[payer.id] = payer.charged - claimed
    await world.settle_all()
    await world.prove()
    # The debt stays: with money in the channel again it is claimed after all.
    world.books.forgone.clear()
    await world.top_up(payer, 1_000_000)
    await world.settle_all()
    assert world.observer.claimed(payer.id) == payer.charged
    await world.prove()


@LAYERS
async def test_a_withdrawal_that_ends_just_before_the_claim(make_world: Make, layer: str) -> None:
    """The claim is on its way when the payer takes its money: only that row fails, the others settle in this cycle."""
    world = await make_world(layer)
    bad, *others = [await world.opened(f"meter-{number}") for number in range(1, 6)]
    await world.pay(bad, 1_000)
    for payer in others:
        await world.pay(payer, 100)

    def take() -> None:
        _, initiated_at = world.observer.pending(bad.id)
        world.ground.mine(max(0, initiated_at + DELAY - world.observer.time))
        world.ground.send(bad.payer_key, bad.payer, SETTLEMENT_ADDRESS, calls.finalize_withdraw(bad.config))

    world.proxy.before("eth_sendRawTransaction", take)  # the first one is a claim
    await leaves(world, bad, DEPOSIT)
    await world.settle()
    await world.until(lambda: world.ledger.channels[bad.id].withdrawn > 0)
    assert world.observer.claimed(bad.id) == 0
    assert [world.observer.claimed(payer.id) for payer in others] == [payer.charged for payer in others]
    world.books.forgone[bad.id] = bad.charged
    await world.settle_all()
    await world.prove()
    assert (await world.refused(bad, bad.usage(1))).reason is Refusal.CEILING_ABOVE_BALANCE
    await world.honoured()


@LAYERS
async def test_a_payer_that_also_earns_cannot_take_what_is_netted(make_world: Make, layer: str) -> None:
    """A home withdraws everything: what it earned pays for what it used, to the unit."""
    world = await make_world(layer)
    payer = await world.opened()
    earner = await world.joined("solar-1", payee_key=payer.payer_key)
    await world.pay(payer, 1_000)
    await world.earn(earner, 700)
    ends = await leaves(world, payer, DEPOSIT)
    await world.until(lambda: world.books.unsettled() == [])
    pass_to(world, ends)
    await takes(world, payer)
    await world.settle_all()
    await world.prove()
    flows = world.observer.flows()
    assert payer.charged - flows.claimed[payer.id] == world.books.net(earner.earned) - flows.paid[payer.payer]


@LAYERS
async def test_a_withdrawal_in_a_block_that_is_not_final_is_seen(make_world: Make, layer: str) -> None:
    """With confirmations, what a payer may take away is not served against while its block becomes final."""
    world = await make_world(layer, start=False, confirmations=3)
    await world.mine_on()
    await world.start()
    payer = await world.opened()
    await world.pay(payer, 1_000)
    await world.mine_on(False)
    await leaves(world, payer, DEPOSIT)
    await world.until(lambda: world.ledger.channels[payer.id].foreseen > 0)
    assert world.ledger.channels[payer.id].withdrawing == 0
    answer = await world.refused(payer, payer.usage(1))
    assert answer.reason is Refusal.CEILING_ABOVE_BALANCE
    await world.mine_on()
    await world.settle_all()
    await world.prove()
