"""Where the sums stood at midnight and at the last settlement, so that "today" and "since" survive a restart.

A small JSON file in the data directory, written at midnight and after each cycle. Nothing is charged while the
gateway is off, so a midnight that passed then is known all the same: it stood where it stands.
"""

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

FILE = "figures.json"


class Sums(NamedTuple):
    """What payers were charged, and what earners are due for it, over all time; base units."""

    charged: int
    due: int

    @property
    def earned(self) -> int:
        """What is left to the operator."""
        return self.charged - self.due


class _Mark(msgspec.Struct, frozen=True):
    charged: str
    due: str

    def sums(self) -> Sums:
        return Sums(int(self.charged), int(self.due))


class _File(msgspec.Struct):
    day: str = ""
    at_midnight: _Mark | None = None
    cycle: int = 0
    at_cycle: _Mark | None = None


class Baselines:
    """The marks of one gateway."""

    def __init__(self, data_dir: Path, cycle: int, sums: Sums) -> None:
        """Read the marks; `cycle` is the last ended one, `sums` where everything stands at the start."""
        self._path = data_dir / FILE
        self._file = _read(self._path)
        if self._file.cycle != cycle:  # ended without us: where it stood is not known
            self._file.cycle, self._file.at_cycle = cycle, None
        if not cycle and self._file.at_cycle is None:
            self._file.at_cycle = _mark(Sums(0, 0))
        self.tick(sums)

    def tick(self, sums: Sums) -> None:
        """Take note of midnight; call it about once a second."""
        today = time.strftime("%Y-%m-%d")
        if self._file.day != today:
            self._file.day, self._file.at_midnight = today, _mark(sums)
            self._write()

    def cycle_ended(self, number: int, sums: Sums) -> None:
        """A settlement cycle has just ended."""
        self._file.cycle, self._file.at_cycle = number, _mark(sums)
        self._write()

    @property
    def midnight(self) -> Sums | None:
        """Where the sums stood at the last midnight (local time), if that is known."""
        return None if self._file.at_midnight is None else self._file.at_midnight.sums()

    @property
    def settlement(self) -> Sums | None:
        """Where they stood when the last cycle ended, if that is known."""
        return None if self._file.at_cycle is None else self._file.at_cycle.sums()

    def _write(self) -> None:
        new = self._path.with_suffix(".new")
        try:
            new.write_bytes(msgspec.json.encode(self._file))
            os.replace(new, self._path)
        except OSError:
            return  # a full disk is told elsewhere; these are figures for people, and no money


def _mark(sums: Sums) -> _Mark:
    return _Mark(str(sums.charged), str(sums.due))


def _read(path: Path) -> _File:
    try:
        return msgspec.convert(json.loads(path.read_bytes()), _File)
    except (OSError, ValueError, msgspec.ValidationError):  # none yet, or cut off: begins anew
        return _File()
