"""A backup as one file: a tar whose last member is the SHA-256 of everything before it.

    manifest.json     what it is: gateway, chain, commit, time, and size and sum of every other file
    journal.sqlite    the books, vouchers and statements
    operators.sqlite  who may log in, if there is one
    metergate.toml    the configuration, and
    keys.json         the encrypted seed: only when they were asked for
    archive.sha256    the sum of all bytes before this member

`tar` lists and unpacks it. Reading it here is stricter: names are these and no others, each once, in this order, so
that nothing can lead out of the directory it is unpacked to; and every byte is covered by a sum or compared. Sums
show damage, not forgery: whoever may write a backup can make one.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from gateway.errors import SetupError

MANIFEST, JOURNAL, OPERATORS, CONFIG, KEYS = (
    "manifest.json",
    "journal.sqlite",
    "operators.sqlite",
    "metergate.toml",
    "keys.json",
)
SEAL = "archive.sha256"
ORDER = (JOURNAL, OPERATORS, CONFIG, KEYS)
FORMAT = "metergate-backup"
VERSION = 1
CHUNK = 1 << 20
BLOCK = tarfile.BLOCKSIZE
# A manifest has five files at most.
MANIFEST_MAX = 64 * 1024
# The seal is a header, a block with the sum, and the two empty blocks that end a tar.
SEAL_BYTES = 4 * BLOCK


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a backup."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a backup says of itself. `made_at` is Unix seconds, `commit` the journal's last one."""

    format: str
    version: int
    metergate: str
    made_at: int
    gateway: str
    chain_id: int
    commit: int
    schema: int
    files: tuple[FileEntry, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """Where the bytes of a file are in an archive."""

    entry: FileEntry
    offset: int


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive whose every byte was checked."""

    path: Path
    manifest: Manifest
    members: tuple[Member, ...]

    def has(self, name: str) -> bool:
        """Tell whether a file is in it."""
        return any(member.entry.name == name for member in self.members)

    def extract(self, name: str, to: Path) -> None:
        """Write one of its files, mode 0600, on disk when this returns. Raises SetupError, also for damage since."""
        member = next(member for member in self.members if member.entry.name == name)
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as source, _created(to) as target:
                source.seek(member.offset)
                left = member.entry.size
                while left and (piece := source.read(min(CHUNK, left))):
                    digest.update(piece)
                    target.write(piece)
                    left -= len(piece)
                target.flush()
                os.fsync(target.fileno())
        except OSError as error:
            raise SetupError(f"cannot unpack {self.path} to {to}: {error.strerror}.") from error
        if digest.hexdigest() != member.entry.sha256:
            raise SetupError(f"the backup {self.path} is damaged: {name} is not what it was a moment ago.")


def _created(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


# -- writing --


def entry_of(name: str, path: Path) -> FileEntry:
    """Return name, size and sum of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileEntry(name, file.tell(), digest.hexdigest())


def write_archive(target: Path, manifest: Manifest, sources: dict[str, Path]) -> None:
    """Write an archive of files that do not change, on disk when this returns. Raises OSError."""
    with _created(target) as file:
        out = _Summed(file)
        _put(out, MANIFEST, io.BytesIO(body := msgspec.json.encode(manifest)), len(body), manifest.made_at)
        for entry in manifest.files:
            with sources[entry.name].open("rb") as source:
                _put(out, entry.name, source, entry.size, manifest.made_at)
        file.write(_seal(out.digest.hexdigest(), manifest.made_at))
        file.flush()
        os.fsync(file.fileno())


class _Summed:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        """Write and add to the sum."""
        self._file.write(piece)
        self.digest.update(piece)


def _put(out: _Summed, name: str, source: io.BufferedIOBase | io.BytesIO, size: int, at: int) -> None:
    out.write(_header(name, size, at))
    left = size
    while left and (piece := source.read(min(CHUNK, left))):
        out.write(piece)
        left -= len(piece)
    if left:
        raise OSError(5, f"{name} became shorter while it was read")
    out.write(bytes(-size % BLOCK))


def _header(name: str, size: int, at: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, at
    return info.tobuf(tarfile.GNU_FORMAT)


def _seal(digest: str, at: int) -> bytes:
    body = f"{digest}\n".encode()
    return _header(SEAL, len(body), at) + body + bytes(-len(body) % BLOCK) + bytes(2 * BLOCK)


# -- reading --


def is_backup(path: Path) -> bool:
    """Tell whether a file begins as a backup does; for whoever is about to write over it."""
    with path.open("rb") as file:
        return file.read(len(MANIFEST) + 1) == MANIFEST.encode() + b"\0"


def open_archive(path: Path) -> Archive:
    """Read an archive whole and check every byte of it. Raises SetupError that says what is wrong."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _read(path, file, size)
    except OSError as error:
        raise SetupError(f"cannot read the backup {path}: {error.strerror}.") from error
    except (ValueError, tarfile.HeaderError, msgspec.MsgspecError) as error:
        raise SetupError(f"{path} is not a whole backup: {error}. Use another one.") from error


def _read(path: Path, file: BinaryIO, size: int) -> Archive:
    if size < SEAL_BYTES + 2 * BLOCK or size % BLOCK:
        raise ValueError(f"it has {size} bytes, which no backup has: it was cut off, or is something else")
    summed, left = hashlib.sha256(), size - SEAL_BYTES
    while left and (piece := file.read(min(CHUNK, left))):
        summed.update(piece)
        left -= len(piece)
    seal = file.read(SEAL_BYTES)
    file.seek(0)
    manifest_size = _member_size(file.read(BLOCK), MANIFEST, None)
    if manifest_size > MANIFEST_MAX:
        raise ValueError(f"its manifest claims {manifest_size} bytes")
    manifest = _manifest(file.read(manifest_size))
    if seal != _seal(summed.hexdigest(), manifest.made_at):
        raise ValueError("its bytes do not give the sum at its end: it is damaged")
    offset = BLOCK + manifest_size + -manifest_size % BLOCK
    members = []
    for entry in manifest.files:
        file.seek(offset)
        _member_size(file.read(BLOCK), entry.name, entry.size)
        members.append(Member(entry, offset + BLOCK))
        if _sum(file, entry.size) != entry.sha256:
            raise ValueError(f"{entry.name} does not have the sum that the manifest says")
        offset += BLOCK + entry.size + -entry.size % BLOCK
    if offset != size - SEAL_BYTES:
        raise ValueError("it holds more than its manifest says")
    return Archive(path, manifest, tuple(members))


def _member_size(header: bytes, name: str, size: int | None) -> int:
    """Return the size in a member's header, which must be of a plain file of that name."""
    info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    if info.name != name or info.type != tarfile.REGTYPE or (size is not None and info.size != size):
        raise ValueError(f"the plain file {name} was expected, and {info.name[:80]!r} was found")
    return info.size


def _manifest(body: bytes) -> Manifest:
    told: Any = json.loads(body)
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise ValueError("its manifest is not of a Metergate backup")
    if told.get("version") != VERSION:
        raise ValueError(f"it is of version {told.get('version')!r}, and this Metergate reads {VERSION}")
    manifest = msgspec.convert(told, Manifest)
    _check_names([entry.name for entry in manifest.files])
    if manifest.made_at < 0 or any(entry.size < 0 for entry in manifest.files):
        raise ValueError("its manifest has a negative number")
    return manifest


def _check_names(names: Sequence[str]) -> None:
    if names != [name for name in ORDER if name in names] or JOURNAL not in names:
        raise ValueError(f"it holds files that no backup has, or lacks the journal: {', '.join(names)[:200]!r}")


def _sum(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    left = size
    while left and (piece := file.read(min(CHUNK, left))):
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest()
