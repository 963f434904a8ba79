"""Readings through the pipeline: accepted, repeated, refused, and never raised (docs/protocol.md 3 and 5)."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import cbor2
import msgspec
import pytest

from channels.refusals import Refusal
from channels.signatures import HALF_ORDER, ORDER
from channels.types import SETTLEMENT_ADDRESS, U64_MAX, U128_MAX
from devices.link import Frame
from devices.messages import Receipt, Status
from devices.receipts import decode_receipt
from gateway.config import ServiceConfig
from gateway.errors import JournalFault
from settlement import calls
from tests.support.gateway_devices import Earner, Payer, secret, to_cbor, to_json, without
from tests.support.gateway_link import answers
from tests.support.gateway_world import DEVICES, SERVICES, World, states, until

Make = Callable[..., Awaitable[World]]
Write = Callable[[dict[str, Any]], bytes]
BOTH = pytest.mark.parametrize("write", [to_json, to_cbor], ids=["json", "cbor"])

UNDECODABLE = {"status", "reason", "answers"}
NOBODYS = {"status", "reason", "answers", "channelId", "seq"}
CHANNEL = {
    "status", "answers", "channelId", "seq", "maxClaimableAmount", "chargedCumulativeAmount", "balance", "commit",
    "lastSeq", "lastRegister", "lastRemainder", "lastOffer", "offset",
}  # fmt: skip
ACCOUNT = {
    "status", "answers", "accountId", "seq", "earnedCumulativeAmount", "commit", "lastSeq", "lastRegister",
    "lastRemainder", "lastOffer", "offset",
}  # fmt: skip


def frames(world: World, device: str, leaf: str, *payloads: bytes) -> list[Frame]:
    """Frames as the link would hand them over."""
    return [world.link.frame(device, leaf, payload) for payload in payloads]


async def process(world: World, batch: Sequence[Frame]) -> list[Receipt]:
    """Take one batch through the pipeline; returns the receipts in order."""
    return [decode_receipt(payload) for _, payload in await world.gateway.pipeline.process(batch)]


# -- accepted --


@BOTH
async def test_an_accepted_reading_is_answered_in_full(world: World, write: Write) -> None:
    payer = await world.opened(service="data", amount=5_000_000)
    first = payer.usage(10, ahead=2)
    payload = write(first)
    fields = await world.fields("meter-1", "usage", payload)
    payer.took(first)
    assert payer.exact == 3_333_333_330
    number = world.gateway.books.journal.number
    if write is to_json:
        assert fields == {
            "status": "accepted",
            "answers": f"0x{answers(payload).hex()}",
            "channelId": f"0x{payer.id.hex()}",
            "seq": 1,
            "maxClaimableAmount": "5",
            "signature": f"0x{first['signature'].hex()}",
            "chargedCumulativeAmount": "3",
            "balance": "5000000",
            "commit": number,
            "lastSeq": 1,
            "lastRegister": 10,
            "lastRemainder": "333333330",
            "lastOffer": f"0x{payer.offer.id.hex()}",
            "offset": "0",
        }
    else:
        assert fields == {
            1: payer.id, 2: 1, 6: 5, 7: first["signature"], 8: 0, 10: 3, 11: 5_000_000, 13: number,
            15: answers(payload), 16: 1, 17: 10, 18: 333_333_330, 19: payer.offer.id, 20: 0,
        }  # fmt: skip
    # A lower ceiling that still covers what is owed: the higher one stays held.
    second = payer.usage(3)
    receipt = await world.ask("meter-1", "usage", write(second))
    payer.took(second)
    assert second["maxClaimableAmount"] == 4
    assert (receipt.ceiling, receipt.signature, receipt.cumulative) == (5, first["signature"], 4)
    assert (receipt.last_remainder, receipt.last_seq) == (payer.exact % 10**9, 2)


@BOTH
async def test_an_accepted_earning_is_answered_in_full(world: World, write: Write) -> None:
    earner = await world.joined(service="air-quality")
    reading = earner.earn(10)
    payload = write(reading)
    fields = await world.fields("solar-1", "earn", payload)
    number = world.gateway.books.journal.number
    if write is to_json:
        assert fields == {
            "status": "accepted",
            "answers": f"0x{answers(payload).hex()}",
            "accountId": f"0x{earner.id.hex()}",
            "seq": 1,
            "earnedCumulativeAmount": "3",
            "commit": number,
            "lastSeq": 1,
            "lastRegister": 10,
            "lastRemainder": "333333330",
            "lastOffer": f"0x{earner.offer.id.hex()}",
            "offset": "0",
        }
    else:
        assert fields == {
            1: earner.id, 2: 1, 8: 0, 10: 3, 13: number, 15: answers(payload), 16: 1, 17: 10, 18: 333_333_330,
            19: earner.offer.id, 20: 0,
        }  # fmt: skip


async def test_charges_add_up_to_the_floor_of_the_exact_sum(world: World) -> None:
    seed = 4711
    rng = random.Random(seed)
    payer = await world.opened(service="data", amount=50_000_000)
    earner = await world.joined(service="air-quality")
    batch: list[Frame] = []
    fee_exact = earned = 0
    for _ in range(300):
        batch += frames(world, "meter-1", "usage", payer.next_usage(rng.randrange(1, 2_000)))
        before = earner.earned
        batch += frames(world, "solar-1", "earn", earner.next_earn(rng.randrange(1, 2_000)))
        fee_exact += (earner.earned - before) * world.config.settlement.fee_bps
        earned = earner.earned
    receipts = await process(world, batch)
    assert [receipt.status for receipt in receipts] == [Status.ACCEPTED] * 600, f"seed {seed}"
    channel, account = world.channel(payer), world.account(earner)
    assert (channel.charged, channel.meter.remainder) == divmod(payer.exact, 10**9)
    assert (account.earned, account.meter.remainder) == divmod(earner.exact, 10**9)
    assert (account.fee, account.fee_remainder) == divmod(fee_exact, 10**4)
    assert account.earned == earned


async def test_a_batch_with_many_messages_of_one_channel_is_one_commit(world: World) -> None:
    payer = await world.opened()
    number = world.gateway.books.next_number
    good = [payer.next_usage(1) for _ in range(40)]
    bad = to_json(payer.usage(1, key=secret("nobody")))
    receipts = await process(world, frames(world, "meter-1", "usage", *good[:20], bad, *good[20:], good[3], bad))
    assert [receipt.seq for receipt in receipts] == [*range(1, 21), 41, *range(21, 41), 4, 41]
    assert [int(receipt.status) for receipt in receipts] == [0] * 20 + [2] + [0] * 20 + [1, 2]
    assert {receipt.commit for receipt in receipts} == {number}
    assert world.gateway.books.journal.number == number
    # Each receipt shows the state after its own message.
    assert [receipt.last_seq for receipt in receipts[:21]] == [*range(1, 21), 20]
    assert receipts[20].reason is Refusal.BAD_SIGNATURE
    assert receipts[-1].last_seq == 40
    assert world.gateway.pipeline.counters.accepted == 40
    assert world.gateway.pipeline.counters.duplicates == 1
    assert world.gateway.pipeline.counters.refused == {"bad_signature": 2}


async def test_a_batch_without_a_change_is_no_commit(world: World) -> None:
    payer = await world.opened()
    first = payer.next_usage(1)
    (receipt,) = await process(world, frames(world, "meter-1", "usage", first))
    number = world.gateway.books.journal.number
    assert receipt.commit == number
    again, refused = await process(
        world, frames(world, "meter-1", "usage", first, to_json(payer.usage(1, key=secret("nobody"))))
    )
    assert (again.commit, refused.commit) == (number, number)
    assert world.gateway.books.journal.number == number


async def test_order_of_a_batch_across_devices(world: World) -> None:
    payers = [await world.opened(device) for device in DEVICES[:4]]
    seed = 99
    rng = random.Random(seed)
    batch = []
    for _ in range(64):
        payer = rng.choice(payers)
        batch += frames(world, payer.device, "usage", payer.next_usage(1))
    out = await world.gateway.pipeline.process(batch)
    assert [device for device, _ in out] == [frame.device for frame in batch], f"seed {seed}"
    assert all(decode_receipt(payload).status is Status.ACCEPTED for _, payload in out)


# -- the same again --


def _kept(receipt: Receipt) -> dict[str, Any]:
    """What a duplicate's receipt shares with the first one's."""
    fields = msgspec.structs.asdict(receipt)
    return {name: value for name, value in fields.items() if name not in ("status", "answers", "account")}


@pytest.mark.parametrize("second", [to_json, to_cbor], ids=["then-json", "then-cbor"])
@pytest.mark.parametrize("first", [to_json, to_cbor], ids=["json", "cbor"])
async def test_a_duplicate_gets_the_stored_receipt(world: World, first: Write, second: Write) -> None:
    payer = await world.opened()
    earner = await world.joined()
    for device, leaf, fields, took in (
        ("meter-1", "usage", payer.usage(10, ahead=5), payer.took),
        ("solar-1", "earn", earner.earn(10), earner.took),
    ):
        original = await world.ask(device, leaf, first(fields))
        took(fields)
        assert original.status is Status.ACCEPTED
        # In between, the state goes on and the receipt does not.
        await (world.pay(payer) if leaf == "usage" else world.earn(earner))
        for payload in (second(fields), first(fields)):
            again = await world.ask(device, leaf, payload)
            assert again.status is Status.DUPLICATE
            assert again.answers == answers(payload)
            assert _kept(again) == _kept(original)
        # The clock and the reading's own signature are not part of what is compared.
        later = payer.usage(10, seq=fields["seq"], register=fields["register"], time=5,
                            ceiling=fields["maxClaimableAmount"]) if leaf == "usage" else earner.earn(
            seq=fields["seq"], register=fields["register"], time=5)  # fmt: skip
        again = await world.ask(device, leaf, second(later))
        assert (again.status, _kept(again)) == (Status.DUPLICATE, _kept(original))


async def test_a_duplicate_in_the_same_batch(world: World) -> None:
    payer = await world.opened()
    earner = await world.joined()
    reading, earning = payer.usage(10), earner.earn(10)
    batch = frames(world, "meter-1", "usage", to_json(reading), to_cbor(reading), to_json(reading))
    batch += frames(world, "solar-1", "earn", to_cbor(earning), to_json(earning))
    receipts = await process(world, batch)
    assert [int(receipt.status) for receipt in receipts] == [0, 1, 1, 0, 1]
    assert _kept(receipts[0]) == _kept(receipts[1]) == _kept(receipts[2])
    assert _kept(receipts[3]) == _kept(receipts[4])
    assert world.ledger.totals.payments == 1
    assert world.ledger.totals.earnings == 1


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
async def test_a_duplicate_after_a_restart(world: World, crash: bool) -> None:
    payer = await world.opened()
    earner = await world.joined()
    readings = [to_cbor(payer.usage(10, ahead=9))]
    payer.took(payer.usage(10))
    readings += [payer.next_usage(1) for _ in range(5)]
    earnings = [earner.next_earn(1) for _ in range(3)]
    batch = frames(world, "meter-1", "usage", *readings) + frames(world, "solar-1", "earn", *earnings)
    before = await process(world, batch)
    assert {int(receipt.status) for receipt in before} == {0}
    for _ in range(2):
        if crash:
            await world.restart()
        else:
            await world.stop()
            await world.start()
        batch = frames(world, "meter-1", "usage", *readings) + frames(world, "solar-1", "earn", *earnings)
        after = await process(world, batch)
        assert {int(receipt.status) for receipt in after} == {1}
        assert list(map(_kept, after)) == list(map(_kept, before))


async def test_the_last_1024_readings_are_kept(world: World) -> None:
    payer = await world.opened(amount=50_000_000)
    oldest = payer.next_usage(1)
    (original,) = await process(world, frames(world, "meter-1", "usage", oldest))
    for _ in range(33):
        batch = frames(world, "meter-1", "usage", *(payer.next_usage(1) for _ in range(31)))
        await process(world, batch)
    assert payer.seq == 1 + 1023
    (again,) = await process(world, frames(world, "meter-1", "usage", oldest))
    assert (again.status, _kept(again)) == (Status.DUPLICATE, _kept(original))
    await world.restart()
    (again,) = await process(world, frames(world, "meter-1", "usage", oldest))
    assert (again.status, _kept(again)) == (Status.DUPLICATE, _kept(original))
    for _ in range(33):
        await process(world, frames(world, "meter-1", "usage", *(payer.next_usage(1) for _ in range(32))))
    (late,) = await process(world, frames(world, "meter-1", "usage", oldest))
    assert (late.status, late.reason, late.last_seq) == (Status.REFUSED, Refusal.SEQ_OLD, payer.seq)


# -- refused: each reason of chapter 5, in its order --

OTHER_KEY = secret("nobody")


def high_s(fields: dict[str, Any], name: str = "signature") -> dict[str, Any]:
    """The same signature in its other form, which the contract refuses."""
    signature = fields[name]
    s = ORDER - int.from_bytes(signature[32:64], "big")
    assert s > HALF_ORDER
    return fields | {name: signature[:32] + s.to_bytes(32, "big") + bytes((55 - signature[64],))}


def wrong_v(fields: dict[str, Any], name: str = "signature") -> dict[str, Any]:
    """The same signature with v 0 or 1, as some libraries write it."""
    return fields | {name: fields[name][:64] + bytes((fields[name][64] - 27,))}


USAGE: list[tuple[str, Callable[[Payer], dict[str, Any]], Refusal, int | None]] = [
    ("an unknown channel", lambda p: p.usage(channelId=bytes(32)), Refusal.UNKNOWN_CHANNEL, None),
    ("another signer", lambda p: p.usage(key=OTHER_KEY), Refusal.BAD_SIGNATURE, None),
    ("the payer instead of its authorizer", lambda p: p.usage(key=p.payer_key), Refusal.BAD_SIGNATURE, None),
    ("high s", lambda p: high_s(p.usage()), Refusal.BAD_SIGNATURE, None),
    ("v 0 or 1", lambda p: wrong_v(p.usage()), Refusal.BAD_SIGNATURE, None),
    ("no signature at all", lambda p: p.usage() | {"signature": bytes(65)}, Refusal.BAD_SIGNATURE, None),
    ("the voucher of another amount", lambda p: p.usage() | {"maxClaimableAmount": 9_999}, Refusal.BAD_SIGNATURE, None),
    ("a bad reading signature", lambda p: p.usage(reading_key=OTHER_KEY), Refusal.BAD_SIGNATURE, None),
    (
        "a reading signature over another time",
        lambda p: p.usage(reading_key=p.device_key) | {"time": 1},
        Refusal.BAD_SIGNATURE,
        None,
    ),
    ("other content under the last seq", lambda p: p.usage(11, seq=2, ceiling=9_000), Refusal.SEQ_CONFLICT, None),
    ("another ceiling under an earlier seq", lambda p: p.usage(seq=1, register=10), Refusal.SEQ_CONFLICT, None),
    ("seq 0", lambda p: p.usage(seq=0), Refusal.SEQ_OLD, None),
    ("a seq too far", lambda p: p.usage(seq=2 + 2**20 + 1), Refusal.SEQ_JUMP, None),
    ("the last seq there is", lambda p: p.usage(seq=U64_MAX), Refusal.SEQ_JUMP, None),
    ("an unknown offer", lambda p: p.usage(offer=bytes(16)), Refusal.OFFER_UNKNOWN, None),
    ("a lower register", lambda p: p.usage(register=19, ceiling=3_000), Refusal.REGISTER_LOWER, None),
    ("a register too far", lambda p: p.usage(1_000_001), Refusal.REGISTER_JUMP, None),
    ("the last register there is", lambda p: p.usage(register=U64_MAX, ceiling=1), Refusal.REGISTER_JUMP, None),
    ("a ceiling one too low", lambda p: p.usage(10, ceiling=4_499), Refusal.CEILING_TOO_LOW, 4_500),
    ("no ceiling", lambda p: p.usage(10, ceiling=0), Refusal.CEILING_TOO_LOW, 4_500),
    ("a ceiling above the balance", lambda p: p.usage(10, ceiling=2_000_001), Refusal.CEILING_ABOVE_BALANCE, None),
    ("the highest ceiling there is", lambda p: p.usage(ceiling=U128_MAX), Refusal.CEILING_ABOVE_BALANCE, None),
    ("a ceiling one too far", lambda p: p.usage(10, ceiling=1_004_501), Refusal.CEILING_TOO_FAR, None),
]


@BOTH
@pytest.mark.parametrize(("make", "refusal", "required"), [row[1:] for row in USAGE], ids=[row[0] for row in USAGE])
async def test_a_usage_is_refused(
    world: World, write: Write, make: Callable[[Payer], dict[str, Any]], refusal: Refusal, required: int | None
) -> None:
    payer = await world.opened(amount=2_000_000)
    await world.pay(payer, 10)
    held = payer.usage(10)
    await world.pay(payer, 10)
    before = states(world.ledger)
    number = world.gateway.books.journal.number
    message = make(payer)
    payload = write(message)
    fields = await world.fields("meter-1", "usage", payload)
    expected: dict[Any, Any] = {
        "status": "refused",
        "reason": refusal.wire_name,
        "answers": f"0x{answers(payload).hex()}",
        "channelId": f"0x{message['channelId'].hex()}",
        "seq": message["seq"] if message["seq"] < 2**53 else str(message["seq"]),
    }
    binary: dict[Any, Any] = {1: message["channelId"], 2: message["seq"], 8: 2, 9: int(refusal), 15: answers(payload)}
    if refusal is not Refusal.UNKNOWN_CHANNEL:
        expected |= {
            "maxClaimableAmount": "3000",
            "signature": f"0x{held['signature'].hex()}",
            "chargedCumulativeAmount": "3000",
            "balance": "2000000",
            "commit": number,
            "lastSeq": 2,
            "lastRegister": 20,
            "lastRemainder": "0",
            "lastOffer": f"0x{payer.offer.id.hex()}",
            "offset": "0",
        }
        binary |= {
            6: 3_000, 7: held["signature"], 10: 3_000, 11: 2_000_000, 13: number, 16: 2, 17: 20, 18: 0,
            19: payer.offer.id, 20: 0,
        }  # fmt: skip
    if required is not None:
        expected["requiredCeiling"] = str(required)
        binary[12] = required
    assert fields == (expected if write is to_json else binary)
    assert states(world.ledger) == before, "a refusal changed a state"
    assert world.gateway.books.journal.number == number
    assert world.gateway.pipeline.counters.refused == {refusal.wire_name: 1}
    assert world.link.acknowledged[-1].payload == payload
    # It used up nothing: what would have been right is still right.
    await world.pay(payer, 10)


async def test_at_the_bounds_a_usage_is_accepted(world: World) -> None:
    payer = await world.opened(amount=2_000_000)
    await world.pay(payer, 10, ahead=1_000_000)  # exactly as far ahead as the offer allows
    await world.pay(payer, 10, seq=1 + 2**20)  # exactly as far as a seq may jump
    await world.pay(payer, 0)  # the register may stand still
    await world.pay(payer, 10, ceiling=2_000_000 - 1_000_000)
    payer = await world.opened("meter-2", amount=100_000_000, service="data")
    await world.pay(payer, 3 * 10**8)  # the whole balance less 100 units
    assert world.channel(payer).charged == 99_999_999
    await world.pay(payer, 0, ceiling=100_000_000)


async def test_a_charge_that_would_overflow_is_refused(make_world: Make) -> None:
    huge = ServiceConfig(unit="B", price=str(2**64 - 1), max_step=2**53 - 1)
    world = await make_world(services=SERVICES | {"data": huge})
    payer = await world.opened(service="data")
    channel = world.channel(payer)
    world.ledger.channels[payer.id] = msgspec.structs.replace(channel, charged=U128_MAX - 5, offset=U128_MAX - 5)
    answer = await world.ask("meter-1", "usage", to_json(payer.usage(10**6, ceiling=100)))
    assert answer.reason is Refusal.OVERFLOW
    assert answer.required_ceiling is None


EARN: list[tuple[str, Callable[[Earner], dict[str, Any]], Refusal]] = [
    ("an unknown account", lambda e: e.earn(accountId=bytes(32)), Refusal.UNKNOWN_CHANNEL),
    ("another signer", lambda e: e.earn(key=OTHER_KEY), Refusal.BAD_SIGNATURE),
    ("the payee instead of the meter", lambda e: e.earn(key=e.payee_key), Refusal.BAD_SIGNATURE),
    ("high s", lambda e: high_s(e.earn(), "readingSignature"), Refusal.BAD_SIGNATURE),
    ("v 0 or 1", lambda e: wrong_v(e.earn(), "readingSignature"), Refusal.BAD_SIGNATURE),
    ("a changed register", lambda e: e.earn() | {"register": 31}, Refusal.BAD_SIGNATURE),
    ("a changed time", lambda e: e.earn() | {"time": 31}, Refusal.BAD_SIGNATURE),
    ("other content under the last seq", lambda e: e.earn(11, seq=2), Refusal.SEQ_CONFLICT),
    ("other content under an earlier seq", lambda e: e.earn(seq=1, register=9), Refusal.SEQ_CONFLICT),
    ("seq 0", lambda e: e.earn(seq=0), Refusal.SEQ_OLD),
    ("a seq too far", lambda e: e.earn(seq=2 + 2**20 + 1), Refusal.SEQ_JUMP),
    ("an unknown offer", lambda e: e.earn(offer=bytes(16)), Refusal.OFFER_UNKNOWN),
    ("a lower register", lambda e: e.earn(register=19), Refusal.REGISTER_LOWER),
    ("a register too far", lambda e: e.earn(1_000_001), Refusal.REGISTER_JUMP),
]


@BOTH
@pytest.mark.parametrize(("make", "refusal"), [row[1:] for row in EARN], ids=[row[0] for row in EARN])
async def test_an_earn_is_refused(
    world: World, write: Write, make: Callable[[Earner], dict[str, Any]], refusal: Refusal
) -> None:
    earner = await world.joined()
    await world.earn(earner, 10)
    await world.earn(earner, 10)
    before = states(world.ledger)
    number = world.gateway.books.journal.number
    message = make(earner)
    payload = write(message)
    fields = await world.fields("solar-1", "earn", payload)
    expected: dict[Any, Any] = {
        "status": "refused",
        "reason": refusal.wire_name,
        "answers": f"0x{answers(payload).hex()}",
        "accountId": f"0x{message['accountId'].hex()}",
        "seq": message["seq"],
    }
    binary: dict[Any, Any] = {1: message["accountId"], 2: message["seq"], 8: 2, 9: int(refusal), 15: answers(payload)}
    if refusal is not Refusal.UNKNOWN_CHANNEL:
        expected |= {
            "earnedCumulativeAmount": "1600",
            "commit": number,
            "lastSeq": 2,
            "lastRegister": 20,
            "lastRemainder": "0",
            "lastOffer": f"0x{earner.offer.id.hex()}",
            "offset": "0",
        }
        binary |= {10: 1_600, 13: number, 16: 2, 17: 20, 18: 0, 19: earner.offer.id, 20: 0}
    assert fields == (expected if write is to_json else binary)
    assert states(world.ledger) == before
    assert world.gateway.books.journal.number == number
    assert world.gateway.pipeline.counters.refused == {refusal.wire_name: 1}
    await world.earn(earner, 10)


async def test_anothers_channel_tells_nothing(world: World) -> None:
    payer = await world.opened()
    earner = await world.joined()
    await world.opened("meter-2")
    for device, leaf, fields, name in (
        ("meter-2", "usage", payer.usage(), "channelId"),
        ("solar-2", "earn", earner.earn(), "accountId"),
    ):
        before = states(world.ledger)
        shown = await world.fields(device, leaf, to_json(fields))
        assert set(shown) == NOBODYS - {"channelId"} | {name}
        assert shown["reason"] == "wrong_device"
        assert set(await world.fields(device, leaf, to_cbor(fields))) == {1, 2, 8, 9, 15}
        assert states(world.ledger) == before
    # A duplicate of the owner's reading, sent by another, is not answered with the owner's receipt either.
    reading = to_json(payer.usage())
    await world.ask("meter-1", "usage", reading)
    assert set(await world.fields("meter-2", "usage", reading)) == NOBODYS


async def test_a_channel_is_no_account_and_an_account_no_channel(world: World) -> None:
    payer = await world.opened()
    earner = await world.joined("meter-1")
    assert (await world.ask("meter-1", "usage", to_json(payer.usage(channelId=earner.id)))).reason is (
        Refusal.UNKNOWN_CHANNEL
    )
    assert (await world.ask("meter-1", "earn", to_json(earner.earn(accountId=payer.id)))).reason is (
        Refusal.UNKNOWN_CHANNEL
    )


@pytest.mark.parametrize("leaf", ["usage", "earn", "open"])
async def test_what_cannot_be_read_is_answered_bare(world: World, leaf: str) -> None:
    rows = [
        (b"", "malformed"),
        (b"{", "malformed"),
        (b"{}", "malformed"),
        (b"\xa0", "malformed"),
        (b"\xff" * 64, "malformed"),
        (b" {}", "malformed"),
        (b"{" + b" " * 4096, "too_large"),
        (b"\x00" * 4097, "too_large"),
    ]
    before = states(world.ledger)
    batch = frames(world, "meter-1", leaf, *(payload for payload, _ in rows))
    await world.link.deliver(batch)
    import json

    for payload, reason in rows:
        fields = json.loads(await world.link.receipt("meter-1", payload))
        assert fields == {"status": "refused", "reason": reason, "answers": f"0x{answers(payload).hex()}"}
    assert world.link.acknowledged == batch
    assert states(world.ledger) == before
    assert world.gateway.pipeline.counters.refused == {"malformed": 6, "too_large": 2}


async def test_state_is_counted_and_not_answered(world: World) -> None:
    await world.link.send("meter-1", "state", to_json({"state": "online", "session": 3}), to_json({"state": "lost"}))
    await world.link.send("meter-1", "state", b"", b"{", b"5", b"x" * 5_000)
    await world.ask("meter-1", "usage", b"")
    assert world.gateway.pipeline.counters.states == 2
    assert world.gateway.pipeline.counters.refused == {"malformed": 4, "too_large": 1}
    assert len(world.link.published) == 1
    assert len(world.link.acknowledged) == 7


# -- two rules broken at once: the first in the order of chapter 5 names the refusal --

# Each breaks one rule, in the order in which they are checked; `apply` changes arguments of `usage`.
RULES: list[tuple[Refusal, dict[str, Any]]] = [
    (Refusal.UNKNOWN_CHANNEL, {"channelId": bytes(32)}),
    (Refusal.WRONG_DEVICE, {"device": "meter-2"}),
    (Refusal.BAD_SIGNATURE, {"key": OTHER_KEY}),
    (Refusal.SEQ_CONFLICT, {"seq": 1}),
    (Refusal.SEQ_OLD, {"seq": 0}),
    (Refusal.SEQ_JUMP, {"seq": 2**40}),
    (Refusal.NOT_OPEN, {"opening": True}),
    (Refusal.OFFER_UNKNOWN, {"offer": bytes(16)}),
    (Refusal.OFFER_EXPIRED, {"expired": True}),
    (Refusal.OFFER_REGRESSED, {"regressed": True}),
    (Refusal.REGISTER_LOWER, {"register": 9}),
    (Refusal.REGISTER_JUMP, {"register": 9_000_000}),
    (Refusal.CEILING_TOO_LOW, {"ceiling": 1_499}),
    (Refusal.CEILING_ABOVE_BALANCE, {"ceiling": 2_000_001}),
    (Refusal.CEILING_TOO_FAR, {"ceiling": 1_500 + 1_000_001 + 1_500}),
    (Refusal.CHAIN_STALE, {"stale": True}),
]
PAIRS = [
    (first, second)
    for index, first in enumerate(RULES)
    for second in RULES[index + 1 :]
    if not set(first[1]) & set(second[1])  # both cannot be broken by one field
    # What is expired is neither regressed nor unknown in this world of two offers.
    and {first[0], second[0]} - {Refusal.OFFER_EXPIRED, Refusal.OFFER_REGRESSED, Refusal.OFFER_UNKNOWN}
]


async def test_the_first_broken_rule_names_the_refusal(make_world: Make) -> None:
    world = await make_world()
    old_offer = world.gateway.terms.current
    await world.stop()
    world.config = msgspec.structs.replace(
        world.config, services=SERVICES | {"water": ServiceConfig(unit="L", price="1")}
    )
    await world.start()
    payer = await world.opened(amount=2_000_000)
    await world.opened("meter-2")
    await world.pay(payer, 10)
    channel = world.channel(payer)
    grace = world.config.offer.grace
    clock = world.gateway.terms.clock
    from channels.state import Phase

    async def refusal(*broken: dict[str, Any]) -> Refusal | None:
        given: dict[str, Any] = {}
        for each in broken:
            given |= each
        device = given.pop("device", "meter-1")
        opening, expired = given.pop("opening", False), given.pop("expired", False)
        regressed, stale = given.pop("regressed", False), given.pop("stale", False)
        if regressed or expired:
            given["offer"] = old_offer.id
        world.gateway.terms.clock = (lambda: clock() + 2 * grace) if expired else clock
        world.gateway.terms.silence = (lambda: 1e9) if stale else (lambda: 0.0)
        world.ledger.channels[payer.id] = msgspec.structs.replace(channel, phase=Phase.OPENING) if opening else channel
        (receipt,) = await process(world, frames(world, device, "usage", to_json(payer.usage(10, **given))))
        world.ledger.channels[payer.id] = channel
        return receipt.reason

    for expected, broken in RULES:
        assert await refusal(broken) is expected
    assert len(PAIRS) > 80
    for (first, one), (second, other) in PAIRS:
        assert await refusal(one, other) is first, f"{first.wire_name} comes before {second.wire_name}"
    world.gateway.terms.clock = clock
    world.gateway.terms.silence = lambda: 0.0
    await world.pay(payer, 10)


async def test_an_offer_may_not_go_back(make_world: Make) -> None:
    world = await make_world()
    payer = await world.opened()
    earner = await world.joined()
    old = payer.offer
    await world.stop()
    cheaper = ServiceConfig(unit="Wh", price="100000000000")
    world.config = msgspec.structs.replace(world.config, services=SERVICES | {"grid-power": cheaper})
    await world.start()
    await world.pay(payer, 10)  # under the old offer, within its grace
    await world.earn(earner, 10)
    payer.offer = earner.offer = world.gateway.terms.current
    await world.pay(payer, 10)
    await world.earn(earner, 10)
    assert world.channel(payer).charged == 1_500 + 1_000
    payer.offer = earner.offer = old
    assert (await world.ask("meter-1", "usage", to_json(payer.usage()))).reason is Refusal.OFFER_REGRESSED
    assert (await world.ask("solar-1", "earn", to_json(earner.earn()))).reason is Refusal.OFFER_REGRESSED
    # Also after a restart, where the meter's serial comes from the journal.
    await world.restart()
    assert (await world.ask("meter-1", "usage", to_json(payer.usage()))).reason is Refusal.OFFER_REGRESSED


async def test_a_service_is_priced_by_its_own_line(make_world: Make) -> None:
    world = await make_world()
    payer = await world.opened()
    await world.stop()
    others = {name: service for name, service in SERVICES.items() if name != "grid-power"}
    world.config = msgspec.structs.replace(world.config, services=others)
    await world.start()
    payer.offer = world.gateway.terms.current
    reading = payer.usage(ceiling=1_500, offer=payer.offer.id)
    answer = await world.ask("meter-1", "usage", to_json(reading))
    assert answer.reason is Refusal.OFFER_UNKNOWN, "the offer does not sell this service any more"


# -- with readings that must be signed --


async def test_where_the_broker_proves_nothing_readings_are_signed(make_world: Make) -> None:
    world = await make_world(demo=False)
    from gateway.enrolment import add_device, parse_device

    payer = world.payer()
    record = parse_device({"device": "meter-1", "payers": [f"0x{payer.payer.hex()}"]})
    await add_device(world.gateway.books, world.gateway.registry, record)
    await world.opened()
    assert (await world.ask("meter-1", "usage", to_json(payer.usage()))).reason is Refusal.BAD_SIGNATURE
    bad = payer.usage(reading_key=OTHER_KEY)
    assert (await world.ask("meter-1", "usage", to_json(bad))).reason is Refusal.BAD_SIGNATURE
    good = payer.usage(reading_key=payer.device_key)
    assert (await world.ask("meter-1", "usage", to_cbor(good))).status is Status.ACCEPTED
    # Its voucher alone is no proof of a repetition either.
    answer = await world.ask("meter-1", "usage", to_json(without(good, "readingSignature")))
    assert answer.reason is Refusal.BAD_SIGNATURE


# -- durable before visible --


async def test_receipts_come_after_the_commit(world: World) -> None:
    payer = await world.opened()
    books = world.gateway.books
    commit = books.journal.commit

    def noted(records: Any) -> Any:
        number, written = commit(records)
        written.add_done_callback(lambda _: world.link.log.append(("disk", number)))
        return number, written

    books.journal.commit = noted  # type: ignore[method-assign]
    world.link.log.clear()
    for _ in range(5):
        await world.pay(payer, 1)
    await world.link.send("meter-1", "usage", *(payer.next_usage(1) for _ in range(9)))
    await world.ask("meter-1", "usage", payer.next_usage(1))
    on_disk = 0
    acknowledged: set[bytes] = set()
    for what, value in world.link.log:
        if what == "disk":
            on_disk = value  # type: ignore[assignment]
        elif what == "ack":
            acknowledged.add(answers(value.payload))  # type: ignore[attr-defined]
        else:
            receipt = decode_receipt(value[1])  # type: ignore[index]
            assert receipt.commit is not None
            assert receipt.commit <= on_disk, "a receipt before its commit"
            assert receipt.answers in acknowledged
    assert len(acknowledged) == 15
    assert world.link.not_durable == []


async def test_while_the_disk_is_slow_nothing_is_said(world: World) -> None:
    import threading

    payer = await world.opened()
    gate = threading.Event()
    world.gateway.books.journal._writer.submit(gate.wait, 5)
    count = len(world.link.log)
    payload = payer.next_usage(10)
    await world.link.send("meter-1", "usage", payload)
    await until(lambda: world.channel(payer).meter.seq > 0)
    await asyncio.sleep(0.02)  # nothing can be awaited: it is the absence that counts
    assert len(world.link.log) == count
    gate.set()
    assert decode_receipt(await world.link.receipt("meter-1", payload)).status is Status.ACCEPTED


@pytest.mark.parametrize("kind", ["ABORT", "ROLLBACK", "FAIL"])
async def test_if_the_commit_fails_nothing_is_said_and_nothing_is_lost(world: World, kind: str) -> None:
    payer = await world.opened()
    await world.pay(payer, 10)
    before = states(world.ledger)
    journal = world.gateway.books.journal
    number = journal.number + 1
    journal._db.execute(
        f"CREATE TEMP TRIGGER broken BEFORE INSERT ON main.commits WHEN NEW.number = {number} "
        f"BEGIN SELECT RAISE({kind}, 'the disk is broken'); END"
    )
    log = list(world.link.log)
    payloads = [payer.next_usage(1) for _ in range(3)]
    await world.link.send("meter-1", "usage", *payloads, b"unreadable")
    fault = await world.fault()
    assert isinstance(fault, JournalFault)
    assert "the disk is broken" in str(fault)
    assert world.link.log == log, "something was acknowledged or answered although the commit failed"
    # Whatever else is handed in afterwards must not reach the disk: it would follow a commit that is missing.
    with pytest.raises(JournalFault):
        await world.gateway.books.journal.commit(())[1]
    with pytest.raises(JournalFault):
        await world.gateway.books.close()
    await world.crash()
    await world.start()
    assert states(world.ledger) == before
    await world.link.send("meter-1", "usage", *payloads)
    for payload in payloads:
        assert decode_receipt(await world.link.receipt("meter-1", payload)).status is Status.ACCEPTED
    for _ in range(2):
        await world.restart()
        assert world.channel(payer).meter.seq == 4


async def test_a_stopped_link_ends_the_pipeline(world: World) -> None:
    await world.link.stop()
    await asyncio.wait_for(world.gateway.pipeline.run(), 30)


# -- the chain --


async def test_a_silent_chain_stops_payments(make_world: Make) -> None:
    world = await make_world()
    payer = await world.opened()
    earner = await world.joined()
    silent = 0.0
    world.gateway.terms.silence = lambda: silent
    silent = 675.0  # the delay is 900 s, of which a quarter is kept as a margin
    await world.pay(payer, 1)
    silent = 675.1
    answer = await world.ask("meter-1", "usage", to_json(payer.usage(1)))
    assert (answer.reason, answer.reason and answer.reason.transient) == (Refusal.CHAIN_STALE, True)
    await world.earn(earner, 1)
    silent = 0.0
    await world.pay(payer, 1)


async def test_a_withdrawal_limits_what_is_accepted(world: World) -> None:
    payer = await world.opened(amount=2_000_000)
    await world.pay(payer, 1_000)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 1_840_000))
    await world.seen()
    answer = await world.ask("meter-1", "usage", to_json(payer.usage(67)))
    assert (answer.reason, answer.balance) == (Refusal.CEILING_ABOVE_BALANCE, 160_000)
    receipt = await world.pay(payer, 66)
    assert receipt.balance == 160_000
    world.mine(900)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))
    await world.seen()
    answer = await world.ask("meter-1", "usage", to_json(payer.usage(1)))
    assert (answer.reason, answer.balance) == (Refusal.CEILING_ABOVE_BALANCE, 160_000)
    assert await world.faults() == []


# -- noise --


def mutated(rng: random.Random, payload: bytes) -> bytes:
    """Change a valid message a little."""
    data = bytearray(payload)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        where = rng.randrange(len(data)) if data else 0
        match rng.randrange(6):
            case 0:
                if data:
                    data[where] ^= 1 << rng.randrange(8)
            case 1:
                if data:
                    data[where] = rng.randrange(256)
            case 2:
                del data[where : where + rng.randrange(1, 9)]
            case 3:
                data[where:where] = rng.randbytes(rng.randrange(1, 9))
            case 4:
                data += data[where : where + rng.randrange(1, 65)]
            case 5:
                data = data[:where]
    return bytes(data)


def reshaped(rng: random.Random, fields: dict[str, Any], write: Write) -> bytes:
    """Change one field of a message to what it should not be."""
    name = rng.choice(list(fields))
    odd = rng.choice((None, 0, -1, 2**64, 2**128, "", "0x", b"", b"\0" * 32, [], {}, True, 1.5, "9" * 40, bytes(65)))
    changed = without(fields, name) if rng.random() < 0.2 else fields | {name: odd}
    try:
        return write(changed)
    except (KeyError, TypeError, ValueError, OverflowError, cbor2.CBOREncodeError):
        return write(without(fields, name))


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["random", "mutated"])
async def test_ten_thousand_bad_messages_change_nothing(world: World, noise: str) -> None:
    seed = 20_261_121
    rng = random.Random(seed)
    payer = await world.opened(amount=2_000_000)
    earner = await world.joined("meter-1")
    fresh = world.payer(salt=2)
    newcomer = world.earner("meter-1", salt=2)
    await world.pay(payer, 10)
    await world.earn(earner, 10)
    messages = [
        ("usage", payer.usage(10)),
        ("usage", payer.usage(10, reading_key=payer.device_key)),
        ("earn", earner.earn(10)),
        ("open", fresh.open(authorization=fresh.authorization(5_000_000, key=OTHER_KEY))),
        ("open", newcomer.open(key=OTHER_KEY)),
        ("state", {"state": "online", "session": 7, "firmware": "1.2"}),
    ]
    valid = {(leaf, write(fields)) for leaf, fields in messages for write in (to_json, to_cbor)}
    sent = 0
    while sent < 10_000:
        batch = []
        for _ in range(500):
            leaf, fields = rng.choice(messages)
            write = rng.choice((to_json, to_cbor))
            if noise == "random":
                start = rng.choice((b"", b"{", b"\xa7", b'{"', b"\xbf", b"\xa1\x01"))
                payload = start + rng.randbytes(int(rng.expovariate(1 / 80)))
            elif rng.random() < 0.3:
                payload = reshaped(rng, fields, write)
            else:
                payload = mutated(rng, write(fields))
            if (leaf, payload) not in valid:
                batch += frames(world, "meter-1", leaf, payload)
        accepted = world.gateway.pipeline.counters.accepted
        before = states(world.ledger)
        receipts = await process(world, batch)
        sent += len(batch)
        counters = world.gateway.pipeline.counters
        # A change that means the same is the same message (hex in capitals, another clock, a key nobody knows).
        if counters.accepted > accepted or states(world.ledger) != before:
            taken = [receipt for receipt in receipts if receipt.status is Status.ACCEPTED]
            assert taken, f"seed {seed}: a state changed and nothing was accepted"
            reading = next((receipt for receipt in taken if receipt.seq in (payer.seq + 1, earner.seq + 1)), None)
            assert reading is not None, f"seed {seed}: {taken}"
            if not reading.account and reading.id == payer.id:
                payer.took(payer.usage(10))
            else:
                earner.took(earner.earn(10))
            messages[0:3] = [
                ("usage", payer.usage(10)),
                ("usage", payer.usage(10, reading_key=payer.device_key)),
                ("earn", earner.earn(10)),
            ]
            valid |= {(leaf, write(fields)) for leaf, fields in messages for write in (to_json, to_cbor)}
    counters = world.gateway.pipeline.counters
    handled = counters.accepted + counters.duplicates + sum(counters.refused.values()) + counters.states
    assert handled == sent + 2, f"seed {seed}: {counters}"
    assert set(world.ledger.channels) == {payer.id}
    assert set(world.ledger.accounts) == {earner.id}
    assert not world.ledger.opens
    payer.seq, payer.register = world.channel(payer).meter.seq, world.channel(payer).meter.register
    payer.exact = world.channel(payer).charged * 10**9
    await world.pay(payer, 10)
    assert await world.faults() == []
