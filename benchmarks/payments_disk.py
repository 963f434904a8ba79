"""What a payment costs the disk: bytes written by the gateway's process, at several rates.

Counted by the kernel (`write_bytes` of /proc/PID/io) from before the first message to the end of the process, so that
checkpoints of SQLite's write-ahead log and of the states are in it, those of the end included. The chain is in memory.
"""

from collections.abc import Iterable
from contextlib import ExitStack

from benchmarks.end_to_end import DEVICES, close, generator, rate, saturate
from benchmarks.frame import Benchmark, BenchmarkFailed, Row, against
from benchmarks.site import gateway, mosquitto

# Measured at the same time, each with a broker and a gateway of its own: bytes do not depend on what else runs.
RATES = (10, 100, 1_000)
SECONDS = 60
# Taken at saturation, in parts that are signed one by one: no box here reaches it with one broker.
SATURATED = 10_000
PARTS = 3
WARM = 2_000


def _paced() -> tuple[dict[int, float], float]:
    """Return bytes per payment at every rate, and the bytes of a message's payload."""
    with ExitStack() as stack:
        sites = {}
        for per_s in RATES:
            port = stack.enter_context(mosquitto())
            child = stack.enter_context(gateway(port, devices=DEVICES))
            source = generator(stack, port, DEVICES)
            source.ask(do="open")
            signed = source.ask(do="sign", count=per_s * SECONDS, encoding="json")
            sites[per_s] = (child, source, child.written_bytes())
        for per_s, (_, source, _) in sites.items():
            source.tell(do="pace", rate=per_s)
        for _, source, _ in sites.values():
            source.answer()
        payload = signed["bytes"] / signed["signed"]
        return {
            per_s: (close(child, per_s * SECONDS) - before) / (per_s * SECONDS)
            for per_s, (child, _, before) in sites.items()
        }, payload


def _saturated() -> float:
    with ExitStack() as stack:
        port = stack.enter_context(mosquitto())
        child = stack.enter_context(gateway(port, devices=DEVICES))
        source = generator(stack, port, DEVICES)
        source.ask(do="open")
        count = round(rate(saturate(source, child, WARM)) * SECONDS / PARTS)
        before = child.written_bytes()
        for _ in range(PARTS):
            saturate(source, child, count)
        return (close(child, WARM + PARTS * count) - before) / (PARTS * count)


def _disk() -> Iterable[Row]:
    """Bytes per payment at every rate, against the message that it came in."""
    found, payload = _paced()
    found[SATURATED] = _saturated()
    if not all(found.values()):
        raise BenchmarkFailed("the kernel counts no writes here: is the working directory on a disk?")
    for per_s, value in found.items():
        yield Row(f"disk_bytes_per_payment_{per_s}", round(value), "bytes", **against(value, payload, "its message"))


DISK = Benchmark(
    "bytes on the disk per payment", _disk, tuple(f"disk_bytes_per_payment_{each}" for each in (*RATES, SATURATED))
)
