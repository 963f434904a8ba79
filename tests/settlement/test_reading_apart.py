"""Answers with many entries are read in another thread, and what is wrong with them is told as ever."""

import threading
from collections.abc import Sequence

import pytest

from settlement.errors import ChainMisbehaved
from settlement.log_queries import LOGS_APART, RECEIPTS_APART, read_apart


@pytest.mark.parametrize("apart", [LOGS_APART, RECEIPTS_APART])
async def test_many_are_read_in_another_thread(apart: int) -> None:
    def read(entries: Sequence[int]) -> tuple[int, bool]:
        return sum(entries), threading.current_thread() is threading.main_thread()

    assert await read_apart(read, [1] * (apart - 1), apart) == (apart - 1, True)
    assert await read_apart(read, [1] * apart, apart) == (apart, False)


@pytest.mark.parametrize("count", [1, LOGS_APART])
async def test_a_fault_keeps_its_type(count: int) -> None:
    def read(entries: Sequence[int]) -> None:
        raise ChainMisbehaved("logs of another contract")

    with pytest.raises(ChainMisbehaved, match="another contract"):
        await read_apart(read, [0] * count)
