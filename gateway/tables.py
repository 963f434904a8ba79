"""Keyed states in memory that remember what changed since they were last stored."""

from collections.abc import ItemsView, Iterator, KeysView, MutableMapping, ValuesView
from typing import Any, Generic, TypeVar, overload

import cbor2
import msgspec

from gateway.errors import JournalFault

V = TypeVar("V")
T = TypeVar("T")


def decoded(kind: str, value_type: Any, body: bytes) -> Any:
    """Return a stored state. Raises JournalFault for one that is not of this type."""
    try:
        return msgspec.convert(cbor2.loads(body), value_type)
    except (cbor2.CBORDecodeError, msgspec.ValidationError) as error:
        raise JournalFault(f"a stored {kind} cannot be read: {error}") from error


class Table(MutableMapping[bytes, V], Generic[V]):
    """A dictionary from byte keys to frozen states of one type, with its kind's name in the journal."""

    def __init__(self, kind: str, value_type: Any) -> None:
        self.kind = kind
        self._type = value_type
        self._rows: dict[bytes, V] = {}
        self._dirty: set[bytes] = set()
        self._followers: tuple[set[bytes], ...] = ()

    def follow(self) -> set[bytes]:
        """Return a set into which the key of every change goes from now on; the caller empties it."""
        follower: set[bytes] = set()
        self._followers = (*self._followers, follower)
        return follower

    def __getitem__(self, key: bytes) -> V:
        return self._rows[key]

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    @overload
    def get(self, key: bytes, default: None = None, /) -> V | None: ...
    @overload
    def get(self, key: bytes, default: V | T, /) -> V | T: ...
    def get(self, key: bytes, default: object = None, /) -> object:
        """Return the state of a key, or the default. Written out, as the one of `Mapping` raises and catches."""
        return self._rows.get(key, default)

    def __setitem__(self, key: bytes, value: V) -> None:
        self._rows[key] = value
        self._dirty.add(key)
        for follower in self._followers:
            follower.add(key)

    def __delitem__(self, key: bytes) -> None:
        del self._rows[key]
        self._dirty.add(key)
        for follower in self._followers:
            follower.add(key)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    # The dictionary's own views: those of `Mapping` take four to seventeen times as long, and an intersection with
    # their `keys()` walks through all of them.

    def keys(self) -> KeysView[bytes]:
        """Return a view of the keys."""
        return self._rows.keys()

    def values(self) -> ValuesView[V]:
        """Return a view of the states."""
        return self._rows.values()

    def items(self) -> ItemsView[bytes, V]:
        """Return a view of the keys with their states."""
        return self._rows.items()

    def copy(self) -> dict[bytes, V]:
        """Return what is there now, as a dictionary of its own."""
        return self._rows.copy()

    def load(self, key: bytes, body: bytes) -> None:
        """Take a stored state in at the start. Raises JournalFault for one that is not of this type."""
        self._rows[key] = decoded(self.kind, self._type, body)

    @property
    def changed(self) -> int:
        """How many keys changed since they were last taken."""
        return len(self._dirty)

    def take_dirty(self) -> list[tuple[str, bytes, object | None]]:
        """Return and forget what changed: (kind, key, state), the state None where it was deleted."""
        changed: list[tuple[str, bytes, object | None]] = [(self.kind, key, self._rows.get(key)) for key in self._dirty]
        self._dirty.clear()
        return changed


class BlockTable(Table[V]):
    """A table whose keys begin with a block number (8 bytes, big-endian), found and forgotten by it."""

    def __init__(self, kind: str, value_type: Any) -> None:
        super().__init__(kind, value_type)
        self._by_block: dict[int, set[bytes]] = {}

    @property
    def blocks(self) -> KeysView[int]:
        """The blocks that have entries, in no order."""
        return self._by_block.keys()

    def after(self, block: int) -> Iterator[bytes]:
        """Yield the keys of later blocks than this one, in no order."""
        return (key for number, keys in self._by_block.items() if number > block for key in keys)

    def forget(self, block: int) -> None:
        """Delete the entries of this block and of all earlier ones."""
        for number in [number for number in self._by_block if number <= block]:
            for key in list(self._by_block[number]):
                del self[key]

    def __setitem__(self, key: bytes, value: V) -> None:
        super().__setitem__(key, value)
        self._by_block.setdefault(int.from_bytes(key[:8], "big"), set()).add(key)

    def __delitem__(self, key: bytes) -> None:
        super().__delitem__(key)
        number = int.from_bytes(key[:8], "big")
        self._by_block[number].remove(key)
        if not self._by_block[number]:
            del self._by_block[number]

    def load(self, key: bytes, body: bytes) -> None:
        """Take a stored state in at the start, as `Table.load` does."""
        super().load(key, body)
        self._by_block.setdefault(int.from_bytes(key[:8], "big"), set()).add(key)
