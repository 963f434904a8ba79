"""Double-entry accounts: a chart, balanced entries, balances (pure).

An entry's legs sum to zero, debits being positive and credits negative, so whatever is posted, all debits equal
all credits. One `Books` is in one unit: token base units, or wei for gas. Subjects tell what within an account
an amount is about: a channel, an earner account, a lane, a payee, or the purpose of a transaction.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias

Subject: TypeAlias = bytes


class Side(Enum):
    """What kind of account it is, as a balance sheet has them."""

    MEMO = "memo"  # money of others, shown because the gateway can claim from it
    ASSET = "asset"
    LIABILITY = "liability"
    EQUITY = "equity"
    INCOME = "income"
    EXPENSE = "expense"
    CLEARING = "clearing"  # zero after every commit


class BookAccount(Enum):
    """The chart of accounts. Values are names in exports: never changed."""

    ESCROW = "escrow"
    PAYERS = "payers"
    UNCLAIMED = "unclaimed"
    UNSETTLED = "unsettled"
    LANES = "cash_lanes"
    TREASURY = "cash_treasury"
    EARNERS = "owed_to_earners"
    OFFSET = "offset_clearing"
    FLOAT = "float"
    DONATED = "donated"
    FOREIGN = "foreign"
    OPERATOR_OUT = "operator_out"
    SALES = "sales"
    FEES = "fees"
    EARNINGS = "cost_of_earnings"
    GAS = "gas"
    COINS = "coins"

    @property
    def side(self) -> Side:
        """The kind of this account."""
        return _CHART[self][0]

    @property
    def meaning(self) -> str:
        """What is in it, in words."""
        return _CHART[self][1]


_CHART: Mapping[BookAccount, tuple[Side, str]] = {
    BookAccount.ESCROW: (Side.MEMO, "payers' money in channels, not claimed"),
    BookAccount.PAYERS: (Side.MEMO, "the same, as the payers' own"),
    BookAccount.UNCLAIMED: (Side.ASSET, "charged and not yet claimed or offset"),
    BookAccount.UNSETTLED: (Side.ASSET, "claimed, still in the settlement contract"),
    BookAccount.LANES: (Side.ASSET, "tokens of the lanes"),
    BookAccount.TREASURY: (Side.ASSET, "tokens of the treasury"),
    BookAccount.EARNERS: (Side.LIABILITY, "earned after fee and offset, not yet paid"),
    BookAccount.OFFSET: (Side.CLEARING, "netting, from channels to accounts of the same party"),
    BookAccount.FLOAT: (Side.EQUITY, "what the operator put in"),
    BookAccount.DONATED: (Side.EQUITY, "what arrived unasked"),
    BookAccount.FOREIGN: (Side.EQUITY, "claims that strangers made for a lane, or from before the journal"),
    BookAccount.OPERATOR_OUT: (Side.EQUITY, "what own transactions moved elsewhere"),
    BookAccount.SALES: (Side.INCOME, "all that readings came to"),
    BookAccount.FEES: (Side.INCOME, "the operator's share of what devices earn"),
    BookAccount.EARNINGS: (Side.EXPENSE, "what devices earned, before the fee"),
    BookAccount.GAS: (Side.EXPENSE, "spent for gas"),
    BookAccount.COINS: (Side.ASSET, "coins of the gateway's keys, so far as gas took them"),
}


class Leg(NamedTuple):
    """One side of an entry; a debit is positive."""

    account: BookAccount
    subject: Subject
    amount: int


class Entry(NamedTuple):
    """What one event did: legs that sum to zero. `cause` says what happened, `commit` where it is journaled."""

    commit: int
    cause: str
    legs: tuple[Leg, ...]


class Unbalanced(Exception):
    """An entry whose debits and credits differ, or a clearing account that was not cleared: a fault."""


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One account's line in a trial balance: all debits and credits ever posted."""

    account: BookAccount
    debits: int
    credits: int

    @property
    def balance(self) -> int:
        """Debits less credits."""
        return self.debits - self.credits


