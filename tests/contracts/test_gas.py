"""What a claim costs: a bound on the figures that `make bench` shows, so that no change makes it dear unnoticed."""

from benchmarks.claim_gas import ROWS, measure
from tests.contracts.world import AUTHORIZER, Channel, World

# Gas per row at 1, 10 and 100 rows. The public contract needs about 21,300 at 100 (docs/protocol.md 1).
CEILINGS = {"first": (68_000, 24_500, 20_000), "repeat": (51_000, 22_800, 19_900)}


def test_gas_per_claim_row(world: World) -> None:
    figures = {str(result["name"]): result["value"] for result in measure(world.chain.url)}
    print(figures)
    for kind, ceilings in CEILINGS.items():
        for rows, ceiling in zip(ROWS, ceilings, strict=True):
            found = figures[f"claim_gas_per_row_{kind}_{rows}"]
            assert isinstance(found, int)
            assert 15_000 < found < ceiling, (kind, rows)


def test_a_multicall_costs_its_memory_above_its_parts(world: World) -> None:
    channel = Channel()
    world.fund(channel, 1000)
    claim = world.settlement.data("claim", [world.row(channel, 10)])
    snapshot = world.chain.rpc("evm_snapshot")
    alone = world.chain.send(world.settlement.address, claim, AUTHORIZER.address).gas
    world.chain.rpc("evm_revert", snapshot)
    wrapped = world.settlement.send("multicall", [claim], sender=AUTHORIZER.address).gas
    assert alone < wrapped < alone + 31_000
