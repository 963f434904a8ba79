"""A gateway's records without a gateway: seeded sequences that a journal could hold, applied to real books."""

import contextlib
import random
import sqlite3
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

from channels.digests import channel_id
from channels.state import (
    Account,
    ActionOpen,
    Channel,
    ContractReceiveClaim,
    ContractReceiveDeposit,
    ContractReceiveRefund,
    ContractReceiveWithdrawFinalized,
    ContractReceiveWithdrawInitiated,
    Meter,
    Phase,
    ReceiveReading,
)
from channels.types import ChannelConfig, Network
from devices.offers import OfferTerms, Service, sign_offer
from gateway import records as r
from gateway.books import Books
from gateway.chain_effects import block_of, touched
from gateway.journal import unsealed_state
from gateway.keys import key_ring
from gateway.positions import Holdings, party_positions
from gateway.terms import TermsBook
from settlement.netting import net

EPOCH = 1_760_000_000
TOKEN = bytes.fromhex("aa" * 20)
NETWORK = Network(31402)
KEYS = key_ring(b"\7" * 32, 2)
PAYERS = tuple(sha256(b"party %d" % number).digest()[:20] for number in range(4))
SIGNATURE = b"\x51" * 65


class Script:
    """Writes random valid records, one commit at a time."""

    def __init__(self, books: Books, terms: TermsBook, seed: int) -> None:
        self.rng = random.Random(seed)
        self.books = books
        self.terms = terms
        self.block = 10
        self.serial = 0
        self.salt = 0
        self.cycle = 0
        self.nonce = 0

    def found(self, block: int = 1, block_hash: bytes = b"\x01" * 32) -> Any:
        """Write the first record."""
        lanes = tuple(key.address for key in KEYS.lanes)
        founded = r.Founded(
            "gw1", 31402, TOKEN, b"\xbb" * 20, KEYS.treasury.address, lanes, block, 10**9,
            ((10**6, 10**6 - 5), (0, 0)), block_hash, EPOCH,
        )  # fmt: skip
        self.terms.clock = lambda: EPOCH + self.block
        return self.books.write([founded, self._offer()])

    def resume(self) -> None:
        """Go on where the journal ends."""
        ledger = self.books.ledger
        self.block = max(10, ledger.totals.block, *(channel.position >> 32 for channel in ledger.channels.values()), 0)
        self.serial = self.terms.current.serial
        self.salt = self.books.journal.number * 1_000
        self.nonce = self.books.journal.number * 1_000
        self.cycle = ledger.totals.cycles
        self.terms.clock = lambda: EPOCH + self.block

    def step(self) -> Any:
        """Write one commit of one or several records; returns the future of its durability."""
        self.block += 1
        ledger = self.books.ledger
        if len(ledger.channels) < 4 or self.rng.random() < 0.03:
            return self.books.write(self._opened())
        if len(ledger.accounts) < 3:
            return self.books.write([self._account()])
        kind = self.rng.random()
        if kind < 0.55:
            return self._readings()
        if kind < 0.75:
            return self.books.write(self._chain())
        if kind < 0.82:
            return self._settlement()
        if kind < 0.86:
            return self.books.write(self._closing())
        if kind < 0.92:
            return self.books.write(self._unsettled_chain())
        return self.books.write(self._odd())

    def _offer(self) -> r.OfferIssued:
        self.serial += 1
        terms = OfferTerms(
            serial=self.serial,
            gateway="gw1",
            chain_id=31402,
            asset=TOKEN,
            asset_name="USD Coin",
            asset_version="2",
            lanes=tuple(key.address for key in KEYS.lanes),
            receiver_authorizer=KEYS.authorizer.address,
            withdraw_delay=900,
            min_deposit=1,
            max_ahead=1_000,
            grace=10**6,
            services={
                "pay": Service("Wh", 333_333_333 + self.serial, 10**6),
                "earn": Service("Wh", 123_456_789 + self.serial, 10**6, "earn"),
            },
            valid_from=EPOCH,
            valid_until=EPOCH + 10**8,
        )
        issued = r.OfferIssued(sign_offer(terms, KEYS.authorizer.private).payload, EPOCH + self.block)
        self.terms.observe(issued)
        return issued

    def _opened(self) -> list[r.Record]:
        self.salt += 1
        payer = self.rng.choice(PAYERS)
        lane = int.from_bytes(payer, "big") % 2
        lanes = [key.address for key in KEYS.lanes]
        config = ChannelConfig(
            payer, payer, lanes[lane], KEYS.authorizer.address, TOKEN, 900, self.salt.to_bytes(32, "big")
        )
        identifier = channel_id(config, NETWORK)
        device = f"meter-{self.salt}"
        offer = self.terms.current
        balance = self.rng.choice((0, 10**6))
        # A channel with a past on chain, as far as the lane's own past reaches.
        past = self.books.ledger.foreign.get(lanes[lane], 0)
        claimed = min(self.rng.randrange(1_000), past) if balance else 0
        action = ActionOpen(
            identifier, config, device, "pay", lane, 7, offer.id, offer.serial, balance, claimed, 0,
            (self.block + 1 << 32) - 1, balance > 0,
        )  # fmt: skip
        self.block += 1
        records: list[r.Record] = [
            r.OpenReceived(device, self.rng.randbytes(40), EPOCH + self.block),
            r.ChannelTaken(action),
        ]
        if balance == 0:
            records.append(r.ChainChanged(identifier, ContractReceiveDeposit(self._position(), 10**6)))
        if self.rng.random() < 0.8:
            records.append(r.OpenEnded(device, 0))
        return records

    def _account(self) -> r.AccountOpened:
        self.salt += 1
        offer = self.terms.current
        meter = Meter(0, 5, 0, offer.id, offer.serial)
        payee = PAYERS[self.salt % len(PAYERS)]
        identifier = sha256(b"account %d" % self.salt).digest()
        return r.AccountOpened(Account(identifier, f"solar-{self.salt}", "earn", payee, b"\xcc" * 20, meter))

    def _readings(self) -> Any:
        """What the pipeline does with a batch."""
        number = self.books.next_number
        records: list[r.Record] = []
        for _ in range(self.rng.randrange(1, 8)):
            if self.rng.random() < 0.3:
                records.append(self._earned(number))
            elif (charged := self._charged(number)) is not None:
                records.append(charged)
        return self.books.journal_applied(records)

    def _reading(self, meter: Meter, device: str, service: str, ceiling: int) -> ReceiveReading:
        offer = self.terms.current
        return ReceiveReading(
            seq=meter.seq + self.rng.choice((1, 1, 1, 5)),
            register=meter.register + self.rng.randrange(50),
            time=self.rng.randrange(2**50),
            offer=offer.id,
            ceiling=ceiling,
            signature=self.rng.randbytes(65),
            device=device,
            signed=True,
            terms=self.terms.terms(offer.id, service),
        )

    def _charged(self, number: int) -> r.Charged | None:
        ledger = self.books.ledger
        open_ones = [c for c in ledger.channels.values() if c.phase in (Phase.OPEN, Phase.WITHDRAWING)]
        channel: Channel = self.rng.choice(open_ones)
        reading = self._reading(channel.meter, channel.device, "pay", channel.owed + 30 + self.rng.randrange(500))
        outcome = ledger.charge(channel.id, reading, number)
        if not isinstance(outcome, tuple):
            return None  # nothing left in the channel
        after = ledger.channels[channel.id]
        return r.Charged(
            channel.id, reading.seq, reading.register, reading.time, reading.offer, reading.ceiling, reading.signature,
            b"", after.charged, after.meter.remainder, after.usable_balance, after.offset, after.ceiling,
            b"" if after.ceiling_signature == reading.signature else after.ceiling_signature,
        )  # fmt: skip

    def _earned(self, number: int) -> r.Earned:
        ledger = self.books.ledger
        account = self.rng.choice(list(ledger.accounts.values()))
        reading = self._reading(account.meter, account.device, "earn", 0)
        basis_points = self.rng.choice((0, 33, 100))
        outcome = ledger.earn(account.id, reading, basis_points, number)
        assert isinstance(outcome, tuple)
        after = ledger.accounts[account.id]
        return r.Earned(
            account.id, reading.seq, reading.register, reading.time, reading.offer, SIGNATURE, basis_points,
            after.earned, after.meter.remainder, after.offset,
        )  # fmt: skip

    def _position(self) -> int:
        self.block += 1
        return self.block << 32

    def _chain(self) -> list[r.Record]:
        records: list[r.Record] = []
        channel = self.rng.choice([c for c in self.books.ledger.channels.values() if c.phase is not Phase.OPENING])
        unclaimed = channel.balance - channel.claimed
        options: list[Any] = [lambda: ContractReceiveDeposit(self._position(), channel.balance + 10**5)]
        if channel.balance >= channel.committed > channel.claimed:
            options += [lambda: ContractReceiveClaim(self._position(), channel.committed)] * 4
        if unclaimed and not channel.withdrawing:
            options.append(
                lambda: ContractReceiveWithdrawInitiated(self._position(), self.rng.randrange(1, unclaimed + 1))
            )
        if channel.withdrawing:
            amount = min(channel.withdrawing, unclaimed)
            options.append(lambda: ContractReceiveWithdrawFinalized(self._position(), amount))
        if unclaimed > channel.owed - channel.claimed > 0:
            options.append(lambda: ContractReceiveRefund(self._position(), 1))
        records.append(r.ChainChanged(channel.id, self.rng.choice(options)()))
        records.append(r.ChainSeen(self.block, self.rng.randbytes(32), EPOCH + self.block))
        return records

    def _settlement(self) -> Any:
        ledger = self.books.ledger
        if ledger.cycles and self.rng.random() < 0.7:
            return self.books.write(self._cycle_goes_on())
        return self.start_cycle()

    def start_cycle(self) -> Any:
        """Net everybody, and sign what comes out of it."""
        ledger = self.books.ledger
        netted = {key: each for key, each in ledger.channels.items() if each.phase in (Phase.OPEN, Phase.WITHDRAWING)}
        netting = net(party_positions(Holdings(netted, ledger.accounts, ledger.parties)))
        self.cycle += 1
        started = r.CycleStarted(
            self.cycle,
            EPOCH + self.block,
            tuple(row for party in netting.parties for row in party.channel_offsets),
            tuple(row for party in netting.parties for row in party.account_offsets),
            tuple((claim.id, claim.total_claimed) for claim in netting.claims),
        )
        written = self.books.write([started])
        for claim in netting.claims:  # signed for in commits of their own, or never
            if self.rng.random() < 0.8:
                written = self.books.write([r.ClaimsSigned(((claim.id, claim.total_claimed),))])
        rows = tuple((payout.payee, payout.cumulative) for payout in netting.payouts)
        if strangers := [payee for payee, _ in rows if payee not in ledger.parties]:
            written = self.books.write([r.PayeesMet(tuple((payee, self.rng.randrange(99)) for payee in strangers))])
        return self.books.write([r.PayoutsSigned(self.cycle, rows)]) if rows and self.rng.random() < 0.8 else written

    def _cycle_goes_on(self) -> list[r.Record]:
        self.nonce += 1
        digest = sha256(b"tx %d" % self.nonce).digest()
        rows = tuple(
            (payee, self.rng.randrange(party.paid, party.signed + 1))
            for payee, party in self.books.ledger.parties.items()
        )
        lane = KEYS.lanes[0].address
        signed = r.TransactionSigned(digest, lane, self.nonce, "claim 3", self.rng.randbytes(90))
        records: list[r.Record] = [signed, r.PayoutsPaid(rows)]
        if self.rng.random() < 0.3:  # replaced by one with a higher fee
            records.append(r.TransactionSigned(self.rng.randbytes(32), lane, self.nonce, "claim 3", b"again"))
        if self.rng.random() < 0.8:
            records.append(r.TransactionMined(digest, True, self.block, 50_000, 350_000, self.rng.randbytes(32)))
        if self.rng.random() < 0.5:
            number = max(started.number for started in self.books.ledger.cycles.values())
            records.append(r.CycleEnded(number, EPOCH + self.block, 1, 2, 3, 4, 5, 6))
        return records

    def _closing(self) -> list[r.Record]:
        """The next step of a channel that closes, a closed one that is opened again, or the beginning of a closing."""
        ledger = self.books.ledger
        for identifier, closing in ledger.closings.items():
            channel = ledger.channels[identifier]
            target, free = min(channel.owed, channel.balance), channel.balance - max(channel.owed, channel.committed)
            if target > channel.committed:
                return [r.ClaimsSigned(((identifier, target),))]
            if free > 0 and closing.refunds == 0:
                return [r.RefundSigned(identifier, self.rng.randrange(3), self.rng.randrange(1, free + 1))]
            return [r.ChannelClosed(identifier, self.block)]
        for identifier in ledger.closed:
            channel = ledger.channels[identifier]
            offer = self.terms.current
            action = ActionOpen(
                identifier, channel.config, channel.device, "pay", channel.lane, 7, offer.id, offer.serial,
                channel.balance, channel.claimed, channel.withdrawing, channel.position, True,
            )  # fmt: skip
            return [r.ChannelTaken(action)]
        channel = self.rng.choice([c for c in ledger.channels.values() if c.phase in (Phase.OPEN, Phase.WITHDRAWING)])
        if self.rng.random() < 0.3:
            return [r.ChannelClosing(channel.id, 0, b"", b"", False)]
        answers = self.rng.randbytes(8)
        return [r.ChannelClosing(channel.id, channel.meter.seq + 1, SIGNATURE, answers, self.rng.random() < 0.5)]

    def _unsettled_chain(self) -> list[r.Record]:
        """Blocks that are replaced, transactions that are not where they were, and withdrawals that are not final."""
        ledger = self.books.ledger
        channel = self.rng.choice(list(ledger.channels.values()))
        options: list[Any] = [
            lambda: [r.WithdrawalForeseen(channel.id, self.rng.randrange(1, 10**6), EPOCH + self.block + 900)],
            lambda: [r.WithdrawalForeseen(channel.id, 0, 0)],
        ]
        if ledger.marks:
            options += [lambda: [self._reverted(block_of(self.rng.choice(sorted(ledger.marks)[-6:])))]] * 2
        if ledger.mined:
            options += [lambda: [r.TransactionUnmined(self.rng.choice(sorted(ledger.mined)))]] * 2
        if ledger.transactions:
            options.append(lambda: [r.TransactionLost(self.rng.choice(sorted(ledger.transactions)))])
        records: list[r.Record] = self.rng.choice(options)()
        return records

    def _reverted(self, block: int) -> r.ChainReverted:
        """What the chain would say of that block if the ledger was right, with nothing in channels taken up since."""
        ledger = self.books.ledger
        channels = []
        for identifier, before in sorted(touched(ledger, block).items()):
            row = (
                (before.balance, before.claimed, before.withdrawing, before.withdraw_after) if before else (0, 0, 0, 0)
            )
            channels.append(r.RevertedChannel(identifier, *row))
        claimed = {row.id: row.claimed for row in channels}
        lanes = {key.address: ledger.foreign.get(key.address, 0) for key in KEYS.lanes}
        for channel in ledger.channels.values():
            lanes[channel.config.receiver] += claimed.get(channel.id, channel.claimed)
        settled = ledger.totals.settled
        if later := sorted(ledger.sums_before.after(block)):
            settled = ledger.sums_before[later[0]].settled
        payees = [payee for payee, party in ledger.parties.items() if party.paid]
        return r.ChainReverted(
            number=block,
            hash=self.rng.randbytes(32),
            timestamp=EPOCH + block,
            was=self.block,
            at=EPOCH + self.block,
            channels=tuple(channels),
            lanes=tuple(
                r.RevertedLane(lane, total, settled if lane == KEYS.lanes[0].address else 0)
                for lane, total in lanes.items()
            ),
            paid=tuple((payee, self.rng.randrange(ledger.party(payee).paid + 1)) for payee in payees),
        )

    def _odd(self) -> list[r.Record]:
        ledger = self.books.ledger
        lane = KEYS.lanes[0].address
        options: list[Any] = [
            lambda: [r.ForeignClaimed(lane, ledger.foreign.get(lane, 0) + self.rng.randrange(10**6))],
            lambda: [r.CashReceived(self._position(), lane, PAYERS[0], self.rng.randrange(10**6))],
            lambda: [r.LaneSettled(self._position(), lane, self.rng.randrange(10**3))],
            lambda: [r.DeviceAdded(f"meter-{self.rng.randrange(9)}", PAYERS[: self.rng.randrange(3)], "Süd 2")],
            lambda: [self._offer()],
            lambda: [r.OpenEnded(key.decode(), 21) for key in list(ledger.opens)[:1]],
            lambda: [r.RowsSetAside(self.cycle, (("pay", PAYERS[0], "no reason given"),), (("pay", PAYERS[1]),))],
        ]
        records: list[r.Record] = self.rng.choice(options)()
        return records


def back_to_schema(path: Path, schema: int) -> None:
    """Make of a journal what a Metergate with an older schema (1 or 2) had on the disk."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        rows = db.execute("SELECT kind, key, storing, body FROM states ORDER BY storing").fetchall()
        valid = {row[:2]: unsealed_state(*row) for row in rows}
        db.executescript("""
            CREATE TABLE plain (kind TEXT NOT NULL, key BLOB NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, key))
                STRICT, WITHOUT ROWID;
        """)
        db.executemany(
            "INSERT INTO plain VALUES (?, ?, ?)",
            [(kind, key, crc32(body).to_bytes(4, "big") + body) for (kind, key), body in valid.items() if body],
        )
        db.executescript("""
            BEGIN;
            DROP TABLE states;
            ALTER TABLE plain RENAME TO states;
            DELETE FROM marks WHERE name = 'storing';
            PRAGMA user_version = 2;
            COMMIT;
        """)
        if schema == 1:
            db.executescript("""
                BEGIN;
                DROP TABLE statements;
                DROP TABLE statement_links;
                DELETE FROM marks WHERE name = 'statements_at';
                PRAGMA user_version = 1;
                COMMIT;
            """)
