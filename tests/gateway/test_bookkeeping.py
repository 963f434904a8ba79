"""The books: balanced in every commit, and equal to the states and to the chain, come by in another way."""

import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from channels.signatures import key_address
from channels.state import (
    Account,
    ActionOpen,
    ContractReceiveClaim,
    ContractReceiveDeposit,
    ContractReceiveRefund,
    ContractReceiveWithdrawFinalized,
    ContractReceiveWithdrawInitiated,
    Meter,
)
from channels.types import SETTLEMENT_ADDRESS, ChannelConfig
from gateway import journal as journal_module
from gateway import records as r
from gateway.audit import states_of, take_snapshot
from gateway.bookkeeping import _HANDLERS, KEPT_BLOCKS, WITHOUT_POSTINGS, Bookkeeper
from gateway.books import Books
from gateway.errors import JournalFault
from gateway.journal import Journal, read_commits
from gateway.reconciliation import (
    Evidence,
    disagreements,
    evidence,
    evidence_of_states,
    from_json,
    notes,
    to_json,
)
from gateway.terms import TermsBook
from settlement import calls
from settlement.accounts import BookAccount, Entry, Told, Unbalanced
from settlement.accounts import Books as Accounts
from settlement.genesis import TOKEN_ADDRESS
from settlement.transactions import Transaction, sign_transaction
from tests.support.gateway_records import Script
from tests.support.gateway_world import TOKEN, Crash, World

Make = Callable[..., Awaitable[World]]


class Journaled:
    """Random records, books made of them beside, commit by commit."""

    def __init__(self, path: Path, seed: int) -> None:
        self.books = Books(Journal(path / "journal.sqlite"))
        self.books.journal._db.execute("PRAGMA synchronous = OFF")
        terms = TermsBook(900, 225)
        self.books.replay(terms.terms_then, terms.observe)
        self.script = Script(self.books, terms, seed)
        self.entries: list[tuple[Accounts, Entry]] = []
        self.keeper = Bookkeeper(lambda books, entry: self.entries.append((books, entry)))

    async def write(self, commits: int) -> None:
        """Write so many steps and read them back."""
        if self.books.ledger.founded is None:
            await self.script.found()
        for _ in range(commits):
            await self.script.step()
        for number, records in read_commits(self.books.journal.path, self.keeper.commit):
            self.keeper.take(number, records)

    def proof(self) -> Evidence:
        """What the states say."""
        return evidence_of_states(states_of(self.books))


@pytest.mark.parametrize("seed", range(8))
async def test_postings_balance_and_are_the_states_in_random_journals(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    journaled = Journaled(tmp_path, seed)
    for _ in range(8):
        await journaled.write(60)
        assert disagreements(journaled.keeper, journaled.proof()) == []
    assert len(journaled.entries) > 400
    for books in (journaled.keeper.token, journaled.keeper.gas):
        rows = books.trial()
        assert sum(row.debits for row in rows) == sum(row.credits for row in rows) > 0
    by_commit: dict[tuple[str, int], int] = {}
    for books, entry in journaled.entries:
        key = (books.unit, entry.commit)
        by_commit[key] = by_commit.get(key, 0) + sum(leg.amount for leg in entry.legs)
        assert entry.legs
        assert all(leg.amount for leg in entry.legs)
    assert set(by_commit.values()) == {0}
    await journaled.books.close()


async def test_every_figure_that_differs_is_found(tmp_path: Path) -> None:
    """Each figure of the states wrong by one, in turn."""
    journaled = Journaled(tmp_path, 3)
    await journaled.write(300)
    proof = journaled.proof()
    assert len(proof.states) > 50
    for index, told in enumerate(proof.states):
        wrong = list(proof.states)
        wrong[index] = replace(told, amount=told.amount + 1)
        found = disagreements(journaled.keeper, replace(proof, states=tuple(wrong)))
        assert any(told.name in text and "differ by -1" in text for text in found), told
    wrong = [told for told in proof.states if told.subject != proof.states[0].subject]
    assert disagreements(journaled.keeper, replace(proof, states=tuple(wrong))), "a channel that the states lack"
    assert disagreements(journaled.keeper, replace(proof, gas_fee=proof.gas_fee + 1))
    assert "read up to commit" in disagreements(journaled.keeper, replace(proof, commit=proof.commit + 1))[0]
    await journaled.books.close()


def test_every_kind_of_record_is_known() -> None:
    kinds = set(r.Record.__args__)  # type: ignore[attr-defined]
    assert kinds == _HANDLERS.keys() | WITHOUT_POSTINGS
    assert not _HANDLERS.keys() & WITHOUT_POSTINGS


async def test_a_walk_stops_where_it_is_told_and_misses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "COMMITS_PER_READ", 7)
    journaled = Journaled(tmp_path, 1)
    await journaled.write(40)
    path, last = journaled.books.journal.path, journaled.books.journal.number
    numbers = [number for number, _ in read_commits(path, 0)]
    assert numbers == list(range(1, last + 1))
    assert [number for number, _ in read_commits(path, 5, 9)] == [6, 7, 8, 9]
    assert list(read_commits(path, last)) == []
    with pytest.raises(JournalFault, match=f"ends at commit {last}"):
        list(read_commits(path, 0, last + 1))
    journaled.books.journal._db.execute("DELETE FROM commits WHERE number = 12")
    with pytest.raises(JournalFault, match="lacks commit 12"):
        list(read_commits(path, 0))
    with pytest.raises(JournalFault, match="cannot read"):
        list(read_commits(path.with_name("none"), 0))
    await journaled.books.journal.close()


