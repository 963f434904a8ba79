"""The ledger as netting sees it: every party with its channels and accounts."""

from channels.state import Channel, Phase
from gateway.ledger import Ledger
from settlement.netting import AccountPosition, ChannelPosition, PartyPosition


def party_positions(ledger: Ledger) -> list[PartyPosition]:
    """Return every party, by address; channels that wait for a deposit and owe nothing are left out."""
    return [
        PartyPosition(
            address=address,
            channels=tuple(
                channel_position(ledger.channels[identifier])
                for identifier in ledger.by_payer.get(address, ())
                if ledger.channels[identifier].phase is not Phase.OPENING or ledger.channels[identifier].owed
            ),
            accounts=tuple(
                AccountPosition(identifier, ledger.accounts[identifier].net, ledger.accounts[identifier].offset)
                for identifier in ledger.by_payee.get(address, ())
            ),
            signed=ledger.party(address).signed,
        )
        for address in sorted(ledger.by_payer.keys() | ledger.by_payee.keys())
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
