"""`metergate run` on mosquitto and anvil: the set-up link of the first run, the login, a restart, an orderly end."""

import re
import signal
import sqlite3
from pathlib import Path

import httpx
import pytest

from tests.support.demo_gateway import Household
from tests.support.mosquitto import free_port

PASSWORD = "a password for the page"


@pytest.mark.slow
def test_the_first_hour(tmp_path: Path) -> None:
    home = Household(tmp_path, [])
    port = free_port()
    text = home.config.read_text(encoding="utf-8").replace("# port = 8402", f"port = {port}")
    home.config.write_text(text, encoding="utf-8")
    home.set("enabled", "true")
    try:
        gateway = home.run()
        gateway.wait_for(r"/setup#\S+")
        link = re.search(r"(http://127\.0\.0\.1:\d+)/setup#(\S+)", gateway.report())
        assert link is not None
        base, code = link.groups()
        assert base == f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=base, timeout=30) as browser:
            assert browser.get("/api/v1/overview").status_code == 401
            assert browser.get("/metrics").status_code == 401
            body = {"code": code, "name": "anna", "password": PASSWORD}
            session = browser.post("/api/v1/setup", json=body).json()
            headers = {"x-csrf-token": session["csrf"]}
            made = browser.post("/api/v1/devices", json={"device": "pump-1"}, headers=headers)
            assert made.status_code == 201
            assert [row["device"] for row in home.json("device", "list")["devices"]] == ["pump-1"]
            backup = browser.post("/api/v1/backup", headers=headers)
            assert (backup.status_code, Path(backup.json()["file"]).is_file()) == (201, True)
            codes = {each["code"] for each in browser.get("/api/v1/repairs").json()["items"]}
            assert "backup_old" not in codes
            assert "no_deposit" in codes
            cookie = browser.cookies["metergate_session"]
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.ended() == 0
        again = home.run()
        assert "/setup#" not in again.report()
        # It listens a moment after the gateway runs.
        patient = httpx.HTTPTransport(retries=8)
        session_cookie = {"metergate_session": cookie}
        with httpx.Client(base_url=base, timeout=30, cookies=session_cookie, transport=patient) as browser:
            assert browser.get("/api/v1/session").json()["name"] == "anna", "sessions outlive a restart"
        again.process.send_signal(signal.SIGTERM)
        assert again.ended() == 0
    finally:
        home.end()
    with sqlite3.connect(home.home / "data" / "operators.sqlite") as database:
        dump = "\n".join(database.iterdump())
    database.close()
    assert cookie not in dump, "secrets are stored as hashes"
    assert PASSWORD not in dump
