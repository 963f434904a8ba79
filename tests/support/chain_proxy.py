"""A faulty line between a gateway and its chain: an HTTP proxy on loopback that misbehaves as it is told.

Faults are scripted (`inject`: which methods, how often, from which request on) or drawn with a seed (`share`). Each
one that had its effect is counted, so that a test can show that what it is about really happened.
"""

import json
import random
import socket
import struct
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Upstream = Callable[[bytes], bytes]
Message = dict[str, Any]

# What a line does with a whole request. `amount` is seconds for "delay", the status for "status", the seconds of
# Retry-After for "rate limit".
LINE_KINDS = frozenset(
    {"request lost", "reply lost", "delay", "rate limit", "status", "reset", "reset after", "truncated", "no json"}
)
# What a node does with one call. `amount` is blocks for "stale" and "reorg", the error for "nonce".
NODE_KINDS = frozenset(
    {"stale", "nonce", "already known", "underpriced", "nonce too low", "reorg", "reverts", "errors"}
)
_TAKEN = {
    "already known": (-32000, "already known"),
    "underpriced": (-32000, "replacement transaction underpriced"),
    "nonce too low": (-32003, "nonce too low"),
}
# Where the block of a state read stands in the parameters.
_BLOCK_AT = {
    "eth_call": 1,
    "eth_estimateGas": 1,
    "eth_getBalance": 1,
    "eth_getCode": 1,
    "eth_getStorageAt": 2,
    "eth_getTransactionCount": 1,
}
STALE_METHODS = frozenset(
    {*_BLOCK_AT, "eth_blockNumber", "eth_getBlockByNumber", "eth_getLogs", "eth_getTransactionReceipt"}
)


@dataclass(slots=True)
class Fault:
    """One fault: of which kind, at which methods (none named: at all), after `skip` of them, `times` times."""

    kind: str
    methods: frozenset[str]
    times: int
    skip: int
    share: float
    amount: float
    markers: tuple[str, ...]  # a node's fault strikes only calls with all of this hex in them

    def at(self, method: str) -> bool:
        """Tell whether this fault is about a method."""
        return not self.methods or method in self.methods


@dataclass(frozen=True, slots=True)
class _Reply:
    """What goes back: "whole", "truncated", "lost" (closed without a word) or "reset"."""

    body: bytes = b""
    status: int = 200
    how: str = "whole"
    retry_after: int | None = None


