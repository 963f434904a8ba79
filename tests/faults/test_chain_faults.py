"""A gateway settles through every fault of its chain's line: books balance, nothing is lost, nothing paid twice."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from settlement import calls
from tests.support.chain_proxy import LINE_KINDS, NODE_KINDS
from tests.support.gateway_devices import Earner, Payer, secret
from tests.support.proof_fixtures import Make
from tests.support.proof_world import ProofWorld

SEND, RECEIPT, LOGS = "eth_sendRawTransaction", "eth_getTransactionReceipt", "eth_getLogs"
COUNT, CALL, BLOCK = "eth_getTransactionCount", "eth_call", "eth_getBlockByNumber"

BOTH = ("embedded", "anvil")
LAYERS = pytest.mark.parametrize("layer", BOTH)
STORM = sorted(LINE_KINDS | {"stale", "already known", "errors"})
CLAIM = calls.claim([])[:4]  # its selector


@dataclass(frozen=True)
class Case:
    """A fault to inject, and whether the gateway crashes and starts under it.

    `timeout_s` is how long the gateway waits for an answer.
    """

    name: str
    kind: str
    methods: tuple[str, ...]
    options: dict[str, Any]
    timeout_s: float
    restart: bool


def case(name: str, kind: str, *methods: str, timeout_s: float = 5.0, restart: bool = False, **options: Any) -> Case:
    return Case(name, kind, methods, options, timeout_s, restart)


CASES = (
    case("transactions that never arrive", "request lost", SEND, times=3),
    case("any request lost", "request lost", share=0.2, times=12),
    case("transactions that arrive without an answer", "reply lost", SEND, times=3),
    case("reads without an answer", "reply lost", RECEIPT, LOGS, CALL, BLOCK, share=0.3, times=8),
    case("answers later than the gateway waits", "delay", SEND, RECEIPT, times=2, amount=0.7, timeout_s=0.3),
    case("slow answers", "delay", times=20, amount=0.05),
    case("rate limits", "rate limit", share=0.3, times=10, amount=1),
    case("bad gateways", "status", SEND, CALL, COUNT, times=6, amount=502),
    case("resets before", "reset", SEND, LOGS, times=4),
    case("resets after", "reset after", SEND, times=3),
    case("cut answers", "truncated", SEND, LOGS, RECEIPT, times=5),
    case("captive portals", "no json", share=0.3, times=8),
    case("a node that lags", "stale", share=0.4, times=30, amount=2),
    case("logs of a node that lags", "stale", LOGS, times=6, amount=1),
    case("receipts of a node that lags", "stale", RECEIPT, times=6, amount=3),
    case("a restart on a node that lags", "stale", share=0.4, times=30, amount=2, restart=True),
    case("nonces too low", "nonce", COUNT, times=8, amount=-1, restart=True),
    case("a nonce too high, once", "nonce", COUNT, times=1, amount=2, restart=True),
    case("nonces too high", "nonce", COUNT, times=8, amount=2, restart=True),
    case("already known", "already known", SEND, times=4),
    case("replacement underpriced", "underpriced", SEND, times=4),
    case("nonce too low, and yet taken", "nonce too low", SEND, times=4),
    case("internal errors", "errors", SEND, RECEIPT, CALL, "eth_estimateGas", share=0.4, times=8),
)  # fmt: skip


@dataclass
class Site:
    """Four devices: two that pay, one that earns, and one home that does both."""

    world: ProofWorld
    payers: list[Payer] = field(default_factory=list)
    earners: list[Earner] = field(default_factory=list)

    async def set_up(self) -> None:
        """Open everything before anything goes wrong."""
        self.payers = [await self.world.opened("meter-1"), await self.world.opened("meter-2")]
        home = secret("payer of meter-2")
        self.earners = [await self.world.joined("solar-1"), await self.world.joined("solar-2", payee_key=home)]

    async def season(self) -> None:
        """Readings, a new device, a top-up and settlement."""
        for units in (100, 37):
            for payer in self.payers:
                await self.world.pay(payer, units)
            for earner in self.earners:
                await self.world.earn(earner, units)
            await self.world.settle()
        if len(self.payers) < 3:
            self.payers.append(await self.world.opened("meter-3"))
        await self.world.top_up(self.payers[0], 1_000_000)
        for payer in self.payers:
            await self.world.pay(payer, 11)
        await self.world.settle_all()


async def proved(world: ProofWorld) -> None:
    """The books hold, by the gateway's own proof and by the auditor's, now and after a crash; receipts stand."""
    world.proxy.clear()
    await world.settle_all()
    await world.prove()
    await world.crash()
    await world.start()
    await world.settle_all()
    await world.prove()
    await world.honoured()


def placed() -> Iterator[Any]:
    """What a node does is tried on both layers; for what a line does they are the same, and take turns."""
    for number, each in enumerate(CASES):
        layers = BOTH if each.kind in NODE_KINDS else BOTH[number % 2 :][:1]
        yield from (pytest.param(each, layer, id=f"{each.name}-{layer}") for layer in layers)


@pytest.mark.parametrize(("each", "layer"), list(placed()))
async def test_a_fault(make_world: Make, each: Case, layer: str) -> None:
    world = await make_world(layer, timeout_s=each.timeout_s)
    site = Site(world)
    await site.set_up()
    if each.restart:
        await site.season()
        await world.crash()
    world.proxy.inject(each.kind, *each.methods, **each.options)
    if each.restart:
        await world.start()
    await site.season()
    assert world.proxy.counts[each.kind], f"no {each.kind} happened in {world.proxy.asked}"
    await proved(world)


@pytest.mark.parametrize(("seed", "layer"), [(1, "embedded"), (2, "anvil")])
async def test_everything_at_once(make_world: Make, seed: int, layer: str) -> None:
    """A line on which any request may suffer anything, drawn by a seed, through a crash and a restart."""
    world = await make_world(layer, seed=seed, timeout_s=1.0)
    site = Site(world)
    await site.set_up()
    for kind in STORM:
        amount = {"delay": 0.02, "status": 503, "stale": 2, "rate limit": 1}.get(kind, 0)
        world.proxy.inject(kind, share=0.01, times=4, amount=amount)
    await site.season()
    await world.crash()
    world.proxy.clear()  # a chain that is away at the start is for the operator to mend
    await world.start()
    for kind in STORM:
        amount = {"delay": 0.02, "status": 503, "stale": 2, "rate limit": 1}.get(kind, 0)
        world.proxy.inject(kind, share=0.01, times=4, amount=amount)
    await site.season()
    assert sum(world.proxy.counts.values()) >= 5, f"seed {seed}: {world.proxy.counts}"
    await proved(world)


@LAYERS
async def test_a_row_that_reverts_for_a_while(make_world: Make, layer: str) -> None:
    """It is set aside and shown, the others settle in the same cycle, and it is claimed when it can be."""
    world = await make_world(layer)
    bad, *others = [await world.opened(f"meter-{number}") for number in range(1, 6)]
    for payer in (bad, *others):
        await world.pay(payer, 100)
    world.proxy.inject("reverts", "eth_estimateGas", times=4, markers=(CLAIM, bad.payer))
    await world.settle()
    assert world.proxy.counts["reverts"]
    assert world.observer.claimed(bad.id) == 0
    assert bad.id in world.ledger.aside
    assert [world.observer.claimed(payer.id) for payer in others] == [payer.charged for payer in others]
    await proved(world)
    assert bad.id not in world.ledger.aside


async def test_a_row_that_reverted_often_is_tried_again_in_a_quiet_gateway(make_world: Make) -> None:
    """Nothing else happens meanwhile: no reading, no other claim. It is owed all the same."""
    world = await make_world()
    bad = await world.opened()
    other = await world.opened("meter-2")
    await world.pay(bad, 100)
    world.proxy.inject("reverts", "eth_estimateGas", times=100, markers=(CLAIM, bad.payer))
    for _ in range(4):
        await world.pay(other, 1)
        await world.settle()
    assert world.observer.claimed(bad.id) == 0
    await world.settle_until(lambda: world.observer.claimed(other.id) == other.charged)
    await proved(world)
