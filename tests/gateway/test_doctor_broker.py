"""`metergate doctor` and the broker: a real connection, and for each way in which it fails what to mend."""

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from devices.client import DeviceLink
from devices.link import LinkSettings, LinkUnavailable, MqttVersion
from devices.paho_client import probe
from gateway.broker_files import AUTHORITY, DIRECTORY, GATEWAY_PASSWORD, write_broker_files
from gateway.broker_login import link_settings
from gateway.cli import doctor as doctors
from gateway.cli.doctor import Finding
from gateway.config import Config
from tests.gateway.test_broker_files import Site
from tests.support.mosquitto import Mosquitto, free_port

# paho leaves the socket of a failed handshake to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A broker with TLS and passwords, for all tests here: none of them changes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METERGATE_PASSPHRASE", "")
        made = Site(tmp_path_factory.mktemp("doctor"))
        try:
            yield made
        finally:
            made.end()


def with_mqtt(config: Config, **changed: object) -> Config:
    return msgspec.structs.replace(config, mqtt=msgspec.structs.replace(config.mqtt, **changed))


def found(config: Config) -> Finding:
    finding = doctors._broker(config)
    assert finding.check == "broker"
    assert "\n" not in finding.text
    return finding


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_broker_that_takes_us(site: Site, protocol: str) -> None:
    finding = found(with_mqtt(site.config, protocol=protocol))
    assert finding == Finding("broker", True, f"127.0.0.1:{site.port} takes us as gateway.gw1, over TLS")


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_wrong_password(site: Site, tmp_path: Path, protocol: str) -> None:
    (tmp_path / "password").write_text("not this one")
    finding = found(with_mqtt(site.config, protocol=protocol, password_file=str(tmp_path / "password")))
    assert not finding.good
    assert finding.text.startswith(f"127.0.0.1:{site.port} refuses us: Not authorized; ")
    assert "mqtt.password_file" in finding.text


def test_no_user_name_where_one_is_wanted(site: Site) -> None:
    finding = found(with_mqtt(site.config, username="", password_file=""))
    assert not finding.good
    assert finding.text.endswith("; set mqtt.username and mqtt.password_file")


def test_a_broker_of_another_authority(site: Site, tmp_path: Path) -> None:
    write_broker_files(tmp_path / "other", "gw1", "127.0.0.1")
    finding = found(with_mqtt(site.config, tls_ca=str(tmp_path / "other" / AUTHORITY)))
    assert not finding.good
    assert finding.text.startswith(f"the certificate of 127.0.0.1:{site.port} is not trusted: ")
    assert "mqtt.tls_ca" in finding.text


def test_a_certificate_for_another_name(site: Site) -> None:
    # "127.1" is another way to write 127.0.0.1, but no name that the certificate has.
    finding = found(with_mqtt(site.config, host="127.1"))
    assert not finding.good
    assert "is not trusted" in finding.text
    assert "127.1" in finding.text


def test_no_tls_where_it_is_wanted(site: Site) -> None:
    finding = found(with_mqtt(site.config, tls_ca=""))
    assert not finding.good
    assert "does it want TLS (mqtt.tls_ca)?" in finding.text


def test_tls_where_there_is_none(site: Site, tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    broker.start()
    try:
        finding = found(with_mqtt(site.config, port=broker.port))
    finally:
        broker.kill()
    assert not finding.good
    assert f"127.0.0.1:{broker.port}" in finding.text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"host": "no-such-host.invalid"}, r"the name in no-such-host.invalid:\d+ is not known: mend mqtt.host"),
        ({"tls_ca": "/nowhere/ca.pem"}, "the files of mqtt.tls_ca, tls_cert or tls_key cannot be used: .*"),
        ({"tls_cert": "/nowhere/own.pem"}, "the files of mqtt.tls_ca, tls_cert or tls_key cannot be used: .*"),
        ({"password_file": "/nowhere/password"}, "cannot read mqtt.password_file /nowhere/password: .*"),
    ],
)
def test_what_is_configured_wrongly(site: Site, changed: dict[str, str], words: str) -> None:
    finding = found(with_mqtt(site.config, **changed))
    assert not finding.good
    assert re.fullmatch(words, finding.text), finding.text


def test_nobody_listens(site: Site) -> None:
    port = free_port()
    finding = found(with_mqtt(site.config, port=port))
    assert finding == Finding(
        "broker",
        False,
        f"nothing answers at 127.0.0.1:{port}: start the broker, or mend mqtt.host and mqtt.port",
    )


def test_somebody_else_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(LinkUnavailable, match="does not answer as an MQTT broker does"):
            probe(LinkSettings(gateway="gw1", port=port, connect_timeout_s=0.3))


async def test_a_running_gateway_stays_connected_and_nothing_is_said_in_its_name(site: Site) -> None:
    link = DeviceLink(link_settings(site.config))
    await link.start()
    try:
        for version in (MqttVersion.V311, MqttVersion.V5):
            config = with_mqtt(site.config, protocol=version.value)
            assert (await asyncio.to_thread(found, config)).good
        await link.publish_receipts([("pump-7", b"r")])
        site.wait_for(lambda: link.counters.receipts_sent == 1)
        assert link.counters.connects == 1
        assert "already connected" not in site.told.read_text()
    finally:
        await link.stop()


def test_a_broker_that_is_trusted_and_takes_anybody(site: Site, tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    broker.start()
    open_to_all = with_mqtt(
        site.config, port=broker.port, tls_ca="", username="", password_file="", authenticated_devices=True
    )
    try:
        finding = found(open_to_all)
        assert finding.good
        assert finding.warning
        assert "allow_anonymous false" in finding.text
        assert not found(with_mqtt(open_to_all, authenticated_devices=False)).warning
        password = str(site.directory / DIRECTORY / GATEWAY_PASSWORD)
        far = with_mqtt(open_to_all, authenticated_devices=False, host="127.1", username="gw1", password_file=password)
        assert "the password goes in the clear" in found(far).text
        assert "in the clear" not in found(with_mqtt(far, host="127.0.0.1")).text
    finally:
        broker.kill()
