"""The data directory: one process at a time, and none on half of a restored journal."""

import fcntl
import os
from pathlib import Path

from gateway.errors import SetupError

# In a data directory while a restore replaces its files: a gateway on half of them would begin new books.
RESTORING = "restoring"


def lock_data_dir(data_dir: Path, *, restoring: bool = False) -> int:
    """Keep a second gateway out of the same books, and any out of those that are being replaced."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SetupError(f"cannot use the data directory {data_dir}: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SetupError(f"another Metergate is running on {data_dir}.") from error
    if (data_dir / RESTORING).exists() and not restoring:
        os.close(descriptor)
        raise SetupError(f"a restore into {data_dir} did not end: run `metergate restore` again.")
    return descriptor
