"""Figures of a run, for people and for programs. Amounts are decimal strings, counts are numbers."""

from firmware_sim.counters import Counters
from firmware_sim.link import Link


def figures(links: list[Link], counters: Counters, elapsed_us: int) -> dict[str, object]:
    """One JSON-ready object about all devices so far."""
    charged: dict[str, int] = {}
    earned: dict[str, int] = {}
    units: dict[str, int] = {}
    per_service: dict[str, int] = {}
    for link in links:
        device = link.device
        service = device.identity.service
        money = earned if device.identity.earns else charged
        money[service] = money.get(service, 0) + device.money
        units[service] = units.get(service, 0) + device.register_units
        per_service[service] = per_service.get(service, 0) + 1
    return {
        "devices": len(links),
        "connected": sum(link.up for link in links),
        "opened": sum(link.device.opened for link in links),
        "readings": counters.published,
        "accepted": counters.accepted,
        "duplicates": counters.duplicates,
        "refused": dict(sorted(counters.refused.items())),
        "resent": counters.resent,
        "superseded": counters.superseded,
        "folded": sum(link.device.window.folded for link in links),
        "outstanding": sum(len(link.device.window.signed) for link in links),
        "topups": counters.topups,
        "closed": sum(link.device.closing.done and not link.device.identity.earns for link in links),
        "refunded": str(sum(link.device.closing.refunded for link in links)),
        "receipt_ms_p50": _ms(counters.latencies.quantile_us(500)),
        "receipt_ms_p99": _ms(counters.latencies.quantile_us(990)),
        "charged": {service: str(amount) for service, amount in sorted(charged.items())},
        "earned": {service: str(amount) for service, amount in sorted(earned.items())},
        "register_units": dict(sorted(units.items())),
        "devices_by_service": dict(sorted(per_service.items())),
        "stopped": {link.device.identity.device: link.device.stopped for link in links if link.device.stopped},
        "elapsed_s": round(elapsed_us / 1_000_000, 3),
    }


def _ms(latency_us: int | None) -> float | None:
    return None if latency_us is None else latency_us / 1000


def progress_line(report: dict[str, object]) -> str:
    """One line for a terminal."""
    refused = report["refused"]
    assert isinstance(refused, dict)
    p50 = report["receipt_ms_p50"]
    return (
        f"{report['elapsed_s']:>8} s  {report['connected']}/{report['devices']} connected, "
        f"{report['opened']} open  {report['accepted']} accepted of {report['readings']} readings, "
        f"{sum(refused.values())} refused, {report['outstanding']} outstanding"
        + (f", receipt {p50} ms" if p50 is not None else "")
    )
