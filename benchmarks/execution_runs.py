"""One measured run of a load: on the embedded layer, on anvil, and its signatures on bare libsecp256k1."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from parallel_evm import BlockStats, Chain

from benchmarks.execution_loads import CHAIN_ID, GENESIS_TIME, Load
from benchmarks.frame import BenchmarkFailed
from benchmarks.recoveries import recoveries
from settlement.genesis import GAS_LIMIT
from tests.support.anvil import start_anvil

CORES = len(os.sched_getaffinity(0))
# Anvil takes bodies of 2 MB, the embedded layer 8 MB and 1,000 requests.
BATCH_BYTES = 1_000_000
BATCH = 500
RECEIPTS = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockReceipts", "params": ["0x1"]}).encode()
MINE = b'{"jsonrpc":"2.0","id":1,"method":"evm_mine","params":[]}'


@dataclass(frozen=True, slots=True)
class Run:
    """From raw bytes to receipts and root: wall and processor seconds, seconds of intake, and gas by hash."""

    seconds: float
    processor: float
    intake: float
    stats: BlockStats
    root: bytes
    gas: dict[str, int]


@dataclass(frozen=True, slots=True)
class AnvilRun:
    """Wall seconds until the block is there, anvil's processor seconds, and gas by transaction hash."""

    seconds: float
    processor: float
    gas: dict[str, int]


def on_chain(
    load: Load,
    threads: int,
    *,
    primed: bool = False,
    parts: Sequence[Sequence[bytes]] = (),
    bodies: Sequence[bytes] = (),
) -> Run:
    """Take the transactions in and execute them in one block, in memory.

    They are handed over in one call, or part by part, or with `bodies` as JSON-RPC batches. `primed`: the
    signatures inside are known beforehand, as when the gateway has verified the vouchers itself.
    Raises BenchmarkFailed unless every transaction was executed and succeeded.
    """
    chain = Chain(chain_id=CHAIN_ID, genesis=load.alloc, threads=threads)
    if primed:
        chain.prime_ecrecover(list(load.verified))
    calls = [list(part) for part in parts or (load.raws,)]
    processor, started = time.process_time(), time.perf_counter()
    if bodies:
        answers = [chain.rpc(body) for body in bodies]
        taken = time.perf_counter()
    else:
        hashes = [sent for call in calls for sent in chain.send_raw_transactions(call)]
        taken = time.perf_counter()
    stats = chain.produce_block(GENESIS_TIME + 1)
    ended = time.perf_counter()
    processor = time.process_time() - processor
    if bodies:
        _accepted(answers)
    else:
        for refused in hashes:
            if not isinstance(refused, bytes):
                raise BenchmarkFailed(f"{load.name}: refused: {refused.message}")
    gas = _gas(load, json.loads(chain.rpc(RECEIPTS)))
    return Run(ended - started, processor, taken - started, stats, chain.state_root, gas)


def on_anvil(load: Load, bodies: Sequence[bytes], connections: int) -> AnvilRun:
    """Send the batches to a fresh anvil, one after the other on each connection, and let it mine one block."""
    with tempfile.TemporaryDirectory(prefix="metergate-anvil-") as directory:
        genesis = Path(directory) / "genesis.json"
        genesis.write_text(load.anvil_genesis, encoding="utf-8")
        options = ("--init", str(genesis), "--no-mining", "--gas-limit", str(GAS_LIMIT), "--threads", "0")
        anvil = start_anvil(chain_id=CHAIN_ID, arguments=options)
        try:
            limits = httpx.Limits(max_connections=connections)
            headers = {"content-type": "application/json"}
            with httpx.Client(timeout=60, limits=limits, headers=headers, trust_env=False) as http:

                def post(body: bytes) -> bytes:
                    return http.post(anvil.url, content=body).content

                return _anvil_run(load, bodies, connections, post, anvil.pid)
        finally:
            anvil.stop()


def _anvil_run(
    load: Load, bodies: Sequence[bytes], connections: int, post: Callable[[bytes], bytes], pid: int
) -> AnvilRun:
    with ThreadPoolExecutor(connections) as pool:
        chain_id = b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}'
        list(pool.map(post, [chain_id] * connections))  # connections are open before the clock runs
        processor, started = _processor_seconds(pid), time.perf_counter()
        answers = list(pool.map(post, bodies))
        mined = post(MINE)
        ended = time.perf_counter()
        processor = _processor_seconds(pid) - processor
    _accepted([*answers, b"[" + mined + b"]"])
    return AnvilRun(ended - started, processor, _gas(load, json.loads(post(RECEIPTS))))


def _processor_seconds(pid: int) -> float:
    """Return the processor time of a process so far, all threads, in steps of one clock tick (10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def split(load: Load) -> tuple[tuple[bytes, ...], ...]:
    """Return the transactions in order, in the parts that one caller sends at a time."""
    parts: list[list[bytes]] = [[]]
    for raw in load.raws:
        size = sum(map(len, parts[-1])) + len(raw)
        if parts[-1] and (len(parts[-1]) == BATCH or 2 * size > BATCH_BYTES):
            parts.append([])
        parts[-1].append(raw)
    return tuple(map(tuple, parts))


def batches(load: Load) -> tuple[bytes, ...]:
    """Return the same parts as JSON-RPC batches of eth_sendRawTransaction."""
    parts = ([send_request(number, raw) for number, raw in enumerate(part)] for part in split(load))
    return tuple(json.dumps(requests).encode() for requests in parts)


def send_request(number: int, raw: bytes) -> dict[str, Any]:
    """Return the JSON-RPC request that sends a raw transaction."""
    return {"jsonrpc": "2.0", "id": number, "method": "eth_sendRawTransaction", "params": [f"0x{raw.hex()}"]}


def _accepted(answers: Iterable[bytes]) -> None:
    for answer in answers:
        for part in json.loads(answer):
            if "error" in part:
                raise BenchmarkFailed(f"refused: {part['error']}")


def _gas(load: Load, answer: dict[str, Any]) -> dict[str, int]:
    """Return gas used by transaction hash, after checking that the whole load is in this block and succeeded."""
    receipts = answer.get("result") or []
    if len(receipts) != len(load.raws):
        raise BenchmarkFailed(f"{load.name}: {len(receipts)} of {len(load.raws)} are in the block")
    for receipt in receipts:
        if receipt["status"] != "0x1" or len(receipt["logs"]) != load.logs:
            raise BenchmarkFailed(f"{load.name}: transaction {receipt['transactionHash']} failed")
    return {receipt["transactionHash"]: int(receipt["gasUsed"], 16) for receipt in receipts}


def bare_recoveries(load: Load, threads: int) -> float:
    """Return seconds to recover every signature inside the load, and nothing else; see `benchmarks.recoveries`."""
    return recoveries(load.verified, threads)
