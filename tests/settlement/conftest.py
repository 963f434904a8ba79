"""The layers that the tests of this folder run against."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.layers import SITES, Site


@pytest_asyncio.fixture(params=sorted(SITES))
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """Each execution layer in turn, fresh for every test."""
    async with SITES[request.param]() as made:
        yield made
