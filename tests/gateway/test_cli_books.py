"""`metergate statement`, `verify` and `ledger`, against a running gateway and against the data of a stopped one."""

import asyncio
import csv
import io
import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from gateway.cli import books as books_command
from gateway.cli import main
from gateway.control import SOCKET, serve_control
from gateway.journal import Journal
from gateway.records import CycleStarted
from settlement import calls
from settlement.genesis import PAYOUTS_ADDRESS, TOKEN_ADDRESS
from settlement.statement_json import read, to_json
from settlement.transports import InProcessTransport
from tests.support.gateway_devices import Earner, Payer
from tests.support.gateway_world import CHAIN_ID, World, until
from tests.support.statement_life import Life, altered

Make = Callable[..., Awaitable[World]]
NOBODY = "0x" + "12" * 20


class Desk:
    """Where an operator types commands at a world."""

    def __init__(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        self.world, self._capsys = world, capsys
        self.config = world.path / "metergate.toml"
        world.path.mkdir(exist_ok=True)
        self.config.write_text(
            f'gateway = "gw1"\ndata_dir = "{world.config.data_dir}"\nkey_file = "keys.json"\nlanes = 2\ndemo = true\n'
            f'[mqtt]\n[chain]\nurl = "http://127.0.0.1:9"\nchain_id = {CHAIN_ID}\nasset = "0x{TOKEN_ADDRESS.hex()}"\n'
            f'payouts = "0x{PAYOUTS_ADDRESS.hex()}"\n[offer]\nwithdraw_delay = 900\n[settlement]\nevery_s = 400\n'
            '[services.grid-power]\nunit = "Wh"\nprice = "1"\n',
            encoding="utf-8",
        )
        self._control: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Open the control socket of the running gateway."""
        self._control = asyncio.create_task(serve_control(self.world.gateway))
        await until((Path(self.world.config.data_dir) / SOCKET).exists)

    async def close(self) -> None:
        """Take it away."""
        task, self._control = self._control, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def type(self, *arguments: str, code: int = 0, stdin: bytes = b"") -> str:
        """Run a command; returns what it says, on stderr when it is to fail."""
        self._capsys.readouterr()
        config = [] if arguments[0] == "verify" else ["--config", str(self.config)]
        with mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))):
            assert await asyncio.to_thread(main, [*arguments, *config]) == code, self._capsys.readouterr()
        told = self._capsys.readouterr()
        return told.err if code >= 2 else told.out

    def file(self, name: str, document: Any) -> str:
        """Write JSON into a file; returns its name."""
        path = self.world.path / name
        path.write_text(json.dumps(document), encoding="utf-8")
        return str(path)

    async def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command that writes JSON."""
        return json.loads(await self.type(*arguments, code=code))


@pytest.fixture
async def desk(world: World, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Desk]:
    """A desk at a running gateway."""
    made = Desk(world, capsys)
    await made.serve()
    yield made
    await made.close()


async def cycles(world: World, count: int) -> tuple[Payer, Earner]:
    """Let a payer and an earner go through so many settlements."""
    payer, earner = await world.opened(), await world.joined()
    for _ in range(count):
        await world.pay(payer, 100)
        await world.earn(earner, 50)
        await world.gateway.settler.settle()
    return payer, earner


async def test_statements_from_a_running_and_from_a_stopped_gateway(desk: Desk) -> None:
    world = desk.world
    payer, earner = await cycles(world, 3)
    party, payee = f"0x{payer.payer.hex()}", f"0x{earner.payee.hex()}"
    signer = f"0x{world.keys.authorizer.address.hex()}"
    running = {}
    for which in ((), ("--cycle", "2"), ("--all",), ("--json",)):
        running[which] = await desk.json("statement", party, *which)
    assert running[()] == running[("--json",)] == running[("--all",)][2]
    assert running[("--cycle", "2")]["message"]["cycle"] == "2"
    assert (await desk.json("statement", f"0x{earner.payee.hex().upper()}"))["message"]["party"] == payee
    for arguments in ((NOBODY,), (party, "--cycle", "9"), (NOBODY, "--all")):
        assert "is kept" in await desk.type("statement", *arguments, code=2)

    names = [desk.file(f"{number}.json", document) for number, document in enumerate(running[("--all",)])]
    told = await desk.type("verify", *reversed(names), "--signer", signer)
    assert "3 statements: valid" in told
    assert "meter-1 grid-power, 300 Wh (0 to 300): charged 0.045000 = claimed 0.045000" in told
    assert told.count("0.015000") >= 3, "what happened in each cycle"
    everything = json.dumps(running[("--all",)]).encode()
    assert "3 statements: valid" in await desk.type("verify", "-", stdin=everything)

    await desk.close()
    await world.stop()
    for which, answer in running.items():
        assert await desk.json("statement", party, *which) == answer
    assert "is kept" in await desk.type("statement", NOBODY, code=2)
    assert read(await desk.json("statement", payee))[0].statement.totals.paid == earner.earned * 99 // 100


async def test_what_verify_says_of_what_is_not_valid(desk: Desk) -> None:
    payer, _ = await cycles(desk.world, 2)
    good = await desk.json("statement", f"0x{payer.payer.hex()}")
    path = desk.world.path / "statement.json"

    async def verify(document: Any, *arguments: str, code: int) -> str:
        return await desk.type("verify", desk.file(path.name, document), *arguments, code=code)

    assert "1 statement: valid, signed by 0x" in await verify(good, code=0)
    assert "not 0x1212" in await verify(good, "--signer", NOBODY, code=1)
    bad = json.loads(json.dumps(good))
    bad["message"]["channels"][0]["charged"] = "7"
    told = await verify(bad, code=1)
    assert "NOT VALID" in told
    assert "altered or forged" in told
    assert "charged is 7" in told
    assert "fault(s)" in told
    bad["message"]["channels"][0]["device"] = "\x1b[2J"
    told = await verify(bad, code=1)
    assert "\x1b" not in told, "a forged statement cannot steer the terminal"
    assert "is not a statement" in await verify({"hello": 1}, code=2)
    assert "is not a statement" in await verify([], code=2)
    assert "No such file" in await desk.type("verify", str(path.with_name("none")), code=2)
    assert "standard input is not a statement" in await desk.type("verify", "-", stdin=b"\xff", code=2)
    assert "Is a directory" in await desk.type("verify", str(path.parent), code=2)


async def test_verify_for_a_program(desk: Desk) -> None:
    payer, _ = await cycles(desk.world, 2)
    party = f"0x{payer.payer.hex()}"
    kept = await desk.json("statement", party, "--all")
    names = [desk.file(f"{number}.json", document) for number, document in enumerate(kept)]
    told = await desk.json("verify", *names, "--json")
    assert (told["valid"], told["faults"]) == (True, [])
    assert told["signers"] == [f"0x{desk.world.keys.authorizer.address.hex()}"]
    assert [(each["party"], each["cycle"]) for each in told["statements"]] == [(party, 1), (party, 2)]
    for each, document in zip(told["statements"], kept, strict=True):
        assert each["totals"]["claimed"] == document["message"]["totals"]["claimed"]
        assert each["gateway"] == "gw1"
        assert each["chainId"] == document["domain"]["chainId"] == CHAIN_ID
    kept[1]["message"]["channels"][0]["charged"] = "7"
    kept[1]["message"]["gateway"] = "\x1b[2J\u202e"
    wrong = await desk.type("verify", desk.file("bad.json", kept[1]), "--json", code=1)
    assert wrong.isascii()
    assert "\x1b" not in wrong
    told = json.loads(wrong)
    assert told["valid"] is False
    assert any("altered or forged" in fault for fault in told["faults"])


async def test_a_far_future_is_shown_as_a_number(desk: Desk) -> None:
    (signed,) = Life(1).cycles(1)
    document = json.dumps(to_json(altered(signed, {"time": 2**63}))).encode()
    assert str(2**63) in await desk.type("verify", "-", stdin=document)


async def test_the_ledger_of_a_running_gateway(desk: Desk) -> None:
    world = desk.world
    payer, earner = await cycles(world, 2)
    await world.pay(payer, 7)
    await world.seen()
    told = await desk.type("ledger")
    assert "books of gateway gw1" in told
    assert "-- gas, in wei" in told
    answer = await desk.json("ledger", "--json")
    balances = {row["account"]: int(row["balance"]) for row in answer["accounts"]}
    channel = world.channel(payer)
    assert balances["sales"] == -channel.charged
    assert balances["unclaimed"] == channel.unclaimed == 7 * 150
    assert balances["owed_to_earners"] == 0
    assert balances["cost_of_earnings"] == earner.earned
    assert balances["gas"] == world.ledger.totals.gas_fee == sum(map(int, answer["gas_by_purpose"].values()))
    assert sum(int(row["debits"]) - int(row["credits"]) for row in answer["accounts"]) == 0

    told = await desk.type("ledger", "--check")
    assert f"postings = states = chain at block {world.gateway.watcher.block}" in told
    assert "to the unit" in told
    proof = await desk.json("ledger", "--check", "--json")
    assert (proof["differences"], proof["block"]) == ([], world.gateway.watcher.block)


async def test_money_taken_out_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books_command, "ATTEMPT_PAUSE_S", 0.01)
    world = desk.world
    await cycles(world, 1)
    keys = world.keys
    await world.transact(keys.treasury.private, TOKEN_ADDRESS, calls.transfer(keys.lanes[0].address, 9))
    told = await desk.type("ledger", "--check")
    assert told.count("internal   9 went") == 2
    await world.transact(keys.treasury.private, TOKEN_ADDRESS, calls.transfer(keys.operator.address, 5))
    told = await desk.type("ledger", "--check", code=1)
    assert "DIFFERS" in told
    assert "differ by 5" in told
    assert "does not hold" in told
    proof = await desk.json("ledger", "--check", "--json", code=1)
    assert proof["differences"]


