"""The settler: decides when to settle and what is worth its gas, and shows why.

A cycle begins on schedule, when the operator asks, when a channel closes, and at once when waiting would be a
risk: a payer withdraws, a deadline comes near, or more stays unclaimed than the operator wants.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic, time
from typing import TypeVar

from channels.types import Address, ChannelId
from gateway.books import Books
from gateway.closings import Closings
from gateway.config import Config
from gateway.cycle import Cycle
from gateway.keys import KeyRing
from gateway.outlook import PAYOUT_ROW_GAS, Cash, Outlook, Question, claimable, presses, reachable
from gateway.positions import Holdings
from gateway.records import CycleEnded
from gateway.rescue import Rescue
from gateway.watcher import Watcher
from settlement.claim_terms import Policy
from settlement.claiming import ending
from settlement.errors import ChainRefused, ChainUnavailable
from settlement.netting import ClaimTarget
from settlement.port import ExecutionLayer

T = TypeVar("T")

# How often the settler looks whether something presses: at withdrawals, and with bounds of exposure at every channel,
# which takes some microseconds each.
LOOK_EVERY_S = 1.0
# A pressing cycle that did not help (the node is away, a row reverts) is not repeated sooner.
PRESS_EVERY_S = 5.0
# So often a decision is tried in another thread, while what it is about may change; then it is made on the spot.
TRIES_APART = 2


def claim_policy(config: Config) -> Policy:
    """Return the operator's terms for claims."""
    settlement = config.settlement
    return Policy(
        coin_price=int(settlement.coin_price),
        risk_ppm_per_day=settlement.risk_ppm_per_day,
        exposure_channel_max=int(settlement.exposure_channel_max),
        exposure_party_max=int(settlement.exposure_party_max),
        exposure_total_max=int(settlement.exposure_total_max),
        withdraw_margin_s=config.withdraw_margin_s,
        again_s=math.ceil(PRESS_EVERY_S),
        rows_max=settlement.rows_max,
    )


