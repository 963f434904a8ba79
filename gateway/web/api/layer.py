"""The execution layer and its blocks, and the double-entry books."""

import asyncio
from pathlib import Path

from channels.types import SETTLEMENT_ADDRESS
from gateway.audit import Unsteady, audit
from gateway.bookkeeping import Bookkeeper
from gateway.journal import read_commits
from gateway.web.access import Scope
from gateway.web.api.common import before
from gateway.web.desk import Desk
from gateway.web.endpoints import PAGING, Asked, Endpoint, Page, Problem
from gateway.web.shapes_money import BlockRow, BookAccountRow, BooksCheck, LayerState, TrialBalance
from gateway.web.tiles import chain_state
from settlement.errors import ChainRefused, ChainUnavailable


class Layer:
    """The handlers of one desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._gateway = desk.gateway
        self._keeper = Bookkeeper()
        self._walking = asyncio.Lock()

    def endpoints(self) -> list[Endpoint]:
        """Return the rows of this subject."""
        read = Scope.READ
        return [
            Endpoint("GET", "/layer", read, self.state, LayerState, "The execution layer", "layer"),
            Endpoint(
                "GET", "/layer/blocks", read, self.blocks, Page[BlockRow], "Blocks, newest first", "layer",
                queries=PAGING, errors=(503,),
            ),
            Endpoint("GET", "/ledger", read, self.trial, TrialBalance, "The trial balance", "ledger"),
            Endpoint(
                "GET", "/ledger/check", read, self.check, BooksCheck, "Prove the books against the chain", "ledger",
                errors=(503,),
            ),
        ]  # fmt: skip

    async def state(self, asked: Asked) -> LayerState:
        """Return how the layer stands."""
        gateway, blocks = self._gateway, self._desk.blocks
        chain, state = gateway.config.chain, chain_state(self._desk)
        threads = None if blocks.chain is None else blocks.chain.stats().get("threads")
        embedded = blocks.chain is not None
        return LayerState(
            chain_id=chain.chain_id,
            embedded=embedded,
            url=chain.url,
            head=state.block,
            time=state.time,
            lag_s=state.lag_s,
            final=max(gateway.watcher.block, 0),
            confirmations=chain.confirmations,
            block_time_s=blocks.block_time_s,
            outstanding=len(gateway.ledger.transactions),
            reorgs=gateway.ledger.totals.reorgs,
            settlement=f"0x{SETTLEMENT_ADDRESS.hex()}",
            token=f"0x{gateway.token.hex()}",
            payouts=f"0x{gateway.payouts.hex()}",
            threads=threads,
            transactions=blocks.transactions if embedded else None,
            executed=blocks.executed if embedded else None,
            reexecuted=blocks.reexecuted if embedded else None,
            speed_up=blocks.speed_up,
        )

    async def blocks(self, asked: Asked) -> Page[BlockRow]:
        """Return blocks, newest first."""
        rows, following = await self._desk.blocks.page(before(asked), asked.limit())
        return Page(rows, None if following is None else str(following))

    async def trial(self, asked: Asked) -> TrialBalance:
        """Return the trial balance: the walk over the journal goes on from where the last one ended."""
        path, upto = self._gateway.books.journal.path, self._gateway.books.journal.number
        await self._gateway.books.journal.durable()
        async with self._walking:
            if self._keeper.commit < upto:
                await asyncio.to_thread(self._walk, path, upto)
            rows = self._keeper.token.trial()
            commit = self._keeper.commit
        return TrialBalance(
            commit=commit,
            accounts=[
                BookAccountRow(
                    account=row.account.value,
                    name=row.account.meaning,
                    side="debit" if row.balance >= 0 else "credit",
                    balance=str(abs(row.balance)),
                )
                for row in rows
            ],
            debit=str(sum(row.debits for row in rows)),
            credit=str(sum(row.credits for row in rows)),
        )

    def _walk(self, path: Path, upto: int) -> None:
        for number, records in read_commits(path, self._keeper.commit, upto):
            self._keeper.take(number, records)

    async def check(self, asked: Asked) -> BooksCheck:
        """Prove the books."""
        gateway = self._gateway
        proof = audit(gateway.books, gateway.layer, gateway.watcher)
        try:
            faults, warnings = await gateway.supervised(proof, ChainUnavailable, ChainRefused, Unsteady)
        except Unsteady as error:
            raise Problem(503, "unsteady", str(error)) from error
        return BooksCheck(good=not faults, faults=faults, warnings=warnings)
