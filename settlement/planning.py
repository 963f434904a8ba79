"""The plan of one settlement cycle (pure): claims, then settlements, sweeps to the treasury, then payouts.

Each lane's claims and settlement are transactions of that lane's key, so lanes run side by side. The plan is
deterministic and survives as JSON: what was journaled is what is executed after a restart. Amounts are token
base units.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from channels.types import Address
from settlement.netting import ClaimTarget, PayoutTarget

# The settlement contract bounds a claim to 100 rows (2M gas); a payout costs twice a claim row.
CLAIM_ROWS_MAX = 100
PAYOUT_ROWS_MAX = 100

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class LanePosition:
    """One lane as read from the chain at one block: its totals in the contract and its token balance."""

    index: int
    address: Address
    total_claimed: int
    total_settled: int
    balance: int


@dataclass(frozen=True, slots=True)
class ClaimBatch:
    """The rows of one claim transaction, all of one lane."""

    lane: int
    rows: tuple[ClaimTarget, ...]


@dataclass(frozen=True, slots=True)
class LaneAmount:
    """An amount that a lane settles, or that is swept from it to the treasury."""

    lane: int
    amount: int


@dataclass(frozen=True, slots=True)
class PayoutBatch:
    """The rows of one payout transaction."""

    rows: tuple[PayoutTarget, ...]


@dataclass(frozen=True, slots=True)
class CyclePlan:
    """One settlement cycle in the order of execution.

    `deferred` are payouts that the cash at hand will not cover after this cycle's sweeps.
    """

    claims: tuple[ClaimBatch, ...]
    settles: tuple[LaneAmount, ...]
    sweeps: tuple[LaneAmount, ...]
    payouts: tuple[PayoutBatch, ...]
    deferred: tuple[PayoutTarget, ...] = ()

    @property
    def empty(self) -> bool:
        """True when there is nothing to send."""
        return not (self.claims or self.settles or self.sweeps or self.payouts)


def plan_cycle(
    claims: Iterable[ClaimTarget],
    payouts: Iterable[PayoutTarget],
    lanes: Sequence[LanePosition],
    treasury_balance: int,
    *,
    claim_rows_max: int = CLAIM_ROWS_MAX,
    payout_rows_max: int = PAYOUT_ROWS_MAX,
) -> CyclePlan:
    """Plan a cycle. `treasury_balance` is the treasury's token balance now.

    Raises ValueError when a claim names a lane that is not among `lanes`, or a row bound is not positive.
    """
    if claim_rows_max < 1 or payout_rows_max < 1:
        raise ValueError("a batch holds at least one row")
    rows = sorted(claims, key=lambda row: (row.lane, row.id))
    known = {lane.index for lane in lanes}
    if len(known) != len(lanes) or any(row.lane not in known for row in rows):
        raise ValueError("claims of an unknown lane, or a lane named twice")
    claimed = dict.fromkeys(known, 0)
    for row in rows:
        claimed[row.lane] += row.amount
    ordered = sorted(lanes, key=lambda lane: lane.index)
    settles = [
        LaneAmount(lane.index, lane.total_claimed + claimed[lane.index] - lane.total_settled) for lane in ordered
    ]
    settling = {settle.lane: settle.amount for settle in settles}
    sweeps = plan_sweeps((lane.index, lane.balance + settling[lane.index]) for lane in ordered)
    cash = treasury_balance + sum(sweep.amount for sweep in sweeps)
    covered, deferred = cover(payouts, cash)
    return CyclePlan(
        claims=claim_batches(rows, claim_rows_max),
        settles=tuple(settle for settle in settles if settle.amount > 0),
        sweeps=sweeps,
        payouts=payout_batches(covered, payout_rows_max),
        deferred=deferred,
    )


def claim_batches(rows: Iterable[ClaimTarget], rows_max: int = CLAIM_ROWS_MAX) -> tuple[ClaimBatch, ...]:
    """Cut claims into transactions: by lane, then channel id; every batch but a lane's last one is full."""
    by_lane: dict[int, list[ClaimTarget]] = {}
    for row in sorted(rows, key=lambda row: (row.lane, row.id)):
        by_lane.setdefault(row.lane, []).append(row)
    return tuple(
        ClaimBatch(lane, tuple(of_lane[start : start + rows_max]))
        for lane, of_lane in by_lane.items()
        for start in range(0, len(of_lane), rows_max)
    )


