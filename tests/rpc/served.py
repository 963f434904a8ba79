"""A `metergate chain` child process as a stock client sees it, and where the clients are found."""

import json
import os
import signal
import time
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount

from tests.support.demo_process import METERGATE, ROOT, Child, free_port

HERE = Path(__file__).parent
CHAIN_ID = 31402
COIN = 10**18
FEES = {"maxFeePerGas": 10**9, "maxPriorityFeePerGas": 10**8}
# Mined within a block's time on a quiet machine; a busy one takes longer.
MINED_S = 20.0


def key(name: str) -> LocalAccount:
    """Return a deterministic test key."""
    return Account.from_key(name.encode().rjust(32, b"\x01"))


def package(path: str) -> Path:
    """Return a file of node_modules; raises AssertionError that says how to get it."""
    modules = Path(os.environ.get("METERGATE_NODE_MODULES", ROOT / "node_modules"))
    found = modules / path
    assert found.exists(), f"{found} is missing: run `npm ci` in the repository"
    return found


@cache
def cast_binary() -> str:
    """Return the path of the cast program."""
    binary = package("@foundry-rs/cast-linux-amd64/bin/cast")
    binary.chmod(binary.stat().st_mode | 0o111)  # npm leaves it without the x bit
    return str(binary)


class Refused(Exception):
    """A JSON-RPC error: code, message, data."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']} {error['message']}")
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: str | None = error.get("data")


class Served(Child):
    """A running `metergate chain` on a port of its own."""

    def __init__(self, data: Path, *funded: LocalAccount, options: tuple[str, ...] = ("--block-ms", "50")) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        funds = [part for account in funded for part in ("--fund", account.address)]
        super().__init__([*METERGATE, "chain", "--port", str(self.port), "--data", str(data), *options, *funds])

    def answers(self) -> "Served":
        """Wait until JSON-RPC is served."""
        self.wait_for("JSON-RPC on")
        return self

    def post(self, body: bytes, path: str = "/") -> tuple[int, bytes]:
        """Send a body as it is; returns status and answer."""
        request = urllib.request.Request(self.url + path, body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return int(response.status), response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def rpc(self, method: str, *params: Any) -> Any:
        """Return the result of one request; raises Refused."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        answer = json.loads(self.post(body)[1])
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    def send(self, raw: bytes) -> str:
        """Send a signed transaction and return its hash; raises Refused."""
        return str(self.rpc("eth_sendRawTransaction", "0x" + raw.hex()))

    def mined(self, tx_hash: str) -> dict[str, Any]:
        """Wait for a receipt."""
        deadline = time.monotonic() + MINED_S
        while (receipt := self.rpc("eth_getTransactionReceipt", tx_hash)) is None:
            assert time.monotonic() < deadline, f"{tx_hash} was not mined: {self.report()}"
            time.sleep(0.02)
        return dict(receipt)

    def blocks_pass(self, count: int = 3) -> None:
        """Wait until so many more blocks were made (an idle chain makes one a second)."""
        target = int(self.rpc("eth_blockNumber"), 16) + count
        deadline = time.monotonic() + MINED_S
        while int(self.rpc("eth_blockNumber"), 16) < target:
            assert time.monotonic() < deadline, self.report()
            time.sleep(0.02)

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        self.signal(signal.SIGKILL)
        self.ended()


def transfer(sender: LocalAccount, nonce: int, **fields: Any) -> bytes:
    """Return a signed transfer of one wei to an address that nobody owns."""
    filled = {"chainId": CHAIN_ID, "nonce": nonce, "to": "0x" + "99" * 20, "value": 1, "gas": 21_000, **FEES, **fields}
    return bytes(sender.sign_transaction(filled).raw_transaction)
