"""A load generator's MQTT 3.1.1: packets are encoded before the clock runs, and receipts are kept unread.

It is no client for anything else: one broker on loopback, QoS 1, no reconnecting.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence

_CONNACK, _PUBLISH, _PUBACK, _SUBACK, _PINGRESP = 2, 3, 4, 9, 13
KEEPALIVE_S = 600  # longer than any measurement: no pings
FILTERS_PER_PACKET = 100


def _packet(first: int, body: bytes) -> bytes:
    length, size = b"", len(body)
    while True:
        size, digit = size >> 7, size & 0x7F
        length += bytes((digit | (0x80 if size else 0),))
        if not size:
            return bytes((first,)) + length + body


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def publish_packet(topic: str, packet_id: int, payload: bytes) -> bytes:
    """Return a whole QoS 1 PUBLISH; packet_id is 1 to 65535."""
    return _packet(0x32, _text(topic) + struct.pack(">H", packet_id) + payload)


class Connection(asyncio.Protocol):
    """One connection. `on_publish(topic, payload)` is called for every message that comes in."""

    def __init__(self, on_publish: Callable[[bytes, bytes], None]) -> None:
        self._on_publish = on_publish
        self._buffer = bytearray()
        self._connected = asyncio.get_running_loop().create_future()
        self._subscribed: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self.lost = False

    # -- what a measurement does --

    @classmethod
    async def open(cls, port: int, client_id: str, on_publish: Callable[[bytes, bytes], None]) -> "Connection":
        """Connect and wait for the broker's word."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: cls(on_publish), "127.0.0.1", port)
        body = _text("MQTT") + bytes((4, 2)) + struct.pack(">H", KEEPALIVE_S) + _text(client_id)
        connection.write(_packet(0x10, body))
        await connection._connected
        return connection

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Subscribe at QoS 1."""
        for start in range(0, len(topics), FILTERS_PER_PACKET):
            body = b"\0\1" + b"".join(_text(topic) + b"\1" for topic in topics[start : start + FILTERS_PER_PACKET])
            self._subscribed = asyncio.get_running_loop().create_future()
            self.write(_packet(0x82, body))
            await self._subscribed

    def write(self, data: bytes) -> None:
        """Send whole packets."""
        assert self._transport is not None, "open() connects"
        self._transport.write(data)

    def close(self) -> None:
        """Say goodbye."""
        if self._transport is not None and not self.lost:
            self.write(_packet(0xE0, b""))
            self._transport.close()

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is up."""
        assert isinstance(transport, asyncio.Transport), "a TCP transport"
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """TCP is down."""
        self.lost = True

    def data_received(self, data: bytes) -> None:
        """Take every whole packet; all acknowledgements leave in one write."""
        buffer = self._buffer
        buffer += data
        view, start = bytes(buffer), 0
        acks: list[bytes] = []
        while (found := whole_packet(view, start)) is not None:
            body, after = found
            self._take(view[start], view, body, after, acks)
            start = after
        del buffer[:start]
        if acks:
            self.write(b"".join(acks))

    def _take(self, first: int, view: bytes, body: int, after: int, acks: list[bytes]) -> None:
        kind = first >> 4
        if kind == _PUBLISH:
            length = view[body] << 8 | view[body + 1]
            topic = view[body + 2 : body + 2 + length]
            body += 2 + length
            if first & 0x06:
                acks.append(b"\x40\x02" + view[body : body + 2])
                body += 2
            self._on_publish(topic, view[body:after])
        elif kind == _CONNACK and not self._connected.done():
            self._connected.set_result(None)
        elif kind == _SUBACK and self._subscribed is not None and not self._subscribed.done():
            self._subscribed.set_result(None)


def whole_packet(view: bytes, start: int) -> tuple[int, int] | None:
    """Return (start of the body, start of the next packet) if a whole packet begins at `start`."""
    length = shift = 0
    at = start + 1
    while at < len(view):
        digit = view[at]
        at += 1
        length |= (digit & 0x7F) << shift
        if digit < 0x80:
            return (at, at + length) if at + length <= len(view) else None
        shift += 7
    return None
