"""Closing: asked for by devices and the operator, claimed and refunded to the unit, whatever others do meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import cbor2
import pytest

from channels.digests import close_digest, refund_digest
from channels.refusals import Refusal
from channels.signatures import sign
from channels.state import Phase
from channels.types import SETTLEMENT_ADDRESS
from devices.messages import Status
from devices.receipts import decode_receipt
from gateway.enrolment import BadRequest
from gateway.ledger import Ledger
from gateway.records import (
    ChannelClosed,
    ChannelClosing,
    ClaimsSigned,
    CycleStarted,
    RefundSigned,
    TransactionMined,
    TransactionSigned,
)
from settlement import calls
from settlement.closing import REFUNDS_MAX
from tests.support.gateway_devices import Payer, secret, to_cbor, to_json
from tests.support.gateway_link import answers
from tests.support.gateway_world import TOKEN, Crash, World, states, until

Make = Callable[..., Awaitable[World]]
BOTH = pytest.mark.parametrize("write", [to_json, to_cbor], ids=["json", "cbor"])
WALLET = 100 * TOKEN


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing settles by itself: tests say when."""

    async def never(_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("gateway.settler.Settler.run", never)


async def ask_to_close(world: World, payer: Payer, **options: Any) -> bytes:
    """Publish a close and wait until it is taken; returns its payload."""
    fields = payer.close(**options)
    payload = to_json(fields)
    await world.link.send(payer.device, "close", payload)
    await until(lambda: world.channel(payer).meter.seq == fields["seq"])
    payer.seq = fields["seq"]
    return payload


async def settle(world: World) -> None:
    """Run one cycle."""
    await world.gateway.settler.settle()
    await world.seen()


async def closed(world: World, payer: Payer, *, deposited: int, owed: int | None = None) -> None:
    """Check on the chain and in the books that the payer got back all but what it owed, and nobody anything else."""
    owed = payer.charged if owed is None else owed
    await world.seen()
    view = await world.view(payer.id)
    assert (view.balance, view.total_claimed) == (owed, owed)
    assert await world.balance(payer.payer) == WALLET - owed
    channel = world.channel(payer)
    assert (channel.phase, channel.balance, channel.claimed) == (Phase.CLOSED, owed, owed)
    assert channel.refunded + channel.withdrawn == deposited - owed
    assert payer.id not in world.ledger.closings
    assert await world.faults() == []


async def refund_by(world: World, payer: Payer, key: bytes, nonce: int, amount: int, *, succeeds: bool = True) -> None:
    """Let anybody submit the refund that the gateway has signed."""
    digest = refund_digest(payer.id, nonce, amount, payer.network)
    signature = sign(digest, world.keys.authorizer.private)
    data = calls.refund_with_signature(payer.config, amount, nonce, signature)
    await world.transact(key, SETTLEMENT_ADDRESS, data, succeeds=succeeds)


def records(world: World) -> list[Any]:
    """Return all that was journaled."""
    journal = world.gateway.books.journal
    return [record for number in range(1, journal.number + 1) for record in journal.records(number)]


# -- the device's side --


@BOTH
async def test_a_close_claims_what_is_owed_and_gives_back_the_rest(world: World, write: Callable[..., bytes]) -> None:
    payer = await world.opened()
    await world.pay(payer, 1_000)
    payload = write(payer.close())
    fields = await world.fields("meter-1", "close", payload)
    await closed(world, payer, deposited=5_000_000)
    if write is to_json:
        assert fields == {
            "status": "accepted",
            "answers": f"0x{answers(payload).hex()}",
            "channelId": f"0x{payer.id.hex()}",
            "seq": 2,
            "maxClaimableAmount": "150000",
            "signature": f"0x{world.channel(payer).ceiling_signature.hex()}",
            "chargedCumulativeAmount": "150000",
            "balance": "150000",
            "commit": world.gateway.books.journal.number - 1,
            "lastSeq": 2,
            "lastRegister": 1_000,
            "lastRemainder": "0",
            "lastOffer": f"0x{payer.offer.id.hex()}",
            "offset": "0",
            "refunded": "4850000",
        } | {"commit": fields["commit"]}
    else:
        assert (fields[8], fields[2], fields[11], fields[16], fields[21]) == (0, 2, 150_000, 2, 4_850_000)
        assert fields[15] == answers(payload)
    (number,) = [
        number
        for number in range(1, world.gateway.books.journal.number + 1)
        if any(isinstance(record, ChannelClosed) for record in world.gateway.books.journal.records(number))
    ]
    assert number == fields["commit" if write is to_json else 13], "the commit that closed it"
    assert world.troubles == []


@pytest.mark.usefixtures("by_hand")
async def test_from_the_close_on_readings_and_opens_are_refused(world: World) -> None:
    payer = await world.opened()
    await world.pay(payer)
    await ask_to_close(world, payer)
    before = states(world.ledger)
    reading = await world.ask("meter-1", "usage", to_json(payer.usage()))
    assert (reading.reason, reading.last_seq) == (Refusal.NOT_OPEN, 2)
    top_up = await world.ask("meter-1", "open", to_json(payer.open(salt=2)))
    assert top_up.reason is Refusal.NOT_OPEN
    assert states(world.ledger) == before
    assert not world.gateway.registry.pending("meter-1")
    assert await world.balance(payer.payer) == WALLET - 5_000_000, "the deposit was not submitted"
    await settle(world)
    await closed(world, payer, deposited=5_000_000)
    late = await world.ask("meter-1", "usage", to_json(payer.usage()))
    assert late.reason is Refusal.NOT_OPEN


@pytest.mark.usefixtures("by_hand")
async def test_a_close_and_a_reading_in_one_batch(world: World) -> None:
    payer = await world.opened()
    first = payer.usage()
    payer.took(first)
    closing, after = to_json(payer.close()), to_json(payer.usage(seq=3))
    batch = [
        world.link.frame("meter-1", leaf, payload)
        for leaf, payload in (("usage", to_json(first)), ("close", closing), ("close", closing), ("usage", after))
    ]
    replies = [decode_receipt(payload) for _, payload in await world.gateway.pipeline.process(batch)]
    assert [reply.reason for reply in replies] == [None, Refusal.NOT_OPEN]
    payer.seq = 2
    conflict = await world.ask("meter-1", "usage", to_json(payer.usage(seq=2)))
    assert conflict.reason is Refusal.SEQ_CONFLICT, "the close used up the seq"
    await settle(world)
    await closed(world, payer, deposited=5_000_000)
    assert len(world.link.receipts_to("meter-1", closing)) == 1


REFUSED: list[tuple[str, dict[str, Any], str, Refusal]] = [
    ("unknown", {"channelId": b"\x07" * 32}, "meter-1", Refusal.UNKNOWN_CHANNEL),
    ("another's", {"device": "meter-2"}, "meter-2", Refusal.WRONG_DEVICE),
    ("a stranger's key", {"key": secret("stranger")}, "meter-1", Refusal.BAD_SIGNATURE),
    ("the payer's key", {"key": secret("payer of meter-1")}, "meter-1", Refusal.BAD_SIGNATURE),
    ("signed for another device", {"device": "meter-2"}, "meter-1", Refusal.BAD_SIGNATURE),
    ("signed for another seq", {"signature": bytes(65)}, "meter-1", Refusal.BAD_SIGNATURE),
    ("a reading's seq", {"seq": 2}, "meter-1", Refusal.SEQ_CONFLICT),
    ("an earlier reading's seq", {"seq": 1}, "meter-1", Refusal.SEQ_CONFLICT),
    ("a seq before all", {"seq": 0}, "meter-1", Refusal.SEQ_OLD),
    ("a seq far ahead", {"seq": 3 + 2**20}, "meter-1", Refusal.SEQ_JUMP),
]


@BOTH
@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize(("options", "device", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_refused(
    world: World, write: Callable[..., bytes], options: dict[str, Any], device: str, reason: Refusal
) -> None:
    payer = await world.opened()
    await world.pay(payer)
    await world.pay(payer)
    before = states(world.ledger)
    answer = await world.ask(device, "close", write(payer.close(**options)))
    assert answer.reason is reason
    assert (answer.last_seq is None) == (reason in (Refusal.UNKNOWN_CHANNEL, Refusal.WRONG_DEVICE))
    assert answer.refunded is None
    assert states(world.ledger) == before
    assert world.gateway.pipeline.counters.refused[reason.wire_name] == 1
    await world.pay(payer)


@pytest.mark.usefixtures("by_hand")
async def test_a_close_signed_for_another_gateway_is_refused(world: World) -> None:
    payer = await world.opened()
    foreign = sign(close_digest(payer.id, "gw2", "meter-1", 1, payer.network), payer.device_key)
    answer = await world.ask("meter-1", "close", to_json(payer.close(signature=foreign)))
    assert answer.reason is Refusal.BAD_SIGNATURE


@pytest.mark.usefixtures("by_hand")
async def test_while_a_deposit_is_on_its_way_nothing_closes(world: World) -> None:
    payer = await world.opened()
    world.miner.auto = False
    top_up = to_json(payer.open(700_000, salt=2))
    await world.link.send("meter-1", "open", top_up)
    await until(lambda: world.gateway.registry.pending("meter-1") is not None)
    answer = await world.ask("meter-1", "close", to_json(payer.close()))
    assert (answer.reason, answer.reason and answer.reason.transient) == (Refusal.DEPOSIT_PENDING, True)
    with pytest.raises(BadRequest, match="is on its way"):
        await world.gateway.closings.close("meter-1", None)
    # Another channel of the device is not concerned.
    assert world.channel(payer).phase is Phase.OPEN
    world.miner.auto = True
    world.mine()
    assert decode_receipt(await world.link.receipt("meter-1", top_up)).balance == 5_700_000
    await ask_to_close(world, payer)
    await settle(world)
    await closed(world, payer, deposited=5_700_000)


@pytest.mark.usefixtures("by_hand")
async def test_what_waits_for_its_first_deposit_is_not_open(world: World) -> None:
    payer = world.payer()
    world.miner.auto = False
    await world.link.send("meter-1", "open", to_json(payer.open()))
    await until(lambda: payer.id in world.ledger.channels)
    assert world.channel(payer).phase is Phase.OPENING
    assert (await world.ask("meter-1", "close", to_json(payer.close()))).reason is Refusal.NOT_OPEN
    with pytest.raises(BadRequest, match="has no open channel"):
        await world.gateway.closings.close("meter-1", None)
    with pytest.raises(BadRequest, match="is on its way"):
        await world.gateway.closings.close("meter-1", payer.id)
    world.miner.auto = True
    world.mine()
    await until(lambda: world.channel(payer).phase is Phase.OPEN)


@pytest.mark.usefixtures("by_hand")
async def test_a_close_sent_again_is_answered_once_at_the_end_and_then_as_a_duplicate(world: World) -> None:
    payer = await world.opened()
    await world.pay(payer)
    payload = await ask_to_close(world, payer)
    fields = payer.close(seq=2)
    other = to_cbor(fields)
    number = world.gateway.books.journal.number
    await world.link.send("meter-1", "close", payload, other, payload)
    await world.ask("meter-1", "usage", b"a frame behind them")
    assert world.gateway.books.journal.number == number, "nothing new was journaled"
    assert world.link.receipts_to("meter-1", payload) == []
    await settle(world)
    for each in (payload, other):
        (answer,) = world.link.receipts_to("meter-1", each)
        assert decode_receipt(answer).status is Status.ACCEPTED
    assert isinstance(cbor2.loads(world.link.receipts_to("meter-1", other)[0]), dict)
    await closed(world, payer, deposited=5_000_000)
    before = states(world.ledger)
    for again in (payload, other, to_json(payer.close(seq=2))):
        answer = await world.ask("meter-1", "close", again)
        assert (answer.status, answer.seq, answer.refunded) == (Status.DUPLICATE, 2, 4_998_500)
    assert states(world.ledger) == before
    assert (await world.ask("meter-1", "close", to_json(payer.close(seq=3)))).reason is Refusal.NOT_OPEN


@pytest.mark.usefixtures("by_hand")
async def test_a_second_close_joins_the_first(world: World) -> None:
    """A device that lost its memory numbers anew, from the receipt it got."""
    payer = await world.opened()
    await world.pay(payer)
    first = await ask_to_close(world, payer)
    second = await ask_to_close(world, payer)
    assert (await world.ask("meter-1", "close", to_json(payer.close(seq=3, key=secret("x"))))).reason
    await world.restart()
    await settle(world)
    assert decode_receipt(await world.link.receipt("meter-1", second)).seq == 3
    await closed(world, payer, deposited=5_000_000)
    assert (await world.ask("meter-1", "close", first)).status is Status.DUPLICATE


@pytest.mark.usefixtures("by_hand")
async def test_a_first_close_is_answered_too_when_a_second_one_joins(world: World) -> None:
    payer = await world.opened()
    first = await ask_to_close(world, payer)
    second = await ask_to_close(world, payer)
    await settle(world)
    statuses = [decode_receipt(await world.link.receipt("meter-1", each)).status for each in (first, second)]
    assert statuses == [Status.DUPLICATE, Status.ACCEPTED]


# -- amounts --


async def test_a_channel_that_was_never_used_is_given_back_whole(world: World) -> None:
    payer = await world.opened()
    assert (await world.ask("meter-1", "close", to_json(payer.close()))).refunded == 5_000_000
    await closed(world, payer, deposited=5_000_000)
    sent = [record.purpose for record in records(world) if isinstance(record, TransactionSigned)]
    assert sent.count("close 1") == 1
    assert sent[-1] == "close 1", "no lane had anything to settle"


async def test_with_nothing_to_refund_there_is_only_a_claim(world: World) -> None:
    payer = await world.opened(amount=1_500_000)
    await world.pay(payer, 10_000)
    receipt = await world.ask("meter-1", "close", to_json(payer.close()))
    assert (receipt.balance, receipt.refunded) == (1_500_000, 0)
    await closed(world, payer, deposited=1_500_000)
    assert not any(isinstance(record, RefundSigned) for record in records(world))


@pytest.mark.usefixtures("by_hand")
async def test_with_nothing_at_all_there_is_no_transaction(world: World) -> None:
    payer = await world.opened()
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 5_000_000))
    world.mine(1_000)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))
    await world.seen()
    payload = await ask_to_close(world, payer)
    sent = sum(isinstance(record, TransactionSigned) for record in records(world))
    await settle(world)
    assert decode_receipt(await world.link.receipt("meter-1", payload)).refunded == 0
    await closed(world, payer, deposited=5_000_000)
    assert sum(isinstance(record, TransactionSigned) for record in records(world)) == sent


