"""`metergate demo`: broker, embedded execution layer, gateway and a fleet of simulated devices, in one command."""

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parallel_evm import BlockStats, Chain

from channels.types import Address
from gateway.audit import Unsteady, audit
from gateway.chain_server import application, bind, produce_blocks, serve
from gateway.config import (
    ChainConfig,
    Config,
    MqttConfig,
    OfferConfig,
    PipelineConfig,
    ServiceConfig,
    SettlementConfig,
    WebConfig,
)
from gateway.errors import SetupError
from gateway.keys import KeyRing, key_ring, new_seed
from gateway.progress import Progress, print_summary
from gateway.service import Gateway
from gateway.summary import by_service, figures
from gateway.web.server import WebServer
from settlement.client import JsonRpcLayer
from settlement.genesis import PAYOUTS_ADDRESS, TOKEN_ADDRESS, genesis
from settlement.transports import InProcessTransport

CHAIN_ID = 31402
LANES = 4
BLOCK_MS = 250
SETTLE_EVERY_S = 8
# Its journal is gone with it: there is no flash to spare, and a receipt comes at once.
WINDOW_MS = 5
COIN = 10**18
TOKEN = 10**6
FUND_TOKENS = 1_000 * TOKEN
FUND_COINS = 10 * COIN
# The operator's float: pays earners before the payers' claims have come in.
FLOAT_TOKENS = 1_000 * TOKEN
GATEWAY_COINS = 1_000 * COIN
BROKER_WAIT_S = 20.0
# The fleet waits up to 5 s for outstanding receipts after it was asked to stop.
FLEET_STOP_S = 15.0
EXIT_WAIT_S = 0.3

