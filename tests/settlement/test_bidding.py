"""What transactions offer: nodes take every replacement, and no ceiling is ever passed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement.bidding import PATIENCE_MULTIPLE, Bidding, Kept
from settlement.port import Fees

GWEI = 10**9
fees = st.builds(
    lambda fee, priority: Fees(fee, min(fee, priority)), st.integers(0, 10**14), st.integers(0, 10**14)
) | st.builds(lambda fee, priority: Fees(fee, min(fee, priority)), st.integers(0, 20), st.integers(0, 20))
ceilings = st.none() | st.integers(1, 10**14) | st.integers(1, 20)


def geth_takes(old: Fees, new: Fees) -> bool:
    """The rule of geth's pool, which the others follow: both fields above the old ones, by 10 % at least."""

    def raised(new: int, old: int) -> bool:
        return new > old and new * 100 >= old * 110

    return raised(new.max_fee_per_gas, old.max_fee_per_gas) and raised(
        new.max_priority_fee_per_gas, old.max_priority_fee_per_gas
    )


@pytest.mark.parametrize(
    ("offered", "suggested", "ceiling", "out_of_patience", "expected"),
    [
        ((100, 10), (100, 10), None, False, Kept.ENOUGH),
        ((100, 10), (99, 9), None, False, Kept.ENOUGH),
        ((100, 10), (101, 10), None, False, (113, 12)),
        ((100, 10), (100, 11), None, False, (113, 12)),
        ((100, 10), (400, 10), None, False, (400, 12)),
        ((100, 10), (400, 300), None, False, (400, 300)),
        ((100, 10), (400, 300), 200, False, (200, 200)),
        ((100, 10), (400, 300), 113, False, (113, 113)),
        ((100, 10), (400, 300), 112, False, Kept.CEILING),
        ((100, 10), (100, 10), None, True, (113, 12)),
        ((100, 10), (100, 10), 112, True, Kept.CEILING),
        ((400, 10), (100, 10), None, True, Kept.ENOUGH),  # already four times what is asked
        ((355, 10), (100, 10), None, True, (400, 12)),
        ((14, 0), (14, 0), None, True, (16, 1)),
        ((0, 0), (1, 0), None, False, (1, 1)),
        ((0, 0), (0, 0), None, True, Kept.ENOUGH),  # a chain without a fee market
    ],
)
def test_replacements(
    offered: tuple[int, int],
    suggested: tuple[int, int],
    ceiling: int | None,
    out_of_patience: bool,
    expected: tuple[int, int] | Kept,
) -> None:
    again = Bidding(ceiling).again(Fees(*offered), Fees(*suggested), out_of_patience=out_of_patience)
    assert again == (expected if isinstance(expected, Kept) else Fees(*expected))


@given(fees, fees, ceilings, st.booleans())
def test_a_replacement_is_taken_and_keeps_the_ceiling(
    offered: Fees, suggested: Fees, ceiling: int | None, out_of_patience: bool
) -> None:
    bidding = Bidding(ceiling)
    again = bidding.again(offered, suggested, out_of_patience=out_of_patience)
    if isinstance(again, Kept):
        return
    assert geth_takes(offered, again)
    assert again.max_priority_fee_per_gas <= again.max_fee_per_gas
    assert ceiling is None or again.max_fee_per_gas <= ceiling


@given(fees, ceilings)
def test_a_first_offer_is_the_suggestion_up_to_the_ceiling(suggested: Fees, ceiling: int | None) -> None:
    first = Bidding(ceiling).first(suggested)
    assert first.max_priority_fee_per_gas <= first.max_fee_per_gas
    if ceiling is None or suggested.max_fee_per_gas <= ceiling:
        assert first == suggested
    else:
        assert first.max_fee_per_gas == ceiling


@given(fees, ceilings)
def test_raising_ends(suggested: Fees, ceiling: int | None) -> None:
    """However long a transaction sits, it never offers more than the ceiling or a few times the suggestion."""
    bidding = Bidding(ceiling)
    offered = bidding.first(suggested)
    for _ in range(64):
        again = bidding.again(offered, suggested, out_of_patience=True)
        if isinstance(again, Kept):
            break
        offered = again
    else:
        pytest.fail(f"{offered} is raised for ever")
    assert offered.max_fee_per_gas <= max(PATIENCE_MULTIPLE * suggested.max_fee_per_gas, 1)


def test_a_spike_is_followed_within_the_ceiling() -> None:
    bidding = Bidding(100 * GWEI)
    offered = bidding.first(Fees(10 * GWEI, GWEI))
    offers = []
    for suggested in (20, 60, 60, 500, 500):
        again = bidding.again(offered, Fees(suggested * GWEI, 2 * GWEI))
        offers.append(again if isinstance(again, Kept) else again.max_fee_per_gas // GWEI)
        offered = offered if isinstance(again, Kept) else again
    assert offers == [20, 60, Kept.ENOUGH, 100, Kept.CEILING]
