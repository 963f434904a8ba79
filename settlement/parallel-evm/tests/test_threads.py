"""Many threads at once; the ecrecover cache; what a block's statistics tell."""

import json
import threading

import pytest
from conftest import COIN, genesis, key, transfer
from eth_account import Account
from eth_account.signers.local import LocalAccount
from parallel_evm import BlockStats, Chain

ECRECOVER = bytes(19) + b"\x01"


def test_reads_and_sends_while_blocks_are_made() -> None:
    senders = [key(1_000 + number) for number in range(8)]
    chain = Chain(genesis=genesis(*senders), threads=2)
    total, wrong = 100 * COIN * len(senders), []
    addresses = [bytes.fromhex(sender.address[2:]) for sender in senders]
    done = threading.Event()

    def send(sender: LocalAccount) -> None:
        for nonce in range(25):
            chain.send_raw_transaction(transfer(sender, nonce, senders[0].address, maxPriorityFeePerGas=0))

    def read() -> None:
        body = [
            {"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": ["latest", True]},
            {"jsonrpc": "2.0", "id": 2, "method": "eth_call", "params": [{"to": senders[0].address}, "latest"]},
        ]
        while not done.is_set():
            block, call = json.loads(chain.rpc(json.dumps(body).encode()))
            if "error" in block or "error" in call:
                wrong.append((block, call))

    threads = [threading.Thread(target=send, args=(sender,)) for sender in senders]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads + readers:
        thread.start()
    mined = 0
    while any(thread.is_alive() for thread in threads) or chain.pending_count:
        mined += chain.produce_block().transactions
    done.set()
    for thread in threads + readers:
        thread.join()
    assert (mined, wrong) == (200, [])
    burned = 200 * 21_000 * 10**9
    assert sum(chain.balance(address) for address in addresses) == total - burned


def signature_input(digest: bytes, signature: bytes) -> bytes:
    return digest + bytes(31) + signature[64:] + signature[:64]


def test_ecrecover_and_its_cache() -> None:
    chain = Chain()
    digest = bytes(range(32))
    signed = Account.unsafe_sign_hash(digest, key(5).key)
    data = signature_input(digest, bytes(signed.signature))
    signer = bytes.fromhex(key(5).address[2:])
    for hits in (0, 1):
        assert chain.call(ECRECOVER, data) == bytes(12) + signer
        assert (chain.stats()["ecrecover_hits"], chain.stats()["ecrecover_misses"]) == (hits, 1)
    assert chain.call(ECRECOVER, data[:-1]) == b"" or chain.call(ECRECOVER, data[:-1])[12:] != signer
    assert chain.call(ECRECOVER, bytes(128)) == b""


def test_primed_signatures_are_not_recovered_again() -> None:
    chain = Chain()
    digest = b"\x07" * 32
    signature = bytes(Account.unsafe_sign_hash(digest, key(6).key).signature)
    claimed = b"\x66" * 20
    chain.prime_ecrecover([(digest, signature, claimed)])
    assert chain.call(ECRECOVER, signature_input(digest, signature)) == bytes(12) + claimed
    assert chain.stats()["ecrecover_misses"] == 0
    for bad in [
        (digest[1:], signature, claimed),
        (digest, signature[1:], claimed),
        (digest, signature[:-1] + b"\x05", claimed),
    ]:
        with pytest.raises(ValueError):
            chain.prime_ecrecover([bad])


# (key, amount): adds to the word under the key and counts the caller's calls, like a claim for a receiver.
CLAIMS = "0x6020355f3554015f3555335460010133555f5fa0"
CONTRACT = bytes(19) + b"\xcc"
LANES = 4
# Fewer than it takes to think speculation over; their gas limit lets no two share a chunk.
CLAIMS_EACH = 6
GAS = 1_500_000


