"""TestUSD: ERC-20, permits and ERC-3009 in both forms, and its genesis storage."""

from typing import Any

import pytest

from settlement.contracts import artifact, mapping_slot, token_genesis_storage
from tests.contracts.chain import Contract, to_hex
from tests.contracts.world import (
    FOREVER,
    FUNDS,
    NOBODY,
    OTHER,
    OWNER,
    PAYER,
    RECEIVER,
    TOKEN_ADDRESS,
    Key,
    World,
    high_s,
)

MOVE = "WithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
MOVE_TYPES = ["address", "address", "uint256", "uint256", "uint256", "bytes32"]
NONCE = b"\x33" * 32
AUTHORIZED = (PAYER.address, RECEIVER.address, 50, 0, FOREVER, NONCE)


def overload(name: str, form: str) -> str:
    """A function with a signature in one of its two forms."""
    heads = {
        "transferWithAuthorization": "address,address,uint256,uint256,uint256,bytes32",
        "receiveWithAuthorization": "address,address,uint256,uint256,uint256,bytes32",
        "cancelAuthorization": "address,bytes32",
        "permit": "address,address,uint256,uint256",
    }
    return f"{name}({heads[name]},{'bytes' if form == 'bytes' else 'uint8,bytes32,bytes32'})"


def parts(form: str, signature: bytes) -> tuple[Any, ...]:
    if form == "bytes":
        return (signature,)
    return signature[64], signature[:32], signature[32:64]


def move_digest(world: World, kind: str, *fields: object) -> bytes:
    return world.token_digest(f"{kind}{MOVE}".encode(), MOVE_TYPES, *fields)


forms = pytest.mark.parametrize("form", ["bytes", "vrs"])
BAD_SIGNATURES = {
    "another key": lambda digest: OTHER.sign(digest),
    "high s": lambda digest: high_s(PAYER.sign(digest)),
    "v of 0 or 1": lambda digest: PAYER.sign(digest)[:64] + bytes([PAYER.sign(digest)[64] - 27]),
    "zeros": lambda digest: bytes(65),
}
bad_signatures = pytest.mark.parametrize("sign", BAD_SIGNATURES.values(), ids=BAD_SIGNATURES)


def test_what_it_says_of_itself(world: World) -> None:
    token = world.token
    facts = [token.read(name) for name in ("name", "symbol", "version", "decimals", "totalSupply", "owner")]
    assert facts == ["USD Coin", "tUSDC", "2", 6, FUNDS, OWNER.address]


# ------------------------------------------------------------------------------------------------ ERC-20


def test_transfer(world: World) -> None:
    receipt = world.token.send("transfer", RECEIVER.address, 30, sender=PAYER.address)
    moved = {"from": PAYER.address, "to": RECEIVER.address, "value": 30}
    assert world.token.events(receipt) == [("Transfer", moved)]
    assert (world.balance(PAYER.address), world.balance(RECEIVER.address)) == (FUNDS - 30, 30)
    world.token.send("transfer", PAYER.address, 5, sender=PAYER.address)
    assert world.balance(PAYER.address) == FUNDS - 30
    assert world.token.read("transfer", RECEIVER.address, 0, sender=NOBODY) is True


def test_transfer_refusals(world: World) -> None:
    refusal = world.token.refusal("transfer", PAYER.address, 1, sender=OTHER.address)
    assert refusal == "transfer amount exceeds balance"
    refusal = world.token.refusal("transfer", NOBODY, 1, sender=PAYER.address)
    assert refusal == "transfer to the zero address"
    assert world.token.refusal("approve", NOBODY, 1, sender=PAYER.address) == "approve to the zero address"


def test_allowance(world: World) -> None:
    receipt = world.token.send("approve", OTHER.address, 40, sender=PAYER.address)
    approved = {"owner": PAYER.address, "spender": OTHER.address, "value": 40}
    assert world.token.events(receipt) == [("Approval", approved)]
    pull = PAYER.address, RECEIVER.address
    world.token.send("transferFrom", *pull, 30, sender=OTHER.address)
    assert world.token.read("allowance", PAYER.address, OTHER.address) == 10
    refusal = world.token.refusal("transferFrom", *pull, 11, sender=OTHER.address)
    assert refusal == "transfer amount exceeds allowance"
    world.token.send("approve", OTHER.address, 2**256 - 1, sender=PAYER.address)
    world.token.send("transferFrom", *pull, 30, sender=OTHER.address)
    assert world.token.read("allowance", PAYER.address, OTHER.address) == 2**256 - 1
    assert world.balance(RECEIVER.address) == 60


def test_mint_is_the_owners(world: World) -> None:
    receipt = world.token.send("mint", OTHER.address, 9, sender=OWNER.address)
    assert world.token.events(receipt) == [("Transfer", {"from": NOBODY, "to": OTHER.address, "value": 9})]
    assert (world.balance(OTHER.address), world.token.read("totalSupply")) == (9, FUNDS + 9)
    for sender in (OTHER, PAYER):
        refusal = world.token.refusal("mint", OTHER.address, 1, sender=sender.address)
        assert refusal == "caller is not the owner"
    assert world.token.refusal("mint", NOBODY, 1, sender=OWNER.address) == "transfer to the zero address"
    assert world.token.refusal("mint", OTHER.address, 2**256 - 1, sender=OWNER.address) == ""
    world.chain.set_storage(TOKEN_ADDRESS, (2).to_bytes(32, "big"), bytes(32))
    assert world.token.refusal("mint", OTHER.address, 1, sender=OWNER.address) == "caller is not the owner"


