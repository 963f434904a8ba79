"""`metergate demo` as a command: exit codes, JSON, signals, ports, replay, and its figures against the chain."""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from web3 import Web3

from tests.support.demo_process import METERGATE, Child, Demo, command, free_port, one_sentence, rpc
from tests.support.outsider_chain import ChainView
from tests.support.outsider_link import Connection
from tests.support.outsider_signing import checked_offer, key

COUNTS = ("devices", "channels", "readings", "payments", "refused", "duplicates", "settlements", "blocks", "seed")
AMOUNTS = ("charged", "claimed", "offset", "settled", "paid_out", "fees")
TIMES = ("receipt_ms_p50", "receipt_ms_p99")
PAYOUTS = "0x" + (b"MetergatePay" + (1).to_bytes(8, "big")).hex()
IGNORING_SIGINT = ("/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh")


@pytest.fixture
def demos() -> Iterator[list[Child]]:
    """Children of one test; they are ended whatever happens."""
    children: list[Child] = []
    yield children
    for child in children:
        child.end()


def start(demos: list[Child], *options: str, prefix: tuple[str, ...] = ()) -> Demo:
    demo = Demo(*options, prefix=prefix)
    demos.append(demo)
    return demo


def only_json(demo: Demo) -> dict[str, Any]:
    """Check that stdout is one line, one JSON object, and return it."""
    assert len(demo.stdout.splitlines()) == 1, demo.report()
    result = json.loads(demo.stdout)
    assert isinstance(result, dict)
    return result


def well_formed(result: dict[str, Any]) -> None:
    """Counts are JSON numbers, amounts decimal strings, conserved is a boolean."""
    for name in COUNTS:
        assert type(result[name]) is int, (name, result[name])
        assert result[name] >= 0
    for name in AMOUNTS:
        assert isinstance(result[name], str), (name, result[name])
        assert re.fullmatch(r"0|[1-9][0-9]*", result[name]), (name, result[name])
    for name in TIMES:
        assert type(result[name]) in (int, float), (name, result[name])
        assert 0 < result[name] < 60_000
    assert type(result["conserved"]) is bool


def adds_up(result: dict[str, Any]) -> None:
    """What can be said of any run that ended well."""
    well_formed(result)
    amounts = {name: int(result[name]) for name in AMOUNTS}
    assert result["conserved"] is True
    assert amounts["settled"] == amounts["claimed"] > 0, "all that was claimed was moved at the end"
    assert amounts["charged"] == amounts["claimed"] + amounts["offset"], "the last settlement leaves nothing open"
    assert result["readings"] >= result["payments"] > 0
    assert result["settlements"] >= 1
    assert result["receipt_ms_p50"] <= result["receipt_ms_p99"]


class ChainWatch(threading.Thread):
    """Reads from the chain what the demo will say at its end, all at once and again, until its port closes."""

    def __init__(self, demo: Demo) -> None:
        super().__init__(daemon=True)
        demo.broker_answers()
        connection = Connection(demo.mqtt_port, "watch")
        offer = checked_offer(connection.newest_offer())
        connection.close()
        self._lanes = [lane["payTo"] for lane in offer["lanes"]]
        self._view = ChainView(demo.url, bytes.fromhex(offer["asset"][2:]), PAYOUTS)
        self.block = -1
        self.claimed = self.settled = self.paid = 0

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._look()

    def _look(self) -> None:
        view = self._view
        functions, payouts = view.settlement.functions, view.payouts
        assert payouts is not None
        with view.web3.batch_requests() as batch:
            # The block first: what is read after it holds at least what was in it.
            batch.add(view.web3.eth.get_block("latest"))
            for lane in self._lanes:
                batch.add(functions.receivers(Web3.to_checksum_address(lane), view.token.address))
            batch.add(view.web3.eth.get_logs({"fromBlock": 0, "address": payouts.address}))
            head, *receivers, logs = batch.execute()
        self.claimed, self.settled = (sum(pair) for pair in zip(*receivers, strict=True))
        self.paid = sum(payouts.events.Paid().process_log(log)["args"]["amount"] for log in logs)
        self.block = head["number"]


