"""The golden vectors are what the generator makes, and what a library that is not ours says, too."""

import json
from hashlib import sha256
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from channels import pricing
from channels.signatures import is_signed_by
from tests.vectors.generate import HERE, build

DOMAIN_FIELDS = [
    {"name": "name", "type": "string"},
    {"name": "version", "type": "string"},
    {"name": "chainId", "type": "uint256"},
    {"name": "verifyingContract", "type": "address"},
]
TYPES = {
    "channelId": "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,"
    "address token,uint40 withdrawDelay,bytes32 salt)",
    "voucher": "Voucher(bytes32 channelId,uint128 maxClaimableAmount)",
    "refund": "Refund(bytes32 channelId,uint256 nonce,uint128 amount)",
    "open": "Open(bytes32 channelId,string gateway,string device,string service,uint64 register)",
    "reading": "Reading(bytes32 id,uint64 seq,uint64 register,uint64 time,bytes16 offer,uint128 maxClaimableAmount)",
    "close": "Close(bytes32 channelId,string gateway,string device,uint64 seq)",
    "earner": "Earner(string gateway,string device,string service,address payee,address meterKey,bytes32 salt)",
    "deposit": "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
    "uint256 validBefore,bytes32 nonce)",
    "claimBatch": "ClaimBatch(ClaimEntry[] claims)",
}
CLAIM_ENTRY = "ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return content


def cases(name: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in load(name)["cases"]]


@pytest.mark.parametrize("name", sorted(build()))
def test_the_files_are_what_the_generator_makes(name: str) -> None:
    assert (HERE / name).read_text(encoding="utf-8") == build()[name], "run: python -m tests.vectors.generate"


def _fields(signature: str) -> list[dict[str, str]]:
    inner = signature[signature.index("(") + 1 : -1]
    return [dict(zip(("type", "name"), field.split(), strict=True)) for field in inner.split(",")]


def _value(kind: str, value: Any) -> Any:
    if kind.startswith("uint"):
        return int(value)
    if kind.startswith("bytes"):
        return bytes.fromhex(value[2:])
    if kind == "ClaimEntry[]":
        return [{f["name"]: _value(f["type"], row[f["name"]]) for f in _fields(CLAIM_ENTRY)} for row in value]
    return value


def _typed(case: dict[str, Any], setting: dict[str, Any]) -> Any:
    kind, given = case["kind"], dict(case["input"])
    domain = {
        "name": "x402 Batch Settlement" if kind in ("channelId", "voucher", "refund", "claimBatch") else "Metergate",
        "version": "1",
        "chainId": given.get("chainId", setting["chainId"]),
        "verifyingContract": setting["settlement"],
    }
    if kind == "channelId":
        given = given["config"]
    if kind == "deposit":
        token = given["token"]
        domain |= {"name": token["name"], "version": token["version"], "verifyingContract": token["address"]}
        given |= {"from": given["payer"], "to": given["collector"], "value": given["amount"], "nonce": case["nonce"]}
    name = TYPES[kind].partition("(")[0]
    types = {"EIP712Domain": DOMAIN_FIELDS, name: _fields(TYPES[kind])}
    if kind == "claimBatch":
        types["ClaimEntry"] = _fields(CLAIM_ENTRY)
    message = {field["name"]: _value(field["type"], given[field["name"]]) for field in types[name]}
    return encode_typed_data(full_message={"types": types, "primaryType": name, "domain": domain, "message": message})


@pytest.mark.parametrize("case", cases("digests"))
def test_digests_and_signatures_are_eth_accounts(case: dict[str, Any]) -> None:
    setting = load("digests")["setting"]
    signable = _typed(case, setting)
    if "signer" not in case:
        made = Account.sign_message(signable, setting["keys"]["payer"]["private"])
        assert "0x" + made.message_hash.hex().removeprefix("0x") == case["id"]
        return
    made = Account.sign_message(signable, setting["keys"][case["signer"]]["private"])
    assert "0x" + made.message_hash.hex().removeprefix("0x") == case["digest"]
    assert "0x" + made.signature.hex().removeprefix("0x") == case["signature"]
    assert (
        Account.from_key(setting["keys"][case["signer"]]["private"]).address.lower()
        == (setting["keys"][case["signer"]]["address"])
    )
    assert case.get("id", case["digest"]) == case["digest"]


@pytest.mark.parametrize("case", cases("signatures"))
def test_signatures(case: dict[str, Any]) -> None:
    digest, signature, signer = (bytes.fromhex(case["input"][k][2:]) for k in ("digest", "signature", "signer"))
    assert is_signed_by(digest, signature, signer) is case["valid"]


@pytest.mark.parametrize("case", cases("pricing"))
def test_pricing_agrees_with_one_division_at_the_end(case: dict[str, Any]) -> None:
    given = case["input"]
    if case["kind"] == "fee":
        unit, exact = pricing.BASIS_POINTS, [int(amount) * given["basisPoints"] for amount in given["earned"]]
        total = "fee"
    else:
        unit, total, sum_, at, exact = pricing.NANO, "charged", 0, int(given["register"]), []
        for reading in given["readings"]:
            sum_ += (int(reading["register"]) - at) * int(reading["price"])
            at = int(reading["register"])
            exact.append(sum_)
    assert case["results"] == [{total: str(e // unit), "remainder": str(e % unit)} for e in exact]


@pytest.mark.parametrize("case", cases("offers"))
def test_offer_digests_are_sha256_of_the_canonical_form(case: dict[str, Any]) -> None:
    digest = sha256(case["canonical"].encode()).hexdigest()
    assert "0x" + digest == case["digest"]
    assert json.loads(case["canonical"]) == case["input"]
    if case["valid"]:
        setting = load("offers")["setting"]
        assert case["id"] == case["digest"][:34]
        signer = Account._recover_hash(bytes.fromhex(digest), signature=case["signature"])
        assert signer.lower() == setting["keys"]["receiverAuthorizer"]["address"]
