"""Why a message is refused: stable numbers and names (docs/protocol.md 5)."""

from enum import IntEnum


# The numbers are on the wire and in journals: they are never renumbered or used again.
class Refusal(IntEnum):
    """Reasons in the order in which they are checked; the first that fails names the refusal."""

    TOO_LARGE = 1
    MALFORMED = 2
    UNKNOWN_CHANNEL = 3
    WRONG_DEVICE = 4
    BAD_SIGNATURE = 5
    SEQ_CONFLICT = 6
    SEQ_OLD = 7
    SEQ_JUMP = 8
    NOT_OPEN = 9
    OFFER_UNKNOWN = 10
    OFFER_EXPIRED = 11
    OFFER_REGRESSED = 12
    REGISTER_LOWER = 13
    REGISTER_JUMP = 14
    OVERFLOW = 15
    CEILING_TOO_LOW = 16
    CEILING_ABOVE_BALANCE = 17
    CEILING_TOO_FAR = 18
    CHAIN_STALE = 19
    DEPOSIT_PENDING = 20
    DEPOSIT_INVALID = 21
    CONFIG_MISMATCH = 22
    SERVICE_UNKNOWN = 23
    DEPOSIT_TOO_SMALL = 24
    NOT_ENROLLED = 25
    BUSY = 26
    LIMIT = 27
    CHANNEL_TAKEN = 28

    @property
    def wire_name(self) -> str:
        """The name that a JSON receipt carries."""
        return self.name.lower()

    @property
    def transient(self) -> bool:
        """True when the same message may be accepted later without any change to it."""
        return self in _TRANSIENT


_TRANSIENT = frozenset({Refusal.CHAIN_STALE, Refusal.DEPOSIT_PENDING, Refusal.BUSY})
