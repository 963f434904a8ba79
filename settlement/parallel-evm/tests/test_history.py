"""What survives on disk beyond the newest log: history over many logs, pruning and crashes in it, older files."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from conftest import COIN, genesis, key, transfer
from parallel_evm import Chain

ALICE, BOB = key(0xA11CE), key(0xB0B)
GENESIS = genesis(ALICE, BOB)
ALICE_RAW = bytes.fromhex(ALICE.address[2:])
BOB_RAW = bytes.fromhex(BOB.address[2:])


def opened(path: Path, **options: object) -> Chain:
    return Chain(genesis=GENESIS, path=path, **options)  # type: ignore[arg-type]


def asked(chain: Chain, method: str, *params: object) -> bytes:
    return chain.rpc(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())


def told(chain: Chain, hashes: list[bytes]) -> list[bytes]:
    """All that a client can ask of these transactions and of every block."""
    blocks = [asked(chain, "eth_getBlockByNumber", hex(number), True) for number in range(chain.block_number + 1)]
    receipts = [asked(chain, "eth_getTransactionReceipt", "0x" + sent.hex()) for sent in hashes]
    return [*blocks, *receipts, asked(chain, "eth_getTransactionCount", BOB.address, "pending")]


def grown(chain: Chain, segments: int, start: int = 0) -> list[bytes]:
    """Two blocks into each of so many logs."""
    hashes = []
    for segment in range(segments):
        for nonce in (start + 2 * segment, start + 2 * segment + 1):
            hashes.append(chain.send_raw_transaction(transfer(ALICE, nonce, BOB.address)))
            chain.produce_block()
        chain.compact()
    return hashes


def names(path: Path, pattern: str) -> list[str]:
    return sorted(each.name for each in path.glob(pattern))


def log(number: int) -> str:
    return f"log-{number:012}.bin"


def test_history_is_read_from_all_logs(tmp_path: Path) -> None:
    chain = opened(tmp_path)
    hashes = grown(chain, 6)
    before = told(chain, hashes)
    chain.close()
    assert names(tmp_path, "log-*") == [log(number) for number in range(0, 13, 2)]
    assert len(names(tmp_path, "state-*")) == 2
    again = opened(tmp_path)
    assert told(again, hashes) == before
    assert all(b'"status":"0x1"' in answer for answer in before[13:-1])


def test_logs_of_forgotten_blocks_are_deleted(tmp_path: Path) -> None:
    chain = opened(tmp_path, history_blocks=5)
    hashes = grown(chain, 6)
    before = told(chain, hashes)
    # Blocks 8 to 12 are held; the log begun after block 6 ends with block 8.
    assert names(tmp_path, "log-*") == [log(6), log(8), log(10), log(12)]
    chain.close()
    again = opened(tmp_path, history_blocks=5)
    assert told(again, hashes) == before
    assert b"block 7 is no longer held, the oldest is 8" in before[7]
    assert all(b'"result":{' in answer for answer in before[8:13])
    again.close()
    # Asked for more than was kept, it holds what there is.
    again = opened(tmp_path)
    assert b"block 6 is no longer held, the oldest is 7" in told(again, hashes)[6]


def test_logs_are_kept_where_that_is_wanted(tmp_path: Path) -> None:
    chain = opened(tmp_path, history_blocks=1, keep_logs=True)
    hashes = grown(chain, 4)
    chain.close()
    assert names(tmp_path, "log-*") == [log(number) for number in range(0, 9, 2)]
    again = opened(tmp_path)
    assert all(b'"status":"0x1"' in answer for answer in told(again, hashes)[9:-1])


def test_a_crash_at_any_deletion_is_harmless(tmp_path: Path) -> None:
    """Files go one by one; after each, and where some came back, the directory opens and goes on pruning."""
    path, copy = tmp_path / "chain", tmp_path / "copy"
    chain = opened(path, history_blocks=3, keep_logs=True)
    hashes = grown(chain, 5)
    before = told(chain, hashes)
    chain.close()
    shutil.copytree(path, copy)
    chain = opened(path, history_blocks=3)
    chain.compact()
    wanted = names(path, "*")
    chain.close()
    gone = [name for name in names(copy, "*") if name not in wanted]
    assert gone == [log(0), log(2), log(4), log(6)][: len(gone)]
    assert len(gone) >= 3
    for left in range(len(gone) + 1):
        case = tmp_path / f"case-{left}"
        shutil.copytree(copy, case)
        for name in gone[:left]:
            (case / name).unlink()
        again = opened(case, history_blocks=3)
        assert told(again, hashes) == before
        again.compact()
        assert names(case, "*") == wanted
        again.close()


PRUNER = """
import sys
sys.path.insert(0, {tests!r})
from test_history import *
chain = opened(Path(sys.argv[1]), history_blocks=4)
while True:
    nonce = chain.nonce(ALICE_RAW, pending=True)
    chain.send_raw_transaction(transfer(ALICE, nonce, BOB.address))
    print(chain.produce_block().number, flush=True)
    if nonce % 2:
        chain.compact()
