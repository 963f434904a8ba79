"""A chain on disk: restart, kill -9, damage, a full disk, two processes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import COIN, genesis, key, transfer
from parallel_evm import Chain, RpcError

ALICE, BOB = key(0xA11CE), key(0xB0B)
GENESIS = genesis(ALICE, BOB)
BOB_RAW = bytes.fromhex(BOB.address[2:])
ALICE_RAW = bytes.fromhex(ALICE.address[2:])


def opened(path: Path) -> Chain:
    return Chain(genesis=GENESIS, path=path)


def test_restart_keeps_blocks_state_and_waiting(tmp_path: Path) -> None:
    chain = opened(tmp_path)
    hashes = []
    for nonce in range(5):
        hashes.append(chain.send_raw_transaction(transfer(ALICE, nonce, BOB.address, value=10)))
        chain.produce_block()
    waiting = chain.send_raw_transaction(transfer(ALICE, 5, BOB.address, value=10))
    gap = chain.send_raw_transaction(transfer(ALICE, 7, BOB.address, value=10))
    root, asked = (
        chain.state_root,
        chain.rpc(b'{"jsonrpc":"2.0","id":1,"method":"eth_getBlockByNumber","params":["0x3",true]}'),
    )
    receipt = (
        b'{"jsonrpc":"2.0","id":1,"method":"eth_getTransactionReceipt","params":["0x%s"]}' % hashes[2].hex().encode()
    )
    told = chain.rpc(receipt)
    chain.close()
    with pytest.raises(RpcError, match="closed"):
        chain.send_raw_transaction(transfer(ALICE, 8, BOB.address))
    again = opened(tmp_path)
    assert (again.block_number, again.state_root, again.pending_count) == (5, root, 2)
    assert again.rpc(b'{"jsonrpc":"2.0","id":1,"method":"eth_getBlockByNumber","params":["0x3",true]}') == asked
    assert again.rpc(receipt) == told
    assert again.produce_block().transactions == 1
    assert again.balance(BOB_RAW) == 100 * COIN + 60
    assert waiting != gap
    with pytest.raises(RpcError, match="in memory"):
        again.snapshot()


def test_one_process_per_directory_and_one_genesis(tmp_path: Path) -> None:
    chain = opened(tmp_path)
    with pytest.raises(OSError, match="in use by another process"):
        opened(tmp_path)
    chain.close()
    with pytest.raises(OSError, match="belongs to another chain"):
        Chain(genesis=genesis(ALICE), path=tmp_path)
    assert opened(tmp_path).block_number == 0


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from test_persistence import *
chain = opened(Path(sys.argv[1]))
nonce = chain.nonce(ALICE_RAW, pending=True)
print("ready", nonce, flush=True)
while True:
    chain.send_raw_transaction(transfer(ALICE, nonce, BOB.address, value=1))
    print("sent", nonce, flush=True)
    nonce += 1
    if nonce % 3 == 0:
        print("block", chain.produce_block().number, flush=True)
"""


