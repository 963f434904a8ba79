"""The chain as a stock client sees it: web3.py and the public interface of docs/protocol.md 1, written out here."""

from typing import Any

from web3 import Web3
from web3.contract import Contract

from tests.support.outsider_signing import COLLECTOR, SETTLEMENT

_CONFIG = {
    "type": "tuple",
    "components": [
        {"name": "payer", "type": "address"},
        {"name": "payerAuthorizer", "type": "address"},
        {"name": "receiver", "type": "address"},
        {"name": "receiverAuthorizer", "type": "address"},
        {"name": "token", "type": "address"},
        {"name": "withdrawDelay", "type": "uint40"},
        {"name": "salt", "type": "bytes32"},
    ],
}


def _function(name: str, inputs: list[Any], outputs: str = "", view: bool = False) -> dict[str, Any]:
    return {
        "type": "function",
        "name": name,
        "stateMutability": "view" if view else "nonpayable",
        "inputs": [_argument(each, index) for index, each in enumerate(inputs)],
        "outputs": [_argument(each, index) for index, each in enumerate(outputs.split())],
    }


def _argument(kind: Any, index: int) -> dict[str, Any]:
    if isinstance(kind, dict):
        return {"name": f"a{index}", **kind}
    return {"name": f"a{index}", "type": kind}


def _event(name: str, inputs: str) -> dict[str, Any]:
    arguments = []
    for each in inputs.split(", "):
        words = each.split()
        arguments.append({"type": words[0], "indexed": "indexed" in words, "name": words[-1]})
    return {"type": "event", "name": name, "anonymous": False, "inputs": arguments}


_SETTLEMENT_ABI = [
    _function("deposit", [{"name": "config", **_CONFIG}, "uint128", "address", "bytes"]),
    _function("initiateWithdraw", [{"name": "config", **_CONFIG}, "uint128"]),
    _function("settle", ["address", "address"]),
    _function("channels", ["bytes32"], "uint128 uint128", view=True),
    _function("pendingWithdrawals", ["bytes32"], "uint128 uint40", view=True),
    _function("receivers", ["address", "address"], "uint128 uint128", view=True),
    _function("refundNonce", ["bytes32"], "uint256", view=True),
    _function("getChannelId", [{"name": "config", **_CONFIG}], "bytes32", view=True),
    _function("getVoucherDigest", ["bytes32", "uint128"], "bytes32", view=True),
    _event("Deposited", "bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newBalance"),
    _event("Claimed", "bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newTotalClaimed"),
    _event("Settled", "address indexed receiver, address indexed token, address indexed sender, uint128 amount"),
    _event("Refunded", "bytes32 indexed channelId, address indexed sender, uint128 amount"),
    _event("WithdrawInitiated", "bytes32 indexed channelId, uint128 amount, uint40 finalizeAfter"),
]
_TOKEN_ABI = [
    _function("balanceOf", ["address"], "uint256", view=True),
    _function("decimals", [], "uint8", view=True),
    _function("name", [], "string", view=True),
    _function("version", [], "string", view=True),
    _function("transfer", ["address", "uint256"], "bool"),
    _event("Transfer", "address indexed sender, address indexed receiver, uint256 value"),
]
_PAID = "address indexed sender, address indexed token, address indexed payee, uint128 amount, uint128 cumulative"
_PAYOUTS_ABI = [_function("paid", ["address", "address", "address"], "uint128", view=True), _event("Paid", _PAID)]


class ChainView:
    """Web3 on one node, with the contracts that matter."""

    def __init__(self, url: str, token: bytes, payouts: str | None = None) -> None:
        self.web3 = Web3(Web3.HTTPProvider(url, request_kwargs={"timeout": 20}))
        self.collector = Web3.to_checksum_address(COLLECTOR)
        self.settlement = self._contract(SETTLEMENT, _SETTLEMENT_ABI)
        self.token = self._contract("0x" + token.hex(), _TOKEN_ABI)
        self.payouts = None if payouts is None else self._contract(payouts, _PAYOUTS_ABI)

    def _contract(self, address: str, abi: Any) -> Contract:
        return self.web3.eth.contract(address=Web3.to_checksum_address(address), abi=abi)

    def channel(self, identifier: bytes) -> tuple[int, int]:
        """Return balance and totalClaimed."""
        balance, claimed = self.settlement.functions.channels(identifier).call()
        return balance, claimed

    def receiver(self, lane: str) -> tuple[int, int]:
        """Return totalClaimed and totalSettled of a lane."""
        receiver = Web3.to_checksum_address(lane)
        claimed, settled = self.settlement.functions.receivers(receiver, self.token.address).call()
        return claimed, settled

    def tokens(self, holder: str) -> int:
        """Return a balance of the stablecoin."""
        held: int = self.token.functions.balanceOf(Web3.to_checksum_address(holder)).call()
        return held

    def send(self, account: Any, call: Any, **extra: Any) -> Any:
        """Sign a contract call as web3.py builds it, send it and return its receipt."""
        sender = account.address
        built = call.build_transaction({"from": sender, "nonce": self.web3.eth.get_transaction_count(sender), **extra})
        return self.mined(account, built)

    def mined(self, account: Any, transaction: dict[str, Any]) -> Any:
        """Sign and send a whole transaction and return its receipt."""
        raw = account.sign_transaction(transaction).raw_transaction
        return self.web3.eth.wait_for_transaction_receipt(self.web3.eth.send_raw_transaction(raw), timeout=30)
