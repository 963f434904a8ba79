"""An outsider's end of the broker: paho, one identity, everything it receives kept."""

import hashlib
import itertools
import socket
import ssl
import threading
from collections.abc import Mapping
from typing import Any

import paho.mqtt.client as mqtt

from tests.support.outsider_wire import read_receipt

GATEWAY = "gw1"
# A receipt takes some milliseconds, an opened channel a block or two; a busy machine may be far slower.
ANSWER_WAIT_S = 60.0
_numbers = itertools.count(1)


class Connection:
    """One MQTT identity: publishes on its own topics, or anywhere, and keeps what it receives.

    `credentials` are what `metergate device add --credentials` writes; without them it is anonymous, and in the clear.
    """

    def __init__(
        self, port: int, device: str, gateway: str = GATEWAY, credentials: Mapping[str, str] | None = None
    ) -> None:
        self.device = device
        self._gateway = gateway
        self._news = threading.Condition()
        self._receipts: dict[bytes, list[bytes]] = {}
        self._offers: list[tuple[bytes, bool]] = []
        self.strays: list[tuple[str, bytes]] = []  # what came on topics that we have not subscribed
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"outsider-{next(_numbers)}-{device}")
        self._client.on_message = self._on_message
        self._client.on_connect = self._on_connect
        # Else a reading waits 40 ms for the acknowledgement of the PUBACK that we have just sent.
        self._client.on_socket_open = lambda _c, _u, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if credentials is not None:
            self._client.username_pw_set(credentials["username"], credentials["password"])
            self._client.tls_set_context(ssl.create_default_context(cadata=credentials["ca"]))
        ready = threading.Event()
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if not ready.wait(ANSWER_WAIT_S):
            self.close()
            raise TimeoutError(f"{device} could not subscribe on port {port}")

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        topics = (f"mp/1/{self._gateway}/{self.device}/receipt", f"mp/1/{self._gateway}/offer")
        client.subscribe([(topic, 1) for topic in topics])

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        payload = bytes(message.payload)
        with self._news:
            if message.topic == f"mp/1/{self._gateway}/offer":
                self._offers.append((payload, message.retain))
            elif message.topic != f"mp/1/{self._gateway}/{self.device}/receipt":
                self.strays.append((message.topic, payload))
            else:
                self._receipts.setdefault(_answers(payload), []).append(payload)
            self._news.notify_all()

    def listen(self, topic: str) -> None:
        """Subscribe another topic: what comes on it is in `strays`. Returns when the broker has answered."""
        done = threading.Event()
        self._client.on_subscribe = lambda *_: done.set()
        self._client.subscribe(topic, 1)
        if not done.wait(ANSWER_WAIT_S):
            raise TimeoutError(f"{self.device}: no answer to its subscription of {topic}")

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def first_offer(self, timeout_s: float = ANSWER_WAIT_S) -> tuple[bytes, bool]:
        """Return the first offer that came, and whether the broker had kept it."""
        with self._news:
            if not self._news.wait_for(lambda: self._offers, timeout_s):
                raise TimeoutError(f"no offer within {timeout_s} s")
            return self._offers[0]

    def newest_offer(self) -> bytes:
        """Return the last offer that came."""
        self.first_offer()
        return self._offers[-1][0]

    def publish(self, leaf: str, payload: bytes, *, device: str | None = None) -> None:
        """Send one message at QoS 1 under our own name or another's."""
        topic = f"mp/1/{self._gateway}/{device or self.device}/{leaf}"
        self._client.publish(topic, payload, qos=1).wait_for_publish(ANSWER_WAIT_S)

    def count(self, payload: bytes) -> int:
        """Return how many receipts have answered a payload so far."""
        with self._news:
            return len(self._receipts.get(answers_of(payload), ()))

    def answer(self, payload: bytes, number: int = 1, timeout_s: float = ANSWER_WAIT_S) -> dict[str, Any]:
        """Return the receipt that answers a payload, or its n-th one when it was sent several times."""
        wanted = answers_of(payload)
        with self._news:
            if not self._news.wait_for(lambda: len(self._receipts.get(wanted, ())) >= number, timeout_s):
                others = {name.hex(): texts[-1][:300] for name, texts in list(self._receipts.items())[-3:]}
                raise TimeoutError(f"{self.device}: no receipt for {payload[:300]!r} within {timeout_s} s; {others}")
            return read_receipt(self._receipts[wanted][number - 1])

    def refusals(self) -> list[dict[str, Any]]:
        """Return every refusal that came."""
        with self._news:
            receipts = [read_receipt(payload) for payloads in self._receipts.values() for payload in payloads]
        return [receipt for receipt in receipts if receipt["status"] == "refused"]

    def ask(self, leaf: str, payload: bytes) -> dict[str, Any]:
        """Send one message and return the receipt that answers it."""
        number = self.count(payload) + 1
        self.publish(leaf, payload)
        return self.answer(payload, number)


def answers_of(payload: bytes) -> bytes:
    """Return what a receipt says about the payload that it answers."""
    return hashlib.sha256(payload).digest()[:8]


def _answers(payload: bytes) -> bytes:
    found: bytes = read_receipt(payload)["answers"]
    return found
