"""Claiming: the bounds hold, what presses is never held, and rows join a batch exactly when all of them pay."""

import json
import random
from collections import Counter
from dataclasses import replace
from itertools import combinations

import parallel_evm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.digests import channel_id, keccak, voucher_digest
from channels.signatures import key_address, sign
from channels.types import SETTLEMENT_ADDRESS, ChannelConfig, Network
from settlement import calls
from settlement.claim_terms import Claimable, Claiming, Decision, Exposure, GasUse, Policy, Reason, Situation
from settlement.claiming import decide, exposure, pressing
from settlement.contracts import artifact, mapping_slot
from settlement.genesis import TOKEN_ADDRESS, alloc
from settlement.transactions import Transaction, sign_transaction

NOW = 1_760_000_000
DAY = 86_400
GWEI = 10**9
TOKEN = 10**6  # base units
CEILING = 1_000 * TOKEN
# A coin of 2,000 tokens and 1 gwei: a million gas costs 2 tokens, a row in a full batch some 0.04.
DEAR = 2_000 * TOKEN
POLICY = Policy(coin_price=DEAR, risk_ppm_per_day=1_000)
SITUATION = Situation(NOW, GWEI)

amounts = st.integers(0, 300) | st.integers(0, 200 * TOKEN) | st.integers(0, 2**127)


def identifier(number: int) -> bytes:
    return number.to_bytes(32, "big")


def address(number: int) -> bytes:
    return number.to_bytes(20, "big")


def row(number: int, amount: int, **changed: object) -> Claimable:
    values: dict[str, object] = {"party": address(number), "lane": 0, "since": NOW - 10 * DAY, **changed}
    return Claimable(identifier(number), amount=amount, **values)  # type: ignore[arg-type]


@st.composite
def claimables(draw: st.DrawFn, number: int, most: int = 2**127) -> Claimable:
    amount = draw(amounts) % (most + 1)
    withdrawing = draw(st.integers(0, 3)) == 0
    return Claimable(
        id=identifier(number),
        party=address(draw(st.integers(0, 3))),
        lane=draw(st.integers(0, 2)),
        amount=amount,
        since=NOW - draw(st.integers(-60, 40 * DAY)),
        finalize_after=NOW + draw(st.integers(-DAY, 3 * DAY)) if withdrawing else None,
        at_stake=draw(st.just(0) | st.integers(0, amount)) if withdrawing else 0,
        closing=draw(st.integers(0, 9)) == 0,
    )


@st.composite
def all_rows(draw: st.DrawFn, most: int = 12) -> list[Claimable]:
    return [draw(claimables(number)) for number in range(draw(st.integers(0, most)))]


bounds = st.just(0) | st.integers(1, 500) | st.integers(1, 500 * TOKEN)
policies = st.builds(
    Policy,
    coin_price=st.just(0) | st.integers(1, 10 * DEAR),
    risk_ppm_per_day=st.integers(0, 20_000),
    exposure_channel_max=bounds,
    exposure_party_max=bounds,
    exposure_total_max=bounds,
    withdraw_margin_s=st.integers(0, DAY),
    again_s=st.integers(0, DAY),
    rows_max=st.integers(1, 5) | st.just(100),
    gas=st.builds(GasUse, st.integers(1, 40_000), st.integers(0, 80_000), st.integers(0, 200_000)),
)
situations = st.builds(
    Situation, st.just(NOW), st.integers(0, 100 * GWEI), st.just(0) | st.integers(0, 300) | st.integers(0, 900 * TOKEN)
)


def by_id(result: Claiming) -> dict[bytes, Decision]:
    return {decision.row.id: decision for decision in result.decisions}


def row_gas(policy: Policy, rows: int) -> int:
    """A row's gas in a lane of so many rows, written independently of the code: rounded up, batch by batch."""
    gas = policy.gas
    return gas.row + (gas.batch - 1) // min(rows, policy.rows_max) + 1 + (gas.lane - 1) // rows + 1