def payments_per_second(demo: Demo) -> float:
    """Read it off the lines of progress, from the first with payments on."""
    seen = [(at, re.match(r" *([0-9,]+) payments", text)) for at, text in demo.said]
    points = [(at, int(found[1].replace(",", ""))) for at, found in seen if found]
    (first_at, first), (last_at, last) = next(each for each in points if each[1] > 0), points[-1]
    assert last_at > first_at, demo.report()
    return (last - first) / (last_at - first_at)


def test_the_default_load_pays_out_and_its_json_is_the_chains(demos: list[Child]) -> None:
    demo = start(demos, "--json")
    watch = ChainWatch(demo)
    watch.start()
    demo.wait_for("settlement #1", 60)
    demo.wait_for(r"^ *1[0-9][0-9] payments", 60)
    rate = payments_per_second(demo)
    demo.signal(signal.SIGTERM)
    assert demo.ended() == 0, demo.report()
    watch.join(10)
    result = only_json(demo)
    adds_up(result)
    assert (result["devices"], result["seed"]) == (25, 1)
    assert int(result["paid_out"]) > 0
    assert int(result["fees"]) > 0
    assert watch.block >= result["blocks"], "the chain was not read after the last settlement"
    read = (watch.claimed, watch.settled, watch.paid)
    assert read == tuple(int(result[name]) for name in ("claimed", "settled", "paid_out"))
    assert rate >= 10.0, f"the default load makes {rate:.1f} payments a second"


def test_signals_and_its_duration_end_it_with_its_summary(demos: list[Child]) -> None:
    """Four demos at once, because each needs some seconds until money has flowed."""
    options = ("--devices", "8", "--seed", "7")
    timed = start(demos, *options, "--json", "--duration", "6")
    plain = start(demos, *options, prefix=IGNORING_SIGINT)
    usual = start(demos, *options, "--json")
    ignoring = start(demos, *options, "--json", prefix=IGNORING_SIGINT)
    for demo, number in ((usual, signal.SIGINT), (ignoring, signal.SIGINT), (plain, signal.SIGTERM)):
        demo.wait_for("charged 0.0*[1-9]")
        demo.signal(number)
    for demo in (timed, plain, usual, ignoring):
        assert demo.ended() == 0, demo.report()
        for port in (demo.mqtt_port, demo.rpc_port):
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0, f"port {port} is still open"
    for demo in (timed, usual, ignoring):
        result = only_json(demo)
        adds_up(result)
        assert (result["seed"], result["devices"]) == (7, 8)
        assert "conserved to the unit" in demo.stderr
    assert "conserved to the unit" in plain.stdout
    assert plain.stderr == "", plain.report()


def test_nothing_charged_is_exit_code_one_and_still_a_summary(demos: list[Child]) -> None:
    """Ended before any device could pay: no money moved, so it is no success."""
    demo = start(demos, "--json", "--devices", "1")
    demo.wait_for("get their money in genesis")
    demo.signal(signal.SIGTERM)
    assert demo.ended() in (0, 1), demo.report()
    result = only_json(demo)
    well_formed_without_times = {name: result[name] for name in (*COUNTS, *AMOUNTS)}
    assert all(value is not None for value in well_formed_without_times.values())
    assert demo.process.returncode == (0 if int(result["settled"]) > 0 else 1)
    assert result["conserved"] is True
    assert "Traceback" not in demo.stderr


