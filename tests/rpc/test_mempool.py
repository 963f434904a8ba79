"""What is taken in, what waits, and the usual sentences of refusal."""

import time
from typing import Any

import pytest
from eth_account.signers.local import LocalAccount

from tests.rpc.served import COIN, FEES, Refused, Served, key, transfer

HIGHER = {name: value * 2 for name, value in FEES.items()}


def nonce_of(served: Served, account: LocalAccount, tag: str = "pending") -> int:
    return int(served.rpc("eth_getTransactionCount", account.address, tag), 16)


def test_a_nonce_gap_waits_then_executes(served: Served, alice: LocalAccount) -> None:
    first = nonce_of(served, alice)
    later = served.send(transfer(alice, first + 1))
    served.blocks_pass(2)
    assert served.rpc("eth_getTransactionReceipt", later) is None
    assert served.rpc("eth_getTransactionByHash", later)["blockNumber"] is None
    assert nonce_of(served, alice) == first
    served.send(transfer(alice, first))
    assert served.mined(later)["status"] == "0x1"
    assert nonce_of(served, alice, "latest") == nonce_of(served, alice) == first + 2


def test_a_replacement_needs_a_higher_fee(served: Served, alice: LocalAccount) -> None:
    first = nonce_of(served, alice)
    old = served.send(transfer(alice, first + 1))  # behind a gap, so that it stays
    with pytest.raises(Refused, match="already known"):
        served.send(transfer(alice, first + 1))
    with pytest.raises(Refused, match="-32000 replacement transaction underpriced"):
        served.send(transfer(alice, first + 1, value=2))
    new = served.send(transfer(alice, first + 1, value=2, **HIGHER))
    served.send(transfer(alice, first))
    assert served.mined(new)["status"] == "0x1"
    assert served.rpc("eth_getTransactionByHash", old) is None
    with pytest.raises(Refused, match="nonce too low"):
        served.send(transfer(alice, first, value=3))


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "wrong chain id": ({"chainId": 1}, "chain id"),
    "intrinsic gas": ({"gas": 20_999}, "intrinsic gas too low"),
    "funds": ({"value": 100 * COIN}, r"insufficient funds for gas \* price \+ value"),
    "block gas": ({"gas": 1_000_000_001}, "exceeds block gas limit"),
    "tip above cap": ({"maxPriorityFeePerGas": 2 * 10**9}, "max priority fee per gas higher than max fee per gas"),
    "below base fee": ({"maxFeePerGas": 6, "maxPriorityFeePerGas": 0}, "max fee per gas less than block base fee"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_the_usual_refusals(served: Served, bob: LocalAccount, case: str) -> None:
    fields, sentence = REFUSALS[case]
    with pytest.raises(Refused, match=sentence) as caught:
        served.send(transfer(bob, 0, **fields))
    assert caught.value.code == -32000
    assert nonce_of(served, bob) == 0


def test_a_poor_sender(served: Served) -> None:
    with pytest.raises(Refused, match=r"insufficient funds for gas \* price \+ value: balance 0"):
        served.send(transfer(key("poor"), 0))


def test_a_bad_signature(served: Served, bob: LocalAccount) -> None:
    raw = transfer(bob, 0)
    # r and s are the last two items of the list, each of 32 bytes behind 0xa0 (this nonce and key give full ones).
    assert raw[-33] == 0xA0
    with pytest.raises(Refused, match=r"signature|sender") as caught:
        served.send(raw[:-32] + b"\xff" * 32)
    assert caught.value.code == -32000


@pytest.mark.parametrize("raw", [b"", b"\x02", b"\x03\xc0", b"\x7f\x00", b"\xc0", b"\x02\xff" * 500])
def test_bytes_that_are_no_transaction(served: Served, raw: bytes) -> None:
    began = time.monotonic()
    with pytest.raises(Refused) as caught:
        served.send(raw)
    assert caught.value.code == -32000
    assert time.monotonic() - began < 60