@pytest.mark.usefixtures("by_hand")
async def test_netting_comes_first(world: World) -> None:
    """What the party has earned settles part of the debt; the final claim is only for the rest."""
    payer = await world.opened()
    earner = await world.joined("solar-1", payee_key=payer.payer_key)
    await world.pay(payer, 1_000)  # 150,000
    await world.earn(earner, 500)  # 40,000 less 400
    await ask_to_close(world, payer)
    await settle(world)
    assert world.channel(payer).offset == 39_600
    await closed(world, payer, deposited=5_000_000, owed=150_000 - 39_600)


@pytest.mark.usefixtures("by_hand")
async def test_a_debt_above_the_balance_outlives_the_channel(world: World) -> None:
    payer = await world.opened()
    await world.pay(payer, 20_000)  # 3,000,000 of 5,000,000
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 4_000_000))
    world.mine(1_000)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))
    await world.seen()
    payload = await ask_to_close(world, payer)
    await settle(world)
    receipt = decode_receipt(await world.link.receipt("meter-1", payload))
    assert (receipt.cumulative, receipt.balance, receipt.refunded) == (3_000_000, 1_000_000, 0)
    await closed(world, payer, deposited=5_000_000, owed=1_000_000)
    assert world.channel(payer).unclaimed == 2_000_000
    # With a new deposit the debt is claimed; the payer's meter goes on from where it was.
    again = await world.ask("meter-1", "open", to_json(payer.open(4_000_000, salt=2)))
    assert (again.reason, again.balance, again.cumulative) == (None, 5_000_000, 3_000_000)
    await world.pay(payer, 100)
    await settle(world)
    assert world.channel(payer).claimed == 3_015_000
    assert await world.faults() == []


