"""A sink for the load generator, where broker and gateway would be: python -m benchmarks.sink_child

It takes MQTT connections, reads no more of a packet than its kind and length, and answers each message at once with a
PUBACK and a fixed receipt. What a generator reaches against it is what a generator can do. It says {"port": …} and
ends when its standard input does.
"""

import asyncio
import json
import sys

from benchmarks.echo_child import ANSWER
from benchmarks.mqtt import publish_packet, whole_packet
from tests.support.mosquitto import free_port

_CONNECT, _PUBLISH, _SUBSCRIBE = 1, 3, 8
_CONNACK = b"\x20\x02\0\0"
_RECEIPT = publish_packet("mp/1/sink/bench/receipt", 1, ANSWER)


class Sink(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is up."""
        assert isinstance(transport, asyncio.Transport), "a TCP transport"
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every whole packet; all answers leave in one write."""
        self._buffer += data
        view, start = bytes(self._buffer), 0
        answers: list[bytes] = []
        while (found := whole_packet(view, start)) is not None:
            kind = view[start] >> 4
            body, start = found
            if kind == _PUBLISH:
                topic = view[body] << 8 | view[body + 1]
                answers += (b"\x40\x02" + view[body + 2 + topic : body + 4 + topic], _RECEIPT)
            elif kind == _CONNECT:
                answers.append(_CONNACK)
            elif kind == _SUBSCRIBE:
                answers.append(b"\x90\x03" + view[body : body + 2] + b"\1")
        del self._buffer[:start]
        if answers and self._transport is not None:
            self._transport.write(b"".join(answers))


async def run() -> None:
    """Serve until the input ends."""
    loop = asyncio.get_running_loop()
    port = free_port()
    server = await loop.create_server(Sink, "127.0.0.1", port)
    print(json.dumps({"port": port}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(run())
