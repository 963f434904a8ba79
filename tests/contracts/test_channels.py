"""What the settlement contract does when it says yes: state, events and tokens of every function."""

import pytest

from settlement.contracts import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS
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
)

CHANNEL = Channel()


def config(channel: Channel) -> tuple[object, ...]:
    """The configuration as an event shows it."""
    return channel.args()


# ---------------------------------------------------------------------------------------------- deposits


def test_deposit_by_the_collector(world: World) -> None:
    data = world.collector_data(CHANNEL, 700)
    deposit = CHANNEL.args(), 700, COLLECTOR_ADDRESS, data
    receipt = world.settlement.send("deposit", *deposit, sender=OTHER.address)
    channel_id = world.channel_id(CHANNEL)
    assert world.settlement.events(receipt) == [
        ("ChannelCreated", {"channelId": channel_id, "config": config(CHANNEL)}),
        (
            "Deposited",
            {"channelId": channel_id, "sender": OTHER.address, "amount": 700, "newBalance": 700},
        ),
    ]
    assert world.state(CHANNEL) == (700, 0)
    assert world.balance(SETTLEMENT_ADDRESS) == 700
    assert world.balance(PAYER.address) == FUNDS - 700
    assert world.balance(COLLECTOR_ADDRESS) == 0
    # The authorization is spent: the same deposit is refused, another salt tops up.
    refusal = world.settlement.refusal("deposit", *deposit, sender=OTHER.address)
    assert refusal == "authorization is used or canceled"
    receipt = world.settlement.send(
        "deposit", CHANNEL.args(), 50, COLLECTOR_ADDRESS, world.collector_data(CHANNEL, 50, 1), sender=PAYER.address
    )
    assert world.settlement.events(receipt) == [
        ("Deposited", {"channelId": channel_id, "sender": PAYER.address, "amount": 50, "newBalance": 750})
    ]


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("authorization is expired", {"valid_before": 1}),
        ("authorization is not yet valid", {"valid_after": 2**40}),
        ("invalid signature", {"signer": OTHER}),
    ],
)
def test_the_tokens_refusal_is_passed_on(world: World, reason: str, changes: dict[str, object]) -> None:
    data = world.collector_data(CHANNEL, 700, **changes)  # type: ignore[arg-type]
    refusal = world.settlement.refusal("deposit", CHANNEL.args(), 700, COLLECTOR_ADDRESS, data)
    assert refusal == reason


def test_an_authorization_is_for_its_channel_and_amount_only(world: World) -> None:
    data = world.collector_data(CHANNEL, 700)
    other = CHANNEL.with_(receiver=OTHER.address)
    for channel, amount in ((other, 700), (CHANNEL, 699), (CHANNEL, 701)):
        refusal = world.settlement.refusal("deposit", channel.args(), amount, COLLECTOR_ADDRESS, data)
        assert refusal == "invalid signature"
    assert world.settlement.refusal("deposit", CHANNEL.args(), 700, COLLECTOR_ADDRESS, data) is None


def test_deposit_above_the_payers_balance(world: World) -> None:
    data = world.collector_data(CHANNEL, FUNDS + 1)
    refusal = world.settlement.refusal("deposit", CHANNEL.args(), FUNDS + 1, COLLECTOR_ADDRESS, data)
    assert refusal == "transfer amount exceeds balance"


@pytest.mark.parametrize("delay", [900, 2_592_000])
def test_the_shortest_and_the_longest_delay(world: World, delay: int) -> None:
    channel = CHANNEL.with_(withdraw_delay=delay)
    world.fund(channel, 1)
    assert world.state(channel) == (1, 0)


def test_the_largest_balance(world: World) -> None:
    odd = world.place("OddToken", b"\x0d" * 20)
    channel = Channel(token=odd.address)
    odd.send("give", PAYER.address, 2**128, sender=OTHER.address)
    arguments = channel.args(), 2**128 - 1, world.bringer.address, b""
    world.settlement.send("deposit", *arguments, sender=OTHER.address)
    assert world.state(channel) == (2**128 - 1, 0)
    refusal = world.settlement.refusal("deposit", channel.args(), 1, world.bringer.address, b"")
    assert refusal == "DepositOverflow"
    world.claim(world.row(channel, 2**128 - 1))
    assert world.state(channel) == (2**128 - 1, 2**128 - 1)
    assert world.settlement.read("receivers", RECEIVER.address, odd.address) == (2**128 - 1, 0)


# ------------------------------------------------------------------------------------- claims, settlement


