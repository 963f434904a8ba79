"""What a fleet counts. Latencies go into logarithmic buckets, so memory does not grow with the run."""

from collections import Counter
from dataclasses import dataclass, field

# 64 buckets for each doubling: within 1.6 % of the true value.
_SUB = 64


@dataclass(slots=True)
class Latencies:
    """Histogram of microseconds."""

    buckets: Counter[int] = field(default_factory=Counter)
    total: int = 0

    def add(self, latency_us: int) -> None:
        """Count one latency in microseconds."""
        value = max(latency_us, 1)
        shift = max(value.bit_length() - 7, 0)
        self.buckets[(value >> shift) << shift] += 1
        self.total += 1

    def quantile_us(self, permille: int) -> int | None:
        """The latency that `permille` thousandths do not exceed, in microseconds; None when empty."""
        rank = -(-self.total * permille // 1000)
        for value in sorted(self.buckets):
            rank -= self.buckets[value]
            if rank <= 0:
                return value
        return None


@dataclass(slots=True)
class Counters:
    """Shared by all devices of a process.

    published: distinct readings sent; accepted: distinct readings known to be accepted; duplicates: receipts
    that say so; superseded: readings that were refused and whose usage a later accepted register covers.
    """

    published: int = 0
    accepted: int = 0
    duplicates: int = 0
    resent: int = 0
    superseded: int = 0
    strays: int = 0
    opens: int = 0
    topups: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)