SERVICES = {
    "grid-power": ServiceConfig(unit="Wh", price="150000000000"),
    "ev-charging": ServiceConfig(unit="Wh", price="250000000000"),
    "water": ServiceConfig(unit="L", price="4000000000000"),
    "solar-export": ServiceConfig(unit="Wh", price="80000000000", direction="earn"),
    "air-quality": ServiceConfig(unit="reading", price="500000000000", direction="earn"),
}


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line asked for."""

    devices: int = 25
    rate: str = "16"
    duration: int | None = None
    seed: int = 1
    replay: Path | None = None
    mqtt_port: int = 1883
    rpc_port: int = 8545
    http_port: int = 8402
    fund: tuple[Address, ...] = ()
    json: bool = False


@dataclass(slots=True)
class _Blocks:
    """Who is told of each block: the dashboard, once it is there."""

    put: Callable[[BlockStats], None] = lambda stats: None


async def run_demo(options: DemoOptions) -> int:
    """Run the demo to its end; returns the exit code: 0 only if money flowed, settled and is conserved."""
    began = time.monotonic()
    say = Progress(options.json)
    stop = _stop_on_signals()
    members = await _members(options)
    keys = key_ring(new_seed(), LANES)
    rpc = bind(options.rpc_port, "--rpc-port")
    bind(options.mqtt_port, "--mqtt-port").close()
    bind(options.http_port, "--http-port").close()
    say.line(f"{len(members)} simulated devices get their money in genesis (seed {options.seed})")
    chain = Chain(chain_id=CHAIN_ID, genesis=json.dumps(_genesis(options, keys, members)))
    with tempfile.TemporaryDirectory(prefix="metergate-demo-") as directory:
        layer = JsonRpcLayer(InProcessTransport(chain), expected_chain_id=CHAIN_ID)
        gateway = Gateway(_config(options, directory), keys, layer)
        gateway.vouch = chain.prime_ecrecover
        blocks = _Blocks()
        async with _background(
            serve(application(chain), rpc), produce_blocks(chain, BLOCK_MS, lambda stats: blocks.put(stats))
        ):
            say.line(f"execution layer: chain id {CHAIN_ID}, JSON-RPC on http://127.0.0.1:{options.rpc_port}")
            async with _broker(options.mqtt_port) as broker:
                await gateway.start()
                say.line(
                    f"broker on 127.0.0.1:{options.mqtt_port}; {gateway.config.gateway} sells {', '.join(SERVICES)}"
                )
                web = WebServer(gateway, gateway.config.web, chain=chain)
                blocks.put = web.took_block
                say.line(f"dashboard: {web.url} (no login: it is on loopback only)")
                async with _background(web.serve()) as _:
                    result = await _flow(gateway, broker, options, stop, say)
                await gateway.stop()
        await layer.close()
    say.end()
    print_summary(result, time.monotonic() - began, as_json=options.json)
    return 0 if _is_good(result) else 1


async def _flow(
    gateway: Gateway,
    broker: asyncio.subprocess.Process,
    options: DemoOptions,
    stop: asyncio.Event,
    say: Progress,
) -> dict[str, Any]:
    """Let money flow until the fleet or the operator ends it; then settle for the last time and prove the books."""
    async with _background(gateway.run()) as work:
        async with _fleet(options) as fleet:
            report = await _watch(gateway, fleet, broker, work, stop, options, say)
        if broker.returncode is not None:
            raise SetupError("the demo's broker has ended by itself; start the demo again.")
        if not report:
            say.line("the simulated devices ended without a report")
        say.line("the fleet has stopped; settling for the last time")
        await gateway.settler.settle()
        result = {**figures(gateway.ledger, gateway.pipeline.counters), **_latency(report), "seed": options.seed}
        if options.replay is not None:
            prices = {name: int(service.price) for name, service in SERVICES.items()}
            result["by_service"] = by_service(gateway.ledger, prices)
        try:
            faults, warnings = await audit(gateway.books, gateway.layer, gateway.watcher, whole_chain=True)
        except Unsteady as error:
            faults, warnings = [str(error)], []
        for text in (*faults, *warnings):
            say.line(text)
        result["conserved"] = not faults
        result["fleet"] = report
    return result


@contextlib.asynccontextmanager
async def _background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run coroutines beside the body and cancel them after it; a fault in one ends the body with it."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
            yield tasks[0]
            for task in tasks:
                task.cancel()
    except* asyncio.CancelledError:
        pass


def _stop_on_signals() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set, even where SIGINT was inherited as ignored."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


# -- what is run --


def _genesis(options: DemoOptions, keys: KeyRing, members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    balances: dict[Address, int] = {keys.treasury.address: FLOAT_TOKENS}
    coins = dict.fromkeys(keys.addresses, GATEWAY_COINS)
    for address in options.fund:
        balances[address] = balances.get(address, 0) + FUND_TOKENS
        coins[address] = coins.get(address, 0) + FUND_COINS
    for member in members:
        payer = member.get("payer")
        if payer is not None:
            address = bytes.fromhex(payer[2:])
            balances[address] = balances.get(address, 0) + int(member["tokens"])
    return genesis(balances, coins, timestamp=int(time.time()))


def _config(options: DemoOptions, directory: str) -> Config:
    return Config(
        gateway="gw1",
        data_dir=directory,
        key_file=f"{directory}/unused",
        mqtt=MqttConfig(port=options.mqtt_port),
        chain=ChainConfig(
            url=f"http://127.0.0.1:{options.rpc_port}",
            chain_id=CHAIN_ID,
            asset=f"0x{TOKEN_ADDRESS.hex()}",
            payouts=f"0x{PAYOUTS_ADDRESS.hex()}",
            poll_ms=50,
        ),
        services=SERVICES,
        lanes=LANES,
        offer=OfferConfig(),
        settlement=SettlementConfig(every_s=SETTLE_EVERY_S),
        pipeline=PipelineConfig(window_ms=WINDOW_MS),
        web=WebConfig(port=options.http_port),
        demo=True,
    )


def _simulator(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "firmware_sim", *arguments]


def _who(options: DemoOptions) -> list[str]:
    if options.replay is not None:
        return ["--replay", str(options.replay), "--seed", str(options.seed)]
    return ["--devices", str(options.devices), "--seed", str(options.seed)]


async def _members(options: DemoOptions) -> list[dict[str, Any]]:
    """Ask the simulator, which knows its own keys, who needs how much money."""
    process = await asyncio.create_subprocess_exec(
        *_simulator("addresses", *_who(options)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        reason = err.decode(errors="replace").strip().splitlines()
        raise SetupError(f"the simulated devices cannot start: {reason[-1] if reason else 'no reason given'}")
    members: list[dict[str, Any]] = json.loads(out)
    return members


@contextlib.asynccontextmanager
async def _broker(port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the demo's broker in a process of its own and wait until it answers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.broker", "--port", str(port),
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + BROKER_WAIT_S
        while not await _answers(port):
            if process.returncode is not None or time.monotonic() > deadline:
                raise SetupError(f"the demo's broker did not start on port {port}.")
            await asyncio.sleep(0.05)
        yield process
    finally:
        await _end(process, 5.0)


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@contextlib.asynccontextmanager
async def _fleet(options: DemoOptions) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the simulated devices in a process of their own."""
    arguments = [
        "fleet",
        *_who(options),
        "--gateway",
        "gw1",
        "--port",
        str(options.mqtt_port),
        "--json",
        "--with-parent",
    ]
    if options.replay is None:
        arguments += ["--rate", options.rate]
        if options.duration is not None:
            arguments += ["--duration", str(options.duration)]
    process = await asyncio.create_subprocess_exec(
        *_simulator(*arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        await _end(process, FLEET_STOP_S)


async def _end(process: asyncio.subprocess.Process, patience_s: float) -> None:
    with contextlib.suppress(TimeoutError):  # one that is ending by itself is left to do so
        await asyncio.wait_for(process.wait(), EXIT_WAIT_S)
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), patience_s)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _watch(
    gateway: Gateway,
    fleet: asyncio.subprocess.Process,
    broker: asyncio.subprocess.Process,
    work: asyncio.Task[None],
    stop: asyncio.Event,
    options: DemoOptions,
    say: Progress,
) -> dict[str, Any]:
    """Show progress until the fleet ends, a signal comes or a part is gone; returns the fleet's own report."""
    assert fleet.stdout is not None, "the fleet's output is a pipe"
    output = asyncio.ensure_future(fleet.stdout.read())
    ends = {output, work, asyncio.ensure_future(broker.wait()), asyncio.ensure_future(stop.wait())}
    deadline = None if options.duration is None else time.monotonic() + options.duration + FLEET_STOP_S
    while not any(end.done() for end in ends):
        await asyncio.wait(ends, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
        say.progress(gateway)
        # The fleet ends by itself after its duration; this is for one that does not.
        if deadline is not None and time.monotonic() > deadline:
            break
    if not output.done():
        fleet.terminate()
        await asyncio.wait((output,), timeout=FLEET_STOP_S)
    for end in ends - {work}:
        end.cancel()
    if not output.done() or output.cancelled():
        return {}
    lines = output.result().decode().strip().splitlines()
    report: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return report


def _latency(report: dict[str, Any]) -> dict[str, Any]:
    return {name: report.get(name) for name in ("receipt_ms_p50", "receipt_ms_p99")}


def _is_good(result: dict[str, Any]) -> bool:
    """True when money was charged, moved on chain, nothing was lost or made, and the devices could say so."""
    moved = int(result["charged"]) > 0 and int(result["settled"]) > 0
    return bool(moved and result["conserved"] and result["fleet"])
