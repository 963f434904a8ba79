"""`metergate top`: the running gateway on a terminal, drawn anew every second; works over SSH and in 80x24."""

import argparse
import contextlib
import json
import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Any

from gateway.cli.asking import ask
from gateway.cli.terminal import BOLD, DIM, GREEN, RED, YELLOW, colours, paint, plain
from gateway.config import Config, load_config
from gateway.errors import SetupError
from gateway.summary import tokens

HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
# The other screen, so that what was there is there again in the end; no cursor while it lasts.
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
REASONS_SHOWN = 6


def top(options: argparse.Namespace) -> int:
    """Show one look, or look after look on a terminal until q or Ctrl-C."""
    config = load_config(options.config)
    if options.json:
        print(json.dumps(_look(config)))
        return 0
    if options.once or not (sys.stdout.isatty() and sys.stdin.isatty()):
        print("\n".join(frame(_look(config), None, 0.0, 80, 24, colours())))
        return 0
    return _live(config, options.every)


def _look(config: Config) -> dict[str, Any]:
    answer = ask(config, "GET", "/v1/status")
    if answer is None:
        raise SetupError("no gateway runs on this configuration: start it with `metergate run`.")
    return answer


def _live(config: Config, every_s: float) -> int:
    before: dict[str, Any] | None = None
    then = time.monotonic()
    with _screen():
        while True:
            now, look = time.monotonic(), _look(config)
            size = shutil.get_terminal_size()
            lines = frame(look, before, now - then, size.columns, size.lines, colours())
            sys.stdout.write(HOME + "\n".join(line + CLEAR_LINE for line in lines) + CLEAR_BELOW)
            sys.stdout.flush()
            before, then = look, now
            if _quit_within(every_s):
                break
    return 0


@contextlib.contextmanager
def _screen() -> Iterator[None]:
    """Keys come one by one and are not shown; all as it was in the end, whatever ends it."""
    descriptor = sys.stdin.fileno()
    kept = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    sys.stdout.write(ENTER)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(descriptor, termios.TCSADRAIN, kept)


def _quit_within(seconds: float) -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b"")


def frame(
    look: dict[str, Any], before: dict[str, Any] | None, passed_s: float, columns: int, rows: int, on: bool
) -> list[str]:
    """Return a look's lines, cut to the terminal; `before` and how long ago it was give rates."""
    lines: list[tuple[str, str]] = []
    for text, colour in _lines(look, before, passed_s):
        lines.append((plain(text)[:columns], colour))
    return [paint(text, colour, on and bool(colour)) for text, colour in lines[: max(1, rows - 1)]]


def _lines(look: dict[str, Any], before: dict[str, Any] | None, passed_s: float) -> Iterator[tuple[str, str]]:
    chain, gas, last = look["chain"], look["gas"], look["last_settlement"]
    yield f"metergate  {look['gateway']}{'  DEMO' if look['demo'] else ''}    q ends", BOLD
    good = look["broker_connected"]
    yield f"broker     {'connected' if good else 'AWAY'}", GREEN if good else RED
    stale = chain["stale"]
    yield f"chain      {chain['id']}, block {chain['block']}{', SILENT' if stale else ''}", RED if stale else GREEN
    yield "", ""
    yield f"{'':<11}{'in all':>18}{'a second':>14}", DIM
    for name in ("payments", "readings", "refused", "duplicates"):
        yield f"{name:<11}{look[name]:>18,}{_rate(look, before, passed_s, name):>14}", ""
    for name in ("charged", "claimed", "offset", "earned", "paid_out", "fees"):
        yield f"{name:<11}{tokens(int(look[name])):>18}", ""
    yield f"{'unsettled':<11}{tokens(int(look['unsettled'])):>18}", BOLD
    settled = "none yet" if last is None else f"#{last['cycle']} claimed {tokens(int(last['claimed']))}"
    yield f"settlement {settled}; next in {look['next_settlement_s']} s", ""
    yield f"devices    {look['devices']:,}, channels {look['channels']:,}, closing {look['closing_channels']}", ""
    waiting = look["outstanding_transactions"]
    refills = "not read yet" if gas["refills"] is None else f"{gas['refills']} refills left"
    yield f"gas        {refills}; {waiting} transactions wait", YELLOW if gas["warning"] else ""
    if gas["warning"]:
        yield f"           {gas['warning']}", YELLOW
    refused = sorted(look["refused_by_reason"].items(), key=lambda each: -each[1])[:REASONS_SHOWN]
    if refused:
        yield "refused    " + ", ".join(f"{name} {count:,}" for name, count in refused), YELLOW
    backup = look.get("backup") or {}
    if backup.get("failed"):
        yield f"backup     {backup['failed']}", RED


def _rate(look: dict[str, Any], before: dict[str, Any] | None, passed_s: float, name: str) -> str:
    if before is None or passed_s <= 0:
        return ""
    return f"{(look[name] - before[name]) / passed_s:,.1f}"
