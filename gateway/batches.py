"""Rows into transactions: sent side by side, halved when they revert, until the bad row stands alone.

A claim or a payout takes many rows, and one bad row reverts them all. A batch that reverts in simulation (nothing
was sent then) or on chain is cut into halves, so that the good rows settle in the same cycle; a row that
reverts alone is set aside with the chain's reason.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gateway.sending import Outbox
from settlement.errors import ChainRefused
from settlement.port import Call, Revert, TxReceipt

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Work(Generic[Row]):
    """One transaction to send: rows that can be split, and the call that carries some of them.

    `key` names a row in the books: a channel id, a payee, a lane's address.
    """

    name: str
    rows: Sequence[Row]
    call: Callable[[Sequence[Row]], Call]
    key: Callable[[Row], bytes]

    @property
    def purpose(self) -> str:
        """What the transaction is for, as the journal keeps it."""
        return f"{self.name} {len(self.rows)}"

    def halves(self) -> "tuple[Work[Row], Work[Row]]":
        """Return the work in two parts."""
        middle = len(self.rows) // 2
        return (
            Work(self.name, self.rows[:middle], self.call, self.key),
            Work(self.name, self.rows[middle:], self.call, self.key),
        )


@dataclass(slots=True)
class Done:
    """What became of the rows: receipts of all that was mined, and rows by (name, key)."""

    receipts: list[TxReceipt] = field(default_factory=list)
    good: set[tuple[str, bytes]] = field(default_factory=set)
    aside: dict[tuple[str, bytes], str] = field(default_factory=dict)  # with the reason
    refused: list[str] = field(default_factory=list)  # what the node did not take, in words; no row is to blame

    @property
    def last_block(self) -> int | None:
        """Return the block of the last transaction, None when nothing was mined."""
        return max((receipt.block_number for receipt in self.receipts), default=None)

    def add(self, other: "Done") -> None:
        """Take another step's outcome in."""
        self.receipts += other.receipts
        self.good |= other.good
        self.aside |= other.aside
        self.refused += other.refused


async def send(outbox: Outbox, works: "Iterable[Work[Any]]") -> Done:
    """Send every work, waits until all are mined and final, and tells what became of each row."""
    done = Done()
    queue = [work for work in works if work.rows]
    while queue:
        calls = []
        for work in queue:
            calls.append((work.call(work.rows), work.purpose))
            await asyncio.sleep(0)  # a hundred batches are a fifth of a second, in which readings want their receipts
        outcomes = await outbox.execute_all(calls)
        halves: list[Work[Any]] = []
        for work, outcome in zip(queue, outcomes, strict=True):
            if isinstance(outcome, ChainRefused):
                done.refused.append(f"{work.purpose} was not taken: {outcome}")
                continue
            if isinstance(outcome, TxReceipt):
                done.receipts.append(outcome)
                if outcome.succeeded:
                    done.good |= {(work.name, work.key(row)) for row in work.rows}
                    continue
            if len(work.rows) > 1:
                halves += work.halves()
            else:
                done.aside[work.name, work.key(work.rows[0])] = _reason(outcome)
        queue = halves
    return done


def _reason(outcome: TxReceipt | Revert) -> str:
    if isinstance(outcome, Revert):
        return outcome.reason
    return f"transaction 0x{outcome.tx_hash.hex()} reverted on chain"
