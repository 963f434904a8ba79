"""The tutorial, typed as it stands: every command in order, every line that the page shows compared.

What differs between runs (numbers, addresses) is compared as such. The page's ports are exchanged for free ones, and
its placeholders (0xOPERATOR and the like) for what the commands before said. A comment right before a block says how to
run it: `in every terminal`; `runs on; says: …` in a terminal of its own, until that is said; `after Ctrl-C, runs on`,
in the place of the last one; `again until it says: …`.
"""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.demo_process import free_port

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
# Generous: nothing here is a measurement.
WAIT_S = 60.0
PASSWORD = "rain in the meter box"


@dataclass(frozen=True)
class Step:
    """One block of commands, how to run it, and the lines that the page shows under it."""

    commands: str
    how: str
    pattern: str
    shown: tuple[str, ...]


def steps() -> list[Step]:
    """Return the page's blocks in order. Every fenced block is a step or what one says."""
    fences = re.findall(r"(?:<!-- (.*?) -->\n)?```(\w*)\n(.*?)```", PAGE, re.DOTALL)
    found: list[Step] = []
    for comment, language, body in fences:
        if language == "sh":
            how, _, pattern = comment.partition("says: ")
            found.append(Step(body, how.strip(), pattern, ()))
        else:
            assert (language, comment) == ("text", ""), "a block that no test runs"
            assert found[-1].shown == ()
            found[-1] = Step(found[-1].commands, found[-1].how, found[-1].pattern, tuple(body.splitlines()))
    return found


