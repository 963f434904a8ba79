"""The network thread of the MQTT client, on paho-mqtt's public API.

The thread runs paho's loop itself rather than `loop_start`, for three reasons: reconnects need jitter, a stalled
consumer must stop the reading of the socket without stopping keep-alive and acknowledgements, and frames are
handed over in batches. paho is only ever called from this thread.

With `fast_loop`, paho only opens a connection: as soon as the broker has acknowledged the gateway's birth, the socket
is read and written by `devices.fast_loop`, until paho closes it. `loop_read` takes in one packet at a time while
nothing else is under way, so right after that acknowledgement nothing of a next packet has been read.

Back-pressure. Above `queue_max` waiting frames the socket is not read. Two things still have to come in then:
the broker's answer to our ping (one packet is read every `_TRICKLE_S`) and its acknowledgements of receipts that
a publisher waits for (reading goes on until there is room). What this adds to the queue is bounded by MQTT
itself: 65,535 unacknowledged deliveries at QoS 1; QoS 0 is dropped above `queue_max`.
"""

import asyncio
import random
import selectors
import threading
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from devices.exchange import Exchange
from devices.fast_loop import FastLoop, InFlight
from devices.link import LinkSettings, LinkUnavailable, Listener, MqttVersion
from devices.paho_client import connect, make_client
from devices.wakeup import Wakeup

BIRTH = b'{"state":"online"}'
WILL = b'{"state":"lost"}'
GOODBYE = b'{"state":"offline"}'

_TICK_S = 1.0  # how often paho's keep-alive is looked after
_TRICKLE_S = 0.2
# Turns come no closer than this: each would read a message or two under load. A tenth less processor time at 1,000 to
# 5,000 messages a second.
_TURN_MIN_S = 0.001
_PACKETS_PER_TURN = 256  # read before acknowledgements and receipts get their turn
_STEADY_S = 10.0  # a connection that lasted this long ends a series of failures
_GOODBYE_S = 2.0  # for what is waiting, and the last words, to be acknowledged


