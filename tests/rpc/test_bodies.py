"""Bodies that no client should send: a JSON-RPC error, in bounded time, and nothing changed."""

import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from eth_account.signers.local import LocalAccount

from tests.rpc.served import Served

BALANCE = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
# A refusal takes milliseconds; a busy machine may take much longer.
BOUND_S = 60.0


def asked(method: Any, *params: Any, **fields: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params, **fields}).encode()


@pytest.fixture(autouse=True)
def _nothing_changes(served: Served, alice: LocalAccount) -> Iterator[None]:
    def looked() -> tuple[Any, ...]:
        balance = served.rpc("eth_getBalance", alice.address, "latest")
        return balance, served.rpc("eth_getTransactionCount", alice.address, "pending")

    before = looked()
    began = time.monotonic()
    yield
    assert time.monotonic() - began < BOUND_S
    assert looked() == before
    assert served.process.poll() is None
    assert "Traceback" not in served.stderr


BAD: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", -32700),
    "garbage": (bytes(range(256)) * 16, -32700),
    "half": (b'{"jsonrpc":"2.0","id":1,', -32700),
    "no UTF-8": (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', -32700),
    "deep arrays": (b"[" * 100_000, -32600),
    "deep objects": (b'{"a":' * 100_000, -32600),
    "deep params": (asked("eth_call", json.loads("[" * 60 + "]" * 60)), -32600),
    "a number": (b"17", -32600),
    "empty batch": (b"[]", -32600),
    "huge batch": (json.dumps([BALANCE] * 1_001).encode(), -32600),
    "no version": (json.dumps({"id": 1, "method": "eth_chainId"}).encode(), -32600),
    "method is a number": (asked(5), -32600),
    "unknown method": (asked("eth_mine"), -32601),
    "a developer's method": (asked("evm_mine"), -32601),
    "endless method": (asked("x" * 1_000_000), -32601),
    "params are an object": (asked("eth_getBalance", params={"a": 1}), -32602),
    "no params": (asked("eth_getBalance"), -32602),
    "short address": (asked("eth_getBalance", "0x12", "latest"), -32602),
    "odd block": (asked("eth_getBlockByNumber", "newest", False), -32602),
    "no flag": (asked("eth_getBlockByNumber", "latest", 5), -32602),
    "call of a string": (asked("eth_call", "0x"), -32602),
    "odd hex": (asked("eth_sendRawTransaction", "0x123"), -32602),
    "no hex": (asked("eth_sendRawTransaction", "zz"), -32602),
    "a wide quantity": (asked("eth_getStorageAt", "0x" + "11" * 20, "0x" + "1" * 65, "latest"), -32602),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_body_is_refused(served: Served, case: str) -> None:
    body, code = BAD[case]
    status, answer = served.post(body)
    assert status == 200
    told = json.loads(answer)
    assert told["error"]["code"] == code, told
    assert 0 < len(told["error"]["message"]) < 500
    assert "result" not in told


def test_a_body_of_6_mb(served: Served) -> None:
    assert served.post(b" " * 6_000_000)[0] == 413


def test_the_largest_batch_is_answered(served: Served) -> None:
    status, answer = served.post(json.dumps([{**BALANCE, "id": n} for n in range(1_000)]).encode())
    assert status == 200
    assert [one["id"] for one in json.loads(answer)] == list(range(1_000))


def test_a_batch_mixes_answers_and_errors(served: Served) -> None:
    batch = [BALANCE, 5, {"jsonrpc": "2.0", "method": "eth_chainId"}, json.loads(asked("eth_nothing"))]
    answers = json.loads(served.post(json.dumps(batch).encode())[1])
    assert [one.get("error", {}).get("code") for one in answers] == [None, -32600, -32601]


def test_notifications_are_answered_with_nothing(served: Served) -> None:
    assert served.post(b'{"jsonrpc":"2.0","method":"eth_chainId"}')[1] == b""


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_only_post(served: Served, method: str) -> None:
    request = urllib.request.Request(served.url, method=method)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    with caught.value:
        assert caught.value.code == 405


def test_a_call_that_runs_for_ever_ends(served: Served) -> None:
    code = "0x5b600056"  # jumpdest, push 0, jump
    body = asked("eth_call", {"to": "0x" + "11" * 20}, "latest", {"0x" + "11" * 20: {"code": code}})
    assert "out of gas" in json.loads(served.post(body)[1])["error"]["message"]
