"""How a gateway scales: many channels on one gateway, many devices connected to its broker.

Channels are funded by real deposits and journaled with a reading each, by one process; a second one starts on these
books, and that start is measured. Then it takes readings of all channels in turn. Gateway and embedded layer share
a process, as in the demo, with their files on disk. For throughput each size takes turns with the smallest.
"""

import json
import resource
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.end_to_end import CONNECTIONS, generator, pace, rate, saturate
from benchmarks.frame import Benchmark, BenchmarkFailed, Row, against, percentile, turns
from benchmarks.site import Child, mosquitto, working_directory

SIZES = (100, 1_000, 10_000, 100_000)
# The sizes that the figures `memory_mb_10k_channels` and `start_s_100k_channels` are of.
MEMORY_AT, START_AT = 10_000, 100_000
WARM = 1_000
ROUND_S = 3.0
ROUNDS = 5
PACED_S = 6
CONNECTED = 5_000
CONNECTED_PACE = 100
CONNECTED_S = 20
# Files that a process opens beside its connections.
FILES = 200
# Storing the states of all channels at the end of the process that made them.
END_S = 120.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One size: resident bytes and the layer's part, seconds of the start, p99 in microseconds."""

    memory: int
    layer: int
    start_s: float
    p99_us: float


class Books:
    """A gateway on journaled channels of payers, with their devices; `started_s` tells how long its start took."""

    def __init__(self, stack: ExitStack, channels: int) -> None:
        self.port = stack.enter_context(mosquitto())
        directory = stack.enter_context(working_directory())
        self._channels = channels
        self._sent = 0
        job = json.dumps({"mqtt_port": self.port, "data_dir": str(directory), "homes": channels, "kind": "payers"})
        with Child("settlement_child", job) as maker:
            maker.end_s = END_S
            maker.answer()
            maker.ask(do="move_in")
            if maker.ask(do="age")["undo"]:
                raise BenchmarkFailed("blocks of the past can still be replaced")
        began = time.monotonic()
        self.child = stack.enter_context(Child("settlement_child", job))
        self.child.end_s = END_S
        ready = self.child.answer()
        self.started_s = time.monotonic() - began
        self.layer_bytes: int = ready["layer_bytes"]
        if ready["channels"] != channels:
            raise BenchmarkFailed(f"{ready['channels']} of {channels} channels are there after the start")
        self.child.ask(do="run")
        self.source = generator(stack, self.port, channels)
        self.source.ask(do="attach")

    def saturate(self, count: int) -> float:
        """Send readings as fast as they are answered; returns how many that is a second."""
        self._sent += count
        return rate(saturate(self.source, self.child, count))

    def pace(self, seconds: int, per_s: int) -> dict[str, Any]:
        """Send readings at a rate."""
        self._sent += seconds * per_s
        return pace(self.source, seconds * per_s, per_s)

    def check(self) -> None:
        """Hold the gateway's books against the chain, and against what was sent."""
        answer = self.child.ask(do="audit")
        if answer["faults"] or answer["payments"] != self._channels + self._sent:
            raise BenchmarkFailed(f"the books do not agree with {self._sent} payments sent: {answer}")


def _scale() -> Iterable[Row]:
    """Throughput, memory, start and latency at every size, each against the smallest."""
    with ExitStack() as stack:
        smallest = Books(stack, SIZES[0])
        smallest.saturate(WARM)
        count = round(smallest.saturate(WARM) * ROUND_S)
        alone = [smallest.saturate(count) for _ in range(ROUNDS)]
        half = max(1, round(median(alone) / 2))
        base = _measure(smallest, half)
        yield from _rows(SIZES[0], alone, alone, base, base)
        for size in SIZES[1:]:
            with ExitStack() as own:
                books = Books(own, size)
                books.saturate(WARM)
                rounds = [(books.saturate(count), smallest.saturate(count)) for _ in range(ROUNDS)]
                rates, others = zip(*rounds, strict=True)
                yield from _rows(size, rates, others, _measure(books, half), base)
        smallest.check()


def _measure(books: Books, per_s: int) -> Measured:
    """Measure latency at a rate, and what all of it took."""
    latencies = books.pace(PACED_S, per_s)["latencies_us"]
    memory = books.child.resident_bytes()
    books.check()
    return Measured(memory, books.layer_bytes, books.started_s, float(percentile(latencies, 99)))


def _rows(
    size: int, rates: Sequence[float], base_rates: Sequence[float], now: Measured, base: Measured
) -> Iterable[Row]:
    peer = f"{SIZES[0]} channels"
    memory, base_memory = now.memory / 1e6, base.memory / 1e6
    yield turns(f"scale_throughput_{size}", "payments/s", rates, base_rates, peer)
    yield Row(f"scale_memory_mb_{size}", round(memory, 1), "MB", **against(memory, base_memory, peer))
    layer = now.layer / 1e6
    yield Row(f"scale_layer_mb_{size}", round(layer, 1), "MB", **against(layer, memory, f"scale_memory_mb_{size}"))
    yield Row(f"scale_start_s_{size}", round(now.start_s, 2), "s", **against(now.start_s, base.start_s, peer))
    yield Row(
        f"scale_latency_p99_ms_{size}", round(now.p99_us / 1000, 2), "ms", **against(now.p99_us, base.p99_us, peer)
    )
    if size == MEMORY_AT:
        yield Row("memory_mb_10k_channels", round(memory, 1), "MB", **against(memory, base_memory, peer))
    if size == START_AT:
        yield Row("start_s_100k_channels", round(now.start_s, 2), "s", **against(now.start_s, base.start_s, peer))


def _connected() -> Iterable[Row]:
    """Devices with a connection each, while some of them pay; against the same devices over a few connections."""
    allow_files(CONNECTED + FILES)
    with ExitStack() as stack:
        books = Books(stack, CONNECTED)
        few = books.pace(CONNECTED_S, CONNECTED_PACE)
        books.source.ask(do="reconnect", connections=CONNECTED)
        many = books.pace(CONNECTED_S, CONNECTED_PACE)
        books.check()
    held = CONNECTED - many["lost"]
    value, base = (percentile(answer["latencies_us"], 99) / 1000 for answer in (many, few))
    name = f"connected_devices_{CONNECTED}"
    yield Row(name, held, "connections", **against(held, CONNECTED, f"{CONNECTED} devices"))
    yield Row(f"{name}_latency_p99_ms", round(value, 2), "ms", **against(value, base, f"{CONNECTIONS} connections"))


def allow_files(needed: int) -> None:
    """Let this process and its children open so many files. Raises BenchmarkFailed where that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchmarkFailed(f"{needed} open files are needed and {hard} allowed: raise it with `ulimit -Hn {needed}`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def scale_names(sizes: Sequence[int]) -> tuple[str, ...]:
    """Return the names of the figures of a run over these sizes."""
    figures = ("throughput", "memory_mb", "layer_mb", "start_s", "latency_p99_ms")
    each = (f"scale_{figure}_{size}" for figure in figures for size in sizes)
    return (*each, "memory_mb_10k_channels", "start_s_100k_channels")


BENCHMARKS = (
    Benchmark(f"{SIZES[0]} to {SIZES[-1]} channels", _scale, scale_names(SIZES)),
    Benchmark(
        f"{CONNECTED} connected devices",
        _connected,
        (f"connected_devices_{CONNECTED}", f"connected_devices_{CONNECTED}_latency_p99_ms"),
    ),
)
