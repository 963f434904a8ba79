"""What systemd is told, and when the watchdog is fed."""

import asyncio
import contextlib
import os
import shlex
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.main import _parser
from gateway.cli.operate import progress_of
from gateway.errors import JournalFault
from gateway.systemd import Notifier, Progress
from tests.support.gateway_world import World, until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    """Where systemd listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(tmp_path / "notify"))
        found.setblocking(False)
        yield found


def heard(ear: socket.socket) -> list[str]:
    told = []
    with contextlib.suppress(BlockingIOError):
        while True:
            told.append(ear.recv(4096).decode())
    return told


def fed(told: list[str], ear: socket.socket) -> list[str]:
    """Add what was heard to what was told before."""
    told += heard(ear)
    return told


def notifier(ear: socket.socket, **names: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_PID": str(os.getpid())} | names)


def test_it_says_that_it_is_ready_and_that_it_stops(ear: socket.socket) -> None:
    made = notifier(ear)
    made.ready("gateway gw1\nREADY=0")
    made.stopping()
    assert heard(ear) == ["READY=1\nSTATUS=gateway gw1 READY=0", "STOPPING=1\nSTATUS=stopping"]


def test_in_the_abstract_namespace_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(f"\0metergate-test-{os.getpid()}")
        Notifier({"NOTIFY_SOCKET": f"@metergate-test-{os.getpid()}"}).alive()
        assert found.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    "names", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/notify"}, {"NOTIFY_SOCKET": "tcp:1"}]
)
def test_without_systemd_nothing_happens(names: dict[str, str]) -> None:
    made = Notifier(names)
    made.ready("x")
    made.alive()
    made.stopping()


@pytest.mark.parametrize(
    ("names", "seconds"),
    [({"WATCHDOG_USEC": "60000000"}, 60.0), ({}, 0.0), ({"WATCHDOG_USEC": "x"}, 0.0),
     ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, 0.0)],
)  # fmt: skip
def test_the_watchdog_is_for_whom_it_names(ear: socket.socket, names: dict[str, str], seconds: float) -> None:
    assert notifier(ear, **names).watchdog_s == seconds


async def test_it_is_fed_while_a_gateway_gets_on(world: World, ear: socket.socket) -> None:
    watch = asyncio.create_task(notifier(ear, WATCHDOG_USEC="20000").watch(progress_of(world.gateway)))
    told: list[str] = []
    try:
        await world.pay(await world.opened(), 1)
        await until(lambda: len(fed(told, ear)) > 3 or watch.done())
        assert not watch.done()
    finally:
        watch.cancel()
    assert set(told) == {"WATCHDOG=1"}


async def test_it_is_not_fed_while_the_disk_hangs(ear: socket.socket) -> None:
    disk, asked = asyncio.Event(), 0

    async def commits() -> None:
        nonlocal asked
        asked += 1
        await disk.wait()

    watch = asyncio.create_task(notifier(ear, WATCHDOG_USEC="2000").watch(Progress(commits, lambda: 0, lambda: 0)))
    try:
        await until(lambda: asked == 1)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert heard(ear) == []
        disk.set()
        await until(lambda: bool(heard(ear)))
    finally:
        watch.cancel()


async def test_a_pipeline_that_stands_still_with_frames_waiting_is_no_progress() -> None:
    figures = {"handled": 1, "waiting": 0}

    async def disk() -> None:
        if figures["handled"] < 0:
            raise JournalFault("gone")

    made = Progress(disk, lambda: figures["handled"], lambda: figures["waiting"])
    assert [await made() for _ in range(3)] == [True] * 3, "nothing to do is no trouble"
    figures["waiting"] = 5
    assert await made(), "they may just have come"
    assert not await made()
    figures["handled"] = 2
    assert await made()
    figures["handled"] = -1
    with pytest.raises(JournalFault):
        await made()


def test_the_unit_starts_a_command_that_there_is() -> None:
    text = (ROOT / "deploy" / "metergate.service").read_text()
    options = [(line.split("=", 1)[0], line.split("=", 1)[1]) for line in text.splitlines() if line[:1].isalpha()]
    settings = dict(options)
    command = shlex.split(settings["ExecStart"])
    assert _parser().parse_args(command[1:]).log_format == "json"
    assert settings["Type"] == "notify"
    assert int(settings["WatchdogSec"]) > 0
    assert settings["RestartPreventExitStatus"] == "2"
    assert getattr(signal, settings["KillSignal"]) is signal.SIGTERM
