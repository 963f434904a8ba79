"""The embedded execution layer as the contract tests use a chain: in process, every sender a key that it knows."""

import json
from collections.abc import Iterable
from typing import Any

import parallel_evm

from settlement.transactions import Transaction, sign_transaction
from tests.contracts.chain import CHAIN_ID, GAS_LIMIT, Chain, Receipt, RpcFailure, to_hex
from tests.contracts.world import Key

EPOCH = 1_700_000_000


class EmbeddedChain(Chain):
    """Takes code and storage until the first question; from then on it is a chain with that genesis.

    Senders are the given keys: this layer signs for nobody and impersonates nobody.
    """

    def __init__(self, senders: Iterable[Key]) -> None:
        self.url = "in process"
        self._secrets = {key.address: key.secret for key in senders}
        self._alloc: dict[str, dict[str, Any]] = {}
        self._chain: parallel_evm.Chain | None = None
        self._next_time: int | None = None

    def close(self) -> None:
        if self._chain is not None:
            self._chain.close()

    def set_code(self, address: bytes, code: bytes) -> None:
        assert self._chain is None, "a genesis never changes"
        self._alloc.setdefault(to_hex(address), {"balance": "0x0", "nonce": "0x1"})["code"] = to_hex(code)

    def set_storage(self, address: bytes, slot: bytes, word: bytes) -> None:
        assert self._chain is None, "a genesis never changes"
        self._alloc[to_hex(address)].setdefault("storage", {})[to_hex(slot)] = to_hex(word)

    @property
    def chain(self) -> parallel_evm.Chain:
        """The layer itself, made at the first use. Gas is free, as it is on the tests' anvil."""
        if self._chain is None:
            body = {
                "alloc": self._alloc,
                "timestamp": hex(EPOCH),
                "gasLimit": hex(8 * GAS_LIMIT),
                "baseFeePerGas": "0x0",
            }
            self._chain = parallel_evm.Chain(chain_id=CHAIN_ID, genesis=json.dumps(body), dev=True)
            self._chain.produce_block(EPOCH + 1)
        return self._chain

    def rpc(self, method: str, *params: object) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = json.loads(self.chain.rpc(json.dumps(body).encode()))
        if "error" in answer:
            raise RpcFailure(method, answer["error"])
        return answer["result"]

    def send(self, to: bytes, data: bytes, sender: bytes, value: int = 0) -> Receipt:
        nonce = self.chain.nonce(sender)
        transaction = Transaction(CHAIN_ID, nonce, 0, 0, GAS_LIMIT, to, value, data)
        signed = sign_transaction(transaction, self._secrets[sender])
        self.rpc("eth_sendRawTransaction", to_hex(signed.raw))
        self.mine()
        receipt = self.rpc("eth_getTransactionReceipt", to_hex(signed.tx_hash))
        return Receipt(receipt["status"] == "0x1", int(receipt["gasUsed"], 16), tuple(receipt["logs"]))

    @property
    def now(self) -> int:
        return self.chain.block_timestamp

    def mine(self) -> None:
        self.chain.produce_block(self.now + 1 if self._next_time is None else self._next_time)
        self._next_time = None

    def set_next_time(self, timestamp: int) -> None:
        self._next_time = timestamp
