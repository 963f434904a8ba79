"""The MQTT side of one device: a paho client without a thread of its own, reconnecting with jittered back-off."""

import selectors
import socket
from collections.abc import Callable
from random import Random
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from firmware_sim import snapshot
from firmware_sim.device import Device, Publish
from firmware_sim.flash import Flash
from firmware_sim.wire import WILL

KEEPALIVE_S = 60
CONNECT_TIMEOUT_S = 3.0  # TCP only; on a local network an answer takes milliseconds
HANDSHAKE_US = 10_000_000  # from TCP connection to subscriptions granted
BACKOFF_US = 250_000
BACKOFF_US_MAX = 30_000_000
MISC_US = 5_000_000  # keepalive is checked this often: well below KEEPALIVE_S


class Link:
    """Connects one device to the broker; the fleet's loop calls `ready`, `tick` and `flush`."""

    def __init__(
        self,
        device: Device,
        broker: tuple[str, int],
        selector: selectors.BaseSelector,
        clock: Callable[[], int],
        random: Random,
        *,
        flash: Flash | None = None,
        protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311,
        wants_flush: Callable[["Link"], None],
    ) -> None:
        self.device = device
        self.up = False
        self._broker = broker
        self._selector = selector
        self._clock = clock
        self._random = random
        self._flash = flash
        self._protocol = protocol
        self._wants_flush = wants_flush
        who = device.identity
        self._base = f"mp/1/{who.gateway}/{who.device}/"
        self._offer_topic = f"mp/1/{who.gateway}/offer"
        self._client: mqtt.Client | None = None
        self._attempts = 0
        self._try_us = 0
        self._handshake_us = 0
        self._misc_us = 0
        self._writing = False

    # ---- called by the fleet

    def tick(self, now_us: int) -> None:
        """Reconnect, keep alive and let the device see the time."""
        client = self._client
        if client is None:
            if now_us >= self._try_us:
                self._connect(now_us)
            return
        if not self.up and now_us - self._handshake_us > HANDSHAKE_US:
            self._abandon()
            return
        if now_us >= self._misc_us:
            self._misc_us = now_us + MISC_US
            client.loop_misc()
        self.send(self.device.on_tick(now_us))

    def idle_at(self, now_us: int) -> bool:
        """Whether `tick` would connect now."""
        return self._client is None and now_us >= self._try_us

    def ready(self, mask: int) -> None:
        """The socket can be read or written."""
        client = self._client
        if client is not None and mask & selectors.EVENT_READ:
            client.loop_read()
        if self._client is client and client is not None and mask & selectors.EVENT_WRITE:
            self.flush()

    def flush(self) -> None:
        """Write what is queued; what the socket does not take now waits for the selector."""
        client = self._client
        if client is None:
            return
        if client.want_write():
            client.loop_write()
        if self._client is client:
            self._watch(client.want_write())

    def read_meter(self, register: int) -> None:
        """A new register reading from the meter."""
        self.send(self.device.on_reading(register, self._clock()))

    def close_channel(self) -> None:
        """The run is over: close what this device pays on."""
        self.send(self.device.close(self._clock()))

    def send(self, messages: list[Publish]) -> None:
        """Store the device's state, then hand its messages to the broker."""
        if self.device.dirty:
            self.device.dirty = False
            if self._flash is not None:
                self._flash.save(snapshot.save(self.device))
        if self._client is not None:
            for message in messages:
                self._client.publish(self._base + message.leaf, message.payload, 1, message.retain)

    def leave(self) -> None:
        """Say goodbye: the retained state becomes what the will would have made it."""
        if self._flash is not None:
            self._flash.save(snapshot.save(self.device))
        if self._client is not None and self.up:
            self._client.publish(self._base + "state", WILL, 1, True)
            self._client.disconnect()
            self.flush()

    def close(self) -> None:
        """Release file and socket."""
        self._abandon()
        if self._flash is not None:
            self._flash.close()

    # ---- paho's callbacks

    def _connect(self, now_us: int) -> None:
        v5 = self._protocol == MQTTProtocolVersion.MQTTv5
        # A new client each time: nothing of an old session is resent behind the device's back.
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.device.identity.device,
            clean_session=None if v5 else True,
            protocol=self._protocol,
        )
        client.max_inflight_messages_set(0)  # the device's own window is the limit
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.will_set(self._base + "state", WILL, 1, True)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_register_write
        self._client = client
        self._handshake_us = now_us
        self._misc_us = now_us + MISC_US
        try:
            client.connect(*self._broker, KEEPALIVE_S)
        except OSError:
            self._lost()

    def _on_connect(
        self, client: mqtt.Client, userdata: object, flags: object, reason: Any, properties: object
    ) -> None:
        if reason.is_failure:
            client.disconnect()
        else:
            client.subscribe([(self._base + "receipt", 1), (self._offer_topic, 1)])

    def _on_subscribe(
        self, client: mqtt.Client, userdata: object, mid: int, reasons: list[Any], properties: object
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            client.disconnect()
            return
        self.up = True
        self._attempts = 0
        self.send(self.device.on_connected(self._clock()))

    def _on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        if message.topic == self._offer_topic:
            self.send(self.device.on_offer(bytes(message.payload), self._clock()))
        else:
            self.send(self.device.on_receipt(bytes(message.payload), self._clock()))

    def _on_disconnect(
        self, client: mqtt.Client, userdata: object, flags: object, reason: object, properties: object
    ) -> None:
        if client is self._client:
            self._lost()

    def _on_socket_open(self, client: mqtt.Client, userdata: object, sock: Any) -> None:
        self._writing = False
        # Without this a reading waits for the acknowledgement of the one before it: 40 ms on a loopback.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ, self)

    def _on_socket_close(self, client: mqtt.Client, userdata: object, sock: Any) -> None:
        self._selector.unregister(sock)

    def _on_register_write(self, client: mqtt.Client, userdata: object, sock: Any) -> None:
        self._wants_flush(self)

    # ---- inner parts

    def _watch(self, writing: bool) -> None:
        sock = self._client.socket() if self._client else None
        if sock is not None and writing != self._writing:
            self._writing = writing
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
            self._selector.modify(sock, events, self)

    def _abandon(self) -> None:
        client = self._client
        if client is not None:
            client.disconnect()
            client.loop_write()
            if self._client is client:
                self._lost()

    def _lost(self) -> None:
        self._client = None
        self.up = False
        self.device.on_disconnected()
        # Full jitter: a fleet that lost its broker at one moment does not come back at one moment.
        ceiling = min(BACKOFF_US << min(self._attempts, 10), BACKOFF_US_MAX)
        self._attempts += 1
        self._try_us = self._clock() + self._random.randrange(ceiling // 2, ceiling + 1)
