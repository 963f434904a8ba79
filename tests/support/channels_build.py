"""Builders for tests about `channels`: keys, a channel in mid-life, a reading that it accepts."""

from typing import Any

from channels.digests import channel_id
from channels.machine import transition
from channels.refusals import Refusal
from channels.signatures import key_address
from channels.state import Account, ActionOpen, Change, Channel, Meter, Phase, ReceiveClose, ReceiveReading, Terms
from channels.types import ChannelConfig, Network

NETWORK = Network(31402)
DEVICE = "meter-1"
OTHER_DEVICE = "meter-2"
SERVICE = "grid-power"
OFFER = bytes.fromhex("0f" * 16)
SIGNATURE = bytes.fromhex("51" * 65)
OLD_SIGNATURE = bytes.fromhex("50" * 65)

PAYER_KEY = bytes.fromhex("11" * 32)
DEVICE_KEY = bytes.fromhex("22" * 32)
LANE_KEY = bytes.fromhex("33" * 32)
GATEWAY_KEY = bytes.fromhex("44" * 32)

CONFIG = ChannelConfig(
    payer=key_address(PAYER_KEY),
    payer_authorizer=key_address(DEVICE_KEY),
    receiver=key_address(LANE_KEY),
    receiver_authorizer=key_address(GATEWAY_KEY),
    token=bytes.fromhex("aa" * 20),
    withdraw_delay=86_400,
    salt=bytes.fromhex("05" * 32),
)
CHANNEL_ID = channel_id(CONFIG, NETWORK)
BLOCK = 1 << 32  # one block further, as a chain position


def make_meter(**fields: Any) -> Meter:
    """A meter whose last reading was seq 5 at register 100, under the offer with serial 3."""
    values: dict[str, Any] = {"seq": 5, "register": 100, "remainder": 0, "offer": OFFER, "offer_serial": 3}
    return Meter(**values | fields)


def make_channel(*, meter: Meter | None = None, **fields: Any) -> Channel:
    """A channel in mid-life: 50 owed under a ceiling of 55, 20 of it signed for, 10 claimed, 1,000 on chain."""
    phase = fields.get("phase", Phase.OPEN)
    values: dict[str, Any] = {
        "id": CHANNEL_ID,
        "config": CONFIG,
        "device": DEVICE,
        "service": SERVICE,
        "lane": 0,
        "phase": phase,
        "meter": make_meter() if meter is None else meter,
        "charged": 50,
        "ceiling": 55,
        "ceiling_signature": OLD_SIGNATURE,
        "committed": 20,
        "claimed": 10,
        "balance": 1_000,
        "withdrawing": 200 if phase is Phase.WITHDRAWING else 0,
        "position": 10 * BLOCK,
        "proven": True,
        "first_register": 30,
    }
    return Channel(**values | fields)


def make_account(*, meter: Meter | None = None, **fields: Any) -> Account:
    """An earner account in mid-life: 50 earned, 5 of it the operator's fee."""
    values: dict[str, Any] = {
        "id": bytes.fromhex("ac" * 32),
        "device": DEVICE,
        "service": "solar-export",
        "payee": key_address(PAYER_KEY),
        "meter_key": key_address(DEVICE_KEY),
        "meter": make_meter() if meter is None else meter,
        "earned": 50,
        "fee": 5,
    }
    return Account(**values | fields)


def make_terms(**fields: Any) -> Terms:
    """One base unit per register unit; a reading may add 50 units, a ceiling be 20 ahead."""
    values: dict[str, Any] = {
        "offer": OFFER,
        "serial": 3,
        "price": 10**9,
        "max_step": 50,
        "max_ahead": 20,
    }
    return Terms(**values | fields)


def make_reading(**fields: Any) -> ReceiveReading:
    """The tight reading that follows `make_channel()`: seq 6, ten units more, a ceiling of 60."""
    values: dict[str, Any] = {
        "seq": 6,
        "register": 110,
        "time": 1_700_000_000_000,
        "offer": OFFER,
        "ceiling": 60,
        "signature": SIGNATURE,
        "device": DEVICE,
        "signed": True,
        "terms": make_terms(),
    }
    return ReceiveReading(**values | fields)


def make_close(**fields: Any) -> ReceiveClose:
    """The close that may follow `make_channel()`: seq 6."""
    return ReceiveClose(**{"seq": 6, "device": DEVICE, "signed": True} | fields)


def make_open(**fields: Any) -> ActionOpen:
    """An `open` for a channel that the chain knows nothing of yet."""
    values: dict[str, Any] = {
        "id": CHANNEL_ID,
        "config": CONFIG,
        "device": DEVICE,
        "service": SERVICE,
        "lane": 1,
        "register": 7,
        "offer": OFFER,
        "offer_serial": 3,
        "balance": 0,
        "claimed": 0,
        "withdrawing": 0,
        "position": BLOCK,
        "funded": False,
    }
    return ActionOpen(**values | fields)


def applied(channel: Channel, change: Change) -> Channel:
    """Apply a change that must not be refused."""
    after = transition(channel, change)
    assert not isinstance(after, Refusal), f"refused: {after.wire_name}"
    return after
