"""Refund nonces of closing channels: read at a final block, and believed only when that is safe.

A refund that is signed for a nonce which a node made up stays valid: it takes money when the channel's nonce comes to
that number. A nonce too low does no harm, as the contract takes no refund for it any more. So one too high is what is
guarded against. Only refunds move a nonce, and each of them was journaled before it was signed. An answer is believed
at once when the journal explains it: it is at most the nonce with which the last closing ended (0 before the first),
or a refund is signed for it already, or the refund for the one before was seen to arrive. Everything else (a channel
with a past that this journal does not know, a refund that found nothing to return and so left no event) must be
answered again in a later cycle.
"""

import logging
from collections.abc import Mapping

from channels.state import Channel
from channels.types import ChannelId
from gateway.books import Books
from gateway.entries import Refunds
from gateway.watcher import Watcher
from settlement.port import ExecutionLayer

log = logging.getLogger("metergate")


class RefundNonces:
    """Asks the chain for the refund nonces of all closing channels."""

    def __init__(self, books: Books, layer: ExecutionLayer, watcher: Watcher) -> None:
        self._books = books
        self._layer = layer
        self._watcher = watcher
        self._said: dict[ChannelId, tuple[int, int]] = {}  # what was answered last, and in which cycle first

    async def ask(self) -> Mapping[ChannelId, int]:
        """Return the nonces of closing channels at the last final block, as of which the books are.

        Channels whose nonce is not certain yet are left out; they are certain in a later cycle. A refund that is
        mined and not final yet is waited for: to sign another one beside it would be a guess.
        """
        ids = list(self._books.ledger.closings)
        if not ids:
            return {}
        head = await self._layer.head()
        latest = await self._layer.refund_nonces(ids, head.number)
        _, final = await self._watcher.at_final(lambda block: self._layer.refund_nonces(ids, block))
        if latest != final:
            await self._watcher.passed(head.number)
            _, final = await self._watcher.at_final(lambda block: self._layer.refund_nonces(ids, block))
        self._said = {identifier: said for identifier, said in self._said.items() if identifier in ids}
        return {
            identifier: nonce for identifier, nonce in zip(ids, final, strict=True) if self._certain(identifier, nonce)
        }

    def _certain(self, identifier: ChannelId, nonce: int) -> bool:
        ledger = self._books.ledger
        said, cycle = self._said.get(identifier, (nonce, ledger.totals.cycles))
        if said != nonce:
            cycle = ledger.totals.cycles
            if nonce < said:  # it rises, unless the chain replaces blocks
                log.warning("the node names a refund nonce of 0x%s of %d, after %d", identifier.hex(), nonce, said)
        self._said[identifier] = nonce, cycle
        known = ledger.refunds.get(identifier) or Refunds()
        return _explains(known, ledger.channels[identifier], nonce) or cycle < ledger.totals.cycles


def _explains(known: Refunds, channel: Channel, nonce: int) -> bool:
    """Tell whether the journal explains that a channel's next refund nonce is this one, or leaves it without harm."""
    return nonce <= known.nonce or any(
        each.nonce == nonce or (each.nonce == nonce - 1 and channel.refunded > each.refunded) for each in known.signed
    )
