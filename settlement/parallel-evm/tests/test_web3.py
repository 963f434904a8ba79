"""web3.py as a stock client: deploy, call, send, wait, filter logs."""

import pytest
from conftest import CHAIN_ID, COIN, InProcess, genesis
from eth_account.signers.local import LocalAccount
from parallel_evm import Chain
from web3 import Web3
from web3.exceptions import ContractCustomError, ContractLogicError

# A counter, assembled by hand. Empty calldata: returns slot 0. One word n: stores slot 0 + n, emits
# Counted(uint256 indexed total) with n as data; n = 0 reverts with the word 0x2a.
TOPIC = bytes(Web3.keccak(text="Counted(uint256,uint256)"))
RUNTIME = bytes.fromhex(
    "36600d57"  # if calldatasize: jump to 0x0d
    "5f545f5260205ff3"  # return sload(0)
    "00"
    "5b5f3580602057"  # 0x0d: n = calldataload(0); if n: jump to 0x20
    "602a5f5260205ffd"  # revert(0x2a)
    "00000000"
    "5b5f54810180"  # 0x20: total = sload(0) + n
    "5f55"  # sstore(0, total)
    "905f52"  # mstore(0, n)
    "7f" + TOPIC.hex() + "60205fa2"
    "00"
)
INIT = bytes.fromhex(f"60{len(RUNTIME):02x}600c5f3960{len(RUNTIME):02x}5ff3")
INIT = INIT + b"\x00" * (12 - len(INIT)) + RUNTIME


def test_deploy_call_send_wait_logs(alice: LocalAccount) -> None:
    chain = Chain(genesis=genesis(alice), auto_mine=True)
    w3 = Web3(InProcess(chain))
    w3.middleware_onion.inject(
        __import__("web3.middleware", fromlist=["x"]).SignAndSendRawMiddlewareBuilder.build(alice), layer=0
    )
    assert w3.is_connected()
    assert w3.eth.chain_id == CHAIN_ID
    assert w3.eth.get_balance(alice.address) == 100 * COIN
    blocks = w3.eth.filter("latest")
    deployed = w3.eth.wait_for_transaction_receipt(w3.eth.send_transaction({"from": alice.address, "data": INIT}))
    assert deployed["status"] == 1
    at = deployed["contractAddress"]
    assert at is not None
    assert bytes(w3.eth.get_code(at)) == RUNTIME
    logs = w3.eth.filter({"address": at, "topics": [TOPIC]})
    sent = w3.eth.send_transaction({"from": alice.address, "to": at, "data": (5).to_bytes(32, "big")})
    receipt = w3.eth.wait_for_transaction_receipt(sent)
    assert receipt["status"] == 1
    assert receipt["logs"][0]["topics"][1] == (5).to_bytes(32, "big")
    assert int.from_bytes(w3.eth.call({"to": at}), "big") == 5
    assert w3.eth.get_storage_at(at, 0) == (5).to_bytes(32, "big")
    [entry] = logs.get_new_entries()
    assert entry["transactionHash"] == sent
    assert bytes(entry["data"]) == (5).to_bytes(32, "big")
    assert logs.get_new_entries() == []
    assert len(logs.get_all_entries()) == 1
    assert blocks.get_new_entries() == [deployed["blockHash"], receipt["blockHash"]]
    assert w3.eth.get_logs({"fromBlock": 0, "toBlock": "latest", "address": at}) == [entry]
    block = w3.eth.get_block("latest", full_transactions=True)
    assert block["transactions"][0]["hash"] == sent
    assert block["parentHash"] == deployed["blockHash"]
    assert w3.eth.get_transaction(sent)["from"] == alice.address
    with pytest.raises((ContractLogicError, ContractCustomError)) as caught:
        w3.eth.call({"to": at, "data": bytes(32)})
    assert caught.value.data == "0x" + (0x2A).to_bytes(32, "big").hex()
    history = w3.eth.fee_history(4, "latest", [10, 90])
    assert len(history["reward"]) == 3


def test_estimate_is_tight(alice: LocalAccount) -> None:
    chain = Chain(genesis=genesis(alice), auto_mine=True)
    w3 = Web3(InProcess(chain))
    fields = {"type": 2, "chainId": CHAIN_ID, "maxFeePerGas": 3 * 10**9, "maxPriorityFeePerGas": 0}
    gas = w3.eth.estimate_gas({"from": alice.address, "data": INIT})
    for nonce, (limit, status) in enumerate([(gas - 1, 0), (gas, 1)]):
        raw = alice.sign_transaction({**fields, "nonce": nonce, "gas": limit, "data": INIT}).raw_transaction
        assert w3.eth.wait_for_transaction_receipt(w3.eth.send_raw_transaction(raw))["status"] == status
