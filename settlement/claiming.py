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
from dataclasses import dataclass
from enum import StrEnum

from channels.types import Address, ChannelId
from settlement.planning import CLAIM_ROWS_MAX

WEI_PER_COIN = 10**18
# A rate in millionths per day: what an amount has to be multiplied with in seconds to cost itself.
_PPM_SECONDS = 10**6 * 86_400
# Value per gas is compared as an integer with so many fractional bits. A row's gas is far below 2³², so two values
# that differ at all differ in these.
_VALUE_BITS = 64


class Reason(StrEnum):
    """Why a channel is claimed or held. Values are shown to operators and scripts: never renamed."""

    WITHDRAWAL_URGENT = "withdrawal_urgent"
    WITHDRAWAL_DEADLINE = "withdrawal_deadline"
    CLOSING = "closing"
    EXPOSURE_CHANNEL = "exposure_channel"
    WORTH_IT = "worth_it"
    CASH_NEEDED = "cash_needed"
    EXPOSURE_TOTAL = "exposure_total"
    EXPOSURE_PARTY = "exposure_party"
    DUST = "dust"
    DUST_DEADLINE = "dust_deadline"
    WAITING = "waiting"
    NOTHING = "nothing"

    @property
    def claims(self) -> bool:
        """True for a reason to claim, False for one to hold."""
        return self not in _HOLDS


_HOLDS = frozenset({Reason.DUST, Reason.DUST_DEADLINE, Reason.WAITING, Reason.NOTHING})


@dataclass(frozen=True, slots=True)
class Claimable:
    """A channel that netting would claim, and what the decision needs to know of it.

    `amount` is what a claim would add, `since` the chain second at which the channel was last claimed or, if that
    was later, began to owe. With a withdrawal pending, `finalize_after` is the chain second from which its payer
    can end it, and `at_stake` the part of `amount` that would be gone then.
    """

    id: ChannelId
    party: Address
    lane: int
    amount: int
    since: int
    finalize_after: int | None = None
    at_stake: int = 0
    closing: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.at_stake <= self.amount or (self.at_stake and self.finalize_after is None):
            raise ValueError(f"channel 0x{self.id.hex()} breaks 0 ≤ at stake in a withdrawal ≤ amount: {self}")


@dataclass(frozen=True, slots=True)
class GasUse:
    """Gas of settling: of a claim's row, of a claim transaction without rows, of a lane's settlement and sweep.

    The defaults are what the contracts use on any EVM chain (`tests/settlement/test_claiming.py` measures them);
    a chain that charges call data separately needs higher ones.
    """

    row: int = 19_250
    batch: int = 30_100
    lane: int = 91_400

    def of_row(self, rows: int, rows_max: int) -> int:
        """Return a row's gas with its share of the rest, in a lane that claims `rows` rows in all.

        It never rises with `rows`: batches count as filled once a lane has enough rows for one.
        """
        return self.row + -(-self.batch // min(rows, rows_max)) + -(-self.lane // rows)


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's terms. Bounds of exposure are base units, 0 is no bound.

    `coin_price` is what 10¹⁸ wei cost in base units; 0: gas is not weighed, and all that is owed is claimed.
    `risk_ppm_per_day` is what holding is taken to cost. A channel with a withdrawal pending is claimed
    `withdraw_margin_s` before that can end, and earlier if the decision would come up again only after that: in
    `again_s` at the latest.
    """

    coin_price: int = 0
    risk_ppm_per_day: int = 1_000
    exposure_channel_max: int = 0
    exposure_party_max: int = 0
    exposure_total_max: int = 0
    withdraw_margin_s: int = 0
    again_s: int = 0
    rows_max: int = CLAIM_ROWS_MAX
    gas: GasUse = GasUse()

    def cost(self, gas: int, gas_price: int) -> int:
        """Return what gas costs in base units, rounded up; `gas_price` is wei per gas."""
        return -(-gas * gas_price * self.coin_price // WEI_PER_COIN)

    def least(self, gas_price: int) -> int:
        """Return what a row in a full batch costs: to lose less than that to a withdrawal is cheaper than to claim."""
        return self.cost(self.gas.row + -(-self.gas.batch // self.rows_max), gas_price)


@dataclass(frozen=True, slots=True)
class Situation:
    """What the decision depends on beside the channels.

    `now` is chain time, `gas_price` wei per gas. `cash_needed` is what payouts need beyond the treasury's cash.
    """

    now: int
    gas_price: int
    cash_needed: int = 0


@dataclass(frozen=True, slots=True)
class Exposure:
    """What is owed and not claimed: the most on one channel, the most of one party, and in all."""

    channel_max: int = 0
    party_max: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one channel. `words` is one sentence for the operator.

    `cost` is what its row costs in base units, or would cost. `due` is the chain second at which a waiting channel
    pays at the latest at this gas price; None when it does not wait, or would for ever.
    """

    row: Claimable
    reason: Reason
    cost: int
    due: int | None
    words: str

    @property
    def claims(self) -> bool:
        """True when the channel is claimed now."""
        return self.reason.claims


@dataclass(frozen=True, slots=True)
class Claiming:
    """Every decision, in the order of the rows, and the channels to claim.

    `cost` is that of settling all claims, `exposure` what remains held. All amounts are base units.
    """

    decisions: tuple[Decision, ...]
    claims: frozenset[ChannelId]
    claimed: int
    held: int
    cost: int
    exposure: Exposure


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
