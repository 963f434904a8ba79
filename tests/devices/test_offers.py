import json
import random
from dataclasses import replace
from typing import Any

import pytest

from channels.signatures import key_address
from devices.offer_book import KNOWN_MAX, KnownOffer, OfferBook, OfferRejected
from devices.offers import OFFER_MAX, Offer, OfferInvalid, OfferTerms, Service, parse_offer, sign_offer
from tests.devices.test_vectors import cases
from tests.vectors.setting import OFFER, TERMS, key

KEY = key("receiverAuthorizer")
START = TERMS.valid_from


def offer(serial: int, **changes: Any) -> Offer:
    return sign_offer(replace(TERMS, serial=serial, **changes), KEY)


@pytest.mark.parametrize("case", cases("offers"))
def test_vectors(case: dict[str, Any]) -> None:
    payload = case["json"].encode()
    if not case["valid"]:
        with pytest.raises(OfferInvalid) as error:
            parse_offer(payload)
        assert case["problem"] in str(error.value)
        return
    parsed = parse_offer(payload)
    assert "0x" + parsed.id.hex() == case["id"]
    assert "0x" + parsed.digest.hex() == case["digest"]
    assert "0x" + parsed.signature.hex() == case["signature"]
    assert parsed.payload == payload
    assert parsed.services["grid-power"] == Service("Wh", 150_000_000_000, 100_000, "pay")
    assert parsed.services["solar-export"].direction == "earn"
    assert parsed.network == "eip155:31402"


def test_what_is_signed_is_what_is_parsed() -> None:
    assert parse_offer(OFFER.payload) == OFFER
    assert {name: getattr(OFFER, name) for name in OfferTerms.__dataclass_fields__} == {
        name: getattr(TERMS, name) for name in OfferTerms.__dataclass_fields__
    }


def test_the_lane_is_the_payer_modulo_the_lanes() -> None:
    three = replace(TERMS, lanes=(b"\x01" * 20, b"\x02" * 20, b"\x03" * 20))
    assert [three.lane(number.to_bytes(20, "big")) for number in (0, 1, 2, 3, 2**160 - 1)] == [0, 1, 2, 0, 0]


BAD: list[tuple[str, Any, str]] = [
    ("gateway", "a b", "gateway"),
    ("network", "eip155:0", "network"),
    ("network", "eip155:031402", "network"),
    ("network", "solana:1", "network"),
    ("asset", "0x" + "00" * 20, "zero"),
    ("asset", "0x" + "zz" * 20, "asset"),
    ("asset", "0x" + " 1" * 20, "asset"),
    ("assetName", "", "assetName"),
    ("lanes", {}, "lanes"),
    ("lanes", [{}], "lanes.payTo"),
    ("lanes", ["0x"], "lanes"),
    ("withdrawDelay", 899, "withdrawDelay"),
    ("withdrawDelay", 30 * 86_400 + 1, "withdrawDelay"),
    ("withdrawDelay", 86_400.0, "withdrawDelay"),
    ("withdrawDelay", True, "withdrawDelay"),
    ("minDeposit", "0", "minDeposit"),
    ("minDeposit", "01", "minDeposit"),
    ("minDeposit", str(2**128), "minDeposit"),
    ("maxAhead", "-1", "maxAhead"),
    ("grace", -1, "grace"),
    ("grace", None, "grace"),
    ("services", {}, "services"),
    ("services", [], "services"),
    ("services", {"": {}}, "services"),
    ("services", {"s": {"unit": "", "price": "1", "maxStep": "1"}}, "services.s.unit"),
    ("services", {"s": {"unit": "Wh", "price": "1", "maxStep": "1", "direction": "both"}}, "direction"),
    ("services", {"s": {"unit": "Wh", "price": "1"}}, "services.s.maxStep"),
    ("validUntil", START, "validUntil"),
]


@pytest.mark.parametrize(("name", "value", "problem"), BAD)
def test_what_no_offer_may_say(name: str, value: Any, problem: str) -> None:
    members = json.loads(OFFER.payload)
    with pytest.raises(OfferInvalid, match=problem):
        parse_offer(json.dumps({**members, name: value}).encode())


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"\xff",
        b"{",
        b'{"version":1,"version":1}',
        b'{"version":NaN}',
        b"[" * 3000,
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
        b'{"version":1,"network":"eip155:1","x":9007199254740993}',
        b'{"version":1,"network":"eip155:1","x":"\\ud800"}',
        b" " * (OFFER_MAX + 1),
    ],
)
def test_what_is_no_offer(payload: bytes) -> None:
    with pytest.raises(OfferInvalid):
        parse_offer(payload)


def test_mutated_offers_are_refused_and_never_raise_anything_else() -> None:
    seed = 20_251_122
    print(f"seed {seed}")
    random_ = random.Random(seed)
    accepted = 0
    for _ in range(2_000):
        payload = bytearray(OFFER.payload)
        for _ in range(random_.randint(1, 3)):
            at = random_.randrange(len(payload))
            payload[at : at + random_.randrange(3)] = random_.choice((b"", b" ", random_.randbytes(1), b'"', b"0"))
        try:
            accepted += parse_offer(bytes(payload)).digest == OFFER.digest
        except OfferInvalid:
            continue
    assert accepted > 0  # white space between values changes nothing


