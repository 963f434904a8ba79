"""Making backups, beside a running gateway or a stopped one (docs/operating.md, "Backups").

The journal is copied by SQLite's online backup under one read transaction: the writer goes on, and the copy is of one
commit. Every row of the copy is then read and checked before the archive gets its name, so that a file that is there
is a whole one. All of that happens in a thread, in pieces with pauses.
"""

import asyncio
import fcntl
import json
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway import __version__, archive
from gateway.archive import FileEntry, Manifest, entry_of, is_backup, write_archive
from gateway.config import BackupConfig, Config
from gateway.errors import JournalFault, SetupError
from gateway.journal import MIGRATIONS, read_commits, unsealed, unsealed_state
from gateway.records import Founded

log = logging.getLogger("metergate.backup")

# The last result, for `status`, `doctor` and the dashboard; also of a gateway that has stopped since.
RESULT = "backup.json"
# A megabyte, then a pause: the journal's writer shares the disk.
PAGES_PER_STEP = 256
PAUSE_S = 0.005
ROWS_PER_STEP = 200
# A backup never fills the disk that the journal may be on.
RESERVE_BYTES = 64 * 2**20
RETRY_S = 600.0
TABLES = ("commits", "states", "statements", "statement_links")


@dataclass(frozen=True, slots=True)
class Made:
    """One backup that was made. `at` is Unix seconds."""

    file: str
    at: int
    commit: int
    bytes: int
    gateway: str
    chain_id: int
    keys: bool

    def view(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def make_backup(
    config: Config, target: Path, *, config_file: Path | None = None, on_part: Callable[[str], None] = lambda part: None
) -> Made:
    """Write a backup to `target` and return what it holds; with `config_file` also that file and the encrypted keys.

    Blocks for as long as it takes: run it in a thread. `on_part` is called before each step. An older backup of that
    name is replaced in the end; any other file is refused. Raises SetupError for all that can go wrong.
    """
    target = target.absolute()
    journal = Path(config.data_dir) / archive.JOURNAL
    if not journal.exists():
        raise SetupError(f"there is no journal {journal}: this gateway has not run yet.")
    try:
        _check_target(target)
        _check_space(target, journal)
        with _workshop(target) as shop:
            made = _assemble(config, target, shop, config_file, on_part)
        _sync(target.parent)
        return made
    except OSError as error:
        raise SetupError(f"cannot write the backup {target}: {error.strerror}.") from error
    except (sqlite3.Error, JournalFault) as error:
        raise SetupError(f"no backup was made, the journal cannot be copied: {error}.") from error


def _assemble(
    config: Config, target: Path, shop: Path, config_file: Path | None, on_part: Callable[[str], None]
) -> Made:
    data = Path(config.data_dir)
    sources = {archive.JOURNAL: shop / archive.JOURNAL}
    on_part("journal")
    _copy(data / archive.JOURNAL, sources[archive.JOURNAL])
    on_part("check")
    founded, commit, schema = prove_rows(sources[archive.JOURNAL])
    if (data / archive.OPERATORS).exists():
        sources[archive.OPERATORS] = shop / archive.OPERATORS
        _copy(data / archive.OPERATORS, sources[archive.OPERATORS])
    if config_file is not None:
        for name, path in ((archive.CONFIG, config_file), (archive.KEYS, Path(config.key_file))):
            sources[name] = shop / name
            shutil.copyfile(path, sources[name])
    entries: tuple[FileEntry, ...] = tuple(entry_of(name, sources[name]) for name in archive.ORDER if name in sources)
    manifest = Manifest(
        format=archive.FORMAT,
        version=archive.VERSION,
        metergate=__version__,
        made_at=int(time.time()),
        gateway=founded.gateway,
        chain_id=founded.chain_id,
        commit=commit,
        schema=schema,
        files=entries,
    )
    on_part("archive")
    write_archive(shop / "archive", manifest, sources)
    size = (shop / "archive").stat().st_size
    on_part("rename")
    (shop / "archive").rename(target)
    keys = archive.KEYS in sources
    return Made(str(target), manifest.made_at, commit, size, founded.gateway, founded.chain_id, keys)


def _copy(source: Path, target: Path) -> None:
    """Copy a database as of now. Its writer is not held up; its write-ahead log grows until the copy is made."""
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, isolation_level=None)) as live,
        closing(sqlite3.connect(target, isolation_level=None)) as copy,
    ):
        # With a read transaction of our own every step sees the same commit; without, each commit would begin it anew.
        live.execute("BEGIN")
        live.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        live.backup(copy, pages=PAGES_PER_STEP, sleep=PAUSE_S, progress=lambda *counts: time.sleep(PAUSE_S))
        live.execute("COMMIT")
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, with no log beside it