# -- a whole gateway --


async def kept(world: World) -> Bookkeeper:
    """Walk a running gateway's journal."""
    await world.gateway.books.journal.durable()
    keeper = Bookkeeper()
    for number, records in read_commits(world.gateway.books.journal.path, 0):
        keeper.take(number, records)
    return keeper


async def proof(world: World) -> Evidence:
    """What the states and the chain say; through JSON, as over the control socket."""
    await world.seen()
    snapshot = await take_snapshot(world.gateway.books, world.layer, world.gateway.watcher)  # type: ignore[arg-type]
    found = evidence(snapshot)
    assert from_json(to_json(found)) == found
    return found


async def proved(world: World) -> Bookkeeper:
    """Prove the books to the unit, nothing being in flight."""
    found = await proof(world)
    keeper = await kept(world)
    assert disagreements(keeper, found) == []
    assert notes(keeper, found) == []
    return keeper


async def test_all_that_moves_money_is_in_the_books(make_world: Make) -> None:
    world = await make_world(float_tokens=1_000 * TOKEN)
    treasury, lanes = world.keys.treasury.address, [key.address for key in world.keys.lanes]
    keeper = await proved(world)
    assert keeper.token.total(BookAccount.TREASURY) == -keeper.token.total(BookAccount.FLOAT) == 1_000 * TOKEN
    payer, other = await world.opened("meter-1", 5_000_000), await world.opened("meter-2", 3_000_000)
    roof = await world.joined("solar-1", payee_key=payer.payer_key)
    far = await world.joined("solar-2")
    keeper = await proved(world)
    assert keeper.token.total(BookAccount.ESCROW) == 8_000_000
    for _ in range(3):
        for device, units in ((payer, 700), (other, 40)):
            device.settled_elsewhere = world.channel(device).offset
            await world.pay(device, units)
        await world.earn(roof, 50)
        await world.earn(far, 90)
        await proved(world)
        await world.gateway.settler.settle()
        await proved(world)
    await world.give(treasury, 77)
    await world.give(lanes[1], 5)
    keeper = await proved(world)
    token = keeper.token
    assert token.total(BookAccount.FLOAT) == -(1_000 * TOKEN + 77)
    assert token.total(BookAccount.DONATED) == -5
    assert token.balance(BookAccount.LANES, lanes[1]) == 5
    assert token.total(BookAccount.SALES) == -(world.channel(payer).charged + world.channel(other).charged)
    assert token.total(BookAccount.EARNINGS) == world.account(roof).earned + world.account(far).earned
    assert token.total(BookAccount.FEES) == -(world.account(roof).fee + world.account(far).fee)
    assert world.account(roof).offset > 0
    assert token.total(BookAccount.TREASURY) == await world.balance(treasury)
    purposes = {purpose for purpose, _ in keeper.gas.subjects(BookAccount.GAS)}
    assert {b"deposit", b"claim", b"settle", b"sweep", b"pay", b"approve"} <= purposes


