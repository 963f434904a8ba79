"""A real listener: streams to many, slow and silent clients, TLS, and addresses that it refuses."""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.config import WebConfig
from gateway.errors import SetupError
from gateway.web import server
from gateway.web.access import Scope
from gateway.web.server import WebServer, refuse_public
from gateway.web.store import OperatorStore
from gateway.web.stream import QUEUE_MAX, STREAMS_MAX, STREAMS_PER_CALLER_MAX, Hub, StreamsBusy
from tests.support.gateway_world import World, until
from tests.support.gateway_world import config as world_config
from tests.support.mosquitto import free_port

ABROAD = "192.0.2.1"


@asynccontextmanager
async def served(world: World, **web: Any) -> AsyncIterator[tuple[WebServer, str]]:
    """Serve a world's gateway on a free port."""
    port = free_port()
    made = WebServer(world.gateway, WebConfig(port=port, **web), chain=world.miner.chain)
    task = asyncio.create_task(made.serve())
    try:
        await until(lambda: task.done() or bool(_answers(port)))
        if task.done():
            await task
        yield made, f"http://127.0.0.1:{port}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _answers(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("steps", range(10))
def test_a_server_that_ends_while_it_starts_leaves_no_thread_behind(
    tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its database opens in a thread, which must not answer to an event loop that is closed."""
    faults: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", faults.append)
    before = set(threading.enumerate())

    async def begin_and_cancel() -> None:
        store = OperatorStore(tmp_path)
        opening = asyncio.ensure_future(store.open())
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await store.close()

    asyncio.run(begin_and_cancel())
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    assert faults == []


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A demo's gateway that runs."""
    made = World(tmp_path / "world")
    await made.start()
    yield made
    assert await made.crash() is None


async def test_the_stream_tells_what_happens(world: World) -> None:
    async with served(world) as (_, url), httpx.AsyncClient(base_url=url, timeout=20) as client:
        seen: set[str] = set()
        async with client.stream("GET", "/api/v1/stream", headers={"accept-encoding": "gzip"}) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert "content-encoding" not in stream.headers
            payer = await world.opened()
            async for line in stream.aiter_lines():
                if line.startswith("event: "):
                    seen.add(line.removeprefix("event: "))
                    await world.pay(payer, 10)
                if line.startswith("event: ") and len(seen) == 3:
                    await world.settle()
                    await client.post("/api/v1/enrolment/window", json={"seconds": 60})
                if {"overview", "series", "activity", "cycle", "enrolment", "device"} <= seen:
                    break


async def test_a_stream_is_taken_up_where_it_broke_off_or_begins_anew() -> None:
    hub = Hub()
    for number in range(3):
        hub.publish("n", number)
    frames = hub.listen("a", "1").frames()
    got = [await anext(frames) for _ in range(3)]
    assert [frame.split(b"\n")[0] for frame in got[1:]] == [b"id: 2", b"id: 3"]
    for lost in ("99", "-1", "x", "9" * 30):
        frames = hub.listen(f"caller {lost}", lost).frames()
        assert b"event: reset" in [await anext(frames) for _ in range(2)][1]


async def test_streams_are_bounded_and_slow_ones_dropped() -> None:
    hub = Hub()
    listeners = [hub.listen("a", None) for _ in range(STREAMS_PER_CALLER_MAX)]
    with pytest.raises(StreamsBusy):
        hub.listen("a", None)
    listeners += [hub.listen(f"b{n}", None) for n in range(STREAMS_MAX - STREAMS_PER_CALLER_MAX)]
    with pytest.raises(StreamsBusy):
        hub.listen("c", None)
    for number in range(QUEUE_MAX + 1):
        hub.publish("n", number)
    assert hub.listeners == 0, "nobody took anything"
    assert [frame async for frame in listeners[0].frames()] == [b"retry: 2000\n\n"]
    for each in listeners:
        each.leave()


async def test_hundreds_of_streams_leave_the_gateway_at_work(world: World) -> None:
    async with served(world) as (web, url):
        port = int(url.rsplit(":", 1)[1])
        request = b"GET /api/v1/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        writers = []
        codes = []
        for _ in range(200):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            codes.append((await reader.readline()).split()[1])
            writers.append(writer)
        assert codes.count(b"200") == STREAMS_PER_CALLER_MAX
        assert codes.count(b"429") == 200 - STREAMS_PER_CALLER_MAX
        payer = await world.opened()
        for _ in range(20):
            await world.pay(payer, 10)
        for writer in writers:
            writer.close()
        await until(lambda: web.desk.hub.listeners == 0)


async def test_a_client_that_takes_nothing_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SEND_WAIT_S", 0.2)
    async with served(world) as (web, url):
        import socket

        port = int(url.rsplit(":", 1)[1])
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            lazy.connect(("127.0.0.1", port))
            lazy.sendall(b"GET /api/v1/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            await until(lambda: web.desk.hub.listeners == 1)
            for _ in range(2_000):
                web.desk.hub.publish("large", "x" * 100_000)
                await asyncio.sleep(0.001)
                if not server._transports:
                    break
            await until(lambda: web.desk.hub.listeners == 0 and not server._transports)


async def test_a_request_that_never_arrives_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADERS_WAIT_S", 0.1)
    async with served(world) as (_, url):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(b"GET / HTTP/1.1\r\nhost: 127.0")
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_serving_ends_with_streams_open(world: World) -> None:
    async with served(world) as (_, url):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(b"GET /api/v1/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await reader.readuntil(b"retry")
    async with asyncio.timeout(20):
        await reader.read()
    writer.close()


def configured(tmp_path: Path, *, demo: bool = False) -> Any:
    return world_config(tmp_path, demo=demo)


@pytest.mark.parametrize(
    ("web", "demo", "operators", "words"),
    [
        (WebConfig(host=ABROAD), True, True, "loopback only"),
        (WebConfig(host="0.0.0.0", tls_cert="a", tls_key="b"), True, True, "loopback only"),
        (WebConfig(host=ABROAD), False, True, "in the clear"),
        (WebConfig(host="::"), False, True, "in the clear"),
        (WebConfig(host="gateway.local"), False, True, "in the clear"),
        (WebConfig(host=ABROAD, public_url="http://meters.example"), False, True, "in the clear"),
        (WebConfig(host=ABROAD, tls_cert="a", tls_key="b"), False, False, "metergate operator add"),
        (WebConfig(host=ABROAD, public_url="https://meters.example"), False, False, "metergate operator add"),
    ],
)
def test_others_are_not_served_without_login_or_in_the_clear(
    tmp_path: Path, web: WebConfig, demo: bool, operators: bool, words: str
) -> None:
    with pytest.raises(SetupError, match=words):
        refuse_public(configured(tmp_path, demo=demo), web, operators=operators)


@pytest.mark.parametrize(
    ("web", "operators"),
    [
        (WebConfig(), False),
        (WebConfig(host="::1"), False),
        (WebConfig(host="localhost"), False),
        (WebConfig(host="127.0.0.2"), False),
        (WebConfig(host=ABROAD, tls_cert="a", tls_key="b"), True),
        (WebConfig(host=ABROAD, public_url="https://meters.example"), True),
    ],
)
def test_who_may_be_served(tmp_path: Path, web: WebConfig, operators: bool) -> None:
    refuse_public(configured(tmp_path), web, operators=operators)


async def test_an_occupied_port_is_one_sentence(world: World) -> None:
    async with served(world) as (_, url):
        port = int(url.rsplit(":", 1)[1])
        again = WebServer(world.gateway, WebConfig(port=port))
        with pytest.raises(SetupError, match=f"port {port}.*--http-port"):
            await again.serve()


async def test_a_certificate_that_cannot_be_used_is_one_sentence(world: World, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="tls_cert"):
        WebServer(world.gateway, WebConfig(tls_cert=str(tmp_path / "none.pem"), tls_key=str(tmp_path / "none.key")))


async def test_own_certificate_and_secure_cookies(tmp_path: Path) -> None:
    cert, key = _certificate(tmp_path)
    world = World(tmp_path / "world", demo=False)
    await world.start()
    try:
        async with served(world, tls_cert=str(cert), tls_key=str(key)) as (web, url):
            await web.access.put_operator("anna", "correct horse battery", Scope.ADMIN)
            context = ssl.create_default_context(cafile=str(cert))
            async with httpx.AsyncClient(base_url=url.replace("http:", "https:"), verify=context) as client:
                answer = await client.post(
                    "/api/v1/session", json={"name": "anna", "password": "correct horse battery"}
                )
                assert answer.status_code == 200
                assert "Secure" in answer.headers["set-cookie"]
                assert answer.headers["strict-transport-security"] == "max-age=31536000"
                assert (await client.get("/api/v1/overview")).status_code == 200
    finally:
        assert await world.crash() is None


def _certificate(directory: Path) -> tuple[Path, Path]:
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "metergate test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    cert, key = directory / "web.pem", directory / "web.key"
    cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert, key


def test_the_configuration_is_checked() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"public_url": "meters.example"}, WebConfig)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"public_url": "https://meters.example/path"}, WebConfig)
