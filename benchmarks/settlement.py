"""Suite `settlement`: what settling costs, what netting saves, and what the planner is worth.

Gateway and embedded layer run in a process of their own, as in the demo, with their journals on disk; the claims,
settlements and payouts are real transactions. Before a figure counts, everything owed must be settled to the unit and
the books must agree with the whole chain.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from statistics import fmean
from typing import Any

from benchmarks.frame import Benchmark, BenchmarkFailed, Row, Suite, against
from benchmarks.settlement_child import homes_of
from benchmarks.settlement_homes import EARNS, FEE_BPS, PAYS, SERVICES, Home
from benchmarks.settlement_week import EveryMinutes, Outcome, Planner, Threshold, draw, policy, simulate
from benchmarks.site import Child, mosquitto, working_directory
from channels.pricing import BASIS_POINTS, NANO

GAS_CHANNELS = (10, 100, 1_000)
HOMES = 1_000
MANY = 10_000
SETTLE_AIM_S = 5.0
WEEK_SEEDS = range(1, 6)
WEEK_CHANNELS = 200
# What an operator without a planner might choose; the cheapest of each for these very weeks is what is compared.
INTERVALS_MIN = (10, 60, 180, 360, 720, 1_440, 2_880)
THRESHOLDS = (20_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
TOKEN = 10**6


@contextmanager
def _directory() -> Iterator[dict[str, Any]]:
    """A broker and an empty directory for one gateway's books and chain."""
    with mosquitto() as port, working_directory() as directory:
        yield {"mqtt_port": port, "data_dir": str(directory)}


