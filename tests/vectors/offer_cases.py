"""Retained offers."""

import json
from typing import Any

import rfc8785

from channels import signatures
from devices.offers import offer_digest
from tests.vectors.setting import OFFER, Case, compact, hexed, key


def _offer_case(name: str, members: Case, problem: str | None = None, **more: Any) -> Case:
    unsigned = {k: v for k, v in members.items() if k not in ("id", "signature")}
    case = {
        "name": name,
        "kind": "offer",
        "input": unsigned,
        "json": compact(members),
        "cbor": None,
        "canonical": rfc8785.dumps(unsigned).decode(),
        "digest": hexed(offer_digest(unsigned)),
        "id": members.get("id"),
        "signature": members.get("signature"),
        "valid": problem is None,
    }
    return {**case, "problem": problem, **more} if problem else {**case, **more}


def _resigned(members: Case, role: str = "receiverAuthorizer") -> Case:
    unsigned = {k: v for k, v in members.items() if k not in ("id", "signature")}
    digest = offer_digest(unsigned)
    return {
        **unsigned,
        "id": hexed(digest[:16]),
        "signature": hexed(signatures.sign(digest, key(role))),
    }


def offer_cases() -> list[Case]:
    """Return offers, good and bad."""
    good: Case = json.loads(OFFER.payload)
    unknown = _resigned({**good, "contact": "größe", "extra": {"z": [1, 2.5, None, True], "a": "\u20ac"}})
    cheaper = {**good, "services": {**good["services"], "water": {**good["services"]["water"], "price": "1"}}}
    upper = _resigned({**good, "asset": "0x" + good["asset"][2:].upper()})
    return [
        _offer_case("the demo's services", good),
        _offer_case("keys in another order", dict(reversed(good.items()))),
        _offer_case("unknown keys are part of the hash", unknown),
        _offer_case("the hash is over the text as it stands: upper-case hex", upper),
        _offer_case("a price changed afterwards", cheaper, "id"),
        _offer_case("the id of another offer", {**good, "id": unknown["id"]}, "id"),
        _offer_case("signed by a stranger", _resigned(good, "stranger"), "signature"),
        _offer_case("price is a number", _resigned(_with_price(good, 150_000_000_000)), "price"),
        _offer_case("price of 2^64", _resigned(_with_price(good, str(2**64))), "price"),
        _offer_case("serial is text", _resigned({**good, "serial": "1"}), "serial"),
        _offer_case("version 2", _resigned({**good, "version": 2}), "version"),
        _offer_case("no lanes", _resigned({**good, "lanes": []}), "lanes"),
    ]


def _with_price(good: Case, price: object) -> Case:
    return {**good, "services": {"grid-power": {**good["services"]["grid-power"], "price": price}}}
