"""Tokens and collectors that re-enter, lie, take a fee, or answer nothing."""

from collections.abc import Callable

import pytest
from eth_abi.abi import decode

from settlement.contracts import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS
from tests.contracts.chain import Contract
from tests.contracts.world import (
    AUTHORIZER,
    DELAY,
    FUNDS,
    OTHER,
    PAYER,
    RECEIVER,
    SIGNER,
    Channel,
    World,
    channel_number,
)

CHANNEL = Channel()
REFUSES, NOTHING, SHORT, FEE, CALLS, TWO, STILL = range(1, 8)


@pytest.fixture
def allowed(world: World) -> World:
    world.token.send("approve", world.bringer.address, FUNDS, sender=PAYER.address)
    return world


def deposit_of(world: World, channel: Channel, amount: int) -> bytes:
    return world.settlement.data("deposit", channel.args(), amount, world.bringer.address, b"")


# --------------------------------------------------------------------------------------------- re-entrance


@pytest.mark.parametrize("wrapped", [False, True], ids=["directly", "by multicall"])
def test_one_transfer_is_not_credited_twice(allowed: World, wrapped: bool) -> None:
    world, inner = allowed, deposit_of(allowed, channel_number(1), 100)
    if wrapped:
        inner = world.settlement.data("multicall", [inner])
    world.bringer.send("arm", SETTLEMENT_ADDRESS, inner, True, sender=OTHER.address)
    world.chain.send(SETTLEMENT_ADDRESS, deposit_of(world, CHANNEL, 100), OTHER.address)
    assert world.bringer.read("called")
    assert not world.bringer.read("succeeded")
    assert world.state(CHANNEL) == (100, 0)
    assert world.state(channel_number(1)) == (0, 0)
    assert world.balance(SETTLEMENT_ADDRESS) == 100


def collectors_own_channel(world: World) -> Channel:
    """A channel in which the collector is payer and receiver, so that it may call everything."""
    me = world.bringer.address
    channel = Channel(payer=me, payer_authorizer=SIGNER.address, receiver=me)
    world.token.send("transfer", me, 1000, sender=PAYER.address)
    world.token.send("approve", me, 1000, sender=me)
    world.chain.send(SETTLEMENT_ADDRESS, deposit_of(world, channel, 500), OTHER.address)
    world.claim(world.row(channel, 100))
    return channel


STATE_CHANGES: dict[str, Callable[[World, Channel], tuple[object, ...]]] = {
    "deposit": lambda world, mine: (mine.args(), 5, world.bringer.address, b""),
    "claim": lambda world, mine: ([world.row(mine, 150)],),
    "claimWithSignature": lambda world, mine: (
        [world.row(mine, 150)],
        world.batch_signature([world.row(mine, 150)]),
    ),
    "settle": lambda world, mine: (mine.receiver, mine.token),
    "initiateWithdraw": lambda world, mine: (mine.args(), 5),
    "finalizeWithdraw": lambda world, mine: (mine.args(),),
    "refund": lambda world, mine: (mine.args(), 5),
    "refundWithSignature": lambda world, mine: (mine.args(), 5, 0, world.refund_signature(mine, 0, 5)),
}


def test_every_state_change_is_in_the_table(world: World) -> None:
    changing = {
        entry["name"]
        for entry in world.settlement.abi
        if entry["type"] == "function" and entry["stateMutability"] == "nonpayable"
    }
    assert changing == {*STATE_CHANGES, "multicall"}


