"""One box under load, from a signed reading to its receipt: what the suites measure with broker, gateway and generator.

Payments are durable: a receipt is sent after a commit with FULL sync. Gateway, broker and generator share the machine,
each in a process of its own; devices are spread over a few connections, as the generator must not be the bottleneck.
"""

from contextlib import ExitStack
from typing import Any

from benchmarks.frame import BenchmarkFailed
from benchmarks.site import Child

DEVICES = 32
CONNECTIONS = 4
WINDOW = 1024


def generator(
    stack: ExitStack, port: int, devices: int, *, echo: bool = False, connections: int = CONNECTIONS
) -> Child:
    """Start a load generator that is connected to the broker at `port`."""
    child = stack.enter_context(Child("generator_child"))
    child.ask(do="connect", port=port, devices=devices, connections=connections, echo=echo)
    return child


def echo_peer(stack: ExitStack, port: int) -> Child:
    """Start the bare subscriber that answers its own gateway's topics on the broker at `port`."""
    child = stack.enter_context(Child("echo_child", f'{{"mqtt_port": {port}}}'))
    child.answer()
    return child


def saturate(generator: Child, worker: Child, count: int, encoding: str = "json") -> dict[str, Any]:
    """Send `count` messages as fast as answers come.

    Returns the generator's answer, and the processor time per message of the `worker` that answered, in µs.
    """
    signed = generator.ask(do="sign", count=count, encoding=encoding)
    before = worker.cpu_seconds()
    answer = generator.ask(do="saturate", window=WINDOW)
    return signed | answer | {"worker_us": (worker.cpu_seconds() - before) * 1e6 / count}


def rate(answer: dict[str, Any]) -> float:
    """Return the messages per second of an answer to `saturate`."""
    return float(answer["messages"]) / float(answer["seconds"])


def pace(generator: Child, count: int, per_s: int) -> dict[str, Any]:
    """Send `count` messages at a fixed rate; the answer has the sorted `latencies_us`."""
    generator.ask(do="sign", count=count, encoding="json")
    return generator.ask(do="pace", rate=per_s)


def close(child: Child, payments: int) -> int:
    """End a gateway and hold its own books against what the generator was told.

    Returns the bytes that it has caused to be written to the disk, to its very end.
    """
    child.finish()
    books = child.answer()
    if books["faults"] or books["payments"] != payments or books["refused"]:
        raise BenchmarkFailed(f"the gateway's books do not agree with {payments} payments: {books}")
    return int(child.answer()["written"])
