"""Logs of blocks: by eth_getLogs, and from the receipts of a block for which a node refuses that.

Nodes bound what one query returns, 10,000 logs most of them, and a stranger can put more than that into one block:
a transfer of nothing to one of our addresses costs a few thousand gas. The node's refusal would otherwise hide that
block, and all after it, for ever. Receipts have no such bound, and are checked against the block's own list of
transactions, so that half an answer is none.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

from channels.types import Address
from settlement import answers
from settlement.errors import AnswerTooLarge, ChainMisbehaved, ChainRefused, ChainUnavailable
from settlement.events import Log, position_of
from settlement.jsonrpc import data_of, hex_of, list_of, object_of, quantity
from settlement.transports import Transport

# Some 100 MB of objects. What is in several blocks may be asked for in parts; one block's gas bounds what it holds.
LOGS_AT_ONCE = 200_000
# Receipts asked for together where a node has not all of a block in one answer: with usual ones some 100 kB.
RECEIPTS_AT_ONCE = 32
# Answers with so many entries are read in another thread: a block may have the claims of 10,000 channels, whose logs
# take 0.2 s to read, and a receipt those of a hundred.
LOGS_APART, RECEIPTS_APART = 200, 4

S = TypeVar("S")
T = TypeVar("T")


async def read_apart(read: Callable[[Sequence[S]], T], entries: Sequence[S], apart: int = LOGS_APART) -> T:
    """Read entries; from `apart` of them on without holding up the event loop."""
    return await asyncio.to_thread(read, entries) if len(entries) >= apart else read(entries)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which logs are wanted: of one contract, and per position of the topics the alternatives (none: any)."""

    address: Address
    topics: tuple[tuple[bytes, ...], ...]

    def query(self) -> dict[str, Any]:
        """Return the filter's part of an eth_getLogs query."""
        topics = [[hex_of(each) for each in alternatives] or None for alternatives in self.topics]
        return {"address": hex_of(self.address), "topics": topics}

    def may_match(self, log: dict[str, Any]) -> bool:
        """Tell without reading it all whether a log in JSON may be wanted: most of a block's logs are not."""
        address = log.get("address")
        return not isinstance(address, str) or address.lower() == hex_of(self.address)

    def matches(self, log: Log) -> bool:
        """Tell whether a log is wanted."""
        if log.address != self.address or len(log.topics) < len(self.topics):
            return False
        return all(not wanted or topic in wanted for wanted, topic in zip(self.topics, log.topics, strict=False))


