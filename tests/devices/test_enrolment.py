"""The rules of `open`: one row per refusal, in the order in which they are checked."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from msgspec.structs import replace as changed

from channels.digests import account_id, channel_id, deposit_digest, deposit_nonce, open_digest
from channels.refusals import Refusal
from channels.signatures import HALF_ORDER, ORDER, sign
from channels.types import U128_MAX, Authorization, ChannelConfig
from devices.codec import decode
from devices.enrolment import (
    AlreadyOpen,
    EarnerGrant,
    EnrolmentPolicy,
    OpenGrant,
    check_open,
    check_open_earner,
    earner_id,
    offer_network,
    open_id,
)
from devices.messages import Open, OpenEarner
from devices.offer_book import OfferBook
from devices.offers import sign_offer
from devices.registry import ACCOUNTS_PER_DEVICE_MAX, CHANNELS_PER_DEVICE_MAX, Registry
from tests.vectors.message_cases import open_channel, open_earner
from tests.vectors.setting import (
    ACCOUNT,
    ADDRESS,
    CHAIN_TIME,
    CHANNEL,
    CONFIG,
    DEVICE,
    GATEWAY,
    NETWORK,
    OFFER,
    TERMS,
    TOKEN,
    compact,
    key,
)

NOW = CHAIN_TIME + 10
OPEN = decode("open", compact(open_channel()).encode())
EARNER = decode("open", compact(open_earner()).encode())
assert isinstance(OPEN, Open)
assert isinstance(EARNER, OpenEarner)


def deposit(config: ChannelConfig, amount: int, **given: Any) -> Authorization:
    terms = {"valid_after": 0, "valid_before": CHAIN_TIME + 3600, "salt": 1, "signer": "payer", **given}
    signer = terms.pop("signer")
    channel = channel_id(config, NETWORK)
    digest = deposit_digest(
        channel,
        config.payer,
        amount,
        terms["valid_after"],
        terms["valid_before"],
        terms["salt"],
        TOKEN,
        NETWORK.chain_id,
    )
    return Authorization(terms["valid_after"], terms["valid_before"], terms["salt"], sign(digest, key(signer)))


def opening(config: ChannelConfig = CONFIG, amount: int = 5_000_000, **given: Any) -> Open:
    assert isinstance(OPEN, Open)
    return changed(OPEN, config=config, amount=amount, authorization=deposit(config, amount, **given), binding=None)


def binding(config: ChannelConfig = CONFIG, device: str = DEVICE, register: int = 123_456, **given: Any) -> bytes:
    channel = channel_id(config, NETWORK)
    gateway, service = given.get("gateway", GATEWAY), given.get("service", "grid-power")
    digest = open_digest(channel, gateway, device, service, register, NETWORK)
    return sign(digest, key(given.get("signer", "payerAuthorizer")))


@dataclass
class World:
    book: OfferBook = field(default_factory=OfferBook)
    registry: Registry = field(default_factory=Registry)
    demo: bool = True
    now: int = NOW
    device: str = DEVICE

    def __post_init__(self) -> None:
        if self.book.current is None:
            self.book.supersede(OFFER, CHAIN_TIME)

    def open(self, message: Open) -> object:
        policy = EnrolmentPolicy(demo=self.demo)
        return check_open(message, self.device, self.book, self.registry, policy, self.now)

    def earn(self, message: OpenEarner) -> object:
        policy = EnrolmentPolicy(demo=self.demo)
        return check_open_earner(message, self.device, self.book, self.registry, policy, self.now)


def high_s(signature: bytes) -> bytes:
    s = ORDER - int.from_bytes(signature[32:64], "big")
    assert s > HALF_ORDER
    return signature[:32] + s.to_bytes(32, "big") + bytes((55 - signature[64],))


def test_a_correct_open_is_granted() -> None:
    world = World()
    assert isinstance(OPEN, Open)
    grant = world.open(OPEN)
    assert grant == OpenGrant(
        id=CHANNEL,
        config=CONFIG,
        device=DEVICE,
        service="grid-power",
        register=123_456,
        lane=int.from_bytes(ADDRESS["payer"], "big") % 2,
        offer=OFFER.id,
        offer_serial=1,
        amount=5_000_000,
        authorization=OPEN.authorization,
        nonce=deposit_nonce(CHANNEL, 1),
    )
    assert open_id(OPEN, offer_network(OFFER)) == CHANNEL
    assert isinstance(world.open(changed(OPEN, offer=None)), OpenGrant)


def second_offer(world: World) -> bytes:
    new = sign_offer(replace(TERMS, serial=2), key("receiverAuthorizer"))
    world.book.supersede(new, CHAIN_TIME + 1)
    return new.id


def test_an_open_names_its_offer_or_means_the_current_one() -> None:
    world = World()
    current = second_offer(world)
    named = world.open(opening())
    assert isinstance(named, OpenGrant)
    assert named.offer == OFFER.id
    unnamed = world.open(changed(opening(), offer=None))
    assert isinstance(unnamed, OpenGrant)
    assert (unnamed.offer, unnamed.offer_serial) == (current, 2)
    world.now = CHAIN_TIME + 902
    assert world.open(opening()) is Refusal.OFFER_EXPIRED


Break = Callable[[World, Open], Open]


def _with(**changes: Any) -> Break:
    return lambda world, message: changed(message, **changes)


def _config(**changes: Any) -> Break:
    def apply(world: World, message: Open) -> Open:
        config = replace(message.config, **changes)
        return changed(message, config=config, authorization=deposit(config, message.amount))

    return apply


def _expire(world: World, message: Open) -> Open:
    world.now = TERMS.valid_until + TERMS.grace + 1
    return message


def _taken(device: str, service: str) -> Break:
    def apply(world: World, message: Open) -> Open:
        world.registry.bind_channel(channel_id(message.config, NETWORK), device, service)
        return message

    return apply


def _reserved(world: World, message: Open) -> Open:
    world.registry.begin_deposit("other", channel_id(message.config, NETWORK), "grid-power", bytes(32))
    return message


def _not_demo(world: World, message: Open) -> Open:
    world.demo = False
    return message


def _full(world: World, message: Open) -> Open:
    world.registry.devices_max = 0
    return message


def _many_channels(world: World, message: Open) -> Open:
    for number in range(CHANNELS_PER_DEVICE_MAX):
        world.registry.bind_channel(bytes([number]) * 32, DEVICE, "grid-power")
    return message


def _pending(world: World, message: Open) -> Open:
    world.registry.begin_deposit(DEVICE, b"\x77" * 32, "water", bytes(32))
    return message


def _amount(amount: int) -> Break:
    return lambda world, message: opening(message.config, amount)


def _deposit(**given: Any) -> Break:
    return lambda world, message: changed(message, authorization=deposit(message.config, message.amount, **given))


def _signature(make: Callable[[bytes], bytes]) -> Break:
    def apply(world: World, message: Open) -> Open:
        given = message.authorization
        return changed(message, authorization=replace(given, signature=make(given.signature)))

    return apply


# In the order of the checks. Each breaks one thing of a correct `open`.
ROWS: list[tuple[str, Refusal, Break]] = [
    ("unknown offer", Refusal.OFFER_UNKNOWN, _with(offer=b"\x01" * 16)),
    ("expired offer", Refusal.OFFER_EXPIRED, _expire),
    ("unknown service", Refusal.SERVICE_UNKNOWN, _with(service="gas")),
    ("earning service", Refusal.SERVICE_UNKNOWN, _with(service="solar-export")),
    ("token", Refusal.CONFIG_MISMATCH, _config(token=b"\x01" * 20)),
    ("delay", Refusal.CONFIG_MISMATCH, _config(withdraw_delay=86_401)),
    ("delay below the contract's", Refusal.CONFIG_MISMATCH, _config(withdraw_delay=899)),
    ("authorizer", Refusal.CONFIG_MISMATCH, _config(receiver_authorizer=ADDRESS["stranger"])),
    ("another's receiver", Refusal.CONFIG_MISMATCH, _config(receiver=ADDRESS["stranger"])),
    (
        "the other lane",
        Refusal.CONFIG_MISMATCH,
        _config(receiver=next(lane for lane in TERMS.lanes if lane != CONFIG.receiver)),
    ),
    ("zero payerAuthorizer", Refusal.CONFIG_MISMATCH, _config(payer_authorizer=bytes(20))),
    ("zero payer", Refusal.CONFIG_MISMATCH, _config(payer=bytes(20), receiver=TERMS.lanes[0])),
    ("bound to another device", Refusal.CHANNEL_TAKEN, _taken("other", "grid-power")),
    ("bound to another service", Refusal.CHANNEL_TAKEN, _taken(DEVICE, "water")),
    ("being opened by another device", Refusal.CHANNEL_TAKEN, _reserved),
    ("binding of a stranger", Refusal.BAD_SIGNATURE, _with(binding=binding(signer="stranger"))),
    ("binding of another device", Refusal.BAD_SIGNATURE, _with(binding=binding(device="other"))),
    ("binding at another register", Refusal.BAD_SIGNATURE, _with(binding=binding(register=0))),
    ("binding to another service", Refusal.BAD_SIGNATURE, _with(binding=binding(service="water"))),
    ("binding of another gateway", Refusal.BAD_SIGNATURE, _with(binding=binding(gateway="gw2"))),
    ("binding with high s", Refusal.BAD_SIGNATURE, _with(binding=high_s(binding()))),
    ("nobody enrolled the device", Refusal.NOT_ENROLLED, _not_demo),
    ("too many devices", Refusal.LIMIT, _full),
    ("too many channels", Refusal.LIMIT, _many_channels),
    ("another deposit in flight", Refusal.DEPOSIT_PENDING, _pending),
    ("below the least deposit", Refusal.DEPOSIT_TOO_SMALL, _amount(999_999)),
    ("nothing", Refusal.DEPOSIT_TOO_SMALL, _amount(0)),
    ("not yet valid", Refusal.DEPOSIT_INVALID, _deposit(valid_after=NOW)),
    ("about to expire", Refusal.DEPOSIT_INVALID, _deposit(valid_before=NOW + 60)),
    ("a stranger's deposit", Refusal.DEPOSIT_INVALID, _deposit(signer="stranger")),
    ("the authorizer's deposit", Refusal.DEPOSIT_INVALID, _deposit(signer="payerAuthorizer")),
    ("deposit with high s", Refusal.DEPOSIT_INVALID, _signature(high_s)),
    ("deposit with v 0", Refusal.DEPOSIT_INVALID, _signature(lambda s: s[:64] + bytes((s[64] - 27,)))),
    ("another amount", Refusal.DEPOSIT_INVALID, _with(amount=5_000_001)),
]


@pytest.mark.parametrize(("name", "refusal", "broken"), ROWS, ids=[row[0] for row in ROWS])
def test_each_refusal(name: str, refusal: Refusal, broken: Break) -> None:
    world = World()
    assert isinstance(world.open(opening()), OpenGrant)
    assert world.open(broken(world, opening())) is refusal


def test_the_first_that_fails_names_the_refusal() -> None:
    order = list(dict.fromkeys(row[1] for row in ROWS))
    assert order == [
        Refusal.OFFER_UNKNOWN,
        Refusal.OFFER_EXPIRED,
        Refusal.SERVICE_UNKNOWN,
        Refusal.CONFIG_MISMATCH,
        Refusal.CHANNEL_TAKEN,
        Refusal.BAD_SIGNATURE,
        Refusal.NOT_ENROLLED,
        Refusal.LIMIT,
        Refusal.DEPOSIT_PENDING,
        Refusal.DEPOSIT_TOO_SMALL,
        Refusal.DEPOSIT_INVALID,
    ]
    # One breaker per reason; each pair together gives the earlier one's.
    one_each = {
        Refusal.OFFER_EXPIRED: _expire,
        Refusal.SERVICE_UNKNOWN: _with(service="gas"),
        Refusal.CONFIG_MISMATCH: _with(config=replace(CONFIG, withdraw_delay=86_401)),
        Refusal.BAD_SIGNATURE: _with(binding=binding(signer="stranger")),
        Refusal.NOT_ENROLLED: _not_demo,
        Refusal.LIMIT: _full,
        Refusal.DEPOSIT_PENDING: _pending,
        Refusal.DEPOSIT_TOO_SMALL: _with(amount=1),
        Refusal.DEPOSIT_INVALID: _with(authorization=replace(opening().authorization, signature=bytes(65))),
    }
    for first, earlier in one_each.items():
        for second, later in one_each.items():
            if order.index(first) < order.index(second):
                world = World()
                message = later(world, opening())
                assert world.open(earlier(world, message)) is first, (first, second)


def test_the_edges_of_the_authorization_and_the_amount() -> None:
    world = World()
    assert isinstance(world.open(opening(valid_after=NOW - 1, valid_before=NOW + 61)), OpenGrant)
    assert isinstance(world.open(opening(valid_before=2**256 - 1, salt=2**256 - 1)), OpenGrant)
    assert isinstance(world.open(opening(amount=1_000_000)), OpenGrant)
    assert isinstance(world.open(opening(amount=U128_MAX)), OpenGrant)


def test_outside_demo_mode() -> None:
    world = World(demo=False)
    bound = changed(opening(), binding=binding())
    assert world.open(bound) is Refusal.NOT_ENROLLED  # the operator does not know the device
    world.registry.add_device(DEVICE)
    assert world.open(opening()) is Refusal.NOT_ENROLLED  # no payer enrolled, no binding
    assert isinstance(world.open(bound), OpenGrant)
    world.registry.enrol_payer(DEVICE, ADDRESS["stranger"])
    assert world.open(opening()) is Refusal.NOT_ENROLLED
    world.registry.enrol_payer(DEVICE, ADDRESS["payer"])
    assert isinstance(world.open(opening()), OpenGrant)
    # Enrolled or not, a binding that is given must be right.
    assert world.open(changed(opening(), binding=binding(device="other"))) is Refusal.BAD_SIGNATURE


def test_top_ups() -> None:
    world = World()
    world.registry.begin_deposit(DEVICE, CHANNEL, "grid-power", deposit_nonce(CHANNEL, 1))
    assert world.open(opening()) is Refusal.DEPOSIT_PENDING
    world.registry.deposit_final(DEVICE)
    assert world.open(opening()) == AlreadyOpen(CHANNEL)
    assert isinstance(world.open(opening(amount=1, salt=2)), OpenGrant)
    assert world.open(opening(amount=0, salt=2)) is Refusal.DEPOSIT_TOO_SMALL
    # A device at its bound may still top up.
    for number in range(CHANNELS_PER_DEVICE_MAX - 1):
        world.registry.bind_channel(bytes([number]) * 32, DEVICE, "grid-power")
    assert isinstance(world.open(opening(amount=1, salt=2)), OpenGrant)


def test_a_repeated_open_is_a_duplicate_even_when_its_offer_and_authorization_have_expired() -> None:
    world = World()
    world.registry.bind_channel(CHANNEL, DEVICE, "grid-power")
    world.registry.remember_deposit(CHANNEL, deposit_nonce(CHANNEL, 1))
    world.now = TERMS.valid_until + 10**6
    assert world.open(opening()) == AlreadyOpen(CHANNEL)
    world.device = "other"
    assert world.open(opening()) is Refusal.OFFER_EXPIRED


def test_before_the_first_offer_nothing_opens() -> None:
    policy = EnrolmentPolicy(demo=True)
    assert isinstance(EARNER, OpenEarner)
    assert check_open(opening(), DEVICE, OfferBook(), Registry(), policy, NOW) is Refusal.OFFER_UNKNOWN
    assert check_open_earner(EARNER, DEVICE, OfferBook(), Registry(), policy, NOW) is Refusal.OFFER_UNKNOWN


# Earner accounts


def earner(**given: Any) -> OpenEarner:
    assert isinstance(EARNER, OpenEarner)
    signer = given.pop("signer", "payee")
    message = changed(EARNER, **given)
    digest = account_id(GATEWAY, DEVICE, message.service, message.payee, message.meter_key, message.salt, NETWORK)
    return changed(message, signature=sign(digest, key(signer)))


def test_a_correct_earner_is_granted() -> None:
    world = World()
    assert isinstance(EARNER, OpenEarner)
    assert earner_id(EARNER, GATEWAY, DEVICE, NETWORK) == ACCOUNT
    assert world.earn(EARNER) == EarnerGrant(
        id=ACCOUNT,
        device=DEVICE,
        service="solar-export",
        register=900,
        payee=ADDRESS["payee"],
        meter_key=ADDRESS["meterKey"],
        offer=OFFER.id,
        offer_serial=1,
    )
    assert isinstance(world.earn(changed(EARNER, offer=None)), EarnerGrant)


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (earner(offer=b"\x01" * 16), Refusal.OFFER_UNKNOWN),
        (earner(service="gas"), Refusal.SERVICE_UNKNOWN),
        (earner(service="grid-power"), Refusal.SERVICE_UNKNOWN),
        (earner(payee=bytes(20)), Refusal.CONFIG_MISMATCH),
        (earner(meter_key=bytes(20)), Refusal.CONFIG_MISMATCH),
        (earner(signer="meterKey"), Refusal.BAD_SIGNATURE),
        (changed(earner(), meter_key=ADDRESS["stranger"]), Refusal.BAD_SIGNATURE),
        (changed(earner(), signature=high_s(earner().signature)), Refusal.BAD_SIGNATURE),
    ],
)
def test_earner_refusals(message: OpenEarner, refusal: Refusal) -> None:
    assert World().earn(message) is refusal


def test_earner_enrolment_and_bounds() -> None:
    world = World(demo=False)
    world.registry.add_device(DEVICE)
    assert world.earn(earner()) is Refusal.NOT_ENROLLED
    world.registry.enrol_account(ACCOUNT)
    assert isinstance(world.earn(earner()), EarnerGrant)
    world.registry.devices_max = 1
    world.device = "other"  # the id names the device: the signature is for another account
    assert world.earn(earner()) is Refusal.BAD_SIGNATURE
    world.device = DEVICE
    for number in range(ACCOUNTS_PER_DEVICE_MAX):
        world.registry.bind_account(bytes([number]) * 32, DEVICE, "solar-export")
    assert world.earn(earner()) is Refusal.LIMIT
    full = World()
    full.registry.devices_max = 0
    assert full.earn(earner()) is Refusal.LIMIT


def test_an_open_account_is_a_duplicate_at_any_time() -> None:
    world = World()
    world.registry.bind_account(ACCOUNT, DEVICE, "solar-export")
    world.now = TERMS.valid_until + 10**6
    assert world.earn(earner()) == AlreadyOpen(ACCOUNT)
    assert world.earn(earner(salt=b"\x02" * 32)) is Refusal.OFFER_EXPIRED
