"""How long a demo takes from the command to the first settled payment, seen from outside by its JSON-RPC."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import sha3

from benchmarks.frame import BenchmarkFailed
from channels.types import SETTLEMENT_ADDRESS
from tests.support.mosquitto import free_port

SETTLED = "0x" + sha3.keccak_256(b"Settled(address,address,address,uint128)").hexdigest()
POLL_S = 0.05
# A settlement is due within 20 s of a demo's start; a machine under load takes its time to start.
WAIT_S = 120.0
END_S = 60.0


def first_settlement(command: Sequence[str], directory: Path) -> float:
    """Start `python COMMAND` as a demo on free ports; return the seconds to the first `Settled` event, then end it."""
    rpc = free_port()
    arguments = ["--json", "--mqtt-port", str(free_port()), "--rpc-port", str(rpc)]
    with tempfile.TemporaryFile() as words:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=words,
            cwd=directory,
            start_new_session=True,
        )
        try:
            return wait_for_settlement(rpc, started, process, WAIT_S)
        except BenchmarkFailed as error:
            words.seek(0)
            raise BenchmarkFailed(f"{error}: {words.read().decode(errors='replace')[-500:]}") from error
        finally:
            end_demo(process)


def wait_for_settlement(rpc: int, started: float, process: subprocess.Popen[bytes], wait_s: float) -> float:
    """Return the seconds from `started` to the first settlement on the chain behind the port `rpc`."""
    query = {"fromBlock": "0x0", "toBlock": "latest", "address": f"0x{SETTLEMENT_ADDRESS.hex()}", "topics": [SETTLED]}
    body = {"jsonrpc": "2.0", "id": 1, "method": "eth_getLogs", "params": [query]}
    with httpx.Client(base_url=f"http://127.0.0.1:{rpc}", timeout=5) as http:
        while time.monotonic() - started < wait_s:
            with contextlib.suppress(httpx.TransportError):  # it is not up yet
                if http.post("/", json=body).json().get("result"):
                    return time.monotonic() - started
            if process.poll() is not None:
                raise BenchmarkFailed(f"the demo ended with code {process.returncode} before it settled")
            time.sleep(POLL_S)
    raise BenchmarkFailed(f"no payment was settled within {wait_s:g} s")


def end_demo(process: subprocess.Popen[bytes]) -> None:
    """End a demo, and with it what it started: make hands a signal on only to its own group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
