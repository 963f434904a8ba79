"""JSON-RPC 2.0 messages and Ethereum's hex values: written, and read without trust.

A reply of the wrong shape raises ChainMisbehaved. A body that is not JSON at all raises ChainUnavailable: that
is what captive portals, proxies and cut connections send, and it says nothing about the node.
"""

import re
from binascii import unhexlify
from collections.abc import Sequence
from typing import Any

import msgspec

from settlement.errors import ChainMisbehaved, ChainRefused, ChainUnavailable

Request = tuple[str, Sequence[Any]]  # method and parameters

_QUANTITY = re.compile(r"0x(?:0|[1-9a-f][0-9a-f]{0,63})", re.IGNORECASE)

# Error texts go into logs and journals.
MESSAGE_LENGTH_MAX = 500


def request_message(number: int, method: str, params: Sequence[Any]) -> bytes:
    """Return one request as JSON; its id `number` is given by the caller."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)})


def request_body(messages: Sequence[bytes]) -> bytes:
    """Return the body of one request, or of a batch when there are several."""
    return messages[0] if len(messages) == 1 else b"[" + b",".join(messages) + b"]"


def replies(body: bytes, ids: Sequence[int]) -> list[Any | ChainRefused]:
    """Return the result of each request, in the order of `ids`; one that the node refused is a ChainRefused.

    Raises ChainRefused when the node refused a batch as a whole.
    """
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError:
        raise ChainUnavailable("the answer is not JSON") from None
    if isinstance(answer, dict) and len(ids) > 1:
        refused = _reply(answer, None)
        if isinstance(refused, ChainRefused):
            raise refused
    messages = answer if isinstance(answer, list) and len(ids) > 1 else [answer]
    if len(messages) != len(ids):
        raise ChainMisbehaved(f"{len(messages)} answers to {len(ids)} requests")
    if len(ids) == 1:
        return [_reply(messages[0], ids[0])]
    by_id: dict[int, Any] = {}
    for message in messages:
        number = message.get("id") if isinstance(message, dict) else None
        if not isinstance(number, int) or number in by_id:
            raise ChainMisbehaved("an answer without an id of its own")
        by_id[number] = message
    if by_id.keys() != set(ids):
        raise ChainMisbehaved("answers to other requests")
    return [_reply(by_id[number], number) for number in ids]


def _reply(message: Any, number: int | None) -> Any | ChainRefused:
    if not isinstance(message, dict):
        raise ChainMisbehaved("an answer is not a JSON-RPC object")
    error = message.get("error")
    # A node that cannot parse a request answers with id null.
    if message.get("id") != number and not (error is not None and message.get("id") is None):
        raise ChainMisbehaved("an answer to another request")
    if error is None:
        if "result" not in message:
            raise ChainMisbehaved("an answer with neither result nor error")
        return message["result"]
    if not isinstance(error, dict) or type(error.get("code")) is not int:
        raise ChainMisbehaved("a JSON-RPC error without a code")
    text = error.get("message")
    detail = error.get("data")
    if isinstance(detail, dict):  # some nodes wrap it
        detail = detail.get("data")
    data = _unhexed(detail)
    words = text[:MESSAGE_LENGTH_MAX] if isinstance(text, str) else "no message"
    return ChainRefused(error["code"], words, data)


def hex_of(value: bytes) -> str:
    """Return 0x-hex."""
    return "0x" + value.hex()


def block_tag(number: int | None) -> str:
    """Return a block parameter: the number, or "latest" for None."""
    return "latest" if number is None else hex(number)


def quantity(value: Any, bits: int = 256) -> int:
    """Read a quantity: 0x-hex without leading zeros, below 2^bits."""
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise ChainMisbehaved(f"{_shown(value)} is not a quantity")
    number = int(value, 16)
    if number >> bits:
        raise ChainMisbehaved(f"{_shown(value)} is above 2^{bits}")
    return number


def data_of(value: Any, length: int | None = None) -> bytes:
    """Read a byte string, of exactly `length` bytes when given."""
    data = _unhexed(value)
    if data is None:
        raise ChainMisbehaved(f"{_shown(value)} is not a byte string")
    if length is not None and len(data) != length:
        raise ChainMisbehaved(f"{_shown(value)} does not have {length} bytes")
    return data


def _unhexed(value: Any) -> bytes | None:
    """Return what 0x-hex says, None for anything else. A block's logs are megabytes of it: no regular expression."""
    if not isinstance(value, str) or value[:2] not in ("0x", "0X"):
        return None
    try:
        return unhexlify(value[2:])  # unlike bytes.fromhex it passes over no spaces
    except ValueError:
        return None


def object_of(value: Any) -> dict[str, Any]:
    """Read a JSON object."""
    if not isinstance(value, dict):
        raise ChainMisbehaved(f"{_shown(value)} is not an object")
    return value


def list_of(value: Any) -> list[Any]:
    """Read a JSON array."""
    if not isinstance(value, list):
        raise ChainMisbehaved(f"{_shown(value)} is not an array")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
