"""When a device sends: how long it waits for a receipt, how long it pauses after a refusal."""

from dataclasses import dataclass

RESEND_US = 5_000_000  # no receipt for this long: the reading, or its receipt, is lost, unless receipts are slow
PAUSE_US = 500_000  # first pause after a refusal in passing
PAUSE_US_MAX = 30_000_000


@dataclass(slots=True)
class Pacing:
    """Times in microseconds.

    probing: after a connection or a timeout only one reading goes out until something is answered. If the gateway
    is not there yet, it would otherwise find a later reading first, and the earlier ones too old.
    """

    probing: bool = True
    _hold_us: int = 0
    _typical_us: int = 0
    _timeouts: int = 0
    _pauses: int = 0

    def connected(self) -> None:
        """A new connection: patience begins anew."""
        self._timeouts = 0
        self.probing = True

    def lost_before(self, now_us: int) -> int:
        """What was sent before this time and is not answered is lost."""
        return now_us - (max(RESEND_US, 4 * self._typical_us) << min(self._timeouts, 3))

    def timed_out(self) -> None:
        """Something was lost: wait longer for the next answer."""
        self._timeouts += 1
        self.probing = True

    def accepted(self, latency_us: int, *, resent: bool) -> None:
        """A reading was accepted. Of a resent one nobody knows which copy was answered."""
        if not resent:
            self._typical_us += (latency_us - self._typical_us) // 8
        self._timeouts = self._pauses = 0

    def refused_in_passing(self, now_us: int) -> None:
        """Pause, longer each time."""
        self.hold(now_us, self._pauses)
        self._pauses += 1

    def hold(self, now_us: int, exponent: int) -> None:
        """Send nothing for the first pause doubled `exponent` times."""
        self._hold_us = now_us + min(PAUSE_US << min(exponent, 6), PAUSE_US_MAX)

    def release(self) -> None:
        """The reason to wait is gone."""
        self._hold_us = 0

    def held(self, now_us: int) -> bool:
        """Whether sending waits."""
        return now_us < self._hold_us
