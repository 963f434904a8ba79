"""Who may operate, and what they did: operators, sessions, tokens, the audit log, answers to repeated actions.

A SQLite file of its own (`operators.sqlite` in the data directory, mode 0600): nothing in it is money, and nothing
here may slow the journal. Secrets are kept as hashes only. Every table has a bound.
"""

import asyncio
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiosqlite

FILE = "operators.sqlite"

# A site has a handful of each; these keep a leaked admin token from filling the disk.
OPERATORS_MAX = 64
SESSIONS_MAX = 256
TOKENS_MAX = 256
AUDIT_MAX = 100_000
ANSWERS_MAX = 10_000
ANSWERS_KEPT_S = 86_400

_SCHEMA = """
CREATE TABLE IF NOT EXISTS operators (
  name TEXT PRIMARY KEY, salt BLOB NOT NULL, hash BLOB NOT NULL, scope TEXT NOT NULL, created_at INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS sessions (
  hash BLOB PRIMARY KEY, operator TEXT NOT NULL, csrf TEXT NOT NULL,
  created_at INTEGER NOT NULL, seen_at INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS tokens (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, scope TEXT NOT NULL, created_by TEXT NOT NULL,
  created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, used_at INTEGER NOT NULL, hash BLOB NOT NULL UNIQUE
) STRICT;
CREATE TABLE IF NOT EXISTS audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, who TEXT NOT NULL, address TEXT NOT NULL,
  action TEXT NOT NULL, target TEXT NOT NULL, outcome TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS answers (
  who TEXT NOT NULL, key TEXT NOT NULL, request BLOB NOT NULL, status INTEGER NOT NULL, body BLOB NOT NULL,
  at INTEGER NOT NULL, PRIMARY KEY (who, key)
) STRICT;
CREATE TABLE IF NOT EXISTS setup (one INTEGER PRIMARY KEY CHECK (one = 1), hash BLOB NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who may log in. `hash` is the scrypt hash of the password under `salt`."""

    name: str
    salt: bytes
    hash: bytes
    scope: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that has logged in. Times are Unix seconds."""

    operator: str
    scope: str
    csrf: str
    created_at: int
    seen_at: int


@dataclass(frozen=True, slots=True)
class Token:
    """A key for programs; the secret itself is shown once, when it is made. `expires_at` 0: never."""

    id: str
    name: str
    scope: str
    created_by: str
    created_at: int
    expires_at: int
    used_at: int


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One action: who did what to what, from where, and how it ended."""

    id: int
    at: int
    who: str
    address: str
    action: str
    target: str
    outcome: str


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What an action answered, under its idempotency key; `request` is the hash of what was asked."""

    request: bytes
    status: int
    body: bytes


class TooMany(Exception):
    """A table has reached its bound; the words say which."""


def secret_hash(secret: str) -> bytes:
    """Return what is stored of a random secret: it has 256 bits of its own, so a plain hash does."""
    return hashlib.sha256(secret.encode()).digest()


class OperatorStore:
    """The file, behind one connection. Call `open` first and `close` at the end."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE
        self._database: aiosqlite.Connection | None = None

    @property
    def _db(self) -> aiosqlite.Connection:
        assert self._database is not None, "the store is open while the server runs"
        return self._database

    async def open(self) -> None:
        """Open or make the file."""
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        # A connection that is given up half-way leaves a thread that answers to a loop that is closed.
        opening = asyncio.ensure_future(aiosqlite.connect(self._path))
        try:
            self._database = await asyncio.shield(opening)
        except asyncio.CancelledError:
            await (await opening).close()
            raise
        await self._db.execute("PRAGMA journal_mode = WAL")
        await self._db.execute("PRAGMA synchronous = FULL")  # an action that was audited stays audited
        await self._db.executescript(_SCHEMA)
        await self._db.commit()

    async def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            await self._database.close()
            self._database = None

    # -- operators --

    async def operators(self) -> list[Operator]:
        """Return all operators, by name."""
        return [Operator(*row) for row in await self._all("SELECT * FROM operators ORDER BY name")]

    async def operator(self, name: str) -> Operator | None:
        """Return one operator, or None."""
        rows = await self._all("SELECT * FROM operators WHERE name = ?", (name,))
        return Operator(*rows[0]) if rows else None

    async def put_operator(self, operator: Operator) -> None:
        """Add or change an operator; a change ends its sessions. Raises TooMany."""
        known = await self.operators()
        if all(each.name != operator.name for each in known) and len(known) >= OPERATORS_MAX:
            raise TooMany(f"there are {OPERATORS_MAX} operators already")
        await self._db.execute(
            "INSERT OR REPLACE INTO operators VALUES (?, ?, ?, ?, ?)",
            (operator.name, operator.salt, operator.hash, operator.scope, operator.created_at),
        )
        await self._run("DELETE FROM sessions WHERE operator = ?", (operator.name,))

    async def remove_operator(self, name: str) -> bool:
        """Remove an operator and its sessions; tells whether there was one."""
        await self._db.execute("DELETE FROM sessions WHERE operator = ?", (name,))
        return await self._run("DELETE FROM operators WHERE name = ?", (name,)) > 0

    # -- the first run's code --

    async def setup_hash(self) -> bytes | None:
        """Return the hash of the one-time code that makes the first operator, if one waits."""
        rows = await self._all("SELECT hash FROM setup")
        return rows[0][0] if rows else None

    async def put_setup(self, code_hash: bytes) -> None:
        """Keep the hash of a new one-time code instead of any before."""
        await self._run("INSERT OR REPLACE INTO setup VALUES (1, ?)", (code_hash,))

    async def take_setup(self, code_hash: bytes) -> bool:
        """Use the code up; tells whether it was the right one."""
        return await self._run("DELETE FROM setup WHERE hash = ?", (code_hash,)) > 0

    # -- sessions --

    async def put_session(self, secret: str, operator: str, csrf: str, now: int) -> None:
        """Begin a session; the oldest goes when there are too many."""
        await self._db.execute(
            "DELETE FROM sessions WHERE hash IN (SELECT hash FROM sessions ORDER BY seen_at DESC LIMIT -1 OFFSET ?)",
            (SESSIONS_MAX - 1,),
        )
        await self._run("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", (secret_hash(secret), operator, csrf, now, now))

    async def session(self, secret: str) -> Session | None:
        """Return the session of a cookie's secret, with its operator's present scope, or None."""
        rows = await self._all(
            "SELECT s.operator, o.scope, s.csrf, s.created_at, s.seen_at FROM sessions s"
            " JOIN operators o ON o.name = s.operator WHERE s.hash = ?",
            (secret_hash(secret),),
        )
        return Session(*rows[0]) if rows else None

    async def saw_session(self, secret: str, now: int) -> None:
        """Note that a session is in use."""
        await self._run("UPDATE sessions SET seen_at = ? WHERE hash = ?", (now, secret_hash(secret)))

    async def end_session(self, secret: str) -> None:
        """End a session."""
        await self._run("DELETE FROM sessions WHERE hash = ?", (secret_hash(secret),))

    # -- tokens --

    async def put_token(self, token: Token, secret: str) -> None:
        """Add a token. Raises TooMany."""
        if len(await self.tokens()) >= TOKENS_MAX:
            raise TooMany(f"there are {TOKENS_MAX} tokens already; revoke one")
        await self._run(
            "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                token.id,
                token.name,
                token.scope,
                token.created_by,
                token.created_at,
                token.expires_at,
                token.used_at,
                secret_hash(secret),
            ),
        )

    async def tokens(self) -> list[Token]:
        """Return all tokens, oldest first."""
        return [Token(*row[:-1]) for row in await self._all("SELECT * FROM tokens ORDER BY created_at, id")]

    async def token(self, secret: str) -> Token | None:
        """Return the token of a secret, or None."""
        rows = await self._all("SELECT * FROM tokens WHERE hash = ?", (secret_hash(secret),))
        return Token(*rows[0][:-1]) if rows else None

    async def saw_token(self, identifier: str, now: int) -> None:
        """Note that a token is in use."""
        await self._run("UPDATE tokens SET used_at = ? WHERE id = ?", (now, identifier))

    async def revoke_token(self, identifier: str) -> bool:
        """Remove a token; tells whether there was one."""
        return await self._run("DELETE FROM tokens WHERE id = ?", (identifier,)) > 0

    # -- audit --

    async def audit(self, at: int, who: str, address: str, action: str, target: str, outcome: str) -> None:
        """Add one entry; the oldest ones go when there are too many."""
        await self._db.execute(
            "INSERT INTO audit (at, who, address, action, target, outcome) VALUES (?, ?, ?, ?, ?, ?)",
            (at, who, address, action, target, outcome),
        )
        await self._run("DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?", (AUDIT_MAX,))

    async def audited(self, limit: int, before: int | None = None) -> list[AuditEntry]:
        """Return entries older than the one with id `before`, newest first."""
        rows = await self._all(
            "SELECT * FROM audit WHERE ? IS NULL OR id < ? ORDER BY id DESC LIMIT ?", (before, before, limit)
        )
        return [AuditEntry(*row) for row in rows]

    # -- answers to actions --

    async def answer(self, who: str, key: str) -> StoredAnswer | None:
        """Return what this caller's action answered under this key, or None."""
        rows = await self._all("SELECT request, status, body FROM answers WHERE who = ? AND key = ?", (who, key))
        return StoredAnswer(*rows[0]) if rows else None

    async def put_answer(self, who: str, key: str, answer: StoredAnswer, now: int) -> None:
        """Keep an answer; old ones go."""
        await self._db.execute("DELETE FROM answers WHERE at < ?", (now - ANSWERS_KEPT_S,))
        await self._db.execute(
            "DELETE FROM answers WHERE rowid IN (SELECT rowid FROM answers ORDER BY at DESC LIMIT -1 OFFSET ?)",
            (ANSWERS_MAX - 1,),
        )
        await self._run(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
            (who, key, answer.request, answer.status, answer.body, now),
        )

    # -- inside --

    async def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        async with self._db.execute(sql, values) as cursor:
            return list(await cursor.fetchall())

    async def _run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Execute one statement and commit; returns how many rows it changed."""
        async with self._db.execute(sql, values) as cursor:
            changed = cursor.rowcount
        await self._db.commit()
        return changed
