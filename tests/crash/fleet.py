"""Devices that pay and earn over real MQTT, with books of their own: what they sent, and what was receipted.

One thread moves all of them. A device has one message on its way and sends it again until it is answered, as real
ones do, so nothing here minds how often the gateway dies.
"""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from channels.refusals import Refusal
from devices.messages import Receipt, Status
from devices.offers import Offer, parse_offer
from devices.receipts import decode_receipt
from tests.support.gateway_devices import Earner, Payer, to_json
from tests.support.gateway_link import answers
from tests.support.mqtt_peer import Peer

GATEWAY = "gw1"
TICK_S = 0.01
PAUSE_S = 0.06  # between a receipt and the next reading
RESEND_S = 1.0
FIRST_DEPOSIT = 3_000_000
TOP_UP = 2_000_000


@dataclass(frozen=True, slots=True)
class Accepted:
    """A receipt that a device holds: the gateway must never forget what it says."""

    identifier: bytes
    seq: int
    cumulative: int
    commit: int | None


@dataclass(slots=True)
class Sent:
    """The message on its way; `again`: it was answered before, and must be answered alike."""

    leaf: str
    payload: bytes
    answers: bytes
    fields: dict[str, Any]
    at: float
    again: bool = False


@dataclass(slots=True)
class Meter:
    """One device: `wishes` are opens and closes that it carries out before its next reading."""

    body: Payer | Earner
    wishes: list[str] = field(default_factory=lambda: ["open"])
    state: str = "new"
    sent: Sent | None = None
    last: Sent | None = None  # the last reading that was accepted
    next_at: float = 0.0
    deposits: int = 0

    @property
    def pays(self) -> bool:
        """True for a paying device."""
        return isinstance(self.body, Payer)

    @property
    def busy(self) -> bool:
        """True while it opens, tops up or closes, or is about to."""
        return bool(self.wishes) or (self.sent is not None and self.sent.leaf in ("open", "close"))


class _Line(Peer):
    """The devices' client."""

    def post(self, topic: str, payload: bytes) -> None:
        """Publish without waiting for the broker."""
        self._client.publish(topic, payload, qos=1)


