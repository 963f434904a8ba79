"""Commands that run a gateway or speak with a running one."""

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from typing import Any

from gateway.broker_files import DIRECTORY, add_credentials
from gateway.cli.asking import ask
from gateway.cli.setup import open_keys
from gateway.config import load_config
from gateway.control import CLOSE_WAIT_S, SETTLE_WAIT_S, serve_control
from gateway.demo import DemoOptions, run_demo
from gateway.errors import SetupError
from gateway.offline import OfflineBooks
from gateway.service import Gateway
from gateway.summary import tokens
from gateway.systemd import Notifier, Progress
from gateway.views import device_list as list_devices
from gateway.views import device_view, offline_status
from gateway.web.server import WebServer
from settlement.client import JsonRpcLayer
from settlement.transports import HttpTransport


async def demo(options: argparse.Namespace) -> int:
    """`metergate demo`."""
    return await run_demo(
        DemoOptions(
            devices=options.devices,
            rate=options.rate,
            duration=options.duration,
            seed=options.seed,
            replay=options.replay,
            mqtt_port=options.mqtt_port,
            rpc_port=options.rpc_port,
            http_port=options.http_port,
            fund=tuple(options.fund),
            json=options.json,
        )
    )


async def run(options: argparse.Namespace) -> int:
    """`metergate run`: until SIGINT or SIGTERM, or a fault."""
    config = load_config(options.config)
    keys = open_keys(config)
    layer = JsonRpcLayer(HttpTransport(config.chain.url), expected_chain_id=config.chain.chain_id)
    gateway = Gateway(config, keys, layer)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    notifier = Notifier()
    work = asyncio.ensure_future(_work(gateway, notifier))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    notifier.stopping()
    if work.done():
        await work  # a fault: raised as it is, and the journal is left as it was
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    await gateway.stop()
    await layer.close()
    return 0


def progress_of(gateway: Gateway) -> Progress:
    """Return what feeds systemd's watchdog: the journal and the pipeline of a gateway."""
    counters, link = gateway.pipeline.counters, gateway.link
    return Progress(
        gateway.books.journal.durable,
        lambda: counters.accepted + counters.duplicates + counters.states + counters.refused.total(),
        lambda: link.queued,
    )


