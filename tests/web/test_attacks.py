"""An attacker's hour: fixation, guessing, replays, large and slow bodies, paths that climb, scripts in names."""

import asyncio
import json
from typing import Any

import pytest

from gateway.web import guard
from gateway.web.access import TRIES_MAX, BadCredentials, Scope
from gateway.web.endpoints import BODY_MAX
from gateway.web.store import AUDIT_MAX, secret_hash
from tests.support.gateway_devices import to_json
from tests.support.web_site import PASSWORD, WebSite

SCRIPT = "</script><img src=x onerror=alert(1)>"


async def test_a_cookie_from_before_the_login_never_becomes_a_session(site: WebSite) -> None:
    await site.access.put_operator("anna", PASSWORD, Scope.ADMIN)
    client = site.client(cookie="metergate_session=chosen-by-the-attacker")
    answer = await client.post("/api/v1/session", json={"name": "anna", "password": PASSWORD})
    given = answer.headers["set-cookie"]
    assert "chosen-by-the-attacker" not in given
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(given.split("; "))
    assert await site.access.of_session("chosen-by-the-attacker") is None
    again = site.client(cookie="metergate_session=chosen-by-the-attacker")
    assert (await again.get("/api/v1/overview")).status_code == 401


async def test_a_login_ends_the_session_before_and_a_logout_its_own(site: WebSite) -> None:
    browser = await site.browser()
    first = browser.cookies["metergate_session"]
    answer = await browser.post("/api/v1/session", json={"name": "admin-person", "password": PASSWORD})
    second = browser.cookies["metergate_session"]
    assert first != second
    assert await site.access.of_session(first) is None
    browser.headers["x-csrf-token"] = answer.json()["csrf"]
    assert (await browser.get("/api/v1/overview")).status_code == 200
    assert (await browser.delete("/api/v1/session")).status_code == 204
    assert await site.access.of_session(second) is None


async def test_another_password_ends_the_sessions(site: WebSite) -> None:
    browser = await site.browser(Scope.READ)
    assert (await browser.get("/api/v1/layer")).status_code == 200
    await site.access.put_operator("read-person", PASSWORD + "!", Scope.READ)
    assert (await browser.get("/api/v1/layer")).status_code == 401


async def test_guessing_is_slowed_down_for_known_and_unknown_names_alike(site: WebSite) -> None:
    await site.access.put_operator("anna", PASSWORD, Scope.ADMIN)
    answers = []
    for name in ("anna", "nobody"):
        site.access._brake._buckets.clear()
        client = site.client()
        for _ in range(TRIES_MAX + 1):
            answers.append(await client.post("/api/v1/session", json={"name": name, "password": "wrong password"}))
        assert [each.status_code for each in answers[-TRIES_MAX - 1 :]] == [401] * TRIES_MAX + [429]
        assert int(answers[-1].headers["retry-after"]) > 0
        right = await client.post("/api/v1/session", json={"name": name, "password": PASSWORD})
        assert right.status_code == 429, "the right one is no way past the brake"
    assert len({each.json()["error"]["message"] for each in answers if each.status_code == 401}) == 1


async def test_tokens_are_not_guessed_either(site: WebSite) -> None:
    client = site.client(authorization="Bearer mg_wrong")
    codes = [(await client.get("/api/v1/layer")).status_code for _ in range(TRIES_MAX + 1)]
    assert codes == [401] * TRIES_MAX + [429]


async def test_the_setup_link_works_once(site: WebSite) -> None:
    code = await site.access.setup_code()
    assert code is not None
    body = {"code": code, "name": "first", "password": PASSWORD}
    wrong = await site.client().post("/api/v1/setup", json=body | {"code": "guess"})
    weak = await site.client().post("/api/v1/setup", json=body | {"password": "short"})
    assert (wrong.status_code, weak.status_code) == (401, 401)
    client = site.client()
    assert (await client.get("/api/v1/session")).json()["setup_needed"] is True
    done = await client.post("/api/v1/setup", json=body)
    assert (done.status_code, done.json()["scope"], done.json()["setup_needed"]) == (200, "admin", False)
    assert (await client.get("/api/v1/overview")).status_code == 200
    again = await site.client().post("/api/v1/setup", json=body | {"name": "second"})
    assert again.status_code == 401
    assert await site.access.setup_code() is None
    assert [each.name for each in await site.store.operators()] == ["first"]


async def test_the_last_admin_stays(site: WebSite) -> None:
    browser = await site.browser()
    await site.access.put_operator("reader", PASSWORD, Scope.READ)
    answer = await browser.delete("/api/v1/operators/admin-person")
    assert answer.json()["error"]["code"] == "last_admin"
    assert (await browser.delete("/api/v1/operators/reader")).status_code == 204


async def test_the_same_key_again_does_nothing_again(site: WebSite) -> None:
    client = await site.token(Scope.OPERATE)
    body = {"device": "pump-1", "note": "barn"}
    number = site.world.gateway.books.journal.number
    keyed = {"idempotency-key": "one"}
    answers = await asyncio.gather(*(client.post("/api/v1/devices", json=body, headers=keyed) for _ in range(5)))
    assert {each.status_code for each in answers} == {201}
    assert sum("idempotent-replay" in each.headers for each in answers) == 4
    assert len({each.text for each in answers}) == 1
    assert site.world.gateway.books.journal.number == number + 1
    other = await client.post("/api/v1/devices", json=body | {"note": "cellar"}, headers=keyed)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "key_reused")
    bad = await client.post("/api/v1/devices", json=body, headers={"idempotency-key": "a b"})
    assert bad.json()["error"]["code"] == "bad_key"
    another = await site.token(Scope.ADMIN)
    mine = await another.post("/api/v1/devices", json={"device": "pump-2"}, headers=keyed)
    assert mine.json()["row"]["device"] == "pump-2", "a key is each caller's own"


