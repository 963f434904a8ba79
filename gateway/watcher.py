"""The watcher: everything that the chain does to our channels and lanes enters here, once, in order.

It follows the logs of the settlement contract, our own transactions included, up to the last final block. The
cursor is journaled in the commit that holds the events before it, so a restart neither misses nor repeats one.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from channels.state import (
    ChainChange,
    ContractReceiveClaim,
    ContractReceiveDeposit,
    ContractReceiveRefund,
    ContractReceiveWithdrawFinalized,
    ContractReceiveWithdrawInitiated,
)
from channels.types import Address, ChannelId
from gateway.books import Books
from gateway.records import CashReceived, ChainChanged, ChainSeen, ForeignChannel, ForeignClaim, LaneSettled, Record
from settlement.errors import ChainUnavailable
from settlement.events import (
    ChainEvent,
    ChannelCreated,
    Claimed,
    Deposited,
    Refunded,
    Settled,
    Transfer,
    WithdrawFinalized,
    WithdrawInitiated,
)
from settlement.port import Block, ExecutionLayer

# Public nodes answer log queries over a few thousand blocks; a long outage is caught up in steps of this size.
BLOCKS_PER_STEP = 1_000
# Without events, the cursor is journaled only this often: a restart reads at most that many empty blocks again.
SEEN_EVERY_BLOCKS = 2_000


class Watcher:
    """Follows one chain for one gateway."""

    def __init__(
        self,
        books: Books,
        layer: ExecutionLayer,
        token: Address,
        lanes: Iterable[Address],
        cash: frozenset[Address],
        *,
        settlement: Address,
        confirmations: int,
        poll_s: float,
    ) -> None:
        self._books = books
        self._layer = layer
        self._token = token
        self._lanes = frozenset(lanes)
        self._cash = cash
        self._settlement = settlement
        self._confirmations = confirmations
        self._poll_s = poll_s
        self.block = books.ledger.totals.block  # everything up to here is in the journal
        self.applied = self.block  # and up to here in the ledger
        self.head: Block | None = None
        self._head_at = 0.0
        self._step = asyncio.Lock()
        self._passed = asyncio.Condition()

    @property
    def chain_time(self) -> int:
        """Chain seconds of the latest block seen."""
        return self._books.ledger.totals.block_time if self.head is None else self.head.timestamp

    @property
    def silence_s(self) -> float:
        """Seconds since the chain last showed a block, on a clock that nobody can set; infinite before it did."""
        return float("inf") if self.head is None else time.monotonic() - self._head_at

    async def run(self, on_trouble: Callable[[str], None]) -> None:
        """Follow the chain; an unreachable one is asked again, everything else is a fault and raised."""
        pause = self._poll_s
        while True:
            try:
                await self.step()
                pause = self._poll_s
            except ChainUnavailable as error:
                on_trouble(str(error))
                pause = min(pause * 2, 10.0)  # long enough for a node to recover, short against any delay
            await asyncio.sleep(pause)

    async def step(self) -> None:
        """Read what is new up to the last final block, journal it, and wake those who wait for it."""
        async with self._step:
            head = await self._layer.head()
            if self.head is None or head.number != self.head.number:
                self.head, self._head_at = head, time.monotonic()
            final = head.number - self._confirmations
            while self.block < final:
                to = min(final, self.block + BLOCKS_PER_STEP)
                await self._read(self.block + 1, to)
                self.block = to
                async with self._passed:
                    self._passed.notify_all()

    async def passed(self, block: int) -> None:
        """Wait until every event up to and in this block is in the journal."""
        async with self._passed:
            await self._passed.wait_for(lambda: self.block >= block)

    async def _read(self, first: int, last: int) -> None:
        events = await self._layer.events(first, last)
        incoming = await self._layer.transfers_to(self._token, sorted(self._cash), first, last)
        block = await self._layer.block(last)
        if block is None:
            raise ChainUnavailable(f"the chain no longer has its block {last}")
        # From here to the write nothing awaits: an event of a channel that is being taken is either in the
        # balance that it is taken with, or finds the channel known.
        records: list[Record] = []
        for event in events:
            self._take(event, records)
        records += self._received(incoming, events)
        self.applied = last
        if records or last - self._books.ledger.totals.block >= SEEN_EVERY_BLOCKS:
            await self._books.write([*records, ChainSeen(last, block.hash, block.timestamp)])

    def _take(self, event: ChainEvent, records: list[Record]) -> None:
        ledger = self._books.ledger
        match event:
            case ChannelCreated():
                ours = event.config.receiver in self._lanes and event.config.token == self._token
                if ours and event.channel_id not in ledger.channels:
                    records.append(ForeignChannel(event.channel_id, event.config.receiver))
                return
            case Settled():
                if event.receiver in self._lanes and event.token == self._token:
                    records.append(LaneSettled(event.position, event.receiver, event.amount))
                return
        change = _change(event)
        if change is None:
            return
        identifier: ChannelId = event.channel_id  # type: ignore[attr-defined]  # every event with a change has one
        channel = ledger.channels.get(identifier)
        if channel is not None:
            if change.position > channel.position:
                records.append(ChainChanged(identifier, change))
        elif isinstance(event, Claimed) and (
            identifier in ledger.foreign or any(isinstance(r, ForeignChannel) and r.id == identifier for r in records)
        ):
            records.append(ForeignClaim(identifier, event.total_claimed))

    def _received(self, transfers: Iterable[Transfer], events: Iterable[ChainEvent]) -> Iterator[Record]:
        """Yield what came in from outside: neither between own addresses, nor a lane's settled claims.

        The settlement contract may send us tokens in other ways too, by a refund or a settlement that strangers
        arranged; those are gifts like any other.
        """
        settled = Counter(
            (event.tx_hash, event.receiver, event.amount)
            for event in events
            if isinstance(event, Settled) and event.receiver in self._lanes and event.token == self._token
        )
        for transfer in transfers:
            if transfer.sender in self._cash:
                continue
            key = (transfer.tx_hash, transfer.receiver, transfer.amount)
            if transfer.sender == self._settlement and settled[key]:
                settled[key] -= 1
                continue
            yield CashReceived(transfer.position, transfer.receiver, transfer.sender, transfer.amount)


def _change(event: ChainEvent) -> ChainChange | None:
    match event:
        case Deposited():
            return ContractReceiveDeposit(event.position, event.balance)
        case Claimed():
            return ContractReceiveClaim(event.position, event.total_claimed)
        case WithdrawInitiated():
            return ContractReceiveWithdrawInitiated(event.position, event.amount)
        case WithdrawFinalized():
            return ContractReceiveWithdrawFinalized(event.position, event.amount)
        case Refunded():
            return ContractReceiveRefund(event.position, event.amount)
    return None
