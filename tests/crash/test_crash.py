"""A short `make crash`: a dozen kills on every kind of site, and a vocabulary of points that lacks nothing."""

import random
from collections import Counter

from tests.crash import points
from tests.crash.harness import run
from tests.crash.points import RESENT, Schedule

SEED = 12
KILLS = 14


def test_every_record_is_a_kill_point() -> None:
    """A new record has to be put where it belongs, or no run would be known to kill there."""
    assert points.tags() == points.classified()
    groups = (points.CYCLE, points.CHAIN, points.DEVICES, points.SET_UP, points.NEVER_HERE)
    assert sum(map(len, groups)) == len(points.classified()), "a record is in two groups"


def test_a_dozen_kills() -> None:
    print(f"seed {SEED}")
    figures = run(KILLS, SEED, print)
    print(figures.line())
    assert figures.faults == []
    assert figures.kills == KILLS
    assert figures.payments > 100
    assert figures.journaled["cycle-end"] >= 3
    assert figures.journaled["paid"] >= 3
    kinds = points.by_kind(figures.points)
    assert {"commit before", "commit after"} <= kinds.keys()
    assert figures.covered >= KILLS // 2, figures.points


def test_the_schedule_comes_to_every_point() -> None:
    """Over many lives each point that passes is killed at, also those that most lives do not come to."""
    rng = random.Random(1)
    schedule = Schedule(rng, random_share=0.2)
    rare = {f"commit before rare-{number}" for number in range(5)}
    usual = {f"rpc after method-{number}" for number in range(40)} | {RESENT}
    schedule.learn(usual | rare)
    for _ in range(900):
        planned = schedule.next()
        point = None if planned is None else planned[0]
        reached = point is not None and (point not in rare or rng.random() < 0.3)
        schedule.learn(usual)
        schedule.ended(point, reached=reached)
    assert all(schedule.killed[point] for point in usual - {RESENT})
    assert all(schedule.killed[point] for point in rare)
    assert schedule.covered >= 45


def test_what_a_run_lacks_is_named() -> None:
    killed = Counter({"commit before tx:claim": 1, "commit after tx:pay": 2, "commit before paid": 1, "random": 9})
    assert points.uncovered(killed, {"tx", "paid", "mined"}) == ["mined", "paid"]
    assert points.by_kind(killed) == {"commit before": 2, "commit after": 2, "random": 9}
