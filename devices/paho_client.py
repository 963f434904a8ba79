"""How our paho client is made and connected."""

import socket
import ssl
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from devices.link import LinkSettings, MqttVersion
from devices.topics import Topics


def make_client(settings: LinkSettings, topics: Topics, will: bytes) -> mqtt.Client:
    """Return a client with a persistent session, manual acknowledgement and our will.

    Raises OSError (ssl.SSLError included) or ValueError for TLS files that cannot be used.
    """
    modern = settings.protocol is MqttVersion.V5
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=settings.client_id or f"metergate-{settings.gateway}",
        clean_session=None if modern else False,
        protocol=mqtt.MQTTv5 if modern else mqtt.MQTTv311,
        manual_ack=True,
        reconnect_on_failure=False,  # ours has jitter
    )
    client.connect_timeout = settings.connect_timeout_s
    # Our own window decides what is in flight, so that the receive maximum of MQTT 5 brokers is kept.
    client.max_inflight_messages_set(0)
    client.max_queued_messages_set(0)
    if settings.username is not None:
        client.username_pw_set(settings.username, settings.password)
    if settings.tls:
        context = ssl.create_default_context(cafile=None if settings.ca_file is None else str(settings.ca_file))
        if settings.certificate_file is not None:
            context.load_cert_chain(settings.certificate_file, settings.key_file)
        client.tls_set_context(context)
    client.will_set(topics.gateway_state, will, qos=1, retain=True)
    # With this callback paho leaves writing to our loop instead of writing at each call.
    client.on_socket_register_write = _leave_writing_to_the_loop
    client.on_socket_open = _send_at_once
    return client


def connect(client: mqtt.Client, settings: LinkSettings) -> None:
    """Open the socket and send CONNECT. Raises OSError or ValueError when the broker cannot be reached."""
    options: dict[str, Any] = {}
    if settings.protocol is MqttVersion.V5:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = settings.session_expiry_s
        properties.ReceiveMaximum = min(settings.receive_maximum, 65_535)
        properties.MaximumPacketSize = settings.packet_max
        options = {"clean_start": False, "properties": properties}
    client.connect(settings.host, settings.port, settings.keepalive_s, **options)


def _leave_writing_to_the_loop(*_arguments: object) -> None:
    """The network thread asks `want_write` before each wait, so there is nothing to note."""


def _send_at_once(_client: mqtt.Client, _userdata: object, opened: Any) -> None:
    # Otherwise a receipt waits for the TCP acknowledgement of the one before it: 40 ms on a loopback.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
