"""The journal and the books on it: what is acknowledged is on disk, and what is on disk is what was."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.invariants import InvariantViolation
from channels.machine import Contradiction
from channels.state import Account
from gateway import books as books_module
from gateway import checkpoints, history
from gateway import journal as journal_module
from gateway import records as r
from gateway.backup import prove_rows
from gateway.books import Books
from gateway.entries import StoredHistory, StoredReadings
from gateway.errors import JournalFault, SetupError
from gateway.history import BLOCK_READINGS, READINGS_KEPT, History, readings
from gateway.journal import Journal, read_commits, unseal_records
from gateway.ledger import Ledger
from gateway.records import decode_records, encode
from gateway.tables import Table, decoded
from gateway.terms import TermsBook
from tests.support.gateway_records import Script, back_to_schema
from tests.support.gateway_world import PATIENCE_S, states, until

ROOT = Path(__file__).resolve().parents[2]
FAULTS = (JournalFault, Contradiction, InvariantViolation)


class Opened:
    """Books on a path, with a script that writes to them."""

    def __init__(self, path: Path, seed: int = 1) -> None:
        self.books = Books(Journal(path))
        self.books.journal._db.execute("PRAGMA synchronous = OFF")  # these tests pull no plug
        self.terms = TermsBook(900, 225)
        try:
            self.replayed = self.books.replay(self.terms.terms_then, self.terms.observe)
        except BaseException:
            self.books.journal._db.close()
            raise
        self.script = Script(self.books, self.terms, seed)
        if self.books.ledger.founded is not None:
            self.script.resume()

    async def write(self, commits: int) -> None:
        """Write so many commits."""
        if self.books.ledger.founded is None:
            await self.script.found()
        for _ in range(commits):
            await self.script.step()

    async def cut(self) -> None:
        """Close without storing anything, as a power cut leaves it."""
        if self.books._storing is not None:
            await self.books._storing
        await self.books.journal.close()


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of one's own to a closed journal."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        yield db
    finally:
        db.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


# -- the file --


async def test_a_new_journal_is_private_and_set_for_power_cuts(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "journal.sqlite"
    journal = Journal(path)
    assert (journal.number, journal.states_at) == (0, 0)
    assert path.stat().st_mode & 0o777 == 0o600
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert journal._db.execute("PRAGMA user_version").fetchone() == (len(journal_module.MIGRATIONS),)
    await journal.close()


async def test_migrations_run_once_in_order_and_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(path)
    await opened.write(20)
    await opened.cut()
    more = (
        *journal_module.MIGRATIONS,
        "CREATE TABLE extra (a INTEGER) STRICT; INSERT INTO extra VALUES (1);",
        "INSERT INTO extra SELECT a + 1 FROM extra;",
    )
    monkeypatch.setattr(journal_module, "MIGRATIONS", more)
    for _ in range(2):
        journal = Journal(path)
        assert journal._db.execute("SELECT a FROM extra ORDER BY a").fetchall() == [(1,), (2,)]
        assert journal._db.execute("PRAGMA user_version").fetchone() == (len(more),)
        assert journal.number == opened.books.journal.number
        await journal.close()
    # One that fails half-way leaves nothing of itself.
    monkeypatch.setattr(
        journal_module, "MIGRATIONS", (*more, "INSERT INTO extra VALUES (99); INSERT INTO nowhere VALUES (1);")
    )
    with pytest.raises(SetupError, match="nowhere"):
        Journal(path)
    with database(path) as db:
        assert db.execute("SELECT count(*) FROM extra WHERE a = 99").fetchone() == (0,)
        assert db.execute("PRAGMA user_version").fetchone() == (len(more),)


async def test_a_journal_of_a_later_version_is_left_alone(path: Path) -> None:
    await Journal(path).close()
    with database(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(SetupError, match="schema 99"):
        Journal(path)


@pytest.mark.parametrize("content", [b"not a database, but long enough to be taken for one" * 40, b"{}" * 300])
def test_what_is_no_journal_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(SetupError, match="cannot open the journal"):
        Journal(path)
    assert path.read_bytes() == content


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot open the journal"):
        Journal(tmp_path / "file" / "journal.sqlite")


# -- replay --


@pytest.mark.parametrize("seed", range(12))
async def test_replay_equals_the_live_state(path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    monkeypatch.setattr(books_module, "STORE_MAX", rng.choice((1, 3, 10, 50, 10**6)))
    for run in range(4):
        opened = Opened(path, seed * 10 + run)
        await opened.write(rng.randrange(1, 90))
        live = states(opened.books.ledger)
        if rng.random() < 0.3:
            await opened.books.close()
            after = Opened(path)
            assert after.replayed == 0, "after an orderly end there is no tail"
        else:
            await opened.cut()
            after = Opened(path)
        assert states(after.books.ledger) == live
        assert after.books.journal.number == opened.books.journal.number
        await after.cut()


async def test_every_kind_of_record_takes_part(path: Path) -> None:
    opened = Opened(path, 5)
    await opened.write(800)
    await opened.cut()
    with database(path) as db:
        rows = db.execute("SELECT number, body FROM commits").fetchall()
    kinds = {type(record) for number, body in rows for record in unseal_records(body, number)}
    assert kinds == set(r.Record.__args__), "the script must write every kind"  # type: ignore[attr-defined]


async def test_states_and_tail_are_what_the_whole_journal_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaying all commits from nothing gives what the stored states and their tail give."""
    monkeypatch.setattr(books_module, "STORE_MAX", 25)
    opened = Opened(path, 8)
    await opened.write(210)
    await opened.cut()
    stored = Opened(path)
    assert stored.books.journal.states_at >= 175
    assert 0 < stored.replayed < 400
    kept = states(stored.books.ledger)
    await stored.cut()
    with database(path) as db:
        db.execute("DELETE FROM states")
        db.execute("UPDATE marks SET value = 0 WHERE name = 'states_at'")
    whole = Opened(path)
    assert states(whole.books.ledger) == kept
    await whole.cut()