def _settled(child: Child, homes: Sequence[Home]) -> dict[str, Any]:
    """Settle, and hold the result against the devices' own arithmetic and the whole chain."""
    answer = child.ask(do="settle")
    owed = sum(home.imported * _price(PAYS) // NANO for home in homes)
    earned = sum(_net(home.exported * _price(EARNS) // NANO) for home in homes if home.payee is not None)
    faults = child.ask(do="audit")["faults"]
    if faults or answer["unsettled"] or answer["claimed"] + answer["offset"] != owed:
        raise BenchmarkFailed(f"{owed} is owed and not settled to the unit: {faults or answer}")
    if answer["paid"] + answer["offset"] != earned:
        raise BenchmarkFailed(f"{earned} is due to earners and not paid to the unit: {answer}")
    return answer


def _price(service: str) -> int:
    return int(SERVICES[service].price)


def _net(earned: int) -> int:
    return earned - earned * FEE_BPS // BASIS_POINTS


def settle_homes(kind: str, count: int) -> dict[str, Any]:
    """Settle the homes of a job once, on a gateway of their own; returns what the child says of it."""
    with _directory() as place:
        job = {**place, "homes": count, "kind": kind}
        with Child("settlement_child", json.dumps(job)) as child:
            child.answer()
            child.ask(do="move_in")
            return _settled(child, homes_of(job))


def _netting() -> Iterable[Row]:
    """Gas per channel at three sizes, and all of a neighbourhood, with netting and without."""
    for count in GAS_CHANNELS:
        apart, netted = settle_homes("apart", count), settle_homes("netted", count)
        for kind, answer in (("apart", apart), ("netted", netted)):
            gas = answer["gas"] / count
            ratio = against(gas, apart["gas"] / count, "apart") if kind == "netted" else {}
            yield Row(f"settle_gas_per_channel_{count}_{kind}", round(gas), "gas", **ratio)
        if count == HOMES:
            yield from _neighbourhood(apart, netted)


def _neighbourhood(apart: dict[str, Any], netted: dict[str, Any]) -> Iterable[Row]:
    figures: tuple[tuple[str, str, Callable[[dict[str, Any]], float]], ...] = (
        ("rows", "rows", lambda answer: answer["claims"] + answer["payouts"]),
        ("gas", "gas", lambda answer: answer["gas"]),
        ("transferred", "tokens", lambda answer: round((answer["claimed"] + answer["paid"]) / TOKEN, 2)),
    )
    for name, unit, figure in figures:
        yield Row(f"homes_{name}_apart", figure(apart), unit)
        yield Row(f"homes_{name}_netted", figure(netted), unit, **against(figure(netted), figure(apart), "apart"))


@cache
def settled_payers(channels: int) -> dict[str, Any]:
    """Settle so many payers, once in a run: suite `payments` has a figure of it, too."""
    return settle_homes("payers", channels)


def _many() -> Iterable[Row]:
    """Seconds to net, claim, settle and book, with blocks every 250 ms."""
    answer = settled_payers(MANY)
    seconds = answer["seconds"]
    yield Row(
        f"settle_s_{MANY}_channels", round(seconds, 2), "s", **against(seconds, SETTLE_AIM_S, f"{SETTLE_AIM_S:g} s aim")
    )
    yield Row(f"settle_cpu_s_{MANY}_channels", round(answer["cpu_seconds"], 2), "s")
    stall = answer["stall_s"]
    yield Row(
        f"settle_stall_ms_{MANY}_channels", round(stall * 1e3), "ms", **against(stall, seconds, "the whole settlement")
    )
    yield Row(f"settle_gas_per_channel_{MANY}", round(answer["gas"] / MANY), "gas")


def _recovery() -> Iterable[Row]:
    """Seconds from the start of the program to a gateway that takes messages, killed between signing and mining."""
    with _directory() as place:
        job = {**place, "homes": MANY, "kind": "payers"}
        with Child("settlement_child", json.dumps(job)) as killed:
            killed.answer()
            killed.ask(do="move_in")
            if not killed.ask(do="begin")["signed"]:
                raise BenchmarkFailed("nothing was outstanding when the gateway was killed")
            killed.process.kill()
            killed.process.wait()
        began = time.monotonic()
        with Child("settlement_child", json.dumps(job)) as child:
            ready = child.answer()
            seconds = time.monotonic() - began
            if ready["channels"] != MANY:
                raise BenchmarkFailed(f"{ready['channels']} of {MANY} channels are there after the kill")
            _settled(child, homes_of(job))
    yield Row(f"recovery_s_{MANY}_channels", round(seconds, 2), "s")
    yield Row(
        f"recovery_replay_s_{MANY}_channels", round(ready["ready"], 2), "s", **against(ready["ready"], seconds, "all")
    )


def simulated_weeks(seeds: Iterable[int], channels: int) -> dict[str, list[Outcome]]:
    """Return every week of each policy: the best interval and the best threshold for these very weeks, the planner."""
    weeks = [draw(seed, channels) for seed in seeds]
    intervals = [[simulate(week, EveryMinutes(minutes)) for week in weeks] for minutes in INTERVALS_MIN]
    thresholds = [[simulate(week, Threshold(amount)) for week in weeks] for amount in THRESHOLDS]
    return {
        "interval": min(intervals, key=_cost),
        "threshold": min(thresholds, key=_cost),
        "planner": [simulate(week, Planner(week.parties, policy(week))) for week in weeks],
    }


def _cost(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome.total for outcome in outcomes)


def _week() -> Iterable[Row]:
    """Gas spent, exposure held and money lost by each policy in the same weeks: means, and the highest exposure."""
    rules = simulated_weeks(WEEK_SEEDS, WEEK_CHANNELS)
    figures: tuple[tuple[str, Callable[[Outcome], int]], ...] = (
        ("gas_spent", lambda outcome: outcome.gas_cost),
        ("lost", lambda outcome: outcome.lost),
        ("gas_and_lost", lambda outcome: outcome.total),
        ("exposure_mean", lambda outcome: outcome.exposure_mean),
    )
    for name, figure in figures:
        base = fmean(map(figure, rules["interval"]))
        for rule, outcomes in rules.items():
            value = fmean(map(figure, outcomes))
            ratio = against(value, base, "interval") if rule != "interval" and base else {}
            yield Row(f"week_{name}_{rule}", round(value / TOKEN, 3), "tokens", **ratio)
    for rule, outcomes in rules.items():
        highest = max(max(outcome.exposures) for outcome in outcomes)
        yield Row(f"week_exposure_max_{rule}", round(highest / TOKEN, 3), "tokens")


def _names(pattern: str, values: Iterable[object]) -> tuple[str, ...]:
    return tuple(pattern.format(value) for value in values)


_KINDS = ("apart", "netted")
_RULES = ("interval", "threshold", "planner")

SETTLEMENT = Suite(
    "settlement",
    (
        Benchmark(
            f"gas with and without netting, up to {HOMES} homes",
            _netting,
            tuple(name for kind in _KINDS for name in _names("settle_gas_per_channel_{}_" + kind, GAS_CHANNELS))
            + tuple(name for kind in _KINDS for name in _names("homes_{}_" + kind, ("rows", "gas", "transferred"))),
        ),
        Benchmark(
            f"settling {MANY} channels",
            _many,
            (
                *_names("{}" + f"_{MANY}_channels", ("settle_s", "settle_cpu_s", "settle_stall_ms")),
                f"settle_gas_per_channel_{MANY}",
            ),
        ),
        Benchmark(
            f"recovery after a kill with {MANY} channels",
            _recovery,
            _names("{}" + f"_{MANY}_channels", ("recovery_s", "recovery_replay_s")),
        ),
        Benchmark(
            "a simulated week under three policies",
            _week,
            tuple(
                name
                for rule in _RULES
                for name in _names(
                    "week_{}_" + rule, ("gas_spent", "lost", "gas_and_lost", "exposure_mean", "exposure_max")
                )
            ),
        ),
    ),
)
