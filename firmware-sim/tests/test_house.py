"""Rules of the house that a reader relies on."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "firmware_sim"
MODULES = sorted(PACKAGE.glob("*.py"))
FOREIGN = {"channels", "devices", "settlement", "gateway", "parallel_evm"}
CORE = {"account", "books", "canonical", "deposits", "device", "digests", "identity", "keys", "offers"}
CORE |= {"channel", "closing", "snapshot", "pacing", "tariffs", "window", "wire", "counters", "loads"}
IO = {"time", "socket", "selectors", "os", "pathlib", "threading", "asyncio", "paho", "datetime", "secrets"}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module(path: Path) -> None:
    names = imported(path)
    assert not names & FOREIGN, "the simulator checks the wire format with code of its own"
    if path.stem in CORE:
        assert not names & IO, "the device is a state machine without I/O"
    text = path.read_text()
    assert len(text.splitlines()) < 400
    assert ast.get_docstring(ast.parse(text)), "says what it is for"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 70, node.name


def test_the_core_is_there() -> None:
    assert {path.stem for path in MODULES} >= CORE
