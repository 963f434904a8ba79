"""A gateway with the embedded layer, as the demo has them, in a process of its own.

    python -m benchmarks.gateway_child JOB

JOB is JSON: mqtt_port, data_dir, devices (how many of the population get money). It says {"ready": true} when the
offer is published, runs until its standard input ends, then settles, proves its books and says what they hold.
"""

import asyncio
import contextlib
import json
import sys
import time
from typing import Any

from parallel_evm import Chain

from benchmarks.population import CHAIN_ID, DEPOSIT, GATEWAY, SERVICE, member
from channels.types import Address
from gateway.audit import audit
from gateway.chain_server import produce_blocks
from gateway.config import ChainConfig, Config, MqttConfig, ServiceConfig, SettlementConfig
from gateway.keys import KeyRing, key_ring, new_seed
from gateway.service import Gateway
from gateway.summary import figures
from settlement.client import JsonRpcLayer
from settlement.genesis import PAYOUTS_ADDRESS, TOKEN_ADDRESS, genesis
from settlement.transports import InProcessTransport

LANES = 4
BLOCK_MS = 250
COINS = 10**21
# Settlement is not what is measured here: none falls into a measured window.
SETTLE_EVERY_S = 86_400


def say(value: dict[str, Any]) -> None:
    """Answer the parent with one line."""
    print(json.dumps(value), flush=True)


def _chain(keys: KeyRing, devices: int) -> Chain:
    tokens: dict[Address, int] = {member(index).address: DEPOSIT for index in range(devices)}
    coins = dict.fromkeys(keys.addresses, COINS)
    return Chain(chain_id=CHAIN_ID, genesis=json.dumps(genesis(tokens, coins, timestamp=int(time.time()))))


def _config(job: dict[str, Any]) -> Config:
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
        services={SERVICE: ServiceConfig(unit="Wh", price="150000000000")},
        lanes=LANES,
        settlement=SettlementConfig(every_s=SETTLE_EVERY_S),
        demo=True,
    )


async def _until_input_ends() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        pass


async def run(job: dict[str, Any]) -> None:
    """Serve until the input ends."""
    keys = key_ring(new_seed(), LANES)
    chain = _chain(keys, job["devices"])
    layer = JsonRpcLayer(InProcessTransport(chain), expected_chain_id=CHAIN_ID)
    gateway = Gateway(_config(job), keys, layer)
    blocks = asyncio.ensure_future(produce_blocks(chain, BLOCK_MS))
    await gateway.start()
    work = asyncio.ensure_future(gateway.run())
    say({"ready": True})
    ending = asyncio.ensure_future(_until_input_ends())
    await asyncio.wait((ending, work), return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        await work
    faults, _ = await audit(gateway.books, layer, gateway.watcher, whole_chain=True)
    say({"faults": faults, **figures(gateway.ledger, gateway.pipeline.counters)})
    for task in (work, blocks):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await gateway.stop()
    await layer.close()


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