class Network:
    """paho and its thread."""

    def __init__(self, settings: LinkSettings, exchange: Exchange, listener: Listener) -> None:
        self._settings = settings
        self._exchange = exchange
        self._listener = listener
        self._topics = exchange.topics
        self._counters = exchange.counters
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._jitter = random.SystemRandom()
        self._broker = f"{settings.host}:{settings.port}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wakeup = Wakeup()
        self._stopping = threading.Event()
        self.connected = False
        # The thread's own
        self._activity = 0
        self._unacknowledged = InFlight()  # of the fast loop
        self._fast: FastLoop | None = None  # None: paho's loop
        self._born = False  # the broker has acknowledged the birth of this connection
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
        self._wakeup.close()

    def wake(self) -> None:
        """Interrupt the thread's wait."""
        self._wakeup.send()

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
            selector.register(self._wakeup, selectors.EVENT_READ)
            while not self._stopping.is_set() and (left := deadline - time.monotonic()) > 0:
                if selector.select(left):
                    self._wakeup.clear()

    def _make_client(self) -> mqtt.Client:
        client = make_client(self._settings, self._topics, WILL)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _connect(self, client: mqtt.Client) -> bool:
        self._exchange.connection += 1
        self._fast, self._born = None, False
        self._exchange.window = self._settings.outgoing_window
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
        trickled = turned = 0.0
        saying_goodbye = False
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakeup, selectors.EVENT_READ)
            watched = 0
            while _is_open(client, sock):
                paused = self._exchange.is_full and not self._exchange.publisher_waits
                watched = _watch(selector, sock, watched, read=not paused, write=self._want_write(client))
                # TLS may hold bytes that the selector does not see.
                held = not paused and hasattr(sock, "pending") and sock.pending() > 0
                selector.select(0 if held else _TRICKLE_S if paused else _TICK_S)
                if self._fast is not None and (early := turned + _TURN_MIN_S - time.monotonic()) > 0:
                    time.sleep(early)
                self._wakeup.clear()
                turned = now = time.monotonic()
                trickle = paused and now - trickled >= _TRICKLE_S
                trickled = now if trickle else trickled
                if self._fast is None:
                    self._turn(client, sock, read=not paused, trickle=trickle)
                elif not self._turn_fast(client, sock, self._fast, read=not paused, trickle=trickle):
                    sock.close()  # not even DISCONNECT could be written
                    return
                self._hand_over()
                if self._stopping.is_set() and not saying_goodbye:
                    saying_goodbye = True
                    deadline = now + _GOODBYE_S
                    if self.connected:
                        self._publish_own(client, self._topics.gateway_state, GOODBYE)
                elif saying_goodbye and now > deadline + _GOODBYE_S:
                    sock.close()  # not even DISCONNECT could be written
                    return
                elif saying_goodbye and (now > deadline or not self.connected or self._exchange.is_quiet):
                    client.disconnect()
                elif not self.connected and now > deadline:
                    self._fail(client, "does not answer")

    def _want_write(self, client: mqtt.Client) -> bool:
        return client.want_write() or (self._fast is not None and self._fast.want_write)

    def _turn(self, client: mqtt.Client, sock: Any, *, read: bool, trickle: bool) -> None:
        """Let paho read and write."""
        self._send(client)
        if read:
            self._read(client)
        elif trickle:
            client.loop_read()
        if client.want_write():
            client.loop_write()
        client.loop_misc()
        if self._settings.fast_loop and self._born and self.connected and _is_open(client, sock):
            modern = self._settings.protocol is MqttVersion.V5
            keepalive = self._settings.keepalive_s
            self._fast = FastLoop(sock, self._exchange, self._unacknowledged, modern=modern, keepalive_s=keepalive)
            self.wake()  # for what waits to be sent

    def _turn_fast(self, client: mqtt.Client, sock: Any, fast: FastLoop, *, read: bool, trickle: bool) -> bool:
        """Read and write without paho, which ends what is lost; returns False when even that cannot be."""
        try:
            fast.turn(read=read, trickle=trickle)
        except OSError:
            client.disconnect()
        if client.want_write():
            client.loop_write()
        return not (client.want_write() and _is_open(client, sock))

    def _fail(self, client: mqtt.Client, what: str) -> None:
        if self._failure is None:
            self._failure = f"the MQTT broker at {self._broker} {what}"
        client.disconnect()

    def _read(self, client: mqtt.Client) -> None:
        for _ in range(_PACKETS_PER_TURN):
            before = self._activity
            client.loop_read()
            if self._born and self._settings.fast_loop:
                return
            if self._activity == before or (self._exchange.is_full and not self._exchange.publisher_waits):
                return

    def _send(self, client: mqtt.Client) -> None:
        exchange = self._exchange
        for packet_id in exchange.acknowledgements():
            client.ack(packet_id, 1)
        if not self.connected or self._settings.fast_loop:  # which sends the rest as soon as it has the socket
            return
        if (offer := exchange.next_offer()) is not None:
            self._publish_own(client, self._topics.offer, offer)
        while (receipt := exchange.next_receipt()) is not None:
            topic, payload = receipt
            client.publish(topic, payload, qos=1)

    def _publish_own(self, client: mqtt.Client, topic: str, payload: bytes) -> None:
        if self._fast is not None:
            self._fast.publish_own(topic, payload)
            return
        packet_id = client.publish(topic, payload, qos=1, retain=True).mid
        if not self._settings.fast_loop:
            self._exchange.own(packet_id)

    def _hand_over(self) -> None:
        exchange = self._exchange
        if exchange.batch:
            self._tell(self._listener.frames_arrived, exchange.batch)
            exchange.batch = []
        if exchange.publisher_waits and exchange.room > 0:
            exchange.publisher_waits = False
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
            self._exchange.window = min(self._exchange.window, limit)
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
        self._exchange.offer_again()
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
        packet_id = message.mid if message.qos else 0
        try:
            parsed = self._topics.parse(message.topic)
        except UnicodeDecodeError:  # brokers should not let such topics pass
            parsed = None
        if parsed is not None:
            self._exchange.arrived([(parsed, bytes(message.payload), packet_id, message.retain)])
            return
        self._counters.wrong_topic += 1
        if packet_id:
            client.ack(packet_id, 1)

    def _on_publish(self, _client: mqtt.Client, _data: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
        self._activity += 1
        if self._settings.fast_loop:
            self._born = True  # nothing else is sent by paho then
        else:
            self._exchange.acknowledged(mid, taken=not reason.is_failure)


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
