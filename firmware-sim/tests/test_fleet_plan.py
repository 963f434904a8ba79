"""Loads, the plan of a fleet, real readings from a file, counters."""

import itertools
import json
from collections import Counter

import pytest

from firmware_sim import plan
from firmware_sim.cli import main
from firmware_sim.counters import Latencies
from firmware_sim.loads import DAY_S, HOUR_S
from firmware_sim.replay import HEADER, ReplayError, read_tracks


def meter(kind: str, seed: int = 3):
    member = next(m for m in plan.fleet(24, seed) if m.kind == kind)
    return member, plan.meter_of(member, seed)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("home", 5_000, 40_000), ("pv", 8_000, 80_000), ("ev", 15_000, 250_000), ("water", 50, 2_500)],
)
def test_a_day_has_the_size_of_the_real_thing(kind: str, low: int, high: int) -> None:
    for seed in range(8):
        member, load = meter(kind, seed)
        days = [load.advance(DAY_S) for _ in range(3)]
        used = days[0] - member.opening_register
        assert low < used < high, (seed, used)
        assert days == sorted(days)


def test_registers_never_fall_and_do_not_depend_on_how_time_is_cut() -> None:
    for kind in ("home", "pv", "ev", "water"):
        _, coarse = meter(kind)
        _, fine = meter(kind)
        last = 0
        for _ in range(48):
            register = coarse.advance(1800)
            assert register >= last
            last = register
            stepped = [fine.advance(60) for _ in range(30)][-1]
            assert stepped == register


def test_the_sun_does_not_shine_at_night_and_homes_never_sleep() -> None:
    _, sun = meter("pv")
    evening = sun.advance(10 * HOUR_S)  # from half past ten to half past eight
    assert sun.advance(9 * HOUR_S) == evening
    assert sun.advance(3 * HOUR_S) > evening
    _, home = meter("home")
    before = home.advance(0)
    assert home.advance(HOUR_S) > before


def test_water_comes_in_bursts() -> None:
    _, water = meter("water")
    registers = [water.advance(240) for _ in range(360)]
    still = sum(a == b for a, b in itertools.pairwise(registers))
    assert 100 < still < 359


def test_a_sensor_counts_its_readings_and_meters_go_on_after_a_rebase() -> None:
    _, sensor = meter("air")
    assert [sensor.advance(0), sensor.advance(500)] == [1, 2]
    sensor.rebase(77)
    assert sensor.advance(1) == 78
    _, home = meter("home")
    home.rebase(500_000)
    assert 500_000 <= home.advance(60) < 500_400


def test_the_same_seed_makes_the_same_fleet() -> None:
    def prints(seed: int):
        members = plan.fleet(25, seed)
        choices = plan.Options(seed=seed)
        identities = [plan.identity_of(member, choices) for member in members]
        return [
            (m.device, i.meter_key.address, i.owner_key.address, i.salt, i.encoding, i.opening_register)
            for m, i in zip(members, identities, strict=True)
        ], [plan.meter_of(member, seed).advance(7200) for member in members]

    assert prints(5) == prints(5)
    ours, theirs = prints(5), prints(6)
    assert not {entry[1] for entry in ours[0]} & {entry[1] for entry in theirs[0]}
    assert ours[1] != theirs[1]


def test_parties_own_both_sides_and_several_devices() -> None:
    members = plan.fleet(120, 1)
    assert len({member.device for member in members}) == 120
    kinds = Counter(member.kind for member in members)
    assert kinds == {"home": 60, "pv": 20, "water": 20, "ev": 10, "air": 10}
    homes = {member.owner for member in members if member.kind == "home"}
    suns = {member.owner for member in members if member.kind == "pv"}
    assert suns <= homes
    assert len(suns) == 20
    paying = Counter(member.owner for member in members if not member.earns)
    assert sum(count > 1 for count in paying.values()) >= 10
    encodings = Counter(plan.identity_of(member, plan.Options()).encoding for member in members)
    assert min(encodings["json"], encodings["cbor"]) > 30
    pair = plan.fleet(2, 1)
    assert pair[0].owner == pair[1].owner
    assert pair[0].earns is not pair[1].earns


