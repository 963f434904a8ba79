"""A gateway with the embedded layer and many channels that owe something, in a process of its own.

    python -m benchmarks.settlement_child JOB

JOB is JSON: mqtt_port, data_dir, homes, kind ("payers", "netted" or "apart"). Journal and chain are kept in data_dir,
so that a second process takes up what a killed one left. It says {"ready": …} with the seconds from the start of
its program, and then answers lines: {"do": "move_in"}, {"do": "age"} (blocks pass), {"do": "run"} (from here on it
takes messages, as it does after the following), {"do": "settle"}, {"do": "begin"} (settles, and answers when the first
transactions are signed), {"do": "audit"}. It ends when its standard input does.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from parallel_evm import Chain

from benchmarks.population import CHAIN_ID, GATEWAY
from benchmarks.settlement_homes import DEPOSITOR_KEY, FEE_BPS, SERVICES, Home, funded, move_in, neighbourhood, payers
from benchmarks.site import resident_bytes
from channels.signatures import key_address
from gateway.audit import audit
from gateway.chain_server import produce_blocks
from gateway.config import ChainConfig, Config, MqttConfig, SettlementConfig
from gateway.keys import KeyRing, key_ring
from gateway.records import CycleEnded
from gateway.service import Gateway
from gateway.watcher import SEEN_EVERY_BLOCKS
from settlement.client import JsonRpcLayer
from settlement.genesis import PAYOUTS_ADDRESS, TOKEN_ADDRESS, genesis
from settlement.transports import InProcessTransport

SEED = b"metergate settlement benchmark!!"  # of keys that hold nothing of worth; 32 bytes
LANES = 4
BLOCK_MS = 250
COINS = 10**21
FLOAT = 10**12
SETTLE_EVERY_S = 43_200  # none but those asked for
POLL_S, POLLS = 0.001, 60_000


def say(value: dict[str, Any]) -> None:
    """Answer the parent with one line."""
    print(json.dumps(value), flush=True)


def homes_of(job: dict[str, Any]) -> list[Home]:
    """Return the homes of a job."""
    if job["kind"] == "payers":
        return payers(job["homes"])
    return neighbourhood(job["homes"], netted=job["kind"] == "netted")


def config(job: dict[str, Any]) -> Config:
    """Return a configuration that settles when asked, all that is owed."""
    return Config(
        gateway=GATEWAY,
        data_dir=job["data_dir"],
        key_file="unused",
        mqtt=MqttConfig(port=job["mqtt_port"]),
        chain=ChainConfig(
            url="http://127.0.0.1:1",  # unused: the layer is in this process
            chain_id=CHAIN_ID,
            asset=f"0x{TOKEN_ADDRESS.hex()}",
            payouts=f"0x{PAYOUTS_ADDRESS.hex()}",
            poll_ms=50,
        ),
        services=SERVICES,
        lanes=LANES,
        settlement=SettlementConfig(every_s=SETTLE_EVERY_S, fee_bps=FEE_BPS),
        demo=True,
    )


def chain_of(job: dict[str, Any], keys: KeyRing) -> Chain:
    """Return the embedded layer of a job, as it was left if there was one."""
    path = Path(job["data_dir"])
    stated = path / "genesis.json"
    if not stated.exists():
        coins = dict.fromkeys((*keys.addresses, key_address(DEPOSITOR_KEY)), COINS)
        tokens = funded(homes_of(job)) | {keys.treasury.address: FLOAT}
        # A constant time of genesis: it is part of the chain's identity, and the second process states it again.
        stated.write_text(json.dumps(genesis(tokens, coins, timestamp=1)), encoding="ascii")
    (path / "chain").mkdir(exist_ok=True)
    return Chain(chain_id=CHAIN_ID, genesis=stated.read_text(encoding="ascii"), path=path / "chain")


async def _requests() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


class Site:
    """The gateway of one job."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        keys, before = key_ring(SEED, LANES), resident_bytes()
        self._chain = chain_of(job, keys)
        self._layer_bytes = resident_bytes() - before
        self._layer = JsonRpcLayer(InProcessTransport(self._chain), expected_chain_id=CHAIN_ID)
        self._gateway = Gateway(config(job), keys, self._layer)
        self._tasks: list[asyncio.Task[Any]] = []

    async def serve(self, started: float) -> None:
        """Start and answer until the input ends; a fault of the gateway ends the process."""
        self._tasks.append(asyncio.create_task(produce_blocks(self._chain, BLOCK_MS)))
        await self._gateway.start()
        ready = time.monotonic()
        channels = len(self._gateway.ledger.channels)
        say({"ready": ready - started, "channels": channels, "layer_bytes": self._layer_bytes})
        async for request in _requests():
            if len(self._tasks) == 1 and request["do"] not in ("move_in", "age"):
                self._tasks.append(asyncio.create_task(self._gateway.run()))
                await asyncio.sleep(0)
            for task in self._tasks:
                if task.done():
                    await task
            say(await getattr(self, request["do"])())
        for task in reversed(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._gateway.stop()
        await self._layer.close()

    async def move_in(self) -> dict[str, Any]:
        """Fund every channel and journal the devices' day."""
        await move_in(self._gateway, self._chain, homes_of(self._job))
        return {"channels": len(self._gateway.ledger.channels)}

    async def age(self) -> dict[str, Any]:
        """Make empty blocks until the gateway forgets how to undo what came before: how it is on most days.

        It journals that it has seen such blocks only now and then, and forgets up to what it had seen before that.
        """
        for _ in range(2):
            for _ in range(SEEN_EVERY_BLOCKS + 1):
                self._chain.produce_block()
            await self._gateway.watcher.step()
        return {"undo": len(self._gateway.ledger.undo)}

    async def run(self) -> dict[str, Any]:
        """Nothing but what every request does: let the gateway run."""
        return {}

    async def settle(self) -> dict[str, Any]:
        """Settle once; answers with what it took and moved."""
        ledger = self._gateway.ledger
        stalls: list[float] = []
        probe = asyncio.create_task(_probe(stalls))
        before, cpu, started = ledger.totals, time.process_time(), time.monotonic()
        ended = await self._gateway.settler.settle()
        took = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
        probe.cancel()
        took["stall_s"] = max(stalls)
        paid = [party for party in ledger.parties.values() if party.paid]
        owed = [channel for channel in ledger.channels.values() if channel.unclaimed]
        return took | {
            "moved": _moved(ended),
            "gas": ledger.totals.gas_used - before.gas_used,
            "claimed": sum(channel.claimed for channel in ledger.channels.values()),
            "claims": sum(channel.claimed > 0 for channel in ledger.channels.values()),
            "paid": sum(party.paid for party in paid),
            "payouts": len(paid),
            "offset": sum(channel.offset for channel in ledger.channels.values()),
            "unsettled": len(owed) + len(ledger.transactions) + len(ledger.cycles),
        }

    async def begin(self) -> dict[str, Any]:
        """Settle, and answer as soon as the claims are signed: to be killed now."""
        task = asyncio.create_task(self._gateway.settler.settle())
        self._tasks.append(task)
        for _ in range(POLLS):
            if self._gateway.ledger.transactions or task.done():
                break
            await asyncio.sleep(POLL_S)
        return {"signed": len(self._gateway.ledger.transactions)}

    async def audit(self) -> dict[str, Any]:
        """Prove the books against the whole chain."""
        gateway = self._gateway
        faults, _ = await audit(gateway.books, self._layer, gateway.watcher, whole_chain=True)
        return {"faults": faults, "payments": gateway.ledger.totals.payments}


async def _probe(stalls: list[float]) -> None:
    """Note how much later than it wanted to this task has its turn: for so long no receipt is sent."""
    while True:
        due = time.monotonic() + POLL_S
        await asyncio.sleep(POLL_S)
        stalls.append(time.monotonic() - due)


def _moved(ended: CycleEnded | None) -> dict[str, int]:
    return {} if ended is None else {"rows": ended.rows, "claimed": ended.claimed, "settled": ended.settled}


if __name__ == "__main__":
    asyncio.run(Site(json.loads(sys.argv[1])).serve(time.monotonic()))