# -- withdrawals --


@pytest.mark.usefixtures("by_hand")
async def test_beside_a_withdrawal_the_claim_goes_first(world: World) -> None:
    payer = await world.opened()
    await world.pay(payer, 1_000)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 4_950_000))
    await world.seen()
    payload = await ask_to_close(world, payer)
    await settle(world)
    channel = world.channel(payer)
    assert (channel.phase, channel.claimed, channel.refunded) == (Phase.CLOSING, 150_000, 0)
    assert not any(isinstance(record, RefundSigned) for record in records(world)), "no refund is out before the claim"
    assert world.gateway.closings.pressing
    await settle(world)
    assert decode_receipt(await world.link.receipt("meter-1", payload)).refunded == 4_850_000
    await closed(world, payer, deposited=5_000_000)
    # 100,000 of the withdrawal stay armed, and take nothing: all that is left is claimed.
    assert (await world.view(payer.id)).withdrawing == world.channel(payer).withdrawing == 100_000
    world.mine(1_000)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))
    await closed(world, payer, deposited=5_000_000)


@pytest.mark.usefixtures("by_hand")
async def test_a_withdrawal_that_starts_and_ends_after_the_refund_was_signed(world: World) -> None:
    """The transaction did not come through for the whole delay: what was signed is used up all the same."""
    payer = await world.opened()
    await world.pay(payer, 1_000)
    await ask_to_close(world, payer)
    assert len(await world.gateway.closings.works()) == 1, "signed and never sent"
    (signed,) = [record for record in records(world) if isinstance(record, RefundSigned)]
    assert (signed.nonce, signed.amount) == (0, 4_850_000)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 4_900_000))
    world.mine(1_000)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))
    await world.seen()
    await settle(world)
    # 100,000 were left: they are claimed, and the refund moved nothing but its nonce. No event tells so: the chain's
    # word for it is asked for once more.
    assert world.channel(payer).phase is Phase.CLOSING
    assert world.gateway.closings.pressing
    await settle(world)
    await closed(world, payer, deposited=5_000_000, owed=100_000)
    assert await world.layer.refund_nonces([payer.id]) == [1]
    await refund_by(world, payer, world.stranger_key, 0, signed.amount, succeeds=False)


