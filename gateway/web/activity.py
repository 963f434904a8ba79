"""What happened lately: refusals and events, newest last, bounded; and who was heard of when.

Fed once per batch with what the pipeline has already decided. Noting a message costs the same however many there
were, and a flood of refusals beyond what a person reads is only counted. All of it is for people: it lives in
memory, begins empty at each start, and nothing about money depends on it.
"""

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from devices.messages import Status
from gateway.pipeline import Handled
from gateway.web.reasons import cause_of
from gateway.web.series import Histogram
from gateway.web.shapes import Event

# A few hundred bytes each: some megabytes at most.
EVENTS_MAX = 5_000
# Strangers may use any device id they like.
DEVICES_MAX = 10_000
# Only devices that are let in get receipts that accept something: as many as a gateway may have.
RECEIPTS_MAX = 100_000
# Told one by one in a batch at most; the rest is counted.
REFUSALS_PER_BATCH = 64
# Equal refusals of one device within this time are one event with a count.
MERGE_S = 60.0
ONLINE_S = 300.0
RECENT_S = 600.0
# What one message of the stream carries.
EVENTS_SHOWN = 20
RECEIPTS_SHOWN = 10

KINDS = ("refusal", "cycle", "chain", "enrolment", "channel", "broker", "trouble")


@dataclass(slots=True)
class Entry:
    """An event as it is kept; a refusal that is repeated changes `at` and `times`."""

    id: int
    first_at: float
    at: float
    kind: str
    words: str
    device: str
    reason: str
    subject: str
    times: int = 1

    def shape(self) -> Event:
        """Return it for the API."""
        return Event(
            id=self.id,
            at=int(self.at),
            kind=self.kind,
            words=self.words,
            device=self.device,
            reason=self.reason,
            subject=self.subject,
            times=self.times,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """A receipt as it went out; `amount` is the channel's or account's cumulative amount."""

    device: str
    identifier: bytes
    amount: int
    at: float


class Activity:
    """The bounded memory of one gateway's doings."""

    def __init__(self) -> None:
        self._events: deque[Entry] = deque(maxlen=EVENTS_MAX)
        self._number = 0
        self._open: OrderedDict[tuple[str, str], Entry] = OrderedDict()  # refusals that may still be repeated
        self._fresh: dict[int, Entry] = {}  # changed since the stream was told
        self._samples: list[Sample] = []
        self.latency = Histogram()
        self.commits = Histogram()
        self.reasons: Counter[str] = Counter()
        self.refusals: OrderedDict[str, Entry] = OrderedDict()  # each device's last one
        self.receipts: OrderedDict[str, float] = OrderedDict()  # each device's last accepted message, Unix seconds
        self.online: OrderedDict[str, float] = OrderedDict()  # heard of lately, the longest silent first
        self.known: Callable[[str], bool] = lambda device: True

    # -- taking note --

    def handled(self, batch: Handled) -> None:
        """Take note of a batch."""
        now = time.time()
        for frame in batch.frames:
            self.latency.add(batch.done - (frame.received or batch.taken))
            if self.known(frame.device):
                self.online[frame.device] = now
                self.online.move_to_end(frame.device)
        self.commits.add(batch.commit_s)
        refused = 0
        for device, _, receipt in batch.answers:
            if receipt.reason is not None:
                self.reasons[receipt.reason.wire_name] += 1
                refused += 1
                if refused <= REFUSALS_PER_BATCH or self.known(device):
                    self.refused(device, receipt.reason.wire_name, receipt.id or b"", now)
            elif receipt.status is Status.ACCEPTED:
                self.receipts[device] = now
                self.receipts.move_to_end(device)
                if len(self._samples) < RECEIPTS_SHOWN and receipt.id is not None:
                    self._samples.append(Sample(device, receipt.id, receipt.cumulative or 0, now))
        while len(self.receipts) > RECEIPTS_MAX:
            self.receipts.popitem(last=False)

    def refused(self, device: str, reason: str, subject: bytes, now: float) -> None:
        """Take note of a refusal; again the same within a minute is counted with it."""
        known = self._open.get((device, reason))
        if known is not None and now - known.first_at < MERGE_S:
            known.times += 1
            known.at = now
        else:
            known = self.note("refusal", cause_of(reason), device, reason, subject)
            self._open[device, reason] = known
            while len(self._open) > REFUSALS_PER_BATCH * 16:
                self._open.popitem(last=False)
        self._fresh[known.id] = known
        self.refusals[device] = known
        self.refusals.move_to_end(device)
        while len(self.refusals) > DEVICES_MAX:
            self.refusals.popitem(last=False)

    def note(self, kind: str, words: str, device: str = "", reason: str = "", subject: bytes = b"") -> Entry:
        """Take note of an event."""
        self._number += 1
        now = time.time()
        entry = Entry(self._number, now, now, kind, words, device, reason, f"0x{subject.hex()}" if subject else "")
        self._events.append(entry)
        self._fresh[entry.id] = entry
        if len(self._fresh) > EVENTS_MAX:  # nobody has asked for a long time
            self._fresh.clear()
        return entry

    def trouble(self, words: str) -> None:
        """Take note of a warning; the same words again are counted with the last ones."""
        last = next((entry for entry in reversed(self._events) if entry.kind == "trouble"), None)
        now = time.time()
        if last is not None and last.words == words and now - last.first_at < RECENT_S:
            last.times += 1
            last.at = now
            self._fresh[last.id] = last
        else:
            self.note("trouble", words)

    # -- asking --

    def tick(self, now: float) -> None:
        """Forget who has been silent for too long; call it about once a second."""
        while self.online and next(iter(self.online.values())) < now - ONLINE_S:
            self.online.popitem(last=False)

    def refused_recently(self, now: float) -> int:
        """Count devices that were refused within ten minutes."""
        count = 0
        for entry in reversed(self.refusals.values()):
            if entry.at < now - RECENT_S:
                break
            count += 1
        return count

    def newest(self, before: int | None, limit: int, *, kind: str = "", device: str = "") -> list[Event]:
        """Return up to `limit` events older than the one with id `before`, newest first."""
        found: list[Event] = []
        for entry in self._newest(before):
            if (not kind or entry.kind == kind) and (not device or entry.device == device):
                found.append(entry.shape())
                if len(found) == limit:
                    break
        return found

    def fresh(self) -> tuple[list[Event], list[Sample]]:
        """Return and forget what the stream was not told yet, the newest of it."""
        events = [entry.shape() for entry in list(self._fresh.values())[-EVENTS_SHOWN:]]
        samples = self._samples
        self._fresh = {}
        self._samples = []
        return events, samples

    def _newest(self, before: int | None) -> Iterator[Entry]:
        for entry in reversed(self._events):
            if before is None or entry.id < before:
                yield entry
