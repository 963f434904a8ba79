"""The network thread of the MQTT client, on paho-mqtt's public API.

The thread runs paho's loop itself rather than `loop_start`, for three reasons: reconnects need jitter, a stalled
consumer must stop the reading of the socket without stopping keep-alive and acknowledgements, and frames are
handed over in batches. paho is only ever called from this thread.

Back-pressure. Above `queue_max` waiting frames the socket is not read. Two things still have to come in then:
the broker's answer to our ping (one packet is read every `_TRICKLE_S`) and its acknowledgements of receipts that
a publisher waits for (reading goes on until there is room). What this adds to the queue is bounded by MQTT
itself: 65,535 unacknowledged deliveries at QoS 1; QoS 0 is dropped above `queue_max`.
"""

import asyncio
import random
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from devices.link import Frame, LinkCounters, LinkSettings, LinkUnavailable, Token
from devices.paho_client import connect, make_client
from devices.topics import Topics

BIRTH = b'{"state":"online"}'
WILL = b'{"state":"lost"}'
GOODBYE = b'{"state":"offline"}'

_TICK_S = 1.0  # how often paho's keep-alive is looked after
_TRICKLE_S = 0.2
_PACKETS_PER_TURN = 256  # read before acknowledgements and receipts get their turn
_STEADY_S = 10.0  # a connection that lasted this long ends a series of failures
_GOODBYE_S = 2.0  # for what is waiting, and the last words, to be acknowledged


class Listener(Protocol):
    """Who is told, on the event loop, of what the thread sees."""

    def link_started(self, error: LinkUnavailable | None) -> None:
        """The first connection is up, or cannot be."""

    def frames_arrived(self, frames: Sequence[Frame]) -> None:
        """A batch of frames came in."""

    def room_made(self) -> None:
        """There is room for receipts again, and a publisher waits."""

    def link_ended(self) -> None:
        """The thread is gone."""