class Terminal:
    """A shell that is typed into; what it says is kept, and anything that fails ends it."""

    def __init__(self, directory: Path, before: str) -> None:
        self.process = subprocess.Popen(
            ["bash", "-eu", "-o", "pipefail"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=directory, start_new_session=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(directory), "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self.said = ""
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.run(before)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def start(self, commands: str) -> None:
        """Type commands."""
        assert self.process.stdin is not None
        self.process.stdin.write(commands)
        self.process.stdin.flush()

    def until(self, pattern: str) -> str:
        """Return what is said from now up to a line with the pattern."""
        heard, deadline = "", time.monotonic() + WAIT_S
        while not re.search(pattern, heard):
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            assert line is not None, f"it ended without {pattern!r}: {self.said}"
            heard += line
            self.said += line
        return heard

    def run(self, commands: str) -> str:
        """Type commands that end, all with success, and return what they say."""
        self.start(f"{commands}\nprintf '\\n\\036\\n'\n")
        return self.until("\036").partition("\n\036")[0]

    def interrupt(self) -> int:
        """Ctrl-C, then the end of what is typed; returns the exit code of the shell, which is its last command's."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.end()

    def end(self) -> int:
        """Close the terminal."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            return self.process.wait(WAIT_S)
        finally:
            self._reader.join(WAIT_S)
            assert self.process.stdout is not None
            self.process.stdout.close()

    def kill(self) -> None:
        """End everything in it at once."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.end()


class Reader:
    """Somebody who follows the page."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / ".venv").mkdir()
        (directory / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        self.ports = {port: str(free_port()) for port in ("1883", "8545", "8402")}
        self.known: dict[str, str] = {}
        self.before = ""
        self.others: list[Terminal] = []
        self.first = Terminal(directory, "")

    def follow(self, step: Step) -> None:
        """Do one step, compare what it says, and take note of what later ones need."""
        commands = self.filled(step.commands)
        if step.how == "in every terminal":
            self.before = commands
            said = self.first.run(commands)
        elif step.how.endswith("runs on;"):
            if step.how.startswith("after Ctrl-C"):
                assert self.others.pop().interrupt() == 1, "a device that nobody let in"
            other = Terminal(self.directory, self.before)
            self.others.append(other)
            # The shell is replaced by the last command, so that it is the one which Ctrl-C ends.
            lines = commands.rstrip("\n").split("\n")
            other.start("\n".join((*lines[:-1], f"exec {lines[-1]}", "")))
            said = other.until(step.pattern)
        elif step.how.startswith("again until it"):
            said, deadline = self.first.run(commands), time.monotonic() + WAIT_S
            while not re.search(step.pattern, said):
                assert time.monotonic() < deadline, f"{commands}: {said}"
                time.sleep(0.2)
                said = self.first.run(commands)
        else:
            assert step.how == "", step.how
            said = self.first.run(commands)
        assert "Traceback" not in said
        compare(step.shown, said)
        self.learn(said)
        if "metergate init" in commands:
            self.move()

    def filled(self, commands: str) -> str:
        """Return commands with our ports and what earlier commands said."""
        for name, value in self.known.items():
            commands = commands.replace(name, value)
        assert not re.search(r"0x[A-Z]{2}", commands), f"nobody said what this is: {commands}"
        for port, own in self.ports.items():
            commands = re.sub(rf"(?<!\d){port}(?!\d)", own, commands)
        return commands

    def learn(self, said: str) -> None:
        """Note what the page tells to write down."""
        for name, pattern in (
            ("0xOPERATOR", r"^  operator +(0x[0-9a-f]{40})$"),
            ("0xAUTHORIZER", r"^receiverAuthorizer (0x[0-9a-f]{40}) "),
            ("0xPAYER", r'^ +"payer": "(0x[0-9a-f]{40})",$'),
            ("0xID", r'"waiting":\[{"id":"(0x[0-9a-f]{64})"'),
        ):
            found = re.search(pattern, said, re.MULTILINE)
            if found:
                self.known.setdefault(name, found[1])

    def move(self) -> None:
        """Put our ports into the configuration, where the page's are."""
        path = self.directory / "tutorial" / "metergate.toml"
        text = path.read_text(encoding="utf-8")
        for old, port in (("port = 1883", "1883"), ("127.0.0.1:8545", "8545"), ("# port = 8402", "8402")):
            assert text.count(old) == 1, old
            text = text.replace(old, old.removeprefix("# ").replace(port, self.ports[port]))
        path.write_text(text, encoding="utf-8")

    def log_in(self, link: str) -> None:
        """Open the link as a browser does: the page, then the form that it holds."""
        base, _, code = link.partition("/setup#")
        with httpx.Client(base_url=base) as browser:
            assert browser.get("/setup").status_code == 200
            asked = {"code": code, "name": "Ada", "password": PASSWORD}
            assert browser.post("/api/v1/setup", json=asked).status_code == 200
            tiles = browser.get("/api/v1/overview").json()["tiles"]
            assert tiles["charged_today"] == "0", "all is zero"
            again = browser.post("/api/v1/setup", json=asked | {"name": "Eve"})
            assert again.status_code in (401, 403, 409), "the link works once"


def compare(shown: tuple[str, ...], said: str) -> None:
    """Hold lines of the page, in order, against what was said; `…` stands for anything, and so does any number."""
    lines = iter(said.splitlines())
    for line in shown:
        if line == "…":
            continue
        pattern = ".*".join(map(_pattern, line.split("…")))
        assert any(re.fullmatch(pattern, each) for each in lines), f"{line!r} is not in what was said:\n{said}"


def _pattern(text: str) -> str:
    """Return what a text looks like: numbers and addresses are any, spaces as many as they are."""
    parts = re.split(r"(0x[0-9a-f]+|#\w{20,}|\d[\d,.]*| +)", text)
    kinds = {"0x": r"0x[0-9a-f]+", "#": r"#[\w-]+", " ": " +"}
    out = []
    for index, part in enumerate(parts):
        if index % 2 == 0:
            out.append(re.escape(part))
        else:
            out.append(next((kind for start, kind in kinds.items() if part.startswith(start)), r"-?\d[\d,.]*"))
    return "".join(out)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    follower = Reader(tmp_path)
    try:
        yield follower
    finally:
        for terminal in (*reversed(follower.others), follower.first):
            terminal.kill()


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(reader: Reader) -> None:
    for step in steps():
        reader.follow(step)
        link = re.search(r"http://\S+/setup#\S+", reader.others[-1].said) if reader.others else None
        if link and step.commands.startswith("metergate run"):
            reader.log_in(link[0])

    statement = json.loads((reader.directory / "tutorial" / "statement.json").read_text())
    assert statement["message"]["party"] == reader.known["0xPAYER"]
    broker, chain, gateway, device = reader.others
    for name, terminal in (("device", device), ("gateway", gateway), ("chain", chain), ("broker", broker)):
        assert terminal.interrupt() == 0, f"{name}: {terminal.said}"


def test_the_page_shows_what_its_commands_say() -> None:
    """Most of them: a page whose output nobody compares says anything."""
    told = [step for step in steps() if step.shown]
    assert len(told) >= 12
    assert sum(len(step.shown) for step in told) >= 30


@pytest.mark.parametrize(
    ("line", "said", "fits"),
    [
        ("claimed 0.025200, gas 175,143", "claimed 1.1, gas 2", True),
        ("operator  0xab12", "operator 0x99", True),
        ("ok   keys           …", "ok   keys    /x/keys.json opens", True),
        ("ok   keys           …", "BAD  keys    /x/keys.json is missing", False),
        ("1 statement: valid", "1 statement: not valid", False),
        ("http://127.0.0.1:8402/setup#qLlfHzRbg4c69ntsxwWCfQAe5sTx99nK", "http://127.0.0.1:5/setup#a-b", True),
    ],
)  # fmt: skip
def test_how_lines_are_compared(line: str, said: str, fits: bool) -> None:
    if fits:
        compare((line,), f"before\n{said}\nafter\n")
    else:
        with pytest.raises(AssertionError):
            compare((line,), said)
