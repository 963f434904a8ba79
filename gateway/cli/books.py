"""`metergate ledger`: the double-entry books, their proof, and their export.

The walk over the journal happens in this process, from its file: a running gateway is only asked for what its
states and the chain say.
"""

import argparse
import asyncio
import csv
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from gateway.audit import Unsteady, states_of, take_snapshot
from gateway.bookkeeping import Bookkeeper
from gateway.cli.asking import ask
from gateway.config import Config, load_config
from gateway.errors import JournalFault, SetupError
from gateway.journal import read_commits
from gateway.offline import OfflineBooks
from gateway.reconciliation import Evidence, disagreements, evidence, evidence_of_states, from_json, notes
from gateway.summary import tokens
from settlement.accounts import BookAccount, Books, Entry, Side, Unbalanced
from settlement.client import JsonRpcLayer
from settlement.errors import ChainUnavailable
from settlement.transports import HttpTransport

# A running gateway commits all the time, and the chain moves: what differs only for a moment is looked at again.
ATTEMPTS = 3
ATTEMPT_PAUSE_S = 1.0
# Reading every channel from a slow chain.
ANSWER_S = 300.0


def ledger(options: argparse.Namespace) -> int:
    """`metergate ledger`: print the trial balance, prove it, or export accounts or postings."""
    config = load_config(options.config)
    path = Path(config.data_dir) / "journal.sqlite"
    if not path.exists():
        raise SetupError(f"there is no journal {path}: this gateway has not run yet.")
    if options.postings and not options.export:
        raise SetupError("--postings goes with --export csv or --export json.")
    if options.export:
        return _export(path, options.export, options.postings)
    if options.check:
        return _check(config, path, options.json)
    keeper = _walked(path)
    print(json.dumps(_trial(keeper)) if options.json else "\n".join(_told(keeper)))
    return 0


def _walked(path: Path, on_entry: Callable[[Books, Entry], None] | None = None) -> Bookkeeper:
    """Return the books as of the journal's last commit."""
    keeper = Bookkeeper(on_entry)
    _walk(path, keeper, None)
    if keeper.founded is None:
        raise SetupError(f"the journal {path} is empty: this gateway has not run yet.")
    return keeper


def _walk(path: Path, keeper: Bookkeeper, upto: int | None) -> None:
    try:
        for number, records in read_commits(path, keeper.commit, upto):
            keeper.take(number, records)
    except Unbalanced as error:
        raise JournalFault(f"the journal {path} does not balance: {error}") from error


# -- proving --


def _check(config: Config, path: Path, as_json: bool) -> int:
    keeper = Bookkeeper()
    proof = _running(config)
    if proof is None:
        with OfflineBooks(config) as books:
            proof = asyncio.run(_stopped(config, books))
            found = _compared(path, keeper, proof)
    else:
        found, proof = _prove(config, path, keeper, proof)
    internal = notes(keeper, proof)
    if as_json:
        told = {"block": proof.block, "differences": found, "notes": internal, "warnings": list(proof.warnings)}
        print(json.dumps(_trial(keeper) | told))
        return 1 if found else 0
    print("\n".join(_told(keeper)))
    for text in internal:
        print(f"internal   {text}")
    for text in proof.warnings:
        print(f"warning    {text}")
    for text in found:
        print(f"DIFFERS    {text}")
    sources = "postings = states" + ("" if proof.block is None else f" = chain at block {proof.block}")
    if found:
        print(f"not proved: {sources} does not hold, {len(found)} difference(s)")
        return 1
    print(f"{sources}, as of commit {proof.commit}: to the unit")
    if proof.block is None:
        print(f"not compared with the chain: {config.chain.url} cannot be reached")
    return 0


def _prove(config: Config, path: Path, keeper: Bookkeeper, proof: Evidence) -> tuple[list[str], Evidence]:
    """Return the differences that stay when the running gateway is asked again, and what it said last."""
    for attempt in range(1, ATTEMPTS + 1):
        found = _compared(path, keeper, proof)
        if not found or attempt == ATTEMPTS:
            break
        time.sleep(ATTEMPT_PAUSE_S)
        again = _running(config)
        if again is None:
            break
        proof = again
    return found, proof


def _compared(path: Path, keeper: Bookkeeper, proof: Evidence) -> list[str]:
    _walk(path, keeper, proof.commit)
    return disagreements(keeper, proof)


def _running(config: Config) -> Evidence | None:
    answer = ask(config, "GET", "/v1/ledger", timeout_s=ANSWER_S)
    return None if answer is None else from_json(answer)


async def _stopped(config: Config, books: OfflineBooks) -> Evidence:
    """Return what the states say, beside the chain if it can be reached."""
    if books.ledger.founded is None:
        raise SetupError("the journal is empty: this gateway has not run yet.")
    layer = JsonRpcLayer(HttpTransport(config.chain.url), expected_chain_id=config.chain.chain_id)
    try:
        proof = evidence(await take_snapshot(books.books, layer, books.watcher(layer)))
    except ChainUnavailable:
        proof = evidence_of_states(states_of(books.books))
    except Unsteady as error:
        raise SetupError(f"{error}.") from error
    finally:
        await layer.close()
    await books.books.journal.durable()  # what the chain brought is in the journal now, and is read from there
    return proof