# ------------------------------------------------------------------------------------------------ ERC-3009


@forms
@pytest.mark.parametrize(("kind", "sender"), [("Transfer", OTHER), ("Receive", RECEIVER)], ids=["transfer", "receive"])
def test_an_authorization(world: World, form: str, kind: str, sender: Key) -> None:
    name = overload(f"{kind.lower()}WithAuthorization", form)
    signature = PAYER.sign(move_digest(world, kind, *AUTHORIZED))
    arguments = *AUTHORIZED, *parts(form, signature)
    receipt = world.token.send(name, *arguments, sender=sender.address)
    assert world.token.events(receipt) == [
        ("AuthorizationUsed", {"authorizer": PAYER.address, "nonce": NONCE}),
        ("Transfer", {"from": PAYER.address, "to": RECEIVER.address, "value": 50}),
    ]
    assert world.balance(RECEIVER.address) == 50
    assert world.token.read("authorizationState", PAYER.address, NONCE) is True
    refusal = world.token.refusal(name, *arguments, sender=sender.address)
    assert refusal == "authorization is used or canceled"


@forms
def test_a_receive_authorization_is_the_receivers(world: World, form: str) -> None:
    signature = PAYER.sign(move_digest(world, "Receive", *AUTHORIZED))
    arguments = *AUTHORIZED, *parts(form, signature)
    receive, transfer = overload("receiveWithAuthorization", form), overload("transferWithAuthorization", form)
    assert world.token.refusal(receive, *arguments, sender=OTHER.address) == "caller is not the payee"
    assert world.token.refusal(transfer, *arguments, sender=OTHER.address) == "invalid signature"
    assert world.token.refusal(receive, *arguments, sender=RECEIVER.address) is None


@forms
@bad_signatures
@pytest.mark.parametrize("kind", ["Transfer", "Receive"])
def test_a_bad_signature_moves_nothing(world: World, form: str, kind: str, sign: Any) -> None:
    name = overload(f"{kind.lower()}WithAuthorization", form)
    arguments = *AUTHORIZED, *parts(form, sign(move_digest(world, kind, *AUTHORIZED)))
    assert world.token.refusal(name, *arguments, sender=RECEIVER.address) == "invalid signature"


@pytest.mark.parametrize("field", range(6))
def test_the_signature_covers_every_field(world: World, field: int) -> None:
    signature = PAYER.sign(move_digest(world, "Transfer", *AUTHORIZED))
    others = (OTHER.address, OTHER.address, 51, 1, FOREVER + 1, b"\x34" * 32)
    altered = (*AUTHORIZED[:field], others[field], *AUTHORIZED[field + 1 :])
    for form in ("bytes", "vrs"):
        name = overload("transferWithAuthorization", form)
        assert world.token.refusal(name, *altered, *parts(form, signature)) == "invalid signature"


@forms
def test_the_window_excludes_its_ends(world: World, form: str) -> None:
    now = world.chain.now
    for valid_after, valid_before, refusal in (
        (now - 1, now + 1, None),
        (now, now + 1, "authorization is not yet valid"),
        (now - 1, now, "authorization is expired"),
    ):
        fields = PAYER.address, RECEIVER.address, 1, valid_after, valid_before, NONCE
        signature = PAYER.sign(move_digest(world, "Transfer", *fields))
        name = overload("transferWithAuthorization", form)
        assert world.token.refusal(name, *fields, *parts(form, signature)) == refusal


@forms
def test_cancel(world: World, form: str) -> None:
    text, types = b"CancelAuthorization(address authorizer,bytes32 nonce)", ["address", "bytes32"]
    digest = world.token_digest(text, types, PAYER.address, NONCE)
    name = overload("cancelAuthorization", form)
    for bad in BAD_SIGNATURES.values():
        refusal = world.token.refusal(name, PAYER.address, NONCE, *parts(form, bad(digest)))
        assert refusal == "invalid signature"
    arguments = PAYER.address, NONCE, *parts(form, PAYER.sign(digest))
    receipt = world.token.send(name, *arguments, sender=OTHER.address)
    canceled = {"authorizer": PAYER.address, "nonce": NONCE}
    assert world.token.events(receipt) == [("AuthorizationCanceled", canceled)]
    assert world.token.refusal(name, *arguments) == "authorization is used or canceled"
    signature = PAYER.sign(move_digest(world, "Transfer", *AUTHORIZED))
    move = overload("transferWithAuthorization", form)
    refusal = world.token.refusal(move, *AUTHORIZED, *parts(form, signature))
    assert refusal == "authorization is used or canceled"


