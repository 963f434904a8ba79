"""The same reorganisations on anvil, a chain that nobody here wrote, by its own `anvil_reorg` and `anvil_rollback`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.reorg_scenes import SCENES, Scene
from tests.support.reorg_world import AnvilWorld

Make = Callable[..., Awaitable[AnvilWorld]]


@pytest.fixture
async def make_world(tmp_path: Path) -> AsyncIterator[Make]:
    """Make worlds over an anvil each, with a running gateway."""
    made: list[AnvilWorld] = []

    async def make(confirmations: int, how: str = "reorg") -> AnvilWorld:
        world = AnvilWorld(tmp_path / f"world-{len(made)}", confirmations=confirmations)
        world.how = how
        made.append(world)
        await world.begin()
        return world

    yield make
    for world in made:
        fault = await world.crash() if world._task is not None else None
        await world.end()
        assert fault is None, f"the gateway had stopped: {fault!r}"


@pytest.mark.parametrize("confirmations", [0, 2])
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
async def test_what_is_dropped(make_world: Make, scene: Scene, confirmations: int) -> None:
    await scene(await make_world(confirmations))


@pytest.mark.parametrize("how", ["rollback", "revert"])
async def test_a_chain_that_is_shorter_for_a_while(make_world: Make, how: str) -> None:
    """`anvil_rollback` and `evm_revert` leave a shorter chain, which then grows otherwise."""
    await SCENES["claim"](await make_world(0, how))
