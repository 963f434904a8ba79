"""Where the chain was cut: the last block that stays, and what the books must go back to there.

Nothing here changes anything: the watcher writes what is found as one `ChainReverted`.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from channels.types import ChannelId
from gateway.chain_effects import REORG_BLOCKS_MAX, block_key, block_of, settled_after, touched
from gateway.entries import Mark
from gateway.ledger import Ledger
from gateway.records import ChainReverted, RevertedChannel, RevertedLane
from settlement.errors import ChainUnavailable
from settlement.port import Block, ChannelView, ExecutionLayer

T = TypeVar("T")

# Full nodes, and our embedded layer, hold the states of the last 128 blocks; some come while we ask.
STATES_HELD_BLOCKS = 120
# A block that is replaced while it is read is read again; one that is replaced so often is no block to rely on.
ATTEMPTS = 5


class Trail:
    """The blocks that were seen: where steps ended, those that the journal remembers, and the last heads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ends: dict[int, Mark] = {}  # final blocks; the journal has those of them that did something
        self._heads: dict[int, bytes] = {}

    def end(self, number: int) -> Mark | None:
        """Return a final block where a step ended, if it is remembered."""
        return self._ends.get(number)

    def hash_of(self, number: int) -> bytes | None:
        """Return the hash of a final block that is remembered."""
        mark = self._ends.get(number) or self._ledger.marks.get(block_key(number))
        return None if mark is None else mark.hash

    def contradicts(self, block: Block) -> bool:
        """Tell whether another block was seen at that height."""
        known = self._heads.get(block.number) or self.hash_of(block.number)
        return known is not None and known != block.hash

    def read(self, block: Block) -> None:
        """A step ended at this block."""
        self._ends[block.number] = Mark(block.hash, block.timestamp)
        if len(self._ends) > 2 * REORG_BLOCKS_MAX:
            reach = max(self._ends) - REORG_BLOCKS_MAX
            self._ends = {number: mark for number, mark in self._ends.items() if number >= reach}

    def saw(self, head: Block) -> None:
        """This is the latest block now."""
        within = range(head.number - REORG_BLOCKS_MAX, head.number)
        self._heads = {number: known for number, known in self._heads.items() if number in within}
        self._heads[head.number] = head.hash

    def cut(self, number: int, mark: Mark) -> None:
        """Later blocks than this one are gone."""
        self._ends = {known: each for known, each in self._ends.items() if known < number} | {number: mark}
        self._heads = {known: each for known, each in self._heads.items() if known < number}

    def known(self) -> dict[int, bytes]:
        """Return number → hash of every final block that is remembered."""
        return known_blocks(self._ledger) | {number: mark.hash for number, mark in self._ends.items()}


def known_blocks(ledger: Ledger) -> dict[int, bytes]:
    """Return number → hash of the blocks that the journal remembers."""
    return {block_of(key): mark.hash for key, mark in ledger.marks.items()}


def within_reach(block: int, head: Block) -> bool:
    """Tell whether a full node can still be asked what held at a block."""
    return head.number - block <= STATES_HELD_BLOCKS


async def follows(layer: ExecutionLayer, trail: Trail, first: int, block: Block) -> bool:
    """Tell whether the blocks from `first` to `block` come after what was read before `first`."""
    known = trail.hash_of(first - 1)
    if known is None or first == block.number:
        return known in (None, block.parent_hash)
    before = await layer.block(first - 1)
    return before is not None and before.hash == known


async def last_common(layer: ExecutionLayer, known: Mapping[int, bytes]) -> Block | None:
    """Return the highest of these blocks that is on the chain, or None when none of them is.

    A block's ancestors are on the chain if it is, so halving finds it with few questions. Raises ChainUnavailable
    when the chain has no block of one of these heights: that says nothing about which block it will be.
    """
    numbers = sorted(known)
    found: Block | None = None
    low, high = 0, len(numbers)  # those before `low` are on the chain, those from `high` on are not
    while low < high:
        middle = (low + high) // 2
        block = await known_block(layer, numbers[middle])
        if block.hash == known[numbers[middle]]:
            found, low = block, middle + 1
        else:
            high = middle
    return found


async def known_block(layer: ExecutionLayer, number: int) -> Block:
    """Return a block. Raises ChainUnavailable when the node knows none of that height."""
    block = await layer.block(number)
    if block is None:
        raise ChainUnavailable(f"the node does not know a block {number}")
    return block


async def at_block(layer: ExecutionLayer, number: int, ask: Callable[[], Awaitable[T]]) -> tuple[Block, T]:
    """Return a block and what `ask` answers of it: the block is the same one before and after.

    Raises ChainUnavailable when the chain has no block of that number, or changes it with every look.
    """
    before = await layer.block(number)
    for _ in range(ATTEMPTS):
        answer = await ask()
        after = await layer.block(number)
        if before is not None and after is not None and after.hash == before.hash:
            return after, answer
        before = after
    raise ChainUnavailable(f"block {number} of the chain does not hold still")


