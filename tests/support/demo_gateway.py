"""A real gateway for tests: made by `metergate init`, run by `metergate run`, on a mosquitto and an anvil."""

import json
import re
import time
from pathlib import Path
from typing import Any

from eth_account.signers.local import LocalAccount

from tests.support.anvil import AnvilProcess, place_contracts, start_anvil
from tests.support.demo_process import METERGATE, Child, command
from tests.support.mosquitto import Mosquitto
from tests.support.outsider_signing import key

TOKEN = 10**6
COIN = 10**18
PASSPHRASE = "correct horse battery"
FLOAT = 500 * TOKEN


class Household:
    """One site: broker, chain and gateway directory. Start and stop the gateway as often as a test likes."""

    def __init__(self, directory: Path, payers: list[LocalAccount]) -> None:
        self.directory = directory
        self.gateway: Child | None = None
        self.environment = {"METERGATE_PASSPHRASE": PASSPHRASE}
        broker_files = directory / "broker"
        broker_files.mkdir()
        self.broker = Mosquitto(broker_files)
        self.home = directory / "home"
        init = command("init", "--dir", str(self.home), environment=self.environment)
        assert init.process.returncode == 0, init.report()
        named = re.findall(r"^ +(operator|treasury|lane \d+) +(0x[0-9a-f]{40})$", init.stdout, re.M)
        self.addresses = dict(named)
        self.config = self.home / "metergate.toml"
        self.broker.start()
        self.anvil: AnvilProcess = start_anvil()
        self.token = self._place(payers)
        self.payouts = self._deploy_payouts()
        self.set("port", str(self.broker.port))
        self.set("url", f'"{self.anvil.url}"')
        self.set("payouts", f'"{self.payouts}"')
        self.set("poll_ms", "50")
        self.set("enabled", "false")

    def _place(self, payers: list[LocalAccount]) -> str:
        from settlement.genesis import TOKEN_ADDRESS, alloc

        treasury = bytes.fromhex(self.addresses["treasury"][2:])
        tokens = {treasury: FLOAT} | {bytes.fromhex(payer.address[2:]): 1_000 * TOKEN for payer in payers}
        coins = {bytes.fromhex(each[2:]): 100 * COIN for each in self.addresses.values()}
        place_contracts(self.anvil, alloc(tokens, coins))
        return "0x" + TOKEN_ADDRESS.hex()

    def _deploy_payouts(self) -> str:
        """Deploy CumulativePayouts as an operator would on a public chain: by an ordinary transaction."""
        from tests.support.outsider_chain import ChainView

        root = Path(__file__).resolve().parents[2]
        artifact = json.loads((root / "settlement/contracts/artifacts/CumulativePayouts.json").read_text())
        view = ChainView(self.anvil.url, bytes.fromhex(self.token[2:]))
        owner = key("deployer")
        self.anvil.rpc("anvil_setBalance", owner.address, hex(COIN))
        factory = view.web3.eth.contract(abi=artifact["abi"], bytecode=artifact["bytecode"])
        address: str = view.send(owner, factory.constructor())["contractAddress"]
        return address.lower()

    def set(self, name: str, value: str, config: Path | None = None) -> None:
        """Change one line of the configuration."""
        path = config or self.config
        text, changes = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value} ", path.read_text(), count=1, flags=re.M)
        assert changes == 1, name
        path.write_text(text)

    def run(self) -> Child:
        """Start the gateway and wait until it runs."""
        self.gateway = self.child("run")
        self.gateway.wait_for("runs; Ctrl-C ends it")
        self.ready()
        return self.gateway

    def ready(self) -> None:
        """Wait for the control socket, which comes last."""
        deadline = time.monotonic() + 60
        while not (self.home / "data" / "control.sock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def child(self, *arguments: str, config: Path | None = None) -> Child:
        """Start a command on this configuration."""
        command_line = [*METERGATE, *arguments, "--config", str(config or self.config)]
        return Child(command_line, environment=self.environment)

    def ask(self, *arguments: str, config: Path | None = None) -> Child:
        """Run a command on this configuration to its end."""
        child = self.child(*arguments, config=config)
        try:
            child.ended(60)
        finally:
            child.end(5)
        return child

    def json(self, *arguments: str) -> Any:
        """Return what a command prints with --json."""
        child = self.ask(*arguments, "--json")
        assert child.process.returncode == 0, child.report()
        return json.loads(child.stdout)

    def kill(self) -> None:
        """Pull the gateway's plug."""
        assert self.gateway is not None
        self.gateway.process.kill()
        self.gateway.ended()

    def stop(self) -> int:
        """End the gateway in order and return its exit code."""
        assert self.gateway is not None
        self.gateway.process.terminate()
        return self.gateway.ended()

    def end(self) -> None:
        """End everything."""
        if self.gateway is not None:
            self.gateway.end(10)
        self.anvil.stop()
        self.broker.stop()
