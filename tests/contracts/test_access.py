"""Who may call what: every function that changes something, every role, on both layers.

The table is written from docs/protocol.md 1. Each call is right but for its caller or signer; whoever is not named
gets the refusal beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from settlement.contracts import COLLECTOR_ADDRESS
from tests.contracts.chain import Contract
from tests.contracts.world import (
    AUTHORIZER,
    DELAY,
    FUNDS,
    NOBODY,
    OTHER,
    OWNER,
    PAYER,
    PAYOUTS_ADDRESS,
    RECEIVER,
    SIGNER,
    Channel,
    Key,
    World,
    channel_number,
)

CHANNEL = Channel()
BARE = channel_number(2, payer_authorizer=NOBODY)  # its payer signs its vouchers
ROLES = {
    "payer": PAYER,
    "payerAuthorizer": SIGNER,
    "receiver": RECEIVER,
    "receiverAuthorizer": AUTHORIZER,
    "the token's owner": OWNER,
    "somebody else": OTHER,
    # They have every right over another channel, and none over this one.
    "another payer": Key.of("another payer"),
    "another payer's authorizer": Key.of("another payer's authorizer"),
    "another receiver": Key.of("another receiver"),
    "another receiver's authorizer": Key.of("another receiver's authorizer"),
}
EVERYBODY = frozenset(ROLES)
PAYER_SIDE = frozenset({"payer", "payerAuthorizer"})
RECEIVER_SIDE = frozenset({"receiver", "receiverAuthorizer"})
THEIRS = Channel(
    ROLES["another payer"].address,
    ROLES["another payer's authorizer"].address,
    ROLES["another receiver"].address,
    ROLES["another receiver's authorizer"].address,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A function and whom it serves. `arguments` gets the world and the role's key, which signs where one signs."""

    name: str
    contract: str
    function: str
    allowed: frozenset[str]
    refusal: str
    arguments: Callable[[World, Key], tuple[Any, ...]]
    by: str = "caller"


def claimed(world: World, signer: Key = SIGNER, channel: Channel = CHANNEL) -> list[tuple[Any, ...]]:
    return [world.row(channel, 200, signer=signer)]


RULES = (
    Rule("deposit", "settlement", "deposit", EVERYBODY, "", lambda world, _: (
        CHANNEL.args(), 10, COLLECTOR_ADDRESS, world.collector_data(CHANNEL, 10, 7))),
    Rule("claim", "settlement", "claim", RECEIVER_SIDE, "NotAuthorizedToClaim", lambda world, _: (claimed(world),)),
    Rule("claim of two receivers' channels", "settlement", "claim", frozenset(), "NotAuthorizedToClaim",
         lambda world, _: ([*claimed(world), world.row(THEIRS, 5, signer=ROLES["another payer's authorizer"])],)),
    Rule("claimWithSignature", "settlement", "claimWithSignature", EVERYBODY, "",
         lambda world, _: (claimed(world), world.batch_signature(claimed(world)))),
    Rule("settle", "settlement", "settle", EVERYBODY, "", lambda world, _: (RECEIVER.address, CHANNEL.token)),
    Rule("initiateWithdraw", "settlement", "initiateWithdraw", PAYER_SIDE, "InvalidChannel",
         lambda world, _: (CHANNEL.args(), 10)),
    Rule("finalizeWithdraw", "settlement", "finalizeWithdraw", PAYER_SIDE - {"payerAuthorizer"},
         "NotAuthorizedToFinalizeWithdraw", lambda world, _: (BARE.args(),)),
    Rule("refund", "settlement", "refund", RECEIVER_SIDE, "NotAuthorizedToRefund",
         lambda world, _: (CHANNEL.args(), 10)),
    Rule("refundWithSignature", "settlement", "refundWithSignature", EVERYBODY, "",
         lambda world, _: (CHANNEL.args(), 10, 0, world.refund_signature(CHANNEL, 0, 10))),
    Rule("multicall", "settlement", "multicall", RECEIVER_SIDE, "NotAuthorizedToRefund",
         lambda world, _: ([world.settlement.data("settle", RECEIVER.address, CHANNEL.token),
                            world.settlement.data("refund", CHANNEL.args(), 10)],)),
    Rule("a batch's signature", "settlement", "claimWithSignature", frozenset({"receiverAuthorizer"}),
         "InvalidSignature", lambda world, key: (claimed(world), world.batch_signature(claimed(world), key)), "signer"),
    Rule("a refund's signature", "settlement", "refundWithSignature", frozenset({"receiverAuthorizer"}),
         "InvalidSignature",
         lambda world, key: (CHANNEL.args(), 10, 0, world.refund_signature(CHANNEL, 0, 10, key)), "signer"),
    Rule("a voucher", "settlement", "claim", frozenset({"payerAuthorizer"}), "InvalidSignature",
         lambda world, key: (claimed(world, key),), "signer"),
    Rule("a voucher without an authorizer", "settlement", "claim", frozenset({"payer"}), "InvalidSignature",
         lambda world, key: (claimed(world, key, BARE),), "signer"),
    Rule("a deposit's authorization", "settlement", "deposit", frozenset({"payer"}), "invalid signature",
         lambda world, key: (CHANNEL.args(), 10, COLLECTOR_ADDRESS, world.collector_data(CHANNEL, 10, 8, key)),
         "signer"),
    Rule("collect", "collector", "collect", frozenset(), "OnlyX402BatchSettlement", lambda world, _: (
        PAYER.address, CHANNEL.token, 10, world.channel_id(CHANNEL), world.collector_data(CHANNEL, 10, 9))),
    Rule("mint", "token", "mint", frozenset({"the token's owner"}), "caller is not the owner",
         lambda world, _: (OTHER.address, 1)),
    Rule("transferFrom", "token", "transferFrom", frozenset({"somebody else"}), "transfer amount exceeds allowance",
         lambda world, _: (PAYER.address, OTHER.address, 10)),
    Rule("pay", "payouts", "pay", frozenset({"payer"}), "transfer amount exceeds allowance",
         lambda world, _: (CHANNEL.token, [(RECEIVER.address, 10)])),
)  # fmt: skip