async def read_reverted(
    layer: ExecutionLayer,
    ledger: Ledger,
    fork: Block,
    *,
    was: int,
    at: int,
    missed: bool = False,
    head: Block | None = None,
) -> ChainReverted | None:
    """Return the record that takes the ledger back to the block `fork`, None when that is not on the chain any more.

    When this returns the ledger has not changed since what is in the record was chosen. Where the state at `fork` is
    out of reach from `head`, the record says what the ledger itself kept of it, unread.
    """
    if head is not None and not within_reach(fork.number, head):
        record = _kept(ledger, fork, was, at, missed)
        if record is not None:
            return record
    while True:
        chosen = _affected(ledger, fork.number)
        block, record = await at_block(layer, fork.number, lambda: _read(layer, ledger, fork, chosen, was, at, missed))  # noqa: B023
        if block.hash != fork.hash:
            return None
        if _affected(ledger, fork.number) == chosen:
            return record


# What must be read: channels, and payees; None: nothing at all was done in later blocks.
_Affected = tuple[list[ChannelId], list[bytes]] | None


def _affected(ledger: Ledger, block: int) -> _Affected:
    channels = sorted(touched(ledger, block))
    # What is outstanding may be mined in a later block, too, and its payouts be in the books already.
    own = bool(ledger.transactions) or any(mined.block > block for mined in ledger.mined.values())
    if not (channels or own or any(True for _ in ledger.sums_before.after(block))):
        return None
    return channels, sorted(payee for payee, party in ledger.parties.items() if party.paid)


async def _read(
    layer: ExecutionLayer, ledger: Ledger, fork: Block, affected: _Affected, was: int, at: int, missed: bool
) -> ChainReverted:
    if affected is None:
        return ChainReverted(fork.number, fork.hash, fork.timestamp, was, at, (), (), (), missed)
    ids, payees = affected
    founded = ledger.founded
    assert founded is not None, "a journal begins with its founding"
    views = await layer.channels(ids, fork.number)
    lanes = await layer.receivers([(lane, founded.token) for lane in founded.lanes], fork.number)
    paid = await layer.paid(founded.payouts, founded.treasury, founded.token, payees, fork.number)
    return ChainReverted(
        number=fork.number,
        hash=fork.hash,
        timestamp=fork.timestamp,
        was=was,
        at=at,
        channels=tuple(_channel(ledger, identifier, view) for identifier, view in zip(ids, views, strict=True)),
        lanes=tuple(
            RevertedLane(lane, view.total_claimed, view.total_settled)
            for lane, view in zip(founded.lanes, lanes, strict=True)
        ),
        paid=tuple((payee, total - ledger.party(payee).base) for payee, total in zip(payees, paid, strict=True)),
        missed=missed,
    )


def _kept(ledger: Ledger, fork: Block, was: int, at: int, missed: bool) -> ChainReverted | None:
    """Return the record as the ledger kept it, None when it did not: of a channel that was taken up in a later block.

    What strangers brought the lanes, and what payees got, stays as it is: both are read anew when they can be.
    """
    before = touched(ledger, fork.number)
    founded = ledger.founded
    assert founded is not None, "a journal begins with its founding"
    claimed = dict.fromkeys(founded.lanes, 0)
    rows = []
    for identifier, channel in ledger.channels.items():
        then = before.get(identifier)
        if identifier in before and then is None:
            return None
        claimed[channel.config.receiver] += channel.claimed if then is None else then.claimed
        if then is not None:
            rows.append(RevertedChannel(identifier, then.balance, then.claimed, then.withdrawing, then.withdraw_after))
    first, *others = founded.lanes
    settled = {first: settled_after(ledger, fork.number), **dict.fromkeys(others, 0)}  # only the sum is kept
    lanes = [RevertedLane(lane, ledger.foreign.get(lane, 0) + claimed[lane], settled[lane]) for lane in founded.lanes]
    paid = [(payee, party.paid) for payee, party in ledger.parties.items() if party.paid]
    return ChainReverted(
        number=fork.number,
        hash=fork.hash,
        timestamp=fork.timestamp,
        was=was,
        at=at,
        channels=tuple(rows),
        lanes=tuple(lanes),
        paid=tuple(paid),
        missed=missed,
    )


def _channel(ledger: Ledger, identifier: ChannelId, view: ChannelView) -> RevertedChannel:
    return RevertedChannel(
        id=identifier,
        balance=view.balance,
        claimed=view.total_claimed,
        withdrawing=view.withdrawing,
        withdraw_after=withdraw_after(view, ledger.channels[identifier].config.withdraw_delay),
    )


def withdraw_after(view: ChannelView, delay: int) -> int:
    """Return the chain second from which a channel's pending withdrawal can be taken, 0 without one."""
    return view.withdraw_initiated_at + delay if view.withdrawing else 0