def price(policy: Policy, gas: int) -> int:
    return (gas * GWEI * policy.coin_price + 10**18 - 1) // 10**18


# -- what always holds --


@given(all_rows(), policies, situations)
@settings(deadline=None, max_examples=150)
def test_adds_up(rows: list[Claimable], policy: Policy, situation: Situation) -> None:
    result = decide(rows, policy, situation)
    assert [decision.row for decision in result.decisions] == rows
    claimed = [decision.row for decision in result.decisions if decision.reason.claims]
    held = [decision.row for decision in result.decisions if not decision.claims]
    assert result.claims == {entry.id for entry in claimed}
    assert result.claimed == sum(entry.amount for entry in claimed)
    assert result.claimed + result.held == sum(entry.amount for entry in rows)
    assert result.exposure == exposure(held)
    assert result.exposure.total == result.held
    assert all(entry.amount for entry in claimed), "an empty row was claimed"
    lanes = Counter(entry.lane for entry in claimed)
    gas = sum(
        count * policy.gas.row + (count + policy.rows_max - 1) // policy.rows_max * policy.gas.batch + policy.gas.lane
        for count in lanes.values()
    )
    assert result.cost == policy.cost(gas, situation.gas_price)
    assert all(decision.words for decision in result.decisions)
    assert all(decision.due is None or decision.reason is Reason.WAITING for decision in result.decisions)
    assert all(decision.due is None or decision.due > NOW for decision in result.decisions)


@given(all_rows(), policies, situations, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=120)
def test_the_order_of_the_rows_decides_nothing(
    rows: list[Claimable], policy: Policy, situation: Situation, rng: random.Random
) -> None:
    mixed = rng.sample(rows, len(rows))
    first, second = decide(rows, policy, situation), decide(mixed, policy, situation)
    assert by_id(first) == by_id(second)
    assert replace(first, decisions=()) == replace(second, decisions=())


@given(all_rows(), policies, situations)
@settings(deadline=None, max_examples=150)
def test_every_bound_holds_for_what_remains_held(rows: list[Claimable], policy: Policy, situation: Situation) -> None:
    left = decide(rows, policy, situation).exposure
    assert not policy.exposure_channel_max or left.channel_max <= policy.exposure_channel_max
    assert not policy.exposure_party_max or left.party_max <= policy.exposure_party_max
    assert not policy.exposure_total_max or left.total <= policy.exposure_total_max


