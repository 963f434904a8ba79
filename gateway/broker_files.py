"""The files of a mosquitto that proves who publishes: authority, certificate, passwords, rights, settings.

`metergate init --broker HOST` writes them into `broker/` beside the configuration, and `metergate device add …
--credentials` adds a device. A device's user name is its id, so that one pattern gives each of them its own topics and
no others (docs/protocol.md, chapter 8). The gateway's user name has a dot, which no device id has.
"""

import base64
import hashlib
import ipaddress
import json
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devices.topics import CLOSE, EARN, OPEN, RECEIPT, STATE, USAGE, Topics, is_id
from gateway.config import MqttConfig
from gateway.errors import SetupError

DIRECTORY = "broker"
AUTHORITY, AUTHORITY_KEY = "ca.pem", "ca.key"
CERTIFICATE, KEY, PASSWORDS, RIGHTS, SETTINGS = "server.pem", "server.key", "passwords", "acl", "mosquitto.conf"
GATEWAY_PASSWORD = "gateway-password"  # noqa: S105  (a file's name)
PORT = 8883
# Devices in the field are reached rarely: the authority outlives them, and so does the certificate, which is renewed
# by a new one of the same authority.
AUTHORITY_DAYS, CERTIFICATE_DAYS = 20 * 365, 10 * 365
# As mosquitto_passwd does: PBKDF2, SHA-512. Passwords here have 192 random bits: rounds are not what protects them.
HASH_ROUNDS = 101
PASSWORD_BYTES = 24

_SETTINGS = """\
# mosquitto for Metergate. Whoever connects shows a password, over TLS, and may use its own topics only.
listener {port}
certfile {at}/{certificate}
keyfile {at}/{key}
tls_version tlsv1.2
allow_anonymous false
password_file {at}/{passwords}
acl_file {at}/{rights}

# Readings are money: nothing is dropped while the gateway is away. 0 is no bound; the disk is one.
max_queued_messages 0
# Above the gateway's pipeline.batch_max, or a batch would wait for its own acknowledgements.
max_inflight_messages 1000
set_tcp_nodelay true
max_packet_size 1048576

# What is queued survives a restart.
persistence true
persistence_location {data}/
autosave_interval 60
log_dest stderr
log_type error
log_type warning
log_type notice
"""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority of one site."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def gateway_user(gateway: str) -> str:
    """Return the gateway's user name at its broker."""
    return f"gateway.{gateway}"


def write_broker_files(directory: Path, gateway: str, host: str) -> None:
    """Write all files of a broker into a new directory. Raises OSError; SetupError for a host that is none."""
    names = _names(host)
    directory.mkdir(mode=0o700)
    authority = _authority(gateway)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _issue(authority, key, host, names)
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    _write(directory / AUTHORITY, authority.certificate.public_bytes(serialization.Encoding.PEM))
    _write(directory / AUTHORITY_KEY, _pem(authority.key))
    _write(directory / CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM))
    _write(directory / KEY, _pem(key))
    _write(directory / GATEWAY_PASSWORD, password.encode())
    _write(directory / PASSWORDS, _password_line(gateway_user(gateway), password).encode())
    _write(directory / RIGHTS, rights(gateway).encode())
    at = str(directory.resolve())
    _write(directory / SETTINGS, settings(at, at, PORT).encode())


def settings(at: str, data: str, port: int) -> str:
    """Return mosquitto.conf for files in `at`, with its own data in `data`."""
    return _SETTINGS.format(
        at=at, data=data, port=port, certificate=CERTIFICATE, key=KEY, passwords=PASSWORDS, rights=RIGHTS
    )


def rights(gateway: str) -> str:
    """Return mosquitto's ACL: the gateway's rights, and one pattern for every device."""
    topics = Topics(gateway)
    own = [f"topic read {each}" for each in topics.subscriptions]
    own += [f"topic write mp/1/{gateway}/+/{RECEIPT}", f"topic readwrite {topics.gateway_state}"]
    own.append(f"topic readwrite {topics.offer}")
    every = [f"pattern write mp/1/{gateway}/%u/{leaf}" for leaf in (OPEN, USAGE, EARN, CLOSE, STATE)]
    every += [f"pattern read mp/1/{gateway}/%u/{RECEIPT}", f"pattern read {topics.offer}"]
    every.append(f"pattern read {topics.gateway_state}")
    return "\n".join(
        (
            "# The gateway.",
            f"user {gateway_user(gateway)}",
            *own,
            "",
            "# Every device: %u is its id. (mosquitto warns of the two without it; they are meant so.)",
            *every,
            "",
        )
    )


def add_credentials(directory: Path, device: str, mqtt: MqttConfig, gateway: str, to: Path) -> None:
    """Give a device a new password at the broker, and write what it needs to connect into a new file, once.

    Raises SetupError. A password that it had before is no longer good.
    """
    if not is_id(device):
        raise SetupError(f"the device id {device!r} is not 1 to 64 letters, digits, _ and -.")
    passwords = directory / PASSWORDS
    if not passwords.exists():
        raise SetupError(f"there is no {passwords}: `metergate init --broker HOST` makes a broker's files.")
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    try:
        given = {
            "gateway": gateway,
            "host": mqtt.host,
            "port": mqtt.port,
            "username": device,
            "password": password,
            "ca": (directory / AUTHORITY).read_text(encoding="ascii"),
        }
        _write(to, json.dumps(given, indent=2).encode())
        others = [line for line in passwords.read_text().splitlines(True) if not line.startswith(f"{device}:")]
        draft = passwords.with_name(f"{PASSWORDS}.new")
        draft.unlink(missing_ok=True)
        _write(draft, "".join((*others, _password_line(device, password))).encode())
        status = passwords.stat()
        if os.geteuid() == 0:
            os.chown(draft, status.st_uid, status.st_gid)  # mosquitto's, when it runs as a user of its own
        draft.chmod(status.st_mode & 0o777)
        draft.rename(passwords)
    except FileExistsError as error:
        raise SetupError(f"{to} exists and is never overwritten: move it away, or choose another name.") from error
    except OSError as error:
        raise SetupError(f"cannot write {to} or {passwords}: {error.strerror}.") from error


def _password_line(user: str, password: str) -> str:
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, HASH_ROUNDS)
    return f"{user}:$7${HASH_ROUNDS}${_base64(salt)}${_base64(digest)}\n"


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _names(host: str) -> list[x509.GeneralName]:
    """Return what the certificate is for: the broker's host, and this machine."""
    try:
        name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not host.isascii() or not 0 < len(host) <= 64 or any(not (c.isalnum() or c in ".-") for c in host):
            raise SetupError(f"the broker's host {host!r} is no name and no address.") from None
        name = x509.DNSName(host)
    local: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return [name, *(each for each in local if each != name)]


def _authority(gateway: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Metergate {gateway}"[:64])])
    builder = _builder(name, name, key.public_key(), AUTHORITY_DAYS)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(usage, critical=True).add_extension(identifier, critical=False)
    return Authority(builder.sign(key, hashes.SHA256()), key)


def _issue(
    authority: Authority, key: ec.EllipticCurvePrivateKey, host: str, names: list[x509.GeneralName]
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    builder = _builder(subject, authority.certificate.subject, key.public_key(), CERTIFICATE_DAYS)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    return (
        builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # a device's clock may be behind
        .not_valid_after(now + timedelta(days=days))
    )
