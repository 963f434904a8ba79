"""Which commit holds which of a channel's last accepted readings, so that a replay gets its own receipt again.

Kept in blocks, each reading as its distance from the one before: two bytes, mostly, where two numbers would be sixteen.
Only the block that grows is stored again and again.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeAlias

from gateway.entries import StoredReadings

# Kept at least per channel or account (docs/protocol.md 5): far more than a device's own store of unanswered readings.
READINGS_KEPT = 1024
# The growing block is written whenever its channel's state is: it should not be much larger than that.
BLOCK_READINGS = 512

Block: TypeAlias = tuple[int, StoredReadings]  # its first seq, and the rest


class History:
    """The last accepted seqs of one channel, rising, each with its commit number, which never falls."""

    __slots__ = ("_before", "_commit", "_count", "_data", "_dropped", "_first", "_seq", "_unstored")

    def __init__(self, blocks: Sequence[Block] = ()) -> None:
        """Take up stored blocks, in order."""
        self._before: tuple[Block, ...] = tuple(blocks[:-1])
        self._unstored = 0  # of those before, the last ones
        self._dropped: tuple[int, ...] = ()  # first seqs of blocks that may be stored still
        self._first = (0, 0)  # (seq, commit) where the growing block begins
        self._count = self._seq = self._commit = 0
        self._data = bytearray()
        if blocks:
            seq, growing = blocks[-1]
            self._first = (seq, growing.commit)
            self._count, self._seq, self._commit = growing.count, growing.last_seq, growing.last_commit
            self._data += growing.data

    def add(self, seq: int, commit: int) -> None:
        """Note an accepted reading; `seq` is higher than all before."""
        if self._count == BLOCK_READINGS:
            self._turn()
        if self._count == 0:
            self._first = (seq, commit)
        else:
            step = seq - self._seq
            _append(self._data, (commit - self._commit) << 1 | (step != 1))
            if step != 1:
                _append(self._data, step)
        self._seq, self._commit = seq, commit
        self._count += 1

    def covers(self, seq: int) -> bool:
        """Tell whether a reading accepted under this seq may be kept; those of new readings never are."""
        return seq <= self._seq

    def newest(self, before: int | None, limit: int) -> list[tuple[int, int]]:
        """Return up to `limit` (seq, commit) with seqs below `before`, the highest first."""
        newest = (
            reading
            for block in reversed(self.blocks)
            for reading in reversed(list(readings(block)))
            if before is None or reading[0] < before
        )
        return list(islice(newest, limit))

    def changes(self) -> list[tuple[int, StoredReadings | None]]:
        """Return and forget what changed since the last call: blocks by their first seq, None for one that is gone."""
        unstored = self._before[len(self._before) - self._unstored :]
        changed: list[tuple[int, StoredReadings | None]] = [(seq, None) for seq in self._dropped]
        changed += [*unstored, self._growing()]
        self._unstored, self._dropped = 0, ()
        return changed

    @property
    def blocks(self) -> list[Block]:
        """All that is kept, oldest first: what a history can be made from."""
        return [*self._before, self._growing()] if self._count else [*self._before]

    def _growing(self) -> Block:
        seq, commit = self._first
        return seq, StoredReadings(commit, self._count, self._seq, self._commit, bytes(self._data))

    def _turn(self) -> None:
        """Begin a new block, and drop the oldest one if enough is kept without it."""
        self._before = (*self._before, self._growing())
        self._unstored += 1
        self._count, self._data = 0, bytearray()
        oldest = self._before[0]
        if sum(block.count for _, block in self._before[1:]) >= READINGS_KEPT:
            self._before = self._before[1:]
            self._unstored = min(self._unstored, len(self._before))
            self._dropped = (*self._dropped, oldest[0])


def _append(data: bytearray, value: int) -> None:
    """Append a number by seven bits a byte, the lowest first (LEB128)."""
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)


def _numbers(data: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0


def readings(block: Block) -> Iterator[tuple[int, int]]:
    """Yield each (seq, commit) of a block, in order."""
    seq, commit = block[0], block[1].commit
    yield seq, commit
    numbers = _numbers(block[1].data)
    for number in numbers:
        commit += number >> 1
        seq += next(numbers) if number & 1 else 1
        yield seq, commit
