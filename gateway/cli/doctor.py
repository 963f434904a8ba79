"""`metergate doctor`: every part checked, and for each that fails what to do about it."""

import argparse
import asyncio
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from channels.types import SETTLEMENT_ADDRESS
from gateway.audit import Unsteady, audit
from gateway.cli.asking import ask
from gateway.cli.setup import open_keys
from gateway.config import Config, load_config
from gateway.errors import GatewayError, SetupError
from gateway.keys import KeyRing
from gateway.offline import OfflineBooks
from gateway.watcher import Watcher
from settlement.client import JsonRpcLayer
from settlement.errors import ChainError
from settlement.transports import HttpTransport

# Journals grow by about a kilobyte a reading at worst: below this a busy gateway has hours left.
DISK_FREE_MIN = 500 * 2**20
# Deposits carry times: a clock this far off makes devices and chain disagree about them.
CLOCK_SKEW_MAX_S = 60
BROKER_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what, whether it holds, and what was found or what to do."""

    check: str
    good: bool
    text: str


def doctor(options: argparse.Namespace) -> int:
    """Run every check; exit code 0 when all hold."""
    config = load_config(options.config)
    findings = [Finding("configuration", True, f"{options.config} is valid"), *_findings(config)]
    if options.json:
        print(json.dumps([{"check": each.check, "good": each.good, "text": each.text} for each in findings]))
    else:
        for each in findings:
            print(f"{'ok ' if each.good else 'BAD'}  {each.check:<14} {each.text}")
    return 0 if all(each.good for each in findings) else 1


def _findings(config: Config) -> Iterator[Finding]:
    keys: KeyRing | None = None
    try:
        keys = open_keys(config)
        yield Finding("keys", True, f"{config.key_file} opens; {len(keys.lanes)} lanes")
    except SetupError as error:
        yield Finding("keys", False, str(error))
    yield _disk(Path(config.data_dir))
    yield asyncio.run(_broker(config))
    chain = asyncio.run(_chain(config))
    yield from chain
    if keys is not None and all(each.good for each in chain):
        yield asyncio.run(_coins(config, keys))
        yield _books(config, keys)


def _disk(path: Path) -> Finding:
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return Finding("disk", False, f"{existing} is not writable for this user: change its owner or data_dir")
    if free < DISK_FREE_MIN:
        return Finding(
            "disk", False, f"{free >> 20} MiB are free at {existing}: make room, {DISK_FREE_MIN >> 20} are needed"
        )
    return Finding("disk", True, f"{free >> 20} MiB are free")


async def _broker(config: Config) -> Finding:
    where = f"{config.mqtt.host}:{config.mqtt.port}"
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(config.mqtt.host, config.mqtt.port), BROKER_WAIT_S)
    except (OSError, TimeoutError):
        return Finding("broker", False, f"nothing answers at {where}: start the broker or mend [mqtt]")
    writer.close()
    return Finding("broker", True, f"{where} answers")


async def _chain(config: Config) -> list[Finding]:
    layer = JsonRpcLayer(HttpTransport(config.chain.url), expected_chain_id=config.chain.chain_id)
    token, payouts = (bytes.fromhex(text[2:]) for text in (config.chain.asset, config.chain.payouts))
    try:
        await layer.chain_id()
        domain = await layer.token_domain(token)
        missing = [f"0x{at.hex()}" for at in (SETTLEMENT_ADDRESS, payouts) if not await layer.has_code(at)]
        head = await layer.head()
    except ChainError as error:
        return [Finding("chain", False, f"{config.chain.url}: {error}")]
    finally:
        await layer.close()
    if missing:
        return [Finding("chain", False, f"no contract at {', '.join(missing)}: mend [chain]")]
    skew = int(time.time()) - head.timestamp
    clock = Finding("clock", True, f"{skew} s from chain time")
    if abs(skew) > CLOCK_SKEW_MAX_S:
        clock = Finding("clock", False, f"{skew} s from chain time: set the clock, or the chain has stopped")
    return [Finding("chain", True, f"id {config.chain.chain_id}, block {head.number}, token {domain.name}"), clock]


async def _coins(config: Config, keys: KeyRing) -> Finding:
    senders = {"operator": keys.operator, "treasury": keys.treasury}
    senders |= {f"lane {index}": key for index, key in enumerate(keys.lanes)}
    layer = JsonRpcLayer(HttpTransport(config.chain.url), expected_chain_id=config.chain.chain_id)
    try:
        balances = await layer.native_balances([key.address for key in senders.values()])
    except ChainError as error:
        return Finding("coins", False, str(error))
    finally:
        await layer.close()
    empty = [
        f"{name} 0x{key.address.hex()}"
        for (name, key), balance in zip(senders.items(), balances, strict=True)
        if balance == 0
    ]
    if empty:
        return Finding("coins", False, f"no coins for gas: send some to {', '.join(empty)}")
    return Finding("coins", True, "every sender has coins for gas")


def _books(config: Config, keys: KeyRing) -> Finding:
    try:
        running = ask(config, "GET", "/v1/books")
        if running is not None:
            faults, warnings = running["faults"], running["warnings"]
        else:
            with OfflineBooks(config) as books:
                if books.ledger.founded is None:
                    return Finding("books", True, "empty: this gateway has not run yet")
                faults, warnings = asyncio.run(_audit(config, keys, books))
    except (GatewayError, ChainError, Unsteady) as error:
        return Finding("books", False, str(error))
    if faults:
        return Finding("books", False, f"{'; '.join(faults)}. Stop the gateway and compare with a backup")
    return Finding("books", not warnings, "; ".join(warnings) or "conserved to the unit")


async def _audit(config: Config, keys: KeyRing, books: OfflineBooks) -> tuple[list[str], list[str]]:
    layer = JsonRpcLayer(HttpTransport(config.chain.url), expected_chain_id=config.chain.chain_id)
    watcher = Watcher(
        books.books,
        layer,
        bytes.fromhex(config.chain.asset[2:]),
        (key.address for key in keys.lanes),
        keys.cash_addresses,
        settlement=SETTLEMENT_ADDRESS,
        confirmations=config.chain.confirmations,
        poll_s=config.chain.poll_ms / 1000,
    )
    try:
        return await audit(books.books, layer, watcher)
    finally:
        await layer.close()
