"""What a person or a program sees of the gateway: plain JSON values from the books."""

from collections.abc import Sequence
from typing import Any

from channels.state import Account, Channel
from channels.types import ChannelId
from gateway.backup import last_backup
from gateway.config import Config
from gateway.ledger import Ledger
from gateway.outlook import Outlook
from gateway.pipeline import Counters
from gateway.service import Gateway
from gateway.summary import figures, sums

# A status is for a person to read; the journal holds all of them.
ASIDE_SHOWN = 20
REORGS_SHOWN = 5


def status(gateway: Gateway) -> dict[str, Any]:
    """Return the state of a running gateway."""
    ledger = gateway.ledger
    head = gateway.watcher.head
    last = max(ledger.ended.values(), key=lambda cycle: cycle.number, default=None)
    return {
        "gateway": gateway.config.gateway,
        "running": True,
        "demo": gateway.config.demo,
        "broker_connected": gateway.link.connected,
        "chain": {
            "id": gateway.config.chain.chain_id,
            "block": None if head is None else head.number,
            "time": None if head is None else head.timestamp,
            "stale": gateway.terms.chain_stale,
        },
        "offer": {"id": f"0x{gateway.terms.current.id.hex()}", "serial": gateway.terms.current.serial},
        "unsettled": str(sums(ledger).unsettled),
        "payable": str(sums(ledger).payable),
        "outstanding_transactions": _outstanding(ledger),
        "gas": gateway.gas.figures(),
        "last_settlement": None
        if last is None
        else {"cycle": last.number, "at": last.at, "claimed": str(last.claimed)},
        "next_settlement_s": round(gateway.settler.next_in_s),
        "closing_channels": len(ledger.closings),
        "reorganisations": reorganisations(ledger),
        "backup": gateway.backups.view(),
        "set_aside": [
            {"what": aside.name, "of": f"0x{key.hex()}", "reason": aside.reason, "cycle": aside.cycle}
            for key, aside in sorted(ledger.aside.items())[:ASIDE_SHOWN]
        ],
        **figures(ledger, gateway.pipeline.counters),
    }


def outlook_view(outlook: Outlook, rows: int | None = None) -> dict[str, Any]:
    """Return what a settlement now would do and why, channel by channel, the largest first; of `rows` at most."""
    plan, claiming = outlook.plan, outlook.claiming
    largest = sorted(claiming.decisions, key=lambda decision: (-decision.row.amount, decision.row.id))
    return {
        "at": outlook.situation.now,
        "gas_price": outlook.situation.gas_price,
        "claim": str(claiming.claimed),
        "hold": str(claiming.held),
        "claim_cost": str(claiming.cost),
        "offset": str(plan.netting.totals.offset),
        "pay": str(sum(payout.amount for payout in plan.payouts)),
        "pay_later": str(sum(payout.amount for payout in (*outlook.small, *outlook.unfunded))),
        "exposure_after": {
            "channel_max": str(claiming.exposure.channel_max),
            "party_max": str(claiming.exposure.party_max),
            "total": str(claiming.exposure.total),
        },
        "decisions": [
            {
                "channelId": f"0x{decision.row.id.hex()}",
                "payer": f"0x{decision.row.party.hex()}",
                "lane": decision.row.lane,
                "amount": str(decision.row.amount),
                "claim": decision.claims,
                "reason": decision.reason.value,
                "words": decision.words,
                "cost": str(decision.cost),
                "due": decision.due,
            }
            for decision in largest[:rows]
        ],
    }


def offline_status(config: Config, ledger: Ledger) -> dict[str, Any]:
    """Return what the journal of a stopped gateway tells."""
    return {
        "gateway": config.gateway,
        "running": False,
        "demo": config.demo,
        "unsettled": str(sums(ledger).unsettled),
        "payable": str(sums(ledger).payable),
        "outstanding_transactions": _outstanding(ledger),
        "reorganisations": reorganisations(ledger),
        "backup": {"last": last_backup(config)},
        **figures(ledger, Counters()),
    }


