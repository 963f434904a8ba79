"""What is shown is on disk: answers wait for the commit under way, and a disk that fails shows nothing."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from gateway.control import application
from gateway.durable import ShownWhenDurable
from gateway.errors import JournalFault
from tests.support.gateway_world import World


class SlowDisk:
    """A journal whose commit ends when the test says so."""

    def __init__(self) -> None:
        self.written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def durable(self) -> None:
        await asyncio.shield(self.written)


def client(disk: SlowDisk) -> httpx.AsyncClient:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("charged 5")(scope, receive, send)

    shown = ShownWhenDurable(app, disk, lambda path: path != "/healthz")  # type: ignore[arg-type]  # only `durable`
    return httpx.AsyncClient(transport=httpx.ASGITransport(shown), base_url="http://127.0.0.1")


async def test_an_answer_waits_for_the_disk() -> None:
    disk = SlowDisk()
    async with client(disk) as asking:
        answer = asyncio.ensure_future(asking.get("/api/v1/overview"))
        assert (await asking.get("/healthz")).text == "charged 5", "what tells of no money waits for nothing"
        await asyncio.sleep(0.05)
        assert not answer.done()
        disk.written.set_result(None)
        assert (await answer).text == "charged 5"


async def test_a_disk_that_fails_shows_nothing() -> None:
    disk = SlowDisk()
    disk.written.set_exception(JournalFault("cannot write"))
    async with client(disk) as asking:
        with pytest.raises(JournalFault):
            await asking.get("/api/v1/overview")


async def test_the_control_socket_shows_only_what_is_durable(
    make_world: Callable[..., Awaitable[World]], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world()
    disk = SlowDisk()
    monkeypatch.setattr(world.gateway.books.journal, "durable", disk.durable)
    transport = httpx.ASGITransport(application(world.gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as asking:
        answer = asyncio.ensure_future(asking.get("/v1/status"))
        await asyncio.sleep(0.05)
        assert not answer.done()
        disk.written.set_result(None)
        assert (await answer).status_code == 200
