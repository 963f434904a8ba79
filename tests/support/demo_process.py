"""Child processes for tests: `metergate` commands, their output kept for the report of a failure."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
METERGATE = (sys.executable, "-m", "gateway")
# Starting takes two seconds on a quiet machine.
START_S = 60.0
# Settling for the last time, proving the books and ending the children takes a few seconds.
END_S = 60.0
# Every child that was started, for reports of failures.
CHILDREN: "list[Child]" = []
_FORBIDDEN = {1883, 8545, 8402}  # what a user of this machine may be running


def free_port() -> int:
    """Return a loopback port that nobody listens on right now."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _FORBIDDEN:
            return port


class Child:
    """A running command. Its output is read all the time, so that it never waits for us."""

    def __init__(self, command: Sequence[str], *, environment: dict[str, str] | None = None) -> None:
        self.command = list(command)
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        )
        CHILDREN.append(self)
        self._texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self.said: list[tuple[float, str]] = []  # every line with its time on the monotonic clock
        self._news = threading.Condition()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        streams = {"stdout": self.process.stdout, "stderr": self.process.stderr}
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True) for name, stream in streams.items()
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: IO[bytes]) -> None:
        for line in stream:
            with self._news:
                self._texts[name].append(line.decode(errors="replace"))
                self.said.append((time.monotonic(), self._texts[name][-1]))
                self._news.notify_all()
        stream.close()
        with self._news:
            self._news.notify_all()

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    @property
    def stdout(self) -> str:
        """All that was printed so far."""
        return "".join(self._texts["stdout"])

    @property
    def stderr(self) -> str:
        """All that was said on stderr so far."""
        return "".join(self._texts["stderr"])

    def report(self) -> str:
        """Return command, status and output, for a failure."""
        seconds = time.monotonic() - self.began
        return (
            f"{' '.join(self.command[1:])[:400]}\nstatus {self.process.poll()} after {seconds:.1f} s\n"
            f"--- stdout\n{self.stdout[-6_000:]}\n--- stderr\n{self.stderr[-6_000:]}"
        )

    def wait_for(self, pattern: str, timeout_s: float = START_S) -> None:
        """Wait until a line of either stream matches the pattern. Raises AssertionError with the output."""

        def seen() -> bool:
            return any(re.search(pattern, text) for _, text in self.said)

        with self._news:
            self._news.wait_for(lambda: seen() or self.process.poll() is not None, timeout_s)
        assert seen(), f"{pattern!r} was not said by\n{self.report()}"

    def ended(self, timeout_s: float = END_S) -> int:
        """Wait for the end and return the exit code. Raises AssertionError with the output."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {timeout_s} s: {self.report()}") from None
        for reader in self._readers:
            reader.join(5)
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        self.process.send_signal(number)

    def end(self, patience_s: float = END_S) -> None:
        """End it in order, by force if it does not listen."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for reader in self._readers:
            reader.join(5)


class Demo(Child):
    """A running `metergate demo` on ports of its own."""

    def __init__(self, *options: str, prefix: Sequence[str] = ()) -> None:
        self.mqtt_port, self.rpc_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.rpc_port}"
        self.http_port = free_port()
        ports = ["--mqtt-port", str(self.mqtt_port), "--rpc-port", str(self.rpc_port)]
        ports += ["--http-port", str(self.http_port)]
        super().__init__([*prefix, *METERGATE, "demo", *options, *ports])

    def rpc_answers(self) -> None:
        """Wait for the JSON-RPC port."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                rpc(self.url, "eth_chainId")
            except OSError:
                assert self.process.poll() is None, self.report()
                assert time.monotonic() < deadline, self.report()
                time.sleep(0.02)
            else:
                return

    def broker_answers(self) -> float:
        """Wait for the broker's port; returns when it was open, on the monotonic clock."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.mqtt_port), timeout=1).close()
            except OSError:
                assert self.process.poll() is None, self.report()
                assert time.monotonic() < deadline, self.report()
                time.sleep(0.05)
            else:
                return time.monotonic()

    def result(self, timeout_s: float = END_S) -> dict[str, Any]:
        """Wait for the end and return the JSON on the last line of stdout."""
        self.ended(timeout_s)
        lines = self.stdout.splitlines()
        assert lines, self.report()
        result: dict[str, Any] = json.loads(lines[-1])
        return result


def rpc(url: str, method: str, *params: Any) -> Any:
    """Return the result of one JSON-RPC request; raises RuntimeError with the node's error."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)
    if "error" in answer:
        raise RuntimeError(f"{method}: {answer['error']}")
    return answer["result"]


@contextlib.contextmanager
def running(child: Child) -> Iterator[Child]:
    """End the child after the body, whatever happens."""
    try:
        yield child
    finally:
        child.end()


def command(*arguments: str, environment: dict[str, str] | None = None, timeout_s: float = END_S) -> Child:
    """Run a `metergate` command to its end."""
    if arguments[:1] == ("demo",) and "--http-port" not in arguments:
        arguments = (*arguments[:1], "--http-port", str(free_port()), *arguments[1:])
    child = Child([*METERGATE, *arguments], environment=environment)
    try:
        child.ended(timeout_s)
    finally:
        child.end(5)
    return child


def one_sentence(child: Child, *words: str) -> str:
    """Check that a command refused with exit code 2 and one line on stderr that holds `words`; returns the line."""
    assert child.process.returncode == 2, child.report()
    assert "Traceback" not in child.stderr + child.stdout, child.report()
    lines = [line for line in child.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, child.report()
    for word in words:
        assert word in lines[0], child.report()
    return lines[0]
