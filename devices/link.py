"""The values around the MQTT client: settings, frames, counters and its one error."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple, Protocol


class LinkUnavailable(Exception):
    """The broker cannot be reached or refuses us; the text says what happened and what to do."""


class MqttVersion(Enum):
    """The protocol to speak with the broker."""

    V311 = "3.1.1"
    V5 = "5"


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """How to reach the broker, and how much may be under way."""

    gateway: str
    host: str = "127.0.0.1"
    port: int = 1883
    client_id: str = ""  # "": metergate-{gateway}; the broker keeps the session under it
    username: str | None = None
    password: str | None = None
    tls: bool = False
    ca_file: Path | None = None  # None: the system's
    certificate_file: Path | None = None
    key_file: Path | None = None
    protocol: MqttVersion = MqttVersion.V311
    keepalive_s: int = 30
    connect_timeout_s: float = 5.0  # for the connection and again for the broker's answer
    # Frames waiting for the pipeline, some batches ahead of it: above this the socket is not read.
    queue_max: int = 4096
    # Their payloads: most are under 1 KiB, but one that is too large must arrive to be refused.
    queue_bytes_max: int = 16 * 2**20
    # Receipts not yet acknowledged by the broker, waiting ones included.
    outgoing_max: int = 4096
    # Receipts sent and not yet acknowledged; MQTT 5 brokers may ask for less.
    outgoing_window: int = 512
    # MQTT 5: deliveries that we leave unacknowledged at most. A commit's batch must fit in.
    receive_maximum: int = 4096
    # MQTT 5: above this the broker drops a message by itself, and its sender gets no receipt.
    packet_max: int = 2**20
    # MQTT 5: how long the broker keeps our session, with the messages in it, while we are away.
    session_expiry_s: int = 7 * 86_400
    # Full-jitter back-off: the n-th retry waits a random time below min(cap, base × 2ⁿ).
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 30.0
    # Read and write in bulk by `devices.fast_loop` once paho has connected; False leaves everything to paho's loop.
    fast_loop: bool = True


class Token(NamedTuple):
    """What an acknowledgement needs: packet ids mean something only within one connection."""

    connection: int
    packet_id: int  # 0: sent at QoS 0, nothing to acknowledge


class Frame(NamedTuple):
    """One message as it came, from a topic that is a device's."""

    device: str
    leaf: str  # usage, earn, open or state
    payload: bytes  # unread and of any size
    retained: bool
    token: Token
    received: float = 0.0  # monotonic seconds; 0: not told


@dataclass(slots=True)
class LinkCounters:
    """What happened on the link since the start."""

    connects: int = 0
    connect_failures: int = 0
    frames: int = 0
    wrong_topic: int = 0  # delivered on a topic that names no device; acknowledged and forgotten
    dropped: int = 0  # QoS 0 above the queue's bound: QoS 0 promises nothing
    stale_acknowledgements: int = 0  # of an earlier connection
    receipts_sent: int = 0  # acknowledged by the broker
    receipts_refused: int = 0  # of those, the ones that an MQTT 5 broker turned away


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