async def test_states_are_stored_now_and_then_and_only_what_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books_module, "STORE_MAX", 10)
    opened = Opened(path, 3)
    await opened.write(35)
    if opened.books._storing is not None:
        await opened.books._storing
    assert opened.books.journal.states_at >= 25
    monkeypatch.setattr(books_module, "STORE_MAX", 10**6)
    opened.books.ledger.take_dirty()
    await opened.script.books.write([r.DeviceAdded("meter-x", (), "")])
    assert [(kind, key) for kind, key, _ in opened.books.ledger.take_dirty()] == [("device", b"meter-x")]
    await opened.cut()


@pytest.mark.parametrize("which", ["first", "middle", "last stored"])
async def test_a_missing_commit_is_noticed(path: Path, which: str) -> None:
    opened = Opened(path, 2)
    await opened.write(30)
    await opened.cut()
    number = {"first": 1, "middle": 15, "last stored": 30}[which]
    with database(path) as db:
        db.execute("DELETE FROM commits WHERE number = ?", (number,))
    with pytest.raises(JournalFault, match=f"lacks commit {number}"):
        Opened(path)


async def test_lost_commits_at_the_end_are_noticed_when_states_know_better(path: Path) -> None:
    """A file put together from two backups: states newer than the commits."""
    opened = Opened(path, 2)
    await opened.write(30)
    await opened.books.close()
    with database(path) as db:
        db.execute("DELETE FROM commits WHERE number > 20")
    with pytest.raises(JournalFault):
        Opened(path)


def _flip(rng: random.Random, body: bytes) -> bytes:
    data = bytearray(body)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


DAMAGE: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "cut short": lambda rng, body: body[: rng.randrange(len(body))],
    "zeros": lambda rng, body: bytes(len(body)),
    "noise": lambda rng, body: rng.randbytes(len(body)),
    "one bit": _flip,
    "more behind it": lambda rng, body: body + rng.randbytes(9),
}


@pytest.mark.parametrize("table", ["commits", "states"])
@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_body_is_noticed(path: Path, damage: str, table: str) -> None:
    seed = 31
    rng = random.Random(seed)
    opened = Opened(path, seed)
    await opened.write(60)
    await (opened.cut() if table == "commits" else opened.books.close())
    with database(path) as db:
        rows = db.execute(f"SELECT rowid, body FROM {table}" if table == "commits" else
                          "SELECT kind || hex(key), body FROM states").fetchall()  # fmt: skip
    where = "number" if table == "commits" else "kind || hex(key)"
    unnoticed = []
    for _ in range(60):
        key, body = rng.choice(rows)
        damaged = DAMAGE[damage](rng, body)
        if damaged == body:
            continue
        with database(path) as db:
            db.execute(f"UPDATE {table} SET body = ? WHERE {where} = ?", (damaged, key))
        try:
            await Opened(path).cut()
            unnoticed.append(key)
        except FAULTS:
            pass
        with database(path) as db:
            db.execute(f"UPDATE {table} SET body = ? WHERE {where} = ?", (body, key))
    assert not unnoticed, f"seed {seed}: {len(unnoticed)} of 60 damaged bodies went unnoticed: {unnoticed[:5]}"


