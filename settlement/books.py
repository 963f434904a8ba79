"""The books: every identity of docs/protocol.md 7 over one snapshot (pure).

The snapshot is what the gateway's state says and what was read from the chain at one final block; cash is read,
never computed. Tests, `metergate doctor` and the demo's `conserved` share these functions. All amounts are
base units of one token.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from channels.invariants import account_faults, channel_faults
from channels.state import Account, Channel
from channels.types import Address, ChannelId
from settlement.port import ChannelView


@dataclass(frozen=True, slots=True)
class PartyBook:
    """What CumulativePayouts says was paid to an address, and the highest payout signed for it."""

    paid: int
    signed: int


@dataclass(frozen=True, slots=True)
class LaneBook:
    """One lane as read from the chain; `foreign` is what was claimed for it on channels not ours."""

    address: Address
    total_claimed: int
    total_settled: int
    held: int  # token balance of the lane
    foreign: int = 0


@dataclass(frozen=True, slots=True)
class SupplyBook:
    """What only the embedded layer can tell, because it knows every channel and receiver there is."""

    settlement_balance: int  # tokens held by the settlement contract
    escrow: int  # Σ over all channels (balance − claimed)
    unsettled: int  # Σ over all receivers (totalClaimed − totalSettled)
    donations: int = 0  # tokens sent to the contract outside of it


@dataclass(frozen=True, slots=True)
class Books:
    """One token's books at one block.

    `parties` holds every address that was ever paid or signed a payout. `deposited` are the deposits of each
    channel counted from events, and `on_chain` the channels as read, when they are known. `injected` is
    what the operator put into treasury or lanes, `operator_out` what the operator took out, `donated` what
    others sent there.
    """

    channels: tuple[Channel, ...]
    accounts: tuple[Account, ...]
    parties: Mapping[Address, PartyBook]
    lanes: tuple[LaneBook, ...]
    treasury_held: int
    injected: int = 0
    donated: int = 0
    operator_out: int = 0
    deposited: Mapping[ChannelId, int] | None = None
    on_chain: Mapping[ChannelId, ChannelView] | None = None
    supply: SupplyBook | None = None

    @property
    def held(self) -> int:
        """Cash: the tokens of treasury and lanes."""
        return self.treasury_held + sum(lane.held for lane in self.lanes)

    @property
    def unsettled(self) -> int:
        """Claimed and not yet moved to the lanes."""
        return sum(lane.total_claimed - lane.total_settled for lane in self.lanes)

    @property
    def paid(self) -> int:
        """What all payees got."""
        return sum(party.paid for party in self.parties.values())

    @property
    def payable(self) -> int:
        """What the payees are still due: Σ (earned − fee − offset) − paid."""
        return sum(account.net for account in self.accounts) - self.paid


def faults(books: Books) -> list[str]:
    """Return every identity that does not hold, in words; an empty list when the books balance."""
    found = _channel_faults(books)
    for account in books.accounts:
        found += [f"account 0x{account.id.hex()}: {text} is broken" for text in account_faults(account)]
    return found + _party_faults(books) + _lane_faults(books) + _cash_faults(books)


def warnings(books: Books) -> list[str]:
    """Return what is not wrong but needs the operator: too little cash in sight for what is payable."""
    in_sight = books.held + books.unsettled + sum(map(secured, books.channels))
    if in_sight < books.payable:
        return [
            f"payees are due {books.payable} and only {in_sight} is in sight"
            f" (held {books.held}, unsettled {books.unsettled}, the rest secured in channels)"
        ]
    return []


def secured(channel: Channel) -> int:
    """Return what a claim now would surely bring: what is owed, up to the balance less a withdrawal."""
    return max(0, min(channel.owed, channel.usable_balance) - channel.claimed)


def _channel_faults(books: Books) -> list[str]:
    found = []
    for channel in books.channels:
        name = f"channel 0x{channel.id.hex()}"
        found += [f"{name}: {text} is broken" for text in channel_faults(channel)]
        if books.deposited is not None:
            counted = books.deposited.get(channel.id, 0)
            found += _differ(f"{name}: deposited", counted, "balance + refunded + withdrawn", channel.deposited)
        if books.on_chain is not None:
            view = books.on_chain.get(channel.id)
            if view is None:
                found.append(f"{name}: it was not read from the chain")
                continue
            found += _differ(f"{name}: balance on chain", view.balance, "in the journal", channel.balance)
            found += _differ(f"{name}: claimed on chain", view.total_claimed, "in the journal", channel.claimed)
    return found


def _party_faults(books: Books) -> list[str]:
    found = []
    given: dict[Address, int] = {}
    taken: dict[Address, int] = {}
    due: dict[Address, int] = {}
    for channel in books.channels:
        if channel.offset and not channel.proven:
            found.append(f"channel 0x{channel.id.hex()}: it was netted and its payer is not proven")
        given[channel.config.payer] = given.get(channel.config.payer, 0) + channel.offset
    for account in books.accounts:
        taken[account.payee] = taken.get(account.payee, 0) + account.offset
        due[account.payee] = due.get(account.payee, 0) + account.net
    for address in sorted(given.keys() | taken.keys() | books.parties.keys()):
        name = f"party 0x{address.hex()}"
        party = books.parties.get(address, PartyBook(0, 0))
        found += _differ(
            f"{name}: offset on its channels", given.get(address, 0), "on its accounts", taken.get(address, 0)
        )
        if not 0 <= party.paid <= party.signed:
            found.append(f"{name}: {party.paid} was paid and {party.signed} signed")
        if party.signed > due.get(address, 0):
            found.append(
                f"{name}: payouts of {party.signed} were signed and it earned {due.get(address, 0)}"
                " after fee and offset"
            )
    return found


def _lane_faults(books: Books) -> list[str]:
    found = []
    own: dict[Address, int] = {}
    for channel in books.channels:
        receiver = channel.config.receiver
        own[receiver] = own.get(receiver, 0) + channel.claimed
    for lane in books.lanes:
        name = f"lane 0x{lane.address.hex()}"
        expected = own.pop(lane.address, 0) + lane.foreign
        found += _differ(f"{name}: totalClaimed", lane.total_claimed, "own and foreign claims", expected)
        if lane.total_settled > lane.total_claimed:
            found.append(f"{name}: {lane.total_settled} settled of {lane.total_claimed} claimed")
    for address, claimed in sorted(own.items()):
        if claimed:
            found.append(f"{claimed} was claimed for 0x{address.hex()}, which is no lane")
    return found


def _cash_faults(books: Books) -> list[str]:
    income = (
        sum(channel.claimed for channel in books.channels)
        + sum(lane.foreign for lane in books.lanes)
        + books.injected
        + books.donated
    )
    outcome = books.paid + books.operator_out + books.held + books.unsettled
    found = _differ(
        "cash: claimed + foreign + injected + donated",
        income,
        "paid + taken out + held + unsettled",
        outcome,
    )
    supply = books.supply
    if supply is not None:
        found += _differ(
            "the settlement contract holds",
            supply.settlement_balance,
            "escrow + unsettled + donations",
            supply.escrow + supply.unsettled + supply.donations,
        )
    return found


def _differ(left_name: str, left: int, right_name: str, right: int) -> list[str]:
    if left == right:
        return []
    return [f"{left_name} is {left}, {right_name} {right}: they differ by {left - right}"]