# -- strangers --


@pytest.mark.usefixtures("by_hand")
async def test_a_stranger_sends_the_very_refund_first(world: World) -> None:
    payer = await world.opened()
    await world.pay(payer, 1_000)
    payload = await ask_to_close(world, payer)
    await world.gateway.closings.works()
    await refund_by(world, payer, world.stranger_key, 0, 4_850_000)
    await world.seen()
    await settle(world)
    assert decode_receipt(await world.link.receipt("meter-1", payload)).refunded == 4_850_000
    await closed(world, payer, deposited=5_000_000)
    assert await world.layer.refund_nonces([payer.id]) == [1]
    assert world.troubles == []


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("method", ["estimate_all", "send_all"])
async def test_a_stranger_is_faster_between_the_plan_and_the_block(world: World, method: str) -> None:
    """The transaction finds its refund used up: its row is set aside, and the next cycle claims."""
    payer = await world.opened()
    other = await world.opened("meter-2")
    await world.pay(payer, 1_000)
    await world.pay(other, 2_000)
    await ask_to_close(world, payer)
    await ask_to_close(world, other)

    async def first(*_: Any) -> None:
        await refund_by(world, payer, world.stranger_key, 0, 4_850_000)

    world.layer.once_before(method, first)
    await settle(world)
    await closed(world, other, deposited=5_000_000)
    assert world.channel(payer).phase is Phase.CLOSING
    assert payer.id in world.ledger.aside
    assert any("is set aside" in trouble for trouble in world.troubles)
    reverted = [record for record in records(world) if isinstance(record, TransactionMined) and not record.succeeded]
    assert bool(reverted) == (method == "send_all"), "on chain, or already in simulation"
    await settle(world)
    await closed(world, payer, deposited=5_000_000)
    assert not world.ledger.aside


