"""Lives of a gateway process: born, watched, killed."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.support.demo_process import METERGATE, ROOT

# A fork answers in milliseconds and a Python start in seconds; only a machine that is stuck takes this long.
PATIENCE_S = 60.0


class Life:
    """One life of the gateway: its process id, the points it passed, and how it ended."""

    def __init__(self) -> None:
        self.pid = 0
        self.points: list[str] = []
        self.status: int | None = None  # exit code, or minus the signal
        self._news = threading.Condition()

    @property
    def alive(self) -> bool:
        """True until its end is known."""
        return self.status is None

    @property
    def killed(self) -> bool:
        """True when it ended by SIGKILL and not by itself."""
        return self.status == -signal.SIGKILL

    def told(self, line: str) -> None:
        """Take in a line about it."""
        word, _, rest = line.partition(" ")
        with self._news:
            if word == "pid":
                self.pid = int(rest)
            elif word == "point":
                self.points.append(rest)
            elif word == "end":
                self.status = int(rest)
            self._news.notify_all()

    def born(self) -> None:
        """Wait until there is a process."""
        with self._news:
            assert self._news.wait_for(lambda: self.pid or not self.alive, PATIENCE_S), "no process was made"

    def ended(self, timeout_s: float) -> bool:
        """Wait for the end; tells whether it came."""
        with self._news:
            return self._news.wait_for(lambda: not self.alive, timeout_s)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, if it still lives, and wait for the end."""
        self.born()
        if self.alive:
            os.kill(self.pid, number)
        assert self.ended(PATIENCE_S), f"process {self.pid} does not end"


class Nursery:
    """Forks instrumented gateways (`tests.crash.child`), one at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'firmware-sim'}"},
            text=True,
        )
        self._life: Life | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if self._life is not None:
                self._life.told(line.rstrip("\n"))
        if self._life is not None and self._life.alive:
            self._life.told("end 70")  # the nursery itself is gone

    def bear(self, **life: Any) -> Life:
        """Start a life; see `tests.crash.child` for what may be said about it."""
        assert self._life is None or not self._life.alive, "one life at a time"
        self._life = Life()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(life) + "\n")
        self._process.stdin.flush()
        return self._life

    def end(self) -> None:
        """End the last life, if it still lives."""
        if self._life is not None and self._life.alive:
            self._life.kill()

    def close(self) -> None:
        """End the last life and the nursery."""
        self.end()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


def bear_by_command(config: Path, log: Path, environment: dict[str, str]) -> Life:
    """Start `metergate run` itself, as an operator would."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*METERGATE, "run", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
    life = Life()
    life.told(f"pid {process.pid}")
    threading.Thread(target=lambda: life.told(f"end {process.wait()}"), daemon=True).start()
    return life
