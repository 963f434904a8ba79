"""A running gateway's web application, with callers of every kind."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.web.access import Scope
from tests.support.gateway_world import World
from tests.support.web_site import WebSite


@pytest.fixture
async def make_site(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[WebSite]]]:
    """Make sites over gateways that run; all are ended afterwards."""
    made: list[WebSite] = []

    async def make(**options: Any) -> WebSite:
        site = WebSite(World(tmp_path / f"world-{len(made)}", **options))
        made.append(site)
        await site.start()
        return site

    yield make
    for site in made:
        await site.end()


@pytest.fixture
async def site(make_site: Callable[..., Awaitable[WebSite]]) -> WebSite:
    """A site that asks for logins, with an operator of each scope."""
    return await make_site(demo=False)


@pytest.fixture
async def demo(make_site: Callable[..., Awaitable[WebSite]]) -> WebSite:
    """A demo's site: nobody logs in."""
    return await make_site()


@pytest.fixture
async def admin(site: WebSite) -> httpx.AsyncClient:
    """A program that may do everything."""
    return await site.token(Scope.ADMIN)
