"""Proving a backup in a temporary place, and putting it in the place of a journal.

What a backup is worth is found out by doing what a start does: replay it, check every invariant, walk through its
postings, and compare it with the chain. Nothing of that touches the present data directory.
"""

import os
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from channels.invariants import InvariantViolation
from channels.machine import Contradiction
from channels.types import SETTLEMENT_ADDRESS
from gateway import archive
from gateway.archive import Archive
from gateway.audit import Unsteady, states_of, take_snapshot
from gateway.backup import prove_rows
from gateway.bookkeeping import Bookkeeper
from gateway.books import Books
from gateway.config import Config, OfferConfig
from gateway.data_dir import RESTORING
from gateway.errors import JournalFault, SetupError
from gateway.journal import Journal, read_commits
from gateway.reconciliation import disagreements, evidence, evidence_of_states
from gateway.records import (
    AccountOpened,
    ChannelTaken,
    Charged,
    CycleEnded,
    DeviceAdded,
    Earned,
    Founded,
    Record,
)
from gateway.terms import TermsBook
from gateway.watcher import Watcher
from settlement.accounts import Unbalanced
from settlement.errors import ChainError, ChainUnavailable
from settlement.port import ExecutionLayer

FAULTS = (JournalFault, InvariantViolation, Contradiction, Unbalanced)
SIDE_FILES = ("", "-wal", "-shm", "-journal")


@dataclass(slots=True)
class Proof:
    """What was found out about a backup. `faults` make it useless; `behind` keeps a gateway from going on with it."""

    manifest: archive.Manifest
    faults: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    block: int | None = None  # compared with the chain at this one
    unchecked: str = ""  # why it was not compared with the chain
    present: "Present | None" = None

    @property
    def usable(self) -> bool:
        """Whether a gateway can go on with it, as far as was checked."""
        return not self.faults and not self.behind

    def view(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            **{name: value for name, value in msgspec.to_builtins(self.manifest).items() if name != "version"},
            "usable": self.usable,
            "faults": self.faults,
            "behind": self.behind,
            "warnings": self.warnings,
            "block": self.block,
            "unchecked": self.unchecked,
            "present": None if self.present is None else self.present.view(),
        }


@dataclass(slots=True)
class Present:
    """The journal that is there now, beside the backup. `common` is the last commit that both have alike."""

    journal: Path
    commit: int = 0
    common: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    unreadable: str = ""

    @property
    def newer(self) -> bool:
        """Whether a restore would lose something, or nobody can tell."""
        return bool(self.unreadable) or self.commit > self.common

    def view(self) -> dict[str, Any]:
        """Return it as JSON values: amounts as decimal strings."""
        return {
            "journal": str(self.journal),
            "commit": self.commit,
            "common": self.common,
            "unreadable": self.unreadable,
            "lost": {name: str(n) if name in ("charged", "earned") else n for name, n in self.lost.items()},
        }


async def prove(
    found: Archive, config: Config | None, layer: ExecutionLayer | None, place: Path, present: Path | None
) -> Proof:
    """Prove a backup in `place`, an empty directory. Raises SetupError when it is of another gateway.

    `layer` is the chain to compare it with, `present` the journal that a restore would replace.
    """
    proof = Proof(found.manifest)
    copy = place / archive.JOURNAL
    found.extract(archive.JOURNAL, copy)
    try:
        founded, commit, _ = prove_rows(copy)
    except (JournalFault, sqlite3.Error) as error:
        proof.faults.append(str(error))
        return proof
    _same_gateway(found, founded, commit, config)
    # Before the chain adds to the copy.
    if present is not None:
        proof.present = compare(present, copy, commit)
    try:
        await _prove_books(proof, copy, config, layer)
    except FAULTS as error:
        proof.faults.append(str(error))
    return proof


def _same_gateway(found: Archive, founded: Founded, commit: int, config: Config | None) -> None:
    told = found.manifest
    if (founded.gateway, founded.chain_id, commit) != (told.gateway, told.chain_id, told.commit):
        raise SetupError(f"{found.path} is not what it says: its journal is of another gateway, chain or commit.")
    if config is None:
        return
    if (founded.gateway, founded.chain_id) != (config.gateway, config.chain.chain_id):
        raise SetupError(
            f"{found.path} is of gateway {founded.gateway!r} on chain {founded.chain_id}; the configuration is of"
            f" {config.gateway!r} on chain {config.chain.chain_id}."
        )


async def _prove_books(proof: Proof, copy: Path, config: Config | None, layer: ExecutionLayer | None) -> None:
    books = Books(Journal(copy))
    try:
        offer = OfferConfig() if config is None else config.offer
        margin = offer.withdraw_delay // 4 if config is None else config.withdraw_margin_s
        terms = TermsBook(offer.withdraw_delay, margin)
        books.replay(terms.terms_then, terms.observe)
        keeper = Bookkeeper()
        _walk(copy, keeper)
        proof.faults += disagreements(keeper, evidence_of_states(states_of(books)))
        if proof.faults:
            return
        if config is None or layer is None:
            proof.unchecked = "there is no configuration that names the chain"
            return
        try:
            proof.behind += await _behind(books, layer)
            if not proof.behind:
                await _beside_chain(proof, books, config, layer, keeper, copy)
        except ChainUnavailable:
            proof.unchecked = f"{config.chain.url} cannot be reached"
        except (Contradiction, InvariantViolation, ChainError, Unsteady) as error:
            proof.behind.append(f"the chain does not go on from it: {error}")
    finally:
        await books.journal.close()