class ChainProxy:
    """A proxy before `upstream`: a URL, or a function from request body to answer body."""

    def __init__(self, upstream: str | Upstream, *, seed: int = 0) -> None:
        self.seed = seed
        self.counts: Counter[str] = Counter()  # faults that happened, by kind
        self.struck: Counter[tuple[str, str]] = Counter()  # the same by (kind, method)
        self.asked: Counter[str] = Counter()  # calls that reached the chain, by method
        self._upstream = http_upstream(upstream) if isinstance(upstream, str) else upstream
        self._random = random.Random(seed)
        self._faults: list[Fault] = []
        self._actions: list[tuple[str, str, Callable[[], None]]] = []
        self._lock = threading.Lock()
        self._traffic = threading.Condition()
        self._under_way = 0  # calls at the chain now
        self._held = False  # none may begin
        proxy = self

        class Handler(_Handler):
            def serve(self, body: bytes) -> _Reply:
                return proxy._serve(body)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # -- the script --

    def inject(
        self,
        kind: str,
        *methods: str,
        times: int = 1,
        skip: int = 0,
        share: float = 1.0,
        amount: float = 0,
        markers: Sequence[bytes] = (),
    ) -> None:
        """Add a fault; those added first are tried first. With a `share` below 1 it strikes by (seeded) chance."""
        assert kind in LINE_KINDS | NODE_KINDS, kind
        with self._lock:
            hexed = tuple(marker.hex() for marker in markers)
            self._faults.append(Fault(kind, frozenset(methods), times, skip, share, amount, hexed))

    def before(self, method: str, action: Callable[[], None], marker: bytes = b"") -> None:
        """Do something once before the next call of `method` (with `marker` in it) reaches the chain."""
        with self._lock:
            self._actions.append((method, marker.hex(), action))

    def clear(self) -> None:
        """From now on the line is whole."""
        with self._lock:
            self._faults.clear()

    def rpc(self, method: str, *params: Any) -> Any:
        """Ask the chain itself, past all faults; raises RuntimeError with the node's error."""
        return _result_of(method, self._in_turn({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}))

    def _due(self, methods: Sequence[str], kinds: frozenset[str], data: str = "") -> tuple[Fault, str] | None:
        """Take the first fault of these kinds that strikes one of these methods now."""
        with self._lock:
            for fault in self._faults:
                method = next((each for each in methods if fault.at(each)), None)
                if fault.kind not in kinds or method is None or fault.times <= 0:
                    continue
                if not all(marker in data for marker in fault.markers):
                    continue
                if fault.share < 1 and self._random.random() >= fault.share:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault, method
        return None

    def _note(self, fault: Fault, method: str) -> None:
        with self._lock:
            self.counts[fault.kind] += 1
            self.struck[fault.kind, method] += 1

    # -- one request --

    def _serve(self, body: bytes) -> _Reply:
        message = json.loads(body)
        calls: list[Message] = message if isinstance(message, list) else [message]
        struck = self._due([call["method"] for call in calls], LINE_KINDS)
        fault, method = struck if struck else (None, "")
        kind = fault.kind if fault else ""
        if fault and kind in ("request lost", "reset", "rate limit", "status"):
            self._note(fault, method)
            if kind == "rate limit":
                return _Reply(b"slow down\n", 429, retry_after=int(fault.amount))
            if kind == "status":
                return _Reply(b"<html>out of order</html>", int(fault.amount))
            return _Reply(how="lost" if kind == "request lost" else "reset")
        if fault and kind == "delay":
            self._note(fault, method)
            time.sleep(fault.amount)
        answers = [self._call(call) for call in calls]
        answer = json.dumps(answers if isinstance(message, list) else answers[0]).encode()
        if fault and kind in ("reply lost", "reset after", "truncated", "no json"):
            self._note(fault, method)
            if kind == "no json":
                return _Reply(b"<html>please log in</html>")
            return _Reply(answer, how={"reply lost": "lost", "reset after": "reset"}.get(kind, kind))
        return _Reply(answer)

    def _call(self, call: Message) -> Message:
        method = call["method"]
        struck = self._due([method], NODE_KINDS, json.dumps(call["params"]))
        if struck is None:
            return self._one(call)
        fault, _ = struck
        answer = _NODE[fault.kind](self, fault, call)
        if answer is None:  # this call is none that the fault could change
            return self._one(call)
        self._note(fault, method)
        return answer

    def reorganise(self, depth: int) -> None:
        """Let anvil replace its newest blocks by empty ones; their transactions are gone.

        Anvil tears a hole into its chain when it mines meanwhile, so all else has to wait.
        """
        with self._traffic:
            self._traffic.wait_for(lambda: not self._held)
            self._held = True
            assert self._traffic.wait_for(lambda: self._under_way == 0, 30), "requests under way do not end"
        try:
            while self._alone("txpool_status")["pending"] != "0x0":
                time.sleep(0.005)
            self._alone("anvil_reorg", depth, [])
        finally:
            with self._traffic:
                self._held = False
                self._traffic.notify_all()

    def _alone(self, method: str, *params: Any) -> Any:
        return _result_of(method, self._pass({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}))

    def _one(self, call: Message) -> Message:
        with self._lock:
            self.asked[call["method"]] += 1
            due = [each for each in self._actions if each[0] == call["method"] and each[1] in str(call["params"])]
            self._actions = [each for each in self._actions if each not in due]
        for _, _, act in due:
            act()
        return self._in_turn(call)

    def _in_turn(self, call: Message) -> Message:
        with self._traffic:
            self._traffic.wait_for(lambda: not self._held)
            self._under_way += 1
        try:
            return self._pass(call)
        finally:
            with self._traffic:
                self._under_way -= 1
                self._traffic.notify_all()

    def _pass(self, call: Message) -> Message:
        answer: Message = json.loads(self._upstream(json.dumps(call).encode()))
        return answer

    # -- what a node may do --

    def _stale(self, fault: Fault, call: Message) -> Message | None:
        """Answer as a node that lags behind: it does not know the newest blocks."""
        method, params = call["method"], list(call["params"])
        if method not in STALE_METHODS:
            return None
        known = max(0, int(self.rpc("eth_blockNumber"), 16) - int(fault.amount))
        if method == "eth_blockNumber":
            return _result(call, hex(known))
        if method == "eth_getTransactionReceipt":
            receipt = self._one(call)
            found = receipt.get("result")
            unknown = found is not None and int(found["blockNumber"], 16) > known
            return _result(call, None) if unknown else None
        if method == "eth_getLogs":
            return self._stale_logs(call, known)
        at = _BLOCK_AT.get(method, 0)
        tag = params[at] if len(params) > at else "latest"
        if not tag.startswith("0x"):
            changed = [*params[:at], hex(known), *params[at + 1 :]]
            return self._one({**call, "params": changed})
        if int(tag, 16) <= known:
            return None
        return _result(call, None) if method == "eth_getBlockByNumber" else _error(call, -32000, "header not found")

    def _stale_logs(self, call: Message, known: int) -> Message | None:
        """Leave out, without a word, the logs of blocks that this node does not know: nodes really do that."""
        (query,) = call["params"]
        if "blockHash" in query:  # which a node that does not know the block has to refuse
            asked = {**call, "method": "eth_getBlockByHash", "params": [query["blockHash"], False]}
            block = self._one(asked).get("result")
            unknown = block is None or int(block["number"], 16) > known
            return _error(call, -32000, "unknown block") if unknown else None
        to = query.get("toBlock", "latest")
        if to.startswith("0x") and int(to, 16) <= known:
            return None
        if int(query["fromBlock"], 16) > known:
            return _result(call, [])
        return self._one({**call, "params": [{**query, "toBlock": hex(known)}]})

    def _nonce(self, fault: Fault, call: Message) -> Message | None:
        if call["method"] != "eth_getTransactionCount":
            return None
        true = int(self._one(call)["result"], 16)
        wrong = max(0, true + int(fault.amount))
        return _result(call, hex(wrong)) if wrong != true else None

    def _taken(self, fault: Fault, call: Message) -> Message | None:
        """Take a transaction and say that it was not taken."""
        if call["method"] != "eth_sendRawTransaction":
            return None
        answer = self._one(call)
        return None if "error" in answer else _error(call, *_TAKEN[fault.kind])

    def _reorg(self, fault: Fault, call: Message) -> Message | None:
        if int(self.rpc("eth_blockNumber"), 16) < fault.amount:
            return None
        self.reorganise(int(fault.amount))
        return self._one(call)

    def _reverts(self, fault: Fault, call: Message) -> Message | None:
        """A contract says no to this call (`ClaimExceedsBalance()`, as the settlement contract encodes it)."""
        if call["method"] not in ("eth_call", "eth_estimateGas"):
            return None
        answer = _error(call, 3, "execution reverted")
        answer["error"]["data"] = CLAIM_EXCEEDS_BALANCE
        return answer

    def _errors(self, fault: Fault, call: Message) -> Message | None:
        return _error(call, -32603, "internal error")