@pytest.mark.usefixtures("by_hand")
async def test_our_own_claim_came_through_before(world: World) -> None:
    payer = await world.opened()
    await world.pay(payer, 1_000)
    await ask_to_close(world, payer)
    (work,) = await world.gateway.closings.works()
    await world.gateway.books.write([ClaimsSigned(((payer.id, 150_000),))])  # as with its transaction
    channel = world.channel(payer)
    row = calls.VoucherClaim(channel.config, channel.ceiling, channel.ceiling_signature, 150_000)
    lane = world.keys.lanes[channel.lane]
    await world.transact(lane.private, SETTLEMENT_ADDRESS, calls.claim([row]))
    call = work.call(work.rows)
    await world.transact(lane.private, SETTLEMENT_ADDRESS, call.data)
    await world.seen()
    await settle(world)
    await closed(world, payer, deposited=5_000_000)


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("signed_before", [False, True])
async def test_a_strangers_deposit_while_closing_goes_back_too(world: World, signed_before: bool) -> None:
    payer = await world.opened()
    await world.pay(payer, 1_000)
    await ask_to_close(world, payer)
    if signed_before:
        await world.gateway.closings.works()
    await world.deposit(payer.config, 700_000, payer.authorization(700_000, 9))
    await world.seen()
    await settle(world)
    if signed_before:
        assert world.channel(payer).phase is Phase.CLOSING
        assert world.gateway.closings.pressing, "there is more to do at once"
        await settle(world)
    await closed(world, payer, deposited=5_700_000)
    assert await world.layer.refund_nonces([payer.id]) == [1 + signed_before]


