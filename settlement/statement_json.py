"""The JSON form of statements: EIP-712 typed data as wallets and libraries take it, with the signature beside.

Reading is strict. What a statement does not have is refused, because it would be shown and not be signed.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from channels.digests import METERGATE_DOMAIN
from settlement.statements import TYPES, AccountLine, ChannelLine, Signed, Statement, Totals, snake

PRIMARY_TYPE = "Statement"
# A statement of a hundred channels takes 60 kB; a thousand of them are still read.
TEXT_MAX = 2**26
# The deepest of a statement is a line of an array's statement; the rest is for what is unknown.
NESTING_MAX = 8
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRUCTS = {"ChannelLine": ChannelLine, "AccountLine": AccountLine, "Totals": Totals}


class NotAStatement(Exception):
    """What was given is not a statement at all; the text says where it departs from the form."""


# -- writing --


def to_json(signed: Signed) -> dict[str, Any]:
    """Return a statement as a JSON value."""
    statement = signed.statement
    return {
        "types": type_members(),
        "primaryType": PRIMARY_TYPE,
        "domain": {
            "name": METERGATE_DOMAIN[0],
            "version": METERGATE_DOMAIN[1],
            "chainId": statement.chain_id,
            "verifyingContract": f"0x{statement.settlement.hex()}",
        },
        "message": _written("Statement", statement),
        "signature": f"0x{signed.signature.hex()}",
    }


def type_members() -> dict[str, list[dict[str, str]]]:
    """Return the types as EIP-712 JSON has them, the domain's included."""
    domain = (("name", "string"), ("version", "string"), ("chainId", "uint256"), ("verifyingContract", "address"))
    return {
        name: [{"name": member, "type": kind} for member, kind in members]
        for name, members in {"EIP712Domain": domain, **TYPES}.items()
    }


def _written(kind: str, value: Any) -> dict[str, Any]:
    return {member: _written_value(of, getattr(value, snake(member))) for member, of in TYPES[kind]}


def _written_value(kind: str, value: Any) -> Any:
    if kind.endswith("[]"):
        return [_written(kind[:-2], row) for row in value]
    if kind in TYPES:
        return _written(kind, value)
    if kind.startswith("uint"):
        return str(value)
    return value if kind == "string" else f"0x{value.hex()}"


# -- reading --


def read_text(text: bytes) -> list[Signed]:
    """Return the statements in JSON text: one, or an array of them. Raises NotAStatement."""
    if len(text) > TEXT_MAX:
        raise NotAStatement(f"it is larger than {TEXT_MAX} bytes")
    _check_nesting(text)
    try:
        document = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_unique)
    except ValueError as error:
        raise NotAStatement(f"it is not JSON: {error}") from error
    return read(document)


def read(document: object) -> list[Signed]:
    """Return the statements in a JSON value: one, or an array of them. Raises NotAStatement."""
    if not isinstance(document, list):
        return [_signed(document, "")]
    if not document:
        raise NotAStatement("it is an empty array")
    return [_signed(each, f"[{index}]") for index, each in enumerate(document)]


def _check_nesting(text: bytes) -> None:
    """Refuse what would take a JSON reader deeper than any statement: it might not come back."""
    outside = re.sub(rb'"[^"]*"', b"", text.replace(b"\\\\", b"").replace(b'\\"', b""))
    brackets = outside.translate(None, _NO_BRACKETS)
    for _ in range(NESTING_MAX):
        brackets = re.sub(rb"\[\]|\{\}", b"", brackets)
    if brackets:
        raise NotAStatement(f"it is not JSON: its brackets do not match, or nest more than {NESTING_MAX} deep")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return members


def _signed(document: object, at: str) -> Signed:
    members = _object(document, ("types", "primaryType", "domain", "message", "signature"), at)
    if members["types"] != type_members() or members["primaryType"] != PRIMARY_TYPE:
        raise NotAStatement(f"{at}.types: these are not the types of a Metergate statement, version 1")
    domain = _object(members["domain"], ("name", "version", "chainId", "verifyingContract"), f"{at}.domain")
    if (domain["name"], domain["version"]) != METERGATE_DOMAIN:
        raise NotAStatement(f"{at}.domain: it is not Metergate's, version 1")
    chain_id = domain["chainId"]
    if not isinstance(chain_id, int) or isinstance(chain_id, bool) or not 0 <= chain_id < 2**64:
        raise NotAStatement(f"{at}.domain.chainId: expected a number")
    statement = Statement(
        chain_id=chain_id,
        settlement=_hex(domain["verifyingContract"], 20, f"{at}.domain.verifyingContract"),
        **_members("Statement", members["message"], f"{at}.message"),
    )
    return Signed(statement, _hex(members["signature"], 65, f"{at}.signature"))


def _object(value: object, keys: Iterable[str], at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NotAStatement(f"{at or 'it'}: expected an object")
    expected = set(keys)
    for key in sorted(expected - value.keys()):
        raise NotAStatement(f"{at}.{key}: it is missing")
    for key in sorted(value.keys() - expected):
        raise NotAStatement(f"{at}.{key}: a statement has no such member")  # it would be shown, and not be signed
    return value


def _members(kind: str, value: object, at: str) -> dict[str, Any]:
    members = TYPES[kind]
    given = _object(value, (name for name, _ in members), at)
    return {snake(name): _value(of, given[name], f"{at}.{name}") for name, of in members}


def _value(kind: str, value: object, at: str) -> Any:
    if kind.endswith("[]"):
        if not isinstance(value, list):
            raise NotAStatement(f"{at}: expected an array")
        return tuple(_value(kind[:-2], row, f"{at}[{index}]") for index, row in enumerate(value))
    if kind in _STRUCTS:
        return _STRUCTS[kind](**_members(kind, value, at))
    if kind.startswith("uint"):
        return _uint(value, int(kind[4:]), at)
    if kind == "string":
        return _text(value, at)
    return _hex(value, 20 if kind == "address" else int(kind[5:]), at)


def _uint(value: object, bits: int, at: str) -> int:
    # 78 digits hold 2²⁵⁶; longer ones would only cost time.
    if not isinstance(value, str) or not re.fullmatch(r"(0|[1-9][0-9]{0,77})", value) or int(value) >> bits:
        raise NotAStatement(f"{at}: expected a uint{bits} as a decimal string")
    return int(value)


def _text(value: object, at: str) -> str:
    if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise NotAStatement(f"{at}: expected text")
    return value


def _hex(value: object, size: int, at: str) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(rf"0x[0-9a-fA-F]{{{2 * size}}}", value, re.ASCII):
        raise NotAStatement(f"{at}: expected 0x and {2 * size} hex digits")
    return bytes.fromhex(value[2:])
