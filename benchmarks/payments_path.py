"""The voucher path in process: our decoding, verifying and changing of states, and the peers that it is held against.

A side signs the next messages outside the clock (`sign`) and then takes them (`take`), which returns seconds. Every
side has channels of its own in the same states, and checks that each of its messages was accepted.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from parallel_evm import recover_signers

from benchmarks.frame import BenchmarkFailed
from benchmarks.load import NANO, NETWORK, STEP, Channel, reading_payload
from benchmarks.population import GATEWAY, SERVICE
from benchmarks.recoveries import Verified, recoveries
from channels.digests import voucher_digest
from channels.refusals import Refusal
from channels.state import ReceiveReading, Terms
from channels.types import Address
from devices.codec import decode
from devices.link import Frame, Token
from devices.messages import Usage
from devices.offers import Offer
from devices.topics import USAGE
from gateway.judging import Judge, Judged
from gateway.ledger import Ledger
from gateway.pipeline import Pipeline

# What a busy gateway takes at once (`pipeline.batch_max`).
BATCH = 512

T = TypeVar("T")


class Side(ABC):
    """One of those that are compared: `channels` are what its devices know."""

    def __init__(self, channels: Sequence[Channel], offer: Offer, encoding: str = "json") -> None:
        self.channels = channels
        self.offer = offer
        self.encoding = encoding
        self.price = offer.services[SERVICE].price
        self.signed: list[tuple[Channel, bytes]] = []
        self._next = 0

    def sign(self, count: int) -> None:
        """Make the next messages, round robin."""
        self.signed = []
        for _ in range(count):
            channel = self.channels[self._next % len(self.channels)]
            self._next += 1
            self.signed.append((channel, reading_payload(channel, self.offer.id, self.price, self.encoding)))

    @abstractmethod
    async def take(self) -> float:
        """Take what was signed; returns seconds. Raises BenchmarkFailed when a message is not accepted."""


class VoucherPath(Side):
    """Bytes to the channel's next state, as the gateway's pipeline does it, without journal and receipts."""

    def __init__(
        self,
        channels: Sequence[Channel],
        offer: Offer,
        ledger: Ledger,
        terms: Terms,
        encoding: str = "json",
    ) -> None:
        super().__init__(channels, offer, encoding)
        self._ledger = ledger
        self._terms = terms
        self._judge = Judge(ledger, NETWORK, gateway=GATEWAY, readings_signed=False)
        self._commit = 0

    async def take(self) -> float:
        """Take what was signed, in full batches: while one changes states, the next one is judged."""
        frames = _frames(self.signed)
        started = time.perf_counter()
        judging: asyncio.Task[list[Judged]] | None = None
        for batch in (*_parts(frames, BATCH), None):
            before, judging = judging, None if batch is None else asyncio.ensure_future(self._judge.batch(batch))
            if before is not None:
                self._commit += 1
                self._apply(await before)
        seconds = time.perf_counter() - started
        for channel in self.channels:
            if self._ledger.channels[channel.id].charged != channel.register * self.price // NANO:
                raise BenchmarkFailed(f"channel 0x{channel.id.hex()} was not charged what its register says")
        return seconds

    def _apply(self, judged: Sequence[Judged]) -> None:
        ledger = self._ledger
        for message, _, signed in judged:
            assert isinstance(message, Usage), "the load is well formed"
            reading = ReceiveReading(
                seq=message.seq,
                register=message.register,
                time=message.time,
                offer=message.offer,
                ceiling=message.ceiling,
                signature=message.signature,
                device=ledger.channels[message.id].device,
                signed=signed,
                terms=self._terms,
            )
            outcome = ledger.charge(message.id, reading, self._commit)
            if isinstance(outcome, Refusal):
                raise BenchmarkFailed(f"a reading was refused: {outcome.wire_name}")


class WholePipeline(Side):
    """The gateway's own pipeline, from frames to encoded receipts, each batch durable; only MQTT is left out."""

    def __init__(self, channels: Sequence[Channel], offer: Offer, pipeline: Pipeline) -> None:
        super().__init__(channels, offer)
        self._pipeline = pipeline

    async def take(self) -> float:
        """Take what was signed, in full batches."""
        frames = _frames(self.signed)
        before = self._pipeline.counters.accepted
        started = time.perf_counter()
        for batch in _parts(frames, BATCH):
            await self._pipeline.process(batch)
        seconds = time.perf_counter() - started
        if self._pipeline.counters.accepted - before != len(frames):
            raise BenchmarkFailed(f"not all readings were accepted: {self._pipeline.counters}")
        return seconds


class Bare(Side):
    """The vouchers' signatures on libsecp256k1, and nothing else.

    By the share, as the gateway has it done: the GIL is in nobody's way. Or by coincurve, one call for each signature,
    which is the fastest that Python programs otherwise have.
    """

    def __init__(self, channels: Sequence[Channel], offer: Offer, threads: int, *, coincurve: bool = False) -> None:
        super().__init__(channels, offer)
        self._threads = threads
        self._coincurve = coincurve

    async def take(self) -> float:
        """Recover every signature."""
        verified = list(self._vouchers())
        if self._coincurve:
            return recoveries(verified, self._threads)
        shares = [verified[start :: self._threads] for start in range(self._threads)]
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(len, shares))
            started = time.perf_counter()
            found = list(pool.map(_recovered, shares))
            seconds = time.perf_counter() - started
        if found != [[signer for _, _, signer in share] for share in shares]:
            raise BenchmarkFailed("a signature is not its signer's")
        return seconds

    def _vouchers(self) -> Iterator[Verified]:
        for channel, payload in self.signed:
            message = decode(USAGE, payload)
            assert isinstance(message, Usage), "the load is well formed"
            yield voucher_digest(message.id, message.ceiling, NETWORK), message.signature, channel.member.address


def _recovered(share: Iterable[Verified]) -> list[Address | None]:
    return recover_signers([(digest, signature) for digest, signature, _ in share])


def _frames(signed: Iterable[tuple[Channel, bytes]]) -> list[Frame]:
    return [Frame(channel.member.device, USAGE, payload, False, Token(0, 0)) for channel, payload in signed]


def _parts(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def charge_of_one(price: int) -> int:
    """Return what one reading of this load comes to, in base units."""
    return STEP * price // NANO