async def test_a_difference_of_a_moment_is_looked_at_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books_command, "ATTEMPT_PAUSE_S", 0.0)
    await cycles(desk.world, 1)
    compared = books_command.disagreements
    looks = []

    def first_wrong(keeper: Any, proof: Any) -> list[str]:
        looks.append(keeper.commit)
        return ["for a moment"] if len(looks) == 1 else compared(keeper, proof)

    monkeypatch.setattr(books_command, "disagreements", first_wrong)
    assert "to the unit" in await desk.type("ledger", "--check")
    assert len(looks) == 2


async def test_the_ledger_of_a_stopped_gateway(desk: Desk) -> None:
    world = desk.world
    await cycles(world, 2)
    running = await desk.json("ledger", "--json")
    await desk.close()
    await world.stop()
    assert await desk.json("ledger", "--json") == running
    told = await desk.type("ledger", "--check")
    assert "postings = states, as of commit" in told
    assert "not compared with the chain: http://127.0.0.1:9 cannot be reached" in told
    with mock.patch.object(books_command, "HttpTransport", return_value=InProcessTransport(world.miner)):
        told = await desk.type("ledger", "--check")
    assert "= chain at block" in told


@pytest.mark.parametrize("form", ["csv", "json"])
async def test_exports(desk: Desk, form: str) -> None:
    await cycles(desk.world, 2)

    async def export(*arguments: str) -> list[dict[str, str]]:
        text = await desk.type("ledger", "--export", form, *arguments)
        return list(csv.DictReader(io.StringIO(text))) if form == "csv" else list(json.loads(text))

    accounts, postings = await export(), await export("--postings")
    sums: dict[tuple[str, str, str], int] = {}
    entries: dict[str, int] = {}
    for row in postings:
        key = (row["unit"], row["account"], row["subject"])
        amount = int(row["debit"]) - int(row["credit"])
        sums[key] = sums.get(key, 0) + amount
        entries[row["entry"]] = entries.get(row["entry"], 0) + amount
        assert int(row["commit"]) > 0
        assert row["cause"]
    assert sums == {(row["unit"], row["account"], row["subject"]): int(row["balance"]) for row in accounts}
    assert set(entries.values()) == {0}
    causes = {row["cause"] for row in postings}
    assert {"founding", "deposit", "reading", "earning", "claim", "settlement", "transfer", "payout", "gas"} <= causes
    assert {row["account"] for row in accounts if row["unit"] == "wei"} == {"gas", "coins"}
    assert ("wei", "gas", "claim") in sums


