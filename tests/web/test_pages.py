"""What every page has: GET and HEAD, gzip where it pays, the policy; the built front end and its absence."""

import gzip
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.web.static import PAGES
from tests.support.gateway_world import World
from tests.support.web_site import WebSite

PATHS = ("/", "/healthz", "/readyz", "/metrics", "/api/v1/session", "/api/v1/overview", "/api/v1/openapi.json",
         "/api/v1/refusals/reasons", "/api/v1/enrolment/qr.svg", "/api/v1/stream")  # fmt: skip


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/api/v1/stream"])
async def test_get_and_head_say_the_same_with_the_policy(demo: WebSite, path: str) -> None:
    client = demo.client()
    answer, head = await client.get(path), await client.head(path)
    for each in (answer, head):
        assert each.status_code == 200
        assert "default-src 'none'" in each.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in each.headers["content-security-policy"]
        assert each.headers["x-content-type-options"] == "nosniff"
        assert each.headers["referrer-policy"] == "no-referrer"
    assert head.headers["content-type"] == answer.headers["content-type"]


async def test_a_head_of_the_stream_opens_none(demo: WebSite) -> None:
    answer = await demo.client().head("/api/v1/stream")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert demo.desk.hub.listeners == 0


async def test_large_answers_are_packed_and_small_ones_not(demo: WebSite) -> None:
    client = demo.client(**{"accept-encoding": "gzip"})
    large = await client.get("/api/v1/openapi.json")
    assert large.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in (await client.get("/healthz")).headers
    plain = await demo.client(**{"accept-encoding": "identity"}).get("/api/v1/openapi.json")
    assert "content-encoding" not in plain.headers
    assert plain.json() == large.json()


async def test_unknown_paths_and_methods_are_answered_in_kind(demo: WebSite) -> None:
    client = demo.client()
    missing = await client.get("/api/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    wrong = await client.put("/api/v1/devices")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert {"GET", "POST"} <= set(wrong.headers["allow"].split(", "))
    assert (await client.get("/nothing")).status_code == 404
    assert "default-src 'none'" in (await client.get("/nothing")).headers["content-security-policy"]


async def test_a_gateway_without_pages_says_so_and_serves_the_api(tmp_path: Path, demo: WebSite) -> None:
    bare = WebSite(World(tmp_path / "bare"))
    await bare.start(dist=tmp_path / "nothing")
    try:
        answer = await bare.client().get("/")
        assert "make setup" in answer.text
        assert answer.headers["content-type"].startswith("text/html")
        assert (await bare.client().get("/api/v1/overview")).status_code == 200
    finally:
        await bare.end()


@pytest.fixture
async def built(tmp_path: Path) -> Any:
    """A site with a front end of two files, one of them packed."""
    dist = tmp_path / "dist"
    (dist / "assets").mkdir(parents=True)
    (dist / "index.html").write_text("<!doctype html><title>Metergate</title>", encoding="utf-8")
    (dist / "assets" / "app-1a2b3c.js").write_text("export const answer = 42;\n" * 40, encoding="utf-8")
    (dist / "assets" / "app-1a2b3c.js.gz").write_bytes(gzip.compress(b"export const answer = 42;\n" * 40))
    (dist / "favicon.svg").write_text("<svg/>", encoding="utf-8")
    (dist / "secret.key").write_text("not to be served", encoding="utf-8")
    site = WebSite(World(tmp_path / "built"))
    await site.start(dist=dist)
    yield site
    await site.end()


async def test_the_front_end_is_served(built: WebSite) -> None:
    client = built.client(**{"accept-encoding": "gzip"})
    for path in PAGES:
        answer = await client.get(path.replace("{device}", "pump-7").replace("{cycle}", "12"))
        assert answer.status_code == 200, path
        assert "<title>Metergate</title>" in answer.text
        assert answer.headers["cache-control"] == "no-cache"
    script = await client.get("/assets/app-1a2b3c.js")
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert script.headers["content-encoding"] == "gzip"
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.text == "export const answer = 42;\n" * 40
    plain = await built.client(**{"accept-encoding": "identity"}).get("/assets/app-1a2b3c.js")
    assert plain.text == script.text
    assert (await client.get("/favicon.svg")).headers["content-type"] == "image/svg+xml"
    for path in ("/secret.key", "/assets/app-1a2b3c.js.gz", "/assets/../secret.key"):
        assert (await client.get(path)).status_code == 404, path


async def test_ready_means_that_readings_are_taken(demo: WebSite) -> None:
    client: httpx.AsyncClient = demo.client()
    assert (await client.get("/readyz")).status_code == 200
    demo.world.link.connected = False
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/healthz")).status_code == 200
    demo.world.link.connected = True


async def test_nothing_is_kept_by_caches(make_site: Callable[..., Awaitable[WebSite]]) -> None:
    site = await make_site(demo=False)
    browser = await site.browser()
    for path in ("/api/v1/overview", "/api/v1/session", "/metrics"):
        assert (await browser.get(path)).headers["cache-control"] == "no-store"
