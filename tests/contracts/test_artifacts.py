"""The committed artifacts are what the sources compile to, and their ABI is the one that clients know."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from x402.mechanisms.evm import constants as evm
from x402.mechanisms.evm.batch_settlement import constants as batch_settlement
from x402.mechanisms.evm.batch_settlement.abi import BATCH_SETTLEMENT_ABI

from settlement import contracts
from settlement.contracts import CONTRACTS, artifact
from settlement.contracts.compile import build, main
from tests.contracts.chain import REPOSITORY, canonical, keccak, signature_of
from tests.contracts.world import World

SOURCES = Path(contracts.__file__).parent
CODE_SIZE_MAX = 24_576  # EIP-170


@pytest.mark.parametrize("name", CONTRACTS)
def test_recompiling_gives_the_committed_artifact(name: str) -> None:
    committed = (SOURCES / "artifacts" / f"{name}.json").read_text(encoding="utf-8")
    assert build(name) == committed, "run python -m settlement.contracts.compile"


def test_every_source_is_compiled() -> None:
    assert {path.stem for path in SOURCES.glob("*.vy")} == {*CONTRACTS, "signatures"}  # a module of the others
    assert {path.stem for path in (SOURCES / "artifacts").iterdir()} == set(CONTRACTS)


def test_check_tells_a_stale_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "CumulativePayouts"
    (tmp_path / f"{name}.vy").write_text((SOURCES / f"{name}.vy").read_text())
    monkeypatch.setattr("settlement.contracts.compile.HERE", tmp_path)
    monkeypatch.setattr("settlement.contracts.compile.CONTRACTS", (name,))
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    with (tmp_path / f"{name}.vy").open("a") as source:
        source.write("# changed\n")
    assert main(["--check"]) == 1
    assert name in capsys.readouterr().err.splitlines()[-1]


def test_reading_an_artifact_needs_no_compiler() -> None:
    code = (
        "import sys; from settlement.contracts import CONTRACTS, artifact\n"
        "for name in CONTRACTS: artifact(name)\n"
        "sys.exit('vyper' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


@pytest.mark.parametrize("name", CONTRACTS)
def test_an_artifact(name: str) -> None:
    found = artifact(name)
    data = json.loads((SOURCES / "artifacts" / f"{name}.json").read_text())
    assert (data["contract"], data["evmVersion"]) == (name, "cancun")
    assert data["compiler"].startswith("0.4.3+commit.")
    assert 0 < len(found.runtime) < CODE_SIZE_MAX
    # Deployed by a transaction or put in place by genesis, the code is the same: nothing is left to a constructor.
    assert found.runtime in found.bytecode
    functions = [signature_of(entry) for entry in found.abi if entry["type"] == "function"]
    selectors = {text: "0x" + keccak(text.encode())[:4].hex() for text in functions}
    assert data["methodIdentifiers"] == selectors
    assert len(set(selectors.values())) == len(functions)
    for selector in selectors.values():
        # Zero bytes in front are left out where the code compares.
        assert bytes.fromhex(selector[2:]).lstrip(b"\0") in found.runtime, selector


def test_unknown_contract() -> None:
    with pytest.raises(KeyError, match="Nothing"):
        artifact("Nothing")


@pytest.mark.parametrize("name", CONTRACTS)
def test_errors_of_the_source_are_the_errors_of_the_abi(name: str) -> None:
    source = (SOURCES / f"{name}.vy").read_text()
    raised = set(re.findall(r'raw_revert\((?:abi_encode\(\w+, method_id=)?method_id\("([^"]+)"\)', source))
    assert source.count("raw_revert(") == len(re.findall(r'raw_revert\([^"\n]*method_id\("[^"]+"\)', source))
    assert raised == {signature_of(entry) for entry in artifact(name).abi if entry["type"] == "error"}


def test_addresses_are_the_stock_clients() -> None:
    for ours, theirs in (
        (contracts.SETTLEMENT_ADDRESS, batch_settlement.BATCH_SETTLEMENT_ADDRESS),
        (contracts.COLLECTOR_ADDRESS, batch_settlement.ERC3009_DEPOSIT_COLLECTOR_ADDRESS),
        (contracts.MULTICALL3_ADDRESS, evm.MULTICALL3_ADDRESS),
    ):
        assert ours == bytes.fromhex(theirs[2:])


def _essence(parameter: Mapping[str, Any]) -> tuple[Any, ...]:
    components = tuple(_essence(part) for part in parameter.get("components", ()))
    return parameter.get("name", ""), parameter["type"], parameter.get("indexed", False), components


def _entry_essence(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    inputs = tuple(_essence(part) for part in entry["inputs"])
    outputs = tuple(_essence(part) for part in entry.get("outputs", ()))
    return entry["type"], entry["name"], inputs, outputs, entry.get("stateMutability"), entry.get("anonymous")


def test_the_abi_has_the_stock_clients_entries_to_the_letter() -> None:
    ours = {_entry_essence(entry) for entry in artifact("BatchSettlement").abi}
    for entry in BATCH_SETTLEMENT_ABI:
        assert _entry_essence(entry) in ours, entry["name"]
    token = {_entry_essence(entry) for entry in artifact("TestUSD").abi}
    for abi in (
        evm.TRANSFER_WITH_AUTHORIZATION_VRS_ABI,
        evm.TRANSFER_WITH_AUTHORIZATION_BYTES_ABI,
        evm.AUTHORIZATION_STATE_ABI,
        evm.BALANCE_OF_ABI,
        evm.NAME_ABI,
        evm.VERSION_ABI,
        evm.EIP2612_NONCES_ABI,
        evm.ERC20_ALLOWANCE_ABI,
    ):
        for entry in abi:
            assert _entry_essence(entry) in token, entry["name"]
    for entry in evm.MULTICALL3_TRY_AGGREGATE_ABI:
        assert _entry_essence(entry) in {_entry_essence(found) for found in artifact("Multicall3").abi}


# name(types of the inputs, with ' for an indexed one), as docs/protocol.md 1 has them.
CONFIG = "(address,address,address,address,address,uint40,bytes32)"
EVENTS = {
    "BatchSettlement": {
        f"ChannelCreated(bytes32',{CONFIG})",
        f"ChannelClosed(bytes32',{CONFIG})",
        "Deposited(bytes32',address',uint128,uint128)",
        "Claimed(bytes32',address',uint128,uint128)",
        "Settled(address',address',address',uint128)",
        "Refunded(bytes32',address',uint128)",
        "WithdrawInitiated(bytes32',uint128,uint40)",
        "WithdrawFinalized(bytes32',address',uint128)",
    },
    "CumulativePayouts": {"Paid(address',address',address',uint128,uint128)"},
    "TestUSD": {
        "Transfer(address',address',uint256)",
        "Approval(address',address',uint256)",
        "AuthorizationUsed(address',bytes32')",
        "AuthorizationCanceled(address',bytes32')",
    },
}


@pytest.mark.parametrize("name", EVENTS)
def test_events(name: str) -> None:
    found = {
        f"{entry['name']}({','.join(canonical(part) + chr(39) * part['indexed'] for part in entry['inputs'])})"
        for entry in artifact(name).abi
        if entry["type"] == "event"
    }
    assert found == EVENTS[name]


FUNCTIONS = {
    "Erc3009DepositCollector": {
        "collect(address,address,uint256,bytes32,bytes)",
        "x402BatchSettlement()",
    },
    "CumulativePayouts": {"pay(address,(address,uint128)[])", "paid(address,address,address)"},
    "Multicall3": {
        "aggregate((address,bytes)[])",
        "tryAggregate(bool,(address,bytes)[])",
        "tryBlockAndAggregate(bool,(address,bytes)[])",
        "blockAndAggregate((address,bytes)[])",
        "aggregate3((address,bool,bytes)[])",
        "aggregate3Value((address,bool,uint256,bytes)[])",
        "getBlockHash(uint256)",
        "getBlockNumber()",
        "getCurrentBlockCoinbase()",
        "getCurrentBlockDifficulty()",
        "getCurrentBlockGasLimit()",
        "getCurrentBlockTimestamp()",
        "getEthBalance(address)",
        "getLastBlockHash()",
        "getBasefee()",
        "getChainId()",
    },
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    found = {signature_of(entry) for entry in artifact(name).abi if entry["type"] == "function"}
    assert found == FUNCTIONS[name]


def test_code_may_also_be_deployed_by_a_transaction(world: World) -> None:
    sender = "0x" + "5e" * 20
    for name in CONTRACTS:
        transaction = world.chain.rpc(
            "eth_sendTransaction",
            {
                "from": sender,
                "data": "0x" + artifact(name).bytecode.hex(),
                "gas": hex(10**7),
                "gasPrice": "0x0",
            },
        )
        world.chain.mine()
        address = world.chain.rpc("eth_getTransactionReceipt", transaction)["contractAddress"]
        assert world.chain.rpc("eth_getCode", address, "latest") == "0x" + artifact(name).runtime.hex()
