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

    def under_way(self) -> dict[ChannelId, int]:
        """Return which channels' claims were sent here and have not ended, with their totals."""
        for identifier in list(self._sent):
            self._take_note(identifier)
        return {identifier: total for identifier, (total, _) in self._sent.items()}

    def may_try(self, row: ClaimTarget) -> bool:
        """Tell whether to send this row now: it is not under way, and did not revert a moment ago."""
        self._take_note(row.id)
        total, _ = self._sent.get(row.id, (-1, None))
        _, again_at = self._failed.get(row.id, (0, 0.0))
        return total < row.total_claimed and monotonic() >= again_at

    async def claim(self, threatened: Callable[[], Sequence[ClaimTarget]]) -> None:
        """Sign and send claims of what is threatened, those that revert apart. Raises ChainUnavailable."""
        async with self._netting:  # from the judgement until all are signed: what is claimed here is never offset
            queue = [tuple(batch.rows) for batch in claim_batches(threatened(), self._rows_max)]
            while queue:
                sent = await self._outbox.send_all([(self._claim_call(part), f"claim {len(part)}") for part in queue])
                halves = []
                for part, outcome in zip(queue, sent, strict=True):
                    if isinstance(outcome, Outstanding):
                        self._sent |= {row.id: (row.total_claimed, outcome) for row in part}
                    elif len(part) > 1:
                        halves += [part[: len(part) // 2], part[len(part) // 2 :]]
                    else:
                        self._note_failure(part[0].id, outcome.reason if isinstance(outcome, Revert) else str(outcome))
                queue = halves

    def _take_note(self, identifier: ChannelId) -> None:
        """Forget a claim that was sent here and has ended, and remember how."""
        sent = self._sent.get(identifier)
        if sent is None or not _has_ended(sent[1]):
            return
        del self._sent[identifier]
        receipt = sent[1].receipt
        if receipt is not None and not receipt.succeeded:
            self._note_failure(identifier, f"transaction 0x{receipt.tx_hash.hex()} reverted on chain")
        else:
            self._failed.pop(identifier, None)

    def _note_failure(self, identifier: ChannelId, reason: str) -> None:
        times, _ = self._failed.get(identifier, (0, 0.0))
        self._failed[identifier] = times + 1, monotonic() + AGAIN_S * 2 ** min(times, DOUBLED_MAX)
        self.on_trouble(f"the urgent claim of 0x{identifier.hex()} failed: {reason}")


def _has_ended(entry: Outstanding) -> bool:
    return entry.receipt is not None or entry.lost
