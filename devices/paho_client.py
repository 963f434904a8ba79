"""How our paho client is made and connected, and a try whether a broker would take it."""

import os
import socket
import ssl
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from devices.link import LinkSettings, LinkUnavailable, MqttVersion
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
    _set_credentials(client, settings)
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


def probe(settings: LinkSettings) -> None:
    """Connect, wait for the broker's answer and disconnect, beside a gateway that may be connected already.

    The client id is its own, there is no session and no will, nothing is published. Raises LinkUnavailable, which says
    what is wrong and which key of the configuration to mend.
    """
    where = f"{settings.host}:{settings.port}"
    modern = settings.protocol is MqttVersion.V5
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"metergate-{settings.gateway}-probe-{os.getpid()}",
        clean_session=None if modern else True,
        protocol=mqtt.MQTTv5 if modern else mqtt.MQTTv311,
        reconnect_on_failure=False,
    )
    client.connect_timeout = settings.connect_timeout_s
    answers: list[ReasonCode] = []
    client.on_connect = lambda _client, _data, _flags, reason, _properties: answers.append(reason)
    try:
        _set_credentials(client, settings)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise LinkUnavailable(f"the files of mqtt.tls_ca, tls_cert or tls_key cannot be used: {error}") from error
    try:
        # paho bounds the TLS handshake by the keep-alive.
        client.connect(settings.host, settings.port, keepalive=max(1, round(settings.connect_timeout_s)))
    except (OSError, ValueError) as error:
        raise LinkUnavailable(_unreachable(error, where)) from error
    deadline = time.monotonic() + settings.connect_timeout_s
    lost = False
    while not answers and not lost and time.monotonic() < deadline:
        lost = client.loop(0.1) != mqtt.MQTT_ERR_SUCCESS
    client.disconnect()
    if not answers:
        raise LinkUnavailable(_silent(settings, where, lost=lost))
    if answers[0].is_failure:
        raise LinkUnavailable(f"{where} refuses us: {answers[0]}; {_remedy(settings, str(answers[0]))}")


def _unreachable(error: Exception, where: str) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return (
                f"the certificate of {where} is not trusted: {error.verify_message}; mqtt.tls_ca has to be the"
                " authority that issued it, and mqtt.host a name that it is for"
            )
        case ssl.SSLError():
            return f"TLS with {where} fails: {error.reason or error}; does that port speak TLS?"
        case socket.gaierror():
            return f"the name in {where} is not known: mend mqtt.host"
        case ConnectionRefusedError():
            return f"nothing answers at {where}: start the broker, or mend mqtt.host and mqtt.port"
        case TimeoutError():
            return f"{where} does not answer: is the machine up, and no firewall before it?"
        case _:
            return f"{where} cannot be reached: {error}; mend [mqtt]"


def _silent(settings: LinkSettings, where: str, *, lost: bool) -> str:
    if not lost:
        return f"{where} does not answer as an MQTT broker does: is it one?"
    wanted = "a certificate of ours (mqtt.tls_cert, mqtt.tls_key)" if settings.tls else "TLS (mqtt.tls_ca)"
    return f"{where} closed the connection without an answer: does it want {wanted}?"


def _remedy(settings: LinkSettings, reason: str) -> str:
    if "protocol version" in reason:
        return "mend mqtt.protocol"
    if settings.username is None:
        return "set mqtt.username and mqtt.password_file"
    return "mend mqtt.username and the password in mqtt.password_file"


def _set_credentials(client: mqtt.Client, settings: LinkSettings) -> None:
    """Set user name and TLS. Raises OSError or ValueError for files that cannot be used."""
    if settings.username is not None:
        client.username_pw_set(settings.username, settings.password)
    if settings.tls:
        context = ssl.create_default_context(cafile=None if settings.ca_file is None else str(settings.ca_file))
        if settings.certificate_file is not None:
            context.load_cert_chain(settings.certificate_file, settings.key_file)
        client.tls_set_context(context)


def _leave_writing_to_the_loop(*_arguments: object) -> None:
    """The network thread asks `want_write` before each wait, so there is nothing to note."""


def _send_at_once(_client: mqtt.Client, _userdata: object, opened: Any) -> None:
    # Otherwise a receipt waits for the TCP acknowledgement of the one before it: 40 ms on a loopback.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
