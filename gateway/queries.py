"""Read-only questions to the journal's file, beside the writer and never in its way."""

from pathlib import Path
from typing import Any

import aiosqlite

from gateway.journal import unseal_records
from gateway.ledger import Ledger
from gateway.records import Charged, Earned

# What is read at most to answer one question: about a megabyte at full batches.
COMMITS_READ_MAX = 500
READINGS_SHOWN = 20


async def last_readings(path: Path, ledger: Ledger, device: str) -> list[dict[str, Any]]:
    """Return a device's last accepted readings, newest first, as far as the last commits hold them."""
    ids = {channel.id for channel in ledger.channels.values() if channel.device == device}
    ids |= {account.id for account in ledger.accounts.values() if account.device == device}
    found: list[dict[str, Any]] = []
    async with (
        aiosqlite.connect(f"file:{path}?mode=ro", uri=True) as db,
        db.execute("SELECT number, body FROM commits ORDER BY number DESC LIMIT ?", (COMMITS_READ_MAX,)) as rows,
    ):
        async for number, body in rows:
            for record in reversed(unseal_records(body, number)):
                if isinstance(record, (Charged, Earned)) and record.id in ids:
                    found.append(_reading(record, number))
            if len(found) >= READINGS_SHOWN:
                break
    return found[:READINGS_SHOWN]


def _reading(record: Charged | Earned, commit: int) -> dict[str, Any]:
    amount = record.charged if isinstance(record, Charged) else record.earned
    return {
        "id": f"0x{record.id.hex()}",
        "seq": record.seq,
        "register": record.register,
        "time": record.time,
        "cumulativeAmount": str(amount),
        "commit": commit,
    }
