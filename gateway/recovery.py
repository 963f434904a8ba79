"""What replaced blocks leave to be looked after: own transactions that are nowhere, payouts that came back."""

from collections.abc import Awaitable, Callable

from gateway.books import Books
from gateway.records import PayoutsPaid, Record, TransactionUnmined
from gateway.reorgs import Trail
from settlement.port import Block, ExecutionLayer

# AtFinal(ask): what `ask` answers of the last final block, and that block; see `Watcher.at_final`.
AtFinal = Callable[[Callable[[int], Awaitable[list[int]]]], Awaitable[tuple[int, list[int]]]]


class Recovery:
    """Looks after them for one gateway."""

    def __init__(self, books: Books, layer: ExecutionLayer, trail: Trail) -> None:
        self._books = books
        self._layer = layer
        self._trail = trail
        self._verified: set[tuple[bytes, int]] = set()  # own transactions that are in the block they were found in
        self.payouts_dropped = books.ledger.totals.reorgs > 0

    def cut(self, block: int) -> None:
        """Later blocks than this one are gone."""
        self._verified = {each for each in self._verified if each[1] <= block}

    async def dropped(self, last: Block | None, head: Block, final: int) -> bool:
        """Tell whether blocks are gone that may have held what is outstanding, though they were not final yet.

        `last` is the head that was read before `head`, `final` the last final block.
        """
        if last is None or last.number <= final or head.parent_hash == last.hash:
            return False
        if not self._books.ledger.transactions:
            return False
        block = await self._layer.block(last.number)
        return block is not None and block.hash != last.hash

    async def misplaced(self, upto: int) -> list[Record]:
        """Return what puts own transactions back that were found in blocks which are not on the chain after all.

        A transaction may be booked before the watcher gets to its block, and another block be there then.
        """
        ledger = self._books.ledger
        wrong: list[Record] = []
        for tx_hash, mined in list(ledger.mined.items()):
            if not mined.block_hash or mined.block > upto or (tx_hash, mined.block) in self._verified:
                continue
            known = self._trail.hash_of(mined.block)
            if known is None:
                block = await self._layer.block(mined.block)
                if block is None:
                    continue  # a node that lags; it is asked again
                known = block.hash
            if known == mined.block_hash:
                self._verified.add((tx_hash, mined.block))
            else:
                wrong.append(TransactionUnmined(tx_hash))
        if len(self._verified) > 2 * len(ledger.mined):
            self._verified &= {(tx_hash, mined.block) for tx_hash, mined in ledger.mined.items()}
        return wrong

    async def payouts_back(self, at_final: AtFinal) -> list[Record]:
        """Return what books payouts that are on the chain again; nothing may await before that is written."""
        ledger = self._books.ledger
        founded = ledger.founded
        behind = sorted(payee for payee, party in ledger.parties.items() if party.signed > party.paid)
        if founded is None or not behind:
            self.payouts_dropped = False
            return []
        _, paid = await at_final(
            lambda block: self._layer.paid(founded.payouts, founded.treasury, founded.token, behind, block)
        )
        rows = [(payee, total - ledger.party(payee).base) for payee, total in zip(behind, paid, strict=True)]
        rows = [(payee, amount) for payee, amount in rows if amount > ledger.party(payee).paid]
        return [PayoutsPaid(tuple(rows))] if rows else []
