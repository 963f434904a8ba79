"""A throw-away anvil: a chain that nobody here wrote, and the contracts placed on it.

The binary comes from the npm package @foundry-rs/anvil. It is looked for in METERGATE_ANVIL, then in
node_modules of the repository, then in PATH.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHAIN_ID = 31402
# A cold start takes 0.1 s; a busy machine may take much longer.
START_SECONDS_MAX = 30.0


class AnvilMissing(Exception):
    """There is no anvil to test against."""


def anvil_binary() -> str:
    """Return the path of the anvil binary; raises AnvilMissing and says how to get one."""
    given = os.environ.get("METERGATE_ANVIL")
    if given:
        if not os.access(given, os.X_OK):
            raise AnvilMissing(f"METERGATE_ANVIL names {given}, which is not a program")
        return given
    installed = sorted(ROOT.glob("node_modules/@foundry-rs/anvil-linux-*/bin/anvil"))
    if installed:
        installed[0].chmod(installed[0].stat().st_mode | 0o111)  # npm leaves it without the x bit
        return str(installed[0])
    found = shutil.which("anvil")
    if found is None:
        raise AnvilMissing(
            "anvil is needed for this test: run `npm install --no-save @foundry-rs/anvil@1.7.1`"
            " in the repository, or set METERGATE_ANVIL to the program"
        )
    return found


def free_port() -> int:
    """Return a port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class AnvilProcess:
    """A running anvil. `url` is its JSON-RPC endpoint."""

    url: str
    pid: int
    process: subprocess.Popen[bytes]

    def rpc(self, method: str, *params: Any) -> Any:
        """Ask anvil itself, outside of the code under test; raises RuntimeError with the node's error."""
        return rpc(self.url, method, *params)

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def rpc(url: str, method: str, *params: Any) -> Any:
    """Return the result of one JSON-RPC request; raises RuntimeError with the node's error."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)
    if "error" in answer:
        raise RuntimeError(f"{method}: {answer['error']}")
    return answer["result"]


def start_anvil(*, chain_id: int = CHAIN_ID, arguments: Sequence[str] = ()) -> AnvilProcess:
    """Start anvil on a free loopback port and wait until it answers."""
    port = free_port()
    command = [anvil_binary(), "--hardfork", "cancun", "--silent", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--chain-id", str(chain_id), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    anvil = AnvilProcess(f"http://127.0.0.1:{port}", process.pid, process)
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            anvil.rpc("eth_chainId")
        except OSError:
            if process.poll() is not None:
                raise AnvilMissing(f"anvil ended at once with status {process.returncode}") from None
            if time.monotonic() > deadline:
                anvil.stop()
                raise AnvilMissing(f"anvil did not answer within {START_SECONDS_MAX:g} s") from None
            time.sleep(0.02)
        else:
            return anvil


def place_contracts(anvil: AnvilProcess, alloc: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the accounts of a genesis (`settlement.genesis.alloc`) into a running anvil."""
    for address, account in alloc.items():
        if "code" in account:
            anvil.rpc("anvil_setCode", address, account["code"])
        if "nonce" in account:
            anvil.rpc("anvil_setNonce", address, account["nonce"])
        if int(account.get("balance", "0x0"), 16):
            anvil.rpc("anvil_setBalance", address, account["balance"])
        for slot, value in account.get("storage", {}).items():
            anvil.rpc("anvil_setStorageAt", address, slot, value)
