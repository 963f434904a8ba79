"""The generated parts of the documentation are current and whole."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from channels.machine import TRANSITIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_state_machine_is_current(generate: ModuleType) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert text == generate.current(text), "run python docs/generate.py"


def test_a_stale_page_is_noticed(generate: ModuleType) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    stale = text.replace("closing --> closed: ActionClosed", "closing --> open: ActionClosed")
    assert stale != text
    assert generate.current(stale) == text
    with pytest.raises(ValueError, match="no place"):
        generate.current("a page without it")


def test_every_entry_of_the_table_was_tried(generate: ModuleType) -> None:
    outcomes = generate.outcomes()
    for phase, change in TRANSITIONS:
        assert outcomes[phase.name.lower(), change.__name__], f"{change.__name__} in {phase.name} came to nothing"