def claims_block(threads: int, *, in_order: bool, one_receiver: bool) -> tuple[Chain, BlockStats, list[LocalAccount]]:
    """A block of claims over lanes, each for a receiver of its own, or all for one."""
    lanes = [key(2_000 + number) for number in range(LANES)]
    document = json.loads(genesis(*lanes))
    document["alloc"]["0x" + CONTRACT.hex()] = {"code": CLAIMS}
    chain = Chain(genesis=json.dumps(document), threads=threads)
    turns = [(lane, nonce) for nonce in range(CLAIMS_EACH) for lane in lanes]
    if in_order:
        turns.sort(key=lambda turn: lanes.index(turn[0]))
    raws = []
    for lane, nonce in turns:
        receiver = lanes[0] if one_receiver else lane
        data = bytes(12) + bytes.fromhex(receiver.address[2:]) + (7).to_bytes(32, "big")
        raws.append(transfer(lane, nonce, "0x" + CONTRACT.hex(), 0, data=data, gas=GAS))
    assert all(isinstance(answer, bytes) for answer in chain.send_raw_transactions(raws))
    stats = chain.produce_block(1_700_000_001)
    assert stats.transactions == len(raws) == LANES * CLAIMS_EACH
    return chain, stats, lanes


def word_of(account: LocalAccount) -> int:
    return int(account.address, 16)


@pytest.mark.parametrize("threads", [2, 4, 8])
@pytest.mark.parametrize("in_order", [False, True])
def test_lanes_repeat_nothing(threads: int, in_order: bool) -> None:
    chain, stats, lanes = claims_block(threads, in_order=in_order, one_receiver=False)
    assert (stats.executions, stats.reexecuted, stats.aborted) == (stats.transactions, 0, 0)
    # More threads than lanes would have nothing to do.
    assert (stats.fell_back, stats.threads) == (False, min(threads, LANES))
    for lane in lanes:
        assert chain.storage_at(CONTRACT, word_of(lane)) == CLAIMS_EACH * (7 + 1)


@pytest.mark.parametrize("threads", [2, 4, 8])
def test_one_receiver_repeats_all_but_the_first(threads: int) -> None:
    """What another lane's claim just wrote is never seen early, so the count does not depend on the timing."""
    chain, stats, lanes = claims_block(threads, in_order=False, one_receiver=True)
    count = stats.transactions
    assert (stats.executions, stats.reexecuted, stats.aborted) == (2 * count - 1, count - 1, count - 1)
    assert chain.storage_at(CONTRACT, word_of(lanes[0])) == count * 7 + CLAIMS_EACH
    alone, sequential, _ = claims_block(1, in_order=False, one_receiver=True)
    assert (sequential.executions, sequential.reexecuted, sequential.threads) == (count, 0, 1)
    assert (alone.state_root, sequential.gas_used) == (chain.state_root, stats.gas_used)


def test_block_statistics() -> None:
    chain, stats, lanes = claims_block(2, in_order=False, one_receiver=False)
    # Busy over wall time is the speed-up reached: no thread can be busier than all the time.
    assert 0 < stats.busy_us <= stats.threads * (stats.execute_us + 1)
    assert stats.execute_us <= stats.total_us
    load = chain.block_lanes(stats.number)
    assert {lane[0] for lane in load} == {bytes.fromhex(lane.address[2:]) for lane in lanes}
    assert [claims for _, claims, _ in load] == [CLAIMS_EACH] * LANES
    assert sum(gas for _, _, gas in load) == stats.gas_used
    gases = [gas for _, _, gas in load]
    assert gases == sorted(gases, reverse=True)


def test_load_of_uneven_lanes() -> None:
    senders = [key(3_000 + number) for number in range(3)]
    chain = Chain(genesis=genesis(*senders), threads=2)
    for number, sender in enumerate(senders):
        for nonce in range(2 * number + 1):
            chain.send_raw_transaction(transfer(sender, nonce, key(1).address, maxPriorityFeePerGas=0))
    stats = chain.produce_block()
    assert [lane[1:] for lane in chain.block_lanes(stats.number)] == [(n, n * 21_000) for n in (5, 3, 1)]
    assert stats.gas_used == 9 * 21_000
