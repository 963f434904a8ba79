"""JSON-RPC batches of transactions: taken in together, each with its own answer, durable before any of them."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import COIN, genesis, key, transfer
from parallel_evm import Chain, RpcError

ALICE, BOB = key(0xA11CE), key(0xB0B)
ALICE_RAW = bytes.fromhex(ALICE.address[2:])
BOB_RAW = bytes.fromhex(BOB.address[2:])
GENESIS = genesis(ALICE, BOB)


def opened(path: Path | None = None, **options: Any) -> Chain:
    return Chain(genesis=GENESIS, path=path, **options)


def request(number: int, method: str, *params: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def sends(raws: Sequence[bytes], start: int = 0) -> list[dict[str, Any]]:
    return [request(start + at, "eth_sendRawTransaction", f"0x{raw.hex()}") for at, raw in enumerate(raws)]


def answered(chain: Chain, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = json.loads(chain.rpc(json.dumps(batch).encode()))
    assert [answer["id"] for answer in answers] == [each["id"] for each in batch]
    return answers


def test_each_gets_its_own_answer_in_order() -> None:
    raws = [transfer(ALICE, nonce, BOB.address) for nonce in range(24)]
    batch = sends(raws[:20])
    batch += [request(20, "eth_getTransactionCount", ALICE.address, "pending")]
    batch += [*sends([raws[3], b"junk"], 21), request(23, "eth_sendRawTransaction", 5), *sends(raws[20:], 24)]
    batch += [request(28, "eth_getTransactionCount", ALICE.address, "pending")]
    chain, single = opened(), opened()
    answers = answered(chain, batch)
    assert answers == [json.loads(single.rpc(json.dumps(each).encode())) for each in batch]
    assert [answer["result"] for answer in answers[:20]] == [
        "0x" + (sent if isinstance(sent, bytes) else b"").hex() for sent in opened().send_raw_transactions(raws[:20])
    ]
    assert (answers[20]["result"], answers[28]["result"]) == (hex(20), hex(24))
    errors = [(answer["error"]["code"], answer["error"]["message"].split(":")[0]) for answer in answers[21:24]]
    assert errors == [
        (-32000, "already known"),
        (-32000, "transaction type not supported"),
        (-32602, "invalid argument"),
    ]
    assert chain.produce_block().transactions == 24


def test_a_run_of_transactions_shares_one_sync(tmp_path: Path) -> None:
    chain = opened(tmp_path)
    before = chain.stats()["syncs"]
    answered(chain, sends([transfer(ALICE, nonce, BOB.address) for nonce in range(200)]))
    assert chain.stats()["syncs"] == before + 1
    answered(chain, sends([b"junk", transfer(ALICE, 0, BOB.address)]))
    assert chain.stats()["syncs"] == before + 1, "nothing was taken in"
    chain.close()
    assert opened(tmp_path).pending_count == 200


def test_auto_mine_puts_a_run_into_one_block() -> None:
    chain = opened(auto_mine=True)
    answered(chain, sends([transfer(ALICE, nonce, BOB.address) for nonce in range(30)]))
    assert (chain.block_number, chain.nonce(ALICE_RAW), chain.pending_count) == (1, 30, 0)


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from test_batches import *
chain = opened(Path(sys.argv[1]))
nonce = chain.nonce(ALICE_RAW, pending=True)
print("ready", flush=True)
while True:
    answers = answered(chain, sends([transfer(ALICE, nonce + at, BOB.address) for at in range(12)]))
    assert all("result" in answer for answer in answers), answers
    nonce += 12
    print(nonce, flush=True)
    if nonce % 5 == 0:
        chain.produce_block()
"""


def test_kill_loses_no_acknowledged_batch(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    delays = random.Random(seed)
    sent = 0
    for _ in range(5):
        script = WRITER.format(tests=str(Path(__file__).parent))
        child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(delays.uniform(0.0, 0.2))
        child.send_signal(signal.SIGKILL)
        sent = max([sent, *map(int, child.stdout.read().split())])
        child.wait()
        chain = opened(tmp_path)
        # A part of the batch that was being sent may be in.
        assert sent <= chain.nonce(ALICE_RAW, pending=True) <= sent + 12
        sent = chain.nonce(ALICE_RAW, pending=True)
        chain.close()
    chain = opened(tmp_path)
    chain.produce_block()
    assert chain.balance(BOB_RAW) == 100 * COIN + sent


FULL = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
from test_batches import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
chain = opened(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))
answers = answered(chain, sends([transfer(ALICE, nonce, BOB.address) for nonce in range(200)]))
taken = [answer for answer in answers if "result" in answer]
refused = [answer["error"]["message"] for answer in answers if "error" in answer]
assert taken and refused
assert all("storage failed, nothing is taken in" in message for message in refused), refused
assert chain.pending_count == len(taken)
print(len(taken))
"""


def test_a_disk_that_fills_up_within_a_batch(tmp_path: Path) -> None:
    script = FULL.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    chain = opened(tmp_path)
    assert chain.pending_count == int(done.stdout)
    assert not isinstance(chain.send_raw_transactions([transfer(ALICE, int(done.stdout), BOB.address)])[0], RpcError)
