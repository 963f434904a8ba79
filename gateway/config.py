"""The TOML configuration: what keys there are, what each may hold, and clear words for what is wrong.

A configuration is checked whole before anything starts. Unknown keys are refused, because a misspelt limit that
is silently ignored costs money.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from channels.types import U64_MAX, U128_MAX
from gateway.errors import SetupError

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z", description="letters, digits, _ and -, 1 to 64")]
Hex20 = Annotated[str, Meta(pattern=r"^0x[0-9a-fA-F]{40}\Z", description="an address, 0x and 40 hex digits")]
Port = Annotated[int, Meta(ge=1, le=65535)]
Amount = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,38})\Z", description="token base units, as a string")]
Wei = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,29})\Z", description="wei, 10⁻¹⁸ coins, as a string")]


class ServiceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One metered service: `price` is an integer of 10⁻⁹ token base units per register unit."""

    unit: Annotated[str, Meta(min_length=1, max_length=16)]
    price: Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,19})\Z", description="10⁻⁹ base units, as a string")]
    direction: Literal["pay", "earn"] = "pay"
    max_step: Annotated[int, Meta(ge=1, le=2**53 - 1)] = 1_000_000


class MqttConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The broker. `password_file` is read at start and never logged."""

    host: str = "127.0.0.1"
    port: Port = 1883
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    username: str = ""
    password_file: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    # A broker with TLS and per-device ACLs proves who publishes; without it readings carry their own signature.
    authenticated_devices: bool = False


class ChainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The execution layer, reached by JSON-RPC; `url` is an http(s) URL."""

    url: Annotated[str, Meta(pattern=r"^https?://", description="an http:// or https:// URL")]
    chain_id: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    asset: Hex20
    payouts: Hex20
    confirmations: Annotated[int, Meta(ge=0, le=120)] = 0  # full nodes hold the states of 128 blocks
    poll_ms: Annotated[int, Meta(ge=20, le=60_000)] = 250
    # The most that a transaction ever offers per gas; 0: whatever the chain suggests. The default is above what busy
    # chains ask for on bad days, and far below what a node that lies could make us burn.
    fee_max_gwei: Annotated[int, Meta(ge=0, le=10**9)] = 1_000
    # A transaction that is not mined after that many seconds is sent again at a higher fee.
    replace_after_s: Annotated[int, Meta(ge=1, le=86_400)] = 60


class GasConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Coins for gas, in wei. Marks rise by themselves when present fees make transactions dearer than these."""

    low: Wei = "1000000000000000"  # a lane or the treasury below this is refilled from the operator's key
    refill_to: Wei = "5000000000000000"  # up to this; "0": nothing is refilled, keys that run low are warned of
    # The operator is asked for coins when its key covers fewer refills than this: with four lanes and the treasury,
    # each of them twice.
    warn_refills: Annotated[int, Meta(ge=0, le=10_000)] = 10


class OfferConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Terms that go into every offer; amounts in token base units, times in seconds."""

    withdraw_delay: Annotated[int, Meta(ge=900, le=30 * 86_400)] = 86_400
    min_deposit: Amount = "1000000"
    max_ahead: Amount = "5000000"
    grace: Annotated[int, Meta(ge=0, le=86_400)] = 900
    valid_days: Annotated[int, Meta(ge=1, le=366)] = 30


class SettlementConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When and how to settle."""

    every_s: Annotated[int, Meta(ge=1, le=30 * 86_400)] = 600
    fee_bps: Annotated[int, Meta(ge=0, le=10_000)] = 100
    # 100 rows of a claim cost about 2 M gas: well inside any chain's block, and the gas per row is flat by then.
    rows_max: Annotated[int, Meta(ge=1, le=100)] = 100
    # What a coin of the chain costs, in token base units per 10¹⁸ wei; 0: gas is not weighed, all is claimed.
    coin_price: Amount = "0"
    # What holding an unclaimed token for a day is taken to cost, in millionths: outages, payers that run.
    risk_ppm_per_day: Annotated[int, Meta(ge=0, le=1_000_000)] = 1_000
    # What may stay unclaimed at most; "0" is no bound. Whatever goes beyond is claimed at once.
    exposure_channel_max: Amount = "0"
    exposure_party_max: Amount = "0"
    exposure_total_max: Amount = "0"
    payout_min: Amount = "0"  # smaller payouts wait until they add up
    # How long before a withdrawal can end its channel is claimed at the latest; 0: a quarter of the delay.
    withdraw_margin_s: Annotated[int, Meta(ge=0, le=15 * 86_400)] = 0
    # Half a kilobyte a party and cycle: a day of them for a thousand parties takes 70 MB at the default interval.
    statements_kept: Annotated[int, Meta(ge=1, le=1_000_000)] = 144


class PipelineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Batching: a commit holds up to `batch_max` messages and waits up to `window_ms` for them, if that pays."""

    batch_max: Annotated[int, Meta(ge=1, le=4096)] = 512
    window_ms: Annotated[int, Meta(ge=0, le=100)] = 100


class BackupConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Backups by the clock."""

    every_hours: Annotated[int, Meta(ge=0, le=8_760)] = 0  # 0: none by the clock
    dir: str = ""  # where they go; empty: `backups` in the data directory, which is the same disk
    keep: Annotated[int, Meta(ge=1, le=10_000)] = 14


class WebConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Dashboard, API and metrics. `public_url` is where a browser finds them when a proxy stands before them."""

    enabled: bool = True
    host: Annotated[str, Meta(min_length=1, max_length=253)] = "127.0.0.1"
    port: Port = 8402
    tls_cert: str = ""
    tls_key: str = ""
    public_url: Annotated[
        str, Meta(pattern=r"^(https?://[^/?#\s]+)?\Z", description="an http(s) URL without a path")
    ] = ""
    metrics_token_file: str = ""  # its content opens /metrics, as a bearer token


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One gateway."""

    gateway: Name
    data_dir: str
    key_file: str
    passphrase_file: str = ""  # empty: METERGATE_PASSPHRASE, or a prompt
    mqtt: MqttConfig
    chain: ChainConfig
    services: Annotated[dict[Name, ServiceConfig], Meta(min_length=1, max_length=64)]
    lanes: Annotated[int, Meta(ge=1, le=64)] = 4
    offer: OfferConfig = OfferConfig()
    settlement: SettlementConfig = SettlementConfig()
    gas: GasConfig = GasConfig()
    pipeline: PipelineConfig = PipelineConfig()
    backup: BackupConfig = BackupConfig()
    web: WebConfig = WebConfig()
    demo: bool = False  # accepts every funded device (permit-join) and readings without their own signature

    @property
    def withdraw_margin_s(self) -> int:
        """Chain seconds before the end of a withdrawal by which its channel is claimed at the latest."""
        return self.settlement.withdraw_margin_s or self.offer.withdraw_delay // 4


def parse_config(text: str, source: str) -> Config:
    """Return the configuration in `text`. Raises SetupError that names the key and what was expected."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"{source} is not valid TOML: {error}.") from error
    _check_services(raw.get("services"), source)
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise SetupError(f"{source}: {_explain(str(error))}.") from error
    for key, expected, holds in _ranges(config):
        if not holds:
            raise SetupError(f"{source}: key `{key}`: expected {expected}.")
    return config


def _check_services(services: object, source: str) -> None:
    """Check services one by one first: an error in a table of many names would not say which one."""
    if not isinstance(services, dict):
        return
    for name, service in services.items():
        try:
            msgspec.convert(name, Name)
            msgspec.convert(service, ServiceConfig)
        except msgspec.ValidationError as error:
            raise SetupError(f"{source}: {_explain(str(error), f'services.{name}')}.") from error


def _ranges(config: Config) -> Iterator[tuple[str, str, bool]]:
    """Yield (key, what is expected, whether it holds) for what types cannot say."""
    for name, service in config.services.items():
        yield f"services.{name}.price", "less than 2^64", int(service.price) <= U64_MAX
    offer = config.offer
    yield "offer.min_deposit", "1 or more, less than 2^128", 0 < int(offer.min_deposit) <= U128_MAX
    yield "offer.max_ahead", "less than 2^128", int(offer.max_ahead) <= U128_MAX
    most = offer.withdraw_delay // 2
    yield (
        "settlement.every_s",
        f"at most {most}, half of offer.withdraw_delay, or a payer could take back what is owed between settlements",
        config.settlement.every_s <= most,
    )
    both = bool(config.web.tls_cert) == bool(config.web.tls_key)
    yield "web.tls_key", "a path when web.tls_cert has one, and none without it", both
    gas = config.gas
    yield "gas.refill_to", 'more than gas.low, or "0"', int(gas.refill_to) == 0 or int(gas.refill_to) > int(gas.low)
    yield (
        "settlement.withdraw_margin_s",
        f"at most {most}, half of offer.withdraw_delay",
        config.settlement.withdraw_margin_s <= most,
    )


def load_config(path: Path) -> Config:
    """Read and check a configuration file; relative paths in it are relative to the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}. `metergate init` writes a first one.") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"{path} is not UTF-8 text.") from error
    config = parse_config(text, str(path))
    base = path.resolve().parent
    web = {
        name: str(base / getattr(config.web, name)) if getattr(config.web, name) else ""
        for name in ("tls_cert", "tls_key", "metrics_token_file")
    }
    return msgspec.structs.replace(
        config,
        web=msgspec.structs.replace(config.web, **web),
        data_dir=str(base / config.data_dir),
        key_file=str(base / config.key_file),
        passphrase_file=str(base / config.passphrase_file) if config.passphrase_file else "",
        mqtt=msgspec.structs.replace(
            config.mqtt,
            **{
                name: str(base / path)
                for name in ("password_file", "tls_ca", "tls_cert", "tls_key")
                if (path := getattr(config.mqtt, name))
            },
        ),
        backup=msgspec.structs.replace(config.backup, dir=str(base / config.backup.dir) if config.backup.dir else ""),
    )


def _explain(message: str, table: str = "") -> str:
    """Turn "Expected `int`, got `str` - at `$.mqtt.port`" into words that begin with the key."""
    problem, _, where = message.partition(" - at `")
    inner = where.rstrip("`").removeprefix("$").removeprefix(".")
    key = ".".join(part for part in (table, inner) if part)
    problem = problem[:1].lower() + problem[1:]
    return f"key `{key}`: {problem}" if key else f"at the top level: {problem}"
