"""The list of devices: search, filters, order and cursor, bounded however many devices there are.

By name without filters, a page is a slice of what the index holds. Anything else is one pass over the rows, in a
thread, kept for a second: many pages, or many people looking, are one pass a second.
"""

import asyncio
import base64
import json
import time
from bisect import bisect_right
from collections import OrderedDict
from typing import Any, NamedTuple

from gateway.web.activity import RECENT_S, Activity
from gateway.web.devices_index import DeviceIndex, Row
from gateway.web.endpoints import Problem
from gateway.web.shapes import DeviceRow, LastRefusal

SORTS = (
    "device",
    "charged",
    "earned",
    "unclaimed",
    "balance",
    "fill",
    "rate",
    "last_receipt_at",
    "last_refusal",
    "register",
)
ORDERS = (*SORTS, *(f"-{name}" for name in SORTS[1:]))
STATUSES = ("online", "quiet", "never", "unknown")
PROBLEMS = ("any", "refused", "no_deposit", "deposit_low", "withdrawing", "owes", "closed")
KEPT_S = 1.0
KEPT_MAX = 8
# Fewer rows are sorted faster than a thread is woken.
THREAD_FROM = 1_000


class Wish(NamedTuple):
    """What is asked for."""

    search: str = ""
    status: str = ""
    service: str = ""
    problem: str = ""
    sort: str = "device"


class _Item(NamedTuple):
    key: tuple[Any, ...]
    row: Row


class Listing:
    """Answers for the list of devices."""

    def __init__(self, index: DeviceIndex, activity: Activity) -> None:
        self._index = index
        self._activity = activity
        self._kept: OrderedDict[Wish, tuple[float, asyncio.Future[list[_Item]]]] = OrderedDict()

    async def page(self, wish: Wish, cursor: str, limit: int) -> tuple[list[DeviceRow], str | None, int]:
        """Return (rows, cursor of the next page or None, how many there are in all)."""
        if wish == Wish():
            rows = self._index.after(_name(cursor), limit + 1)
            total = len(self._index.names)
            following = _cursor((rows[limit - 1].device,)) if len(rows) > limit else None
            return [self.shape(row) for row in rows[:limit]], following, total
        behind = _key(cursor, valued=wish.sort != "device") if cursor else None
        items = await self._found(wish)
        start = 0 if behind is None else bisect_right(items, behind, key=lambda item: item.key)
        part = items[start : start + limit]
        following = _cursor(part[-1].key) if len(items) > start + limit else None
        return [self.shape(item.row) for item in part], following, len(items)

    def shape(self, row: Row) -> DeviceRow:
        """Return a row for the API."""
        now = time.time()
        refusal = self._activity.refusals.get(row.device)
        received = self._activity.receipts.get(row.device)
        return DeviceRow(
            device=row.device,
            note=row.note,
            enrolled=row.enrolled,
            status=self._status(row),
            problem=self._problem(row, now),
            services=list(row.services),
            channels=row.channels,
            accounts=row.accounts,
            register=row.register,
            charged=str(row.charged),
            earned=str(row.earned),
            unclaimed=str(row.unclaimed),
            balance=str(row.balance),
            fill=row.fill,
            rate=str(row.rate(time.monotonic())),
            last_receipt_at=None if received is None else int(received),
            last_refusal=None
            if refusal is None
            else LastRefusal(reason=refusal.reason, at=int(refusal.at), times=refusal.times),
        )

    def _status(self, row: Row) -> str:
        if row.device in self._activity.online:
            return "online"
        if row.device in self._activity.receipts or row.device in self._activity.refusals:
            return "quiet"
        return "never" if row.enrolled or row.channels or row.accounts else "unknown"

    def _problem(self, row: Row, now: float) -> str:
        refusal = self._activity.refusals.get(row.device)
        if refusal is not None and refusal.at > max(now - RECENT_S, self._activity.receipts.get(row.device, 0.0)):
            return "refused"
        return row.problem

    async def _found(self, wish: Wish) -> list[_Item]:
        kept = self._kept.get(wish)
        if kept is None or time.monotonic() - kept[0] > KEPT_S:
            rows = list(self._index.rows.values())
            if len(rows) < THREAD_FROM:
                found: asyncio.Future[list[_Item]] = asyncio.get_running_loop().create_future()
                found.set_result(self._pass(wish, rows))
            else:
                found = asyncio.ensure_future(asyncio.to_thread(self._pass, wish, rows))
            kept = self._kept[wish] = (time.monotonic(), found)
            self._kept.move_to_end(wish)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        return await asyncio.shield(kept[1])

    def _pass(self, wish: Wish, rows: list[Row]) -> list[_Item]:
        now, monotonic = time.time(), time.monotonic()
        needle = wish.search.lower()
        items = [
            _Item(self._sort_key(wish.sort, row, monotonic), row)
            for row in rows
            if (not needle or needle in row.device.lower() or needle in row.note.lower())
            and (not wish.service or wish.service in row.services)
            and (not wish.status or self._status(row) == wish.status)
            and (not wish.problem or _fits(wish.problem, self._problem(row, now)))
        ]
        items.sort(key=lambda item: item.key)
        return items

    def _sort_key(self, sort: str, row: Row, now: float) -> tuple[Any, ...]:
        """Return what the row is sorted by: rows without a value come last either way."""
        name, sign = sort.removeprefix("-"), -1 if sort.startswith("-") else 1
        if name == "device":
            return (row.device,)
        value: float | None
        if name == "rate":
            value = row.rate(now)
        elif name == "last_receipt_at":
            value = self._activity.receipts.get(row.device)
        elif name == "last_refusal":
            refusal = self._activity.refusals.get(row.device)
            value = None if refusal is None else refusal.at
        else:
            value = getattr(row, name)
        return (value is None, sign * (value or 0), row.device)


def _fits(wanted: str, problem: str) -> bool:
    return problem != "" if wanted == "any" else problem == wanted


# -- cursors: the last row's sort key, so that a page goes on behind it whatever has changed before it --


def _cursor(key: tuple[Any, ...]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def _parts(cursor: str) -> list[Any]:
    try:
        parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError) as error:
        raise Problem(400, "bad_query", "`cursor` is not from a page of this list") from error
    if not isinstance(parts, list):
        raise Problem(400, "bad_query", "`cursor` is not from a page of this list")
    return parts


def _name(cursor: str) -> str:
    if not cursor:
        return ""
    match _parts(cursor):
        case [str(name)]:
            return name
    raise Problem(400, "bad_query", "`cursor` is not from a page of this list")


def _key(cursor: str, valued: bool) -> tuple[Any, ...]:
    match _parts(cursor):
        case [str(name)] if not valued:
            return (name,)
        case [bool(missing), int(value) | float(value), str(name)] if valued and not isinstance(value, bool):
            return (missing, value, name)
    raise Problem(400, "bad_query", "`cursor` is not from a page of this list")
