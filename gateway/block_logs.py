"""Asking for the logs of blocks, so that what comes back is of those very blocks and not of others in their place."""

from collections.abc import Iterable

from channels.types import Address
from settlement.errors import AnswerTooLarge, ChainRefused
from settlement.events import ChainEvent, Refunded, Transfer, WithdrawFinalized, WithdrawInitiated
from settlement.port import Block, ExecutionLayer

# Public nodes answer log queries over a few thousand blocks; a long outage is caught up in steps of this size.
BLOCKS_PER_STEP = 1_000
# What is kept of blocks that are not final yet: a stranger can fill every one of them with other events.
_OF_WITHDRAWALS = (WithdrawInitiated, WithdrawFinalized, Refunded)


class BlockLogs:
    """Asks for one gateway: events of the settlement contract, and transfers of `token` to the addresses of `cash`."""

    def __init__(self, layer: ExecutionLayer, token: Address, cash: Iterable[Address]) -> None:
        self._layer = layer
        self._token = token
        self._cash = sorted(cash)
        self._zone: dict[bytes, tuple[Block, list[ChainEvent]]] = {}  # blocks that are not final yet, by hash
        self.blocks_per_step = BLOCKS_PER_STEP  # so many blocks can be asked for at once, as far as is known
        self.trouble = ""  # why the last question had no answer

    async def upto(self, first: int, block: Block) -> tuple[list[ChainEvent], list[Transfer]] | None:
        """Return the logs from block `first` to `block`, without transfers of nothing.

        None when the node does not have that block, or when those blocks hold too much to be read at once: then
        `blocks_per_step` is less. A single block is asked for by its hash.
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
        except AnswerTooLarge as error:
            if by_hash is not None:
                raise
            self.blocks_per_step = max(1, (block.number - first + 1) // 2)
            self.trouble = str(error)
            return None
        self.blocks_per_step = min(2 * self.blocks_per_step, BLOCKS_PER_STEP)
        return events, [each for each in incoming if each.amount]

    async def are_of(self, block: Block, logs: Iterable[ChainEvent]) -> bool:
        """Tell whether that block is still where it was, and these logs do not speak of another one."""
        again = await self._layer.block(block.number)
        hashes = {log.block_hash for log in logs if log.block_number == block.number}
        self.trouble = "they are replaced meanwhile"
        return again is not None and hashes | {again.hash} == {block.hash}

    async def behind(self, head: Block, final: int) -> list[ChainEvent] | None:
        """Return what was withdrawn or refunded in all blocks after `final` up to `head`.

        None when they are replaced meanwhile. Each block is read once.
        """
        zone: dict[bytes, tuple[Block, list[ChainEvent]]] = {}
        block = head
        while block.number > final:
            known = self._zone.get(block.hash)
            if known is None:
                try:
                    events = await self._layer.events(block.number, block.number, block.hash)
                except ChainRefused as error:
                    self.trouble = str(error)
                    return None
                known = block, [event for event in events if isinstance(event, _OF_WITHDRAWALS)]
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
