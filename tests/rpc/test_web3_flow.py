"""web3.py over HTTP: its ordinary flow against `metergate chain`."""

from typing import Any

import pytest
from eth_account.signers.local import LocalAccount
from web3 import Web3
from web3.exceptions import ContractCustomError, ContractLogicError, TransactionNotFound, Web3RPCError
from web3.middleware import SignAndSendRawMiddlewareBuilder

from tests.rpc.served import CHAIN_ID, COIN, Served


@pytest.fixture(scope="module")
def w3(served: Served, alice: LocalAccount) -> Web3:
    w3 = Web3(Web3.HTTPProvider(served.url))
    w3.middleware_onion.inject(SignAndSendRawMiddlewareBuilder.build(alice), layer=0)
    w3.eth.default_account = alice.address
    return w3


@pytest.fixture(scope="module")
def deployed(w3: Web3, counter: dict[str, Any]) -> Any:
    sent = w3.eth.contract(abi=counter["abi"], bytecode=counter["bytecode"]).constructor(40).transact()
    receipt = w3.eth.wait_for_transaction_receipt(sent, poll_latency=0.02)
    assert receipt["status"] == 1
    return w3.eth.contract(address=receipt["contractAddress"], abi=counter["abi"])


def test_what_a_client_asks_first(w3: Web3, bob: LocalAccount) -> None:
    assert w3.is_connected()
    assert w3.eth.chain_id == CHAIN_ID
    assert w3.net.version == str(CHAIN_ID)
    assert w3.client_version.startswith("parallel-evm/")
    assert w3.eth.get_balance(bob.address) == 10 * COIN
    assert w3.eth.syncing is False
    assert list(w3.eth.accounts) == []
    latest = w3.eth.get_block("latest")
    assert w3.eth.get_block(latest["number"])["hash"] == latest["hash"]
    assert w3.eth.get_block(latest["hash"])["number"] == latest["number"]
    assert w3.eth.get_block(0)["parentHash"] == bytes(32)


def test_deploy_call_send_wait_filter(w3: Web3, deployed: Any, alice: LocalAccount) -> None:
    assert deployed.functions.total().call() == 40
    new = deployed.events.Counted.create_filter(from_block="latest")
    blocks = w3.eth.filter("latest")
    sent = deployed.functions.add(2).transact()
    receipt = w3.eth.wait_for_transaction_receipt(sent, poll_latency=0.02)
    assert receipt["status"] == 1
    assert deployed.functions.total().call() == 42
    [event] = deployed.events.Counted().process_receipt(receipt)
    assert dict(event["args"]) == {"by": alice.address, "amount": 2, "total": 42}
    assert [entry["args"] for entry in new.get_new_entries()] == [event["args"]]
    assert new.get_new_entries() == []
    assert receipt["blockHash"] in blocks.get_new_entries()
    found = deployed.events.Counted.get_logs(from_block=0, argument_filters={"by": alice.address})
    assert [entry["transactionHash"] for entry in found] == [sent]
    assert deployed.events.Counted.get_logs(from_block=0, argument_filters={"by": deployed.address}) == []
    assert w3.eth.get_transaction(sent)["blockHash"] == receipt["blockHash"]
    assert deployed.functions.total().call(block_identifier=receipt["blockNumber"] - 1) == 40


def test_reverts_carry_their_reason(deployed: Any) -> None:
    with pytest.raises(ContractLogicError, match="nothing to add") as text:
        deployed.functions.add(0).call()
    assert text.value.data.startswith("0x08c379a0")
    with pytest.raises(ContractCustomError) as custom:
        deployed.functions.add(1001).estimate_gas()
    selector = Web3.keccak(text="TooMuch(uint256,uint256)")[:4].hex()
    assert custom.value.data == f"0x{selector}{1001:064x}{1000:064x}"


def test_a_mined_revert_has_status_0(w3: Web3, deployed: Any) -> None:
    receipt = w3.eth.wait_for_transaction_receipt(deployed.functions.add(0).transact({"gas": 100_000}))
    assert (receipt["status"], receipt["logs"]) == (0, [])


def test_gas_and_fees(w3: Web3, deployed: Any, alice: LocalAccount) -> None:
    estimate = deployed.functions.add(7).estimate_gas()
    receipt = w3.eth.wait_for_transaction_receipt(deployed.functions.add(7).transact({"gas": estimate}))
    assert receipt["status"] == 1
    assert receipt["gasUsed"] <= estimate
    receipt = w3.eth.wait_for_transaction_receipt(deployed.functions.add(7).transact({"gas": estimate - 1}))
    assert receipt["status"] == 0
    base_fee = w3.eth.get_block("latest")["baseFeePerGas"]
    assert w3.eth.gas_price >= base_fee
    history = w3.eth.fee_history(4, "latest", [10.0, 90.0])
    assert len(history["baseFeePerGas"]) == len(history["gasUsedRatio"]) + 1
    assert all(len(row) == 2 for row in history["reward"])
    assert w3.eth.get_transaction_count(alice.address, "pending") >= w3.eth.get_transaction_count(alice.address)


def test_what_does_not_exist(w3: Web3) -> None:
    with pytest.raises(TransactionNotFound):
        w3.eth.get_transaction(bytes(32))
    with pytest.raises(TransactionNotFound):
        w3.eth.get_transaction_receipt(bytes(32))
    with pytest.raises(Web3RPCError, match="filter not found"):
        w3.eth.get_filter_changes("0xdeadbeef")
