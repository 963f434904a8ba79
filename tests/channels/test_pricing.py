"""Pricing is exact: what is charged is the floor of the exact sum, however the units were split."""

from fractions import Fraction
from math import floor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from channels.pricing import BASIS_POINTS, NANO, charge, fee

U64 = 2**64 - 1
prices = st.one_of(st.integers(0, 3 * NANO), st.integers(0, U64))
units = st.one_of(st.integers(0, 1_000), st.integers(0, U64))
steps = st.lists(st.tuples(units, prices), max_size=40)
rates = st.integers(0, BASIS_POINTS)

quick = settings(deadline=None, print_blob=True)


def run_charges(readings: list[tuple[int, int]], remainder: int = 0) -> tuple[int, int]:
    total = 0
    for count, price in readings:
        added, remainder = charge(remainder, count, price)
        assert added >= 0
        assert 0 <= remainder < NANO
        total += added
    return total, remainder


@quick
@given(steps, st.integers(0, NANO - 1))
def test_the_sum_charged_is_the_floor_of_the_exact_sum(readings: list[tuple[int, int]], carried: int) -> None:
    exact = Fraction(carried, NANO) + sum(Fraction(count * price, NANO) for count, price in readings)
    assert run_charges(readings, carried) == (floor(exact), (exact - floor(exact)) * NANO)


@quick
@given(st.integers(0, 10**6), prices, st.lists(st.integers(0, 10**6), max_size=12))
def test_any_split_of_the_units_costs_the_same(total: int, price: int, cuts: list[int]) -> None:
    marks = sorted(cut % (total + 1) for cut in cuts)
    parts = [high - low for low, high in zip([0, *marks], [*marks, total], strict=True)]
    assert sum(parts) == total
    assert run_charges([(part, price) for part in parts]) == run_charges([(total, price)])


@pytest.mark.parametrize(
    ("remainder", "count", "price", "expected"),
    [
        (0, 0, 0, (0, 0)),
        (0, 1, NANO, (1, 0)),
        (0, 1, NANO - 1, (0, NANO - 1)),
        (NANO - 1, 1, 1, (1, 0)),
        (NANO - 1, 0, U64, (0, NANO - 1)),
        (0, 3, 333_333_333, (0, 999_999_999)),
        (0, 7, 150_000_000_000, (1_050, 0)),  # 7 Wh of the demo's grid power
        (999_999_999, U64, U64, divmod(999_999_999 + U64 * U64, NANO)),
    ],
)
def test_known_charges(remainder: int, count: int, price: int, expected: tuple[int, int]) -> None:
    assert charge(remainder, count, price) == expected


@quick
@given(st.lists(st.tuples(st.integers(0, 2**128 - 1), rates), max_size=40))
@example([(1, 1)] * 10_000)
def test_fees_add_up_to_the_floor_of_the_exact_fee(amounts: list[tuple[int, int]]) -> None:
    taken, remainder = 0, 0
    for earned, rate in amounts:
        added, remainder = fee(remainder, earned, rate)
        assert 0 <= remainder < BASIS_POINTS
        taken += added
    exact = sum((Fraction(earned * rate, BASIS_POINTS) for earned, rate in amounts), Fraction(0))
    assert (taken, remainder) == (floor(exact), (exact - floor(exact)) * BASIS_POINTS)
    assert taken <= sum(earned for earned, _ in amounts)


@quick
@given(st.integers(0, 10**30), rates, st.integers(1, 10))
def test_any_split_of_the_earnings_pays_the_same_fee(total: int, rate: int, parts: int) -> None:
    shares = [total // parts] * (parts - 1)
    shares.append(total - sum(shares))
    taken, remainder = 0, 0
    for share in shares:
        added, remainder = fee(remainder, share, rate)
        taken += added
    assert (taken, remainder) == fee(0, total, rate)


@pytest.mark.parametrize(
    ("remainder", "earned", "rate", "expected"),
    [
        (0, 10_000, 25, (25, 0)),
        (0, 1, 9_999, (0, 9_999)),
        (9_999, 1, 1, (1, 0)),
        (0, 12_345, 0, (0, 0)),
        (0, 12_345, 10_000, (12_345, 0)),
        (0, 399, 25, (0, 9_975)),
    ],
)
def test_known_fees(remainder: int, earned: int, rate: int, expected: tuple[int, int]) -> None:
    assert fee(remainder, earned, rate) == expected
