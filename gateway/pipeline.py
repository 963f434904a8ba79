"""The pipeline: from MQTT frames to receipts, a batch at a time.

    frames → judge (decode, verify; on threads) → apply (no await) → one commit → PUBACK and receipts

Nothing is acknowledged or answered before its commit is on disk. If the commit fails, the process stops with
nothing acknowledged, and the broker delivers the batch again.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from time import monotonic
from typing import NamedTuple, TypeAlias

from channels.machine import required_ceiling
from channels.refusals import Refusal
from channels.state import Account, Channel, ReceiveReading
from channels.types import Network, Signature
from devices.client import DeviceLink, Frame
from devices.messages import (
    Close,
    Earn,
    Encoding,
    Message,
    Open,
    OpenEarner,
    Receipt,
    State,
    Undecodable,
    Usage,
    undecodable_receipt,
)
from devices.receipts import encode_receipt
from devices.topics import STATE
from gateway.books import Books
from gateway.closings import Closings
from gateway.errors import JournalFault
from gateway.gathering import ENOUGH, Gathering
from gateway.history import Block, readings
from gateway.judging import Judge, Judged
from gateway.openings import Openings
from gateway.receipts import account_receipt, bare_refusal, channel_receipt, stored_receipt
from gateway.records import ChannelClosing, Charged, Earned, Record
from gateway.terms import TermsBook

# What used up a seq.
Accepted: TypeAlias = Charged | Earned | ChannelClosing


@dataclass(slots=True)
class Counters:
    """What happened since the start; for the operator, never for money."""

    accepted: int = 0
    duplicates: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    states: int = 0


@dataclass(frozen=True, slots=True)
class Handled:
    """A batch whose receipts have been handed over; for the operator's figures, never for money."""

    frames: Sequence[Frame]
    answers: Sequence[tuple[str, Encoding, Receipt]]
    taken: float  # monotonic seconds: the pipeline took it from the link
    done: float  # its receipts were handed over
    commit_s: float  # how long it waited for the disk


class _Taken(NamedTuple):
    """A batch that was taken from the link and judged."""

    frames: Sequence[Frame]
    judged: Sequence[Judged]
    at: float  # monotonic seconds: it was taken


@dataclass(slots=True)
class _Batch:
    """What one commit will hold and what will be answered after it."""

    number: int
    chain_stale: bool
    records: list[Record] = field(default_factory=list)
    accepted: dict[tuple[bytes, int], Accepted] = field(default_factory=dict)
    answers: list[tuple[str, Encoding, Receipt]] = field(default_factory=list)

    @property
    def current(self) -> int:
        """The commit that holds the state as it is now: this one once it has a record, else the one before."""
        return self.number if self.records else self.number - 1


