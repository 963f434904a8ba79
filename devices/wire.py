"""MQTT packets of an established connection, read and written many at a time (MQTT 3.1.1 and 5.0, sections 2 and 3).

Only what a gateway exchanges once it is subscribed at QoS 1: PUBLISH and PUBACK both ways, PING, and the broker's
DISCONNECT. No I/O here; `devices.fast_loop` has the socket.
"""

from collections.abc import Iterable
from typing import NamedTuple

PUBLISH, PUBACK, PINGRESP, DISCONNECT = 3, 4, 13, 14
PINGREQ = b"\xc0\x00"
# Set in the first byte of a PUBLISH that is sent again.
DUPLICATE = 0x08
# From here on a reason code of MQTT 5 is a refusal.
REFUSED_FROM = 0x80
LENGTH_BYTES_MAX = 4


class Malformed(Exception):
    """The broker sent what is no MQTT; the connection cannot go on."""


# A message as it came: topic, payload, packet id (0: QoS 0), whether it was retained. A plain tuple, as one is made
# for every message: a named one takes three times as long.
Arrival = tuple[bytes, bytes, int, bool]


class Packets(NamedTuple):
    """What one read brought."""

    arrived: list[Arrival]
    acknowledged: list[tuple[int, bool]]  # packet id, and whether the broker took the message
    farewell: int | None  # the reason code of the broker's DISCONNECT


class PacketReader:
    """Cuts a stream of bytes into packets. `modern`: MQTT 5."""

    def __init__(self, *, modern: bool) -> None:
        self._modern = modern
        self._rest = bytearray()  # the beginning of a packet
        self._need = 0  # so many bytes are needed to go on with it

    def feed(self, data: bytes) -> Packets:
        """Return the packets that are complete with these bytes. Raises Malformed."""
        if self._rest:
            # A large packet comes in many pieces: they are put together once.
            self._rest += data
            if len(self._rest) < self._need:
                return Packets([], [], None)
            data = bytes(self._rest)
            self._rest.clear()
        self._need = 0
        arrived: list[Arrival] = []
        acknowledged: list[tuple[int, bool]] = []
        farewell: int | None = None
        position, end = 0, len(data)
        while end - position >= 2:
            first, length, start = data[position], data[position + 1], position + 2
            if length >= 0x80:
                head = _length(data, position + 1, end)
                if head is None:
                    break
                length, start = head
            stop = start + length
            if stop > end:
                self._need = stop - position
                break
            kind = first >> 4
            if kind == PUBLISH:
                arrived.append(self._message(first, data, start, stop))
            elif kind == PUBACK and length >= 2:
                taken = length < 3 or data[start + 2] < REFUSED_FROM
                acknowledged.append((data[start] << 8 | data[start + 1], taken))
            elif kind == DISCONNECT and self._modern:
                farewell = data[start] if length else 0
            elif kind != PINGRESP:
                raise Malformed(f"a packet of type {kind}, which nobody asked for")
            position = stop
        if position < end:
            self._rest += memoryview(data)[position:]
            self._need = max(self._need, len(self._rest) + 1)
        return Packets(arrived, acknowledged, farewell)

    def _message(self, first: int, data: bytes, start: int, stop: int) -> Arrival:
        if stop - start < 2:
            raise Malformed("a message without a topic")
        position = start + 2 + (data[start] << 8 | data[start + 1])
        topic = data[start + 2 : position]
        packet_id = 0
        if first & 0x06:
            if first & 0x04:
                raise Malformed("a message above QoS 1, which nobody subscribed to")
            if position + 2 > stop:
                raise Malformed("a message without a packet id")
            packet_id = data[position] << 8 | data[position + 1]
            position += 2
            if packet_id == 0:
                raise Malformed("a message with packet id 0")
        if self._modern:
            head = _length(data, position, stop)
            if head is None:
                raise Malformed("a message without properties")
            position = head[1] + head[0]
        if position > stop:
            raise Malformed("a message that is longer than its packet")
        return topic, data[position:stop], packet_id, bool(first & 1)


def _length(data: bytes, position: int, end: int) -> tuple[int, int] | None:
    """Read a variable byte integer: its value and where it ends, None when more bytes are needed."""
    value = 0
    for place in range(LENGTH_BYTES_MAX):
        if position + place >= end:
            return None
        byte = data[position + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, position + place + 1
    raise Malformed("a length of more than four bytes")


def length_bytes(value: int) -> bytes:
    """Write a variable byte integer. Raises ValueError above 268,435,455."""
    if not 0 <= value < 1 << 7 * LENGTH_BYTES_MAX:
        raise ValueError(f"{value} bytes do not fit into an MQTT packet")
    written = bytearray()
    while True:
        value, byte = value >> 7, value & 0x7F
        written.append(byte | 0x80 if value else byte)
        if not value:
            return bytes(written)


def publish_packet(topic: bytes, packet_id: int, payload: bytes, *, modern: bool, retain: bool = False) -> bytes:
    """Write a message at QoS 1."""
    properties = b"\x00" if modern else b""
    length = 4 + len(topic) + len(properties) + len(payload)
    return b"".join(
        (
            b"\x33" if retain else b"\x32",
            bytes((length,)) if length < 0x80 else length_bytes(length),
            len(topic).to_bytes(2, "big"),
            topic,
            packet_id.to_bytes(2, "big"),
            properties,
            payload,
        )
    )


def again(packet: bytes) -> bytes:
    """Mark a message as sent before."""
    return bytes((packet[0] | DUPLICATE,)) + packet[1:]


def puback_packets(packet_ids: Iterable[int]) -> bytes:
    """Acknowledge messages, in this order."""
    return b"".join([b"\x40\x02" + packet_id.to_bytes(2, "big") for packet_id in packet_ids])
