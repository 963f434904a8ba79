"""The watcher: everything that the chain does to our channels and lanes enters here, once, in order.

It follows the logs of the settlement contract, our own transactions included, up to the last final block. The
cursor is journaled in the commit that holds the events before it, so a restart neither misses nor repeats one.
When the chain replaces blocks that were final for us, what they did is taken back and read again; payers'
withdrawals are looked for in the blocks that are not final yet, too.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import Enum
from typing import TypeVar

from channels.types import Address, ChannelId
from gateway.block_logs import BlockLogs
from gateway.books import Books
from gateway.chain_effects import differences, highest_effect
from gateway.chain_reading import LaneTotals, LogReader
from gateway.comparing import Comparison, in_words
from gateway.entries import Mark
from gateway.foresight import Foresight
from gateway.heads import Heads
from gateway.records import ChainReverted, ChainSeen, Record
from gateway.recovery import Recovery
from gateway.reorgs import Trail, follows, known_block, last_common, read_reverted, within_reach
from settlement.errors import ChainMisbehaved, ChainRefused, ChainUnavailable
from settlement.port import Block, ExecutionLayer

T = TypeVar("T")

log = logging.getLogger("metergate")

# Nodes behind a balancer differ in the last blocks, and one that lags leaves their logs out without a word. So
# these blocks are read one by one, each by its hash, which such a node has to refuse.
BLOCKS_ONE_BY_ONE = 8
# Without events, the cursor is journaled only this often: a restart reads at most that many empty blocks again.
SEEN_EVERY_BLOCKS = 2_000
# A chain that replaces blocks while they are read is looked at again; one that does so every time is asked later.
ATTEMPTS = 5


class _Found(Enum):
    """Where the last block read is."""

    ON_CHAIN = "on the chain"
    GONE = "replaced: the books went back"
    UNKNOWN = "not known to this node: it lags"


class Watcher:
    """Follows one chain for one gateway.

    `on_reverted` is called when own transactions may have been dropped from the chain: they are to be sent again.
    `on_withdrawal` is called at first sight of a payer's withdrawal, and again after a restart while it is pending.
    """

    def __init__(
        self,
        books: Books,
        layer: ExecutionLayer,
        token: Address,
        lanes: Iterable[Address],
        cash: frozenset[Address],
        *,
        settlement: Address,
        confirmations: int,
        poll_s: float,
    ) -> None:
        self._books = books
        self._layer = layer
        self._token = token
        self._logs = BlockLogs(layer, token, cash)
        self._reader = LogReader(books.ledger, token, lanes, cash, settlement)
        self._lane_totals = LaneTotals(layer, token, self._reader)
        self._foresight = Foresight(books, self._logs, self._reader)
        self._trail = Trail(books.ledger)
        self._recovery = Recovery(books, layer, self._trail)
        self._comparison = Comparison(books.ledger)
        self.heads = Heads(books.ledger)
        self._confirmations = confirmations
        self._poll_s = poll_s
        self.block = books.ledger.totals.block  # everything up to here is in the journal
        self.applied = self.block  # and up to here in the ledger
        self._on_chain = False  # `block` is on the chain of `head`, up to which everything was read
        self._times_back = 0  # how often blocks were taken back
        self._step = asyncio.Lock()
        self._passed = asyncio.Condition()
        self.on_reverted: Callable[[], None] = lambda: None
        self.on_withdrawal: Callable[[ChannelId], None] = lambda identifier: None

    @property
    def head(self) -> Block | None:
        """The latest block up to which this run has read everything."""
        return self.heads.read

    @property
    def chain_time(self) -> int:
        """Chain seconds of the latest block seen."""
        return self.heads.chain_time

    @property
    def silence_s(self) -> float:
        """Seconds since a later block was read, on a clock that nobody can set; infinite before the first one."""
        return self.heads.silence_s

    def hash_of(self, block: int) -> bytes | None:
        """Return the hash of a final block that is remembered."""
        return self._trail.hash_of(block)

    async def run(self, on_trouble: Callable[[str], None]) -> None:
        """Follow the chain; one that is unreachable or refuses is asked again, all else is a fault and raised."""
        for identifier in sorted(self._books.ledger.withdrawing):
            self.on_withdrawal(identifier)
        pause = self._poll_s
        while True:
            try:
                await self.step()
                await self.compare()
                pause = self._poll_s
            except (ChainUnavailable, ChainRefused) as error:
                on_trouble(str(error))
                pause = min(pause * 2, 10.0)  # long enough for a node to recover, short against any delay
            await asyncio.sleep(pause)

    async def recognise(self) -> None:
        """Go back to where the chain and the journal agree, before anything new is read: for the start.

        Raises ChainMisbehaved when they agree nowhere, as far as the journal remembers.
        """
        async with self._step:
            for _ in range(ATTEMPTS):
                head = await self._layer.head()
                found = await self._stay(head)
                if found is _Found.ON_CHAIN:
                    return
                if found is _Found.UNKNOWN:
                    await asyncio.sleep(self._poll_s)
            raise ChainUnavailable(f"the chain's last blocks cannot be read: {self._logs.trouble}")

    async def step(self) -> None:
        """Read what is new up to the last final block, journal it, and wake those who wait for it."""
        async with self._step:
            if self.applied > self.block:  # a step was cancelled behind its write: nothing is booked twice
                await self._books.journal.durable()
                self.block = self.applied
            for _ in range(ATTEMPTS):
                if await self._advance():
                    return
            raise ChainUnavailable(f"the chain's last blocks cannot be read: {self._logs.trouble}")

    async def passed(self, block: int) -> None:
        """Wait until every event up to and in this block is in the journal.

        Raises ChainUnavailable when the chain is read and does not get to that block: a node made it up.
        """
        since = time.monotonic()
        async with self._passed:
            await self._passed.wait_for(lambda: self.block >= block or self.heads.lacks(block, since))
            if self.block < block:
                raise ChainUnavailable(f"a node named block {block}, and the chain does not get there")

    async def at_final(self, ask: Callable[[int], Awaitable[T]]) -> tuple[int, T]:
        """Return the last final block and what `ask(block)` answers of it.

        When this returns the ledger still is as of that block; so it is for a record that is written next,
        without an await between, and behind those of `seen`.
        """
        while True:
            block, times = self.block, self._times_back
            answer = await ask(block)
            # Else the watcher has passed over later events of a channel that it did not know, or went back.
            if (self.applied, self._times_back) == (block, times):
                return block, answer

    async def compare(self) -> None:
        """Compare some channels with what the chain says of them, when it is time; where they differ, read again.

        Where they differ although every event within reach was read twice, the chain's own view is taken over.
        Raises ChainMisbehaved when no events could lead to it.
        """
        if self.head is None:
            return
        now = self.head.timestamp
        ids = self._comparison.due(now)
        if not ids:
            return
        block, answers = await self.at_final(lambda block: self._layer.channels(ids, block))
        views = dict(zip(ids, answers, strict=True))
        found = self._comparison.differences(views)
        if not found:
            self._comparison.done(now, ids)
        elif records := self._comparison.taken_over(found, views, block):
            # Nothing has awaited since the answer.
            log.warning("what its events do not tell is taken from the chain's own views: %s", in_words(found))
            begun = self._reader.begun(records)
            self._lane_totals.due = True
            await self._books.write([*self.seen(), *records])
            self._tell(begun)
        else:
            async with self._step:
                await self._read_again(found, self.head)

    # -- one look at the chain --

    async def _advance(self) -> bool:
        """Follow the chain to its head as it is now; returns False when blocks were replaced meanwhile."""
        head = await self._layer.head()
        last = self.head
        new = last is None or head.hash != last.hash
        if new:
            if last is not None and head.number < last.number and not self._trail.contradicts(head):
                return self._lags(head)
            self.heads.named(head)
        # Until this head is read to its end nothing says which blocks it has below it.
        follows = self._on_chain and last is not None and (not new or head.parent_hash == last.hash)
        self._on_chain = False
        if not follows:
            found = await self._stay(head)
            if found is not _Found.ON_CHAIN:
                return found is _Found.UNKNOWN and self._lags(head)
        dropped = new and await self._recovery.dropped(last, head, self.block)
        final = head.number - self._confirmations
        # First those that are not final: a head that was made up makes nothing final.
        if await self._logs.behind(head, max(self.block, final)) is None:
            return False
        while self.block < final:
            if not await self._read(self.block + 1, self._upto(head), head):
                return False
            async with self._passed:
                self._passed.notify_all()
        if not await self._look_around(head):
            return False
        self._on_chain = True
        self.heads.has_read(head)
        if new:
            self._trail.saw(head)
        if dropped:
            self.on_reverted()
        async with self._passed:
            self._passed.notify_all()
        return True

    def _lags(self, head: Block) -> bool:
        """A node that knows less than was seen says nothing: return True, or raise when that lasts."""
        last = max(self.block, -1 if self.head is None else self.head.number)
        self._logs.trouble = f"its last block is {head.number}, and it had block {last}: the node lags"
        self.heads.lags(self._logs.trouble)
        return True

    def _upto(self, head: Block) -> int:
        """Return where the next step ends: far from the head after many blocks, near it after one."""
        far = min(self.block + self._logs.blocks_per_step, head.number - max(self._confirmations, BLOCKS_ONE_BY_ONE))
        return max(far, self.block + 1)

    async def _look_around(self, head: Block) -> bool:
        """Do what is to be done besides reading final blocks."""
        if wrong := await self._recovery.misplaced(self.block):
            await self._books.write(wrong)
            self.on_reverted()
        if self._recovery.payouts_dropped and (paid := await self._recovery.payouts_back(self.at_final)):
            await self._books.write([*self.seen(), *paid])
        begun = await self._foresight.look(head, self.block)
        self._tell(begun or ())
        return begun is not None

    async def _stay(self, head: Block) -> _Found:
        """Find out whether the last block read is on the chain; if another one is in its place, go back."""
        known = self._trail.hash_of(self.block)
        block = head if head.number == self.block else await self._layer.block(self.block)
        if block is not None and known in (None, block.hash):
            if head.number < block.number:
                self._logs.trouble = f"its last block is {head.number}, and yet it has block {block.number}"
                return _Found.UNKNOWN
            self._trail.read(block)
            return _Found.ON_CHAIN
        candidates = self._trail.known()
        if block is None:  # the chain is shorter than it was, which alone says nothing
            candidates = {number: each for number, each in candidates.items() if number <= head.number}
            if not candidates or not self._trail.contradicts(await known_block(self._layer, max(candidates))):
                self._logs.trouble = f"it has no block {self.block}, and nothing else in its place"
                return _Found.UNKNOWN
        fork = await last_common(self._layer, candidates)
        if fork is None:
            raise ChainMisbehaved(
                f"its block {self.block} is not the one in the journal, nor is any before it that the journal"
                f" remembers, from block {min(candidates)} on: it was reset, it is another chain, or it replaced"
                " more blocks than can be taken back"
            )
        self._logs.trouble = "they are replaced meanwhile"
        record = await read_reverted(
            self._layer, self._books.ledger, fork, was=self.block, at=head.timestamp, head=head
        )
        if record is not None:
            await self._go_back(record)
        return _Found.GONE

    # -- reading --

    async def _read(self, first: int, last: int, head: Block) -> bool:
        """Journal what blocks `first` to `last` did; returns False when they do not follow what is known."""
        block = head if last == head.number else await self._layer.block(last)
        if block is None or not await follows(self._layer, self._trail, first, block):
            return False
        logs = await self._logs.upto(first, block)
        if logs is None:
            return False
        events, incoming = logs
        lanes = await self._lane_totals.after(events, last, head)
        if not await self._logs.are_of(block, (*events, *incoming)):
            return False
        # From here to the write nothing awaits: an event of a channel that is being taken is either in the
        # balance that it is taken with, or finds the channel known.
        records = self._reader.records(events, incoming, lanes)
        if found := self._reader.contradictions(records):
            await self._read_again(found, head)
            return False
        begun = self._reader.begun(records)
        before = self.seen()
        self._trail.read(block)
        self.applied = last
        if records:
            await self._books.write([*before, *records, ChainSeen(last, block.hash, block.timestamp)])
        elif last - self._books.ledger.totals.block >= SEEN_EVERY_BLOCKS:
            await self._books.write([ChainSeen(last, block.hash, block.timestamp)])
        self.block = last
        if lanes:
            self._lane_totals.due = False
        self._tell(begun)
        return True

    def seen(self) -> list[Record]:
        """Return the record of the last block read, if the journal has not got it yet.

        It is written before whatever was read of that block: so a restart, too, can tell that the block is gone.
        """
        mark = self._trail.end(self.block)
        if mark is None or self._books.ledger.totals.block >= self.block:
            return []
        return [ChainSeen(self.block, mark.hash, mark.timestamp)]

    def _tell(self, begun: Iterable[ChannelId]) -> None:
        for identifier in begun:
            self.on_withdrawal(identifier)

    # -- blocks that are not there any more --

    async def _go_back(self, record: ChainReverted) -> None:
        """Take the books back; on return they are as of `record.number`."""
        ledger = self._books.ledger
        if found := differences(ledger, record):
            raise ChainMisbehaved(f"its block {record.number} is not what it was: {'; '.join(found)}")
        # Blocks in which nothing was ours leave no trace.
        written = self._books.write([record]) if highest_effect(ledger) > record.number else None
        self.block = self.applied = record.number
        self._times_back += 1
        self._trail.cut(record.number, Mark(record.hash, record.timestamp))
        self._recovery.cut(record.number)
        self._recovery.payouts_dropped |= bool(record.paid)
        self._lane_totals.due = True
        self._on_chain = False
        if written is None:
            return
        await written
        log.warning(
            "%s after block %d of %d: %d channels went back, %d transactions are outstanding",
            "some events had been missed" if record.missed else "the chain replaced its blocks",
            record.number,
            record.was,
            len(record.channels),
            len(ledger.transactions),
        )
        self.on_reverted()

    async def _read_again(self, found: Mapping[ChannelId, str], head: Block) -> None:
        """Go back as far as the node can tell, so that every event is read again: some were kept from us.

        Raises ChainMisbehaved when that was done for one of these channels already.
        """
        words = in_words(found)
        known = self._trail.known()
        known = {number: each for number, each in known.items() if within_reach(number, head)} or known
        if self._comparison.suspects & found.keys() or not known:
            raise ChainMisbehaved(f"its events do not lead to the state that it shows: {words}")
        log.warning("events are read again: %s", words)
        block = await self._layer.block(min(known))
        self._on_chain = False
        if block is None or block.hash != known[block.number]:
            return  # the chain has replaced blocks, which comes first
        record = await read_reverted(
            self._layer, self._books.ledger, block, was=self.block, at=self.chain_time, missed=True, head=head
        )
        if record is not None:
            self._comparison.suspects |= found.keys()
            await self._go_back(record)
