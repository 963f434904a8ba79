"""What an operator gets wrong: one sentence that names it, exit code 2, no traceback."""

import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.anvil import AnvilProcess, place_contracts, start_anvil
from tests.support.demo_gateway import PASSPHRASE, Household
from tests.support.demo_process import METERGATE, Child, command, free_port, one_sentence

ENVIRONMENT = {"METERGATE_PASSPHRASE": PASSPHRASE}


@pytest.fixture(scope="module")
def anvil() -> Iterator[AnvilProcess]:
    from settlement.genesis import alloc

    anvil = start_anvil()
    try:
        place_contracts(anvil, alloc({}, {}))
        yield anvil
    finally:
        anvil.stop()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that `init` made."""
    home = tmp_path_factory.mktemp("setup") / "home"
    child = command("init", "--dir", str(home), "--gateway", "gw7", environment=ENVIRONMENT)
    assert child.process.returncode == 0, child.report()
    return home


@pytest.fixture
def config(template: Path, tmp_path: Path, anvil: AnvilProcess) -> Path:
    """A copy of it in which all is right but the broker, which is not there."""
    for name in ("metergate.toml", "keys.json"):
        (tmp_path / name).write_bytes((template / name).read_bytes())
        (tmp_path / name).chmod(0o600)
    path = tmp_path / "metergate.toml"
    change(path, "port", str(free_port()))
    change(path, "url", f'"{anvil.url}"')
    change(path, "enabled", "false")
    return path


def change(path: Path, name: str, value: str) -> None:
    Household.set(object.__new__(Household), name, value, path)


def run(path: Path, command_name: str = "run", *options: str, environment: dict[str, str] | None = None) -> Child:
    return command(command_name, *options, "--config", str(path), environment=environment or ENVIRONMENT)


def test_init_writes_a_configuration_that_is_valid_and_keys_for_the_owner_alone(template: Path) -> None:
    assert 'gateway = "gw7"' in (template / "metergate.toml").read_text()
    keys = template / "keys.json"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    status = run(template / "metergate.toml", "status", "--json")
    assert status.process.returncode == 0, status.report()
    assert '"gateway": "gw7"' in status.stdout


def test_init_never_writes_over_what_is_there(template: Path) -> None:
    before = (template / "keys.json").read_bytes()
    one_sentence(command("init", "--dir", str(template), environment=ENVIRONMENT), "metergate.toml")
    assert (template / "keys.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gateway", "not a name"], ["not a name"]),
        (["--passphrase-file", "nowhere"], ["nowhere"]),
    ],
)
def test_init_refuses_what_cannot_be(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    child = command("init", "--dir", str(tmp_path / "new"), *arguments, environment=ENVIRONMENT)
    one_sentence(child, *words)
    assert not (tmp_path / "new" / "keys.json").exists()


def test_init_refuses_a_short_passphrase_and_none(tmp_path: Path) -> None:
    one_sentence(command("init", "--dir", str(tmp_path), environment={"METERGATE_PASSPHRASE": "short"}), "passphrase")
    environment = {name: value for name, value in os.environ.items() if name != "METERGATE_PASSPHRASE"}
    child = Child(["/usr/bin/env", "-i", f"PATH={environment['PATH']}", *METERGATE, "init", "--dir", str(tmp_path)])
    child.ended()
    one_sentence(child, "METERGATE_PASSPHRASE")
    assert list(tmp_path.iterdir()) == []


CONFIGURATIONS = {
    "a misspelt key": ("confirmations = 0", "confirmation = 0", ["chain", "confirmation"]),
    "an unknown section": ("[pipeline]", "[pipelines]", ["pipelines"]),
    "a text for a number": ("port = ", 'port = "x" # ', ["mqtt.port"]),
    "a port out of range": ("port = ", "port = 70000 # ", ["mqtt.port"]),
    "an asset that is none": ("asset = ", 'asset = "0x12" # ', ["chain.asset"]),
    "a delay below the contract's": ("withdraw_delay = ", "withdraw_delay = 899 # ", ["offer.withdraw_delay"]),
    "a fee above all": ("fee_bps = ", "fee_bps = 10001 # ", ["settlement.fee_bps"]),
    "a price with a point": ("\nprice = ", '\nprice = "0.15" # ', ["services", "price"]),
    "a price of 2^64": ("\nprice = ", f'\nprice = "{2**64}" # ', ["price"]),
    "a deposit of 2^128": ("min_deposit = ", f'min_deposit = "{2**128}" # ', ["min_deposit"]),
    "a step beyond any number": ("max_step = ", f"max_step = {2**53} # ", ["max_step"]),
    "no lanes": ("lanes = 4", "lanes = 0", ["lanes"]),
    "a gateway that is no name": ('gateway = "gw7"', 'gateway = "a/b"', ["gateway"]),
    "a direction that is none": ('direction = "pay"', 'direction = "give"', ["direction"]),
    "no TOML": ("[mqtt]", "[mqtt", ["TOML"]),
    "a service twice": ("[services.solar-export]", "[services.grid-power]", ["TOML"]),
    "no url": ("url = ", 'url = "ftp://x" # ', ["chain.url"]),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_wrong_configuration_names_the_key(config: Path, case: str) -> None:
    old, new, words = CONFIGURATIONS[case]
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))
    one_sentence(run(config), "metergate.toml", *words)


def test_a_missing_configuration(tmp_path: Path) -> None:
    for name in ("run", "status", "doctor"):
        one_sentence(run(tmp_path / "none.toml", name), "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'gateway = "\xff"')
    one_sentence(run(tmp_path / "latin.toml"), "latin.toml")
    one_sentence(run(tmp_path), tmp_path.name)


def test_a_missing_key_file(config: Path) -> None:
    (config.parent / "keys.json").unlink()
    one_sentence(run(config), "keys.json", "missing")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"kdf": 1}', "\x00"])
def test_a_key_file_that_is_none(config: Path, content: str) -> None:
    (config.parent / "keys.json").write_text(content)
    one_sentence(run(config), "keys.json")


def test_a_key_file_that_others_may_read(config: Path) -> None:
    (config.parent / "keys.json").chmod(0o644)
    one_sentence(run(config), "keys.json", "chmod 600")


def test_a_wrong_passphrase(config: Path) -> None:
    one_sentence(run(config, environment={"METERGATE_PASSPHRASE": "another phrase"}), "passphrase", "keys.json")


def test_a_chain_that_is_down(config: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    change(config, "url", f'"{url}"')
    one_sentence(run(config), url)


def test_a_chain_with_another_id(config: Path) -> None:
    change(config, "chain_id", "8453")
    one_sentence(run(config), "31402", "8453")


@pytest.mark.parametrize("name", ["asset", "payouts"])
def test_a_contract_that_is_not_there(config: Path, name: str) -> None:
    nowhere = "0x" + "09" * 20
    change(config, name, f'"{nowhere}"')
    one_sentence(run(config), nowhere)


def test_a_broker_that_is_down(config: Path, anvil: AnvilProcess) -> None:
    _new_keys(config)
    _fund(config, anvil)
    child = run(config)
    port = next(line.split()[2] for line in config.read_text().splitlines() if line.startswith("port = "))
    one_sentence(child, "127.0.0.1", port)


def test_keys_without_coins_for_gas(config: Path) -> None:
    """A new gateway's treasury must approve the payouts contract: without a coin it cannot, and says so."""
    addresses = _new_keys(config)
    child = _started(config)
    try:
        child.ended(15)
    finally:
        child.end(1)
    one_sentence(child, "treasury", addresses["treasury"])


