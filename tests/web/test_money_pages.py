"""What the pages tell is what the books hold: devices, readings, cycles, previews, statements, blocks, events."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from gateway.summary import sums
from gateway.web.access import Scope
from tests.support.gateway_devices import to_json
from tests.support.gateway_world import until
from tests.support.web_site import WebSite


async def told(client: httpx.AsyncClient, path: str) -> Any:
    answer = await client.get(f"/api/v1{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_device_from_first_deposit_to_statement(demo: WebSite) -> None:
    world, client = demo.world, demo.client()
    payer = await world.opened("meter-1")
    earner = await world.joined("solar-1")
    demo.desk.tick()
    for _ in range(5):
        await world.pay(payer, 100)
    await world.earn(earner, 50)
    demo.desk.tick()
    channel, account = world.channel(payer), world.account(earner)
    tiles = (await told(client, "/overview"))["tiles"]
    total = sums(world.ledger)
    assert (tiles["charged"], tiles["exposure"], tiles["payable"]) == (
        str(total.charged), str(total.unsettled), str(total.payable),
    )  # fmt: skip
    assert tiles["earned_today"] == str(total.charged - total.earned + total.fees)
    assert tiles["devices"] == {"total": 2, "online": 2, "refused_recently": 0, "without_deposit": 0}
    page = await told(client, "/devices/meter-1")
    assert page["channels"][0]["charged"] == str(channel.charged)
    assert page["channels"][0]["voucher"] == f"0x{channel.ceiling_signature.hex()}"
    assert (page["row"]["status"], page["row"]["problem"]) == ("online", "")
    assert (await told(client, "/devices/solar-1"))["accounts"][0]["net"] == str(account.net)
    readings = await told(client, "/devices/meter-1/readings?limit=2")
    assert [each["seq"] for each in readings["items"]] == [5, 4]
    older = await told(client, f"/devices/meter-1/readings?limit=200&cursor={readings['next']}")
    assert [each["seq"] for each in older["items"]] == [3, 2, 1]
    assert older["next"] is None
    chart = await told(client, "/devices/meter-1/series?range=all")
    assert chart["v"][1][-1] == channel.charged
    preview = await told(client, "/settlement/preview")
    assert (preview["decisions"][0]["device"], preview["decisions"][0]["claim"]) == ("meter-1", True)
    settled = (await client.post("/api/v1/settlement", json={})).json()
    assert (settled["settled"], settled["cycle"]["claimed"]) == (True, preview["claim"])
    demo.desk.tick()
    detail = await told(client, "/cycles/1")
    assert (detail["complete"], detail["row"]) == (True, settled["cycle"])
    assert {each["purpose"].split()[0] for each in detail["transactions"]} == {"claim", "settle", "sweep", "pay"}
    assert {each["state"] for each in detail["transactions"]} == {"mined"}
    assert detail["claims"][0]["device"] == "meter-1"
    assert detail["payouts"] == [{"payee": f"0x{account.payee.hex()}", "cumulative": str(account.net)}]
    assert sum(lane["gas_used"] for lane in detail["lanes"]) == detail["row"]["gas_used"]
    statements = await told(client, "/cycles/1/statements")
    parties = {each["party"] for each in statements["items"]}
    assert parties == {f"0x{channel.config.payer.hex()}", f"0x{account.payee.hex()}"}
    for party in parties:
        answer = await client.get(f"/api/v1/statements/{party}?cycle=1")
        assert "attachment" in answer.headers["content-disposition"]
        assert answer.json()["signature"]
    assert (await told(client, "/overview"))["tiles"]["earned_since_settlement"] == "0"
    trial, check = await told(client, "/ledger"), await told(client, "/ledger/check")
    assert trial["debit"] == trial["credit"] != "0"
    assert check == {"good": True, "faults": [], "warnings": []}
    assert (await client.post("/api/v1/settlement", json={})).json()["settled"] is False


async def test_a_cycle_of_an_earlier_run_is_found_in_the_journal(demo: WebSite) -> None:
    world = demo.world
    payer = await world.opened()
    for cycle in (1, 2):
        await world.pay(payer, 100)
        assert (await world.settle()) is not None
        demo.desk.tick()
        for _ in range(5):
            await world.pay(payer, 1)
        assert cycle in demo.desk.cycles._ranges
    demo.desk.cycles._ranges.clear()
    for number in (2, 1):
        detail = await told(demo.client(), f"/cycles/{number}")
        assert detail["complete"] is True
        assert detail["claims_total"] == 1
        assert {each["purpose"].split()[0] for each in detail["transactions"]} == {"claim", "settle", "sweep"}
    missing = await demo.client().get("/api/v1/cycles/3")
    assert missing.status_code == 404


async def test_why_a_device_is_refused(demo: WebSite) -> None:
    world, client = demo.world, demo.client()
    payer = await world.opened()
    await world.pay(payer, 100)
    payload = payer.next_usage(10**6 + 1)
    for _ in range(3):
        assert (await world.ask("meter-1", "usage", payload)).reason is not None
    await until(lambda: demo.desk.activity.refusals.get("meter-1") is not None
                and demo.desk.activity.refusals["meter-1"].times == 3)  # fmt: skip
    demo.desk.tick()
    row = (await told(client, "/devices?problem=refused"))["items"][0]
    assert (row["device"], row["last_refusal"]["reason"], row["last_refusal"]["times"]) == (
        "meter-1",
        "register_jump",
        3,
    )
    (event,) = (await told(client, "/devices/meter-1/refusals"))["items"]
    assert "maxStep" in event["words"]
    (why,) = [each for each in (await told(client, "/refusals/reasons"))["items"] if each["name"] == "register_jump"]
    assert (why["seen"], "max_step" in why["operator_does"]) == (3, True)


async def test_blocks_of_the_embedded_layer(demo: WebSite) -> None:
    world, client = demo.world, demo.client()
    world.miner.auto = False
    task = world.payer("meter-1")
    await world.link.send("meter-1", "open", to_json(task.open(5_000_000)))
    await until(lambda: world.miner.chain.pending_count > 0)
    demo.desk.blocks.take(world.miner.chain.produce_block(world.miner.now))
    world.miner.auto = True
    row = (await told(client, "/layer/blocks"))["items"][0]
    assert (row["transactions"], row["executed"], row["lanes"][0]["key"]) == (1, 1, "operator")
    layer = await told(client, "/layer")
    assert (layer["embedded"], layer["transactions"], layer["executed"]) == (True, 1, 1)


async def test_closing_a_device(demo: WebSite) -> None:
    world = demo.world
    payer = await world.opened()
    await world.pay(payer, 100)
    client = await demo.token(Scope.OPERATE)
    begun = await client.post("/api/v1/devices/meter-1/close", json={})
    assert (begun.status_code, begun.json()["closed"]) == (202, False)
    await until(lambda: world.channel(payer).phase.name == "CLOSED")
    demo.desk.tick()
    row = (await told(client, "/devices/meter-1"))["row"]
    assert row["problem"] == "closed"
    words = [each["words"] for each in (await told(client, "/events?kind=channel"))["items"]]
    assert "channel of grid-power is closed" in words
    assert (await client.post("/api/v1/devices/nobody/close", json={})).status_code == 404
    again = await client.post("/api/v1/devices/meter-1/close", json={})
    assert again.status_code == 400


async def test_a_repair_with_a_button(demo: WebSite) -> None:
    world, client = demo.world, demo.client()
    world.link.connected = False
    await client.post("/api/v1/devices", json={"device": "pump-1"})
    demo.desk.tick()
    demo.world.miner.now = int(time.time())  # this world's clock stands still
    demo.world.mine()
    await demo.world.seen()
    repairs = {each["code"]: each for each in (await told(client, "/repairs"))["items"]}
    assert set(repairs) == {"broker_down", "no_deposit"}
    assert repairs["broker_down"]["severity"] == "fault"
    assert (await told(client, "/overview"))["tiles"]["health"]["state"] == "fault"
    by_hand = await client.post("/api/v1/repairs/broker_down")
    assert (by_hand.status_code, by_hand.json()["error"]["code"]) == (409, "by_hand")
    world.link.connected = True
    done = await client.post("/api/v1/repairs/chain_silent")
    assert [each["code"] for each in done.json()["repairs"]] == ["no_deposit"]
    assert (await client.post("/api/v1/repairs/nothing")).status_code == 404


async def test_nothing_is_shown_before_it_is_on_disk(
    site: WebSite, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def durable() -> None:
        await asyncio.shield(written)

    monkeypatch.setattr(site.world.gateway.books.journal, "durable", durable)
    asked = [asyncio.ensure_future(admin.get(path)) for path in ("/api/v1/overview", "/api/v1/ledger", "/metrics")]
    assert (await admin.get("/healthz")).status_code == 200
    assert not any(answer.done() for answer in asked)
    written.set_result(None)
    assert [(await answer).status_code for answer in asked] == [200, 200, 200]
