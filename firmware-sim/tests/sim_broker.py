"""A private mosquitto on a free loopback port, and the test gateway behind it."""

import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from sim_gateway import SimGateway

MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
START_S = 10.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _no_delay(client, userdata, sock) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Broker:
    """Can be stopped and started again on its port, like a broker that restarts."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._config = directory / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            "max_queued_messages 10000\nset_tcp_nodelay true\nlog_type none\n"
        )
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "mosquitto did not start"
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


class MqttGateway:
    """SimGateway on MQTT; `answer` may be replaced to lose or delay messages."""

    def __init__(self, gateway: SimGateway, port: int) -> None:
        self.gateway = gateway
        self.states: dict[str, bytes] = {}
        self._ready = Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="test-gateway")
        self._client.max_inflight_messages_set(0)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message
        self._client.on_socket_open = _no_delay
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(10)

    def _on_connect(self, client, userdata, flags, reason, properties) -> None:
        base = f"mp/1/{self.gateway.name}"
        client.subscribe([(f"{base}/+/{leaf}", 1) for leaf in ("open", "usage", "earn", "close", "state")])
        client.publish(f"{base}/offer", self.gateway.offer_payload(), 1, True)

    def _on_message(self, client, userdata, message) -> None:
        _, _, name, device, leaf = message.topic.split("/")
        if leaf == "state":
            self.states[device] = message.payload
        else:
            receipt = self.gateway.handle(device, leaf, message.payload)
            if receipt:
                client.publish(f"mp/1/{name}/{device}/receipt", receipt, 1)

    def publish_offer(self, payload: bytes) -> None:
        self._client.publish(f"mp/1/{self.gateway.name}/offer", payload, 1, True).wait_for_publish(5)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def running(directory: Path, gateway: SimGateway):
    """A broker with a gateway: yields (broker, mqtt gateway)."""
    broker = Broker(directory)
    broker.start()
    try:
        behind = MqttGateway(gateway, broker.port)
        try:
            yield broker, behind
        finally:
            behind.close()
    finally:
        broker.stop()
