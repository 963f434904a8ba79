"""TLS to the broker, with and without a certificate of our own."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from devices.client import DeviceLink, LinkSettings
from tests.devices.test_client import linked, refused, settings, take
from tests.support.mosquitto import Mosquitto
from tests.support.mqtt_peer import Peer

pytestmark = pytest.mark.usefixtures("loop_kind")


@dataclass
class Authority:
    directory: Path
    name: str

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        self.certificate = self._certificate(self.subject, self.key.public_key(), authority=True)
        self.file = self._write(f"{self.name}.pem", self.certificate.public_bytes(serialization.Encoding.PEM))

    def _certificate(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey, *, authority: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return the files of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._certificate(subject, key.public_key(), authority=False)
        written = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return (
            self._write(f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM)),
            self._write(f"{name}.key", written),
        )

    def _write(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        return path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def broker(tmp_path: Path, authority: Authority) -> Iterator[Mosquitto]:
    certificate, key = authority.issue("broker")
    found = Mosquitto(
        tmp_path,
        extra=f"cafile {authority.file}\ncertfile {certificate}\nkeyfile {key}\nrequire_certificate true\n",
    )
    found.start()
    try:
        yield found
    finally:
        found.kill()


async def test_both_sides_show_a_certificate(broker: Mosquitto, authority: Authority) -> None:
    certificate, key = authority.issue("gateway")
    mine, mine_key = authority.issue("meter")
    async with linked(broker, tls=True, ca_file=authority.file, certificate_file=certificate, key_file=key) as link:
        with Peer(broker.port, ca_certs=authority.file, certfile=mine, keyfile=mine_key) as peer:
            # Large enough to leave decrypted bytes inside TLS where no selector sees them.
            peer.publish_all([("mp/1/gw1/m/usage", bytes([n]) * 40_000) for n in range(15)])
            frames = await take(link, 15)
        assert [(frame.payload[0], len(frame.payload)) for frame in frames] == [(n, 40_000) for n in range(15)]
        link.acknowledge(frames)


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_broker_of_another_authority(broker: Mosquitto, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    text = await refused(DeviceLink(settings(broker, tls=True, ca_file=stranger.file)))
    assert text.startswith("cannot reach the MQTT broker")
    assert "certificate verify failed" in text


async def test_no_certificate_where_one_is_asked_for(broker: Mosquitto, authority: Authority) -> None:
    text = await refused(DeviceLink(settings(broker, tls=True, ca_file=authority.file)))
    assert text.startswith((f"the MQTT broker at 127.0.0.1:{broker.port}", "cannot reach the MQTT broker"))


@pytest.mark.parametrize("content", [None, b"no certificate"])
async def test_tls_files_that_cannot_be_used(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    text = await refused(DeviceLink(LinkSettings(gateway="gw1", tls=True, ca_file=file)))
    assert text.startswith("the TLS files for the MQTT broker cannot be used: ")
