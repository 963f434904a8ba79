"""Mempool and JSON-RPC rules, as users of Ethereum nodes expect them."""

import json
from collections.abc import Callable

import pytest
from conftest import CHAIN_ID, COIN, genesis, key, transfer
from eth_account import Account
from eth_account.signers.local import LocalAccount
from parallel_evm import Chain, RpcError

Rpc = Callable[..., dict[str, object]]


def refusal(chain: Chain, raw: bytes) -> RpcError:
    with pytest.raises(RpcError) as caught:
        chain.send_raw_transaction(raw)
    assert caught.value.code == -32000
    return caught.value


def test_nonce_gap_waits_and_closes(chain: Chain, alice: LocalAccount, bob: LocalAccount) -> None:
    late = chain.send_raw_transaction(transfer(alice, 1, bob.address))
    assert chain.produce_block().transactions == 0
    assert chain.nonce(bytes.fromhex(alice.address[2:]), pending=True) == 0
    first = chain.send_raw_transaction(transfer(alice, 0, bob.address))
    assert chain.nonce(bytes.fromhex(alice.address[2:]), pending=True) == 2
    stats = chain.produce_block()
    assert (stats.transactions, stats.gas_used, chain.pending_count) == (2, 42_000, 0)
    assert first != late
    assert chain.balance(bytes.fromhex(bob.address[2:])) == 100 * COIN + 2


def test_replacement_needs_ten_percent(chain: Chain, alice: LocalAccount, bob: LocalAccount) -> None:
    old = transfer(alice, 0, bob.address, value=1)
    chain.send_raw_transaction(old)
    assert refusal(chain, old).message == "already known"
    nearly = transfer(alice, 0, bob.address, value=2, maxFeePerGas=33 * 10**8, maxPriorityFeePerGas=11 * 10**8 - 1)
    assert refusal(chain, nearly).message == "replacement transaction underpriced"
    chain.send_raw_transaction(
        transfer(alice, 0, bob.address, value=2, maxFeePerGas=33 * 10**8, maxPriorityFeePerGas=11 * 10**8)
    )
    assert chain.pending_count == 1
    chain.produce_block()
    assert chain.balance(bytes.fromhex(bob.address[2:])) == 100 * COIN + 2


def flip_s(raw_s: int) -> int:
    return 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 - raw_s


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chainId": 1}, "invalid chain id"),
        ({"gas": 20_999}, "intrinsic gas too low"),
        ({"gas": 1_000_000_001}, "exceeds block gas limit"),
        ({"value": 1000 * COIN}, "insufficient funds for gas * price + value"),
        ({"value": 2**256 - 1}, "insufficient funds for gas * price + value"),
        ({"maxFeePerGas": 10**9 - 1, "maxPriorityFeePerGas": 0}, "max fee per gas less than block base fee"),
        ({"maxPriorityFeePerGas": 4 * 10**9}, "max priority fee per gas higher than max fee per gas"),
    ],
)
def test_refusals(chain: Chain, alice: LocalAccount, bob: LocalAccount, fields: dict[str, int], message: str) -> None:
    assert message in refusal(chain, transfer(alice, 0, bob.address, **fields)).message
    assert chain.pending_count == 0


def test_nonce_too_low(chain: Chain, alice: LocalAccount, bob: LocalAccount) -> None:
    chain.send_raw_transaction(transfer(alice, 0, bob.address))
    chain.produce_block()
    again = transfer(alice, 0, bob.address, value=7)
    assert refusal(chain, again).message == "nonce too low: next nonce 1, tx nonce 0"


def test_bad_bytes(chain: Chain, alice: LocalAccount, bob: LocalAccount) -> None:
    good = transfer(alice, 0, bob.address)
    for raw in (b"", b"\x00", b"\x03\xc0", b"\x04\xc0", b"\x7f", good[:-1], good + b"\x00", bytes(200_000)):
        refusal(chain, raw)
    unprotected = {"nonce": 0, "gas": 21_000, "gasPrice": 2 * 10**9, "to": bob.address, "value": 1}
    assert (
        "replay-protected"
        in refusal(chain, bytes(Account.sign_transaction(unprotected, alice.key).raw_transaction)).message
    )


