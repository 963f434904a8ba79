"""The control interface's answers: JSON for whatever is asked."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from channels.state import Phase
from gateway.control import application
from settlement.errors import ChainUnavailable
from tests.support.gateway_world import TOKEN, World, until


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the running gateway's control interface."""
    transport = httpx.ASGITransport(application(world.gateway), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://metergate") as client:
        yield client


async def test_devices_are_enrolled_listed_and_shown(world: World, client: httpx.AsyncClient) -> None:
    payer = await world.opened()
    await world.pay(payer, 100)
    added = await client.post("/v1/devices", json={"device": "meter-1", "payers": ["0x" + "Ab" * 20], "note": "cellar"})
    assert (added.status_code, added.json()) == (201, {"device": "meter-1"})
    shown = (await client.get("/v1/devices/meter-1")).json()
    assert (shown["note"], shown["payers"]) == ("cellar", ["0x" + "ab" * 20])
    assert [reading["seq"] for reading in shown["readings"]] == [1]
    assert shown["channels"][0]["charged"] == "15000"
    assert (await client.get("/v1/devices")).json()["devices"][0]["enrolled"] is True
    assert (await client.get("/v1/devices/nobody")).status_code == 404
    await world.restart()
    assert world.ledger.devices[b"meter-1"].note == "cellar"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[", b"5", b"[]", b"{}", b'{"device": "a b"}', b'{"device": 5}', b'{"device": "d", "payers": "0x"}',
        b'{"device": "d", "payers": ["0x12"]}', b'{"device": "d", "payers": [5]}', b'{"device": "d", "note": 5}',
        b'{"device": "d", "note": "\\u0007"}', b'{"device": "d", "note": "' + b"x" * 201 + b'"}', b"\xff\xfe",
        b"[" * 10_000,
    ],
)  # fmt: skip
async def test_a_bad_device_is_refused_in_words(world: World, client: httpx.AsyncClient, body: bytes) -> None:
    number = world.gateway.books.journal.number
    answer = await client.post("/v1/devices", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert world.gateway.books.journal.number == number


async def test_bounds_are_refusals_not_faults(client: httpx.AsyncClient) -> None:
    many = [f"0x{number:040x}" for number in range(1, 17)]
    assert (await client.post("/v1/devices", json={"device": "d", "payers": many})).status_code == 201
    over = await client.post("/v1/devices", json={"device": "d", "payers": ["0x" + "ff" * 20]})
    assert (over.status_code, "16" in over.json()["error"]) == (400, True)
    assert (await client.post("/v1/devices", content=b" " * 16_385)).status_code == 413


async def test_settling_and_books_on_demand(world: World, client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/settle")).json() == {"settled": False}
    payer = await world.opened()
    await world.pay(payer, 100)
    settled = (await client.post("/v1/settle")).json()
    assert (settled["settled"], settled["claimed"], settled["moved"]) == (True, "15000", "15000")
    assert (await client.get("/v1/books")).json() == {"faults": [], "warnings": []}
    status = (await client.get("/v1/status")).json()
    assert (status["charged"], status["claimed"], status["unsettled"]) == ("15000", "15000", "0")
    assert (status["running"], status["outstanding_transactions"]) == (True, 0)


async def test_an_unreachable_chain_is_answered_in_words(world: World, client: httpx.AsyncClient) -> None:
    payer = await world.opened()
    await world.pay(payer, 100)

    async def away(*_: Any) -> None:
        raise ChainUnavailable("the cable is out")

    world.gateway.watcher._poll_s = 3600.0
    await asyncio.sleep(0.03)
    for path, method in (("/v1/settle", "POST"), ("/v1/books", "GET")):
        world.layer.once_before("receivers", away)
        answer = await client.request(method, path)
        assert (answer.status_code, "cable" in answer.json()["error"]) == (503, True), path
    assert world.running


async def test_a_device_is_closed_with_its_outcome(world: World, client: httpx.AsyncClient) -> None:
    payer = await world.opened()
    await world.pay(payer, 1_000)
    answer = await client.post("/v1/devices/meter-1/close", json={})
    outcome = {
        "channelId": f"0x{payer.id.hex()}",
        "service": "grid-power",
        "phase": "closed",
        "payer": f"0x{payer.payer.hex()}",
        "claimed": "150000",
        "refunded": "4850000",
        "unclaimed": "0",
    }
    assert (answer.status_code, answer.json()) == (200, {"closed": True, "channels": [outcome]})
    assert await world.balance(payer.payer) == 100 * TOKEN - 150_000
    again = await client.post("/v1/devices/meter-1/close", json={"channel": outcome["channelId"]})
    assert (again.status_code, again.json()) == (200, {"closed": True, "channels": [outcome]})
    none_left = await client.post("/v1/devices/meter-1/close", json={})
    assert (none_left.status_code, none_left.json()) == (400, {"error": "device meter-1 has no open channel"})
    assert await world.faults() == []


async def test_closing_goes_on_when_nobody_waits(
    world: World, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.control.CLOSE_WAIT_S", 0.0)
    payer = await world.opened()
    world.miner.auto = False
    answer = (await client.post("/v1/devices/meter-1/close", json={"channel": f"0x{payer.id.hex()}"})).json()
    assert (answer["closed"], answer["channels"][0]["phase"]) == (False, "closing")
    world.miner.auto = True
    world.mine()
    await until(lambda: world.channel(payer).phase is Phase.CLOSED)
    assert await world.balance(payer.payer) == 100 * TOKEN


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"5", 400), (b"[]", 400), (b'{"channel": 5}', 400), (b'{"channel": "0x12"}', 400), (b"\xff", 400),
        (b'{"channel": "' + b"0x" + b"ab" * 32 + b'"}', 400), (b"[" * 10_000, 400), (b" " * 16_385, 413),
    ],
)  # fmt: skip
async def test_a_bad_close_is_refused_in_words(
    world: World, client: httpx.AsyncClient, body: bytes, status: int
) -> None:
    await world.opened()
    number = world.gateway.books.journal.number
    answer = await client.post("/v1/devices/meter-1/close", content=body)
    assert (answer.status_code, bool(answer.json()["error"])) == (status, True)
    assert world.gateway.books.journal.number == number
