"""Statements: their digests against stock libraries, their sums, and what is found in those that lie."""

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from eth_account import Account as EthAccount
from eth_account.messages import encode_typed_data
from eth_utils import keccak as oracle_keccak
from msgspec.structs import replace

from channels.signatures import key_address
from settlement.statement_checks import prove, verify
from settlement.statement_json import NotAStatement, read, read_text, to_json
from settlement.statements import FIRST, TYPES, Signed, add_up, statement_digest
from tests.rpc.served import package
from tests.support.statement_life import GATEWAY, GATEWAY_KEY, PARTY, Life, altered, signed_by

HERE = Path(__file__).parent
OTHER_KEY = b"\x07" * 32


def faults_of(*statements: Signed) -> str:
    """Return all that is found, as one text."""
    return "\n".join(prove(statements).faults)


# -- the digest is EIP-712's --


@pytest.mark.parametrize("seed", range(12))
def test_eth_account_makes_the_same_digest_and_finds_the_signer(seed: int) -> None:
    rng = random.Random(seed)
    life = Life(seed, channels=rng.randrange(4), accounts=rng.randrange(4))
    for signed in life.cycles(3):
        document = json.loads(json.dumps(to_json(signed)))
        signature = document.pop("signature")
        message = encode_typed_data(full_message=document)
        assert oracle_keccak(b"\x19\x01" + message.header + message.body) == statement_digest(signed.statement)
        assert EthAccount.recover_message(message, signature=signature).lower() == f"0x{GATEWAY.hex()}"


def test_viem_makes_the_same_digest_and_finds_the_signer() -> None:
    statements = Life(5, channels=3, accounts=1).cycles(3) + Life(6, channels=0, accounts=2).cycles(1)
    modules = package("viem/package.json").parents[1]
    documents = json.dumps([to_json(signed) for signed in statements])
    done = subprocess.run(
        ["node", HERE / "statement_viem.mjs", modules], input=documents, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        {"digest": f"0x{statement_digest(signed.statement).hex()}", "signer": f"0x{GATEWAY.hex()}"}
        for signed in statements
    ]


def test_the_protocol_document_has_these_types() -> None:
    page = (HERE.parents[1] / "docs" / "protocol.md").read_text(encoding="utf-8")
    written = "".join(page[page.index("## 10. Statements") :].split())
    for name, members in TYPES.items():
        text = f"{name}({','.join(f'{kind} {member}' for member, kind in members)})"
        assert "".join(text.split()) in written, name


# -- honest ones --


@pytest.mark.parametrize("seed", range(20))
def test_a_chain_of_statements_holds(seed: int) -> None:
    statements = Life(seed).cycles(12)
    assert len(statements) > 6
    documents = [to_json(signed) for signed in statements]
    assert verify(documents, GATEWAY) == []
    assert read_text(json.dumps(documents).encode()) == statements
    # Each alone, any run of them, and any order of files.
    assert all(verify(document) == [] for document in documents)
    assert faults_of(*statements[3:7]) == ""
    shuffled = statements * 2
    random.Random(seed).shuffle(shuffled)
    proof = prove(shuffled, GATEWAY)
    assert (proof.statements, proof.faults) == (tuple(statements), ())


@pytest.mark.parametrize("seed", range(5))
def test_the_difference_of_two_is_what_happened_between(seed: int) -> None:
    """Sums over the steps are the last one's totals, and every step adds up in itself."""
    life = Life(seed)
    statements = life.cycles(9)
    sums = dict.fromkeys(("charged", "offset", "claimed", "forgiven", "unclaimed", "earned", "fee", "net"), 0)
    before = add_up((), (), 0, 0)
    for signed in statements:
        totals = signed.statement.totals
        step = {name: getattr(totals, name) - getattr(before, name) for name in sums}
        assert step["charged"] == step["claimed"] + step["offset"] + step["forgiven"] + step["unclaimed"]
        assert step["earned"] == step["fee"] + step["offset"] + step["net"]
        sums = {name: sums[name] + step[name] for name in sums}
        before = totals
    assert sums == {name: getattr(before, name) for name in sums}
    assert sums["charged"] == sum(channel.charged for channel in life.channels)
    assert before.payable == sum(account.net for account in life.accounts) - life.paid