def test_funded_addresses_have_their_money_before_the_port_answers(demos: list[Child]) -> None:
    accounts = [key("funded", number).address for number in range(3)]
    demo = start(demos, "--json", "--devices", "1", *(word for each in accounts for word in ("--fund", each)))
    demo.rpc_answers()
    token = "0x" + (b"MetergateUSD" + (1).to_bytes(8, "big")).hex()
    for account in accounts:
        assert int(rpc(demo.url, "eth_getBalance", account, "latest"), 16) == 10 * 10**18
        call = {"to": token, "data": "0x70a08231" + account[2:].lower().rjust(64, "0")}
        assert int(rpc(demo.url, "eth_call", call, "latest"), 16) == 1_000 * 10**6
        assert int(rpc(demo.url, "eth_call", call, "0x0"), 16) == 1_000 * 10**6
    assert int(rpc(demo.url, "eth_chainId"), 16) == 31402


def test_its_children_end_with_it_even_when_it_is_killed(demos: list[Child]) -> None:
    demo = start(demos, "--json", "--devices", "2")
    demo.wait_for("payments")
    children = _children(demo.pid)
    assert len(children) == 2, "the broker and the fleet are processes of their own"
    demo.process.kill()
    deadline = time.monotonic() + 60
    while left := [pid for pid in children if _alive(pid)]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"{[children[pid] for pid in left]} ran on without their demo")
        time.sleep(0.2)


def test_a_fleet_that_dies_is_no_success(demos: list[Child]) -> None:
    demo = start(demos, "--json", "--devices", "8", "--duration", "60")
    demo.wait_for("charged 0.0*[1-9]")
    _kill_child(demo, "firmware_sim")
    assert demo.ended(30) != 0, demo.report()
    assert "Unknown child process" not in demo.stderr, demo.report()
    assert "Traceback" not in demo.stderr, demo.report()


def test_a_broker_that_dies_ends_the_demo(demos: list[Child]) -> None:
    demo = start(demos, "--json", "--devices", "8", "--duration", "60")
    demo.wait_for("charged 0.0*[1-9]")
    _kill_child(demo, "gateway.broker")
    try:
        assert demo.ended(15) != 0, demo.report()
    finally:
        demo.end(30)
    said = [line for line in demo.stderr.splitlines() if "broker" in line and not line.startswith("broker on")]
    assert said, demo.report()
    assert "Traceback" not in demo.stderr, demo.report()


def _kill_child(demo: Demo, name: str) -> None:
    (pid,) = (pid for pid, command_line in _children(demo.pid).items() if name in command_line)
    os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> dict[int, str]:
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text()
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):
            continue
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- what cannot start --


@pytest.mark.parametrize("option", ["--mqtt-port", "--rpc-port", "--http-port"])
def test_an_occupied_port_is_one_sentence(option: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = str(holder.getsockname()[1])
        others = {"--mqtt-port", "--rpc-port", "--http-port"} - {option}
        free = [text for other in others for text in (other, str(free_port()))]
        child = command("demo", "--json", "--devices", "1", option, taken, *free)
    one_sentence(child, taken, option)
    assert child.stdout == ""


def test_both_ports_the_same_is_one_sentence() -> None:
    port = str(free_port())
    one_sentence(command("demo", "--devices", "1", "--mqtt-port", port, "--rpc-port", port), port)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fund", "0x12"],
        ["--fund", "nobody"],
        ["--devices", "0"],
        ["--devices", "-1"],
        ["--duration", "0"],
        ["--mqtt-port", "70000"],
        ["--seed", "x"],
        ["--rate", "0"],
        ["--rate", "fast"],
        ["--rate", "nan"],
    ],
    ids=" ".join,
)
def test_a_wrong_argument_is_explained(arguments: list[str]) -> None:
    ports = ["--mqtt-port", str(free_port()), "--rpc-port", str(free_port())]
    child = command("demo", "--json", "--duration", "2", *ports, *arguments)
    assert child.process.returncode == 2, child.report()
    assert "Traceback" not in child.stderr, child.report()
    assert arguments[1] in child.stderr.strip().splitlines()[-1], child.report()
    assert child.stdout == ""


