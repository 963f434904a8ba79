"""The transports: ids, batches, bounds, and every way in which a line can fail."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from settlement.errors import AnswerTooLarge, ChainMisbehaved, ChainRefused, ChainUnavailable
from settlement.transports import BATCH_MAX, BODY_BYTES_MAX, HttpTransport, InProcessTransport
from tests.support.anvil import free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def http_server(answer: Callable[[Any], bytes]) -> AsyncIterator[str]:
    """Serve raw HTTP answers made from the decoded request body; an empty one closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        writer.write(answer(json.loads(await reader.readexactly(length))))
        await writer.drain()

    async with raw_server(serve) as url:
        yield url


@asynccontextmanager
async def raw_server(serve: Serve) -> AsyncIterator[str]:
    """Serve connections on a free port until they have all ended."""
    connections: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        await serve(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await asyncio.gather(*connections)


def http(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


def result(message: dict[str, Any], value: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": message["id"], "result": value}


def echo(message: Any) -> Any:
    if isinstance(message, list):
        return [echo(part) for part in reversed(message)]  # a server may answer in any order
    if message["method"] == "fail":
        return {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32000, "message": "no", "data": "0x12"}}
    return result(message, [message["method"], message["params"]])


class Handler:
    """An in-process layer that echoes, and remembers which threads it was called on."""

    def __init__(self, answer: Callable[[Any], Any] = echo) -> None:
        self.answer = answer
        self.threads: set[int] = set()
        self.sizes: list[int] = []

    def rpc(self, body: bytes) -> bytes:
        self.threads.add(threading.get_ident())
        message = json.loads(body)
        self.sizes.append(len(message) if isinstance(message, list) else 1)
        made = self.answer(message)
        return made if isinstance(made, bytes) else json.dumps(made).encode()


async def test_both_carry_calls_and_batches() -> None:
    async with http_server(lambda message: http(json.dumps(echo(message)).encode())) as url:
        for transport in (HttpTransport(url), InProcessTransport(Handler())):
            assert await transport.call("a", [1, "x"]) == ["a", [1, "x"]]
            with pytest.raises(ChainRefused, match="no") as refused:
                await transport.call("fail", [])
            assert (refused.value.code, refused.value.data) == (-32000, b"\x12")
            results = await transport.batch([("a", [1]), ("fail", []), ("b", [])])
            assert results[0] == ["a", [1]]
            assert isinstance(results[1], ChainRefused)
            assert results[2] == ["b", []]
            assert await transport.batch([]) == []
            await transport.close()
            await transport.close()
            with pytest.raises(ChainUnavailable, match="closed"):
                await transport.call("a", [])


async def test_batches_are_sent_in_chunks() -> None:
    handler = Handler()
    transport = InProcessTransport(handler)
    results = await transport.batch([("a", [index]) for index in range(2 * BATCH_MAX + 1)])
    assert [params[0] for _, params in results] == list(range(2 * BATCH_MAX + 1))
    assert handler.sizes == [BATCH_MAX, BATCH_MAX, 1]
    await transport.close()


async def test_batches_are_bounded_in_bytes_too() -> None:
    """100 claims of 100 rows are more than a node takes in one body."""
    bodies: list[int] = []

    class Sized(Handler):
        def rpc(self, body: bytes) -> bytes:
            bodies.append(len(body))
            return super().rpc(body)

    handler = Sized()
    transport = InProcessTransport(handler)
    texts = ["x" * size for size in (400_000, 500_000, 101_000, 1_500_000, 7, 8)]
    results = await transport.batch([("a", [text]) for text in texts])
    assert [params[0] for _, params in results] == texts
    assert handler.sizes == [2, 1, 1, 2], "one that is too large by itself goes alone"
    assert all(size <= BODY_BYTES_MAX + 200 for size in (bodies[0], bodies[1], bodies[3]))
    await transport.close()


async def test_calls_in_process_leave_the_event_loop_free() -> None:
    gate = threading.Event()

    def wait(message: Any) -> Any:
        assert gate.wait(10)
        return echo(message)

    handler = Handler(wait)
    transport = InProcessTransport(handler)
    call = asyncio.create_task(transport.call("slow", []))
    await asyncio.sleep(0.02)
    assert not call.done()
    gate.set()
    assert await call == ["slow", []]
    assert threading.get_ident() not in handler.threads
    await transport.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"null",
        b"[]",
        b'"text"',
        b'{"jsonrpc":"2.0","id":99,"result":1}',
        b'{"jsonrpc":"2.0","result":1}',
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":1,"error":"no"}',
        b'{"jsonrpc":"2.0","id":1,"error":{"message":"no"}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":true}}',
    ],
)
async def test_answers_of_the_wrong_shape_are_faults(answer: bytes) -> None:
    with pytest.raises(ChainMisbehaved):
        await InProcessTransport(Handler(lambda message: answer)).call("a", [])