class Settler:
    """Runs settlement cycles, one at a time."""

    def __init__(
        self,
        books: Books,
        layer: ExecutionLayer,
        watcher: Watcher,
        cycle: Cycle,
        closings: Closings,
        rescue: Rescue,
        keys: KeyRing,
        token: Address,
        policy: Policy,
        *,
        payout_min: int,
        every_s: float,
    ) -> None:
        self._books = books
        self._layer = layer
        self._watcher = watcher
        self._cycle = cycle
        self._closings = closings
        self._rescue = rescue
        self._keys = keys
        self._token = token
        self._policy = policy
        self._payout_min = payout_min
        self._every_s = every_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="settler")
        self._one = asyncio.Lock()
        self._wake = asyncio.Event()
        self._asked = False
        self._next = monotonic() + every_s
        self._settlements = 0  # since the start
        self._failed: dict[bytes, int] = {}  # rows set aside, with the settlement in which they failed last
        self._gas_price = 0  # wei per gas, as it was when it was last asked
        self._gas_price_at = float("-inf")
        self.on_trouble: Callable[[str], None] = lambda text: None
        self.on_cycle: Callable[[CycleEnded], Awaitable[object]] = _nothing

    # -- when --

    async def run(self) -> None:
        """Settle every `every_s` seconds, counted over restarts, and earlier when something presses."""
        self._next = monotonic() + self._first_in_s()
        pressed = float("-inf")
        while True:
            await self._pause()
            due = monotonic() >= self._next
            looking = self._wake.is_set() or monotonic() >= pressed + PRESS_EVERY_S
            asked, self._asked = self._asked, False
            self._wake.clear()
            try:
                pressing = asked or (looking and await self.pressing())
                if not (due or pressing):
                    continue
                if pressing:
                    pressed = monotonic()
                if due:
                    self._next = monotonic() + self._every_s
                await self.settle()
            except (ChainUnavailable, ChainRefused) as error:
                self.on_trouble(f"this settlement stopped, the next one takes it up: {error}")

    async def guard(self) -> None:
        """Beside `run`: claim what a withdrawal threatens while a cycle is under way, or whose row was set aside."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                if self._threatened():
                    await self._rescue.claim(self._threatened)
            except (ChainUnavailable, ChainRefused) as error:
                self.on_trouble(f"urgent claims wait: {error}")

    def _threatened(self) -> list[ClaimTarget]:
        """Return urgent claims that no cycle makes now."""
        ledger = self._books.ledger
        outstanding = {
            each.sender for each in ledger.transactions.values() if each.purpose.startswith(("claim", "close"))
        }
        least = self._policy.least(self._gas_price)
        found = []
        for identifier in ledger.withdrawing:
            if not (self._one.locked() or identifier in ledger.aside):
                continue
            channel = ledger.channels[identifier]
            target = reachable(channel)
            row = claimable(channel, target, ledger.since.get(identifier, 0))
            if row.amount < max(least, 1) or not ending(row, self._policy, self._watcher.chain_time):
                continue
            claim = ClaimTarget(channel.id, channel.lane, target, row.amount)
            signed = channel.committed >= target and channel.config.receiver in outstanding
            if not signed and self._rescue.may_try(claim):
                found.append(claim)
        return found

    def _first_in_s(self) -> float:
        """Return when the first cycle of this run is due: one that was due while the power was off is due now."""
        ledger = self._books.ledger
        founded = ledger.founded
        assert founded is not None, "a running gateway has founded its journal"
        ends = [ended.at for ended in ledger.ended.values()]
        elapsed = time() - max(ends) if ends else self._watcher.chain_time - founded.timestamp
        if elapsed < 0:  # a box without a clock of its own thinks that it is long ago
            return 0.0
        return max(0.0, self._every_s - elapsed)

    @property
    def next_in_s(self) -> float:
        """Seconds until the next cycle on schedule."""
        return max(0.0, self._next - monotonic())

    def wake(self) -> None:
        """Run a cycle soon, whatever the schedule says."""
        self._asked = True
        self._wake.set()

    def alert(self, identifier: ChannelId) -> None:
        """A payer has begun to withdraw: look at once whether that touches what is owed."""
        channel = self._books.ledger.channels[identifier]
        self.on_trouble(
            f"the payer of channel 0x{identifier.hex()} withdraws {channel.withdrawable} of {channel.balance};"
            f" {channel.unclaimed} is owed and not claimed"
        )
        self._wake.set()

    async def _pause(self) -> None:
        until = min(self._next - monotonic(), LOOK_EVERY_S)
        try:
            async with asyncio.timeout(max(until, 0)):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def pressing(self) -> bool:
        """Tell whether something cannot wait: a withdrawal, or more unclaimed than the operator wants.

        It is judged at a gas price that is not long past. Raises ChainUnavailable.
        """
        if self._closings.pressing:
            return True
        ledger, policy = self._books.ledger, self._policy
        if ledger.withdrawing:
            await self._ask_gas_price()
        bounded = policy.exposure_channel_max or policy.exposure_party_max or policy.exposure_total_max
        if not bounded:
            channels = [ledger.channels[each] for each in ledger.withdrawing if each not in ledger.aside]
            return presses(channels, ledger.since, policy, self._watcher.chain_time, self._gas_price)
        # Of all channels, which takes a while.
        held, aside, since = ledger.channels.copy(), ledger.aside.copy(), ledger.since.copy()
        now, gas_price = self._watcher.chain_time, self._gas_price
        return await self._apart(
            lambda: presses(
                [channel for each, channel in held.items() if each not in aside], since, policy, now, gas_price
            )
        )

    async def _ask_gas_price(self) -> None:
        if self._policy.coin_price and monotonic() >= self._gas_price_at + PRESS_EVERY_S:
            fees, head = await self._layer.fees(), await self._layer.head()
            self._gas_price, self._gas_price_at = head.base_fee + fees.max_priority_fee_per_gas, monotonic()

    # -- what --

    async def settle(self, *, whatever_it_costs: bool = False) -> CycleEnded | None:
        """Run one cycle to its end. Returns None when there was nothing to settle.

        By the operator's policy; or `whatever_it_costs`: then all is claimed and paid.
        """
        async with self._one:
            self._settlements += 1  # whether or not there is anything to do: a failed row's pause is counted in these
            async with self._cycle.netting:
                outlook = await self.outlook(whatever_it_costs=whatever_it_costs)
                plan = outlook.plan
                anything = plan.claims or plan.payouts or plan.netting.totals.offset
                if not (anything or outlook.leftovers or self._closings.under_way):
                    self._tell_unfunded(outlook)
                    return None
                number = await self._cycle.begin(plan)
            self._tell_unfunded(outlook)
            ended = await self._cycle.run(number, plan)
            aside = self._books.ledger.aside
            self._failed |= {key: self._settlements for key, row in aside.items() if row.cycle == ended.number}
        await self.on_cycle(ended)
        return ended

    def _tell_unfunded(self, outlook: Outlook) -> None:
        if outlook.unfunded:
            lacking = sum(payout.amount for payout in outlook.unfunded)
            self.on_trouble(f"the treasury lacks {lacking} base units for {len(outlook.unfunded)} payouts; they wait")

    async def outlook(self, *, whatever_it_costs: bool = False) -> Outlook:
        """Return what a cycle now would do and why; changes nothing."""
        lanes = [key.address for key in self._keys.lanes]
        fees = await self._layer.fees()
        receivers = await self._layer.receivers([(lane, self._token) for lane in lanes])
        balances = await self._layer.token_balances(self._token, [self._keys.treasury.address, *lanes])
        head = await self._layer.head()
        policy = replace(self._policy, coin_price=0) if whatever_it_costs else self._policy
        self._gas_price = gas_price = head.base_fee + fees.max_priority_fee_per_gas
        self._gas_price_at = monotonic()
        cash = Cash(balances[0], balances[1:], [view.unsettled for view in receivers])
        for _ in range(TRIES_APART):
            question = self._question(policy, gas_price, cash, whatever_it_costs)
            outlook = await self._apart(question.answer)
            if not question.holdings.overtaken(self._books.ledger):
                return outlook
        # Here and now, so that nothing comes between.
        return self._question(policy, gas_price, cash, whatever_it_costs).answer()

    async def _apart(self, decide: Callable[[], T]) -> T:
        """Decide in the settler's own thread: nobody waits for a thread who holds a lock that others wait for."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, decide)

    def _question(self, policy: Policy, gas_price: int, cash: Cash, whatever_it_costs: bool) -> Question:
        ledger = self._books.ledger
        payout_min = 0 if whatever_it_costs else max(self._payout_min, policy.cost(PAYOUT_ROW_GAS, gas_price))
        return Question(
            holdings=Holdings.of(ledger),
            since=ledger.since.copy(),
            left_aside=frozenset(each for each in ledger.aside if self._left_aside(each)),
            under_way=self._rescue.under_way(),
            policy=policy,
            payout_min=payout_min,
            now=self._watcher.chain_time,
            gas_price=gas_price,
            cash=cash,
            unfinished=bool(ledger.cycles),
        )

    def _left_aside(self, key: bytes) -> bool:
        """Tell whether a claim that failed before is left out once more; never while a withdrawal runs."""
        ledger = self._books.ledger
        channel = ledger.channels.get(key)
        if channel is None or channel.withdrawable or key not in self._failed:  # after a restart all are tried
            return False
        return self._settlements < self._failed[key] + ledger.aside[key].pause


async def _nothing(ended: CycleEnded) -> None:
    """Nobody waits for the ends of cycles."""