@given(all_rows(), policies, situations)
@settings(deadline=None, max_examples=150)
def test_nothing_at_stake_is_held_when_it_is_worth_its_gas(
    rows: list[Claimable], policy: Policy, situation: Situation
) -> None:
    gas, full = policy.gas, policy.rows_max
    cheapest = policy.cost(gas.row + (gas.batch + full - 1) // full, situation.gas_price)
    for decision in decide(rows, policy, situation).decisions:
        entry = decision.row
        if decision.claims or not entry.amount or entry.finalize_after is None:
            continue
        last = entry.finalize_after - policy.withdraw_margin_s - policy.again_s
        if entry.at_stake or entry.since < last <= NOW:
            assert decision.reason is Reason.DUST_DEADLINE
            assert entry.amount < cheapest, "no row is ever cheaper than in a full batch"


PRESSING_REASONS = {
    Reason.WITHDRAWAL_URGENT,
    Reason.WITHDRAWAL_DEADLINE,
    Reason.EXPOSURE_CHANNEL,
    Reason.EXPOSURE_PARTY,
    Reason.EXPOSURE_TOTAL,
}


@given(all_rows(), policies, situations)
@settings(deadline=None, max_examples=150)
def test_what_presses_is_claimed_and_presses_no_more(
    rows: list[Claimable], policy: Policy, situation: Situation
) -> None:
    result = decide(rows, policy, situation)
    if pressing(rows, policy, situation):
        assert result.claims, "it would press for ever"
    else:
        assert not {decision.reason for decision in result.decisions} & PRESSING_REASONS
    left = [decision.row for decision in result.decisions if not decision.claims]
    assert not pressing(left, policy, situation)


@given(all_rows(), policies, situations, st.data())
@settings(deadline=None, max_examples=150)
def test_to_owe_more_never_turns_a_claim_into_a_hold(
    rows: list[Claimable], policy: Policy, situation: Situation, data: st.DataObject
) -> None:
    claims = decide(rows, policy, situation).claims
    for index in [index for index, entry in enumerate(rows) if entry.id in claims]:
        more = rows[index].amount + data.draw(st.integers(1, 100) | st.integers(1, 2**127))
        raised = [*rows[:index], replace(rows[index], amount=more), *rows[index + 1 :]]
        assert rows[index].id in decide(raised, policy, situation).claims


@given(all_rows(), policies, situations, st.integers(1, 40 * DAY))
@settings(deadline=None, max_examples=120)
def test_what_is_worth_it_stays_worth_it(
    rows: list[Claimable], policy: Policy, situation: Situation, seconds: int
) -> None:
    before = by_id(decide(rows, policy, situation))
    after = by_id(decide(rows, policy, replace(situation, now=NOW + seconds)))
    for key, decision in before.items():
        if decision.reason is Reason.WORTH_IT:
            assert after[key].claims


@given(all_rows(), policies.filter(lambda policy: policy.coin_price == 0) | st.just(Policy()), situations)
@settings(deadline=None, max_examples=100)
def test_without_a_price_of_gas_all_that_is_owed_is_claimed(
    rows: list[Claimable], policy: Policy, situation: Situation
) -> None:
    result = decide(rows, policy, situation)
    assert result.claims == {entry.id for entry in rows if entry.amount}
    assert (result.held, result.cost) == (0, 0)


# -- against models of its own --


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(-DAY, 90 * DAY)), max_size=8), st.integers(1, 4))
@settings(deadline=None, max_examples=120)
def test_as_many_join_as_all_of_them_pay_for(cases: list[tuple[int, int]], rows_max: int) -> None:
    rows = [row(number, amount, since=NOW - age) for number, (amount, age) in enumerate(cases)]
    policy = Policy(10**9, 100_000, rows_max=rows_max, gas=GasUse(3, 17, 23))

    def pays(entry: Claimable, count: int) -> bool:
        cost = price(policy, row_gas(policy, count))
        holding = entry.amount * max(0, NOW - entry.since) * 100_000
        return entry.amount >= cost and holding >= 2 * cost * 10**6 * DAY

    # Of all sets in which everybody pays, the largest; any two of them together are such a set, too.
    best = max(
        (
            frozenset(entry.id for entry in chosen)
            for count in range(len(rows) + 1)
            for chosen in combinations(rows, count)
            if all(pays(entry, count) for entry in chosen)
        ),
        key=len,
    )
    assert decide(rows, policy, SITUATION).claims == best


@given(all_rows(), st.integers(1, 900 * TOKEN))
@settings(deadline=None, max_examples=120)
def test_cash_comes_from_the_best_value_and_never_at_a_loss(rows: list[Claimable], needed: int) -> None:
    without = decide(rows, POLICY, SITUATION)
    result = decide(rows, POLICY, replace(SITUATION, cash_needed=needed))
    added = [decision for decision in result.decisions if decision.reason is Reason.CASH_NEEDED]
    assert without.claims <= result.claims
    assert result.claims - without.claims == {decision.row.id for decision in added}
    own = Counter(decision.row.lane for decision in without.decisions if decision.claims)
    gas = {lane: row_gas(POLICY, own[lane] + 1) for lane in range(3)}
    left = [
        entry
        for entry in rows
        if entry.id not in result.claims and entry.amount and entry.amount >= price(POLICY, gas[entry.lane])
    ]
    assert result.claimed >= needed or not left, "payouts wait while something could be claimed at a gain"
    for decision in added:
        entry = decision.row
        assert entry.amount >= price(POLICY, gas[entry.lane]), "cash was bought above its worth"
        assert all(entry.amount * gas[other.lane] >= other.amount * gas[entry.lane] for other in left)
        assert result.claimed - min(each.row.amount for each in added) < needed, "more was claimed than needed"


