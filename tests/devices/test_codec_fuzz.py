"""Any bytes at all: never an exception, always a message or a refusal, and the same one as another reader's."""

import json
import random
from collections import Counter
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.refusals import Refusal
from channels.types import U64_MAX, U128_MAX
from devices.codec import decode
from devices.messages import DEPTH_MAX, Close, Earn, Encoding, Receipt, Status, Undecodable, Usage
from devices.receipts import decode_receipt, encode_receipt
from tests.devices.test_vectors import cases
from tests.support import strict_cbor

SEED = 20_251_121
LEAVES = ("usage", "earn", "open", "close", "state")
VALID = [
    (case["kind"], payload)
    for name in ("readings", "opens", "closes")
    for case in (parameters.values[0] for parameters in cases(name))
    for payload in (
        *([case["json"].encode()] if case["json"] else []),
        *([bytes.fromhex(case["cbor"][2:])] if case["cbor"] else []),
    )
]
# What structure is made of, in both encodings.
TOKENS = [bytes((byte,)) for byte in (0x00, 0x18, 0x1B, 0x40, 0x5F, 0x7F, 0x80, 0x9F, 0xA0, 0xBF, 0xC2, 0xC0)] + [
    b"\xd9\x01\x02", b"\xd8\x1c", b"\xf4", b"\xf5", b"\xf6", b"\xf7", b"\xf9\x3c\x00", b"\xfb", b"\xff", b"\xf8\x18",
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\u0000", b"null", b"true", b"1.0", b"1e9", b"-1",
    b"0x", b"\xc3\x28", b"\xa1\x80\x01", b"\xa1\xf5\x01", b"\xa1\xf9\x3c\x00\x01", b"\xa1\x41\x01\x01",
    b"\x81\xa1\x61\x78\x01",
]  # fmt: skip


def mutated(random_: random.Random, payload: bytes) -> bytes:
    changed = bytearray(payload)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(changed) + 1)
        match random_.randrange(6):
            case 0:
                changed[at : at + 1] = random_.randbytes(1)
            case 1:
                del changed[at : at + random_.randint(1, 40)]
            case 2:
                changed[at:at] = random_.choice(TOKENS)
            case 3:
                changed[at : at + 1] = random_.choice(TOKENS)
            case 4:
                end = min(len(changed), at + random_.randint(1, 80))
                changed[at:at] = changed[at:end]
            case _:
                changed[at:at] = random_.choice(VALID)[1]
    return bytes(changed)


def judge(leaf: str, payload: bytes) -> str:
    """Decode, check what came out, and return its name."""
    found = decode(leaf, payload)
    if isinstance(found, Undecodable):
        expected = Refusal.TOO_LARGE if len(payload) > 4096 else Refusal.MALFORMED
        assert found.refusal is expected
        return expected.name
    assert len(payload) <= 4096
    if isinstance(found, Usage | Earn):
        assert len(found.id) == 32
        assert len(found.offer) == 16
        assert all(0 <= value <= U64_MAX for value in (found.seq, found.register, found.time))
        _agrees(found, payload)
    if isinstance(found, Close):
        assert (len(found.id), len(found.signature)) == (32, 65)
        assert 0 <= found.seq <= U64_MAX
    if isinstance(found, Usage):
        assert 0 <= found.ceiling <= U128_MAX
        assert len(found.signature) == 65
    return type(found).__name__


def _agrees(found: Usage | Earn, payload: bytes) -> None:
    """What was understood is what a plain reader understands."""
    if found.encoding is Encoding.JSON:
        members = json.loads(payload)
        name = "channelId" if isinstance(found, Usage) else "accountId"
        assert bytes.fromhex(members[name][2:]) == found.id
        assert [int(members[n]) for n in ("seq", "register", "time")] == [found.seq, found.register, found.time]
    else:
        members = strict_cbor.read(payload, DEPTH_MAX)
        assert [members[number] for number in (1, 2, 3, 4, 5)] == [
            found.id, found.seq, found.register, found.time, found.offer,
        ]  # fmt: skip


def test_random_bytes() -> None:
    print(f"seed {SEED}")
    random_ = random.Random(SEED)
    outcomes: Counter[str] = Counter()
    for _ in range(10_000):
        size = random_.choice((random_.randrange(8), random_.randrange(300), random_.randrange(3900, 4300)))
        start = random_.choice((b"", b"{", b'{"', b"\xa1", b"\xa8\x01\x58\x20", b"\xbf", b"\xc2", b"\xd8"))
        outcomes[judge(random_.choice(LEAVES), start + random_.randbytes(size))] += 1
    assert set(outcomes) == {"MALFORMED", "TOO_LARGE"}


def test_mutated_messages() -> None:
    print(f"seed {SEED}")
    random_ = random.Random(SEED + 1)
    outcomes: Counter[str] = Counter()
    for _ in range(12_000):
        leaf, payload = random_.choice(VALID)
        outcomes[judge(leaf, mutated(random_, payload))] += 1
    # The mutations are mild enough for some messages to survive and hard enough for most not to.
    assert outcomes["MALFORMED"] > 5_000
    assert outcomes["Usage"] > 100
    assert outcomes["Open"] > 10
    assert outcomes["Close"] > 30


def test_every_message_on_every_leaf() -> None:
    for leaf in LEAVES:
        for _, payload in VALID:
            judge(leaf, payload)


