"""An observer of the chain that shares no code with the gateway: plain JSON-RPC, eth_abi, the interface of the docs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sha3
from eth_abi.abi import decode, encode

Rpc = Callable[..., Any]

SETTLEMENT = "0x4020074e9df2ce1dee5a9c1b5c3f541d02a10003"
LOG_BLOCKS = 1_000
REORG_BLOCKS = 64  # no test replaces more


def keccak(data: bytes) -> bytes:
    """Return keccak-256."""
    return sha3.keccak_256(data).digest()


def _selector(signature: str) -> str:
    return keccak(signature.encode())[:4].hex()


_PAID = keccak(b"Paid(address,address,address,uint128,uint128)")
_CLAIMED = keccak(b"Claimed(bytes32,address,uint128,uint128)")
_DEPOSITED = keccak(b"Deposited(bytes32,address,uint128,uint128)")
_SETTLED = keccak(b"Settled(address,address,address,uint128)")
_REFUNDED = keccak(b"Refunded(bytes32,address,uint128)")
_WITHDRAWN = keccak(b"WithdrawFinalized(bytes32,address,uint128)")


@dataclass(slots=True)
class Flows:
    """What events say has moved since the first block, in base units, each by whom it concerns."""

    deposited: Counter[bytes]  # by channel
    claimed: Counter[bytes]
    refunded: Counter[bytes]
    withdrawn: Counter[bytes]
    settled: Counter[bytes]  # by lane
    paid: Counter[bytes]  # by payee
    upto: int  # the last block of these

    @staticmethod
    def none() -> "Flows":
        """Return what has moved before the first block."""
        return Flows(Counter(), Counter(), Counter(), Counter(), Counter(), Counter(), -1)

    def copy(self) -> "Flows":
        """Return the same in counters of its own."""
        kept = (self.deposited, self.claimed, self.refunded, self.withdrawn, self.settled, self.paid)
        return Flows(*map(Counter, kept), self.upto)


class Observer:
    """Reads a chain; `token` and `payouts` are the contracts that one gateway uses."""

    def __init__(self, rpc: Rpc, token: bytes, payouts: bytes) -> None:
        self.rpc = rpc
        self.token = "0x" + token.hex()
        self.payouts = "0x" + payouts.hex()
        self._kept = Flows.none()

    def _call(
        self, to: str, signature: str, types: list[str], arguments: list[Any], results: list[str], block: int | None
    ) -> Any:
        data = "0x" + _selector(signature) + encode(types, arguments).hex()
        answer = self.rpc("eth_call", {"to": to, "data": data}, "latest" if block is None else hex(block))
        return decode(results, bytes.fromhex(answer[2:]))

    @property
    def head(self) -> int:
        """The newest block's number."""
        return int(self.rpc("eth_blockNumber"), 16)

    @property
    def time(self) -> int:
        """Chain seconds."""
        return int(self.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def channel(self, identifier: bytes, block: int | None = None) -> tuple[int, int]:
        """Return (balance, totalClaimed)."""
        found = self._call(SETTLEMENT, "channels(bytes32)", ["bytes32"], [identifier], ["uint128", "uint128"], block)
        return int(found[0]), int(found[1])

    def claimed(self, identifier: bytes) -> int:
        """Return what was claimed of a channel, over all time."""
        return self.channel(identifier)[1]

    def pending(self, identifier: bytes) -> tuple[int, int]:
        """Return the pending withdrawal: (amount, initiatedAt)."""
        types = ["uint128", "uint40"]
        found = self._call(SETTLEMENT, "pendingWithdrawals(bytes32)", ["bytes32"], [identifier], types, None)
        return int(found[0]), int(found[1])

    def receiver(self, lane: bytes) -> tuple[int, int]:
        """Return (totalClaimed, totalSettled) of a lane."""
        arguments = ["0x" + lane.hex(), self.token]
        types = ["uint128", "uint128"]
        found = self._call(SETTLEMENT, "receivers(address,address)", ["address", "address"], arguments, types, None)
        return int(found[0]), int(found[1])

    def paid(self, payer: bytes, payee: bytes, block: int | None = None) -> int:
        """Return what `payer` has paid `payee` through CumulativePayouts."""
        arguments = ["0x" + payer.hex(), self.token, "0x" + payee.hex()]
        types = ["address", "address", "address"]
        (amount,) = self._call(self.payouts, "paid(address,address,address)", types, arguments, ["uint128"], block)
        return int(amount)

    def tokens(self, holder: bytes) -> int:
        """Return a token balance."""
        arguments = ["0x" + holder.hex()]
        (amount,) = self._call(self.token, "balanceOf(address)", ["address"], arguments, ["uint256"], None)
        return int(amount)

    def coins(self, holder: bytes) -> int:
        """Return a coin balance, wei."""
        return int(self.rpc("eth_getBalance", "0x" + holder.hex(), "latest"), 16)

    def transactions(self, sender: bytes) -> int:
        """Return how many transactions of an address were mined."""
        return int(self.rpc("eth_getTransactionCount", "0x" + sender.hex(), "latest"), 16)

    def flows(self) -> Flows:
        """Add up every event from the first block to the newest one."""
        head = self.head
        # Blocks far below the head stay as they are, and are read once.
        self._read(self._kept, head - REORG_BLOCKS)
        found = self._kept.copy()
        self._read(found, head)
        return found

    def _read(self, flows: Flows, last: int) -> None:
        books = {
            _DEPOSITED: (flows.deposited, 1, 2),
            _CLAIMED: (flows.claimed, 1, 2),
            _REFUNDED: (flows.refunded, 1, 1),
            _WITHDRAWN: (flows.withdrawn, 1, 1),
            _SETTLED: (flows.settled, 1, 1),
            _PAID: (flows.paid, 3, 2),
        }
        for first in range(flows.upto + 1, last + 1, LOG_BLOCKS):
            query = {
                "address": [SETTLEMENT, self.payouts],
                "fromBlock": hex(first),
                "toBlock": hex(min(last, first + LOG_BLOCKS - 1)),
                "topics": [["0x" + topic.hex() for topic in books]],
            }
            for log in self.rpc("eth_getLogs", query):
                topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
                book, at, words = books[topics[0]]
                amounts = decode(["uint128"] * words, bytes.fromhex(log["data"][2:]))
                key = topics[at][12:] if topics[0] in (_SETTLED, _PAID) else topics[at]
                book[key] += int(amounts[0])
        flows.upto = max(flows.upto, last)
