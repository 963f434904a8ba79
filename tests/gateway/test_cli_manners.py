"""How commands behave on a terminal and elsewhere: help, completion, colours, `top`, `doctor`."""

import asyncio
import contextlib
import dataclasses
import fcntl
import io
import json
import os
import pty
import select
import shlex
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from unittest import mock

import pytest

from gateway.backup import note
from gateway.cli import doctor as doctors
from gateway.cli.completion import SHELLS
from gateway.cli.examples import EXAMPLES, NO, codes, commands
from gateway.cli.main import _parser
from gateway.cli.terminal import colours, paint, plain
from gateway.cli.top import frame
from tests.gateway.test_cli_books import Desk
from tests.support.gateway_world import World

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = dict(commands(_parser()))


@pytest.fixture
async def desk(world: World, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Desk]:
    made = Desk(world, capsys)
    await made.serve()
    yield made
    await made.close()


# -- help and completion --


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_teaches_by_examples_that_are_right(name: str) -> None:
    assert EXAMPLES.get(name), f"{name} has no example"
    help_ = COMMANDS[name].format_help()
    for line, meaning in EXAMPLES[name]:
        assert line in help_
        assert meaning in help_
        words = shlex.split(line.split(" > ")[0])
        assert words[0] == "metergate"
        assert " ".join(words[1:]).startswith(name)
        _parser().parse_args(words[1:])
    assert codes(name) in help_


def test_no_example_and_no_exit_code_is_of_a_command_that_is_gone() -> None:
    assert set(EXAMPLES) <= set(COMMANDS)
    assert set(NO) <= set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_that_ends_by_itself_writes_json(name: str) -> None:
    assert ("--json" in COMMANDS[name].format_help()) is (name not in ("run", "chain", "completion"))


def completed(*words: str) -> list[str]:
    """Return what bash offers behind these words, the last of which is being typed."""
    options = _parser().parse_args(["completion", "bash"])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert options.run(options) == 0
    script = out.getvalue()
    line = " ".join(map(shlex.quote, words))
    script += f'\nCOMP_WORDS=({line})\nCOMP_CWORD={len(words) - 1}\n_metergate\nprintf "%s\\n" "${{COMPREPLY[@]}}"\n'
    told = subprocess.run(["bash", "-eu"], input=script, capture_output=True, text=True, check=True, cwd=ROOT / "docs")
    return told.stdout.split()


def test_bash_completes_commands_actions_options_and_files() -> None:
    assert {"demo", "device", "backup", "top"} <= set(completed("metergate", ""))
    assert completed("metergate", "rest") == ["restore"]
    assert {"add", "list", "show", "close"} <= set(completed("metergate", "device", ""))
    assert completed("metergate", "device", "close", "--ch") == ["--channel"]
    assert completed("metergate", "completion", "f") == ["fish"]
    assert completed("metergate", "restore", "operat") == ["operating.md"]
    assert completed("metergate", "settle", "--config", "operat") == ["operating.md"]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = _parser().parse_args(["completion", shell])
    assert options.run(options) == 0
    script = capsys.readouterr().out
    assert all(word in script for name in COMMANDS for word in name.split())
    assert "with-keys" in script


# -- colours and text --


class _Terminal:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "on"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_only_where_they_are_wanted(environment: dict[str, str], on: bool) -> None:
    with mock.patch.dict(os.environ, {"TERM": "xterm"} | environment):
        if "NO_COLOR" not in environment:
            os.environ.pop("NO_COLOR", None)
        assert colours(_Terminal()) is on  # type: ignore[arg-type]
        with Path(os.devnull).open("w") as pipe:
            assert colours(pipe) is False
    assert paint("x", "31", on) == ("\x1b[31mx\x1b[0m" if on else "x")


def test_no_name_steers_a_terminal() -> None:
    assert plain("pump\x1b[2J\n-7 ü") == "pump\\x1b[2J\\n-7 ü"
    assert plain("\u202eevil") == "\\u202eevil"


# -- top --


async def test_top_draws_rates_within_any_terminal(desk: Desk) -> None:
    payer = await desk.world.opened()
    await desk.world.pay(payer, 100)
    look = await desk.json("top", "--json")
    later = look | {"payments": look["payments"] + 20, "gateway": "gw\x1b[2J"}
    lines = frame(later, look, 2.0, 80, 24, False)
    assert any(line.split() == ["payments", "21", "10.0"] for line in lines)
    assert any(line.split() == ["charged", "0.015000"] for line in lines)
    assert lines[0].startswith("metergate  gw\\x1b[2J")
    for columns, rows in ((80, 24), (20, 5), (1, 1)):
        small = frame(later, look, 2.0, columns, rows, False)
        assert all(len(line) <= columns for line in small)
        assert len(small) <= max(1, rows - 1)
    assert "\x1b[" in "".join(frame(look, None, 0.0, 80, 24, True))
    assert "payments" in await desk.type("top"), "no terminal: one look"


async def test_top_on_a_terminal_ends_by_q_and_leaves_it_as_it_was(desk: Desk) -> None:
    await desk.world.opened()
    for key in (b"q", b"\x03"):
        shown = await asyncio.to_thread(_on_a_terminal, desk.config, key)
        assert b"\x1b[?1049h" in shown
        assert shown.count(b"payments") >= 2, "drawn anew"
        assert shown.rstrip().endswith(b"\x1b[?25h\x1b[?1049l")


def _on_a_terminal(config: Path, key: bytes) -> bytes:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gateway", "top", "--config", str(config)]
    child = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    shown, pressed, deadline = b"", False, time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    piece = os.read(ours, 65536)
                except OSError:
                    break  # EIO: the other end is closed
                shown += piece
            if not pressed and shown.count(b"payments") >= 2:
                os.write(ours, key)
                pressed = True
            if not select.select([ours], [], [], 0)[0] and child.poll() is not None:
                break
        assert child.wait(10) == 0, shown
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        os.close(ours)
    return shown


async def test_top_without_a_gateway(desk: Desk) -> None:
    await desk.close()
    assert "no gateway runs" in await desk.type("top", code=2)


# -- doctor --


async def test_doctor_sees_what_others_may_read_and_how_old_the_backup_is(
    make_world: Callable[..., Awaitable[World]], tmp_path: Path
) -> None:
    world = await make_world()
    config = world.config
    assert doctors._permissions(config).good
    os.chmod(config.data_dir, 0o755)
    found = doctors._permissions(config)
    assert not found.good
    assert f"chmod go= {config.data_dir}" in found.text
    os.chmod(config.data_dir, 0o700)
    assert "none was made yet" in doctors._backup(config).text
    await world.opened()
    made = await world.gateway.backups.make(tmp_path / "b.tar")
    now = doctors._backup(config)
    assert now.good
    assert not now.warning
    note(config, dataclasses.replace(made, at=made.at - 9 * 86_400))
    old = doctors._backup(config)
    assert old.warning
    assert "9 days old" in old.text
    assert json.dumps(dataclasses.asdict(old))