# -- replay --

HEADER = "day,minute,watts,kitchen_wh,laundry_wh,heating_wh"


def household(seed: int) -> list[list[int]]:
    """Rows of a household: two days, minutes missing, one of the meters of one day without any use."""
    random = Random(seed)
    rows = []
    for day in (3, 4):
        for minute in range(60):
            if random.random() < 0.1:
                continue
            heating = 0 if day == 4 else random.choice((0, 0, 17, 18))
            rows.append([day, minute, random.randrange(70, 9_000), random.randrange(3), random.randrange(2), heating])
    return rows


def test_a_replay_charges_what_anyone_computes_from_the_file(demos: list[Child], tmp_path: Path) -> None:
    seed = 20_070_201
    print(f"seed {seed}")
    rows = household(seed)
    path = tmp_path / "household.csv"
    path.write_text("\n".join([HEADER, *(",".join(map(str, row)) for row in rows)]) + "\n")
    demo = start(demos, "--json", "--replay", str(path))
    assert demo.ended(120) == 0, demo.report()
    result = only_json(demo)
    adds_up(result)

    registers = []
    for day in (3, 4):
        of_day = [row for row in rows if row[0] == day]
        registers.append(sum(row[2] for row in of_day) // 60)
        registers += [sum(row[column] for row in of_day) for column in (3, 4, 5)]
    price = 150_000_000_000
    charged = sum(register * price // 10**9 for register in registers)
    assert result["by_service"] == {
        "grid-power": {
            "devices": 8, "register_units": sum(registers), "price": str(price), "charged": str(charged)
        }
    }  # fmt: skip
    assert result["charged"] == str(charged)
    assert result["payments"] == result["readings"] == 4 * len(rows), "every row is one reading of each meter"
    assert (result["devices"], result["channels"]) == (8, 8)


BAD_FILES: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "header only": HEADER.encode() + b"\n",
    "another header": b"a,b,c\n1,2,3\n",
    "binary": bytes(range(256)) * 20,
    "a NUL": HEADER.encode() + b"\n1,0,3\x000,0,0,0\n",
    "no UTF-8": HEADER.encode() + b"\n1,0,\xff,0,0,0\n",
    "a word": HEADER.encode() + b"\n1,0,many,0,0,0\n",
    "a negative": HEADER.encode() + b"\n1,0,-5,0,0,0\n",
    "a point": HEADER.encode() + b"\n1,0,5.5,0,0,0\n",
    "a column short": HEADER.encode() + b"\n1,0,5,0,0\n",
    "an endless field": HEADER.encode() + b"\n1,0," + b"9" * 200_000 + b",0,0,0\n",
    "an endless quote": HEADER.encode() + b'\n1,0,"' + b"9\n" * 100_000,
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_cannot_be_replayed_is_one_sentence(case: str, tmp_path: Path) -> None:
    path = tmp_path / "meters.csv"
    content = BAD_FILES[case]
    if content is not None:
        path.write_bytes(content)
    child = command(
        "demo", "--json", "--replay", str(path), "--mqtt-port", str(free_port()), "--rpc-port", str(free_port())
    )
    line = one_sentence(child, "meters.csv")
    assert len(line) < 400, "the sentence quotes the file"
    assert child.stdout == ""


def test_a_directory_is_no_file_to_replay(tmp_path: Path) -> None:
    ports = ["--mqtt-port", str(free_port()), "--rpc-port", str(free_port())]
    one_sentence(command("demo", "--replay", str(tmp_path), *ports), tmp_path.name)


def test_the_command_is_installed_under_its_name() -> None:
    child = Child([str(Path(sys.executable).parent / "metergate"), "--version"])
    assert child.ended() == 0
    assert re.fullmatch(r"metergate \d+\.\d+\.\d+\n", child.stdout)
    assert METERGATE[0] == sys.executable
