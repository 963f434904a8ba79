"""The ledger as netting sees it: every party with its channels and accounts, at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from channels.state import Account, Channel, Phase
from channels.types import AccountId, Address, ChannelId
from gateway.entries import Party
from gateway.ledger import Ledger
from settlement.netting import AccountPosition, ChannelPosition, PartyPosition

_NO_PAYOUTS = Party()


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is owed and due at one moment, by value: to be worked on in a thread while the ledger goes on."""

    channels: Mapping[ChannelId, Channel]
    accounts: Mapping[AccountId, Account]
    parties: Mapping[Address, Party]

    @classmethod
    def of(cls, ledger: Ledger) -> "Holdings":
        """Return those of now. The states themselves never change, so their references are enough."""
        return cls(ledger.channels.copy(), ledger.accounts.copy(), ledger.parties.copy())

    def overtaken(self, ledger: Ledger) -> bool:
        """Tell whether they have changed since but for more that is owed, due or deposited, and higher vouchers.

        What was decided without that can still be done. After a withdrawal, a closing, a claim or a payout it may not.
        """
        return (
            ledger.parties.copy() != self.parties
            or any(
                not _only_grown(then, channel)
                for each, then in self.channels.items()
                if (channel := ledger.channels.get(each)) is not then and _counts(then)
            )
            or any(
                account is None or account.offset != then.offset
                for each, then in self.accounts.items()
                if (account := ledger.accounts.get(each)) is not then
            )
        )


def _only_grown(before: Channel, now: Channel | None) -> bool:
    """Tell whether a channel is as it was but for what readings and deposits add."""
    if now is None or now.balance < before.balance:
        return False
    grown = ("meter", "charged", "ceiling", "ceiling_signature", "balance", "position")
    return replace(now, **{name: getattr(before, name) for name in grown}) == before


def _counts(channel: Channel) -> bool:
    """Tell whether there is anything to net: one that waits for its first deposit and owes nothing does not count."""
    return channel.phase is not Phase.OPENING or channel.owed > 0


def party_positions(holdings: Holdings) -> list[PartyPosition]:
    """Return every party, by address; channels that wait for a deposit and owe nothing are left out."""
    channels: dict[Address, list[ChannelPosition]] = {}
    for channel in holdings.channels.values():
        if _counts(channel):
            channels.setdefault(channel.config.payer, []).append(channel_position(channel))
    accounts: dict[Address, list[AccountPosition]] = {}
    for account in holdings.accounts.values():
        accounts.setdefault(account.payee, []).append(AccountPosition(account.id, account.net, account.offset))
    return [
        PartyPosition(
            address=address,
            channels=tuple(channels.get(address, ())),
            accounts=tuple(accounts.get(address, ())),
            signed=holdings.parties.get(address, _NO_PAYOUTS).signed,
        )
        for address in sorted(channels.keys() | accounts.keys())
    ]


def channel_position(channel: Channel) -> ChannelPosition:
    """Return one channel; what a claim may reach is bounded by the voucher held and the money there."""
    return ChannelPosition(
        id=channel.id,
        lane=channel.lane,
        owed=channel.owed,
        committed=channel.committed,
        claimed=channel.claimed,
        limit=min(channel.ceiling, channel.balance),
        offset=channel.offset,
        proven=channel.proven,
    )
