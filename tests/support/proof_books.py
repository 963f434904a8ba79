"""What the meters know against what the chain did: an auditor of one gateway that asks the gateway nothing.

It knows only the devices (what they sent, what was receipted, by their own arithmetic) and the chain. At any moment
nobody may have been claimed or paid more than its readings came to; and once all is settled, every party's claims and
payouts are exactly what it owed and earned.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tests.support.chain_observer import Flows, Observer
from tests.support.gateway_devices import Earner, Payer

FEE_SCALE = 10_000


@dataclass(slots=True)
class ProofBooks:
    """All devices of one gateway. `accepted` is what receipts confirmed, `sent` what a device may have been charged."""

    observer: Observer
    treasury: bytes
    fee_basis_points: int
    payers: list[Payer] = field(default_factory=list)
    earners: list[Earner] = field(default_factory=list)
    # What a device has sent and no receipt has answered yet, in its own arithmetic: it may count or not.
    unanswered: Counter[bytes] = field(default_factory=Counter)
    forgone: Counter[bytes] = field(default_factory=Counter)  # owed and lost to a withdrawal, by channel

    def net(self, earned: int) -> int:
        """Return what is due of gross earnings after the operator's fee."""
        return earned - earned * self.fee_basis_points // FEE_SCALE

    def _parties(self) -> Iterator[bytes]:
        yield from sorted({*(payer.payer for payer in self.payers), *(earner.payee for earner in self.earners)})

    def _charged(self, party: bytes, more: Callable[[Payer], int]) -> int:
        mine = (payer for payer in self.payers if payer.payer == party)
        return sum((payer.exact + more(payer)) // 10**9 for payer in mine)

    def _earned(self, party: bytes, more: Callable[[Earner], int]) -> int:
        mine = (earner for earner in self.earners if earner.payee == party)
        return sum(self.net((earner.exact + more(earner)) // 10**9) for earner in mine)

    def _claimed(self, flows: Flows, party: bytes) -> int:
        return sum(flows.claimed[payer.id] for payer in self.payers if payer.payer == party)

    def faults(self) -> list[str]:
        """Return what must never be, at any moment."""
        flows = self.observer.flows()
        return self.views(flows) + self.beyond(flows)

    def beyond(self, flows: Flows) -> list[str]:
        """Return claims and payouts beyond what the readings came to."""
        found = []
        for payer in self.payers:
            most = (payer.exact + self.unanswered[payer.id]) // 10**9
            if flows.claimed[payer.id] > most:
                found.append(f"{payer.device}: {flows.claimed[payer.id]} was claimed and {most} used")
        for party in self._parties():
            most = self._earned(party, lambda earner: self.unanswered[earner.id])
            if flows.paid[party] > most:
                found.append(f"party 0x{party.hex()}: {flows.paid[party]} was paid and {most} earned")
        strangers = set(flows.paid) - set(self._parties())
        found += [f"0x{payee.hex()} was paid {flows.paid[payee]} and has no meter" for payee in strangers]
        return found

    def views(self, flows: Flows) -> list[str]:
        """Return where the contracts' own totals are not what their events add up to."""
        found: list[str] = []
        for payer in self.payers:
            balance, claimed = self.observer.channel(payer.id, flows.upto)
            moved = flows.deposited[payer.id] - flows.withdrawn[payer.id] - flows.refunded[payer.id]
            found += _differ(f"{payer.device}: balance", balance, moved)
            found += _differ(f"{payer.device}: totalClaimed", claimed, flows.claimed[payer.id])
        for party in self._parties():
            paid = self.observer.paid(self.treasury, party, flows.upto)
            found += _differ(f"party 0x{party.hex()}: paid", paid, flows.paid[party])
        return found

    def unsettled(self) -> list[str]:
        """Return where the chain is not yet, or not exactly, what every receipt says: empty when all is settled.

        What a party owes less what was claimed of it was offset against what it earned less what it was paid.
        """
        flows = self.observer.flows()
        found = []
        for party in self._parties():
            forgone = sum(self.forgone[payer.id] for payer in self.payers if payer.payer == party)
            owed = self._charged(party, lambda payer: 0) - forgone - self._claimed(flows, party)
            due = self._earned(party, lambda earner: 0) - flows.paid[party]
            if owed != due or owed < 0:
                found.append(f"party 0x{party.hex()}: {owed} is not claimed and {due} not paid")
        return found


def _differ(what: str, found: int, expected: int) -> Iterable[str]:
    return [] if found == expected else [f"{what} is {found}, events add up to {expected}"]
