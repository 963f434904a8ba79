"""Figures over time, in memory: a point per second for ten minutes, one per minute for a day, and a histogram.

Everything here has a fixed size, and noting a message costs the same however many there were.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SECONDS = 600
MINUTES = 1_440

# Ten bins a decade, from a tenth of a millisecond to ten seconds: percentiles are right to a quarter.
_MANTISSAS = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.3, 8.0)
BOUNDS_S = (*(round(mantissa * 10.0**decade, 10) for decade in range(-4, 1) for mantissa in _MANTISSAS), 10.0)


class Histogram:
    """Counts of durations, seconds. The last bin is open."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Note one."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def add_all(self, durations: Iterable[float]) -> None:
        """Note several."""
        for seconds in durations:
            self.add(seconds)


def percentile_ms(counts: Sequence[int], share: float) -> float | None:
    """Return the duration that `share` of these counts are at most, in ms; None without any."""
    wanted = math.ceil(sum(counts) * share)
    if not wanted:
        return None
    for index, count in enumerate(counts):
        if wanted <= count:
            low = BOUNDS_S[index - 1] if index else 0.0
            high = BOUNDS_S[min(index, len(BOUNDS_S) - 1)]
            return round(1_000 * (low + (high - low) * wanted / count), 3)
        wanted -= count
    return None


@dataclass(frozen=True, slots=True)
class Reading:
    """The gateway's counters at one moment; everything but `exposure` only rises. Amounts in base units."""

    at: float  # monotonic seconds
    time: int  # Unix seconds
    payments: int
    refused: int
    charged: int
    exposure: int
    latency: tuple[int, ...]  # counts of the histogram


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the charts."""

    t: int  # Unix seconds
    payments_per_s: float
    refused_per_s: float
    charged_per_s: float  # base units
    exposure: int
    p50_ms: float | None
    p99_ms: float | None


COLUMNS = {
    "payments": ("payments_per_s",),
    "refused": ("refused_per_s",),
    "charged": ("charged_per_s",),
    "exposure": ("exposure",),
    "latency": ("p50_ms", "p99_ms"),
}


class SeriesStore:
    """The points of one gateway. Feed it about once a second."""

    def __init__(self) -> None:
        self.seconds: deque[Point] = deque(maxlen=SECONDS)
        self.minutes: deque[Point] = deque(maxlen=MINUTES)
        self._last: Reading | None = None
        self._minute: Reading | None = None  # where the minute under way began
        self._recent: deque[Reading] = deque(maxlen=61)

    def take(self, reading: Reading) -> Point | None:
        """Note the counters of now; returns the new point, None for the very first reading."""
        last, self._last = self._last, reading
        self._recent.append(reading)
        if last is None or self._minute is None:
            self._minute = reading
            return None
        point = between(last, reading)
        self.seconds.append(point)
        if reading.time // 60 != self._minute.time // 60:
            self.minutes.append(between(self._minute, reading))
            self._minute = reading
        return point

    @property
    def last_minute(self) -> Point | None:
        """What the last minute came to, as far as there was one."""
        if len(self._recent) < 2:
            return None
        return between(self._recent[0], self._recent[-1])

    @property
    def now_per_s(self) -> float:
        """Payments per second over the last five seconds."""
        if len(self._recent) < 2:
            return 0.0
        return between(self._recent[max(-6, -len(self._recent))], self._recent[-1]).payments_per_s


def between(before: Reading, after: Reading) -> Point:
    """Return the point of what happened between two readings."""
    seconds = max(after.at - before.at, 1e-3)
    counts = [now - then for now, then in zip(after.latency, before.latency, strict=True)]
    return Point(
        t=after.time,
        payments_per_s=round((after.payments - before.payments) / seconds, 3),
        refused_per_s=round((after.refused - before.refused) / seconds, 3),
        charged_per_s=round((after.charged - before.charged) / seconds, 3),
        exposure=after.exposure,
        p50_ms=percentile_ms(counts, 0.5),
        p99_ms=percentile_ms(counts, 0.99),
    )
