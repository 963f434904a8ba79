"""A wire that loses, repeats and reorders, a device that is rebooted, a gateway that refuses in passing.

Whatever happens, in the end the gateway has charged every unit once, at the price of its offer, and device and
gateway agree to the last 10⁻⁹.
"""

from random import Random

import pytest
from sim_gateway import NANO, PRICES, SimGateway
from sim_harness import SECOND, BadWire, Bench, earner, identity

GRID = PRICES["grid-power"][1]


def storm(wire: BadWire, readings: int, *, reboots: bool = True) -> None:
    """Readings at random moments among random trouble."""
    bench, random = wire.bench, wire.random
    register = wire.register
    wire.connect()
    for _ in range(readings):
        wire.run(random.randrange(50_000, 2 * SECOND))
        register += random.randrange(0, 40)
        if random.randrange(100) < 8:
            bench.gateway.transient += [random.choice(("chain_stale", "busy"))] * random.randrange(1, 4)
        if random.randrange(100) < 6 and wire.connected:
            wire.cut()
        elif reboots and random.randrange(100) < 4:
            wire.reboot()
        elif not wire.connected:
            wire.connect()
        wire.send(bench.device.on_reading(register, bench.now))
    wire.register = register


def calm(wire: BadWire) -> None:
    """No more trouble: everything outstanding is settled."""
    bench = wire.bench
    wire.loss = 0
    bench.gateway.transient.clear()
    if not wire.connected:
        wire.connect()
    for _ in range(60):
        wire.run(10 * SECOND)
        if bench.device.window.idle() and not bench.device.deposits.request:
            return
    raise AssertionError(f"never settled: {bench.device.stopped or bench.device.window}")


@pytest.mark.parametrize("seed", range(1, 13))
def test_every_unit_is_charged_once(seed: int) -> None:
    print(f"seed {seed}")
    who = identity(encoding="cbor" if seed % 2 else "json", deposit=1_000_000, low_water=200_000)
    bench = Bench(who, depth=1 + seed % 6, queue=16)
    wire = BadWire(bench, seed, loss=15, jitter_ms=3000)
    storm(wire, 150)
    calm(wire)
    assert bench.device.stopped == ""
    assert bench.account.register == bench.device.meter
    assert bench.account.exact == (bench.device.meter - who.opening_register) * GRID
    bench.agree()
    assert bench.account.ceiling == bench.account.exact // NANO
    assert bench.counters.resent > 0


@pytest.mark.parametrize("seed", [*range(21, 27), 1008, 1013, 1371])
def test_with_price_changes(seed: int) -> None:
    print(f"seed {seed}")
    gateway = SimGateway()
    bench = Bench(identity(deposit=10_000_000), gateway, depth=4)
    wire = BadWire(bench, seed, loss=10, jitter_ms=1500)
    prices = Random(seed)
    highest = GRID
    for _ in range(8):
        storm(wire, 20)
        price = prices.randrange(1, 3 * GRID)
        highest = max(highest, price)
        payload = gateway.publish_offer(PRICES | {"grid-power": ("Wh", price, "pay")})
        if wire.connected:
            wire.send(bench.device.on_offer(payload, bench.now))
    calm(wire)
    assert bench.device.stopped == ""
    assert bench.account.register == bench.device.meter
    bench.agree()
    assert 0 < bench.account.exact <= (bench.device.meter - bench.who.opening_register) * highest


@pytest.mark.parametrize("seed", range(41, 47))
def test_with_netting(seed: int) -> None:
    print(f"seed {seed}")
    gateway = SimGateway(max_ahead=seed % 2 * 20_000)
    bench = Bench(identity(deposit=10_000_000), gateway, depth=3)
    wire = BadWire(bench, seed, loss=10, jitter_ms=1500)
    for _ in range(10):
        storm(wire, 15)
        for account in gateway.accounts.values():
            owed = account.exact // NANO - account.offset
            account.offset += owed // 2
            gateway.commit += 1
    calm(wire)
    assert bench.device.stopped == ""
    assert bench.account.exact == (bench.device.meter - bench.who.opening_register) * GRID
    assert bench.device.books.offset <= bench.account.offset
    bench.agree()


@pytest.mark.parametrize("seed", range(61, 65))
def test_an_earner_in_the_same_weather(seed: int) -> None:
    print(f"seed {seed}")
    bench = Bench(earner(encoding="cbor" if seed % 2 else "json"), depth=3)
    wire = BadWire(bench, seed, loss=15, jitter_ms=3000)
    storm(wire, 150)
    calm(wire)
    assert bench.device.stopped == ""
    units = bench.device.meter - bench.who.opening_register
    assert bench.account.exact == units * PRICES["solar-export"][1]
    bench.agree()
