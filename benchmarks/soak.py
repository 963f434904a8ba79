"""`make soak [MINUTES=60]`: one gateway under mixed load for an hour; exit code 0 only if nothing grows or is lost.

A fleet of simulated devices pays and earns throughout, on mosquitto, while the gateway settles twice a minute. Every
minute begins with a storm: load generators connect anew all at once, and in every fifth minute the broker itself is
restarted, so that everybody comes back together. Then a second load is paced, for its latency, and a sample taken.

Growth: the median of the last third of the samples against that of the middle third, as the first third warms caches.
Resident memory of the gateway's process (embedded layer included, which holds its last `HISTORY_BLOCKS` blocks) may be
`MEMORY_RATIO` of it plus `MEMORY_SPARE_MB`, the queue one batch longer, p99 latency `LATENCY_RATIO` of it plus
`LATENCY_SPARE_MS`. At the end all must be settled, the books agree with the chain and be conserved, and the devices'
own sums must be the gateway's, to the unit.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.end_to_end import generator, pace
from benchmarks.frame import FAILURES, BenchmarkFailed, percentile
from benchmarks.payments_scale import FILES, allow_files
from benchmarks.site import ROOT, Child, Mosquitto, end, gateway, working_directory

MINUTE_S = 60.0
# Few enough devices that each soon has the readings that a gateway remembers of one at most (`gateway.history`).
FLEET = 48
FLEET_PER_S = 120
LOAD = 64
PACE = 400
STORM = 400  # connections of the generator, most of them idle
SETTLE_EVERY_S = 30
RESTART_EVERY = 5
# What the embedded layer holds of its past, some minutes: with its default of 65,536 blocks it grows for a day.
HISTORY_BLOCKS = 256
BACK_S = 90.0  # the gateway's longest back-off is 30 s
FLEET_END_S = 60.0
MEMORY_RATIO, MEMORY_SPARE_MB = 1.05, 4.0
QUEUE_SPARE = 512
LATENCY_RATIO, LATENCY_SPARE_MS = 2.0, 50.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One minute: MB resident, frames that waited at its end, p99 in ms, payments and settlements so far."""

    memory_mb: float
    queue: int
    p99_ms: float
    payments: int
    settlements: int


def growth(samples: Sequence[Sample]) -> list[str]:
    """Return what grew, by the criterion of this module; fewer than three samples show nothing."""
    third = len(samples) // 3
    if not third:
        return []
    middle, last = samples[-2 * third : -third], samples[-third:]
    found = []
    figures: tuple[tuple[str, Callable[[Sample], float], float, float], ...] = (
        ("memory in MB", lambda sample: sample.memory_mb, MEMORY_RATIO, MEMORY_SPARE_MB),
        ("queue", lambda sample: sample.queue, 1.0, QUEUE_SPARE),
        ("p99 in ms", lambda sample: sample.p99_ms, LATENCY_RATIO, LATENCY_SPARE_MS),
    )
    for name, figure, ratio, spare in figures:
        before, after = median(map(figure, middle)), median(map(figure, last))
        if after > before * ratio + spare:
            found.append(f"{name} grew from {before:.1f} to {after:.1f}")
    return found


class Fleet:
    """Simulated devices in a process of their own, until they are told to stop."""

    def __init__(self, port: int) -> None:
        command = [*_fleet("fleet"), "--rate", str(FLEET_PER_S), "--port", str(port), "--with-parent", "--json"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *error: object) -> None:
        end(self._process)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def stop(self) -> dict[str, Any]:
        """Let it wait for its receipts and end. Raises BenchmarkFailed when a device had given up, or ended before."""
        if self._process.poll() is not None:
            raise BenchmarkFailed(f"the fleet had ended with code {self._process.returncode}")
        self._process.send_signal(signal.SIGINT)
        words, _ = self._process.communicate(timeout=FLEET_END_S)
        report: dict[str, Any] = json.loads(words.splitlines()[-1])
        if report["stopped"] or report["outstanding"] or not report["accepted"]:
            raise BenchmarkFailed(f"the fleet did not come to a good end: {report}")
        return report


def _fleet(command: str) -> list[str]:
    return [sys.executable, "-m", "firmware_sim", command, "--devices", str(FLEET), "--seed", "1"]


