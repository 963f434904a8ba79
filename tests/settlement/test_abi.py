"""The ABI codec against eth-abi, and against hostile data."""

import time
from typing import Any

import eth_abi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.digests import keccak
from settlement.abi import call_data, decode, encode, parse, selector
from settlement.calls import CONFIG, VOUCHER_CLAIM
from settlement.errors import ChainMisbehaved

SCALARS = ("uint8", "uint40", "uint128", "uint256", "address", "bool", "bytes4", "bytes32", "bytes", "string")


def types(depth: int = 3) -> st.SearchStrategy[str]:
    scalars = st.sampled_from(SCALARS)
    if depth == 0:
        return scalars
    inner = types(depth - 1)
    tuples = st.lists(inner, min_size=1, max_size=4).map(lambda parts: f"({','.join(parts)})")
    return scalars | tuples | inner.map(lambda part: part + "[]")


def split(kind: str) -> list[str]:
    """Return the parts of a tuple type, by counting brackets: another way than the codec's parser."""
    parts, depth, start = [], 0, 1
    for index, char in enumerate(kind[:-1]):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 1:
            parts.append(kind[start:index])
            start = index + 1
    return [*parts, kind[start:-1]]


def values(kind: str) -> st.SearchStrategy[Any]:
    if kind.endswith("[]"):
        return st.lists(values(kind[:-2]), max_size=3).map(tuple)
    if kind.startswith("("):
        return st.tuples(*map(values, split(kind)))
    if kind.startswith("uint"):
        return st.integers(0, 2 ** int(kind[4:]) - 1)
    if kind == "address":
        return st.binary(min_size=20, max_size=20)
    if kind == "bool":
        return st.booleans()
    if kind == "bytes":
        return st.binary(max_size=70)
    if kind == "string":
        return st.text(max_size=40)
    length = int(kind[5:])
    return st.binary(min_size=length, max_size=length)


def addresses_as_text(kind: str, value: Any) -> Any:
    """Return the value as eth-abi takes it: addresses in hex."""
    if kind.endswith("[]"):
        return [addresses_as_text(kind[:-2], item) for item in value]
    if kind.startswith("("):
        return tuple(addresses_as_text(part, item) for part, item in zip(split(kind), value, strict=True))
    return "0x" + value.hex() if kind == "address" else value


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_encodes_and_decodes_like_the_oracle(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(types(), min_size=1, max_size=4))
    kind = f"({','.join(kinds)})"
    value = data.draw(values(kind))
    expected = eth_abi.encode(kinds, addresses_as_text(kind, value))
    assert encode(kind, value) == expected
    assert decode(kind, expected) == value


def test_claim_type_round_trips() -> None:
    config = (b"\x01" * 20, b"\x02" * 20, b"\x03" * 20, b"\x04" * 20, b"\x05" * 20, 86_400, b"\x06" * 32)
    rows = tuple(((config, 10 + index), bytes([index]) * 65, index) for index in range(100))
    kind = f"({VOUCHER_CLAIM}[])"
    oracle = eth_abi.encode([f"{VOUCHER_CLAIM}[]"], [addresses_as_text(f"{VOUCHER_CLAIM}[]", rows)])
    assert encode(kind, (rows,)) == oracle
    assert decode(kind, oracle) == (rows,)


def test_selectors_are_the_known_ones() -> None:
    assert selector("transfer(address,uint256)").hex() == "a9059cbb"
    assert selector("aggregate3((address,bool,bytes)[])").hex() == "82ad56cb"
    assert call_data("name()") == keccak(b"name()")[:4]


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "uint",
        "uint7",
        "uint264",
        "bytes0",
        "bytes33",
        "int8",
        "(uint8",
        "()",
        "uint8)",
        "uint8[2]",
        "(uint8;uint8)",
    ],
)
def test_refuses_types_it_does_not_know(kind: str) -> None:
    with pytest.raises(ValueError, match="ABI"):
        parse(kind)


def test_refuses_a_type_nested_without_end() -> None:
    with pytest.raises(ValueError, match="deeply"):
        parse("(" * 100 + "uint8" + ")" * 100)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uint128", 2**128),
        ("uint256", -1),
        ("uint8", True),
        ("uint8", "1"),
        ("address", bytes(19)),
        ("address", "0x" + "00" * 20),
        ("bytes32", bytes(33)),
        ("(uint8,uint8)", (1,)),
    ],
)
def test_refuses_values_that_do_not_fit(kind: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode(kind, value)


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("(uint256)", b""),
        ("(uint256)", bytes(31)),
        ("(uint128)", word(2**128)),
        ("(bool)", word(2)),
        ("(address)", word(2**160)),
        ("(bytes4)", b"\x01" * 5 + bytes(27)),
        ("(bytes)", word(32) + word(2**64)),
        ("(bytes)", word(32) + word(33) + bytes(32)),
        ("(bytes)", word(2**255) + word(1)),
        ("(bytes)", word(32) + word(1) + b"\x01\x02" + bytes(30)),
        ("(string)", word(32) + word(1) + b"\xff" + bytes(31)),
        ("(uint256[])", word(32) + word(2**200)),
        ("(uint256[])", word(32) + word(3) + word(1)),
        ("(uint256[])", word(64) + word(0)),
    ],
)
def test_hostile_data_is_a_fault_of_the_chain(kind: str, data: bytes) -> None:
    with pytest.raises(ChainMisbehaved):
        decode(kind, data)


def test_overlapping_offsets_cannot_blow_up() -> None:
    """All offsets of a level point to the one array below: 64^4 values from 8 kB, if it were believed."""
    level = word(64) + word(64 * 32) * 64
    data = word(32) + level * 3 + word(64) + word(1) * 64
    assert decode("(uint256[])", word(32) + data[-65 * 32 :]) == ((1,) * 64,)  # the innermost array is sound
    started = time.thread_time()
    with pytest.raises(ChainMisbehaved):
        decode("(uint256[][][][])", data)
    assert time.thread_time() - started < 5, "believed, it takes a minute"


@given(st.binary(max_size=400), st.sampled_from([f"({CONFIG})", "((bool,bytes)[])", "(string)", "(bytes[][])"]))
@settings(deadline=None, max_examples=500)
def test_random_data_is_decoded_or_refused(data: bytes, kind: str) -> None:
    try:
        value = decode(kind, data)
    except ChainMisbehaved:
        return
    assert decode(kind, encode(kind, value)) == value


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_mutated_encodings_are_decoded_or_refused(data: st.DataObject) -> None:
    kind = "((bool,bytes)[],string)"
    encoded = bytearray(encode(kind, data.draw(values(kind))))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        value = decode(kind, bytes(encoded))
    except ChainMisbehaved:
        return
    assert decode(kind, encode(kind, value)) == value