# -- order and faults of the disk --


async def test_commits_are_on_disk_in_the_order_in_which_they_were_handed_in(path: Path) -> None:
    journal = Journal(path)
    gate = threading.Event()
    journal._writer.submit(gate.wait, 5)
    done: list[int] = []
    futures = []
    for number in range(1, 40):
        given, written = journal.commit([r.DeviceAdded(f"meter-{number}", (), "")])
        assert given == number
        written.add_done_callback(lambda _, number=number: done.append(number))
        futures.append(written)
    assert journal.number == 39
    assert not any(future.done() for future in futures)
    gate.set()
    await asyncio.gather(*futures)
    await asyncio.sleep(0)
    assert done == list(range(1, 40))
    for number in (1, 20, 39):
        assert journal.records(number) == [r.DeviceAdded(f"meter-{number}", (), "")]
    with pytest.raises(JournalFault, match="lacks commit 40"):
        journal.records(40)
    assert [number for number, _ in journal.tail()] == list(range(1, 40))
    await journal.close()


async def test_a_commit_is_written_whoever_gives_up_waiting_for_it(path: Path) -> None:
    """At a stop all that waits is cancelled; what waits for the disk has changed the books already."""
    journal, busy = Journal(path), threading.Event()
    write = journal._write
    journal._write = lambda *commit: (busy.wait(PATIENCE_S), write(*commit))[1]  # type: ignore[method-assign]
    _, first = journal.commit([r.DeviceAdded("meter-1", (), "")])

    async def add() -> None:
        await journal.commit([r.DeviceAdded("meter-2", (), "")])[1]

    adding = asyncio.create_task(add())
    await until(lambda: journal.number == 2)
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    _, third = journal.commit([r.DeviceAdded("meter-3", (), "")])
    busy.set()
    await asyncio.gather(first, third, journal.durable())
    devices = [record.device for _, records in read_commits(path, 0) for record in records]  # type: ignore[union-attr]
    assert devices == ["meter-1", "meter-2", "meter-3"]
    await journal.close()


async def test_a_full_disk_stops_the_journal_for_good(path: Path) -> None:
    """Nothing that was told to fail is there later, and nothing follows it: not even when there is room again."""
    opened = Opened(path, 4)
    await opened.write(10)
    good = states(opened.books.ledger)
    journal = opened.books.journal
    number = journal.number
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    big = r.DeviceAdded("meter-big", (), "x" * 100_000)
    with pytest.raises(JournalFault, match="full"):
        await opened.books.write([big])
    journal._db.execute("PRAGMA max_page_count = 1073741823")
    with pytest.raises(JournalFault):
        await opened.books.write([r.DeviceAdded("meter-after", (), "")])
    with pytest.raises(JournalFault):
        await opened.books.close()
    await journal.close()
    after = Opened(path)
    assert after.books.journal.number == number
    assert states(after.books.ledger) == good
    await after.write(5)
    live = states(after.books.ledger)
    await after.cut()
    again = Opened(path)
    assert states(again.books.ledger) == live, "the journal does not replay after it was full"
    await again.cut()


async def test_what_is_queued_behind_a_failed_commit_fails_too(path: Path) -> None:
    opened = Opened(path, 4)
    await opened.write(3)
    journal = opened.books.journal
    number = journal.number + 2
    journal._db.execute(
        f"CREATE TEMP TRIGGER broken BEFORE INSERT ON main.commits WHEN NEW.number = {number} "
        "BEGIN SELECT RAISE(ROLLBACK, 'broken'); END"
    )
    gate = threading.Event()
    journal._writer.submit(gate.wait, 5)
    written = [opened.books.write([r.DeviceAdded(f"meter-{each}", (), "")]) for each in range(5)]
    gate.set()
    outcomes = await asyncio.gather(*written, return_exceptions=True)
    assert outcomes[0] is None
    assert all(isinstance(outcome, JournalFault) for outcome in outcomes[1:]), outcomes
    await journal.close()
    after = Opened(path)
    assert set(after.books.ledger.devices) >= {b"meter-0"}
    assert not {b"meter-1", b"meter-2", b"meter-3", b"meter-4"} & set(after.books.ledger.devices)
    await after.cut()