async def _behind(books: Books, layer: ExecutionLayer) -> list[str]:
    """Return what the chain shows of this gateway's signatures that the backup does not know of."""
    ledger, founded = books.ledger, books.ledger.founded
    assert founded is not None, "proved to be founded"
    channels = list(ledger.channels.values())
    views = await layer.channels([channel.id for channel in channels])
    over = [
        view.total_claimed - channel.committed
        for channel, view in zip(channels, views, strict=True)
        if view.total_claimed > channel.committed
    ]
    payees = sorted(ledger.parties)
    paid = await layer.paid(founded.payouts, founded.treasury, founded.token, payees)
    more = [
        amount - party.base - party.signed
        for party, amount in zip((ledger.parties[payee] for payee in payees), paid, strict=True)
        if amount > party.base + party.signed
    ]
    found = []
    if over:
        found.append(f"{len(over)} channels were claimed for {sum(over)} base units more than it knows of")
    if more:
        found.append(f"{len(more)} payees were paid {sum(more)} base units more than it knows of")
    return found


async def _beside_chain(
    proof: Proof, books: Books, config: Config, layer: ExecutionLayer, keeper: Bookkeeper, copy: Path
) -> None:
    founded = books.ledger.founded
    assert founded is not None, "proved to be founded"
    watcher = Watcher(
        books,
        layer,
        founded.token,
        founded.lanes,
        frozenset((founded.treasury, *founded.lanes)),
        settlement=SETTLEMENT_ADDRESS,
        confirmations=config.chain.confirmations,
        poll_s=config.chain.poll_ms / 1000,
    )
    await watcher.recognise()
    told = evidence(await take_snapshot(books, layer, watcher))
    await books.journal.durable()
    _walk(copy, keeper, told.commit)
    proof.behind += disagreements(keeper, told)
    proof.warnings += told.warnings
    proof.block = told.block


def _walk(path: Path, keeper: Bookkeeper, upto: int | None = None) -> None:
    for number, records in read_commits(path, keeper.commit, upto):
        keeper.take(number, records)


# -- what would be lost --


def compare(present: Path, copy: Path, commit: int) -> Present:
    """Compare the journal that is there with a backup's, which ends at `commit`."""
    found = Present(present)
    try:
        with (
            closing(sqlite3.connect(f"file:{present}?mode=ro", uri=True)) as now,
            closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as then,
        ):
            found.commit = int(now.execute("SELECT coalesce(max(number), 0) FROM commits").fetchone()[0])
            found.common = _last_alike(now, then, min(found.commit, commit))
        before, after = _Tally(), _Tally()
        for _, records in read_commits(copy, 0, found.common):
            before.take(records)
        for _, records in read_commits(present, found.common, found.commit):
            after.take(records)
    except (sqlite3.Error, JournalFault) as error:
        found.unreadable = str(error)
        return found
    found.lost = {"commits": found.commit - found.common, **after.since(before)}
    return found


def _last_alike(now: sqlite3.Connection, then: sqlite3.Connection, most: int) -> int:
    """Return the last commit that both have alike, by halving: journals that part never meet again."""
    alike, other = 0, most + 1
    while other - alike > 1:
        middle = (alike + other) // 2
        query = "SELECT body FROM commits WHERE number = ?"
        if now.execute(query, (middle,)).fetchone() == then.execute(query, (middle,)).fetchone():
            alike = middle
        else:
            other = middle
    return alike


class _Tally:
    """Counts what records brought: readings and their cumulative amounts, and what else is not on the chain."""

    KINDS = ((DeviceAdded, "devices"), (ChannelTaken, "channels"), (AccountOpened, "accounts"), (CycleEnded, "cycles"))

    def __init__(self) -> None:
        self.amounts: dict[tuple[str, bytes], int] = {}
        self.counts: Counter[str] = Counter()

    def take(self, records: list[Record]) -> None:
        """Add one commit."""
        for record in records:
            if isinstance(record, Charged):
                self.amounts["charged", record.id] = record.charged
                self.counts["readings"] += 1
            elif isinstance(record, Earned):
                self.amounts["earned", record.id] = record.earned
                self.counts["readings"] += 1
            for kind, name in self.KINDS:
                self.counts[name] += isinstance(record, kind)

    def since(self, before: "_Tally") -> dict[str, int]:
        """Return what came on top of `before`; amounts in base units."""
        amounts = {"charged": 0, "earned": 0}
        for key, amount in self.amounts.items():
            amounts[key[0]] += amount - before.amounts.get(key, 0)
        return {name: self.counts[name] for name in ("readings", *(name for _, name in self.KINDS))} | amounts


# -- in place --


def put_in_place(found: Archive, data_dir: Path) -> Path | None:
    """Replace the journal of a locked data directory by a backup's. Returns where the old files are kept, if any.

    A marker keeps a gateway from starting on half of it after a power cut; doing it again ends it.
    """
    marker = data_dir / RESTORING
    with marker.open("wb") as file:
        os.fsync(file.fileno())
    _sync(data_dir)
    names = [name for name in (archive.JOURNAL, archive.OPERATORS) if found.has(name)]
    fresh = {name: data_dir / f".{name}.new" for name in names}
    for name, path in fresh.items():
        path.unlink(missing_ok=True)
        found.extract(name, path)
    aside = _set_aside(data_dir, names)
    for name, path in fresh.items():
        path.rename(data_dir / name)
    _sync(data_dir)
    marker.unlink()
    _sync(data_dir)
    return aside


def _set_aside(data_dir: Path, names: list[str]) -> Path | None:
    """Move databases with their logs away: a log that stayed would be played into the new file."""
    old = [path for name in names for suffix in SIDE_FILES if (path := data_dir / f"{name}{suffix}").exists()]
    if not old:
        return None
    aside = data_dir / f"replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(3).hex()}"
    aside.mkdir(mode=0o700)
    for path in old:
        path.rename(aside / path.name)
    _sync(aside)
    return aside


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
