"""`metergate doctor`: every part checked, and for each that fails what to do about it."""

import argparse
import asyncio
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from channels.types import SETTLEMENT_ADDRESS
from devices.link import LinkSettings, LinkUnavailable
from devices.paho_client import probe
from gateway.archive import JOURNAL, OPERATORS
from gateway.audit import Unsteady, audit
from gateway.backup import last_backup
from gateway.broker_login import link_settings
from gateway.cli.asking import ask
from gateway.cli.setup import open_keys
from gateway.cli.terminal import GREEN, RED, YELLOW, colours, paint, plain
from gateway.config import Config, load_config
from gateway.control import SOCKET
from gateway.errors import GatewayError, SetupError
from gateway.keys import KeyRing
from gateway.offline import OfflineBooks
from gateway.web.server import is_loopback
from settlement.client import JsonRpcLayer
from settlement.errors import ChainError
from settlement.transports import HttpTransport

# Journals grow by about a kilobyte a reading at worst: below this a busy gateway has hours left.
DISK_FREE_MIN = 500 * 2**20
# Deposits carry times: a clock this far off makes devices and chain disagree about them.
CLOCK_SKEW_MAX_S = 60
BACKUP_OLD_H = 7 * 24


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what, whether it holds, and what was found or what to do. A warning is good, but not for ever."""

    check: str
    good: bool
    text: str
    warning: bool = False


def doctor(options: argparse.Namespace) -> int:
    """Run every check; exit code 0 when all hold."""
    config = load_config(options.config)
    findings = [Finding("configuration", True, f"{options.config} is valid"), *_findings(config)]
    if options.json:
        print(json.dumps([asdict(each) for each in findings]))
    else:
        for each in findings:
            word, colour = ("ok ", GREEN) if each.good else ("BAD", RED)
            if each.good and each.warning:
                word, colour = "-- ", YELLOW
            print(f"{paint(word, colour, colours())}  {each.check:<14} {plain(each.text)}")
    return 0 if all(each.good for each in findings) else 1


def _findings(config: Config) -> Iterator[Finding]:
    keys: KeyRing | None = None
    try:
        keys = open_keys(config)
        yield Finding("keys", True, f"{config.key_file} opens; {len(keys.lanes)} lanes")
    except SetupError as error:
        yield Finding("keys", False, str(error))
    yield _disk(Path(config.data_dir))
    yield _permissions(config)
    yield _backup(config)
    yield _broker(config)
    chain = asyncio.run(_chain(config))
    yield from chain
    if keys is not None and all(each.good for each in chain):
        yield asyncio.run(_coins(config, keys))
        yield _books(config)


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


def _permissions(config: Config) -> Finding:
    """Whatever others may read or write: keys, secrets, the journal, the socket that operates the gateway."""
    named = [config.data_dir, config.key_file, config.passphrase_file, config.mqtt.password_file, config.mqtt.tls_key]
    paths = [Path(name) for name in named if name]
    paths += [Path(config.data_dir) / name for name in (SOCKET, JOURNAL, OPERATORS)]
    wrong = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue  # what has to be there is missed by the check that opens it
        if status.st_mode & 0o077:
            wrong.append(f"chmod go= {path}")
        if os.getuid() not in (0, status.st_uid):
            wrong.append(f"chown {os.getuid()} {path}")
    if wrong:
        return Finding("permissions", False, f"others may use what only the gateway may; run: {'; '.join(wrong)}")
    return Finding("permissions", True, "data, keys and socket are the gateway's alone")


def _backup(config: Config) -> Finding:
    if not (Path(config.data_dir) / JOURNAL).exists():
        return Finding("backup", True, "there is nothing to back up yet")
    how = "`metergate backup FILE`, or set backup.every_hours and a backup.dir on another disk"
    last = last_backup(config)
    if last is None:
        return Finding("backup", True, f"none was made yet: {how}", warning=True)
    hours = max(0.0, time.time() - last["at"]) / 3600
    if hours > max(BACKUP_OLD_H, 2 * config.backup.every_hours):
        return Finding("backup", True, f"the last one is {hours / 24:.0f} days old: {how}", warning=True)
    return Finding("backup", True, f"{last.get('file')}, {hours:.1f} hours ago")


def _broker(config: Config) -> Finding:
    """A real MQTT connection with the gateway's own credentials, under another client id than a running gateway's."""
    try:
        settings = link_settings(config)
        probe(settings)
    except (SetupError, LinkUnavailable) as error:
        return Finding("broker", False, str(error))
    user = "without a user name" if settings.username is None else f"as {settings.username}"
    told = f"{config.mqtt.host}:{config.mqtt.port} takes us {user}, {'over TLS' if settings.tls else 'without TLS'}"
    if config.mqtt.authenticated_devices and _takes_anybody(settings):
        told += "; but it takes anybody, too, and mqtt.authenticated_devices trusts it to know who publishes:"
        return Finding("broker", True, f"{told} set `allow_anonymous false` there", warning=True)
    if settings.username is not None and not (settings.tls or is_loopback(config.mqtt.host)):
        return Finding("broker", True, f"{told}: the password goes in the clear; set mqtt.tls_ca", warning=True)
    return Finding("broker", True, told)


def _takes_anybody(settings: LinkSettings) -> bool:
    """Tell whether a client without any credentials is let in."""
    try:
        probe(replace(settings, username=None, password=None, certificate_file=None, key_file=None))
    except LinkUnavailable:
        return False
    return True


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
    empty = {name: key for (name, key), balance in zip(senders.items(), balances, strict=True) if balance == 0}
    named = ", ".join(f"{name} 0x{key.address.hex()}" for name, key in empty.items())
    refilled = int(config.gas.refill_to) > 0
    if empty and ("operator" in empty or not refilled):
        wanted = f"operator 0x{keys.operator.address.hex()}" if refilled else named
        return Finding("coins", False, f"no coins for gas: send some to {wanted}")
    if empty:
        return Finding("coins", True, f"the operator's key will refill {named}")
    return Finding("coins", True, "every sender has coins for gas")


def _books(config: Config) -> Finding:
    try:
        running = ask(config, "GET", "/v1/books")
        if running is not None:
            faults, warnings = running["faults"], running["warnings"]
        else:
            with OfflineBooks(config) as books:
                if books.ledger.founded is None:
                    return Finding("books", True, "empty: this gateway has not run yet")
                faults, warnings = asyncio.run(_audit(config, books))
    except (GatewayError, ChainError, Unsteady) as error:
        return Finding("books", False, str(error))
    if faults:
        return Finding("books", False, f"{'; '.join(faults)}. Stop the gateway and compare with a backup")
    return Finding("books", not warnings, "; ".join(warnings) or "conserved to the unit")


async def _audit(config: Config, books: OfflineBooks) -> tuple[list[str], list[str]]:
    layer = JsonRpcLayer(HttpTransport(config.chain.url), expected_chain_id=config.chain.chain_id)
    try:
        return await audit(books.books, layer, books.watcher(layer))
    finally:
        await layer.close()
