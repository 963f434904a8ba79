"""Takes the pictures of the documentation from a running demo: docs/images/*.png.

python -m tests.web_ui.screenshots
"""

import sys
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.demo_process import Demo
from tests.web_ui.viewing import FLAGS, View, chromium

TARGET = Path(__file__).resolve().parents[2] / "docs" / "images"
SIZE = (1280, 760)
PHONE = (390, 844)
BYTES_MAX = 150_000
# So that charts have something to show.
WARM_UP_S = 100.0


def main() -> int:
    """Take all pictures; returns 1 if one is larger than a README should load."""
    TARGET.mkdir(parents=True, exist_ok=True)
    demo = Demo("--devices", "25", "--rate", "40")
    try:
        demo.wait_for(r"last settlement #\d")
        base = f"http://127.0.0.1:{demo.http_port}"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
            time.sleep(WARM_UP_S)
            _take_all(browser, base)
            browser.close()
    finally:
        demo.end()
    sizes = {picture.name: picture.stat().st_size for picture in sorted(TARGET.glob("*.png"))}
    for name, size in sizes.items():
        print(f"{size:>9,} {name}")
    return 1 if max(sizes.values()) > BYTES_MAX else 0


def _take_all(browser: Browser, base: str) -> None:
    wide = View(browser, base, SIZE)
    _take(wide.open("/"), "overview", chart=True)
    _take(wide.open("/devices?sort=-charged"), "devices")
    wide.page.locator("tbody th a").first.click()
    wide.page.get_by_text("Voucher held").wait_for()
    wide.settled()
    _take(wide.page, "device", chart=True)
    page = wide.open("/settlement")
    page.locator("tbody tr", has_text="ended").first.get_by_role("link").click()
    page.get_by_role("heading", name="Lanes", exact=True).wait_for()
    _take(page, "cycle")
    page = wide.open("/settlement")
    page.get_by_role("button", name="Settle now").click()
    page.get_by_text("Claim from channels").wait_for()
    _take(page, "settle-now")
    _take(wide.open("/enrolment"), "enrolment")
    wide.close()
    dark = View(browser, base, SIZE, "dark")
    _take(dark.open("/"), "overview-dark", chart=True)
    dark.close()
    phone = View(browser, base, PHONE)
    _take(phone.open("/"), "overview-phone", chart=True)
    phone.close()


def _take(page: Page, name: str, *, chart: bool = False) -> None:
    page.locator(".line.ok").wait_for()
    if chart:
        page.locator(".plot canvas").first.wait_for()
    page.evaluate("document.fonts.ready")
    page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
    page.screenshot(path=TARGET / f"{name}.png", animations="disabled")


if __name__ == "__main__":
    sys.exit(main())