async def test_no_secret_is_kept_under_a_key(site: WebSite) -> None:
    client = await site.token(Scope.ADMIN)
    made = await client.post("/api/v1/tokens", json={"name": "t", "scope": "read"}, headers={"idempotency-key": "tok"})
    secret = made.json()["secret"]
    rows: list[Any] = await site.store._all("SELECT body FROM answers")
    assert not any(secret.encode() in row[0] for row in rows)
    assert secret_hash(secret) != secret.encode()


async def test_bodies_are_bounded(site: WebSite) -> None:
    client = await site.token(Scope.OPERATE)
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 1_024
            yield b" " * 1_024

    answer = await client.post("/api/v1/devices", content=endless())
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert sent <= 2 * BODY_MAX
    deep = await client.post("/api/v1/devices", content=b"[" * 10_000)
    assert deep.status_code == 400


async def test_a_body_that_trickles_in_is_not_waited_for(site: WebSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_WAIT_S", 0.05)
    client = await site.token(Scope.OPERATE)

    async def trickle() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    answer = await client.post("/api/v1/devices", content=trickle())
    assert answer.json()["error"]["code"] == "too_slow"


@pytest.mark.parametrize(
    "party",
    [
        "..%2f..%2foperators.sqlite",
        "%2e%2e",
        "0x" + "11" * 19 + "..",
        "0x" + "1" * 39 + "%00",
        "journal.sqlite",
        "٣" * 40,
    ],
)
async def test_downloads_name_no_files(site: WebSite, party: str) -> None:
    client = await site.token(Scope.READ)
    answer = await client.get(f"/api/v1/statements/{party}")
    assert answer.status_code in (400, 404)
    assert answer.headers["content-type"] == "application/json"
    assert b"SQLite" not in answer.content


@pytest.mark.parametrize(
    "path", ["/assets/../server.py", "/assets/%2e%2e/server.py", "/..%2f..%2fkeys.json", "//etc/passwd"]
)
async def test_files_of_the_front_end_are_the_only_ones(site: WebSite, path: str) -> None:
    answer = await site.client().get(path)
    assert answer.status_code == 404


async def test_a_script_in_a_name_is_data(site: WebSite) -> None:
    client = await site.token(Scope.OPERATE)
    made = await client.post("/api/v1/devices", json={"device": "pump-1", "note": SCRIPT})
    assert made.json()["row"]["note"] == SCRIPT
    shown = await client.get("/api/v1/devices/pump-1")
    for answer in (made, shown, await client.get(f"/api/v1/devices/{SCRIPT.replace('/', '%2F')}")):
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
    bad = await client.post("/api/v1/devices", json={"device": SCRIPT})
    assert bad.status_code == 400


async def test_what_a_device_sends_is_shown_as_data_and_bounded(site: WebSite) -> None:
    """Devices are the least trusted of all: whatever they send, lists stay lists of bounded, quoted text."""
    world = site.world
    for number in range(200):
        payload = json.dumps({"note": SCRIPT, "n": number}).encode()
        await world.link.send(f"stranger-{number}", "usage", payload)
    payer = world.payer("meter-1")
    await world.ask("meter-1", "open", to_json(payer.open(5_000_000)))
    client = await site.token(Scope.READ)
    answer = await client.get("/api/v1/events?limit=200")
    assert len(answer.json()["items"]) <= 200
    assert SCRIPT not in answer.text
    reasons = {each["name"]: each["seen"] for each in (await client.get("/api/v1/refusals/reasons")).json()["items"]}
    assert (reasons["malformed"], reasons["not_enrolled"]) == (200, 1)


async def test_every_action_is_in_the_audit_log_with_its_outcome(site: WebSite) -> None:
    browser = await site.browser()
    await browser.post("/api/v1/devices", json={"device": "pump-1"})
    await browser.post("/api/v1/devices", json={"device": "not a name"})
    await site.client().post("/api/v1/session", json={"name": "x", "password": "y"})
    items = (await browser.get("/api/v1/audit?limit=4")).json()["items"]
    assert [(each["who"], each["action"], each["outcome"]) for each in items] == [
        ("nobody", "POST /session", "bad_credentials"),
        ("admin-person", "POST /devices", "bad_body"),
        ("admin-person", "POST /devices", "done"),
        ("nobody", "POST /session", "done"),
    ]
    following = await browser.get("/api/v1/audit?limit=1")
    older = await browser.get(f"/api/v1/audit?limit=1&cursor={following.json()['next']}")
    assert older.json()["items"][0] == items[1]
    await site.store._run("INSERT INTO audit VALUES (?, 0, '', '', '', '', '')", (AUDIT_MAX + 100,))
    await site.store.audit(1, "a", "b", "c", "d", "done")
    ((count,),) = await site.store._all("SELECT count(*) FROM audit")
    assert count <= AUDIT_MAX


async def test_weak_passwords_and_odd_names_are_refused(site: WebSite) -> None:
    for name, password in (
        ("anna", "short"),
        ("", PASSWORD),
        (" anna", PASSWORD),
        ("a\nb", PASSWORD),
        ("a" * 65, PASSWORD),
    ):
        with pytest.raises(BadCredentials):
            await site.access.put_operator(name, password, Scope.READ)
