"""Everything around a gateway that outlives its kills: broker, chain, line to the chain, configuration and keys."""

import json
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from channels.signatures import key_address
from gateway.keys import KeyRing, key_ring, write_seed
from settlement.genesis import PAYOUTS_ADDRESS, TOKEN_ADDRESS, alloc, genesis
from settlement.transactions import Transaction, sign_transaction
from tests.crash.lives import Life, Nursery, bear_by_command
from tests.support.anvil import AnvilProcess, place_contracts, rpc, start_anvil
from tests.support.chain_observer import Observer
from tests.support.chain_proxy import ChainProxy
from tests.support.demo_process import METERGATE, Child, free_port
from tests.support.gateway_devices import secret
from tests.support.mosquitto import Mosquitto

CHAIN_ID = 31402
SEED = bytes(range(100, 132))
PASSPHRASE = "correct horse battery"
LANES = 2
TOKEN = 10**6
COIN = 10**18
FLOAT = 1_000 * TOKEN
FEE_BASIS_POINTS = 100
BLOCK_MS = 50
MINE_EVERY_S = 0.1
PAYERS = 60  # with money in genesis; more than one run lets in

CONFIG = """\
gateway = "gw1"
data_dir = "data"
key_file = "keys.json"
passphrase_file = "passphrase"
lanes = {lanes}
demo = true

[mqtt]
port = {mqtt_port}

[chain]
url = "{url}"
chain_id = {chain_id}
asset = "0x{asset}"
payouts = "0x{payouts}"
poll_ms = 20
confirmations = {confirmations}

[offer]
min_deposit = "1"

[settlement]
every_s = 1
fee_bps = {fee}
rows_max = 4

# Many commits, and so many moments between them.
[pipeline]
window_ms = 5

[web]
enabled = false

[services.grid-power]
unit = "Wh"
price = "150333333333"

[services.solar-export]
unit = "Wh"
price = "80777777777"
direction = "earn"
"""


def payer_name(number: int) -> str:
    """Return the device whose payer has money in genesis under this number."""
    return f"meter-{number}"


def accounts(keys: KeyRing) -> tuple[dict[bytes, int], dict[bytes, int]]:
    """Return (tokens, coins) of the genesis."""
    stranger = key_address(secret("stranger"))
    payers = [key_address(secret(f"payer of {payer_name(number)}")) for number in range(PAYERS)]
    tokens = {keys.treasury.address: FLOAT, stranger: FLOAT, **dict.fromkeys(payers, 100 * TOKEN)}
    coins = dict.fromkeys(keys.addresses, 1_000 * COIN) | dict.fromkeys((stranger, *payers), 10 * COIN)
    return tokens, coins


class Site(ABC):
    """A gateway's surroundings on one kind of chain; `bear` starts a life of the gateway in them."""

    kind: str
    reorgs = False
    confirmations = 0

    def __init__(self, directory: Path, seed: int, nursery: Nursery) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        self.keys = key_ring(SEED, LANES)
        write_seed(directory / "keys.json", SEED, PASSPHRASE.encode())
        (directory / "passphrase").write_text(PASSPHRASE)
        broker_files = directory / "broker"
        broker_files.mkdir()
        self.broker = Mosquitto(broker_files, window=600)
        self.broker.start()
        self.log = directory / "gateway.log"
        self.config = directory / "metergate.toml"
        self.data = directory / "data"
        self.nursery = nursery
        self.chain_url = self._start_chain()
        self.proxy = ChainProxy(self.chain_url, seed=seed)
        self.proxy.__enter__()
        self.config.write_text(
            CONFIG.format(
                lanes=LANES,
                mqtt_port=self.broker.port,
                url=self._gateway_url(),
                chain_id=CHAIN_ID,
                asset=TOKEN_ADDRESS.hex(),
                payouts=PAYOUTS_ADDRESS.hex(),
                fee=FEE_BASIS_POINTS,
                confirmations=self.confirmations,
            )
        )
        self.observer = Observer(self.rpc, TOKEN_ADDRESS, PAYOUTS_ADDRESS)

    def rpc(self, method: str, *params: Any) -> Any:
        """Ask the chain itself. Raises OSError while it is away, RuntimeError with its refusal."""
        return rpc(self.chain_url, method, *params)

    def transact(self, key: bytes, to: bytes, data: bytes) -> None:
        """Let somebody send a transaction; it is mined soon."""
        sender = key_address(key)
        nonce = int(self.rpc("eth_getTransactionCount", "0x" + sender.hex(), "pending"), 16)
        signed = sign_transaction(Transaction(CHAIN_ID, nonce, 10**9, 10**11, 1_000_000, to, 0, data), key)
        self.rpc("eth_sendRawTransaction", "0x" + signed.raw.hex())

    def bear(self, point: str | None = None, at: int = 1, *, by_command: bool = False) -> Life:
        """Start the gateway: instrumented, to die at a point, or as `metergate run` itself."""
        if by_command:
            return bear_by_command(self.config, self.log, {})
        return self.nursery.bear(
            arguments=["run", "--config", str(self.config)],
            point=point,
            at=at,
            log=str(self.log),
            inside=self._inside(),
        )

    def close(self) -> None:
        """End everything but the nursery, which other sites use, too."""
        self.nursery.end()
        self._stop_chain()
        self.proxy.__exit__(None, None, None)
        self.broker.kill()

    @abstractmethod
    def _start_chain(self) -> str:
        """Start the chain and return its URL."""

    @abstractmethod
    def _stop_chain(self) -> None:
        """End the chain."""

    def _gateway_url(self) -> str:
        return self.proxy.url

    def _inside(self) -> dict[str, Any] | None:
        return None


