"""Every way the settlement contract says no: one row per refusal, in the order of its checks.

Each row also has every fault that is checked later, so a row fails when two checks change places.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from settlement.contracts import COLLECTOR_ADDRESS, artifact, mapping_slot
from tests.contracts.world import (
    AUTHORIZER,
    DELAY,
    FUNDS,
    NOBODY,
    OTHER,
    PAYER,
    RECEIVER,
    SIGNER,
    Channel,
    Key,
    World,
    channel_number,
    high_s,
)

BALANCE = 1000


@dataclass(frozen=True, slots=True)
class Refusal:
    name: str
    error: str
    function: str
    arguments: Callable[[World], tuple[Any, ...]]
    sender: Key = AUTHORIZER


def refused(
    error: str,
    name: str,
    function: str,
    arguments: Callable[[World], tuple[Any, ...]],
    sender: Key = AUTHORIZER,
) -> Refusal:
    return Refusal(name, error, function, arguments, sender)


# A channel with a balance of 1000, claimed up to 100, is there in every row.
OPEN = Channel()
BROKEN = Channel(NOBODY, NOBODY, NOBODY, NOBODY, NOBODY, 0)


def deposit(
    channel: Channel, amount: int = 0, collector: bytes = NOBODY, data: bytes = b""
) -> Callable[[World], tuple[Any, ...]]:
    return lambda world: (channel.args(), amount, collector, data)


def overflowing(world: World) -> tuple[Any, ...]:
    slot = mapping_slot(artifact("BatchSettlement").storage_layout["channel_words"], world.channel_id(OPEN))
    world.chain.set_storage(world.settlement.address, slot, (2**128 - 10).to_bytes(32, "big"))
    return OPEN.args(), 10, world.bringer.address, b""


def skewed(more: int, fewer: int) -> Callable[[World], tuple[Any, ...]]:
    def arguments(world: World) -> tuple[Any, ...]:
        world.token.send("approve", world.bringer.address, FUNDS, sender=PAYER.address)
        world.bringer.send("skew", more, fewer, sender=OTHER.address)
        return OPEN.args(), 10, world.bringer.address, b""

    return arguments


DEPOSITS = [
    refused("InvalidChannel", "zero payer", "deposit", deposit(BROKEN)),
    refused("InvalidChannel", "zero receiver", "deposit", deposit(BROKEN.with_(payer=PAYER.address))),
    refused(
        "InvalidChannel",
        "zero receiverAuthorizer",
        "deposit",
        deposit(OPEN.with_(receiver_authorizer=NOBODY, token=NOBODY, withdraw_delay=0)),
    ),
    refused("InvalidChannel", "zero token", "deposit", deposit(OPEN.with_(token=NOBODY, withdraw_delay=0))),
    refused("WithdrawDelayOutOfRange", "899 s", "deposit", deposit(OPEN.with_(withdraw_delay=899))),
    refused("WithdrawDelayOutOfRange", "30 d and 1 s", "deposit", deposit(OPEN.with_(withdraw_delay=2_592_001))),
    refused("ZeroDeposit", "nothing", "deposit", deposit(OPEN)),
    refused("InvalidCollector", "zero collector", "deposit", deposit(OPEN, 2**128 - 1)),
    refused("DepositOverflow", "above 2^128 - 1", "deposit", overflowing),
    refused("DepositCollectionFailed", "one too few", "deposit", skewed(0, 1)),
    refused("DepositCollectionFailed", "one too many", "deposit", skewed(1, 0)),
    refused("DepositCollectionFailed", "none", "deposit", skewed(0, 10)),
]


def claim(*faulty: Callable[[World], tuple[Any, ...]]) -> Callable[[World], tuple[Any, ...]]:
    """A claim of one good row, so that the batch is seen to fail as a whole, and of these."""
    return lambda world: ([world.row(channel_number(1), 1), *(row(world) for row in faulty)],)


def unsigned(claimed: int, ceiling: int, signature: bytes = bytes(65), channel: Channel = OPEN) -> Any:
    return lambda world: ((channel.args(), ceiling), signature, claimed)


def signed(claimed: int, alter: Callable[[bytes], bytes], channel: Channel = OPEN, signer: Key = SIGNER) -> Any:
    return lambda world: (
        (channel.args(), claimed),
        alter(world.voucher(channel, claimed, signer)),
        claimed,
    )


BY_PAYER = OPEN.with_(payer_authorizer=NOBODY)
BAD_SIGNATURES = {
    "of another key": signed(200, lambda signature: signature, signer=OTHER),
    "of the payer instead of its authorizer": signed(200, lambda signature: signature, signer=PAYER),
    "with a high s": signed(200, high_s),
    "with v 0 or 1": signed(200, lambda signature: signature[:64] + bytes([signature[64] - 27])),
    "with v 29": signed(200, lambda signature: signature[:64] + b"\x1d"),
    "with the other v": signed(200, lambda signature: signature[:64] + bytes([55 - signature[64]])),
    "of 64 bytes": signed(200, lambda signature: signature[:64]),
    "of 66 bytes": signed(200, lambda signature: signature + b"\0"),
    "that is empty": unsigned(200, 200, b""),
    "of 2049 bytes": unsigned(200, 200, bytes(2049)),
    "of zeros": unsigned(200, 200),
    "for another ceiling": lambda world: ((OPEN.args(), 201), world.voucher(OPEN, 200), 200),
    "for another channel": lambda world: ((OPEN.args(), 200), world.voucher(channel_number(1), 200), 200),
}

CLAIMS = [
    refused("EmptyBatch", "no row", "claim", lambda world: ([],), OTHER),
    refused("NotAuthorizedToClaim", "a stranger", "claim", claim(unsigned(2000, 1)), OTHER),
    refused("NotAuthorizedToClaim", "the payer", "claim", claim(unsigned(2000, 1)), PAYER),
    refused(
        "NotAuthorizedToClaim",
        "the receiver of one row only",
        "claim",
        claim(unsigned(2000, 1, channel=OPEN.with_(receiver=OTHER.address, receiver_authorizer=OTHER.address))),
        RECEIVER,
    ),
    refused("ClaimExceedsCeiling", "above the ceiling", "claim", claim(unsigned(2000, 1999))),
    refused("ClaimExceedsBalance", "above the balance", "claim", claim(unsigned(1001, 2000))),
    refused("ClaimExceedsBalance", "no such channel", "claim", claim(unsigned(1, 1, channel=channel_number(99)))),
    *(
        refused("InvalidSignature", f"a voucher's signature {name}", "claim", claim(row))
        for name, row in BAD_SIGNATURES.items()
    ),
]


def with_signature(
    *faulty: Callable[[World], tuple[Any, ...]], signer: Key = AUTHORIZER, alter: Callable[[bytes], bytes] = bytes
) -> Callable[[World], tuple[Any, ...]]:
    def arguments(world: World) -> tuple[Any, ...]:
        (rows,) = claim(*faulty)(world)
        return rows, alter(world.batch_signature(rows, signer))

    return arguments


FOREIGN = OPEN.with_(receiver_authorizer=OTHER.address)
SIGNED_CLAIMS = [
    refused("EmptyBatch", "no row", "claimWithSignature", lambda world: ([], b""), OTHER),
    refused(
        "InvalidSignature",
        "a batch signed by another key",
        "claimWithSignature",
        with_signature(unsigned(2000, 1, channel=FOREIGN), signer=RECEIVER),
    ),
    refused("InvalidSignature", "a batch with a high s", "claimWithSignature", with_signature(alter=high_s)),
    refused("InvalidSignature", "a batch unsigned", "claimWithSignature", with_signature(alter=lambda _: bytes(65))),
    refused(
        "InvalidSignature",
        "zero receiverAuthorizer",
        "claimWithSignature",
        lambda world: ([unsigned(2000, 1, channel=BROKEN)(world)], bytes(65)),
    ),
    refused(
        "NotReceiverAuthorizer",
        "a row of another authorizer",
        "claimWithSignature",
        with_signature(unsigned(2000, 1, channel=FOREIGN)),
    ),
    refused("ClaimExceedsCeiling", "above the ceiling", "claimWithSignature", with_signature(unsigned(2000, 1))),
    refused("ClaimExceedsBalance", "above the balance", "claimWithSignature", with_signature(unsigned(2000, 2000))),
    refused(
        "InvalidSignature",
        "a voucher of another key",
        "claimWithSignature",
        with_signature(unsigned(200, 200)),
    ),
]


def after(*steps: Callable[[World], object], then: tuple[Any, ...]) -> Callable[[World], tuple[Any, ...]]:
    def arguments(world: World) -> tuple[Any, ...]:
        for step in steps:
            step(world)
        return then

    return arguments


def initiated(world: World) -> None:
    world.settlement.send("initiateWithdraw", OPEN.args(), 5, sender=PAYER.address)


def plain(*arguments: Any) -> Callable[[World], tuple[Any, ...]]:
    return lambda world: arguments


WITHDRAWALS = [
    refused("InvalidChannel", "a stranger", "initiateWithdraw", after(initiated, then=(OPEN.args(), 0)), OTHER),
    refused("InvalidChannel", "the receiver", "initiateWithdraw", plain(OPEN.args(), 0), RECEIVER),
    refused("NothingToWithdraw", "zero", "initiateWithdraw", after(initiated, then=(OPEN.args(), 0)), PAYER),
    refused(
        "WithdrawalAlreadyPending",
        "a second one",
        "initiateWithdraw",
        after(initiated, then=(OPEN.args(), 901)),
        SIGNER,
    ),
    refused("WithdrawAmountExceedsAvailable", "one too many", "initiateWithdraw", plain(OPEN.args(), 901), PAYER),
    refused(
        "WithdrawAmountExceedsAvailable",
        "no such channel",
        "initiateWithdraw",
        plain(channel_number(99).args(), 1),
        PAYER,
    ),
    refused("NotAuthorizedToFinalizeWithdraw", "a stranger", "finalizeWithdraw", plain(OPEN.args()), OTHER),
    refused("NotAuthorizedToFinalizeWithdraw", "the receiver", "finalizeWithdraw", plain(OPEN.args()), RECEIVER),
    refused("WithdrawalNotPending", "none", "finalizeWithdraw", plain(OPEN.args()), PAYER),
    refused(
        "WithdrawDelayNotElapsed",
        "one second early",
        "finalizeWithdraw",
        # What is sent then is in the next block, one second later.
        after(initiated, lambda world: world.chain.advance(DELAY - 2), then=(OPEN.args(),)),
        SIGNER,
    ),
]

REFUNDS = [
    refused("NotAuthorizedToRefund", "a stranger", "refund", plain(OPEN.args(), 0), OTHER),
    refused("NotAuthorizedToRefund", "the payer", "refund", plain(OPEN.args(), 0), PAYER),
    refused("ZeroRefund", "zero", "refund", plain(OPEN.args(), 0), RECEIVER),
    refused("InvalidRefundNonce", "a nonce ahead", "refundWithSignature", plain(OPEN.args(), 0, 1, bytes(65)), OTHER),
    refused(
        "InvalidRefundNonce",
        "a nonce used",
        "refundWithSignature",
        lambda world: after(
            lambda world: world.settlement.send("refund", OPEN.args(), 1, sender=RECEIVER.address),
            then=(OPEN.args(), 1, 0, world.refund_signature(OPEN, 0, 1)),
        )(world),
        OTHER,
    ),
    refused(
        "InvalidSignature",
        "signed by the receiver",
        "refundWithSignature",
        lambda world: (OPEN.args(), 0, 0, world.refund_signature(OPEN, 0, 0, RECEIVER)),
        OTHER,
    ),
    refused(
        "InvalidSignature",
        "signed for another amount",
        "refundWithSignature",
        lambda world: (OPEN.args(), 2, 0, world.refund_signature(OPEN, 0, 1)),
        OTHER,
    ),
    refused(
        "InvalidSignature",
        "zero receiverAuthorizer",
        "refundWithSignature",
        plain(BROKEN.args(), 1, 0, bytes(65)),
        OTHER,
    ),
    refused(
        "ZeroRefund",
        "zero, signed",
        "refundWithSignature",
        lambda world: (OPEN.args(), 0, 0, world.refund_signature(OPEN, 0, 0)),
        OTHER,
    ),
]

# A token that answers false is found out wherever tokens leave.
ODD = bytes.fromhex("0dd0" * 10)
ODD_CHANNEL = Channel(token=ODD)


def odd_token_open(world: World) -> None:
    """A channel in the odd token, claimed up to 100 of 1000, with a withdrawal that is ripe; then it turns."""
    odd = world.place("OddToken", ODD)
    odd.send("give", PAYER.address, BALANCE, sender=OTHER.address)
    world.settlement.send("deposit", ODD_CHANNEL.args(), BALANCE, world.bringer.address, b"", sender=OTHER.address)
    world.claim(world.row(ODD_CHANNEL, 100))
    world.settlement.send("initiateWithdraw", ODD_CHANNEL.args(), 5, sender=PAYER.address)
    world.chain.advance(DELAY)
    odd.send("behave", 1, sender=OTHER.address)


TOKENS = [
    refused("SafeERC20FailedOperation", "settle", "settle", after(odd_token_open, then=(RECEIVER.address, ODD))),
    refused(
        "SafeERC20FailedOperation",
        "finalizeWithdraw",
        "finalizeWithdraw",
        after(odd_token_open, then=(ODD_CHANNEL.args(),)),
        PAYER,
    ),
    refused(
        "SafeERC20FailedOperation", "refund", "refund", after(odd_token_open, then=(ODD_CHANNEL.args(), 1)), RECEIVER
    ),
]

TABLE = [*DEPOSITS, *CLAIMS, *SIGNED_CLAIMS, *WITHDRAWALS, *REFUNDS, *TOKENS]


@pytest.fixture
def opened(world: World) -> World:
    world.fund(OPEN, BALANCE)
    world.claim(world.row(OPEN, 100))
    world.fund(channel_number(1), BALANCE, salt=1)
    return world


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.function}-{row.error}-{row.name}")
def test_refusal(opened: World, row: Refusal) -> None:
    data = opened.settlement.data(row.function, *row.arguments(opened))
    before = [opened.state(OPEN), opened.state(channel_number(1))]
    assert opened.settlement.refusal_of(data, row.sender.address) == row.error
    assert not opened.chain.send(opened.settlement.address, data, row.sender.address).ok
    assert [opened.state(OPEN), opened.state(channel_number(1))] == before


def test_the_table_has_every_error() -> None:
    listed = {entry["name"] for entry in artifact("BatchSettlement").abi if entry["type"] == "error"}
    assert listed == {row.error for row in TABLE}


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\x02\x03", bytes.fromhex("deadbeef"), bytes(100)])
def test_unknown_functions_are_refused(world: World, data: bytes) -> None:
    assert world.settlement.refusal_of(data) == ""


def test_money_of_the_chain_is_refused(opened: World) -> None:
    rows = [opened.row(OPEN, 200)]
    opened.chain.rpc("anvil_setBalance", "0x" + AUTHORIZER.address.hex(), hex(10**18))
    calls = {
        "claim": (rows,),
        "multicall": ([],),
        "settle": (RECEIVER.address, OPEN.token),
        "refund": (OPEN.args(), 1),
    }
    for name, arguments in calls.items():
        assert opened.settlement.refusal(name, *arguments, sender=AUTHORIZER.address) is None, name
        assert opened.settlement.refusal(name, *arguments, sender=AUTHORIZER.address, value=1) == "", name


def test_calldata_that_is_cut_or_points_astray_is_refused(opened: World) -> None:
    data = opened.settlement.data("claim", [opened.row(OPEN, 200)])
    assert opened.settlement.refusal_of(data, AUTHORIZER.address) is None
    assert opened.settlement.refusal_of(data + bytes(37), AUTHORIZER.address) is None  # a suffix is no harm
    cuts = range(4, len(data) - 31)  # the last 31 bytes only pad the signature
    assert {opened.settlement.refusal_of(data[:cut], AUTHORIZER.address) for cut in cuts} <= {"", "EmptyBatch"}
    # Words that are offsets or lengths: of the array, its count, the row, and the row's signature.
    for at in (4, 36, 68, 100 + 32 * 8, 100 + 32 * 10):
        for value in (2**256 - 1, 2**255, 2**64, 2**32, len(data)):
            astray = data[:at] + value.to_bytes(32, "big") + data[at + 32 :]
            assert opened.settlement.refusal_of(astray, AUTHORIZER.address) in ("", "InvalidSignature")


def test_dirty_words_are_refused(opened: World) -> None:
    """Words too large for their type: five addresses, the delay, the ceiling, the claim."""
    data = opened.settlement.data("claim", [opened.row(OPEN, 200)])
    for word in (0, 1, 2, 3, 4, 5, 7, 9):
        at = 100 + 32 * word
        assert opened.settlement.refusal_of(data[:at] + b"\xff" + data[at + 1 :], AUTHORIZER.address) == ""


def test_the_collector_serves_the_settlement_contract_only(world: World) -> None:
    assert world.collector.read("x402BatchSettlement") == world.settlement.address
    data = world.collector_data(OPEN, 10)
    arguments = PAYER.address, OPEN.token, 10, world.channel_id(OPEN), data
    for sender in (PAYER, OTHER, AUTHORIZER):
        refusal = world.collector.refusal("collect", *arguments, sender=sender.address)
        assert refusal == "OnlyX402BatchSettlement"
    assert world.collector.refusal("collect", *arguments, sender=world.settlement.address) is None
    assert world.collector.address == COLLECTOR_ADDRESS
