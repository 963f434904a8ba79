"""Signed statements: issued after each settlement cycle for every party whose figures changed, and read back.

The books are copied in one step on the event loop; hashing and signing thousands of statements then happens in a
thread of its own, and the journal's writer stores a cycle's statements in one transaction behind the commits
that they tell of. So what a statement says is on disk before anybody can read it.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cbor2
import msgspec

from channels.signatures import signer
from channels.state import Account, Channel
from channels.types import Address, Network
from gateway.books import Books
from gateway.entries import Party
from gateway.errors import JournalFault
from gateway.journal import StatementRow, unsealed
from gateway.keys import Key
from gateway.records import encode
from gateway.terms import TermsBook
from settlement.statement_json import to_json
from settlement.statements import FIRST, Issue, Link, Signed, Statement, draft, link, statement_digest

T = TypeVar("T")

# Statements in one answer of the control socket: some hundred kilobytes for a party with a channel or two.
PAGE = 100


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The books at one commit; states are frozen, so copying the tables is copying the books."""

    issue: Issue
    channels: tuple[Channel, ...]
    accounts: tuple[Account, ...]
    parties: Mapping[Address, Party]


class Statements:
    """Issues the statements of one gateway. `kept` is for how many cycles they are kept."""

    def __init__(self, books: Books, terms: TermsBook, authorizer: Key, network: Network, *, kept: int) -> None:
        self._books = books
        self._terms = terms
        self._authorizer = authorizer
        self._network = network
        self._kept = kept
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="statements")
        self._one = asyncio.Lock()
        self._issued_to = books.journal.statements_at

    async def issue(self) -> int:
        """Issue the statements of the last ended cycle, as the books are now; returns how many.

        A cycle whose statements are stored is passed over, so after a crash a restart makes up for what is missing.
        """
        async with self._one:
            ledger = self._books.ledger
            if self._issued_to >= max((cycle.number for cycle in ledger.ended.values()), default=0):
                return 0
            snapshot = self._snapshot()
            rows = await self._in_thread(lambda: self._signed_rows(snapshot))
            cycle = snapshot.issue.cycle
            await self._books.journal.store_statements(cycle, rows, cycle - self._kept)
            self._issued_to = cycle
            return len(rows)

    async def read(self, party: Address, *, cycle: int | None = None, after: int | None = None) -> list[dict[str, Any]]:
        """Return a party's statements as `read_statements` does, read in a thread."""
        return await self._in_thread(lambda: read_statements(self._books.journal.path, party, cycle=cycle, after=after))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _snapshot(self) -> _Snapshot:
        ledger = self._books.ledger
        founded, totals = ledger.founded, ledger.totals
        assert founded is not None, "a running gateway has founded its journal"
        return _Snapshot(
            Issue(
                network=self._network,
                gateway=founded.gateway,
                token=founded.token,
                receiver_authorizer=self._authorizer.address,
                cycle=max(cycle.number for cycle in ledger.ended.values()),
                commit=self._books.journal.number,
                block=max(totals.block, 0),
                block_hash=totals.block_hash or bytes(32),
                time=totals.block_time,
                reorgs=totals.reorgs,
            ),
            tuple(ledger.channels.values()),
            tuple(ledger.accounts.values()),
            dict(ledger.parties),
        )

    # -- in the thread --

    def _signed_rows(self, snapshot: _Snapshot) -> list[StatementRow]:
        last = _links(self._books.journal.path)
        sign = signer(self._authorizer.private)
        rows = []
        for party, (channels, accounts) in sorted(_by_party(snapshot).items()):
            entry = snapshot.parties.get(party) or Party()
            payouts = (entry.signed, entry.paid)
            drafted = draft(snapshot.issue, party, channels, accounts, payouts, self._unit_of, last.get(party, FIRST))
            if drafted is not None:
                statement, figures = drafted
                digest = statement_digest(statement)
                body = encode((statement, sign(digest)))
                rows.append(StatementRow(party, body, encode(link(statement, digest, figures))))
        return rows

    def _unit_of(self, service: str) -> str:
        known = self._terms.book.service(service)
        assert known is not None, "a channel's service was offered"
        return known[0]


def _by_party(snapshot: _Snapshot) -> dict[Address, tuple[list[Channel], list[Account]]]:
    parties: dict[Address, tuple[list[Channel], list[Account]]] = {}
    for channel in snapshot.channels:
        parties.setdefault(channel.config.payer, ([], []))[0].append(channel)
    for account in snapshot.accounts:
        if account.past and account.meter.seq == 0:
            continue  # its first reading tells where its billing begins, and a line's beginning stays
        parties.setdefault(account.payee, ([], []))[1].append(account)
    return parties


# -- reading, beside the writer and never in its way --


def read_statements(
    path: Path, party: Address, *, cycle: int | None = None, after: int | None = None
) -> list[dict[str, Any]]:
    """Return statements of a party as JSON, by cycle: that of `cycle`, up to PAGE after `after`, or the newest.

    Raises JournalFault for a journal that cannot be read.
    """
    if cycle is not None:
        rows = _query(path, "SELECT cycle, body FROM statements WHERE party = ? AND cycle = ?", (party, cycle))
    elif after is not None:
        rows = _query(
            path,
            "SELECT cycle, body FROM statements WHERE party = ? AND cycle > ? ORDER BY cycle LIMIT ?",
            (party, after, PAGE),
        )
    else:
        rows = _query(path, "SELECT cycle, body FROM statements WHERE party = ? ORDER BY cycle DESC LIMIT 1", (party,))
    return [
        to_json(_decoded(body, f"the statement of 0x{party.hex()} for cycle {number} in {path}"))
        for number, body in rows
    ]


def _links(path: Path) -> dict[Address, Link]:
    rows = _query(path, "SELECT party, body FROM statement_links", ())
    return {party: _convert(body, Link, f"the last statement of 0x{party.hex()} in {path}") for party, body in rows}


def _query(path: Path, query: str, values: tuple[object, ...]) -> list[tuple[Any, bytes]]:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return db.execute(query, values).fetchall()
    except sqlite3.Error as error:
        raise JournalFault(f"cannot read statements in {path}: {error}") from error


def _decoded(body: bytes, what: str) -> Signed:
    statement, signature = _convert(body, tuple[Statement, bytes], what)
    return Signed(statement, signature)


def _convert(body: bytes, kind: Any, what: str) -> Any:
    try:
        return msgspec.convert(cbor2.loads(unsealed(body, what)), kind)
    except (cbor2.CBORDecodeError, msgspec.ValidationError) as error:
        raise JournalFault(f"{what} cannot be read: {error}") from error
