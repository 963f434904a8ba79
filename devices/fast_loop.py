"""Reading and writing an established connection in bulk, in the place of paho's loop.

paho connects, encrypts, logs in and subscribes; then this takes over its socket (`Client.socket()`), as long as
the connection lasts. paho reads a packet's first byte, its length and the rest each by a call of its own and keeps
every message in locked tables: 60 µs of processor time for a message and its receipt, the event loop's side included.
Here it is 15 µs, as one read brings hundreds of packets and one write takes hundreds (docs/performance.md).
"""

import socket
import ssl
import time
from collections.abc import Iterator

from devices.exchange import Exchange
from devices.wire import PINGREQ, Malformed, PacketReader, Packets, again, puback_packets, publish_packet

READ_BYTES = 256 * 1024
# A packet: read now and then although the queue is full, which shows that the broker is there.
TRICKLE_BYTES = 32
# No packet of a frame is smaller than its header and the shortest topic.
FRAME_BYTES_MIN = 24
_NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class InFlight:
    """Messages at QoS 1 that the broker has not acknowledged: they outlive a connection and are sent again."""

    def __init__(self) -> None:
        self._packets: dict[int, bytes] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._packets)

    def add(self, topic: bytes, payload: bytes, *, modern: bool, retain: bool = False) -> tuple[int, bytes]:
        """Give a message a packet id that is free; returns the id and the packet."""
        while True:
            self._last = self._last % 65_535 + 1
            if self._last not in self._packets:
                break
        packet = publish_packet(topic, self._last, payload, modern=modern, retain=retain)
        self._packets[self._last] = packet
        return self._last, packet

    def take(self, packet_id: int) -> bool:
        """Forget what was acknowledged; False for an id that is not under way."""
        return self._packets.pop(packet_id, None) is not None

    def again(self) -> Iterator[bytes]:
        """Yield everything once more, in the order in which it was sent first."""
        return map(again, self._packets.values())


class FastLoop:
    """One connection, between its socket and the exchange."""

    def __init__(
        self, sock: socket.socket, exchange: Exchange, in_flight: InFlight, *, modern: bool, keepalive_s: float
    ) -> None:
        self._sock = sock
        self._exchange = exchange
        self._in_flight = in_flight
        self._modern = modern
        self._keepalive_s = keepalive_s
        self._reader = PacketReader(modern=modern)
        self._out = bytearray(b"".join(in_flight.again()))
        self._sent_at = self._read_at = time.monotonic()

    @property
    def want_write(self) -> bool:
        """True while something waits for the socket to take it."""
        return bool(self._out)

    def turn(self, *, read: bool, trickle: bool) -> None:
        """Send what is due, read what is there (all of it, or a trickle), and keep the connection alive.

        Raises OSError when the connection is lost.
        """
        self._queue()
        if read:
            self._read(_room(self._exchange))
        elif trickle:
            self._read(TRICKLE_BYTES)
        self._write()
        self._tick()

    def publish_own(self, topic: str, payload: bytes) -> None:
        """Queue a retained message of the gateway itself."""
        packet_id, packet = self._in_flight.add(topic.encode(), payload, modern=self._modern, retain=True)
        self._exchange.own(packet_id)
        self._out += packet

    def _queue(self) -> None:
        exchange = self._exchange
        if ids := exchange.acknowledgements():
            self._out += puback_packets(ids)
        if (offer := exchange.next_offer()) is not None:
            self.publish_own(exchange.topics.offer, offer)
        while (receipt := exchange.next_receipt()) is not None:
            topic, payload = receipt
            _, packet = self._in_flight.add(topic.encode(), payload, modern=self._modern)
            self._out += packet

    def _read(self, size: int) -> None:
        try:
            data = self._sock.recv(size)
        except _NOT_NOW:
            return
        if not data:
            raise ConnectionResetError("the broker has closed the connection")
        self._read_at = time.monotonic()
        try:
            packets = self._reader.feed(data)
        except Malformed as error:
            raise ConnectionAbortedError(f"the broker does not speak MQTT: {error}") from error
        if packets.farewell is not None:
            raise ConnectionResetError(f"the broker has closed the connection, reason {packets.farewell:#x}")
        self._take(packets)

    def _take(self, packets: Packets) -> None:
        exchange = self._exchange
        known = []
        for topic, payload, packet_id, retained in packets.arrived:
            parsed = exchange.parse(topic)
            if parsed is not None:
                known.append((parsed, payload, packet_id, retained))
                continue
            exchange.counters.wrong_topic += 1
            if packet_id:
                self._out += puback_packets((packet_id,))
        if known:
            exchange.arrived(known)
        for packet_id, taken in packets.acknowledged:
            if self._in_flight.take(packet_id):
                exchange.acknowledged(packet_id, taken=taken)

    def _write(self) -> None:
        while self._out:
            try:
                # Copied: what is sent must not move while the socket reads it.
                sent = self._sock.send(bytes(self._out[:READ_BYTES]))
            except _NOT_NOW:
                return
            del self._out[:sent]
            self._sent_at = time.monotonic()

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._read_at >= 2 * self._keepalive_s:
            raise TimeoutError("the broker does not answer")
        if now - min(self._sent_at, self._read_at) >= self._keepalive_s:
            self._out += PINGREQ
            self._sent_at = now
            self._write()


def _room(exchange: Exchange) -> int:
    """Return how many bytes to read, so that the queue of frames does not grow far beyond its bound."""
    frames, room = exchange.room_for_frames
    return max(TRICKLE_BYTES, min(READ_BYTES, frames * FRAME_BYTES_MIN, room))
