"""Settlement cycles: the list from the ledger, and one cycle's plan and transactions read back from the journal.

The journal is the only place that holds a cycle's plan; the log remembers between which commits each cycle lies.
For a cycle of an earlier run it looks for it, backwards and within a bound. All reading happens in a thread, on a
read-only connection, and SQLite itself passes over the commits that hold nothing but readings.
"""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from gateway import records as r
from gateway.errors import JournalFault
from gateway.journal import unseal_records
from gateway.ledger import Ledger

# Looked through for a cycle of an earlier run: hours of a busy site, some seconds of reading.
SCAN_COMMITS_MAX = 50_000
SCAN_STEP = 2_000
# A cycle of a thousand rows is some dozen commits.
CYCLE_COMMITS_MAX = 2_000
KEPT_MAX = 200

# How these records begin in CBOR: an array's first item is the tag, a text of that length.
_TAGS = tuple(
    bytes([0x60 + len(tag)]) + tag.encode()
    for tag in ("cycle", "payouts", "claims", "refund", "tx", "mined", "lost", "aside", "cycle-end")
)
_QUERY = (
    "SELECT number, body FROM commits WHERE number > ? AND number <= ? AND ("  # noqa: S608  # placeholders only
    + " OR ".join(["instr(body, ?)"] * len(_TAGS))
    + ") ORDER BY number LIMIT ?"
)


@dataclass(slots=True)
class Found:
    """What the journal holds of one cycle."""

    started: r.CycleStarted | None = None
    ended: r.CycleEnded | None = None
    payouts: dict[bytes, int] = field(default_factory=dict)
    claims: dict[bytes, int] = field(default_factory=dict)  # final ones of closing channels
    signed: dict[bytes, r.TransactionSigned] = field(default_factory=dict)
    mined: dict[bytes, r.TransactionMined] = field(default_factory=dict)
    aside: list[tuple[str, bytes, str]] = field(default_factory=list)


class CycleLog:
    """Remembers between which commits the cycles lie."""

    def __init__(self, ledger: Ledger, path: Path, commit: int) -> None:
        self._ledger = ledger
        self._path = path
        self._started = ledger.cycles.follow()
        self._ended = ledger.ended.follow()
        self._commit = commit  # of the last look
        self._ranges: dict[int, tuple[int, int | None]] = {}  # (after this commit, up to this one or open)

    def refresh(self, commit: int) -> tuple[list[int], list[int]]:
        """Look what began and ended up to `commit`; returns (numbers begun, numbers ended)."""
        if not (self._started or self._ended):
            self._commit = commit
            return [], []
        ended = sorted(int.from_bytes(key, "big") for key in self._ended if key in self._ledger.ended)
        begun = sorted({int.from_bytes(key, "big") for key in self._started} | set(ended))
        begun = [number for number in begun if number not in self._ranges]
        for number in begun:
            self._ranges[number] = (self._commit, None)
        for number in ended:
            self._ranges[number] = (self._ranges[number][0], commit)
        while len(self._ranges) > KEPT_MAX:
            del self._ranges[min(self._ranges)]
        self._started.clear()
        self._ended.clear()
        self._commit = commit
        return begun, ended

    async def read(self, number: int, commit: int) -> Found | None:
        """Return what the journal holds of a cycle up to `commit`; None when it cannot be found."""
        after, upto = self._ranges.get(number, (None, None))
        if after is None:
            span = await asyncio.to_thread(self._search, number, commit)
            if span is None:
                return None
            after, upto = self._ranges[number] = span
        return await asyncio.to_thread(self._read, number, after, commit if upto is None else upto)

    # -- in a thread --

    def _search(self, number: int, commit: int) -> tuple[int, int] | None:
        """Return the commits between which a cycle lies."""
        upto: int | None = None
        for high in range(commit, max(0, commit - SCAN_COMMITS_MAX), -SCAN_STEP):
            low = max(0, high - SCAN_STEP)
            for at, records in reversed(list(self._records(low, high))):
                for record in records:
                    if isinstance(record, r.CycleEnded) and record.number == number:
                        upto = at
                    if isinstance(record, r.CycleStarted) and record.number == number:
                        return at - 1, upto or min(commit, at + CYCLE_COMMITS_MAX)
        return None

    def _read(self, number: int, after: int, upto: int) -> Found:
        found = Found()
        for _, records in self._records(after, upto):
            for record in records:
                _take(found, record, number)
        return found

    def _records(self, after: int, upto: int) -> Iterator[tuple[int, list[r.Record]]]:
        try:
            with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as db:
                rows = db.execute(_QUERY, (after, upto, *_TAGS, CYCLE_COMMITS_MAX)).fetchall()
        except sqlite3.Error as error:
            raise JournalFault(f"cannot read {self._path}: {error}") from error
        for at, body in rows:
            yield at, unseal_records(body, at)


def _take(found: Found, record: r.Record, number: int) -> None:
    match record:
        case r.CycleStarted() if record.number == number:
            found.started = record
        case r.CycleEnded() if record.number == number:
            found.ended = record
        case r.PayoutsSigned() if record.cycle == number:
            found.payouts |= dict(record.rows)
        case r.ClaimsSigned():
            found.claims |= dict(record.rows)
        case r.TransactionSigned() if not record.purpose.startswith(("deposit", "refill", "approve")):
            found.signed[record.hash] = record
        case r.TransactionMined():
            found.mined[record.hash] = record
        case r.RowsSetAside() if record.cycle == number:
            found.aside += record.rows
        case _:
            pass
