"""Offers: whom a device believes."""

import json

import pytest
from sim_gateway import PRICES, SimGateway
from sim_harness import SECOND, Bench, identity

from firmware_sim.identity import Provisioning
from firmware_sim.keys import derive_key
from firmware_sim.offers import OFFER_BYTES_MAX, offer_hash, read_offer


def signed(document: dict, key) -> bytes:
    digest = offer_hash(document)
    document["id"] = "0x" + digest[:16].hex()
    document["signature"] = "0x" + key.sign(digest).hex()
    return json.dumps(document).encode()


def body(gateway: SimGateway) -> dict:
    return json.loads(gateway.offer_payload())


def test_fields_and_lane() -> None:
    gateway = SimGateway(lanes=3, max_step=500)
    offer = read_offer(gateway.offer_payload())
    assert (offer.gateway, offer.chain_id, offer.min_deposit, offer.grace) == ("gw1", 31402, 1_000_000, 900)
    assert offer.services["grid-power"].price == 150_000_000_000
    assert offer.services["grid-power"].max_step == 500
    assert offer.services["solar-export"].earns
    payer = bytes(19) + b"\x05"
    assert offer.lane_of(payer) == gateway.lanes[5 % 3]


def test_unknown_keys_count_in_the_id() -> None:
    gateway = SimGateway()
    document = body(gateway)
    document["ü"] = [None, True, "x"]
    with pytest.raises(ValueError, match="id"):
        read_offer(json.dumps(document).encode())
    assert read_offer(signed(document, gateway.key)).serial == 1


@pytest.mark.parametrize("key", ["serial", "asset", "minDeposit", "validUntil", "services", "lanes"])
def test_any_change_breaks_the_id(key: str) -> None:
    document = body(SimGateway())
    document[key] = {"serial": 9, "asset": "0x" + "11" * 20, "minDeposit": "1", "validUntil": 1}.get(key, [])
    with pytest.raises(ValueError):
        read_offer(json.dumps(document).encode())


def test_signed_by_somebody_else() -> None:
    document = body(SimGateway())
    with pytest.raises(ValueError, match="not signed"):
        read_offer(signed(document, derive_key(9, "thief")))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("network", "solana:1"),
        ("network", "eip155:01"),
        ("lanes", []),
        ("lanes", ["0x" + "11" * 20]),
        ("lanes", [{"payTo": "0x11"}]),
        ("minDeposit", "01"),
        ("minDeposit", 5),
        ("maxAhead", str(2**128)),
        ("grace", -1),
        ("grace", True),
        ("serial", "1"),
        ("services", []),
        ("services", {"x": {"unit": "Wh", "price": "1", "direction": "give"}}),
        ("services", {"x": {"unit": "Wh", "price": str(2**64)}}),
        ("services", {"x": {"price": "1"}}),
        ("gateway", None),
    ],
)
def test_malformed_though_well_signed(key: str, value: object) -> None:
    gateway = SimGateway()
    document = body(gateway)
    document[key] = value
    with pytest.raises(ValueError):
        read_offer(signed(document, gateway.key))


def test_bounds() -> None:
    with pytest.raises(ValueError, match="longer"):
        read_offer(b"{" + b" " * OFFER_BYTES_MAX + b"}")
    nested = b'{"version":1,"network":"eip155:1","lanes":[1],"x":' + b"[" * 900 + b"]" * 900
    with pytest.raises(ValueError):
        read_offer(nested + b',"id":"0x' + b"00" * 16 + b'","receiverAuthorizer":"0x' + b"00" * 20 + b'"}')
    with pytest.raises(ValueError):
        read_offer(b"[]")


@pytest.mark.parametrize(
    ("provisioning", "believed"),
    [
        (Provisioning(), True),
        (Provisioning(trust_first=False), False),
        (Provisioning(trust_first=False, authorizer=SimGateway().key.address), True),
        (Provisioning(authorizer=derive_key(3, "other").address), False),
        (Provisioning(network="eip155:1"), False),
        (Provisioning(network="eip155:31402"), True),
        (Provisioning(asset=bytes(20)), False),
    ],
)
def test_provisioning(provisioning: Provisioning, believed: bool) -> None:
    bench = Bench(provisioning=provisioning).start()
    assert bench.device.opened is believed
    assert bool(bench.leaves("open")) is believed


def test_first_offer_pins_the_authorizer() -> None:
    bench = Bench().start()
    other = SimGateway(seed=2)
    other.serial = 50
    assert bench.device.on_offer(other.publish_offer(PRICES), bench.now) == []
    assert bench.device.tariffs.current.authorizer == bench.gateway.key.address


def test_other_gateway_old_serial_and_expired_are_ignored() -> None:
    bench = Bench().start()
    first = bench.gateway.offer_payload()
    bench.publish_offer(PRICES | {"grid-power": ("Wh", 7, "pay")})
    current = bench.device.tariffs.current
    assert current.serial == 2
    for payload in (
        first,
        SimGateway(name="gw2").offer_payload(),
        bench.gateway.publish_offer(PRICES, valid_s=-1),
        b"garbage",
    ):
        assert bench.device.on_offer(payload, bench.now) == []
    assert bench.device.tariffs.current is current


def test_a_service_in_the_other_direction_is_not_the_devices() -> None:
    bench = Bench(identity(service="solar-export")).start()
    bench.read(1100)
    assert not bench.sent[1:]
    bench.now += SECOND
    assert not bench.device.opened
