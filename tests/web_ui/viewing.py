"""A page of the dashboard under watch: what it logs, whom it asks, whether it is accessible."""

import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
AXE = Path(__file__).resolve().parents[2] / "node_modules" / "axe-core" / "axe.min.js"
WIDE = (1360, 900)
PHONE = (360, 740)
# Everything that the frame's navigation leads to, and what it leads to from there.
PATHS = (
    "/", "/devices", "/settlement", "/layer", "/events", "/events?view=reasons", "/repairs", "/enrolment", "/ledger",
    "/access",
)  # fmt: skip
# A busy machine may take long for anything; nothing is decided by it.
PATIENCE_MS = 60_000


def chromium() -> str:
    """Return the path of the browser; none is ever downloaded."""
    found = os.environ.get("METERGATE_CHROMIUM") or shutil.which("chromium")
    assert found, "there is no chromium: install it (Debian: apt-get install chromium), or set METERGATE_CHROMIUM"
    return found


class View:
    """One tab. `allowed` are parts of console errors that a test provokes."""

    def __init__(self, browser: Browser, base: str, size: tuple[int, int] = WIDE, scheme: Any = "light") -> None:
        self.base = base
        self.allowed: list[str] = []
        self.errors: list[str] = []
        self.asked: list[str] = []
        width, height = size
        self.context = browser.new_context(
            base_url=base, viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._ask)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def _ask(self, request: Request) -> None:
        self.asked.append(request.url)

    def close(self) -> None:
        """Close the tab."""
        self.context.close()

    def is_clean(self) -> None:
        """Assert that nothing was logged as an error, and nobody but the gateway was asked."""
        host = urlsplit(self.base).netloc
        outside = [url for url in self.asked if urlsplit(url).netloc not in ("", host)]
        assert not outside, f"the page asked {outside}"
        errors = [error for error in self.errors if not any(each in error for each in self.allowed)]
        assert not errors, errors

    def open(self, path: str) -> Page:
        """Go to a page and wait until it is there: its title is, and nothing in it is still loading."""
        self.page.goto(path)
        self.settled()
        return self.page

    def settled(self) -> None:
        """Wait until the page has loaded what it shows first."""
        self.page.locator("main h1").wait_for()
        expect(self.page.locator("main .loading")).to_have_count(0, timeout=PATIENCE_MS)

    def fits(self) -> None:
        """Assert that the page does not scroll sideways."""
        over = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, f"{self.page.url} is {over} px too wide for {self.page.viewport_size}"

    def accessible(self) -> None:
        """Assert that axe finds nothing serious."""
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            {"rule": each["id"], "at": [node["html"][:200] for node in each["nodes"][:3]], "help": each["help"]}
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        ]
        assert not serious, f"{self.page.url}\n{json.dumps(serious, indent=1)}"
