"""One settlement cycle, step by step: claim, close, settle, sweep, pay.

Each step journals what it is about to sign before it signs, and every amount is cumulative: a cycle that a crash
cuts short is taken up by the next one, to which what was claimed or paid already is a no-op.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import time

from channels.digests import voucher_digest
from channels.types import SETTLEMENT_ADDRESS, Address, Digest, Network, Signature
from gateway.batches import Done, Work, send
from gateway.books import Books
from gateway.closings import Closings
from gateway.keys import KeyRing
from gateway.records import (
    ClaimsSigned,
    CycleEnded,
    CycleStarted,
    PayeesMet,
    PayoutsPaid,
    PayoutsSigned,
    Record,
    RowsSetAside,
)
from gateway.sending import Outbox
from gateway.watcher import Watcher
from settlement import calls
from settlement.calls import VoucherClaim
from settlement.netting import ClaimTarget, Netting, PayoutTarget
from settlement.planning import LaneAmount, claim_batches, cover, payout_batches, plan_sweeps
from settlement.port import Call, ExecutionLayer

# Vouch(verified): tell an embedded layer (digest, signature, signer) of what this process has verified itself.
Vouch = Callable[[list[tuple[Digest, Signature, Address]]], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one cycle is to do: all offsets of `netting`, these claims and payouts.

    Lanes that have less than `collect_min` base units are left as they are.
    """

    netting: Netting
    claims: tuple[ClaimTarget, ...]
    payouts: tuple[PayoutTarget, ...]
    collect_min: int