async def _work(gateway: Gateway, notifier: Notifier) -> None:
    await gateway.start()
    print(f"gateway {gateway.config.gateway} runs; Ctrl-C ends it", file=sys.stderr, flush=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(gateway.run())
        group.create_task(serve_control(gateway))
        notifier.ready(f"gateway {gateway.config.gateway} runs")
        group.create_task(notifier.watch(progress_of(gateway)))
        if gateway.config.web.enabled:
            group.create_task(WebServer(gateway, gateway.config.web).serve())


# -- commands that ask --


def settle(options: argparse.Namespace) -> int:
    """`metergate settle --now`, `--all` or `--explain`."""
    config = load_config(options.config)
    if options.explain:
        answer = ask(config, "GET", "/v1/settle")
    else:
        path = "/v1/settle?whatever_it_costs=yes" if options.all else "/v1/settle"
        answer = ask(config, "POST", path, timeout_s=SETTLE_WAIT_S + 10)
    if answer is None:
        raise SetupError("no gateway runs on this configuration: start it with `metergate run`.")
    if options.json:
        _print(answer)
    elif options.explain:
        _explain(answer)
    elif not answer["settled"]:
        print("nothing to settle; `metergate settle --explain` shows what is held and why")
    else:
        print(
            f"settlement {answer['cycle']}: {answer['rows']} channels claimed {tokens(int(answer['claimed']))}, "
            f"offset {tokens(int(answer['offset']))}, paid {tokens(int(answer['paid']))}, gas {answer['gas_used']:,}"
        )
    return 0


def _explain(outlook: dict[str, Any]) -> None:
    for row in outlook["decisions"]:
        verb = "claim" if row["claim"] else "hold"
        print(
            f"{verb:<6}{row['channelId'][:12]}…  {tokens(int(row['amount'])):>16}  {row['reason']:<20} {row['words']}"
        )
    print(
        f"claim {tokens(int(outlook['claim']))} for {tokens(int(outlook['claim_cost']))} of gas, "
        f"hold {tokens(int(outlook['hold']))}; offset {tokens(int(outlook['offset']))}, "
        f"pay {tokens(int(outlook['pay']))} now and {tokens(int(outlook['pay_later']))} later"
    )


def status(options: argparse.Namespace) -> int:
    """`metergate status`."""
    config = load_config(options.config)
    answer = ask(config, "GET", "/v1/status")
    if answer is None:
        with OfflineBooks(config) as books:
            answer = offline_status(config, books.ledger)
    if options.json:
        _print(answer)
        return 0
    for name, value in answer.items():
        print(f"{name:<26}{json.dumps(value) if isinstance(value, (dict, list)) else value}")
    return 0


def device_add(options: argparse.Namespace) -> int:
    """`metergate device add`."""
    config = load_config(options.config)
    body = {
        "device": options.device,
        "payers": [_hex(payer) for payer in options.payer],
        "accounts": [_hex(account) for account in options.account],
        "note": options.note,
    }
    if ask(config, "POST", "/v1/devices", body) is None:
        with OfflineBooks(config) as books:
            books.add_device(body)
    if options.credentials is not None:
        directory = options.config.resolve().parent / DIRECTORY
        add_credentials(directory, options.device, config.mqtt, config.gateway, options.credentials)
    if options.json:
        _print({"device": options.device, "credentials": options.credentials and str(options.credentials)})
        return 0
    print(f"device {options.device} is enrolled")
    if options.credentials is not None:
        print(f"wrote {options.credentials}: bring it to the device, then remove it; reload mosquitto (SIGHUP)")
    return 0


def device_list(options: argparse.Namespace) -> int:
    """`metergate device list`."""
    config = load_config(options.config)
    answer = ask(config, "GET", "/v1/devices")
    if answer is None:
        with OfflineBooks(config) as books:
            answer = {"devices": list_devices(books.ledger)}
    if options.json:
        _print(answer)
        return 0
    print(f"{'device':<24}{'channels':>9}{'accounts':>9}{'charged':>18}{'earned':>18}")
    for row in answer["devices"]:
        print(
            f"{row['device']:<24}{row['channels']:>9}{row['accounts']:>9}"
            f"{tokens(int(row['charged'])):>18}{tokens(int(row['earned'])):>18}"
        )
    return 0


def device_show(options: argparse.Namespace) -> int:
    """`metergate device show`."""
    config = load_config(options.config)
    answer = ask(config, "GET", f"/v1/devices/{options.device}")
    if answer is None:
        with OfflineBooks(config) as books:
            answer = device_view(books.ledger, options.device)
        if answer is None:
            raise SetupError(f"no device {options.device!r} is known.")
    if options.json:
        _print(answer)
    else:
        print(json.dumps(answer, indent=2))
    return 0


def device_close(options: argparse.Namespace) -> int:
    """`metergate device close`."""
    config = load_config(options.config)
    body = {} if options.channel is None else {"channel": _hex(options.channel)}
    answer = ask(config, "POST", f"/v1/devices/{options.device}/close", body, timeout_s=CLOSE_WAIT_S + 10)
    if answer is None:
        raise SetupError("no gateway runs on this configuration: start it with `metergate run`.")
    if options.json:
        _print(answer)
    else:
        for row in answer["channels"]:
            claimed, refunded = tokens(int(row["claimed"])), tokens(int(row["refunded"]))
            print(f"channel {row['channelId']} ({row['service']}) is {row['phase']}")
            print(f"  claimed {claimed}, gave {refunded} back to {row['payer']}")
            if row["phase"] == "closed" and int(row["unclaimed"]):
                print(f"  {tokens(int(row['unclaimed']))} are owed beyond what was there")
        if not answer["closed"]:
            print("not ended yet; it goes on, and the same command waits for it again")
    return 0 if answer["closed"] else 1


def _print(value: Any) -> None:
    print(json.dumps(value))


def _hex(value: bytes) -> str:
    return f"0x{value.hex()}"
