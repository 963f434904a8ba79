"""The same signed transactions on anvil and here: success, gas, logs, storage. ANVIL names anvil's binary."""

import json
import os
import random
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from conftest import CHAIN_ID, COIN, genesis, key
from parallel_evm import Chain
from test_oracle import program
from test_web3 import INIT

SENDER = key(0xA2711)
Rpc = Callable[..., object]


@pytest.fixture
def anvil() -> Iterator[Rpc]:
    if "ANVIL" not in os.environ:
        pytest.fail("this comparison needs anvil: set ANVIL to its binary (npm: @foundry-rs/anvil)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        os.environ["ANVIL"],
        "--port",
        str(port),
        "--chain-id",
        str(CHAIN_ID),
        "--hardfork",
        "cancun",
        "--silent",
        "--base-fee",
        str(10**9),
        "--gas-limit",
        "1000000000",
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def send(method: str, *params: object) -> object:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["result"]

    try:
        for _ in range(100):
            try:
                send("eth_chainId")
                break
            except OSError:
                time.sleep(0.1)
        yield send
    finally:
        server.terminate()
        server.wait()


def in_process(chain: Chain) -> Rpc:
    def send(method: str, *params: object) -> object:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}).encode()
        return json.loads(chain.rpc(body))["result"]

    return send


def outcome(rpc: Rpc, raw: str) -> tuple[object, ...]:
    sent = rpc("eth_sendRawTransaction", raw)
    receipt = None
    while receipt is None:
        receipt = rpc("eth_getTransactionReceipt", sent)
    assert isinstance(receipt, dict)
    at = receipt["contractAddress"] or receipt["to"]
    slots = [rpc("eth_getStorageAt", at, hex(slot), "latest") for slot in range(12) if slot != 4]
    logs = [(log["address"], log["topics"], log["data"]) for log in receipt["logs"]]
    code = rpc("eth_getCode", at, "latest")
    return receipt["status"], receipt["gasUsed"], receipt["type"], at, slots, logs, code


def test_same_transactions_same_results(anvil: Rpc) -> None:
    ours = in_process(Chain(genesis=genesis(SENDER), auto_mine=True))
    anvil("anvil_setBalance", SENDER.address, hex(100 * COIN))
    rng = random.Random(11)
    fields = {"type": 2, "chainId": CHAIN_ID, "maxFeePerGas": 2 * 10**9, "maxPriorityFeePerGas": 0}
    targets: list[object] = []
    statuses = set()
    for nonce in range(150):
        tx: dict[str, object] = {**fields, "nonce": nonce, "gas": rng.choice([90_000, 300_000])}
        if nonce % 3 == 0:
            code = program(rng)
            head = bytes.fromhex(f"60{len(code):02x}600c5f3960{len(code):02x}5ff3")
            tx["data"] = INIT if nonce == 0 else head + bytes(12 - len(head)) + code
        else:
            tx |= {"to": rng.choice(targets), "data": rng.randbytes(rng.choice([0, 32])), "value": rng.choice([0, 3])}
            tx["accessList"] = rng.choice([[], [{"address": tx["to"], "storageKeys": ["0x" + "00" * 32]}]])
        raw = "0x" + SENDER.sign_transaction(tx).raw_transaction.hex()
        mine, other = outcome(ours, raw), outcome(anvil, raw)
        assert mine == other, f"transaction {nonce}: {tx}"
        statuses.add(mine[0])
        if nonce % 3 == 0:
            from eth_utils import to_checksum_address

            targets.append(to_checksum_address(str(mine[3])))
    assert statuses == {"0x0", "0x1"}
