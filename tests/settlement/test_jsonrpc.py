"""Hex values in answers of a node: read exactly, or refused."""

from typing import Any

import pytest

from settlement.errors import ChainMisbehaved
from settlement.jsonrpc import data_of, quantity


@pytest.mark.parametrize(
    ("text", "data"), [("0x", b""), ("0x00ff", b"\0\xff"), ("0XAbcD", b"\xab\xcd"), ("0x" + "5a" * 10**6, b"Z" * 10**6)]
)
def test_byte_strings(text: str, data: bytes) -> None:
    assert data_of(text) == data == data_of(text, len(data))


@pytest.mark.parametrize(
    "value",
    ["", "0", "00", "0x0", "0x0g", "0x 12", "0x12 ", " 0x12", "0x1_2", "x012", "0x1é", "0x12\n", None, 18, b"0x12"],
)
def test_what_is_no_byte_string(value: Any) -> None:
    with pytest.raises(ChainMisbehaved, match="is not a byte string"):
        data_of(value)


def test_byte_strings_of_another_length() -> None:
    with pytest.raises(ChainMisbehaved, match="does not have 20 bytes"):
        data_of("0x12", 20)


@pytest.mark.parametrize("value", ["", "0x", "0x01", "0x+1", "0x1_0", " 0x1", "1", 1, None])
def test_what_is_no_quantity(value: Any) -> None:
    with pytest.raises(ChainMisbehaved, match="is not a quantity"):
        quantity(value)


def test_quantities_are_bounded() -> None:
    assert quantity("0xff", 8) == 255
    with pytest.raises(ChainMisbehaved, match="is above 2\\^8"):
        quantity("0x100", 8)
