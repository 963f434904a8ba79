"""Suite `fresh_clone`: from nothing to the first settled payment, as a new user has it. Needs a network and minutes.

Not part of a run that names no suite. Package caches of pip and cargo on this machine are used, if there are any.
"""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.demo_start import end_demo, wait_for_settlement
from benchmarks.frame import Benchmark, BenchmarkFailed, Row, Suite, against
from benchmarks.site import ROOT
from tests.support.mosquitto import free_port

# A Rust build on two slow cores takes this long at worst.
WAIT_S = 1_800.0


def _fresh_clone() -> Iterable[Row]:
    """Clone the last commit into an empty directory and run `make demo` there."""
    with tempfile.TemporaryDirectory(prefix="metergate-clone-") as directory:
        clone = Path(directory) / "metergate"
        started = time.monotonic()
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True, timeout=300)
        rpc = free_port()
        arguments = f"--duration 25 --json --mqtt-port {free_port()} --rpc-port {rpc}"
        words = Path(directory) / "stderr"
        # A virtual environment or build directory of ours must not help.
        environment = {name: value for name, value in os.environ.items() if name not in _OURS}
        with words.open("wb") as file:
            process = subprocess.Popen(
                ["make", "demo", f"ARGS={arguments}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                cwd=clone,
                env=environment,
                start_new_session=True,
            )
            try:
                seconds = wait_for_settlement(rpc, started, process, WAIT_S)
            except BenchmarkFailed as error:
                raise BenchmarkFailed(f"{error}: {words.read_text(errors='replace')[-500:]}") from error
            finally:
                end_demo(process)
        built = re.search(r"built in (\d+) s", words.read_text(encoding="utf-8", errors="replace"))
    yield Row("clone_to_first_settled_s", round(seconds, 1), "s")
    if built is not None:
        build = int(built[1])
        rest = seconds - build
        yield Row("rust_build_s", build, "s", **against(build, seconds, "clone_to_first_settled_s"))
        yield Row("clone_to_first_settled_without_build_s", round(rest, 1), "s", **against(rest, 60.0, "60 s aim"))


_OURS = {"VIRTUAL_ENV", "PYTHONPATH", "CARGO_TARGET_DIR", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}

FRESH_CLONE = Suite(
    "fresh_clone",
    (Benchmark("from a clone to the first settled payment", _fresh_clone, ("clone_to_first_settled_s",)),),
    default=False,
)
