"""viem: its ordinary flow against `metergate chain`, in one node process."""

import json
import subprocess
from pathlib import Path

from eth_account.signers.local import LocalAccount

from tests.rpc.served import CHAIN_ID, COIN, HERE, Served, package


def test_the_ordinary_flow(served: Served, alice: LocalAccount, counter_file: Path) -> None:
    modules = package("viem/package.json").parents[1]
    arguments = [str(modules), served.url, "0x" + bytes(alice.key).hex(), str(counter_file)]
    done = subprocess.run(["node", HERE / "viem_flow.mjs", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + served.report()
    told = json.loads(done.stdout)
    assert told.pop("estimate") > 21_000
    assert told == {
        "chainId": CHAIN_ID,
        "balance": 10 * COIN,
        "sameBlock": True,
        "byNumber": True,
        "deployed": "success",
        "before": 40,
        "simulated": 42,
        "sent": "success",
        "withinEstimate": True,
        "changes": [{"by": alice.address, "amount": 2, "total": 42}],
        "filterLogs": 1,
        "uninstalled": True,
        "past": [42],
        "transaction": True,
        "text": {"name": "Error", "args": ["nothing to add"], "reason": "nothing to add"},
        "custom": {"name": "TooMuch", "args": [1001, 1000]},
        "history": True,
        "fees": ["maxFeePerGas", "maxPriorityFeePerGas"],
        "pending": 2,
        "mined": 2,
        "multicall": [42, 42],
        "poor": "InsufficientFundsError",
    }