def test_a_signal_ends_a_gateway_that_waits_for_the_chain_to_start(config: Path, anvil: AnvilProcess) -> None:
    """The approval is sent and no block comes: Ctrl-C must still end it."""
    _new_keys(config)
    _fund(config, anvil)
    anvil.rpc("evm_setAutomine", False)
    child = _started(config)
    try:
        until_pending(anvil)
        child.process.terminate()
        child.ended(15)
        assert "Traceback" not in child.stderr, child.report()
    finally:
        anvil.rpc("evm_setAutomine", True)
        child.end(1)


def until_pending(anvil: AnvilProcess) -> None:
    deadline = time.monotonic() + 60
    while int(anvil.rpc("txpool_status")["pending"], 16) == 0:
        assert time.monotonic() < deadline, "no transaction came"
        time.sleep(0.05)


def _started(config: Path) -> Child:
    return Child([*METERGATE, "run", "--config", str(config)], environment=ENVIRONMENT)


def _new_keys(config: Path) -> dict[str, str]:
    """Give the configuration keys that no other test has used; returns the addresses by name."""
    (config.parent / "keys.json").unlink()
    made = command("init", "--dir", str(config.parent / "other"), environment=ENVIRONMENT)
    assert made.process.returncode == 0, made.report()
    (config.parent / "other" / "keys.json").rename(config.parent / "keys.json")
    return dict(re.findall(r"^ +(operator|treasury|lane \d+) +(0x[0-9a-f]{40})$", made.stdout, re.M))


def test_a_data_directory_that_cannot_be(config: Path) -> None:
    (config.parent / "data").write_text("a file is in the way")
    for name in ("run", "status"):
        one_sentence(run(config, name), "data")


def test_a_journal_that_is_damaged(config: Path) -> None:
    (config.parent / "data").mkdir()
    (config.parent / "data" / "journal.sqlite").write_bytes(b"not a database" * 500)
    child = run(config)
    assert child.process.returncode in (2, 3), child.report()
    assert len(child.stderr.splitlines()) == 1, child.report()
    assert "journal" in child.stderr


def test_settling_without_a_gateway(config: Path) -> None:
    one_sentence(run(config, "settle", "--now"), "metergate run")


def test_the_doctor_names_everything_that_is_wrong(config: Path) -> None:
    change(config, "url", f'"http://127.0.0.1:{free_port()}"')
    (config.parent / "keys.json").unlink()
    child = run(config, "doctor")
    assert child.process.returncode == 1, child.report()
    for name in ("keys", "broker", "chain"):
        assert f"BAD  {name} " in child.stdout, child.report()
    assert child.stderr == ""


def _fund(config: Path, anvil: AnvilProcess) -> None:
    from gateway.keys import key_ring, read_seed

    ring = key_ring(read_seed(config.parent / "keys.json", PASSPHRASE.encode()), 4)
    for address in ring.addresses:
        anvil.rpc("anvil_setBalance", "0x" + address.hex(), hex(10**18))
