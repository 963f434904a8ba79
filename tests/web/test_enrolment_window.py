"""Permit-join: who may ask while the window is open, what the operator sees, and what acceptance does."""

import json

from channels.refusals import Refusal
from gateway import joining
from gateway.web.access import Scope
from tests.support.gateway_devices import to_json
from tests.support.web_site import WebSite


async def test_a_device_joins_by_the_window(site: WebSite) -> None:
    world, client = site.world, await site.token(Scope.OPERATE)
    payer = world.payer("meter-1")
    payload = to_json(payer.open(5_000_000))
    assert (await world.ask("meter-1", "open", payload)).reason is Refusal.NOT_ENROLLED
    opened = await client.post("/api/v1/enrolment/window", json={"seconds": 120})
    assert 118 <= opened.json()["left_s"] <= 120
    number = world.gateway.books.journal.number
    for _ in range(2):
        assert (await world.ask("meter-1", "open", payload)).reason is Refusal.BUSY
    (waiting,) = (await client.get("/api/v1/enrolment")).json()["waiting"]
    assert (waiting["device"], waiting["deposit"], waiting["kind"], waiting["asked"]) == (
        "meter-1",
        "5000000",
        "open",
        2,
    )
    assert world.gateway.books.journal.number == number, "who waits has changed nothing"
    accepted = await client.post(f"/api/v1/enrolment/{waiting['id']}/accept")
    assert accepted.json()["waiting"] == []
    assert (await client.delete("/api/v1/enrolment/window")).json()["open_until"] is None
    receipt = await world.ask("meter-1", "open", payload)
    assert (receipt.reason, receipt.balance) == (None, 5_000_000)


async def test_an_earner_joins_and_another_is_turned_away(site: WebSite) -> None:
    world, client = site.world, await site.token(Scope.OPERATE)
    await client.post("/api/v1/enrolment/window", json={"seconds": 60})
    good, bad = world.earner("solar-1"), world.earner("solar-2")
    asks = {each.device: to_json(each.open()) for each in (good, bad)}
    for device, payload in asks.items():
        assert (await world.ask(device, "open", payload)).reason is Refusal.BUSY
    ids = {each["device"]: each["id"] for each in (await client.get("/api/v1/enrolment")).json()["waiting"]}
    assert (await client.post(f"/api/v1/enrolment/{ids['solar-1']}/accept")).status_code == 200
    assert (await client.post(f"/api/v1/enrolment/{ids['solar-2']}/reject")).status_code == 200
    assert (await world.ask("solar-1", "open", asks["solar-1"])).reason is None
    assert (await world.ask("solar-2", "open", asks["solar-2"])).reason is Refusal.NOT_ENROLLED
    assert (await client.post(f"/api/v1/enrolment/{ids['solar-2']}/accept")).status_code == 404


async def test_a_bad_open_is_told_what_is_wrong_and_does_not_wait(site: WebSite) -> None:
    world, client = site.world, await site.token(Scope.OPERATE)
    await client.post("/api/v1/enrolment/window", json={"seconds": 60})
    payer = world.payer("meter-1")
    body = json.loads(to_json(payer.open(1)))
    assert (await world.ask("meter-1", "open", json.dumps(body).encode())).reason is Refusal.DEPOSIT_TOO_SMALL
    assert (await client.get("/api/v1/enrolment")).json()["waiting"] == []


async def test_the_waiting_list_is_bounded(site: WebSite) -> None:
    door = site.world.gateway.openings.joining
    door.open(10**9)
    assert door.left_s <= joining.WINDOW_S_MAX
    for number in range(joining.WAITING_MAX + 10):
        who = joining.Waiting(number.to_bytes(32, "big"), f"device-{number}", "grid-power", bytes(20), 0)
        assert door.knock(who) is Refusal.BUSY
    assert len(door.waiting) == joining.WAITING_MAX
    thief = joining.Waiting((0).to_bytes(32, "big"), "thief", "grid-power", bytes(20), 0)
    assert door.knock(thief) is Refusal.NOT_ENROLLED
    door.close()
    assert door.knock(who) is Refusal.NOT_ENROLLED


async def test_the_code_that_is_scanned(site: WebSite) -> None:
    client = await site.token(Scope.READ)
    told = (await client.get("/api/v1/enrolment")).json()
    assert told["qr_text"].startswith("metergate:gw1?broker=127.0.0.1:1883&chain=31402&asset=0x")
    code = await client.get(told["qr_path"])
    assert code.headers["content-type"] == "image/svg+xml"
    assert b"<svg" in code.content
    assert b"<script" not in code.content
    for seconds in (0, 3_601, -1, "60"):
        operator = await site.token(Scope.OPERATE)
        assert (await operator.post("/api/v1/enrolment/window", json={"seconds": seconds})).status_code == 400