def test_nothing_new_is_no_statement() -> None:
    life = Life(1)
    assert life.cycle() is not None
    assert life.issue() is None
    channel, account = life.channels[0], life.accounts[0]
    for changed in (
        {"channels": [replace(channel, ceiling=channel.ceiling + 1), *life.channels[1:]]},
        {"channels": [replace(channel, balance=channel.balance + 1), *life.channels[1:]]},
        {"accounts": [replace(account, meter=replace(account.meter, register=10**7)), *life.accounts[1:]]},
        {"signed": life.signed + 1},
        {"paid": life.paid - 1},
    ):
        vars(life).update(changed)
        assert life.issue() is not None, changed
        assert life.issue() is None


# -- altered after signing --


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, inner in enumerate(value) for leaf in _leaves(inner, (*path, index))]
    return [path]


def test_no_value_can_be_altered() -> None:
    signed = Life(3).cycles(2)[1]
    paths = _leaves(to_json(signed)["message"])
    assert len(paths) > 60
    for path in paths:
        document: Any = json.loads(json.dumps(to_json(signed)))
        inner = document["message"]
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = _other(inner[path[-1]])
        found = verify(document, GATEWAY)
        assert any("altered or forged" in fault for fault in found), path


def _other(value: str) -> str:
    if value.startswith("0x"):
        return value[:-1] + ("1" if value[-1] != "1" else "2")
    return str(int(value) + 1) if value.isdigit() else value + "x"


def test_neither_chain_nor_contract_nor_order_can_be_altered() -> None:
    signed = Life(3).cycles(2)[1]
    for name, value in (("chain_id", 1), ("settlement", b"\1" * 20)):
        forged = Signed(replace(signed.statement, **{name: value}), signed.signature)
        assert "altered or forged" in faults_of(forged), name
    for name in ("channels", "accounts"):
        turned = tuple(reversed(getattr(signed.statement, name)))
        forged = Signed(replace(signed.statement, **{name: turned}), signed.signature)
        assert "altered or forged" in faults_of(forged)
        assert f"its {name} are not in order" in faults_of(signed_by(forged.statement))


def test_the_signer_must_be_the_one_expected() -> None:
    (signed,) = Life(2).cycles(1)
    stranger = signed_by(signed.statement, OTHER_KEY)
    assert "altered or forged" in faults_of(stranger)
    # A stranger who names himself is consistent, so whoever checks must know the gateway's key.
    himself = altered(signed, {"receiver_authorizer": key_address(OTHER_KEY)}, key=OTHER_KEY)
    assert faults_of(himself) == ""
    assert "as expected" in "".join(verify(to_json(himself), GATEWAY))
    assert verify(to_json(signed), GATEWAY) == []
    assert "not 0x0101" in "".join(verify(to_json(signed), b"\1" * 20))


@pytest.mark.parametrize("signature", [bytes(65), b"\xff" * 65])
def test_a_signature_must_be_one(signature: bytes) -> None:
    (signed,) = Life(2).cycles(1)
    assert "the signature is none" in faults_of(Signed(signed.statement, signature))


# -- signed by the gateway, and wrong --


def _plus(signed: Signed, name: str, more: int) -> dict[str, int]:
    part, _, member = name.partition(".")
    holder = getattr(signed.statement, part)
    return {name: getattr(holder[0] if isinstance(holder, tuple) else holder, member) + more}


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("channels.charged", 1, "charged is"),
        ("channels.offset", 1, "charged is"),
        ("channels.forgiven", 1, "charged is"),
        ("channels.claimed", 1, "charged is"),
        ("channels.unclaimed", 10**6, "the highest voucher held is"),
        ("channels.committed", 10**9, "≤ owed"),
        ("channels.committed", -(10**9), "≤ committed 0 ≤"),
        ("channels.register_to", -(10**8), "the register runs"),
        ("channels.balance", -(10**12), "more than the balance"),
        ("channels.remainder", 10**9, "a whole base unit"),
        ("accounts.earned", 1, "earned is"),
        ("accounts.fee", 1, "earned is"),
        ("accounts.offset", 1, "offset on channels is"),
        ("accounts.net", 1, "earned is"),
        ("accounts.register_to", -(10**8), "the register runs"),
        ("accounts.remainder", 10**9, "a whole base unit"),
        ("accounts.fee_remainder", 10**4, "a whole base unit"),
        ("totals.signed", 10**9, "≤ net"),
    ],
)
def test_what_does_not_add_up_is_named(name: str, more: int, words: str) -> None:
    signed = Life(4).cycles(3)[2]
    changes = {key: max(value, 0) for key, value in _plus(signed, name, more).items()}
    found = faults_of(altered(signed, changes))
    assert words in found
    assert "altered" not in found, "it is signed well"


