"""How long a commit waits for more messages: fewer bytes on the flash against a receipt that comes later.

A commit rewrites whole pages of the disk, whatever it holds: one reading costs 5 kB, one of ten in a commit 0.9 kB. So
a commit waits, up to a window, while messages go on coming. It stops waiting when there are enough of them, and when
none has come for longer than they usually take. Devices that wait for each receipt before they send again would only
be slowed down: where waiting has not paid lately, it is tried again only now and then.
"""

from collections.abc import Sequence

# From here on one more message in a commit saves little: 0.9 kB for each of ten, 0.7 kB for each of sixteen.
ENOUGH = 16
# Messages that belong together, of one tick of many devices, lie no further apart than this.
SILENCE_MIN_S = 0.005
# After a silence of so many usual intervals it is taken that no more will come.
SILENCE_INTERVALS = 4.0
# Weight of what came last in the averages.
WEIGHT = 0.1
# When waiting does not pay, one commit in so many tries it.
PROBE_EVERY = 32


class Gathering:
    """Decides for each commit, by the arrivals of those before it. Times are seconds, monotonic."""

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._interval_s = 0.0  # between messages, on average
        self._paid = 1.0  # share of the waits that brought another message
        self._last = 0.0
        self._commits = 0

    @property
    def silence_s(self) -> float:
        """After this long without a message the commit waits no more."""
        shortest = min(SILENCE_MIN_S, self.window_s)
        if self._paid < 0.5 and self._commits % PROBE_EVERY:
            return shortest
        return min(self.window_s, max(shortest, SILENCE_INTERVALS * self._interval_s))

    def note(self, arrivals: Sequence[float], taken: float) -> None:
        """Take note of a commit: when its messages arrived, in order, and when waiting for more ended."""
        if not arrivals:
            return
        waited = self.silence_s > SILENCE_MIN_S and len(arrivals) < ENOUGH
        times = arrivals[:ENOUGH]  # in a burst all intervals are alike
        for before, after in zip((self._last or times[0], *times), times, strict=False):
            interval = max(0.0, after - before)
            self._interval_s += WEIGHT * (min(interval, 2 * self.window_s) - self._interval_s)
            if interval > SILENCE_MIN_S and before >= times[0]:
                self._paid += WEIGHT * (1.0 - self._paid)
        if waited and taken - arrivals[0] < self.window_s:  # ended by silence
            self._paid -= WEIGHT * self._paid
        self._last = arrivals[-1]
        self._commits += 1