def test_claim(world: World) -> None:
    channels = [channel_number(1), channel_number(2, receiver=OTHER.address)]
    for salt, channel in enumerate(channels):
        world.fund(channel, 1000, salt)
    rows = [world.row(channels[0], 300, 400), world.row(channels[1], 1000)]
    receipt = world.settlement.send("claim", rows, sender=AUTHORIZER.address)
    assert world.settlement.events(receipt) == [
        (
            "Claimed",
            {
                "channelId": world.channel_id(channel),
                "sender": AUTHORIZER.address,
                "claimAmount": claimed,
                "newTotalClaimed": claimed,
            },
        )
        for channel, claimed in zip(channels, (300, 1000), strict=True)
    ]
    assert [world.state(channel) for channel in channels] == [(1000, 300), (1000, 1000)]
    assert world.settlement.read("receivers", RECEIVER.address, CHANNEL.token) == (300, 0)
    assert world.settlement.read("receivers", OTHER.address, CHANNEL.token) == (1000, 0)
    assert world.balance(SETTLEMENT_ADDRESS) == 2000


def test_a_replayed_or_overtaken_claim_is_nothing(world: World) -> None:
    world.fund(CHANNEL, 1000)
    late, early = world.row(CHANNEL, 300), world.row(CHANNEL, 200)
    world.claim(late)
    # Rows at or below what is claimed are not even looked at: their signature may be anything.
    receipt = world.settlement.send("claim", [late, early, ((CHANNEL.args(), 0), b"", 300)], sender=AUTHORIZER.address)
    assert receipt.logs == ()
    assert world.state(CHANNEL) == (1000, 300)
    receipt = world.settlement.send(
        "claim", [world.row(CHANNEL, 301, 1000), early, world.row(CHANNEL, 305)], sender=RECEIVER.address
    )
    amounts = [
        (arguments["claimAmount"], arguments["newTotalClaimed"]) for _, arguments in world.settlement.events(receipt)
    ]
    assert amounts == [(1, 301), (4, 305)]
    assert world.settlement.read("receivers", RECEIVER.address, CHANNEL.token) == (305, 0)


def test_claim_with_signature_by_anyone(world: World) -> None:
    channels = [channel_number(number) for number in range(5)]
    for salt, channel in enumerate(channels):
        world.fund(channel, 100, salt)
    rows = [world.row(channel, 10 + number) for number, channel in enumerate(channels)]
    signature = world.batch_signature(rows)
    receipt = world.settlement.send("claimWithSignature", rows, signature, sender=OTHER.address)
    assert [arguments["sender"] for _, arguments in world.settlement.events(receipt)] == [OTHER.address] * 5
    assert [world.state(channel) for channel in channels] == [(100, 10 + number) for number in range(5)]
    # The signature is of these rows in this order.
    for others in (rows[:4], rows[::-1], [world.row(channels[0], 11), *rows[1:]]):
        assert world.settlement.refusal("claimWithSignature", others, signature) == "InvalidSignature"
    assert world.settlement.send("claimWithSignature", rows, signature, sender=OTHER.address).logs == ()


def test_a_claim_of_the_most_rows(world: World) -> None:
    world.token.send("approve", world.bringer.address, FUNDS, sender=PAYER.address)
    channels = [channel_number(number) for number in range(129)]
    for channel in channels:
        world.settlement.send("deposit", channel.args(), 10, world.bringer.address, b"", sender=OTHER.address)
    rows = [world.row(channel, 3) for channel in channels]
    assert world.settlement.refusal("claim", rows, sender=AUTHORIZER.address) == ""
    receipt = world.settlement.send("claim", rows[:128], sender=AUTHORIZER.address)
    assert len(world.settlement.events(receipt)) == 128
    assert world.settlement.read("receivers", RECEIVER.address, CHANNEL.token) == (3 * 128, 0)
    rows = [world.row(channel, 5) for channel in channels[:128]]
    signature = world.batch_signature(rows)
    world.settlement.send("claimWithSignature", rows, signature, sender=OTHER.address)
    assert world.settlement.read("receivers", RECEIVER.address, CHANNEL.token) == (5 * 128, 0)