async def test_money_between_own_keys_is_told_and_is_no_difference(world: World) -> None:
    keys = world.keys
    lane, treasury = keys.lanes[0], keys.treasury
    await world.transact(treasury.private, TOKEN_ADDRESS, calls.transfer(lane.address, 5_000))
    found, keeper = await proof(world), await kept(world)
    assert disagreements(keeper, found) == []
    assert notes(keeper, found) == [
        f"5000 went from 0x{treasury.address.hex()}, between own keys and not by the gateway",
        f"5000 went to 0x{lane.address.hex()}, between own keys and not by the gateway",
    ]
    # What leaves them is a difference: nobody journaled that the operator took it.
    await world.transact(treasury.private, TOKEN_ADDRESS, calls.transfer(keys.operator.address, 30))
    found, keeper = await proof(world), await kept(world)
    assert any("cash_lanes + cash_treasury" in text and "by 30" in text for text in disagreements(keeper, found))


async def test_transactions_in_flight_are_told_apart_from_differences(world: World) -> None:
    """The power goes when payouts and sweeps are mined and not booked."""
    payer, far = await world.opened("meter-1", 5_000_000), await world.joined("solar-2")
    told = set()
    for kind in (r.TransactionMined, r.PayoutsPaid):
        for skip in range(4):
            await world.pay(payer, 100)
            await world.earn(far, 50)
            books = world.gateway.books
            write, left = books.write, skip

            def cut(records: Any, write: Any = write, kind: Any = kind) -> Any:
                nonlocal left
                if any(isinstance(record, kind) for record in records):
                    left -= 1
                    if left < 0:
                        raise Crash
                return write(records)

            books.write = cut  # type: ignore[method-assign]
            with contextlib.suppress(Crash, ExceptionGroup):
                await world.gateway.settler.settle()
            books.write = write  # type: ignore[method-assign]
            found = await proof(world)
            keeper = await kept(world)
            assert disagreements(keeper, found) == []
            told |= {text.split()[2] for text in notes(keeper, found)}
            await world.restart()
            await world.gateway.settler.settle()
            await proved(world)
    assert told == {"swept", "paid"}


@pytest.mark.parametrize("where", ["treasury", "lane", "channel", "payee"])
async def test_a_chain_that_says_otherwise_is_told(world: World, where: str) -> None:
    payer, far = await world.opened("meter-1", 5_000_000), await world.joined("solar-2")
    await world.pay(payer, 100)
    await world.earn(far, 50)
    await world.gateway.settler.settle()
    found, keeper = await proof(world), await kept(world)
    assert disagreements(keeper, found) == []
    assert found.held is not None
    treasury, lane = world.keys.treasury.address, world.keys.lanes[0].address
    wrong = {
        "treasury": replace(found, held={**found.held, treasury: found.held[treasury] - 1}),
        "lane": replace(found, held={**found.held, lane: found.held[lane] + 1}),
        "channel": replace(found, chain=tuple(_one_more(told, payer.id) for told in found.chain)),
        "payee": replace(found, paid=tuple((payee, paid - 1, paid) for payee, paid, _ in found.paid)),
    }[where]
    texts = disagreements(keeper, wrong)
    name = {"treasury": "+ cash_treasury", "lane": "cash_lanes +", "channel": "escrow of", "payee": "was paid"}[where]
    assert any(name in text for text in texts), texts


def _one_more(told: Told, subject: bytes) -> Told:
    return replace(told, amount=told.amount + 1) if told.subject == subject else told


async def test_books_over_restarts_and_random_traffic(world: World) -> None:
    seed = 11
    print(f"seed {seed}")
    rng = random.Random(seed)
    payers = [await world.opened(f"meter-{number}", 9_000_000) for number in (1, 2, 3)]
    earners = [await world.joined("solar-1", payee_key=payers[0].payer_key), await world.joined("air-1")]
    for _ in range(10):
        device = rng.choice(payers)
        device.settled_elsewhere = world.channel(device).offset
        await world.pay(device, rng.randrange(300))
        await world.earn(rng.choice(earners), rng.randrange(500))
        step = rng.random()
        if step < 0.4:
            await world.gateway.settler.settle()
        elif step < 0.6:
            await world.restart()
        await proved(world)


