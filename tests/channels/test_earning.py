"""Earner accounts: refusals by table, fees, offsets, and random lives against the auditor."""

from itertools import pairwise
from math import floor
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from channels.earning import earn, offset_account
from channels.invariants import account_faults, check
from channels.machine import Contradiction
from channels.readings import SEQ_AHEAD_MAX
from channels.refusals import Refusal
from channels.state import Account, Meter, ReceiveReading, Terms
from channels.types import U128_MAX
from tests.support.channels_auditor import EarnerAuditor
from tests.support.channels_build import (
    DEVICE,
    OFFER,
    OTHER_DEVICE,
    make_account,
    make_meter,
    make_reading,
    make_terms,
)


def test_an_earning_reading_adds_gross_and_fee() -> None:
    before = make_account()
    after = earn(before, make_reading(ceiling=0, signature=b""), 250)
    assert after == replace(before, meter=Meter(6, 110, 0, OFFER, 3), earned=60, fee_remainder=2_500)
    assert before == make_account()
    assert isinstance(after, Account)
    assert after.net == 60 - 5
    assert account_faults(after) == []


# in check order: the reason, and what breaks its rule and no other
ROWS: list[tuple[Refusal, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (Refusal.WRONG_DEVICE, {}, {"device": OTHER_DEVICE}, {}),
    (Refusal.BAD_SIGNATURE, {}, {"signed": False}, {}),
    (Refusal.SEQ_CONFLICT, {}, {"repeats_seq": True}, {}),
    (Refusal.SEQ_OLD, {}, {"seq": 4}, {}),
    (Refusal.SEQ_JUMP, {}, {"seq": 5 + SEQ_AHEAD_MAX + 1}, {}),
    (Refusal.OFFER_UNKNOWN, {}, {"terms": None}, {}),
    (Refusal.OFFER_EXPIRED, {}, {}, {"expired": True}),
    (Refusal.OFFER_REGRESSED, {}, {}, {"serial": 2}),
    (Refusal.REGISTER_LOWER, {}, {"register": 99}, {}),
    (Refusal.REGISTER_JUMP, {}, {"register": 151}, {}),
    (Refusal.OVERFLOW, {"earned": U128_MAX - 9}, {}, {}),
]
# Neighbours in the table that one reading cannot break together.
APART = {
    (Refusal.SEQ_OLD, Refusal.SEQ_JUMP),
    (Refusal.OFFER_UNKNOWN, Refusal.OFFER_EXPIRED),
    (Refusal.REGISTER_LOWER, Refusal.REGISTER_JUMP),
}
NEIGHBOURS = [(first, second) for first, second in pairwise(ROWS) if (first[0], second[0]) not in APART]


def refused(*rows: tuple[Refusal, dict[str, Any], dict[str, Any], dict[str, Any]]) -> Account | Refusal:
    of_account: dict[str, Any] = {}
    of_reading: dict[str, Any] = {}
    of_terms: dict[str, Any] = {}
    for _, account, reading, terms in rows:
        of_account |= account
        of_reading |= reading
        of_terms |= terms
    reading = make_reading(**({"terms": make_terms(**of_terms), "ceiling": 0} | of_reading))
    return earn(make_account(**of_account), reading, 100)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].wire_name)
def test_each_rule_names_its_refusal(row: tuple[Refusal, Any, Any, Any]) -> None:
    assert refused(row) is row[0]


@pytest.mark.parametrize("pair", NEIGHBOURS, ids=lambda pair: f"{pair[0][0].wire_name}-{pair[1][0].wire_name}")
def test_the_earlier_of_two_broken_rules_names_the_refusal(pair: tuple[Any, Any]) -> None:
    assert refused(*pair) is pair[0][0]


def test_the_same_seq_again_is_a_conflict_and_earns_nothing() -> None:
    once = earn(make_account(), make_reading(), 0)
    assert isinstance(once, Account)
    assert earn(once, make_reading(), 0) is Refusal.SEQ_CONFLICT


def test_the_largest_sum_that_can_be_earned() -> None:
    after = earn(make_account(earned=U128_MAX - 10, fee=0), make_reading(), 10_000)
    assert isinstance(after, Account)
    assert (after.earned, after.fee) == (U128_MAX, 10)


def test_with_a_past_metering_begins_at_the_first_reading() -> None:
    """However far it is from the register of `open`, of which nobody knows whether it was paid for."""
    meter = make_meter(seq=0, register=100, remainder=0)
    account = make_account(meter=meter, earned=0, fee=0, first_register=100, past=True)
    assert earn(account, make_reading(seq=1, register=99), 250) is Refusal.REGISTER_LOWER
    far = make_reading(seq=1, register=100_000)
    assert earn(replace(account, past=False), far, 250) is Refusal.REGISTER_JUMP
    first = earn(account, far, 250)
    assert first == replace(account, meter=Meter(1, 100_000, 0, OFFER, 3), first_register=100_000)
    assert isinstance(first, Account)
    after = earn(first, make_reading(seq=2, register=100_010), 10_000)
    assert isinstance(after, Account)
    assert (after.earned, after.fee, after.first_register) == (10, 10, 100_000)
    assert earn(first, make_reading(seq=2, register=100_051), 0) is Refusal.REGISTER_JUMP


