"""`make crash [N=200] [SEED=…]`: kill a gateway N times; exit code 0 only if nothing was ever lost or doubled."""

import argparse
import secrets
import sys
import time

from tests.crash.harness import SHARES, run
from tests.crash.points import BY_COMMAND, CHAIN, CYCLE, DEVICES, NEVER_HERE, SET_UP, by_kind, uncovered

# With fewer kills chance decides which points are met.
COMPLETE_FROM = 150


def main() -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--kinds", default=",".join(SHARES), help="which sites, separated by commas")
    options = parser.parse_args()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    kinds = tuple(options.kinds.split(","))
    again = f"make crash N={options.kills} SEED={seed}"
    print(f"seed {seed}; the same points, events and moments again: {again}", flush=True)
    began = time.monotonic()
    figures = run(options.kills, seed, lambda text: print(text, flush=True), kinds=kinds)
    for kind, times in sorted(by_kind(figures.points).items()):
        print(f"  {kind:<16}{times:>5} kills")
    print(f"  faults of the line: {dict(figures.trouble)}")
    print(f"  waited for in vain: {dict(figures.missed)}")
    print(f"  journaled: {dict(sorted(figures.journaled.items()))}")
    for text in figures.faults:
        print(f"FAULT {text}")
    lacking = uncovered(figures.points, (CYCLE | CHAIN | DEVICES | SET_UP) - NEVER_HERE - BY_COMMAND)
    if lacking:
        print(f"  no kill on both sides of: {', '.join(lacking)}")
    complete = not uncovered(figures.points, CYCLE) or options.kills < COMPLETE_FROM
    if not complete:
        print(f"FAULT this run did not kill at every record of a settlement cycle: {uncovered(figures.points, CYCLE)}")
    print(f"{figures.line()}, {time.monotonic() - began:.0f} s, seed {seed}", flush=True)
    return 0 if complete and not figures.faults else 1


if __name__ == "__main__":
    sys.exit(main())