def test_more_is_not_paid_than_was_signed() -> None:
    signed = Life(4).cycles(3)[2]
    net = signed.statement.totals.net
    assert net > 0
    assert f"paid {net} ≤ signed {net - 1}" in faults_of(
        altered(signed, {"totals.paid": net, "totals.signed": net - 1})
    )


@pytest.mark.parametrize("name", Life(4).cycles(1)[0].statement.totals.__struct_fields__)
def test_every_total_is_checked(name: str) -> None:
    signed = Life(4).cycles(3)[2]
    found = faults_of(altered(signed, _plus(signed, f"totals.{name}", 10**12), sums=False))
    assert name in found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("channels.charged", "charged fell"),
        ("channels.offset", "offset fell"),
        ("channels.forgiven", "forgiven fell"),
        ("channels.claimed", "claimed fell"),
        ("channels.committed", "committed fell"),
        ("channels.ceiling", "ceiling fell"),
        ("channels.register_to", "the register fell"),
        ("channels.withdrawn", "withdrawn fell"),
        ("channels.refunded", "refunded fell"),
        ("channels.balance", "deposited fell"),
        ("accounts.earned", "earned fell"),
        ("accounts.fee", "fee fell"),
        ("accounts.offset", "offset fell"),
        ("accounts.register_to", "the register fell"),
    ],
)
def test_nothing_cumulative_falls(name: str, words: str) -> None:
    first, second = Life(4).cycles(2)
    raised = altered(first, _plus(first, name, 10**10))
    follower = altered(second, {"previous": statement_digest(raised.statement)})
    assert words in faults_of(raised, follower)
    assert words not in faults_of(first, second)


def test_payouts_do_not_fall() -> None:
    first, second = Life(4).cycles(2)
    assert first.statement.totals.paid > 0
    found = faults_of(first, altered(second, {"totals.signed": 0, "totals.paid": 0}))
    assert "signed fell" in found
    assert "paid fell" in found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"previous": b"\5" * 32}, "names another one"),
        ({"previous": bytes(32)}, "names no statement before it"),
        ({"from_commit": 0}, "not that one's commit"),
        ({"from_commit": 10**9}, "after its end"),
        ({"from_block": 10**9}, "does not begin where"),
        ({"from_time": 5}, "does not begin where"),
        ({"commit": 0}, "its commit 0 is before"),
        ({"block": 0}, "its block 0 is below"),
        ({"channels.device": "meter-9"}, "device became 'meter-9'"),
        ({"channels.service": "gas"}, "service became"),
        ({"channels.unit": "kWh"}, "unit became"),
        ({"channels.register_from": 0}, "the first register became"),
        ({"accounts.unit": "kWh"}, "unit became"),
        ({"channels": ()}, "it is missing"),
        ({"accounts": (), "totals.signed": 0, "totals.paid": 0}, "it is missing"),
    ],
)
def test_what_does_not_follow_is_named(changes: dict[str, Any], words: str) -> None:
    life = Life(8)
    life.block = 7
    first, second = life.cycles(2)
    assert first.statement.block > 0
    assert words in faults_of(first, altered(second, changes))


def test_no_charge_without_a_reading() -> None:
    first, second = Life(4).cycles(2)
    was = first.statement.channels[0]
    still = altered(second, {"channels.register_to": was.register_to})
    moved = second.statement.channels[0].charged != was.charged
    assert ("the register stood still" in faults_of(first, still)) == moved
    assert moved


def test_another_gateway_key_is_another_gateway() -> None:
    first, second = Life(4).cycles(2)
    other = altered(second, {"receiver_authorizer": bytes.fromhex("11" * 20)}, key=OTHER_KEY)
    assert "names another receiverAuthorizer" in faults_of(first, other)


def test_two_statements_of_one_cycle_are_told() -> None:
    """A gateway that tells two people different things has signed both."""
    first, second = Life(4).cycles(2)
    another = altered(second, {"channels.ceiling": second.statement.channels[0].ceiling + 1})
    assert "two different statements of cycle" in faults_of(first, second, another)
    # Not so for the same words with another signature: ECDSA has many.
    digest = statement_digest(second.statement)
    again = Signed(second.statement, sign_otherwise(digest))
    assert again.signature != second.signature
    assert faults_of(first, second, again) == ""


