"""The device of docs/join.md runs as it stands against a demo, and the page says what happens."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mosquitto import free_port

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "join.md").read_text(encoding="utf-8")
# What the page invites to under "Try to cheat it", put before the program's last two lines.
CHEATS = """
paid = {"channelId": "0x" + channel.hex(), "seq": seq, "register": register, "time": 1, "offer": offer["id"],
        "maxClaimableAmount": str(ceiling),
        "signature": sign(METER, X402, "Voucher", VOUCHER, {"channelId": channel, "maxClaimableAmount": ceiling})}
ask("usage", paid)
ask("usage", paid | {"seq": seq + 1, "register": register + 10})
ask("usage", paid | {"seq": seq + 1, "register": register - 1})
ask("usage", paid | {"seq": seq + 1, "signature": sign(PAYER, X402, "Voucher", VOUCHER,
                     {"channelId": channel, "maxClaimableAmount": ceiling})})
"""


def _program() -> str:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    return str(program)


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A running demo with one device of its own and money for the page's address."""
    (payer,) = set(re.findall(r"--fund (0x[0-9A-Fa-f]{40})", PAGE))
    port = free_port()
    command = [sys.executable, "-m", "gateway", "demo", "--devices", "1", "--json", "--fund", payer]
    command += ["--mqtt-port", str(port), "--rpc-port", str(free_port()), "--http-port", str(free_port())]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("broker on"):
            break
    try:
        yield port, process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


@pytest.mark.slow
def test_the_device_of_the_page_pays_and_cannot_cheat(demo, tmp_path: Path) -> None:
    port, process = demo
    script = tmp_path / "device.py"
    script.write_text(_program().replace("client.disconnect()", CHEATS + "client.disconnect()"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(port)], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    receipts = [json.loads(line[line.index("{") :]) for line in done.stdout.splitlines()]
    assert [receipt["status"] for receipt in receipts[:4]] == ["accepted"] * 4
    assert (receipts[0]["seq"], receipts[0]["balance"]) == (0, "2000000")
    assert receipts[3]["chargedCumulativeAmount"] == "630000"
    assert receipts[3]["lastRegister"] == 4_200
    duplicate, low, back, forged = receipts[4:]
    assert (duplicate["status"], duplicate["chargedCumulativeAmount"]) == ("duplicate", "630000")
    assert (low["reason"], low["requiredCeiling"]) == ("ceiling_too_low", str(4_210 * 150))
    assert back["reason"] == "register_lower"
    assert forged["reason"] == "bad_signature"

    time.sleep(9)  # a settlement, every 8 s in the demo
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    summary = json.loads(out.splitlines()[-1])
    assert summary["conserved"] is True
    assert int(summary["charged"]) >= 630_000
    assert int(summary["settled"]) >= 630_000
