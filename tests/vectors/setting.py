"""What all vectors share: keys, one channel, one earner account and one offer."""

import json
from hashlib import sha256
from typing import Any

from channels import digests, signatures
from channels.types import ChannelConfig, Network, TokenDomain
from devices.offers import OfferTerms, Service, sign_offer

Case = dict[str, Any]

NETWORK = Network(31402)
GATEWAY, DEVICE = "gw1", "meter-17"
TOKEN = TokenDomain(sha256(b"metergate vector token").digest()[:20], "USD Coin", "2")
CHAIN_TIME = 1_760_000_000


def key(name: str) -> bytes:
    """Return the private key of a role."""
    return sha256(f"metergate vector key {name}".encode()).digest()


ROLES = ("payer", "payerAuthorizer", "lane0", "lane1", "receiverAuthorizer", "payee", "meterKey", "stranger")
ADDRESS = {role: signatures.key_address(key(role)) for role in ROLES}
LANES = (ADDRESS["lane0"], ADDRESS["lane1"])
CONFIG = ChannelConfig(
    payer=ADDRESS["payer"],
    payer_authorizer=ADDRESS["payerAuthorizer"],
    receiver=LANES[int.from_bytes(ADDRESS["payer"], "big") % 2],
    receiver_authorizer=ADDRESS["receiverAuthorizer"],
    token=TOKEN.address,
    withdraw_delay=86_400,
    salt=sha256(b"metergate vector salt").digest(),
)
CHANNEL = digests.channel_id(CONFIG, NETWORK)
EARNER_SALT = sha256(b"metergate vector earner salt").digest()
ACCOUNT = digests.account_id(
    GATEWAY, DEVICE, "solar-export", ADDRESS["payee"], ADDRESS["meterKey"], EARNER_SALT, NETWORK
)


def hexed(value: bytes) -> str:
    """Return lower-case 0x-hex."""
    return "0x" + value.hex()


def compact(value: object) -> str:
    """Return JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def config_json(config: ChannelConfig) -> Case:
    """Return a channel configuration as `open` carries it."""
    return {
        "payer": hexed(config.payer),
        "payerAuthorizer": hexed(config.payer_authorizer),
        "receiver": hexed(config.receiver),
        "receiverAuthorizer": hexed(config.receiver_authorizer),
        "token": hexed(config.token),
        "withdrawDelay": config.withdraw_delay,
        "salt": hexed(config.salt),
    }


TERMS = OfferTerms(
    serial=1,
    gateway=GATEWAY,
    chain_id=NETWORK.chain_id,
    asset=TOKEN.address,
    asset_name=TOKEN.name,
    asset_version=TOKEN.version,
    lanes=LANES,
    receiver_authorizer=ADDRESS["receiverAuthorizer"],
    withdraw_delay=86_400,
    min_deposit=1_000_000,
    max_ahead=100_000,
    grace=900,
    services={
        "grid-power": Service("Wh", 150_000_000_000, 100_000),
        "ev-charging": Service("Wh", 250_000_000_000, 100_000),
        "water": Service("L", 4_000_000_000_000, 10_000),
        "solar-export": Service("Wh", 80_000_000_000, 100_000, "earn"),
        "air-quality": Service("reading", 500_000_000_000, 100, "earn"),
    },
    valid_from=CHAIN_TIME,
    valid_until=CHAIN_TIME + 30 * 86_400,
)
OFFER = sign_offer(TERMS, key("receiverAuthorizer"))
