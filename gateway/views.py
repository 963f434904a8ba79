"""What a person or a program sees of the gateway: plain JSON values from the books."""

from typing import Any

from channels.state import Account, Channel
from gateway.config import Config
from gateway.ledger import Ledger
from gateway.pipeline import Counters
from gateway.service import Gateway
from gateway.summary import figures, sums


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
        "outstanding_transactions": len(ledger.transactions),
        "last_settlement": None
        if last is None
        else {"cycle": last.number, "at": last.at, "claimed": str(last.claimed)},
        **figures(ledger, gateway.pipeline.counters),
    }


def offline_status(config: Config, ledger: Ledger) -> dict[str, Any]:
    """Return what the journal of a stopped gateway tells."""
    return {
        "gateway": config.gateway,
        "running": False,
        "demo": config.demo,
        "unsettled": str(sums(ledger).unsettled),
        "payable": str(sums(ledger).payable),
        "outstanding_transactions": len(ledger.transactions),
        **figures(ledger, Counters()),
    }


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
        "owed": str(channel.owed),
        "ceiling": str(channel.ceiling),
        "balance": str(channel.usable_balance),
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
