"""The `open` message in flight: asking, asking again, and what each answer means for opening and topping up."""

from dataclasses import dataclass

from firmware_sim.account import Account
from firmware_sim.offers import Offer
from firmware_sim.wire import REFUSED, Authorization, Receipt, answers_of

ASK_AGAIN_US = 10_000_000  # no answer: a deposit needs blocks and confirmations
PENDING_US = 1_000_000  # first pause after deposit_pending or busy
PAUSE_US_MAX = 30_000_000
ENROL_US = 15_000_000  # between attempts while the operator has not enrolled this device
TRIES_MAX = 4  # refusals that call for another attempt, in a row, before it is given up


@dataclass(slots=True)
class Request:
    """One `open` message, sent unchanged until it is answered for good.

    due_us: not before this time. stale: refused for its offer, so that a newer offer calls for a new message.
    """

    payload: bytes
    answers: bytes
    offer: bytes
    deposit: Authorization | None
    due_us: int = 0
    asked: int = 0
    stale: bool = False


@dataclass(slots=True)
class Deposits:
    """Deposits of one account: at most one in flight.

    count numbers the authorizations used so far, spent is their sum in base units, returned what came back of it
    when the channel was closed, opening the one that the account was opened with, failed the reason for which
    depositing was given up.
    """

    count: int = 0
    spent: int = 0
    returned: int = 0
    refusals: int = 0
    failed: str = ""
    request: Request | None = None
    opening: Authorization | None = None

    def ask(self, account: Account, offer: Offer, register: int, deposit: Authorization | None, now_us: int) -> None:
        """Put a new request in flight; deposit is None when earning."""
        payload = account.open_payload(offer.id, register, deposit)
        self.request = Request(payload, answers_of(payload), offer.id, deposit, now_us)

    def due(self, now_us: int) -> bytes | None:
        """The payload to send now, if any; schedules the next attempt."""
        request = self.request
        if request is None or now_us < request.due_us:
            return None
        request.due_us = now_us + min(ASK_AGAIN_US << min(request.asked, 2), PAUSE_US_MAX)
        request.asked += 1
        return request.payload

    def offered(self) -> None:
        """A newer offer is there."""
        if self.request is not None and self.request.stale:
            self.request = None

    def reconnected(self, now_us: int) -> None:
        """Ask at once after a new connection: the answer may have been lost with the old one."""
        if self.request is not None and self.request.asked:
            self.request.due_us = min(self.request.due_us, now_us)

    def answered(self, receipt: Receipt, offer: Offer, now_us: int) -> None:
        """Take the answer to the request in flight; `offer` is the current one.

        Afterwards the request is still there (asked again later, unchanged), or gone: done, to be made anew,
        or given up (`failed`).
        """
        request = self.request
        if request is None:
            return
        if receipt.status != REFUSED:
            if request.deposit is not None and request.deposit != self.opening:
                self.spent += request.deposit.amount
                self.count += 1
            self.opening = self.opening or request.deposit
            self.refusals = 0
            self.request = None
        else:
            self._refused(request, receipt.reason or "?", offer, now_us)

    def _refused(self, request: Request, reason: str, offer: Offer, now_us: int) -> None:
        if reason in ("deposit_pending", "busy", "chain_stale"):
            request.due_us = now_us + min(PENDING_US << min(request.asked, 5), PAUSE_US_MAX)
            return
        if reason == "not_enrolled":
            # An operator may open a permit-join window at any time: keep knocking, slowly.
            request.due_us = now_us + ENROL_US
            return
        self.refusals += 1
        stale_offer = reason in ("offer_unknown", "offer_expired", "offer_regressed", "config_mismatch")
        if stale_offer and offer.id == request.offer and self.refusals < TRIES_MAX:
            request.due_us = now_us + min(PENDING_US << self.refusals, PAUSE_US_MAX)
            request.stale = True
            return
        self.request = None
        if reason == "deposit_invalid":
            # The authorization is of no use any more (spent or out of time): the next one has another nonce.
            self.count += 1
        small = request.deposit.amount if request.deposit else 0
        retry = (
            stale_offer or reason == "deposit_invalid" or (reason == "deposit_too_small" and small < offer.min_deposit)
        )
        if not retry or self.refusals >= TRIES_MAX:
            self.failed = reason
