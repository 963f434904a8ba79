"""How the embedded layer answers: latency of eth_sendRawTransaction, and block times while transactions keep coming."""

import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from io import FileIO
from pathlib import Path

from parallel_evm import BlockStats, Chain, RpcError

from benchmarks.execution_loads import CHAIN_ID, TRANSFER_GAS, account, signed, transfers
from benchmarks.execution_runs import send_request
from benchmarks.frame import BenchmarkFailed, Row, against, percentile
from benchmarks.site import working_directory
from settlement.calls import transfer
from settlement.genesis import TOKEN_ADDRESS

SENT = 2_000
SENT_DURABLE = 500
# A burst of 20 every 20 ms: what the lanes and devices of a large site would send, not what the layer can take.
BURST = 20
EVERY_S = 0.02
BURSTS = 250
PACE = round(BURST / EVERY_S)
BLOCK_S = 0.1


def _chain(path: Path | None = None) -> Chain:
    return Chain(chain_id=CHAIN_ID, genesis=transfers("transfers_free").alloc, path=path)


def _rejected(answer: bytes) -> bool:
    return "error" in json.loads(answer)


def _send_one_by_one(chain: Chain, raws: Sequence[bytes]) -> list[float]:
    """Return the microseconds of each request, from its bytes to those of its answer."""
    bodies = [json.dumps(send_request(number, raw)).encode() for number, raw in enumerate(raws)]
    times = []
    for body in bodies:
        started = time.perf_counter_ns()
        answer = chain.rpc(body)
        times.append((time.perf_counter_ns() - started) / 1e3)
        if _rejected(answer):
            raise BenchmarkFailed(f"refused: {answer[:200]!r}")
    return times


def send_latencies() -> Iterable[Row]:
    """One request after the other, in process: in memory, and durable before the answer.

    Each durable one has a bare durable write of as many bytes before it, to the same directory.
    """
    raws = transfers("transfers_free").raws[:SENT]
    chain = _chain()
    times = _send_one_by_one(chain, raws)
    for percent in (50, 99):
        yield Row(f"rpc_send_us_p{percent}", round(percentile(times, percent), 1), "µs")
    with working_directory() as directory:
        chain = _chain(directory / "chain")
        times, bare = [], []
        with (directory / "probe").open("ab", buffering=0) as probe:
            for raw in raws[:SENT_DURABLE]:
                bare.append(_durable_write(probe, raw))
                times += _send_one_by_one(chain, [raw])
        chain.close()
    for percent in (50, 99):
        value, base = percentile(times, percent), percentile(bare, percent)
        yield Row(f"rpc_send_durable_us_p{percent}", round(value, 1), "µs", **against(value, base, "one durable write"))


def _durable_write(file: FileIO, data: bytes) -> float:
    """Append and sync; returns microseconds."""
    started = time.perf_counter_ns()
    file.write(data)
    os.fdatasync(file.fileno())
    return (time.perf_counter_ns() - started) / 1e3


def blocks_under_load() -> Iterable[Row]:
    """Durable bursts at a steady pace from one thread, a durable block every 100 ms from another."""
    key_count = len(transfers("transfers_free").raws)
    bursts = [[_transfer(burst * BURST + place, key_count) for place in range(BURST)] for burst in range(BURSTS)]
    blocks: list[BlockStats] = []
    done = threading.Event()
    with working_directory() as directory:
        chain = _chain(directory / "chain")

        def produce() -> None:
            due = time.perf_counter()
            while not done.is_set():
                due = max(due + BLOCK_S, time.perf_counter())
                time.sleep(max(0.0, due - time.perf_counter()))
                blocks.append(chain.produce_block())

        producer = threading.Thread(target=produce)
        producer.start()
        try:
            delays = _pace(chain, bursts)
        finally:
            done.set()
            producer.join()
        blocks.append(chain.produce_block())
        chain.close()
    mined = sum(block.transactions for block in blocks)
    if mined != BURSTS * BURST:
        raise BenchmarkFailed(f"{mined} of {BURSTS * BURST} transfers are in blocks")
    full = [block for block in blocks if block.transactions]
    for percent in (50, 99):
        yield Row(
            f"block_ms_p{percent}_under_load", round(percentile((b.total_us for b in full), percent) / 1e3, 2), "ms"
        )
    for percent in (50, 99):
        yield Row(f"burst_ms_p{percent}_under_load", round(percentile(delays, percent), 2), "ms")
    yield Row("transactions_per_block_under_load", round(mined / len(full)), "transactions")


def _pace(chain: Chain, bursts: Sequence[list[bytes]]) -> list[float]:
    """Send the bursts when they are due; returns the milliseconds from then until each is taken in."""
    delays = []
    answers: list[bytes | RpcError] = []
    first = time.perf_counter()
    for number, burst in enumerate(bursts):
        due = first + number * EVERY_S
        time.sleep(max(0.0, due - time.perf_counter()))
        answers += chain.send_raw_transactions(burst)
        delays.append((time.perf_counter() - due) * 1e3)
    if not all(isinstance(answer, bytes) for answer in answers):
        raise BenchmarkFailed("a transfer was refused under load")
    return delays


def _transfer(number: int, key_count: int) -> bytes:
    key, _ = account(number % key_count)
    data = transfer(account((number + 1) % key_count)[1], 1)
    return signed(key, number // key_count, TOKEN_ADDRESS, TRANSFER_GAS, data)
