"""A gateway with access control: the first set-up, logging in and out, letting a device in, tokens, the audit log."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.support.demo_gateway import TOKEN, Household
from tests.support.outsider import Outsider
from tests.support.outsider_link import Connection
from tests.web_ui.conftest import PAYERS
from tests.web_ui.viewing import PATIENCE_MS, PHONE, View

expect.set_options(timeout=PATIENCE_MS)

NAME, PASSWORD = "Ada", "rain in the meter box"


@pytest.fixture(scope="module")
def link(home: Household) -> str:
    """The link that the gateway printed when it first started."""
    assert home.gateway is not None
    home.gateway.wait_for(r"http://\S+/setup#\S+")
    found = re.search(r"http://\S+/setup#\S+", home.gateway.stderr)
    assert found, home.gateway.report()
    return found[0]


@pytest.fixture
def view(browser: Browser, link: str) -> Iterator[View]:
    """The gateway's pages for somebody whom it does not know."""
    seen = View(browser, link.partition("/setup")[0])
    # The session is asked for by everybody; a wrong password and a missing login are answered 401.
    seen.allowed.append("401")
    yield seen
    seen.close()
    seen.is_clean()


def log_in(view: View, path: str = "/", password: str = PASSWORD) -> None:
    page = view.open(path)
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def test_the_first_operator_is_made_by_the_printed_link(view: View, link: str) -> None:
    page = view.open("/")
    expect(page.get_by_text("Nobody may log in yet")).to_be_visible()
    page.goto(link)
    view.settled()
    view.accessible()
    expect(page.get_by_label("Code")).to_have_value(link.partition("#")[2])
    assert "#" not in page.url, "the code stays in the address"
    page.get_by_label("Your name").fill(NAME)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill("something else")
    page.get_by_role("button", name="Make the operator").click()
    expect(page.get_by_role("alert")).to_contain_text("not the same")
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_role("button", name="Make the operator").click()
    expect(page.locator("h1")).to_have_text("Overview")
    expect(page.locator(".who-name")).to_have_text(NAME)
    expect(page.locator(".line")).to_have_text("Live")
    expect(page.get_by_label("About this demo")).to_have_count(0)
    (cookie,) = view.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")


def test_the_link_works_once(view: View, link: str) -> None:
    view.page.goto(link)
    expect(view.page.get_by_text("This gateway has an operator already")).to_be_visible()


def test_one_logs_in_where_one_wanted_to_go_and_out_again(view: View) -> None:
    page = view.open("/devices?status=online")
    view.accessible()
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    view.fits()
    log_in(view, "/devices?status=online", "wrong")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_label("Password")).to_have_value("")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("h1")).to_have_text("Devices")
    expect(page).to_have_url(re.compile(r"/devices\?status=online$"))
    page.get_by_role("button", name="Log out").click()
    expect(page.locator("h1")).to_have_text("Log in")
    page.goto("/ledger")
    expect(page.locator("h1")).to_have_text("Log in")


def test_a_session_that_ends_elsewhere_leads_to_the_login(view: View) -> None:
    log_in(view)
    page = view.page
    expect(page.locator("h1")).to_have_text("Overview")
    view.context.clear_cookies()
    page.goto("/devices")
    expect(page.locator("h1")).to_have_text("Log in")


