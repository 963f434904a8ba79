"""Strict JSON in, canonical JSON (RFC 8785) out.

Fractions occur only under keys that a device does not know; they count in a document's hash all the same.
"""

import json
from math import isfinite
from typing import NoReturn

SAFE_INTEGER = 2**53 - 1

# A document of ours opens a few dozen; the interpreter's own recursion limit may be set higher than its stack.
BRACKETS_MAX = 1000


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _fraction(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"number {text[:40]!r} is beyond a double")
    return value


def _integer(text: str) -> int:
    # Longer than any safe integer: refused before int() spends time on it.
    if len(text) > 17:
        raise ValueError("integer outside the range that JSON carries exactly")
    value = int(text)
    if abs(value) > SAFE_INTEGER:
        raise ValueError("integer outside the range that JSON carries exactly")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has a key twice")
    return result


def parse(text: bytes) -> object:
    """The value of a JSON text; ValueError for duplicate keys, bad numbers, UTF-8 or syntax."""
    if text.count(b"[") + text.count(b"{") > BRACKETS_MAX:
        raise ValueError("more brackets than a document of ours has")
    try:
        return json.loads(
            text.decode("utf-8"),
            parse_float=_fraction,
            parse_constant=_no_constant,
            parse_int=_integer,
            object_pairs_hook=_unique,
        )
    except RecursionError:
        raise ValueError("nested too deep") from None


def canonical(value: object) -> bytes:
    """RFC 8785 bytes of a value from `parse`; ValueError on lone surrogates, TypeError on other types."""
    return _text(value).encode("utf-8")


def _text(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if abs(value) > SAFE_INTEGER:
            raise ValueError("integer outside the range that JSON carries exactly")
        return str(value)
    if isinstance(value, float):
        return _shortest(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ",".join(_text(item) for item in value) + "]"
    if isinstance(value, dict):
        # RFC 8785 3.2.3 sorts by UTF-16 code units, which differs from code points above U+FFFF.
        keys = sorted(value, key=_utf16)
        return "{" + ",".join(json.dumps(k, ensure_ascii=False) + ":" + _text(value[k]) for k in keys) + "}"
    raise TypeError(f"canonical JSON has no form for {type(value).__name__}")


def _shortest(value: float) -> str:
    """A double as ECMAScript writes it (RFC 8785 3.2.2.3): the shortest digits, an exponent only far from 1."""
    if not isfinite(value):
        raise ValueError("not a JSON number")
    if value == 0:
        return "0"
    mantissa, _, power = f"{value!r}".lstrip("-").partition("e")
    whole, _, part = mantissa.partition(".")
    digits = (whole + part).lstrip("0")
    point = len(whole) + int(power or 0) - (len(whole + part) - len(digits))
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        text = digits.ljust(point, "0")
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        fraction = "." + digits[1:] if len(digits) > 1 else ""
        text = f"{digits[0]}{fraction}e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return "-" + text if value < 0 else text


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be")