class Cycle:
    """Carries plans out, one at a time."""

    def __init__(
        self,
        books: Books,
        layer: ExecutionLayer,
        watcher: Watcher,
        outbox: Outbox,
        keys: KeyRing,
        closings: Closings,
        network: Network,
        token: Address,
        payouts: Address,
        *,
        rows_max: int,
        vouch: Vouch,
    ) -> None:
        self._books = books
        self._layer = layer
        self._watcher = watcher
        self._outbox = outbox
        self._keys = keys
        self._closings = closings
        self._network = network
        self._token = token
        self._payouts = payouts
        self._rows_max = rows_max
        self._vouch = vouch
        # Held while it nets, and by whoever signs claims beside it: what is claimed is never offset.
        self.netting = asyncio.Lock()
        self.on_trouble: Callable[[str], None] = lambda text: None

    async def begin(self, plan: Plan) -> int:
        """Journal a plan, with all its offsets; returns the cycle's number. `netting` is held since it was made."""
        number = self._books.ledger.totals.cycles + 1
        await self._books.write([_started(number, plan, self._watcher.chain_time)])
        return number

    async def run(self, number: int, plan: Plan) -> CycleEnded:
        """Carry out a plan and return what it moved. A fault of one transaction is raised when all have ended."""
        before = self._moved()
        done = await send(self._outbox, self._claim_works(plan.claims))
        done.add(await self._close())
        await self._pass(done)
        done.add(await self._collect(plan.collect_min))
        await self._pass(done)
        done.add(await self._pay(number, plan.payouts))
        await self._pass(done)
        settled, claimed, paid = (after - then for after, then in zip(self._moved(), before, strict=True))
        ended = CycleEnded(
            number=number,
            at=int(time()),
            offset=plan.netting.totals.offset,
            claimed=claimed,
            settled=settled,
            paid=paid,
            rows=len(plan.claims),
            gas_used=sum(receipt.gas_used for receipt in done.receipts),
        )
        await self._books.write([*self._set_aside(number, done), ended])
        for words in done.refused:
            self.on_trouble(words)
        return ended

    def _moved(self) -> tuple[int, int, int]:
        """Return what was settled, claimed and paid over all time."""
        ledger = self._books.ledger
        claimed = sum(channel.claimed for channel in ledger.channels.values())
        return ledger.totals.settled, claimed, sum(party.paid for party in ledger.parties.values())

    def _set_aside(self, number: int, done: Done) -> Iterable[Record]:
        """Return the record of rows that failed alone, and of those before them that went through now."""
        known = self._books.ledger.aside
        cleared = tuple(sorted((name, key) for name, key in done.good if key in known and known[key].name == name))
        rows = tuple((name, key, reason) for (name, key), reason in sorted(done.aside.items()))
        for name, key, reason in rows:
            self.on_trouble(f"a {name} of 0x{key.hex()} is set aside: {reason}")
        return [RowsSetAside(number, rows, cleared)] if rows or cleared else []

    # -- claims --

    def _claim_works(self, rows: Sequence[ClaimTarget]) -> Iterable[Work[ClaimTarget]]:
        """Return the claims in full batches per lane; rows that failed before go alone, so they delay no other."""
        aside = self._books.ledger.aside
        suspects = [row for row in rows if row.id in aside]
        batches = claim_batches([row for row in rows if row.id not in aside], self._rows_max)
        for batch in (*batches, *claim_batches(suspects, 1)):
            yield Work("claim", batch.rows, self.claim_call, lambda row: row.id)

    def claim_call(self, rows: Sequence[ClaimTarget]) -> Call:
        """Return the transaction that claims these rows of one lane, each with the voucher held."""
        channels = [self._books.ledger.channels[row.id] for row in rows]
        # Only accepted readings bring a ceiling, and each was verified before it was accepted.
        self._vouch(
            [
                (
                    voucher_digest(channel.id, channel.ceiling, self._network),
                    channel.ceiling_signature,
                    channel.config.payer_authorizer,
                )
                for channel in channels
            ]
        )
        claims = [
            VoucherClaim(channel.config, channel.ceiling, channel.ceiling_signature, row.total_claimed)
            for channel, row in zip(channels, rows, strict=True)
        ]
        signed = ClaimsSigned(tuple((row.id, row.total_claimed) for row in rows))
        lane = self._keys.lanes[rows[0].lane].address
        return Call(lane, SETTLEMENT_ADDRESS, calls.claim(claims), attached=(signed,))

    async def _close(self) -> Done:
        """Claim and refund what closes, in one transaction of its lane."""
        works = await self._closings.works()
        done = await send(self._outbox, works)
        await self._pass(done)
        await self._closings.finish()
        return done

    # -- cash --

    async def _collect(self, least: int) -> Done:
        """Settle every lane with at least that much unsettled, then sweep lanes into the treasury."""
        lanes = [key.address for key in self._keys.lanes]
        views = await self._layer.receivers([(lane, self._token) for lane in lanes])
        unsettled = [lane for lane, view in zip(lanes, views, strict=True) if view.unsettled >= least]
        done = await send(
            self._outbox, (Work("settle", (lane,), self._settle_call, lambda row: row) for lane in unsettled)
        )
        balances = await self._layer.token_balances(self._token, lanes)
        sweeps = plan_sweeps((lane, balance) for lane, balance in enumerate(balances) if balance >= least)
        done.add(
            await send(
                self._outbox,
                (Work("sweep", (sweep,), self._sweep_call, lambda row: lanes[row.lane]) for sweep in sweeps),
            )
        )
        return done

    def _settle_call(self, lane: Sequence[Address]) -> Call:
        return Call(lane[0], SETTLEMENT_ADDRESS, calls.settle(lane[0], self._token))

    def _sweep_call(self, sweep: Sequence[LaneAmount]) -> Call:
        data = calls.transfer(self._keys.treasury.address, sweep[0].amount)
        return Call(self._keys.lanes[sweep[0].lane].address, self._token, data)

    # -- payouts --

    async def _pay(self, number: int, payouts: tuple[PayoutTarget, ...]) -> Done:
        """Pay what the treasury's cash covers."""
        treasury = self._keys.treasury.address
        (cash,) = await self._layer.token_balances(self._token, [treasury])
        # What was signed and is not paid yet (a cycle cut short) is owed first, out of the same cash.
        ledger = self._books.ledger
        overdue = {payee for payee, party in ledger.parties.items() if party.signed > party.paid}
        owed_first = sum(ledger.party(payee).signed - ledger.party(payee).paid for payee in overdue)
        covered, deferred = cover(payouts, cash - owed_first)
        if deferred:
            waiting = sum(payout.amount for payout in deferred)
            self.on_trouble(f"the treasury lacks {waiting} base units for {len(deferred)} payouts; they wait")
        cumulative = {payee: ledger.party(payee).signed for payee in overdue}
        cumulative |= {payout.payee: payout.cumulative for payout in covered}
        if not cumulative:
            return Done()
        await self._meet([payee for payee in cumulative if payee not in ledger.parties])
        await self._books.write([PayoutsSigned(number, tuple(sorted(cumulative.items())))])
        done = await send(self._outbox, self._pay_works(cumulative))
        await self._pass(done)
        payees = sorted(cumulative)
        _, found = await self._watcher.at_final(
            lambda block: self._layer.paid(self._payouts, treasury, self._token, payees, block)
        )
        rows = [(payee, total - ledger.party(payee).base) for payee, total in zip(payees, found, strict=True)]
        await self._books.write([*self._watcher.seen(), PayoutsPaid(tuple(rows))])
        return done

    def _pay_works(self, cumulative: dict[Address, int]) -> Iterable[Work[PayoutTarget]]:
        ledger = self._books.ledger
        targets = [PayoutTarget(payee, upto, upto - ledger.party(payee).paid) for payee, upto in cumulative.items()]
        suspects = [target for target in targets if target.payee in ledger.aside]
        batches = payout_batches([target for target in targets if target.payee not in ledger.aside], self._rows_max)
        for batch in (*batches, *payout_batches(suspects, 1)):
            yield Work("pay", batch.rows, self._pay_call, lambda row: row.payee)

    async def _meet(self, payees: list[Address]) -> None:
        """Journal what the treasury had paid new payees before this journal: contract totals begin there."""
        if payees:
            found = await self._layer.paid(self._payouts, self._keys.treasury.address, self._token, payees)
            await self._books.write([PayeesMet(tuple(zip(payees, found, strict=True)))])

    def _pay_call(self, rows: Sequence[PayoutTarget]) -> Call:
        totals = [(row.payee, self._books.ledger.party(row.payee).base + row.cumulative) for row in rows]
        return Call(self._keys.treasury.address, self._payouts, calls.pay(self._token, totals))

    async def _pass(self, done: Done) -> None:
        """Wait until the watcher has journaled everything up to the last of these transactions."""
        last = done.last_block
        if last is not None:
            await self._watcher.passed(last)


def _started(number: int, plan: Plan, chain_time: int) -> CycleStarted:
    parties = plan.netting.parties
    return CycleStarted(
        number=number,
        at=int(time()),
        channel_offsets=tuple(row for party in parties for row in party.channel_offsets),
        account_offsets=tuple(row for party in parties for row in party.account_offsets),
        claims=tuple((claim.id, claim.total_claimed) for claim in plan.claims),
        chain_time=chain_time,
    )
