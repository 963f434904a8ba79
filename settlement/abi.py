"""The contract ABI's encoding of values: as much of it as the contracts in use need, and no more.

Types are written as in signatures: `uint8`…`uint256`, `address`, `bool`, `bytes1`…`bytes32`, `bytes`,
`string`, `T[]` and tuples `(A,B)`. Integers are `int`, addresses and byte strings `bytes`, tuples and arrays
Python sequences (decoded as tuples).

Encoding raises ValueError for a value that does not fit its type: a fault of ours. Decoding is strict,
because what it reads was written by others: it raises ChainMisbehaved, and the input's size bounds its work.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from channels.digests import keccak
from settlement.errors import ChainMisbehaved

WORD = 32
_NESTING_MAX = 8  # the deepest type in use, a claim, has four levels


@dataclass(frozen=True, slots=True)
class AbiType:
    """A parsed type. `size`: bits of a uint, bytes of a bytesN; `inner`: the parts of a tuple or an array."""

    kind: str  # uint, address, bool, fixed (bytesN), bytes, string, array, tuple
    size: int
    inner: tuple["AbiType", ...]
    dynamic: bool
    head: int  # bytes that it takes in the head of an enclosing tuple


_SCALAR = re.compile(r"(uint)([1-9][0-9]{0,2})|(bytes)([1-9][0-9]?)|address|bool|bytes|string")


@lru_cache(maxsize=256)  # the signatures in use are some fifty
def parse(text: str) -> AbiType:
    """Return the parsed type. Raises ValueError for one that this codec does not know."""
    kind, rest = _parse(text, 0)
    if rest:
        raise ValueError(f"{text!r} is not an ABI type")
    return kind


def _parse(text: str, depth: int) -> tuple[AbiType, str]:
    if depth > _NESTING_MAX:
        raise ValueError("an ABI type is nested too deeply")
    if text.startswith("("):
        kind, rest = _parse_tuple(text[1:], depth)
    else:
        match = _SCALAR.match(text)
        if match is None:
            raise ValueError(f"{text!r} is not an ABI type")
        kind, rest = _scalar(match), text[match.end() :]
    while rest.startswith("[]"):
        kind, rest = AbiType("array", 0, (kind,), True, WORD), rest[2:]
    return kind, rest


def _parse_tuple(text: str, depth: int) -> tuple[AbiType, str]:
    parts = []
    while True:
        part, text = _parse(text, depth + 1)
        parts.append(part)
        if text.startswith(")"):
            break
        if not text.startswith(","):
            raise ValueError("an ABI tuple is not closed")
        text = text[1:]
    dynamic = any(part.dynamic for part in parts)
    head = WORD if dynamic else sum(part.head for part in parts)
    return AbiType("tuple", 0, tuple(parts), dynamic, head), text[1:]


def _scalar(match: re.Match[str]) -> AbiType:
    if match[1]:
        bits = int(match[2])
        if bits % 8 or bits > 256:
            raise ValueError(f"{match[0]!r} is not an ABI type")
        return AbiType("uint", bits, (), False, WORD)
    if match[3]:
        length = int(match[4])
        if length > WORD:
            raise ValueError(f"{match[0]!r} is not an ABI type")
        return AbiType("fixed", length, (), False, WORD)
    dynamic = match[0] in ("bytes", "string")
    return AbiType(match[0], 0, (), dynamic, WORD)


def encode(kind: str, value: Any) -> bytes:
    """Return the encoding of a value, without the offset that precedes a dynamic one.

    For arguments or return values give a tuple type: `encode("(address,uint256)", (owner, 1))`.
    """
    return _encode(parse(kind), value)


def _encode(kind: AbiType, value: Any) -> bytes:
    match kind.kind:
        case "uint":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << kind.size:
                raise ValueError(f"{value!r} is not a uint{kind.size}")
            return value.to_bytes(WORD, "big")
        case "bool":
            return int(bool(value)).to_bytes(WORD, "big")
        case "address":
            return _exact(value, 20).rjust(WORD, b"\0")
        case "fixed":
            return _exact(value, kind.size).ljust(WORD, b"\0")
        case "bytes":
            return _encode_bytes(bytes(value))
        case "string":
            return _encode_bytes(value.encode())
        case "array":
            items = tuple(value)
            return len(items).to_bytes(WORD, "big") + _encode_sequence(kind.inner * len(items), items)
        case _:
            return _encode_sequence(kind.inner, tuple(value))


def _exact(value: Any, length: int) -> bytes:
    if not isinstance(value, bytes) or len(value) != length:
        raise ValueError(f"{value!r} does not have {length} bytes")
    return value


def _encode_bytes(value: bytes) -> bytes:
    return len(value).to_bytes(WORD, "big") + value + bytes(-len(value) % WORD)


def _encode_sequence(kinds: Sequence[AbiType], values: Sequence[Any]) -> bytes:
    if len(kinds) != len(values):
        raise ValueError(f"{len(values)} values for {len(kinds)} ABI types")
    heads: list[bytes] = []
    tails: list[bytes] = []
    offset = sum(kind.head for kind in kinds)
    for kind, value in zip(kinds, values, strict=True):
        encoded = _encode(kind, value)
        if kind.dynamic:
            heads.append(offset.to_bytes(WORD, "big"))
            tails.append(encoded)
            offset += len(encoded)
        else:
            heads.append(encoded)
    return b"".join(heads) + b"".join(tails)


def decode(kind: str, data: bytes) -> Any:
    """Return the value that `data` encodes; for a tuple type, a tuple. Bytes after the value are ignored.

    Raises ChainMisbehaved for data that is too short, out of range, not padded with zeros, or that reads more
    words than it has (offsets that overlap, by which a small answer could be blown up).
    """
    return _Reader(data).value(parse(kind), 0)


class _Reader:
    """Reads one encoding, at most as many bytes as it has: a canonical one reads none of them twice."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._budget = len(data)

    def _take(self, start: int, length: int) -> bytes:
        end = start + length
        self._budget -= length
        if end > len(self._data) or self._budget < 0:
            raise ChainMisbehaved("ABI data is too short or overlaps itself")
        return self._data[start:end]

    def _word(self, start: int) -> int:
        return int.from_bytes(self._take(start, WORD), "big")

    def value(self, kind: AbiType, start: int) -> Any:
        match kind.kind:
            case "uint":
                return self._bounded(start, 1 << kind.size)
            case "bool":
                return self._bounded(start, 2) == 1
            case "address":
                return self._bounded(start, 1 << 160).to_bytes(20, "big")
            case "fixed":
                word = self._take(start, WORD)
                return self._unpadded(word, kind.size)
            case "bytes":
                return self._bytes(start)
            case "string":
                return self._string(start)
            case "array":
                count = self._bounded(start, len(self._data) // WORD + 1)
                return self._sequence(kind.inner * count, start + WORD)
            case _:
                return self._sequence(kind.inner, start)

    def _bounded(self, start: int, bound: int) -> int:
        word = self._word(start)
        if word >= bound:
            raise ChainMisbehaved("an ABI value is out of range")
        return word

    def _unpadded(self, data: bytes, length: int) -> bytes:
        if any(data[length:]):
            raise ChainMisbehaved("an ABI value is not padded with zeros")
        return data[:length]

    def _bytes(self, start: int) -> bytes:
        length = self._bounded(start, len(self._data) + 1)
        return self._unpadded(self._take(start + WORD, length + -length % WORD), length)

    def _string(self, start: int) -> str:
        try:
            return self._bytes(start).decode()
        except UnicodeDecodeError:
            raise ChainMisbehaved("an ABI string is not UTF-8") from None

    def _sequence(self, kinds: Sequence[AbiType], start: int) -> tuple[Any, ...]:
        values = []
        at = start
        for kind in kinds:
            if kind.dynamic:
                values.append(self.value(kind, start + self._bounded(at, len(self._data))))
            else:
                values.append(self.value(kind, at))
            at += kind.head
        return tuple(values)


@lru_cache(maxsize=256)  # one per function and error in use
def selector(signature: str) -> bytes:
    """Return the 4-byte selector of `name(types)`."""
    return keccak(signature.encode())[:4]


def call_data(signature: str, *arguments: Any) -> bytes:
    """Return the call data of a function given by its signature, `name(types)`."""
    kind = signature[signature.index("(") :]
    return selector(signature) + (b"" if kind == "()" else encode(kind, arguments))
