"""The loop that runs a fleet in one thread: sockets, timers, readings, progress, and a clean end."""

import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from firmware_sim.counters import Counters
from firmware_sim.feeds import Feed
from firmware_sim.link import Link
from firmware_sim.report import figures, progress_line

TICK_US = 100_000  # resend timers count in seconds
CONNECTS_PER_TURN = 32  # a TCP connect may block: the rest of the loop goes on in between
DRAIN_US = 5_000_000  # for receipts outstanding at the end
GOODBYE_US = 1_000_000
CLOSE_US = 60_000_000  # a settlement and its confirmations
STALL_US = 60_000_000  # nothing accepted for this long in a replay
LINE_US = 5_000_000


class Clock:
    """Unix time in µs at start, then monotonic: a step of the system clock does not reach the devices."""

    def __init__(self) -> None:
        self._shift = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def __call__(self) -> int:
        """Now, in microseconds."""
        return time.monotonic_ns() // 1000 + self._shift


@dataclass(slots=True)
class Limits:
    """How long: duration_us from the first opened device (None: until a signal), start_us for the first to open.

    `parent` is the process to end with, None for none. close: at the end every device closes its channel.
    """

    duration_us: int | None
    start_us: int
    stall: bool
    parent: int | None = None
    close: bool = False


def _closes(link: Link) -> bool:
    return not (link.device.closing.done or link.device.stopped)


class Runner:
    """Runs links and a feed to their end; `problem` says in a sentence why it ended early."""

    def __init__(
        self,
        links: list[Link],
        selector: selectors.BaseSelector,
        clock: Clock,
        counters: Counters,
        limits: Limits,
        *,
        progress_json: bool,
    ) -> None:
        self.links = links
        self.problem = ""
        self._selector = selector
        self._clock = clock
        self._counters = counters
        self._limits = limits
        self._progress_json = progress_json
        self._begin_us = clock()
        self._opened_us = 0
        self._line_us = 0
        self._tick_us = 0
        self._turn = 0
        self._accepted = (0, self._begin_us)
        self._to_flush: set[Link] = set()
        self.signals = 0

    def wants_flush(self, link: Link) -> None:
        """Called by links whose client queued something."""
        self._to_flush.add(link)

    @property
    def elapsed_us(self) -> int:
        """Since the start."""
        return self._clock() - self._begin_us

    def run(self, feed: Feed) -> None:
        """Until the feed is finished, the duration is over, a signal came, or nothing moves."""
        while not self._over(feed):
            now = self._clock()
            feed.feed(now)
            self._turn_once(min(feed.next_us(now), self._tick_us) - now)
        deadline = self._clock() + DRAIN_US
        while self._clock() < deadline and self.signals < 2 and self._waiting():
            self._turn_once(TICK_US // 2)
        if self._limits.close:
            self._close_channels()
        for link in self.links:
            link.leave()
        deadline = self._clock() + GOODBYE_US
        while self._clock() < deadline and any(link.up for link in self.links):
            self._poll(10_000)
        for link in self.links:
            link.close()

    def _close_channels(self) -> None:
        for link in self.links:
            link.close_channel()
        deadline = self._clock() + CLOSE_US
        while self._clock() < deadline and self.signals < 2 and any(map(_closes, self.links)):
            self._turn_once(TICK_US // 2)
        if not self.problem and any(map(_closes, self.links)):
            left = sum(map(_closes, self.links))
            self.problem = f"{left} channels were not closed within {CLOSE_US // 1_000_000} s"

    def _over(self, feed: Feed) -> bool:
        now = self._clock()
        opened = self._counters.opens > 0 or any(link.device.opened for link in self.links)
        if opened and not self._opened_us:
            self._opened_us = now
        if self.signals or feed.finished():
            return True
        if self._limits.parent not in (None, os.getppid()):
            self.problem = "the process that started the fleet is gone"
            return True
        if all(link.device.stopped for link in self.links):
            self.problem = "every device has stopped"
            return True
        if not opened and now - self._begin_us > self._limits.start_us:
            self.problem = self._why_not_started()
            return True
        if self._accepted[0] != self._counters.accepted or not opened:
            self._accepted = (self._counters.accepted, now)
        if self._limits.stall and now - self._accepted[1] > STALL_US:
            self.problem = f"no reading was accepted for {STALL_US // 1_000_000} s"
            return True
        duration = self._limits.duration_us
        return duration is not None and opened and now - self._opened_us >= duration

    def _why_not_started(self) -> str:
        seconds = self._limits.start_us // 1_000_000
        if not any(link.up for link in self.links):
            return f"the broker could not be reached within {seconds} s"
        if not any(link.device.tariffs.current for link in self.links):
            return f"no valid offer from the gateway within {seconds} s"
        return f"no device was opened within {seconds} s"

    def _waiting(self) -> bool:
        return any(link.device.window.signed and not link.device.stopped and link.up for link in self.links)

    def _turn_once(self, wait_us: int) -> None:
        self._poll(wait_us)
        now = self._clock()
        if now >= self._tick_us:
            self._tick_us = now + TICK_US
            self._tick(now)
            self._flush()
            self._progress(now)

    def _poll(self, wait_us: int) -> None:
        self._flush()
        for key, mask in self._selector.select(max(wait_us, 0) / 1_000_000):
            key.data.ready(mask)
        self._flush()

    def _flush(self) -> None:
        while self._to_flush:
            self._to_flush.pop().flush()

    def _tick(self, now: int) -> None:
        connects = 0
        for offset in range(len(self.links)):
            link = self.links[(self._turn + offset) % len(self.links)]
            if link.idle_at(now):
                connects += 1
                if connects > CONNECTS_PER_TURN:
                    continue
            link.tick(now)
        self._turn = (self._turn + CONNECTS_PER_TURN) % len(self.links)

    def _progress(self, now: int) -> None:
        every = 1_000_000 if self._progress_json else LINE_US
        if now - self._line_us < every:
            return
        self._line_us = now
        report = figures(self.links, self._counters, self.elapsed_us)
        if self._progress_json:
            print(json.dumps({"type": "progress", **report}), flush=True)
        else:
            print(progress_line(report), file=sys.stderr, flush=True)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run with its summary, also where SIGINT was inherited as ignored."""

        def handle(signum: int, frame: FrameType | None) -> None:
            self.signals += 1

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
