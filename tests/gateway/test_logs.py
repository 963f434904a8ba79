"""Logs: for a person or as JSON, one line a record whatever it quotes."""

import io
import json
import logging
from collections.abc import Iterator
from unittest import mock

import pytest

from gateway import logs

HOSTILE = 'pump\n2026-01-01 ERROR forged \x1b[2J\r\x00\u202e"'


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("form", "stream", "as_json"), [
    ("auto", io.StringIO, True), ("auto", Terminal, False), ("human", io.StringIO, False), ("json", Terminal, True),
])  # fmt: skip
def test_each_record_is_one_line(form: logs.Format, stream: type[io.StringIO], as_json: bool) -> None:
    out = stream()
    logs.set_up("info", form, out)
    logs.set_up("info", form, out)  # again: still once
    log = logging.getLogger("metergate.test")
    log.warning("the deposit of %s cannot be submitted", HOSTILE)
    log.info("x" * 100_000)
    log.debug("not asked for")
    logging.getLogger("httpx").info("GET /")
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert "\n" not in lines[0]
    for character in "\x1b[2J", "\r", "\x00", "\u202e":
        assert character not in lines[0].replace("\x1b[33m", "").replace("\x1b[0m", "")
    assert all(len(line) < 6_000 for line in lines)
    if as_json:
        told = json.loads(lines[0])
        assert (told["level"], told["logger"]) == ("warning", "metergate.test")
        assert told["message"].startswith("the deposit of pump\\n2026")
        assert told["at"].endswith("+00:00")
    else:
        assert "the deposit of pump\\n2026" in lines[0]


def test_a_trace_cannot_forge_a_record_either() -> None:
    for form in ("human", "json"):
        out = io.StringIO()
        logs.set_up("info", form, out)  # type: ignore[arg-type]
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            logging.getLogger("metergate").exception("it failed")
        lines = out.getvalue().splitlines()
        if form == "json":
            assert len(lines) == 1
            assert "ValueError" in json.loads(lines[0])["trace"]
        else:
            assert all(line.startswith("    ") for line in lines[1:])


def test_colours_on_a_terminal_alone() -> None:
    out = Terminal()
    with mock.patch.dict("os.environ", {"TERM": "xterm", "NO_COLOR": "1"}):
        logs.set_up("info", "auto", out)
        logging.getLogger("metergate").warning("x")
    assert "\x1b" not in out.getvalue()
