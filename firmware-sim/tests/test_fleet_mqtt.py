"""The command itself, on a real broker, against the test gateway: runs, signals, restarts, failures."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sim_broker import Broker, free_port, running
from sim_gateway import NANO, PRICES, SimGateway

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 60


def start(port: int, *arguments: str, ignore_sigint: bool = False) -> subprocess.Popen:
    command = [sys.executable, "-m", "firmware_sim", "fleet", "--port", str(port), *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignore_sigint else None,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            process.kill()
    return process.returncode, out, err


def run(port: int, *arguments: str) -> tuple[int, dict, str]:
    code, out, err = finish(start(port, "--json", *arguments))
    return code, json.loads(out), err


def by_service(gateway: SimGateway) -> dict[str, int]:
    totals: dict[str, int] = {}
    for account in gateway.accounts.values():
        totals[account.service] = totals.get(account.service, 0) + account.exact // NANO
    return totals


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_fleet_pays_and_earns(tmp_path, version: str) -> None:
    gateway = SimGateway()
    with running(tmp_path, gateway) as (broker, behind):
        code, report, err = run(
            broker.port, "--devices", "12", "--rate", "80", "--duration", "3", "--mqtt-version", version
        )
        assert code == 0, err
        assert (report["devices"], report["opened"], report["ok"]) == (12, 12, True)
        assert report["readings"] == report["accepted"] > 150
        assert (report["refused"], report["stopped"], report["outstanding"]) == ({}, {}, 0)
        money = {service: int(amount) for service, amount in (report["charged"] | report["earned"]).items()}
        assert money == by_service(gateway)
        assert report["charged"]["grid-power"] == str(report["register_units"]["grid-power"] * 150)
        assert 0 < report["receipt_ms_p50"] <= report["receipt_ms_p99"]
        assert set(behind.states.values()) == {b'{"state":"lost"}'}
        assert len(behind.states) == 12


def test_a_replay_sends_every_row_once(tmp_path) -> None:
    rows = [(day, minute, 700 + 13 * minute % 90, minute % 3, 0, minute % 2) for day in (1, 2) for minute in range(60)]
    path = tmp_path / "meter.csv"
    lines = ["day,minute,watts,kitchen_wh,laundry_wh,heating_wh", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    expected = sum(sum(row[2] for row in rows if row[0] == day) // 60 for day in (1, 2))
    expected += sum(row[3] + row[4] + row[5] for row in rows)
    gateway = SimGateway()
    with running(tmp_path, gateway) as (broker, _):
        code, report, err = run(broker.port, "--replay", str(path))
        assert code == 0, err
        assert (report["devices"], report["accepted"], report["readings"]) == (8, 480, 480)
        assert report["complete"] is True
        assert report["register_units"] == {"grid-power": expected}
        assert report["charged"] == {"grid-power": str(expected * 150)}
        assert by_service(gateway) == {"grid-power": expected * 150}
        assert {len(account.accepted) for account in gateway.accounts.values()} == {60}


def test_state_on_disk_carries_over_to_the_next_run(tmp_path) -> None:
    gateway = SimGateway()
    arguments = ("--devices", "6", "--rate", "60", "--duration", "2", "--state-dir", str(tmp_path / "state"))
    with running(tmp_path, gateway) as (broker, _):
        first_code, first, err = run(broker.port, *arguments)
        assert first_code == 0, err
        opened = gateway.messages["open"]
        code, second, err = run(broker.port, *arguments, "--sync")
        assert code == 0, err
        assert gateway.messages["open"] == opened, "nothing was opened again"
        assert second["refused"] == {}
        assert int(second["charged"]["grid-power"]) > int(first["charged"]["grid-power"])
        money = {service: int(amount) for service, amount in (second["charged"] | second["earned"]).items()}
        assert money == by_service(gateway)


def test_a_killed_fleet_loses_nothing_that_it_had_sent(tmp_path) -> None:
    gateway = SimGateway()
    arguments = ("--devices", "6", "--rate", "60", "--state-dir", str(tmp_path / "state"))
    with running(tmp_path, gateway) as (broker, _):
        process = start(broker.port, "--progress-json", *arguments)
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["accepted"] > 60:
                break
        process.kill()
        finish(process)
        opened = gateway.messages["open"]
        code, report, err = run(broker.port, *arguments, "--duration", "2")
        assert code == 0, err
        assert report["refused"] == {}
        assert gateway.messages["open"] == opened == 6
        money = {service: int(amount) for service, amount in (report["charged"] | report["earned"]).items()}
        assert money == by_service(gateway)


def test_forgotten_state_is_adopted_and_the_meters_go_on(tmp_path) -> None:
    gateway = SimGateway()
    arguments = ("--devices", "6", "--rate", "60", "--duration", "2")
    with running(tmp_path, gateway) as (broker, _):
        run(broker.port, *arguments)
        code, report, err = run(broker.port, *arguments)
        assert code == 0, err
        assert report["duplicates"] == 6
        assert report["refused"] == {}
        money = {service: int(amount) for service, amount in (report["charged"] | report["earned"]).items()}
        assert money == by_service(gateway)


def test_a_broker_that_restarts_costs_nothing(tmp_path) -> None:
    gateway = SimGateway()
    with running(tmp_path, gateway) as (broker, _):
        process = start(broker.port, "--json", "--devices", "6", "--rate", "60", "--duration", "8")
        time.sleep(3)
        broker.stop()
        time.sleep(0.5)
        broker.start()
        code, out, err = finish(process)
        report = json.loads(out)
        assert code == 0, err
        assert report["opened"] == 6
        assert (report["outstanding"], report["superseded"], report["stopped"]) == (0, 0, {})
        assert report["accepted"] == report["readings"]
        money = {service: int(amount) for service, amount in (report["charged"] | report["earned"]).items()}
        assert money == by_service(gateway)


@pytest.mark.parametrize(
    ("number", "ignored"), [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)]
)
def test_a_signal_ends_it_with_its_summary(tmp_path, number: int, ignored: bool) -> None:
    with running(tmp_path, SimGateway()) as (broker, _):
        process = start(broker.port, "--progress-json", "--devices", "3", "--rate", "30", ignore_sigint=ignored)
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["accepted"] > 5:
                break
        process.send_signal(number)
        code, out, err = finish(process)
        lines = [json.loads(line) for line in out.splitlines()]
        assert [line["type"] for line in lines[:-1]] == ["progress"] * (len(lines) - 1)
        assert lines[-1]["type"] == "summary"
        assert lines[-1]["ok"] is True
        assert lines[-1]["accepted"] == lines[-1]["readings"]
        assert code == 0, err
        assert "readings accepted" in err


def test_it_ends_with_its_parent(tmp_path) -> None:
    with running(tmp_path, SimGateway()) as (broker, _):
        fleet = [sys.executable, "-m", "firmware_sim", "fleet", "--port", str(broker.port), "--devices", "2"]
        code = "import subprocess, sys; subprocess.run(sys.argv[1:])"
        parent = subprocess.Popen(
            [sys.executable, "-c", code, *fleet, "--progress-json", "--with-parent"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert parent.stdout is not None
        for line in parent.stdout:
            if json.loads(line)["opened"] == 2:
                break
        parent.kill()
        out, _err = parent.communicate(timeout=PATIENCE_S)
        last = json.loads(out.splitlines()[-1])
        assert (last["type"], last["problem"]) == ("summary", "the process that started the fleet is gone")


def test_no_broker_is_one_sentence(tmp_path) -> None:
    code, report, err = run(free_port(), "--devices", "2", "--start-timeout", "1")
    assert code == 1
    assert report["problem"] == "the broker could not be reached within 1 s"
    assert "Traceback" not in err


def test_a_port_that_is_no_broker(tmp_path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        code, report, err = run(silent.getsockname()[1], "--devices", "2", "--start-timeout", "2")
    assert code == 1
    assert "could not be reached" in report["problem"]
    assert "Traceback" not in err


def test_no_offer_and_no_opening_are_told_apart(tmp_path) -> None:
    broker = Broker(tmp_path)
    broker.start()
    try:
        code, report, _ = run(broker.port, "--devices", "2", "--start-timeout", "2")
        assert code == 1
        assert report["problem"] == "no valid offer from the gateway within 2 s"
    finally:
        broker.stop()
    with running(tmp_path, SimGateway(prices={"water": PRICES["water"]})) as (other, _):
        code, report, _ = run(other.port, "--devices", "1", "--start-timeout", "2")
        assert code == 1
        assert report["problem"] == "no device was opened within 2 s"


def test_a_refused_device_is_named_and_fails_the_run(tmp_path) -> None:
    gateway = SimGateway()
    gateway.open_refusals = ["channel_taken"]
    with running(tmp_path, gateway) as (broker, _):
        code, report, err = run(broker.port, "--devices", "4", "--rate", "20", "--duration", "2")
        assert code == 1
        assert report["refused"] == {"channel_taken": 1}
        assert list(report["stopped"].values()) == ["opening was refused: channel_taken"]
        assert "channel_taken" in err


def test_a_fleet_closes_at_the_end(tmp_path) -> None:
    gateway = SimGateway()
    gateway.unanswered = 2  # they are asked again
    with running(tmp_path, gateway) as (broker, _):
        code, report, err = run(
            broker.port, "--devices", "12", "--rate", "80", "--duration", "2", "--close-at-end",
            "--state-dir", str(tmp_path / "state"),
        )  # fmt: skip
        assert code == 0, err
        paying = [account for account in gateway.accounts.values() if not account.earns]
        assert report["closed"] == len(paying) == sum(account.closed for account in paying)
        assert report["refunded"] == str(sum(account.refunded for account in paying))
        assert all(account.balance == account.exact // NANO for account in paying)
        assert "channels closed" in err
        # The same fleet again opens them again, with new deposits.
        code, again, err = run(
            broker.port, "--devices", "12", "--rate", "80", "--duration", "2", "--state-dir", str(tmp_path / "state")
        )
        assert code == 0, err
        assert (again["opened"], again["closed"], again["ok"]) == (12, 0, True)
        assert not any(account.closed for account in paying)
        assert again["charged"]["grid-power"] != report["charged"]["grid-power"]


def test_channels_that_cannot_be_closed_are_told(tmp_path) -> None:
    gateway = SimGateway()
    gateway.close_refusals = ["bad_signature"]
    with running(tmp_path, gateway) as (broker, _):
        code, report, _ = run(broker.port, "--devices", "1", "--rate", "20", "--duration", "1", "--close-at-end")
    assert code == 1
    assert report["stopped"] == {"home-001": "closing: refused, bad_signature"}
    assert report["closed"] == 0
