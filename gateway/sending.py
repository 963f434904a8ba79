"""Own transactions: journaled before they are sent, booked when they are mined, sent again after a restart."""

import asyncio
from collections.abc import Callable

from channels.types import Address
from gateway.books import Books
from gateway.keys import Key, KeyRing
from gateway.records import TransactionMined, TransactionSigned
from settlement.errors import ChainRefused, ChainUnavailable
from settlement.port import Call, ExecutionLayer, Revert, TxReceipt
from settlement.sender import Outgoing, Sender
from settlement.transactions import transaction_hash


class Outbox:
    """One serialised sender per own key, all journaling into the same books."""

    def __init__(self, books: Books, layer: ExecutionLayer, keys: KeyRing, confirmations: int) -> None:
        self._books = books
        self._senders = {
            key.address: self._sender(layer, key, confirmations) for key in (*keys.lanes, keys.treasury, keys.operator)
        }

    def sender(self, address: Address) -> Sender:
        """Return the sender of one of our keys."""
        return self._senders[address]

    async def resume(self) -> None:
        """Send what a restart found outstanding again and wait for it; call before anything new is sent."""
        outstanding: dict[Address, list[Outgoing]] = {address: [] for address in self._senders}
        for record in self._books.ledger.transactions.values():
            outstanding[record.sender].append(Outgoing(record.raw, record.nonce, record.purpose))
        for address, sender in self._senders.items():
            if outstanding[address]:
                await sender.resume(outstanding[address])
        for address, sender in self._senders.items():
            for outgoing in outstanding[address]:
                await self._mined(sender, outgoing)

    async def execute(self, call: Call, purpose: str) -> TxReceipt | Revert:
        """Send one transaction and wait until it is mined and booked.

        A call that would revert is not sent and returned as its Revert. While the chain cannot be reached this
        waits: what was signed stays outstanding until it is mined.
        """
        sender = self._senders[call.sender]
        while True:
            try:
                outgoing = await sender.send(call.to, call.data, purpose, value=call.value)
                break
            except ChainUnavailable as error:  # nothing was signed yet
                self.on_trouble(f"{purpose}: {error}")
                await asyncio.sleep(_RETRY_S)
        return outgoing if isinstance(outgoing, Revert) else await self._mined(sender, outgoing)

    def _sender(self, layer: ExecutionLayer, key: Key, confirmations: int) -> Sender:
        async def persist(raw: bytes, nonce: int, purpose: str) -> None:
            await self._books.write([TransactionSigned(transaction_hash(raw), key.address, nonce, purpose, raw)])

        return Sender(layer, key.private, persist, confirmations=confirmations)

    async def _mined(self, sender: Sender, outgoing: Outgoing) -> TxReceipt:
        while True:
            try:
                receipt = await sender.wait(outgoing)
                break
            except (ChainUnavailable, ChainRefused) as error:
                self.on_trouble(str(error))
                await asyncio.sleep(_RETRY_S)
        await self._books.write(
            [TransactionMined(receipt.tx_hash, receipt.succeeded, receipt.block_number, receipt.gas_used, receipt.fee)]
        )
        return receipt

    on_trouble: Callable[[str], None] = staticmethod(lambda text: None)


# Between attempts while the chain cannot be reached: long enough not to burden a node that recovers.
_RETRY_S = 2.0