ROWS = [(1, 0, 59, 1, 0, 2), (1, 1, 61, 0, 0, 3), (1, 3, 119, 0, 5, 0), (2, 0, 30, 0, 0, 0), (2, 1, 29, 7, 0, 0)]


def write(path, rows, header=HEADER):
    lines = [",".join(header), *(",".join(str(cell) for cell in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_registers_of_a_file(tmp_path) -> None:
    tracks = {track.device: list(track.registers) for track in read_tracks(write(tmp_path / "m.csv", ROWS))}
    assert tracks == {
        "d01-main": [0, 2, 3],
        "d01-kitchen": [1, 1, 1],
        "d01-laundry": [0, 0, 5],
        "d01-heating": [2, 5, 5],
        "d02-main": [0, 0],
        "d02-kitchen": [0, 7],
        "d02-laundry": [0, 0],
        "d02-heating": [0, 0],
    }


@pytest.mark.parametrize(
    "row",
    [(1, 0, 5, 1, 0), (1, 0, -5, 1, 0, 0), (1, 0, "1.5", 1, 0, 0), (1, 0, "", 0, 0, 0), (1, 0, "9" * 13, 0, 0, 0)],
)
def test_a_broken_line_is_named(tmp_path, row) -> None:
    with pytest.raises(ReplayError, match="line 3"):
        read_tracks(write(tmp_path / "m.csv", [ROWS[0], row]))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"day,minute,watts,kitchen_wh,laundry_wh,heating_wh\n\x00" * 2])
def test_a_file_that_is_no_text(tmp_path, content: bytes, capsys) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    with pytest.raises(ReplayError):
        read_tracks(path)
    assert main(["addresses", "--replay", str(path)]) == 2
    assert "m.csv" in capsys.readouterr().err


def test_a_file_of_another_form(tmp_path, capsys) -> None:
    with pytest.raises(ReplayError, match="first line"):
        read_tracks(write(tmp_path / "m.csv", ROWS, ["day", "watts"]))
    with pytest.raises(ReplayError, match="no readings"):
        read_tracks(write(tmp_path / "m.csv", []))
    assert main(["addresses", "--replay", str(tmp_path / "none.csv")]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_addresses_cover_what_the_fleet_deposits(tmp_path, capsys) -> None:
    assert main(["addresses", "--devices", "12", "--seed", "4"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["device"] for row in rows] == [member.device for member in plan.fleet(12, 4)]
    for row, member in zip(rows, plan.fleet(12, 4), strict=True):
        assert ("payee" in row) is member.earns
        assert int(row["tokens"]) == member.wallet
        assert member.earns or member.wallet >= 100 * member.deposit
    path = write(tmp_path / "m.csv", [(1, 0, 60 * 67_162, 0, 0, 0)])
    assert main(["addresses", "--replay", str(path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["device"] for row in rows] == ["d01-main", "d01-kitchen", "d01-laundry", "d01-heating"]
    assert int(rows[0]["tokens"]) >= 67_162 * 150
    assert len({row["payer"] for row in rows}) == 1


def test_latencies_keep_their_precision_in_bounded_memory() -> None:
    latencies = Latencies()
    assert latencies.quantile_us(500) is None
    for value in range(1, 100_001):
        latencies.add(value)
    assert abs(latencies.quantile_us(500) - 50_000) <= 50_000 // 60
    assert abs(latencies.quantile_us(990) - 99_000) <= 99_000 // 60
    assert latencies.quantile_us(1000) <= 100_000
    assert len(latencies.buckets) < 1000


@pytest.mark.parametrize(
    "arguments",
    [
        ["fleet", "--devices", "0"],
        ["fleet", "--devices", "x"],
        ["fleet", "--rate", "0"],
        ["fleet", "--rate", "-1"],
        ["fleet", "--rate", "1.2345"],
        ["fleet", "--port", "70000"],
        ["fleet", "--gateway", "a/b"],
        ["fleet", "--authorizer", "0x12"],
        ["fleet", "--mqtt-version", "4"],
        ["addresses", "--seed", "-1"],
        [],
    ],
)
def test_bad_arguments_are_named(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err
