"""One chain for each module of tests, and the contract that all clients deploy."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vyper
from eth_account.signers.local import LocalAccount

from tests.rpc.served import HERE, Served, key

# Vyper has no declarations of custom errors.
TOO_MUCH = {
    "type": "error",
    "name": "TooMuch",
    "inputs": [{"name": "asked", "type": "uint256"}, {"name": "most", "type": "uint256"}],
}


@pytest.fixture(scope="session")
def counter() -> dict[str, Any]:
    """Return abi and bytecode of Counter.vy."""
    compiled = vyper.compile_code((HERE / "Counter.vy").read_text(encoding="utf-8"), output_formats=["abi", "bytecode"])
    return {"abi": [*compiled["abi"], TOO_MUCH], "bytecode": compiled["bytecode"]}


@pytest.fixture(scope="session")
def counter_file(counter: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a JSON file with abi and bytecode."""
    path = tmp_path_factory.mktemp("counter") / "counter.json"
    path.write_text(json.dumps(counter), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def alice() -> LocalAccount:
    return key("alice")


@pytest.fixture(scope="module")
def bob() -> LocalAccount:
    return key("bob")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, alice: LocalAccount, bob: LocalAccount) -> Iterator[Served]:
    child = Served(tmp_path_factory.mktemp("chain") / "data", alice, bob)
    try:
        yield child.answers()
    finally:
        child.end()
