"""Own transactions: nonces, gas, signature, durable before sent, and mined for certain.

Every transaction is handed to `persist` before the chain sees it. From then on it is outstanding: its nonce is
taken, and it is sent again, byte by byte the same, until it is mined. A lost reply therefore needs no guess, and
a node that refuses it today may take it tomorrow. One that waits for too long is replaced by the same call at a
higher fee, persisted first like any other; whichever of them is mined ends the wait. After a restart `resume`
takes up what was persisted.

Each key must be used by one Sender alone (docs/protocol.md 2): its nonces are counted here, and the node is asked for
them only at the start.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from channels.types import Address
from settlement.bidding import Bidding
from settlement.errors import ChainRefused, ChainUnavailable
from settlement.following import Booked, Follower, Persist
from settlement.port import Block, Call, ExecutionLayer, Revert, TxReceipt
from settlement.streams import Outgoing, Outstanding, Stream
from settlement.waiting import Waiting

# Tight, because some chains charge the limit and not the use. An estimate is exact for the state that it saw;
# until the transaction is mined a payee may have emptied its account, which makes its row 17,100 gas dearer.
# 1/16 covers that for one row in five. Should it not suffice, the transaction moves nothing and is planned again.
GAS_MARGIN_DIVISOR = 16
# So many transactions may be missing in a journal that is restored, or waiting from one that was lost, before a node
# must say so for some time. What it makes up costs a transfer of nothing each, 21,000 gas.
UNKNOWN_NONCES_MAX = 64

Order = tuple[Call, str]  # a call and its purpose
Sent = Outstanding | Revert | ChainRefused
Outcome = TxReceipt | Revert | ChainRefused


@dataclass(slots=True)
class _Batch:
    """Orders of all who came while others were signed, and what became of each call."""

    orders: list[Order] = field(default_factory=list)
    sent: dict[Call, Sent | ChainUnavailable] = field(default_factory=dict)


async def _unbooked(ended: Sequence[tuple[Outgoing, TxReceipt | None]]) -> None:
    """For a sender without books."""


class Sender:
    """Sends for some private keys, each one serialised stream of transactions; many may wait to be mined at once.

    `persist` and `booked` are told in `settlement.following`. `confirmations` is the number of blocks that must lie on
    top of a transaction's own before it is final. `on_trouble` is told in words what does not go forward.
    """

    def __init__(
        self,
        layer: ExecutionLayer,
        keys: Iterable[bytes],
        persist: Persist,
        *,
        booked: Booked = _unbooked,
        confirmations: int = 0,
        bidding: Bidding | None = None,
        waiting: Waiting | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layer = layer
        self._persist = persist
        self._bidding = bidding or Bidding()
        self._waiting = waiting or Waiting()
        self._streams = {stream.address: stream for stream in map(Stream, keys)}
        self._follower = Follower(
            layer, self._streams, persist, booked, self._bidding, self._waiting, confirmations, clock
        )
        self._doubted: dict[Address, tuple[int, float]] = {}  # a next nonce far ahead, and when it was named first
        self._signing = asyncio.Lock()
        self._gathering: tuple[_Batch, asyncio.Task[None]] | None = None
        self._batches: set[asyncio.Task[None]] = set()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses of its keys, in the order given."""
        return tuple(self._streams)

    @property
    def on_trouble(self) -> Callable[[str], None]:
        """Who is told what does not go forward."""
        return self._follower.say

    @on_trouble.setter
    def on_trouble(self, say: Callable[[str], None]) -> None:
        self._follower.say = say

    def stream(self, address: Address) -> Stream:
        """Return what one key has outstanding. Raises KeyError for a key that is not here."""
        return self._streams[address]

    def resume(self, persisted: Iterable[Outgoing], next_nonces: Mapping[Address, int] | None = None) -> None:
        """Take up persisted transactions: of an earlier run, or dropped by a reorganisation. Sends nothing yet.

        Several of one nonce are variants of one call. `next_nonces` is one more than the highest nonce ever
        persisted, by address: a node may answer less. Raises KeyError for a key that is not here and ValueError for
        bytes that are no transaction of their nonce.
        """
        for outgoing in persisted:
            self._streams[outgoing.sender].take(outgoing, self._follower.clock(), resumed=True).send_again()
        for address, nonce in (next_nonces or {}).items():
            stream = self._streams[address]
            stream.next_nonce = max(stream.next_nonce, nonce)
        self._follower.hurry()

    async def send_all(self, orders: Sequence[Order]) -> list[Sent]:
        """Sign, persist together, and send; returns without waiting for anything to be mined.

        Calls of one key get consecutive nonces in the order given. Each is judged by the present state, so none
        may depend on one that is not mined yet. A call that would revert is its Revert, one that the node refuses
        to judge its ChainRefused, and so is every call of a key whose earlier transaction the node refuses;
        nothing was persisted or sent for these. The very call that is outstanding already is not signed again.

        Raises ChainUnavailable when the chain cannot be asked, or when one of the keys cannot be used yet: nothing was
        persisted for that one then, while others' calls may be sent (`try_all` tells which). Once persisted, a node
        that is away or refuses is no error here.
        """
        sent: list[Sent] = []
        for each in await self.try_all(orders):
            if isinstance(each, ChainUnavailable):
                raise each
            sent.append(each)
        return sent

    async def try_all(self, orders: Sequence[Order]) -> list[Sent | ChainUnavailable]:
        """As `send_all`; calls of a key that cannot be used yet are their ChainUnavailable, and hold up no other key.

        So it is with a key whose next nonce is in doubt, or whose last transaction may not have arrived.
        """
        if self._gathering is None:
            new = _Batch()
            # A caller that gives up must not cut off between persisting and counting the nonce.
            task = asyncio.ensure_future(self._send_batch(new))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)
            self._gathering = new, task
        batch, task = self._gathering
        batch.orders += orders
        await asyncio.shield(task)
        return [batch.sent[call] for call, _ in orders]

    async def wait_all(self, entries: Sequence[Outstanding]) -> list[TxReceipt | ChainRefused]:
        """Return the receipt of each once it is mined and final.

        ChainRefused for one that is held up because the node refuses it, or the first one of its key: it stays
        outstanding. Raises ChainUnavailable when waiting takes longer than the time-out; it may be taken up again.
        Raises NonceTaken when another transaction was mined under a nonce of this run.
        """
        try:
            async with asyncio.timeout(self._waiting.timeout_seconds):
                await self._follower.drive(lambda: all(self._ending(entry) is not None for entry in entries))
        except TimeoutError:
            open_ = [entry.purpose for entry in entries if self._ending(entry) is None]
            seconds = self._waiting.timeout_seconds
            raise ChainUnavailable(f"{', '.join(open_)}: not final within {seconds:g} s; outstanding") from None
        return [ending for entry in entries if (ending := self._ending(entry)) is not None]

    async def execute_all(self, orders: Sequence[Order]) -> list[Outcome]:
        """Send all and wait for all. A revert in simulation is a Revert, one on chain a receipt."""
        sent = await self.send_all(orders)
        entries = [each for each in sent if isinstance(each, Outstanding)]
        endings = dict(zip(entries, await self.wait_all(entries), strict=True))
        return [endings[each] if isinstance(each, Outstanding) else each for each in sent]

    async def execute(self, call: Call, purpose: str) -> TxReceipt | Revert:
        """Send one and wait for it. Raises ChainRefused when the node does not take it."""
        (outcome,) = await self.execute_all([(call, purpose)])
        if isinstance(outcome, ChainRefused):
            raise outcome
        return outcome

    async def look(self) -> None:
        """Look once what became of everything outstanding; a chain that cannot be asked is no error here."""
        await self._follower.look()

    async def run(self) -> None:
        """Follow to its end what nobody waits for; until cancelled. Raises faults."""
        await self._follower.run()

    def _ending(self, entry: Outstanding) -> TxReceipt | ChainRefused | None:
        if entry.lost:
            return ChainRefused(-32000, f"nonce {entry.nonce} was used by another transaction")
        if entry.receipt is not None:
            return entry.receipt
        return self._streams[entry.sender].refusal(self._waiting.refusals_max)

    # -- signing --

    async def _send_batch(self, batch: _Batch) -> None:
        async with self._signing:
            self._gathering = None  # who comes from now on is signed with the next ones, all of them in one go
            purposes: dict[Call, str] = {}
            for call, purpose in batch.orders:
                known = self._streams[call.sender].find(call)
                if known is None:
                    purposes.setdefault(call, purpose)
                else:
                    batch.sent[call] = known
            held_up = await self._flush({call.sender for call in purposes})
            batch.sent |= {call: held_up[call.sender] for call in purposes if call.sender in held_up}
            await self._send_new({call: words for call, words in purposes.items() if call.sender not in held_up}, batch)

    async def _flush(self, addresses: Iterable[Address]) -> dict[Address, ChainRefused | ChainUnavailable]:
        """Get earlier transactions to the chain before new ones are signed; returns which keys wait for that."""
        streams = [self._streams[address] for address in addresses]
        await self._follower.flush(streams)
        held_up: dict[Address, ChainRefused | ChainUnavailable] = {}
        for stream in streams:
            error = next((entry.refused for entry in stream if not entry.held and entry.refused is not None), None)
            unknown = next((entry for entry in stream if not entry.held and entry.refused is None), None)
            if error is not None:
                held_up[stream.address] = error
            elif unknown is not None and not unknown.sending:
                held_up[stream.address] = ChainUnavailable(
                    f"{unknown.purpose}, sent before, is outstanding: it is not known to have arrived"
                )
        return held_up

    async def _send_new(self, purposes: Mapping[Call, str], batch: _Batch) -> None:
        estimates = await self._layer.estimate_all(list(purposes)) if purposes else []
        sendable: dict[Call, int] = {}
        for call, estimate in zip(purposes, estimates, strict=True):
            if isinstance(estimate, int):
                sendable[call] = estimate
            else:
                batch.sent[call] = estimate
        if not sendable:
            return
        chain_id, head = await self._layer.chain_id(), await self._layer.head()
        fees = self._bidding.first(await self._layer.fees())
        doubts: dict[Address, ChainUnavailable] = {}
        for address in {call.sender for call in sendable}:
            doubt = await self._ask_nonce(self._streams[address])
            if doubt is not None:
                doubts[address] = doubt
        nonces = {address: stream.next_nonce for address, stream in self._streams.items()}
        signed: dict[Call, Outgoing] = {}
        for call, estimate in sendable.items():
            if call.sender in doubts:
                batch.sent[call] = doubts[call.sender]
                continue
            limit = _gas_limit(call, estimate, head)
            if isinstance(limit, Revert):
                batch.sent[call] = limit
                continue
            nonce = nonces[call.sender]
            nonces[call.sender] += 1
            raw = self._streams[call.sender].sign(chain_id, nonce, call, limit, fees)
            signed[call] = Outgoing(call.sender, nonce, purposes[call], raw, call.attached)
        if not signed:
            return
        await self._persist(list(signed.values()))
        entries = []
        for call, outgoing in signed.items():
            entry = self._streams[call.sender].take(outgoing, self._follower.clock())
            entry.offered_block = head.number
            batch.sent[call] = entry
            entries.append(entry)
        await self._follower.transmit(entries)
        self._follower.hurry()

    async def _ask_nonce(self, stream: Stream) -> ChainUnavailable | None:
        """Ask the chain for the first nonce of a key, once; more than the journal knows must be said twice.

        Returns why the answer is not believed, None when it is.
        """
        if stream.asked:
            return None
        answers, fits = [], True
        for _ in range(2):
            (mined,) = await self._layer.nonces([stream.address])
            # Transactions that wait, and that this journal does not know, are of a journal that was lost.
            waiting = await self._layer.nonce(stream.address, pending=True)
            answers.append(max(mined, waiting))
            fits = fits and mined <= waiting <= mined + UNKNOWN_NONCES_MAX
            if answers[0] <= stream.next_nonce:
                break
        if len(set(answers)) > 1:
            return ChainUnavailable(f"the node names two next nonces of 0x{stream.address.hex()}: {answers}")
        if answers[0] > stream.next_nonce + UNKNOWN_NONCES_MAX and self._doubts(stream, answers[0], fits):
            return ChainUnavailable(
                f"the node names {answers[0]} as the next nonce of 0x{stream.address.hex()} and the journal"
                f" {stream.next_nonce}: that is not believed before it says so for {self._waiting.gap_seconds:g} s"
            )
        stream.next_nonce = max(stream.next_nonce, answers[0])
        stream.asked = True
        return None

    def _doubts(self, stream: Stream, nonce: int, fits: bool) -> bool:
        """Tell whether a next nonce far above the journal's is in doubt still; every one made up has to be filled.

        It is believed when nearly all before it are mined (`fits`) and the node has said so for a while: so it is with
        keys that an earlier journal used.
        """
        named, since = self._doubted.get(stream.address, (-1, 0.0))
        if not fits or named != nonce:
            since = self._follower.clock()
            self._doubted[stream.address] = nonce, since
        return self._follower.clock() - since < self._waiting.gap_seconds


def _gas_limit(call: Call, estimate: int, head: Block) -> int | Revert:
    """Return the limit for an estimate: never above the block's, nor far above what the call is worth."""
    if call.gas_max and estimate > call.gas_max:
        return Revert(f"it needs {estimate} gas, and {call.gas_max} is the most that it is worth")
    if not head.gas_limit:
        return estimate + estimate // GAS_MARGIN_DIVISOR
    if estimate > head.gas_limit:
        return Revert(f"it needs {estimate} gas and a block has {head.gas_limit}")
    return min(estimate + estimate // GAS_MARGIN_DIVISOR, head.gas_limit)
