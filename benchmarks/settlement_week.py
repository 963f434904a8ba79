"""A simulated week of claiming: what three policies spend on gas, hold unclaimed, and lose to payers that withdraw.

Everything is drawn from one seed: loads, gas prices, hours without the gateway, withdrawals. Money, gas and delays
are those of the real thing (`settlement.claiming` decides for the planner, `GasUse` prices all three); what is left
out is the chain itself. Amounts are base units, times minutes of the week in steps of ten.

A payer that runs withdraws everything, and often just when the gateway goes offline. It gets away with what is owed
unless that is claimed before the delay is over. A gateway that is offline meters nothing and claims nothing.
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from settlement.claim_terms import Claimable, GasUse, Policy, Situation
from settlement.claiming import decide

STEP_S = 600
STEPS_DAY = 86_400 // STEP_S
STEPS = 7 * STEPS_DAY
LANES = 4
ROWS_MAX = 100
GAS = GasUse()
TOKEN = 10**6
GWEI = 10**9
# A busy rollup: 0.05 gwei and a coin of 2,000 tokens make a row of a full batch cost 0.002 tokens.
GAS_PRICE = GWEI // 20
COIN_PRICE = 2_000 * TOKEN
WITHDRAW_DELAY_S = 6 * 3600
WITHDRAW_MARGIN_S = WITHDRAW_DELAY_S // 4
RISK_PPM_PER_DAY = 1_000


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A withdrawal begins at a step; one of all the money is a payer that runs, another leaves what is owed."""

    begins: int
    everything: bool

    @property
    def ends(self) -> int:
        """The first step at which the payer can end it."""
        return self.begins + WITHDRAW_DELAY_S // STEP_S


@dataclass(frozen=True, slots=True)
class Week:
    """The traces: `loads[channel][step]` in base units, `gas_prices[step]` in wei, `online[step]`."""

    loads: tuple[tuple[int, ...], ...]
    parties: tuple[int, ...]
    gas_prices: tuple[int, ...]
    online: tuple[bool, ...]
    withdrawals: dict[int, Withdrawal]


@dataclass(slots=True)
class WeekChannel:
    """One channel during the week."""

    number: int
    owed: int = 0
    claimed: int = 0
    since: int = 0  # the step of the last claim, or at which it began to owe
    withdrawal: Withdrawal | None = None
    gone: bool = False

    @property
    def unclaimed(self) -> int:
        """What is owed and not claimed."""
        return self.owed - self.claimed


@dataclass(slots=True)
class Outcome:
    """What a policy came to; amounts in base units, exposure at the end of every step."""

    gas: int = 0
    gas_cost: int = 0
    rows: int = 0
    charged: int = 0
    claimed: int = 0
    lost: int = 0
    exposures: list[int] = field(default_factory=list)

    @property
    def exposure_mean(self) -> int:
        """The mean of what was held unclaimed."""
        return sum(self.exposures) // len(self.exposures)

    @property
    def total(self) -> int:
        """What claiming cost in all: gas and losses."""
        return self.gas_cost + self.lost


class ClaimRule(Protocol):
    """Says which channels to claim at a step."""

    def choose(self, channels: Sequence[WeekChannel], step: int, gas_price: int) -> Iterable[WeekChannel]:
        """Return some of these channels, all of which owe something."""
        ...


@dataclass(frozen=True, slots=True)
class EveryMinutes:
    """Claim all that is owed every so many minutes."""

    minutes: int

    def choose(self, channels: Sequence[WeekChannel], step: int, gas_price: int) -> Iterable[WeekChannel]:
        """Return all or nothing."""
        return channels if step * STEP_S % (self.minutes * 60) == 0 else ()


@dataclass(frozen=True, slots=True)
class Threshold:
    """Claim a channel as soon as it owes so many base units."""

    amount: int

    def choose(self, channels: Sequence[WeekChannel], step: int, gas_price: int) -> Iterable[WeekChannel]:
        """Return those at or above it."""
        return [channel for channel in channels if channel.unclaimed >= self.amount]


