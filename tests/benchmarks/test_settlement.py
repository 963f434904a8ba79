"""The settlement suite: the simulated week adds up, and small runs of the real thing bring every figure."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from benchmarks import settlement, settlement_week
from benchmarks.frame import BenchmarkFailed, Row
from benchmarks.settlement_homes import neighbourhood, payers
from benchmarks.settlement_week import (
    STEPS,
    ClaimRule,
    EveryMinutes,
    Planner,
    Threshold,
    Week,
    Withdrawal,
    draw,
    policy,
    simulate,
)

CHANNELS = 40
SEEDS = (1, 2, 3)


def rules(week: Week) -> dict[str, ClaimRule]:
    return {
        "every hour": EveryMinutes(60),
        "every day": EveryMinutes(1_440),
        "threshold": Threshold(1_000_000),
        "planner": Planner(week.parties, policy(week)),
    }


def without_outages(week: Week) -> Week:
    return replace(week, online=(True,) * STEPS)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_week_conserves_every_unit_and_is_the_same_each_time(seed: int) -> None:
    week = draw(seed, CHANNELS)
    assert draw(seed, CHANNELS) == week
    assert draw(seed + 1, CHANNELS) != week
    for name, rule in rules(week).items():
        outcome = simulate(week, rule)
        assert outcome.charged == outcome.claimed + outcome.lost + outcome.exposures[-1], name
        assert 0 < outcome.claimed <= outcome.charged <= sum(map(sum, week.loads)), name
        assert len(outcome.exposures) == STEPS
        assert (outcome.gas > 0) == (outcome.rows > 0) == (outcome.gas_cost > 0), name
        assert simulate(week, rule) == outcome, name


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gateway_that_is_never_offline_loses_nothing_but_dust(seed: int) -> None:
    week = without_outages(draw(seed, CHANNELS))
    runners = sum(withdrawal.everything for withdrawal in week.withdrawals.values())
    assert runners > 0, "nobody runs in this week"
    terms = policy(week)
    dearest = terms.least(max(week.gas_prices))
    assert simulate(week, Planner(week.parties, terms)).lost <= runners * dearest
    assert simulate(week, EveryMinutes(2_880)).lost > runners * dearest, "running pays against a slow schedule"


@pytest.mark.parametrize("seed", SEEDS)
def test_rules_keep_what_they_promise(seed: int) -> None:
    week = without_outages(replace(draw(seed, CHANNELS), withdrawals={}))
    terms = policy(week)
    assert max(simulate(week, Planner(week.parties, terms)).exposures) <= terms.exposure_total_max
    tight = replace(terms, exposure_total_max=terms.exposure_total_max // 20)
    assert max(simulate(week, Planner(week.parties, tight)).exposures) <= tight.exposure_total_max
    assert max(simulate(week, Threshold(1_000)).exposures) < CHANNELS * 1_000
    hourly = simulate(week, EveryMinutes(60)).exposures
    assert [hourly[step] for step in range(0, STEPS, 6)] == [0] * (STEPS // 6)


def test_a_runner_takes_what_is_owed_when_its_delay_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement_week, "STEPS", 60)
    runs, stays = Withdrawal(begins=10, everything=True), Withdrawal(begins=10, everything=False)
    assert runs.ends == 46, "six hours in steps of ten minutes"
    online = tuple(step < 40 for step in range(60))  # away when the delay ends
    week = Week(((7,) * 60, (7,) * 60), (0, 1), (1,) * 60, online, {0: runs, 1: stays})
    outcome = simulate(week, Threshold(10**9))
    # The runner's readings are refused from step 10 on; nothing is metered while the gateway is away.
    assert (outcome.charged, outcome.lost, outcome.claimed) == (10 * 7 + 40 * 7, 10 * 7, 0)
    assert outcome.exposures[45:47] == [50 * 7, 40 * 7]
    planned = simulate(week, Planner(week.parties, policy(week)))
    assert (planned.lost, planned.claimed >= 10 * 7) == (0, True)


def test_the_planner_beats_rules_that_somebody_would_choose() -> None:
    weeks = [draw(seed, CHANNELS) for seed in SEEDS]
    cost = {
        name: sum(simulate(week, rules(week)[name]).total for week in weeks)
        for name in ("every hour", "every day", "threshold", "planner")
    }
    assert cost["planner"] < min(cost["every hour"], cost["every day"], cost["threshold"]), cost


def test_compared_are_the_best_of_each_rule() -> None:
    found = settlement.simulated_weeks((1, 2), 20)
    weeks = [draw(1, 20), draw(2, 20)]
    for minutes in settlement.INTERVALS_MIN:
        rivals = [simulate(week, EveryMinutes(minutes)).total for week in weeks]
        assert sum(outcome.total for outcome in found["interval"]) <= sum(rivals)
    for amount in settlement.THRESHOLDS:
        rivals = [simulate(week, Threshold(amount)).total for week in weeks]
        assert sum(outcome.total for outcome in found["threshold"]) <= sum(rivals)
    assert found["planner"] == [simulate(week, Planner(week.parties, policy(week))) for week in weeks]


def test_homes_are_the_same_netted_or_apart() -> None:
    netted, apart = neighbourhood(50, netted=True), neighbourhood(50, netted=False)
    assert [(home.imported, home.exported) for home in netted] == [(home.imported, home.exported) for home in apart]
    assert all(home.payee == home.payer for home in netted)
    assert not {home.payee for home in apart} & {home.payer for home in apart}
    assert all(1_000 < home.imported < 50_000 and 100 < home.exported < 60_000 for home in netted)
    assert all(home.imported * 150 < 20_000_000 for home in (*netted, *payers(50))), "more than was deposited"


def _rows(rows: Iterable[Row]) -> dict[str, float]:
    return {row.name: row.value for row in rows}


def test_small_runs_bring_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "GAS_CHANNELS", (10,))
    monkeypatch.setattr(settlement, "HOMES", 10)
    monkeypatch.setattr(settlement, "MANY", 30)
    monkeypatch.setattr(settlement, "WEEK_CHANNELS", 20)
    monkeypatch.setattr(settlement, "WEEK_SEEDS", (1,))
    found = {}
    for benchmark in settlement.SETTLEMENT.benchmarks:
        found |= _rows(benchmark.run())
    assert 20_000 < found["settle_gas_per_channel_10_netted"] < found["settle_gas_per_channel_10_apart"] < 200_000
    assert found["homes_rows_apart"] == 20
    assert found["homes_rows_netted"] <= 10
    assert found["homes_transferred_netted"] < found["homes_transferred_apart"]
    assert 0 < found["recovery_replay_s_30_channels"] < found["recovery_s_30_channels"]
    assert len(found) == sum(len(benchmark.names) for benchmark in settlement.SETTLEMENT.benchmarks) - 4


def test_what_is_not_settled_to_the_unit_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    price = settlement._price
    monkeypatch.setattr(settlement, "_price", lambda service: price(service) + 10**6)
    with pytest.raises(BenchmarkFailed, match="not settled to the unit"):
        settlement.settle_homes("payers", 2)