class Books:
    """Accounts in one unit."""

    def __init__(self, unit: str, accounts: Iterable[BookAccount]) -> None:
        self.unit = unit
        self._balances: dict[BookAccount, dict[Subject, int]] = {account: {} for account in accounts}
        self._turnover: dict[BookAccount, list[int]] = {account: [0, 0] for account in self._balances}

    def post(self, entry: Entry) -> None:
        """Post an entry. Raises Unbalanced, and posts nothing, when its legs do not sum to zero."""
        if sum(leg.amount for leg in entry.legs):
            raise Unbalanced(f"commit {entry.commit}, {entry.cause}: its debits and credits differ: {entry.legs}")
        for account, subject, amount in entry.legs:
            balances = self._balances[account]
            balances[subject] = balances.get(subject, 0) + amount
            self._turnover[account][amount < 0] += abs(amount)

    def balance(self, account: BookAccount, subject: Subject) -> int:
        """Return the balance of one subject in an account; debits are positive."""
        return self._balances[account].get(subject, 0)

    def total(self, account: BookAccount) -> int:
        """Return the balance of an account."""
        debits, credits = self._turnover[account]
        return debits - credits

    def subjects(self, account: BookAccount) -> Iterator[tuple[Subject, int]]:
        """Yield (subject, balance) of an account, in order of subjects."""
        yield from sorted(self._balances[account].items())

    def trial(self) -> list[TrialRow]:
        """Return the trial balance, in the order of the chart."""
        return [TrialRow(account, *self._turnover[account]) for account in self._balances]

    def check_cleared(self, commit: int) -> None:
        """Raise Unbalanced when a clearing account holds something between two commits."""
        for account in self._balances:
            if account.side is Side.CLEARING and self.total(account):
                raise Unbalanced(f"commit {commit}: {self.total(account)} is left in {account.value}")


TOKEN_ACCOUNTS = tuple(account for account in BookAccount if account not in (BookAccount.GAS, BookAccount.COINS))
GAS_ACCOUNTS = (BookAccount.GAS, BookAccount.COINS)


# -- two sources of the same figures --


@dataclass(frozen=True, slots=True)
class Told:
    """What another source says a balance is: of these accounts together, for one subject or (None) as a whole."""

    accounts: tuple[BookAccount, ...]
    subject: Subject | None
    amount: int

    @property
    def name(self) -> str:
        """How a person names it."""
        accounts = " + ".join(account.value for account in self.accounts)
        return accounts if self.subject is None else f"{accounts} of 0x{self.subject.hex()}"


def differences(
    books: Books, told: Sequence[Told], source: str, complete: Sequence[tuple[BookAccount, ...]] = ()
) -> list[str]:
    """Return where the books and another source disagree, in words.

    Of the accounts in `complete` the source tells every subject: one that only the books have shows in the whole.
    """
    found = []
    seen: set[tuple[BookAccount, ...]] = set()
    for each in told:
        posted = _posted(books, each)
        if posted != each.amount:
            seen.add(each.accounts)
            found.append(_difference(each.name, posted, each.amount, source))
    for accounts in complete:
        amount = sum(each.amount for each in told if each.accounts == accounts and each.subject is not None)
        whole = Told(accounts, None, amount)
        if accounts not in seen and _posted(books, whole) != amount:
            found.append(_difference(whole.name, _posted(books, whole), amount, source))
    return found


def _posted(books: Books, told: Told) -> int:
    if told.subject is None:
        return sum(map(books.total, told.accounts))
    return sum(books.balance(account, told.subject) for account in told.accounts)


def _difference(name: str, posted: int, amount: int, source: str) -> str:
    return f"{name}: the postings come to {posted}, {source} to {amount}: they differ by {posted - amount}"
