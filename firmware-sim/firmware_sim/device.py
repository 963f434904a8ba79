"""One metering device as a state machine without I/O: meter → price → sign → publish → receipt → resend or resync.

Inputs are methods; each returns the messages to publish. Time is an argument: `now_us`, microseconds of a
monotonic clock aligned with Unix time at start. Where `dirty` says so, `snapshot.save` must be stored before
the messages go out: a seq or an authorization that was used must never be forgotten.
"""

from dataclasses import dataclass

from firmware_sim import FIRMWARE
from firmware_sim.books import Position
from firmware_sim.channel import ChannelLife
from firmware_sim.counters import Counters
from firmware_sim.identity import Identity, Provisioning
from firmware_sim.offers import Offer
from firmware_sim.pacing import Pacing
from firmware_sim.window import Flight, Raw, Signed, Window
from firmware_sim.wire import DUPLICATE, REFUSED, RESYNC, TRANSIENT, Receipt, answers_of, decode_receipt, encode_birth

RESYNCS_MAX = 4  # resynchronisations without an accepted reading in between
QUEUE_DEFAULT = 64  # raw readings kept while the gateway is away; then they fold into one register


@dataclass(frozen=True, slots=True)
class Publish:
    """A message to send on mp/1/{gateway}/{device}/{leaf}, QoS 1."""

    leaf: str
    payload: bytes
    retain: bool = False


