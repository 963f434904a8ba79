"""Processes to measure against, each on a free loopback port and gone with its context."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.frame import BenchmarkFailed
from tests.support.mosquitto import binary as mosquitto_binary
from tests.support.mosquitto import free_port

ROOT = Path(__file__).resolve().parent.parent
# Journals are written here: beside the repository, because a temporary directory may be memory.
WORK = ROOT / "benchmarks" / "results"
# The clock of another process has a number made of its id: what clock_getcpuclockid(3) returns on Linux.
_CPUCLOCK_SCHED = 2
START_S = 30.0
END_S = 15.0

# How the broker is reached is this run's own; how it queues and delivers is as deployed.
_LISTENER = """\
listener {port} 127.0.0.1
allow_anonymous true
log_type error
log_dest stderr
"""
_TUNED = frozenset(
    (
        "max_queued_messages",
        "max_inflight_messages",
        "set_tcp_nodelay",
        "max_packet_size",
        "persistence",
        "autosave_interval",
    )
)


def mosquitto_tuning() -> str:
    """Return the lines of deploy/mosquitto.conf about queues, windows and what is kept: every broker here has them.

    Raises BenchmarkFailed when one of them is no longer there.
    """
    lines = (ROOT / "deploy" / "mosquitto.conf").read_text(encoding="utf-8").splitlines()
    tuned = {line.split()[0]: line for line in lines if line and line.split()[0] in _TUNED}
    if tuned.keys() != _TUNED:
        raise BenchmarkFailed(f"deploy/mosquitto.conf lacks {', '.join(sorted(_TUNED - tuned.keys()))}")
    return "\n".join(tuned.values()) + "\n"


@contextlib.contextmanager
def working_directory() -> Iterator[Path]:
    """A directory on a real disk, empty, and removed with everything in it."""
    WORK.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix=".work-", dir=WORK))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def end(process: subprocess.Popen[Any], patience_s: float = END_S) -> None:
    """End one of our own processes."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Mosquitto:
    """One mosquitto of our own, tuned as deployed. `start` returns when it takes connections, always at one port."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._settings = directory / "mosquitto.conf"
        self._log = directory / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        own = "user root\n" if os.geteuid() == 0 else ""  # else it would change to a user who cannot write here
        kept = f"persistence_location {directory}/\n"
        self._settings.write_text(_LISTENER.format(port=self.port) + mosquitto_tuning() + kept + own)

    def start(self) -> None:
        """Start it, with the sessions that it kept."""
        with self._log.open("ab") as words:
            self._process = subprocess.Popen(
                [mosquitto_binary(), "-c", str(self._settings)], stdin=subprocess.DEVNULL, stdout=words, stderr=words
            )
        await_port(self._process, self.port, self._log)

    def stop(self) -> None:
        """End it in order: sessions and messages are on disk."""
        if self._process is not None:
            end(self._process)


@contextlib.contextmanager
def mosquitto() -> Iterator[int]:
    """Run mosquitto with a configuration of its own; yields its port."""
    with working_directory() as directory:
        broker = Mosquitto(directory)
        try:
            broker.start()
            yield broker.port
        finally:
            broker.stop()


@contextlib.contextmanager
def demo_broker() -> Iterator[int]:
    """Run the demo's broker; yields its port."""
    with working_directory() as directory:
        port = free_port()
        log = directory / "log"
        command = [sys.executable, "-m", "gateway.broker", "--port", str(port)]
        with log.open("wb") as words:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, cwd=ROOT)
        try:
            await_port(process, port, log)
            yield port
        finally:
            end(process)


BROKERS = {"mosquitto": mosquitto, "demo": demo_broker}


def await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a broker takes connections. Raises BenchmarkFailed with its last words."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                words = log.read_text(encoding="utf-8", errors="replace")[-500:]
                end(process)
                raise BenchmarkFailed(f"the broker did not start on port {port}: {words}") from None
            time.sleep(0.02)


def resident_bytes(pid: int | str = "self") -> int:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def written_bytes(pid: int | str = "self") -> int:
    """Return how many bytes a process has caused to be written to disks (`write_bytes` of /proc/PID/io)."""
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


class Child:
    """One of our own programs in a process of its own, spoken to in lines of JSON.

    It ends when its standard input does, so none is left behind if this process dies.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self.end_s = END_S  # how long it may take to come to its end
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._input().close()
        try:
            self.process.wait(self.end_s)
        except subprocess.TimeoutExpired:
            end(self.process)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and return its answer. Raises BenchmarkFailed with what the child says went wrong."""
        self.tell(**request)
        return self.answer()

    def tell(self, **request: Any) -> None:
        """Send one request; `answer` waits for what the child says to it."""
        with contextlib.suppress(BrokenPipeError):  # its end shows in the answer
            self._input().write(json.dumps(request) + "\n")
            self._input().flush()

    def finish(self) -> None:
        """End the child's input: it comes to its end, and may have last words."""
        with contextlib.suppress(BrokenPipeError):
            self._input().close()

    def answer(self) -> dict[str, Any]:
        """Return the next line that the child says."""
        assert self.process.stdout is not None, "the output is a pipe"
        line = self.process.stdout.readline()
        if not line:
            raise BenchmarkFailed(f"{self._module} ended with code {self.process.wait(END_S)}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise BenchmarkFailed(f"{self._module}: {answer['failed']}")
        return answer

    def cpu_seconds(self) -> float:
        """Return the processor time that the child has used, all its threads together, to the nanosecond."""
        return time.clock_gettime(~self.process.pid << 3 | _CPUCLOCK_SCHED)

    def resident_bytes(self) -> int:
        """Return the resident memory of the child."""
        return resident_bytes(self.process.pid)

    def written_bytes(self) -> int:
        """Return what the child has caused to be written to the disk, as its kernel counts it."""
        return written_bytes(self.process.pid)

    def _input(self) -> Any:
        assert self.process.stdin is not None, "the input is a pipe"
        return self.process.stdin


@contextlib.contextmanager
def gateway(mqtt_port: int, **options: Any) -> Iterator[Child]:
    """Run a gateway with the embedded layer in a process of its own, connected to the broker at `mqtt_port`."""
    with working_directory() as directory:
        job: Mapping[str, Any] = {"mqtt_port": mqtt_port, "data_dir": str(directory), **options}
        with Child("gateway_child", json.dumps(job)) as child:
            child.answer()
            yield child