class Fleet:
    """All devices of one site."""

    def __init__(self, port: int) -> None:
        self.meters: dict[str, Meter] = {}
        self.accepted: list[Accepted] = []  # readings, in the order of their receipts
        self.receipts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.offer: Offer | None = None
        self.quiet = False
        self.lock = threading.RLock()
        self._peer = _Line(port, f"mp/1/{GATEWAY}/+/receipt", f"mp/1/{GATEWAY}/offer")
        self._seen = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop all devices."""
        self._stop.set()
        self._thread.join(20)
        self._peer.__exit__(None, None, None)

    # -- what the harness asks for --

    def add(self, body: Payer | Earner) -> None:
        """Switch a device on: it opens its channel or account, and then meters."""
        with self.lock:
            self.meters[body.device] = Meter(body)

    def wish(self, device: str, what: str) -> None:
        """Let a device "open" (top up, or open again) or "close", or "retire": it falls silent."""
        with self.lock:
            self.meters[device].wishes.append(what)

    def named(self, state: str, *, pays: bool) -> list[str]:
        """Return the devices in a state that have nothing else in mind."""
        with self.lock:
            return [
                name
                for name, meter in self.meters.items()
                if meter.state == state and meter.pays is pays and not meter.busy
            ]

    def active(self, *, pays: bool) -> int:
        """Return how many devices are open or about to be."""
        with self.lock:
            return sum(meter.pays is pays and meter.state in ("new", "open") for meter in self.meters.values())

    @property
    def idle(self) -> bool:
        """True when every message was answered."""
        with self.lock:
            return all(meter.sent is None and not meter.wishes for meter in self.meters.values())

    def ask_again(self) -> None:
        """Let every idle device send its last accepted reading once more."""
        with self.lock:
            for meter in self.meters.values():
                if meter.last is not None and meter.sent is None:
                    meter.sent = replace(meter.last, again=True, at=0.0)

    def waiting_for(self) -> list[str]:
        """Return the devices whose message is not answered."""
        with self.lock:
            return [f"{name}: {meter.sent.leaf}" for name, meter in self.meters.items() if meter.sent is not None]

    def unanswered(self) -> Counter[bytes]:
        """Return what readings on their way may add, in exact units, by channel or account."""
        found: Counter[bytes] = Counter()
        with self.lock:
            for meter in self.meters.values():
                if meter.sent is not None and not meter.sent.again and meter.sent.leaf in ("usage", "earn"):
                    body = meter.body
                    price = body.offer.services[body.service].price
                    found[body.id] = (meter.sent.fields["register"] - body.register) * price
        return found

    # -- the devices' thread --

    def _run(self) -> None:
        while not self._stop.wait(TICK_S):
            messages = self._peer.messages
            while self._seen < len(messages):
                topic, payload, _ = messages[self._seen]
                self._seen += 1
                with self.lock:
                    self._receive(topic.split("/")[3], payload)
            now = time.monotonic()
            with self.lock:
                for meter in self.meters.values():
                    self._move(meter, now)

    def _receive(self, device: str, payload: bytes) -> None:
        if device == "offer":
            self.offer = parse_offer(payload)
            return
        receipt = decode_receipt(payload)
        meter = self.meters[device]
        sent = meter.sent
        if sent is None or receipt.answers != sent.answers:
            return  # another copy of an answer
        self.receipts["duplicate" if receipt.status is Status.DUPLICATE else "accepted"] += receipt.reason is None
        meter.sent = None
        if receipt.reason is None:
            self._accepted(meter, sent, receipt)
        else:
            self._refused(meter, sent, receipt)

    def _accepted(self, meter: Meter, sent: Sent, receipt: Receipt) -> None:
        body = meter.body
        meter.next_at = time.monotonic() + PAUSE_S
        if sent.leaf in ("open", "close"):
            meter.state = "open" if sent.leaf == "open" else "closed"
            body.seq = sent.fields.get("seq", body.seq)
            return
        if not sent.again:
            body.took(sent.fields)
            meter.last = sent
        elif receipt.status is not Status.DUPLICATE:
            self.faults.append(f"{body.device}: reading {body.seq} was accepted twice")
        expected = body.charged if isinstance(body, Payer) else body.earned
        said, seq = (receipt.seq, receipt.cumulative), sent.fields["seq"]
        if said != (seq, expected):
            self.faults.append(f"{body.device}: its receipt says (seq, amount) {said}, its meter {(seq, expected)}")
        if isinstance(body, Payer):
            body.settled_elsewhere = receipt.offset or 0
        if sent.again:
            return
        assert receipt.cumulative is not None
        self.accepted.append(Accepted(body.id, body.seq, receipt.cumulative, receipt.commit))

    def _refused(self, meter: Meter, sent: Sent, receipt: Receipt) -> None:
        reason = receipt.reason
        assert reason is not None
        self.receipts[f"refused {reason.wire_name}"] += 1
        meter.next_at = time.monotonic() + 5 * PAUSE_S
        if sent.leaf in ("open", "close"):
            meter.wishes.insert(0, sent.leaf)
            if sent.leaf == "open":
                meter.deposits -= 1  # the very same deposit again
        if reason.transient:
            return
        if reason is Refusal.CEILING_ABOVE_BALANCE and sent.leaf == "usage":
            meter.wishes.append("open" if meter.state == "open" else "retire")
        else:
            self.faults.append(f"{meter.body.device}: its {sent.leaf} was refused: {reason.wire_name}")
            meter.wishes, meter.state = [], "retired"

    def _move(self, meter: Meter, now: float) -> None:
        if meter.sent is not None:
            if now - meter.sent.at > RESEND_S:
                meter.sent.at = now
                self._publish(meter, meter.sent)
            return
        if now < meter.next_at:
            return
        if meter.wishes:
            self._wish(meter, meter.wishes.pop(0))
        elif meter.state == "open" and not self.quiet:
            units = 3 + (meter.body.seq * 7) % 11
            body = meter.body
            leaf, fields = ("usage", body.usage(units)) if isinstance(body, Payer) else ("earn", body.earn(units))
            self._send(meter, leaf, fields)

    def _wish(self, meter: Meter, what: str) -> None:
        body = meter.body
        if what == "retire":
            meter.state = "retired"
        elif what == "close":
            assert isinstance(body, Payer)
            self._send(meter, "close", body.close())
        elif isinstance(body, Payer):
            meter.deposits += 1
            amount = FIRST_DEPOSIT if meter.state == "new" else TOP_UP
            self._send(meter, "open", body.open(amount, salt=meter.deposits))
        else:
            self._send(meter, "open", body.open())

    def _send(self, meter: Meter, leaf: str, fields: dict[str, Any]) -> None:
        payload = to_json(fields)
        meter.sent = Sent(leaf, payload, answers(payload), fields, time.monotonic())
        self._publish(meter, meter.sent)

    def _publish(self, meter: Meter, sent: Sent) -> None:
        self._peer.post(f"mp/1/{GATEWAY}/{meter.body.device}/{sent.leaf}", sent.payload)