@forms
def test_permit(world: World, form: str) -> None:
    def digest(value: int, nonce: int, deadline: int) -> bytes:
        return world.token_digest(
            b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)",
            ["address", "address", "uint256", "uint256", "uint256"],
            PAYER.address, OTHER.address, value, nonce, deadline,
        )  # fmt: skip

    name, now = overload("permit", form), world.chain.now
    late = parts(form, PAYER.sign(digest(9, 0, now - 1)))
    assert world.token.refusal(name, PAYER.address, OTHER.address, 9, now - 1, *late) == "permit is expired"
    for bad in BAD_SIGNATURES.values():
        arguments = PAYER.address, OTHER.address, 9, FOREVER, *parts(form, bad(digest(9, 0, FOREVER)))
        assert world.token.refusal(name, *arguments) == "invalid signature"
    in_time = parts(form, PAYER.sign(digest(9, 0, now)))
    assert world.token.refusal(name, PAYER.address, OTHER.address, 9, now, *in_time) is None
    arguments = PAYER.address, OTHER.address, 9, FOREVER, *parts(form, PAYER.sign(digest(9, 0, FOREVER)))
    world.token.send(name, *arguments, sender=RECEIVER.address)
    assert world.token.read("allowance", PAYER.address, OTHER.address) == 9
    assert world.token.read("nonces", PAYER.address) == 1
    assert world.token.refusal(name, *arguments) == "invalid signature"
    for nobody in ((NOBODY, OTHER.address), (NOBODY, NOBODY)):
        assert world.token.refusal(name, *nobody, 9, FOREVER, *parts(form, bytes(65))) == "invalid signature"


def test_a_wallet_signs_the_bytes_form(world: World) -> None:
    wallet: Contract = world.place("Wallet", b"\x1a" * 20)
    wallet.send("set_up", OTHER.address, 0, sender=OTHER.address)
    world.token.send("transfer", wallet.address, 100, sender=PAYER.address)
    fields = wallet.address, RECEIVER.address, 50, 0, FOREVER, NONCE
    name = overload("transferWithAuthorization", "bytes")
    for size, refusal in ((65, None), (700, None), (2048, None), (2049, "")):
        signature = OTHER.sign(move_digest(world, "Transfer", *fields)).rjust(size, b"\1")
        assert world.token.refusal(name, *fields, signature) == refusal
    stranger = PAYER.sign(move_digest(world, "Transfer", *fields))
    assert world.token.refusal(name, *fields, stranger) == "invalid signature"
    for mode in (1, 2, 3):
        wallet.send("set_up", OTHER.address, mode, sender=OTHER.address)
        signature = OTHER.sign(move_digest(world, "Transfer", *fields))
        assert world.token.refusal(name, *fields, signature) == "invalid signature"


def test_calldata_beyond_a_call_is_ignored_and_short_calldata_refused(world: World) -> None:
    name = overload("transferWithAuthorization", "bytes")
    data = world.token.data(name, *AUTHORIZED, PAYER.sign(move_digest(world, "Transfer", *AUTHORIZED)))
    assert world.token.refusal_of(data + bytes(10_000)) is None
    for cut in (0, 3, 4, 36, 100, len(data) - 32):
        assert world.token.refusal_of(data[:cut]) is not None
    assert world.token.refusal_of(bytes.fromhex("deadbeef")) == "unknown function"


# ------------------------------------------------------------------------------------------------- storage


def test_genesis_storage(world: World) -> None:
    """The helper's slots are the ones the code reads."""
    layout = artifact("TestUSD").storage_layout
    assert [layout[name] for name in ("balanceOf", "totalSupply", "owner", "allowance")] == [0, 1, 2, 3]
    address = b"\x99" * 20
    world.chain.set_code(address, artifact("TestUSD").runtime)
    storage = token_genesis_storage({PAYER.address: 7, OTHER.address: 2**200, RECEIVER.address: 0}, OWNER.address)
    assert len(storage) == 4  # a zero balance needs no slot
    for slot, word in storage.items():
        world.chain.set_storage(address, slot, word)
    token = Contract(world.chain, address, artifact("TestUSD").abi)
    assert token.read("balanceOf", PAYER.address) == 7
    assert token.read("balanceOf", OTHER.address) == 2**200
    assert token.read("totalSupply") == 2**200 + 7
    assert token.read("owner") == OWNER.address
    world.token.send("approve", OTHER.address, 40, sender=PAYER.address)
    slot = mapping_slot(layout["allowance"], PAYER.address, OTHER.address)
    assert world.chain.storage(TOKEN_ADDRESS, slot) == (40).to_bytes(32, "big")
    assert slot == mapping_slot(mapping_slot(layout["allowance"], PAYER.address), OTHER.address)
    assert to_hex(world.token.address) == to_hex(TOKEN_ADDRESS)


@pytest.mark.parametrize("balances", [{b"\1" * 20: -1}, {b"\1" * 20: 2**255, b"\2" * 20: 2**255}])
def test_impossible_genesis_balances(balances: dict[bytes, int]) -> None:
    with pytest.raises(ValueError, match="balances"):
        token_genesis_storage(balances)


def test_an_over_long_key_has_no_slot() -> None:
    with pytest.raises(ValueError, match="33"):
        mapping_slot(0, bytes(33))
