"""The files of `metergate init --broker` under a real mosquitto: TLS, passwords, and nobody under another's name."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from devices.client import DeviceLink
from gateway.broker_files import AUTHORITY, DIRECTORY, PASSWORDS, SETTINGS, gateway_user, rights, settings
from gateway.broker_login import link_settings
from gateway.cli import main
from gateway.config import Config, load_config
from tests.devices.test_client import linked, take
from tests.devices.test_client_tls import Authority
from tests.support.mosquitto import Mosquitto, binary, free_port
from tests.support.mqtt_peer import Peer

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0


class Site:
    """A directory that `init --broker` made, with its mosquitto on a port of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "site"
        self.port = free_port()
        os.environ["METERGATE_PASSPHRASE"] = "correct horse"
        assert main(["init", "--dir", str(self.directory), "--broker", "127.0.0.1"]) == 0
        self.path = self.directory / "metergate.toml"
        self.path.write_text(self.path.read_text().replace("port = 8883", f"port = {self.port}"))
        conf = self.directory / DIRECTORY / SETTINGS
        text = conf.read_text().replace("listener 8883", f"listener {self.port} 127.0.0.1")
        conf.write_text(text + "log_type information\n" + ("user root\n" if os.geteuid() == 0 else ""))
        self.told = directory / "log"
        self.log = self.told.open("ab")
        self.process = subprocess.Popen([binary(), "-c", str(conf)], stderr=self.log, stdout=self.log)
        self.reloads = 0
        self.wait_for(lambda: " running" in self.told.read_text())

    def wait_for(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < deadline, self.told.read_text()
            assert self.process.poll() is None, self.told.read_text()
            time.sleep(0.01)

    @property
    def config(self) -> Config:
        return load_config(self.path)

    def add(self, device: str) -> dict[str, Any]:
        """Enrol a device, and let mosquitto know."""
        file = self.directory / f"{device}.json"
        at = ["--config", str(self.path)]
        assert main(["device", "add", device, "--credentials", str(file), *at]) == 0
        assert file.stat().st_mode & 0o777 == 0o600
        self.reload()
        given: dict[str, Any] = json.loads(file.read_text())
        return given

    def reload(self) -> None:
        """Have mosquitto read its files again."""
        self.process.send_signal(signal.SIGHUP)
        self.reloads += 1
        self.wait_for(lambda: self.told.read_text().count("Reloading config") == self.reloads)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.log.close()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("METERGATE_PASSPHRASE", "")
    made = Site(tmp_path)
    try:
        yield made
    finally:
        made.end()


class Device:
    """What firmware does with its credentials: nothing but them."""

    def __init__(self, site: Site, given: dict[str, Any], **changed: Any) -> None:
        given = given | changed
        authority = site.directory / f"{given['username']}-ca.pem"
        authority.write_text(given["ca"])
        self.user = given["username"]
        self.came: list[tuple[str, bytes]] = []
        self.code: Any = None
        self._known = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        self._client.on_connect = self._connected
        self._client.on_message = lambda _c, _d, message: self.came.append((message.topic, message.payload))
        self._client.username_pw_set(given["username"], given["password"])
        self._client.tls_set(ca_certs=str(authority))
        self._client.connect(given["host"], site.port)
        self._client.loop_start()
        assert self._known.wait(WAIT_S)

    def _connected(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self.code = code
        self._known.set()

    def publish(self, topic: str, payload: bytes | None = None) -> None:
        """Publish at QoS 1; returns when the broker has looked at it."""
        payload = f"from {self.user}".encode() if payload is None else payload
        self._client.publish(topic, payload, qos=1).wait_for_publish(WAIT_S)

    def intrude(self, topic: str, payload: bytes | None = None) -> None:
        """Publish what is not ours to publish, and go: some versions drop the message, some the connection, too."""
        with contextlib.suppress(RuntimeError):
            self.publish(topic, payload)
        self.end()

    def subscribe(self, topic: str) -> None:
        done = threading.Event()
        self._client.on_subscribe = lambda *_: done.set()
        self._client.subscribe(topic, 1)
        assert done.wait(WAIT_S)

    def end(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


async def test_devices_have_their_own_topics_and_the_gateway_all_of_them(site: Site) -> None:
    pump, roof = await asyncio.to_thread(site.add, "pump-7"), await asyncio.to_thread(site.add, "roof-7")
    device = Device(site, pump)
    assert not device.code.is_failure
    assert site.config.mqtt.authenticated_devices is True
    link = DeviceLink(link_settings(site.config))
    await link.start()
    other = Device(site, roof)
    try:
        for each in (device, other):
            each.subscribe("mp/1/gw1/+/receipt")
            each.subscribe(f"mp/1/gw1/{each.user}/receipt")
            each.subscribe("mp/1/gw1/offer")
        leaves = ("usage", "earn", "open", "close", "state")
        for leaf in leaves:
            Device(site, pump).intrude(f"mp/1/gw1/roof-7/{leaf}")
            Device(site, pump).intrude(f"mp/1/gw2/pump-7/{leaf}")
        for topic in ("mp/1/gw1/roof-7/receipt", "mp/1/gw1/pump-7/receipt", "mp/1/gw1/offer", "mp/1/gw1/gateway"):
            Device(site, pump).intrude(topic)
        for leaf in leaves:
            device.publish(f"mp/1/gw1/pump-7/{leaf}")
        # Had the broker passed on one of the others, it would have come before these.
        frames = await take(link, len(leaves))
        assert [(frame.device, frame.leaf) for frame in frames] == [("pump-7", leaf) for leaf in leaves]
        link.acknowledge(frames)
        await link.publish_receipts([("pump-7", b"r")])
        link.publish_offer(b"{}")
        offer, receipt = ("mp/1/gw1/offer", b"{}"), ("mp/1/gw1/pump-7/receipt", b"r")
        deadline = time.monotonic() + WAIT_S
        while offer not in device.came or offer not in other.came:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert set(device.came) == {receipt, offer}
        assert set(other.came) == {offer}, "another's receipts are nobody's"
    finally:
        device.end()
        other.end()
        await link.stop()


async def test_the_same_rights_hold_by_certificates(tmp_path: Path) -> None:
    """What docs/operating.md says to those whose devices have certificates already."""
    authority = Authority(tmp_path, "authority")
    (certificate, key), acl = authority.issue("broker"), tmp_path / "acl"
    acl.write_text(rights("gw1"))
    extra = f"cafile {authority.file}\ncertfile {certificate}\nkeyfile {key}\nacl_file {acl}\n"
    broker = Mosquitto(tmp_path, extra=f"{extra}require_certificate true\nuse_identity_as_username true\n")
    broker.start()
    own, own_key = authority.issue(gateway_user("gw1"))
    mine, mine_key = authority.issue("pump-7")
    ours = {"tls": True, "ca_file": authority.file, "certificate_file": own, "key_file": own_key}
    try:
        async with linked(broker, **ours) as link:
            pump = {"ca_certs": authority.file, "certfile": mine, "keyfile": mine_key}
            # MQTT 3.1.1, 3.3.5: a broker acknowledges what it must not pass on, or closes the connection.
            with Peer(broker.port, **pump) as peer, contextlib.suppress(RuntimeError):
                peer.publish("mp/1/gw1/roof-7/usage", b"another's")
            with Peer(broker.port, **pump) as peer:
                peer.publish("mp/1/gw1/pump-7/usage", b"its own")
                frames = await take(link, 1)
            assert [(frame.device, frame.payload) for frame in frames] == [("pump-7", b"its own")]
            link.acknowledge(frames)
    finally:
        broker.kill()


def test_who_has_no_password_or_an_old_one_stays_outside(site: Site) -> None:
    first = site.add("pump-7")
    (site.directory / "pump-7.json").unlink()
    second = site.add("pump-7")
    assert first["password"] != second["password"]
    for given, welcome in ((second, True), (first, False), (second | {"username": "roof-7"}, False)):
        device = Device(site, given)
        assert device.code.is_failure is not welcome
        device.end()
    passwords = site.directory / DIRECTORY / PASSWORDS
    lines = passwords.read_text().splitlines(True)
    passwords.write_text("".join(line for line in lines if not line.startswith("pump-7:")))
    site.reload()
    device = Device(site, second)
    assert device.code.is_failure, "its line was taken out"
    device.end()
    anonymous = mqtt.Client(CallbackAPIVersion.VERSION2)
    codes: list[Any] = []
    anonymous.on_connect = lambda _c, _d, _f, code, _p: codes.append(code)
    anonymous.tls_set(ca_certs=str(site.directory / DIRECTORY / AUTHORITY))
    anonymous.connect("127.0.0.1", site.port)
    anonymous.loop_start()
    deadline = time.monotonic() + WAIT_S
    while not codes:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    anonymous.disconnect()
    anonymous.loop_stop()
    assert codes[0].is_failure


def test_files_are_the_owners_alone_and_never_overwritten(
    site: Site, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for path in (site.directory / DIRECTORY).iterdir():
        if path.name != "mosquitto.db":
            assert path.stat().st_mode & 0o777 == 0o600, path
    assert main(["init", "--dir", str(site.directory), "--broker", "x"]) == 2
    site.add("pump-7")
    at = ["--config", str(site.path)]
    assert main(["device", "add", "pump-7", "--credentials", str(site.directory / "pump-7.json"), *at]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert main(["init", "--dir", str(tmp_path / "new"), "--broker", "no host"]) == 2
    assert "is no name and no address" in capsys.readouterr().err


def test_the_settings_in_deploy_are_the_ones_that_init_writes() -> None:
    text = (ROOT / "deploy" / "mosquitto.conf").read_text()
    assert text == settings("/etc/mosquitto/metergate", "/var/lib/mosquitto", 8883)
    (window,) = re.findall(r"^max_inflight_messages (\d+)", text, re.MULTILINE)
    assert int(window) > 512
    assert f"user {gateway_user('gw1')}" in rights("gw1")
