"""MQTT packets read and written in bulk: any cut, any nonsense, and paho as the other side."""

import itertools
import struct

import paho.mqtt.client as mqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from devices.wire import Malformed, PacketReader, Packets, again, length_bytes, puback_packets, publish_packet

TOPICS = st.text(alphabet="abc/09é", min_size=1, max_size=30).map(str.encode)
IDS = st.integers(1, 65_535)
PAYLOADS = st.one_of(st.binary(max_size=300), st.integers(16_000, 40_000).map(bytes))
MODERN = pytest.mark.parametrize("modern", [False, True], ids=["3.1.1", "5"])
PINGRESP = b"\xd0\x00"


def message(topic: bytes, packet_id: int, payload: bytes, *, modern: bool, retain: bool = False) -> bytes:
    """A message as a broker writes it, QoS 0 for packet id 0, with properties where there are some."""
    identifier = struct.pack(">H", packet_id) if packet_id else b""
    properties = b"\x05\x02\x00\x00\x00\x3c" if modern else b""
    body = struct.pack(">H", len(topic)) + topic + identifier + properties + payload
    return bytes([0x30 | (2 if packet_id else 0) | retain]) + length_bytes(len(body)) + body


def fed(reader: PacketReader, pieces: list[bytes]) -> Packets:
    """What all the pieces bring together."""
    found = [reader.feed(piece) for piece in pieces]
    return Packets(
        [each for packets in found for each in packets.arrived],
        [each for packets in found for each in packets.acknowledged],
        next((packets.farewell for packets in found if packets.farewell is not None), None),
    )


@MODERN
@given(
    messages=st.lists(st.tuples(TOPICS, st.integers(0, 65_535), PAYLOADS, st.booleans()), max_size=8),
    acknowledged=st.lists(IDS, max_size=8),
    cuts=st.lists(st.integers(0, 100_000), max_size=12),
)
def test_packets_come_out_as_they_went_in_wherever_they_are_cut(
    modern: bool, messages: list[tuple[bytes, int, bytes, bool]], acknowledged: list[int], cuts: list[int]
) -> None:
    stream = b"".join(message(topic, name, body, modern=modern, retain=kept) for topic, name, body, kept in messages)
    stream += puback_packets(acknowledged) + PINGRESP
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    pieces = [stream[start:stop] for start, stop in itertools.pairwise(places)]
    found = fed(PacketReader(modern=modern), pieces)
    assert found.arrived == [(topic, body, name, kept) for topic, name, body, kept in messages]
    assert found.acknowledged == [(name, True) for name in acknowledged]


@MODERN
def test_byte_by_byte(modern: bool) -> None:
    stream = message(b"a/b", 7, b"x" * 200, modern=modern) + message(b"c", 0, b"", modern=modern)
    found = fed(PacketReader(modern=modern), [stream[place : place + 1] for place in range(len(stream))])
    assert found.arrived == [(b"a/b", b"x" * 200, 7, False), (b"c", b"", 0, False)]


@MODERN
@given(topic=TOPICS, packet_id=IDS, payload=PAYLOADS, retain=st.booleans())
def test_what_we_write_we_can_read(modern: bool, topic: bytes, packet_id: int, payload: bytes, retain: bool) -> None:
    packet = publish_packet(topic, packet_id, payload, modern=modern, retain=retain)
    for written in (packet, again(packet)):
        found = PacketReader(modern=modern).feed(written)
        assert found.arrived == [(topic, payload, packet_id, retain)]
    assert again(packet)[0] & 0x08


@given(topic=TOPICS, packet_id=IDS, payload=st.binary(max_size=300), retain=st.booleans())
def test_what_paho_writes_is_what_we_write(topic: bytes, packet_id: int, payload: bytes, retain: bool) -> None:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
    client._sock = object()  # type: ignore[assignment]  # a connection that nobody writes to
    client.on_socket_register_write = lambda *_: None
    client._send_publish(packet_id, topic, payload, 1, retain)
    written = bytes(client._out_packet[-1]["packet"])
    client._sock = None
    assert written == publish_packet(topic, packet_id, payload, modern=False, retain=retain)


def test_reasons_of_mqtt_5() -> None:
    reader = PacketReader(modern=True)
    taken, nobody, refused = b"\x40\x03\x00\x01\x00", b"\x40\x03\x00\x02\x10", b"\x40\x04\x00\x03\x97\x00"
    assert reader.feed(taken + nobody + refused).acknowledged == [(1, True), (2, True), (3, False)]
    assert reader.feed(b"\xe0\x01\x8b").farewell == 0x8B
    assert PacketReader(modern=True).feed(b"\xe0\x00").farewell == 0


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x30\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x34\x05\x00\x01a\x00\x01",  # QoS 2
        b"\x32\x05\x00\x01a\x00\x00",  # packet id 0
        b"\x32\x04\x00\x01a\x00",  # half a packet id
        b"\x32\x03\x00\x09a",  # a topic longer than the packet
        b"\x30\x01\x00",  # no topic
        b"\x20\x02\x00\x00",  # a second CONNACK
        b"\x90\x03\x00\x01\x01",  # a SUBACK that nobody waits for
        b"\xe0\x00",  # DISCONNECT is the client's in 3.1.1
        b"\x40\x01\x00",  # half an acknowledgement
        b"\x00\x00",
        b"\xf0\x00",
    ],
)
def test_nonsense_is_refused(nonsense: bytes) -> None:
    with pytest.raises(Malformed):
        PacketReader(modern=False).feed(nonsense)


def test_properties_that_do_not_end_are_refused() -> None:
    for nonsense in (b"\x32\x06\x00\x01a\x00\x01\x80", b"\x32\x06\x00\x01a\x00\x01\x07", b"\x32\x05\x00\x01a\x00\x01"):
        with pytest.raises(Malformed):
            PacketReader(modern=True).feed(nonsense)


@MODERN
@given(data=st.binary(max_size=400), cut=st.integers(0, 400))
def test_any_bytes_are_read_or_refused(modern: bool, data: bytes, cut: int) -> None:
    """The same, however they are cut."""

    def outcome(pieces: list[bytes]) -> Packets | None:
        try:
            return fed(PacketReader(modern=modern), pieces)
        except Malformed:
            return None

    assert outcome([data]) == outcome([data[:cut], data[cut:]])


def test_a_large_packet_is_put_together_once() -> None:
    payload = bytes(20_000_000)
    stream = memoryview(message(b"a", 1, payload, modern=False))
    reader = PacketReader(modern=False)
    found = fed(reader, [bytes(stream[start : start + 65_536]) for start in range(0, len(stream), 65_536)])
    assert found.arrived == [(b"a", payload, 1, False)]


def test_lengths_are_bounded() -> None:
    assert [length_bytes(value) for value in (0, 127, 128, 268_435_455)] == [
        b"\x00", b"\x7f", b"\x80\x01", b"\xff\xff\xff\x7f"
    ]  # fmt: skip
    for value in (-1, 268_435_456):
        with pytest.raises(ValueError, match="MQTT packet"):
            length_bytes(value)
