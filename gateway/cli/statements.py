"""`metergate statement` and `metergate verify`: what a party is told, and how it checks that alone."""

import argparse
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from gateway.cli.asking import ask
from gateway.config import Config, load_config
from gateway.errors import SetupError
from gateway.journal import MIGRATIONS
from gateway.statements import PAGE, read_statements
from gateway.summary import tokens
from settlement.statement_checks import Proof, prove
from settlement.statement_json import TEXT_MAX, NotAStatement, read_text
from settlement.statements import AccountLine, ChannelLine, Signed, Statement, Totals

STDIN = "-"


def statement(options: argparse.Namespace) -> int:
    """`metergate statement`: a party's newest statement, that of one cycle, or all that are kept, as JSON."""
    config = load_config(options.config)
    found = list(_all(config, options.party)) if options.all else _page(config, options.party, options.cycle)
    if not found:
        which = "" if options.cycle is None else f" for cycle {options.cycle}"
        raise SetupError(f"no statement of 0x{options.party.hex()}{which} is kept.")
    print(json.dumps(found if options.all else found[0], indent=None if options.json else 2, ensure_ascii=False))
    return 0


def _page(config: Config, party: bytes, cycle: int | None = None, after: int | None = None) -> list[dict[str, Any]]:
    """Return statements from the running gateway, or from the data directory of a stopped one."""
    query = "" if cycle is None else f"?cycle={cycle}"
    query = query if after is None else f"?after={after}"
    answer = ask(config, "GET", f"/v1/statements/0x{party.hex()}{query}")
    if answer is not None:
        found: list[dict[str, Any]] = answer["statements"]
        return found
    path = Path(config.data_dir) / "journal.sqlite"
    if not _has_statements(path):
        return []
    return read_statements(path, party, cycle=cycle, after=after)


def _all(config: Config, party: bytes) -> Iterator[dict[str, Any]]:
    after = 0
    while page := _page(config, party, after=after):
        yield from page
        if len(page) < PAGE:
            return
        after = int(page[-1]["message"]["cycle"])


def _has_statements(path: Path) -> bool:
    """Tell whether the journal of a stopped gateway is there and of a version that has statements."""
    if not path.exists():
        raise SetupError(f"there is no journal {path}: this gateway has not run yet.")
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as error:
        raise SetupError(f"cannot open the journal {path}: {error}.") from error
    if version > len(MIGRATIONS):
        raise SetupError(f"the journal has schema {version}; this Metergate knows {len(MIGRATIONS)}: update it.")
    return version >= 2  # the migration that made their tables


# -- verify --


def verify(options: argparse.Namespace) -> int:
    """`metergate verify`: check statements offline, alone and one after another, and say what they say."""
    given = [signed for name in options.files for signed in _read(name)]
    proof = prove(given, options.signer)
    if options.json:
        print(json.dumps(_view(proof)))
        return 1 if proof.faults else 0
    for _, series in groupby(proof.statements, key=lambda each: _party(each.statement)):
        for line in _told(list(series)):
            print(line)
    for fault in proof.faults:
        print(f"NOT VALID  {fault}")
    count = len(proof.statements)
    if proof.faults:
        print(f"{count} statement{'s' * (count != 1)}: not valid, {len(proof.faults)} fault(s)")
        return 1
    by = "as expected" if options.signer else "which must be the receiverAuthorizer that your devices know (--signer)"
    signers = ", ".join(sorted({f"0x{each.statement.receiver_authorizer.hex()}" for each in proof.statements}))
    print(f"{count} statement{'s' * (count != 1)}: valid, signed by {signers}, {by}")
    return 0