def plan_sweeps(balances: Iterable[tuple[int, int]]) -> tuple[LaneAmount, ...]:
    """Return the sweeps that empty lanes, given (lane, token balance); empty ones are left out.

    The amount is exact: a sweep that finds less in its lane fails and moves nothing.
    """
    return tuple(LaneAmount(lane, balance) for lane, balance in sorted(balances) if balance > 0)


def cover(payouts: Iterable[PayoutTarget], cash: int) -> tuple[tuple[PayoutTarget, ...], tuple[PayoutTarget, ...]]:
    """Return which payouts `cash` covers and which it does not, each by payee.

    The smallest go first, so that want of cash leaves the fewest payees waiting.
    """
    covered, deferred = [], []
    for payout in sorted(payouts, key=lambda row: (row.amount, row.payee)):
        if payout.amount <= cash:
            covered.append(payout)
            cash -= payout.amount
        else:
            deferred.append(payout)
    return _by_payee(covered), _by_payee(deferred)


def payout_batches(payouts: Iterable[PayoutTarget], rows_max: int = PAYOUT_ROWS_MAX) -> tuple[PayoutBatch, ...]:
    """Cut payouts into transactions, by payee."""
    rows = _by_payee(payouts)
    return tuple(PayoutBatch(rows[start : start + rows_max]) for start in range(0, len(rows), rows_max))


def _by_payee(payouts: Iterable[PayoutTarget]) -> tuple[PayoutTarget, ...]:
    return tuple(sorted(payouts, key=lambda row: row.payee))


def plan_to_json(plan: CyclePlan) -> dict[str, Any]:
    """Return the plan as JSON values: ids and addresses in 0x-hex, amounts as decimal strings."""
    return {
        "version": PLAN_VERSION,
        "claims": [{"lane": batch.lane, "rows": [_claim_to_json(row) for row in batch.rows]} for batch in plan.claims],
        "settles": [{"lane": settle.lane, "amount": str(settle.amount)} for settle in plan.settles],
        "sweeps": [{"lane": sweep.lane, "amount": str(sweep.amount)} for sweep in plan.sweeps],
        "payouts": [[_payout_to_json(row) for row in batch.rows] for batch in plan.payouts],
        "deferred": [_payout_to_json(row) for row in plan.deferred],
    }


def plan_from_json(value: dict[str, Any]) -> CyclePlan:
    """Return the plan that `plan_to_json` wrote. Raises ValueError for another version."""
    if value["version"] != PLAN_VERSION:
        raise ValueError(f"a plan of version {value['version']}, not {PLAN_VERSION}")
    return CyclePlan(
        claims=tuple(
            ClaimBatch(batch["lane"], tuple(_claim_from_json(batch["lane"], row) for row in batch["rows"]))
            for batch in value["claims"]
        ),
        settles=tuple(LaneAmount(row["lane"], int(row["amount"])) for row in value["settles"]),
        sweeps=tuple(LaneAmount(row["lane"], int(row["amount"])) for row in value["sweeps"]),
        payouts=tuple(PayoutBatch(tuple(map(_payout_from_json, batch))) for batch in value["payouts"]),
        deferred=tuple(map(_payout_from_json, value["deferred"])),
    )


def _claim_to_json(row: ClaimTarget) -> dict[str, str]:
    return {
        "channelId": "0x" + row.id.hex(),
        "totalClaimed": str(row.total_claimed),
        "amount": str(row.amount),
    }


def _claim_from_json(lane: int, row: dict[str, str]) -> ClaimTarget:
    return ClaimTarget(bytes.fromhex(row["channelId"][2:]), lane, int(row["totalClaimed"]), int(row["amount"]))


def _payout_to_json(row: PayoutTarget) -> dict[str, str]:
    return {
        "payee": "0x" + row.payee.hex(),
        "cumulative": str(row.cumulative),
        "amount": str(row.amount),
    }


def _payout_from_json(row: dict[str, str]) -> PayoutTarget:
    return PayoutTarget(bytes.fromhex(row["payee"][2:]), int(row["cumulative"]), int(row["amount"]))
