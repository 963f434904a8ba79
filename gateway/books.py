"""The ledger and its journal together: the only way to change a state.

`write` applies records and hands them to the journal in the same step, so that memory and disk change in the
same order. What it returns must be awaited before anything is acknowledged, shown or sent.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from channels import invariants
from channels.types import OfferId
from gateway.journal import Journal
from gateway.ledger import Ledger
from gateway.records import Record

# A restart replays what was journaled since states were stored: a second or two of work on a Raspberry Pi.
STORE_EVERY = 30_000
# But a state that changes with every reading should not be stored for each few of them: it costs the disk more than
# they do. With very many channels the restart counts for more again.
RECORDS_PER_STATE = 10
STORE_MAX = 200_000


class Books:
    """Ledger and journal of one gateway."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.ledger = Ledger()
        self._tail = 0  # records since states were stored
        self._storing: asyncio.Task[None] | None = None

    @property
    def next_number(self) -> int:
        """The number that the next commit gets."""
        return self.journal.number + 1

    def replay(self, terms_of: Callable[[OfferId, str], Any], on_record: Callable[[Record], None]) -> int:
        """Rebuild every state from the journal; returns how many records the tail held.

        `on_record` sees each record of the tail before it is applied (offers must be known before the readings
        that name them). Raises JournalFault, Contradiction or InvariantViolation when the journal is damaged.
        """
        ledger = self.ledger
        ledger.terms_of = terms_of
        for state in self.journal.states():
            ledger.load(*state)
        ledger.loaded()
        for offer in ledger.offers_by_serial():
            on_record(offer)
        count = 0
        for number, records in self.journal.tail():
            for record in records:
                on_record(record)
                ledger.apply(record, number)
                count += 1
        self._tail = count
        invariants.check(ledger.channels.values(), ledger.accounts.values())
        return count

    def write(self, records: Sequence[Record]) -> "asyncio.Future[None]":
        """Apply records and journal them as one commit; the future ends when they are on disk."""
        number = self.next_number
        with self.all_or_nothing():
            for record in records:
                self.ledger.apply(record, number)
        return self.journal_applied(records)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Let nothing more be journaled when the body fails: memory then holds what no commit leads to."""
        try:
            yield
        except BaseException as error:
            self.journal.fail(f"a commit could not be applied: {error}")
            raise

    def journal_applied(self, records: Sequence[Record]) -> "asyncio.Future[None]":
        """Journal records that the caller has just applied, in the same step, as commit `next_number`."""
        number, written = self.journal.commit(records)
        self._tail += len(records)
        if self._is_long and (self._storing is None or self._storing.done()):
            if self._storing is not None:
                self._storing.result()  # a disk that failed there has failed
            self._tail = 0
            # The states are frozen, so what is taken here is the state as of this commit.
            self._storing = asyncio.ensure_future(self.journal.store(number, self.ledger.take_dirty()))
        return written

    @property
    def _is_long(self) -> bool:
        """True when the tail is long enough for the states to be stored."""
        if self._tail < min(STORE_EVERY, STORE_MAX):
            return False
        return self._tail >= min(STORE_MAX, RECORDS_PER_STATE * self.ledger.changed)

    async def close(self) -> None:
        """Store every state, so that the next start has no tail, and close the journal."""
        if self._storing is not None:
            await self._storing
        await self.journal.store(self.journal.number, self.ledger.take_dirty())
        await self.journal.close()