async def test_states_that_cannot_be_stored_stop_the_books(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not stored is not forgotten: either the next one stores it, or nothing more is committed."""
    monkeypatch.setattr(books_module, "STORE_MAX", 5)
    opened = Opened(path, 6)
    await opened.write(3)
    opened.books.journal._db.execute(
        "CREATE TEMP TRIGGER broken BEFORE INSERT ON main.states BEGIN SELECT RAISE(ROLLBACK, 'broken'); END"
    )
    failed = False
    try:
        await opened.write(4)
        if opened.books._storing is not None:
            await asyncio.wait([opened.books._storing])
        opened.books.journal._db.execute("DROP TRIGGER IF EXISTS temp.broken")
        await opened.write(12)
    except JournalFault:
        failed = True
    if opened.books._storing is not None:
        await asyncio.wait([opened.books._storing])
        opened.books._storing.exception()
    live = None if failed else states(opened.books.ledger)
    await opened.books.journal.close()
    after = Opened(path)  # must replay either way
    assert live is None or states(after.books.ledger) == live
    await after.cut()


async def test_records_that_contradict_leave_nothing_on_disk(path: Path) -> None:
    """A commit whose second record cannot follow: the first one is not stored behind the journal's back."""
    opened = Opened(path, 9)
    await opened.write(25)
    good = states(opened.books.ledger)
    lane = opened.books.ledger.founded.lanes[0]  # type: ignore[union-attr]
    with pytest.raises(FAULTS):
        await opened.books.write([r.CashReceived(1, lane, b"\1" * 20, 777), r.PayoutsPaid(((b"\2" * 20, 5),))])
    try:
        await opened.books.close()
    except JournalFault:
        await opened.books.journal.close()
    after = Opened(path)
    assert states(after.books.ledger) == good
    await after.cut()


# -- the plug --


def _child(path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.gateway_killed", str(path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip


def _until_killed(child: "subprocess.Popen[str]", seed: int, acknowledgements: int) -> dict[int, str]:
    """Let it commit, kill it after so many acknowledgements, return all that it acknowledged."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{seed}\n")
    child.stdin.flush()
    word, number = child.stdout.readline().split()
    assert word == "pid"
    acked: dict[int, str] = {}
    killed = False
    for line in child.stdout:
        if line == "end\n":
            break
        _, commit, digest = line.split()
        acked[int(commit)] = digest
        if len(acked) >= acknowledgements and not killed:
            os.kill(int(number), signal.SIGKILL)
            killed = True
    assert killed, "it ended by itself"
    return acked


@pytest.mark.slow
def test_what_was_acknowledged_survives_kill_9(path: Path) -> None:
    seed = 20_261_121
    print(f"seed {seed}")
    rng = random.Random(seed)
    child = _child(path)
    acked: dict[int, str] = {}
    try:
        for run in range(40):
            fresh = _until_killed(child, seed + run, rng.randrange(1, 25))
            assert not set(fresh) & set(acked), "a number was given twice to acknowledged commits"
            acked |= fresh
            with database(path) as db:
                bodies = dict(db.execute("SELECT number, body FROM commits"))
            missing = [number for number in acked if number not in bodies]
            assert not missing, f"seed {seed}, run {run}: acknowledged and lost: {missing}"
            wrong = [number for number in fresh if _digest(number, bodies[number]) != fresh[number]]
            assert not wrong, f"seed {seed}, run {run}: other content than acknowledged: {wrong}"
            assert sorted(bodies) == list(range(1, len(bodies) + 1)), f"seed {seed}, run {run}: a gap"
    finally:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.close()
        assert child.wait(10) == 0
        child.stdout.close()
    assert len(acked) > 300
    asyncio.run(_replays_both_ways(path))


def _digest(number: int, body: bytes) -> str:
    return sha256(encode(unseal_records(body, number))).hexdigest()


async def _replays_both_ways(path: Path) -> None:
    """With the states that were stored between kills, and without them."""
    kept = Opened(path)
    assert kept.books.journal.states_at > 0
    with_states = states(kept.books.ledger)
    await kept.cut()
    with database(path) as db:
        db.execute("DELETE FROM states")
        db.execute("UPDATE marks SET value = 0 WHERE name = 'states_at'")
    whole = Opened(path)
    assert states(whole.books.ledger) == with_states
    await whole.cut()


# -- parts --


def test_records_survive_encoding() -> None:
    account = Account(b"\1" * 32, "d", "s", b"\2" * 20, b"\3" * 20, _meter(), 2**127, 2**100, 9_999, 2**90)
    rows: list[Any] = [
        r.AccountOpened(account),
        r.CashReceived(2**80, b"\1" * 20, b"\2" * 20, 2**127),
        r.DeviceAdded("d", (b"\1" * 20,), "Größe"),
        r.CycleStarted(1, 2, ((b"\1" * 32, 2**127),), (), ((b"\2" * 32, 0),)),
    ]
    assert decode_records(encode(rows)) == rows
    assert decode_records(encode([])) == []


def _meter() -> Any:
    from channels.state import Meter

    return Meter(2**64 - 1, 2**64 - 1, 10**9 - 1, b"\4" * 16, 2**53)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\x00", b"\xff", b"\x81\x81\x67unknown", cbor2.dumps([["device", "d", [], ""], 5]), cbor2.dumps({}),
        cbor2.dumps([["device", 5, [], ""]]), cbor2.dumps([["device"]]), b"\x9b" + b"\xff" * 8, b"\x81" * 5_000,
        b"\xc0\x63abc", b"\xd8\x23\x61(", b"\x62\xff\xfe",
    ],
)  # fmt: skip
def test_what_are_no_records_is_a_fault(body: bytes) -> None:
    with pytest.raises(JournalFault):
        decode_records(body)


def test_a_table_remembers_what_changed() -> None:
    table: Table[r.DeviceAdded] = Table("device", r.DeviceAdded)
    one = r.DeviceAdded("a", (), "")
    table[b"a"] = one
    table[b"b"] = one
    del table[b"b"]
    assert sorted(table.take_dirty(), key=lambda row: row[1]) == [("device", b"a", one), ("device", b"b", None)]
    assert table.take_dirty() == []
    table.load(b"c", encode(one))
    assert table.take_dirty() == []
    assert (len(table), list(table), table[b"c"]) == (2, [b"a", b"c"], one)
    for body in (b"", b"\x05", encode([1, 2]), b"\xff"):
        with pytest.raises(JournalFault, match="stored device"):
            table.load(b"d", body)
    with pytest.raises(KeyError):
        del table[b"never"]
    assert table.take_dirty() == []


def test_an_unknown_kind_of_state_is_a_fault() -> None:
    with pytest.raises(JournalFault, match="unknown kind 'magic'"):
        Ledger().load("magic", b"", b"")


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 40_000)), max_size=80), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_a_history_finds_what_it_keeps(steps: list[tuple[int, int]], rng: random.Random) -> None:
    sizes = history.READINGS_KEPT, history.BLOCK_READINGS
    history.READINGS_KEPT, history.BLOCK_READINGS = 8, 4
    try:
        found, model, seq, commit = History(), {}, 0, 0
        stored: dict[int, StoredReadings] = {}
        for step, later in steps:
            # Every other seq is just the next one, as devices have it.
            seq, commit = seq + (1 if rng.random() < 0.5 else step), commit + later
            found.add(seq, commit)
            model[seq] = commit
            if rng.random() < 0.3:
                _store(found, stored)
                found = History(sorted(stored.items()))
            recent = list(model)[-8:]
            assert dict(found.newest(None, 8)) == {each: model[each] for each in recent}
            kept = found.newest(None, 1_000)
            assert kept == sorted(model.items(), reverse=True)[: len(kept)]
            assert min(len(model), 8) <= len(kept) < 8 + 2 * 4
            assert found.newest(recent[0], 3) == [entry for entry in kept if entry[0] < recent[0]][:3]
            assert [entry for block in found.blocks for entry in readings(block)] == kept[::-1]
            assert (found.covers(seq), found.covers(seq + 1)) == (True, False)
    finally:
        history.READINGS_KEPT, history.BLOCK_READINGS = sizes


def _store(found: History, stored: dict[int, StoredReadings]) -> None:
    """Keep what a history says is to be stored, through the form it has on disk."""
    for seq, block in found.changes():
        if block is None:
            stored.pop(seq, None)
        else:
            stored[seq] = decoded("readings", StoredReadings, encode(block))
    assert sorted(stored.items()) == found.blocks


def test_a_history_is_bounded_and_takes_the_greatest_numbers() -> None:
    found = History()
    for seq in range(1, 5 * READINGS_KEPT):
        found.add(seq, seq * 2)
    found.add(2**64 - 1, 2**63)
    last = 5 * READINGS_KEPT - 1
    assert found.newest(None, 2) == [(2**64 - 1, 2**63), (last, 2 * last)]
    assert found.newest(None, 10**6)[READINGS_KEPT - 1][0] == last - READINGS_KEPT + 2
    assert len(found.newest(None, 10**6)) < READINGS_KEPT + 2 * BLOCK_READINGS
    assert sum(len(block.data) for _, block in found.blocks) < 4 * READINGS_KEPT
    assert History(found.blocks).blocks == found.blocks
    # Only the block that grows is stored again.
    found.add(2**64, 2**63 + 1)
    found.changes()
    found.add(2**64 + 1, 2**63 + 1)
    ((first, block),) = found.changes()
    assert (first, block and block.count) == (2**64, 2)


def test_a_history_of_an_earlier_version_is_taken_over() -> None:
    ledger = Ledger()
    seqs, commits = list(range(5, 1_605)), [3 * seq for seq in range(5, 1_605)]
    old = StoredHistory(array("Q", seqs).tobytes(), array("Q", commits).tobytes())
    ledger.load("history", b"i" * 32, encode(old))
    ledger.loaded()
    assert ledger.last_seqs(b"i" * 32, None, 2) == [(1_604, 4_812), (1_603, 4_809)]
    assert (bool(ledger.kept(b"i" * 32, 1_604)), bool(ledger.kept(b"i" * 32, 1_605))) == (True, False)
    changed = ledger.take_dirty()
    assert ("history", b"i" * 32, None) in changed
    again = Ledger()
    again.channels[b"i" * 32] = object()  # type: ignore[assignment]
    for kind, key, state in changed:
        if kind == "readings" and state is not None:
            again.load(kind, key, encode(state))
    again._load_histories()
    assert again.last_seqs(b"i" * 32, None, 2_000) == ledger.last_seqs(b"i" * 32, None, 2_000)


# -- states in parts --


async def test_a_crash_between_parts_of_a_store_leaves_the_states_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "STATES_PER_WRITE", 3)
    opened = Opened(path, 4)
    await opened.write(60)
    await opened.books.journal.store(opened.books.journal.number, opened.books.ledger.take_dirty())
    valid = opened.books.journal.states_at
    await opened.write(60)
    live, number = states(opened.books.ledger), opened.books.journal.number
    rows = sorted(opened.books.ledger.take_dirty(), key=lambda row: row[:2])
    assert len(rows) > 30
    await opened.cut()
    for parts in range(0, len(rows) // 3 + 1, 4):
        journal = Journal(path)
        for part in range(parts):
            journal._store(rows[3 * part : 3 * part + 3])
        journal._db.close()
        after = Opened(path)
        assert after.books.journal.states_at == valid
        assert after.replayed, "the tail leads on from the states before"
        assert states(after.books.ledger) == live
        await after.cut()
    # And when all of them are written, they are valid.
    journal = Journal(path)
    await journal.store(number, rows)
    await journal.close()
    after = Opened(path)
    assert (after.replayed, states(after.books.ledger)) == (0, live)
    await after.cut()


async def test_deleted_states_leave_no_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a crash right after they became valid, once states are stored again."""
    journal = Journal(path)
    offer = r.OfferIssued(b"", 1)
    await journal.store(1, [("offer", bytes((each,)), offer) for each in range(250)])
    await journal.store(2, [("offer", bytes((each,)), None) for each in range(200)])
    with database(path) as db:
        assert db.execute("SELECT count(*) FROM states").fetchone() == (50,)
    monkeypatch.setattr(journal, "_forget", lambda keys: None)
    await journal.store(3, [("offer", bytes((each,)), None) for each in range(200, 240)])
    for _ in range(4):
        await journal.commit(())[1]
    journal._db.close()
    again = Journal(path)
    assert [state.key for state in again.states()] == [bytes((each,)) for each in range(240, 250)]
    await again.store(4, [("offer", bytes((200,)), offer)])  # one that is there again
    await again.close()
    with database(path) as db:
        assert db.execute("SELECT count(DISTINCT key) FROM states").fetchone() == (11,)
    last = Journal(path)
    assert bytes((200,)) in {state.key for state in last.states()}
    last._db.close()


@pytest.mark.parametrize("schema", [1, 2])
async def test_a_journal_of_an_earlier_version_is_taken_over(path: Path, schema: int) -> None:
    opened = Opened(path, 12)
    await opened.write(90)
    await opened.books.close()
    number = opened.books.journal.number
    live = states(opened.books.ledger)
    back_to_schema(path, schema)
    for _ in range(2):
        after = Opened(path)
        assert (after.replayed, after.books.journal.states_at) == (0, number)
        assert states(after.books.ledger) == live
        await after.books.close()  # without a commit in between


async def test_a_backup_may_fall_between_two_parts(path: Path) -> None:
    opened = Opened(path, 4)
    await opened.write(60)
    await opened.books.close()
    with database(path) as db:
        (number,) = db.execute("SELECT max(number) FROM commits").fetchone()
        kind, key, storing = db.execute("SELECT kind, key, storing FROM states WHERE slot = 0").fetchone()
    journal = Journal(path)
    journal._store([(kind, key, None)])
    journal._db.close()
    with database(path) as db:
        assert db.execute("SELECT max(storing) FROM states").fetchone() == (storing + 1,)
    assert prove_rows(path)[1] == number
    journal = Journal(path)
    assert (kind, key) in {(state.kind, state.key) for state in journal.states()}
    await journal.close()


@pytest.mark.parametrize("change", [-1, 1, 7])
async def test_an_older_state_never_takes_the_place_of_a_damaged_one(path: Path, change: int) -> None:
    """Each state may have an older one beside it: what tells them apart is sealed, too."""
    opened = Opened(path, 31)
    for _ in range(3):
        await opened.write(20)
        await opened.books.journal.store(opened.books.journal.number, opened.books.ledger.take_dirty())
    await opened.cut()
    with database(path) as db:
        ranked = "SELECT *, row_number() OVER (PARTITION BY kind, key ORDER BY storing DESC) AS rank FROM states"
        rows = db.execute(f"SELECT rank, kind, key, slot, storing FROM ({ranked})").fetchall()
    changed = [row for row in rows if row[0] == 1 and row[4] + change > 0]
    assert len(changed) > 20
    for _, kind, key, slot, storing in changed[:25]:
        where = (kind, key, slot)
        with database(path) as db:
            db.execute(
                "UPDATE states SET storing = ? WHERE kind = ? AND key = ? AND slot = ?", (storing + change, *where)
            )
        with pytest.raises(JournalFault, match="is damaged"):
            Opened(path)
        with database(path) as db:
            db.execute("UPDATE states SET storing = ? WHERE kind = ? AND key = ? AND slot = ?", (storing, *where))
    await Opened(path).cut()


async def test_without_a_descriptor_left_commits_go_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying the log needs a connection of its own; that it cannot be opened is no commit's fault."""
    monkeypatch.setattr(checkpoints, "WAL_BYTES", 4_096)
    journal = Journal(path)

    def refused(*arguments: Any, **options: Any) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(checkpoints.sqlite3, "connect", refused)
    for _ in range(60):
        await journal.commit(())[1]
    monkeypatch.undo()
    await journal.commit(())[1]
    await journal.close()
    again = Journal(path)
    assert again.number == 61
    await again.close()


async def test_commits_have_their_turn_between_parts(path: Path) -> None:
    journal = Journal(path)
    order: list[str] = []
    storing = asyncio.ensure_future(
        journal.store(0, [("offer", each.to_bytes(2, "big"), r.OfferIssued(b"", 1)) for each in range(2_000)])
    )
    storing.add_done_callback(lambda task: order.append("stored"))
    await asyncio.sleep(0)
    for _ in range(5):
        await journal.commit(())[1]
        order.append("committed")
    await storing
    await asyncio.sleep(0)
    assert order == ["committed"] * 5 + ["stored"]
    await journal.close()