def test_only_the_authorizer_signs() -> None:
    with pytest.raises(OfferInvalid, match="signing key"):
        sign_offer(TERMS, key("stranger"))
    with pytest.raises(OfferInvalid, match="lanes"):
        sign_offer(replace(TERMS, lanes=()), KEY)
    assert key_address(KEY) == TERMS.receiver_authorizer


# The book


def test_an_empty_book_knows_nothing() -> None:
    book = OfferBook()
    assert book.current is None
    assert book.terms(OFFER.id, "grid-power", START) is None
    assert book.service("grid-power") is None


def test_terms_of_the_current_offer() -> None:
    book = OfferBook()
    book.supersede(OFFER, START)
    terms = book.terms(OFFER.id, "grid-power", START + 10)
    assert terms is not None
    assert (terms.offer, terms.serial, terms.price, terms.max_step, terms.max_ahead, terms.expired) == (
        OFFER.id, 1, 150_000_000_000, 100_000, 100_000, False,
    )  # fmt: skip
    assert book.terms(OFFER.id, "gas", START) is None
    assert book.terms(b"\0" * 16, "grid-power", START) is None
    assert book.current is OFFER
    assert book.service("solar-export") == ("Wh", "earn")


def test_a_superseded_offer_is_usable_for_its_grace() -> None:
    book = OfferBook()
    book.supersede(OFFER, START)
    second = offer(2, grace=5)
    book.supersede(second, START + 1000)
    expired = []
    for after in (0, 900, 901):
        terms = book.terms(OFFER.id, "water", START + 1000 + after)
        assert terms is not None
        expired.append(terms.expired)
    assert expired == [False, False, True]
    assert book.is_usable(OFFER.id, START + 1900)
    assert not book.is_usable(OFFER.id, START + 1901)
    assert book.current is second


def test_an_offer_ends_with_its_validity_too() -> None:
    book = OfferBook()
    short = offer(1, valid_until=START + 100)
    book.supersede(short, START)
    assert [book.is_usable(short.id, START + t) for t in (100, 1000, 1001)] == [True, True, False]
    # Superseded after its end, its grace does not begin again.
    book.supersede(offer(2), START + 500)
    assert not book.is_usable(short.id, START + 1001)


@pytest.mark.parametrize("chain_time", [START - 1, TERMS.valid_until + 1])
def test_an_offer_outside_its_validity_is_not_published(chain_time: int) -> None:
    with pytest.raises(OfferRejected, match="not valid"):
        OfferBook().supersede(OFFER, chain_time)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"serial": 1}, "does not rise"),
        ({"serial": 0}, "does not rise"),
        ({"gateway": "gw2"}, "never change"),
        ({"chain_id": 1}, "never change"),
        ({"asset": b"\x07" * 20}, "never change"),
        ({"services": {"water": Service("m3", 4, 10)}}, "water is metered in L for ever, not in m3"),
        ({"services": {"water": Service("L", 4, 10, "earn")}}, "water is pay for ever"),
    ],
)
def test_what_may_not_follow(changes: dict[str, Any], problem: str) -> None:
    book = OfferBook()
    book.supersede(OFFER, START)
    new = offer(**{"serial": 2, **changes})
    with pytest.raises(OfferRejected, match=problem):
        book.supersede(new, START + 1)
    assert book.current is OFFER
    assert new.id == OFFER.id or book.known.get(new.id) is None


def test_a_unit_is_remembered_when_the_service_was_not_sold_for_a_while() -> None:
    book = OfferBook()
    book.supersede(OFFER, START)
    book.supersede(offer(2, services={"grid-power": TERMS.services["grid-power"]}), START + 1)
    with pytest.raises(OfferRejected, match="for ever"):
        book.supersede(offer(3, services={"water": Service("m3", 4, 10)}), START + 2)


def test_a_book_from_the_journal_is_the_book_that_was() -> None:
    book = OfferBook()
    first, second = OFFER, offer(2)
    book.supersede(first, START)
    book.supersede(second, START + 50)
    again = OfferBook(reversed(list(book.known.values())))
    assert again.current == second
    assert again.known == book.known
    for at in (START + 950, START + 951):
        assert again.terms(first.id, "water", at) == book.terms(first.id, "water", at)
    with pytest.raises(OfferRejected, match="does not rise"):
        OfferBook([KnownOffer(first), KnownOffer(first)])


def test_the_book_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KNOWN_MAX >= 1000
    monkeypatch.setattr("devices.offer_book.KNOWN_MAX", 3)
    book = OfferBook()
    offers = [offer(serial) for serial in range(1, 6)]
    for number, new in enumerate(offers):
        book.supersede(new, START + number)
    assert list(book.known) == [new.id for new in offers[2:]]
    assert book.terms(offers[0].id, "water", START) is None
    assert book.terms(offers[2].id, "water", START + 4) is not None
