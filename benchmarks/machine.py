"""What the figures were measured on."""

import os
import platform
import sqlite3
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.site import WORK, working_directory
from tests.support.anvil import AnvilMissing, anvil_binary
from tests.support.mosquitto import binary as mosquitto_binary

PACKAGES = (
    "metergate",
    "parallel-evm",
    "amqtt",
    "coincurve",
    "msgspec",
    "cbor2",
    "paho-mqtt",
    "safe-pysha3",
    "uvicorn",
    "x402",
)
FSYNC_TRIES = 50


def describe() -> dict[str, Any]:
    """Return the machine as JSON values: sizes in MB, the file system and its fsync time where journals are put."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": int((_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
        "disk": _file_system(WORK),
        "fsync_us": _fsync_us(),
        "versions": _versions(),
    }


def _field(path: str, name: str) -> str | None:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`: the mount with the longest matching prefix."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    holding = [(len(point), kind) for point, kind in mounts if path.resolve().is_relative_to(point)]
    return max(holding)[1] if holding else "unknown"


def _fsync_us() -> int:
    """Return the median time of appending 4 KiB durably, in microseconds."""
    with working_directory() as directory:
        descriptor = os.open(directory / "probe", os.O_WRONLY | os.O_CREAT, 0o600)
        times = []
        for _ in range(FSYNC_TRIES):
            os.write(descriptor, bytes(4096))
            started = time.perf_counter_ns()
            os.fdatasync(descriptor)
            times.append(time.perf_counter_ns() - started)
        os.close(descriptor)
    return int(median(times)) // 1000


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in PACKAGES} | {"sqlite": sqlite3.sqlite_version}
    try:
        found["mosquitto"] = _first_line([mosquitto_binary(), "-h"]).removeprefix("mosquitto version ")
        found["anvil"] = _first_line([anvil_binary(), "--version"]).removeprefix("anvil Version: ")
    except (RuntimeError, AnvilMissing):
        pass  # the benchmarks that need them say so
    return found


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return (done.stdout.splitlines() or [""])[0]
