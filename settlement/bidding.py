"""What a transaction offers for its gas: at first, and again when it has waited too long (pure).

Offers are EIP-1559 pairs in wei per gas. Nodes take a replacement of the same nonce only if both of its fields are
at least 10 % above the old ones (geth, Erigon, reth, Nethermind); an eighth more satisfies them with room to spare.
"""

from dataclasses import dataclass
from enum import Enum

from settlement.port import Fees

# A replacement offers at least an eighth more than what it replaces.
RAISE_DIVISOR = 8
# One that sits for long although it offers what the chain suggests is raised up to this multiple of the
# suggestion: beyond that the fee is not what holds it up.
PATIENCE_MULTIPLE = 4


class Kept(Enum):
    """Why an offer is not raised."""

    ENOUGH = "it offers what the chain asks"
    CEILING = "a replacement would offer more than the configured ceiling"


@dataclass(frozen=True, slots=True)
class Bidding:
    """How much to offer, and when to offer more.

    `fee_max` is the most that is ever offered, wei per gas; None leaves it to the chain's suggestion, times four at
    most. After `replace_after_seconds` a transaction that waits is looked at, after `PATIENCE_MULTIPLE` times as
    long it is raised even if it offers enough.
    """

    fee_max: int | None = None
    replace_after_seconds: float = 60.0

    @property
    def patience_seconds(self) -> float:
        """After this long an offer is raised although it is what the chain suggests."""
        return PATIENCE_MULTIPLE * self.replace_after_seconds

    def first(self, suggested: Fees) -> Fees:
        """Return what a new transaction offers: what the chain suggests, up to the ceiling."""
        if self.fee_max is None:
            return suggested
        most = min(suggested.max_fee_per_gas, self.fee_max)
        return Fees(most, min(suggested.max_priority_fee_per_gas, most))

    def again(self, offered: Fees, suggested: Fees, *, out_of_patience: bool = False) -> Fees | Kept:
        """Return what a replacement offers, or why there is none.

        Without `out_of_patience` only an offer below the present suggestion is raised. Both fields of the result
        are at least an eighth above `offered`, and the ceiling holds.
        """
        least = Fees(_raised(offered.max_fee_per_gas), _raised(offered.max_priority_fee_per_gas))
        below = (
            offered.max_fee_per_gas < suggested.max_fee_per_gas
            or offered.max_priority_fee_per_gas < suggested.max_priority_fee_per_gas
        )
        most = suggested.max_fee_per_gas * PATIENCE_MULTIPLE
        if not below and not (out_of_patience and least.max_fee_per_gas <= most):
            return Kept.ENOUGH
        if self.fee_max is not None and least.max_fee_per_gas > self.fee_max:
            return Kept.CEILING
        fee = max(least.max_fee_per_gas, suggested.max_fee_per_gas)
        if self.fee_max is not None:
            fee = min(fee, self.fee_max)
        priority = max(least.max_priority_fee_per_gas, suggested.max_priority_fee_per_gas)
        return Fees(fee, min(priority, fee))


def _raised(fee: int) -> int:
    """Return an eighth more, rounded up; at least one wei more."""
    return fee + max(1, -(-fee // RAISE_DIVISOR))
