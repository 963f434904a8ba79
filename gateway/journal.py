"""The journal: one SQLite file, one writer thread, one row per commit, durable before anything is visible.

A commit is a packed row of records (see `gateway.records`), because few large rows wear flash far less than one
row per reading. States are written beside it from time to time, so that a restart replays only the tail.
Numbers of commits are given when a commit is handed in; the writer keeps that order.
"""

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

from gateway.checkpoints import Checkpoints
from gateway.errors import JournalFault, SetupError
from gateway.records import Record, decode_records, encode

# Each migration runs once, in order, in one transaction with its number; none is ever changed after release.
MIGRATIONS = (
    """
    CREATE TABLE commits (number INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
    CREATE TABLE states (kind TEXT NOT NULL, key BLOB NOT NULL, body BLOB NOT NULL,
                         PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID;
    CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
    INSERT INTO marks VALUES ('states_at', 0);
    """,
    """
    CREATE TABLE statements (party BLOB NOT NULL, cycle INTEGER NOT NULL, body BLOB NOT NULL,
                             PRIMARY KEY (party, cycle)) STRICT;
    CREATE INDEX statements_of_cycle ON statements (cycle);
    CREATE TABLE statement_links (party BLOB PRIMARY KEY, cycle INTEGER NOT NULL, body BLOB NOT NULL) STRICT,
        WITHOUT ROWID;
    INSERT INTO marks VALUES ('statements_at', 0);
    """,
    # Two rows for each state: while a new one is stored, the one that is valid stays. `storing` counts how often states
    # were stored, and the mark is the last time that this was completed.
    """
    CREATE TABLE stored (kind TEXT NOT NULL, key BLOB NOT NULL, slot INTEGER NOT NULL, storing INTEGER NOT NULL,
                         body BLOB NOT NULL, PRIMARY KEY (kind, key, slot)) STRICT, WITHOUT ROWID;
    INSERT INTO stored SELECT kind, key, 0, 0, body FROM states;
    DROP TABLE states;
    ALTER TABLE stored RENAME TO states;
    INSERT INTO marks VALUES ('storing', 0);
    """,
)
# Measured with ten readings in a commit, bytes written for each: pages of 512 bytes 870, 1,024 bytes 1,044, 4,096 bytes
# (the default) 1,445, as every commit writes its last page again. Journals that were made with others keep them.
PAGE_BYTES = 512
# States written in one transaction, some 5 ms, between which commits have their turn.
STATES_PER_WRITE = 100
_STATES = "SELECT kind, key, storing, body FROM states ORDER BY kind, key"
# A state goes into the slot that does not hold its valid row, which is the newest of those stored completely.
_STORE = """
    INSERT OR REPLACE INTO states VALUES (:kind, :key, coalesce((
        SELECT 1 - slot FROM states WHERE kind = :kind AND key = :key AND storing < :storing
        ORDER BY storing DESC LIMIT 1
    ), 0), :storing, :body)
"""
# Commits read at once by who walks through all of them: a megabyte at full batches.
COMMITS_PER_READ = 500


T = TypeVar("T")


class State(NamedTuple):
    """A state as it is stored: what kind, which one, its encoded body."""

    kind: str
    key: bytes
    body: bytes


class StatementRow(NamedTuple):
    """One party's statement of a cycle, and what its next one takes over, both encoded."""

    party: bytes
    body: bytes
    link: bytes


