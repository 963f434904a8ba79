"""Random lives over a chain that replaces its blocks whenever it likes: the books always are what the chain is."""

from pathlib import Path

import pytest

from tests.support.reorg_life import ReorgLife

STEPS = 120


@pytest.mark.parametrize("confirmations", [0, 2])
@pytest.mark.parametrize("seed", range(1, 16))
async def test_the_books_are_what_the_canonical_chain_made_them(path: Path, seed: int, confirmations: int) -> None:
    print(f"seed {seed}")
    life = ReorgLife(path, seed, confirmations)
    await life.found()
    for _ in range(STEPS):
        await life.step()
    await life.settle_down()
    life.check_at_rest()
    await life.check_ways_back()
    await life.crash()
    life.check_at_rest()
    await life.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"
