"""What a terminal may be told: colours only where a person sees them, and no text that steers it."""

import os
import sys
from typing import TextIO

RED, GREEN, YELLOW, BOLD, DIM = "31", "32", "33", "1", "2"


def colours(stream: TextIO | None = None) -> bool:
    """Tell whether to use colours: on a terminal, unless NO_COLOR is set (https://no-color.org) or it is a dumb one."""
    out = sys.stdout if stream is None else stream
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, on: bool) -> str:
    """Return text in a colour, if colours are on."""
    return f"\x1b[{colour}m{text}\x1b[0m" if on else text


def plain(text: str) -> str:
    """Return text without anything that steers a terminal or begins a line: names may come from anybody."""
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