# -- one record after another --

LANE, OTHER_LANE, VAULT, OPERATOR = (bytes([number]) * 20 for number in (1, 2, 3, 4))
PAYER, PAYEE, STRANGER = (bytes([number]) * 20 for number in (5, 6, 7))
CHANNEL, ROOF = b"\x0c" * 32, b"\x0a" * 32
LANE_KEY = b"\x21" * 32


class Desk:
    """A bookkeeper that is given records by hand, each a commit of its own."""

    def __init__(self) -> None:
        self.keeper = Bookkeeper()
        self.commit = 0
        self.lane = key_address(LANE_KEY)
        self.take(
            r.Founded("gw1", 1, TOKEN_ADDRESS, b"\xbb" * 20, VAULT, (self.lane, OTHER_LANE), 5, 900, ((40, 30), (0, 0)),
                      balances=(800, 60, 40))
        )  # fmt: skip

    def take(self, *records: r.Record) -> dict[tuple[str, bytes], int]:
        """Post one commit; returns what changed, by account and subject."""
        before = self.balances()
        self.commit += 1
        self.keeper.take(self.commit, records)
        after = self.balances()
        return {key: after.get(key, 0) - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}

    def balances(self) -> dict[tuple[str, bytes], int]:
        """Every balance."""
        return {
            (row.account.value, subject): amount
            for books in (self.keeper.token, self.keeper.gas)
            for row in books.trial()
            for subject, amount in books.subjects(row.account)
        }

    def opened(self, *, claimed: int = 0) -> None:
        """Take a channel with 500 in it and an account."""
        config = ChannelConfig(PAYER, PAYER, self.lane, OPERATOR, TOKEN_ADDRESS, 900, bytes(32))
        self.take(
            r.ChannelTaken(
                ActionOpen(CHANNEL, config, "m", "s", 0, 0, bytes(16), 1, 500, claimed, 0, at(10) - 1, True)
            ),
            r.AccountOpened(Account(ROOF, "r", "e", PAYEE, PAYEE, Meter(0, 0, 0, bytes(16), 1))),
        )

    def charged(self, charged: int) -> dict[tuple[str, bytes], int]:
        """Take a reading."""
        return self.take(r.Charged(CHANNEL, 1, 1, 1, bytes(16), charged, b"", b"", charged, 0, 500, 0, charged, b""))

    def earned(self, earned: int, basis_points: int = 100) -> dict[tuple[str, bytes], int]:
        """Take an earning reading."""
        return self.take(r.Earned(ROOF, 1, 1, 1, bytes(16), b"", basis_points, earned, 0, 0))


def at(block: int) -> int:
    """The first position in a block."""
    return block << 32


def signed(data: bytes, *, nonce: int = 0, fee: int = 1, to: bytes = TOKEN_ADDRESS) -> r.TransactionSigned:
    """A transaction of the lane's key as it is journaled."""
    made = sign_transaction(Transaction(1, nonce, 0, fee, 21_000, to, 0, data), LANE_KEY)
    return r.TransactionSigned(made.tx_hash, made.sender, nonce, "sweep 1", made.raw)


def mined(transaction: r.TransactionSigned, block: int = 20, *, succeeded: bool = True) -> r.TransactionMined:
    """It is mined for a fee of 7 wei."""
    return r.TransactionMined(transaction.hash, succeeded, block, 21_000, 7)


def test_founding() -> None:
    desk = Desk()
    assert desk.balances() == {
        ("cash_treasury", VAULT): 800,
        ("cash_lanes", desk.lane): 60,
        ("cash_lanes", OTHER_LANE): 40,
        ("unsettled", desk.lane): 10,
        ("foreign", desk.lane): -40,
        ("float", VAULT): -870,
    }


