"""What devices say and what they are answered, as typed values (docs/protocol.md 3).

`devices.codec` makes messages from bytes, `devices.receipts` makes bytes from receipts.
"""

from enum import Enum, IntEnum
from hashlib import sha256
from typing import TypeAlias

import msgspec

from channels.refusals import Refusal
from channels.types import (
    AccountId,
    Address,
    Authorization,
    ChannelConfig,
    ChannelId,
    OfferId,
    Signature,
)

# A signed `open` in JSON takes about 1 KiB; what is larger is not read at all.
PAYLOAD_MAX = 4096

# The deepest message, `open`, has four levels; the rest is room for keys that later versions may add.
DEPTH_MAX = 8

# Services and firmware versions: names, not prose. In UTF-8 bytes.
TEXT_MAX = 64


class Encoding(Enum):
    """How a payload is written; a receipt comes in the encoding of what it answers."""

    JSON = "json"
    CBOR = "cbor"


class Status(IntEnum):
    """What became of a message. The numbers are on the wire."""

    ACCEPTED = 0
    DUPLICATE = 1
    REFUSED = 2

    @property
    def wire_name(self) -> str:
        """The name that a JSON receipt carries."""
        return self.name.lower()


class Usage(msgspec.Struct, frozen=True, gc=False):
    """A paying reading with its voucher."""

    id: ChannelId
    seq: int
    register: int
    time: int  # device clock, Unix ms, advisory
    offer: OfferId
    ceiling: int  # maxClaimableAmount, cumulative, base units
    signature: Signature  # voucher signature over id and ceiling
    reading_signature: Signature | None
    encoding: Encoding
    answers: bytes  # first 8 bytes of SHA-256 of the payload


class Earn(msgspec.Struct, frozen=True, gc=False):
    """An earning reading."""

    id: AccountId
    seq: int
    register: int
    time: int  # device clock, Unix ms, advisory
    offer: OfferId
    reading_signature: Signature  # by the account's meter key
    encoding: Encoding
    answers: bytes


class Open(msgspec.Struct, frozen=True, gc=False):
    """Open or top up a channel."""

    config: ChannelConfig
    service: str
    register: int  # the meter's reading where billing begins
    amount: int  # of the deposit, base units
    authorization: Authorization
    offer: OfferId | None  # None: the current one
    binding: Signature | None
    encoding: Encoding
    answers: bytes


class OpenEarner(msgspec.Struct, frozen=True, gc=False):
    """Open an earner account."""

    service: str
    register: int
    payee: Address
    meter_key: Address
    salt: bytes  # 32 bytes
    signature: Signature  # payee's, over the account id
    offer: OfferId | None
    encoding: Encoding
    answers: bytes


class Close(msgspec.Struct, frozen=True, gc=False):
    """Close a channel: claim what is owed, refund the rest."""

    id: ChannelId
    seq: int
    signature: Signature  # payerAuthorizer's of `Close`, over channel, gateway, device and seq
    encoding: Encoding
    answers: bytes


class State(msgspec.Struct, frozen=True, gc=False):
    """A device's birth or will. Never answered."""

    online: bool  # False: "lost"
    session: int | None
    firmware: str | None
    encoding: Encoding
    answers: bytes


class Undecodable(msgspec.Struct, frozen=True, gc=False):
    """A payload that is no message: TOO_LARGE or MALFORMED; its receipt is always JSON."""

    refusal: Refusal
    encoding: Encoding
    answers: bytes


Message: TypeAlias = Usage | Earn | Open | OpenEarner | Close | State


class Receipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An answer. None means that the field is left out; amounts are cumulative base units."""

    status: Status
    answers: bytes  # 8 bytes, of the payload answered now
    account: bool = False  # about an earner account: JSON names it accountId and earnedCumulativeAmount
    id: bytes | None = None  # 32 bytes
    seq: int | None = None
    ceiling: int | None = None  # highest maxClaimableAmount held
    signature: Signature | None = None  # of that ceiling
    reason: Refusal | None = None
    cumulative: int | None = None  # charged, or earned (gross)
    balance: int | None = None
    required_ceiling: int | None = None
    commit: int | None = None
    last_seq: int | None = None
    last_register: int | None = None
    last_remainder: int | None = None
    last_offer: OfferId | None = None
    offset: int | None = None
    refunded: int | None = None  # what the payer ever got back; in the answer to a close


def answers_of(payload: bytes) -> bytes:
    """Return the first 8 bytes of SHA-256 of a payload: how a receipt says what it answers."""
    return sha256(payload).digest()[:8]


def checked_text(text: str) -> str:
    """Return `text` if it has 1 to TEXT_MAX bytes of UTF-8. Raises ValueError (lone surrogates included)."""
    if not 0 < len(text.encode()) <= TEXT_MAX:
        raise ValueError("text is empty or too long")
    return text


def undecodable_receipt(undecodable: Undecodable) -> Receipt:
    """Return the receipt for a payload that could not be read: status, reason and answers, nothing else."""
    return Receipt(status=Status.REFUSED, answers=undecodable.answers, reason=undecodable.refusal)