class Device(ChannelLife):
    """See the module. `stopped` is empty while it runs, else the sentence that says why it gave up."""

    def __init__(
        self,
        identity: Identity,
        provisioning: Provisioning,
        counters: Counters,
        *,
        depth: int = 4,
        queue: int = QUEUE_DEFAULT,
        session: int = 1,
    ) -> None:
        super().__init__(identity, provisioning, counters, Window(depth, queue))
        self.session = session
        self.taken = 0
        self.connected = False
        self._pacing = Pacing()
        self._resyncs = 0
        self._denial: Receipt | None = None

    # ---- inputs

    def on_connected(self, now_us: int) -> list[Publish]:
        """The broker accepted the connection and the subscriptions."""
        self.connected = True
        self._pacing.connected()
        self.deposits.reconnected(now_us)
        self.closing.reconnected(now_us)
        birth = Publish("state", encode_birth(self.session, FIRMWARE), retain=True)
        return [birth, *self._pump(now_us)]

    def on_disconnected(self) -> None:
        """The connection is gone, and with it perhaps some answers."""
        self.connected = False
        self.window.lose()

    def on_offer(self, payload: bytes, now_us: int) -> list[Publish]:
        """A retained or new offer; one that is not the gateway's, not newer or expired is ignored."""
        if not self.tariffs.take(payload, now_us):
            return []
        self.deposits.offered()
        self._pacing.release()
        self.dirty = True
        return self._pump(now_us)

    def on_reading(self, register: int, now_us: int) -> list[Publish]:
        """The meter shows `register` (register units, cumulative, rollover already unrolled)."""
        if self.closing.wanted:
            return []  # what comes now is not metered by this channel any more
        if register < self.meter:
            self._stop(f"the meter went back from {self.meter} to {register}")
            return []
        self.meter = register
        self.taken += 1
        current = self.tariffs.current
        self.window.push(Raw(register, now_us // 1000, current.id if current else b""))
        return self._pump(now_us)

    def on_tick(self, now_us: int) -> list[Publish]:
        """Time has passed: timeouts and pauses."""
        if self.window.lose(self._pacing.lost_before(now_us)):
            self._pacing.timed_out()
        return self._pump(now_us)

    def close(self, now_us: int) -> list[Publish]:
        """Its owner wants the channel closed: what was read is paid for first. An earner has nothing to close."""
        if self.identity.earns or (self.books.base is None and self.deposits.request is None):
            self.closing.done = True
        self.closing.wanted = True
        self.dirty = True
        return self._pump(now_us)

    def on_receipt(self, payload: bytes, now_us: int) -> list[Publish]:
        """An answer from the gateway, in JSON or CBOR."""
        try:
            receipt = decode_receipt(payload)
        except ValueError:
            self.counters.strays += 1
            return []
        if self.account is None or receipt.id not in (None, self.account.id):
            self.counters.strays += 1
            return []
        self._pacing.probing = False
        if receipt.status == DUPLICATE:
            self.counters.duplicates += 1
        request, closing = self.deposits.request, self.closing.request
        entry = self.window.find(receipt.answers) if receipt.answers else None
        if request is not None and receipt.answers == request.answers:
            self._open_answered(receipt, now_us)
        elif closing is not None and receipt.answers == closing.answers:
            self._close_answered(receipt, now_us)
        elif entry is None:
            # The second answer to something sent twice; money figures in it may still be news.
            self.counters.strays += 1
            if self.opened and receipt.id is not None:
                self.books.learn(receipt)
        elif receipt.status == REFUSED:
            self._refused(entry, receipt, now_us)
        else:
            self._accepted(entry, receipt, now_us)
        return self._pump(now_us)

    # ---- state that others read

    @property
    def room(self) -> int:
        """Readings that can be queued before they fold."""
        return self.window.queue - len(self.window.raw)

    @property
    def register_units(self) -> int:
        """Units between the opening register and the last accepted reading."""
        return self.books.base.register - self.identity.opening_register if self.books.base else 0

    @property
    def money(self) -> int:
        """Charged, or earned, so far in base units."""
        return self.books.base.charged if self.books.base else 0

    # ---- receipts of readings

    def _accepted(self, entry: Signed, receipt: Receipt, now_us: int) -> None:
        why = self.books.accepted(entry.position, entry.price, receipt)
        if why:
            self._stop(f"receipt for seq {entry.position.seq}: {why}")
            return
        self.counters.accepted += 1
        self.counters.latencies.add(now_us - entry.sent_us)
        self._pacing.accepted(now_us - entry.sent_us, resent=entry.last_us != entry.sent_us)
        self.window.remove(entry)
        self.books.learn(receipt)
        self._resyncs = 0
        self._denial = None

    def _refused(self, entry: Signed, receipt: Receipt, now_us: int) -> None:
        reason = receipt.reason or "?"
        self.counters.refused[reason] += 1
        base = self.books.base
        if reason not in TRANSIENT and reason not in RESYNC:
            self._stop(f"reading seq {entry.position.seq} was refused: {reason}")
        elif base is not None and entry.position.seq < base.seq:
            self.window.remove(entry)
            self.counters.superseded += 1
        else:
            self.window.move(entry, Flight.DENIED)
            entry.reason = reason
            self._denial = receipt
            if reason in TRANSIENT:
                self._pacing.refused_in_passing(now_us)

    def _settle_denials(self, now_us: int) -> None:
        """Once everything sent is answered: resend what was refused in passing, resynchronise the rest."""
        window = self.window
        unanswered = window.count(Flight.FLYING) + window.count(Flight.UNKNOWN)
        if not window.count(Flight.DENIED) or unanswered or self._pacing.held(now_us):
            return
        denied = window.denied()
        lasting = [entry for entry in denied if entry.reason not in TRANSIENT]
        if not lasting:
            for entry in denied:
                window.move(entry, Flight.READY)
            return
        first = lasting[0]
        self._resyncs += 1
        if self._resyncs > RESYNCS_MAX:
            self._stop(f"no way past the refusal {first.reason}")
            return
        if first.reason == "unknown_channel":
            self.opened = False
        elif self._denial is not None and (self._resyncs > 1 or self.books.news(self._denial)):
            # An overtaken refusal names a state that is past; when refusals go on, the gateway itself went back.
            why = self._reconcile(self._denial)
            if why:
                self._stop(f"{first.reason}: {why}")
                return
            self.books.learn(self._denial)
        current = self.tariffs.current
        if first.reason.startswith("offer_"):
            self.tariffs.refused(first.offer)
            if current is not None and first.offer == current.id:
                # Priced under the newest offer this device has: wait for one that the gateway knows.
                self._pacing.hold(now_us, self._resyncs)
        self.books.retire(window.unsign())
        self.dirty = True

    # ---- outputs

    def _pump(self, now_us: int) -> list[Publish]:
        offer = self.tariffs.current
        if not self.connected or self.stopped or offer is None or self.closing.done:
            return []
        self._settle_denials(now_us)
        if self.tariffs.terms(offer) is not None and not self.stopped:
            if not self.opened:
                self._ask_open(offer, now_us)
            elif not self.window.count(Flight.DENIED):
                self._sign(offer, now_us)
        messages: list[Publish] = []
        if not self.stopped:
            asked = self.deposits.due(now_us)
            if asked is not None:
                messages.append(Publish("open", asked))
            if self.opened:
                self._send(messages, now_us)
                if self.closing.wanted and self.window.idle() and self.deposits.request is None:
                    self._ask_close(now_us)
            ending = self.closing.due(now_us)
            if ending is not None:
                messages.append(Publish("close", ending))
        return messages

    def _sign(self, offer: Offer, now_us: int) -> None:
        """Sign raw readings while the window has room and the balance covers them."""
        window, books = self.window, self.books
        tip = self._tip()
        while window.raw and len(window.signed) < window.depth and not self._pacing.held(now_us):
            raw = window.raw[0]
            if raw.register < tip.register:
                # The gateway already holds a later register: the usage of this reading is paid for.
                window.raw.popleft()
                self.counters.superseded += 1
                continue
            chosen = self.tariffs.for_reading(raw.offer, now_us) or offer
            terms = self.tariffs.terms(chosen)
            if terms is None:
                return
            register = raw.register
            if terms.max_step and register - tip.register > terms.max_step:
                register = tip.register + terms.max_step
            position = tip.after(books.next_seq, register, terms.price)
            ceiling = 0 if books.earns else books.owed(position)
            if ceiling > books.balance and not books.earns:
                if self.deposits.request is None:
                    self._deposit(offer, ceiling, now_us, must=True)
                return
            self._append(position, terms.price, chosen, raw, ceiling)
            tip = position
            if register == raw.register:
                window.raw.popleft()
        if self.identity.low_water and not (books.earns or self.closing.wanted or self.deposits.request):
            ceiling = books.owed(tip)
            if books.balance - ceiling < self.identity.low_water:
                self._deposit(offer, ceiling, now_us, must=False)

    def _append(self, position: Position, price: int, offer: Offer, raw: Raw, ceiling: int) -> None:
        assert self.account is not None
        payload = self.account.reading_payload(position.seq, position.register, raw.time_ms, offer.id, ceiling)
        entry = Signed(position, price, offer.id, raw.time_ms, payload, answers_of(payload))
        if raw.register == position.register:
            entry.sent_us = raw.sent_us
        self.window.add(entry)
        self.books.next_seq += 1
        self.dirty = True

    def _tip(self) -> Position:
        """The position that the next reading is priced from."""
        tip = self.books.base or Position(0, self.identity.opening_register, 0)
        last = self.window.signed[-1].position if self.window.signed else tip
        return last if last.seq > tip.seq else tip

    def _send(self, messages: list[Publish], now_us: int) -> None:
        """Send what is ready, in order; while a refusal is being settled only what may have been accepted."""
        window = self.window
        denied = window.count(Flight.DENIED) > 0
        if not window.count(Flight.READY) and not window.count(Flight.UNKNOWN):
            return
        for entry in window.signed:
            if self._pacing.probing and window.count(Flight.FLYING):
                return
            if entry.flight is Flight.UNKNOWN:
                self.counters.resent += 1
            elif entry.flight is not Flight.READY or denied or self._pacing.held(now_us):
                continue
            elif entry.sent_us:
                self.counters.resent += 1
            else:
                entry.sent_us = now_us
                self.counters.published += 1
            entry.last_us = now_us
            window.move(entry, Flight.FLYING)
            messages.append(Publish("earn" if self.books.earns else "usage", entry.payload))