# -- showing --


def _trial(keeper: Bookkeeper) -> dict[str, Any]:
    assert keeper.founded is not None, "the walk has met the first record"
    return {
        "gateway": keeper.founded.gateway,
        "token": f"0x{keeper.founded.token.hex()}",
        "commit": keeper.commit,
        "accounts": [
            {
                "account": row.account.value,
                "side": row.account.side.value,
                "unit": books.unit,
                "debits": str(row.debits),
                "credits": str(row.credits),
                "balance": str(row.balance),
            }
            for books in (keeper.token, keeper.gas)
            for row in books.trial()
        ],
        "gas_by_purpose": {purpose.decode(): str(amount) for purpose, amount in keeper.gas.subjects(BookAccount.GAS)},
    }


def _told(keeper: Bookkeeper) -> Iterator[str]:
    assert keeper.founded is not None, "the walk has met the first record"
    yield f"books of gateway {keeper.founded.gateway}, token 0x{keeper.founded.token.hex()}, commit {keeper.commit}"
    heading = f"{'account':<18}{'debits':>20}{'credits':>20}{'balance':>20}  "
    side: Side | None = None
    yield heading
    debits = credits = 0
    for row in keeper.token.trial():
        if row.account.side is not side:
            side = row.account.side
            yield f"-- {side.value}"
        debits, credits = debits + row.debits, credits + row.credits
        amounts = "".join(f"{tokens(amount):>20}" for amount in (row.debits, row.credits, row.balance))
        yield f"{row.account.value:<18}{amounts}  {row.account.meaning}"
    yield f"{'all':<18}{tokens(debits):>20}{tokens(credits):>20}{tokens(debits - credits):>20}"
    yield f"-- gas, in wei: {keeper.gas.total(BookAccount.GAS):,}"
    for purpose, amount in keeper.gas.subjects(BookAccount.GAS):
        yield f"{purpose.decode():<18}{amount:>60,}"


# -- exporting --


def _export(path: Path, form: str, postings: bool) -> int:
    """Write accounts by subject, or every posting as it is read, to standard output."""
    fields = _POSTING_FIELDS if postings else _ACCOUNT_FIELDS
    writer = _CsvRows(sys.stdout, fields) if form == "csv" else _JsonRows(sys.stdout, fields)
    if postings:
        entries = 0

        def on_entry(books: Books, entry: Entry) -> None:
            nonlocal entries
            entries += 1
            for row in _posting_rows(books, entry, entries):
                writer.row(row)

        _walked(path, on_entry)
    else:
        keeper = _walked(path)
        for row in _account_rows(keeper):
            writer.row(row)
    writer.end()
    return 0


_POSTING_FIELDS = ("entry", "commit", "cause", "unit", "account", "subject", "debit", "credit")
_ACCOUNT_FIELDS = ("unit", "account", "side", "subject", "balance")


def _posting_rows(books: Books, entry: Entry, number: int) -> Iterator[tuple[object, ...]]:
    for leg in entry.legs:
        debit, credit = (leg.amount, 0) if leg.amount > 0 else (0, -leg.amount)
        subject = _subject(leg.account, leg.subject)
        yield number, entry.commit, entry.cause, books.unit, leg.account.value, subject, str(debit), str(credit)


def _account_rows(keeper: Bookkeeper) -> Iterator[tuple[object, ...]]:
    for books in (keeper.token, keeper.gas):
        for row in books.trial():
            for subject, balance in books.subjects(row.account):
                name = _subject(row.account, subject)
                yield books.unit, row.account.value, row.account.side.value, name, str(balance)


def _subject(account: BookAccount, subject: bytes) -> str:
    return subject.decode() if account is BookAccount.GAS else f"0x{subject.hex()}"


class _CsvRows:
    """Rows as comma-separated values, with a first line of names."""

    def __init__(self, out: TextIO, fields: tuple[str, ...]) -> None:
        self._writer = csv.writer(out, lineterminator="\n")
        self.row(fields)

    def row(self, values: tuple[object, ...]) -> None:
        """Write a row."""
        self._writer.writerow(values)

    def end(self) -> None:
        """There is nothing behind the last row."""


class _JsonRows:
    """Rows as an array of objects, a line each, written as they come."""

    def __init__(self, out: TextIO, fields: tuple[str, ...]) -> None:
        self._out, self._fields = out, fields
        self._before = "[\n"

    def row(self, values: tuple[object, ...]) -> None:
        """Write a row."""
        self._out.write(self._before + json.dumps(dict(zip(self._fields, values, strict=True))))
        self._before = ",\n"

    def end(self) -> None:
        """Close the array."""
        self._out.write("[]\n" if self._before == "[\n" else "\n]\n")
