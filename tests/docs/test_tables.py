"""Tables and links of the documentation say what the code says."""

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

from benchmarks.__main__ import SUITES
from channels.refusals import Refusal
from gateway.cli.examples import NO, commands
from gateway.cli.main import _parser
from gateway.config import Config
from settlement.claim_terms import Reason

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = dict(commands(_parser()))


def _rows(page: str, section: str = "") -> list[list[str]]:
    """Return the rows of a page's tables, or of those below one of its headings."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    if section:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
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
    told = {row[0].strip("`"): row[2] for row in _rows("operating.md", "Configuration") if row[0].startswith("`")}
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


def test_the_table_of_exit_codes_has_every_command_and_says_what_its_help_says() -> None:
    told = {row[0].strip("`"): row[1:] for row in _rows("operating.md", "Exit codes") if row[0].startswith("`")}
    assert set(told) == set(COMMANDS)
    assert {name: cells[1] for name, cells in told.items() if cells[1]} == NO
    assert all(len(cells) == 3 and cells[0] for cells in told.values())


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")
)])  # fmt: skip
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r'\bsrc(?:set)?="([^"]+)"', text):
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
