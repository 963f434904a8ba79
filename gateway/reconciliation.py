"""The same figures from three sources: the journal's postings, the gateway's states, and the chain at one block."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from channels.types import Address
from gateway.audit import Snapshot, States
from gateway.bookkeeping import Bookkeeper
from settlement import books as identities
from settlement.accounts import BookAccount, Told, differences

STATES, CHAIN = "the states", "the chain"
_CLAIMED = (BookAccount.SALES, BookAccount.OFFSET, BookAccount.UNCLAIMED)
# Of these accounts the states tell every subject, so a subject that only the postings have is a difference.
_COMPLETE = tuple(
    (account,)
    for account in (
        BookAccount.ESCROW,
        BookAccount.PAYERS,
        BookAccount.UNCLAIMED,
        BookAccount.SALES,
        BookAccount.EARNINGS,
        BookAccount.FEES,
        BookAccount.OFFSET,
        BookAccount.EARNERS,
        BookAccount.FOREIGN,
    )
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What states and chain say at `commit` and `block`. Amounts are base units; debits are positive.

    `paid` is what each payee got by the chain and by the journal; `held` the tokens of each own address. Without
    a chain `block` is None.
    """

    commit: int
    block: int | None
    states: tuple[Told, ...]
    gas_fee: int  # wei
    chain: tuple[Told, ...] = ()
    held: Mapping[Address, int] | None = None
    paid: tuple[tuple[Address, int, int], ...] = ()
    faults: tuple[str, ...] = ()  # identities between states and chain that do not hold
    warnings: tuple[str, ...] = ()


def evidence_of_states(states: States) -> Evidence:
    """Return what the states say."""
    return Evidence(states.commit, None, tuple(_by_states(states)), states.totals.gas_fee)


def evidence(snapshot: Snapshot) -> Evidence:
    """Return what states and chain say."""
    states, books = snapshot.states, snapshot.books
    return Evidence(
        commit=states.commit,
        block=snapshot.block,
        states=tuple(_by_states(states)),
        gas_fee=states.totals.gas_fee,
        chain=tuple(_by_chain(books)),
        held={states.founded.treasury: books.treasury_held} | {lane.address: lane.held for lane in books.lanes},
        paid=tuple((payee, party.paid, states.parties[payee].paid) for payee, party in sorted(books.parties.items())),
        faults=tuple(identities.faults(books)),
        warnings=tuple(identities.warnings(books)),
    )


def _by_states(states: States) -> Iterator[Told]:
    paid = {payee: party.paid for payee, party in states.parties.items()}
    for channel in states.channels:
        escrow = channel.balance - channel.claimed
        yield Told((BookAccount.ESCROW,), channel.id, escrow)
        yield Told((BookAccount.PAYERS,), channel.id, -escrow)
        yield Told((BookAccount.UNCLAIMED,), channel.id, channel.unclaimed)
        yield Told((BookAccount.SALES,), channel.id, -channel.charged)
        yield Told((BookAccount.OFFSET,), channel.id, channel.offset)
    due: dict[Address, int] = {}
    for account in states.accounts:
        yield Told((BookAccount.EARNINGS,), account.id, account.earned)
        yield Told((BookAccount.FEES,), account.id, -account.fee)
        yield Told((BookAccount.OFFSET,), account.id, -account.offset)
        due[account.payee] = due.get(account.payee, 0) + account.net
    for payee in sorted(due.keys() | paid.keys()):
        yield Told((BookAccount.EARNERS,), payee, paid.get(payee, 0) - due.get(payee, 0))
    for lane, total in states.foreign.items():
        yield Told((BookAccount.FOREIGN,), lane, -total)
    totals = states.totals
    claimed = sum(channel.claimed for channel in states.channels) + sum(states.foreign.values())
    yield Told((BookAccount.UNSETTLED,), None, claimed - totals.settled)
    yield Told((BookAccount.FLOAT, BookAccount.DONATED), None, -totals.received)
    cash = totals.received + totals.settled - sum(paid.values())
    yield Told((BookAccount.LANES, BookAccount.TREASURY, BookAccount.OPERATOR_OUT), None, cash)


def _by_chain(books: identities.Books) -> Iterator[Told]:
    for identifier, view in (books.on_chain or {}).items():
        yield Told((BookAccount.ESCROW,), identifier, view.balance - view.total_claimed)
        yield Told(_CLAIMED, identifier, -view.total_claimed)
    for lane in books.lanes:
        yield Told((BookAccount.UNSETTLED,), lane.address, lane.total_claimed - lane.total_settled)


# -- comparing --


def disagreements(keeper: Bookkeeper, evidence: Evidence) -> list[str]:
    """Return in words where the postings, the states and the chain differ; none means proved to the unit."""
    if keeper.commit != evidence.commit:
        return [f"the journal was read up to commit {keeper.commit}, the states are of {evidence.commit}"]
    found = differences(keeper.token, evidence.states, STATES, _COMPLETE)
    found += differences(keeper.gas, [Told((BookAccount.GAS,), None, evidence.gas_fee)], STATES)
    if evidence.held is not None:
        found += differences(keeper.token, evidence.chain, CHAIN) + _cash(keeper, evidence, evidence.held)
    return found + list(evidence.faults)


