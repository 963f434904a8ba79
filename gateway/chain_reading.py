"""Logs of the chain into records: what each event means to this gateway's channels, lanes and cash."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from channels.machine import Contradiction, transition
from channels.refusals import Refusal
from channels.state import (
    ChainChange,
    Channel,
    ContractReceiveClaim,
    ContractReceiveDeposit,
    ContractReceiveRefund,
    ContractReceiveWithdrawFinalized,
    ContractReceiveWithdrawInitiated,
)
from channels.types import Address, ChannelId
from gateway.ledger import Ledger
from gateway.records import CashReceived, ChainChanged, ForeignClaimed, LaneSettled, Record, WithdrawalForeseen
from gateway.reorgs import within_reach
from settlement.errors import ChainRefused
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


class LogReader:
    """Reads logs for one gateway: whose lanes, which cash addresses and which token are its own."""

    def __init__(
        self, ledger: Ledger, token: Address, lanes: Iterable[Address], cash: frozenset[Address], settlement: Address
    ) -> None:
        self._ledger = ledger
        self._token = token
        self.lanes = frozenset(lanes)
        self._cash = cash
        self._settlement = settlement

    def records(
        self, events: Sequence[ChainEvent], incoming: Iterable[Transfer], lane_totals: Mapping[Address, int]
    ) -> list[Record]:
        """Return what these logs of consecutive blocks change; `lane_totals` as of the last one, if they are known."""
        records: list[Record] = []
        for event in events:
            records += self._take(event)
        records += self._foreign(records, lane_totals)
        records += self._received(incoming, events)
        return records

    def needs_lane_totals(self, events: Iterable[ChainEvent]) -> bool:
        """Tell whether channels that are not ours were claimed.

        Who may receive a stranger's claim is not in the event; the lane's own total tells.
        """
        known = self._ledger.channels
        return any(isinstance(event, Claimed) and event.channel_id not in known for event in events)

    def contradictions(self, records: Iterable[Record]) -> dict[ChannelId, str]:
        """Return in words which channels cannot be changed like that as they are; changes nothing."""
        after: dict[ChannelId, Channel] = {}
        found: dict[ChannelId, str] = {}
        for record in records:
            if not isinstance(record, ChainChanged) or record.id in found:
                continue
            try:
                result = transition(after.get(record.id) or self._ledger.channels[record.id], record.change)
            except Contradiction as error:
                found[record.id] = str(error)
                continue
            assert not isinstance(result, Refusal), "the chain's changes are in every row of the table"
            after[record.id] = result
        return found

    def begun(self, records: Iterable[Record]) -> list[ChannelId]:
        """Return the channels in which these records begin a withdrawal that was not foreseen."""
        return [
            record.id
            for record in records
            if isinstance(record, ChainChanged)
            and isinstance(record.change, ContractReceiveWithdrawInitiated)
            and not self._ledger.channels[record.id].foreseen
        ]

    def foreseen(self, zone: Iterable[ChainEvent], before: AbstractSet[ChannelId]) -> list[WithdrawalForeseen]:
        """Return what has changed in what is foreseen, by the events of all blocks that are not final yet.

        `before` are the channels for which a withdrawal was foreseen.
        """
        by_channel: dict[ChannelId, list[ChainEvent]] = {}
        for event in zone:
            if isinstance(event, (WithdrawInitiated, WithdrawFinalized, Refunded)):
                by_channel.setdefault(event.channel_id, []).append(event)
        channels = self._ledger.channels
        records = []
        # It asks for each of the few: this is done at every block.
        for identifier in sorted(before | {each for each in by_channel if each in channels}):
            channel = channels[identifier]
            amount, ends = _foreseen(channel, by_channel.get(identifier, ()))
            if (amount, ends) != (channel.foreseen, channel.foreseen_after):
                records.append(WithdrawalForeseen(identifier, amount, ends))
        return records

    def _take(self, event: ChainEvent) -> Iterator[Record]:
        if isinstance(event, Settled):
            if event.receiver in self.lanes and event.token == self._token:
                yield LaneSettled(event.position, event.receiver, event.amount)
            return
        change = _change(event)
        if change is None:
            return
        identifier: ChannelId = event.channel_id  # type: ignore[attr-defined]  # every event with a change has one
        channel = self._ledger.channels.get(identifier)
        if channel is not None and change.position > channel.position:
            yield ChainChanged(identifier, change)

    def _foreign(self, records: Iterable[Record], lane_totals: Mapping[Address, int]) -> Iterator[Record]:
        """Yield what strangers' channels have brought the lanes, by what our own ones do not explain."""
        claimed = self._claimed_after(records) if lane_totals else {}
        for lane, total in lane_totals.items():
            foreign = total - claimed.get(lane, 0)
            if foreign != self._ledger.foreign.get(lane, 0):
                yield ForeignClaimed(lane, foreign)

    def _claimed_after(self, records: Iterable[Record]) -> dict[Address, int]:
        """Return what is claimed on our channels per lane once these records are applied."""
        newest = {
            record.id: record.change.total_claimed
            for record in records
            if isinstance(record, ChainChanged) and isinstance(record.change, ContractReceiveClaim)
        }
        claimed: Counter[Address] = Counter()
        for identifier, channel in self._ledger.channels.items():
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
            if isinstance(event, Settled) and event.receiver in self.lanes and event.token == self._token
        )
        for transfer in transfers:
            if transfer.sender in self._cash:
                continue
            key = (transfer.tx_hash, transfer.receiver, transfer.amount)
            if transfer.sender == self._settlement and settled[key]:
                settled[key] -= 1
                continue
            yield CashReceived(transfer.position, transfer.receiver, transfer.sender, transfer.amount)