def test_a_channels_money() -> None:
    desk = Desk()
    desk.opened(claimed=15)
    balances = desk.balances()
    assert (balances["escrow", CHANNEL], balances["sales", CHANNEL], balances["foreign", desk.lane]) == (485, -15, -25)
    assert desk.charged(60) == {("unclaimed", CHANNEL): 45, ("sales", CHANNEL): -45}
    assert desk.charged(60) == {}
    claim = r.ChainChanged(CHANNEL, ContractReceiveClaim(at(11), 40))
    assert desk.take(claim) == {
        ("unsettled", desk.lane): 25, ("unclaimed", CHANNEL): -25, ("escrow", CHANNEL): -25, ("payers", CHANNEL): 25,
    }  # fmt: skip
    assert desk.take(claim) == {}, "an event counts once"
    for change, amount in (
        (ContractReceiveDeposit(at(12), 600), 100),
        (ContractReceiveWithdrawInitiated(at(13), 30), 0),
        (ContractReceiveWithdrawFinalized(at(14), 25), -25),
        (ContractReceiveRefund(at(15), 5), -5),
    ):
        expected = {("escrow", CHANNEL): amount, ("payers", CHANNEL): -amount} if amount else {}
        assert desk.take(r.ChainChanged(CHANNEL, change)) == expected, change


def test_earning_and_its_fee() -> None:
    desk = Desk()
    desk.opened()
    assert desk.earned(150) == {("cost_of_earnings", ROOF): 150, ("fees", ROOF): -1, ("owed_to_earners", PAYEE): -149}
    # Half a unit was carried: with 50 more it is another whole one.
    assert desk.earned(200) == {("cost_of_earnings", ROOF): 50, ("fees", ROOF): -1, ("owed_to_earners", PAYEE): -49}


def test_netting_and_payouts() -> None:
    desk = Desk()
    desk.opened()
    desk.charged(60)
    desk.earned(100, 0)
    started = r.CycleStarted(1, 0, ((CHANNEL, 20),), ((ROOF, 20),), ())
    assert desk.take(started) == {
        ("offset_clearing", CHANNEL): 20, ("unclaimed", CHANNEL): -20,
        ("offset_clearing", ROOF): -20, ("owed_to_earners", PAYEE): 20,
    }  # fmt: skip
    assert desk.take(started) == {}, "offsets are cumulative"
    with pytest.raises(Unbalanced, match="5 is left"):
        desk.take(r.CycleStarted(2, 0, ((CHANNEL, 25),), (), ()))
    desk = Desk()
    desk.opened()
    desk.earned(100, 0)
    assert desk.take(r.PayoutsPaid(((PAYEE, 30),))) == {("owed_to_earners", PAYEE): 30, ("cash_treasury", VAULT): -30}
    assert desk.take(r.PayoutsPaid(((PAYEE, 30),))) == {}


@pytest.mark.parametrize(
    ("holder", "sender", "source"),
    [(VAULT, STRANGER, "float"), (VAULT, SETTLEMENT_ADDRESS, "donated"), (OTHER_LANE, STRANGER, "donated")],
)
def test_what_arrives(holder: bytes, sender: bytes, source: str) -> None:
    cash = "cash_treasury" if holder == VAULT else "cash_lanes"
    found = Desk().take(r.CashReceived(at(11), holder, sender, 9))
    assert found == {(cash, holder): 9, (source, sender): -9}


def test_own_transactions_and_their_gas() -> None:
    desk = Desk()
    sweep = signed(calls.transfer(VAULT, 25))
    assert desk.take(sweep) == {}
    gas = {("gas", b"sweep"): 7, ("coins", desk.lane): -7}
    assert desk.take(mined(sweep)) == {("cash_lanes", desk.lane): -25, ("cash_treasury", VAULT): 25, **gas}
    assert desk.take(mined(sweep)) == {}, "it is booked once"
    out = signed(calls.transfer(STRANGER, 5), nonce=1)
    assert desk.take(out, mined(out)) == {("cash_lanes", desk.lane): -5, ("operator_out", STRANGER): 5, **gas}
    # Gas is paid for what reverts, and for what is no transfer of our token.
    for number, transaction in enumerate(
        (
            signed(calls.transfer(VAULT, 1), nonce=2),
            signed(calls.transfer(VAULT, 1), nonce=3, to=STRANGER),
            signed(calls.approve(VAULT, 1), nonce=4),
            signed(calls.transfer(VAULT, 1) + b"\0", nonce=5),
            r.TransactionSigned(b"\1" * 32, desk.lane, 6, "sweep 1", b"no transaction"),
        )
    ):
        assert desk.take(transaction, mined(transaction, succeeded=number > 0)) == gas, number


