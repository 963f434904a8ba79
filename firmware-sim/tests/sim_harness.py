"""A device and the test gateway joined by a wire that tests can cut, delay and reorder."""

import heapq
from dataclasses import dataclass, field
from random import Random

from sim_gateway import SimGateway

from firmware_sim import snapshot
from firmware_sim.counters import Counters
from firmware_sim.device import Device, Publish
from firmware_sim.identity import Identity, Provisioning
from firmware_sim.keys import derive_key, keccak

SECOND = 1_000_000


def identity(**changes) -> Identity:
    fields = {
        "gateway": "gw1",
        "device": "home-001",
        "service": "grid-power",
        "earns": False,
        "meter_key": derive_key(1, "meter"),
        "owner_key": derive_key(1, "owner"),
        "salt": keccak(b"salt"),
        "opening_register": 1000,
        "deposit": 2_000_000,
        "wallet": 100_000_000,
        "low_water": 0,
    }
    return Identity(**(fields | changes))


def earner(**changes) -> Identity:
    return identity(device="pv-001", service="solar-export", earns=True, **changes)


class Bench:
    """One device, one gateway, an instant wire. `now` is in microseconds and moves only when told."""

    def __init__(self, who: Identity | None = None, gateway: SimGateway | None = None, **options) -> None:
        self.gateway = gateway or SimGateway()
        self.who = who or identity()
        self.counters = Counters()
        self.options = options
        self.provisioning = options.pop("provisioning", Provisioning())
        self.device = Device(self.who, self.provisioning, self.counters, **options)
        self.now = self.gateway.now_s * SECOND
        self.sent: list[Publish] = []
        self.receipts: list[bytes] = []
        self.flash: bytes | None = None

    def start(self, *, offer: bool = True) -> "Bench":
        self.deliver(self.device.on_connected(self.now))
        if offer:
            self.deliver(self.device.on_offer(self.gateway.offer_payload(), self.now))
        return self

    def deliver(self, messages: list[Publish]) -> None:
        """Carry messages to the gateway and its receipts back until both are silent."""
        queue = list(messages)
        rounds = 0
        while queue:
            rounds += 1
            assert rounds < 1000, "device and gateway never come to rest"
            message = queue.pop(0)
            self.save()
            self.sent.append(message)
            if message.leaf != "state":
                receipt = self.gateway.handle(self.who.device, message.leaf, message.payload)
                if receipt:
                    self.receipts.append(receipt)
                    queue += self.device.on_receipt(receipt, self.now)

    def save(self) -> None:
        if self.device.dirty:
            self.device.dirty = False
            self.flash = snapshot.save(self.device)

    def read(self, register: int) -> None:
        self.deliver(self.device.on_reading(register, self.now))

    def hold(self, register: int) -> list[Publish]:
        """A reading whose messages do not reach the gateway."""
        messages = self.device.on_reading(register, self.now)
        self.save()
        return messages

    def close(self) -> None:
        self.deliver(self.device.close(self.now))

    def wait(self, seconds: int, *, step: int = 1) -> None:
        for _ in range(0, seconds, step):
            self.now += step * SECOND
            self.gateway.now_s = self.now // SECOND
            self.deliver(self.device.on_tick(self.now))

    def publish_offer(self, prices, **changes) -> None:
        self.deliver(self.device.on_offer(self.gateway.publish_offer(prices, **changes), self.now))

    def reboot(self, *, forget: bool = False) -> None:
        """Power off and on, with or without the flash."""
        self.device = Device(self.who, self.provisioning, self.counters, **self.options)
        if self.flash is not None and not forget:
            assert snapshot.restore(self.device, self.flash)
        self.start()

    @property
    def account(self):
        accounts = [a for a in self.gateway.accounts.values() if a.device == self.who.device]
        assert len(accounts) == 1
        return accounts[0]

    def leaves(self, leaf: str) -> list[Publish]:
        return [message for message in self.sent if message.leaf == leaf]

    def agree(self) -> None:
        """Device and gateway hold the same position."""
        base = self.device.books.base
        assert base is not None
        theirs = self.account
        assert (base.seq, base.register, base.exact) == (theirs.seq, theirs.register, theirs.exact)


@dataclass(order=True)
class _Event:
    at: int
    number: int
    kind: str = field(compare=False)
    leaf: str = field(compare=False, default="")
    payload: bytes = field(compare=False, default=b"")
    session: int = field(compare=False, default=0)


class BadWire:
    """Loses, delays, repeats and reorders messages in both directions; cuts connections; reboots the device."""

    def __init__(self, bench: Bench, seed: int, *, loss: int, jitter_ms: int) -> None:
        self.bench = bench
        self.random = Random(seed)
        self.loss = loss
        self.jitter_ms = jitter_ms
        self.events: list[_Event] = []
        self.number = 0
        self.session = 0
        self.connected = False
        self.register = bench.who.opening_register

    def _put(self, kind: str, leaf: str = "", payload: bytes = b"") -> None:
        copies = 0 if self.random.randrange(100) < self.loss else 2 if self.random.randrange(100) < 5 else 1
        for _ in range(copies):
            self.number += 1
            at = self.bench.now + self.random.randrange(1, self.jitter_ms * 1000)
            heapq.heappush(self.events, _Event(at, self.number, kind, leaf, payload, self.session))

    def send(self, messages: list[Publish]) -> None:
        self.bench.save()
        for message in messages:
            if message.leaf != "state":
                self._put("up", message.leaf, message.payload)

    def connect(self) -> None:
        self.connected = True
        self.session += 1
        self.send(self.bench.device.on_connected(self.bench.now))
        self.send(self.bench.device.on_offer(self.bench.gateway.offer_payload(), self.bench.now))

    def cut(self) -> None:
        self.connected = False
        self.bench.device.on_disconnected()

    def reboot(self) -> None:
        bench = self.bench
        device = Device(bench.who, bench.provisioning, bench.counters, **bench.options)
        if bench.flash is not None:
            assert snapshot.restore(device, bench.flash)
        bench.device = device
        self.connected = False

    def run(self, micros: int) -> None:
        """Let time pass, with a tick every 100 ms."""
        bench = self.bench
        end = bench.now + micros
        while bench.now < end:
            tick = bench.now + 100_000
            while self.events and self.events[0].at <= tick:
                event = heapq.heappop(self.events)
                bench.now = max(bench.now, event.at)
                self._arrive(event)
            bench.now = tick
            bench.gateway.now_s = bench.now // SECOND
            if self.connected:
                self.send(bench.device.on_tick(bench.now))

    def _arrive(self, event: _Event) -> None:
        bench = self.bench
        if event.kind == "up":
            receipt = bench.gateway.handle(bench.who.device, event.leaf, event.payload)
            if receipt:
                self._put("down", payload=receipt)
        elif self.connected and event.session == self.session:
            self.send(bench.device.on_receipt(event.payload, bench.now))
