"""The settler: nets all parties, claims per lane, settles, sweeps to the treasury and pays earners.

A cycle journals what it is about to sign before it signs. Every amount in it is cumulative, so a cycle that a
crash cuts short is taken up by the next one: what was claimed or paid already is a no-op.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import time
from typing import Any, Generic, TypeVar

from channels.state import Channel, Phase
from channels.types import SETTLEMENT_ADDRESS, Address
from gateway.books import Books
from gateway.keys import KeyRing
from gateway.records import CycleEnded, CycleStarted, PayeesMet, PayoutsPaid, PayoutsSigned
from gateway.sending import Outbox
from gateway.watcher import Watcher
from settlement import calls
from settlement.calls import VoucherClaim
from settlement.errors import ChainRefused, ChainUnavailable
from settlement.netting import (
    AccountPosition,
    ChannelPosition,
    ClaimTarget,
    Netting,
    PartyPosition,
    PayoutTarget,
    net,
)
from settlement.planning import ClaimBatch, LaneAmount, claim_batches, cover, payout_batches, plan_sweeps
from settlement.port import Call, ExecutionLayer, Revert, TxReceipt

_NETTED = frozenset({Phase.OPEN, Phase.WITHDRAWING, Phase.CLOSING})


Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class _Work(Generic[Row]):
    """One transaction to send: rows that can be split, and the call that carries some of them."""

    name: str
    rows: Sequence[Row]
    call: Callable[[Sequence[Row]], Call]


class Settler:
    """Runs settlement cycles, one at a time."""

    def __init__(
        self,
        books: Books,
        layer: ExecutionLayer,
        watcher: Watcher,
        outbox: Outbox,
        keys: KeyRing,
        token: Address,
        payouts: Address,
        *,
        rows_max: int,
        every_s: float,
    ) -> None:
        self._books = books
        self._layer = layer
        self._watcher = watcher
        self._outbox = outbox
        self._keys = keys
        self._token = token
        self._payouts = payouts
        self._rows_max = rows_max
        self._every_s = every_s
        self._one = asyncio.Lock()
        self.on_trouble: Callable[[str], None] = lambda text: None

    async def run(self) -> None:
        """Settle every `every_s` seconds."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.settle()
            except (ChainUnavailable, ChainRefused) as error:
                self.on_trouble(f"this settlement stopped, the next one takes it up: {error}")

    async def settle(self) -> CycleEnded | None:
        """Run one cycle to its end. Returns None when there was nothing to settle."""
        async with self._one:
            return await self._cycle()

    # -- one cycle --

    async def _cycle(self) -> CycleEnded | None:
        netting = net(self.positions())
        totals = netting.totals
        if not (totals.claim or totals.offset or totals.payout or await self._leftovers()):
            return None
        number = self._books.ledger.totals.cycles + 1
        before = self._moved()
        await self._books.write([_started(number, netting)])
        batches = claim_batches(netting.claims, self._rows_max)
        receipts = await self._execute(self._claim_work(batch) for batch in batches)
        receipts += await self._collect()
        await self._pass(receipts)
        receipts += await self._pay(number, netting.payouts)
        await self._pass(receipts)
        settled, claimed, paid = self._moved()
        ended = CycleEnded(
            number=number,
            at=int(time()),
            offset=totals.offset,
            claimed=claimed - before[1],
            settled=settled - before[0],
            paid=paid - before[2],
            rows=len(netting.claims),
            gas_used=sum(receipt.gas_used for receipt in receipts),
        )
        await self._books.write([ended])
        return ended

    def _moved(self) -> tuple[int, int, int]:
        """Return what was settled, claimed and paid over all time."""
        ledger = self._books.ledger
        claimed = sum(channel.claimed for channel in ledger.channels.values())
        return ledger.totals.settled, claimed, sum(party.paid for party in ledger.parties.values())

    def positions(self) -> list[PartyPosition]:
        """Return every party as netting sees it."""
        ledger = self._books.ledger
        return [
            PartyPosition(
                address=address,
                channels=tuple(
                    _channel_position(ledger.channels[identifier])
                    for identifier in ledger.by_payer.get(address, ())
                    if ledger.channels[identifier].phase in _NETTED
                ),
                accounts=tuple(
                    AccountPosition(identifier, ledger.accounts[identifier].net, ledger.accounts[identifier].offset)
                    for identifier in ledger.by_payee.get(address, ())
                ),
                signed=ledger.party(address).signed,
            )
            for address in sorted(ledger.by_payer.keys() | ledger.by_payee.keys())
        ]

    async def _leftovers(self) -> bool:
        """Tell whether a cycle cut short left something to settle, to pay or to end."""
        if self._books.ledger.cycles:
            return True
        lanes = [key.address for key in self._keys.lanes]
        views = await self._layer.receivers([(lane, self._token) for lane in lanes])
        return any(view.unsettled for view in views) or any(
            party.signed > party.paid for party in self._books.ledger.parties.values()
        )

    def _claim_work(self, batch: ClaimBatch) -> "_Work[ClaimTarget]":
        lane = self._keys.lanes[batch.lane].address

        def call(rows: Sequence[ClaimTarget]) -> Call:
            channels = [self._books.ledger.channels[row.id] for row in rows]
            claims = [
                VoucherClaim(channel.config, channel.ceiling, channel.ceiling_signature, row.total_claimed)
                for channel, row in zip(channels, rows, strict=True)
            ]
            return Call(lane, SETTLEMENT_ADDRESS, calls.claim(claims))

        return _Work("claim", batch.rows, call)

    async def _collect(self) -> list[TxReceipt]:
        """Settle every lane that has something unsettled, then sweep lanes into the treasury."""
        lanes = [key.address for key in self._keys.lanes]
        views = await self._layer.receivers([(lane, self._token) for lane in lanes])
        unsettled = [lane for lane, view in zip(lanes, views, strict=True) if view.unsettled]
        receipts = await self._execute(_Work("settle", (lane,), self._settle_call) for lane in unsettled)
        balances = await self._layer.token_balances(self._token, lanes)
        sweeps = plan_sweeps(enumerate(balances))
        return receipts + await self._execute(_Work("sweep", (sweep,), self._sweep_call) for sweep in sweeps)

    def _settle_call(self, lane: Sequence[Address]) -> Call:
        return Call(lane[0], SETTLEMENT_ADDRESS, calls.settle(lane[0], self._token))

    def _sweep_call(self, sweep: Sequence[LaneAmount]) -> Call:
        data = calls.transfer(self._keys.treasury.address, sweep[0].amount)
        return Call(self._keys.lanes[sweep[0].lane].address, self._token, data)

    async def _pay(self, number: int, payouts: tuple[PayoutTarget, ...]) -> list[TxReceipt]:
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
            return []
        await self._meet([payee for payee in cumulative if payee not in ledger.parties])
        await self._books.write([PayoutsSigned(number, tuple(sorted(cumulative.items())))])
        targets = [PayoutTarget(payee, upto, upto - ledger.party(payee).paid) for payee, upto in cumulative.items()]
        batches = payout_batches(targets, self._rows_max)
        receipts = await self._execute(_Work("pay", batch.rows, self._pay_call) for batch in batches)
        payees = sorted(cumulative)
        found = await self._layer.paid(self._payouts, treasury, self._token, payees)
        rows = [(payee, total - ledger.party(payee).base) for payee, total in zip(payees, found, strict=True)]
        await self._books.write([PayoutsPaid(tuple(rows))])
        return receipts

    async def _meet(self, payees: list[Address]) -> None:
        """Journal what the treasury had paid new payees before this journal: contract totals begin there."""
        if payees:
            found = await self._layer.paid(self._payouts, self._keys.treasury.address, self._token, payees)
            await self._books.write([PayeesMet(tuple(zip(payees, found, strict=True)))])

    def _pay_call(self, rows: Sequence[PayoutTarget]) -> Call:
        totals = [(row.payee, self._books.ledger.party(row.payee).base + row.cumulative) for row in rows]
        return Call(self._keys.treasury.address, self._payouts, calls.pay(self._token, totals))

    async def _execute(self, works: "Iterable[_Work[Any]]") -> list[TxReceipt]:
        """Send transactions side by side and wait for all; a fault of one is raised when all have ended."""
        outcomes = await asyncio.gather(*(self._run_work(work) for work in works), return_exceptions=True)
        receipts: list[TxReceipt] = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            receipts += outcome
        return receipts

    async def _run_work(self, work: "_Work[Any]") -> list[TxReceipt]:
        """Send one batch; one that reverts is halved, so that a bad row starves no other."""
        purpose = f"{work.name} {len(work.rows)}"
        try:
            outcome = await self._outbox.execute(work.call(work.rows), purpose)
        except ChainRefused as error:
            self.on_trouble(f"{purpose} was not taken: {error}")
            return []
        receipts = [] if isinstance(outcome, Revert) else [outcome]
        if receipts and receipts[0].succeeded:
            return receipts
        if len(work.rows) > 1:
            middle = len(work.rows) // 2
            for rows in (work.rows[:middle], work.rows[middle:]):
                receipts += await self._run_work(_Work(work.name, rows, work.call))
            return receipts
        reason = outcome.reason if isinstance(outcome, Revert) else f"transaction 0x{outcome.tx_hash.hex()} reverted"
        self.on_trouble(f"{purpose} left out: {reason}: {work.rows[0]}")
        return receipts

    async def _pass(self, receipts: list[TxReceipt]) -> None:
        """Wait until the watcher has journaled everything up to the last of these transactions."""
        if receipts:
            await self._watcher.passed(max(receipt.block_number for receipt in receipts))


def _channel_position(channel: Channel) -> ChannelPosition:
    return ChannelPosition(
        id=channel.id,
        lane=channel.lane,
        owed=channel.owed,
        committed=channel.committed,
        claimed=channel.claimed,
        limit=min(channel.ceiling, channel.balance),
        offset=channel.offset,
        proven=channel.proven,
    )


def _started(number: int, netting: Netting) -> CycleStarted:
    return CycleStarted(
        number=number,
        at=int(time()),
        channel_offsets=tuple(row for party in netting.parties for row in party.channel_offsets),
        account_offsets=tuple(row for party in netting.parties for row in party.account_offsets),
        claims=tuple((claim.id, claim.total_claimed) for claim in netting.claims),
    )
