"""The frame of the benchmarks: what it writes, what it prints, and how it fails. No load here."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks import frame
from benchmarks.__main__ import SUITES
from benchmarks.frame import Benchmark, BenchmarkFailed, Row, Suite
from benchmarks.site import ROOT, Child

MACHINE = {"cpu": "a cpu", "cores": 2, "versions": {"x": "1"}}


def _good() -> Iterable[Row]:
    yield Row("speed", 1_234, "payments/s", **frame.against(1_234, 2_468, "echo"))
    yield Row("latency", 1.5, "ms")


def _bad() -> Iterable[Row]:
    raise BenchmarkFailed("no broker")


def _suite(*benchmarks: Benchmark, name: str = "first", default: bool = True) -> Suite:
    return Suite(name, benchmarks, default=default)


def _run(path: Path, *suites: Suite, wanted: tuple[str, ...] = ()) -> int:
    return frame.main(suites, wanted, lambda: MACHINE, path)


def test_the_json_form(tmp_path: Path) -> None:
    path = tmp_path / "results" / "latest.json"
    assert _run(path, _suite(Benchmark("good", _good, ("speed", "latency")))) == 0
    written = json.loads(path.read_text())
    assert written == {
        "machine": MACHINE,
        "results": [
            {
                "suite": "first",
                "name": "speed",
                "value": 1234,
                "unit": "payments/s",
                "ratio": 0.5,
                "against": "echo",
            },
            {"suite": "first", "name": "latency", "value": 1.5, "unit": "ms", "ratio": None, "against": None},
        ],
    }
    assert list(path.parent.iterdir()) == [path], "nothing else is left behind"


def test_each_run_rewrites_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "latest.json"
    suites = (_suite(Benchmark("good", _good)), _suite(Benchmark("other", _good), name="second"))
    assert _run(path, *suites) == 0
    assert _run(path, *suites, wanted=("second",)) == 0
    assert {row["suite"] for row in json.loads(path.read_text())["results"]} == {"second"}


def test_a_benchmark_that_does_not_run_is_named_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "latest.json"
    assert _run(path, _suite(Benchmark("broken", _bad), Benchmark("good", _good))) == 1
    assert [row["name"] for row in json.loads(path.read_text())["results"]] == ["speed", "latency"]
    assert "did not run: first: broken: BenchmarkFailed: no broker" in capsys.readouterr().err


@pytest.mark.parametrize(
    "benchmark",
    [Benchmark("empty", lambda: ()), Benchmark("incomplete", _good, ("speed", "memory"))],
    ids=["without figures", "without one that was promised"],
)
def test_a_missing_figure_is_a_failure(tmp_path: Path, benchmark: Benchmark) -> None:
    assert _run(tmp_path / "latest.json", _suite(benchmark)) == 1


def test_a_mistake_in_a_benchmark_is_not_swallowed(tmp_path: Path) -> None:
    def mistaken() -> Iterable[Row]:
        raise TypeError("a mistake")

    with pytest.raises(TypeError):
        _run(tmp_path / "latest.json", _suite(Benchmark("mistaken", mistaken)))


def test_only_defaults_run_unasked(tmp_path: Path) -> None:
    path = tmp_path / "latest.json"
    slow = _suite(Benchmark("slow", _bad), name="slow", default=False)
    assert _run(path, _suite(Benchmark("good", _good)), slow) == 0
    assert _run(path, slow, wanted=("slow",)) == 1


def test_an_unknown_suite_is_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "latest.json"
    assert _run(path, _suite(Benchmark("good", _good)), wanted=("fist_payment",)) == 2
    assert not path.exists()
    assert "fist_payment" in capsys.readouterr().err


def test_the_table_lines_up() -> None:
    results = frame.run([_suite(Benchmark("good", _good))], lambda text: None).results
    head, first, second = frame.table(results).splitlines()
    assert head.split() == ["suite", "name", "value", "unit", "ratio", "against"]
    assert first.split() == ["first", "speed", "1,234", "payments/s", "0.5", "echo"]
    assert second.split() == ["first", "latency", "1.5", "ms"]
    assert first.index("payments/s") == second.index("ms") == head.index("unit")


def test_the_command_exits_with_the_frames_code() -> None:
    command = [sys.executable, "-m", "benchmarks", "--suite", "no_such_suite"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "there are first_payment, fresh_clone, execution" in done.stderr


def test_names_are_unique() -> None:
    names = [(suite.name, name) for suite in SUITES for each in suite.benchmarks for name in each.names]
    assert len(names) == len(set(names)) > 0
    assert [suite.name for suite in SUITES if not suite.default] == ["fresh_clone", "execution"]


@pytest.mark.parametrize(
    ("percent", "of", "expected"),
    [(50, 100, 50), (99, 100, 99), (100, 100, 100), (1, 100, 1), (99.9, 1_000, 999), (99.9, 1_001, 1_000), (50, 1, 1)],
)
def test_percentiles_are_of_the_nearest_rank(percent: float, of: int, expected: int) -> None:
    assert frame.percentile(range(of, 0, -1), percent) == expected


def test_a_child_that_dies_is_a_failed_benchmark() -> None:
    with Child("generator_child") as child:
        with pytest.raises(BenchmarkFailed, match="connect"):
            child.ask(do="connect", port=1, devices=1, connections=1, echo=True)
        child.process.kill()
        with pytest.raises(BenchmarkFailed, match="ended with code"):
            child.ask(do="open")
    assert child.process.returncode is not None