async def test_what_cannot_be_asked_for(desk: Desk, make_world: Make, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--postings goes with --export" in await desk.type("ledger", "--postings", code=2)
    never = Desk(await make_world(start=False), capsys)
    for command in (("ledger",), ("ledger", "--check"), ("ledger", "--export", "csv"), ("statement", NOBODY)):
        assert "has not run yet" in await never.type(*command, code=2)


async def test_a_journal_of_another_version_is_told(desk: Desk) -> None:
    payer, _ = await cycles(desk.world, 1)
    await desk.close()
    await desk.world.stop()
    path = Path(desk.world.config.data_dir) / "journal.sqlite"
    for version, words in ((1, "is kept"), (99, "has schema 99")):
        with sqlite3.connect(path) as db:
            db.execute(f"PRAGMA user_version = {version}")
        db.close()
        assert words in await desk.type("statement", f"0x{payer.payer.hex()}", code=2)
    await asyncio.to_thread(path.write_bytes, b"no database at all" * 500)
    assert "cannot open the journal" in await desk.type("statement", f"0x{payer.payer.hex()}", code=2)


async def test_an_empty_journal_has_no_books(desk: Desk, make_world: Make, capsys: pytest.CaptureFixture[str]) -> None:
    empty = Desk(await make_world(start=False), capsys)
    journal = Journal(Path(empty.world.config.data_dir) / "journal.sqlite")
    await journal.close()
    for command in (("ledger",), ("ledger", "--check"), ("ledger", "--export", "json")):
        assert "is empty" in await empty.type(*command, code=2)


async def test_a_journal_that_does_not_balance_is_a_fault(desk: Desk) -> None:
    payer, _ = await cycles(desk.world, 1)
    await desk.world.pay(payer, 10)
    offset = desk.world.channel(payer).offset
    await desk.close()
    await desk.world.stop()
    journal = Journal(Path(desk.world.config.data_dir) / "journal.sqlite")
    await journal.commit([CycleStarted(2, 0, ((payer.id, offset + 5),), (), ())])[1]
    await journal.close()
    assert "5 is left in offset_clearing" in await desk.type("ledger", code=3)