"""


def test_kill_while_pruning_loses_nothing(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    delays = random.Random(seed)
    acknowledged = 0
    for _ in range(6):
        script = PRUNER.format(tests=str(Path(__file__).parent))
        child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        acknowledged = max(acknowledged, int(child.stdout.readline()))
        time.sleep(delays.uniform(0.0, 0.2))
        child.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, child.stdout.read().split())])
        child.wait()
        chain = opened(tmp_path, history_blocks=4)
        assert chain.block_number in (acknowledged, acknowledged + 1)
        acknowledged = chain.block_number
        assert chain.balance(BOB_RAW) == 100 * COIN + chain.nonce(ALICE_RAW)
        for number in range(max(0, acknowledged - 3), acknowledged + 1):
            block = json.loads(asked(chain, "eth_getBlockByNumber", hex(number), False))["result"]
            assert (len(block["transactions"]) > 0) == (number > 0)
        chain.close()


def test_damage_in_an_older_log_is_named(tmp_path: Path) -> None:
    chain = opened(tmp_path)
    hashes = grown(chain, 4)
    before = told(chain, hashes)
    chain.close()
    rng = random.Random(11)
    for number in (0, 2, 4, 6):
        path = tmp_path / log(number)
        whole = path.read_bytes()
        for at in [0, 5, 12, 17, 21, 30, len(whole) - 1] + [rng.randrange(len(whole)) for _ in range(20)]:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
            with pytest.raises(OSError, match=path.name):
                opened(tmp_path)
        for length in (len(whole) - 1, len(whole) // 2):
            path.write_bytes(whole[:length])
            with pytest.raises(OSError, match=path.name):
                opened(tmp_path)
        path.write_bytes(whole)
    # Whole records that are missing at the end of a log, and a whole log.
    first, second = tmp_path / log(0), tmp_path / log(2)
    whole = first.read_bytes()
    starts = [at for at in range(len(whole)) if whole.startswith(b"PEv1", at)]
    first.write_bytes(whole[: starts[-2]])
    with pytest.raises(OSError, match=f"{first.name} is damaged, or a log behind it is missing: its last block is 1, "):
        opened(tmp_path)
    first.write_bytes(whole)
    middle = second.read_bytes()
    second.unlink()
    with pytest.raises(OSError, match=f"{first.name} is damaged, or a log behind it is missing"):
        opened(tmp_path)
    # The oldest may be taken away: history begins later.
    first.unlink()
    again = opened(tmp_path)
    assert told(again, hashes)[5:9] == before[5:9]
    assert b"the oldest is 5" in told(again, hashes)[4]
    again.close()
    first.write_bytes(whole)
    second.write_bytes(middle)
    assert told(opened(tmp_path), hashes) == before


def test_the_text_of_genesis_may_change_but_not_its_meaning(tmp_path: Path) -> None:
    chain = opened(tmp_path)
    grown(chain, 1)
    root = chain.state_root
    chain.close()
    document = json.loads(GENESIS)
    document["alloc"] = dict(reversed(document["alloc"].items()))
    same = json.dumps(document, indent=1)
    assert same != GENESIS
    for text in (same, GENESIS, same):
        chain = Chain(genesis=text, path=tmp_path)
        assert chain.state_root == root
        chain.compact()
        chain.close()
    document["alloc"][ALICE.address]["balance"] = hex(100 * COIN + 1)
    for changed in (json.dumps(document), genesis(ALICE, BOB, gasLimit=10**8), genesis(ALICE, BOB, baseFeePerGas=7)):
        with pytest.raises(OSError, match="belongs to another chain"):
            Chain(genesis=changed, path=tmp_path)
    with pytest.raises(OSError, match="belongs to another chain"):
        Chain(genesis=GENESIS, path=tmp_path, coinbase=bytes(19) + b"\x01")
    document["alloc"]["0x12"] = {}
    with pytest.raises(ValueError, match=r"alloc\.0x12"):
        Chain(genesis=json.dumps(document), path=tmp_path)


def test_a_snapshot_of_the_first_form_is_read(tmp_path: Path) -> None:
    """It named the genesis by its hash alone."""
    chain = opened(tmp_path)
    hashes = grown(chain, 2)
    before = told(chain, hashes)
    first = bytes.fromhex(json.loads(before[0])["result"]["hash"][2:])
    chain.close()
    for path in tmp_path.glob("state-*"):
        body = path.read_bytes()[:-4]
        assert body.startswith(b"PEvSnap2")
        behind_header = 8 + 32 + 4 + int.from_bytes(body[40:44], "little")
        old = b"PEvSnap1" + first + body[behind_header:]
        path.write_bytes(old + zlib.crc32(old).to_bytes(4, "little"))
    again = opened(tmp_path)
    assert told(again, hashes) == before
    hashes += grown(again, 1, start=4)
    before = told(again, hashes)
    again.close()
    assert max(tmp_path.glob("state-*")).read_bytes().startswith(b"PEvSnap2")
    assert told(opened(tmp_path), hashes) == before
    with pytest.raises(OSError, match="belongs to another chain"):
        Chain(genesis=genesis(BOB), path=tmp_path)


def test_unfinished_files_are_removed(tmp_path: Path) -> None:
    chain = opened(tmp_path)
    hashes = grown(chain, 1)
    before = told(chain, hashes)
    chain.close()
    kept = names(tmp_path, "*")
    for name in ("state-000000000009.tmp", "log-000000000009.tmp"):
        (tmp_path / name).write_bytes(bytes(100))
    assert told(opened(tmp_path), hashes) == before
    assert names(tmp_path, "*") == kept


def test_bad_retention() -> None:
    for blocks in (0, 65_537):
        with pytest.raises(ValueError, match="history_blocks"):
            Chain(history_blocks=blocks)
