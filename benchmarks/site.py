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
START_S = 30.0
END_S = 15.0

# Windows above a commit's batch, no bound on the queue of a subscriber (docs/protocol.md 8); the rest is stock.
_MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_inflight_messages 2000
max_queued_messages 0
log_type error
log_dest stderr
"""


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


@contextlib.contextmanager
def mosquitto() -> Iterator[int]:
    """Run mosquitto with a configuration of its own; yields its port."""
    with working_directory() as directory:
        port = free_port()
        settings = directory / "mosquitto.conf"
        settings.write_text(_MOSQUITTO.format(port=port) + ("user root\n" if os.geteuid() == 0 else ""))
        log = directory / "log"
        with log.open("wb") as words:
            process = subprocess.Popen(
                [mosquitto_binary(), "-c", str(settings)], stdin=subprocess.DEVNULL, stdout=words, stderr=words
            )
        yield from _serving(process, port, log)


@contextlib.contextmanager
def demo_broker() -> Iterator[int]:
    """Run the demo's broker; yields its port."""
    with working_directory() as directory:
        port = free_port()
        log = directory / "log"
        command = [sys.executable, "-m", "gateway.broker", "--port", str(port)]
        with log.open("wb") as words:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, cwd=ROOT)
        yield from _serving(process, port, log)


BROKERS = {"mosquitto": mosquitto, "demo": demo_broker}


def _serving(process: subprocess.Popen[bytes], port: int, log: Path) -> Iterator[int]:
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    words = log.read_text(encoding="utf-8", errors="replace")[-500:]
                    raise BenchmarkFailed(f"the broker did not start on port {port}: {words}") from None
                time.sleep(0.02)
        yield port
    finally:
        end(process)


class Child:
    """One of our own programs in a process of its own, spoken to in lines of JSON.

    It ends when its standard input does, so none is left behind if this process dies.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
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
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            end(self.process)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and return its answer. Raises BenchmarkFailed with what the child says went wrong."""
        with contextlib.suppress(BrokenPipeError):  # its end shows in the answer
            self._input().write(json.dumps(request) + "\n")
            self._input().flush()
        return self.answer()

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
        """Return the processor time that the child has used, all its threads together."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Return the resident memory of the child."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

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
