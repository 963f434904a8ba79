"""Who pays in a measurement: keys that the gateway's genesis funds and the generator signs with."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from channels.signatures import key_address
from channels.types import Address

SERVICE = "grid-power"
GATEWAY = "gw1"
# The gateway that the bare echo answers for, so that both can be on one broker and take turns.
ECHO = "echo"
CHAIN_ID = 31402
# Base units per channel: more than any run here can charge.
DEPOSIT = 1_000 * 10**6


@dataclass(frozen=True, slots=True)
class Member:
    """One device with its payer; the same key signs deposits and vouchers."""

    device: str
    key: bytes
    address: Address


@lru_cache(maxsize=2**18)  # the largest population here, and the payees beside it
def member(index: int) -> Member:
    """Return the device with this number; the same in every process."""
    key = hashlib.sha256(b"metergate benchmark device %d" % index).digest()
    return Member(f"bench-{index:05d}", key, key_address(key))