@pytest.mark.usefixtures("by_hand")
async def test_deposits_without_end_do_not_keep_a_channel_from_closing(world: World) -> None:
    payer = await world.opened()
    await ask_to_close(world, payer)
    cycles = 0
    while world.channel(payer).phase is Phase.CLOSING:
        await world.gateway.closings.works()
        await world.deposit(payer.config, 1_000, payer.authorization(1_000, 100 + cycles))
        await world.seen()
        cycles += 1
        assert cycles < 10
        await settle(world)
    assert await world.layer.refund_nonces([payer.id]) == [REFUNDS_MAX]
    channel = world.channel(payer)
    assert (channel.phase, channel.balance, channel.claimed) == (Phase.CLOSED, 1_000, 0)
    assert await world.faults() == []


# -- rows that fail --


@pytest.mark.usefixtures("by_hand")
async def test_a_refund_that_reverts_holds_up_neither_its_claim_nor_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    payers = [await world.opened(f"meter-{number}") for number in range(1, 6)]
    for payer in payers:
        await world.pay(payer, 1_000)
        await ask_to_close(world, payer)
    bad, *good = payers
    broken = refund_digest(bad.id, 0, 4_850_000, bad.network)

    def spoilt(digest: bytes, key: bytes) -> bytes:
        return bytes(65) if digest == broken else sign(digest, key)

    monkeypatch.setattr("gateway.closings.sign", spoilt)
    await settle(world)
    for payer in good:
        await closed(world, payer, deposited=5_000_000)
    assert world.ledger.aside[bad.id].reason == "InvalidSignature"
    assert [trouble for trouble in world.troubles if "InvalidSignature" in trouble]
    # From now on its claim goes alone; the refund is tried again, later and later.
    await settle(world)
    channel = world.channel(bad)
    assert (channel.phase, channel.claimed, channel.refunded) == (Phase.CLOSING, 150_000, 0)
    attempts = []
    for _ in range(8):
        before = len(world.troubles)
        await settle(world)
        attempts.append(len(world.troubles) > before)
    assert 1 < sum(attempts) < 5
    monkeypatch.undo()
    while world.channel(bad).phase is Phase.CLOSING:
        assert world.ledger.totals.cycles < 100
        await settle(world)
    await closed(world, bad, deposited=5_000_000)
    assert not world.ledger.aside


async def test_more_closings_than_a_transaction_takes(make_world: Make) -> None:
    world = await make_world(lanes=1)
    payers = [await world.opened(f"meter-{device}", 1_000_000, salt=salt) for device in (1, 2) for salt in range(1, 11)]
    for payer in payers[:15]:
        await world.pay(payer, 100)
    closing = asyncio.gather(*(world.ask(payer.device, "close", to_json(payer.close())) for payer in payers))
    receipts = await closing
    assert [receipt.refunded for receipt in receipts] == [985_000] * 15 + [1_000_000] * 5
    assert await world.balance(payers[0].payer) == WALLET - 10 * 15_000
    assert await world.balance(payers[-1].payer) == WALLET - 5 * 15_000
    assert await world.faults() == []
    rows = [
        int(record.purpose.split()[1])
        for record in records(world)
        if isinstance(record, TransactionSigned) and record.purpose.startswith("close")
    ]
    assert sum(rows) == 20
    assert max(rows) <= 14


# -- opening again --


