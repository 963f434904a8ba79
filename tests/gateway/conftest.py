from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway_world import World


@pytest.fixture
async def make_world(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[World]]]:
    """Make worlds with a running gateway; what still runs at the end is cut off."""
    made: list[World] = []

    async def make(*, start: bool = True, **options: Any) -> World:
        world = World(tmp_path / f"world-{len(made)}", **options)
        made.append(world)
        if start:
            await world.start()
        return world

    yield make
    for world in made:
        if world._task is not None:
            fault = await world.crash()
            assert fault is None, f"the gateway had stopped: {fault!r}"
            assert world.link.not_durable == []


@pytest.fixture
async def world(make_world: Callable[..., Awaitable[World]]) -> World:
    """A world with a running gateway."""
    return await make_world()