def test_settle(world: World) -> None:
    world.fund(CHANNEL, 1000)
    nothing = world.settlement.send("settle", RECEIVER.address, CHANNEL.token, sender=OTHER.address)
    assert nothing.logs == ()
    world.claim(world.row(CHANNEL, 300))
    receipt = world.settlement.send("settle", RECEIVER.address, CHANNEL.token, sender=OTHER.address)
    settled = {"receiver": RECEIVER.address, "token": CHANNEL.token, "sender": OTHER.address, "amount": 300}
    assert world.settlement.events(receipt) == [("Settled", settled)]
    assert world.balance(RECEIVER.address) == 300
    assert world.settlement.read("receivers", RECEIVER.address, CHANNEL.token) == (300, 300)
    assert world.settlement.send("settle", RECEIVER.address, CHANNEL.token, sender=OTHER.address).logs == ()
    world.claim(world.row(CHANNEL, 450))
    world.settlement.send("settle", RECEIVER.address, CHANNEL.token, sender=OTHER.address)
    assert world.balance(RECEIVER.address) == 450
    assert world.balance(SETTLEMENT_ADDRESS) == 550


# ------------------------------------------------------------------------------------ withdrawals, refunds


@pytest.mark.parametrize("starts", [PAYER, SIGNER], ids=["payer", "authorizer"])
def test_withdrawal(world: World, starts: Key) -> None:
    world.fund(CHANNEL, 1000)
    world.claim(world.row(CHANNEL, 300))
    channel_id = world.channel_id(CHANNEL)
    receipt = world.settlement.send("initiateWithdraw", CHANNEL.args(), 700, sender=starts.address)
    now = world.chain.now
    initiated = {"channelId": channel_id, "amount": 700, "finalizeAfter": now + DELAY}
    assert world.settlement.events(receipt) == [("WithdrawInitiated", initiated)]
    assert world.pending(CHANNEL) == (700, now)
    world.chain.set_next_time(now + DELAY)
    receipt = world.settlement.send("finalizeWithdraw", CHANNEL.args(), sender=PAYER.address)
    finalized = {"channelId": channel_id, "sender": PAYER.address, "amount": 700}
    assert world.settlement.events(receipt) == [("WithdrawFinalized", finalized)]
    assert world.pending(CHANNEL) == (0, 0)
    assert world.state(CHANNEL) == (300, 300)
    assert world.balance(PAYER.address) == FUNDS - 300
    refusal = world.settlement.refusal("finalizeWithdraw", CHANNEL.args(), sender=PAYER.address)
    assert refusal == "WithdrawalNotPending"


def test_only_a_recorded_claim_is_safe_from_a_withdrawal(world: World) -> None:
    world.fund(CHANNEL, 1000)
    voucher = world.row(CHANNEL, 900)
    world.settlement.send("initiateWithdraw", CHANNEL.args(), 800, sender=PAYER.address)
    world.chain.advance(DELAY)
    # It stays armed: a claim still comes first while nobody finalises, and caps what is left.
    world.chain.advance(30 * DELAY)
    world.claim(world.row(CHANNEL, 600))
    receipt = world.settlement.send("finalizeWithdraw", CHANNEL.args(), sender=SIGNER.address)
    assert world.settlement.events(receipt)[0][1]["amount"] == 400
    assert world.state(CHANNEL) == (600, 600)
    assert world.settlement.refusal("claim", [voucher], sender=AUTHORIZER.address) == "ClaimExceedsBalance"


def test_a_withdrawal_of_what_was_claimed_meanwhile_pays_nothing(world: World) -> None:
    world.fund(CHANNEL, 1000)
    world.settlement.send("initiateWithdraw", CHANNEL.args(), 1000, sender=PAYER.address)
    world.claim(world.row(CHANNEL, 1000))
    world.chain.advance(DELAY)
    receipt = world.settlement.send("finalizeWithdraw", CHANNEL.args(), sender=PAYER.address)
    finalized = {"channelId": world.channel_id(CHANNEL), "sender": PAYER.address, "amount": 0}
    assert world.settlement.events(receipt) == [("WithdrawFinalized", finalized)]
    assert len(receipt.logs) == 1
    assert world.pending(CHANNEL) == (0, 0)
    assert world.state(CHANNEL) == (1000, 1000)


