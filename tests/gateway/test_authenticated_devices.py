"""`mqtt.authenticated_devices` from end to end: what `init --broker` and `device add --credentials` make, and money.

A mosquitto with TLS, passwords and rights, an execution layer, a gateway, and devices that sign vouchers but no
readings: who publishes is the broker's word. So nobody may speak in another's name.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from gateway.broker_files import AUTHORITY, DIRECTORY
from gateway.cli.setup import open_keys
from tests.gateway.test_broker_files import Device, Site
from tests.support.demo_process import METERGATE, Child, command, free_port
from tests.support.outsider import Outsider
from tests.support.outsider_link import Connection
from tests.support.outsider_signing import key

PAYER = key("authenticated", "payer")
SECRET = {"METERGATE_PASSPHRASE": "correct horse"}


class Town:
    """A site with a broker of its own, its chain and its gateway."""

    def __init__(self, directory: Path) -> None:
        self.site = Site(directory)
        self.children: list[Child] = []
        port = free_port()
        text = self.site.path.read_text()
        for old, new in (("8545", str(port)), ("enabled = true", "enabled = false"), ("poll_ms = 250", "poll_ms = 50")):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        self.site.path.write_text(text)
        operator = open_keys(self.site.config).operator.address
        funded = [word for each in (f"0x{operator.hex()}", PAYER.address) for word in ("--fund", each)]
        chain = ["chain", "--data", str(directory / "chain"), "--port", str(port), "--block-ms", "50", *funded]
        self.child(*chain).wait_for("JSON-RPC on")

    def child(self, *arguments: str) -> Child:
        self.children.append(Child([*METERGATE, *arguments], environment=SECRET))
        return self.children[-1]

    def run(self) -> Child:
        gateway = self.child("run", "--config", str(self.site.path))
        gateway.wait_for("runs; Ctrl-C ends it")
        return gateway

    def ask(self, *arguments: str) -> Any:
        done = command(*arguments, "--config", str(self.site.path), "--json", environment=SECRET)
        assert done.process.returncode == 0, done.report()
        return json.loads(done.stdout)

    def enrol(self, device: str, *arguments: str) -> dict[str, Any]:
        """Enrol a device and return its credentials."""
        given = self.site.add(device)
        self.ask("device", "add", device, *arguments)
        return given

    def outsider(self, given: dict[str, Any]) -> Outsider:
        return Outsider(Connection(self.site.port, given["username"], credentials=given), PAYER)

    def end(self) -> None:
        for child in reversed(self.children):
            child.end(20)
        self.site.end()


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    monkeypatch.setenv("METERGATE_PASSPHRASE", "")
    made = Town(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.slow
def test_the_broker_proves_who_pays_and_nobody_speaks_for_another(town: Town) -> None:
    gateway = town.run()
    pump_given, roof_given = town.enrol("pump-7", "--payer", PAYER.address), town.enrol("roof-7")
    with town.outsider(pump_given) as pump, town.outsider(roof_given) as roof:
        for topic in ("mp/1/gw1/pump-7/receipt", "mp/1/gw1/+/receipt", "mp/1/gw1/+/usage", "#"):
            roof.connection.listen(topic)

        assert pump.open(2_000_000)["status"] == "accepted"
        assert pump.sign_readings is False
        assert _pay(pump, 1_000)["cumulative"] == 150_000

        # What pump-7 would send next, to the last byte, by whoever got hold of it: at the broker, under its topic.
        stolen = pump.written("usage", pump.usage(500))
        Device(town.site, roof_given).intrude("mp/1/gw1/pump-7/usage", stolen)
        # And under its own one, which the broker lets pass: the channel is not this device's.
        refused = roof.connection.ask("usage", stolen)
        assert (refused["status"], refused["reason"]) == ("refused", "wrong_device")

        assert pump.connection.count(stolen) == 0, "nobody was told that it was paid"
        shown = town.ask("device", "show", "pump-7")
        assert [(each["charged"], each["lastSeq"]) for each in shown["channels"]] == [("150000", 1)]
        assert pump.connection.ask("usage", stolen)["status"] == "accepted", "from its own device it is good"

        assert town.ask("settle", "--all")["claimed"] == "225000"
        town.ask("ledger", "--check")
        heard = {topic for topic, _ in roof.connection.strays}
        assert heard <= {"mp/1/gw1/gateway"}, "what another device says and is told is not for its ears"

    assert _anonymous(town.site).is_failure
    gateway.process.terminate()
    assert gateway.ended() == 0


@pytest.mark.slow
def test_without_the_brokers_word_a_reading_needs_a_signature_of_its_own(town: Town) -> None:
    text = town.site.path.read_text()
    town.site.path.write_text(text.replace("authenticated_devices = true", "authenticated_devices = false"))
    town.run()
    with town.outsider(town.enrol("pump-7", "--payer", PAYER.address)) as pump:
        assert pump.open(2_000_000)["status"] == "accepted"
        refused = pump.connection.ask("usage", pump.written("usage", pump.usage(1_000)))
        assert (refused["status"], refused["reason"]) == ("refused", "bad_signature")
        pump.sign_readings = True
        assert _pay(pump, 1_000)["cumulative"] == 150_000


def _pay(device: Outsider, units: int) -> dict[str, Any]:
    fields = device.usage(units)
    receipt = device.connection.ask("usage", device.written("usage", fields))
    assert receipt["status"] == "accepted", receipt
    device.book.take(units, fields["seq"], fields["maxClaimableAmount"], fields["signature"], fields["offer"])
    return receipt


def _anonymous(site: Site) -> Any:
    """Return the broker's answer to a client that shows nothing."""
    codes: list[Any] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_connect = lambda _c, _d, _f, code, _p: codes.append(code)
    client.tls_set(ca_certs=os.fspath(site.directory / DIRECTORY / AUTHORITY))
    client.connect("127.0.0.1", site.port)
    client.loop_start()
    site.wait_for(lambda: bool(codes))
    client.disconnect()
    client.loop_stop()
    return codes[0]
