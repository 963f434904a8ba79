"""How the configuration says that the broker is reached."""

from pathlib import Path

from devices.link import LinkSettings, MqttVersion
from gateway.config import Config
from gateway.errors import SetupError


def link_settings(config: Config) -> LinkSettings:
    """Return the settings of the MQTT client. Raises SetupError for a password file that cannot be read."""
    mqtt = config.mqtt
    password = None
    if mqtt.password_file:
        try:
            password = Path(mqtt.password_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SetupError(f"cannot read mqtt.password_file {mqtt.password_file}: {error.strerror}.") from error
    return LinkSettings(
        gateway=config.gateway,
        host=mqtt.host,
        port=mqtt.port,
        username=mqtt.username or None,
        password=password,
        tls=bool(mqtt.tls_ca or mqtt.tls_cert),
        ca_file=Path(mqtt.tls_ca) if mqtt.tls_ca else None,
        certificate_file=Path(mqtt.tls_cert) if mqtt.tls_cert else None,
        key_file=Path(mqtt.tls_key) if mqtt.tls_key else None,
        protocol=MqttVersion(mqtt.protocol),
    )
