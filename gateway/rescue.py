"""Claims beside the cycles: what a withdrawal threatens does not wait until a cycle under way has ended.

A cycle may take long: it waits until its transactions are final, four times, and a node may take one and never mine
it. A withdrawal ends all the same. Claims are cumulative, so one more of them takes nothing twice.
"""

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

from channels.types import ChannelId
from gateway.sending import Outbox
from settlement.netting import ClaimTarget
from settlement.planning import claim_batches
from settlement.port import Call, Revert
from settlement.streams import Outstanding

# A row that reverts is tried again after this long, then after twice as long each time, four times at most.
AGAIN_S = 5.0
DOUBLED_MAX = 4


class Rescue:
    """Signs and sends claims without waiting for them; the outbox follows them to their end."""

    def __init__(
        self, outbox: Outbox, claim_call: Callable[[Sequence[ClaimTarget]], Call], netting: asyncio.Lock, rows_max: int
    ) -> None:
        self._outbox = outbox
        self._claim_call = claim_call
        self._netting = netting
        self._rows_max = rows_max
        self._sent: dict[ChannelId, tuple[int, Outstanding]] = {}
        self._failed: dict[ChannelId, tuple[int, float]] = {}  # times in a row, and when to try again
        self.on_trouble: Callable[[str], None] = lambda text: None

    @property
    def under_way(self) -> dict[ChannelId, int]:
        """Which channels' claims were sent here and have not ended, with their totals."""
        return {identifier: total for identifier, (total, entry) in self._sent.items() if not _has_ended(entry)}

    def may_try(self, row: ClaimTarget) -> bool:
        """Tell whether to send this row now: it is not under way, and did not revert a moment ago."""
        sent = self._sent.get(row.id)
        if sent is not None and _has_ended(sent[1]):
            del self._sent[row.id]
            receipt = sent[1].receipt
            if receipt is not None and not receipt.succeeded:
                self._note_failure(row, f"transaction 0x{receipt.tx_hash.hex()} reverted on chain")
            else:
                self._failed.pop(row.id, None)
        _, again_at = self._failed.get(row.id, (0, 0.0))
        return self.under_way.get(row.id, -1) < row.total_claimed and monotonic() >= again_at

    async def claim(self, rows: Sequence[ClaimTarget]) -> None:
        """Sign and send claims of these rows, those that revert apart. Raises ChainUnavailable."""
        queue = [tuple(batch.rows) for batch in claim_batches(rows, self._rows_max)]
        while queue:
            async with self._netting:  # what is judged here must not be offset before it is signed
                sent = await self._outbox.send_all([(self._claim_call(part), f"claim {len(part)}") for part in queue])
            halves = []
            for part, outcome in zip(queue, sent, strict=True):
                if isinstance(outcome, Outstanding):
                    self._sent |= {row.id: (row.total_claimed, outcome) for row in part}
                elif len(part) > 1:
                    halves += [part[: len(part) // 2], part[len(part) // 2 :]]
                else:
                    self._note_failure(part[0], outcome.reason if isinstance(outcome, Revert) else str(outcome))
            queue = halves

    def _note_failure(self, row: ClaimTarget, reason: str) -> None:
        times, _ = self._failed.get(row.id, (0, 0.0))
        self._failed[row.id] = times + 1, monotonic() + AGAIN_S * 2 ** min(times, DOUBLED_MAX)
        self.on_trouble(f"the urgent claim of 0x{row.id.hex()} failed: {reason}")


def _has_ended(entry: Outstanding) -> bool:
    return entry.receipt is not None or entry.lost
