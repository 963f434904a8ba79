"""What the demo shows a person: a line of progress, and a summary at the end."""

import json
import os
import sys
import time
from typing import Any

from gateway.service import Gateway
from gateway.summary import sums, tokens


class Progress:
    """Lines for a person: one that is rewritten on a terminal, one every few seconds elsewhere."""

    def __init__(self, to_stderr: bool) -> None:
        self._out = sys.stderr if to_stderr else sys.stdout
        self._terminal = self._out.isatty()
        self._open = False
        self._next = 0.0

    def line(self, text: str) -> None:
        """Print a line of its own."""
        self.end()
        print(text, file=self._out, flush=True)

    def progress(self, gateway: Gateway) -> None:
        """Show where the money is."""
        now = time.monotonic()
        if now < self._next:
            return
        total = sums(gateway.ledger)
        ended = list(gateway.ledger.ended.values())
        last = "none yet"
        if ended:
            newest = max(ended, key=lambda cycle: cycle.number)
            moved = f"claimed {tokens(newest.claimed)}, offset {tokens(newest.offset)}, paid {tokens(newest.paid)}"
            last = f"#{newest.number} {moved}"
        text = (
            f"{gateway.ledger.totals.payments:>7,} payments  charged {tokens(total.charged)}  "
            f"unsettled {tokens(total.unsettled)}  last settlement {last}"
        )
        if self._terminal:
            print(f"\r\x1b[K{text[: os.get_terminal_size(self._out.fileno()).columns - 1]}", end="", file=self._out)
            self._out.flush()
            self._open = True
            self._next = now + 0.5
        else:
            print(text, file=self._out, flush=True)
            self._next = now + 5.0

    def end(self) -> None:
        """Finish the line that is being rewritten."""
        if self._open:
            print(file=self._out, flush=True)
            self._open = False


def print_summary(result: dict[str, Any], seconds: float, *, as_json: bool) -> None:
    """Print the summary, and with `as_json` the result as one line of JSON on stdout."""
    out = sys.stderr if as_json else sys.stdout
    amounts = {
        name: tokens(int(result[name])) for name in ("charged", "claimed", "offset", "settled", "paid_out", "fees")
    }
    print(
        f"\nAfter {seconds:.0f} s: {result['devices']} devices, {result['channels']} channels, "
        f"{result['readings']:,} readings, {result['payments']:,} payments, "
        f"{result['refused']} refused, {result['duplicates']} duplicates\n"
        f"  charged   {amounts['charged']:>16}   what meters and prices came to\n"
        f"  offset    {amounts['offset']:>16}   settled by netting, without the chain\n"
        f"  claimed   {amounts['claimed']:>16}   claimed on payment channels\n"
        f"  settled   {amounts['settled']:>16}   moved to the gateway in {result['settlements']} settlements\n"
        f"  paid out  {amounts['paid_out']:>16}   to devices that earn\n"
        f"  fees      {amounts['fees']:>16}   the operator's share\n"
        f"  receipts  p50 {result['receipt_ms_p50']} ms, p99 {result['receipt_ms_p99']} ms\n"
        f"  books     {'conserved to the unit' if result['conserved'] else 'NOT CONSERVED'}",
        file=out,
        flush=True,
    )
    if as_json:
        print(json.dumps(result), flush=True)
