"""Following what is outstanding to its end: one poll for everything, sent again, replaced at a higher fee, booked.

Polling has no task of its own. Whoever waits drives it for all others too, so that it ends with the last one who
waits, and a fault in it is raised where somebody can hear it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from channels.types import Address
from settlement.bidding import Bidding, Kept
from settlement.errors import ChainRefused, ChainUnavailable, NonceTaken
from settlement.port import Call, ExecutionLayer, TxReceipt
from settlement.send_refusals import SendRefusal, meaning_of
from settlement.streams import Outgoing, Outstanding, Stream
from settlement.waiting import Waiting

# Persist(transactions): must return only when all of them are durable.
Persist = Callable[[Sequence[Outgoing]], Awaitable[None]]
# Booked(ended): what is final, and what can never be mined (None); must return only when that is durable.
Booked = Callable[[Sequence[tuple[Outgoing, TxReceipt | None]]], Awaitable[None]]

# When the first one of a key is replaced, so are those behind it, up to this many at once: together a few MB.
REPLACED_AT_ONCE = 32
# A node may forget what it has: the first ones of a key are sent again now and then, the others when they become that.
RESENT_AT_ONCE = 4
# What a transfer of nothing to oneself needs: it fills a nonce that nobody knows.
FILL_GAS = 21_000
FILL_PURPOSE = "fill a nonce"
# The same words about the same thing are said again after this long.
SAY_AGAIN_SECONDS = 600.0


class Follower:
    """Follows the streams of all keys. See the module's first words for who drives it."""

    def __init__(
        self,
        layer: ExecutionLayer,
        streams: Mapping[Address, Stream],
        persist: Persist,
        booked: Booked,
        bidding: Bidding,
        waiting: Waiting,
        confirmations: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layer = layer
        self._streams = streams
        self._persist = persist
        self._booked = booked
        self._bidding = bidding
        self._waiting = waiting
        self._confirmations = confirmations
        self.clock = clock
        self.say: Callable[[str], None] = lambda text: None
        self._said: dict[object, tuple[str, float]] = {}
        self._driven = False
        self._changed = asyncio.Event()  # set, and replaced, at the end of every poll
        self._hurry = asyncio.Event()
        self._work = asyncio.Event()
        self._pause = waiting.poll_seconds_min
        self._failures = 0
        self._polls = 0

    # -- waiting --

    async def drive(self, done: Callable[[], bool]) -> None:
        """Poll, or let another one poll, until `done`. Faults of a poll are raised here."""
        while not done():
            if self._driven:
                await self._changed.wait()
                continue
            self._driven = True
            try:
                await self._sleep()
                await self._poll()
            finally:
                self._driven = False
                self._changed.set()
                self._changed = asyncio.Event()

    def hurry(self) -> None:
        """Something was sent or taken up: poll soon, and often at first."""
        self._pause = self._waiting.poll_seconds_min
        self._hurry.set()
        self._work.set()

    async def look(self) -> None:
        """Poll once."""
        polls = self._polls
        await self.drive(lambda: self._polls > polls)

    async def run(self) -> None:
        """Follow to its end what nobody waits for; until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            await self.drive(lambda: not self.outstanding())

    def outstanding(self) -> list[Outstanding]:
        """Return everything outstanding, key by key in the order of nonces."""
        return [entry for stream in self._streams.values() for entry in stream]

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(self._pause):
                await self._hurry.wait()
        except TimeoutError:
            self._pause = min(self._pause * 1.5, self._waiting.poll_seconds_max)
        self._hurry.clear()

    # -- one poll --

    async def _poll(self) -> None:
        self._polls += 1
        try:
            await self._look()
        except (ChainUnavailable, ChainRefused) as error:  # nothing is known
            self._failures += 1
            if self._failures >= self._waiting.refusals_max:
                self._tell(self, f"{len(self.outstanding())} transactions are outstanding: {error}")
        else:
            self._failures = 0

    async def _look(self) -> None:
        entries = self.outstanding()
        if not entries:
            return
        found = await self._receipts(entries)
        final = await self._final(found)
        if final:
            await self._book(final)
        waiting = [entry for entry in entries if entry not in found]
        if waiting:
            addresses = sorted({entry.sender for entry in waiting})
            nonces = dict(zip(addresses, await self._layer.nonces(addresses), strict=True))
            passed = [entry for entry in waiting if self._has_passed(entry, nonces[entry.sender])]
            await self._lose([entry for entry in passed if self._is_taken(entry)])
            waiting = [entry for entry in waiting if entry not in passed] + self._fill_gaps(nonces)
            await self.transmit([entry for entry in waiting if self._is_due(entry)])
            await self._replace(waiting)
            await self._fill(nonces)

    async def _receipts(self, entries: Iterable[Outstanding]) -> dict[Outstanding, TxReceipt]:
        """Ask for the receipts of all variants at once."""
        hashes = {variant.tx_hash: entry for entry in entries for variant in entry.variants}
        found: dict[Outstanding, TxReceipt] = {}
        for entry, receipt in zip(hashes.values(), await self._layer.receipts(list(hashes)), strict=True):
            if receipt is not None:
                found[entry] = receipt
                entry.held, entry.refused, entry.refusals = True, None, 0
                entry.passed_at, entry.passed_polls = None, 0
        return found

    async def _final(self, found: Mapping[Outstanding, TxReceipt]) -> list[tuple[Outstanding, TxReceipt]]:
        """Return those with enough blocks on top, still on the chain.

        A receipt from a block that the chain does not have yet is of a node that is ahead, or made up: it says
        nothing, neither that its transaction is mined nor that it is not.
        """
        if not found:
            return []
        head = await self._layer.head()
        deep = [each for each in found.items() if each[1].block_number + self._confirmations <= head.number]
        hashes = {}
        for number in sorted({receipt.block_number for _, receipt in deep}):
            block = await self._layer.block(number)
            hashes[number] = None if block is None else block.hash
        return [each for each in deep if hashes[each[1].block_number] == each[1].block_hash]

    async def _book(self, final: Sequence[tuple[Outstanding, TxReceipt]]) -> None:
        mined: list[tuple[Outgoing, TxReceipt | None]] = []
        for entry, receipt in final:
            (variant,) = (each for each in entry.variants if each.tx_hash == receipt.tx_hash)
            mined.append((variant.outgoing, receipt))
        await self._booked(mined)
        for entry, receipt in final:
            self._streams[entry.sender].mined(entry, receipt)
            for about in ("refused", "ceiling"):
                self._said.pop((entry, about), None)

    def _has_passed(self, entry: Outstanding, nonce: int) -> bool:
        """Tell whether the chain says that the nonce was used, and note since when."""
        if nonce <= entry.nonce:
            entry.passed_at, entry.passed_polls = None, 0
            return False
        entry.passed_at = self.clock() if entry.passed_at is None else entry.passed_at
        entry.passed_polls += 1
        return True

    def _is_taken(self, entry: Outstanding) -> bool:
        """Tell whether it is past doubt that another transaction has its nonce."""
        assert entry.passed_at is not None, "its nonce has passed"
        long = self.clock() - entry.passed_at >= self._waiting.taken_seconds
        return long and entry.passed_polls >= self._waiting.taken_polls

    async def _lose(self, taken: Sequence[Outstanding]) -> None:
        """Give up what can never be mined. Raises NonceTaken for what was signed in this run.

        A journal restored from a backup may name transactions that were replaced after it was taken; that is no
        fault. Every call is cumulative or is made once at most, so whoever wanted it may plan it again.
        """
        for entry in taken:
            text = f"{entry.purpose}: nonce {entry.nonce} of 0x{entry.sender.hex()} was used by another transaction"
            if not entry.resumed:
                raise NonceTaken(text)
            self.say(f"{text}; what the journal holds of it is given up")
        if taken:
            await self._booked([(entry.newest.outgoing, None) for entry in taken])
        for entry in taken:
            self._streams[entry.sender].lose(entry)

    def _fill_gaps(self, nonces: Mapping[Address, int]) -> list[Outstanding]:
        """Take up what was booked as mined and is missing before the first outstanding nonce of a key.

        A reorganisation may drop it before the watcher sees it. Sending the same bytes again is harmless.
        """
        revived: list[Outstanding] = []
        for address, nonce in nonces.items():
            stream = self._streams[address]
            first = stream.first
            if first is None or nonce >= first.nonce:
                stream.gap_at = None
                continue
            stream.gap_at = self.clock() if stream.gap_at is None else stream.gap_at
            if self.clock() - stream.gap_at < self._waiting.gap_seconds:
                continue
            found = [entry for each in range(nonce, first.nonce) if (entry := stream.revive(each)) is not None]
            if not found:
                text = f"0x{address.hex()}: the chain lacks nonce {nonce}, {first.purpose} (nonce {first.nonce}) waits"
                self._tell(stream, text)
            revived += found
        return revived

    async def _fill(self, nonces: Mapping[Address, int]) -> None:
        """Use up nonces that nobody knows and that outstanding transactions wait behind, by transfers of nothing.

        They were skipped because a node named too high a nonce when it was asked first. Should a lost transaction of
        ours turn up there after all, one of the two is mined; every call may be planned again.
        """
        lacking = [
            (stream, nonce)
            for address, count in nonces.items()
            if (stream := self._streams[address]).gap_at is not None
            and self.clock() - stream.gap_at >= self._waiting.fill_seconds
            and stream.first is not None
            for nonce in range(count, min(stream.first.nonce, count + REPLACED_AT_ONCE))
        ]
        if not lacking:
            return
        fees, chain_id = self._bidding.first(await self._layer.fees()), await self._layer.chain_id()
        signed = [
            Outgoing(
                stream.address,
                nonce,
                FILL_PURPOSE,
                stream.sign(chain_id, nonce, Call(stream.address, stream.address, b""), FILL_GAS, fees),
            )
            for stream, nonce in lacking
        ]
        await self._persist(signed)
        # As of an earlier run: that another transaction has such a nonce is no fault.
        entries = [self._streams[each.sender].take(each, self.clock(), resumed=True) for each in signed]
        await self.transmit(entries)

    # -- sending --

    def _is_due(self, entry: Outstanding) -> bool:
        if entry.sending:
            return False
        if not entry.held:
            soon = self._waiting.poll_seconds_min * 2 ** min(entry.refusals, 16) if entry.refusals else 0.0
            return self.clock() - entry.sent_at >= min(soon, self._waiting.resend_seconds)
        early = [nonce for nonce in self._streams[entry.sender].outstanding if nonce < entry.nonce]
        return len(early) < RESENT_AT_ONCE and self.clock() - entry.sent_at >= self._waiting.resend_seconds

    async def flush(self, streams: Iterable[Stream]) -> None:
        """Try to get to the chain what it is not known to have."""
        await self.transmit([entry for stream in streams for entry in stream if not entry.held and self._is_due(entry)])

    async def transmit(self, entries: Sequence[Outstanding]) -> None:
        """Hand the newest variants to the chain in this order; what it does not take stays outstanding.

        What is not known afterwards is not an error here: `held` tells what the chain has.
        """
        if not entries:
            return
        for entry in entries:
            entry.sending, entry.sent_at = True, self.clock()
        try:
            answers = await self._layer.send_all([entry.newest.raw for entry in entries])
            refused = []
            for entry, answer in zip(entries, answers, strict=True):
                if isinstance(answer, ChainRefused):
                    refused.append((entry, answer))
                elif answer is None:
                    _held(entry)
                else:
                    entry.held = False
            await self._understand(refused)
        except (ChainUnavailable, ChainRefused):
            for entry in entries:
                entry.held = False  # it may have arrived: the next poll tells, or sends it again
        finally:
            for entry in entries:
                entry.sending = False

    async def _understand(self, refused: Sequence[tuple[Outstanding, ChainRefused]]) -> None:
        """Find out what refusals mean: the chain may have another variant, or be past the nonce."""
        if not refused:
            return
        addresses = sorted({entry.sender for entry, _ in refused})
        nonces = dict(zip(addresses, await self._layer.nonces(addresses), strict=True))
        older = [(entry, variant) for entry, _ in refused for variant in entry.variants[-2::-1]]
        answers = await self._layer.send_all([variant.raw for _, variant in older]) if older else []
        taken = {entry for (entry, _), answer in zip(older, answers, strict=True) if answer is None}
        for entry, error in refused:
            meaning = meaning_of(error)
            if entry in taken or meaning is SendRefusal.KNOWN or nonces[entry.sender] > entry.nonce:
                _held(entry)
                continue
            entry.held = False
            entry.refused, entry.refusals = error, entry.refusals + 1
            entry.fee_too_low = meaning in (SendRefusal.FEE_TOO_LOW, SendRefusal.OTHER_WAITS)
            if entry.refusals >= self._waiting.refusals_max:
                self._tell((entry, "refused"), f"{entry.purpose} (nonce {entry.nonce}) is outstanding: {error}")

    # -- replacing --

    async def _replace(self, waiting: Sequence[Outstanding]) -> None:
        """Sign those that wait for too long anew, at a higher fee: of each key the first one and those behind it."""
        due = [
            [entry for entry in stream if entry in waiting][:REPLACED_AT_ONCE]
            for stream in self._streams.values()
            if (first := stream.first) is not None and first in waiting and self._wants_more(first)
        ]
        if not due:
            return
        suggested = await self._layer.fees()
        head = await self._layer.head()
        chain_id = await self._layer.chain_id()
        signed: list[tuple[Outstanding, Outgoing]] = []
        for entries in due:
            for entry in entries:
                leads = entry is entries[0]
                if not leads and not self._is_late(entry):
                    break
                long = leads and self._out_of_patience(entry, head.number)
                again = self._bidding.again(entry.newest.fees, suggested, out_of_patience=long)
                entry.look_at = self.clock() + self._bidding.replace_after_seconds / 4
                if isinstance(again, Kept):
                    if leads:
                        self._tell_kept(entry, again)
                    continue
                stream = self._streams[entry.sender]
                raw = stream.sign(chain_id, entry.nonce, entry.call, entry.gas_limit, again)
                signed.append((entry, Outgoing(entry.sender, entry.nonce, entry.purpose, raw)))
        if not signed:
            return
        await self._persist([outgoing for _, outgoing in signed])
        for entry, outgoing in signed:
            self._streams[entry.sender].take(outgoing, self.clock())
            entry.offered_at, entry.offered_block, entry.fee_too_low = self.clock(), head.number, False
        await self.transmit([entry for entry, _ in signed])

    def _wants_more(self, entry: Outstanding) -> bool:
        if self.clock() < entry.look_at:
            return False
        return entry.fee_too_low or (entry.held and self._is_late(entry))

    def _is_late(self, entry: Outstanding) -> bool:
        return self.clock() - entry.offered_at >= self._bidding.replace_after_seconds

    def _out_of_patience(self, entry: Outstanding, head: int) -> bool:
        """A chain that makes no blocks is no reason to offer more."""
        if entry.offered_block is None:
            entry.offered_block = head
        late = self.clock() - entry.offered_at >= self._bidding.patience_seconds
        return late and head > entry.offered_block

    def _tell_kept(self, entry: Outstanding, kept: Kept) -> None:
        if kept is Kept.CEILING:
            offered = entry.newest.fees.max_fee_per_gas
            self._tell(
                (entry, "ceiling"),
                f"{entry.purpose} (nonce {entry.nonce}) waits: it offers {offered} wei per gas,"
                " and a replacement would offer more than the configured ceiling",
            )

    def _tell(self, about: object, text: str) -> None:
        said, at = self._said.get(about, ("", 0.0))
        if said != text or self.clock() - at >= SAY_AGAIN_SECONDS:
            self._said[about] = (text, self.clock())
            self.say(text)


def _held(entry: Outstanding) -> None:
    entry.held, entry.refused, entry.refusals, entry.fee_too_low = True, None, 0, False
