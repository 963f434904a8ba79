"""Two ways to a node: HTTP for any EVM chain, and calls into the embedded layer in the same process.

A transport carries JSON-RPC and nothing more: it retries nothing and caches nothing. Both bound what they send
at once and what they take in.
"""

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import httpx

from settlement.errors import AnswerTooLarge, ChainRefused, ChainUnavailable
from settlement.jsonrpc import Request, replies, request_body, request_message

# The answer to 500 views is 200 kB and a block of 10,000 claims has 4 MB of logs.
RESPONSE_BYTES_MAX = 16 * 2**20
# Public nodes take 100 to 1,000 requests in a batch, and the proxies before them bodies of 1 MB and more; a claim of
# 100 rows has 100 kB.
BATCH_MAX = 100
BODY_BYTES_MAX = 1_000_000
# One settler, one watcher and ten lanes wait for receipts at once.
CONNECTIONS_MAX = 16


class Transport(Protocol):
    """Carries JSON-RPC requests to one node. Errors: `settlement.errors`."""

    async def call(self, method: str, params: Sequence[Any]) -> Any:
        """Return the result of one request. Raises ChainRefused with the node's error."""
        ...

    async def batch(self, requests: Sequence[Request]) -> list[Any | ChainRefused]:
        """Return the results in the order asked; a request that the node refused has ChainRefused there.

        Requests are sent in chunks of bounded size, one after the other.
        """
        ...

    async def close(self) -> None:
        """Release what the transport holds; later calls raise ChainUnavailable."""
        ...


class _Exchange(ABC):
    """What both transports share: ids, chunks and the reading of replies."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)

    @abstractmethod
    async def _exchange(self, body: bytes) -> bytes:
        """Carry one body to the node and return its answer."""

    async def call(self, method: str, params: Sequence[Any]) -> Any:
        """Return the result of one request."""
        (result,) = await self._chunk([self._message(method, params)])
        if isinstance(result, ChainRefused):
            raise result
        return result

    async def batch(self, requests: Sequence[Request]) -> list[Any | ChainRefused]:
        """Return the results in the order asked, a ChainRefused for each request that the node refused."""
        results: list[Any | ChainRefused] = []
        chunk: list[tuple[int, bytes]] = []
        for method, params in requests:
            message = self._message(method, params)
            if chunk and (len(chunk) == BATCH_MAX or _size(chunk) + len(message[1]) > BODY_BYTES_MAX):
                results += await self._chunk(chunk)
                chunk = []
            chunk.append(message)
        if chunk:
            results += await self._chunk(chunk)
        return results

    def _message(self, method: str, params: Sequence[Any]) -> tuple[int, bytes]:
        number = next(self._ids)
        return number, request_message(number, method, params)

    async def _chunk(self, messages: Sequence[tuple[int, bytes]]) -> list[Any | ChainRefused]:
        body = request_body([message for _, message in messages])
        return replies(await self._exchange(body), [number for number, _ in messages])


def _size(chunk: Sequence[tuple[int, bytes]]) -> int:
    return sum(len(message) for _, message in chunk)


class HttpTransport(_Exchange):
    """JSON-RPC over HTTP(S) with connection reuse.

    `timeout_seconds` bounds connecting, each read and each write, and twice that the whole exchange. 408, 429, 5xx
    and everything that goes wrong with a connection raise ChainUnavailable; other statuses ChainRefused; an
    answer above the bound AnswerTooLarge. Raises ValueError for an address that is not http or https.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = 15.0,
        response_bytes_max: int = RESPONSE_BYTES_MAX,
    ) -> None:
        super().__init__()
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme not in ("http", "https") or not address.host:
            raise ValueError(f"{url!r} is not an http or https address")
        self._url = url
        self._total_seconds = 2 * timeout_seconds
        self._bytes_max = response_bytes_max
        self._client = httpx.AsyncClient(
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
            headers={"content-type": "application/json"},
            follow_redirects=False,
        )

    async def _exchange(self, body: bytes) -> bytes:
        if self._client.is_closed:
            raise ChainUnavailable("the transport is closed")
        try:
            async with asyncio.timeout(self._total_seconds):
                status, answer = await self._post(body)
        except TimeoutError:
            raise ChainUnavailable(f"no answer within {self._total_seconds:g} s") from None
        except httpx.HTTPError as error:
            raise ChainUnavailable(f"{type(error).__name__}: {error}") from error
        if status in (408, 429) or status >= 500:
            raise ChainUnavailable(f"HTTP status {status}")
        # A JSON-RPC error may come with status 400; other refusals are the web server's.
        if status != 200 and not (status == 400 and answer.lstrip()[:1] in (b"{", b"[")):
            raise ChainRefused(status, f"HTTP status {status}")
        return answer

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        async with self._client.stream("POST", self._url, content=body) as response:
            answer = bytearray()
            async for part in response.aiter_bytes():
                answer += part
                if len(answer) > self._bytes_max:
                    raise AnswerTooLarge(f"an answer above {self._bytes_max} bytes")
            return response.status_code, bytes(answer)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


class RpcHandler(Protocol):
    """An execution layer in this process, such as `parallel_evm.Chain`."""

    def rpc(self, body: bytes) -> bytes:
        """Answer one JSON-RPC request or batch. Called from worker threads."""
        ...


class InProcessTransport(_Exchange):
    """JSON-RPC by function call.

    Calls run on a thread of its own pool: the layer releases the GIL, and the event loop goes on meanwhile.
    """

    def __init__(self, handler: RpcHandler, *, threads: int = 2) -> None:
        super().__init__()
        self._handler = handler
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(threads, thread_name_prefix="chain-rpc")

    async def _exchange(self, body: bytes) -> bytes:
        if self._pool is None:
            raise ChainUnavailable("the transport is closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._handler.rpc, body)

    async def close(self) -> None:
        """Wait for calls under way and end the threads; the layer itself stays."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(pool.shutdown)
