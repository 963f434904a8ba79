"""The frame of all measurements: suites of benchmarks, run one after the other, as a table and as JSON.

A suite is a list of benchmarks, a benchmark a function that returns rows. Figures that others take up are found by
suite and name, so names stay as they are once published.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

Number = int | float


class BenchmarkFailed(Exception):
    """A benchmark did not run; the message says why."""


# What goes wrong between processes, brokers and nodes. Anything else is a mistake of ours and ends the run.
FAILURES = (
    BenchmarkFailed,
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    subprocess.SubprocessError,
    httpx.HTTPError,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `ratio` is value ÷ the figure of `against`, measured in the same run or a stated limit."""

    name: str
    value: Number
    unit: str
    ratio: float | None = None
    against: str | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One measurement; `run` returns its rows, `names` those that must be among them."""

    title: str
    run: Callable[[], Iterable[Row]]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suite:
    """Benchmarks that belong together. `default`: part of a run that names no suite."""

    name: str
    benchmarks: tuple[Benchmark, ...]
    default: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run brought: rows of every suite as JSON values, and why benchmarks did not run."""

    results: list[dict[str, Any]]
    failures: list[str]


def against(value: Number, base: Number, name: str) -> dict[str, Any]:
    """Return the `ratio` and `against` of a row, rounded to what a measurement can tell."""
    return {"ratio": round(value / base, 3), "against": name}


def turns(name: str, unit: str, values: Sequence[float], base: Sequence[float], peer: str) -> Row:
    """Return the row of two sides that took turns: the median round, the median ratio of neighbouring rounds."""
    ratio = median(value / other for value, other in zip(values, base, strict=True))
    return Row(name, round(median(values)), unit, round(ratio, 3), peer)


def percentile(values: Iterable[Number], percent: float) -> Number:
    """Return the nearest-rank percentile, by tenths of a percent."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * round(percent * 10) // 1000) - 1]


def run(suites: Sequence[Suite], say: Callable[[str], None]) -> Outcome:
    """Run every benchmark of the suites; one that fails is reported and the others go on."""
    outcome = Outcome([], [])
    for suite in suites:
        for benchmark in suite.benchmarks:
            say(f"{suite.name}: {benchmark.title}")
            started = time.monotonic()
            try:
                rows = list(benchmark.run())
            except FAILURES as error:
                outcome.failures.append(f"{suite.name}: {benchmark.title}: {type(error).__name__}: {error}")
                say(f"  did not run: {error}")
                continue
            missing = sorted(set(benchmark.names) - {row.name for row in rows})
            if missing or not rows:
                outcome.failures.append(f"{suite.name}: {benchmark.title}: no figure for {', '.join(missing) or 'any'}")
            outcome.results.extend(_json(suite.name, row) for row in rows)
            say(f"  {time.monotonic() - started:.1f} s")
    return outcome


def _json(suite: str, row: Row) -> dict[str, Any]:
    return {
        "suite": suite,
        "name": row.name,
        "value": row.value,
        "unit": row.unit,
        "ratio": row.ratio,
        "against": row.against,
    }


def write(path: Path, machine: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Write the JSON form, whole: {"machine": {…}, "results": […]}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures as text, one line each."""
    head = ("suite", "name", "value", "unit", "ratio", "against")
    lines = [head, *(tuple(_cell(result[name]) for name in head) for result in results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    right = {2, 4}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)


def main(suites: Sequence[Suite], wanted: Sequence[str], describe: Callable[[], Mapping[str, Any]], path: Path) -> int:
    """Run the suites named (none: all defaults) and report; returns the exit code, 1 when a benchmark did not run."""
    known = {suite.name: suite for suite in suites}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"benchmarks: no suite {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    chosen = [known[name] for name in wanted] or [suite for suite in suites if suite.default]
    machine = describe()
    outcome = run(chosen, lambda text: print(text, file=sys.stderr, flush=True))
    write(path, machine, outcome.results)
    print("\n".join(f"{name:<10}{value}" for name, value in machine.items() if not isinstance(value, Mapping)))
    print(table(outcome.results))
    for failure in outcome.failures:
        print(f"benchmarks: did not run: {failure}", file=sys.stderr)
    return 1 if outcome.failures else 0