def _strict_usage(payload: bytes) -> bool:
    try:
        item = strict_cbor.read(payload, DEPTH_MAX)
    except strict_cbor.NotStrict:
        return False
    if type(item) is not dict:
        return False
    sizes = {1: 32, 5: 16, 7: 65} | ({14: 65} if 14 in item else {})
    limits = {2: U64_MAX, 3: U64_MAX, 4: U64_MAX, 6: U128_MAX}
    return all(type(item.get(n)) is bytes and len(item[n]) == size for n, size in sizes.items()) and all(
        type(item.get(n)) is int and 0 <= item[n] <= limit for n, limit in limits.items()
    )


def test_cbor_is_judged_as_strictly_as_by_a_reader_of_our_own() -> None:
    print(f"seed {SEED}")
    random_ = random.Random(SEED + 2)
    usages = [payload for leaf, payload in VALID if leaf == "usage" and payload[:1] != b"{"]
    outcomes: Counter[bool] = Counter()
    for _ in range(10_000):
        payload = random_.choice(usages)
        if random_.random() < 0.5:  # an entry under an unknown key, so that more survive
            entry = random_.choice((b"\x18\x63", b"\x61\x78")) + b"".join(random_.choices(TOKENS, k=2))
            payload = bytes((payload[0] + 1,)) + payload[1:] + entry
        else:
            payload = mutated(random_, payload)
        if payload[:1] == b"{":
            continue
        strict = _strict_usage(payload) and len(payload) <= 4096
        assert isinstance(decode("usage", payload), Usage) is strict, payload.hex()
        outcomes[strict] += 1
    assert min(outcomes[True], outcomes[False]) > 300


@pytest.mark.parametrize("depth", [6, 7, 8, 500, 1990])
def test_depth(depth: int) -> None:
    text = next(payload for leaf, payload in VALID if leaf == "usage" and payload[:1] == b"{")
    deep = text[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"
    assert isinstance(decode("usage", deep), Usage) is (depth + 1 <= DEPTH_MAX)
    binary = next(payload for leaf, payload in VALID if leaf == "usage" and payload[:1] != b"{")
    deep = bytes((binary[0] + 1,)) + binary[1:] + b"\x18\x63" + b"\x81" * depth + b"\x01"
    assert isinstance(decode("usage", deep), Usage) is (depth + 1 <= DEPTH_MAX)


U64 = st.integers(0, U64_MAX)
U128 = st.integers(0, U128_MAX)


def size(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=count, max_size=count)


def _json_integer(value: int, *, text: bool) -> Any:
    return str(value) if text or value > 2**53 - 1 else value


@given(size(32), U64, U64, U64, size(16), U128, size(65), st.none() | size(65), st.booleans())
def test_usage_round_trip(
    id_: bytes,
    seq: int,
    register: int,
    time: int,
    offer: bytes,
    ceiling: int,
    signature: bytes,
    reading: bytes | None,
    text: bool,
) -> None:
    members: dict[str, Any] = {
        "channelId": "0x" + id_.hex(),
        "seq": _json_integer(seq, text=text),
        "register": _json_integer(register, text=text),
        "time": _json_integer(time, text=text),
        "offer": "0x" + offer.hex().upper(),
        "maxClaimableAmount": str(ceiling),
        "signature": "0x" + signature.hex(),
    }
    keyed = {1: id_, 2: seq, 3: register, 4: time, 5: offer, 6: ceiling, 7: signature}
    if reading is not None:
        members["readingSignature"] = "0x" + reading.hex()
        keyed[14] = reading
    for encoding, payload in ((Encoding.JSON, json.dumps(members).encode()), (Encoding.CBOR, cbor2.dumps(keyed))):
        found = decode("usage", payload)
        assert isinstance(found, Usage)
        assert found == Usage(id_, seq, register, time, offer, ceiling, signature, reading, encoding, found.answers)


RECEIPTS = st.builds(
    Receipt,
    status=st.sampled_from(Status),
    answers=size(8),
    account=st.booleans(),
    id=st.none() | size(32),
    seq=st.none() | U64,
    ceiling=st.none() | U128,
    signature=st.none() | size(65),
    reason=st.none() | st.sampled_from(Refusal),
    cumulative=st.none() | U128,
    balance=st.none() | U128,
    required_ceiling=st.none() | U128,
    commit=st.none() | U64,
    last_seq=st.none() | U64,
    last_register=st.none() | U64,
    last_remainder=st.none() | st.integers(0, 10**9 - 1),
    last_offer=st.none() | size(16),
    offset=st.none() | U128,
)


@given(RECEIPTS)
def test_receipt_round_trip(receipt: Receipt) -> None:
    again = decode_receipt(encode_receipt(receipt, Encoding.CBOR))
    assert again == Receipt(**{**_fields(receipt), "account": False})
    text = encode_receipt(receipt, Encoding.JSON)
    known = {**_fields(receipt), "account": receipt.account and receipt.id is not None}
    if receipt.account and receipt.id is None:
        known["cumulative"] = None  # an account's amount without its id: no receipt of ours
    assert decode_receipt(text) == Receipt(**known)
    # Every JSON number is one that any reader holds exactly.
    assert all(not isinstance(v, int) or v <= 2**53 - 1 for v in json.loads(text).values())


def _fields(receipt: Receipt) -> dict[str, Any]:
    return {name: getattr(receipt, name) for name in receipt.__struct_fields__}