def sign_otherwise(digest: bytes) -> bytes:
    """Return a signature by the gateway's key that is valid and not the deterministic one."""
    order = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
    key = int.from_bytes(GATEWAY_KEY, "big")
    point = PrivateKey((5).to_bytes(32, "big")).public_key.format(compressed=False)  # the nonce is 5
    r = int.from_bytes(point[1:33], "big") % order
    s = pow(5, -1, order) * (int.from_bytes(digest, "big") + r * key) % order
    odd = point[64] & 1
    if s > order // 2:
        s, odd = order - s, odd ^ 1
    return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes((27 + odd,))


def test_a_gap_is_told() -> None:
    one, _, three = Life(4).cycles(3)
    assert "statements between them are missing" in faults_of(one, three)


def test_only_a_reorganisation_takes_back_what_the_chain_said() -> None:
    life = Life(9)
    before = life.cycle()
    life.channels = [replace(channel, claimed=0, balance=channel.balance - 3) for channel in life.channels]
    life.paid = 0
    quiet = life.issue()
    assert before is not None
    assert quiet is not None
    for words in ("claimed fell", "deposited fell", "paid fell"):
        assert words in faults_of(before, quiet)
    told = altered(quiet, {"reorgs": 1, "block": 0})
    assert faults_of(before, told) == ""
    back = altered(quiet, {"previous": statement_digest(told.statement), "cycle": quiet.statement.cycle + 9})
    assert "0 reorganisations after 1" in faults_of(told, back)


def test_parties_do_not_mix() -> None:
    mine, theirs = Life(1).cycles(4), Life(2, party=b"\7" * 20).cycles(4)
    proof = prove([*mine, *theirs])
    assert proof.faults == ()
    assert len(proof.statements) == len(mine) + len(theirs)
    assert FIRST.digest == mine[0].statement.previous == theirs[0].statement.previous
    assert all(each.statement.party == PARTY for each in mine)


# -- what is no statement --


def _edited(edit: Any) -> bytes:
    document = to_json(Life(4).cycles(1)[0])
    edit(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"hello", "not JSON"),
        pytest.param(b"[" * 100_000, "nest more than", id="deep"),
        pytest.param(b"[" * 99 + b"]" * 99, "nest more than", id="too deep"),
        (rb'{"a\"[{":7}', "no such member|is missing"),
        (b"[]", "empty array"),
        (b"7", "expected an object"),
        (b"{}", r"\.domain: it is missing"),
        (b'{"a":1,"a":2}', "appears twice"),
        pytest.param(b'{"a":' + b"9" * 5_000 + b"}", "not JSON", id="long number"),
        (_edited(lambda d: d.update(more=1)), "no such member"),
        (_edited(lambda d: d["message"].update(more="1")), r"\.message\.more"),
        (_edited(lambda d: d["message"]["channels"][1].pop("charged")), r"\.message\.channels\[1\]\.charged"),
        (_edited(lambda d: d["types"]["Totals"].pop()), "not the types"),
        (_edited(lambda d: d.update(primaryType="Totals")), "not the types"),
        (_edited(lambda d: d["domain"].update(name="x402 Batch Settlement")), "not Metergate's"),
        (_edited(lambda d: d["domain"].update(chainId="31402")), "chainId"),
        (_edited(lambda d: d["domain"].update(chainId=True)), "chainId"),
        (_edited(lambda d: d["domain"].update(chainId=-1)), "chainId"),
        (_edited(lambda d: d["message"].update(cycle=3)), "uint64 as a decimal string"),
        (_edited(lambda d: d["message"].update(cycle="03")), "uint64"),
        (_edited(lambda d: d["message"].update(cycle="٣")), "uint64"),
        (_edited(lambda d: d["message"].update(cycle=str(2**64))), "uint64"),
        (_edited(lambda d: d["message"]["channels"][0].update(charged=str(2**128))), "uint128"),
        (_edited(lambda d: d["message"]["totals"].update(paid="-1")), "uint256"),
        (_edited(lambda d: d["message"].update(party="0x12")), "40 hex digits"),
        (_edited(lambda d: d["message"].update(gateway="\ud800")), "expected text"),
        (_edited(lambda d: d["message"].update(channels={})), "expected an array"),
        (_edited(lambda d: d.update(signature="0x" + "0" * 128)), "130 hex digits"),
    ],
)
def test_what_is_no_statement_is_told(text: bytes, words: str) -> None:
    with pytest.raises(NotAStatement, match=words):
        read_text(text)


def test_hex_of_any_case_is_read() -> None:
    (signed,) = Life(4).cycles(1)
    document = to_json(signed)
    document["message"]["party"] = "0x" + PARTY.hex().upper()
    assert read(document) == [signed]
