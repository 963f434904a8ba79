"""Ten thousand devices: pages stay small, every device is on exactly one, and the work follows what changed."""

import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.entries import Device
from gateway.web.devices_index import DeviceIndex
from gateway.web.listing import ORDERS
from tests.support.gateway_world import World
from tests.support.web_site import WebSite

COUNT = 10_000


@pytest.fixture(scope="module")
def names() -> list[str]:
    """Names in no order."""
    seed = 5
    found = [f"meter-{number:05d}" for number in range(COUNT)]
    random.Random(seed).shuffle(found)
    return found


@pytest.fixture
async def crowd(tmp_path: Path, names: list[str]) -> Any:
    """A site with ten thousand enrolled devices."""
    site = WebSite(World(tmp_path / "world"))
    await site.start()
    for name in names:
        site.world.gateway.registry.add_device(name, "cellar" if name.endswith("7") else "")
        site.world.ledger.devices[name.encode()] = Device((), "cellar" if name.endswith("7") else "")
    site.desk.index.refresh()
    yield site
    await site.end()


async def walk(client: httpx.AsyncClient, query: str) -> list[str]:
    """Return all devices of a list, page by page."""
    found: list[str] = []
    cursor = ""
    while True:
        page = (await client.get(f"/api/v1/devices?limit=200&{query}&cursor={cursor}")).json()
        assert len(page["items"]) <= 200
        found += [each["device"] for each in page["items"]]
        cursor = page["next"]
        if cursor is None:
            assert len(found) == page["total"]
            return found


async def test_every_device_is_on_one_page(crowd: WebSite, names: list[str]) -> None:
    client = crowd.client()
    assert await walk(client, "") == sorted(names)
    assert await walk(client, "search=METER-0123") == [f"meter-0123{digit}" for digit in range(10)]
    assert len(await walk(client, "search=cellar")) == COUNT // 10
    assert await walk(client, "service=water") == []
    assert len(await walk(client, "problem=no_deposit&sort=-charged")) == COUNT
    tiles = (await client.get("/api/v1/overview")).json()["tiles"]
    assert (tiles["devices"]["total"], tiles["devices"]["without_deposit"]) == (COUNT, COUNT)


async def test_all_orders_hold_all_devices(crowd: WebSite) -> None:
    client = crowd.client()
    for order in ORDERS:
        page = (await client.get(f"/api/v1/devices?sort={order}&limit=5")).json()
        assert (len(page["items"]), page["total"]) == (5, COUNT), order
        following = (await client.get(f"/api/v1/devices?sort={order}&limit=5&cursor={page['next']}")).json()
        assert not {each["device"] for each in page["items"]} & {each["device"] for each in following["items"]}, order


async def test_work_follows_what_changed(crowd: WebSite, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = DeviceIndex._read
    monkeypatch.setattr(DeviceIndex, "_read", lambda self, name: (read.append(name), whole(self, name))[1])
    payer = await crowd.world.opened("meter-1")
    crowd.desk.tick()
    read.clear()
    for _ in range(5):
        await crowd.world.pay(payer, 10)
    crowd.desk.tick()
    assert set(read) == {"meter-1"}
    for _ in range(3):
        await crowd.client().get("/api/v1/devices")
        crowd.desk.tick()
    assert set(read) == {"meter-1"}


async def test_a_page_looks_at_its_own_rows_only(crowd: WebSite, monkeypatch: pytest.MonkeyPatch) -> None:
    shaped = []
    whole = crowd.desk.listing.shape
    monkeypatch.setattr(crowd.desk.listing, "shape", lambda row: (shaped.append(row), whole(row))[1])
    page = (await crowd.client().get("/api/v1/devices?limit=20")).json()
    assert (len(page["items"]), len(shaped)) == (20, 20)


@pytest.mark.parametrize("cursor", ["x", "W10", "WzFd", "e30", "bnVsbA", "%00", "ÿ", "W1t7fV1d", "WyJhIiwgImIiXQ"])
@pytest.mark.parametrize("query", ["", "sort=-charged&", "sort=charged&search=a&"])
async def test_a_cursor_of_elsewhere_is_refused(demo: WebSite, cursor: str, query: str) -> None:
    answer = await demo.client().get(f"/api/v1/devices?{query}cursor={cursor}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_query")