def test_a_device_is_let_in_at_the_window(view: View, home: Household) -> None:
    log_in(view, "/enrolment")
    page = view.page
    expect(page.get_by_role("img", name="QR code")).to_be_visible()
    assert page.locator(".qr img").evaluate("image => image.decode().then(() => image.naturalWidth > 0)")
    device = Outsider(Connection(home.broker.port, "heat-pump-1"), PAYERS[0], sign_readings=True)
    with device:
        assert device.open(5 * TOKEN)["reason"] == "not_enrolled"
        page.get_by_role("button", name="Open the window").click()
        expect(page.get_by_role("timer")).to_have_text(re.compile(r"^4 min \d\d s|5 min 00 s$"))
        assert device.open(5 * TOKEN)["reason"] == "busy"
        waiting = page.locator("li.holding", has_text="heat-pump-1")
        expect(waiting).to_contain_text("5.000000")
        view.accessible()
        waiting.get_by_role("button", name="Accept").click()
        expect(page.get_by_text("Nobody waits")).to_be_visible()
        assert device.open(5 * TOKEN)["balance"] == 5 * TOKEN
        device.pay(1_000)
        page.get_by_role("button", name="Close the window").click()
        expect(page.get_by_role("button", name="Open the window")).to_be_visible()
        page.goto("/devices/heat-pump-1")
        expect(page.locator(".wide-facts").first).to_contain_text("0.150000")
        refused = page.locator("section", has_text="since the gateway’s start").locator(
            "details", has_text="not_enrolled"
        )
        refused.locator("summary").click()
        expect(refused).to_contain_text("What you can do")


def test_a_device_is_turned_away_at_the_window(view: View, home: Household) -> None:
    log_in(view, "/enrolment")
    page = view.page
    with Outsider(Connection(home.broker.port, "unwanted-1"), PAYERS[1], sign_readings=True) as device:
        page.get_by_role("button", name="Open the window").click()
        expect(page.get_by_role("timer")).to_be_visible()
        wish = device.encoded(device.opening(device.new_config(), 5 * TOKEN))
        assert device.connection.ask("open", wish)["reason"] == "busy"
        page.locator("li.holding", has_text="unwanted-1").get_by_role("button", name="Reject").click()
        expect(page.get_by_text("Nobody waits")).to_be_visible()
        assert device.connection.ask("open", wish)["reason"] == "not_enrolled"


def test_a_token_is_made_shown_once_used_and_revoked(view: View) -> None:
    log_in(view, "/access")
    page = view.page
    page.locator("section", has_text="for programs").get_by_role("button", name="Make").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("prometheus")
    dialog.get_by_role("button", name="Make").click()
    secret = dialog.locator(".secret code").inner_text()
    view.accessible()
    dialog.get_by_role("button", name="I have it").click()
    expect(page.get_by_text(secret)).to_have_count(0)
    request = urllib.request.Request(f"{view.base}/api/v1/session", headers={"Authorization": f"Bearer {secret}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["scopes"] == ["read"]
    row = page.get_by_role("row", name=re.compile("prometheus"))
    row.get_by_role("button", name="Revoke").click()
    dialog.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("No tokens")).to_be_visible()
    overview = urllib.request.Request(f"{view.base}/api/v1/overview", headers={"Authorization": f"Bearer {secret}"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(overview, timeout=30)
    assert refused.value.code == 401
    page.reload()
    audit = page.locator("section", has_text="every action")
    expect(audit.get_by_text("DELETE /tokens/{id}")).to_be_visible()
    expect(audit.get_by_text(NAME, exact=True).first).to_be_visible()


def test_who_may_only_read_is_offered_nothing_else(view: View) -> None:
    log_in(view, "/access")
    page = view.page
    page.locator("section", has_text="Operators").get_by_role("button", name="Add").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("Reader")
    dialog.get_by_label("Password").fill(PASSWORD)
    dialog.get_by_label("May").select_option("read")
    dialog.get_by_role("button", name="Add").click()
    expect(page.get_by_role("row", name=re.compile("Reader"))).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Name").fill("Reader")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("h1")).to_have_text("Overview")
    expect(page.get_by_role("navigation", name="Pages", exact=True).get_by_text("Access")).to_have_count(0)
    for path, button in (("/settlement", "Settle now"), ("/enrolment", "Open the window"), ("/devices/x", "Close")):
        view.allowed.append("404")
        view.open(path)
        expect(page.get_by_role("button", name=button)).to_have_count(0)