class Network:
    """paho, its thread and the queues between that thread and the event loop."""

    def __init__(self, settings: LinkSettings, counters: LinkCounters, listener: Listener) -> None:
        self._settings = settings
        self._counters = counters
        self._listener = listener
        self._topics = Topics(settings.gateway)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._jitter = random.SystemRandom()
        self._broker = f"{settings.host}:{settings.port}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._stopping = threading.Event()
        self.connected = False
        self.publisher_waits = False
        # Each of these counters has one writer, so their differences need no lock.
        self._frames_in = 0  # thread
        self._bytes_in = 0
        self._frames_out = 0  # event loop
        self._bytes_out = 0
        self._receipts_in = 0  # event loop
        self._receipts_out = 0  # thread
        self._outgoing: deque[tuple[str, bytes]] = deque()
        self._acknowledgements: deque[Sequence[Token]] = deque()
        self._offer: bytes | None = None
        self._offer_due = False
        # The thread's own
        self._connection = 0
        self._batch: list[Frame] = []
        self._activity = 0
        self._in_flight = 0
        self._window = settings.outgoing_window
        self._own_ids: set[int] = set()  # packet ids of the offer and of the gateway's state
        self._failure: str | None = None
        self._reported = False

    # The event loop's side

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread; `link_started` follows on the loop."""
        self._loop = loop
        self._thread.start()

    def request_stop(self) -> None:
        """Ask the thread to end; `join` waits for it."""
        self._stopping.set()
        self.wake()

    def join(self) -> None:
        """Wait until the thread has ended, and free its sockets."""
        if self._loop is not None:
            self._thread.join()
        self._wake_read.close()
        self._wake_write.close()

    def wake(self) -> None:
        """Interrupt the thread's wait. A full or closed pipe means that it is awake or gone already."""
        try:
            self._wake_write.send(b"\0")
        except OSError:
            return

    def taken(self, frames: Sequence[Frame]) -> None:
        """The consumer took frames off the queue."""
        was_full = self._is_full
        self._frames_out += len(frames)
        self._bytes_out += sum(len(frame.payload) for frame in frames)
        if was_full and not self._is_full:
            self.wake()

    def acknowledge(self, tokens: Sequence[Token]) -> None:
        """Queue acknowledgements; bounded by the frames there are."""
        self._acknowledgements.append(tokens)
        self.wake()

    @property
    def room(self) -> int:
        """How many more receipts may be queued."""
        return self._settings.outgoing_max - (self._receipts_in - self._receipts_out)

    def enqueue(self, device: str, payload: bytes) -> None:
        """Queue a receipt; the caller has checked `room` and calls `wake` after its last one."""
        self._receipts_in += 1
        self._outgoing.append((self._topics.receipt(device), payload))

    def set_offer(self, payload: bytes) -> None:
        """Replace the retained offer; only the newest is ever sent."""
        self._offer = payload
        self._offer_due = True
        self.wake()

    @property
    def _is_full(self) -> bool:
        return (
            self._frames_in - self._frames_out >= self._settings.queue_max
            or self._bytes_in - self._bytes_out >= self._settings.queue_bytes_max
        )

    # The thread

    def _run(self) -> None:
        try:
            self._run_connections(self._make_client())
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            self._report(f"the TLS files for the MQTT broker cannot be used: {error}")
        finally:
            self._tell(self._listener.link_ended)

    def _run_connections(self, client: mqtt.Client) -> None:
        failures = 0
        while True:
            started = time.monotonic()
            if self._connect(client):
                self._serve(client)
            self.connected = False
            self._report_failure()
            if self._stopping.is_set():
                return
            failures = 0 if time.monotonic() - started > _STEADY_S else failures + 1
            self._back_off(failures)

    def _report_failure(self) -> None:
        if self._failure is not None:
            self._counters.connect_failures += 1
            self._report(self._failure)
            self._failure = None

    def _report(self, failure: str | None) -> None:
        """Tell the starter once how the first connection went; a failure then ends the thread."""
        if self._reported:
            return
        self._reported = True
        if failure is not None:
            self._stopping.set()
        self._tell(self._listener.link_started, None if failure is None else LinkUnavailable(failure))

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None  # set before the thread starts
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # the loop was closed without `stop`: nobody listens any more
            self._stopping.set()

    def _back_off(self, failures: int) -> None:
        """Wait with full jitter, so that many gateways do not all come back in one instant."""
        settings = self._settings
        longest = min(settings.backoff_cap_s, settings.backoff_base_s * 2 ** min(failures, 16))
        deadline = time.monotonic() + self._jitter.uniform(0, longest)
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            while not self._stopping.is_set() and (left := deadline - time.monotonic()) > 0:
                if selector.select(left):
                    self._clear_wake()

    def _make_client(self) -> mqtt.Client:
        client = make_client(self._settings, self._topics, WILL)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _connect(self, client: mqtt.Client) -> bool:
        self._connection += 1
        self._window = self._settings.outgoing_window
        try:
            connect(client, self._settings)
        except (OSError, ValueError) as error:
            self._failure = (
                f"cannot reach the MQTT broker at {self._broker}: {error}; is it running, and are host and port right?"
            )
            return False
        return True

    def _serve(self, client: mqtt.Client) -> None:
        """Run one connection until it ends."""
        sock: Any = client.socket()
        deadline = time.monotonic() + self._settings.connect_timeout_s  # for the broker's answer, later goodbye
        trickled = 0.0
        saying_goodbye = False
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            watched = 0
            while _is_open(client, sock):
                paused = self._is_full and not self.publisher_waits
                watched = _watch(selector, sock, watched, read=not paused, write=client.want_write())
                # TLS may hold bytes that the selector does not see.
                held = not paused and hasattr(sock, "pending") and sock.pending() > 0
                selector.select(0 if held else _TRICKLE_S if paused else _TICK_S)
                self._clear_wake()
                self._send_acknowledgements(client)
                self._send(client)
                now = time.monotonic()
                if not paused:
                    self._read(client)
                elif now - trickled >= _TRICKLE_S:
                    trickled = now
                    client.loop_read()
                if client.want_write():
                    client.loop_write()
                client.loop_misc()
                self._hand_over()
                if self._stopping.is_set() and not saying_goodbye:
                    saying_goodbye = True
                    deadline = now + _GOODBYE_S
                    if self.connected:
                        self._publish_own(client, self._topics.gateway_state, GOODBYE)
                elif saying_goodbye and now > deadline + _GOODBYE_S:
                    sock.close()  # not even DISCONNECT could be written
                    return
                elif saying_goodbye and (now > deadline or not self.connected or self._is_quiet):
                    client.disconnect()
                elif not self.connected and now > deadline:
                    self._fail(client, "does not answer")

    def _fail(self, client: mqtt.Client, what: str) -> None:
        if self._failure is None:
            self._failure = f"the MQTT broker at {self._broker} {what}"
        client.disconnect()

    @property
    def _is_quiet(self) -> bool:
        return not (self._outgoing or self._in_flight or self._own_ids)

    def _clear_wake(self) -> None:
        try:
            self._wake_read.recv(4096)
        except BlockingIOError:
            return

    def _read(self, client: mqtt.Client) -> None:
        for _ in range(_PACKETS_PER_TURN):
            before = self._activity
            client.loop_read()
            if self._activity == before or (self._is_full and not self.publisher_waits):
                return

    def _send_acknowledgements(self, client: mqtt.Client) -> None:
        while self._acknowledgements:
            for token in self._acknowledgements.popleft():
                if token.connection != self._connection:
                    self._counters.stale_acknowledgements += 1
                elif token.packet_id:
                    client.ack(token.packet_id, 1)

    def _send(self, client: mqtt.Client) -> None:
        if not self.connected:
            return
        if self._offer_due and self._offer is not None:
            self._offer_due = False
            self._publish_own(client, self._topics.offer, self._offer)
        while self._outgoing and self._in_flight < self._window:
            topic, payload = self._outgoing.popleft()
            self._in_flight += 1
            client.publish(topic, payload, qos=1)

    def _publish_own(self, client: mqtt.Client, topic: str, payload: bytes) -> None:
        self._own_ids.add(client.publish(topic, payload, qos=1, retain=True).mid)

    def _hand_over(self) -> None:
        if self._batch:
            self._tell(self._listener.frames_arrived, self._batch)
            self._batch = []
        if self.publisher_waits and self.room > 0:
            self.publisher_waits = False
            self._tell(self._listener.room_made)

    # paho's callbacks, in the thread

    def _on_connect(
        self, client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._activity += 1
        if reason.is_failure:
            self._fail(client, f"refuses us: {reason}; are user name and password right?")
            return
        limit = getattr(properties, "ReceiveMaximum", None)
        if limit is not None:
            self._window = min(self._window, limit)
        client.subscribe([(topic, 1) for topic in self._topics.subscriptions])

    def _on_subscribe(
        self, client: mqtt.Client, _data: Any, _mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        self._activity += 1
        if any(reason.is_failure for reason in reasons):
            needed = ", ".join(self._topics.subscriptions)
            self._fail(client, f"refuses our subscriptions; the gateway must be allowed to read {needed}")
            return
        self.connected = True
        self._counters.connects += 1
        self._offer_due = self._offer is not None
        self._publish_own(client, self._topics.gateway_state, BIRTH)
        self._report(None)

    def _on_disconnect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        self._activity += 1
        if not self.connected and self._failure is None:
            self._failure = (
                f"the MQTT broker at {self._settings.host}:{self._settings.port} closed the connection: {reason}"
            )
        self.connected = False

    def _on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self._activity += 1
        try:
            parsed = self._topics.parse(message.topic)
        except UnicodeDecodeError:  # brokers should not let such topics pass
            parsed = None
        if parsed is None:
            self._counters.wrong_topic += 1
            if message.qos:
                client.ack(message.mid, message.qos)
            return
        if not message.qos and self._is_full:
            self._counters.dropped += 1
            return
        self._counters.frames += 1
        self._frames_in += 1
        self._bytes_in += len(message.payload)
        token = Token(self._connection, message.mid if message.qos else 0)
        self._batch.append(Frame(*parsed, bytes(message.payload), message.retain, token, time.monotonic()))

    def _on_publish(self, _client: mqtt.Client, _data: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
        self._activity += 1
        if mid in self._own_ids:
            self._own_ids.discard(mid)
            return
        self._in_flight -= 1
        self._receipts_out += 1
        self._counters.receipts_sent += 1
        if reason.is_failure:
            self._counters.receipts_refused += 1


def _is_open(client: mqtt.Client, sock: object) -> bool:
    """Tell whether the client still uses this socket."""
    return sock is not None and client.socket() is sock


def _watch(selector: selectors.BaseSelector, sock: Any, watched: int, *, read: bool, write: bool) -> int:
    """Change what the selector watches the socket for, if it differs from `watched`. Returns what it is now."""
    wanted = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
    if wanted != watched:
        if not watched:
            selector.register(sock, wanted)
        elif not wanted:
            selector.unregister(sock)
        else:
            selector.modify(sock, wanted)
    return wanted
