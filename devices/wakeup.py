"""One thread wakes another that waits in a selector."""

import socket


class Wakeup:
    """A pair of sockets; register it for reading."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._read.fileno()

    def send(self) -> None:
        """Wake the waiting thread. A full or closed pair means that it is awake or gone already."""
        try:
            self._write.send(b"\0")
        except OSError:
            return

    def clear(self) -> None:
        """Be ready to wait again."""
        try:
            self._read.recv(4096)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Free both ends."""
        self._read.close()
        self._write.close()