@pytest.mark.parametrize("wrapped", [False, True], ids=["directly", "by multicall"])
@pytest.mark.parametrize("name", STATE_CHANGES)
def test_nothing_changes_while_a_deposit_is_under_way(allowed: World, name: str, wrapped: bool) -> None:
    world = allowed
    mine = collectors_own_channel(world)
    if name == "finalizeWithdraw":
        world.settlement.send("initiateWithdraw", mine.args(), 5, sender=mine.payer)
        world.chain.advance(DELAY)
    payload = world.settlement.data(name, *STATE_CHANGES[name](world, mine))
    if wrapped:
        payload = world.settlement.data("multicall", [payload])
    # By itself the call is allowed: what stops it below is the lock.
    assert world.settlement.refusal_of(payload, mine.payer) is None
    before = world.state(mine), world.pending(mine), world.settlement.read("receivers", mine.receiver, mine.token)
    world.bringer.send("arm", SETTLEMENT_ADDRESS, payload, False, sender=OTHER.address)
    world.chain.send(SETTLEMENT_ADDRESS, deposit_of(world, CHANNEL, 100), OTHER.address)
    assert world.bringer.read("called")
    assert not world.bringer.read("succeeded")
    assert world.bringer.read("answer") == b""
    after = world.state(mine), world.pending(mine), world.settlement.read("receivers", mine.receiver, mine.token)
    assert after == before
    assert world.state(CHANNEL) == (100, 0)


def test_a_deposit_under_way_is_not_yet_to_be_seen(allowed: World) -> None:
    world = allowed
    payload = world.settlement.data("channels", world.channel_id(CHANNEL))
    world.bringer.send("arm", SETTLEMENT_ADDRESS, payload, False, sender=OTHER.address)
    world.chain.send(SETTLEMENT_ADDRESS, deposit_of(world, CHANNEL, 100), OTHER.address)
    assert world.bringer.read("succeeded")
    assert world.bringer.read("answer") == bytes(64)


def odd_channel(world: World) -> tuple[Contract, Channel]:
    """A token of no good and a channel in it, claimed up to 100 of 1000, with a ripe withdrawal of 50."""
    odd = world.place("OddToken", b"\x0d" * 20)
    channel = Channel(token=odd.address)
    odd.send("give", PAYER.address, 10_000, sender=OTHER.address)
    world.chain.send(SETTLEMENT_ADDRESS, deposit_of(world, channel, 1000), OTHER.address)
    world.claim(world.row(channel, 100))
    world.settlement.send("initiateWithdraw", channel.args(), 50, sender=PAYER.address)
    world.chain.advance(DELAY)
    return odd, channel


PAYING = {
    "settle": (lambda channel: (channel.receiver, channel.token), OTHER, RECEIVER, 100),
    "finalizeWithdraw": (lambda channel: (channel.args(),), SIGNER, PAYER, 50),
    "refund": (lambda channel: (channel.args(), 70), AUTHORIZER, PAYER, 70),
}


@pytest.mark.parametrize("name", PAYING)
def test_a_token_that_re_enters_is_paid_once(world: World, name: str) -> None:
    odd, channel = odd_channel(world)
    arguments, sender, receiver, amount = PAYING[name]
    odd.send(
        "arm", SETTLEMENT_ADDRESS, world.settlement.data("settle", RECEIVER.address, odd.address), sender=OTHER.address
    )
    before = odd.read("balanceOf", receiver.address)
    world.settlement.send(name, *arguments(channel), sender=sender.address)
    assert not odd.read("succeeded")
    assert odd.read("balanceOf", receiver.address) == before + amount


@pytest.mark.parametrize("name", PAYING)
def test_the_books_are_written_before_the_tokens_move(world: World, name: str) -> None:
    """A token that asks during the transfer already finds the payment recorded."""
    odd, channel = odd_channel(world)
    arguments, sender, _, amount = PAYING[name]
    view, expected = (
        (world.settlement.data("receivers", RECEIVER.address, odd.address), (100, 100))
        if name == "settle"
        else (world.settlement.data("channels", world.channel_id(channel)), (1000 - amount, 100))
    )
    odd.send("arm", SETTLEMENT_ADDRESS, view, sender=OTHER.address)
    world.settlement.send(name, *arguments(channel), sender=sender.address)
    assert odd.read("succeeded")
    assert decode(["uint128", "uint128"], odd.read("answer")) == expected


