"""Every route × every kind of caller: who is let in, who is not, and what a foreign page may make a browser do."""

import re

import httpx
import pytest

from gateway.web.access import Scope
from gateway.web.endpoints import Endpoint
from tests.support.web_site import WebSite

# Filled into paths: nothing of this exists, so that an answer of 404 or 400 proves that one was let in.
_PARAMETERS = {
    "device": "nobody-1",
    "number": "7",
    "party": "0x" + "11" * 20,
    "code": "nothing",
    "id": "0x" + "22" * 32,
    "name": "nobody",
}
# Let in, these would change the world of the other rows, or never end.
_NOT_CALLED = {("DELETE", "/session"), ("GET", "/stream")}


def path_of(endpoint: Endpoint) -> str:
    return "/api/v1" + re.sub(r"{(\w+)}", lambda match: _PARAMETERS[match.group(1)], endpoint.path)


async def ask(client: httpx.AsyncClient, endpoint: Endpoint, **headers: str) -> httpx.Response:
    content = None if endpoint.body is None else b'{"nothing": "fits"}'
    return await client.request(endpoint.method, path_of(endpoint), content=content, headers=headers)


def refused(answer: httpx.Response, status: int, code: str) -> bool:
    return answer.status_code == status and answer.json()["error"]["code"] == code


async def test_every_route_asks_for_its_scope(site: WebSite) -> None:
    nobody = site.client()
    known = {scope: await site.token(scope) for scope in Scope}
    assert len(site.site.endpoints) > 40
    for endpoint in site.site.endpoints:
        name = f"{endpoint.method} {endpoint.path}"
        answer = await ask(nobody, endpoint) if (endpoint.method, endpoint.path) != ("GET", "/stream") else None
        if endpoint.scope is None:
            assert answer is not None
            assert answer.status_code in (200, 400), name
            continue
        if answer is not None:
            assert refused(answer, 401, "login_needed"), name
            assert answer.headers["www-authenticate"] == "Bearer"
        for scope, client in known.items():
            if not scope.holds(endpoint.scope):
                assert refused(await ask(client, endpoint), 403, "scope"), (name, scope)
            elif (endpoint.method, endpoint.path) not in _NOT_CALLED:
                answer = await ask(client, endpoint)
                assert answer.status_code not in (401, 403), (name, scope, answer.text)
                assert answer.status_code < 500, (name, scope, answer.text)


async def test_every_action_of_a_browser_carries_its_token_and_comes_from_here(site: WebSite) -> None:
    browser = await site.browser()
    token = browser.headers.pop("x-csrf-token")
    actions = [each for each in site.site.endpoints if each.action and each.scope is not None]
    assert len(actions) > 10
    for endpoint in actions:
        name = f"{endpoint.method} {endpoint.path}"
        assert refused(await ask(browser, endpoint), 403, "csrf"), name
        assert refused(await ask(browser, endpoint, **{"x-csrf-token": "x" * 43}), 403, "csrf"), name
        for foreign in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
            answer = await ask(browser, endpoint, **{"x-csrf-token": token}, **foreign)
            assert refused(answer, 403, "foreign_origin"), (name, foreign)
    own = {"x-csrf-token": token, "origin": "http://127.0.0.1:8402", "sec-fetch-site": "same-origin"}
    answer = await browser.post("/api/v1/devices", json={"device": "pump-1"}, headers=own)
    assert answer.status_code == 201


async def test_a_foreign_page_can_neither_log_in_nor_set_up(site: WebSite) -> None:
    for endpoint in site.site.endpoints:
        if endpoint.action and endpoint.scope is None:
            answer = await ask(site.client(), endpoint, origin="https://evil.example")
            assert refused(answer, 403, "foreign_origin"), endpoint.path


async def test_the_demo_lets_everybody_in_but_not_other_sites_pages(demo: WebSite) -> None:
    client = demo.client()
    assert (await client.get("/api/v1/session")).json()["scopes"] == ["read", "operate", "admin"]
    for endpoint in demo.site.endpoints:
        if endpoint.action:
            answer = await ask(client, endpoint, origin="https://evil.example")
            assert refused(answer, 403, "foreign_origin"), endpoint.path
        elif (endpoint.method, endpoint.path) not in _NOT_CALLED:
            assert (await ask(client, endpoint)).status_code in (200, 400, 404), endpoint.path
    answer = await client.get("/api/v1/overview", headers={"host": "evil.example"})
    assert answer.status_code == 421, "a name that an attacker's DNS points here"


@pytest.mark.parametrize("header", ["Bearer mg_nothing", "Bearer ", "Basic YTpi", "Bearer " + "x" * 5_000])
async def test_a_wrong_token_is_nobody(site: WebSite, header: str) -> None:
    answer = await site.client(authorization=header).get("/api/v1/overview")
    assert refused(answer, 401, "login_needed")


async def test_a_revoked_or_expired_token_is_nobody(site: WebSite) -> None:
    secret, token = await site.access.new_token("short", Scope.READ, "test")
    client = site.client(authorization=f"Bearer {secret}")
    assert (await client.get("/api/v1/layer")).status_code == 200
    admin = await site.token(Scope.ADMIN)
    assert (await admin.delete(f"/api/v1/tokens/{token.id}")).status_code == 204
    assert (await client.get("/api/v1/layer")).status_code == 401
    expired, _ = await site.access.new_token("gone", Scope.READ, "test", life_s=-1)
    assert (await site.client(authorization=f"Bearer {expired}").get("/api/v1/layer")).status_code == 401


async def test_metrics_need_a_login_or_their_own_token(site: WebSite) -> None:
    assert (await site.client().get("/metrics")).status_code == 401
    assert (await (await site.token(Scope.READ)).get("/metrics")).status_code == 200
    site.site._metrics_token = "a token of sixteen letters"
    assert (await site.client(authorization="Bearer a token of sixteen letters").get("/metrics")).status_code == 200
    assert (await site.client(authorization="Bearer a token of sixteen lettera").get("/metrics")).status_code == 401
    for path in ("/healthz", "/readyz"):
        assert (await site.client().get(path)).status_code == 200