@given(all_rows(), bounds.filter(bool), st.sampled_from(["party", "total"]))
@settings(deadline=None, max_examples=120)
def test_a_bound_takes_the_largest_and_no_more_than_needed(rows: list[Claimable], most: int, which: str) -> None:
    without = decide(rows, POLICY, SITUATION)
    result = decide(rows, replace(POLICY, **{f"exposure_{which}_max": most}), SITUATION)  # type: ignore[arg-type]
    reason = Reason.EXPOSURE_PARTY if which == "party" else Reason.EXPOSURE_TOTAL
    added = [decision.row for decision in result.decisions if decision.reason is reason]
    assert result.claims - without.claims == {entry.id for entry in added}
    held = [entry for entry in rows if entry.id not in result.claims]
    kept = most if which == "party" else most * 3 // 4
    for entry in added:
        together = [other for other in held if which == "total" or other.party == entry.party]
        same = [other for other in added if which == "total" or other.party == entry.party]
        left = sum(other.amount for other in together)
        assert all(other.amount <= entry.amount for other in together)
        assert left <= kept < left + min(other.amount for other in same), "more was claimed than needed"
        assert left + sum(other.amount for other in same) > most, "the bound held without it"


# -- reasons, one by one --

PRESSING = row(1, 30_000_000, since=NOW - 1, finalize_after=NOW + 5_000, at_stake=7)
TABLE = {
    "a withdrawal that could take some of it": (
        [PRESSING], {}, {},
        Reason.WITHDRAWAL_URGENT, f"a withdrawal can take 7 of the 30000000 owed, from {NOW + 5_000} on",
    ),
    "the end of a withdrawal that leaves enough": (
        [replace(PRESSING, at_stake=0)], {"withdraw_margin_s": 5_000}, {},
        Reason.WITHDRAWAL_DEADLINE, f"a withdrawal can end at {NOW + 5_000}, with a margin of 5000 s",
    ),
    "that end, before it is decided again": (
        [replace(PRESSING, at_stake=0)], {"withdraw_margin_s": 4_000, "again_s": 1_000}, {},
        Reason.WITHDRAWAL_DEADLINE, f"a withdrawal can end at {NOW + 5_000}, with a margin of 4000 s",
    ),
    "a withdrawal that leaves enough, long before its end": (
        [replace(PRESSING, at_stake=0)], {"withdraw_margin_s": 4_999}, {},
        Reason.WAITING,
        "holding 30000000 has cost 0 so far and claiming it costs 281500: at this gas price it pays at 1761621439 "
        "at the latest",
    ),
    "that end, claimed before when it came near": (
        [replace(PRESSING, at_stake=0, since=NOW)], {"withdraw_margin_s": 5_000}, {},
        Reason.WAITING,
        "holding 30000000 has cost 0 so far and claiming it costs 281500: at this gas price it pays at 1761621440 "
        "at the latest",
    ),
    "dust that a withdrawal takes": (
        [row(1, 39_101, finalize_after=NOW, at_stake=39_101)], {}, {},
        Reason.DUST_DEADLINE,
        "a withdrawal is pending, but 39101 is less than the gas of a row at its cheapest, 39102",
    ),
    "dust that a withdrawal takes from a closing channel": (
        [row(1, 5, finalize_after=NOW, at_stake=5, closing=True)], {}, {},
        Reason.CLOSING, "the channel is closing: its last 5 is claimed whatever that costs",
    ),
    "more than a channel may leave": (
        [row(1, 501)], {"exposure_channel_max": 500}, {},
        Reason.EXPOSURE_CHANNEL, "501 is above the 500 that a channel may leave unclaimed",
    ),
    "more than a party may leave": (
        [row(1, 300, party=b"x"), row(2, 301, party=b"x")], {"exposure_party_max": 300}, {},
        [Reason.DUST, Reason.EXPOSURE_PARTY],
        "its payer's channels may leave 300 unclaimed, and with 301 it is among the largest",
    ),
    "more than all may leave": (
        [row(1, 225), row(2, 301)], {"exposure_total_max": 300}, {},
        [Reason.DUST, Reason.EXPOSURE_TOTAL],
        "all channels may leave 300 unclaimed, and with 301 it is among the largest",
    ),
    "payouts that wait": (
        [row(1, 500_000, since=NOW), row(2, 500_001, since=NOW)], {}, {"cash_needed": 9},
        [Reason.WAITING, Reason.CASH_NEEDED], "payouts lack 9, and this brings 500001 for 281500",
    ),
    "payouts that wait, but only dust": (
        [row(1, 281_499)], {}, {"cash_needed": 9},
        Reason.DUST, "281499 is less than the 281500 that its gas costs",
    ),
    "a holding as dear as the row": (
        [row(1, 56_300_000)], {}, {},
        Reason.WORTH_IT, "holding 56300000 has cost 281500 so far and claiming it costs 281500",
    ),
    "a holding just cheaper than the row": (
        [row(1, 56_299_999)], {}, {},
        Reason.WAITING,
        f"holding 56299999 has cost 281499 so far and claiming it costs 281500: at this gas price it pays at {NOW + 1} "
        "at the latest",
    ),
    "a holding that costs nothing": (
        [row(1, 56_300_000)], {"risk_ppm_per_day": 0}, {},
        Reason.WAITING,
        "holding 56300000 has cost 0 so far and claiming it costs 281500: with a risk rate of 0 it never pays",
    ),
    "gas that is not weighed": (
        [row(1, 1, since=NOW + 5)], {"coin_price": 0}, {},
        Reason.WORTH_IT, "gas is not weighed, and 1 is owed",
    ),
    "nothing": ([row(1, 0)], {"coin_price": 0}, {}, Reason.NOTHING, "nothing is owed that a claim could add"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_every_reason_in_words(name: str) -> None:
    rows, policy, situation, reasons, words = TABLE[name]
    result = decide(rows, replace(POLICY, **policy), replace(SITUATION, **situation))
    expected = reasons if isinstance(reasons, list) else [reasons]
    assert [decision.reason for decision in result.decisions] == expected
    assert result.decisions[-1].words == words


# A lane with one closing channel: a row joins it for 19,250 + 15,050 + 45,700 gas, 160,000 base units.
OPENED = row(9, 1, closing=True)
FRESH = {"since": NOW}
EDGES: dict[str, tuple[list[Claimable], dict[str, int], dict[str, int], list[Reason]]] = {
    "as much at stake as the cheapest row": (
        [row(1, 39_102, finalize_after=NOW, at_stake=1)], {}, {}, [Reason.WITHDRAWAL_URGENT]
    ),
    "holding has cost more than there is": ([row(1, 281_499, since=NOW - 4_000 * DAY)], {}, {}, [Reason.DUST]),
    "just as much as the gas": ([row(1, 281_500, **FRESH)], {}, {}, [Reason.WAITING]),
    "just as much as the gas, and held for long": (
        [row(1, 281_500, since=NOW - 4_000 * DAY)], {}, {}, [Reason.WORTH_IT]
    ),
    "a clock that is behind": ([row(1, 2**100, since=NOW + 10 * DAY)], {}, {}, [Reason.WAITING]),
    "just at a channel's bound": ([row(1, 500)], {"exposure_channel_max": 500}, {}, [Reason.DUST]),
    "just at a party's bound": (
        [row(1, 500, party=b"x"), row(2, 500, party=b"x")], {"exposure_party_max": 1_000}, {}, [Reason.DUST] * 2
    ),
    "just at the bound of all": ([row(1, 500), row(2, 500)], {"exposure_total_max": 1_000}, {}, [Reason.DUST] * 2),
    "equals at a bound go by their id": (
        [row(2, 500), row(1, 500), row(3, 500)], {"exposure_total_max": 1_334}, {},
        [Reason.DUST, Reason.EXPOSURE_TOTAL, Reason.DUST],
    ),
    "just the cash that is needed": (
        [row(1, 600_000, **FRESH), row(2, 700_000, **FRESH)], {}, {"cash_needed": 700_000},
        [Reason.WAITING, Reason.CASH_NEEDED],
    ),
    "cash that other claims bring": (
        [OPENED, row(1, 700_000, **FRESH)], {}, {"cash_needed": 1}, [Reason.CLOSING, Reason.WAITING]
    ),
    "cash for just its gas": ([row(1, 281_500, **FRESH)], {}, {"cash_needed": 1}, [Reason.CASH_NEEDED]),
    "less cash from a lane that claims anyway": (
        [OPENED, row(1, 600_000, **FRESH), row(2, 700_000, lane=1, **FRESH)], {}, {"cash_needed": 9},
        [Reason.CLOSING, Reason.CASH_NEEDED, Reason.WAITING],
    ),
    "much more cash from a lane of its own": (
        [OPENED, row(1, 600_000, **FRESH), row(2, 1_100_000, lane=1, **FRESH)], {}, {"cash_needed": 9},
        [Reason.CLOSING, Reason.WAITING, Reason.CASH_NEEDED],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EDGES)
def test_edges(name: str) -> None:
    rows, policy, situation, reasons = EDGES[name]
    result = decide(rows, replace(POLICY, **policy), replace(SITUATION, **situation))  # type: ignore[arg-type]
    assert [decision.reason for decision in result.decisions] == reasons


def test_the_table_has_every_reason() -> None:
    told = {reason for _, _, _, reasons, _ in TABLE.values() for reason in [reasons][isinstance(reasons, list) :]}
    told |= {reason for _, _, _, reasons, _ in TABLE.values() if isinstance(reasons, list) for reason in reasons}
    assert told == set(Reason)
    assert sorted(Reason) == [
        "cash_needed", "closing", "dust", "dust_deadline", "exposure_channel", "exposure_party", "exposure_total",
        "nothing", "waiting", "withdrawal_deadline", "withdrawal_urgent", "worth_it",
    ]  # fmt: skip


@given(st.integers(1, 10**12), st.integers(1, 100_000), st.integers(0, 60 * DAY))
@settings(deadline=None, max_examples=120)
def test_a_waiting_channel_pays_when_it_said(amount: int, ppm: int, age: int) -> None:
    policy = replace(POLICY, risk_ppm_per_day=ppm)
    alone = row(1, amount, since=NOW - age)
    (decision,) = decide([alone], policy, SITUATION).decisions
    if decision.reason is not Reason.WAITING:
        return
    assert decision.due is not None
    (before,) = decide([alone], policy, replace(SITUATION, now=decision.due - 1)).decisions
    (then,) = decide([alone], policy, replace(SITUATION, now=decision.due)).decisions
    assert (before.reason, before.due) == (Reason.WAITING, decision.due)
    assert then.reason is Reason.WORTH_IT


def test_a_lane_that_claims_anyway_takes_others_along() -> None:
    alone = row(1, 20_000_000)  # holding has cost 100,000: enough for a share, not for a lane of its own
    assert decide([alone], POLICY, SITUATION).decisions[0].reason is Reason.WAITING
    ending = [row(number, 10_000_000, closing=True, since=NOW) for number in range(2, 6)]
    elsewhere = [replace(entry, lane=1) for entry in ending]
    assert decide([alone, *ending], POLICY, SITUATION).decisions[0].reason is Reason.WORTH_IT
    assert decide([alone, *elsewhere], POLICY, SITUATION).decisions[0].reason is Reason.WAITING


def test_impossible_rows_are_refused() -> None:
    for changed in ({"amount": -1}, {"at_stake": 1}, {"at_stake": 11, "finalize_after": NOW}, {"at_stake": -1}):
        with pytest.raises(ValueError, match="0 ≤ at stake in a withdrawal ≤ amount"):
            replace(row(1, 10), **changed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="twice"):
        decide([row(1, 10), row(1, 20)], POLICY, SITUATION)


def test_exposure_by_channel_party_and_in_all() -> None:
    rows = [row(1, 5), row(2, 4, party=b"x"), row(3, 3, party=b"x")]
    assert exposure(rows) == Exposure(5, 7, 12)
    assert exposure([]) == decide([], POLICY, SITUATION).exposure == Exposure(0, 0, 0)


# -- gas, measured --


class Lane:
    """One receiver with its channels on the embedded layer, settled as the gateway does it."""

    def __init__(self, channels: int) -> None:
        self.key = keccak(b"lane")
        self.address = key_address(self.key)
        self.configs = [self._config(number) for number in range(channels)]
        self.claimed = [0] * channels
        accounts = alloc({SETTLEMENT_ADDRESS: channels * CEILING, address(9): 1}, {self.address: 10**21})
        slot = artifact("BatchSettlement").storage_layout["channel_words"]
        accounts[f"0x{SETTLEMENT_ADDRESS.hex()}"]["storage"] = {
            f"0x{mapping_slot(slot, channel_id(config, Network(31402))).hex()}": f"0x{CEILING:064x}"
            for config in self.configs
        }
        self.chain = parallel_evm.Chain(genesis=json.dumps({"alloc": accounts}))

    def _config(self, number: int) -> ChannelConfig:
        device = key_address(keccak(b"device %d" % number))
        return ChannelConfig(device, device, self.address, self.address, TOKEN_ADDRESS, 900, keccak(device))

    def _send(self, to: bytes, data: bytes) -> int:
        nonce = self.chain.nonce(self.address)
        signed = sign_transaction(Transaction(31402, nonce, 0, GWEI, 10_000_000, to, 0, data), self.key)
        self.chain.send_raw_transaction(signed.raw)
        self.chain.produce_block()
        body = {"id": 1, "method": "eth_getTransactionReceipt", "params": [f"0x{signed.tx_hash.hex()}"]}
        receipt = json.loads(self.chain.rpc(json.dumps({"jsonrpc": "2.0", **body}).encode()))["result"]
        assert receipt["status"] == "0x1"
        return int(receipt["gasUsed"], 16)

    def settle(self, rows: int) -> int:
        """Claim one token more of each of the first channels, settle and sweep; returns all gas."""
        claims = []
        for number in range(rows):
            self.claimed[number] += TOKEN
            digest = voucher_digest(channel_id(self.configs[number], Network(31402)), CEILING, Network(31402))
            signature = sign(digest, keccak(b"device %d" % number))
            claims.append(calls.VoucherClaim(self.configs[number], CEILING, signature, self.claimed[number]))
        gas = self._send(SETTLEMENT_ADDRESS, calls.claim(claims))
        gas += self._send(SETTLEMENT_ADDRESS, calls.settle(self.address, TOKEN_ADDRESS))
        return gas + self._send(TOKEN_ADDRESS, calls.transfer(address(9), rows * TOKEN))


def test_gas_is_what_the_contracts_use() -> None:
    lane = Lane(100)
    lane.settle(100)  # a lane's first claim is dearer, once
    used = {rows: lane.settle(rows) for rows in (1, 2, 10, 100)}
    for rows, gas in used.items():
        expected = rows * GasUse().row + GasUse().batch + GasUse().lane
        assert expected == pytest.approx(gas, rel=0.005), f"{rows} rows used {gas} gas"
    assert used[100] == pytest.approx(100 * GasUse().of_row(100, 100), rel=0.005)
