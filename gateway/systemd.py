"""Telling systemd how the gateway is (sd_notify(3)): ready, alive, stopping. Without systemd, nothing happens.

The watchdog is fed only while the gateway gets on: its event loop turns, its journal answers that all handed in so far
is on disk, and its pipeline does not stand still with frames waiting. A gateway that hangs is so started again by
systemd instead of looking alive.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping

# Half the time that systemd waits, as sd_watchdog_enabled(3) advises.
SHARE = 0.5


class Notifier:
    """Sends states to the socket that systemd named; one that is gone is nobody to tell."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        names = os.environ if environment is None else environment
        self._address = names.get("NOTIFY_SOCKET", "")
        usec = names.get("WATCHDOG_USEC", "")
        mine = names.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(usec) / 1e6 if self._address and mine and usec.isascii() and usec.isdigit() else 0.0

    def ready(self, text: str) -> None:
        """The start is done."""
        self._send(f"READY=1\nSTATUS={_line(text)}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    async def watch(self, progress: Callable[[], Awaitable[bool]]) -> None:
        """Feed the watchdog for as long as `progress` says that things get on; until cancelled."""
        if self.watchdog_s <= 0:
            return
        while True:
            if await progress():
                self.alive()
            await asyncio.sleep(self.watchdog_s * SHARE)

    def _send(self, state: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        # An address that begins with @ is in the abstract namespace.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto(state.encode(), address)
        except OSError:
            return  # systemd restarts, or its queue is full: the next one tells it


class Progress:
    """Whether a gateway gets on, from one look to the next.

    `commits` waits for the disk and raises what the disk does; `handled` counts batches that went through; `waiting`
    is how many frames wait for the pipeline.
    """

    def __init__(
        self, commits: Callable[[], Awaitable[None]], handled: Callable[[], int], waiting: Callable[[], int]
    ) -> None:
        self._commits, self._handled, self._waiting = commits, handled, waiting
        self._before: tuple[int, int] | None = None

    async def __call__(self) -> bool:
        """Return whether the journal is on disk and the pipeline moved, or had nothing to do."""
        await self._commits()
        now = (self._handled(), self._waiting())
        before, self._before = self._before, now
        stuck = before is not None and before[0] == now[0] and before[1] > 0 and now[1] > 0
        return not stuck


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
