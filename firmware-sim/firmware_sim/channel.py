"""A channel or earner account from its opening to its closing: deposits, top-ups, the end. Part of `Device`."""

from firmware_sim.account import Account
from firmware_sim.books import Books
from firmware_sim.closing import Closing
from firmware_sim.counters import Counters
from firmware_sim.deposits import Deposits
from firmware_sim.identity import Identity, Provisioning
from firmware_sim.offers import Offer
from firmware_sim.tariffs import Tariffs
from firmware_sim.window import Window
from firmware_sim.wire import REFUSED, Receipt


class ChannelLife:
    """The state of one account, and what does not concern single readings.

    meter is the highest register read. `stopped` is empty while the device runs, else the sentence that says why it
    gave up. `dirty`: the state must be stored before messages go out.
    """

    def __init__(self, identity: Identity, provisioning: Provisioning, counters: Counters, window: Window) -> None:
        self.identity = identity
        self.counters = counters
        self.tariffs = Tariffs.provisioned(identity, provisioning)
        self.books = Books(identity.earns)
        self.window = window
        self.deposits = Deposits()
        self.closing = Closing()
        self.account: Account | None = None
        self.meter = identity.opening_register
        self.opened = False
        self.stopped = ""
        self.dirty = False

    @property
    def known_register(self) -> int:
        """The highest register read, or known to the gateway (after the device lost its state)."""
        return max(self.meter, self.books.base.register if self.books.base else 0)

    # ---- opening and topping up

    def _open_answered(self, receipt: Receipt, now_us: int) -> None:
        offer = self.tariffs.current
        if offer is None:
            return
        self.deposits.answered(receipt, offer, now_us)
        self.dirty = True
        if receipt.status == REFUSED:
            self.counters.refused[receipt.reason or "?"] += 1
            if self.deposits.failed and not self.opened:
                self._stop(f"opening was refused: {self.deposits.failed}")
            return
        why = None
        if self.books.base is None:
            why = self.books.start(receipt, self.identity.opening_register, self._proved(receipt))
        else:
            why = None if self.opened else self._reconcile(receipt)
            if not why:
                self.books.learn(receipt)
        if why:
            self._stop(why)
        elif self.opened:
            self.counters.topups += 1
        else:
            self.opened = True
            self.counters.opens += 1

    def _ask_open(self, offer: Offer, now_us: int) -> None:
        if self.deposits.request is not None:
            return
        if self.closing.wanted and self.books.base is None:
            self.closing.done = True  # nothing was opened
            return
        if self.account is None or self.books.base is None:
            # Nothing is open yet, so a changed lane or delay may still change the channel.
            self.account = Account.under(self.identity, offer)
        base = self.books.base
        register = base.register if base else self.identity.opening_register
        if self.identity.earns or (base and self.deposits.opening and not self.deposits.refusals):
            # The gateway forgot the channel: the deposit it was opened with is still found on the chain.
            self.deposits.ask(self.account, offer, register, self.deposits.opening, now_us)
        else:
            self._deposit(offer, 0, now_us, must=True)
        self.dirty = True

    def _deposit(self, offer: Offer, ceiling: int, now_us: int, *, must: bool) -> None:
        """Ask for a deposit that makes `ceiling` affordable; without `must` it may be left undone."""
        if self.account is None:
            return
        least = max(offer.min_deposit, ceiling - self.books.balance)
        left = self.identity.wallet - self.deposits.spent + self.deposits.returned
        amount = min(max(self.identity.deposit, least), left)
        if not self.deposits.failed and amount >= least:
            base = self.books.base
            register = base.register if base and not self.opened else self.identity.opening_register
            signed = self.account.authorization(offer, amount, self.deposits.count, now_us // 1_000_000)
            self.deposits.ask(self.account, offer, register, signed, now_us)
            self.dirty = True
        elif must and self.deposits.failed:
            self._stop(f"depositing was refused: {self.deposits.failed}")
        elif must:
            self._stop(f"the wallet is empty: {left} left, {least} needed")

    # ---- closing

    def _ask_close(self, now_us: int) -> None:
        """Everything that was read is answered: sign the close, under a seq of its own."""
        if self.account is not None and self.closing.request is None:
            self.closing.ask(self.account.close_payload(self.books.next_seq), self.books.next_seq, now_us)
            self.books.next_seq += 1
            self.dirty = True

    def _close_answered(self, receipt: Receipt, now_us: int) -> None:
        why = self.closing.answered(receipt, self.books, now_us)
        self.deposits.returned = self.closing.refunded
        self.dirty = True
        if receipt.status == REFUSED:
            self.counters.refused[receipt.reason or "?"] += 1
            if receipt.reason == "unknown_channel":
                self.opened = False
            elif self.closing.request is None and not self.closing.done:
                why = why or self._reconcile(receipt)
        if why:
            self._stop(f"closing: {why}")

    # ---- both

    def _reconcile(self, receipt: Receipt) -> str | None:
        terms = self.tariffs.terms(self.tariffs.current)
        own = [entry.position for entry in self.window.signed]
        price = terms.price if terms else 0
        return self.books.reconcile(receipt, own, self.known_register, price, self._proved(receipt))

    def _proved(self, receipt: Receipt) -> bool:
        return self.account is not None and self.account.signed(receipt)

    def _stop(self, why: str) -> None:
        self.stopped = why
        self.dirty = True
