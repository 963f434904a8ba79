"""Suite `first_payment`: what one box does, end to end, from a signed reading to a settled balance.

`generator_cpu_share_*` tells how much of one core it took, `cpu_us_per_payment_*` what a payment costs the gateway's
process: that figure holds even while something else uses the machine.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from benchmarks import claim_gas
from benchmarks.demo_start import first_settlement
from benchmarks.embedded_gas import claim_gas_per_row
from benchmarks.end_to_end import DEVICES, close, echo_peer, generator, pace, rate, saturate
from benchmarks.frame import Benchmark, BenchmarkFailed, Row, Suite, against, percentile
from benchmarks.site import BROKERS, ROOT, Child, gateway
from tests.support.anvil import AnvilMissing, start_anvil

# About ten seconds of load each; the first tenth warms caches and is not counted.
MESSAGES = {"demo": 12_000, "mosquitto": 40_000}
PACE = 100
PACED = 2_000  # 20 s: twenty samples beyond p99
MANY_CHANNELS = 1_000
READINGS_EACH = 10
SETTLED_AIM_S = 60.0


def _load(generator: Child, worker: Child, count: int, encoding: str = "json") -> dict[str, Any]:
    """Saturate with `count` messages after a tenth as many to warm up."""
    saturate(generator, worker, count // 10, encoding)
    return saturate(generator, worker, count, encoding)


def _end_to_end(broker: str) -> Callable[[], Iterable[Row]]:
    """Payments per second and receipt latency through one broker, beside the bare echo on the same broker."""

    def run() -> Iterable[Row]:
        count = MESSAGES[broker]
        with ExitStack() as stack:
            port = stack.enter_context(BROKERS[broker]())
            with ExitStack() as peer:
                echo = echo_peer(peer, port)
                source = generator(peer, port, DEVICES, echo=True)
                echo_paced = pace(source, PACED, PACE)["latencies_us"]
                echoed = _load(source, echo, count)
            child = stack.enter_context(gateway(port, devices=DEVICES))
            source = generator(stack, port, DEVICES)
            source.ask(do="open")
            paced = pace(source, PACED, PACE)["latencies_us"]
            answers = {"": _load(source, child, count)}
            if broker == "mosquitto":
                answers["_cbor"] = _load(source, child, count, "cbor")
            close(child, PACED + len(answers) * (count // 10 + count))
        echo_name = f"echo subscriber on {broker}"
        for suffix, answer in answers.items():
            name, payments, cost = f"{broker}{suffix}", rate(answer), answer["worker_us"]
            yield Row(
                f"payments_per_s_{name}", round(payments), "payments/s", **against(payments, rate(echoed), echo_name)
            )
            yield Row(f"cpu_us_per_payment_{name}", round(cost), "µs", **against(cost, echoed["worker_us"], echo_name))
        yield Row(f"echo_per_s_{broker}", round(rate(echoed)), "messages/s")
        yield Row(f"generator_cpu_share_{broker}", round(answers[""]["cpu_share"], 3), "cores")
        for percent in (50, 99):
            own, peer_us = percentile(paced, percent), percentile(echo_paced, percent)
            yield Row(
                f"receipt_ms_p{percent}_at_{PACE}_per_s_{broker}",
                round(own / 1000, 2),
                "ms",
                **against(own, peer_us, echo_name),
            )

    return run


def _gas() -> Iterable[Row]:
    """Gas of a claim on anvil and on the embedded layer."""
    try:
        anvil = start_anvil()
    except AnvilMissing as error:
        raise BenchmarkFailed(str(error)) from error
    try:
        rows = {str(row["name"]): int(str(row["value"])) for row in claim_gas.measure(anvil.url)}
    finally:
        anvil.stop()
    for name, value in rows.items():
        single = name.rsplit("_", 1)[0] + "_1"
        ratio = {} if name == single else against(value, rows[single], single)
        yield Row(name, value, "gas", **ratio)
    for count, value in claim_gas_per_row().items():
        name = f"claim_gas_per_row_first_{count}"
        yield Row(f"embedded_{name}", value, "gas", **against(value, rows[name], f"anvil: {name}"))


def _memory() -> Iterable[Row]:
    """Resident memory of the gateway process, embedded layer included, before and after opening channels."""
    with ExitStack() as stack:
        port = stack.enter_context(BROKERS["mosquitto"]())
        child = stack.enter_context(gateway(port, devices=MANY_CHANNELS))
        empty = child.resident_bytes()
        source = generator(stack, port, MANY_CHANNELS)
        opened = source.ask(do="open")
        saturate(source, child, MANY_CHANNELS * READINGS_EACH)
        time.sleep(1)  # the last block and the watcher's last step
        full = child.resident_bytes()
        close(child, MANY_CHANNELS * READINGS_EACH)
    yield Row("memory_mb_at_start", round(empty / 1e6, 1), "MB")
    yield Row(
        f"memory_mb_{MANY_CHANNELS}_channels", round(full / 1e6, 1), "MB", **against(full, empty, "memory_mb_at_start")
    )
    yield Row("channels_opened_per_s", round(opened["opened"] / opened["seconds"], 1), "channels/s")


def _first_settled() -> Iterable[Row]:
    """Seconds from starting the demo, with everything installed, to the first settled payment on the chain."""
    seconds = first_settlement(["-m", "gateway", "demo"], ROOT)
    yield Row(
        "demo_to_first_settled_s", round(seconds, 1), "s", **against(seconds, SETTLED_AIM_S, f"{SETTLED_AIM_S:g} s aim")
    )


def _names(broker: str) -> tuple[str, ...]:
    latencies = tuple(f"receipt_ms_p{percent}_at_{PACE}_per_s_{broker}" for percent in (50, 99))
    return (f"payments_per_s_{broker}", *latencies)


FIRST_PAYMENT = Suite(
    "first_payment",
    (
        Benchmark("end to end with the demo's broker", _end_to_end("demo"), _names("demo")),
        Benchmark("end to end with mosquitto", _end_to_end("mosquitto"), _names("mosquitto")),
        Benchmark(
            "gas of a claim",
            _gas,
            tuple(f"{where}claim_gas_per_row_first_{count}" for where in ("", "embedded_") for count in claim_gas.ROWS),
        ),
        Benchmark(f"memory with {MANY_CHANNELS} channels", _memory, (f"memory_mb_{MANY_CHANNELS}_channels",)),
        Benchmark("from `metergate demo` to the first settled payment", _first_settled, ("demo_to_first_settled_s",)),
    ),
)