class LaneTotals:
    """What was claimed for the lanes in all, which tells what strangers' channels have brought them.

    These are cumulative, so they can wait: while a long outage is caught up with, the node has no states of the blocks
    that are read. `due` says that they are to be read at the next block that the node can tell of; so it is after
    a restart, too.
    """

    def __init__(self, layer: ExecutionLayer, token: Address, reader: LogReader) -> None:
        self._layer = layer
        self._token = token
        self._reader = reader
        self.due = True

    async def after(self, events: Iterable[ChainEvent], block: int, head: Block) -> dict[Address, int]:
        """Return the totals at a block that ends with these events; empty when they are not due, or have to wait."""
        self.due |= self._reader.needs_lane_totals(events)
        if not self.due or not within_reach(block, head):
            return {}
        lanes = sorted(self._reader.lanes)
        try:
            views = await self._layer.receivers([(lane, self._token) for lane in lanes], block)
        except ChainRefused:
            if block == head.number:
                raise
            return {}  # it holds the states of fewer blocks than most, or has just been started itself
        return {lane: view.total_claimed for lane, view in zip(lanes, views, strict=True)}


def _change(event: ChainEvent) -> ChainChange | None:
    match event:
        case Deposited():
            return ContractReceiveDeposit(event.position, event.balance)
        case Claimed():
            return ContractReceiveClaim(event.position, event.total_claimed)
        case WithdrawInitiated():
            return ContractReceiveWithdrawInitiated(event.position, event.amount, event.finalize_after)
        case WithdrawFinalized():
            return ContractReceiveWithdrawFinalized(event.position, event.amount)
        case Refunded():
            return ContractReceiveRefund(event.position, event.amount)
    return None


def _foreseen(channel: Channel, events: Iterable[ChainEvent]) -> tuple[int, int]:
    """Return what withdrawals in these blocks can take of the final balance, and from when on; (0, 0): nothing new.

    Deposits in these blocks are not counted: a reorganisation may drop the deposit and keep the withdrawal.
    """
    gone, pending, ends = 0, channel.withdrawing, channel.withdraw_after
    payers_doing = False
    for event in events:
        if event.position <= channel.position:
            continue
        match event:
            case WithdrawInitiated():
                pending, ends, payers_doing = event.amount, event.finalize_after, True
            case WithdrawFinalized():
                gone, pending, payers_doing = gone + event.amount, 0, True
            case Refunded():  # our own doing, by which a withdrawal can take less
                gone, pending = gone + event.amount, max(0, pending - event.amount)
    if not payers_doing or gone + pending <= channel.withdrawing:
        return 0, 0
    return gone + pending, ends
