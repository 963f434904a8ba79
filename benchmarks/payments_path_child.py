"""The voucher path and its peers in one process, on some of the machine's cores, in turns.

    python -m benchmarks.payments_path_child JOB

JOB is JSON: mqtt_port, data_dir, homes (channels of each side), kind "payers", cores, count (messages of a round),
seconds (how long to go on), stock (vouchers that the stock x402 server gets in a round; 0: none). It says one line:
for each side the messages per second of every round, and the Python instructions per message, which do not depend on
the machine. The gateway is real and started; only its MQTT is not used.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any

from benchmarks.frame import BenchmarkFailed
from benchmarks.load import NETWORK, Channel, config_of
from benchmarks.payments_path import BATCH, Bare, Side, VoucherPath, WholePipeline
from benchmarks.payments_stock import StockServer
from benchmarks.population import CHAIN_ID, SERVICE, member
from benchmarks.settlement_child import BLOCK_MS, LANES, SEED, chain_of, config, homes_of, say
from benchmarks.settlement_homes import move_in
from channels.digests import channel_id
from gateway.chain_server import produce_blocks
from gateway.keys import key_ring
from gateway.ledger import Ledger
from gateway.service import Gateway
from settlement.client import JsonRpcLayer
from settlement.transports import InProcessTransport

ROUNDS_MIN = 2


def _channels(job: dict[str, Any], gateway: Gateway) -> list[Channel]:
    """Return what the devices know after the readings that were journaled."""
    made = []
    for home in homes_of(job):
        owner = member(home.number)
        identifier = channel_id(config_of(owner, gateway.terms.current), NETWORK)
        made.append(Channel(owner, identifier, seq=1, register=home.imported))
    return made


def _ledger(gateway: Gateway) -> Ledger:
    """Return a ledger with the same channels, for a side that journals nothing."""
    ledger = Ledger()
    for channel in gateway.ledger.channels.values():
        ledger.put_channel(channel)
    return ledger


def _sides(job: dict[str, Any], gateway: Gateway) -> dict[str, Side]:
    offer, threads = gateway.terms.current, job["cores"]
    terms = gateway.terms.terms(offer.id, SERVICE)
    if terms is None:
        raise BenchmarkFailed("the gateway's own offer lacks the service")
    sides: dict[str, Side] = {
        "bare": Bare(_channels(job, gateway), offer, threads),
        "coincurve": Bare(_channels(job, gateway), offer, threads, coincurve=True),
    }
    for encoding in ("json", "cbor"):
        sides[encoding] = VoucherPath(_channels(job, gateway), offer, _ledger(gateway), terms, encoding)
    sides["pipeline"] = WholePipeline(_channels(job, gateway), offer, gateway.pipeline)
    if job["stock"]:
        sides["stock"] = StockServer(_channels(job, gateway), offer, gateway.ledger.channels)
    return sides


async def _turns(job: dict[str, Any], sides: Mapping[str, Side]) -> dict[str, list[float]]:
    """Let the sides take turns; the first turn of each warms caches and does not count."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    started, turn = time.monotonic(), 0
    while turn <= ROUNDS_MIN or time.monotonic() - started < job["seconds"]:
        for name, side in sides.items():
            side.sign(job["stock"] if name == "stock" else job["count"])
            seconds = await side.take()
            if turn:
                rates[name].append(len(side.signed) / seconds)
        turn += 1
    return rates


async def _instructions(job: dict[str, Any], sides: Mapping[str, Side]) -> dict[str, float]:
    """Count the bytecode instructions of this thread per message: the same on every machine with this Python."""
    counted = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal counted
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted += event == "opcode"
        return trace

    found = {}
    for name, side in sides.items():
        side.sign(job["stock"] if name == "stock" else min(job["count"], BATCH))
        counted = 0
        sys.settrace(trace)
        try:
            await side.take()
        finally:
            sys.settrace(None)
        found[name] = counted / len(side.signed)
    return found


async def run(job: dict[str, Any]) -> None:
    """Start a gateway, measure, and say what came out."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["cores"]])
    keys = key_ring(SEED, LANES)
    chain = chain_of(job, keys)
    layer = JsonRpcLayer(InProcessTransport(chain), expected_chain_id=CHAIN_ID)
    gateway = Gateway(config(job), keys, layer)
    blocks = asyncio.create_task(produce_blocks(chain, BLOCK_MS))
    await gateway.start()
    blocks.cancel()
    await move_in(gateway, chain, homes_of(job))
    try:
        sides = _sides(job, gateway)
        say({"rates": await _turns(job, sides), "instructions": await _instructions(job, sides)})
    except BenchmarkFailed as error:
        say({"failed": str(error)})
    await gateway.stop()
    await layer.close()


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
