"""`python -m benchmarks [--suite NAME]…`, which is what `make bench` runs."""

import argparse
import signal
import sys

from benchmarks import frame
from benchmarks.execution import EXECUTION
from benchmarks.first_payment import FIRST_PAYMENT
from benchmarks.fresh_clone import FRESH_CLONE
from benchmarks.machine import describe
from benchmarks.payments import PAYMENTS
from benchmarks.settlement import SETTLEMENT
from benchmarks.site import WORK

SUITES = (FIRST_PAYMENT, FRESH_CLONE, EXECUTION, SETTLEMENT, PAYMENTS)


def main() -> int:
    """Parse arguments and run; exit code 1 when a benchmark did not run, 2 for an unknown suite."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(suite.name for suite in SUITES)
    default = ", ".join(suite.name for suite in SUITES if suite.default)
    parser.add_argument(
        "--suite", action="append", default=[], metavar="NAME", help=f"one of {names} (default: {default})"
    )
    # Unwind, so that brokers and gateways end with us.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    return frame.main(SUITES, parser.parse_args().suite, describe, WORK / "latest.json")


if __name__ == "__main__":
    sys.exit(main())
