"""Every state the gateway holds, in memory, and how each record changes it.

`apply` is used by live code and by replay alike, so what a restart rebuilds is what ran before. It is
synchronous: between a check and the change it allows nothing else can happen.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from channels.earning import earn
from channels.invariants import InvariantViolation, account_faults, channel_faults
from channels.machine import Contradiction, open_channel, reopen, transition
from channels.refusals import Refusal
from channels.state import Account, ActionOpen, Change, Channel, ReceiveReading
from channels.types import Address, ChannelId, OfferId
from devices.registry import DEPOSITS_PER_CHANNEL_MAX
from gateway import chain_effects, cycle_effects
from gateway import records as r
from gateway.entries import (
    Aside,
    Closing,
    Device,
    Image,
    Mark,
    Mined,
    Party,
    Refunds,
    Reorganisation,
    SignedRefund,
    StoredHistory,
    StoredReadings,
    SumsBefore,
    Totals,
)
from gateway.errors import JournalFault
from gateway.history import Block, History
from gateway.tables import BlockTable, Table, decoded

_TOTALS = b""
# The kind of state that a block of a history is stored as, under its channel's or account's id and its first seq.
_READINGS = "readings"


class Ledger:
    """The books of one gateway."""

    def __init__(self) -> None:
        self.founded: r.Founded | None = None
        self.channels: Table[Channel] = Table("channel", Channel)
        self.accounts: Table[Account] = Table("account", Account)
        self.parties: Table[Party] = Table("party", Party)
        self.foreign: Table[int] = Table("foreign", int)  # claimed for a lane by others, or before this journal
        self.devices: Table[Device] = Table("device", Device)
        self.offers: Table[r.OfferIssued] = Table("offer", r.OfferIssued)
        self.opens: Table[r.OpenReceived] = Table("open", r.OpenReceived)
        self.deposits: Table[tuple[bytes, ...]] = Table("deposits", tuple[bytes, ...])  # nonces credited, per channel
        self.transactions: Table[r.TransactionSigned] = Table("transaction", r.TransactionSigned)  # outstanding
        self.mined: Table[Mined] = Table("mined", Mined)  # in blocks that may still be replaced, by hash
        self.nonces: Table[int] = Table("nonce", int)  # the next nonce of each own address, as far as journaled
        self.marks: Table[Mark] = Table("mark", Mark)  # blocks within reach of a reorganisation, by number
        self.undo: BlockTable[Image] = BlockTable("undo", Image)  # by block and channel
        self.sums_before: BlockTable[SumsBefore] = BlockTable("sums-before", SumsBefore)  # by block
        self.reorgs: Table[Reorganisation] = Table("reorg", Reorganisation)  # the last ones, by their count
        self.cycles: Table[r.CycleStarted] = Table("cycle", r.CycleStarted)  # started and not ended
        self.aside: Table[Aside] = Table("aside", Aside)  # by channel id or address
        self.since: Table[int] = Table("since", int)  # chain seconds of a channel's last claim, or of its opening
        self.closings: Table[Closing] = Table("closing", Closing)  # under way, by channel id
        self.closed: Table[Closing] = Table("closed", Closing)  # ended, until the channel is opened again
        self.refunds: Table[Refunds] = Table("refunds", Refunds)  # signed, by channel id
        self.ended: Table[r.CycleEnded] = Table("ended", r.CycleEnded)
        self._totals: Table[Totals] = Table("totals", Totals)
        self._payments = self._earnings = 0  # accepted and not in the totals yet
        self._founded: Table[r.Founded] = Table("founded", r.Founded)
        self._old_histories: Table[StoredHistory] = Table("history", StoredHistory)
        self._histories: dict[bytes, History] = {}
        self._blocks: dict[bytes, list[Block]] = {}  # of histories that are being loaded
        self._changed_histories: set[bytes] = set()
        self.by_payee: dict[Address, list[bytes]] = {}
        self.withdrawing: set[ChannelId] = set()  # with a withdrawal, pending or foreseen
        self._tables = {
            table.kind: table
            for table in (
                self.channels,
                self.accounts,
                self.parties,
                self.foreign,
                self.devices,
                self.offers,
                self.opens,
                self.deposits,
                self.transactions,
                self.mined,
                self.nonces,
                self.marks,
                self.undo,
                self.sums_before,
                self.reorgs,
                self.cycles,
                self.aside,
                self.since,
                self.closings,
                self.closed,
                self.refunds,
                self.ended,
                self._totals,
                self._founded,
                self._old_histories,
            )
        }

    # -- reading --

    @property
    def totals(self) -> Totals:
        """Counts and sums over all time."""
        self._add_up()
        return self._totals.get(_TOTALS) or Totals()

    def _add_up(self) -> None:
        """Put what was counted into the totals: to make new ones for every reading would cost as much as its checks."""
        if self._payments or self._earnings:
            totals = self._totals.get(_TOTALS) or Totals()
            payments, earnings = totals.payments + self._payments, totals.earnings + self._earnings
            self._totals[_TOTALS] = replace(totals, payments=payments, earnings=earnings)
            self._payments = self._earnings = 0

    def party(self, address: Address) -> Party:
        """Return the payouts of one payee; zeros for an unknown one."""
        return self.parties.get(address) or Party()

    def offers_by_serial(self) -> Iterator[r.OfferIssued]:
        """Yield all offers, oldest first."""
        yield from (self.offers[key] for key in sorted(self.offers))

    def kept(self, identifier: bytes, seq: int) -> Sequence[Block]:
        """Return what is kept of a channel's or account's last readings, if one of this seq may be among them.

        Whoever searches it, in a thread, is in nobody's way: that takes 0.1 ms.
        """
        history = self._histories.get(identifier)
        return history.blocks if history is not None and history.covers(seq) else ()

    def last_seqs(self, identifier: bytes, before: int | None, limit: int) -> list[tuple[int, int]]:
        """Return the last (seq, commit) of a channel or account with seqs below `before`, newest first."""
        history = self._histories.get(identifier)
        return [] if history is None else history.newest(before, limit)

    # -- live decisions on readings: applied at once, the caller journals the record --

    def charge(self, identifier: ChannelId, reading: ReceiveReading, number: int) -> Refusal | tuple[int, int]:
        """Apply a paying reading in commit `number`; returns (charged before, charged after) or the refusal."""
        channel = self.channels[identifier]
        after = transition(channel, reading)
        if isinstance(after, Refusal):
            return after
        self._put_reading(after, reading.seq, number)
        return channel.charged, after.charged

    def earn(
        self, identifier: bytes, reading: ReceiveReading, fee_basis_points: int, number: int
    ) -> Refusal | tuple[int, int]:
        """Apply an earning reading in commit `number`; returns (earned before, after) or the refusal."""
        account = self.accounts[identifier]
        after = earn(account, reading, fee_basis_points)
        if isinstance(after, Refusal):
            return after
        self.accounts[identifier] = after
        self.note(identifier, reading.seq, number)
        self._earnings += 1
        return account.earned, after.earned

    # -- for those who apply records --

    def change(self, identifier: ChannelId, change: Change) -> None:
        """Apply a change to a channel. Raises Contradiction when it cannot follow from its state."""
        after = transition(self.channels[identifier], change)
        if isinstance(after, Refusal):
            raise Contradiction(f"channel 0x{identifier.hex()}: {change} is impossible: {after.wire_name}")
        self.put_channel(after)

    def put_channel(self, channel: Channel) -> None:
        """Keep a channel's next state. Raises InvariantViolation for one that cannot be."""
        if faults := channel_faults(channel):
            raise InvariantViolation(f"channel 0x{channel.id.hex()}: {'; '.join(faults)}")
        self.channels[channel.id] = channel
        self._note_withdrawal(channel)

    def put_account(self, account: Account) -> None:
        """Keep an account's next state. Raises InvariantViolation for one that cannot be."""
        if faults := account_faults(account):
            raise InvariantViolation(f"account 0x{account.id.hex()}: {'; '.join(faults)}")
        self.accounts[account.id] = account

    def note(self, identifier: bytes, seq: int, number: int) -> None:
        """Remember which commit holds the message that used up a seq."""
        history = self._histories.get(identifier)
        if history is None:
            history = self._histories[identifier] = History()
        history.add(seq, number)
        self._changed_histories.add(identifier)

    def found(self, record: r.Founded) -> None:
        """Keep the journal's first record."""
        self.founded = self._founded[_TOTALS] = record

    def set_totals(self, **values: Any) -> None:
        """Set some of the totals."""
        self._totals[_TOTALS] = replace(self.totals, **values)

    def count(self, **added: int) -> None:
        """Add to some of the totals."""
        totals = self.totals
        self.set_totals(**{name: getattr(totals, name) + n for name, n in added.items()})

    # -- records --

    def apply(self, record: r.Record, number: int) -> None:
        """Apply one record of commit `number`.

        Raises Contradiction or InvariantViolation when it cannot follow from the state: a fault.
        """
        _HANDLERS[type(record)](self, record, number)

    def _apply_offer(self, record: r.OfferIssued, number: int) -> None:
        self.offers[number.to_bytes(8, "big")] = record

    def _apply_device(self, record: r.DeviceAdded, number: int) -> None:
        self.devices[record.device.encode()] = Device(record.payers, record.note, record.accounts)

    def _apply_account(self, record: r.AccountOpened, number: int) -> None:
        account = record.account
        if account.id in self.accounts:
            raise Contradiction(f"account 0x{account.id.hex()} was opened twice")
        self.accounts[account.id] = account
        self.by_payee.setdefault(account.payee, []).append(account.id)

    def _apply_open_received(self, record: r.OpenReceived, number: int) -> None:
        self.opens[record.device.encode()] = record

    def _apply_open_ended(self, record: r.OpenEnded, number: int) -> None:
        self.opens.pop(record.device.encode(), None)
        if record.nonce:
            nonces = (*self.deposits.get(record.channel, ()), record.nonce)
            self.deposits[record.channel] = nonces[-DEPOSITS_PER_CHANNEL_MAX:]

    def _apply_channel(self, record: r.ChannelTaken, number: int) -> None:
        action = record.action
        known = self.channels.get(action.id)
        after = open_channel(action) if known is None else reopen(known, action)
        if isinstance(after, Refusal):
            raise Contradiction(f"channel 0x{action.id.hex()} cannot be taken: {after.wire_name}")
        self.put_channel(after)
        if self.closed.pop(action.id, None) is not None:
            self._forget_used_refunds(action.id)
        if known is None:
            self.since[action.id] = record.at
            chain_effects.note_taken(self, action.id, action.position)
            self._recognise(action)

    def _apply_charged(self, record: r.Charged, number: int) -> None:
        reading = self._replayed(record, self.channels[record.id], record.ceiling, record.signature)
        outcome = self.charge(record.id, reading, number)
        if isinstance(outcome, Refusal) or outcome[1] != record.charged:
            raise JournalFault(f"reading {record.seq} of 0x{record.id.hex()} replays to {outcome}, not as journaled")

    def _apply_earned(self, record: r.Earned, number: int) -> None:
        reading = self._replayed(record, self.accounts[record.id], 0, b"")
        outcome = self.earn(record.id, reading, record.fee_basis_points, number)
        if isinstance(outcome, Refusal) or outcome[1] != record.earned:
            raise JournalFault(f"reading {record.seq} of 0x{record.id.hex()} replays to {outcome}, not as journaled")

    # -- states on disk --

    def load(self, kind: str, key: bytes, body: bytes) -> None:
        """Take one stored state in, at the start; those of one kind in the order of their keys."""
        if kind == _READINGS:
            block = decoded(kind, StoredReadings, body)
            self._blocks.setdefault(key[:-8], []).append((int.from_bytes(key[-8:], "big"), block))
            return
        table = self._tables.get(kind)
        if table is None:
            raise JournalFault(f"the journal holds states of an unknown kind {kind!r}")
        table.load(key, body)

    def loaded(self) -> None:
        """Rebuild what is derived, after the last stored state was taken in."""
        self.founded = self._founded.get(_TOTALS)
        totals = self.totals
        if totals.block_hash and not self.marks:  # stored by a version that kept none
            self.marks[chain_effects.block_key(totals.block)] = Mark(totals.block_hash, totals.block_time)
        for identifier, closing in (*self.closings.items(), *self.closed.items()):
            if closing.refund_amount and identifier not in self.refunds:  # stored by a version that kept the last one
                last = SignedRefund(closing.refund_nonce, closing.refund_amount, closing.refunded)
                self.refunds[identifier] = Refunds(signed=(last,))
        for channel in self.channels.values():
            self._note_withdrawal(channel)
        for account in self.accounts.values():
            self.by_payee.setdefault(account.payee, []).append(account.id)
        self._load_histories()

    def _load_histories(self) -> None:
        """Make histories of the stored blocks; what earlier versions stored is taken over."""
        for identifier in (*self.channels, *self.accounts):
            if identifier in self._blocks:
                self._histories[identifier] = History(self._blocks[identifier])
        self._blocks.clear()
        for identifier in list(self._old_histories):
            self._histories.pop(identifier, None)
            for seq, commit in self._old_histories[identifier].readings():
                self.note(identifier, seq, commit)
            del self._old_histories[identifier]

    @property
    def changed(self) -> int:
        """How many states changed since they were last taken to be stored."""
        return sum(table.changed for table in self._tables.values()) + len(self._changed_histories)

    def take_dirty(self) -> list[tuple[str, bytes, object | None]]:
        """Return and forget every state that changed since the last call."""
        self._add_up()
        changed: list[tuple[str, bytes, object | None]] = [
            (_READINGS, identifier + seq.to_bytes(8, "big"), block)
            for identifier in self._changed_histories
            for seq, block in self._histories[identifier].changes()
        ]
        self._changed_histories.clear()
        return changed + [row for table in self._tables.values() for row in table.take_dirty()]

    # -- inside --

    def _replayed(
        self, record: r.Charged | r.Earned, holder: Channel | Account, ceiling: int, signature: bytes
    ) -> ReceiveReading:
        terms = self.terms_of(record.offer, holder.service)
        return ReceiveReading(
            seq=record.seq,
            register=record.register,
            time=record.time,
            offer=record.offer,
            ceiling=ceiling,
            signature=signature,
            device=holder.device,
            signed=True,
            terms=terms,
        )

    # Set by the owner of the offers: what a reading's offer said about a service, for replay.
    terms_of: Callable[[OfferId, str], Any]

    def _recognise(self, action: ActionOpen) -> None:
        """Move what was claimed on a channel before this journal from the lane's unknown past to the channel."""
        lane = action.config.receiver
        past = self.foreign.get(lane, 0)
        if action.claimed:
            if past < action.claimed:
                raise Contradiction(f"channel 0x{action.id.hex()}: {action.claimed} claimed and no lane got it")
            self.foreign[lane] = past - action.claimed

    def _forget_used_refunds(self, identifier: ChannelId) -> None:
        """Drop refunds whose nonce is used up; until the channel was opened again a reorganisation could revive them.

        One that was signed for a nonce still to come stays: a later closing comes to that nonce, and uses it up.
        """
        known = self.refunds.get(identifier)
        if known is not None:
            left = tuple(each for each in known.signed if each.nonce >= known.nonce)
            self.refunds[identifier] = replace(known, signed=left)

    def _note_withdrawal(self, channel: Channel) -> None:
        if channel.withdrawable:
            self.withdrawing.add(channel.id)
        else:
            self.withdrawing.discard(channel.id)

    def _put_reading(self, channel: Channel, seq: int, number: int) -> None:
        self.channels[channel.id] = channel
        self.note(channel.id, seq, number)
        self._payments += 1


_HANDLERS: dict[type, Callable[[Ledger, Any, int], None]] = {
    r.OfferIssued: Ledger._apply_offer,
    r.DeviceAdded: Ledger._apply_device,
    r.AccountOpened: Ledger._apply_account,
    r.OpenReceived: Ledger._apply_open_received,
    r.OpenEnded: Ledger._apply_open_ended,
    r.ChannelTaken: Ledger._apply_channel,
    r.Charged: Ledger._apply_charged,
    r.Earned: Ledger._apply_earned,
    **chain_effects.HANDLERS,
    **cycle_effects.HANDLERS,
}