def reorganisations(ledger: Ledger) -> dict[str, Any]:
    """Return how often blocks were replaced that had done something here, and the last ones."""
    return {
        "count": ledger.totals.reorgs,
        "last": [
            {
                "from_block": each.from_block,
                "to_block": each.to_block,
                "at": each.at,
                "channels": each.channels,
                "transactions": each.transactions,
                "received": str(each.received),
                "settled": str(each.settled),
                "events_missed": each.missed,
            }
            for _, each in sorted(ledger.reorgs.items(), reverse=True)[:REORGS_SHOWN]
        ],
    }


def _outstanding(ledger: Ledger) -> int:
    """Count transactions that wait to be mined; one and its replacements are one."""
    return len({(each.sender, each.nonce) for each in ledger.transactions.values()})


def device_list(ledger: Ledger) -> list[dict[str, Any]]:
    """Return every device with what it owes and earns, by name."""
    names = {key.decode() for key in ledger.devices}
    channels: dict[str, list[Channel]] = {}
    accounts: dict[str, list[Account]] = {}
    for channel in ledger.channels.values():
        channels.setdefault(channel.device, []).append(channel)
    for account in ledger.accounts.values():
        accounts.setdefault(account.device, []).append(account)
    return [
        {
            "device": name,
            "enrolled": name.encode() in ledger.devices,
            "channels": len(channels.get(name, ())),
            "accounts": len(accounts.get(name, ())),
            "charged": str(sum(channel.charged for channel in channels.get(name, ()))),
            "earned": str(sum(account.earned for account in accounts.get(name, ()))),
        }
        for name in sorted(names | channels.keys() | accounts.keys())
    ]


def device_view(ledger: Ledger, name: str) -> dict[str, Any] | None:
    """Return one device with its channels and accounts, or None for an unknown one."""
    enrolled = ledger.devices.get(name.encode())
    channels = [channel for channel in ledger.channels.values() if channel.device == name]
    accounts = [account for account in ledger.accounts.values() if account.device == name]
    if enrolled is None and not channels and not accounts:
        return None
    return {
        "device": name,
        "note": "" if enrolled is None else enrolled.note,
        "payers": [] if enrolled is None else [f"0x{payer.hex()}" for payer in enrolled.payers],
        "enrolled_accounts": [] if enrolled is None else [f"0x{account.hex()}" for account in enrolled.accounts],
        "channels": [_channel(channel) for channel in channels],
        "accounts": [_account(account) for account in accounts],
    }


def closing_view(ledger: Ledger, ids: Sequence[ChannelId]) -> dict[str, Any]:
    """Return what became of closing channels: what this closing has claimed and given back so far."""
    rows = []
    for identifier in ids:
        channel = ledger.channels[identifier]
        begun = ledger.closings.get(identifier) or ledger.closed.get(identifier)
        rows.append(
            {
                "channelId": f"0x{identifier.hex()}",
                "service": channel.service,
                "phase": channel.phase.name.lower(),
                "payer": f"0x{channel.config.payer.hex()}",
                "claimed": str(0 if begun is None else channel.claimed - begun.claimed),
                "refunded": str(0 if begun is None else channel.refunded - begun.refunded),
                "unclaimed": str(channel.unclaimed),
            }
        )
    return {"closed": not any(identifier in ledger.closings for identifier in ids), "channels": rows}


def _channel(channel: Channel) -> dict[str, Any]:
    return {
        "channelId": f"0x{channel.id.hex()}",
        "service": channel.service,
        "phase": channel.phase.name.lower(),
        "payer": f"0x{channel.config.payer.hex()}",
        "lane": channel.lane,
        "lastSeq": channel.meter.seq,
        "register": channel.meter.register,
        "charged": str(channel.charged),
        "offset": str(channel.offset),
        "claimed": str(channel.claimed),
        "refunded": str(channel.refunded),
        "owed": str(channel.owed),
        "ceiling": str(channel.ceiling),
        "balance": str(channel.usable_balance),
        "withdrawing": str(channel.withdrawable),
        "withdrawalEnds": channel.finalize_after,
    }


def _account(account: Account) -> dict[str, Any]:
    return {
        "accountId": f"0x{account.id.hex()}",
        "service": account.service,
        "payee": f"0x{account.payee.hex()}",
        "lastSeq": account.meter.seq,
        "register": account.meter.register,
        "earned": str(account.earned),
        "fee": str(account.fee),
        "offset": str(account.offset),
    }
