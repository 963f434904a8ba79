"""The bulk loop on a socket whose other end does what brokers rarely do."""

import socket
import time
from collections.abc import Iterator

import pytest

from devices.exchange import Exchange
from devices.fast_loop import FastLoop, InFlight
from devices.link import LinkCounters, LinkSettings
from devices.wire import PINGREQ, again, publish_packet
from tests.devices.test_wire import message

KEEPALIVE_S = 100.0


class Line:
    """A fast loop and the broker's end of its socket."""

    def __init__(self) -> None:
        self.exchange = Exchange(LinkSettings("gw1", queue_max=10), LinkCounters())
        self.in_flight = InFlight()
        self.connect()

    def connect(self) -> None:
        """Begin a connection, as after a loss."""
        ours, self.broker = socket.socketpair()
        ours.setblocking(False)
        self.broker.settimeout(5)
        self.exchange.connection += 1
        self.loop = FastLoop(ours, self.exchange, self.in_flight, modern=False, keepalive_s=KEEPALIVE_S)
        self.ours = ours

    def turn(self, *, read: bool = True, trickle: bool = False) -> None:
        self.loop.turn(read=read, trickle=trickle)

    def drop(self) -> None:
        self.broker.close()
        self.ours.close()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.drop()


def test_frames_in_and_acknowledgements_out(line: Line) -> None:
    line.broker.sendall(message(b"mp/1/gw1/m1/usage", 9, b"one", modern=False))
    line.broker.sendall(message(b"mp/1/gw2/m1/usage", 10, b"another gateway's", modern=False))
    line.turn()
    (frame,) = line.exchange.batch
    assert (frame.device, frame.leaf, frame.payload, frame.retained) == ("m1", "usage", b"one", False)
    assert line.broker.recv(100) == b"\x40\x02\x00\x0a", "what is nobody's is acknowledged and forgotten"
    line.exchange.acknowledge([frame.token])
    line.turn()
    assert line.broker.recv(100) == b"\x40\x02\x00\x09"
    assert line.exchange.counters.wrong_topic == 1


def test_receipts_are_sent_again_until_they_are_acknowledged(line: Line) -> None:
    for number in range(3):
        line.exchange.enqueue("m1", b"receipt %d" % number)
    line.turn()
    packets = [publish_packet(b"mp/1/gw1/m1/receipt", n + 1, b"receipt %d" % n, modern=False) for n in range(3)]
    assert line.broker.recv(1000) == b"".join(packets)
    line.broker.sendall(b"\x40\x02\x00\x02")
    line.turn()
    assert line.exchange.counters.receipts_sent == 1
    line.drop()
    line.connect()
    line.turn()
    assert line.broker.recv(1000) == again(packets[0]) + again(packets[2])
    assert not line.exchange.is_quiet
    line.broker.sendall(b"\x40\x02\x00\x01\x40\x02\x00\x03\x40\x02\x00\x03\x40\x02\x01\x03")
    line.turn()
    assert line.exchange.is_quiet
    assert line.exchange.counters.receipts_sent == 3, "an acknowledgement twice, or of nothing, counts nothing"


def test_acknowledgements_of_an_earlier_connection_are_passed_over(line: Line) -> None:
    line.broker.sendall(message(b"mp/1/gw1/m1/usage", 9, b"one", modern=False))
    line.turn()
    (frame,) = line.exchange.batch
    line.drop()
    line.connect()
    line.exchange.acknowledge([frame.token])
    line.turn()
    line.broker.setblocking(False)
    with pytest.raises(BlockingIOError):
        line.broker.recv(100)
    assert line.exchange.counters.stale_acknowledgements == 1


def test_a_socket_that_takes_little_gets_everything_in_order(line: Line) -> None:
    line.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    payloads = [bytes([number]) * 3_000 for number in range(200)]
    for payload in payloads:
        line.exchange.enqueue("m1", payload)
    line.turn()
    assert line.loop.want_write
    expected = b"".join(
        publish_packet(b"mp/1/gw1/m1/receipt", n + 1, payload, modern=False) for n, payload in enumerate(payloads)
    )
    got = bytearray()
    while len(got) < len(expected):
        got += line.broker.recv(65_536)
        line.turn()
    assert bytes(got) == expected
    assert not line.loop.want_write


def test_a_full_queue_drops_only_what_promises_nothing(line: Line) -> None:
    for number in range(1, 11):
        line.broker.sendall(message(b"mp/1/gw1/m1/usage", number, b"x", modern=False))
    line.turn()
    assert line.exchange.is_full
    line.broker.sendall(message(b"mp/1/gw1/m1/state", 0, b"", modern=False))
    line.turn(read=False, trickle=True)
    assert line.exchange.counters.dropped == 1
    line.broker.sendall(message(b"mp/1/gw1/m1/usage", 11, b"", modern=False))
    line.turn(read=False, trickle=True)
    assert len(line.exchange.batch) == 11
    line.broker.sendall(message(b"mp/1/gw1/m1/usage", 12, b"", modern=False))
    line.turn(read=False)
    assert len(line.exchange.batch) == 11, "nothing is read then"


def test_an_end_and_nonsense_are_losses(line: Line) -> None:
    line.broker.sendall(b"\x20\x02\x00\x00")
    with pytest.raises(OSError, match="does not speak MQTT"):
        line.turn()
    line.drop()
    line.connect()
    line.broker.close()
    with pytest.raises(OSError, match="closed"):
        line.turn()


def test_a_silent_broker_is_asked_and_then_given_up(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    now = began
    monkeypatch.setattr("devices.fast_loop.time.monotonic", lambda: now)
    now = began + KEEPALIVE_S + 1
    line.turn()
    assert line.broker.recv(100) == PINGREQ
    line.broker.sendall(b"\xd0\x00")
    line.turn()
    now += KEEPALIVE_S + 1
    line.turn()
    assert line.broker.recv(100) == PINGREQ
    now += KEEPALIVE_S
    with pytest.raises(OSError, match="does not answer"):
        line.turn()
