"""What the overview, the list of cycles and the page of enrolment tell, from the desk and the books."""

import time
from typing import TYPE_CHECKING

from gateway.web.shapes import (
    BrokerState,
    ChainState,
    DeviceCounts,
    Health,
    LastSettlement,
    Latency,
    NextSettlement,
    Tiles,
    Trouble,
)
from gateway.web.shapes_money import CycleRow, Enrolment, Waiting

if TYPE_CHECKING:
    from gateway.web.desk import Desk


def tiles(desk: "Desk") -> Tiles:
    """Return what the overview shows all the time."""
    gateway, ledger, sums = desk.gateway, desk.gateway.ledger, desk.sums
    midnight, settlement = desk.baselines.midnight, desk.baselines.settlement
    minute = desk.series.last_minute
    payments, refused = desk.counts()
    return Tiles(
        at=int(time.time()),
        earned_today=None if midnight is None else str(sums.earned - midnight.earned),
        earned_since_settlement=None if settlement is None else str(sums.earned - settlement.earned),
        charged_today=None if midnight is None else str(sums.charged - midnight.charged),
        charged=str(sums.charged),
        exposure=str(desk.index.sums["unclaimed"]),
        payable=str(desk.index.payable),
        payments=payments,
        payments_per_s=desk.series.now_per_s,
        refused=refused,
        receipt_ms=Latency(p50=minute.p50_ms, p99=minute.p99_ms) if minute else Latency(p50=None, p99=None),
        next_settlement=_next_settlement(desk),
        last_settlement=_last_settlement(desk),
        devices=DeviceCounts(
            total=len(desk.index.names),
            online=len(desk.activity.online),
            refused_recently=desk.activity.refused_recently(time.time()),
            without_deposit=desk.index.problems.get("no_deposit", 0),
        ),
        channels=len(ledger.channels),
        health=health(desk),
        chain=chain_state(desk),
        broker=BrokerState(
            host=gateway.config.mqtt.host,
            port=gateway.config.mqtt.port,
            connected=gateway.link.connected,
            queued=getattr(gateway.link, "queued", 0),
        ),
    )


def health(desk: "Desk") -> Health:
    """Return the badge: the worst of what is wrong."""
    state = "ok"
    for each in desk.repairs:
        state = "fault" if "fault" in (state, each.severity) else "warning"
    return Health(state=state, problems=[Trouble(code=each.code, words=each.title) for each in desk.repairs])


def chain_state(desk: "Desk") -> ChainState:
    """Return where the chain stands."""
    gateway = desk.gateway
    head, silence = gateway.watcher.head, gateway.watcher.silence_s
    return ChainState(
        id=gateway.config.chain.chain_id,
        embedded=desk.blocks.chain is not None,
        block=None if head is None else head.number,
        time=None if head is None else head.timestamp,
        lag_s=None if silence == float("inf") else round(silence, 3),
        stale=gateway.terms.chain_stale,
    )


def _next_settlement(desk: "Desk") -> NextSettlement:
    gateway = desk.gateway
    in_s = gateway.settler.next_in_s
    reason = "schedule"
    if gateway.ledger.closings:
        reason = "closing"
    elif desk.index.sums["withdrawing"]:
        reason = "withdrawal"
    return NextSettlement(
        in_s=None if in_s == float("inf") else round(in_s), reason=reason, running=bool(gateway.ledger.cycles)
    )


def _last_settlement(desk: "Desk") -> LastSettlement | None:
    ended = desk.gateway.ledger.ended
    if not ended:
        return None
    last = ended[max(ended)]
    return LastSettlement(
        number=last.number,
        at=last.at,
        claimed=str(last.claimed),
        offset=str(last.offset),
        paid=str(last.paid),
    )


def cycle_row(desk: "Desk", number: int) -> CycleRow | None:
    """Return a cycle as the list shows it, None for one that is not known any more."""
    key = number.to_bytes(8, "big")
    ended = desk.gateway.ledger.ended.get(key)
    if ended is not None:
        return CycleRow(
            number=number,
            state="ended",
            at=ended.at,
            offset=str(ended.offset),
            claimed=str(ended.claimed),
            settled=str(ended.settled),
            paid=str(ended.paid),
            rows=ended.rows,
            gas_used=ended.gas_used,
        )
    started = desk.gateway.ledger.cycles.get(key)
    if started is None:
        return None
    return CycleRow(
        number=number,
        state="running",
        at=started.at,
        offset="0",
        claimed="0",
        settled="0",
        paid="0",
        rows=len(started.claims),
        gas_used=0,
    )


def enrolment(desk: "Desk") -> Enrolment:
    """Return the permit-join window and who waits."""
    joining = desk.gateway.openings.joining
    left = joining.left_s
    return Enrolment(
        open_until=int(time.time() + left) if left else None,
        left_s=int(left + 0.999),
        automatic=desk.gateway.config.demo,
        waiting=[
            Waiting(
                id=f"0x{each.id.hex()}",
                kind="earner" if each.earner else "open",
                device=each.device,
                service=each.service,
                party=f"0x{each.party.hex()}",
                deposit=str(each.deposit),
                register=each.register,
                known=each.device in desk.index.rows,
                seen_at=int(each.seen_at),
                asked=each.asked,
            )
            for each in joining.waiting
        ],
        qr_text=joining_uri(desk),
        qr_path="/api/v1/enrolment/qr.svg",
    )


def joining_uri(desk: "Desk") -> str:
    """Return what a device or a phone scans: where the broker is and what its channels must say."""
    config, offer = desk.gateway.config, desk.gateway.terms.current
    mqtt = config.mqtt
    tls = "&tls=1" if mqtt.tls_ca or mqtt.tls_cert else ""
    return (
        f"metergate:{config.gateway}?broker={mqtt.host}:{mqtt.port}{tls}&chain={offer.chain_id}"
        f"&asset=0x{offer.asset.hex()}&authorizer=0x{offer.receiver_authorizer.hex()}"
    )
