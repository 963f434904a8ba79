"""Single transactions against pyrevm, an EVM nobody here built: gas, success, storage, logs."""

import contextlib
import json
import random

import pyrevm
import pytest
from conftest import CHAIN_ID, COIN, key
from parallel_evm import Chain

SENDER = key(0x5E17DE4)
TARGET = "0x" + "33" * 20
NOW = 1_700_000_000
BASE_FEE = 10**9

# Whole instructions with what they push before: no random byte soup, so that most programs get somewhere.
FRAGMENTS = [
    "5f545f5560015f55",  # rewrite slot 0
    "5f355f55",  # store the first word of the data
    "60015f5500",  # store and stop
    "5f5f55",  # clear slot 0
    "3360015560205f5fa1",  # log with too few items: fails
    "3360015560aa60205fa1",  # store the caller, log one topic
    "4660025543600355",  # chain id and block number
    "4260045541600555",  # time and fee recipient
    "365f5f37365f20600655",  # hash of the data
    "5f5f5f5f5f305af150",  # calls itself with no data
    "5f5f5f5f5f60045af1600755",  # identity precompile
    "60ff60005360016000f3",  # return a byte
    "60ff60005360016000fd",  # revert with a byte
    "3d5f5f3e3d600855",  # return data size
    "60065f5560095ff050",  # create with whatever is in memory
    "5c5f5d600a5c600a55",  # transient storage
    "5e",  # mcopy with too few items
    "fe",
    "5b5b5b",
    "6001600b5560006001600b555050",
]


def program(rng: random.Random) -> bytes:
    return bytes.fromhex("".join(rng.choice(FRAGMENTS) for _ in range(rng.randrange(1, 6))))


def ours(code: bytes, data: bytes, value: int, gas: int) -> tuple[bool, int, list[int], list[tuple[list[str], str]]]:
    alloc = {
        SENDER.address: {"balance": hex(100 * COIN)},
        TARGET: {"code": "0x" + code.hex(), "nonce": "0x1", "storage": {"0x00": "0x05", "0x0b": "0x01"}},
    }
    chain = Chain(genesis=json.dumps({"alloc": alloc, "timestamp": hex(NOW)}), coinbase=bytes(19) + b"\x77")
    tx = {
        "type": 2,
        "chainId": CHAIN_ID,
        "nonce": 0,
        "to": TARGET,
        "value": value,
        "data": data,
        "gas": gas,
        "maxFeePerGas": BASE_FEE,
        "maxPriorityFeePerGas": 0,
    }
    sent = chain.send_raw_transaction(bytes(SENDER.sign_transaction(tx).raw_transaction))
    stats = chain.produce_block(NOW + 1)
    body = {"jsonrpc": "2.0", "id": 1, "method": "eth_getTransactionReceipt", "params": ["0x" + sent.hex()]}
    receipt = json.loads(chain.rpc(json.dumps(body).encode()))["result"]
    slots = [chain.storage_at(bytes.fromhex(TARGET[2:]), slot) for slot in range(12)]
    logs = [(log["topics"], log["data"]) for log in receipt["logs"]]
    return receipt["status"] == "0x1", stats.gas_used, slots, logs


def theirs(code: bytes, data: bytes, value: int, gas: int) -> tuple[bool, int, list[int], list[tuple[list[str], str]]]:
    env = pyrevm.Env(
        cfg=pyrevm.CfgEnv(chain_id=CHAIN_ID),
        block=pyrevm.BlockEnv(
            number=1,
            timestamp=NOW + 1,
            basefee=BASE_FEE,
            gas_limit=10**9,
            coinbase="0x" + "00" * 19 + "77",
            prevrandao=bytes(32),
            excess_blob_gas=0,
        ),
    )
    evm = pyrevm.EVM(env=env, spec_id="CANCUN")
    evm.set_balance(SENDER.address, 100 * COIN)
    evm.insert_account_info(TARGET, pyrevm.AccountInfo(nonce=1, code=code))
    evm.insert_account_storage(TARGET, 0, 5)
    evm.insert_account_storage(TARGET, 11, 1)
    with contextlib.suppress(RuntimeError):
        evm.message_call(SENDER.address, TARGET, calldata=data, value=value, gas=gas, gas_price=BASE_FEE)
    result = evm.result
    assert result is not None
    slots = [evm.storage(TARGET, slot) for slot in range(12)]
    logs = [(list(log.topics), "0x" + bytes(log.data[1]).hex()) for log in result.logs] if result.is_success else []
    return result.is_success, result.gas_used, slots, logs


@pytest.mark.parametrize("part", range(4))
def test_random_programs(part: int) -> None:
    succeeded = 0
    for seed in range(part * 100, part * 100 + 100):
        rng = random.Random(seed)
        code, data = program(rng), rng.randbytes(rng.choice([0, 4, 32, 100]))
        value, gas = rng.choice([0, 0, 7]), rng.choice([60_000, 200_000, 1_000_000])
        mine = ours(code, data, value, gas)
        assert mine == theirs(code, data, value, gas), f"seed {seed}: {code.hex()} {data.hex()}"
        succeeded += mine[0]
    assert 20 < succeeded < 95
