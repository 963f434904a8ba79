"""When to claim: which channels are worth a row of gas now, and which can wait (pure).

Holding has a price. What is owed and not claimed is lost if its payer gets away with it, so each channel runs up
a cost of holding: value × risk rate × time, integrated. Claiming has one too, the gas of a row and its share of
what a batch and a lane cost anyhow. A channel is claimed once its holding has cost as much as its row: the
ordering rule of economic order quantity (F. W. Harris, 1913), which is never far from the cheapest sum of both.
Withdrawals, closings, bounds of exposure and payouts that wait for cash come before that.

Deterministic, whatever the order of the rows, and monotone: to owe more never turns a claim into a hold. Integers
only: amounts and costs are token base units, times chain seconds.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from channels.types import Address, ChannelId
from settlement.claim_terms import Claimable, Claiming, Decision, Exposure, Policy, Reason, Situation

# A rate in millionths per day: what an amount has to be multiplied with in seconds to cost itself.
_PPM_SECONDS = 10**6 * 86_400
# Value per gas is compared as an integer with so many fractional bits. A row's gas is far below 2³², so two values
# that differ at all differ in these.
_VALUE_BITS = 64


def exposure(rows: Iterable[Claimable]) -> Exposure:
    """Return what these channels owe without a claim."""
    parties: Counter[Address] = Counter()
    channel_max = 0
    for row in rows:
        parties[row.party] += row.amount
        channel_max = max(channel_max, row.amount)
    return Exposure(channel_max, max(parties.values(), default=0), parties.total())


def ending(row: Claimable, policy: Policy, now: int) -> bool:
    """Tell whether a pending withdrawal lets this channel wait no longer.

    What it can take is claimed at once. One that leaves enough is reason for one claim before its end, not for one
    after every reading: a payer may leave it pending for ever, and the gas would be ours.
    """
    if row.finalize_after is None or row.at_stake:
        return row.at_stake > 0
    return row.since < row.finalize_after - policy.withdraw_margin_s - policy.again_s <= now


def pressing(rows: Sequence[Claimable], policy: Policy, situation: Situation) -> bool:
    """Tell whether a decision now would claim because of a withdrawal or of a bound, whatever the schedule says."""
    least, held = policy.least(situation.gas_price), exposure(rows)
    bounds = (
        (policy.exposure_channel_max, held.channel_max),
        (policy.exposure_party_max, held.party_max),
        (policy.exposure_total_max, held.total),
    )
    return any(bound and found > bound for bound, found in bounds) or any(
        row.amount and row.amount >= least and ending(row, policy, situation.now) for row in rows
    )


def decide(rows: Sequence[Claimable], policy: Policy, situation: Situation) -> Claiming:
    """Decide for each channel whether it is claimed now. Raises ValueError when a channel appears twice.

    First each channel's own case: a withdrawal, its closing, its bound, its cost of holding. Then, the best value
    per gas first, what payouts still wait for; then the largest, until all together and each party are within their
    bounds. Once all together are above theirs, they are brought to three quarters of it: the next readings would be
    above it again, and every cycle pays for its lanes anew (half the gas under a tight bound in the simulated week).
    """
    if len({row.id for row in rows}) != len(rows):
        raise ValueError("a channel appears twice in one decision")
    return _Round(rows, policy, situation).result()


class _Round:
    """One decision over all channels: `_reasons` holds those that are claimed so far."""

    def __init__(self, rows: Sequence[Claimable], policy: Policy, situation: Situation) -> None:
        self._rows = rows
        self._policy = policy
        self._situation = situation
        self._costs: dict[int, int] = {}
        self._reasons: dict[ChannelId, Reason] = {}
        self._lanes: Counter[int] = Counter()  # rows that each lane claims for the channels' own sake
        self._least = policy.least(situation.gas_price)

    def result(self) -> Claiming:
        for rows in _by(self._rows, lambda row: row.lane).values():
            self._own_case(rows)
        self._find_cash()
        policy, held = self._policy, self._held()
        if policy.exposure_total_max and sum(row.amount for row in held) > policy.exposure_total_max:
            self._largest(held, policy.exposure_total_max * 3 // 4, Reason.EXPOSURE_TOTAL)
        for rows in _by(self._held(), lambda row: row.party).values() if policy.exposure_party_max else ():
            self._largest(rows, policy.exposure_party_max, Reason.EXPOSURE_PARTY)
        decisions = tuple(self._decision(row) for row in self._rows)
        claimed = [decision for decision in decisions if decision.claims]
        held = self._held()
        return Claiming(
            decisions,
            claims=frozenset(decision.row.id for decision in claimed),
            claimed=sum(decision.row.amount for decision in claimed),
            held=sum(row.amount for row in held),
            cost=self._total_cost(decision.row.lane for decision in claimed),
            exposure=exposure(held),
        )

    # -- who is claimed --

    def _own_case(self, rows: Sequence[Claimable]) -> None:
        """Claim what one lane's channels call for by themselves.

        The more rows, the less each costs, so those that come first may carry others: the largest number of rows
        is taken at which every one of them is worth its cost.
        """
        compelled = [row for row in rows if self._compelling(row) is not None]
        others = [(self._worth(row), row) for row in rows if row.amount and self._compelling(row) is None]
        others.sort(key=lambda entry: -entry[0])  # equals join together or not at all: no tie to break
        joining = len(others)
        while joining and others[joining - 1][0] < self._cost(len(compelled) + joining):
            joining -= 1
        for row in compelled:
            reason = self._compelling(row)
            assert reason is not None, "these are the rows that have one"
            self._claim(row, reason)
        for _, row in others[:joining]:
            self._claim(row, Reason.WORTH_IT)
        self._lanes[rows[0].lane] = len(compelled) + joining

    def _compelling(self, row: Claimable) -> Reason | None:
        """Return why this channel is claimed whatever its holding has cost, or None."""
        policy = self._policy
        if row.amount and row.amount >= self._least and ending(row, policy, self._situation.now):
            return Reason.WITHDRAWAL_URGENT if row.at_stake else Reason.WITHDRAWAL_DEADLINE
        if row.amount and row.closing:
            return Reason.CLOSING
        if policy.exposure_channel_max and row.amount > policy.exposure_channel_max:
            return Reason.EXPOSURE_CHANNEL
        return None

    def _worth(self, row: Claimable) -> int:
        """Return the highest cost at which a claim pays: it brings more than that, and holding has cost as much."""
        return min(row.amount, self._accrued(row))

    def _accrued(self, row: Claimable) -> int:
        """Return what holding has cost since the last claim, for an amount that grew evenly from nothing."""
        elapsed = max(0, self._situation.now - row.since)
        return row.amount * elapsed * self._policy.risk_ppm_per_day // (2 * _PPM_SECONDS)

    def _find_cash(self) -> None:
        """Claim, the best value per gas first, until payouts have the cash that they wait for; never at a loss."""
        needed = self._situation.cash_needed - sum(row.amount for row in self._rows if row.id in self._reasons)
        if needed <= 0:
            return
        gas = {row.lane: self._gas(self._lanes[row.lane] + 1) for row in self._rows}
        rows = [row for row in self._held() if row.amount and row.amount >= self._joining_cost(row)]
        for row in sorted(rows, key=lambda row: (-(row.amount << _VALUE_BITS) // gas[row.lane], row.id)):
            if needed <= 0:
                break
            self._claim(row, Reason.CASH_NEEDED)
            needed -= row.amount

    def _largest(self, rows: Sequence[Claimable], most: int, reason: Reason) -> None:
        """Claim the largest of these until what they leave is at most `most`."""
        left = sum(row.amount for row in rows)
        for row in sorted(rows, key=lambda row: (-row.amount, row.id)):
            if left <= most:
                break
            self._claim(row, reason)
            left -= row.amount

    def _claim(self, row: Claimable, reason: Reason) -> None:
        self._reasons[row.id] = reason

    def _held(self) -> list[Claimable]:
        return [row for row in self._rows if row.id not in self._reasons]

    # -- what it costs --

    def _gas(self, rows: int) -> int:
        return self._policy.gas.of_row(rows, self._policy.rows_max)

    def _cost(self, rows: int) -> int:
        """Return the cost of a row in a lane that claims so many."""
        if rows not in self._costs:
            self._costs[rows] = self._policy.cost(self._gas(rows), self._situation.gas_price)
        return self._costs[rows]

    def _total_cost(self, lanes: Iterable[int]) -> int:
        """Return what settling all these rows costs; each is given by its lane."""
        gas, rows_max = self._policy.gas, self._policy.rows_max
        used = sum(rows * gas.row + -(-rows // rows_max) * gas.batch + gas.lane for rows in Counter(lanes).values())
        return self._policy.cost(used, self._situation.gas_price)

    def _joining_cost(self, row: Claimable) -> int:
        """Return what one more row costs in this channel's lane."""
        return self._cost(self._lanes[row.lane] + 1)

    # -- in words --

    def _decision(self, row: Claimable) -> Decision:
        reason = self._reasons.get(row.id)
        if reason is not None:
            cost = self._cost(self._lanes[row.lane]) if reason in _OWN else self._joining_cost(row)
            return Decision(row, reason, cost, None, self._claimed_words(row, reason, cost))
        if not row.amount:
            return Decision(row, Reason.NOTHING, 0, None, "nothing is owed that a claim could add")
        cost = self._joining_cost(row)
        if ending(row, self._policy, self._situation.now):
            words = f"a withdrawal is pending, but {row.amount} is less than the gas of a row at its cheapest"
            return Decision(row, Reason.DUST_DEADLINE, cost, None, f"{words}, {self._least}")
        if row.amount < cost:
            return Decision(row, Reason.DUST, cost, None, f"{row.amount} is less than the {cost} that its gas costs")
        due = self._due(row, cost)
        words = f"holding {row.amount} has cost {self._accrued(row)} so far and claiming it costs {cost}: "
        if due is None:
            return Decision(row, Reason.WAITING, cost, None, words + "with a risk rate of 0 it never pays")
        return Decision(row, Reason.WAITING, cost, due, words + f"at this gas price it pays at {due} at the latest")

    def _due(self, row: Claimable, cost: int) -> int | None:
        """Return when holding will have cost as much as the row, if nothing is added meanwhile."""
        rate = row.amount * self._policy.risk_ppm_per_day
        return row.since + -(-cost * 2 * _PPM_SECONDS // rate) if rate else None

    def _claimed_words(self, row: Claimable, reason: Reason, cost: int) -> str:
        policy, amount = self._policy, row.amount
        match reason:
            case Reason.WITHDRAWAL_URGENT:
                return f"a withdrawal can take {row.at_stake} of the {amount} owed, from {row.finalize_after} on"
            case Reason.WITHDRAWAL_DEADLINE:
                return f"a withdrawal can end at {row.finalize_after}, with a margin of {policy.withdraw_margin_s} s"
            case Reason.CLOSING:
                return f"the channel is closing: its last {amount} is claimed whatever that costs"
            case Reason.EXPOSURE_CHANNEL:
                return f"{amount} is above the {policy.exposure_channel_max} that a channel may leave unclaimed"
            case Reason.CASH_NEEDED:
                return f"payouts lack {self._situation.cash_needed}, and this brings {amount} for {cost}"
            case Reason.EXPOSURE_PARTY:
                most = policy.exposure_party_max
                return f"its payer's channels may leave {most} unclaimed, and with {amount} it is among the largest"
            case Reason.EXPOSURE_TOTAL:
                most = policy.exposure_total_max
                return f"all channels may leave {most} unclaimed, and with {amount} it is among the largest"
        if not cost:
            return f"gas is not weighed, and {amount} is owed"
        return f"holding {amount} has cost {self._accrued(row)} so far and claiming it costs {cost}"


_OWN = frozenset(
    {
        Reason.WITHDRAWAL_URGENT,
        Reason.WITHDRAWAL_DEADLINE,
        Reason.CLOSING,
        Reason.EXPOSURE_CHANNEL,
        Reason.WORTH_IT,
    }
)


def _by(rows: Iterable[Claimable], key: Callable[[Claimable], int | bytes]) -> dict[int | bytes, list[Claimable]]:
    groups: dict[int | bytes, list[Claimable]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups
