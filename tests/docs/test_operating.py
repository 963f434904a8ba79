"""The steps of docs/operating.md, taken one by one against mosquitto and anvil."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from settlement.genesis import PAYOUTS_ADDRESS, alloc
from tests.support.anvil import AnvilProcess, place_contracts, start_anvil
from tests.support.mosquitto import Mosquitto

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
ENVIRONMENT = {"METERGATE_PASSPHRASE": "correct horse", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
PAYER = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"


@pytest.fixture
def anvil() -> Iterator[AnvilProcess]:
    """A chain with the contracts that a public one has: all but our own CumulativePayouts."""
    node = start_anvil(arguments=("--slots-in-an-epoch", "1"))
    try:
        accounts = alloc({}, {})
        del accounts[f"0x{PAYOUTS_ADDRESS.hex()}"]
        place_contracts(node, accounts)
        yield node
    finally:
        node.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of our own."""
    directory = tmp_path / "broker"
    directory.mkdir()
    mosquitto = Mosquitto(directory, window=1000)
    mosquitto.start()
    try:
        yield mosquitto
    finally:
        mosquitto.stop()


class Site:
    """A directory in which commands are given as the page gives them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "site" / "metergate.toml"

    def metergate(self, *arguments: str, code: int = 0) -> str:
        done = self.run("-m", "gateway", *arguments)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code != 2 else done.stderr

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.directory, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def set(self, key: str, value: str) -> None:
        """Change one line of the configuration that `init` wrote."""
        text, count = re.subn(rf"(?m)^{key} = \S+", f"{key} = {value}", self.config.read_text(encoding="utf-8"))
        assert count == 1, key
        self.config.write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_the_first_steps_and_the_daily_ones(tmp_path: Path, anvil: AnvilProcess, broker: Mosquitto) -> None:
    site = Site(tmp_path)
    at = ("--config", "site/metergate.toml")

    told = site.metergate("init", "--dir", "site")
    needy = re.findall(r"^  (?:operator|treasury|lane \d)\s+(0x[0-9a-f]{40})$", told, re.MULTILINE)
    assert len(needy) == 6
    assert (tmp_path / "site" / "keys.json").stat().st_mode & 0o777 == 0o600
    assert "never overwritten" in site.metergate("init", "--dir", "site", code=2)
    site.set("url", f'"{anvil.url}"')
    site.set("port", str(broker.port))
    site.set("enabled", "false")
    for address in needy:
        anvil.rpc("anvil_setBalance", address, hex(10**19))
    assert "BAD  chain" in site.metergate("doctor", *at, code=1), "there is no payouts contract yet"
    assert "payouts" in site.metergate("run", *at, code=2)

    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "deploy.py").write_text(program, encoding="utf-8")
    deployed = site.run("deploy.py", "site/metergate.toml")
    assert deployed.returncode == 0, deployed.stderr
    key, _, address = deployed.stdout.strip().partition(" = ")
    site.set(key, address)

    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "run", *at],
        cwd=tmp_path, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        assert any("gateway gw1 runs" in line for line in process.stderr), "it starts"
        _running(site, *at)
        assert "BAD" not in site.metergate("doctor", *at)
        assert site.metergate("settle", "--now", *at).startswith("nothing to settle;")
        assert site.metergate("settle", "--all", *at).startswith("nothing to settle;")
        assert site.metergate("settle", "--explain", *at).startswith("claim 0.000000 for 0.000000 of gas")
        site.metergate("device", "add", "pump-7", "--payer", PAYER, "--note", "barn", *at)
        assert "pump-7" in site.metergate("device", "list", *at)
        shown = json.loads(site.metergate("device", "show", "pump-7", "--json", *at))
        assert shown["payers"] == [PAYER.lower()]
        assert "= chain at block" in site.metergate("ledger", "--check", *at)
        assert "is kept" in site.metergate("statement", PAYER, *at, code=2)
        assert "another Metergate" in site.metergate("run", *at, code=2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()

    stopped = json.loads(site.metergate("status", "--json", *at))
    assert stopped["running"] is False
    assert "pump-7" in site.metergate("device", "list", *at), "the books are kept"
    assert "no gateway runs" in site.metergate("settle", "--now", *at, code=2)
    assert "conserved to the unit" in site.metergate("doctor", *at)
    assert "= chain at block" in site.metergate("ledger", "--check", *at)
    assert site.metergate("ledger", "--export", "csv", "--postings", *at).startswith("entry,commit,cause,")


def _running(site: Site, *at: str) -> None:
    """Wait until the control socket answers: it opens just after the start is told."""
    deadline = time.monotonic() + 60
    while True:
        done = site.run("-m", "gateway", "status", "--json", *at)
        if done.returncode == 0 and json.loads(done.stdout)["running"]:
            return
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.1)
