"""Genesis of the embedded layer: the contracts where stock clients expect them, and funded accounts.

The same alloc serves tests that place the contracts on another node (docs/protocol.md 1).
"""

from collections.abc import Mapping
from typing import Any

from channels.types import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, Address
from settlement.calls import MULTICALL3_ADDRESS
from settlement.contracts import artifact, token_genesis_storage

# Ours alone, on layers that begin with our genesis: ASCII "MetergateUSD" and "MetergatePay", zeros, and 1. No
# key and no deployer can have such an address elsewhere, so a mix-up with a public chain shows at a glance.
TOKEN_ADDRESS: Address = b"MetergateUSD" + (1).to_bytes(8, "big")
PAYOUTS_ADDRESS: Address = b"MetergatePay" + (1).to_bytes(8, "big")

CODE_AT: Mapping[Address, str] = {
    SETTLEMENT_ADDRESS: "BatchSettlement",
    COLLECTOR_ADDRESS: "Erc3009DepositCollector",
    MULTICALL3_ADDRESS: "Multicall3",
    TOKEN_ADDRESS: "TestUSD",
    PAYOUTS_ADDRESS: "CumulativePayouts",
}

GAS_LIMIT = 1_000_000_000
# One site has no fee market: a constant low fee keeps the books of gas alive and costs nobody anything.
BASE_FEE = 7


def genesis(
    tokens: Mapping[Address, int],
    coins: Mapping[Address, int],
    *,
    timestamp: int = 0,
    gas_limit: int = GAS_LIMIT,
    base_fee: int = BASE_FEE,
    token_owner: Address = bytes(20),
) -> dict[str, Any]:
    """Return a geth-like genesis as JSON values.

    `tokens` are balances of the test stablecoin in base units, `coins` in wei; `token_owner` may mint more (the
    zero address: nobody). `timestamp` is in chain seconds, `base_fee` in wei per gas. The payouts contract has no
    allowance yet: the treasury approves it by a transaction, as on any chain.
    """
    return {
        "alloc": alloc(tokens, coins, token_owner=token_owner),
        "timestamp": hex(timestamp),
        "gasLimit": hex(gas_limit),
        "baseFeePerGas": hex(base_fee),
    }


def alloc(
    tokens: Mapping[Address, int], coins: Mapping[Address, int], *, token_owner: Address = bytes(20)
) -> dict[str, dict[str, Any]]:
    """Return the accounts of a genesis: contracts with code and storage, and funded addresses."""
    accounts: dict[str, dict[str, Any]] = {}
    for address, name in CODE_AT.items():
        # EIP-161 starts contracts at nonce 1.
        accounts[_hex(address)] = {
            "balance": "0x0",
            "nonce": "0x1",
            "code": _hex(artifact(name).runtime),
        }
    storage = token_genesis_storage(tokens, token_owner)
    accounts[_hex(TOKEN_ADDRESS)]["storage"] = {_hex(slot): _hex(value) for slot, value in sorted(storage.items())}
    for address, wei in sorted(coins.items()):
        if wei < 0:
            raise ValueError(f"0x{address.hex()} cannot begin with {wei} wei")
        accounts.setdefault(_hex(address), {})["balance"] = hex(wei)
    return accounts


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
