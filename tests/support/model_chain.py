"""A chain as a model behind the port: blocks of events that can be replaced at any moment, also while they are read.

Channels follow `channels_auditor.Contract`, which was written from the protocol; the rest (lanes, cash, payouts) is
sums. Every block keeps the state after it, so that any block can be asked about, and blocks that were dropped
are forgotten.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from channels.types import SETTLEMENT_ADDRESS, Address, ChannelId
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
    position_of,
)
from settlement.port import Block, ChannelView, ReceiverView
from tests.support.channels_auditor import Contract

EPOCH = 1_760_000_000
DELAY = 900
STRANGER = b"\x99" * 20


@dataclass
class State:
    """What the contracts hold."""

    channels: dict[ChannelId, Contract] = field(default_factory=dict)
    lanes: dict[ChannelId, Address] = field(default_factory=dict)
    lane_claimed: dict[Address, int] = field(default_factory=dict)
    lane_settled: dict[Address, int] = field(default_factory=dict)
    paid: dict[Address, int] = field(default_factory=dict)
    received: int = 0  # tokens that lanes and treasury got from outside
    mined: dict[bytes, int] = field(default_factory=dict)  # own transactions: hash → block


@dataclass
class ModelBlock:
    """A block with what it did."""

    block: Block
    state: State
    events: list[ChainEvent]
    transfers: list[Transfer]


# Made at mining, when block and index are known.
_Log = Callable[[int, bytes], ChainEvent]


class ModelChain:
    """Acts change the pending state; `mine` makes a block of them. `chaos` is awaited before and after every answer."""

    def __init__(self, state: State) -> None:
        self.pending = state
        self.logs: list[_Log] = []
        self.made = 0
        self.blocks: list[ModelBlock] = []
        self.acts = 0
        self.chaos: Callable[[], Awaitable[None]] | None = None
        self.hidden: set[int] = set()  # positions of logs that this node does not tell
        self.laggard: random.Random | None = None  # answers now and then as a node that is some blocks behind
        self.mine()

    @property
    def tip(self) -> int:
        """The number of the last block."""
        return len(self.blocks) - 1

    def mine(self) -> None:
        """Make a block of what was done since the last one."""
        self.made += 1
        number = len(self.blocks)
        digest = sha256(b"block %d" % self.made).digest()
        parent = self.blocks[-1].block.hash if self.blocks else bytes(32)
        logs = [make(position_of(number, index), digest) for index, make in enumerate(self.logs)]
        self.blocks.append(
            ModelBlock(
                Block(number, digest, parent, EPOCH + 10 * number, 7),
                deepcopy(self.pending),
                [log for log in logs if not isinstance(log, Transfer)],
                [log for log in logs if isinstance(log, Transfer)],
            )
        )
        self.logs = []

    def drop(self, depth: int) -> None:
        """Forget the last blocks, and whatever is pending."""
        del self.blocks[len(self.blocks) - depth :]
        self.pending = deepcopy(self.blocks[-1].state)
        self.logs = []

    # -- acts --

    def _log(self, make: Callable[..., ChainEvent], *fields: Any) -> bytes:
        self.acts += 1
        tx_hash = sha256(b"act %d" % self.acts).digest()
        self.logs.append(lambda position, block_hash: make(position, block_hash, tx_hash, *fields))
        return tx_hash

    def create(self, identifier: ChannelId, lane: Address) -> None:
        """Let a channel be; it costs nothing on the real chain either."""
        for state in (self.pending, *(each.state for each in self.blocks)):
            state.channels[identifier] = Contract()
            state.lanes[identifier] = lane

    def act(self, identifier: ChannelId, name: str, *arguments: int) -> None:
        """Call the contract of a channel; raises its Revert."""
        contract = self.pending.channels[identifier]
        contract.block = EPOCH + 10 * len(self.blocks) - 1
        getattr(contract, name)(*arguments)
        for event in contract.log:
            match event.kind:
                case "deposit":
                    self._log(Deposited, identifier, STRANGER, event.amount, event.total)
                case "claim":
                    lane = self.pending.lanes[identifier]
                    self.pending.lane_claimed[lane] = self.pending.lane_claimed.get(lane, 0) + event.amount
                    self._log(Claimed, identifier, STRANGER, event.amount, event.total)
                case "initiated":
                    self._log(WithdrawInitiated, identifier, event.amount, event.ends)
                case "finalized":
                    self._log(WithdrawFinalized, identifier, STRANGER, event.amount)
                case "refund":
                    self._log(Refunded, identifier, STRANGER, event.amount)
        contract.log.clear()
        contract.past.clear()

    def settle(self, lane: Address, token: Address) -> None:
        """Move what is unsettled to the lane."""
        due = self.pending.lane_claimed.get(lane, 0) - self.pending.lane_settled.get(lane, 0)
        if due:
            self.pending.lane_settled[lane] = self.pending.lane_claimed[lane]
            tx_hash = self._log(Settled, lane, token, STRANGER, due)
            self.logs.append(
                lambda position, block_hash: Transfer(position, block_hash, tx_hash, SETTLEMENT_ADDRESS, lane, due)
            )

    def give(self, holder: Address, amount: int) -> None:
        """Send tokens from outside."""
        self.pending.received += amount
        self._log(Transfer, STRANGER, holder, amount)

    # -- the port, as far as a watcher asks --

    async def _answer(self, answer: Callable[[], Any]) -> Any:
        if self.chaos is not None:
            await self.chaos()
        known = self.blocks
        if self.laggard is not None and self.laggard.random() < 0.3:
            self.blocks = known[: len(known) - self.laggard.randrange(1, 4)]
        try:
            found = answer()
        finally:
            self.blocks = known
        if self.chaos is not None:
            await self.chaos()
        return found

    def _at(self, number: int | None) -> State:
        if number is not None and number > self.tip:
            raise ChainUnavailable(f"there is no block {number}")
        return self.blocks[self.tip if number is None else number].state

    async def head(self) -> Block:
        """Return the latest block."""
        found: Block = await self._answer(lambda: self.blocks[-1].block)
        return found

    async def block(self, number: int) -> Block | None:
        """Return a block by number."""
        found: Block | None = await self._answer(
            lambda: self.blocks[number].block if number < len(self.blocks) else None
        )
        return found

    def _range(self, first: int, last: int, block_hash: bytes | None) -> list[ModelBlock]:
        if block_hash is None:
            return self.blocks[first : last + 1]
        if first > self.tip or self.blocks[first].block.hash != block_hash:
            raise ChainRefused(-32000, "unknown block")
        return [self.blocks[first]]

    async def events(self, first: int, last: int, block_hash: bytes | None = None) -> list[ChainEvent]:
        """Return events; a node that lacks a block keeps silent about it, unless it is asked for that very one."""
        found: list[ChainEvent] = await self._answer(
            lambda: [
                event
                for each in self._range(first, last, block_hash)
                for event in each.events
                if event.position not in self.hidden
            ]
        )
        return found

    async def transfers_to(
        self, token: Address, receivers: Sequence[Address], first: int, last: int, block_hash: bytes | None = None
    ) -> list[Transfer]:
        """Return transfers, as `events` does."""
        found: list[Transfer] = await self._answer(
            lambda: [each for block in self._range(first, last, block_hash) for each in block.transfers]
        )
        return found

    async def channels(self, ids: Sequence[ChannelId], block: int | None = None) -> list[ChannelView]:
        """Return views of channels."""

        def view(identifier: ChannelId, state: State) -> ChannelView:
            contract = state.channels.get(identifier, Contract())
            began = contract.ends - DELAY if contract.pending else 0
            return ChannelView(contract.balance, contract.claimed, contract.pending, began)

        found: list[ChannelView] = await self._answer(lambda: [view(each, self._at(block)) for each in ids])
        return found

    async def receivers(self, pairs: Sequence[tuple[Address, Address]], block: int | None = None) -> list[ReceiverView]:
        """Return the totals of lanes."""

        def answer() -> list[ReceiverView]:
            state = self._at(block)
            return [ReceiverView(state.lane_claimed.get(lane, 0), state.lane_settled.get(lane, 0)) for lane, _ in pairs]

        found: list[ReceiverView] = await self._answer(answer)
        return found

    async def paid(
        self, payouts: Address, sender: Address, token: Address, payees: Sequence[Address], block: int | None = None
    ) -> list[int]:
        """Return what payees got."""
        found: list[int] = await self._answer(lambda: [self._at(block).paid.get(payee, 0) for payee in payees])
        return found
