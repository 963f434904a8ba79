"""One anvil and one embedded layer for the session; every test starts from the same state, contracts in place."""

from collections.abc import Iterator

import pytest

from tests.contracts.chain import Chain, running_anvil
from tests.contracts.embedded import EmbeddedChain
from tests.contracts.world import AUTHORIZER, OTHER, OWNER, PAYER, RECEIVER, SIGNER, World


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


@pytest.fixture(scope="session")
def placed_embedded_world() -> Iterator[World]:
    chain = EmbeddedChain((PAYER, SIGNER, RECEIVER, AUTHORIZER, OTHER, OWNER))
    yield World(chain)
    chain.close()


@pytest.fixture
def embedded_world(placed_embedded_world: World) -> Iterator[World]:
    chain = placed_embedded_world.chain
    snapshot = chain.rpc("evm_snapshot")
    yield placed_embedded_world
    assert chain.rpc("evm_revert", snapshot)
