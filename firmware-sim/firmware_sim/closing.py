"""The `close` message in flight: when it goes out, when again, and what each answer means."""

from dataclasses import dataclass

from firmware_sim.books import Books, Position
from firmware_sim.deposits import ASK_AGAIN_US, PAUSE_US_MAX, PENDING_US, TRIES_MAX
from firmware_sim.wire import ACCEPTED, REFUSED, TRANSIENT, Receipt, answers_of

# The device and the gateway count differently: the receipt says how, and the next close is numbered by it.
RENUMBER = frozenset({"seq_conflict", "seq_old", "seq_jump"})


@dataclass(slots=True)
class CloseRequest:
    """One `close` message, sent unchanged until it is answered for good; due_us: not before this time."""

    payload: bytes
    answers: bytes
    seq: int
    due_us: int = 0
    asked: int = 0


@dataclass(slots=True)
class Closing:
    """The end of one channel.

    wanted: its owner wants it closed. done: it is. refunded: what the payer ever got back, in base units, as the
    gateway says.
    """

    wanted: bool = False
    done: bool = False
    refunded: int = 0
    request: CloseRequest | None = None
    refusals: int = 0

    def ask(self, payload: bytes, seq: int, now_us: int) -> None:
        """Put a close in flight."""
        self.request = CloseRequest(payload, answers_of(payload), seq, now_us)

    def due(self, now_us: int) -> bytes | None:
        """The payload to send now, if any; schedules the next attempt."""
        request = self.request
        if request is None or now_us < request.due_us:
            return None
        request.due_us = now_us + min(ASK_AGAIN_US << min(request.asked, 2), PAUSE_US_MAX)
        request.asked += 1
        return request.payload

    def reconnected(self, now_us: int) -> None:
        """Ask at once after a new connection: the answer may have been lost with the old one."""
        if self.request is not None and self.request.asked:
            self.request.due_us = min(self.request.due_us, now_us)

    def answered(self, receipt: Receipt, books: Books, now_us: int) -> str | None:
        """Take the answer to the close in flight; a sentence when the device has to stop.

        Afterwards it is still there (asked again later, unchanged), or gone: done, to be numbered anew, or to be
        asked again of a gateway that forgot the channel.
        """
        request, base = self.request, books.base
        if request is None or base is None:
            return None
        reason = receipt.reason or "?"
        if receipt.status == REFUSED and reason in TRANSIENT:
            request.due_us = now_us + min(PENDING_US << min(request.asked, 5), PAUSE_US_MAX)
            return None
        self.request = None
        if receipt.status == REFUSED:
            # Not open: the operator, or an earlier close of this device, was faster.
            self.done = reason == "not_open"
            self.refusals += 1
            again = self.done or ((reason in RENUMBER or reason == "unknown_channel") and self.refusals < TRIES_MAX)
            return None if again else f"refused, {reason}"
        self.done = True
        self.refunded = receipt.refunded or 0
        books.accept(Position(request.seq, base.register, base.exact))
        books.learn(receipt)
        if receipt.status == ACCEPTED and books.balance > books.owed(base):
            return f"{books.balance} were kept where {books.owed(base)} are owed"
        return None
