"""Statements of a whole gateway: issued after each cycle, once, cheaply, and adding up from one to the next."""

import asyncio
import random
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from channels.types import Address
from gateway import journal as journal_module
from gateway import statements as statements_module
from gateway.books import Books
from gateway.config import SettlementConfig
from gateway.control import application
from gateway.errors import JournalFault
from gateway.journal import Journal
from gateway.statements import Statements, read_statements
from gateway.terms import TermsBook
from settlement.statement_checks import prove, verify
from settlement.statement_json import read
from settlement.statements import Signed, Statement
from tests.support import reorg_scenes as scenes
from tests.support.gateway_devices import Earner, Payer
from tests.support.gateway_records import KEYS, NETWORK, Script, back_to_schema
from tests.support.gateway_world import Crash, World, until
from tests.support.reorg_world import ForkWorld

Make = Callable[..., Awaitable[World]]


class Street:
    """Two homes that pay, one of them with a roof of its own, and one that only earns."""

    def __init__(self, world: World, payers: list[Payer], earners: list[Earner], rng: random.Random) -> None:
        self.world, self.payers, self.earners, self.rng = world, payers, earners, rng
        self.parties = {payer.payer for payer in payers} | {earner.payee for earner in earners}

    @classmethod
    async def build(cls, world: World, seed: int = 1) -> "Street":
        """Open everything."""
        payers = [await world.opened("meter-1", 20_000_000), await world.opened("meter-2", 20_000_000)]
        payers.append(await world.opened("meter-2", 20_000_000, salt=2))
        earners = [await world.joined("solar-1", payee_key=payers[0].payer_key), await world.joined("solar-2")]
        return cls(world, payers, earners, random.Random(seed))

    async def traffic(self) -> None:
        """Let some of them pay and earn."""
        for payer in self.payers:
            if self.rng.random() < 0.7:
                payer.settled_elsewhere = self.world.channel(payer).offset
                await self.world.pay(payer, self.rng.randrange(1, 300))
        for earner in self.earners:
            if self.rng.random() < 0.7:
                await self.world.earn(earner, self.rng.randrange(1, 900))

    async def statements(self, party: Address) -> list[Signed]:
        """All that are kept of a party."""
        return read(await self.world.gateway.statements.read(party, after=0))

    async def newest(self, party: Address) -> Statement:
        """The newest of a party."""
        (signed,) = read(await self.world.gateway.statements.read(party))
        return signed.statement

    async def check(self) -> None:
        """Prove everything that was issued, and compare the newest with the books."""
        ledger = self.world.ledger
        signer = self.world.keys.authorizer.address
        for party in self.parties:
            given = await self.statements(party)
            assert prove(given, signer).faults == ()
            last = given[-1].statement
            channels = [each for each in ledger.channels.values() if each.config.payer == party]
            accounts = [ledger.accounts[each] for each in ledger.by_payee.get(party, ())]
            assert {line.channel_id: line.charged for line in last.channels} == {c.id: c.charged for c in channels}
            assert {line.account_id: line.net for line in last.accounts} == {a.id: a.net for a in accounts}
            assert last.totals.claimed == sum(channel.claimed for channel in channels)
            assert (last.totals.signed, last.totals.paid) == (ledger.party(party).signed, ledger.party(party).paid)
            assert {line.unit for line in (*last.channels, *last.accounts)} == {"Wh"}
            for line in last.channels:
                channel = ledger.channels[line.channel_id]
                assert (line.register_from, line.register_to) == (channel.first_register, channel.meter.register)
                assert (await self.world.view(line.channel_id)).total_claimed == line.claimed


async def test_statements_add_up_over_many_cycles(world: World) -> None:
    street = await Street.build(world)
    ended = []
    for _ in range(7):
        await street.traffic()
        cycle = await world.gateway.settler.settle()
        assert cycle is not None
        ended.append(cycle)
    await street.check()
    assert all(each.proven for each in world.ledger.channels.values())
    # What all parties are told happened in a cycle is what the cycle moved.
    steps: dict[int, dict[str, int]] = {}
    for party in street.parties:
        before = dict.fromkeys(("claimed", "offset", "paid"), 0)
        for signed in await street.statements(party):
            moved = steps.setdefault(signed.statement.cycle, dict.fromkeys(before, 0))
            for name in before:
                now = getattr(signed.statement.totals, name)
                moved[name] += now - before[name]
                before[name] = now
    for cycle in ended:
        moved = {"claimed": cycle.claimed, "offset": cycle.offset, "paid": cycle.paid}
        assert steps[cycle.number] == moved, cycle.number
    assert sum(cycle.offset for cycle in ended) > 0
    assert sum(cycle.paid for cycle in ended) > 0


