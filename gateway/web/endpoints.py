"""One table row per API route: path, scope, shapes, handler. Routes and the OpenAPI document come from the same rows.

Requests and answers are msgspec structs, so what is documented is what is checked and sent. Amounts are decimal
strings in token base units, ids and addresses 0x-hex, times Unix seconds.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request

from gateway.web.access import Caller, Scope

# The largest request is a device with sixteen payers and a note.
BODY_MAX = 16_384
LIMIT_MAX = 200
LIMIT = 50

Amount = Annotated[str, Meta(pattern=r"^-?(0|[1-9][0-9]*)$", description="token base units")]
Hex = Annotated[str, Meta(pattern=r"^0x[0-9a-f]*$")]

T = TypeVar("T")


class Problem(Exception):
    """A request that cannot be answered as asked: an HTTP status, a stable code, and a sentence."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


class ErrorBody(msgspec.Struct, frozen=True):
    """What went wrong: `code` is stable, `message` is a sentence for people."""

    code: str
    message: str


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorBody


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list. `next` is the cursor of the next page, null at the end; `total` is null when not counted."""

    items: list[T]
    next: str | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was let in: who asks, the path's parts, the query, and the decoded body (None without one)."""

    request: Request
    caller: Caller
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any = None

    def limit(self) -> int:
        """Return the page size that was asked for."""
        return whole(self.query, "limit", LIMIT, 1, LIMIT_MAX)


Handler = Callable[[Asked], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Query:
    """One query parameter: its JSON schema and what it means."""

    name: str
    schema: Mapping[str, Any]
    words: str


PAGING = (
    Query("limit", {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT}, "page size"),
    Query("cursor", {"type": "string", "maxLength": 256}, "from the page before"),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route below /api/v1. `scope` None: open to everybody. An action is audited, and idempotent under a key."""

    method: str
    path: str
    scope: Scope | None
    handler: Handler
    answer: Any
    summary: str
    tag: str
    body: Any = None
    queries: tuple[Query, ...] = ()
    status: int = 200
    audited: bool = True  # actions only
    kept: bool = True  # the answer, under its idempotency key; never one with a secret in it
    errors: tuple[int, ...] = field(default=())

    @property
    def action(self) -> bool:
        """True for what changes something."""
        return self.method != "GET"


def whole(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """Return a whole number of the query. Raises Problem for anything else."""
    text = query.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
        raise Problem(400, "bad_query", f"`{name}` is a whole number from {low} to {high}")
    return int(text)


def one_of(query: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str = "") -> str:
    """Return one of the allowed words of the query. Raises Problem for any other."""
    text = query.get(name, default)
    if text and text not in allowed:
        raise Problem(400, "bad_query", f"`{name}` is one of {', '.join(allowed)}")
    return text


def check_queries(queries: tuple[Query, ...], given: Mapping[str, str]) -> None:
    """Hold what was given to what is documented; an empty text is as none. Raises Problem."""
    for query in queries:
        text = given.get(query.name)
        if not text:
            continue
        schema = query.schema
        if schema["type"] == "integer":
            whole(given, query.name, 0, schema["minimum"], schema["maximum"])
        elif "enum" in schema:
            one_of(given, query.name, tuple(schema["enum"]))
        elif len(text) > schema["maxLength"]:
            raise Problem(400, "bad_query", f"`{query.name}` has at most {schema['maxLength']} characters")


def decode_body(raw: bytes, shape: Any) -> Any:
    """Return the body as `shape`. Raises Problem with the place that does not fit."""
    try:
        return msgspec.json.decode(raw or b"{}", type=shape)
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Problem(400, "bad_body", f"the body does not fit: {error}") from None