def test_a_drained_channel_is_closed_and_created_again(world: World) -> None:
    world.fund(CHANNEL, 1000)
    channel_id = world.channel_id(CHANNEL)
    closed = ("ChannelClosed", {"channelId": channel_id, "config": config(CHANNEL)})
    world.settlement.send("initiateWithdraw", CHANNEL.args(), 1000, sender=PAYER.address)
    world.chain.advance(DELAY)
    receipt = world.settlement.send("finalizeWithdraw", CHANNEL.args(), sender=PAYER.address)
    assert world.settlement.events(receipt)[1:] == [closed]
    world.fund(CHANNEL, 5, salt=1)
    receipt = world.settlement.send("refund", CHANNEL.args(), 5, sender=RECEIVER.address)
    assert world.settlement.events(receipt)[1:] == [closed]
    data = world.collector_data(CHANNEL, 7, salt=2)
    receipt = world.settlement.send("deposit", CHANNEL.args(), 7, COLLECTOR_ADDRESS, data, sender=OTHER.address)
    created = ("ChannelCreated", {"channelId": channel_id, "config": config(CHANNEL)})
    assert world.settlement.events(receipt)[0] == created
    # Once something was claimed, a drained channel is neither closed nor created again.
    world.claim(world.row(CHANNEL, 1))
    receipt = world.settlement.send("refund", CHANNEL.args(), 100, sender=AUTHORIZER.address)
    assert [name for name, _ in world.settlement.events(receipt)] == ["Refunded"]
    assert world.state(CHANNEL) == (1, 1)
    data = world.collector_data(CHANNEL, 9, salt=3)
    receipt = world.settlement.send("deposit", CHANNEL.args(), 9, COLLECTOR_ADDRESS, data, sender=OTHER.address)
    assert [name for name, _ in world.settlement.events(receipt)] == ["Deposited"]


@pytest.mark.parametrize("sender", [RECEIVER, AUTHORIZER], ids=["receiver", "authorizer"])
def test_refund(world: World, sender: Key) -> None:
    world.fund(CHANNEL, 1000)
    world.claim(world.row(CHANNEL, 300))
    channel_id = world.channel_id(CHANNEL)
    receipt = world.settlement.send("refund", CHANNEL.args(), 200, sender=sender.address)
    refunded = {"channelId": channel_id, "sender": sender.address, "amount": 200}
    assert world.settlement.events(receipt) == [("Refunded", refunded)]
    assert world.state(CHANNEL) == (800, 300)
    assert world.balance(PAYER.address) == FUNDS - 800
    assert world.settlement.read("refundNonce", channel_id) == 1
    receipt = world.settlement.send("refund", CHANNEL.args(), 2**128 - 1, sender=sender.address)
    assert world.settlement.events(receipt)[0][1]["amount"] == 500
    # Nothing left to refund: no transfer and no event, but the nonce still rises.
    assert world.settlement.send("refund", CHANNEL.args(), 1, sender=sender.address).logs == ()
    assert world.settlement.read("refundNonce", channel_id) == 3
    assert world.state(CHANNEL) == (300, 300)


def test_refund_with_signature(world: World) -> None:
    world.fund(CHANNEL, 1000)
    signature = world.refund_signature(CHANNEL, 0, 400)
    receipt = world.settlement.send("refundWithSignature", CHANNEL.args(), 400, 0, signature, sender=OTHER.address)
    refunded = {"channelId": world.channel_id(CHANNEL), "sender": OTHER.address, "amount": 400}
    assert world.settlement.events(receipt) == [("Refunded", refunded)]
    arguments = CHANNEL.args(), 400
    assert world.settlement.refusal("refundWithSignature", *arguments, 0, signature) == "InvalidRefundNonce"
    assert world.settlement.refusal("refundWithSignature", *arguments, 1, signature) == "InvalidSignature"
    signature = world.refund_signature(CHANNEL, 1, 400)
    world.settlement.send("refundWithSignature", *arguments, 1, signature, sender=OTHER.address)
    assert world.state(CHANNEL) == (200, 0)


@pytest.mark.parametrize(("refunded", "left"), [(299, 1), (300, 0), (301, 0)])
def test_a_refund_reduces_or_clears_a_pending_withdrawal(world: World, refunded: int, left: int) -> None:
    world.fund(CHANNEL, 1000)
    world.settlement.send("initiateWithdraw", CHANNEL.args(), 300, sender=PAYER.address)
    initiated_at = world.chain.now
    world.settlement.send("refund", CHANNEL.args(), refunded, sender=RECEIVER.address)
    assert world.pending(CHANNEL) == ((left, initiated_at) if left else (0, 0))


def test_a_zero_authorizer_is_nobody(world: World) -> None:
    """With a zero payerAuthorizer only the payer may withdraw, and the zero address has no right of its own."""
    channel = CHANNEL.with_(payer_authorizer=NOBODY)
    world.fund(channel, 1000)
    world.claim(world.row(channel, 10, signer=PAYER))
    refusal = world.settlement.refusal("claim", [world.row(channel, 11)], sender=AUTHORIZER.address)
    assert refusal == "InvalidSignature"
    world.settlement.send("initiateWithdraw", channel.args(), 5, sender=PAYER.address)
    assert world.pending(channel)[0] == 5
