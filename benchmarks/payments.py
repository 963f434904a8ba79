"""Suite `payments`: how fast readings become durable payments, how that scales, and what it costs the disk.

Rounds are taken by time, so that the suite takes the same few minutes on any machine, and the sides of a comparison
take turns. `ratio` is the median of the ratios of neighbouring rounds, the value the median round.
"""

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

from benchmarks import payments_scale, settlement
from benchmarks.end_to_end import DEVICES, close, echo_peer, generator, pace, rate, saturate
from benchmarks.execution_runs import CORES
from benchmarks.frame import Benchmark, Row, Suite, against, percentile, turns
from benchmarks.payments_disk import DISK
from benchmarks.site import Child, gateway, mosquitto, working_directory

# The voucher path: a round of a side is a tenth of a second.
PATH_CHANNELS = 64
PATH_COUNT = 2_048
PATH_S = 15.0
STOCK_COUNT = 128
# End to end: a round of a side is some seconds.
ROUND_S = 3.0
ROUNDS = 5
WARM = 4_000
PACED_S = 10
PARTS = (10, 50, 80)
PERCENTILES = {"p50": 50, "p99": 99, "p999": 99.9}
LIBSECP256K1 = "bare libsecp256k1 on the same cores"
X402 = "x402 server"
ECHO = "echo subscriber on mosquitto"
# Messages of a round against the sink: what the generator can do is far above anything else here.
SINK_COUNT = 20_000


def _path_answer(cores: int) -> dict[str, Any]:
    """Let the sides take turns in a process of their own; returns their `rates` and `instructions`."""
    with mosquitto() as port, working_directory() as directory:
        job = {
            "mqtt_port": port,
            "data_dir": str(directory),
            "homes": PATH_CHANNELS,
            "kind": "payers",
            "cores": cores,
            "count": PATH_COUNT,
            "seconds": PATH_S,
            "stock": STOCK_COUNT,
        }
        with Child("payments_path_child", json.dumps(job)) as child:
            return child.answer()


def _path() -> Iterable[Row]:
    """Readings a second through the voucher path, on one core and on all."""
    for cores, suffix in ((1, "_one_core"), (CORES, "")):
        answer = _path_answer(cores)
        rates, bare = answer["rates"], answer["rates"]["bare"]
        for side, name in (
            ("json", "voucher_path_vs_libsecp256k1"),
            ("cbor", "voucher_path_vs_libsecp256k1_cbor"),
            ("pipeline", "pipeline_vs_libsecp256k1"),
        ):
            yield turns(f"{name}{suffix}", "readings/s", rates[side], bare, LIBSECP256K1)
        yield Row(f"libsecp256k1_per_s{suffix}", round(median(bare)), "recoveries/s")
        yield turns(f"coincurve_per_s{suffix}", "recoveries/s", rates["coincurve"], bare, LIBSECP256K1)
        yield turns(f"voucher_path_vs_x402{suffix}", "readings/s", rates["json"], rates["stock"], X402)
        yield Row(f"x402_server_per_s{suffix}", round(median(rates["stock"])), "vouchers/s")
        if cores == 1:
            yield from _instructions(answer["instructions"])


def _instructions(counted: dict[str, float]) -> Iterable[Row]:
    for side, name in (("json", "voucher_path"), ("cbor", "voucher_path_cbor"), ("pipeline", "pipeline")):
        value = counted[side]
        yield Row(f"{name}_instructions", round(value), "bytecodes", **against(value, counted["stock"], X402))


