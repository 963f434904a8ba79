"""Withdrawals at first sight: payers' doing in blocks that are not final yet lowers what a channel takes."""

from channels.types import ChannelId
from gateway.block_logs import BlockLogs
from gateway.books import Books
from gateway.chain_reading import LogReader
from settlement.port import Block


class Foresight:
    """Looks for them for one gateway."""

    def __init__(self, books: Books, logs: BlockLogs, reader: LogReader) -> None:
        self._books = books
        self._logs = logs
        self._reader = reader
        self._foreseen = {channel.id for channel in books.ledger.channels.values() if channel.foreseen}

    async def look(self, head: Block, final: int) -> list[ChannelId] | None:
        """Journal which withdrawals are in blocks after `final` up to `head`, and which are not there any more.

        Returns the channels in which one has begun; None when those blocks are replaced meanwhile.
        """
        behind = await self._logs.behind(head, final)
        if behind is None:
            return None
        records = self._reader.foreseen(behind, self._foreseen)
        if not records:
            return []
        channels = self._books.ledger.channels
        begun = [record.id for record in records if record.amount > channels[record.id].foreseen]
        self._foreseen |= {record.id for record in records if record.amount}
        self._foreseen -= {record.id for record in records if not record.amount}
        await self._books.write(records)
        return begun
