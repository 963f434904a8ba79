"""Topics: `mp/1/{gateway}/{device}/{leaf}` (docs/protocol.md 3)."""

import re

PREFIX = "mp/1/"
ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)

STATE = "state"
OPEN = "open"
USAGE = "usage"
EARN = "earn"
CLOSE = "close"
RECEIPT = "receipt"

# What devices send; `receipt` is ours.
DEVICE_LEAVES = frozenset({STATE, OPEN, USAGE, EARN, CLOSE})


def is_id(text: str) -> bool:
    """Tell whether `text` may name a gateway or a device: 1 to 64 of `A-Z a-z 0-9 _ -`."""
    return ID_PATTERN.fullmatch(text) is not None


class Topics:
    """The topics of one gateway. Raises ValueError for a gateway id that is not one."""

    __slots__ = ("_prefix", "gateway", "gateway_state", "offer")

    def __init__(self, gateway: str) -> None:
        if not is_id(gateway):
            raise ValueError(f"gateway id {gateway!r}: expected 1 to 64 of A-Z a-z 0-9 _ -")
        self.gateway = gateway
        self._prefix = f"{PREFIX}{gateway}/"
        self.offer = f"{self._prefix}offer"  # retained: the terms
        self.gateway_state = f"{self._prefix}gateway"  # retained: the gateway's own birth and will

    def parse(self, topic: str) -> tuple[str, str] | None:
        """Return (device, leaf) of a topic that a device of this gateway sends on, or None."""
        if not topic.startswith(self._prefix):
            return None
        device, separator, leaf = topic[len(self._prefix) :].partition("/")
        if not separator or leaf not in DEVICE_LEAVES or not is_id(device):
            return None
        return device, leaf

    def topic(self, device: str, leaf: str) -> str:
        """Return the topic of one leaf of a device. Raises ValueError for a device id that is not one."""
        if not is_id(device):
            raise ValueError(f"device id {device!r}: expected 1 to 64 of A-Z a-z 0-9 _ -")
        return f"{self._prefix}{device}/{leaf}"

    def receipt(self, device: str) -> str:
        """Return the topic on which a device gets its receipts."""
        return self.topic(device, RECEIPT)

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The filters a gateway subscribes to, all at QoS 1."""
        return tuple(f"{self._prefix}+/{leaf}" for leaf in (USAGE, EARN, OPEN, CLOSE, STATE))
