"""The cycle plan: batches within bounds, per lane, nothing lost, the same for the same input, and JSON-able."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from settlement.netting import ClaimTarget, PayoutTarget
from settlement.planning import (
    LaneAmount,
    LanePosition,
    cover,
    plan_cycle,
    plan_from_json,
    plan_sweeps,
    plan_to_json,
)

amounts = st.integers(1, 2**90)


@st.composite
def inputs(draw: st.DrawFn) -> tuple[list[ClaimTarget], list[PayoutTarget], list[LanePosition], int]:
    lanes = []
    for index in range(draw(st.integers(1, 4))):
        settled = draw(st.integers(0, 2**90))
        claimed = settled + draw(st.just(0) | amounts)
        lanes.append(LanePosition(index, bytes([index]) * 20, claimed, settled, draw(st.just(0) | amounts)))
    claims = []
    for number in range(draw(st.integers(0, 25))):
        amount = draw(amounts)
        total = amount + draw(st.integers(0, 2**90))
        claims.append(ClaimTarget(number.to_bytes(32, "big"), draw(st.integers(0, len(lanes) - 1)), total, amount))
    payouts = []
    for number in range(draw(st.integers(0, 12))):
        amount = draw(amounts)
        payouts.append(PayoutTarget(number.to_bytes(20, "big"), amount + draw(st.integers(0, 2**90)), amount))
    return claims, payouts, lanes, draw(st.just(0) | amounts)


@given(inputs(), st.integers(1, 7), st.integers(1, 7), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=200)
def test_plan_holds_everything_once(
    given_: tuple[list[ClaimTarget], list[PayoutTarget], list[LanePosition], int],
    claim_rows: int,
    payout_rows: int,
    rng: random.Random,
) -> None:
    claims, payouts, lanes, treasury = given_
    bounds = {"claim_rows_max": claim_rows, "payout_rows_max": payout_rows}
    plan = plan_cycle(claims, payouts, lanes, treasury, **bounds)
    assert sorted((row for batch in plan.claims for row in batch.rows), key=lambda row: row.id) == claims
    full: dict[int, bool] = {}
    for batch in plan.claims:
        assert 0 < len(batch.rows) <= claim_rows
        assert all(row.lane == batch.lane for row in batch.rows)
        assert full.get(batch.lane, True), "only a lane's last batch may have room"
        full[batch.lane] = len(batch.rows) == claim_rows
    settles, sweeps = ({step.lane: step.amount for step in steps} for steps in (plan.settles, plan.sweeps))
    for lane in lanes:
        newly = sum(row.amount for row in claims if row.lane == lane.index)
        assert settles.get(lane.index, 0) == lane.total_claimed - lane.total_settled + newly
        assert sweeps.get(lane.index, 0) == lane.balance + settles.get(lane.index, 0)
    assert 0 not in settles.values()
    assert 0 not in sweeps.values()
    planned = [row for batch in plan.payouts for row in batch.rows]
    assert all(0 < len(batch.rows) <= payout_rows for batch in plan.payouts)
    assert sorted((*planned, *plan.deferred), key=lambda row: row.payee) == payouts
    cash = treasury + sum(sweeps.values()) - sum(row.amount for row in planned)
    assert cash >= 0
    assert all(row.amount > cash for row in plan.deferred)
    shuffled = [rng.sample(part, len(part)) for part in (claims, payouts, lanes)]
    assert plan_cycle(*shuffled, treasury, **bounds) == plan
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan
    assert plan.empty == (not claims and not planned and not settles and not sweeps)


def test_want_of_cash_leaves_the_fewest_waiting() -> None:
    rows = [PayoutTarget(bytes([number]) * 20, amount, amount) for number, amount in enumerate((50, 10, 30, 40))]
    covered, deferred = cover(rows, 85)
    assert [row.amount for row in covered] == [10, 30, 40]
    assert [row.amount for row in deferred] == [50]


def test_sweeps_leave_out_empty_lanes() -> None:
    assert plan_sweeps([(2, 5), (1, 0), (0, 7)]) == (LaneAmount(0, 7), LaneAmount(2, 5))


LANE = LanePosition(0, bytes(20), 0, 0, 0)


def test_refuses_what_cannot_be_planned() -> None:
    claim = ClaimTarget(bytes(32), 1, 5, 5)
    with pytest.raises(ValueError, match="lane"):
        plan_cycle([claim], [], [LANE], 0)
    with pytest.raises(ValueError, match="lane"):
        plan_cycle([], [], [LANE, LANE], 0)
    with pytest.raises(ValueError, match="row"):
        plan_cycle([], [], [LANE], 0, claim_rows_max=0)
    with pytest.raises(ValueError, match="row"):
        plan_cycle([], [], [LANE], 0, payout_rows_max=0)
    with pytest.raises(ValueError, match="version"):
        plan_from_json({**plan_to_json(plan_cycle([], [], [], 0)), "version": 2})