def test_kill_loses_nothing_acknowledged(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    delays = random.Random(seed)
    sent, block = -1, 0
    for _ in range(6):
        script = WRITER.format(tests=str(Path(__file__).parent))
        child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline().split() == ["ready", str(sent + 1)]
        time.sleep(delays.uniform(0.02, 0.25))
        child.send_signal(signal.SIGKILL)
        for line in child.stdout.read().splitlines():
            what, number = line.split()
            sent = max(sent, int(number)) if what == "sent" else sent
            block = max(block, int(number)) if what == "block" else block
        child.wait()
        chain = opened(tmp_path)
        # What was being sent when the process died may be in or not.
        pending = chain.nonce(ALICE_RAW, pending=True)
        assert pending in (sent + 1, sent + 2)
        assert chain.block_number in (block, block + 1)
        block = chain.block_number
        sent = pending - 1
        chain.close()
    chain = opened(tmp_path)
    chain.produce_block()
    assert chain.balance(BOB_RAW) == 100 * COIN + sent + 1


def filled(path: Path) -> None:
    chain = opened(path)
    for nonce in range(6):
        chain.send_raw_transaction(transfer(ALICE, nonce, BOB.address, value=1))
        if nonce % 2:
            chain.produce_block()
    chain.close()


def test_damage_is_detected_and_named(tmp_path: Path) -> None:
    filled(tmp_path)
    rng = random.Random(7)
    for path in sorted(tmp_path.glob("state-*")) + sorted(tmp_path.glob("log-*")):
        whole = path.read_bytes()
        for at in [0, 5, 12, 17, 21, 30, len(whole) - 1] + [rng.randrange(len(whole)) for _ in range(60)]:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
            with pytest.raises(OSError, match=path.name):
                opened(tmp_path)
        path.write_bytes(whole)
        assert opened(tmp_path).block_number == 3


def test_torn_end_is_dropped(tmp_path: Path) -> None:
    """Every prefix that a crash can leave opens, as a prefix of history."""
    chain = opened(tmp_path)
    chain.send_raw_transaction(transfer(ALICE, 0, BOB.address))
    log = next(tmp_path.glob("log-*"))
    before = log.stat().st_size
    chain.produce_block()
    chain.close()
    whole = log.read_bytes()
    assert before < len(whole)
    for length in [before, before + 1, before + 23, before + 24, before + 100, len(whole) - 40]:
        for tail in (b"", bytes(700)):
            log.write_bytes(whole[:length] + tail)
            again = opened(tmp_path)
            assert (again.block_number, again.pending_count) == (0, 1)
            again.close()
            assert log.stat().st_size == before


def step(chain: Chain, nonce: int) -> bytes:
    sent = chain.send_raw_transaction(transfer(ALICE, nonce, BOB.address, value=1))
    chain.produce_block()
    return sent


def seen(chain: Chain) -> tuple[int, bytes, int, int]:
    return chain.block_number, chain.state_root, chain.pending_count, chain.nonce(ALICE_RAW, pending=True)


def test_compaction_and_the_crashes_within(tmp_path: Path) -> None:
    path, copy = tmp_path / "chain", tmp_path / "copy"
    chain = opened(path)
    hashes = [step(chain, nonce) for nonce in range(3)]
    chain.send_raw_transaction(transfer(ALICE, 9, BOB.address))
    chain.compact()
    hashes += [step(chain, nonce) for nonce in range(3, 5)]
    shutil.copytree(path, copy)
    chain.compact()
    after_five = seen(chain)
    newest = max(path.glob("state-*"))
    shutil.copy(newest, copy / newest.name)
    hashes.append(step(chain, 5))
    wanted = seen(chain)
    chain.close()
    again = opened(path)
    assert seen(again) == wanted
    # The log before the snapshot's is still read for its blocks.
    for sent in hashes[3:]:
        assert b'"status":"0x1"' in again.rpc(
            b'{"jsonrpc":"2.0","id":1,"method":"eth_getTransactionReceipt","params":["0x%s"]}' % sent.hex().encode()
        )
    again.close()
    # A snapshot that cannot be read may be removed.
    newest.unlink()
    again = opened(path)
    assert seen(again) == wanted
    again.close()
    # A crash between the snapshot and its log leaves the old log as the newest.
    again = opened(copy)
    assert seen(again) == after_five
    step(again, 5)
    again.close()
    assert seen(opened(copy))[:2] == wanted[:2]


FULL = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
from test_persistence import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
chain = opened(Path(sys.argv[1]))
log = next(Path(sys.argv[1]).glob("log-*"))
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
sent = 0
try:
    while sent < 1000:
        chain.send_raw_transaction(transfer(ALICE, sent, BOB.address, value=1))
        sent += 1
except RpcError as error:
    assert "storage failed, nothing is taken in" in error.message, error.message
    assert log.name in error.message
assert 0 < sent < 1000
assert chain.pending_count == sent
root = chain.state_root
try:
    chain.produce_block()
    raise SystemExit("a block was written to a full disk")
except RpcError as error:
    assert "storage failed" in error.message
assert (chain.block_number, chain.state_root) == (0, root)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert chain.produce_block().transactions == sent
chain.send_raw_transaction(transfer(ALICE, sent, BOB.address, value=1))
print(sent + 1, chain.state_root.hex())
"""


def test_full_disk_stops_intake_and_loses_nothing(tmp_path: Path) -> None:
    script = FULL.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sent, root = done.stdout.split()
    chain = opened(tmp_path)
    assert chain.state_root.hex() == root
    assert (chain.nonce(ALICE_RAW), chain.pending_count) == (int(sent) - 1, 1)


def test_unwritable_directory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(OSError, match="file"):
        opened(path)
    assert os.listdir(tmp_path) == ["file"]
