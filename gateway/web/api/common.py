"""What several handlers share: cursors that are numbers, ids in paths, and work that may end the gateway."""

import re
from collections.abc import Coroutine
from typing import Any, TypeVar

from gateway.enrolment import BadRequest
from gateway.service import Gateway
from gateway.web.endpoints import Asked, Problem, whole

T = TypeVar("T")

# What SQLite and JSON readers hold.
NUMBER_MAX = 2**53 - 1


def before(asked: Asked) -> int | None:
    """Return the cursor of a list that is ordered by a falling number."""
    if not asked.query.get("cursor"):
        return None
    return whole(asked.query, "cursor", 0, 0, NUMBER_MAX)


def hex_bytes(text: str, size: int, what: str) -> bytes:
    """Return an id or address of a path or body. Raises Problem for what is none."""
    if not re.fullmatch(rf"0x[0-9a-fA-F]{{{2 * size}}}", text, re.ASCII):
        raise Problem(400, "bad_query", f"{what} is 0x and {2 * size} hex digits")
    return bytes.fromhex(text[2:])


def not_found(what: str) -> Problem:
    """Return the problem of something that is not there."""
    return Problem(404, "not_found", f"there is no {what}")


async def supervised(gateway: Gateway, work: Coroutine[Any, Any, T]) -> T:
    """Run work that changes the books as a part of the gateway. Raises Problem for what cannot be."""
    try:
        return await gateway.supervised(work, BadRequest)
    except BadRequest as error:
        raise Problem(400, "bad_body", str(error)) from error
