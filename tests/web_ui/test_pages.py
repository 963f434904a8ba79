"""The pages of a running demo, as an operator uses them."""

import re
import time
from decimal import Decimal

import paho.mqtt.client as mqtt
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.support.demo_process import Demo
from tests.web_ui.viewing import PATHS, PATIENCE_MS, PHONE, View

expect.set_options(timeout=PATIENCE_MS)


def tile(page: Page, name: str) -> str:
    """Return the figure of a tile."""
    return page.locator(".tile", has_text=name).locator(".tile-value").inner_text()


def send(demo: Demo, device: str, payload: bytes) -> None:
    """Publish a message in a device's name."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", demo.mqtt_port)
    client.loop_start()
    client.publish(f"mp/1/gw1/{device}/usage", payload, qos=1).wait_for_publish(30)
    client.disconnect()
    client.loop_stop()


def falling(rows: Locator) -> None:
    """Wait until the charged amounts fall from row to row; they change while one looks."""
    deadline = time.monotonic() + PATIENCE_MS / 1_000
    while True:
        amounts = [Decimal(each.split()[0]) for each in rows.locator("td:nth-child(6)").all_inner_texts()]
        if len(amounts) > 1 and amounts == sorted(amounts, reverse=True):
            return
        assert time.monotonic() < deadline, amounts
        time.sleep(0.1)


def test_the_figures_of_the_overview_change_by_themselves(view: View) -> None:
    page = view.open("/")
    expect(page.locator(".line.ok")).to_have_text("Live")
    page.locator(".plot canvas").wait_for()
    before = {name: tile(page, name) for name in ("Earned today", "Next settlement")}
    receipts = page.locator("section", has_text="a few of many").locator("li")
    expect(receipts).not_to_have_count(0)
    first = receipts.first.inner_text()
    for name, shown in before.items():
        expect(page.locator(".tile", has_text=name).locator(".tile-value")).not_to_have_text(shown)
    expect(receipts.first).not_to_have_text(first)
    amount = tile(page, "Earned today").split()[0]
    assert re.fullmatch(r"\d+\.\d{6}", amount), "all six decimals are shown"


def test_the_chart_says_in_words_and_as_a_table_what_it_draws(view: View) -> None:
    page = view.open("/")
    figure = page.locator("figure.chart")
    expect(figure.locator("figcaption .unseen")).to_contain_text(re.compile(r"Payments\. payments: last [\d.]+"))
    page.get_by_role("button", name="Latency").click()
    expect(figure.locator("figcaption .unseen")).to_contain_text("99 of 100 within")
    figure.get_by_role("button", name="Show the figures as a table").click()
    expect(figure.locator("tbody tr")).not_to_have_count(0)
    assert figure.locator("thead th").all_inner_texts() == ["Time", "half within", "99 of 100 within"]


def test_tiles_lead_to_what_they_count(view: View) -> None:
    page = view.open("/")
    page.locator(".tile", has_text="Devices online").locator("a").click()
    expect(page).to_have_url(re.compile(r"/devices\?status=online$"))
    expect(page.get_by_label("Status")).to_have_value("online")
    expect(page.locator("h1")).to_be_focused()
    expect(page.locator("tbody tr")).to_have_count(8)
    page.go_back()
    expect(page.locator("h1")).to_have_text("Overview")


def test_devices_are_searched_filtered_and_sorted_by_the_address(view: View) -> None:
    page = view.open("/devices")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(8)
    page.get_by_label("Search").fill("home-00")
    expect(page).to_have_url(re.compile(r"search=home-00"))
    expect(rows.filter(has_not_text="home-00")).to_have_count(0)  # the rows of before stay until the answer is there
    found = rows.count()
    assert 0 < found < 8
    page.reload()
    view.settled()
    expect(page.get_by_label("Search")).to_have_value("home-00")
    expect(rows).to_have_count(found)
    page.get_by_role("button", name="Charged").click()
    expect(page.get_by_role("columnheader", name="Charged")).to_have_attribute("aria-sort", "descending")
    falling(rows)
    page.get_by_label("Problem").select_option("owes")
    expect(page.get_by_text("No device is like that")).to_be_visible()
    page.get_by_role("button", name="Show all devices").click()
    expect(rows).to_have_count(8)


def test_long_lists_come_a_page_at_a_time(view: View) -> None:
    # The demo is small: the gateway is asked for short pages.
    view.page.route(
        re.compile(r"/api/v1/devices\?|/api/v1/devices$"),
        lambda route: route.continue_(url=route.request.url + ("&" if "?" in route.request.url else "?") + "limit=3"),
    )
    page = view.open("/devices")
    rows = page.locator("tbody th a")
    expect(rows).to_have_count(3)
    seen = rows.all_inner_texts()
    page.get_by_role("button", name="Next page").click()
    expect(rows.first).not_to_have_text(seen[0])
    expect(page).to_have_url(re.compile("cursor="))
    expect(page.get_by_text("8 in all, 3 shown")).to_be_visible()
    assert not set(rows.all_inner_texts()) & set(seen)
    page.go_back()
    expect(rows.first).to_have_text(seen[0])


def test_a_device_shows_its_money_its_voucher_and_its_readings(view: View) -> None:
    page = view.open("/devices?search=home-001")
    page.get_by_role("link", name="home-001").click()
    expect(page.locator("h1")).to_have_text("home-001")
    expect(page.locator("figure.chart canvas")).to_have_count(2)
    expect(page.get_by_text("Voucher held")).to_be_visible()
    readings = page.locator("section", has_text="accepted, newest first").locator("tbody tr")
    newest = readings.first.inner_text()
    expect(readings.first).not_to_have_text(newest)
    moment = readings.first.locator("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", moment.get_attribute("title") or "")


def test_a_refusal_is_explained(view: View, demo: Demo) -> None:
    page = view.open("/events")
    send(demo, "stranger-7", b'{"what": 1}')
    entry = page.locator(".log > li", has_text="stranger-7")
    expect(entry).to_have_count(1)  # it appears by itself
    entry.locator("summary").click()
    expect(entry).to_contain_text("What you can do")
    expect(entry).to_contain_text("no valid JSON or CBOR")
    page.get_by_role("button", name="What refusals mean").click()
    expect(page.locator(".reasons > li")).to_have_count(28)
    expect(page.locator(".reasons > li", has_text="malformed").locator(".times")).not_to_have_text("0 seen")


def test_settle_now_shows_what_it_will_do_first(view: View) -> None:
    page = view.open("/settlement")
    newest = int(page.locator("tbody th a").first.inner_text().split()[1])
    page.get_by_role("button", name="Settle now").click()
    dialog = page.get_by_role("dialog", name="Settle now?")
    expect(dialog.get_by_text("Claim from channels")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("button", name="Settle now")).to_be_focused()
    page.get_by_role("button", name="Settle now").click()
    expect(dialog.get_by_text("Claim from channels")).to_be_visible()
    dialog.get_by_role("button", name="Settle now").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator(".toast").first).to_be_visible()
    page.goto("/settlement")
    expect(page.locator("tbody th a", has_text=f"Cycle {newest + 1}")).to_have_count(1)


def test_a_cycle_shows_its_plan_its_lanes_and_its_statements(view: View) -> None:
    page = view.open("/settlement")
    page.locator("tbody tr", has_text="ended").first.get_by_role("link").click()
    for title in ("Lanes", "Plan", "Transactions", "Statements"):
        expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    with page.expect_download() as download:
        page.locator(".downloads a").first.click()
    assert re.fullmatch(r"statement-[0-9a-f]{40}-\d+\.json", download.value.suggested_filename)
    text = download.value.path().read_text()
    assert '"signature"' in text


def test_blocks_come_in_by_themselves(view: View) -> None:
    page = view.open("/layer")
    blocks = page.locator("section", has_text="newest first").locator("tbody th")
    newest = int(blocks.first.inner_text().replace(",", ""))
    expect(blocks.first).not_to_have_text(f"{newest:,}")
    assert int(blocks.first.inner_text().replace(",", "")) > newest


def test_the_books_agree_with_the_chain(view: View) -> None:
    page = view.open("/ledger")
    expect(page.get_by_text("Sum", exact=True)).to_be_visible()
    page.get_by_role("button", name="Check now").click()
    expect(page.locator(".verdict")).to_be_visible()


def test_what_devices_and_people_write_stays_text(view: View) -> None:
    note = '<img src=x onerror="window.stolen=1"><b>bold</b>'
    answer = view.page.request.post(view.base + "/api/v1/devices", data={"device": "hostile-1", "note": note})
    assert answer.status == 201, answer.text()
    for path in ("/devices?search=hostile", "/devices/hostile-1"):
        page = view.open(path)
        expect(page.get_by_text(note)).to_be_visible()
        assert page.evaluate("window.stolen === undefined && document.querySelector('main img, main b') === null")


def test_amounts_are_exact_however_large(view: View) -> None:
    def enlarged(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        told["items"][0] |= {"charged": "123456789012345678901234567890123456789", "unclaimed": "-1"}
        route.fulfill(response=answer, json=told)

    view.page.route(re.compile(r"/api/v1/devices(\?|$)"), enlarged)
    row = view.open("/devices").locator("tbody tr").first
    expect(row.locator("td:nth-child(6)")).to_have_text("123,456,789,012,345,678,901,234,567,890,123.456789")
    expect(row.locator("td:nth-child(7)")).to_have_text("−0.000001")


def test_after_a_gap_in_the_stream_everything_is_read_anew(view: View) -> None:
    frames = "retry: 100\n\nid: 7\nevent: reset\ndata: {}\n\n"
    view.page.route("**/api/v1/stream", lambda route: route.fulfill(content_type="text/event-stream", body=frames))
    page = view.open("/settlement")
    read = [url for url in view.asked if "/api/v1/cycles" in url]
    with page.expect_request("**/api/v1/cycles*"):
        pass
    assert len([url for url in view.asked if "/api/v1/cycles" in url]) > len(read)


def test_closing_a_channel_is_asked_about_first(view: View) -> None:
    page = view.open("/devices/water-001")
    page.get_by_role("button", name="Close channels").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("cannot be undone")
    dialog.get_by_role("button", name="Keep it open").click()
    expect(page.locator("article .pill", has_text="open")).to_be_visible()
    page.get_by_role("button", name="Close channels").click()
    dialog.get_by_role("button", name="Close 1 channel").click()
    expect(page.locator("article .pill", has_text=re.compile("clos"))).to_be_visible()


def test_dark_is_a_choice_that_stays(view: View) -> None:
    page = view.open("/")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    dark = page.evaluate(ground)
    assert dark != light
    page.get_by_role("button", name="Change to light").click()
    assert page.evaluate(ground) == light
    page.get_by_role("button", name="Change to dark").click()
    page.emulate_media(color_scheme="light")
    page.reload()
    view.settled()
    assert page.evaluate(ground) == dark


def test_without_the_stream_the_page_asks_every_few_seconds(view: View) -> None:
    view.page.route("**/api/v1/stream", lambda route: route.abort())
    view.allowed.append("/api/v1/stream")
    page = view.open("/")
    expect(page.locator(".line")).to_have_text("Every 5 s")
    before = tile(page, "Earned today")
    expect(page.locator(".tile", has_text="Earned today").locator(".tile-value")).not_to_have_text(before)
    page.unroute("**/api/v1/stream")
    expect(page.locator(".line")).to_have_text("Live")


def test_a_gateway_that_is_away_is_said_and_found_again(view: View) -> None:
    view.allowed += ["Failed to load resource", "ERR_FAILED"]
    page = view.page
    page.clock.install()
    page.route("**/api/v1/devices**", lambda route: route.abort())
    page.goto("/devices")
    expect(page.get_by_role("alert")).to_contain_text("The gateway does not answer")
    page.clock.pause_at(page.evaluate("Date.now()") + 60_000)  # from here on the page does not ask by itself
    with page.expect_request("**/api/v1/devices**"):
        page.get_by_role("button", name="Try again").click()
    page.unroute("**/api/v1/devices**")
    page.clock.resume()
    expect(page.locator("tbody tr")).not_to_have_count(0)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_everything_is_reached_by_the_keyboard(view: View) -> None:
    page = view.open("/")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.get_by_role("navigation", name="Pages", exact=True).get_by_role("link", name="Devices").focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Devices")
    expect(page.locator("h1")).to_be_focused()
    expect(page.locator("nav a[aria-current=page]")).to_have_text("Devices")
    assert page.title() == "Devices · Metergate"


def test_the_demo_says_what_it_relaxes(view: View) -> None:
    page = view.open("/")
    banner = page.get_by_label("About this demo")
    banner.locator("summary").click()
    expect(banner).to_contain_text("nobody has to log in")


def test_an_unknown_address_leads_back(view: View) -> None:
    view.allowed.append("404")
    page = view.open("/devices/nobody-here")
    expect(page.get_by_role("alert")).to_contain_text("not_found")
    page.goto("/settlement/99999")
    expect(page.get_by_role("alert")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible(browser: Browser, demo: Demo, scheme: str) -> None:
    view = View(browser, f"http://127.0.0.1:{demo.http_port}", scheme=scheme)
    for path in (*PATHS, "/devices/home-001", "/settlement/1"):
        view.open(path)
        view.accessible()
    view.open("/settlement")
    view.page.get_by_role("button", name="Settle now").click()
    view.page.get_by_text("Claim from channels").wait_for()
    view.accessible()
    view.close()
    view.is_clean()


def test_every_page_fits_a_phone(browser: Browser, demo: Demo) -> None:
    view = View(browser, f"http://127.0.0.1:{demo.http_port}", PHONE)
    for path in (*PATHS, "/devices/home-001", "/settlement/1"):
        view.open(path)
        view.fits()
    page = view.open("/")
    menu = page.get_by_role("button", name="Menu")
    expect(page.get_by_role("navigation", name="Pages", exact=True)).to_have_count(0)
    menu.click()
    page.get_by_role("navigation", name="Pages", exact=True).get_by_role("link", name="Settlement").click()
    expect(page.locator("h1")).to_have_text("Settlement")
    expect(page.get_by_role("navigation", name="Pages", exact=True)).to_have_count(0)
    view.accessible()
    page.get_by_role("button", name="Settle now").click()
    page.get_by_text("Claim from channels").wait_for()
    view.fits()
    view.close()
    view.is_clean()