def notes(keeper: Bookkeeper, evidence: Evidence) -> list[str]:
    """Return in words what explains figures that are not alike and are no difference: money between own keys.

    That is what own transactions did that are mined and not booked yet, and what the operator moved by hand from
    one of the gateway's keys to another.
    """
    held = evidence.held or {}
    found = [
        f"{chain - journal} is paid to 0x{payee.hex()} and not booked yet"
        for payee, chain, journal in evidence.paid
        if chain > journal
    ]
    swept = _swept(keeper, held)
    found += [f"{amount} is swept from lane 0x{lane.hex()} and not booked yet" for lane, amount in swept.items()]
    for told in _cash_by_holder(keeper, evidence, held, swept):
        assert told.subject is not None, "cash is told by holder"
        moved = told.amount - keeper.token.balance(told.accounts[0], told.subject)
        if moved:
            way = "to" if moved > 0 else "from"
            found.append(f"{abs(moved)} went {way} 0x{told.subject.hex()}, between own keys and not by the gateway")
    return found


def _cash(keeper: Bookkeeper, evidence: Evidence, held: Mapping[Address, int]) -> list[str]:
    """Compare all cash together: what moves between own keys is internal (docs/protocol.md 7)."""
    paid = sum(chain - journal for _, chain, journal in evidence.paid)  # mined, and not booked yet
    cash = Told((BookAccount.LANES, BookAccount.TREASURY), None, sum(held.values()) + paid)
    return differences(keeper.token, [cash], CHAIN) + [
        f"0x{payee.hex()}: the journal says {journal} was paid, the chain {chain}"
        for payee, chain, journal in evidence.paid
        if chain < journal
    ]


def _cash_by_holder(
    keeper: Bookkeeper, evidence: Evidence, held: Mapping[Address, int], swept: Mapping[Address, int]
) -> Iterator[Told]:
    """Yield what each own address would hold if the transactions that are not booked yet had not happened."""
    paid = sum(chain - journal for _, chain, journal in evidence.paid)
    for holder, amount in held.items():
        account = keeper.cash_account(holder)
        assert account is not None, "what is held is held by own addresses"
        before = paid - sum(swept.values()) if account is BookAccount.TREASURY else swept.get(holder, 0)
        yield Told((account,), holder, amount + before)


def _swept(keeper: Bookkeeper, held: Mapping[Address, int]) -> dict[Address, int]:
    """Return what lanes have sent to the treasury by transactions that are mined and not booked yet.

    A key's transactions are mined in their order, so it is the sum of the first few that are outstanding.
    """
    swept = {}
    for holder, amount in held.items():
        account = keeper.cash_account(holder)
        if account is not BookAccount.LANES:
            continue
        missing = keeper.token.balance(account, holder) - amount
        sent = 0
        for receiver, more in keeper.outstanding_transfers(holder):
            sent += more
            if keeper.cash_account(receiver) is BookAccount.TREASURY and sent == missing:
                swept[holder] = sent
                break
    return swept


# -- as JSON, over the control socket --


def to_json(evidence: Evidence) -> dict[str, Any]:
    """Return the evidence as a JSON value: amounts as decimal strings, bytes in hex."""
    return {
        "commit": evidence.commit,
        "block": evidence.block,
        "states": _told_to_json(evidence.states),
        "gas_fee": str(evidence.gas_fee),
        "chain": _told_to_json(evidence.chain),
        "held": None
        if evidence.held is None
        else {f"0x{address.hex()}": str(amount) for address, amount in evidence.held.items()},
        "paid": [[f"0x{payee.hex()}", str(chain), str(journal)] for payee, chain, journal in evidence.paid],
        "faults": list(evidence.faults),
        "warnings": list(evidence.warnings),
    }


def from_json(value: Mapping[str, Any]) -> Evidence:
    """Return what `to_json` wrote."""
    held = value["held"]
    return Evidence(
        commit=value["commit"],
        block=value["block"],
        states=_told_from_json(value["states"]),
        gas_fee=int(value["gas_fee"]),
        chain=_told_from_json(value["chain"]),
        held=None if held is None else {_bytes(address): int(amount) for address, amount in held.items()},
        paid=tuple((_bytes(payee), int(chain), int(journal)) for payee, chain, journal in value["paid"]),
        faults=tuple(value["faults"]),
        warnings=tuple(value["warnings"]),
    )


def _told_to_json(told: Iterable[Told]) -> list[list[Any]]:
    return [
        [
            [account.value for account in each.accounts],
            None if each.subject is None else f"0x{each.subject.hex()}",
            str(each.amount),
        ]
        for each in told
    ]


def _told_from_json(rows: Sequence[Sequence[Any]]) -> tuple[Told, ...]:
    return tuple(
        Told(tuple(map(BookAccount, accounts)), None if subject is None else _bytes(subject), int(amount))
        for accounts, subject, amount in rows
    )


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])