def write_genesis(data: Path, keys: KeyRing) -> None:
    """Write the genesis that `metergate chain --data` finds there."""
    data.mkdir(parents=True)
    tokens, coins = accounts(keys)
    body = {"chainId": CHAIN_ID, "genesis": genesis(tokens, coins, timestamp=int(time.time()))}
    (data / "genesis.json").write_text(json.dumps(body))


class BesideSite(Site):
    """The embedded layer in a process of its own (`metergate chain`): it outlives the gateway."""

    kind = "embedded layer beside the gateway"

    def _start_chain(self) -> str:
        data = self.directory / "chain"
        write_genesis(data, self.keys)
        port = free_port()
        command = ["chain", "--port", str(port), "--data", str(data), "--block-ms", str(BLOCK_MS)]
        self._chain = Child([*METERGATE, *command])
        self._chain.wait_for("JSON-RPC on")
        return f"http://127.0.0.1:{port}"

    def _stop_chain(self) -> None:
        self._chain.end(10)


class InsideSite(Site):
    """The embedded layer in the gateway's own process, as in the demo: both are killed together."""

    kind = "embedded layer inside the gateway"

    def _start_chain(self) -> str:
        write_genesis(self.directory / "chain", self.keys)
        self._port = free_port()
        return f"http://127.0.0.1:{self._port}"

    def _stop_chain(self) -> None:
        """It ended with the gateway."""

    def _gateway_url(self) -> str:
        return self.chain_url

    def bear(self, point: str | None = None, at: int = 1, *, by_command: bool = False) -> Life:
        """Start both; no command of its own does that."""
        return super().bear(point, at)

    def _inside(self) -> dict[str, Any] | None:
        return {
            "config": str(self.config),
            "data": str(self.directory / "chain"),
            "port": self._port,
            "block_ms": BLOCK_MS,
        }


class AnvilSite(Site):
    """Anvil: a chain that nobody here wrote. It mines at once, and replaces its last blocks when told."""

    kind = "anvil"
    reorgs = True
    confirmations = 1

    def __init__(self, directory: Path, seed: int, nursery: Nursery) -> None:
        super().__init__(directory, seed, nursery)
        self._stop = threading.Event()
        self._miner = threading.Thread(target=self._mine, daemon=True)
        self._miner.start()

    def _start_chain(self) -> str:
        self._anvil: AnvilProcess = start_anvil()
        place_contracts(self._anvil, alloc(*accounts(self.keys)))
        return self._anvil.url

    def _mine(self) -> None:
        """Make empty blocks, too, as any chain does; through the proxy, which knows when to wait."""
        while not self._stop.wait(MINE_EVERY_S):
            self.proxy.rpc("evm_mine")

    def _stop_chain(self) -> None:
        self._stop.set()
        self._miner.join()
        self._anvil.stop()


SITES: dict[str, type[Site]] = {"beside": BesideSite, "inside": InsideSite, "anvil": AnvilSite}