def prove_rows(journal: Path) -> tuple[Founded, int, int]:
    """Check every row of a journal that nobody writes; returns its first record, last commit number and schema.

    Raises JournalFault for damage and for a journal that is empty.
    """
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        schema = int(db.execute("PRAGMA user_version").fetchone()[0])
        if not 1 <= schema <= len(MIGRATIONS):
            raise JournalFault(f"the journal has schema {schema}; this Metergate knows {len(MIGRATIONS)}")
        problems = [row[0] for row in db.execute("PRAGMA quick_check(3)")]
        if problems != ["ok"]:
            raise JournalFault(f"{journal.name} is damaged: {'; '.join(problems)}")
        there = {row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        commit = 0
        for number, body in _rows(db, "SELECT number, body FROM commits ORDER BY number"):
            if number != commit + 1:
                raise JournalFault(f"commit {commit + 1} is missing")
            unsealed(body, f"commit {number}")
            commit = number
        for table in TABLES[1:]:
            if table == "states" and schema > 2:
                for row in _rows(db, "SELECT kind, key, storing, body FROM states"):
                    unsealed_state(*row)
            elif table in there:
                for (body,) in _rows(db, f"SELECT body FROM {table}"):  # noqa: S608  (a name from the tuple above)
                    unsealed(body, f"a row of {table}")
        (states_at,) = db.execute("SELECT value FROM marks WHERE name = 'states_at'").fetchone()
    if states_at > commit:
        raise JournalFault(f"it lacks its last commits, up to {states_at}")
    first = next((records[0] for _, records in read_commits(journal, 0, 1)), None) if commit else None
    if not isinstance(first, Founded):
        raise JournalFault("it is empty: this gateway has not run yet")
    return first, commit, schema


def _rows(db: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """Yield rows with pauses: whoever shares this process has work to do."""
    cursor = db.execute(query)
    while rows := cursor.fetchmany(ROWS_PER_STEP):
        yield from rows
        time.sleep(0)


def _check_target(target: Path) -> None:
    if not target.parent.is_dir():
        raise SetupError(f"there is no directory {target.parent} for the backup.")
    if target.is_dir() or (target.exists() and not (target.is_file() and is_backup(target))):
        raise SetupError(f"{target} is there and is no backup: it is not written over.")


def _check_space(target: Path, journal: Path) -> None:
    """Refuse what would fill the disk: the copy and the archive are there at the same time."""
    log_file = journal.with_name(journal.name + "-wal")
    size = journal.stat().st_size + (log_file.stat().st_size if log_file.exists() else 0)
    free = shutil.disk_usage(target.parent).free
    if free < 2 * size + RESERVE_BYTES:
        needed = (2 * size + RESERVE_BYTES) >> 20
        raise SetupError(f"{free >> 20} MiB are free at {target.parent}, and a backup needs {needed}: make room.")


@contextmanager
def _workshop(target: Path) -> Iterator[Path]:
    """A directory beside the target for what is not finished; what a killed backup left there goes first."""
    shop = target.with_name(f".{target.name}.part")
    shop.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(shop / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SetupError(f"another backup to {target} is being made.") from error
        for left in shop.iterdir():
            if left.name != "lock":
                left.unlink()
        try:
            yield shop
        finally:
            shutil.rmtree(shop, ignore_errors=True)
    finally:
        os.close(lock)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- by the clock --


class Backups:
    """The backups of a running gateway: on demand and by the clock, one at a time; a failed one stops nothing."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._one = asyncio.Lock()
        self.failed = ""  # why the last one by the clock failed; empty when it did not

    @property
    def _clock(self) -> BackupConfig:
        return self._config.backup

    async def make(self, target: Path | None = None, *, config_file: Path | None = None) -> Made:
        """Make one, by default under a name of its own in `backup.dir`. Raises SetupError."""
        async with self._one:
            made = await asyncio.to_thread(make_backup, self._config, target or self._named(), config_file=config_file)
            await asyncio.to_thread(note, self._config, made)
        log.info("backup %s: commit %d, %d bytes", made.file, made.commit, made.bytes)
        return made

    async def run(self) -> None:
        """Make one every `backup.every_hours`, counted over restarts, and drop old ones."""
        if self._clock.every_hours == 0:
            return
        while True:
            await asyncio.sleep(max(0.0, self.due_at() - time.time()))
            try:
                await self.make()
                async with self._one:  # what is being made looks like what was left behind
                    await asyncio.to_thread(self._drop)
                self.failed = ""
            except SetupError as error:
                self.failed = str(error)
                log.warning("%s Tried again in %d minutes.", error, RETRY_S // 60)
                await asyncio.sleep(RETRY_S)

    def due_at(self) -> float:
        """Return when the next one by the clock is due, in Unix seconds."""
        try:
            last = max((path.stat().st_mtime for path in self._made()), default=0.0)
        except OSError:
            last = 0.0
        # A clock that was set back must not keep backups away for years.
        return min(last, time.time()) + self._clock.every_hours * 3600

    def view(self) -> dict[str, Any]:
        """Return the last result for `status`."""
        return {"last": last_backup(self._config), "failed": self.failed, "every_hours": self._clock.every_hours}

    def _directory(self) -> Path:
        return Path(self._clock.dir) if self._clock.dir else Path(self._config.data_dir) / "backups"

    def _named(self) -> Path:
        directory = self._directory()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise SetupError(f"cannot use backup.dir {directory}: {error.strerror}.") from error
        at = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
        return directory / f"metergate-{self._config.gateway}-{at}.tar"

    def _made(self) -> list[Path]:
        """Return the ones of this gateway that the clock named, oldest first."""
        return sorted(self._directory().glob(f"metergate-{self._config.gateway}-*Z.tar"))

    def _drop(self) -> None:
        for path in self._made()[: -self._clock.keep]:
            with suppress(OSError):  # a disk that was taken out: the next one says so
                path.unlink()
        for left in self._directory().glob(f".metergate-{self._config.gateway}-*.part"):
            shutil.rmtree(left, ignore_errors=True)  # of one that was killed


def note(config: Config, made: Made) -> None:
    """Remember a result in the data directory. A disk that refuses it has not unmade the backup: that is logged."""
    path = Path(config.data_dir) / RESULT
    draft = path.with_suffix(".new")
    try:
        draft.write_text(json.dumps(made.view()), encoding="utf-8")
        draft.chmod(0o600)
        draft.rename(path)
    except OSError as error:
        log.warning("the backup was made, but %s cannot be written: %s", path, error.strerror)


def last_backup(config: Config) -> dict[str, Any] | None:
    """Return the last result, also of a stopped gateway; None when none is known."""
    try:
        told = json.loads((Path(config.data_dir) / RESULT).read_bytes())
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and isinstance(told.get("at"), int) else None