CLAIM_EXCEEDS_BALANCE = "0x7d8242b6"  # the selector of that error

_NODE: dict[str, Callable[[ChainProxy, Fault, Message], Message | None]] = {
    "stale": ChainProxy._stale,
    "nonce": ChainProxy._nonce,
    **dict.fromkeys(_TAKEN, ChainProxy._taken),
    "reorg": ChainProxy._reorg,
    "reverts": ChainProxy._reverts,
    "errors": ChainProxy._errors,
}


def _result_of(method: str, answer: Message) -> Any:
    if "error" in answer:
        raise RuntimeError(f"{method}: {answer['error']}")
    return answer["result"]


def _result(call: Message, result: Any) -> Message:
    return {"jsonrpc": "2.0", "id": call["id"], "result": result}


def _error(call: Message, code: int, message: str) -> Message:
    return {"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": message}}


def http_upstream(url: str) -> Upstream:
    """Return a chain behind a URL as a function."""

    def post(body: bytes) -> bytes:
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answer: bytes = response.read()
        return answer

    return post


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone, or was killed, is none of our business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def serve(self, body: bytes) -> _Reply:
        raise NotImplementedError

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        reply = self.serve(body)
        if reply.how in ("lost", "reset"):
            self.close_connection = True
            if reply.how == "reset":  # lingering for no time at all makes the system send RST
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.rfile.close()  # it holds the socket, too
                self.connection.close()
            return
        lines = [f"HTTP/1.1 {reply.status} OK", f"content-length: {len(reply.body)}", "content-type: application/json"]
        if reply.retry_after is not None:
            lines.append(f"retry-after: {reply.retry_after}")
        sent = reply.body
        if reply.how == "truncated":
            self.close_connection = True
            sent = sent[: len(sent) // 2]
        self.wfile.write("\r\n".join(lines).encode() + b"\r\n\r\n" + sent)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""
