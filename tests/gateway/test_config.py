"""The configuration: what is wrong with it is said in one sentence that names the key."""

import argparse
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.cli.setup import init, open_keys
from gateway.config import Config, load_config, parse_config
from gateway.errors import SetupError

GOOD: dict[str, Any] = {
    "gateway": "gw1",
    "data_dir": "data",
    "key_file": "keys.json",
    "mqtt": {},
    "chain": {
        "url": "http://127.0.0.1:8545",
        "chain_id": 31402,
        "asset": "0x" + "aa" * 20,
        "payouts": "0x" + "bB" * 20,
    },
    "services": {"grid-power": {"unit": "Wh", "price": "150000000000"}},
}


def toml(value: dict[str, Any], path: str = "") -> str:
    """Write nested tables of plain values as TOML."""
    lines = [f"{name} = {_value(each)}" for name, each in value.items() if not isinstance(each, dict)]
    if path:
        lines.insert(0, f"[{path}]")
    for name, each in value.items():
        if isinstance(each, dict):
            quoted = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'
            lines.append(toml(each, f"{path}.{quoted}" if path else quoted))
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good configuration with one key set, or removed where `value` is None."""
    result: dict[str, Any] = {name: _copy(each) for name, each in GOOD.items()}
    table = result
    *parents, name = path.split("/")
    for parent in parents:
        table = table.setdefault(parent, {})
    if value is None:
        del table[name]
    else:
        table[name] = value
    return result


def _copy(value: Any) -> Any:
    return {name: _copy(each) for name, each in value.items()} if isinstance(value, dict) else value


def complaint(text: str) -> str:
    """Return the one sentence that a configuration leads to."""
    with pytest.raises(SetupError) as caught:
        parse_config(text, "metergate.toml")
    message = str(caught.value)
    assert message.startswith("metergate.toml")
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_the_good_one_is_good_and_has_defaults() -> None:
    config = parse_config(toml(GOOD), "metergate.toml")
    assert (config.gateway, config.lanes, config.demo) == ("gw1", 4, False)
    assert (config.mqtt.port, config.chain.confirmations, config.offer.withdraw_delay) == (1883, 0, 86_400)
    assert config.services["grid-power"].direction == "pay"
    assert config.settlement.fee_bps == 100


PRICE = "services/grid-power/price"
# (key with slashes, a bad value; None: missing, what the message must name, a word of what was expected)
BAD: list[tuple[str, Any, str, str]] = [
    ("gateway", None, "gateway", "missing"),
    ("data_dir", None, "data_dir", "missing"),
    ("key_file", None, "key_file", "missing"),
    ("mqtt", None, "mqtt", "missing"),
    ("chain", None, "chain", "missing"),
    ("services", None, "services", "missing"),
    ("chain/url", None, "url", "missing"),
    ("chain/chain_id", None, "chain_id", "missing"),
    ("chain/asset", None, "asset", "missing"),
    ("chain/payouts", None, "payouts", "missing"),
    ("services/grid-power/unit", None, "unit", "missing"),
    (PRICE, None, "price", "missing"),
    ("gatewy", "gw1", "gatewy", "unknown"),
    ("mqtt/prot", 1883, "prot", "unknown"),
    ("chain/confirmation", 3, "confirmation", "unknown"),
    ("offer/max_ahaed", "5", "max_ahaed", "unknown"),
    ("settlement/fee", 5, "fee", "unknown"),
    ("pipeline/batch", 5, "batch", "unknown"),
    ("services/grid-power/limit", "5", "limit", "unknown"),
    ("gateway", 5, "gateway", "str"),
    ("gateway", "", "gateway", "matching"),
    ("gateway", "g w", "gateway", "matching"),
    ("gateway", "g" * 65, "gateway", "matching"),
    ("gateway", "gw1/#", "gateway", "matching"),
    ("data_dir", 5, "data_dir", "str"),
    ("key_file", True, "key_file", "str"),
    ("passphrase_file", 7, "passphrase_file", "str"),
    ("demo", "yes", "demo", "bool"),
    ("demo", 1, "demo", "bool"),
    ("lanes", 0, "lanes", ">= 1"),
    ("lanes", 65, "lanes", "<= 64"),
    ("lanes", "4", "lanes", "int"),
    ("lanes", 1.5, "lanes", "int"),
    ("lanes", True, "lanes", "int"),
    ("mqtt", 5, "mqtt", "object"),
    ("mqtt/host", 5, "mqtt.host", "str"),
    ("mqtt/port", 0, "mqtt.port", ">= 1"),
    ("mqtt/port", 65_536, "mqtt.port", "<= 65535"),
    ("mqtt/port", "1883", "mqtt.port", "int"),
    ("mqtt/protocol", "4", "mqtt.protocol", "4"),
    ("mqtt/protocol", 5, "mqtt.protocol", "str"),
    ("mqtt/username", 5, "mqtt.username", "str"),
    ("mqtt/password_file", 5, "mqtt.password_file", "str"),
    ("mqtt/tls_ca", 5, "mqtt.tls_ca", "str"),
    ("mqtt/tls_cert", 5, "mqtt.tls_cert", "str"),
    ("mqtt/tls_key", 5, "mqtt.tls_key", "str"),
    ("mqtt/authenticated_devices", "no", "mqtt.authenticated_devices", "bool"),
    ("chain/url", "ftp://127.0.0.1", "chain.url", "http"),
    ("chain/url", "127.0.0.1:8545", "chain.url", "http"),
    ("chain/chain_id", 0, "chain.chain_id", ">= 1"),
    ("chain/chain_id", 2**53, "chain.chain_id", "<="),
    ("chain/chain_id", "31402", "chain.chain_id", "int"),
    ("chain/asset", "0x1234", "chain.asset", "matching"),
    ("chain/asset", "aa" * 20, "chain.asset", "matching"),
    ("chain/asset", "0x" + "ag" * 20, "chain.asset", "matching"),
    ("chain/payouts", "0x" + "aa" * 21, "chain.payouts", "matching"),
    ("chain/confirmations", -1, "chain.confirmations", ">= 0"),
    ("chain/confirmations", 121, "chain.confirmations", "<= 120"),
    ("chain/poll_ms", 19, "chain.poll_ms", ">= 20"),
    ("chain/poll_ms", 60_001, "chain.poll_ms", "<= 60000"),
    ("offer/withdraw_delay", 899, "offer.withdraw_delay", ">= 900"),
    ("offer/withdraw_delay", 30 * 86_400 + 1, "offer.withdraw_delay", "<= 2592000"),
    ("offer/min_deposit", 1_000_000, "offer.min_deposit", "str"),
    ("offer/min_deposit", "-1", "offer.min_deposit", "matching"),
    ("offer/min_deposit", "01", "offer.min_deposit", "matching"),
    ("offer/min_deposit", "1.5", "offer.min_deposit", "matching"),
    ("offer/min_deposit", "0", "offer.min_deposit", ""),
    ("offer/min_deposit", str(2**128), "offer.min_deposit", ""),
    ("offer/max_ahead", "1e6", "offer.max_ahead", "matching"),
    ("offer/max_ahead", "", "offer.max_ahead", "matching"),
    ("offer/max_ahead", "9" * 39, "offer.max_ahead", ""),
    ("offer/grace", -1, "offer.grace", ">= 0"),
    ("offer/grace", 86_401, "offer.grace", "<= 86400"),
    ("offer/valid_days", 0, "offer.valid_days", ">= 1"),
    ("offer/valid_days", 367, "offer.valid_days", "<= 366"),
    ("settlement/every_s", 0, "settlement.every_s", ">= 1"),
    ("settlement/every_s", 30 * 86_400 + 1, "settlement.every_s", ""),
    ("settlement/fee_bps", -1, "settlement.fee_bps", ">= 0"),
    ("settlement/fee_bps", 10_001, "settlement.fee_bps", "<= 10000"),
    ("settlement/fee_bps", 1.5, "settlement.fee_bps", "int"),
    ("settlement/rows_max", 0, "settlement.rows_max", ">= 1"),
    ("settlement/rows_max", 101, "settlement.rows_max", "<= 100"),
    ("pipeline/batch_max", 0, "pipeline.batch_max", ">= 1"),
    ("pipeline/batch_max", 4_097, "pipeline.batch_max", "<= 4096"),
    ("pipeline/window_ms", -1, "pipeline.window_ms", ">= 0"),
    ("pipeline/window_ms", 101, "pipeline.window_ms", "<= 100"),
    ("services", {}, "services", "1"),
    ("services", 5, "services", "object"),
    ("services/grid-power", 5, "grid-power", "object"),
    ("services/grid-power/unit", "", "grid-power.unit", "1"),
    ("services/grid-power/unit", "W" * 17, "grid-power.unit", "16"),
    ("services/grid-power/unit", 5, "grid-power.unit", "str"),
    (PRICE, 150, "grid-power.price", "str"),
    (PRICE, "1.5", "grid-power.price", "matching"),
    (PRICE, "-5", "grid-power.price", "matching"),
    (PRICE, "0x5", "grid-power.price", "matching"),
    (PRICE, str(2**64), "grid-power.price", ""),
    (PRICE, "9" * 20, "grid-power.price", ""),
    ("services/grid-power/direction", "both", "grid-power.direction", "both"),
    ("services/grid-power/max_step", 0, "grid-power.max_step", ">= 1"),
    ("services/grid-power/max_step", 2**53, "grid-power.max_step", "<="),
    ("services/grid power/unit", "Wh", "grid power", ""),
    ("services/" + "x" * 65 + "/unit", "Wh", "x" * 65, ""),
]


@pytest.mark.parametrize(
    ("path", "value", "named", "expected"), BAD, ids=[f"{row[0][:40]}={str(row[1])[:20]}" for row in BAD]
)
def test_a_bad_key_is_named_with_what_was_expected(path: str, value: Any, named: str, expected: str) -> None:
    message = complaint(toml(changed(path, value)))
    assert named in message, f"{named!r} is not in: {message}"
    assert expected in message.lower(), message
    for noise in ("$", "[...]", "msgspec", "Traceback"):
        assert noise not in message.replace("'$", "").replace("}$", "").replace(")$", ""), message


def test_too_many_services_are_refused() -> None:
    service = GOOD["services"]["grid-power"]
    many = changed("services", {f"service-{number}": service for number in range(65)})
    assert "services" in complaint(toml(many))
    parse_config(toml(changed("services", {f"service-{number}": service for number in range(64)})), "x")


@pytest.mark.parametrize(
    "text", ["gateway = ", "= 5", "[mqtt", 'gateway = "a"\ngateway = "b"', "\x00", "a = 99999999999999999999e", "[[[["]
)
def test_bad_toml_is_said_to_be_that(text: str) -> None:
    assert "TOML" in complaint(text)


def test_a_missing_file_and_one_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cannot read .*metergate\.toml: No such file.*metergate init"):
        load_config(tmp_path / "metergate.toml")
    with pytest.raises(SetupError, match="cannot read"):
        load_config(tmp_path)
    (tmp_path / "metergate.toml").write_bytes(b'gateway = "\xff\xfe"')
    with pytest.raises(SetupError, match="not UTF-8"):
        load_config(tmp_path / "metergate.toml")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc" / "metergate.toml"
    path.write_text(toml(GOOD | {"passphrase_file": "secret", "key_file": "/elsewhere/keys.json"}))
    config = load_config(path)
    assert config.data_dir == str(tmp_path / "etc" / "data")
    assert config.passphrase_file == str(tmp_path / "etc" / "secret")
    assert config.key_file == "/elsewhere/keys.json"
    path.write_text(toml(GOOD))
    assert load_config(path).passphrase_file == ""


@pytest.mark.parametrize("folder", ["plain", "with space", 'quote"d', "back\\slash", "Größe"])
def test_the_template_of_init_parses(tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / folder / "passphrase"
    secret.parent.mkdir()
    secret.write_text("correct horse battery\n")
    options = argparse.Namespace(
        gateway="roof-1", dir=tmp_path / folder / "gw", passphrase_file=secret, broker=None, json=False
    )
    assert init(options) == 0
    config = load_config(tmp_path / folder / "gw" / "metergate.toml")
    assert config.gateway == "roof-1"
    assert isinstance(config, Config)
    assert Path(config.passphrase_file) == secret
    ring = open_keys(config)
    shown = capsys.readouterr().out
    for key in (*ring.lanes, ring.operator, ring.treasury, ring.authorizer):
        assert f"0x{key.address.hex()}" in shown
    assert ring.treasury.private.hex() not in shown
    assert (tmp_path / folder / "gw" / "keys.json").stat().st_mode & 0o777 == 0o600


def test_init_for_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METERGATE_PASSPHRASE", "correct horse battery")
    for folder, extra in (("plain", []), ("own", ["--broker", "127.0.0.1"])):
        assert main(["init", "--dir", str(tmp_path / folder), "--json", *extra]) == 0
        told = json.loads(capsys.readouterr().out)
        config = load_config(Path(told["config"]))
        ring = open_keys(config)
        assert Path(config.key_file) == Path(told["keys"])
        assert (told["gateway"], told["operator"]) == ("gw1", f"0x{ring.operator.address.hex()}")
        assert told["treasury"] == f"0x{ring.treasury.address.hex()}"
        assert told["lanes"] == [f"0x{key.address.hex()}" for key in ring.lanes]
        assert told["receiverAuthorizer"] == f"0x{ring.authorizer.address.hex()}"
        assert (told["broker"] is not None) is bool(extra)
        if extra:
            assert (Path(told["broker"]) / "mosquitto.conf").exists()


def test_init_without_a_passphrase_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERGATE_PASSPHRASE", "correct horse battery")
    options = argparse.Namespace(gateway="gw1", dir=tmp_path / "gw", passphrase_file=None, broker=None, json=False)
    assert init(options) == 0
    config = load_config(tmp_path / "gw" / "metergate.toml")
    assert config.passphrase_file == ""
    # Every key that the template shows in a comment is one that exists.
    text = (tmp_path / "gw" / "metergate.toml").read_text()
    shown = re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE)
    assert parse_config(shown, "template").mqtt.authenticated_devices is True
    assert set(tomllib.loads(shown)) == {*Config.__struct_fields__} - {"demo"}
    with pytest.raises(SetupError, match="never overwritten"):
        init(options)


@pytest.mark.parametrize("gateway", ["", "a b", "ü", "x" * 65, "a/b", "a+"])
def test_init_refuses_a_bad_gateway_id(tmp_path: Path, gateway: str) -> None:
    with pytest.raises(SetupError, match="gateway id"):
        init(argparse.Namespace(gateway=gateway, dir=tmp_path / "gw", passphrase_file=None, broker=None, json=False))
    assert not (tmp_path / "gw").exists()
