"""Kills a gateway many times and holds it, after every restart, to what its devices and its chain know."""

import http.client
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash import points
from tests.crash.fleet import Fleet
from tests.crash.inspector import Inspector
from tests.crash.lives import Life, Nursery
from tests.crash.points import Schedule
from tests.crash.site import SITES, Site
from tests.crash.trouble import Troubles

# None of these decides a result: they bound what never comes.
READY_S = 120.0
SETTLED_S = 240.0
# A life that does not come to its point by then is killed where it is.
LIFE_S = 5.0
RANDOM_LIFE_S = 2.5
RANDOM_SHARE = 0.15
BY_COMMAND_SHARE = 0.2  # of those
TICK_S = 0.01

Say = Callable[[str], None]
DYING = (OSError, http.client.HTTPException)


@dataclass
class Figures:
    """What a run came to."""

    kills: int = 0
    payments: int = 0
    cycles: int = 0
    restarts: int = 0
    reorgs: int = 0
    points: Counter[str] = field(default_factory=Counter)
    journaled: Counter[str] = field(default_factory=Counter)  # records by tag
    recoveries_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    trouble: Counter[str] = field(default_factory=Counter)  # faults of the line that happened
    missed: Counter[str] = field(default_factory=Counter)  # points that a life did not come to in time

    @property
    def covered(self) -> int:
        """How many named points were killed at."""
        return len(self.points.keys() - {"random"})

    def add(self, other: "Figures") -> None:
        """Take another site's figures in."""
        self.kills += other.kills
        self.payments += other.payments
        self.cycles += other.cycles
        self.restarts += other.restarts
        self.journaled += other.journaled
        self.recoveries_s += other.recoveries_s
        self.faults += other.faults
        self.trouble += other.trouble
        self.missed += other.missed

    def line(self) -> str:
        """Return the one line that sums it up."""
        recovery = sum(self.recoveries_s) / max(1, len(self.recoveries_s))
        return (
            f"{self.kills} kills at {self.covered} named points and {self.points['random']} random moments, "
            f"{self.payments} payments, {self.cycles} settlement cycles, {self.restarts} restarts, "
            f"mean recovery {1000 * recovery:.0f} ms, {len(self.faults)} faults"
        )


@dataclass(frozen=True)
class Shared:
    """What all sites of a run share: kills by point so far, and the processes that gateways are forked from."""

    say: Say
    killed: Counter[str]
    nursery: Nursery


