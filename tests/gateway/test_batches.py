"""Making many transactions leaves the event loop its turns."""

import asyncio
from collections.abc import Sequence
from typing import Any

from gateway.batches import Work, send
from settlement.errors import ChainRefused
from settlement.port import Call


class Refusing:
    """All that `send` asks of an outbox."""

    async def execute_all(self, orders: Sequence[Any]) -> list[ChainRefused]:
        return [ChainRefused(-32000, "not today") for _ in orders]


async def test_others_have_their_turn_between_two_batches() -> None:
    turns, made = [0], []

    async def count() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    def call(rows: Sequence[int]) -> Call:
        made.append(turns[0])
        return Call(bytes(20), bytes(20), bytes(rows))

    counting = asyncio.create_task(count())
    works = [Work("claim", (number,), call, lambda row: bytes([row])) for number in range(5)]
    done = await send(Refusing(), works)  # type: ignore[arg-type]
    counting.cancel()
    assert len(done.refused) == 5
    assert made == sorted(set(made)), "no two in one turn"
