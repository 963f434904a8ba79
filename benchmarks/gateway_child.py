"""A gateway with the embedded layer, as the demo has them, in a process of its own.

    python -m benchmarks.gateway_child JOB

JOB is JSON: mqtt_port, data_dir, devices (how many of the population get money); and if wanted: settle_every_s, tokens
(what other addresses get, hex to base units), services "demo" for all that the demo sells and buys, history_blocks
(the chain is on disk and holds so many blocks; else all are held in memory). It says {"ready": true} when the offer is
published, and to each line of input what `sample` returns. When its input ends it settles for the last time if it
ever does, proves its books and says what they hold, stops, and says {"written": …}: the bytes that it has caused to
be written to the disk, what it stored at its end included.
"""

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from parallel_evm import Chain

from benchmarks.population import CHAIN_ID, DEPOSIT, GATEWAY, SERVICE, member
from benchmarks.site import written_bytes
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
# The operator's float: pays earners before the payers' claims have come in.
FLOAT = 10**12
# Settlement is rarely what is measured here: none falls into a measured window unless it is asked for.
SETTLE_EVERY_S = 86_400


def say(value: dict[str, Any]) -> None:
    """Answer the parent with one line."""
    print(json.dumps(value), flush=True)


def _chain(keys: KeyRing, job: dict[str, Any]) -> Chain:
    tokens: dict[Address, int] = {member(index).address: DEPOSIT for index in range(job["devices"])}
    tokens |= {bytes.fromhex(address): amount for address, amount in job.get("tokens", {}).items()}
    tokens[keys.treasury.address] = FLOAT
    coins = dict.fromkeys(keys.addresses, COINS)
    stated = json.dumps(genesis(tokens, coins, timestamp=int(time.time())))
    blocks = job.get("history_blocks")
    if not blocks:
        return Chain(chain_id=CHAIN_ID, genesis=stated)
    path = Path(job["data_dir"]) / "chain"
    path.mkdir(parents=True)
    return Chain(chain_id=CHAIN_ID, genesis=stated, path=path, history_blocks=blocks)


def _services(job: dict[str, Any]) -> dict[str, ServiceConfig]:
    if job.get("services") != "demo":
        return {SERVICE: ServiceConfig(unit="Wh", price="150000000000")}
    from gateway.demo import SERVICES  # and with it the web server, whose memory others do not pay for

    return SERVICES


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
        services=_services(job),
        lanes=LANES,
        settlement=SettlementConfig(every_s=job.get("settle_every_s", SETTLE_EVERY_S)),
        demo=True,
    )


def sample(gateway: Gateway) -> dict[str, Any]:
    """Return how the gateway is: frames that wait, whether the broker has it, its counts so far."""
    totals = gateway.ledger.totals
    return {
        "queue": gateway.link.queued,
        "connected": gateway.link.connected,
        "payments": totals.payments,
        "settlements": totals.settlements,
        "outstanding": len(gateway.ledger.transactions),
    }


async def _answer_until_input_ends(gateway: Gateway) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        say(sample(gateway))


async def run(job: dict[str, Any]) -> None:
    """Serve until the input ends."""
    keys = key_ring(new_seed(), LANES)
    chain = _chain(keys, job)
    layer = JsonRpcLayer(InProcessTransport(chain), expected_chain_id=CHAIN_ID)
    gateway = Gateway(_config(job), keys, layer)
    blocks = asyncio.ensure_future(produce_blocks(chain, BLOCK_MS))
    await gateway.start()
    work = asyncio.ensure_future(gateway.run())
    say({"ready": True})
    ending = asyncio.ensure_future(_answer_until_input_ends(gateway))
    await asyncio.wait((ending, work), return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        await work
    if "settle_every_s" in job:
        await gateway.settler.settle()
    faults, _ = await audit(gateway.books, layer, gateway.watcher, whole_chain=not job.get("history_blocks"))
    say({"faults": faults, **figures(gateway.ledger, gateway.pipeline.counters)})
    for task in (work, blocks):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await gateway.stop()
    await layer.close()
    say({"written": written_bytes()})


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
