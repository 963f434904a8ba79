"""Logs: a line for a person on a terminal, a JSON object a line elsewhere; what others named cannot forge a line.

Written to standard error. Secrets are never handed to a log; names and texts of devices, brokers and nodes are, so
everything that is not printable is escaped, and a record is one line of bounded length.
"""

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Literal, TextIO, TypeAlias

from gateway.cli.terminal import DIM, RED, YELLOW, colours, paint, plain

Format: TypeAlias = Literal["auto", "human", "json"]
FORMATS = ("auto", "human", "json")
LEVELS = ("debug", "info", "warning", "error")
# A node's answer may be quoted in a record: this much of it is enough to see what it is.
TEXT_MAX = 4_000
TRACE_MAX = 16_000
# They tell of every request, and nothing that we do not tell ourselves.
QUIET = ("httpx", "httpcore", "asyncio", "uvicorn", "uvicorn.error", "uvicorn.access", "amqtt", "transitions")
_COLOURS = {logging.DEBUG: DIM, logging.WARNING: YELLOW, logging.ERROR: RED, logging.CRITICAL: RED}


def set_up(level: str, form: Format, stream: TextIO | None = None) -> None:
    """Send records of this level and above to `stream`, by default standard error. May be called again."""
    out = sys.stderr if stream is None else stream
    human = form == "human" or (form == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(Human(colours(out)) if human else Json())
    root = logging.getLogger()
    for other in list(root.handlers):
        if isinstance(other.formatter, Human | Json):
            root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class Human(logging.Formatter):
    """`12:00:01 WARNING the chain is away`; a trace below, indented, so that no line of it looks like a record."""

    def __init__(self, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = paint(f"{record.levelname:<7}", _COLOURS.get(record.levelno, ""), self._colour)
        line = f"{at} {level if record.levelno in _COLOURS else f'{record.levelname:<7}'} {_message(record)}"
        trace = _trace(self, record)
        return line + "".join(f"\n    {plain(each)}" for each in trace.splitlines())


class Json(logging.Formatter):
    """One object a line: at (UTC), level, logger, message; trace where there is one; fields of `extra` by name."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        told: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            told["fields"] = {str(name): _bounded(str(value), TEXT_MAX) for name, value in fields.items()}
        if trace := _trace(self, record):
            told["trace"] = trace
        return json.dumps(told)  # ASCII: every other character and every control character is escaped


def _message(record: logging.LogRecord) -> str:
    return plain(_bounded(record.getMessage(), TEXT_MAX))


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return _bounded(formatter.formatException(record.exc_info), TRACE_MAX) if record.exc_info else ""


def _bounded(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"
