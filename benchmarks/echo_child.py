"""The peer: a bare paho subscriber that answers every reading with a fixed receipt and does nothing else.

    python -m benchmarks.echo_child JOB      (JSON: mqtt_port)

Manual acknowledgement and a 110-byte QoS 1 answer, as a gateway without any work in it would do. What it reaches on
a broker is the wall that MQTT and paho put before every gateway written with them.
"""

import json
import socket
import sys
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.population import ECHO

ANSWER = bytes(110)


def run(port: int) -> None:
    """Answer until the input ends."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="echo", manual_ack=True)
    client.max_inflight_messages_set(0)  # no bound: with one, paho walks all outstanding messages at every PUBACK
    client.max_queued_messages_set(0)

    def on_message(client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        client.publish(message.topic.removesuffix("usage") + "receipt", ANSWER, qos=1)
        client.ack(message.mid, message.qos)

    def on_subscribe(*_: object) -> None:
        print(json.dumps({"ready": True}), flush=True)

    client.on_message = on_message
    client.on_subscribe = on_subscribe
    client.on_connect = lambda client, *_: client.subscribe(f"mp/1/{ECHO}/+/usage", 1)
    client.on_socket_open = _no_delay
    client.connect("127.0.0.1", port)
    client.loop_start()
    sys.stdin.read()
    client.disconnect()
    client.loop_stop()


def _no_delay(_client: mqtt.Client, _data: object, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


if __name__ == "__main__":
    run(json.loads(sys.argv[1])["mqtt_port"])
