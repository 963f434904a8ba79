"""The payments suite: small runs of the real thing bring every figure, and what went wrong is no figure."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from benchmarks import payments, payments_disk, payments_scale, settlement
from benchmarks.end_to_end import close, generator, pace, saturate
from benchmarks.frame import Benchmark, BenchmarkFailed, Row
from benchmarks.payments import PAYMENTS
from benchmarks.site import ROOT, Child, gateway, mosquitto, mosquitto_tuning, working_directory

# Bytecode instructions per reading, as counted with Python 3.11 when this guard was set, and what may come on top
# before somebody has to look. Other versions of Python compile to somewhat more or fewer.
INSTRUCTIONS = {"json": 1_051, "cbor": 1_039, "pipeline": 1_802}
SLACK = 1.10 if sys.version_info[:2] == (3, 11) else 1.40


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, values in (
        (payments, {"PATH_CHANNELS": 4, "PATH_COUNT": 512, "PATH_S": 0, "STOCK_COUNT": 16, "SINK_COUNT": 200}),
        (payments, {"ROUND_S": 0.05, "ROUNDS": 2, "WARM": 200, "PACED_S": 1}),
        (
            payments_scale,
            {
                "SIZES": (10, 20),
                "MEMORY_AT": 20,
                "START_AT": 20,
                "WARM": 50,
                "ROUND_S": 0.05,
                "ROUNDS": 2,
                "PACED_S": 1,
            },
        ),
        (payments_scale, {"CONNECTED": 20, "CONNECTED_PACE": 40, "CONNECTED_S": 1}),
        (payments_disk, {"RATES": (20, 50), "SECONDS": 2, "WARM": 100}),
        (settlement, {"MANY": 30}),
    ):
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


@pytest.fixture(scope="module")
def path() -> Iterator[dict[str, Any]]:
    """What the voucher path's process says of a small run."""
    with mosquitto() as port, working_directory() as directory:
        job = {"mqtt_port": port, "data_dir": str(directory), "homes": 4, "kind": "payers"}
        job |= {"cores": 1, "count": 512, "seconds": 0, "stock": 16}
        with Child("payments_path_child", json.dumps(job)) as child:
            yield child.answer()


def _benchmark(part: str) -> Benchmark:
    (found,) = [each for each in PAYMENTS.benchmarks if any(name.startswith(part) for name in each.names)]
    return found


def _rows(rows: Iterable[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


@pytest.mark.parametrize("part", ["voucher_path", "end_to_end", "settle_s"])
def test_small_runs_bring_every_figure(part: str) -> None:
    benchmark = _benchmark(part)
    found = _rows(benchmark.run())
    assert set(benchmark.names) <= found.keys()
    assert all(row.value > 0 for row in found.values())
    compared = found.keys() - {"echo_subscriber", "generator_cpu_share", "gateway_idle_cpu_share"}
    peers = ("libsecp256k1", "x402_server")
    assert all(found[name].ratio for name in compared if not name.startswith(peers)), found


def test_a_small_scale_brings_every_figure() -> None:
    found = _rows(_benchmark("scale_throughput").run())
    assert found.keys() == set(payments_scale.scale_names((10, 20)))
    assert {found[f"scale_{figure}_10"].ratio for figure in ("throughput", "memory_mb", "start_s")} == {1}
    assert found["memory_mb_10k_channels"].value == found["scale_memory_mb_20"].value
    assert found["start_s_100k_channels"].value == found["scale_start_s_20"].value


def test_connected_devices_stay_connected() -> None:
    found = _rows(_benchmark("connected_devices").run())
    assert found.keys() == {"connected_devices_20", "connected_devices_20_latency_p99_ms"}
    assert (found["connected_devices_20"].value, found["connected_devices_20"].ratio) == (20, 1)


def test_a_payment_costs_the_disk_more_than_its_message_when_it_is_alone() -> None:
    found = _rows(_benchmark("disk_bytes").run())
    assert found.keys() == {f"disk_bytes_per_payment_{each}" for each in (20, 50, payments_disk.SATURATED)}
    assert all(row.ratio == pytest.approx(row.value / 350, rel=0.2) for row in found.values()), "its message"
    assert found["disk_bytes_per_payment_20"].value > found[f"disk_bytes_per_payment_{payments_disk.SATURATED}"].value


# -- the guard: counts that are the same on every machine --


@pytest.mark.parametrize("side", INSTRUCTIONS)
def test_a_reading_takes_no_more_instructions_than_it_did(path: dict[str, Any], side: str) -> None:
    taken = path["instructions"][side]
    assert 0 < taken <= INSTRUCTIONS[side] * SLACK, f"{taken:.0f} per reading; it was {INSTRUCTIONS[side]}"


def test_a_voucher_takes_a_fraction_of_the_stock_servers_instructions(path: dict[str, Any]) -> None:
    counted = path["instructions"]
    assert max(counted["json"], counted["cbor"], counted["pipeline"]) < counted["stock"] / 20


def test_every_side_had_its_turns(path: dict[str, Any]) -> None:
    assert set(path["rates"]) == {"bare", "coincurve", "json", "cbor", "pipeline", "stock"}
    assert {len(rates) for rates in path["rates"].values()} == {2}


# -- what must not become a figure --


def test_a_gateway_whose_books_differ_is_no_figure() -> None:
    with ExitStack() as stack:
        port = stack.enter_context(mosquitto())
        child = stack.enter_context(gateway(port, devices=2))
        source = generator(stack, port, 2)
        source.ask(do="open")
        assert saturate(source, child, 10)["messages"] == 10
        with pytest.raises(BenchmarkFailed, match="do not agree with 11 payments"):
            close(child, 11)


def test_a_load_that_is_refused_is_no_figure() -> None:
    with ExitStack() as stack:
        port = stack.enter_context(mosquitto())
        child = stack.enter_context(gateway(port, devices=2))
        source = generator(stack, port, 2)
        with pytest.raises(BenchmarkFailed, match="not accepted: unknown_channel"):
            pace(source, 2, 100)  # nobody has opened a channel
        child.finish()
        assert child.answer()["payments"] == 0
        assert child.answer()["written"] >= 0


def test_open_loop_latency_counts_from_when_a_message_was_due() -> None:
    with ExitStack() as stack:
        sink = stack.enter_context(Child("sink_child"))
        source = generator(stack, sink.answer()["port"], 4, echo=True)
        # Nobody sends a million a second: whoever is late must see it in every latency, not send less.
        answer = pace(source, 4_000, 1_000_000)
    assert len(answer["latencies_us"]) == 4_000
    assert answer["latencies_us"][-1] > 4_000
    assert answer["lost"] == 0


def test_brokers_are_tuned_as_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = mosquitto_tuning().splitlines()
    deployed = (ROOT / "deploy" / "mosquitto.conf").read_text().splitlines()
    assert set(lines) <= set(deployed)
    assert {"max_queued_messages 0", "set_tcp_nodelay true"} <= set(lines)
    monkeypatch.setattr("benchmarks.site._TUNED", frozenset(("max_queued_messages", "no_such_line")))
    with pytest.raises(BenchmarkFailed, match="lacks no_such_line"):
        mosquitto_tuning()
