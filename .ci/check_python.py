"""Say clearly that this Python is too old, before anything else fails for a less clear reason."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  (it runs on what is there)
    sys.exit(f"metergate: Python 3.11 or later is needed, this is {sys.version.split()[0]}: make PYTHON=python3.11 …")