async def test_only_whose_figures_changed_is_told(world: World) -> None:
    street = await Street.build(world)
    quiet, busy = street.payers[1], street.payers[0]
    await world.pay(busy, 10)
    await world.pay(quiet, 10)
    await world.gateway.settler.settle()
    before = await street.newest(quiet.payer)
    await world.pay(busy, 10)
    await world.gateway.settler.settle()
    assert await street.newest(quiet.payer) == before
    assert (await street.newest(busy.payer)).cycle == before.cycle + 1
    # A party's own two channels are in one statement.
    assert [line.device for line in before.channels] == ["meter-2", "meter-2"]
    assert before.channels[0].channel_id < before.channels[1].channel_id


async def test_a_statement_is_of_one_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings that are accepted while it is signed are not in it, and signing does not hold them up."""
    payer = await world.opened()
    await world.pay(payer, 10)
    go, begun = threading.Event(), threading.Event()
    signer = statements_module.signer
    threads: list[str] = []

    def slow(key: bytes) -> Any:
        begun.set()
        threads.append(threading.current_thread().name)
        assert go.wait(20)
        return signer(key)

    monkeypatch.setattr(statements_module, "signer", slow)
    settling = asyncio.create_task(world.gateway.settler.settle())
    await until(begun.is_set)
    commit = world.gateway.books.journal.number
    receipt = await world.pay(payer, 10)
    assert receipt.cumulative == 3_000
    go.set()
    await settling
    (signed,) = read(await world.gateway.statements.read(payer.payer))
    assert signed.statement.commit == commit < world.gateway.books.journal.number
    assert signed.statement.totals.charged == 1_500
    assert threads[0].startswith("statements")
    assert prove([signed]).faults == ()


async def test_a_second_call_issues_nothing(world: World) -> None:
    payer = await world.opened()
    assert await world.gateway.statements.issue() == 0, "no cycle has ended"
    await world.pay(payer, 10)
    await world.gateway.settler.settle()
    await world.pay(payer, 10)
    assert await world.gateway.statements.issue() == 0
    assert [await world.gateway.statements.issue() for _ in range(2)] == [0, 0]
    assert len(await world.gateway.statements.read(payer.payer, after=0)) == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_crash_around_the_statements(world: World, after: bool) -> None:
    """The cycle has ended, the power goes: the next start issues what is missing, and nothing twice."""
    street = await Street.build(world)
    await street.traffic()
    await world.gateway.settler.settle()
    await street.traffic()
    journal = world.gateway.books.journal
    store = journal.store_statements

    async def cut(*arguments: Any) -> None:
        if after:
            await store(*arguments)
        raise Crash

    journal.store_statements = cut  # type: ignore[method-assign]
    with pytest.raises(Crash):
        await world.gateway.settler.settle()
    cycle = world.ledger.totals.cycles
    await world.restart()
    assert world.ledger.ended[cycle.to_bytes(8, "big")].number == cycle, "it had ended"
    assert max([(await street.newest(party)).cycle for party in street.parties]) == cycle
    await street.check()
    await world.restart()
    await street.traffic()
    await world.gateway.settler.settle()
    await street.check()


@pytest.mark.parametrize("kept", [1, 3])
async def test_only_so_many_cycles_are_kept(make_world: Make, kept: int) -> None:
    world = await make_world(settlement=SettlementConfig(every_s=86_400, statements_kept=kept))
    busy, quiet = await world.opened("meter-1"), await world.opened("meter-2")
    await world.pay(quiet, 10)
    for _ in range(6):
        await world.pay(busy, 10)
        await world.gateway.settler.settle()
    told = read(await world.gateway.statements.read(busy.payer, after=0))
    assert [signed.statement.cycle for signed in told] == list(range(7 - kept, 7))
    assert prove(told).faults == ()
    (newest,) = read(await world.gateway.statements.read(quiet.payer, after=0))
    assert newest.statement.cycle == 1, "a party's newest stays for ever"
    await world.pay(quiet, 10)
    await world.gateway.settler.settle()
    (again,) = read(await world.gateway.statements.read(quiet.payer))
    assert prove([newest, again]).faults == (), "and the next one follows it"


async def test_pages(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements_module, "PAGE", 2)
    world = await make_world()
    payer = await world.opened()
    for _ in range(5):
        await world.pay(payer, 10)
        await world.gateway.settler.settle()
    transport = httpx.ASGITransport(application(world.gateway), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://metergate") as client:
        at = f"/v1/statements/0x{payer.payer.hex()}"
        cycles = []
        while page := (await client.get(at, params={"after": cycles[-1] if cycles else 0})).json()["statements"]:
            assert len(page) <= 2
            cycles += [int(document["message"]["cycle"]) for document in page]
        assert cycles == [1, 2, 3, 4, 5]
        (third,) = (await client.get(at, params={"cycle": 3})).json()["statements"]
        assert third["message"]["cycle"] == "3"
        (newest,) = (await client.get(at)).json()["statements"]
        assert newest["message"]["cycle"] == "5"
        assert verify([third, newest]) != [], "one between them is missing"
        assert (await client.get(at, params={"cycle": 77})).json() == {"statements": []}
        assert (await client.get(f"/v1/statements/0x{'12' * 20}")).json() == {"statements": []}
        for bad in ("/v1/statements/0x12", f"{at}?cycle=x", f"{at}?after=-1", f"{at}?cycle={10**19}"):
            assert (await client.get(bad)).status_code == 400, bad


async def test_a_damaged_statement_is_told_and_stops_nothing(world: World) -> None:
    payer = await world.opened()
    await world.pay(payer, 10)
    await world.gateway.settler.settle()
    path = world.gateway.books.journal.path
    with sqlite3.connect(path) as db:
        (body,) = db.execute("SELECT body FROM statements WHERE party = ?", (payer.payer,)).fetchone()
        flipped = body[:100] + bytes((body[100] ^ 1,)) + body[101:]
        db.execute("UPDATE statements SET body = ?", (flipped,))
    db.close()
    transport = httpx.ASGITransport(application(world.gateway), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://metergate") as client:
        answer = await client.get(f"/v1/statements/0x{payer.payer.hex()}")
    assert (answer.status_code, "damaged" in answer.json()["error"]) == (500, True)
    await world.pay(payer, 10)
    await world.gateway.settler.settle()
    assert len(await world.gateway.statements.read(payer.payer)) == 1, "the newest is a good one"
    with pytest.raises(JournalFault, match="cannot read statements"):
        read_statements(path.with_name("none"), payer.payer)


async def test_a_disk_that_fails_ends_the_gateway(world: World) -> None:
    payer = await world.opened()
    await world.pay(payer, 10)
    with sqlite3.connect(world.gateway.books.journal.path) as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON statements BEGIN SELECT RAISE(ROLLBACK, 'disk full'); END")
    db.close()
    with pytest.raises(JournalFault, match="disk full"):
        await world.gateway.settler.settle()
    with pytest.raises(JournalFault, match="disk full"):
        await world.gateway.books.journal.commit([])[1]
    await world.crash()


async def test_statements_over_a_reorganisation(tmp_path: Path) -> None:
    """Blocks with a claim vanish and come again: the next statement counts it, and follows from the one before."""
    world = ForkWorld(tmp_path / "world", confirmations=0)
    await world.begin()
    payer = await scenes.opened(world)
    await world.pay(payer, 1_000)
    world.keep()
    await scenes.settled(world)
    world.drop()
    await scenes.back(world)
    await world.pay(payer, 10)
    await scenes.settled(world)
    told = read(await world.gateway.statements.read(payer.payer, after=0))
    assert [signed.statement.reorgs for signed in told] == [0, 1]
    assert [signed.statement.totals.claimed for signed in told] == [150_000, 151_500]
    assert prove(told, world.keys.authorizer.address).faults == ()
    assert await world.crash() is None


async def test_a_journal_from_before_statements_gets_them(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last cycle ended under an older Metergate: the first start of this one issues its statements."""
    world = await make_world()
    street = await Street.build(world)
    await street.traffic()
    await world.gateway.settler.settle()
    await world.crash()
    back_to_schema(Path(world.config.data_dir) / "journal.sqlite", 1)
    await world.start()
    assert len(journal_module.MIGRATIONS) >= 2
    await street.check()


@pytest.mark.parametrize("seed", range(4))
async def test_random_journals_issue_what_verifies(tmp_path: Path, seed: int) -> None:
    """No gateway, no chain: whatever records do to the books, statements at any moment form valid chains."""
    print(f"seed {seed}")
    books = Books(Journal(tmp_path / "journal.sqlite"))
    books.journal._db.execute("PRAGMA synchronous = OFF")
    terms = TermsBook(900, 225)
    books.replay(terms.terms_then, terms.observe)
    script = Script(books, terms, seed)
    await script.found()
    statements = Statements(books, terms, KEYS.authorizer, NETWORK, kept=10**6)
    issued = 0
    for _ in range(500):
        await script.step()
        issued += await statements.issue()
    assert issued > 10
    found = 0
    ledger = books.ledger
    for party in {each.config.payer for each in ledger.channels.values()} | ledger.by_payee.keys():
        after = 0
        told: list[Signed] = []
        while page := await statements.read(party, after=after):
            told += read(page)
            after = told[-1].statement.cycle
        assert prove(told, KEYS.authorizer.address).faults == ()
        found += len(told)
    assert found == issued
    await books.close()