def test_offsets_are_cumulative_and_stay_within_what_was_earned_less_the_fee() -> None:
    account = make_account()
    after = offset_account(account, 45)
    assert (after.offset, after.net) == (45, 0)
    assert after == replace(account, offset=45)
    assert offset_account(after, 45) is after
    assert offset_account(after, 44) is after
    assert offset_account(account, 0) is account
    with pytest.raises(Contradiction):
        offset_account(account, 46)


class EarnerLife(RuleBasedStateMachine):
    """One earner account; the operator's fee may change between readings."""

    @initialize(register=st.integers(0, 1_000), past=st.booleans())
    def start(self, register: int, past: bool) -> None:
        meter = make_meter(seq=0, register=register, offer_serial=1)
        self.account = make_account(meter=meter, earned=0, fee=0, first_register=register, past=past)
        self.audit = EarnerAuditor(DEVICE, register, 1, past)

    @rule(
        price=st.one_of(st.integers(0, 5 * 10**9), st.integers(0, 2**64 - 1)),
        units=st.lists(st.integers(0, 60), min_size=1, max_size=5),
        bps=st.integers(0, 10_000),
    )
    def good_readings(self, price: int, units: list[int], bps: int) -> None:
        for count in units:
            self.reading(price, count, 1, 0, bps, "")

    @rule(
        price=st.one_of(st.integers(0, 5 * 10**9), st.integers(0, 2**64 - 1), st.none()),
        units=st.one_of(st.integers(0, 60), st.integers(-1, 61)),
        skip=st.sampled_from([1, 1, 1, 2, 0, -1, 2**20, 2**20 + 1]),
        newer=st.sampled_from([0, 0, 1, -1]),
        bps=st.integers(0, 10_000),
        flaw=st.sampled_from(["", "", "", "", "device", "unsigned", "expired"]),
    )
    def reading(self, price: int | None, units: int, skip: int, newer: int, bps: int, flaw: str) -> None:
        raw: dict[str, Any] = {
            "device": OTHER_DEVICE if flaw == "device" else DEVICE,
            "signed": flaw != "unsigned",
            "seq": max(0, self.audit.last("seq", 0) + skip),
            "register": max(0, self.audit.last("register", self.audit.register) + units),
            "price": price,
            "serial": self.audit.last("serial", 1) + newer,
            "expired": flaw == "expired" and price is not None,
            "max_step": 60,
            "bps": bps,
        }
        if price is None:  # an unknown offer has no serial and no longest step
            raw |= {"serial": self.audit.last("serial", 1), "max_step": 61}
        terms = None if price is None else Terms(OFFER, raw["serial"], price, 60, 0, raw["expired"])
        reading = ReceiveReading(
            seq=raw["seq"],
            register=raw["register"],
            time=0,
            offer=OFFER,
            ceiling=0,
            signature=b"",
            device=raw["device"],
            signed=raw["signed"],
            terms=terms,
            repeats_seq=raw["seq"] in [known["seq"] for known in self.audit.readings],
        )
        number = self.audit.judge(raw)
        after = earn(self.account, reading, bps)
        if number:
            assert after is Refusal(number)
            return
        assert isinstance(after, Account), f"refused as {after.wire_name}"
        self.account = after
        self.audit.readings.append(raw)

    @precondition(lambda self: self.audit.readings)
    @rule(share=st.integers(0, 12))
    def offset(self, share: int) -> None:
        due = floor(self.audit.exact()) - floor(self.audit.exact_fee())
        offset = due * share // 10
        before = max(self.audit.offsets, default=0)
        if offset > max(due, before):
            with pytest.raises(Contradiction):
                offset_account(self.account, offset)
            return
        after = offset_account(self.account, offset)
        assert (after is self.account) == (offset <= before)
        self.account = after
        self.audit.offsets.append(offset)

    @invariant()
    def account_and_auditor_agree(self) -> None:
        account, books = self.account, self.audit.books()
        shown = {
            name: getattr(account.meter if name in account.meter.__struct_fields__ else account, name) for name in books
        }
        assert shown == books

    @invariant()
    def the_books_balance(self) -> None:
        check([], [self.account])
        assert self.account.earned == self.account.fee + self.account.offset + self.account.net
        assert self.account.net >= 0


TestEarnerLife = EarnerLife.TestCase
TestEarnerLife.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, print_blob=True)