@pytest.mark.parametrize("kind", ["legacy", "access_list", "dynamic"])
def test_each_envelope(chain: Chain, alice: LocalAccount, bob: LocalAccount, kind: str) -> None:
    fields: dict[str, object] = {"chainId": CHAIN_ID, "nonce": 0, "gas": 30_000, "to": bob.address, "value": 5}
    if kind == "dynamic":
        fields |= {"type": 2, "maxFeePerGas": 2 * 10**9, "maxPriorityFeePerGas": 1}
    else:
        fields |= {"gasPrice": 2 * 10**9}
    if kind == "access_list":
        fields |= {"type": 1, "accessList": [{"address": bob.address, "storageKeys": ["0x" + "11" * 32]}]}
    sent = chain.send_raw_transaction(bytes(alice.sign_transaction(fields).raw_transaction))
    assert chain.produce_block().gas_used == {"legacy": 21_000, "access_list": 25_300, "dynamic": 21_000}[kind]
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_getTransactionByHash", "params": ["0x" + sent.hex()]})
    shown = json.loads(chain.rpc(body.encode()))["result"]
    assert shown["from"] == alice.address.lower()
    assert shown["type"] == {"legacy": "0x0", "access_list": "0x1", "dynamic": "0x2"}[kind]


def test_fee_recipient_earns_the_tip(alice: LocalAccount, bob: LocalAccount) -> None:
    recipient = bytes(19) + b"\x99"
    chain = Chain(genesis=genesis(alice), coinbase=recipient)
    for nonce in range(3):
        chain.send_raw_transaction(transfer(alice, nonce, bob.address))
    chain.produce_block()
    assert chain.balance(recipient) == 3 * 21_000 * 10**9
    assert chain.balance(bytes.fromhex(alice.address[2:])) == 100 * COIN - 3 - 3 * 21_000 * 2 * 10**9


def test_unfunded_waits_for_money(alice: LocalAccount, bob: LocalAccount) -> None:
    """Admitted while funded, then drained by an earlier transaction: kept, not lost, and executed once funded."""
    chain = Chain(genesis=genesis(alice, bob))
    whole = 100 * COIN - 21_000 * 3 * 10**9
    chain.send_raw_transaction(transfer(alice, 0, bob.address, value=whole))
    chain.send_raw_transaction(transfer(alice, 1, bob.address))
    stats = chain.produce_block()
    assert (stats.transactions, stats.skipped, chain.pending_count) == (1, 1, 1)
    chain.send_raw_transaction(transfer(bob, 0, alice.address, value=COIN))
    chain.produce_block()
    assert chain.produce_block().transactions == 1
    assert chain.pending_count == 0


def test_time_never_falls(chain: Chain) -> None:
    assert chain.produce_block(1_700_000_010).timestamp == 1_700_000_010
    assert chain.produce_block(1_700_000_010).timestamp == 1_700_000_010
    with pytest.raises(RpcError, match="below the parent"):
        chain.produce_block(1_700_000_009)
    chain.set_next_timestamp(1_700_000_500)
    assert chain.produce_block().timestamp == 1_700_000_500
    assert chain.produce_block().timestamp > 1_700_000_500


def test_old_state_is_right_or_refused(chain: Chain, rpc: Rpc, alice: LocalAccount, bob: LocalAccount) -> None:
    for nonce in range(140):
        chain.send_raw_transaction(transfer(alice, nonce, bob.address, value=10))
        chain.produce_block()
    for number in (140, 139, 100, 12):
        assert rpc("eth_getBalance", bob.address, hex(number))["result"] == hex(100 * COIN + 10 * number)
        assert rpc("eth_getTransactionCount", alice.address, hex(number))["result"] == hex(number)
    for number in (11, 0):
        assert "is not held" in str(rpc("eth_getBalance", bob.address, hex(number))["error"])
    assert "header not found" in str(rpc("eth_getBalance", bob.address, hex(141))["error"])


