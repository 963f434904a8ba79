"""A real mosquitto for tests: its own port on loopback, its own files, gone with the test."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

# Bounds of the distribution's defaults would lose messages for a slow reader: docs/protocol.md 8 says what a
# broker must be set to, and the tests run with just that.
_SETTINGS = """\
listener {port} 127.0.0.1
allow_anonymous {anonymous}
persistence true
persistence_location {directory}/
autosave_interval 1
max_queued_messages 0
max_inflight_messages {window}
set_tcp_nodelay true
log_dest stderr
"""


def free_port() -> int:
    """Return a port on loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def binary() -> str:
    """Return mosquitto's path. Raises RuntimeError, which says how to get it."""
    search = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/usr/local/sbin"
    found = shutil.which("mosquitto", path=search)
    if found is None:
        raise RuntimeError(
            "these tests need the MQTT broker mosquitto (Debian: apt install mosquitto; macOS: brew install "
            "mosquitto); it was not found in PATH or /usr/sbin"
        )
    return found


class Mosquitto:
    """One broker. `start` returns when it accepts connections; `kill` is a power cut."""

    def __init__(self, directory: Path, *, window: int = 20, extra: str = "", anonymous: bool = True) -> None:
        self.directory = directory
        self.host = "127.0.0.1"
        self.port = free_port()
        self._config = directory / "mosquitto.conf"
        self._log = directory / "mosquitto.log"
        settings = _SETTINGS.format(
            port=self.port,
            directory=directory,
            window=window,
            anonymous="true" if anonymous else "false",
        )
        if os.geteuid() == 0:  # else it would change to a user who cannot write here
            settings += "user root\n"
        self._config.write_text(settings + extra)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the broker and wait until its port is open."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [binary(), "-c", str(self._config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"mosquitto did not start:\n{self._log.read_text(errors='replace')}")

    def stop(self) -> None:
        """End it in order: its sessions and messages are on disk."""
        self._end(kill=False)

    def kill(self) -> None:
        """End it at once."""
        self._end(kill=True)

    def _end(self, *, kill: bool) -> None:
        if self._process is None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait(timeout=10)
        self._process = None
