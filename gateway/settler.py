"""The settler: nets all parties, claims per lane, settles, sweeps to the treasury and pays earners.

A cycle journals what it is about to sign before it signs. Every amount in it is cumulative, so a cycle that a
crash cuts short is taken up by the next one: what was claimed or paid already is a no-op.
"""

import asyncio
from collections.abc import Callable
from time import time

from channels.state import Channel, Phase
from channels.types import SETTLEMENT_ADDRESS, Address
from gateway.books import Books
from gateway.keys import KeyRing
from gateway.records import CycleEnded, CycleStarted, PayoutsPaid, PayoutsSigned
from gateway.sending import Outbox
from gateway.watcher import Watcher
from settlement import calls
from settlement.calls import VoucherClaim
from settlement.errors import ChainRefused, ChainUnavailable
from settlement.netting import AccountPosition, ChannelPosition, Netting, PartyPosition, PayoutTarget, net
from settlement.planning import ClaimBatch, claim_batches, cover, payout_batches, plan_sweeps
from settlement.port import Call, ExecutionLayer, Revert, TxReceipt

_NETTED = frozenset({Phase.OPEN, Phase.WITHDRAWING, Phase.CLOSING})


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
        before = self._books.ledger.totals
        await self._books.write([_started(number, netting)])
        batches = claim_batches(netting.claims, self._rows_max)
        receipts = await self._claim(batches)
        receipts += await self._collect()
        await self._pass(receipts)
        paid, payout_receipts = await self._pay(number, netting.payouts)
        receipts += payout_receipts
        await self._pass(payout_receipts)
        after = self._books.ledger.totals
        ended = CycleEnded(
            number=number,
            at=int(time()),
            offset=totals.offset,
            claimed=totals.claim,
            settled=after.settled - before.settled,
            paid=paid,
            rows=len(netting.claims),
            gas_used=sum(receipt.gas_used for receipt in receipts),
        )
        await self._books.write([ended])
        return ended

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
        """Tell whether a cycle cut short left something to settle, sweep or pay."""
        lanes = [key.address for key in self._keys.lanes]
        views = await self._layer.receivers([(lane, self._token) for lane in lanes])
        return any(view.unsettled for view in views) or any(
            party.signed > party.paid for party in self._books.ledger.parties.values()
        )

    async def _claim(self, batches: tuple[ClaimBatch, ...]) -> list[TxReceipt]:
        """Send every batch; lanes run side by side, a lane's batches are in flight together."""
        return await self._execute([(self._claim_call(batch), f"claim {len(batch.rows)}") for batch in batches])

    def _claim_call(self, batch: ClaimBatch) -> Call:
        rows = []
        for row in batch.rows:
            channel = self._books.ledger.channels[row.id]
            rows.append(VoucherClaim(channel.config, channel.ceiling, channel.ceiling_signature, row.total_claimed))
        return Call(self._keys.lanes[batch.lane].address, SETTLEMENT_ADDRESS, calls.claim(rows))

    async def _collect(self) -> list[TxReceipt]:
        """Settle every lane that has something unsettled, then sweep lanes into the treasury."""
        lanes = [key.address for key in self._keys.lanes]
        views = await self._layer.receivers([(lane, self._token) for lane in lanes])
        receipts = await self._execute(
            [
                (Call(lane, SETTLEMENT_ADDRESS, calls.settle(lane, self._token)), "settle")
                for lane, view in zip(lanes, views, strict=True)
                if view.unsettled
            ]
        )
        balances = await self._layer.token_balances(self._token, lanes)
        sweeps = plan_sweeps(enumerate(balances))
        return receipts + await self._execute(
            [
                (
                    Call(lanes[sweep.lane], self._token, calls.transfer(self._keys.treasury.address, sweep.amount)),
                    "sweep",
                )
                for sweep in sweeps
            ]
        )

    async def _pay(self, number: int, payouts: tuple[PayoutTarget, ...]) -> tuple[int, list[TxReceipt]]:
        """Pay what the treasury's cash covers; returns the amount paid and the receipts."""
        treasury = self._keys.treasury.address
        (cash,) = await self._layer.token_balances(self._token, [treasury])
        # What was signed and is not paid yet (a cycle cut short) is owed first, out of the same cash.
        ledger = self._books.ledger
        overdue = {
            payee: party.signed - party.paid for payee, party in ledger.parties.items() if party.signed > party.paid
        }
        covered, deferred = cover(payouts, cash - sum(overdue.values()))
        if deferred:
            waiting = sum(payout.amount for payout in deferred)
            self.on_trouble(f"the treasury lacks {waiting} base units for {len(deferred)} payouts; they wait")
        rows = {payout.payee: payout.cumulative for payout in covered}
        for payee in overdue:
            rows.setdefault(payee, ledger.party(payee).signed)
        if not rows:
            return 0, []
        before = {payee: ledger.party(payee).paid for payee in rows}
        await self._books.write([PayoutsSigned(number, tuple(sorted(rows.items())))])
        targets = [PayoutTarget(payee, cumulative, cumulative - before[payee]) for payee, cumulative in rows.items()]
        batches = payout_batches(targets, self._rows_max)
        receipts = await self._execute(
            [
                (
                    Call(
                        treasury,
                        self._payouts,
                        calls.pay(self._token, [(row.payee, row.cumulative) for row in batch.rows]),
                    ),
                    f"pay {len(batch.rows)}",
                )
                for batch in batches
            ]
        )
        payees = sorted(rows)
        found = await self._layer.paid(self._payouts, treasury, self._token, payees)
        await self._books.write([PayoutsPaid(tuple(zip(payees, found, strict=True)))])
        return sum(amount - before[payee] for payee, amount in zip(payees, found, strict=True)), receipts

    async def _execute(self, transactions: list[tuple[Call, str]]) -> list[TxReceipt]:
        """Send transactions and wait for all; one that would revert is left out and reported."""
        receipts = []
        outcomes = await asyncio.gather(*(self._outbox.execute(call, purpose) for call, purpose in transactions))
        for outcome, (_, purpose) in zip(outcomes, transactions, strict=True):
            if isinstance(outcome, Revert):
                self.on_trouble(f"{purpose} was not sent, the contract would refuse it: {outcome.reason}")
            elif not outcome.succeeded:
                self.on_trouble(f"{purpose} reverted in transaction 0x{outcome.tx_hash.hex()}")
            if isinstance(outcome, TxReceipt):
                receipts.append(outcome)
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
