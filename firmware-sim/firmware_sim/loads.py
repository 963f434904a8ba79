"""Meters and what they measure: seeded, integer-only load shapes in simulated time.

A meter advances by simulated seconds and shows a cumulative register. Energy adds up in watt-seconds, water
in millilitres, so that no step is too short to count.
"""

from random import Random
from typing import Protocol

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86_400

# Mean watts of a home at each full hour: night base, breakfast, quiet noon, evening peak.
_HOME_W = (
    230, 210, 200, 195, 200, 260, 520, 840, 690, 470, 420, 440,
    560, 480, 410, 420, 560, 880, 1320, 1540, 1380, 1010, 620, 340,
)  # fmt: skip
# Chance, in thousandths per minute, that someone in the home opens a tap, at each hour.
_TAP_PERMILLE = (2, 1, 1, 1, 2, 15, 60, 75, 45, 25, 20, 20, 35, 25, 15, 15, 20, 35, 55, 60, 45, 30, 20, 8)
# Taps: (millilitres per minute, shortest, longest minutes): toilet, basin, shower, garden, washing machine.
_TAPS = ((6_000, 1, 1), (4_000, 1, 3), (9_000, 4, 10), (14_000, 5, 20), (5_500, 8, 9))


class Meter(Protocol):
    """A cumulative meter."""

    def advance(self, seconds: int) -> int:
        """Let simulated seconds pass; returns the register in the service's unit."""

    def rebase(self, register: int) -> None:
        """Go on from `register`: the meter counted on while its firmware forgot."""


class _Accumulating:
    """Adds up fine units minute by minute; subclasses say how much a minute brings."""

    def __init__(self, random: Random, register: int, fine_per_unit: int, time_s: int) -> None:
        self._random = random
        self._fine_per_unit = fine_per_unit
        self._fine = register * fine_per_unit
        self._time_s = time_s

    def advance(self, seconds: int) -> int:
        """Let simulated seconds pass; returns the register."""
        while seconds > 0:
            step = min(seconds, MINUTE_S)
            self._fine += self._flow(self._time_s % DAY_S, step)
            self._time_s += step
            seconds -= step
        return self._fine // self._fine_per_unit

    def rebase(self, register: int) -> None:
        """Go on from `register`."""
        self._fine = register * self._fine_per_unit

    def _flow(self, second_of_day: int, step: int) -> int:
        raise AssertionError("a meter without a flow")


class Household(_Accumulating):
    """Grid power of one home, in Wh: daily curve, size of the home, appliances that come and go."""

    def __init__(self, random: Random, register: int, time_s: int) -> None:
        super().__init__(random, register, HOUR_S, time_s)
        self._size_permille = random.randint(600, 1700)
        self._appliance_w = 0
        self._appliance_s = 0

    def _flow(self, second_of_day: int, step: int) -> int:
        hour, into = divmod(second_of_day, HOUR_S)
        here, there = _HOME_W[hour], _HOME_W[(hour + 1) % 24]
        watts = here + (there - here) * into // HOUR_S
        if self._appliance_s <= 0 and self._random.randrange(1000) < 10:
            self._appliance_w = self._random.choice((900, 1200, 2000, 2200))
            self._appliance_s = self._random.randint(5, 45) * MINUTE_S
        if self._appliance_s > 0:
            self._appliance_s -= step
            watts += self._appliance_w
        return watts * self._size_permille // 1000 * self._random.randint(850, 1150) // 1000 * step


class Rooftop(_Accumulating):
    """Solar export in Wh: a parabola from six to eight, dimmed by clouds that drift."""

    RISE_S = 6 * HOUR_S
    SET_S = 20 * HOUR_S

    def __init__(self, random: Random, register: int, time_s: int) -> None:
        super().__init__(random, register, HOUR_S, time_s)
        self._peak_w = random.randint(3_000, 9_000)
        self._sky_permille = 850

    def _flow(self, second_of_day: int, step: int) -> int:
        drift = self._random.randint(-60, 60)
        self._sky_permille = min(1000, max(150, self._sky_permille + drift))
        if not self.RISE_S < second_of_day < self.SET_S:
            return 0
        day = self.SET_S - self.RISE_S
        shape = (second_of_day - self.RISE_S) * (self.SET_S - second_of_day)
        watts = self._peak_w * 4 * shape // (day * day)
        return watts * self._sky_permille // 1000 * step


class Charger(_Accumulating):
    """EV charging in Wh: sessions of 8 to 45 kWh at 3.7 to 22 kW, tapering at the end, with pauses between."""

    def __init__(self, random: Random, register: int, time_s: int) -> None:
        super().__init__(random, register, HOUR_S, time_s)
        # The first car arrives within minutes, so that a short run shows a session.
        self._pause_s = random.randint(0, 20) * MINUTE_S
        self._power_w = 0
        self._left_ws = 0
        self._taper_ws = 0

    def _flow(self, second_of_day: int, step: int) -> int:
        if self._left_ws <= 0:
            self._pause_s -= step
            if self._pause_s > 0:
                return 0
            self._power_w = self._random.choice((3_700, 7_400, 11_000, 22_000))
            self._left_ws = self._random.randint(8, 45) * 1000 * HOUR_S
            self._taper_ws = self._left_ws // 6
            self._pause_s = self._random.randint(20, 240) * MINUTE_S
        watts = self._power_w
        if self._left_ws < self._taper_ws:
            watts = max(self._power_w * self._left_ws // self._taper_ws, self._power_w // 10)
        flow = min(watts * step, self._left_ws)
        self._left_ws -= flow
        return flow


class WaterMeter(_Accumulating):
    """Water in litres: nothing, then a tap runs."""

    def __init__(self, random: Random, register: int, time_s: int) -> None:
        super().__init__(random, register, 1000 * MINUTE_S, time_s)
        self._tap_ml_min = 0
        self._tap_s = 0

    def _flow(self, second_of_day: int, step: int) -> int:
        if self._tap_s <= 0:
            if self._random.randrange(1000) >= _TAP_PERMILLE[second_of_day // HOUR_S]:
                return 0
            self._tap_ml_min, shortest, longest = self._random.choice(_TAPS)
            self._tap_s = self._random.randint(shortest, longest) * MINUTE_S
        running = min(step, self._tap_s)
        self._tap_s -= running
        return self._tap_ml_min * running


class Sensor:
    """Sells data by the reading: the register counts readings delivered."""

    def __init__(self, register: int) -> None:
        self._register = register

    def advance(self, seconds: int) -> int:
        """One more reading, however much time has passed."""
        self._register += 1
        return self._register

    def rebase(self, register: int) -> None:
        """Go on from `register`."""
        self._register = register
