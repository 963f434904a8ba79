"""Own transactions: journaled before they are sent, booked when they are mined, sent again after a restart."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from channels.types import Address
from gateway.books import Books
from gateway.errors import JournalFault
from gateway.keys import KeyRing
from gateway.records import Record, TransactionLost, TransactionMined, TransactionSigned
from settlement.bidding import Bidding
from settlement.errors import ChainRefused, ChainUnavailable
from settlement.port import Call, ExecutionLayer, Revert, TxReceipt
from settlement.sender import Order, Outcome, Sender, Sent
from settlement.streams import Outgoing, Outstanding, Stream
from settlement.waiting import Waiting

T = TypeVar("T")

# Between attempts while the chain cannot be reached: long enough not to burden a node that recovers.
_RETRY_S = 2.0


class Outbox:
    """All own keys, each one serialised stream of transactions, journaling into the same books."""

    def __init__(
        self,
        books: Books,
        layer: ExecutionLayer,
        keys: KeyRing,
        confirmations: int,
        *,
        bidding: Bidding | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        self._books = books
        self._sender = Sender(
            layer,
            [key.private for key in (*keys.lanes, keys.treasury, keys.operator)],
            self._persist,
            booked=self._booked,
            confirmations=confirmations,
            bidding=bidding,
            waiting=waiting or Waiting(timeout_seconds=None),
        )

    @property
    def on_trouble(self) -> Callable[[str], None]:
        """Who is told what does not go forward."""
        return self._sender.on_trouble

    @on_trouble.setter
    def on_trouble(self, say: Callable[[str], None]) -> None:
        self._sender.on_trouble = say

    def stream(self, address: Address) -> Stream:
        """Return what one of our keys has outstanding."""
        return self._sender.stream(address)

    async def resume(self) -> None:
        """Take up what a restart found outstanding: send it again and book what is mined meanwhile, once.

        What is not mined then is followed by `run` and by whoever executes the very same call again. Call it before
        anything new is sent.
        """
        self._take_up()
        await self._sender.look()

    def resend(self) -> None:
        """Take up what a reorganisation dropped; `run` sends it again and books it once it is mined."""
        self._take_up()

    async def run(self) -> None:
        """Follow in the background what nobody waits for; until cancelled. Raises faults."""
        await self._sender.run()

    async def execute(self, call: Call, purpose: str) -> TxReceipt | Revert:
        """Send one transaction and wait until it is mined and booked; see `execute_all`.

        Raises ChainRefused when the node does not take it.
        """
        (outcome,) = await self.execute_all([(call, purpose)])
        if isinstance(outcome, ChainRefused):
            raise outcome
        return outcome

    async def send_all(self, calls: Sequence[Order]) -> list[Sent]:
        """Journal and send without waiting until anything is mined; `run` books it.

        Calls of a key that cannot be used yet are ChainRefused, with the reason, and hold up no other key. Raises
        ChainUnavailable when the chain cannot be asked; nothing was signed then.
        """
        tried = await self._sender.try_all(calls)
        return [ChainRefused(-32000, str(each)) if isinstance(each, ChainUnavailable) else each for each in tried]

    async def wait_all(self, entries: Sequence[Outstanding]) -> list[TxReceipt | ChainRefused]:
        """Wait until what was sent is mined and booked; ChainRefused for what the node does not take."""
        return await self._reaching(lambda: self._sender.wait_all(entries)) if entries else []

    async def execute_all(self, calls: Sequence[Order]) -> list[Outcome]:
        """Send (call, purpose) pairs and wait until all are mined and booked; outcomes in the order given.

        The calls of one key get consecutive nonces. All are journaled in one commit before any is sent, and all
        are judged by the state before any is mined. A call that would revert is not sent and is its Revert; one
        that reverts on chain has its receipt. A ChainRefused is what the node refuses to judge or to take, or what
        waits behind such a one: if it was signed already it stays outstanding, and is booked once it is mined. A
        call that is outstanding already is waited for and not signed again.

        While the chain cannot be reached this waits, and while a key cannot be used; others are used meanwhile.
        """
        sent: dict[Call, Sent] = {}

        async def attempt() -> None:
            left = [order for order in calls if order[0] not in sent]
            for (call, _), each in zip(left, tried := await self._sender.try_all(left), strict=True):
                if not isinstance(each, ChainUnavailable):
                    sent[call] = each
            for each in tried:
                if isinstance(each, ChainUnavailable):
                    raise each

        await self._reaching(attempt)
        entries = [each for each in sent.values() if isinstance(each, Outstanding)]
        endings = dict(zip(entries, await self.wait_all(entries), strict=True))
        return [endings[each] if isinstance(each, Outstanding) else each for each in (sent[call] for call, _ in calls)]

    async def _reaching(self, attempt: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await attempt()
            except ChainUnavailable as error:  # nothing was signed, or it stays outstanding
                self.on_trouble(str(error))
                await asyncio.sleep(_RETRY_S)

    def _take_up(self) -> None:
        outstanding = [
            Outgoing(record.sender, record.nonce, record.purpose, record.raw)
            for record in self._books.ledger.transactions.values()
        ]
        try:
            self._sender.resume(outstanding, self._books.ledger.nonces)
        except (KeyError, ValueError) as error:
            raise JournalFault(f"a journaled transaction is not one of ours: {error}") from error

    async def _persist(self, signed: Sequence[Outgoing]) -> None:
        # What signing means, such as claims that are committed now, is in the very commit that says what was signed.
        records: list[Record] = [record for each in signed for record in each.attached]
        records += [TransactionSigned(each.tx_hash, each.sender, each.nonce, each.purpose, each.raw) for each in signed]
        await self._books.write(records)

    async def _booked(self, ended: Sequence[tuple[Outgoing, TxReceipt | None]]) -> None:
        records: list[Record] = []
        for outgoing, receipt in ended:
            if receipt is None:
                records.append(TransactionLost(outgoing.tx_hash))
            elif outgoing.tx_hash in self._books.ledger.transactions:  # else it is booked and was sent once more
                records.append(
                    TransactionMined(
                        receipt.tx_hash,
                        receipt.succeeded,
                        receipt.block_number,
                        receipt.gas_used,
                        receipt.fee,
                        receipt.block_hash,
                    )
                )
        if records:
            await self._books.write(records)