def _view(proof: Proof) -> dict[str, Any]:
    """Return what was found, for a program; amounts are decimal strings, totals as of each statement."""
    return {
        "valid": not proof.faults,
        "faults": list(proof.faults),
        "signers": sorted({f"0x{each.statement.receiver_authorizer.hex()}" for each in proof.statements}),
        "statements": [
            {
                "party": f"0x{each.party.hex()}",
                "gateway": each.gateway,
                "chainId": each.chain_id,
                "token": f"0x{each.token.hex()}",
                "cycle": each.cycle,
                "time": each.time,
                "commit": each.commit,
                "block": each.block,
                "totals": {name: str(amount) for name, amount in msgspec.structs.asdict(each.totals).items()},
            }
            for each in (signed.statement for signed in proof.statements)
        ],
    }


def _read(name: str) -> list[Signed]:
    try:
        if name == STDIN:
            return _statements(sys.stdin.buffer)
        with Path(name).open("rb") as file:
            return _statements(file)
    except OSError as error:
        raise SetupError(f"cannot read {name}: {error.strerror}.") from error
    except NotAStatement as error:
        raise SetupError(f"{'standard input' if name == STDIN else name} is not a statement: {error}.") from error


def _statements(file: BinaryIO) -> list[Signed]:
    return read_text(file.read(TEXT_MAX + 1))


def _party(statement: Statement) -> tuple[str, ...]:
    return (
        f"party 0x{statement.party.hex()}",
        f"gateway {_plain(statement.gateway)}, eip155:{statement.chain_id}, token 0x{statement.token.hex()}",
    )


def _told(series: list[Signed]) -> Iterator[str]:
    """Yield lines about one party's statements: each cycle in a line, then how things stand after the last."""
    yield from _party(series[0].statement)
    yield f"{'cycle':>8}  {'until':<20}" + "".join(f"{name:>16}" for name in _COLUMNS)
    before: Totals | None = None
    for each in series:
        now = each.statement
        earlier = before is None and any(now.previous)
        moved = (getattr(now.totals, name) - (getattr(before, name) if before else 0) for name in _COLUMNS)
        cycle = f"≤ {now.cycle}" if earlier else str(now.cycle)
        yield f"{cycle:>8}  {_time(now.time):<20}" + "".join(f"{tokens(amount):>16}" for amount in moved)
        before = now.totals
    last = series[-1].statement
    yield f"as of commit {last.commit}, block {last.block} 0x{last.block_hash.hex()}:"
    yield from map(_channel, last.channels)
    yield from map(_account, last.accounts)
    totals = last.totals
    yield f"  payouts signed {tokens(totals.signed)}, paid {tokens(totals.paid)}"
    yield f"  carried to the next: the party owes {tokens(totals.unclaimed)} and is owed {tokens(totals.payable)}"


# What a cycle's line shows of what happened in it.
_COLUMNS = ("charged", "offset", "claimed", "earned", "fee", "paid")


def _channel(line: ChannelLine) -> str:
    return (
        f"  channel 0x{line.channel_id.hex()} {_meter(line)}: charged {tokens(line.charged)} = "
        f"claimed {tokens(line.claimed)} + offset {tokens(line.offset)} + forgiven {tokens(line.forgiven)} + "
        f"unclaimed {tokens(line.unclaimed)}; highest voucher {tokens(line.ceiling)}, balance {tokens(line.balance)}"
    )


def _account(line: AccountLine) -> str:
    return (
        f"  account 0x{line.account_id.hex()} {_meter(line)}: earned {tokens(line.earned)} = "
        f"fee {tokens(line.fee)} + offset {tokens(line.offset)} + net {tokens(line.net)}"
    )


def _meter(line: ChannelLine | AccountLine) -> str:
    units = line.register_to - line.register_from
    return (
        f"{_plain(line.device)} {_plain(line.service)}, {units:,} {_plain(line.unit)} "
        f"({line.register_from} to {line.register_to})"
    )


def _plain(text: str) -> str:
    """Return text that cannot steer a terminal: a statement may have been made by anybody."""
    return text if text.isprintable() else ascii(text)


def _time(seconds: int) -> str:
    """Write chain seconds as UTC; what no calendar holds as a number."""
    if seconds > 253_402_300_799:  # the end of the year 9999
        return str(seconds)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
