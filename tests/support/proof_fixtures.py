"""The fixture of proofs: worlds with a gateway in this process. A conftest takes it by importing these names."""

import dataclasses
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from settlement.waiting import Waiting
from tests.support.proof_world import ProofWorld

Make = Callable[..., Awaitable[ProofWorld]]
# Pauses are for a node that recovers; these tests are about what is done after them.
PAUSES = ("gateway.sending._RETRY_S", "gateway.openings.RETRY_S", "gateway.settler.LOOK_EVERY_S")
PAUSE_S = 0.2
WAITING = {
    "poll_seconds_max": 0.2,
    "resend_seconds": 1.0,
    "taken_seconds": 1.0,
    "gap_seconds": 1.0,
    "fill_seconds": 2.0,
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten every pause that a fault makes longer."""
    for name in PAUSES:
        monkeypatch.setattr(name, PAUSE_S)
    fields = {field.name for field in dataclasses.fields(Waiting)}
    assert fields >= WAITING.keys(), "a pause has another name now"
    monkeypatch.setattr("gateway.sending.Waiting", functools.partial(Waiting, **WAITING))


@pytest.fixture
async def make_world(tmp_path: Path, impatient: None) -> AsyncIterator[Make]:
    """Make worlds with a running gateway; what still runs at the end is cut off."""
    made: list[ProofWorld] = []

    async def make(layer: str = "embedded", *, start: bool = True, **options: Any) -> ProofWorld:
        world = ProofWorld(tmp_path / f"world-{len(made)}", layer, **options)
        made.append(world)
        if start:
            await world.start()
        return world

    yield make
    for world in made:
        await world.end()
