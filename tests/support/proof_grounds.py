"""Chains for proofs: anvil and the embedded layer under one handle, mined at once or when a test says so.

`upstream` takes and gives JSON-RPC bodies, so that a chain proxy can stand in front of either.
"""

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import parallel_evm

from settlement.genesis import alloc, genesis
from settlement.transactions import Transaction, sign_transaction
from tests.support.anvil import place_contracts, start_anvil
from tests.support.chain_proxy import Upstream, http_upstream

CHAIN_ID = 31402
EPOCH = 1_760_000_000
GAS = 5_000_000
TIP = 10**9
FEE = 10**11

Codes = Mapping[bytes, bytes]  # other or more contracts: runtime code by address


def place(accounts: dict[str, dict[str, Any]], codes: Codes) -> None:
    """Put contracts into the accounts of a genesis; storage that is there stays."""
    for address, code in codes.items():
        account = accounts.setdefault("0x" + address.hex(), {"balance": "0x0", "nonce": "0x1"})
        account["code"] = "0x" + code.hex()


class Ground(ABC):
    """A chain with our contracts and some funded addresses."""

    name: str
    upstream: Upstream

    @abstractmethod
    def mine(self, seconds: int = 0) -> None:
        """Make a block, so many chain seconds after the last one (anvil: at least one)."""

    @abstractmethod
    def automine(self, on: bool) -> None:
        """Mine every transaction at once, or none until `mine`."""

    @abstractmethod
    def stop(self) -> None:
        """End it."""

    def rpc(self, method: str, *params: Any) -> Any:
        """Return the result of one request; raises RuntimeError with the node's error."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        answer = json.loads(self.upstream(body))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def send(self, key: bytes, sender: bytes, to: bytes | None, data: bytes, *, value: int = 0) -> str:
        """Sign and send a transaction of anybody; returns its hash in hex."""
        nonce = int(self.rpc("eth_getTransactionCount", "0x" + sender.hex(), "pending"), 16)
        signed = sign_transaction(Transaction(CHAIN_ID, nonce, TIP, FEE, GAS, to, value, data), key)
        found: str = self.rpc("eth_sendRawTransaction", "0x" + signed.raw.hex())
        return found

    def receipt(self, tx_hash: str) -> dict[str, Any] | None:
        """Return the receipt of a mined transaction."""
        found: dict[str, Any] | None = self.rpc("eth_getTransactionReceipt", tx_hash)
        return found


class EmbeddedGround(Ground):
    """The embedded layer in this process."""

    name = "embedded"

    def __init__(self, tokens: Mapping[bytes, int], coins: Mapping[bytes, int], codes: Codes) -> None:
        body = genesis(tokens, coins, timestamp=EPOCH)
        place(body["alloc"], codes)
        self._chain = parallel_evm.Chain(chain_id=CHAIN_ID, genesis=json.dumps(body))
        self._now = EPOCH
        self._auto = True
        self._lock = threading.Lock()
        self.mine()

    def upstream(self, body: bytes) -> bytes:
        """Answer, and mine what came."""
        answer = self._chain.rpc(body)
        with self._lock:
            if self._auto and self._chain.pending_count:
                self._produce(0)
        return answer

    def mine(self, seconds: int = 0) -> None:
        """Make a block."""
        with self._lock:
            self._produce(seconds)

    def _produce(self, seconds: int) -> None:
        self._now += seconds
        self._chain.produce_block(self._now)

    def automine(self, on: bool) -> None:
        """Mine at once, or not."""
        self._auto = on

    def stop(self) -> None:
        """Close the chain."""
        self._chain.close()


class AnvilGround(Ground):
    """An anvil of its own."""

    name = "anvil"

    def __init__(self, tokens: Mapping[bytes, int], coins: Mapping[bytes, int], codes: Codes) -> None:
        self._anvil = start_anvil(arguments=("--timestamp", str(EPOCH)))
        self.upstream = http_upstream(self._anvil.url)
        accounts = alloc(tokens, coins)
        place(accounts, codes)
        place_contracts(self._anvil, accounts)
        self.mine()

    def mine(self, seconds: int = 0) -> None:
        """Make a block."""
        if seconds:
            self.rpc("evm_increaseTime", seconds)
        self.rpc("evm_mine")

    def automine(self, on: bool) -> None:
        """Mine at once, or not."""
        self.rpc("evm_setAutomine", on)

    def stop(self) -> None:
        """End the process."""
        self._anvil.stop()


GROUNDS: dict[str, type[EmbeddedGround] | type[AnvilGround]] = {"embedded": EmbeddedGround, "anvil": AnvilGround}