def _end_to_end() -> Iterable[Row]:
    """Durable payments a second at saturation, beside the echo, and latencies at parts of that."""
    with ExitStack() as stack:
        port = stack.enter_context(mosquitto())
        child = stack.enter_context(gateway(port, devices=DEVICES))
        echo = echo_peer(stack, port)
        payers, peers = generator(stack, port, DEVICES), generator(stack, port, DEVICES, echo=True)
        payers.ask(do="open")
        sent = WARM
        counts = [round(rate(saturate(*side, WARM)) * ROUND_S) for side in ((payers, child), (peers, echo))]
        own: list[dict[str, Any]] = []
        echoed: list[dict[str, Any]] = []
        idle: list[float] = []
        for _ in range(ROUNDS):
            own.append(saturate(payers, child, counts[0]))
            before, started = child.cpu_seconds(), time.monotonic()
            echoed.append(saturate(peers, echo, counts[1]))
            idle.append((child.cpu_seconds() - before) / (time.monotonic() - started))
            sent += counts[0]
        reached = median(map(rate, own))
        yield from _saturation(own, echoed)
        yield Row("gateway_idle_cpu_share", round(median(idle), 4), "cores")
        yield from _sink(stack, reached, own)
        for part in PARTS:
            per_s = max(1, round(reached * part / 100))
            paced, peer = pace(payers, per_s * PACED_S, per_s), pace(peers, per_s * PACED_S, per_s)
            sent += per_s * PACED_S
            yield from _latencies(part, paced["latencies_us"], peer["latencies_us"])
        close(child, sent)


def _saturation(own: Sequence[dict[str, Any]], echoed: Sequence[dict[str, Any]]) -> Iterable[Row]:
    yield turns("end_to_end", "payments/s", [*map(rate, own)], [*map(rate, echoed)], ECHO)
    costs, base = ([answer["worker_us"] for answer in side] for side in (own, echoed))
    yield turns("end_to_end_cpu_us", "µs/payment", costs, base, ECHO)
    yield Row("echo_subscriber", round(median(map(rate, echoed))), "messages/s")


def _sink(stack: ExitStack, reached: float, own: Sequence[dict[str, Any]]) -> Iterable[Row]:
    """What the generator can do, and how much of a core it took when payments were counted."""
    sink = stack.enter_context(Child("sink_child"))
    source = generator(stack, sink.answer()["port"], DEVICES, echo=True)
    rates = [rate(saturate(source, sink, SINK_COUNT)) for _ in range(ROUNDS)]
    yield Row("generator_sink", round(median(rates)), "messages/s", **against(median(rates), reached, "end_to_end"))
    yield Row("generator_cpu_share", round(median(answer["cpu_share"] for answer in own), 3), "cores")


def _latencies(part: int, own: Sequence[int], echoed: Sequence[int]) -> Iterable[Row]:
    for name, percent in PERCENTILES.items():
        value, base = percentile(own, percent), percentile(echoed, percent)
        row = Row(f"latency_{name}_ms_at_{part}", round(value / 1000, 2), "ms", **against(value, base, ECHO))
        yield row
        if (name, part) == ("p99", 50):
            yield Row("latency_p99_ms_at_half", row.value, row.unit, row.ratio, row.against)


def _settle() -> Iterable[Row]:
    """Suite settlement's figure, measured once in a run."""
    seconds = settlement.settled_payers(settlement.MANY)["seconds"]
    yield Row(
        "settle_s_10k_channels",
        round(seconds, 2),
        "s",
        **against(seconds, settlement.SETTLE_AIM_S, f"{settlement.SETTLE_AIM_S:g} s aim"),
    )


_PATHS = (
    "voucher_path_vs_libsecp256k1",
    "voucher_path_vs_libsecp256k1_cbor",
    "pipeline_vs_libsecp256k1",
    "voucher_path_vs_x402",
)

PAYMENTS = Suite(
    "payments",
    (
        Benchmark(
            "the voucher path in process",
            _path,
            (
                *_PATHS,
                *(f"{name}_one_core" for name in _PATHS),
                *(f"{name}_instructions" for name in ("voucher_path", "voucher_path_cbor", "pipeline")),
            ),
        ),
        Benchmark(
            "end to end at saturation, and latency below it",
            _end_to_end,
            (
                "end_to_end",
                "end_to_end_cpu_us",
                "generator_sink",
                "generator_cpu_share",
                "latency_p99_ms_at_half",
                *(f"latency_{name}_ms_at_{part}" for name in PERCENTILES for part in PARTS),
            ),
        ),
        *payments_scale.BENCHMARKS,
        DISK,
        Benchmark("settling 10,000 channels", _settle, ("settle_s_10k_channels",)),
    ),
)
