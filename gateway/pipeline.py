"""The pipeline: from MQTT frames to receipts, a batch at a time.

    frames → decode → verify (threads, no GIL) → apply (no await) → one commit → PUBACK and receipts

Nothing is acknowledged or answered before its commit is on disk. If the commit fails, the process stops with
nothing acknowledged, and the broker delivers the batch again.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from time import monotonic
from typing import TypeAlias

from channels.digests import close_digest, reading_digest, voucher_digest
from channels.machine import required_ceiling
from channels.refusals import Refusal
from channels.signatures import is_signed_by
from channels.state import Account, Channel, ReceiveReading
from channels.types import Address, Digest, Network, Signature
from devices.client import DeviceLink, Frame
from devices.codec import decode
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
from gateway.openings import Openings
from gateway.receipts import account_receipt, bare_refusal, channel_receipt, stored_receipt
from gateway.records import ChannelClosing, Charged, Earned, Record
from gateway.terms import TermsBook

# A thread hop costs about 60 µs and a verification 50 µs: fewer checks than this per thread do not pay.
CHECKS_PER_THREAD = 8
THREADS = 2

Check: TypeAlias = tuple[Digest, Signature, Address]
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


@dataclass(slots=True)
class _Batch:
    """What one commit will hold and what will be answered after it."""

    number: int
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
        self._network = network
        self._gateway = gateway
        self._fee_basis_points = fee_basis_points
        self._readings_signed = readings_signed
        self._batch_max = batch_max
        self._gathering = Gathering(window_s)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="verify")
        self._records_of = lru_cache(maxsize=8)(books.journal.records)  # a replayed batch is a few commits
        self._earlier_accepted: dict[tuple[bytes, int], Accepted] = {}
        self._handled: tuple[Sequence[tuple[str, Encoding, Receipt]], float] = ((), 0.0)
        self.counters = Counters()
        self.on_handled: Callable[[Handled], None] = lambda handled: None
        openings.on_refused = self._refused

    async def run(self) -> None:
        """Process frames until the link stops."""
        gathering = self._gathering
        while frames := await self._link.receive(
            self._batch_max, gathering.window_s, enough=ENOUGH, silence_s=gathering.silence_s
        ):
            taken = monotonic()
            gathering.note([frame.received for frame in frames], taken)
            answers = await self.process(frames)
            self._link.acknowledge(frames)
            await self._link.publish_receipts(answers)
            outcomes, commit_s = self._handled
            self.on_handled(Handled(frames, outcomes, taken, monotonic(), commit_s))

    async def process(self, frames: Sequence[Frame]) -> list[tuple[str, bytes]]:
        """Take one batch through to its commit; returns the receipts to send, (device, payload)."""
        messages = [decode(frame.leaf, frame.payload) for frame in frames]
        holders = [self._holder(message) for message in messages]
        checks = [self._checks(*pair) for pair in zip(messages, holders, strict=True)]
        verdicts = await self._verify(checks)
        self._earlier_accepted = await self._look_back(messages, verdicts)
        batch = _Batch(self._books.next_number)
        with self._books.all_or_nothing():
            for frame, message, holder, signed in zip(frames, messages, holders, verdicts, strict=True):
                self._apply(batch, frame, message, holder is not None, signed)
        if batch.records:
            self._books.journal_applied(batch.records)
        # Also without records of its own: receipts tell states that other commits have led to.
        waiting = monotonic()
        await self._books.journal.durable()
        self._handled = (batch.answers, monotonic() - waiting)
        self._openings.committed()
        self._closings.committed()
        return [(device, encode_receipt(receipt, encoding)) for device, encoding, receipt in batch.answers]

    # -- signatures --

    def _holder(self, message: Message | Undecodable) -> Channel | Account | None:
        if isinstance(message, Usage | Close):
            return self._books.ledger.channels.get(message.id)
        if isinstance(message, Earn):
            return self._books.ledger.accounts.get(message.id)
        return None

    def _checks(self, message: Message | Undecodable, holder: Channel | Account | None) -> list[Check] | None:
        """Return the signatures to verify, or None when a required one is missing."""
        if isinstance(message, Usage) and isinstance(holder, Channel):
            signer = holder.config.payer_authorizer
            digest = voucher_digest(message.id, message.ceiling, self._network)
            checks: list[Check] = [(digest, message.signature, signer)]
            if message.reading_signature is None:
                return None if self._readings_signed else checks
            checks.append((self._reading_digest(message, message.ceiling), message.reading_signature, signer))
            return checks
        if isinstance(message, Earn) and isinstance(holder, Account):
            return [(self._reading_digest(message, 0), message.reading_signature, holder.meter_key)]
        if isinstance(message, Close) and isinstance(holder, Channel):
            digest = close_digest(message.id, self._gateway, holder.device, message.seq, self._network)
            return [(digest, message.signature, holder.config.payer_authorizer)]
        return []

    def _reading_digest(self, message: Usage | Earn, ceiling: int) -> Digest:
        return reading_digest(
            message.id, message.seq, message.register, message.time, message.offer, ceiling, self._network
        )

    async def _verify(self, checks: list[list[Check] | None]) -> list[bool]:
        """Verify every message's signatures; libsecp256k1 releases the GIL, so threads run in parallel."""
        if sum(map(bool, checks)) < 2 * CHECKS_PER_THREAD:
            return _verified(checks)
        size = -(-len(checks) // THREADS)
        loop = asyncio.get_running_loop()
        parts = await asyncio.gather(
            *(
                loop.run_in_executor(self._threads, _verified, checks[start : start + size])
                for start in range(0, len(checks), size)
            )
        )
        return [verdict for part in parts for verdict in part]

    # -- replays --

    async def _look_back(
        self, messages: Sequence[Message | Undecodable], verdicts: Sequence[bool]
    ) -> dict[tuple[bytes, int], Accepted]:
        """Return the accepted readings and closes that this batch repeats, read from the journal in a thread.

        Only this pipeline accepts readings, so none can come in between.
        """
        wanted: dict[int, set[tuple[bytes, int]]] = {}
        for message, signed in zip(messages, verdicts, strict=True):
            if signed and isinstance(message, (Usage, Earn, Close)):
                commit = self._books.ledger.commit_of(message.id, message.seq)
                if commit is not None:
                    wanted.setdefault(commit, set()).add((message.id, message.seq))
        if not wanted:
            return {}
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read_back, wanted)

    def _read_back(self, wanted: dict[int, set[tuple[bytes, int]]]) -> dict[tuple[bytes, int], Accepted]:
        found: dict[tuple[bytes, int], Accepted] = {}
        for commit, keys in wanted.items():
            for record in self._records_of(commit):
                if isinstance(record, (Charged, Earned, ChannelClosing)) and (record.id, record.seq) in keys:
                    found[record.id, record.seq] = record
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
        reading = self._reading(message, channel, device, signed, repeats, message.ceiling, message.signature)
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
        reading = self._reading(message, account, device, signed, repeats, 0, b"")
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
            chain_stale=self._terms.chain_stale,
        )

    def _earlier(self, batch: _Batch, message: Usage | Earn | Close) -> tuple[Accepted, int] | None:
        """Return what was accepted under this seq, with its commit, if it is still kept."""
        key = (message.id, message.seq)
        commit = self._books.ledger.commit_of(*key)
        if commit is None:
            return None
        return (batch.accepted.get(key) or self._earlier_accepted[key]), commit

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


def _verified(checks: list[list[Check] | None]) -> list[bool]:
    return [each is not None and all(is_signed_by(*check) for check in each) for each in checks]


def _same_reading(record: Charged | Earned, message: Usage | Earn) -> bool:
    return (record.register, record.offer) == (message.register, message.offer)


def _same_usage(record: Charged, message: Usage) -> bool:
    return _same_reading(record, message) and record.ceiling == message.ceiling
