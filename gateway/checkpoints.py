"""Copying the write-ahead log into the database beside the commits, so that they need not wait for it.

SQLite checkpoints in the connection that commits: every 4 MB nothing was acknowledged for 26 ms, the slowest hundredth
of all receipts. Here a second connection copies while commits go on. What these add meanwhile is copied by the
committing connection itself, in 5 to 10 ms, and with the next commit the log begins anew. After tens of thousands of
states were stored it is 40 to 90 ms, as the disk has much to sync.
"""

import contextlib
import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

# Small enough for a Pi's page cache.
WAL_BYTES = 4 * 2**20
# While states are stored: those of 30,000 channels. The file is cut to this afterwards.
HELD_BYTES = 64 * 2**20
# The committing connection copies everything itself, should the other one ever fall behind this far.
BEHIND = 64
# Pages that a transaction writes beside its rows: the last leaf once more, and what points to a new one.
PAGES_BESIDE = 2


class Checkpoints:
    """Those of one connection; called in its thread only."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path = path
        self._db = db
        self._page = int(db.execute("PRAGMA page_size").fetchone()[0])
        db.execute(f"PRAGMA wal_autocheckpoint = {BEHIND * WAL_BYTES // self._page}")
        db.execute(f"PRAGMA journal_size_limit = {HELD_BYTES}")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pages = 0  # about so many in the log
        self._copying: Future[None] | None = None
        # While states are stored all over the database nothing is copied: a disk writes blocks of 4 KB, which hold
        # eight changed pages then instead of one, and a state costs 0.8 kB instead of 2.8 kB.
        self.hold = False

    def committed(self, rows: int, size: int) -> None:
        """A transaction wrote so many rows, and bytes in them. Raises nothing: it is on the disk."""
        self._pages += PAGES_BESIDE * rows + size // self._page
        if self._copying is None:
            if self._pages * self._page >= (HELD_BYTES if self.hold else WAL_BYTES):
                self._copying, self._pages = self._thread.submit(self._beside), 0
        elif self._copying.done():
            self._copying = None
            if self._pages * self._page < WAL_BYTES:  # else the other connection has to copy once more
                self._pages = 0
                _copy(self._db)

    def close(self) -> None:
        """Wait for what is under way."""
        self._thread.shutdown()

    def _beside(self) -> None:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(self._path)) as db:
            _copy(db)


def _copy(db: sqlite3.Connection) -> None:
    """Copy what can be copied without waiting for anybody.

    Whatever keeps it from that is no fault here, as SQLite has it: the log holds everything, and grows until a commit
    fails.
    """
    with contextlib.suppress(sqlite3.Error):
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
