"""Judging a batch: its order, whoever is not known yet, and one thread or many."""

import asyncio
from collections.abc import Sequence

import pytest

from devices.link import Frame
from devices.messages import Status, Usage
from devices.receipts import decode_receipt
from gateway import judging
from gateway.judging import Judge, Judged
from tests.support.gateway_devices import to_json
from tests.support.gateway_world import World


def judge_of(world: World, *, readings_signed: bool = False) -> Judge:
    """A judge on the world's books."""
    gateway = world.gateway
    return Judge(gateway.ledger, gateway.network, gateway=gateway.config.gateway, readings_signed=readings_signed)


@pytest.mark.parametrize("cores", [1, 2, 4])
async def test_a_batch_is_judged_in_its_order_on_any_number_of_cores(
    world: World, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer = await world.opened()
    monkeypatch.setattr(judging.os, "sched_getaffinity", lambda pid: set(range(cores)))
    payloads = []
    for number in range(200):
        usage = payer.usage(1, seq=number + 1)
        if number % 3 == 1:
            usage["signature"] = usage["signature"][:64] + bytes((55 - usage["signature"][64],))
        payloads.append(b"nothing" if number % 3 == 2 else to_json(usage))
    frames = [world.link.frame("meter-1", "usage", payload) for payload in payloads]
    judged = await judge_of(world).batch(frames)
    for number, (message, known, signed) in enumerate(judged):
        assert isinstance(message, Usage) == (number % 3 != 2)
        assert (known, signed) == ((number % 3 != 2), number % 3 == 0)
        assert not isinstance(message, Usage) or message.seq == number + 1


async def test_a_reading_without_its_own_signature_is_unsigned_where_one_is_asked_for(world: World) -> None:
    payer = await world.opened()
    frame = world.link.frame("meter-1", "usage", to_json(payer.usage(1)))
    for asked in (False, True):
        (judged,) = judge_of(world, readings_signed=asked).judge([frame])
        assert (judged.known, judged.signed) == (True, not asked)


async def test_whoever_became_known_meanwhile_is_judged_again(world: World) -> None:
    """A batch is judged while the one before it, which may open channels, is committed."""
    pipeline = world.gateway.pipeline
    payer = world.payer("meter-1")
    frame = world.link.frame("meter-1", "usage", to_json(payer.usage(1)))
    early = await judge_of(world).batch([frame])
    assert early[0][1:] == (False, False)
    assert (await world.ask("meter-1", "open", to_json(payer.open()))).reason is None
    ((_, payload),) = await pipeline._commit([frame], early)
    assert decode_receipt(payload).status is Status.ACCEPTED
    again = await pipeline._commit([frame], early)
    assert decode_receipt(again[0][1]).status is Status.DUPLICATE


async def test_a_batch_is_judged_while_the_one_before_waits_for_the_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer = await world.opened()
    journal, gate, judged = world.gateway.books.journal, asyncio.Event(), asyncio.Event()
    durable, judge = journal.durable, world.gateway.pipeline._judge.batch

    async def held() -> None:
        await gate.wait()
        await durable()

    async def seen(frames: Sequence[Frame]) -> list[Judged]:
        outcome = await judge(frames)
        if payer.seq == 2:
            judged.set()
        return outcome

    monkeypatch.setattr(journal, "durable", held)
    monkeypatch.setattr(world.gateway.pipeline._judge, "batch", seen)
    first = payer.next_usage(1)
    await world.link.send("meter-1", "usage", first)
    second = payer.next_usage(1)
    await world.link.send("meter-1", "usage", second)
    await asyncio.wait_for(judged.wait(), 30)
    assert not world.link.receipts_to("meter-1", first), "nothing is answered before it is on disk"
    gate.set()
    for payload in (first, second):
        assert decode_receipt(await world.link.receipt("meter-1", payload)).status is Status.ACCEPTED
