"""Double entry: what does not balance is not posted, and every difference between two sources is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement.accounts import (
    GAS_ACCOUNTS,
    TOKEN_ACCOUNTS,
    BookAccount,
    Books,
    Entry,
    Leg,
    Side,
    Told,
    Unbalanced,
    differences,
)

SUBJECTS = (b"a", b"b", b"c")
legs = st.builds(Leg, st.sampled_from(TOKEN_ACCOUNTS), st.sampled_from(SUBJECTS), st.integers(-(10**40), 10**40))


def balanced(parts: list[Leg]) -> tuple[Leg, ...]:
    """Close an entry with the leg that it lacks."""
    return (*parts, Leg(BookAccount.FLOAT, b"z", -sum(leg.amount for leg in parts)))


@given(st.lists(st.lists(legs, max_size=5), max_size=8))
def test_debits_equal_credits_whatever_is_posted(entries: list[list[Leg]]) -> None:
    books = Books("base units", TOKEN_ACCOUNTS)
    for number, parts in enumerate(entries):
        books.post(Entry(number, "anything", balanced(parts)))
    rows = books.trial()
    assert sum(row.debits for row in rows) == sum(row.credits for row in rows)
    assert all(row.debits >= 0 and row.credits >= 0 for row in rows)
    for row in rows:
        assert row.balance == books.total(row.account) == sum(amount for _, amount in books.subjects(row.account))
        expected = sum(leg.amount for parts in entries for leg in balanced(parts) if leg.account is row.account)
        assert row.balance == expected


@pytest.mark.parametrize(
    "parts",
    [
        (Leg(BookAccount.SALES, b"a", 1),),
        (Leg(BookAccount.SALES, b"a", -5), Leg(BookAccount.UNCLAIMED, b"a", 4)),
        (Leg(BookAccount.SALES, b"a", 5), Leg(BookAccount.UNCLAIMED, b"a", 5)),
    ],
)
def test_what_does_not_balance_is_not_posted(parts: tuple[Leg, ...]) -> None:
    books = Books("base units", TOKEN_ACCOUNTS)
    with pytest.raises(Unbalanced, match="commit 7, reading"):
        books.post(Entry(7, "reading", parts))
    assert all(row.debits == row.credits == 0 for row in books.trial())


def test_clearing_is_cleared_by_every_commit() -> None:
    books = Books("base units", TOKEN_ACCOUNTS)
    books.post(Entry(1, "netting", (Leg(BookAccount.OFFSET, b"a", 9), Leg(BookAccount.UNCLAIMED, b"a", -9))))
    with pytest.raises(Unbalanced, match="9 is left in offset_clearing"):
        books.check_cleared(1)
    books.post(Entry(1, "netting", (Leg(BookAccount.EARNERS, b"p", 9), Leg(BookAccount.OFFSET, b"b", -9))))
    books.check_cleared(1)


def test_the_chart_is_whole() -> None:
    assert set(TOKEN_ACCOUNTS) | set(GAS_ACCOUNTS) == set(BookAccount)
    assert not set(TOKEN_ACCOUNTS) & set(GAS_ACCOUNTS)
    assert all(account.meaning for account in BookAccount)
    assert {account.side for account in BookAccount} == set(Side)
    assert len({account.value for account in BookAccount}) == len(BookAccount)


def test_differences_are_told_in_words() -> None:
    books = Books("base units", TOKEN_ACCOUNTS)
    books.post(Entry(1, "reading", (Leg(BookAccount.UNCLAIMED, b"a", 9), Leg(BookAccount.SALES, b"a", -9))))
    unclaimed, sales = (BookAccount.UNCLAIMED,), (BookAccount.SALES,)
    told = [Told(unclaimed, b"a", 9), Told(sales, None, -9), Told((*unclaimed, *sales), b"a", 0)]
    assert differences(books, told, "the states", [unclaimed]) == []
    (found,) = differences(books, [Told(unclaimed, b"a", 8)], "the states", [unclaimed])
    assert found == "unclaimed of 0x61: the postings come to 9, the states to 8: they differ by 1"
    (found,) = differences(books, [], "the states", [sales])
    assert found == "sales: the postings come to -9, the states to 0: they differ by -9"
    (found,) = differences(books, [Told((*unclaimed, *sales), None, 1)], "the chain")
    assert found.startswith("unclaimed + sales: the postings come to 0, the chain to 1")
