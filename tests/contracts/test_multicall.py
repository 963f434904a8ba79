"""multicall of the settlement contract: several calls by one sender, all of them or none."""

from eth_abi.abi import decode

from settlement.contracts import COLLECTOR_ADDRESS
from tests.contracts.chain import keccak
from tests.contracts.world import AUTHORIZER, DELAY, OTHER, PAYER, RECEIVER, Channel, World, channel_number

CHANNEL = Channel()


def test_claim_then_refund(world: World) -> None:
    world.fund(CHANNEL, 1000)
    rows = [world.row(CHANNEL, 300)]
    settlement = world.settlement
    parts = [
        settlement.data("claimWithSignature", rows, world.batch_signature(rows)),
        settlement.data("refundWithSignature", CHANNEL.args(), 1000, 0, world.refund_signature(CHANNEL, 0, 1000)),
        settlement.data("settle", RECEIVER.address, CHANNEL.token),
    ]
    receipt = settlement.send("multicall", parts, sender=OTHER.address)
    assert [name for name, _ in settlement.events(receipt)] == ["Claimed", "Refunded", "Settled"]
    assert {arguments["sender"] for _, arguments in settlement.events(receipt)} == {OTHER.address}
    assert world.state(CHANNEL) == (300, 300)
    assert world.balance(RECEIVER.address) == 300


def test_the_sender_stays_the_sender(world: World) -> None:
    world.fund(CHANNEL, 1000)
    parts = [
        world.settlement.data("initiateWithdraw", CHANNEL.args(), 10),
        world.settlement.data("claim", [world.row(CHANNEL, 300)]),
    ]
    assert world.settlement.refusal("multicall", parts, sender=PAYER.address) == "NotAuthorizedToClaim"
    assert world.settlement.refusal("multicall", parts, sender=AUTHORIZER.address) == "InvalidChannel"
    assert world.settlement.refusal("multicall", parts[1:], sender=AUTHORIZER.address) is None


def test_one_part_that_fails_undoes_all(world: World) -> None:
    world.fund(CHANNEL, 1000)
    claim = world.settlement.data("claim", [world.row(CHANNEL, 300)])
    refund = world.settlement.data("refund", CHANNEL.args(), 0)
    data = world.settlement.data("multicall", [claim, refund])
    assert world.settlement.refusal_of(data, AUTHORIZER.address) == "ZeroRefund"
    assert not world.chain.send(world.settlement.address, data, AUTHORIZER.address).ok
    assert world.state(CHANNEL) == (1000, 0)
    for part in (b"", claim[:3], bytes(4), claim[:100]):
        assert world.settlement.refusal("multicall", [claim, part], sender=AUTHORIZER.address) == ""


def test_deposit_and_withdraw_within_one(world: World) -> None:
    """Parts take the lock one after the other."""
    deposits = [
        world.settlement.data("deposit", CHANNEL.args(), 10, COLLECTOR_ADDRESS, world.collector_data(CHANNEL, 10, salt))
        for salt in range(3)
    ]
    initiate = world.settlement.data("initiateWithdraw", CHANNEL.args(), 30)
    world.settlement.send("multicall", [*deposits, initiate], sender=PAYER.address)
    world.chain.advance(DELAY)
    assert world.state(CHANNEL) == (30, 0)
    assert world.pending(CHANNEL)[0] == 30


def test_results_of_views(world: World) -> None:
    world.fund(CHANNEL, 1000)
    channel_id = world.channel_id(CHANNEL)
    rows = [world.row(CHANNEL, 1)]
    calls = [
        ("channels", channel_id),
        ("getChannelId", CHANNEL.args()),
        ("getClaimBatchDigest", rows),
        ("eip712Domain",),
        ("refundNonce", channel_id),
        ("multicall", [world.settlement.data("channels", channel_id), world.settlement.data("multicall", [])]),
    ]
    parts = [world.settlement.data(*call) for call in calls]
    results = world.settlement.read("multicall", parts)
    assert list(results) == [world.chain.call(world.settlement.address, part) for part in parts]
    assert decode(["uint128", "uint128"], results[0]) == (1000, 0)
    assert world.settlement.read("multicall", []) == ()


def test_bounds(world: World) -> None:
    view = world.settlement.data("refundNonce", bytes(32))
    assert len(world.settlement.read("multicall", [view] * 16)) == 16
    assert world.settlement.refusal("multicall", [view] * 17) == ""
    # A result above 511 bytes is refused, not cut.
    nested = world.settlement.data("multicall", [view] * 4)
    assert world.settlement.refusal("multicall", [nested]) is None
    assert world.settlement.refusal("multicall", [world.settlement.data("multicall", [view] * 5)]) == ""
    # 32 KiB of calldata with everything: 60 rows and a refund fit, more than that is refused, not cut.
    channels = [channel_number(number) for number in range(70)]
    rows = [((channel.args(), 0), bytes(65), 0) for channel in channels]
    refund = world.settlement.data("refund", channels[0].args(), 1)
    claim = world.settlement.data("claim", rows[:60])
    assert world.settlement.refusal("multicall", [claim, refund], sender=RECEIVER.address) is None
    claim = world.settlement.data("claim", rows[:70])
    assert world.settlement.refusal("multicall", [claim, refund], sender=RECEIVER.address) == ""


def test_a_part_that_points_outside_is_refused(world: World) -> None:
    data = world.settlement.data("multicall", [world.settlement.data("refundNonce", bytes(32))])
    assert data[:4] == keccak(b"multicall(bytes[])")[:4]
    assert world.settlement.refusal_of(data) is None
    for at in (4, 36, 68, 100):
        for value in (2**256 - 1, 2**255, 2**32, len(data), 4096):
            astray = data[:at] + value.to_bytes(32, "big") + data[at + 32 :]
            assert world.settlement.refusal_of(astray) == "", (at, value)
