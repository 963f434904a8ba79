"""Which commit holds which of a channel's last accepted readings, so that a replay gets its own receipt again."""

import sys
from array import array
from bisect import bisect_left

# Kept per channel or account (docs/protocol.md 5): far more than a device's own store of unanswered readings.
READINGS_KEPT = 1024


class History:
    """The last accepted seqs of one channel, rising, each with its commit number: 16 bytes a reading."""

    __slots__ = ("_commits", "_seqs")

    def __init__(self) -> None:
        self._seqs = array("Q")
        self._commits = array("Q")

    def add(self, seq: int, commit: int) -> None:
        """Note an accepted reading; `seq` is higher than all before."""
        self._seqs.append(seq)
        self._commits.append(commit)
        # Cut in halves, so that the cost of moving the rest is paid once in a thousand readings.
        if len(self._seqs) >= 2 * READINGS_KEPT:
            del self._seqs[:READINGS_KEPT]
            del self._commits[:READINGS_KEPT]

    def find(self, seq: int) -> int | None:
        """Return the commit that holds the reading accepted under this seq, or None when none is kept."""
        index = bisect_left(self._seqs, seq)
        if index < len(self._seqs) and self._seqs[index] == seq:
            return self._commits[index]
        return None

    def newest(self, before: int | None, limit: int) -> list[tuple[int, int]]:
        """Return up to `limit` (seq, commit) with seqs below `before`, the highest first."""
        end = len(self._seqs) if before is None else bisect_left(self._seqs, before)
        return [(self._seqs[index], self._commits[index]) for index in range(end - 1, max(-1, end - 1 - limit), -1)]

    def dump(self) -> tuple[bytes, bytes]:
        """Return the content as two little-endian u64 arrays."""
        return _bytes(self._seqs), _bytes(self._commits)

    @classmethod
    def load(cls, seqs: bytes, commits: bytes) -> "History":
        """Return a history from `dump`'s arrays."""
        history = cls()
        history._seqs = _array(seqs)
        history._commits = _array(commits)
        return history


def _bytes(values: "array[int]") -> bytes:
    if sys.byteorder == "big":
        values = array("Q", values)
        values.byteswap()
    return values.tobytes()


def _array(data: bytes) -> "array[int]":
    values = array("Q")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values