@pytest.mark.parametrize(
    "answer",
    [
        lambda sent: [result(sent[0], 1)],
        lambda sent: [result(sent[0], 1)] * 2,
        lambda sent: [result(sent[0], 1), 5],
        lambda sent: [result(sent[0], 1), {"id": "2", "result": 1}],
        lambda sent: [result(sent[0], 1), {"id": 77, "result": 1}],
        lambda sent: result(sent[0], 1),
        lambda sent: {"id": None},
        lambda sent: 5,
    ],
)
async def test_batch_answers_of_the_wrong_shape_are_faults(answer: Callable[[Any], Any]) -> None:
    with pytest.raises(ChainMisbehaved):
        await InProcessTransport(Handler(answer)).batch([("a", []), ("b", [])])


async def test_a_batch_may_be_refused_as_a_whole() -> None:
    refusal = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"batch too large"}}'
    with pytest.raises(ChainRefused, match="too large"):
        await InProcessTransport(Handler(lambda message: refusal)).batch([("a", []), ("b", [])])
    with pytest.raises(ChainRefused, match="too large"):
        await InProcessTransport(Handler(lambda message: refusal)).call("a", [])


async def test_errors_with_odd_words_and_data_are_read() -> None:
    async def refused(error: str) -> ChainRefused:
        answer = b'{"jsonrpc":"2.0","id":1,"error":%s}' % error.encode()
        with pytest.raises(ChainRefused) as caught:
            await InProcessTransport(Handler(lambda message: answer)).call("a", [])
        return caught.value

    assert (await refused('{"code":3,"data":{"data":"0xab"}}')).data == b"\xab"
    assert (await refused('{"code":3,"data":"reverted"}')).data is None
    assert (await refused('{"code":3,"message":5}')).message == "no message"
    assert len((await refused('{"code":3,"message":"%s"}' % ("x" * 9_000))).message) == 500


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (http(b"busy", 429), ChainUnavailable, "status 429"),
        (http(b"down", 503), ChainUnavailable, "status 503"),
        (http(b"", 401), ChainRefused, "status 401"),
        (http(b"", 302), ChainRefused, "status 302"),
        (http(b"<html>sign in</html>"), ChainUnavailable, "not JSON"),
        (http(b"<html>bad</html>", 400), ChainRefused, "status 400"),
        (http(b'{"id":null,"error":{"code":-32700,"message":"parse"}}', 400), ChainRefused, "parse"),
        (http(b'{"id":1,"resu')[:-3], ChainUnavailable, "RemoteProtocolError"),
        (b"", ChainUnavailable, "RemoteProtocolError"),
        (b"garbage\r\n\r\n", ChainUnavailable, "RemoteProtocolError"),
        (http(b"9" * 2_000), AnswerTooLarge, "above 1000 bytes"),
    ],
)
async def test_http_failures_are_sorted(answer: bytes, error: type[Exception], words: str) -> None:
    async with http_server(lambda message: answer) as url:
        transport = HttpTransport(url, response_bytes_max=1_000)
        with pytest.raises(error, match=words):
            await transport.call("a", [])
        await transport.close()


async def test_nobody_there_is_unavailable() -> None:
    transport = HttpTransport(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ChainUnavailable, match="ConnectError"):
        await transport.call("a", [])
    await transport.close()


async def test_a_silent_node_times_out() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One byte at a time keeps a read time-out from ever firing."""
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(100):
            writer.write(b" ")
            await asyncio.sleep(0.01)

    for serve, words in ((silent, "ReadTimeout"), (dripping, "no answer within 0.2 s")):
        async with raw_server(serve) as url:
            transport = HttpTransport(url, timeout_seconds=0.1)
            with pytest.raises(ChainUnavailable, match=words):
                await transport.call("a", [])
            await transport.close()


@pytest.mark.parametrize(
    "url", ["", "localhost:8545", "ftp://localhost", "http://localhost:port", "http://", "ws://localhost"]
)
def test_only_http_addresses_are_taken(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        HttpTransport(url)
