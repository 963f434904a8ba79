"""What simulated devices send in a measurement, signed and encoded before the clock runs."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cbor2

from benchmarks.population import CHAIN_ID, DEPOSIT, GATEWAY, SERVICE, Member
from channels.digests import channel_id, deposit_digest, voucher_digest
from channels.signatures import sign, signer
from channels.types import ChannelConfig, ChannelId, Digest, Network, Signature, TokenDomain
from devices.offers import Offer

NETWORK = Network(CHAIN_ID)
STEP = 1  # register units per reading
NANO = 10**9


@dataclass(slots=True)
class Channel:
    """A device's side of its channel: where its readings are."""

    member: Member
    id: ChannelId
    seq: int = 0
    register: int = 0
    sign: Callable[[Digest], Signature] = field(init=False)

    def __post_init__(self) -> None:
        self.sign = signer(self.member.key)


def topic(device: str, leaf: str, gateway: str = GATEWAY) -> str:
    """Return a device's topic."""
    return f"mp/1/{gateway}/{device}/{leaf}"


def config_of(member: Member, offer: Offer) -> ChannelConfig:
    """Return the configuration of the device's one channel under this offer; the same in every process."""
    return ChannelConfig(
        payer=member.address,
        payer_authorizer=member.address,
        receiver=offer.lanes[offer.lane(member.address)],
        receiver_authorizer=offer.receiver_authorizer,
        token=offer.asset,
        withdraw_delay=offer.withdraw_delay,
        salt=bytes(32),
    )


def open_payload(member: Member, offer: Offer) -> tuple[bytes, bytes]:
    """Return (channel id, `open` in JSON) with a signed deposit."""
    config = config_of(member, offer)
    identifier = channel_id(config, NETWORK)
    before = int(time.time()) + 86_400
    token = TokenDomain(offer.asset, offer.asset_name, offer.asset_version)
    digest = deposit_digest(identifier, member.address, DEPOSIT, 0, before, 0, token, CHAIN_ID)
    erc3009 = {
        "validAfter": "0",
        "validBefore": str(before),
        "salt": _hex(bytes(32)),
        "signature": _hex(sign(digest, member.key)),
    }
    document = {
        "offer": _hex(offer.id),
        "channelConfig": {
            "payer": _hex(config.payer),
            "payerAuthorizer": _hex(config.payer_authorizer),
            "receiver": _hex(config.receiver),
            "receiverAuthorizer": _hex(config.receiver_authorizer),
            "token": _hex(config.token),
            "withdrawDelay": config.withdraw_delay,
            "salt": _hex(config.salt),
        },
        "service": SERVICE,
        "register": "0",
        "deposit": {"amount": str(DEPOSIT), "authorization": {"erc3009Authorization": erc3009}},
    }
    return identifier, _json(document)


def reading_payload(channel: Channel, offer_id: bytes, price: int, encoding: str) -> bytes:
    """Return the channel's next `usage`, with the tight voucher; `price` is in 10⁻⁹ base units per register unit."""
    channel.seq += 1
    channel.register += STEP
    ceiling = channel.register * price // NANO
    signature = channel.sign(voucher_digest(channel.id, ceiling, NETWORK))
    now_ms = time.time_ns() // 1_000_000
    if encoding == "cbor":
        return cbor2.dumps(
            {
                1: channel.id,
                2: channel.seq,
                3: channel.register,
                4: now_ms,
                5: offer_id,
                6: ceiling,
                7: signature,
            }
        )
    return _json(
        {
            "channelId": _hex(channel.id),
            "seq": channel.seq,
            "register": channel.register,
            "time": now_ms,
            "offer": _hex(offer_id),
            "maxClaimableAmount": str(ceiling),
            "signature": _hex(signature),
        }
    )


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
