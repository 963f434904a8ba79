"""A device's memory that survives a power cut: one small file with two slots, written in turn.

Each slot is: magic, counter, length, SHA-256 of those and the data (first 16 bytes), data. A torn write spoils
one slot; the other still holds the state before it, which is the truth, because messages go out only after
the write.
"""

import hashlib
import os
import struct
from pathlib import Path

_MAGIC = b"FWS1"
_HEAD = struct.Struct(">4sQI16s")

# 64 raw and 64 signed readings of at most 600 bytes fit; a larger state is a fault.
SLOT_BYTES = 64 * 1024


class Flash:
    """One file. Not synced to the disk unless `sync`: a killed process loses nothing, a power cut may."""

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        self._sync = sync
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._counter = 0

    def load(self) -> bytes | None:
        """The newest state whose checksum holds; None for a new file, or when both slots are spoilt."""
        best: tuple[int, bytes] | None = None
        for slot in (0, 1):
            found = self._read(slot)
            if found is not None and (best is None or found[0] > best[0]):
                best = found
        if best is None:
            return None
        self._counter = best[0]
        return best[1]

    def save(self, data: bytes) -> None:
        """Replace the older slot; OSError when the disk refuses, ValueError for a state too large for a slot."""
        if len(data) > SLOT_BYTES - _HEAD.size:
            raise ValueError("device state larger than a flash slot")
        counter = self._counter + 1
        head = _HEAD.pack(_MAGIC, counter, len(data), _check(counter, data))
        os.pwrite(self._file, head + data, (counter % 2) * SLOT_BYTES)
        if self._sync:
            os.fdatasync(self._file)
        self._counter = counter

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _read(self, slot: int) -> tuple[int, bytes] | None:
        raw = os.pread(self._file, SLOT_BYTES, slot * SLOT_BYTES)
        if len(raw) < _HEAD.size:
            return None
        magic, counter, length, check = _HEAD.unpack_from(raw)
        data = raw[_HEAD.size : _HEAD.size + length]
        if magic != _MAGIC or len(data) != length or _check(counter, data) != check:
            return None
        return counter, data


def _check(counter: int, data: bytes) -> bytes:
    return hashlib.sha256(struct.pack(">QI", counter, len(data)) + data).digest()[:16]