class SiteRun:
    """The kills of one site: one chain, one journal, one fleet."""

    def __init__(self, kind: str, kills: int, seed: int, directory: Path, shared: Shared) -> None:
        self._rng = random.Random(f"{seed} {kind}")
        self._kills = kills
        self._kind = kind
        self._say = shared.say
        self.site: Site = SITES[kind](directory, seed, shared.nursery)
        self.schedule = Schedule(self._rng, shared.killed, random_share=RANDOM_SHARE)
        self.fleet = Fleet(self.site.broker.port)
        self.inspector = Inspector(self.site, self.fleet)
        self.troubles = Troubles(self.site, self.fleet, self.inspector, self._rng)
        self.figures = Figures()

    def run(self) -> Figures:
        """Kill so many times, settle everything, and return what it came to; stops at the first fault."""
        try:
            self._say(f"{self._kills} kills on: {self.site.kind}")
            self._first_lives()
            if not self.figures.faults:
                self._begin()
            while self.figures.kills < self._kills and not self.figures.faults:
                self._one_life()
            if not self.figures.faults:
                self._finish()
            self.figures.payments = len(self.fleet.accepted)
            self.figures.cycles = self.inspector.journal.tags["cycle-end"]
            self.figures.journaled += self.inspector.journal.tags
            self.figures.trouble += self.site.proxy.counts
            self.figures.missed += self.schedule.missed
        finally:
            self.fleet.close()
            self.site.close()
        return self.figures

    # -- lives --

    def _first_lives(self) -> None:
        """Kill a gateway that has hardly begun: these points pass once in a journal's life."""
        for point in points.FIRST[: max(1, self._kills // 4)]:
            life = self.site.bear(point)
            self._die(life, point, READY_S)

    def _begin(self) -> None:
        """Let it live until money flows and settles, and learn what points there are."""
        life = self.site.bear()
        self._until(lambda: self.inspector.control.ready and self.fleet.offer is not None, life, READY_S, "no start")
        self.troubles.begin()
        cycles = self.inspector.journal.tags

        def settled() -> bool:
            self.figures.faults += self.inspector.journal.read()
            return cycles["cycle-end"] > 0 and cycles["paid"] > 0

        self._until(settled, life, SETTLED_S, "no settlement")
        self._die(life, None, 0)

    def _one_life(self) -> None:
        planned = self.schedule.next()
        point, at = planned or (None, 1)
        by_command = point is None and self._rng.random() < BY_COMMAND_SHARE
        lifetime_s = LIFE_S if point else self._rng.uniform(0, RANDOM_LIFE_S)
        self.site.proxy.clear()  # a chain that is away at the start is for the operator to mend, and said so
        began = time.monotonic()
        life = self.site.bear(point, at, by_command=by_command)
        self.figures.restarts += 1
        if by_command:
            lifetime_s *= 2  # Python starts, too
        while life.alive and not self.inspector.control.ready and time.monotonic() - began < lifetime_s:
            time.sleep(TICK_S)
        if life.alive and self.inspector.control.ready:
            if not by_command:
                self.figures.recoveries_s.append(time.monotonic() - began)
            self._look(life, point)
        self._die(life, point, began + lifetime_s - time.monotonic())
        self._report()

    def _look(self, life: Life, point: str | None) -> None:
        """Disturb a gateway that has just started, and hold it to account; it may die meanwhile."""
        for check in (self.inspector.nothing_lost, self.inspector.nothing_twice, self.inspector.balanced):
            try:
                self.figures.faults += check()
            except DYING:
                if life.alive and not life.ended(1):
                    raise
        try:
            self.troubles.stir(point)
        except DYING:
            if life.alive and not life.ended(1):
                raise

    def _die(self, life: Life, point: str | None, within_s: float) -> None:
        """Wait for a life to end at its point, or end it."""
        reached = life.ended(max(0.0, within_s)) and point is not None
        life.kill()
        self.schedule.learn(life.points)
        if not life.killed:
            tail = "\n".join(self.site.log.read_text(errors="replace").splitlines()[-30:])
            self.figures.faults.append(f"the gateway ended by itself with status {life.status}:\n{tail}")
            return
        self.figures.kills += 1
        self.schedule.ended(point, reached=reached)
        self.figures.faults += self.fleet.faults

    def _report(self) -> None:
        if self.figures.kills % 10 == 0:
            self._say(
                f"  {self.figures.kills}/{self._kills} kills here, {self.schedule.covered} of "
                f"{len(self.schedule.known)} points, {len(self.fleet.accepted)} payments"
            )

    # -- the end --

    def _finish(self) -> None:
        """Let everything settle, and hold the chain to the receipts, exactly."""
        self.site.proxy.clear()
        life = self.site.bear()
        self.figures.restarts += 1
        self._until(lambda: self.inspector.control.ready, life, READY_S, "no start")
        self.fleet.quiet = True
        self._until(lambda: self.fleet.idle, life, SETTLED_S, "messages without an answer", self.fleet.waiting_for)
        self.fleet.ask_again()
        self._until(lambda: self.fleet.idle, life, SETTLED_S, "readings without a second answer")
        self._until(lambda: not self.inspector.unsettled(), life, SETTLED_S, "unsettled", self.inspector.unsettled)
        if life.alive and not self.figures.faults:
            self._until(self._proved, life, READY_S, "the gateway cannot prove its books")
            self.figures.faults += self.inspector.nothing_lost() + self.inspector.nothing_twice()
            self.figures.faults += self.inspector.ledger_checked()
            life.kill(signal.SIGTERM)
            if life.status != 0:
                self.figures.faults.append(f"asked to end, it ended with status {life.status}")
        self.figures.faults += self.fleet.faults

    def _proved(self) -> bool:
        status, answer = self.inspector.control.ask("GET", "/v1/books")
        if status == 200:
            self.figures.faults += answer["faults"]
        return status == 200

    def _until(
        self,
        holds: Callable[[], bool],
        life: Life,
        patience_s: float,
        what: str,
        more: Callable[[], list[str]] = list,
    ) -> None:
        """Wait for a condition while the gateway lives."""
        deadline = time.monotonic() + patience_s
        while not holds():
            if not life.alive or time.monotonic() > deadline or self.figures.faults:
                tail = "\n".join(self.site.log.read_text(errors="replace").splitlines()[-30:])
                state = "" if life.alive else f", it ended with status {life.status}"
                self.figures.faults.append(f"{what}{state}: {more() if life.alive else ''}\n{tail}")
                return
            time.sleep(0.05)


# How kills are shared out: most on the embedded layer, a third on a chain that others wrote.
SHARES = {"beside": 0.45, "inside": 0.2, "anvil": 0.35}


def run(kills: int, seed: int, say: Say, *, kinds: tuple[str, ...] = tuple(SHARES)) -> Figures:
    """Share the kills out over the kinds of sites and return all figures; stops at the first fault.

    What a faulty site left stays on disk, and where is said.
    """
    figures = Figures()
    left, weight = kills, sum(SHARES[kind] for kind in kinds)
    shared = Shared(say, figures.points, Nursery())
    try:
        for number, kind in enumerate(kinds):
            share = left if number == len(kinds) - 1 else max(1, round(kills * SHARES[kind] / weight))
            left -= share
            directory = Path(tempfile.mkdtemp(prefix="metergate-crash-"))
            found = SiteRun(kind, share, seed, directory / kind, shared).run()
            figures.add(found)
            if found.faults:
                say(f"what this site left is in {directory}")
                break
            shutil.rmtree(directory)
    finally:
        shared.nursery.close()
    return figures