class LogQueries:
    """Asks one node. `blocks_max` is how many blocks one query spans at most."""

    def __init__(self, transport: Transport, blocks_max: int) -> None:
        self._transport = transport
        self._blocks_max = blocks_max

    async def between(self, first: int, last: int, wanted: Filter, block_hash: bytes | None) -> list[Log]:
        """Return the logs of these blocks, both ends included, by position; of the one block `block_hash` if given.

        Raises AnswerTooLarge for several blocks with more than LOGS_AT_ONCE logs together: ask for fewer blocks.
        """
        logs: list[Log] = []
        if block_hash is not None:
            logs = await self._one(first, wanted, block_hash)
        else:
            for start in range(first, last + 1, self._blocks_max):
                async for part in self._parts(start, min(start + self._blocks_max - 1, last), wanted):
                    logs += part
                    if len(logs) > LOGS_AT_ONCE and first < last:
                        raise AnswerTooLarge(f"more than {LOGS_AT_ONCE} logs in blocks {first} to {last}")
        positions = [log.position for log in logs]
        if any(later <= earlier for earlier, later in pairwise(positions)):
            raise ChainMisbehaved("logs out of order")
        return logs

    async def _parts(self, first: int, last: int, wanted: Filter) -> AsyncIterator[list[Log]]:
        """Yield the logs of a range in as many parts as the node makes necessary."""
        query = wanted.query() | {"fromBlock": hex(first), "toBlock": hex(last)}
        try:
            logs = await self._query(query)
        except (ChainRefused, AnswerTooLarge) as error:
            # Nodes bound ranges and results, each in words and numbers of its own: ask for less.
            if first == last:
                yield await self._from_receipts(first, wanted, None, error)
                return
            middle = (first + last) // 2
            for low, high in ((first, middle), (middle + 1, last)):
                async for part in self._parts(low, high, wanted):
                    yield part
            return
        if any(not first <= log.block_number <= last for log in logs):
            raise ChainMisbehaved("logs of other blocks than asked for")
        yield logs

    async def _one(self, number: int, wanted: Filter, block_hash: bytes) -> list[Log]:
        try:
            logs = await self._query(wanted.query() | {"blockHash": hex_of(block_hash)})
        except (ChainRefused, AnswerTooLarge) as error:
            return await self._from_receipts(number, wanted, block_hash, error)
        if any(log.block_hash != block_hash or log.block_number != number for log in logs):
            raise ChainMisbehaved("logs of other blocks than asked for")
        return logs

    async def _query(self, query: dict[str, Any]) -> list[Log]:
        entries = list_of(await self._transport.call("eth_getLogs", [query]))
        return await read_apart(_logs, entries)

    # -- from receipts --

    async def _from_receipts(
        self, number: int, wanted: Filter, block_hash: bytes | None, refused: ChainRefused | AnswerTooLarge
    ) -> list[Log]:
        """Return a block's logs although they were refused; raises that refusal where there is no other way."""
        try:
            block = await self._block(number, block_hash)
            if block is not None:
                return await self._logs_of(number, *block, wanted)
        except (ChainRefused, AnswerTooLarge):
            pass  # the first refusal says more
        if isinstance(refused, ChainRefused) and answers.is_transient(refused):
            raise ChainUnavailable(str(refused)) from refused
        raise refused

    async def _block(self, number: int, block_hash: bytes | None) -> tuple[bytes, list[bytes]] | None:
        """Return a block's hash and those of its transactions, None when the node does not know it."""
        if block_hash is None:
            answer = await self._transport.call("eth_getBlockByNumber", [hex(number), False])
        else:
            answer = await self._transport.call("eth_getBlockByHash", [hex_of(block_hash), False])
        if answer is None:
            return None
        block = object_of(answer)
        found = data_of(block.get("hash"), 32)
        if quantity(block.get("number"), 64) != number or block_hash not in (None, found):
            raise ChainMisbehaved("another block than asked for")
        return found, [data_of(each, 32) for each in list_of(block.get("transactions"))]

    async def _logs_of(self, number: int, block_hash: bytes, tx_hashes: Sequence[bytes], wanted: Filter) -> list[Log]:
        logs: list[Log] = []
        index = 0  # of the next log in the block
        count = 0
        async for answer in self._receipts(block_hash, tx_hashes):
            receipt = object_of(answer)
            at = quantity(receipt.get("blockNumber"), 64), data_of(receipt.get("blockHash"), 32)
            tx_hash = data_of(receipt.get("transactionHash"), 32)
            if at != (number, block_hash) or (count < len(tx_hashes) and tx_hash != tx_hashes[count]):
                raise ChainUnavailable("its transactions are in another block meanwhile")
            count += 1
            entries = list_of(receipt.get("logs"))
            first = position_of(number, index)
            read = partial(_wanted, wanted=wanted, first=first, block_hash=block_hash, tx_hash=tx_hash)
            logs += await read_apart(read, entries)
            index += len(entries)
        if count < len(tx_hashes):
            raise ChainUnavailable("the node has fewer receipts than transactions of a block")
        return logs

    async def _receipts(self, block_hash: bytes, tx_hashes: Sequence[bytes]) -> AsyncIterator[Any]:
        """Yield a block's receipts in order: all at once where the node can, else some at a time, else one by one.

        Receipts beyond the block's transactions may follow: some chains have some without a transaction.
        """
        if not tx_hashes:
            return
        try:
            whole = await self._transport.call("eth_getBlockReceipts", [hex_of(block_hash)])
        except (ChainRefused, AnswerTooLarge):
            whole = None
        if whole is not None:
            for answer in list_of(whole):
                yield answer
            return
        for start in range(0, len(tx_hashes), RECEIPTS_AT_ONCE):
            part = tx_hashes[start : start + RECEIPTS_AT_ONCE]
            for answer in await self._some_receipts(part):
                yield answer

    async def _some_receipts(self, tx_hashes: Sequence[bytes]) -> list[Any]:
        try:
            found = await self._transport.batch([("eth_getTransactionReceipt", (hex_of(each),)) for each in tx_hashes])
        except (ChainRefused, AnswerTooLarge):
            if len(tx_hashes) == 1:
                raise
            middle = len(tx_hashes) // 2
            return await self._some_receipts(tx_hashes[:middle]) + await self._some_receipts(tx_hashes[middle:])
        for answer in found:
            if isinstance(answer, ChainRefused):
                raise answer
        if any(answer is None for answer in found):
            raise ChainUnavailable("the node does not know a receipt of a block that it knows")
        return found


def _wanted(entries: Sequence[Any], wanted: Filter, first: int, block_hash: bytes, tx_hash: bytes) -> list[Log]:
    """Return those of a receipt's logs that are wanted; the position of its first one is `first`."""
    logs = []
    for position, entry in enumerate(entries, first):
        if wanted.may_match(object_of(entry)):
            log = answers.log_of(entry)
            if (log.tx_hash, log.block_hash) != (tx_hash, block_hash):
                raise ChainMisbehaved("a receipt with a log of another transaction or block")
            if wanted.matches(log):
                # Counted here: some nodes number a receipt's logs from 0.
                logs.append(Log(log.address, log.topics, log.data, position, block_hash, tx_hash))
    return logs


def _logs(entries: Sequence[Any]) -> list[Log]:
    return [answers.log_of(entry) for entry in entries]
