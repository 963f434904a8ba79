"""Blocks as the dashboard shows them: what the embedded layer tells of each, or what a remote one has of ours."""

import asyncio
from collections import deque
from collections.abc import Mapping

from parallel_evm import BlockStats, Chain, RpcError

from channels.types import Address
from gateway.ledger import Ledger
from gateway.web.shapes_money import BlockRow, LaneLoad
from settlement.port import ExecutionLayer

# About half an hour of blocks with something in them.
BLOCKS_KEPT = 2_000
# Blocks of a remote layer are asked for one by one.
REMOTE_MAX = 20
LANES_SHOWN = 16


class BlockLog:
    """The last blocks. `names` are the own keys by address."""

    def __init__(
        self, layer: ExecutionLayer, ledger: Ledger, names: Mapping[Address, str], chain: Chain | None
    ) -> None:
        self._layer = layer
        self._ledger = ledger
        self._names = names
        self.chain = chain
        self._kept: deque[BlockStats] = deque(maxlen=BLOCKS_KEPT)
        self._fresh: deque[BlockStats] = deque(maxlen=10)
        self.transactions = 0
        self.executed = 0
        self.reexecuted = 0
        self.busy_us = 0
        self.execute_us = 0

    def take(self, stats: BlockStats) -> None:
        """Note a block that the embedded layer has just made."""
        self._kept.append(stats)
        if stats.transactions:
            self._fresh.append(stats)
            self.transactions += stats.transactions
            self.executed += stats.executions
            self.reexecuted += stats.reexecuted
            self.busy_us += stats.busy_us
            self.execute_us += stats.execute_us

    @property
    def speed_up(self) -> float | None:
        """Work over elapsed time of all blocks with transactions since the start."""
        return _ratio(self.busy_us, self.execute_us)

    @property
    def block_time_s(self) -> float | None:
        """Seconds between the last blocks, on average."""
        if len(self._kept) < 2:
            return None
        first, last = self._kept[max(0, len(self._kept) - 20)], self._kept[-1]
        return round((last.timestamp - first.timestamp) / max(last.number - first.number, 1), 3)

    def fresh(self) -> list[BlockRow]:
        """Return and forget the blocks with transactions that the stream was not told yet."""
        rows = [self._row(stats) for stats in self._fresh]
        self._fresh.clear()
        return rows

    async def page(self, before: int | None, limit: int) -> tuple[list[BlockRow], int | None]:
        """Return blocks below `before`, newest first, and where the next page begins."""
        if self.chain is not None:
            found = [stats for stats in reversed(self._kept) if before is None or stats.number < before][: limit + 1]
            rows = [self._row(stats) for stats in found[:limit]]
            return rows, rows[-1].number if len(found) > limit else None
        limit = min(limit, REMOTE_MAX)
        top = (await self._layer.head()).number if before is None else before - 1
        numbers = range(top, max(-1, top - limit), -1)
        found_blocks = await asyncio.gather(*(self._layer.block(number) for number in numbers))
        own = self._own()
        rows = [
            _remote(block.number, block.timestamp, own.get(block.number, {}))
            for block in found_blocks
            if block is not None
        ]
        return rows, numbers[-1] if rows and numbers[-1] > 0 else None

    def of(self, numbers: set[int]) -> list[BlockRow]:
        """Return those of these blocks that are still kept, oldest first."""
        return [self._row(stats) for stats in self._kept if stats.number in numbers]

    def _own(self) -> dict[int, dict[str, tuple[int, int]]]:
        """Return our own transactions by block and key: (count, gas)."""
        blocks: dict[int, dict[str, tuple[int, int]]] = {}
        for mined in self._ledger.mined.values():
            lanes = blocks.setdefault(mined.block, {})
            name = self.name(mined.transaction.sender)
            count, gas = lanes.get(name, (0, 0))
            lanes[name] = (count + 1, gas + mined.gas_used)
        return blocks

    def name(self, address: Address) -> str:
        """Return what an own key is called; the address of a stranger."""
        return self._names.get(address) or f"0x{address.hex()}"

    def _row(self, stats: BlockStats) -> BlockRow:
        return BlockRow(
            number=stats.number,
            time=stats.timestamp,
            transactions=stats.transactions,
            gas_used=stats.gas_used,
            executed=stats.executions,
            reexecuted=stats.reexecuted,
            speed_up=_ratio(stats.busy_us, stats.execute_us) if stats.transactions else None,
            execute_us=stats.execute_us,
            total_us=stats.total_us,
            threads=stats.threads,
            lanes=self._lanes(stats) if stats.transactions else [],
        )

    def _lanes(self, stats: BlockStats) -> list[LaneLoad]:
        assert self.chain is not None, "only an embedded layer tells of its blocks"
        try:
            lanes = self.chain.block_lanes(stats.number)
        except RpcError:  # it keeps the last blocks only
            return []
        return [
            LaneLoad(key=self.name(sender), transactions=count, gas_used=gas)
            for sender, count, gas in lanes[:LANES_SHOWN]
        ]


def _remote(number: int, time: int, lanes: Mapping[str, tuple[int, int]]) -> BlockRow:
    return BlockRow(
        number=number,
        time=time,
        transactions=sum(count for count, _ in lanes.values()),
        gas_used=sum(gas for _, gas in lanes.values()) if lanes else None,
        executed=None,
        reexecuted=None,
        speed_up=None,
        execute_us=None,
        total_us=None,
        threads=None,
        lanes=[LaneLoad(key=name, transactions=count, gas_used=gas) for name, (count, gas) in sorted(lanes.items())],
    )


def _ratio(work: int, elapsed: int) -> float | None:
    return round(work / elapsed, 3) if elapsed else None
