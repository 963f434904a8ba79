"""The checks that paying and earning readings share, in the order of docs/protocol.md 5."""

from channels.pricing import charge
from channels.refusals import Refusal
from channels.state import Meter, ReceiveClose, ReceiveReading
from channels.types import U64_MAX, U128_MAX

# A reading may skip readings lost with a device's memory, but not so many that one bad message
# would use up the numbers of years.
SEQ_AHEAD_MAX = 2**20


def sequence_refusal(meter: Meter, owner: str, message: ReceiveReading | ReceiveClose) -> Refusal | None:
    """Check who sent a reading or a close, its signature and its place in the sequence (reasons 4 to 8)."""
    if message.device != owner:
        return Refusal.WRONG_DEVICE
    if not message.signed:
        return Refusal.BAD_SIGNATURE
    if message.repeats_seq or (message.seq == meter.seq and meter.seq > 0):
        return Refusal.SEQ_CONFLICT
    if message.seq <= meter.seq:
        return Refusal.SEQ_OLD
    if message.seq > meter.seq + SEQ_AHEAD_MAX or message.seq > U64_MAX:
        return Refusal.SEQ_JUMP
    return None


def metered(meter: Meter, total: int, reading: ReceiveReading) -> tuple[Meter, int] | Refusal:
    """Price a reading whose sequence was checked (reasons 10 to 15).

    `total` is the cumulative amount before it. Returns the meter after it and the amount it adds, in base
    units, or the refusal.
    """
    terms = reading.terms
    if terms is None:
        return Refusal.OFFER_UNKNOWN
    if terms.expired:
        return Refusal.OFFER_EXPIRED
    if terms.serial < meter.offer_serial:
        return Refusal.OFFER_REGRESSED
    units = reading.register - meter.register
    if units < 0:
        return Refusal.REGISTER_LOWER
    if units > terms.max_step:
        return Refusal.REGISTER_JUMP
    added, remainder = charge(meter.remainder, units, terms.price)
    if total + added > U128_MAX:
        return Refusal.OVERFLOW
    return Meter(reading.seq, reading.register, remainder, terms.offer, terms.serial), added
