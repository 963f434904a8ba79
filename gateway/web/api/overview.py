"""How the gateway stands, charts, events, and what refusals mean."""

from collections.abc import Callable

from channels.refusals import Refusal
from gateway.web.access import Scope
from gateway.web.activity import KINDS
from gateway.web.api.common import before
from gateway.web.desk import Desk
from gateway.web.endpoints import PAGING, Asked, Endpoint, Handler, Page, Query, one_of
from gateway.web.reasons import REASONS
from gateway.web.series import COLUMNS
from gateway.web.shapes import Asset, Event, Gas, KeyCoins, Overview, RefusalReason, Series, ServiceLine
from gateway.web.tiles import tiles

RANGES = ("10m", "24h")


def endpoints(desk: Desk) -> list[Endpoint]:
    """Return the rows of this subject."""
    kinds = {"type": "string", "enum": list(KINDS)}
    return [
        Endpoint("GET", "/overview", Scope.READ, _of(desk, _overview), Overview, "How the gateway stands", "overview"),
        Endpoint(
            "GET", "/series", Scope.READ, _of(desk, _series), Series, "A chart's columns", "overview",
            queries=(
                Query("name", {"type": "string", "enum": list(COLUMNS), "default": "payments"}, "which chart"),
                Query("range", {"type": "string", "enum": list(RANGES), "default": "10m"}, "by the second, or minute"),
            ),
        ),
        Endpoint(
            "GET", "/events", Scope.READ, _of(desk, _events), Page[Event], "Refusals and events, newest first",
            "events",
            queries=(
                Query("kind", kinds, "only these"),
                Query("device", {"type": "string", "maxLength": 64}, "only of this device"),
                *PAGING,
            ),
        ),
        Endpoint(
            "GET", "/refusals/reasons", Scope.READ, _of(desk, _reasons), Page[RefusalReason],
            "What each refusal means, and what to do", "events",
        ),
    ]  # fmt: skip


def _of(desk: Desk, answer: Callable[[Desk, Asked], object]) -> Handler:
    async def handler(asked: Asked) -> object:
        return answer(desk, asked)

    return handler


def _overview(desk: Desk, asked: Asked) -> Overview:
    gateway = desk.gateway
    offer = gateway.terms.current
    return Overview(
        gateway=gateway.config.gateway,
        version=desk.version,
        demo=gateway.config.demo,
        asset=Asset(name=offer.asset_name, address=f"0x{offer.asset.hex()}", decimals=6),
        services={
            name: ServiceLine(unit=line.unit, price=str(line.price), direction=line.direction)
            for name, line in offer.services.items()
        },
        tiles=tiles(desk),
        gas=_gas(desk),
        backup=desk.backup_state(),
    )


def _gas(desk: Desk) -> Gas:
    keeper = desk.gateway.gas
    return Gas(
        refills=keeper.refills,
        warning=keeper.warning,
        keys=[
            KeyCoins(
                name=key.name,
                address=f"0x{key.address.hex()}",
                coins=str(key.coins),
                low=str(key.marks.low),
                transactions=key.transactions,
                is_low=key.coins < key.marks.low,
            )
            for key in keeper.keys
        ],
    )


def _series(desk: Desk, asked: Asked) -> Series:
    name = one_of(asked.query, "name", tuple(COLUMNS), "payments")
    points = list(desk.series.minutes if one_of(asked.query, "range", RANGES, "10m") == "24h" else desk.series.seconds)
    columns = COLUMNS[name or "payments"]
    return Series(
        names=list(columns),
        t=[point.t for point in points],
        v=[[getattr(point, column) for point in points] for column in columns],
    )


def _events(desk: Desk, asked: Asked) -> Page[Event]:
    kind = one_of(asked.query, "kind", KINDS)
    limit = asked.limit()
    found = desk.activity.newest(before(asked), limit + 1, kind=kind, device=asked.query.get("device", ""))
    return Page(found[:limit], str(found[limit - 1].id) if len(found) > limit else None)


def _reasons(desk: Desk, asked: Asked) -> Page[RefusalReason]:
    seen = desk.gateway.pipeline.counters.refused
    return Page(
        [
            RefusalReason(
                number=int(refusal),
                name=refusal.wire_name,
                transient=refusal.transient,
                cause=REASONS[refusal].cause,
                device_does=REASONS[refusal].device,
                operator_does=REASONS[refusal].operator,
                seen=seen[refusal.wire_name],
            )
            for refusal in Refusal
        ],
        None,
        len(Refusal),
    )
