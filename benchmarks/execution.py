"""Suite `execution`: the embedded layer from raw signed bytes to receipts and state root. Not part of the default run.

Every comparison alternates between its sides, so that what else the machine does falls on all of them. The figure is
that of the best run of each side, which was disturbed least; `*_median` has the median run, and as its ratio the
median of the ratios of neighbouring runs.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.execution_child import ACCOUNTS
from benchmarks.execution_loads import Load, claims, transfers
from benchmarks.execution_runs import CORES, AnvilRun, Run, bare_recoveries, batches, on_anvil, on_chain, split
from benchmarks.execution_service import blocks_under_load, send_latencies
from benchmarks.frame import Benchmark, BenchmarkFailed, Row, Suite, against
from benchmarks.site import ROOT
from tests.support.anvil import AnvilMissing

# Rounds of a comparison: as many as fit into the time, so that a busy machine cannot stretch the suite without end.
PAIRS = 9
PAIRS_S = 8.0
ANVIL_ROUNDS = 5
ANVIL_S = 25.0
# One caller that sends batch after batch; and two, with which anvil does best on two cores.
CONNECTIONS = (1, 2)
ROUNDS_MIN = 2
CHILD_S = 120.0
TRANSFERS = ("transfers_free", "transfers_hot16", "transfers_hot1", "transfers_chain")


@dataclass(frozen=True, slots=True)
class Pairs:
    """Runs on all cores and on one, the n-th of each beside the other."""

    parallel: tuple[Run, ...]
    sequential: tuple[Run, ...]


def _rounds(most: int, seconds: float) -> Iterator[int]:
    """Count rounds up to `most`, but after the first two no further than `seconds`."""
    started = time.monotonic()
    for turn in range(most):
        if turn >= ROUNDS_MIN and time.monotonic() - started > seconds:
            return
        yield turn


def _pairs(load: Load, *, primed: bool = False) -> Pairs:
    """Run a load in turns on all cores and on one.

    Raises BenchmarkFailed if the two do not come to the same state root and the same gas of every transaction.
    """
    on_chain(load, CORES, primed=primed)  # pages and caches
    runs: dict[int, list[Run]] = {CORES: [], 1: []}
    for turn in _rounds(PAIRS, PAIRS_S):
        order = (CORES, 1) if turn % 2 else (1, CORES)
        for threads in dict.fromkeys(order):
            runs[threads].append(on_chain(load, threads, primed=primed))
    if len({run.root for side in runs.values() for run in side}) != 1 or runs[CORES][0].gas != runs[1][0].gas:
        raise BenchmarkFailed(f"{load.name}: parallel and sequential execution differ")
    return Pairs(tuple(runs[CORES]), tuple(runs[1]))


def _rates(name: str, pairs: Pairs) -> Iterable[Row]:
    """The rows of one case: best, median, the executor alone, and processor time, each against `sequential`."""
    count = pairs.parallel[0].stats.transactions
    unit = "transactions/s"
    best, base = (min(run.seconds for run in side) for side in (pairs.parallel, pairs.sequential))
    yield Row(name, round(count / best), unit, **against(base, best, "sequential"))
    ratios = [one.seconds / many.seconds for many, one in zip(pairs.parallel, pairs.sequential, strict=True)]
    middle = median(run.seconds for run in pairs.parallel)
    yield Row(f"{name}_median", round(count / middle), unit, round(median(ratios), 3), "sequential")
    best, base = (min(run.stats.execute_us for run in side) for side in (pairs.parallel, pairs.sequential))
    yield Row(f"{name}_execution_alone", round(count * 1e6 / best), unit, **against(base, best, "sequential"))
    cost, base = (median(run.processor for run in side) for side in (pairs.parallel, pairs.sequential))
    yield Row(f"{name}_cpu_us", round(cost * 1e6 / count, 1), "µs/transaction", **against(cost, base, "sequential"))


def _transfer_rates() -> Iterable[Row]:
    for name in TRANSFERS:
        pairs = _pairs(transfers(name))
        yield from _rates(name, pairs)
        if name == "transfers_free":
            for part, spent in (("intake", _intake_us), ("state_root", _root_us)):
                share = median(spent(run) / (run.seconds * 1e6) for run in pairs.parallel)
                yield Row(f"{name}_{part}_share", round(share, 3), "of the time")


def _intake_us(run: Run) -> float:
    return run.intake * 1e6


def _root_us(run: Run) -> float:
    return run.stats.root_us


def _claim_rates(name: str) -> Callable[[], Iterable[Row]]:
    """Rates, and what was repeated: the worst of all runs, in transactions of one block."""

    def run() -> Iterable[Row]:
        pairs = _pairs(claims(one_receiver=name == "claims_one_receiver"))
        yield from _rates(name, pairs)
        for figure in ("reexecuted", "aborted"):
            worst = max(getattr(each.stats, figure) for each in pairs.parallel)
            count = pairs.parallel[0].stats.transactions
            yield Row(f"{name}_{figure}", worst, "transactions", **against(worst, count, "transactions of the block"))

    return run


def _recoveries() -> Iterable[Row]:
    """Claim rows a second beside what libsecp256k1 recovers when it has nothing else to do."""
    load = claims()
    rows = len(load.verified)
    sides: dict[str, list[float]] = {"bare": [], "one": [], "claims": [], "primed": []}
    for _ in _rounds(PAIRS, PAIRS_S):
        sides["bare"].append(bare_recoveries(load, CORES))
        sides["claims"].append(on_chain(load, CORES).seconds)
        sides["primed"].append(on_chain(load, CORES, primed=True).seconds)
        sides["one"].append(bare_recoveries(load, 1))
    wall = f"libsecp256k1 on {CORES} threads"
    bare = min(sides["bare"])
    for name, side in (("claims_vs_libsecp256k1", "claims"), ("claims_primed_vs_libsecp256k1", "primed")):
        best = min(sides[side])
        yield Row(name, round(rows / best), "rows/s", **against(bare, best, wall))
        ratios = [base / taken for base, taken in zip(sides["bare"], sides[side], strict=True)]
        yield Row(f"{name}_median", round(rows / median(sides[side])), "rows/s", round(median(ratios), 3), wall)
    one = min(sides["one"])
    yield Row("libsecp256k1_recoveries", round(rows / bare), "recoveries/s", **against(one, bare, "one thread"))
    yield from _rates("claims_primed", _pairs(load, primed=True))


def _against_anvil(name: str, make: Callable[[], Load]) -> Callable[[], Iterable[Row]]:
    """The same raw transactions, in the same parts, from one caller to each side; and anvil over two connections."""

    def run() -> Iterable[Row]:
        load = make()
        parts, bodies = split(load), batches(load)
        ours: list[Run] = []
        by_json: list[float] = []
        theirs: dict[int, list[AnvilRun]] = {connections: [] for connections in CONNECTIONS}
        try:
            for _ in _rounds(ANVIL_ROUNDS, ANVIL_S):
                ours.append(on_chain(load, CORES, parts=parts))
                by_json.append(on_chain(load, CORES, bodies=bodies).seconds)
                for connections, runs in theirs.items():
                    runs.append(on_anvil(load, bodies, connections))
        except AnvilMissing as error:
            raise BenchmarkFailed(str(error)) from error
        if any(run.gas != ours[0].gas for runs in theirs.values() for run in runs):
            raise BenchmarkFailed(f"{load.name}: gas differs from anvil's")
        yield from _anvil_rows(name, len(load.raws), ours, by_json, theirs)
        total, their_total = sum(ours[0].gas.values()), sum(theirs[1][0].gas.values())
        yield Row(f"{name}_gas", total, "gas", **against(total, their_total, "anvil, each transaction"))

    return run


def _anvil_rows(
    name: str, count: int, ours: Sequence[Run], by_json: Sequence[float], theirs: Mapping[int, Sequence[AnvilRun]]
) -> Iterable[Row]:
    unit = "transactions/s"
    peer = {connections: f"anvil, {connections} connection{'s' * (connections > 1)}" for connections in theirs}
    base = {connections: min(run.seconds for run in runs) for connections, runs in theirs.items()}
    best = min(run.seconds for run in ours)
    yield Row(name, round(count / best), unit, **against(base[1], best, peer[1]))
    ratios = [run.seconds / mine.seconds for run, mine in zip(theirs[1], ours, strict=True)]
    middle = median(run.seconds for run in ours)
    yield Row(f"{name}_median", round(count / middle), unit, round(median(ratios), 3), peer[1])
    yield Row(f"{name}_two_connections", round(count / best), unit, **against(base[2], best, peer[2]))
    yield Row(f"{name}_by_json", round(count / min(by_json)), unit, **against(base[1], min(by_json), peer[1]))
    yield Row(f"{name}_anvil", round(count / base[1]), unit)
    yield Row(f"{name}_anvil_two_connections", round(count / base[2]), unit)
    cost = median(run.processor for run in ours) * 1e6 / count
    their_cost = median(run.processor for run in theirs[1]) * 1e6 / count
    yield Row(f"{name}_cpu_us", round(cost, 1), "µs/transaction", **against(cost, their_cost, "anvil's process"))


def _memory() -> Iterable[Row]:
    """What accounts add to the resident memory of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.execution_child"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=CHILD_S, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"the child ended with code {done.returncode}: {done.stderr[-300:]}")
    answer = json.loads(done.stdout)
    if answer["made"] != ACCOUNTS:
        raise BenchmarkFailed(f"{answer['made']} of {ACCOUNTS} accounts were made")
    yield Row(f"memory_mb_{ACCOUNTS}_accounts", round((answer["after"] - answer["before"]) / 1e6, 1), "MB")


