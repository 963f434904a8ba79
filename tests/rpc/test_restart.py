"""A chain that ends and starts again, and one that cannot start."""

import signal
import socket
import threading
from pathlib import Path

import pytest
from eth_account.signers.local import LocalAccount

from tests.rpc.served import Refused, Served, key, transfer
from tests.support.demo_process import METERGATE, Child, free_port


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, alice: LocalAccount) -> Path:
    """Return the directory of a chain that was made and ended in order."""
    data = tmp_path_factory.mktemp("made") / "data"
    child = Served(data, alice)
    try:
        child.answers().mined(child.send(transfer(alice, 0)))
        child.signal(signal.SIGTERM)
        assert child.ended() == 0, child.report()
    finally:
        child.end()
    return data


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_every_acknowledged_transaction_is_mined(tmp_path: Path, alice: LocalAccount, number: signal.Signals) -> None:
    raws = [transfer(alice, nonce) for nonce in range(600)]
    sent: list[str] = []
    enough = threading.Event()
    child = Served(tmp_path / "data", alice)

    def send() -> None:
        for raw in raws:
            try:
                sent.append(child.send(raw))
            except (OSError, ValueError, Refused):  # it is being ended: this one was not acknowledged
                return
            if len(sent) == 60:
                enough.set()

    sender = threading.Thread(target=send)
    try:
        child.answers()
        sender.start()
        assert enough.wait(30), child.report()
        child.signal(number)
        assert child.ended() == (-number if number == signal.SIGKILL else 0), child.report()
        assert "Traceback" not in child.stderr
    finally:
        child.end()
        sender.join(30)
    assert 60 <= len(sent) < len(raws), "the signal came in the middle"
    again = Served(tmp_path / "data", alice)
    try:
        again.answers()
        assert all(again.mined(tx_hash)["status"] == "0x1" for tx_hash in sent)
        assert int(again.rpc("eth_getTransactionCount", alice.address, "latest"), 16) >= len(sent)
    finally:
        again.end()


def refused(data: Path, *options: str, port: int) -> str:
    """Run a chain that cannot start; returns its one sentence."""
    child = Child([*METERGATE, "chain", "--data", str(data), "--port", str(port), *options])
    try:
        assert child.ended(30) == 2, child.report()
    finally:
        child.end()
    assert child.stdout == ""
    [sentence] = child.stderr.splitlines()
    assert sentence.startswith("metergate: ")
    return sentence


@pytest.fixture
def port() -> int:
    return free_port()


def test_another_chain_id(made: Path, port: int) -> None:
    assert "has id 31402: give --chain-id 31402" in refused(made, "--chain-id", "5", port=port)


def test_fund_after_genesis(made: Path, port: int) -> None:
    late = key("late").address
    assert f"{late.lower()} is not in the genesis" in refused(made, "--fund", late, port=port)


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = int(taken.getsockname()[1])
        assert f"port {number} on 127.0.0.1 cannot be used" in refused(tmp_path / "data", port=number)
    assert not (tmp_path / "data").exists()


def test_a_data_directory_that_is_a_file(tmp_path: Path, port: int) -> None:
    (tmp_path / "data").write_text("")
    assert "cannot use the data directory" in refused(tmp_path / "data", port=port)


def test_two_processes_on_one_directory(tmp_path: Path, alice: LocalAccount, port: int) -> None:
    child = Served(tmp_path / "data", alice)
    try:
        child.answers()
        assert "cannot be opened" in refused(tmp_path / "data", port=port)
        child.mined(child.send(transfer(alice, 0)))
    finally:
        child.end()


@pytest.mark.parametrize("what", ["genesis.json cut", "genesis.json other", "log flipped", "snapshot flipped"])
def test_a_damaged_file_is_named(made: Path, tmp_path: Path, port: int, what: str) -> None:
    name, harm = what.split()
    data = tmp_path / "data"
    (data / "blocks").mkdir(parents=True)
    for file in sorted(made.rglob("*")):
        if file.is_file():
            (data / file.relative_to(made)).write_bytes(file.read_bytes())
    patterns = {"log": "log-*.bin", "snapshot": "state-*.snap", "genesis.json": name}
    damaged = sorted(data.rglob(patterns[name]))[0]
    content = damaged.read_bytes()
    middle = len(content) // 2
    harmed = {
        "cut": content[:middle],
        "other": b'{"chainId": 31402, "genesis": [1]}',
        "flipped": content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :],
    }
    damaged.write_bytes(harmed[harm])
    assert damaged.name in refused(data, port=port)