# ------------------------------------------------------------------------------------------------ odd tokens


@pytest.mark.parametrize("name", PAYING)
@pytest.mark.parametrize(
    ("mode", "refusal"),
    [(REFUSES, "SafeERC20FailedOperation"), (SHORT, ""), (TWO, ""), (NOTHING, None), (0, None)],
    ids=["false", "one byte", "two", "nothing", "true"],
)
def test_what_a_transfer_may_answer(world: World, name: str, mode: int, refusal: str | None) -> None:
    odd, channel = odd_channel(world)
    arguments, sender, receiver, amount = PAYING[name]
    odd.send("behave", mode, sender=OTHER.address)
    assert world.settlement.refusal(name, *arguments(channel), sender=sender.address) == refusal
    if refusal is None:
        before = odd.read("balanceOf", receiver.address)
        world.settlement.send(name, *arguments(channel), sender=sender.address)
        assert odd.read("balanceOf", receiver.address) == before + amount


@pytest.mark.parametrize("name", PAYING)
def test_a_token_without_code_is_refused(world: World, name: str) -> None:
    odd, channel = odd_channel(world)
    arguments, sender, _, _ = PAYING[name]
    world.chain.set_code(odd.address, b"")
    assert world.settlement.refusal(name, *arguments(channel), sender=sender.address) == ""


def test_a_deposit_in_a_token_or_by_a_collector_without_code_is_refused(allowed: World) -> None:
    nowhere = b"\x77" * 20
    arguments = 10, allowed.bringer.address, b""
    assert allowed.settlement.refusal("deposit", CHANNEL.with_(token=nowhere).args(), *arguments) == ""
    assert allowed.settlement.refusal("deposit", CHANNEL.args(), 10, nowhere, b"") == ""
    assert allowed.settlement.refusal("deposit", CHANNEL.args(), *arguments) is None


@pytest.mark.parametrize("collector", ["plain", "erc3009"])
@pytest.mark.parametrize("mode", [FEE, STILL], ids=["fee", "moves nothing"])
def test_a_deposit_must_arrive_whole(world: World, mode: int, collector: str) -> None:
    odd, channel = odd_channel(world)
    odd.send("give", COLLECTOR_ADDRESS, 1, sender=OTHER.address)  # to pass on what its own fee took
    deposit = (
        (channel.args(), 100, world.bringer.address, b"")
        if collector == "plain"
        else (channel.args(), 100, COLLECTOR_ADDRESS, world.collector_data(channel, 100))
    )
    assert world.settlement.refusal("deposit", *deposit) is None
    odd.send("behave", mode, sender=OTHER.address)
    assert world.settlement.refusal("deposit", *deposit) == "DepositCollectionFailed"
    assert world.state(channel) == (1000, 100)


def test_the_collector_passes_on_or_reverts(world: World) -> None:
    odd, channel = odd_channel(world)
    deposit = channel.args(), 100, COLLECTOR_ADDRESS, world.collector_data(channel, 100)
    for mode, refusal in ((REFUSES, "SafeERC20FailedOperation"), (SHORT, ""), (NOTHING, None)):
        odd.send("behave", mode, sender=OTHER.address)
        assert world.settlement.refusal("deposit", *deposit) == refusal


def test_tokens_sent_by_mistake_belong_to_no_channel(allowed: World) -> None:
    world = allowed
    world.token.send("transfer", SETTLEMENT_ADDRESS, 777, sender=PAYER.address)
    world.chain.send(SETTLEMENT_ADDRESS, deposit_of(world, CHANNEL, 100), OTHER.address)
    assert world.state(CHANNEL) == (100, 0)
    world.settlement.send("refund", CHANNEL.args(), 10_000, sender=RECEIVER.address)
    assert world.balance(SETTLEMENT_ADDRESS) == 777
