"""Canonical JSON against the rfc8785 package, and what strict parsing refuses."""

import json

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim.canonical import SAFE_INTEGER, canonical, parse

fractions = st.floats(allow_nan=False, allow_infinity=False)
scalars = fractions | st.none() | st.booleans() | st.integers(-SAFE_INTEGER, SAFE_INTEGER) | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(values)
def test_same_bytes_as_rfc8785(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]
    assert parse(json.dumps(value).encode()) == value


def test_keys_sort_by_utf16_units() -> None:
    # U+1F600 has a surrogate (0xD83D) first, so it sorts before U+FB01 although its code point is higher.
    assert canonical({"\ufb01": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb01":1}'.encode()


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1e400}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":9007199254740992}',
        b'{"a":-9007199254740992}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":1,"a":2}',
        b'{"x":{"a":1,"a":1}}',
        b'{"a":1',
        b'{"a":"\xff"}',
        b"",
    ],
)
def test_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_deep_nesting_is_an_error_of_the_text() -> None:
    with pytest.raises(ValueError):
        parse(b"[" * 100_000 + b"]" * 100_000)


def test_lone_surrogates_have_no_canonical_form() -> None:
    with pytest.raises(ValueError):
        canonical(parse(b'"\\ud800"'))
    with pytest.raises(TypeError):
        canonical({"a": b"x"})
    with pytest.raises(ValueError):
        canonical(float("inf"))


@settings(max_examples=1000, deadline=None)
@given(fractions)
def test_fractions_are_written_as_rfc8785_does(value: float) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e21, "1e+21"),
        (1e20, "100000000000000000000"),
        (1.5e-7, "1.5e-7"),
        (1e-6, "0.000001"),
        (-0.0, "0"),
        (2.5, "2.5"),
        (-1000.0, "-1000"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
    ],
)
def test_where_the_exponent_begins(value: float, text: str) -> None:
    assert canonical(value) == text.encode()