@dataclass(frozen=True, slots=True)
class Planner:
    """What the gateway does: `settlement.claiming.decide` at every step."""

    parties: tuple[int, ...]
    policy: Policy

    def choose(self, channels: Sequence[WeekChannel], step: int, gas_price: int) -> Iterable[WeekChannel]:
        """Return those that the planner claims."""
        rows = [self._row(channel) for channel in channels]
        claims = decide(rows, self.policy, Situation(step * STEP_S, gas_price)).claims
        return [channel for channel, row in zip(channels, rows, strict=True) if row.id in claims]

    def _row(self, channel: WeekChannel) -> Claimable:
        withdrawal = channel.withdrawal
        return Claimable(
            id=channel.number.to_bytes(32, "big"),
            party=self.parties[channel.number].to_bytes(20, "big"),
            lane=channel.number % LANES,
            amount=channel.unclaimed,
            since=channel.since * STEP_S,
            finalize_after=None if withdrawal is None else withdrawal.ends * STEP_S,
            at_stake=channel.unclaimed if withdrawal is not None and withdrawal.everything else 0,
        )


def policy(week: Week) -> Policy:
    """Return the planner's terms for a week: the defaults of the configuration, and bounds from its own turnover.

    A channel may leave what the busiest spends in a day and a half, all together a day's turnover.
    """
    daily = [sum(load) // 7 for load in week.loads]
    return Policy(
        coin_price=COIN_PRICE,
        risk_ppm_per_day=RISK_PPM_PER_DAY,
        exposure_channel_max=max(daily) * 3 // 2,
        exposure_party_max=max(daily) * 3,
        exposure_total_max=sum(daily),
        withdraw_margin_s=WITHDRAW_MARGIN_S,
        again_s=STEP_S,
        rows_max=ROWS_MAX,
    )


def simulate(week: Week, rule: ClaimRule) -> Outcome:
    """Run one policy through the week."""
    channels = [WeekChannel(number) for number in range(len(week.loads))]
    outcome = Outcome()
    for step in range(STEPS):
        for channel in channels:
            _withdraw(channel, week.withdrawals.get(channel.number), step, outcome)
        if week.online[step]:
            for channel in channels:
                _charge(channel, week.loads[channel.number][step], step, outcome)
            owing = [channel for channel in channels if channel.unclaimed and not channel.gone]
            _claim(list(rule.choose(owing, step, week.gas_prices[step])), step, week.gas_prices[step], outcome)
        outcome.exposures.append(sum(channel.unclaimed for channel in channels if not channel.gone))
    return outcome


def _withdraw(channel: WeekChannel, withdrawal: Withdrawal | None, step: int, outcome: Outcome) -> None:
    if withdrawal is None or channel.gone:
        return
    if step == withdrawal.begins:
        channel.withdrawal = withdrawal
    elif step == withdrawal.ends:  # before anything is claimed in this step: the payer is as fast as can be
        channel.withdrawal = None
        if withdrawal.everything:
            outcome.lost += channel.unclaimed
            channel.gone = True


def _charge(channel: WeekChannel, load: int, step: int, outcome: Outcome) -> None:
    if channel.gone or (channel.withdrawal is not None and channel.withdrawal.everything):
        return  # with nothing left to spend, the gateway takes no more readings
    if not channel.unclaimed:
        channel.since = step
    channel.owed += load
    outcome.charged += load


def _claim(channels: list[WeekChannel], step: int, gas_price: int, outcome: Outcome) -> None:
    for count in Counter(channel.number % LANES for channel in channels).values():
        gas = count * GAS.row + -(-count // ROWS_MAX) * GAS.batch + GAS.lane
        outcome.gas += gas
        outcome.gas_cost += Policy(COIN_PRICE).cost(gas, gas_price)
    for channel in channels:
        outcome.rows += 1
        outcome.claimed += channel.unclaimed
        channel.claimed = channel.owed
        channel.since = step


# -- traces --


def draw(seed: int, channels: int) -> Week:
    """Draw a week: three channels of five are homes, one in four a sensor, the rest chargers for vehicles."""
    rng = random.Random(seed)
    online = _online(rng)
    loads = []
    for number in range(channels):
        kind = _home if number % 20 < 12 else _sensor if number % 20 < 17 else _charger
        loads.append(kind(rng))
    # One party in ten pays for two channels.
    parties = tuple(number - 1 if number % 10 == 1 else number for number in range(channels))
    return Week(tuple(loads), parties, _gas_prices(rng), online, _withdrawals(rng, channels, online))


def _home(rng: random.Random) -> tuple[int, ...]:
    """Some kWh a day at 0.15 tokens, more in the morning and in the evening."""
    scale = rng.lognormvariate(0, 0.5) * 1.5 * TOKEN / STEPS_DAY
    day = [
        0.5 + 1.3 * math.exp(-((hour - 7.5) ** 2) / 3) + 2.2 * math.exp(-((hour - 19.5) ** 2) / 6)
        for hour in (step * 24 / STEPS_DAY for step in range(STEPS_DAY))
    ]
    return tuple(int(scale * day[step % STEPS_DAY] * rng.uniform(0.5, 1.5)) for step in range(STEPS))


def _sensor(rng: random.Random) -> tuple[int, ...]:
    """Data for some thousandths of a token a day, all day."""
    scale = rng.lognormvariate(0, 0.8) * 0.01 * TOKEN / STEPS_DAY
    return tuple(int(scale * rng.uniform(0.2, 1.8)) for _ in range(STEPS))


def _charger(rng: random.Random) -> tuple[int, ...]:
    """Sessions of one to four hours, about once a day, 0.5 to 3 tokens an hour."""
    loads = [0] * STEPS
    step = rng.randrange(STEPS_DAY)
    while step < STEPS:
        rate = int(rng.uniform(0.5, 3) * TOKEN * STEP_S / 3600)
        length = rng.randrange(6, 24)
        loads[step : step + length] = [rate] * len(loads[step : step + length])
        step += length + int(rng.expovariate(1 / STEPS_DAY)) + 1
    return tuple(loads)


def _gas_prices(rng: random.Random) -> tuple[int, ...]:
    """A daily cycle, noise that reverts to its mean, and some hours of three to fifteen times the price."""
    noise, spike, left = 0.0, 1.0, 0
    prices = []
    for step in range(STEPS):
        noise = 0.95 * noise + rng.gauss(0, 0.12)
        if left == 0 and rng.random() < 5 / STEPS:
            spike, left = rng.uniform(3, 15), rng.randrange(6, 24)
        left -= left > 0
        cycle = 1 + 0.4 * math.sin(2 * math.pi * (step % STEPS_DAY / STEPS_DAY - 0.35))
        prices.append(int(GAS_PRICE * cycle * math.exp(noise) * (spike if left else 1.0)))
    return tuple(prices)


def _online(rng: random.Random) -> tuple[bool, ...]:
    """Five outages of one to three hours, and one that is longer than the delay of a withdrawal."""
    online = [True] * STEPS
    for hours in (*(rng.uniform(1, 3) for _ in range(5)), WITHDRAW_DELAY_S / 3600 * 1.5):
        length = int(hours * 3600 / STEP_S)
        begins = rng.randrange(STEPS_DAY, STEPS - length)
        online[begins : begins + length] = [False] * length
    return tuple(online)


def _withdrawals(rng: random.Random, channels: int, online: Sequence[bool]) -> dict[int, Withdrawal]:
    """One payer in four withdraws once. Half of these run, and half of those at the start of an outage."""
    outages = [step for step in range(1, STEPS) if online[step - 1] and not online[step]]
    withdrawals = {}
    for number in range(channels):
        kind = rng.random()
        if kind < 0.0625:
            withdrawals[number] = Withdrawal(rng.choice(outages), True)
        elif kind < 0.25:
            withdrawals[number] = Withdrawal(rng.randrange(1, STEPS), kind < 0.125)
    return withdrawals
