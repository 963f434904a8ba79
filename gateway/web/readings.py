"""A device's accepted readings, read back from the journal: few commits, named by the ledger's histories.

The ledger remembers which commit holds each of a channel's last thousand readings, so nothing is searched: a page
reads as many commits as it has rows at most, in a thread, beside the writer.
"""

import asyncio
import heapq
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from channels.state import Account, Channel
from gateway.errors import JournalFault
from gateway.history import READINGS_KEPT
from gateway.journal import unseal_records
from gateway.ledger import Ledger
from gateway.records import Charged, Earned
from gateway.web.shapes import ReadingShape, Series

# Points of a chart: more than a phone has pixels for.
POINTS_MAX = 240

Holder = Channel | Account
Place = tuple[int, bytes, int]  # commit, channel or account, seq


async def last_readings(
    path: Path, ledger: Ledger, holders: Sequence[Holder], before: tuple[int, int] | None, limit: int
) -> list[ReadingShape]:
    """Return up to `limit` readings of these channels and accounts, newest first.

    `before` is (commit, seq) of the last one of the page before.
    """
    places = heapq.nlargest(limit, _places(ledger, holders, before), key=lambda place: (place[0], place[2]))
    services = {holder.id: holder.service for holder in holders}
    found = await asyncio.to_thread(_read, path, places)
    return [_shape(found[place], services, place[0]) for place in places if place in found]


async def series(path: Path, ledger: Ledger, holder: Holder, since_ms: int | None) -> Series:
    """Return a channel's or account's register and cumulative amount over the device's clock, thinned out."""
    places = sorted((commit, holder.id, seq) for seq, commit in ledger.last_seqs(holder.id, None, 2 * READINGS_KEPT))
    step = -(-len(places) // POINTS_MAX) if since_ms is None else 1
    # With a range only the newest matter; they are at the end.
    chosen = places[::-1][::step][::-1] if since_ms is None else places[-POINTS_MAX:]
    found = await asyncio.to_thread(_read, path, chosen)
    records = [found[place] for place in chosen if place in found]
    points = [record for record in records if since_ms is None or record.time >= since_ms]
    return Series(
        names=["register", "amount"],
        t=[record.time // 1000 for record in points],
        v=[[record.register for record in points], [_amount(record) for record in points]],
    )


def _places(ledger: Ledger, holders: Sequence[Holder], before: tuple[int, int] | None) -> Iterable[Place]:
    for holder in holders:
        for seq, commit in ledger.last_seqs(holder.id, None, 2 * READINGS_KEPT):
            if before is None or (commit, seq) < before:
                yield commit, holder.id, seq


def _read(path: Path, places: Sequence[Place]) -> dict[Place, Charged | Earned]:
    wanted: dict[int, set[Place]] = {}
    for place in places:
        wanted.setdefault(place[0], set()).add(place)
    found: dict[Place, Charged | Earned] = {}
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            for commit, here in wanted.items():
                row = db.execute("SELECT body FROM commits WHERE number = ?", (commit,)).fetchone()
                if row is None:
                    continue  # decided and not on disk yet
                for record in unseal_records(row[0], commit):
                    if isinstance(record, Charged | Earned) and (commit, record.id, record.seq) in here:
                        found[commit, record.id, record.seq] = record
    except sqlite3.Error as error:
        raise JournalFault(f"cannot read {path}: {error}") from error
    return found


def _shape(record: Charged | Earned, services: dict[bytes, str], commit: int) -> ReadingShape:
    return ReadingShape(
        id=f"0x{record.id.hex()}",
        service=services[record.id],
        seq=record.seq,
        register=record.register,
        time=record.time,
        amount=str(_amount(record)),
        commit=commit,
    )


def _amount(record: Charged | Earned) -> int:
    return record.charged if isinstance(record, Charged) else record.earned
