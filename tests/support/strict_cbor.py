"""A second reader of CBOR for tests: small, slow and strict by docs/protocol.md 3.3, written without cbor2."""

from typing import Any


class NotStrict(Exception):
    """The bytes are not one item as the protocol allows it."""


def read(data: bytes, depth_max: int) -> Any:
    """Return the one item that `data` holds. Raises NotStrict."""
    item, rest = _item(data, depth_max)
    if rest:
        raise NotStrict("bytes after the item")
    return item


def _head(data: bytes) -> tuple[int, int, int, bytes]:
    if not data:
        raise NotStrict("it ends too early")
    major, info = data[0] >> 5, data[0] & 31
    data = data[1:]
    if info < 24:
        return major, info, info, data
    if info > 27:
        raise NotStrict("indefinite or reserved")
    size = 1 << (info - 24)
    if len(data) < size:
        raise NotStrict("it ends too early")
    return major, info, int.from_bytes(data[:size], "big"), data[size:]


def _item(data: bytes, depth: int) -> tuple[Any, bytes]:
    major, info, value, rest = _head(data)
    if major == 0:
        return value, rest
    if major == 1:
        return -1 - value, rest
    if major in (2, 3):
        if len(rest) < value:
            raise NotStrict("it ends too early")
        string, rest = rest[:value], rest[value:]
        if major == 2:
            return string, rest
        try:
            return string.decode(), rest
        except UnicodeDecodeError as error:
            raise NotStrict("not UTF-8") from error
    if major in (4, 5):
        return _container(major, value, rest, depth)
    if major == 6:
        string, rest = _item(rest, depth)
        if value != 2 or type(string) is not bytes or len(string) < 9 or string[0] == 0:
            raise NotStrict("a tag that is not a large integer")
        return int.from_bytes(string, "big"), rest
    if info == 24 and value < 32:
        raise NotStrict("a short simple value written long")
    return ("simple", info, value), rest  # floats and simple values: nothing the protocol uses


def _container(major: int, count: int, rest: bytes, depth: int) -> tuple[Any, bytes]:
    if depth == 0:
        raise NotStrict("nested too deep")
    if major == 4:
        items = []
        for _ in range(count):
            item, rest = _item(rest, depth - 1)
            items.append(item)
        return items, rest
    members: dict[Any, Any] = {}
    for _ in range(count):
        key, rest = _item(rest, depth - 1)
        if type(key) not in (int, str):
            raise NotStrict("a key that is neither integer nor text")
        if (type(key), key) in members:
            raise NotStrict("a key twice")
        value, rest = _item(rest, depth - 1)
        members[type(key), key] = value
    return {key: value for (_, key), value in members.items()}, rest