@pytest.mark.usefixtures("by_hand")
async def test_opening_again_goes_on_where_it_was_and_nothing_old_counts(world: World) -> None:
    payer = await world.opened()
    await world.pay(payer, 1_000, ahead=20_000)
    closing = await ask_to_close(world, payer)
    await settle(world)
    await closed(world, payer, deposited=5_000_000)
    before = world.channel(payer)
    # The deposit that it was opened with first is known; it needs a fresh one.
    stale = await world.ask("meter-1", "open", to_json(payer.open()))
    assert (stale.status, stale.balance) == (Status.DUPLICATE, 150_000)
    assert world.channel(payer).phase is Phase.CLOSED
    again = await world.ask("meter-1", "open", to_json(payer.open(2_000_000, salt=2)))
    assert (again.reason, again.balance, again.last_seq, again.cumulative) == (None, 2_150_000, 2, 150_000)
    after = world.channel(payer)
    assert (after.meter, after.charged, after.offset, after.ceiling) == (
        before.meter,
        before.charged,
        before.offset,
        170_000,
    )
    # The old close is answered from what it did then and closes nothing.
    old = await world.ask("meter-1", "close", closing)
    assert (old.status, old.seq) == (Status.DUPLICATE, 2)
    assert world.channel(payer).phase is Phase.OPEN
    # The old refund is used up, and the old voucher, 20,000 ahead then, brings no more than what is owed.
    await refund_by(world, payer, world.stranger_key, 0, 4_850_000, succeeds=False)
    await world.gateway.settler.settle()
    assert (await world.view(payer.id)).total_claimed == 150_000
    await world.pay(payer, 10)
    assert (await world.ask("meter-1", "close", closing)).status is Status.DUPLICATE
    await settle(world)
    assert (await world.view(payer.id)).total_claimed == 151_500
    second = await ask_to_close(world, payer)
    await settle(world)
    receipt = decode_receipt(await world.link.receipt("meter-1", second))
    assert (receipt.seq, receipt.refunded) == (4, 4_850_000 + 1_998_500)
    await closed(world, payer, deposited=7_000_000)
    assert await world.layer.refund_nonces([payer.id]) == [2]


# -- the operator's side --


@pytest.mark.usefixtures("by_hand")
async def test_the_operator_closes_all_channels_of_a_device(world: World) -> None:
    first = await world.opened("meter-1", 1_000_000, salt=1)
    second = await world.opened("meter-1", 2_000_000, salt=2)
    other = await world.opened("meter-2")
    await world.pay(first, 100)
    closings = world.gateway.closings
    ids = await closings.close("meter-1", None)
    assert set(ids) == {first.id, second.id}
    assert await closings.close("meter-1", first.id) == [first.id], "it is closing: wait for it too"
    refused = await world.ask("meter-1", "usage", to_json(first.usage()))
    assert refused.reason is Refusal.NOT_OPEN
    waiting = asyncio.create_task(closings.ended(ids))
    await settle(world)
    await waiting
    assert await world.balance(first.payer) == WALLET - 15_000
    assert world.channel(other).phase is Phase.OPEN
    assert await closings.close("meter-1", first.id) == [first.id], "it is closed: so be it"
    for device, channel, words in (
        ("meter-1", None, "has no open channel"),
        ("meter-9", None, "has no open channel"),
        ("meter-2", first.id, "has no channel"),
    ):
        with pytest.raises(BadRequest, match=words):
            await closings.close(device, channel)
    assert await world.faults() == []
    published = [device for device, _ in world.link.published]
    assert published.count("meter-1") == 4, "two opens, a reading and a refusal: nobody asked for more"


@pytest.mark.usefixtures("by_hand")
async def test_a_device_that_asks_while_the_operator_closes_gets_its_receipt(world: World) -> None:
    payer = await world.opened()
    await world.pay(payer)
    await world.gateway.closings.close("meter-1", None)
    payload = await ask_to_close(world, payer)
    await world.gateway.closings.close("meter-1", None)
    await settle(world)
    receipt = decode_receipt(await world.link.receipt("meter-1", payload))
    assert (receipt.status, receipt.refunded) == (Status.ACCEPTED, 4_998_500)
    await closed(world, payer, deposited=5_000_000)


# -- cut off anywhere --


