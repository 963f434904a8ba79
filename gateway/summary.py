"""What a demo or an operator is told: sums over the books, as JSON values and as text."""

from dataclasses import dataclass, field
from typing import Any

from channels.state import Channel
from gateway.ledger import Ledger
from gateway.pipeline import Counters


@dataclass(slots=True)
class Sums:
    """Sums over all channels, accounts and parties, in base units."""

    charged: int = 0
    claimed: int = 0
    offset: int = 0
    earned: int = 0
    fees: int = 0
    payable: int = 0
    paid_out: int = 0
    services: dict[str, list[Channel]] = field(default_factory=dict)

    @property
    def unsettled(self) -> int:
        """Charged and neither claimed nor offset yet."""
        return self.charged - self.claimed - self.offset


def sums(ledger: Ledger) -> Sums:
    """Add up the books."""
    total = Sums()
    for channel in ledger.channels.values():
        total.charged += channel.charged
        total.claimed += channel.claimed
        total.offset += channel.offset
        total.services.setdefault(channel.service, []).append(channel)
    for account in ledger.accounts.values():
        total.earned += account.earned
        total.fees += account.fee
        total.payable += account.net
    for party in ledger.parties.values():
        total.paid_out += party.paid
        total.payable -= party.paid
    return total


def figures(ledger: Ledger, counters: Counters) -> dict[str, Any]:
    """Return the books in figures: counts as numbers, amounts as decimal strings."""
    total = sums(ledger)
    totals = ledger.totals
    devices = {channel.device for channel in ledger.channels.values()}
    devices |= {account.device for account in ledger.accounts.values()}
    return {
        "devices": len(devices),
        "channels": len(ledger.channels),
        "readings": totals.payments + totals.earnings,
        "payments": totals.payments,
        "refused": sum(counters.refused.values()),
        "refused_by_reason": dict(counters.refused),
        "duplicates": counters.duplicates,
        "charged": str(total.charged),
        "claimed": str(total.claimed),
        "offset": str(total.offset),
        "earned": str(total.earned),
        "settled": str(totals.settled),
        "paid_out": str(total.paid_out),
        "fees": str(total.fees),
        "settlements": totals.settlements,
        "blocks": max(totals.block, 0),
        "gas_used": totals.gas_used,
    }


def by_service(ledger: Ledger, prices: dict[str, int]) -> dict[str, Any]:
    """Return devices, register units, price and charge of each paying service."""
    return {
        service: {
            "devices": len({channel.device for channel in channels}),
            "register_units": sum(channel.units for channel in channels),
            "price": str(prices[service]),
            "charged": str(sum(channel.charged for channel in channels)),
        }
        for service, channels in sorted(sums(ledger).services.items())
    }


def tokens(amount: int, decimals: int = 6) -> str:
    """Write base units as tokens, exactly."""
    whole, part = divmod(abs(amount), 10**decimals)
    return f"{'-' if amount < 0 else ''}{whole:,}.{part:0{decimals}d}"
