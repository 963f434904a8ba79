"""Closing channels: asked for by the device or the operator, claimed and refunded in a cycle, answered at the end.

A `close` is journaled with the batch it came in and takes effect at once: readings are refused from then on. The
settler carries it out. In one transaction per lane the rest of what is owed is claimed and the rest of the money
goes back to the payer; what was signed is journaled before. The channel is closed, and the device answered, when
the chain shows, final, that nothing claimable is left and that no refund ever signed is valid.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from channels.digests import refund_digest
from channels.machine import transition
from channels.refusals import Refusal
from channels.signatures import sign
from channels.state import Channel, Phase, ReceiveClose
from channels.types import SETTLEMENT_ADDRESS, ChannelId, Network
from devices.messages import Close, Encoding, Receipt, Status
from devices.receipts import encode_receipt
from devices.registry import Registry
from gateway.batches import Work
from gateway.books import Books
from gateway.enrolment import BadRequest
from gateway.entries import Closing
from gateway.keys import KeyRing
from gateway.receipts import channel_receipt, closed_receipt
from gateway.records import ChannelClosed, ChannelClosing, Charged, ClaimsSigned, Earned, Record, RefundSigned
from gateway.refund_nonces import RefundNonces
from gateway.watcher import Watcher
from settlement import calls
from settlement.calls import VoucherClaim
from settlement.closing import ClosingPosition, FinalStep, Refund, closing_batches, next_step
from settlement.port import Call, ExecutionLayer

# The same close in other bytes (another encoding, say) is answered too; a device has no use for more than a few.
ANSWERS_MAX = 8

Answer = Callable[[str, bytes], Awaitable[None]]
# seq and bytes of a close that waits for its answer: (seq, answers, encoding)
Asked = tuple[int, bytes, Encoding]


class Closings:
    """Takes closes, says what a cycle has to send for them, and ends them."""

    def __init__(
        self,
        books: Books,
        registry: Registry,
        layer: ExecutionLayer,
        watcher: Watcher,
        keys: KeyRing,
        network: Network,
        *,
        answer: Answer,
        spawn: Callable[[Awaitable[None]], None],
    ) -> None:
        self._books = books
        self._registry = registry
        self._watcher = watcher
        self._nonces = RefundNonces(books, layer, watcher)
        self._keys = keys
        self._network = network
        self._answer = answer
        self._spawn = spawn
        self._asked: dict[ChannelId, dict[Asked, None]] = {}  # beside the one that the ledger keeps
        self._attempted: dict[ChannelId, FinalStep] = {}
        self._taken = False
        self._due = False
        self._ended = asyncio.Condition()
        self.on_close: Callable[[], None] = lambda: None

    @property
    def under_way(self) -> bool:
        """True while a channel is closing."""
        return bool(self._books.ledger.closings)

    @property
    def pressing(self) -> bool:
        """True while a cycle has something new to do here, until one has come to its end."""
        return self._due

    # -- in the pipeline: no await --

    def receive(
        self,
        device: str,
        message: Close,
        signed: bool,
        earlier: Charged | Earned | ChannelClosing | None,
        records: list[Record],
        number: int,
    ) -> Receipt | ChannelClosing | None:
        """Decide on a close of a channel of this device; `earlier` is what was accepted under its seq.

        Returns a refusal, a duplicate's receipt, the record that it was accepted with (applied, and put into
        `records` of commit `number`), or None for one that is under way already. The last two are answered when
        the channel is closed.
        """
        ledger = self._books.ledger
        channel = ledger.channels[message.id]
        current = number if records else number - 1  # the commit that holds the state as it is now
        if isinstance(earlier, ChannelClosing):
            return self._again(channel, message, current)
        outcome = transition(channel, ReceiveClose(message.seq, device, signed, repeats_seq=earlier is not None))
        if isinstance(outcome, Channel) and self._depositing(channel):
            outcome = Refusal.DEPOSIT_PENDING  # it would arrive in a closed channel
        if isinstance(outcome, Refusal):
            return channel_receipt(channel, message.seq, message.answers, current, outcome)
        before = ledger.closings.get(message.id)
        if before is not None and before.seq:
            self._wait(message.id, _asked(before))
        cbor = message.encoding is Encoding.CBOR
        record = ChannelClosing(message.id, message.seq, message.signature, message.answers, cbor)
        ledger.apply(record, number)
        records.append(record)
        self._taken = True
        return record

    def _again(self, channel: Channel, message: Close, current: int) -> Receipt | None:
        if channel.phase is Phase.CLOSING:
            self._wait(channel.id, (message.seq, message.answers, message.encoding))
            return None
        return closed_receipt(channel, message.seq, message.answers, current, Status.DUPLICATE)

    def _wait(self, identifier: ChannelId, asked: Asked) -> None:
        waiting = self._asked.setdefault(identifier, {})
        if len(waiting) < ANSWERS_MAX:
            waiting[asked] = None

    def _depositing(self, channel: Channel) -> bool:
        pending = self._registry.pending(channel.device)
        return pending is not None and pending.channel == channel.id

    def committed(self) -> None:
        """The batch with accepted closes is on disk: have them carried out."""
        if self._taken:
            self._taken = False
            self._press()

    def resume(self) -> None:
        """Take up the closings that a restart found in the journal."""
        if self.under_way:
            self._press()

    def _press(self) -> None:
        self._due = True
        self.on_close()

    # -- the operator --

    async def close(self, device: str, channel: ChannelId | None) -> list[ChannelId]:
        """Close one channel of a device, or all that are open; returns whom to wait for. Raises BadRequest."""
        ledger = self._books.ledger
        own = [each for each in ledger.channels.values() if each.device == device]
        if channel is None:
            wanted = [each for each in own if each.phase not in (Phase.OPENING, Phase.CLOSED)]
        else:
            wanted = [each for each in own if each.id == channel]
        if not wanted:
            which = "open channel" if channel is None else f"channel 0x{channel.hex()}"
            raise BadRequest(f"device {device} has no {which}")
        for each in wanted:
            if each.phase is Phase.OPENING or self._depositing(each):
                raise BadRequest(f"a deposit for channel 0x{each.id.hex()} is on its way; close it when that is final")
        closing = [each.id for each in wanted if each.phase in (Phase.OPEN, Phase.WITHDRAWING)]
        if closing:
            await self._books.write([ChannelClosing(identifier, 0, b"", b"", False) for identifier in closing])
            self._press()
        return [each.id for each in wanted]

    async def ended(self, ids: Sequence[ChannelId]) -> None:
        """Wait until none of these channels is closing."""
        async with self._ended:
            await self._ended.wait_for(lambda: not any(each in self._books.ledger.closings for each in ids))

    # -- in a cycle --

    async def works(self) -> list[Work[FinalStep]]:
        """Return what is to be sent for the closing channels; what that signs is journaled when this returns.

        Channels that failed before go alone, and then claim first: nobody's refund holds up a claim.
        """
        ledger = self._books.ledger
        nonces = await self._nonces.ask()
        found = (self._step(identifier, nonce) for identifier, nonce in nonces.items())
        steps = [step for step in found if step is not None and not self._rests(step)]
        suspects = [step for step in steps if step.id in ledger.aside]
        # What was signed before may be outstanding: in the same batch as then it is the same call, and only awaited.
        again = [step for step in steps if step.id not in ledger.aside and self._signed(step)]
        first = [step for step in steps if step.id not in ledger.aside and not self._signed(step)]
        await self._sign(first + suspects)
        self._attempted |= {step.id: step for step in steps}
        batches = (*closing_batches(again), *closing_batches(first), *closing_batches(suspects, 1))
        return [Work("close", rows, self._call, _key) for rows in batches]

    async def finish(self) -> None:
        """Close what the chain shows as done and answer its devices; ask for another cycle if there is more to do."""
        nonces = await self._nonces.ask()
        done, fresh = {}, False
        for identifier, nonce in nonces.items():
            if identifier in self._books.ledger.closings:
                step = self._step(identifier, nonce)
                if step is None:
                    done[identifier] = nonce
                elif step != self._attempted.get(identifier):
                    fresh = True
        # Those whose nonce is not certain are asked for again, but not at once.
        self._due = fresh or bool(self._books.ledger.closings.keys() - nonces.keys())
        if done:
            await self._end(done)
        if fresh:
            self.on_close()

    def _step(self, identifier: ChannelId, nonce: int) -> FinalStep | None:
        ledger = self._books.ledger
        channel, closing = ledger.channels[identifier], ledger.closings[identifier]
        position = ClosingPosition(
            id=identifier,
            lane=channel.lane,
            owed=channel.owed,
            committed=channel.committed,
            claimed=channel.claimed,
            ceiling=channel.ceiling,
            balance=channel.balance,
            withdrawing=channel.withdrawable,
            nonce=nonce,
            signed=self._signed_refunds(identifier),
            refunds=closing.refunds,
        )
        return next_step(position, claim_first=identifier in ledger.aside)

    def _rests(self, step: FinalStep) -> bool:
        """Tell whether this very step failed before and is left out once more."""
        ledger = self._books.ledger
        aside = ledger.aside.get(step.id)
        if aside is None or self._attempted.get(step.id) != step:
            return False
        return ledger.totals.cycles < aside.retry_cycle

    def _signed(self, step: FinalStep) -> bool:
        ledger = self._books.ledger
        claimed = step.total_claimed is None or step.total_claimed <= ledger.channels[step.id].committed
        return claimed and (step.refund is None or step.refund in self._signed_refunds(step.id))

    def _signed_refunds(self, identifier: ChannelId) -> tuple[Refund, ...]:
        known = self._books.ledger.refunds.get(identifier)
        return () if known is None else tuple(Refund(each.nonce, each.amount) for each in known.signed)

    async def _sign(self, steps: Sequence[FinalStep]) -> None:
        """Journal the refunds that are about to be signed for the first time; claims are, with their transaction."""
        refunds = [
            RefundSigned(step.id, step.refund.nonce, step.refund.amount)
            for step in steps
            if step.refund is not None and step.refund not in self._signed_refunds(step.id)
        ]
        if refunds:
            await self._books.write(refunds)

    def _call(self, rows: Sequence[FinalStep]) -> Call:
        channels = self._books.ledger.channels
        claims = [_claim(channels[row.id], row.total_claimed) for row in rows if row.total_claimed is not None]
        parts = [calls.claim(claims)] if claims else []
        parts += [self._refund(channels[row.id], row.refund) for row in rows if row.refund is not None]
        data = parts[0] if len(parts) == 1 else calls.multicall(parts)
        signed = tuple((row.id, row.total_claimed) for row in rows if row.total_claimed is not None)
        attached = (ClaimsSigned(signed),) if signed else ()
        return Call(self._keys.lanes[rows[0].lane].address, SETTLEMENT_ADDRESS, data, attached=attached)

    def _refund(self, channel: Channel, refund: Refund) -> bytes:
        digest = refund_digest(channel.id, refund.nonce, refund.amount, self._network)
        signature = sign(digest, self._keys.authorizer.private)
        return calls.refund_with_signature(channel.config, refund.amount, refund.nonce, signature)

    async def _end(self, ids: Mapping[ChannelId, int]) -> None:
        """Close channels, given with their refund nonces."""
        number = self._books.next_number
        closed = [ChannelClosed(identifier, self._watcher.block, nonce) for identifier, nonce in ids.items()]
        written = self._books.write([*self._watcher.seen(), *closed])
        # Built in the same step: the receipts tell the state as of this commit, not of later ones.
        answers = [answer for identifier in ids for answer in self._answers(identifier, number)]
        for identifier in ids:
            self._asked.pop(identifier, None)
            self._attempted.pop(identifier, None)
        await written
        if answers:
            self._spawn(self._tell(answers))
        async with self._ended:
            self._ended.notify_all()

    def _answers(self, identifier: ChannelId, number: int) -> list[tuple[str, bytes]]:
        channel, closing = self._books.ledger.channels[identifier], self._books.ledger.closed[identifier]
        waiting = dict(self._asked.get(identifier, ()))
        if closing.seq:
            waiting[_asked(closing)] = None
        found = []
        for seq, answers, encoding in waiting:
            # A later close than this one was taken meanwhile: that one is the closing's own.
            status = Status.ACCEPTED if seq == closing.seq else Status.DUPLICATE
            receipt = closed_receipt(channel, seq, answers, number, status)
            found.append((channel.device, encode_receipt(receipt, encoding)))
        return found

    async def _tell(self, answers: Sequence[tuple[str, bytes]]) -> None:
        for device, payload in answers:
            await self._answer(device, payload)


def parse_close(body: Any) -> ChannelId | None:
    """Return the channel in {"channel"?}, None when it names none. Raises BadRequest."""
    if not isinstance(body, Mapping):
        raise BadRequest("expected an object")
    channel = body.get("channel")
    if channel is None:
        return None
    if not isinstance(channel, str) or not re.fullmatch(r"0x[0-9a-fA-F]{64}", channel, re.ASCII):
        raise BadRequest(f"channel: {channel!r} is not 0x and 64 hex digits")
    return bytes.fromhex(channel[2:])


def _asked(closing: Closing) -> Asked:
    return closing.seq, closing.answers, Encoding.CBOR if closing.cbor else Encoding.JSON


def _claim(channel: Channel, total_claimed: int) -> VoucherClaim:
    return VoucherClaim(channel.config, channel.ceiling, channel.ceiling_signature, total_claimed)


def _key(step: FinalStep) -> bytes:
    return step.id