def _funds() -> dict[str, int]:
    """Ask the fleet, which knows its own keys, who needs how much."""
    done = subprocess.run(_fleet("addresses"), cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    funds: dict[str, int] = {}
    for each in json.loads(done.stdout):
        if each.get("payer") is not None:
            address = each["payer"][2:]
            funds[address] = funds.get(address, 0) + int(each["tokens"])
    return funds


@contextlib.contextmanager
def _broker() -> Iterator[Mosquitto]:
    with working_directory() as directory:
        broker = Mosquitto(directory)
        try:
            broker.start()
            yield broker
        finally:
            broker.stop()


def _back(child: Child) -> None:
    """Wait until the gateway is connected again."""
    deadline = time.monotonic() + BACK_S
    while not child.ask(do="sample")["connected"]:
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"the gateway is not back at its broker after {BACK_S:g} s")
        time.sleep(0.2)


def _minute(number: int, minute_s: float, broker: Mosquitto, child: Child, source: Child) -> Sample:
    """Storm, pace, wait for the minute's end, sample."""
    began = time.monotonic()
    if number % RESTART_EVERY == 0:
        broker.stop()
        broker.start()
        _back(child)
    source.ask(do="reconnect", connections=STORM)
    paced = pace(source, round(PACE * minute_s / 2), PACE)
    time.sleep(max(0.0, began + minute_s - time.monotonic()))
    now = child.ask(do="sample")
    return Sample(
        memory_mb=child.resident_bytes() / 1e6,
        queue=now["queue"],
        p99_ms=percentile(paced["latencies_us"], 99) / 1000,
        payments=now["payments"],
        settlements=now["settlements"],
    )


def soak(minutes: int, say: Callable[[str], None], minute_s: float = MINUTE_S) -> tuple[list[Sample], dict[str, Any]]:
    """Run; returns the samples and the gateway's last figures.

    Raises BenchmarkFailed when the books do not balance, money is not conserved or something ended by itself.
    """
    allow_files(STORM + FLEET + FILES)
    options: dict[str, Any] = {"settle_every_s": SETTLE_EVERY_S, "services": "demo", "tokens": _funds()}
    options["history_blocks"] = HISTORY_BLOCKS
    samples: list[Sample] = []
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(_broker())
        child = stack.enter_context(gateway(broker.port, devices=LOAD, **options))
        child.end_s = FLEET_END_S
        source = generator(stack, broker.port, LOAD)
        source.ask(do="open")
        fleet = stack.enter_context(Fleet(broker.port))
        for number in range(minutes):
            samples.append(sample := _minute(number, minute_s, broker, child, source))
            say(f"minute {number + 1}: {sample}")
        report = fleet.stop()
        sold = sum(int(amount) for amount in report["charged"].values()) + source.ask(do="charged")["charged"]
        earned = sum(int(amount) for amount in report["earned"].values())
        child.finish()
        figures = child.answer()
        child.answer()
    _check(figures, sold, earned)
    return samples, figures


def _check(figures: dict[str, Any], sold: int, earned: int) -> None:
    charged, settled = int(figures["charged"]), int(figures["claimed"]) + int(figures["offset"])
    if figures["faults"]:
        raise BenchmarkFailed(f"the books do not agree with the chain: {figures['faults']}")
    if charged != sold or int(figures["earned"]) != earned:
        raise BenchmarkFailed(f"devices say {sold} sold and {earned} earned, the gateway {figures}")
    if settled != charged or int(figures["paid_out"]) + int(figures["offset"]) + int(figures["fees"]) != earned:
        raise BenchmarkFailed(f"not everything is settled to the unit: {figures}")


def main() -> int:
    """Parse arguments and run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=int, default=60)
    minutes = parser.parse_args().minutes
    if minutes < 1:
        parser.error("--minutes is 1 or more")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        samples, figures = soak(minutes, lambda text: print(text, flush=True))
    except FAILURES as error:
        print(f"soak: FAILED: {error}", flush=True)
        return 1
    found = growth(samples)
    last = samples[-1]
    print(
        f"soak: {'FAILED: ' + '; '.join(found) if found else 'passed'}: {minutes} min, {figures['readings']} readings,"
        f" {figures['settlements']} settlements, {last.memory_mb:.0f} MB, p99 {last.p99_ms:.0f} ms, queue {last.queue},"
        " books balance and are conserved",
        flush=True,
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