def _four(name: str) -> tuple[str, ...]:
    return (name, f"{name}_median", f"{name}_execution_alone", f"{name}_cpu_us")


def _service() -> Iterable[Row]:
    yield from send_latencies()
    yield from blocks_under_load()


def _claims_names(name: str) -> tuple[str, ...]:
    return (*_four(name), f"{name}_reexecuted", f"{name}_aborted")


def _anvil_names(name: str) -> tuple[str, ...]:
    return (name, f"{name}_two_connections", f"{name}_by_json", f"{name}_gas")


EXECUTION = Suite(
    "execution",
    (
        Benchmark("token transfers", _transfer_rates, tuple(row for name in TRANSFERS for row in _four(name))),
        Benchmark("claims over lanes", _claim_rates("claims_lanes"), _claims_names("claims_lanes")),
        Benchmark("claims for one receiver", _claim_rates("claims_one_receiver"), _claims_names("claims_one_receiver")),
        Benchmark("claims beside bare recoveries", _recoveries, ("claims_vs_libsecp256k1", *_four("claims_primed"))),
        Benchmark(
            "transfers here and on anvil",
            _against_anvil("transfers_vs_anvil", lambda: transfers("transfers_free")),
            _anvil_names("transfers_vs_anvil"),
        ),
        Benchmark(
            "claims here and on anvil",
            _against_anvil("claims_vs_anvil", claims),
            _anvil_names("claims_vs_anvil"),
        ),
        Benchmark(
            "latency of sending, and blocks under load", _service, ("rpc_send_us_p99", "block_ms_p99_under_load")
        ),
        Benchmark(f"memory of {ACCOUNTS} accounts", _memory, (f"memory_mb_{ACCOUNTS}_accounts",)),
    ),
    default=False,
)
