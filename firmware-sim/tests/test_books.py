"""Pricing with a carried remainder, and the rules for believing the gateway."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim.books import NANO, SEQ_AHEAD_MAX, Books, Position, claimed_position
from firmware_sim.wire import Receipt


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 2**64 - 1)), max_size=30))
def test_steps_cost_what_the_whole_costs(steps: list[tuple[int, int]]) -> None:
    position = Position(0, 500, 0)
    exact = 0
    charged, remainder = 0, 0
    for seq, (units, price) in enumerate(steps, start=1):
        position = position.after(seq, position.register + units, price)
        exact += units * price
        # The same by the other road: whole units booked at once, the remainder carried on.
        whole, remainder = divmod(remainder + units * price, NANO)
        charged += whole
        assert position.exact == exact
        assert (position.charged, position.exact % NANO) == (charged, remainder)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=40), st.integers(0, 2**64 - 1))
def test_one_price_costs_the_same_however_it_is_cut(units: list[int], price: int) -> None:
    cut = Position(0, 0, 0)
    for seq, amount in enumerate(units, start=1):
        cut = cut.after(seq, cut.register + amount, price)
    whole = Position(0, 0, 0).after(1, sum(units), price)
    assert (cut.register, cut.exact) == (whole.register, whole.exact)


def books(**changes) -> Books:
    fields = {"earns": False, "base": Position(10, 1000, 50_000 * NANO), "next_seq": 11, "balance": 10**6}
    return Books(**(fields | changes))


def receipt(seq: int, register: int, charged: int, remainder: int = 0, **more) -> Receipt:
    return Receipt(status=2, last_seq=seq, last_register=register, charged=charged, last_remainder=remainder, **more)


PRICE = 100 * NANO  # 100 base units a unit


@pytest.mark.parametrize(
    ("theirs", "proved", "adopted"),
    [
        (receipt(10, 1000, 50_000), False, True),  # as the own records
        (receipt(10, 1000, 50_001), False, False),  # one base unit too much
        (receipt(10, 1000, 50_000, 1), False, False),  # 10⁻⁹ too much
        (receipt(10, 1000, 49_999), False, True),  # cheaper
        (receipt(8, 990, 49_000), False, True),  # an older state that costs the same in the end
        (receipt(8, 990, 49_001), False, False),  # the same, dearer
        (receipt(8, 1010, 50_000), False, False),  # a register that was never read
        (receipt(8, 1005, 50_500), False, True),  # read, and priced as here
        (receipt(8, 1005, 50_501), False, False),
        (receipt(0, 1000, 0), False, True),  # the gateway forgot the money
        (receipt(0, 0, 0), False, False),  # it forgot the register too: usage would be paid twice
        (receipt(10, 1000, 60_000, offset=10_000), False, True),  # settled by netting elsewhere
        (receipt(10, 1000, 60_001, offset=10_000), False, False),
        (receipt(12, 1003, 50_300), False, False),  # a seq never used here, no proof
        (receipt(12, 1003, 50_300, ceiling=50_300), True, True),  # flash rolled back, own signature shown
        (receipt(12, 1003, 50_300, ceiling=50_299), True, False),  # the signature covers less
        (Receipt(status=2), False, True),  # says nothing
    ],
)
def test_paying_reconciliation(theirs: Receipt, proved: bool, adopted: bool) -> None:
    mine = books()
    why = mine.reconcile(theirs, [], 1008, PRICE, proved)
    assert (why is None) is adopted
    expected = claimed_position(theirs) if adopted else None
    assert mine.base == (expected or Position(10, 1000, 50_000 * NANO))


def test_an_unacknowledged_reading_that_was_accepted_is_recognised() -> None:
    mine = books(next_seq=13)
    own = [Position(11, 1001, 50_090 * NANO), Position(12, 1002, 50_200 * NANO)]
    assert mine.reconcile(receipt(11, 1001, 50_090), own, 1002, PRICE, False) is None
    assert mine.base == own[0]
    # At a register that a signed reading names, its price counts, not the present one.
    assert books(next_seq=13).reconcile(receipt(9, 1001, 50_091), own, 1002, PRICE, False) is not None


def test_earning_reconciliation_is_the_other_way_round() -> None:
    for charged, adopted in ((50_000, True), (50_001, True), (49_999, False)):
        mine = books(earns=True)
        assert (mine.reconcile(receipt(9, 1000, charged), [], 1000, PRICE, False) is None) is adopted


@pytest.mark.parametrize(
    ("receipt_", "proved", "expected"),
    [
        (Receipt(status=0, balance=7), False, Position(0, 100, 0)),
        (receipt(0, 100, 0), False, Position(0, 100, 0)),
        (receipt(0, 120, 0), False, Position(0, 120, 0)),
        (receipt(0, 99, 0), False, None),
        (receipt(5, 200, 900, 3, ceiling=900), True, Position(5, 200, 900 * NANO + 3)),
        (receipt(5, 200, 950, ceiling=900, offset=50), True, Position(5, 200, 950 * NANO)),
        (receipt(5, 200, 951, ceiling=900, offset=50), True, Position(5, 200, 0)),
        (receipt(5, 200, 900, ceiling=900), False, Position(5, 200, 0)),
        (receipt(5, 90, 900), False, Position(5, 100, 0)),
        (receipt(0, 100, 900), False, Position(0, 100, 0)),
    ],
)
def test_starting_without_records(receipt_: Receipt, proved: bool, expected: Position | None) -> None:
    mine = Books(False)
    why = mine.start(receipt_, 100, proved)
    assert (why is None) is (expected is not None)
    assert mine.base == expected
    if expected is not None:
        assert mine.next_seq == expected.seq + 1


def test_an_earner_starts_where_the_gateway_stands() -> None:
    mine = Books(True)
    assert mine.start(receipt(5, 200, 900), 100, False) is None
    assert mine.base == Position(5, 200, 900 * NANO)


def test_old_news_changes_nothing() -> None:
    mine = books(commit=5, offset=10)
    mine.learn(Receipt(status=1, commit=4, balance=1, offset=99))
    assert (mine.balance, mine.offset) == (10**6, 10)
    mine.learn(Receipt(status=0, commit=5, balance=2, offset=9))
    assert (mine.balance, mine.offset) == (2, 10)
    mine.learn(Receipt(status=0, commit=6, balance=3, offset=11))
    assert (mine.balance, mine.offset, mine.commit) == (3, 11, 6)


def test_owed_never_falls_below_zero() -> None:
    assert books(offset=60_000).owed(Position(10, 1000, 50_000 * NANO)) == 0
    assert books(offset=20_000).owed(Position(10, 1000, 50_000 * NANO + 999_999_999)) == 30_000


@pytest.mark.parametrize(
    ("earns", "theirs", "believed"),
    [
        (False, receipt(11, 1001, 50_100), True),
        (False, receipt(11, 1001, 50_099), True),
        (False, receipt(11, 1001, 50_100, 1), False),
        (False, receipt(11, 1002, 50_100), False),
        (False, receipt(99, 1002, 99_999), True),  # about a later reading: nothing to compare
        (False, Receipt(status=0), True),
        (True, receipt(11, 1001, 50_099), False),
        (True, receipt(11, 1001, 50_101), True),
    ],
)
def test_a_receipt_must_not_cost_more_than_the_own_price(earns: bool, theirs: Receipt, believed: bool) -> None:
    position = Position(11, 1001, 50_100 * NANO)
    mine = books(earns=earns)
    assert (mine.accepted(position, PRICE, theirs) is None) is believed
    claimed = claimed_position(theirs)
    expected = claimed if claimed and claimed.seq == 11 else position
    assert mine.base == (expected if believed else Position(10, 1000, 50_000 * NANO))


def test_a_late_copy_of_a_retired_reading_explains_a_charge() -> None:
    mine = books()
    late = Position(11, 1001, 50_300 * NANO)  # under an older, dearer price
    position = Position(12, 1002, 50_200 * NANO)
    theirs = receipt(12, 1002, 50_400)
    assert mine.accepted(position, PRICE, theirs) is not None
    mine.retire([late])
    assert mine.accepted(position, PRICE, theirs) is None
    assert mine.base == claimed_position(theirs)
    # And when the next reading is refused instead, the copy itself is recognised.
    mine = books(next_seq=13)
    assert mine.reconcile(receipt(11, 1001, 50_300), [position], 1002, PRICE, False) is not None
    mine.retire([late])
    assert mine.reconcile(receipt(11, 1001, 50_300), [position], 1002, PRICE, False) is None
    assert mine.base == late
    mine.retire([Position(n, 0, 0) for n in range(64)])
    assert len(mine.retired) == 64


def test_adopting_moves_the_next_seq_into_reach() -> None:
    mine = books(next_seq=SEQ_AHEAD_MAX + 100)
    mine.adopt(Position(5, 1000, 0), Receipt(status=2))
    assert mine.next_seq == 6
    mine = books(next_seq=50)
    mine.adopt(Position(5, 1000, 0), Receipt(status=2))
    assert mine.next_seq == 50
    mine.adopt(Position(50, 1000, 0), Receipt(status=2))
    assert mine.next_seq == 51
