"""One anvil for the session; every test starts from the same state, with the contracts in place."""

from collections.abc import Iterator

import pytest

from tests.contracts.chain import Chain, running_anvil
from tests.contracts.world import World


@pytest.fixture(scope="session")
def anvil_url() -> Iterator[str]:
    with running_anvil() as url:
        yield url


@pytest.fixture(scope="session")
def placed_world(anvil_url: str) -> Iterator[World]:
    chain = Chain(anvil_url)
    yield World(chain)
    chain.close()


@pytest.fixture
def world(placed_world: World) -> Iterator[World]:
    chain = placed_world.chain
    snapshot = chain.rpc("evm_snapshot")
    yield placed_world
    assert chain.rpc("evm_revert", snapshot)
