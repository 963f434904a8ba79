"""The web application of a world's gateway, in process, with clients of every scope."""

import asyncio
from pathlib import Path

import httpx

from gateway.web.access import Access, Scope
from gateway.web.app import Site
from gateway.web.desk import Desk
from gateway.web.store import OperatorStore
from tests.support.gateway_world import World

BASE = "http://127.0.0.1:8402"
PASSWORD = "correct horse battery"


class WebSite:
    """One site. `start`, then clients; `end` at last."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._clients: list[httpx.AsyncClient] = []

    async def start(self, dist: Path | None = None) -> None:
        """Start the gateway and its site."""
        await self.world.start()
        self.store = OperatorStore(Path(self.world.config.data_dir))
        await self.store.open()
        self.access = Access(self.store)
        self.desk = Desk(self.world.gateway, self.world.miner.chain)
        self.site = Site(self.desk, self.access, hosts=["127.0.0.1", "localhost"], dist=dist)
        self._running = asyncio.create_task(self.desk.run())

    async def end(self) -> None:
        """End everything."""
        for client in self._clients:
            await client.aclose()
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self.store.close()
        fault = await self.world.crash()
        assert fault is None, f"the gateway had stopped: {fault!r}"

    def client(self, **headers: str) -> httpx.AsyncClient:
        """Return a client that nobody knows."""
        transport = httpx.ASGITransport(self.site.app, raise_app_exceptions=True)
        client = httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers)
        self._clients.append(client)
        return client

    async def token(self, scope: Scope) -> httpx.AsyncClient:
        """Return a client with a token of this scope."""
        secret, _ = await self.access.new_token(f"test {scope.value}", scope, "test")
        return self.client(authorization=f"Bearer {secret}")

    async def browser(self, scope: Scope = Scope.ADMIN) -> httpx.AsyncClient:
        """Return a client that has logged in, with its CSRF token in every request."""
        name = f"{scope.value}-person"
        await self.access.put_operator(name, PASSWORD, scope)
        client = self.client()
        answer = await client.post("/api/v1/session", json={"name": name, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        client.headers["x-csrf-token"] = answer.json()["csrf"]
        return client
