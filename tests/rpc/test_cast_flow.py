"""cast: its ordinary commands against `metergate chain`."""

import json
import subprocess
from typing import Any

import pytest
from eth_account.signers.local import LocalAccount

from tests.rpc.served import CHAIN_ID, COIN, Served, cast_binary, key


class Cast:
    """cast with the chain's address and a key."""

    def __init__(self, served: Served, account: LocalAccount) -> None:
        self.url = served.url
        self.key = "0x" + bytes(account.key).hex()

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command and return its end."""
        line = [cast_binary(), command, "--rpc-url", self.url, *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=30)

    def __call__(self, command: str, *arguments: str) -> str:
        done = self.run(command, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def send(self, *arguments: str) -> dict[str, Any]:
        """Send a transaction and return its receipt."""
        return dict(json.loads(self("send", "--private-key", self.key, "--poll-interval", "1", "--json", *arguments)))


@pytest.fixture(scope="module")
def cast(served: Served, alice: LocalAccount) -> Cast:
    return Cast(served, alice)


@pytest.fixture(scope="module")
def deployed(cast: Cast, counter: dict[str, Any]) -> str:
    start = f"{40:064x}"
    receipt = cast.send("--create", counter["bytecode"] + start)
    assert receipt["status"] == "0x1"
    return str(receipt["contractAddress"])


def test_what_a_client_asks_first(cast: Cast, bob: LocalAccount) -> None:
    assert cast("chain-id") == str(CHAIN_ID)
    assert cast("client").startswith("parallel-evm/")
    assert cast("balance", bob.address) == str(10 * COIN)
    assert int(cast("gas-price")) >= int(cast("base-fee"))
    block = json.loads(cast("block", "latest", "--json"))
    assert json.loads(cast("block", block["hash"], "--json"))["number"] == block["number"]
    assert int(cast("block-number")) >= int(block["number"], 16)


def test_call_send_receipt_logs_tx(cast: Cast, deployed: str, alice: LocalAccount) -> None:
    assert cast("call", deployed, "total()(uint256)") == "40"
    estimate = int(cast("estimate", deployed, "add(uint256)", "2", "--from", alice.address))
    receipt = cast.send(deployed, "add(uint256)", "2")
    assert receipt["status"] == "0x1"
    assert int(receipt["gasUsed"], 16) <= estimate
    assert cast("call", deployed, "total()(uint256)") == "42"
    sent = receipt["transactionHash"]
    assert json.loads(cast("receipt", sent, "--json"))["blockHash"] == receipt["blockHash"]
    assert json.loads(cast("tx", sent, "--json"))["hash"] == sent
    event = "Counted(address indexed,uint256,uint256)"
    [log] = json.loads(cast("logs", "--from-block", "0", "--address", deployed, event, alice.address, "--json"))
    assert log["transactionHash"] == sent
    assert log["data"] == f"0x{2:064x}{42:064x}"
    assert int(cast("storage", deployed, "0"), 16) == 42
    assert cast("nonce", alice.address) == "2"
    assert cast("code", deployed) != "0x"


def test_a_revert_is_told(cast: Cast, deployed: str) -> None:
    done = cast.run("call", deployed, "add(uint256)", "0")
    assert done.returncode != 0
    assert "nothing to add" in done.stderr
    done = cast.run("call", deployed, "add(uint256)", "1001")
    assert done.returncode != 0
    assert f"{1001:064x}{1000:064x}" in done.stderr or "TooMuch" in done.stderr


def test_a_sender_without_funds(served: Served, cast: Cast, deployed: str) -> None:
    poor = Cast(served, key("poor"))
    done = poor.run("send", "--private-key", poor.key, "--gas-limit", "21000", "--value", "1", deployed)
    assert done.returncode != 0
    assert "insufficient funds for gas * price + value" in done.stderr