def _cut_at(world: World, kind: type, after: bool) -> asyncio.Event:
    """Cut the power at the commit of the first record of this kind, before or after it is on disk."""
    journal = world.gateway.books.journal
    commit, durable, reached = journal.commit, journal.durable, asyncio.Event()

    def instead(given: Any) -> Any:
        if journal.commit is commit or not any(isinstance(record, kind) for record in given):
            return commit(given)
        journal.commit = commit  # type: ignore[method-assign]
        never = asyncio.get_running_loop().create_future()
        if not after:
            reached.set()
            return journal.number, never
        number, written = commit(given)
        written.add_done_callback(lambda _: reached.set())
        return number, never

    async def never_after_it() -> None:
        await durable()
        if journal.commit is commit:
            await asyncio.Event().wait()

    journal.commit = instead  # type: ignore[assignment]
    journal.durable = never_after_it  # type: ignore[method-assign]
    return reached


KINDS = [ChannelClosing, CycleStarted, ClaimsSigned, TransactionSigned, TransactionMined, ChannelClosed]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_a_crash_at_each_commit(world: World, kind: type, after: bool) -> None:
    payer = await world.opened()
    await world.pay(payer, 1_000)
    payload = to_json(payer.close())
    reached = _cut_at(world, kind, after)
    await world.link.send("meter-1", "close", payload)
    await reached.wait()
    await world.restart()
    assert await world.faults() == []
    if kind is ChannelClosing and not after:
        await world.link.send("meter-1", "close", payload)  # the broker delivers it again
    if kind is ChannelClosed and after:
        receipt = await world.ask("meter-1", "close", payload)
        assert receipt.status is Status.DUPLICATE
    else:
        receipt = decode_receipt(await world.link.receipt("meter-1", payload))
        assert receipt.status is Status.ACCEPTED
    assert (receipt.seq, receipt.balance, receipt.refunded) == (2, 150_000, 4_850_000)
    await closed(world, payer, deposited=5_000_000)
    assert await world.layer.refund_nonces([payer.id]) == [1]


@pytest.mark.slow
@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("part", range(2))
async def test_a_crash_at_any_question_to_the_chain(world: World, part: int) -> None:
    """Whatever question the power is cut at, two channels are closed to the unit, each with one refund a time."""
    payers = [await world.opened("meter-1", 3_000_000), await world.opened("meter-2", 3_000_000)]
    watchers = frozenset({"head", "events", "transfers_to", "block"})
    left = 10**9

    async def cut(when: str, method: str) -> None:
        nonlocal left
        if method not in watchers:
            left -= 1
            if left < 0:
                raise Crash

    moment, crashes, times = part, 0, 0
    while True:
        times += 1
        for payer in payers:
            if times > 1:
                again = to_json(payer.open(1_000_000, salt=1 + times))
                assert (await world.ask(payer.device, "open", again)).reason is None
            payer.settled_elsewhere = world.channel(payer).offset
            await world.pay(payer, 100)
            await ask_to_close(world, payer)
        left, world.layer.every = moment, cut
        try:
            await world.gateway.settler.settle()
            over = True
        except Crash:
            over, crashes = False, crashes + 1
        fault = await world.crash()
        assert fault is None or isinstance(fault, Crash)
        world.layer.every = None
        await world.start()
        assert await world.faults() == [], f"moment {moment}"
        await settle(world)
        await settle(world)
        for payer in payers:
            await closed(world, payer, deposited=2_000_000 + times * 1_000_000)
            assert await world.layer.refund_nonces([payer.id]) == [times], f"moment {moment}"
        if over:
            break
        moment += 5
    assert crashes > 5


@pytest.mark.usefixtures("by_hand")
async def test_a_closing_survives_restarts_and_replays_alike(world: World) -> None:
    payer = await world.opened()
    await world.pay(payer, 1_000)
    payload = await ask_to_close(world, payer)
    await world.gateway.closings.works()
    before = states(world.ledger)
    await world.restart()  # replayed
    assert states(world.ledger) == before
    await world.stop()  # stored
    await world.start()
    assert _apart_from_time(states(world.ledger)) == _apart_from_time(before)
    assert world.gateway.closings.under_way
    await until(lambda: world.gateway.closings.pressing)
    await settle(world)
    assert decode_receipt(await world.link.receipt("meter-1", payload)).refunded == 4_850_000
    await closed(world, payer, deposited=5_000_000)
    before = states(world.ledger)
    await world.restart()
    assert states(world.ledger) == before
    assert not world.gateway.closings.pressing
    assert isinstance(world.ledger, Ledger)


def _apart_from_time(found: dict[str, Any]) -> dict[str, Any]:
    return {kind: table for kind, table in found.items() if kind not in ("totals", "offer")}