class Journal:
    """The journal of one gateway. Opened by one process at a time; a second one is refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._db = _open(path)
        self._checkpoints = Checkpoints(path, self._db)
        self._failed: str | None = None
        self._gone: list[tuple[str, bytes]] = []  # deleted states whose rows a crash left
        self._last: asyncio.Future[None] | None = None
        self.states_at = self._mark("states_at")  # the commit up to which the stored states hold
        self._storing = self._mark("storing")
        self.number = int(self._db.execute("SELECT coalesce(max(number), 0) FROM commits").fetchone()[0])
        if self.number < self.states_at:
            raise JournalFault(f"{path} lacks its last commits, up to {self.states_at}: restore a backup")

    @property
    def statements_at(self) -> int:
        """The last settlement cycle whose statements are stored."""
        return self._mark("statements_at")

    def _mark(self, name: str) -> int:
        return int(self._db.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()[0])

    def states(self) -> Iterator[State]:
        """Yield the stored states by kind and key; for the start, before anything is committed."""
        newest: tuple[str, bytes, int, bytes] | None = None
        for kind, key, storing, sealed in self._db.execute(_STATES):
            body = unsealed_state(kind, key, storing, sealed)
            if newest is not None and (kind, key) == newest[:2]:
                newest = max(newest, (kind, key, storing, body), key=itemgetter(2))
                continue
            yield from self._valid(newest)
            newest = kind, key, storing, body
        yield from self._valid(newest)

    def _valid(self, newest: tuple[str, bytes, int, bytes] | None) -> Iterator[State]:
        if newest is None:
            return
        kind, key, _, body = newest
        if body:
            yield State(kind, key, body)
        else:
            self._gone.append((kind, key))

    def tail(self) -> Iterator[tuple[int, list[Record]]]:
        """Yield (commit number, records) after the stored states, in order; for the start.

        Raises JournalFault when a number is missing: the file was damaged.
        """
        expected = self.states_at + 1
        for number, body in self._db.execute(
            "SELECT number, body FROM commits WHERE number >= ? ORDER BY number", (expected,)
        ):
            if number != expected:
                raise JournalFault(f"{self.path} lacks commit {expected}: restore a backup")
            yield number, decode_records(unsealed(body, "commit", number, "of", self.path))
            expected += 1

    def records(self, number: int) -> list[Record]:
        """Return the records of one commit, for the rare look-back at a replayed message."""
        with sqlite3.connect(f"file:{self.path}?mode=ro", uri=True) as db:
            row = db.execute("SELECT body FROM commits WHERE number = ?", (number,)).fetchone()
        db.close()
        if row is None:
            raise JournalFault(f"{self.path} lacks commit {number}")
        return decode_records(unsealed(row[0], "commit", number, "of", self.path))

    def commit(self, records: Sequence[Record]) -> tuple[int, "asyncio.Future[None]"]:
        """Hand in one commit; returns its number at once and a future that ends when it is on disk.

        Call it in the same step that changed the state in memory, with no await between, so that the order on
        disk is the order in which states changed. The future raises JournalFault when the disk fails; to cancel it
        leaves the commit as it is.
        """
        self.number += 1
        number = self.number
        loop = asyncio.get_running_loop()
        self._last = loop.run_in_executor(self._writer, self._write, number, tuple(records))
        # Whoever waits may be cancelled, as at every stop. A commit that is queued still must not be: it is applied,
        # and a journal that lacks it cannot be walked through any more.
        return number, asyncio.shield(self._last)

    async def durable(self) -> None:
        """Wait until everything handed in so far is on disk. Raises JournalFault when the disk fails."""
        if self._last is not None:
            await asyncio.shield(self._last)

    async def store(self, number: int, states: Iterable[tuple[str, bytes, object | None]]) -> None:
        """Write states as of commit `number`; a state of None is deleted.

        In parts, behind each of which other commits have their turn. They become valid together, with the last part.
        """
        # In another thread: of many channels it takes a while.
        rows = await asyncio.to_thread(_in_order, states)
        there = {(kind, key) for kind, key, state in rows if state is not None} if self._gone else set()
        gone = [(kind, key) for kind, key, state in rows if state is None]
        gone += [state for state in self._gone if state not in there]
        self._checkpoints.hold = True
        for part in _parts(rows):
            await self._in_turn(self._store, part)
        await self._in_turn(self._validate, number)
        for keys in _parts(gone):
            await self._in_turn(self._forget, keys)
        self._gone = []
        self._checkpoints.hold = False

    async def _in_turn(self, work: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writer, work, *arguments)

    async def store_statements(self, cycle: int, rows: Sequence[StatementRow], drop_to: int) -> None:
        """Write the statements of one cycle in one transaction, behind every commit handed in before.

        Those of cycles up to `drop_to` are dropped, but never a party's newest.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer, self._store_statements, cycle, rows, drop_to)

    async def close(self) -> None:
        """Finish what is queued and close the file."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer, self._checkpoints.close)
        await loop.run_in_executor(self._writer, self._db.close)
        self._writer.shutdown()

    def _write(self, number: int, records: Sequence[Record]) -> None:
        body = _sealed(encode(records))
        self._transaction(lambda db: db.execute("INSERT INTO commits VALUES (?, ?)", (number, body)))
        self._checkpoints.committed(1, len(body))

    def _store(self, states: Sequence[tuple[str, bytes, object | None]]) -> None:
        storing = self._storing + 1
        rows: list[dict[str, Any]] = [
            {
                "kind": kind,
                "key": key,
                "storing": storing,
                "body": _sealed(b"" if state is None else encode(state), _seed(kind, key, storing)),
            }
            for kind, key, state in states
        ]
        self._transaction(lambda db: db.executemany(_STORE, rows))
        self._checkpoints.committed(len(rows), sum(len(row["body"]) for row in rows))

    def _validate(self, number: int) -> None:
        """Let the states that were stored be the valid ones, as of commit `number`."""
        marks = ((number, "states_at"), (self._storing + 1, "storing"))
        self._transaction(lambda db: db.executemany("UPDATE marks SET value = ? WHERE name = ?", marks))
        self.states_at, self._storing = number, self._storing + 1

    def _forget(self, keys: Sequence[tuple[str, bytes]]) -> None:
        """Remove states that are deleted as of the valid commit."""
        self._transaction(lambda db: db.executemany("DELETE FROM states WHERE kind = ? AND key = ?", keys))
        self._checkpoints.committed(len(keys), 0)

    def _store_statements(self, cycle: int, rows: Sequence[StatementRow], drop_to: int) -> None:
        def write(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT INTO statements VALUES (?, ?, ?)", ((row.party, cycle, _sealed(row.body)) for row in rows)
            )
            db.executemany(
                "INSERT OR REPLACE INTO statement_links VALUES (?, ?, ?)",
                ((row.party, cycle, _sealed(row.link)) for row in rows),
            )
            db.execute(
                "DELETE FROM statements WHERE cycle <= ? AND NOT EXISTS (SELECT 1 FROM statement_links AS newest"
                " WHERE newest.party = statements.party AND newest.cycle = statements.cycle)",
                (drop_to,),
            )
            db.execute("UPDATE marks SET value = ? WHERE name = 'statements_at'", (cycle,))

        self._transaction(write)
        self._checkpoints.committed(2 * len(rows), sum(len(row.body) + len(row.link) for row in rows))

    def _transaction(self, write: Callable[[sqlite3.Connection], object]) -> None:
        # After one failure nothing more is written: a later commit must not be on disk without an earlier one.
        if self._failed is not None:
            raise JournalFault(self._failed)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            write(self._db)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._failed = f"cannot write {self.path}: {error}"
            if self._db.in_transaction:
                self._db.rollback()
            raise JournalFault(self._failed) from error

    def fail(self, reason: str) -> None:
        """Let nothing more be written: memory holds a state that no commit leads to."""
        self._failed = self._failed or reason


def _in_order(states: Iterable[tuple[str, bytes, object | None]]) -> list[tuple[str, bytes, object | None]]:
    """Return states by kind and key: what lies together on the disk is written together.

    In small pieces: a sort of all would hold the GIL for a quarter of a second with 100,000 channels.
    """
    pieces: defaultdict[tuple[str, bytes], list[tuple[str, bytes, object | None]]] = defaultdict(list)
    for state in states:
        pieces[state[0], state[1][:1]].append(state)
    return [state for place in sorted(pieces) for state in sorted(pieces[place], key=itemgetter(0, 1))]


def _parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    return (rows[start : start + STATES_PER_WRITE] for start in range(0, len(rows), STATES_PER_WRITE))


def _sealed(body: bytes, seed: int = 0) -> bytes:
    """Put a CRC-32 in front: flash rots, and SQLite checks only what is in its write-ahead log."""
    return crc32(body, seed).to_bytes(4, "big") + body


def unsealed(sealed: bytes, *what: object, seed: int = 0) -> bytes:
    """Return the body of a row of any table. Raises JournalFault, naming `what`, when it is damaged."""
    body = sealed[4:]
    if crc32(body, seed).to_bytes(4, "big") != sealed[:4]:
        words = (f"0x{each.hex()}" if isinstance(each, bytes) else str(each) for each in what)
        raise JournalFault(f"{' '.join(words)} is damaged: restore a backup")
    return body


def _seed(kind: str, key: bytes, storing: int) -> int:
    """Return what a state's seal begins with: it covers whose it is and how new, as an older one may be beside it.

    Those that earlier versions stored have 0.
    """
    return crc32(b"%d %s %s" % (storing, kind.encode(), key)) if storing else 0


def unsealed_state(kind: str, key: bytes, storing: int, sealed: bytes) -> bytes:
    """Return the body of a row of the table of states, empty for one that was deleted. Raises JournalFault."""
    return unsealed(sealed, "the", kind, key, seed=_seed(kind, key, storing))


def unseal_records(sealed: bytes, number: int) -> list[Record]:
    """Return the records in a row of the table of commits. Raises JournalFault when it is damaged."""
    return decode_records(unsealed(sealed, "commit", number))


def read_commits(path: Path, after: int, upto: int | None = None) -> Iterator[tuple[int, list[Record]]]:
    """Yield (commit number, records) of a journal in order, from the one after `after` to `upto` or the last.

    Reads beside a running gateway, in pieces, so that no long read keeps the write-ahead log from being emptied.
    Raises JournalFault for a journal that cannot be read or lacks a commit.
    """
    last = 2**63 - 1 if upto is None else upto
    query = "SELECT number, body FROM commits WHERE number > ? AND number <= ? ORDER BY number LIMIT ?"
    while True:
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                rows = db.execute(query, (after, last, COMMITS_PER_READ)).fetchall()
        except sqlite3.Error as error:
            raise JournalFault(f"cannot read {path}: {error}") from error
        for number, body in rows:
            if number != after + 1:
                raise JournalFault(f"{path} lacks commit {after + 1}: restore a backup")
            yield number, unseal_records(body, number)
            after = number
        if len(rows) < COMMITS_PER_READ:
            break
    if upto is not None and after < upto:
        raise JournalFault(f"{path} ends at commit {after}, before {upto}")


def parties_with_statements(path: Path, cycle: int, after: bytes, limit: int) -> list[bytes]:
    """Return up to `limit` parties that have a statement of this cycle, by address, from behind `after` on.

    Reads beside a running gateway. Raises JournalFault for a journal that cannot be read.
    """
    query = "SELECT party FROM statements WHERE cycle = ? AND party > ? ORDER BY party LIMIT ?"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return [party for (party,) in db.execute(query, (cycle, after, limit))]
    except sqlite3.Error as error:
        raise JournalFault(f"cannot read {path}: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.5)
        path.chmod(0o600)
        # NORMAL locking with a lock held by an open transaction would block readers; a separate lock file
        # keeps a second gateway out and lets `metergate status` read.
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        _migrate(db)
        _drop_unfinished(db)
    except (OSError, sqlite3.Error) as error:
        raise SetupError(f"cannot open the journal {path}: {error}.") from error
    return db


def _drop_unfinished(db: sqlite3.Connection) -> None:
    """Delete the states that a crash kept from becoming valid. Raises JournalFault for what no crash leaves."""
    (storing,) = db.execute("SELECT value FROM marks WHERE name = 'storing'").fetchone()
    for row in db.execute("SELECT kind, key, storing, body FROM states WHERE storing > ?", (storing,)).fetchall():
        unsealed_state(*row)
        if row[2] != storing + 1:
            raise JournalFault(f"the {row[0]} 0x{row[1].hex()} is newer than all others: restore a backup")
    db.execute("DELETE FROM states WHERE storing > ?", (storing,))


def _migrate(db: sqlite3.Connection) -> None:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise SetupError(f"the journal has schema {version}; this Metergate knows {len(MIGRATIONS)}: update it.")
    for number in range(version, len(MIGRATIONS)):
        db.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;")
