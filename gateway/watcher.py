"""The watcher: everything that the chain does to our channels and lanes enters here, once, in order.

It follows the logs of the settlement contract, our own transactions included, up to the last final block. The
cursor is journaled in the commit that holds the events before it, so a restart neither misses nor repeats one.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

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
from gateway.records import CashReceived, ChainChanged, ChainSeen, ForeignClaimed, LaneSettled, Record
from settlement.errors import ChainRefused, ChainUnavailable
from settlement.events import (
    ChainEvent,
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
        """Follow the chain; one that is unreachable or refuses is asked again, all else is a fault and raised."""
        pause = self._poll_s
        while True:
            try:
                await self.step()
                pause = self._poll_s
            except (ChainUnavailable, ChainRefused) as error:
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
        lanes = await self._lane_totals(events, last)
        # From here to the write nothing awaits: an event of a channel that is being taken is either in the
        # balance that it is taken with, or finds the channel known.
        records: list[Record] = []
        for event in events:
            records += self._take(event)
        records += self._foreign(records, lanes)
        records += self._received(incoming, events)
        self.applied = last
        if records or last - self._books.ledger.totals.block >= SEEN_EVERY_BLOCKS:
            await self._books.write([*records, ChainSeen(last, block.hash, block.timestamp)])

    def _take(self, event: ChainEvent) -> Iterator[Record]:
        if isinstance(event, Settled):
            if event.receiver in self._lanes and event.token == self._token:
                yield LaneSettled(event.position, event.receiver, event.amount)
            return
        change = _change(event)
        if change is None:
            return
        identifier: ChannelId = event.channel_id  # type: ignore[attr-defined]  # every event with a change has one
        channel = self._books.ledger.channels.get(identifier)
        if channel is not None and change.position > channel.position:
            yield ChainChanged(identifier, change)

    async def _lane_totals(self, events: Iterable[ChainEvent], block: int) -> dict[Address, int]:
        """Return each lane's totalClaimed at `block` if channels that are not ours were claimed, else nothing.

        Who may receive a stranger's claim is not in the event; the lane's own total tells.
        """
        known = self._books.ledger.channels
        if not any(isinstance(event, Claimed) and event.channel_id not in known for event in events):
            return {}
        lanes = sorted(self._lanes)
        views = await self._layer.receivers([(lane, self._token) for lane in lanes], block)
        return {lane: view.total_claimed for lane, view in zip(lanes, views, strict=True)}

    def _foreign(self, records: Iterable[Record], lanes: Mapping[Address, int]) -> Iterator[Record]:
        """Yield what strangers' channels have brought the lanes, by what our own ones do not explain."""
        ledger = self._books.ledger
        claimed = self._claimed_after(records) if lanes else {}
        for lane, total in lanes.items():
            foreign = total - claimed.get(lane, 0)
            if foreign != ledger.foreign.get(lane, 0):
                yield ForeignClaimed(lane, foreign)

    def _claimed_after(self, records: Iterable[Record]) -> dict[Address, int]:
        """Return what is claimed on our channels per lane once these records are applied."""
        ledger = self._books.ledger
        newest = {
            record.id: record.change.total_claimed
            for record in records
            if isinstance(record, ChainChanged) and isinstance(record.change, ContractReceiveClaim)
        }
        claimed: Counter[Address] = Counter()
        for identifier, channel in ledger.channels.items():
            claimed[channel.config.receiver] += newest.get(identifier, channel.claimed)
        return claimed

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
