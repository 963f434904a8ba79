"""Keyed states in memory that remember what changed since they were last stored."""

from collections.abc import Iterator, MutableMapping
from typing import Any, Generic, TypeVar

import cbor2
import msgspec

from gateway.errors import JournalFault

V = TypeVar("V")


class Table(MutableMapping[bytes, V], Generic[V]):
    """A dictionary from byte keys to frozen states of one type, with its kind's name in the journal."""

    def __init__(self, kind: str, value_type: Any) -> None:
        self.kind = kind
        self._type = value_type
        self._rows: dict[bytes, V] = {}
        self._dirty: set[bytes] = set()

    def __getitem__(self, key: bytes) -> V:
        return self._rows[key]

    def __setitem__(self, key: bytes, value: V) -> None:
        self._rows[key] = value
        self._dirty.add(key)

    def __delitem__(self, key: bytes) -> None:
        del self._rows[key]
        self._dirty.add(key)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, key: bytes, body: bytes) -> None:
        """Take a stored state in at the start. Raises JournalFault for one that is not of this type."""
        try:
            self._rows[key] = msgspec.convert(cbor2.loads(body), self._type)
        except (cbor2.CBORDecodeError, msgspec.ValidationError) as error:
            raise JournalFault(f"a stored {self.kind} cannot be read: {error}") from error

    def take_dirty(self) -> list[tuple[str, bytes, object | None]]:
        """Return and forget what changed: (kind, key, state), the state None where it was deleted."""
        changed: list[tuple[str, bytes, object | None]] = [(self.kind, key, self._rows.get(key)) for key in self._dirty]
        self._dirty.clear()
        return changed
