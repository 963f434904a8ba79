"""Writes gateway/web/ui/src/api_types.ts from the structs that the API sends: the pages are checked against them.

python -m tests.web_ui.api_types            write
"""

import importlib
import inspect
import types
import typing
from pathlib import Path

import msgspec

import gateway.web

_FILES = sorted(Path(gateway.web.__file__).parent.glob("shapes*.py"))
_MODULES = [importlib.import_module(f"gateway.web.{file.stem}") for file in _FILES]
TARGET = Path(__file__).resolve().parents[2] / "gateway" / "web" / "ui" / "src" / "api_types.ts"
HEAD = """// Generated from gateway/web/shapes*.py by `python -m tests.web_ui.api_types`; a test compares.

/** Token base units (or wei) as a decimal string. */
export type Amount = string;
/** 0x and hex digits. */
export type Hex = string;

/** One page of a list. */
export interface Page<T> {
  items: T[];
  next: string | null;
  total: number | null;
}
"""
_NAMES = {name: value for module in _MODULES for name, value in vars(module).items()}
_PLAIN = {str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def typescript() -> str:
    """Return the text of the TypeScript module."""
    known: dict[str, type[msgspec.Struct]] = {}
    for module in _MODULES:
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__:
                known[name] = kind
    return "\n".join([HEAD, *(_interface(name, kind) for name, kind in known.items() if not name.startswith("_"))])


def _interface(name: str, kind: type[msgspec.Struct]) -> str:
    hints = typing.get_type_hints(kind, _NAMES, include_extras=False)
    fields = [f"  {field.encode_name}: {_type(hints[field.name])};" for field in msgspec.structs.fields(kind)]
    words = (kind.__doc__ or "").strip().splitlines()[0]
    return "\n".join([f"/** {words} */", f"export interface {name} {{", *fields, "}", ""])


def _type(hint: object) -> str:
    if hint in _PLAIN:
        return _PLAIN[hint]  # type: ignore[index]
    if hint is typing.Any:
        return "unknown"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        inner = _type(arguments[0])
        return f"({inner})[]" if "|" in inner else f"{inner}[]"
    if origin is dict:
        return f"Record<{_type(arguments[0])}, {_type(arguments[1])}>"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type(each) for each in arguments)
    if inspect.isclass(hint) and issubclass(hint, msgspec.Struct):
        return hint.__name__
    raise TypeError(f"no TypeScript for {hint!r}")


if __name__ == "__main__":
    TARGET.write_text(typescript())
