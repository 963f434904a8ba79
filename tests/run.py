"""Everything `make test` does after the set-up, with a line per step and a summary at the end.

    python tests/run.py [lint]

The last output is pytest's own, followed by one line per step with its time.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.anvil import anvil_binary  # noqa: E402  (found by the line above)

BIN = Path(sys.executable).parent

LINT = (
    ("ruff", [BIN / "ruff", "check", "."]),
    ("format", [BIN / "ruff", "format", "--check", "--quiet", "."]),
    ("types", [BIN / "mypy"]),
    ("types of firmware-sim", [BIN / "mypy", "--strict", "firmware-sim/firmware_sim"]),
    ("layers", [BIN / "lint-imports", "--no-cache"]),
    ("types of the pages", [ROOT / ".ci" / "web", BIN, "check"]),
)
EVM = ROOT / "settlement" / "parallel-evm"
PYTEST = [sys.executable, "-m", "pytest", "-q"]
# Coverage is held where money rests on pure code; tracing the rest would only slow it down.
CORE = ["tests/channels", "tests/settlement/test_netting.py"]
COVERED = [BIN / "coverage", "run", "--source=channels,settlement", "-m", "pytest", "-q"]
# Most other tests wait for brokers, chains and children: three at a time use two cores, a file stays together.
APART = [*CORE, "tests/web_ui"]
REST = [*PYTEST, "-n", "3", "--dist", "loadfile", "--durations=10", *(f"--ignore={path}" for path in APART)]
TESTS = (
    ("embedded layer, Rust", ["cargo", "test", "--release", "--quiet", "--manifest-path", EVM / "Cargo.toml"]),
    ("embedded layer, Python", [*PYTEST, "--rootdir", EVM, "-c", EVM / "pyproject.toml", EVM / "tests"]),
    ("core", [*COVERED, *CORE]),
    ("coverage of the core", [sys.executable, "tests/coverage_gate.py"]),
    # Playwright keeps an event loop of its own running, which asyncio's tests in the same process do not stand.
    ("pages in a browser", [*PYTEST, "tests/web_ui"]),
    ("everything else", REST),
)


def main() -> int:
    """Run the steps; the first that fails ends the run with its exit code."""
    steps = LINT if sys.argv[1:] == ["lint"] else (*LINT, *TESTS)
    environment = {**os.environ, "ANVIL": str(anvil_binary()), "PYO3_PYTHON": sys.executable}
    times: list[str] = []
    began = time.monotonic()
    for name, command in steps:
        print(f"== {name}", flush=True)
        started = time.monotonic()
        code = subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, check=False).returncode
        times.append(f"{name} {time.monotonic() - started:.0f} s")
        if code:
            print(f"FAILED at: {name}", flush=True)
            return code
    print(f"all passed in {time.monotonic() - began:.0f} s: {', '.join(times)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
