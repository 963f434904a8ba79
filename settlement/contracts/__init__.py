"""The contracts, compiled: their Vyper sources lie here, their artifacts beside them in `artifacts/`.

`python -m settlement.contracts.compile` writes the artifacts; nothing here needs the compiler. The code has no
constructor and no immutables, so an artifact's `runtime` goes to an address as it is, by genesis or
`anvil_setCode` (docs/protocol.md 1).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import sha3

SETTLEMENT_ADDRESS = bytes.fromhex("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003")
COLLECTOR_ADDRESS = bytes.fromhex("4020806089470a89826cB9fB1f4059150b550004")
MULTICALL3_ADDRESS = bytes.fromhex("cA11bde05977b3631167028862bE2a173976CA11")

CONTRACTS = ("BatchSettlement", "Erc3009DepositCollector", "TestUSD", "CumulativePayouts", "Multicall3")


@dataclass(frozen=True, slots=True)
class Artifact:
    """One compiled contract: its JSON ABI, code in bytes, and storage variables by name to slot number."""

    abi: tuple[Mapping[str, Any], ...]
    runtime: bytes
    bytecode: bytes
    storage_layout: Mapping[str, int]


@cache
def artifact(name: str) -> Artifact:
    """Read the committed artifact of one of `CONTRACTS`; raises KeyError for any other name."""
    if name not in CONTRACTS:
        raise KeyError(f"no contract {name!r}; there are {', '.join(CONTRACTS)}")
    text = resources.files(__name__).joinpath("artifacts", f"{name}.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return Artifact(
        abi=tuple(data["abi"]),
        runtime=bytes.fromhex(data["runtime"][2:]),
        bytecode=bytes.fromhex(data["bytecode"][2:]),
        storage_layout={variable: entry["slot"] for variable, entry in data["storageLayout"].items()},
    )


def mapping_slot(slot: int | bytes, *keys: bytes) -> bytes:
    """Storage slot of an entry of a Vyper HashMap, 32 bytes.

    `slot` is the variable's number (or a slot found before), `keys` the key of each level, outermost first; a key
    under 32 bytes (an address) is padded on the left. Vyper hashes slot before key, Solidity the other way round.
    """
    word = slot.to_bytes(32, "big") if isinstance(slot, int) else slot
    for key in keys:
        if len(key) > 32:
            raise ValueError(f"a key has at most 32 bytes, this one has {len(key)}")
        word = sha3.keccak_256(word + key.rjust(32, b"\0")).digest()
    return word


def token_genesis_storage(balances: Mapping[bytes, int], owner: bytes = bytes(20)) -> dict[bytes, bytes]:
    """Storage of a TestUSD that begins with `balances` (address to base units): slot to word, 32 bytes each.

    `owner` alone may mint later; the zero address means nobody. Raises ValueError for a negative balance or a supply
    above 2^256 - 1.
    """
    layout = artifact("TestUSD").storage_layout
    if any(amount < 0 for amount in balances.values()) or sum(balances.values()) >> 256:
        raise ValueError("balances are not negative and sum to less than 2^256")
    words = {mapping_slot(layout["balanceOf"], holder): amount for holder, amount in balances.items()}
    words[layout["totalSupply"].to_bytes(32, "big")] = sum(balances.values())
    words[layout["owner"].to_bytes(32, "big")] = int.from_bytes(owner, "big")
    return {slot: value.to_bytes(32, "big") for slot, value in words.items() if value}