def test_of_a_nonce_one_transaction_is_booked() -> None:
    desk = Desk()
    cheap, dear = (signed(calls.transfer(VAULT, 25), fee=fee) for fee in (1, 2))
    desk.take(cheap, dear)
    assert list(desk.keeper.outstanding_transfers(desk.lane)) == [(VAULT, 25)]
    assert desk.take(mined(dear))["cash_treasury", VAULT] == 25
    assert list(desk.keeper.outstanding_transfers(desk.lane)) == []
    assert desk.take(mined(cheap)) == {}
    # The block with it is gone, and in the one that comes instead is the other one.
    assert desk.take(r.TransactionUnmined(dear.hash)) == {
        ("cash_lanes", desk.lane): 25, ("cash_treasury", VAULT): -25, ("gas", b"sweep"): -7, ("coins", desk.lane): 7,
    }  # fmt: skip
    assert desk.take(r.TransactionUnmined(dear.hash)) == {}
    assert desk.take(mined(cheap))["cash_treasury", VAULT] == 25
    other = signed(calls.transfer(VAULT, 3), nonce=1)
    desk.take(other)
    assert desk.take(r.TransactionLost(other.hash)) == {}
    assert desk.take(r.TransactionLost(other.hash)) == {}
    assert list(desk.keeper.outstanding_transfers(desk.lane)) == []


def test_a_reorganisation_takes_back_what_its_blocks_did() -> None:
    desk = Desk()
    desk.opened()
    desk.charged(60)
    desk.earned(100, 0)
    desk.take(r.CashReceived(at(18), OTHER_LANE, STRANGER, 2), r.ChainSeen(18, b"", 0))
    before = desk.balances()
    sweep = signed(calls.transfer(VAULT, 25))
    desk.take(
        sweep,
        r.ChainChanged(CHANNEL, ContractReceiveClaim(at(19), 50)),
        r.ChainChanged(CHANNEL, ContractReceiveWithdrawFinalized(at(20), 7)),
        r.LaneSettled(at(20) + 1, desk.lane, 50),
        r.CashReceived(at(21), VAULT, STRANGER, 9),
        r.ForeignClaimed(desk.lane, 60),
        r.PayoutsPaid(((PAYEE, 12),)),
        mined(sweep, 20),
        r.ChainSeen(21, b"", 0),
    )
    assert desk.charged(65) == {("unclaimed", CHANNEL): 5, ("sales", CHANNEL): -5}
    desk.take(
        r.ChainReverted(
            18, b"", 0, 21, 0, (r.RevertedChannel(CHANNEL, 500, 0, 0, 0),),
            (r.RevertedLane(desk.lane, 40, 30), r.RevertedLane(OTHER_LANE, 0, 0)), ((PAYEE, 0),),
        )
    )  # fmt: skip
    left = {key: amount - before.get(key, 0) for key, amount in desk.balances().items() if amount != before.get(key, 0)}
    assert left == {("unclaimed", CHANNEL): 5, ("sales", CHANNEL): -5}, "the reading stays, all else is as before"
    # The same events in other blocks count again, also at lower positions than before.
    assert desk.take(r.ChainChanged(CHANNEL, ContractReceiveClaim(at(19), 50)))["unsettled", desk.lane] == 50
    assert desk.take(mined(sweep, 19))["cash_treasury", VAULT] == 25


def test_what_is_too_old_to_be_taken_back_is_forgotten() -> None:
    desk = Desk()
    sweep = signed(calls.transfer(VAULT, 25))
    desk.take(sweep, mined(sweep, 20), r.CashReceived(at(21), VAULT, STRANGER, 9))
    desk.take(r.ChainSeen(21 + KEPT_BLOCKS, b"", 0))
    assert desk.keeper._arrivals == []
    assert desk.take(r.TransactionUnmined(sweep.hash)) == {}
