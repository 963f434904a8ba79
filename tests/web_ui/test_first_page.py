"""What the first page costs, where it comes from, and that the pages are built from the API's own shapes."""

import gzip
import json
import re
from pathlib import Path

from playwright.sync_api import Page

from gateway.web.headers import POLICY
from tests.support.demo_process import Demo
from tests.web_ui import api_types
from tests.web_ui.viewing import View

UI = Path(api_types.TARGET).parents[1]
FIRST_PAGE_BYTES_MAX = 60 * 1024


def test_the_first_page_is_small(view: View) -> None:
    bodies: dict[str, bytes] = {}
    view.open("/")
    view.page.locator(".plot canvas").wait_for()
    parts = ("/assets/", ".svg", ".webmanifest")
    for url in dict.fromkeys(view.asked):
        if url == view.base + "/" or any(part in url for part in parts):
            bodies[url] = view.page.request.get(url).body()
    kinds = {url.rpartition(".")[2] for url in bodies if "/assets/" in url}
    assert kinds == {"css", "js"}, kinds
    sizes = {url.removeprefix(view.base): len(gzip.compress(body, 9)) for url, body in bodies.items()}
    assert len(sizes) > 5, sizes
    assert sum(sizes.values()) < FIRST_PAGE_BYTES_MAX, sizes


def test_every_page_has_the_policy_and_runs_under_it(view: View) -> None:
    for path in ("/", "/devices", "/devices/home-001", "/settlement/1", "/setup"):
        answer = view.page.request.get(view.base + path)
        assert answer.status == 200
        assert answer.headers["content-security-policy"] == POLICY
        html = answer.text()
        assert not re.search(r"<style|style=|\son\w+=|<script(?! (type=\"module\" )?src=\"/assets/)", html), html
    view.open("/")
    blocked = view.page.evaluate(
        """() => { const tag = document.createElement('script'); tag.textContent = 'window.mine = 1';
        document.head.append(tag); return window.mine === undefined; }"""
    )
    assert blocked, "an inline script ran"
    view.allowed.append("Content Security Policy")


def test_assets_are_hashed_packed_and_kept(demo: Demo, page: Page) -> None:
    base = f"http://127.0.0.1:{demo.http_port}"
    html = page.request.get(base + "/").text()
    paths = re.findall(r'(?:src|href)="(/assets/[^"]+)"', html)
    assert len(paths) >= 4
    for path in paths:
        answer = page.request.get(base + path, headers={"accept-encoding": "gzip"})
        assert answer.status == 200
        assert answer.headers["content-encoding"] == "gzip"
        assert "immutable" in answer.headers["cache-control"]
        assert re.search(r"-[A-Z0-9]{8}\.(js|css)$", path)


def test_the_pages_know_the_shapes_that_are_sent() -> None:
    assert api_types.TARGET.read_text() == api_types.typescript(), "run: python -m tests.web_ui.api_types"


def test_what_is_built_in_is_pinned_and_names_no_host() -> None:
    package = json.loads((UI / "package.json").read_text())
    for name, version in package["devDependencies"].items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), (name, version)
    lock = json.loads((UI / "package-lock.json").read_text())
    for name, entry in lock["packages"].items():
        assert "resolved" not in entry, name
        assert name == "" or entry["integrity"].startswith("sha512-"), name