def arrange(world: World) -> World:
    """Both channels have 1000 and are claimed up to 100; `BARE` has a ripe withdrawal."""
    for channel in (CHANNEL, BARE):
        world.fund(channel, 1000)
    world.claim(world.row(CHANNEL, 100), world.row(BARE, 100, signer=PAYER))
    world.settlement.send("initiateWithdraw", BARE.args(), 50, sender=PAYER.address)
    world.chain.advance(DELAY)
    world.token.send("approve", OTHER.address, 10, sender=PAYER.address)
    world.token.send("approve", PAYOUTS_ADDRESS, FUNDS, sender=PAYER.address)
    return world


@pytest.fixture(params=["embedded", "anvil"])
def arranged(request: pytest.FixtureRequest) -> World:
    fixture = "embedded_world" if request.param == "embedded" else "world"
    world: World = request.getfixturevalue(fixture)
    return arrange(world)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_access(arranged: World, rule: Rule) -> None:
    contract: Contract = getattr(arranged, rule.contract)
    for role, key in ROLES.items():
        caller = key if rule.by == "caller" else AUTHORIZER
        found = contract.refusal(rule.function, *rule.arguments(arranged, key), sender=caller.address)
        expected = None if role in rule.allowed else rule.refusal
        assert found == expected, f"{rule.name} with {role} as {rule.by}"


def test_nobody_pays_with_anothers_money(arranged: World) -> None:
    """`pay` takes from its caller alone, whoever else has approved the contract."""
    before = arranged.balance(PAYER.address)
    arranged.token.send("transfer", SIGNER.address, 30, sender=PAYER.address)
    arranged.token.send("approve", PAYOUTS_ADDRESS, 30, sender=SIGNER.address)
    arranged.payouts.send("pay", CHANNEL.token, [(RECEIVER.address, 30)], sender=SIGNER.address)
    assert arranged.balance(PAYER.address) == before - 30
    assert arranged.balance(SIGNER.address) == 0
    assert arranged.payouts.read("paid", PAYER.address, CHANNEL.token, RECEIVER.address) == 0


# The token's own forms of authorization are in test_token, its plain transfers and approvals are everybody's.
ELSEWHERE = {
    "transfer", "approve", "permit", "transferWithAuthorization", "receiveWithAuthorization", "cancelAuthorization",
}  # fmt: skip


def test_every_function_that_changes_something_is_in_the_table(world: World) -> None:
    for name in ("settlement", "collector", "token", "payouts"):
        changing = {
            entry["name"]
            for entry in getattr(world, name).abi
            if entry["type"] == "function" and entry["stateMutability"] in ("nonpayable", "payable")
        }
        ruled = {rule.function for rule in RULES if rule.contract == name}
        assert changing - (ELSEWHERE if name == "token" else set()) == ruled
