"""Asking for the logs of blocks, so that what comes back is of those very blocks and not of others in their place."""

from collections.abc import Iterable

from channels.types import Address
from settlement.errors import ChainRefused
from settlement.events import ChainEvent, Transfer
from settlement.port import Block, ExecutionLayer


class BlockLogs:
    """Asks for one gateway: events of the settlement contract, and transfers of `token` to the addresses of `cash`."""

    def __init__(self, layer: ExecutionLayer, token: Address, cash: Iterable[Address]) -> None:
        self._layer = layer
        self._token = token
        self._cash = sorted(cash)
        self._zone: dict[bytes, tuple[Block, list[ChainEvent]]] = {}  # blocks that are not final yet, by hash
        self.trouble = ""  # why the last question had no answer

    async def upto(self, first: int, block: Block) -> tuple[list[ChainEvent], list[Transfer]] | None:
        """Return the logs from block `first` to `block`, None when the node does not have that block.

        A single block is asked for by its hash.
        """
        by_hash = block.hash if first == block.number else None
        try:
            events = await self._layer.events(first, block.number, by_hash)
            incoming = await self._layer.transfers_to(self._token, self._cash, first, block.number, by_hash)
        except ChainRefused as error:
            if by_hash is None:
                raise
            self.trouble = str(error)
            return None
        return events, incoming

    async def are_of(self, block: Block, logs: Iterable[ChainEvent]) -> bool:
        """Tell whether that block is still where it was, and these logs do not speak of another one."""
        again = await self._layer.block(block.number)
        hashes = {log.block_hash for log in logs if log.block_number == block.number}
        self.trouble = "they are replaced meanwhile"
        return again is not None and hashes | {again.hash} == {block.hash}

    async def behind(self, head: Block, final: int) -> list[ChainEvent] | None:
        """Return the events of all blocks after `final` up to `head`; None when they are replaced meanwhile.

        Each block is read once.
        """
        zone: dict[bytes, tuple[Block, list[ChainEvent]]] = {}
        block = head
        while block.number > final:
            known = self._zone.get(block.hash)
            if known is None:
                try:
                    known = block, await self._layer.events(block.number, block.number, block.hash)
                except ChainRefused as error:
                    self.trouble = str(error)
                    return None
            zone[block.hash] = known
            if block.number == final + 1:
                break
            parent = self._zone.get(block.parent_hash)
            before = parent[0] if parent else await self._layer.block(block.number - 1)
            if before is None or before.hash != block.parent_hash:
                self.trouble = "they are replaced meanwhile"
                return None
            block = before
        self._zone = zone
        return [event for _, events in reversed(zone.values()) for event in events]
