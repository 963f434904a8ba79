"""Many threads at once; the ecrecover cache; what a block's statistics tell."""

import json
import threading

import pytest
from conftest import COIN, genesis, key, transfer
from eth_account import Account
from eth_account.signers.local import LocalAccount
from parallel_evm import Chain

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


def test_block_statistics() -> None:
    senders = [key(2_000 + number) for number in range(4)]
    chain = Chain(genesis=genesis(*senders), threads=2)
    raws = [transfer(sender, nonce, key(1).address) for nonce in range(5) for sender in senders]
    chain.send_raw_transactions(raws)
    stats = chain.produce_block()
    assert (stats.transactions, stats.threads, stats.gas_used) == (20, 2, 20 * 21_000)
    assert stats.executions >= 20
    lanes = chain.block_lanes(stats.number)
    assert sorted(lane[1:] for lane in lanes) == [(5, 105_000)] * 4
    assert {lane[0] for lane in lanes} == {bytes.fromhex(sender.address[2:]) for sender in senders}
