"""Any bytes in, a message or a refusal out (docs/protocol.md 3)."""

from hashlib import sha256

import cbor2
import msgspec

from channels.refusals import Refusal
from devices import cbor_codec, json_codec
from devices.messages import PAYLOAD_MAX, Encoding, Message, Undecodable

_OPENING_BRACE = 0x7B

# All that the decoders raise for bad bytes: their own checks (ValueError, with UnicodeError and binascii.Error
# below it), a missing CBOR key, msgspec's and cbor2's errors, and nesting that msgspec skips by recursion.
_MALFORMED = (ValueError, KeyError, msgspec.DecodeError, cbor2.CBORError, RecursionError)


def decode(leaf: str, payload: bytes) -> Message | Undecodable:
    """Read what a device published on `leaf` (usage, earn, open, close or state). Never raises for any bytes.

    A payload that begins with `{` is JSON, anything else CBOR; over PAYLOAD_MAX bytes it is not read at all.
    """
    answers = sha256(payload).digest()[:8]
    if len(payload) > PAYLOAD_MAX:
        return Undecodable(Refusal.TOO_LARGE, Encoding.JSON, answers)
    if not payload:
        return Undecodable(Refusal.MALFORMED, Encoding.JSON, answers)
    decoders = json_codec.DECODERS if payload[0] == _OPENING_BRACE else cbor_codec.DECODERS
    decoder = decoders[leaf]
    try:
        return decoder(payload, answers)
    except _MALFORMED:
        return Undecodable(Refusal.MALFORMED, Encoding.JSON, answers)