def test_snapshot_and_revert(chain: Chain, alice: LocalAccount, bob: LocalAccount) -> None:
    root = chain.state_root
    saved = chain.snapshot()
    chain.send_raw_transaction(transfer(alice, 0, bob.address))
    chain.produce_block()
    assert chain.state_root != root
    chain.revert(saved)
    assert (chain.state_root, chain.block_number) == (root, 0)
    with pytest.raises(RpcError, match="not held"):
        chain.revert(saved)
    chain.send_raw_transaction(transfer(alice, 0, bob.address, value=3))
    assert chain.produce_block().transactions == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[]", -32600),
        (b"1", -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"eth_chainId"}', -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"eth_chainId"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_nothing"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"evm_mine"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":[]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":{}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":["0x12"]}', -32602),
        (b"[" * 100_000, -32600),
        (b'{"a":' * 100 + b"1" + b"}" * 100, -32600),
        (b" " * (8 * 1024 * 1024 + 1), -32600),
        (b"[" + b",".join([b"1"] * 1_001) + b"]", -32600),
    ],
)
def test_bad_bodies(chain: Chain, body: bytes, code: int) -> None:
    assert json.loads(chain.rpc(body))["error"]["code"] == code


def test_batch_keeps_order_and_skips_notifications(chain: Chain) -> None:
    body = [
        {"jsonrpc": "2.0", "id": "a", "method": "eth_chainId"},
        {"jsonrpc": "2.0", "method": "eth_chainId"},
        7,
        {"jsonrpc": "2.0", "id": 2, "method": "net_version", "params": None},
    ]
    answers = json.loads(chain.rpc(json.dumps(body).encode()))
    assert [answer["id"] for answer in answers] == ["a", None, 2]
    assert [answer.get("result") for answer in answers] == [hex(CHAIN_ID), None, str(CHAIN_ID)]
    assert chain.rpc(b'{"jsonrpc":"2.0","method":"eth_chainId"}') == b""


def test_dev_methods_need_dev(alice: LocalAccount) -> None:
    chain = Chain(genesis=genesis(alice), dev=True)
    answer = json.loads(chain.rpc(b'{"jsonrpc":"2.0","id":1,"method":"evm_mine","params":["0x77359400"]}'))
    assert (answer["result"], chain.block_number, chain.block_timestamp) == ("0x0", 1, 2_000_000_000)


def test_batch_intake_reports_each(chain: Chain, alice: LocalAccount, bob: LocalAccount) -> None:
    raws = [transfer(alice, nonce, bob.address) for nonce in range(20)] + [b"junk"]
    results = chain.send_raw_transactions(raws)
    assert all(isinstance(result, bytes) for result in results[:20])
    assert isinstance(results[20], RpcError)
    assert chain.produce_block().transactions == 20


def test_bad_arguments() -> None:
    for options in ({"hardfork": "frontier"}, {"genesis": "["}, {"threads": 0}, {"coinbase": b"x"}):
        with pytest.raises(ValueError):
            Chain(**options)  # type: ignore[arg-type]


def test_high_s_is_refused(chain: Chain, alice: LocalAccount, bob: LocalAccount) -> None:
    import rlp
    from eth_utils import keccak

    fields = [CHAIN_ID, 0, 10**9, 3 * 10**9, 21_000, bytes.fromhex(bob.address[2:]), 1, b"", []]
    signed = key(0xA11CE).unsafe_sign_hash(keccak(b"\x02" + rlp.encode(fields)))
    high = b"\x02" + rlp.encode([*fields, 1 - (signed.v - 27), signed.r, flip_s(signed.s)])
    assert "invalid sender" in refusal(chain, high).message
    low = b"\x02" + rlp.encode([*fields, signed.v - 27, signed.r, signed.s])
    assert len(chain.send_raw_transaction(low)) == 32
