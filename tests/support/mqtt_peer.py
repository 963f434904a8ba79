"""The other side of the broker for tests: something that publishes as devices do and listens."""

import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

WAIT_S = 60.0


class Peer:
    """A plain paho client. `messages` are (topic, payload, retained) in the order in which they came."""

    def __init__(self, port: int, *subscriptions: str, **tls: Any) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._subscriptions = subscriptions
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(200)
        self._client.on_message = self._on_message
        self._client.on_connect = self._on_connect
        self._client.on_socket_open = lambda _client, _data, sock: sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        self._client.on_subscribe = lambda *_: self._ready.set()
        if tls:
            self._client.tls_set(**tls)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if not self._ready.wait(WAIT_S):
            raise RuntimeError("the test's own client could not connect")

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        if self._subscriptions:
            client.subscribe([(topic, 1) for topic in self._subscriptions])
        else:
            self._ready.set()

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.messages.append((message.topic, bytes(message.payload), message.retain))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> None:
        """Publish one message; returns when the broker has it (QoS 1)."""
        self.publish_all([(topic, payload)], qos=qos)

    def publish_all(self, messages: list[tuple[str, bytes]], *, qos: int = 1) -> None:
        """Publish many; returns when the broker has all of them."""
        sent = [self._client.publish(topic, payload, qos=qos) for topic, payload in messages]
        for info in sent:
            info.wait_for_publish(WAIT_S)
            if not info.is_published():
                raise RuntimeError("the broker did not take the test's message")

    def wait_for(self, condition: Callable[[list[tuple[str, bytes, bool]]], bool]) -> None:
        """Wait until the messages so far fulfil a condition."""
        deadline = time.monotonic() + WAIT_S
        while not condition(self.messages):
            if time.monotonic() > deadline:
                raise RuntimeError(f"not in {WAIT_S} s; {len(self.messages)} messages, last {self.messages[-3:]}")
            time.sleep(0.01)