class Pipeline:
    """Feeds the books from the device link."""

    def __init__(
        self,
        books: Books,
        link: DeviceLink,
        terms: TermsBook,
        openings: Openings,
        closings: Closings,
        network: Network,
        *,
        gateway: str,
        fee_basis_points: int,
        readings_signed: bool,
        batch_max: int,
        window_s: float,
    ) -> None:
        self._books = books
        self._link = link
        self._terms = terms
        self._openings = openings
        self._closings = closings
        self._judge = Judge(books.ledger, network, gateway=gateway, readings_signed=readings_signed)
        self._fee_basis_points = fee_basis_points
        self._batch_max = batch_max
        self._gathering = Gathering(window_s)
        self._records_of = lru_cache(maxsize=8)(books.journal.records)  # a replayed batch is a few commits
        self._earlier_accepted: dict[tuple[bytes, int], tuple[Accepted, int]] = {}
        self._handled: tuple[Sequence[tuple[str, Encoding, Receipt]], float] = ((), 0.0)
        self.counters = Counters()
        self.on_handled: Callable[[Handled], None] = lambda handled: None
        openings.on_refused = self._refused

    async def run(self) -> None:
        """Process frames until the link stops: while one batch is committed, the next one is judged."""
        ahead: asyncio.Queue[_Taken | None] = asyncio.Queue(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._judge_ahead(ahead))
            while (batch := await ahead.get()) is not None:
                ahead.task_done()
                answers = await self._commit(batch.frames, batch.judged)
                self._link.acknowledge(batch.frames)
                await self._link.publish_receipts(answers)
                outcomes, commit_s = self._handled
                self.on_handled(Handled(batch.frames, outcomes, batch.at, monotonic(), commit_s))

    async def _judge_ahead(self, ahead: "asyncio.Queue[_Taken | None]") -> None:
        """Take what has arrived and judge it, one batch ahead: what comes meanwhile makes the next one larger."""
        gathering = self._gathering
        while frames := await self._link.receive(
            self._batch_max, gathering.window_s, enough=ENOUGH, silence_s=gathering.silence_s
        ):
            at = monotonic()
            gathering.note([frame.received for frame in frames], at)
            await ahead.put(_Taken(frames, await self._judge.batch(frames), at))
            await ahead.join()
        await ahead.put(None)

    async def process(self, frames: Sequence[Frame]) -> list[tuple[str, bytes]]:
        """Take one batch through to its commit; returns the receipts to send, (device, payload)."""
        return await self._commit(frames, await self._judge.batch(frames))

    async def _commit(self, frames: Sequence[Frame], judged: Sequence[Judged]) -> list[tuple[str, bytes]]:
        # A channel or account that was not known then: the batch before may have opened it.
        judged = [each if each.known else self._judge.again(each.message) for each in judged]
        self._earlier_accepted = await self._look_back(judged)
        batch = _Batch(self._books.next_number, self._terms.chain_stale)
        with self._books.all_or_nothing():
            for frame, each in zip(frames, judged, strict=True):
                self._apply(batch, frame, *each)
        if batch.records:
            self._books.journal_applied(batch.records)
        # Also without records of its own: receipts tell states that other commits have led to.
        waiting = monotonic()
        await self._books.journal.durable()
        self._handled = (batch.answers, monotonic() - waiting)
        self._openings.committed()
        self._closings.committed()
        return [(device, encode_receipt(receipt, encoding)) for device, encoding, receipt in batch.answers]

    # -- replays --

    async def _look_back(self, judged: Sequence[Judged]) -> dict[tuple[bytes, int], tuple[Accepted, int]]:
        """Return the accepted readings and closes that this batch repeats, with their commits, read in a thread.

        Only this pipeline accepts readings, so none can come in between.
        """
        wanted: dict[bytes, set[int]] = {}
        kept: dict[bytes, Sequence[Block]] = {}
        for message, _, signed in judged:
            if signed and isinstance(message, Usage | Earn | Close):
                blocks = self._books.ledger.kept(message.id, message.seq)
                if blocks:
                    kept[message.id] = blocks
                    wanted.setdefault(message.id, set()).add(message.seq)
        return await asyncio.to_thread(self._read_back, wanted, kept) if wanted else {}

    def _read_back(
        self, wanted: dict[bytes, set[int]], kept: dict[bytes, Sequence[Block]]
    ) -> dict[tuple[bytes, int], tuple[Accepted, int]]:
        commits: dict[int, set[tuple[bytes, int]]] = {}
        for identifier, seqs in wanted.items():
            for block in kept[identifier]:
                for seq, commit in readings(block):
                    if seq in seqs:
                        commits.setdefault(commit, set()).add((identifier, seq))
        found: dict[tuple[bytes, int], tuple[Accepted, int]] = {}
        for commit, keys in commits.items():
            for record in self._records_of(commit):
                if isinstance(record, (Charged, Earned, ChannelClosing)) and (record.id, record.seq) in keys:
                    found[record.id, record.seq] = record, commit
            if not keys <= found.keys():
                raise JournalFault(f"commit {commit} lacks a reading that was accepted in it: restore a backup")
        return found

    # -- one message; nothing in here awaits --

    def _apply(self, batch: _Batch, frame: Frame, message: Message | Undecodable, known: bool, signed: bool) -> None:
        match message:
            case Undecodable():
                self._refused(message.refusal)
                if frame.leaf == STATE:
                    return  # never answered
                receipt = undecodable_receipt(message)
            case Usage() | Earn() | Close() if not known:
                receipt = self._bare(Refusal.UNKNOWN_CHANNEL, message)
            case Usage():
                receipt = self._usage(batch, frame.device, message, signed)
            case Earn():
                receipt = self._earn(batch, frame.device, message, signed)
            case Close():
                answer = self._close(batch, frame.device, message, signed)
                if answer is None:
                    return  # answered when the channel is closed
                receipt = answer
            case Open() | OpenEarner():
                outcome = self._openings.receive(frame.device, message, frame.payload, batch.records, batch.number)
                if outcome is None:
                    return  # answered when its deposit is final
                receipt = outcome
                if receipt.reason is not None:
                    self._refused(receipt.reason)
            case State():
                self.counters.states += 1
                return
        batch.answers.append((frame.device, message.encoding, receipt))

    def _usage(self, batch: _Batch, device: str, message: Usage, signed: bool) -> Receipt:
        ledger = self._books.ledger
        channel = ledger.channels[message.id]
        if channel.device != device:
            return self._bare(Refusal.WRONG_DEVICE, message)
        repeats = False
        if signed and (earlier := self._earlier(batch, message)) is not None:
            record, commit = earlier
            if isinstance(record, Charged) and _same_usage(record, message):
                return self._duplicate(record, commit, message)
            repeats = True
        reading = self._reading(batch, message, channel, device, signed, repeats, message.ceiling, message.signature)
        outcome = ledger.charge(message.id, reading, batch.number)
        after = ledger.channels[message.id]
        if isinstance(outcome, Refusal):
            required = required_ceiling(channel, reading) if outcome is Refusal.CEILING_TOO_LOW else None
            self._refused(outcome)
            return channel_receipt(after, message.seq, message.answers, batch.current, outcome, required)
        charged = Charged(
            id=message.id,
            seq=message.seq,
            register=message.register,
            time=message.time,
            offer=message.offer,
            ceiling=message.ceiling,
            signature=message.signature,
            reading_signature=message.reading_signature or b"",
            charged=after.charged,
            remainder=after.meter.remainder,
            balance=after.usable_balance,
            offset=after.offset,
            held_ceiling=after.ceiling,
            held_signature=b"" if after.ceiling_signature == message.signature else after.ceiling_signature,
        )
        self._accepted(batch, charged)
        return channel_receipt(after, message.seq, message.answers, batch.number)

    def _earn(self, batch: _Batch, device: str, message: Earn, signed: bool) -> Receipt:
        ledger = self._books.ledger
        account = ledger.accounts[message.id]
        if account.device != device:
            return self._bare(Refusal.WRONG_DEVICE, message)
        repeats = False
        if signed and (earlier := self._earlier(batch, message)) is not None:
            record, commit = earlier
            if isinstance(record, Earned) and _same_reading(record, message):
                return self._duplicate(record, commit, message)
            repeats = True
        reading = self._reading(batch, message, account, device, signed, repeats, 0, b"")
        outcome = ledger.earn(message.id, reading, self._fee_basis_points, batch.number)
        after = ledger.accounts[message.id]
        if isinstance(outcome, Refusal):
            self._refused(outcome)
            return account_receipt(after, message.seq, message.answers, batch.current, outcome)
        earned = Earned(
            id=message.id,
            seq=message.seq,
            register=message.register,
            time=message.time,
            offer=message.offer,
            reading_signature=message.reading_signature,
            fee_basis_points=self._fee_basis_points,
            earned=after.earned,
            remainder=after.meter.remainder,
            offset=after.offset,
        )
        self._accepted(batch, earned)
        return account_receipt(after, message.seq, message.answers, batch.number)

    def _close(self, batch: _Batch, device: str, message: Close, signed: bool) -> Receipt | None:
        if self._books.ledger.channels[message.id].device != device:
            return self._bare(Refusal.WRONG_DEVICE, message)
        earlier = self._earlier(batch, message) if signed else None
        before = None if earlier is None else earlier[0]
        outcome = self._closings.receive(device, message, signed, before, batch.records, batch.number)
        if isinstance(outcome, ChannelClosing):
            batch.accepted[outcome.id, outcome.seq] = outcome
            return None
        if outcome is not None:
            if outcome.reason is None:
                self.counters.duplicates += 1
            else:
                self._refused(outcome.reason)
        return outcome

    def _reading(
        self,
        batch: _Batch,
        message: Usage | Earn,
        holder: Channel | Account,
        device: str,
        signed: bool,
        repeats: bool,
        ceiling: int,
        signature: Signature,
    ) -> ReceiveReading:
        return ReceiveReading(
            seq=message.seq,
            register=message.register,
            time=message.time,
            offer=message.offer,
            ceiling=ceiling,
            signature=signature,
            device=device,
            signed=signed,
            terms=self._terms.terms(message.offer, holder.service),
            repeats_seq=repeats,
            chain_stale=batch.chain_stale,
        )

    def _earlier(self, batch: _Batch, message: Usage | Earn | Close) -> tuple[Accepted, int] | None:
        """Return what was accepted under this seq, with its commit, if it is still kept."""
        key = (message.id, message.seq)
        accepted = batch.accepted.get(key)
        return self._earlier_accepted.get(key) if accepted is None else (accepted, batch.number)

    # -- outcomes --

    def _accepted(self, batch: _Batch, record: Charged | Earned) -> None:
        batch.records.append(record)
        batch.accepted[record.id, record.seq] = record
        self.counters.accepted += 1

    def _duplicate(self, record: Charged | Earned, commit: int, message: Usage | Earn) -> Receipt:
        self.counters.duplicates += 1
        return stored_receipt(record, commit, message.answers)

    def _refused(self, refusal: Refusal) -> None:
        self.counters.refused[refusal.wire_name] += 1

    def _bare(self, refusal: Refusal, message: Usage | Earn | Close) -> Receipt:
        self._refused(refusal)
        return bare_refusal(refusal, message.answers, message.id, message.seq, isinstance(message, Earn))


def _same_reading(record: Charged | Earned, message: Usage | Earn) -> bool:
    return (record.register, record.offer) == (message.register, message.offer)


def _same_usage(record: Charged, message: Usage) -> bool:
    return _same_reading(record, message) and record.ceiling == message.ceiling
