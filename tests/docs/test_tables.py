"""Tables and links of the documentation say what the code says."""

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

from benchmarks.__main__ import SUITES
from channels.refusals import Refusal
from gateway.config import Config
from settlement.claiming import Reason

ROOT = Path(__file__).resolve().parents[2]


def _rows(page: str) -> list[list[str]]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def _keys(struct: type[msgspec.Struct], prefix: str = "") -> dict[str, Any]:
    """Return dotted key → default, msgspec.NODEFAULT for a required one; tables are not keys themselves."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        kind = field.type
        inner = next((each for each in (kind, *get_args(kind), *_dict_values(kind)) if _is_struct(each)), None)
        if inner is None:
            found[prefix + field.encode_name] = field.default
        else:
            found |= _keys(inner, f"{prefix}{field.encode_name}." + ("*." if _dict_values(kind) else ""))
    return found


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _dict_values(kind: Any) -> tuple[Any, ...]:
    for each in (kind, *get_args(kind)):
        if get_origin(each) is dict:
            return (get_args(each)[1],)
    return ()


def _written(default: Any) -> str:
    if default is msgspec.NODEFAULT:
        return "required"
    text = f'"{default}"' if isinstance(default, str) else str(default).lower()
    return f"`{text}`"


def test_the_configuration_table_has_every_key_with_its_default() -> None:
    keys = _keys(Config)
    assert len(keys) > 25, "the walk over the configuration found its tables"
    told = {row[0].strip("`"): row[2] for row in _rows("operating.md") if len(row) == 4 and row[0].startswith("`")}
    assert told == {key: _written(default) for key, default in keys.items()}


def test_the_refusal_table_has_every_refusal() -> None:
    rows = [row for row in _rows("refusals.md") if row[0].isdigit()]
    told = [(int(row[0]), row[1].strip("`"), row[2] == "yes") for row in rows]
    assert told == [(int(refusal), refusal.wire_name, refusal.transient) for refusal in Refusal]
    assert all(len(row) == 5 and len(row[3]) > 20 and len(row[4]) > 10 for row in rows)


def test_the_table_of_claims_has_every_reason_and_says_what_it_does() -> None:
    rows = [row for row in _rows("operating.md") if len(row) == 3 and row[1] in ("claim", "hold")]
    told = {name: row[1] == "claim" for row in rows for name in re.findall(r"`([a-z_]+)`", row[0])}
    assert told == {reason.value: reason.claims for reason in Reason}


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")
)])  # fmt: skip
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), f"{page} links to {target}"


def test_the_code_map_names_every_module_and_only_those() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for package in ("channels", "devices", "settlement", "gateway"):
        section = text.split(f"### `{package}/`")[1].split("\n### ")[0]
        cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
        told = {name for cell in cells for name in re.findall(r"`([a-z0-9_]+)`", cell)}
        modules = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__", "__main__"}
        assert told == modules, package


def test_every_figure_is_explained() -> None:
    told = [name for row in _rows("benchmarks.md") for name in re.findall(r"`([a-z0-9_*]+)`", row[0])]
    told += re.findall(r"`([a-z0-9_]+)`", (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"))
    names = [name for suite in SUITES for each in suite.benchmarks for name in each.names]
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in told)] == []
