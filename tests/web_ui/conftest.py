"""A real browser on real gateways: one demo for most tests, one gateway with access control for the others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.demo_gateway import Household
from tests.support.demo_process import CHILDREN, Demo, free_port
from tests.support.outsider_signing import key
from tests.web_ui.viewing import FLAGS, View, chromium

PAYERS = [key("dashboard", "payer", number) for number in range(2)]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests; each has a context of its own."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    """A demo with a few devices."""
    running = Demo("--devices", "8", "--rate", "10")
    try:
        running.wait_for(r"last settlement #\d")
        yield running
    finally:
        running.end()


@pytest.fixture
def view(browser: Browser, demo: Demo) -> Iterator[View]:
    """The demo's pages on a wide screen; a test fails if the page logs an error or asks anybody else."""
    seen = View(browser, f"http://127.0.0.1:{demo.http_port}")
    yield seen
    seen.close()
    seen.is_clean()


@pytest.fixture
def page(view: View) -> Page:
    """The browser's page itself."""
    return view.page


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    """A gateway with access control, on a mosquitto and an anvil; nobody may log in yet."""
    household = Household(tmp_path_factory.mktemp("dashboard"), PAYERS)
    port = free_port()
    text = household.config.read_text()
    assert text.count("\n[web]") == 1
    household.config.write_text(text.replace("enabled = false", f"enabled = true\nport = {port}"))
    try:
        household.run()
        yield household
    finally:
        household.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    """Attach what the children printed to a failure, and leave a picture of the page."""
    report = yield
    if report.failed:
        for child in CHILDREN:
            report.sections.append((f"child {child.pid}", child.report()))
        view = getattr(item, "funcargs", {}).get("view")
        if isinstance(view, View) and not view.page.is_closed():
            picture = Path(item.config.rootpath) / ".pytest_cache" / f"{item.name}.png"
            view.page.screenshot(path=picture)
            report.sections.append(("picture", str(picture)))
    return report
