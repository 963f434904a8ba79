"""A thin JSON-RPC client for the contract tests: calls, transactions, decoded events and refusals by name."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import sha3
from eth_abi.abi import decode, encode

CHAIN_ID = 31402
GAS_LIMIT = 25_000_000
ZERO = bytes(20)
REPOSITORY = Path(__file__).parents[2]


def keccak(data: bytes) -> bytes:
    return sha3.keccak_256(data).digest()


def to_hex(data: bytes) -> str:
    return "0x" + data.hex()


def from_hex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def find_anvil() -> str:
    """Path of the anvil program: METERGATE_ANVIL, the npm package below the repository, or the search path."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    package = REPOSITORY / "node_modules" / "@foundry-rs" / f"anvil-linux-{machine}" / "bin" / "anvil"
    for candidate in (os.environ.get("METERGATE_ANVIL"), str(package), shutil.which("anvil")):
        if candidate and Path(candidate).is_file():
            return candidate
    raise RuntimeError(
        f"the contract tests need anvil and found none: run `npm install --no-save @foundry-rs/anvil@1.7.1` in "
        f"{REPOSITORY}, or name the program in METERGATE_ANVIL"
    )


@contextlib.contextmanager
def running_anvil(*extra: str) -> Iterator[str]:
    """An anvil of its own on a free port of the loopback; yields its URL and ends it afterwards."""
    command = [
        find_anvil(), "--port", "0", "--hardfork", "cancun", "--chain-id", str(CHAIN_ID), "--no-mining",
        "--auto-impersonate", "--block-base-fee-per-gas", "0", "--gas-price", "0", *extra,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    drain = None
    try:
        assert process.stdout is not None
        url = ""
        for line in process.stdout:
            if found := re.search(r"Listening on (\S+)", line):
                url = f"http://{found[1]}"
                break
        assert url, f"anvil ended before it listened (exit code {process.wait()})"
        # Nobody reads on, so a full pipe would stop it.
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        yield url
    finally:
        process.terminate()
        process.wait(10)
        if drain is not None:
            drain.join(10)
        if process.stdout is not None:
            process.stdout.close()


class RpcFailure(Exception):
    def __init__(self, method: str, error: Mapping[str, Any]) -> None:
        super().__init__(f"{method}: {error.get('message')}")
        data = error.get("data")
        self.data = from_hex(data) if isinstance(data, str) else b""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A mined transaction: whether it succeeded, its gas, and its logs as the node gave them."""

    ok: bool
    gas: int
    logs: tuple[Mapping[str, Any], ...]


class Chain:
    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=60)
        # Left alone, a block is at the wall clock's time; tests count seconds of their own, one for each block.
        self.rpc("anvil_setBlockTimestampInterval", 1)

    def close(self) -> None:
        self._http.close()

    def rpc(self, method: str, *params: object) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = self._http.post("", json=body).json()
        if "error" in answer:
            raise RpcFailure(method, answer["error"])
        return answer["result"]

    def call(self, to: bytes, data: bytes, sender: bytes = ZERO, value: int = 0) -> bytes:
        sent = {"from": to_hex(sender), "to": to_hex(to), "data": to_hex(data), "gas": hex(GAS_LIMIT)}
        if value:
            sent["value"] = hex(value)
        return from_hex(self.rpc("eth_call", sent, "latest"))

    def send(self, to: bytes, data: bytes, sender: bytes, value: int = 0) -> Receipt:
        sent = {
            "from": to_hex(sender),
            "to": to_hex(to),
            "data": to_hex(data),
            "gas": hex(GAS_LIMIT),
            "gasPrice": "0x0",
            "value": hex(value),
        }
        transaction = self.rpc("eth_sendTransaction", sent)
        self.mine()
        receipt = self.rpc("eth_getTransactionReceipt", transaction)
        return Receipt(receipt["status"] == "0x1", int(receipt["gasUsed"], 16), tuple(receipt["logs"]))

    def mine(self) -> None:
        self.rpc("evm_mine")

    @property
    def now(self) -> int:
        return int(self.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def advance(self, seconds: int) -> None:
        """Make a block that is `seconds` later than the last one."""
        self.set_next_time(self.now + seconds)
        self.mine()

    def set_next_time(self, timestamp: int) -> None:
        self.rpc("evm_setNextBlockTimestamp", timestamp)

    def set_code(self, address: bytes, code: bytes) -> None:
        self.rpc("anvil_setCode", to_hex(address), to_hex(code))

    def set_storage(self, address: bytes, slot: bytes, word: bytes) -> None:
        self.rpc("anvil_setStorageAt", to_hex(address), to_hex(slot), to_hex(word))

    def storage(self, address: bytes, slot: bytes) -> bytes:
        return from_hex(self.rpc("eth_getStorageAt", to_hex(address), to_hex(slot), "latest"))


def canonical(parameter: Mapping[str, Any]) -> str:
    kind: str = parameter["type"]
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(canonical(part) for part in parameter['components'])}){kind.removeprefix('tuple')}"


def signature_of(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']}({','.join(canonical(parameter) for parameter in entry['inputs'])})"


def _types(parameters: Sequence[Mapping[str, Any]]) -> list[str]:
    return [canonical(parameter) for parameter in parameters]


def _plain(value: Any) -> Any:
    """Addresses, which eth_abi decodes as text, as bytes; everything else as it is."""
    if isinstance(value, str) and re.fullmatch("0x[0-9a-f]{40}", value):
        return from_hex(value)
    if isinstance(value, tuple | list):
        return tuple(_plain(item) for item in value)
    return value


def revert_name(data: bytes, abi: Sequence[Mapping[str, Any]]) -> str:
    """The custom error or the reason in revert data; "" when there is none."""
    if data[:4] == keccak(b"Error(string)")[:4]:
        return str(decode(["string"], data[4:])[0])
    for entry in abi:
        if entry["type"] == "error" and keccak(signature_of(entry).encode())[:4] == data[:4]:
            assert len(data) == 4 + 32 * len(entry["inputs"]), f"{entry['name']} with {data.hex()}"
            return str(entry["name"])
    return data.hex()


@dataclass(frozen=True, slots=True)
class Contract:
    """A contract by its address and ABI; functions are named, overloads by their whole signature."""

    chain: Chain
    address: bytes
    abi: Sequence[Mapping[str, Any]]

    def _function(self, name: str) -> Mapping[str, Any]:
        found = [
            entry for entry in self.abi if entry["type"] == "function" and name in (entry["name"], signature_of(entry))
        ]
        assert len(found) == 1, f"{len(found)} functions {name}"
        return found[0]

    def data(self, name: str, *arguments: object) -> bytes:
        entry = self._function(name)
        selector = keccak(signature_of(entry).encode())[:4]
        return selector + encode(_types(entry["inputs"]), arguments)

    def read(self, name: str, *arguments: object, sender: bytes = ZERO, value: int = 0) -> Any:
        answer = self.chain.call(self.address, self.data(name, *arguments), sender, value)
        values = _plain(decode(_types(self._function(name)["outputs"]), answer))
        return values[0] if len(values) == 1 else values

    def send(self, name: str, *arguments: object, sender: bytes, value: int = 0) -> Receipt:
        """Send a transaction that must succeed."""
        data = self.data(name, *arguments)
        receipt = self.chain.send(self.address, data, sender, value)
        if not receipt.ok:
            raise AssertionError(f"{name} reverted: {self.refusal_of(data, sender) or 'no data'}")
        return receipt

    def refusal_of(self, data: bytes, sender: bytes = ZERO, value: int = 0) -> str | None:
        """How a call of these bytes is refused: an error's name, a reason, "" for no data; None if it is not."""
        try:
            self.chain.call(self.address, data, sender, value)
        except RpcFailure as failure:
            return revert_name(failure.data, self.abi)
        return None

    def refusal(self, name: str, *arguments: object, sender: bytes = ZERO, value: int = 0) -> str | None:
        return self.refusal_of(self.data(name, *arguments), sender, value)

    def events(self, receipt: Receipt) -> list[tuple[str, dict[str, Any]]]:
        """This contract's events in a receipt, in order, as (name, arguments)."""
        return [self._event(entry) for entry in receipt.logs if from_hex(entry["address"]) == self.address]

    def _event(self, log: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        topics = [from_hex(topic) for topic in log["topics"]]
        events = (entry for entry in self.abi if entry["type"] == "event")
        entry = next(entry for entry in events if keccak(signature_of(entry).encode()) == topics[0])
        indexed = [part for part in entry["inputs"] if part["indexed"]]
        others = [part for part in entry["inputs"] if not part["indexed"]]
        assert len(topics) == 1 + len(indexed)
        values = {
            part["name"]: _plain(decode([part["type"]], topic)[0])
            for part, topic in zip(indexed, topics[1:], strict=True)
        }
        decoded = _plain(decode(_types(others), from_hex(log["data"])))
        values |= {part["name"]: value for part, value in zip(others, decoded, strict=True)}
        return entry["name"], values
