"""The real gateway, made to kill itself at a named point: `python -m tests.crash.child`, driven over stdin.

Each line of stdin is a life: a JSON object with `arguments` (of the `metergate` command), `point` and `at` (die when
that point is passed for the at-th time; null: live until killed), `log` (a file for stderr), and `inside` (null, or
how to run the embedded layer in the gateway's own process, as the demo does). The child is forked, which is far
quicker than starting Python. On stdout:

    pid N         who lives now
    point NAME    a named point was passed (see tests.crash.points)
    end STATUS    it is dead: its exit code, or minus the signal that killed it

The product has no hooks for this: public methods of its journal, transports and link are wrapped here.
"""

import asyncio
import functools
import inspect
import json
import os
import signal
import sqlite3
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gateway.books
import gateway.journal
from devices.client import DeviceLink
from gateway.chain_server import application, bind, produce_blocks, serve
from gateway.cli.chain import open_chain
from gateway.cli.main import main as metergate
from gateway.cli.setup import open_keys
from gateway.config import load_config
from gateway.control import serve_control
from gateway.journal import Journal
from gateway.records import Record, TransactionSigned
from gateway.service import Gateway
from settlement.client import JsonRpcLayer
from settlement.transports import HttpTransport, InProcessTransport

# States are written often and in many parts, so that kills meet that, too.
STORE_MAX, STATES_PER_WRITE = 40, 5
SEND = "eth_sendRawTransaction"
# So long a disk that is about to die keeps the others waiting: whoever acts on what is not durable does it now.
TEMPTED_S = 0.05


class Points:
    """Says which point is passed, and dies at the one that was asked for."""

    def __init__(self, point: str | None, at: int) -> None:
        self._point = point
        self._at = at
        self._met: Counter[str] = Counter()
        self.purposes: dict[str, str] = {}  # of signed transactions, by their bytes in hex

    def reach(self, name: str) -> None:
        """Pass a point, or die there."""
        os.write(1, f"point {name}\n".encode())
        if name == self._point:
            self._met[name] += 1
            if self._met[name] == self._at:
                if name.startswith("commit before"):
                    time.sleep(TEMPTED_S)
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)  # the signal is on its way

    def both(self, what: str, names: Sequence[str], side: str) -> None:
        """Pass the point of each of these names."""
        for name in names:
            self.reach(f"{what} {side} {name}")

    def record_names(self, records: Sequence[Record]) -> list[str]:
        """Return the names of what a commit holds, each once."""
        names = []
        for record in records:
            name = str(record.__struct_config__.tag)
            if isinstance(record, TransactionSigned):
                purpose = record.purpose.split()[0]
                self.purposes["0x" + record.raw.hex()] = purpose
                name = f"{name}:{purpose}"
            names.append(name)
        return list(dict.fromkeys(names))

    def request_name(self, method: str, params: Sequence[Any]) -> str:
        """Return the name of a request: a transaction's own purpose, or "resent" for one of an earlier life."""
        return f"{SEND}:{self.purposes.get(str(params[0]), 'resent')}" if method == SEND else method


def instrument(points: Points) -> None:
    """Wrap the seams."""
    gateway.books.STORE_MAX = STORE_MAX
    gateway.journal.STATES_PER_WRITE = STATES_PER_WRITE
    _wrap_commits(points)
    for name in _public_coroutines(Journal):
        if name not in ("close", "durable"):
            _wrap(Journal, name, points, "disk", functools.partial(_named, name))
    _wrap(Journal, "_in_turn", points, "disk", lambda work, *_: [f"part:{work.__name__}"])
    for transport in (HttpTransport, InProcessTransport):
        _wrap(transport, "call", points, "rpc", lambda method, params: [points.request_name(method, params)])
        _wrap(transport, "batch", points, "rpc", lambda requests: _batch_names(points, requests))
    _wrap_receipts(points)


def _public_coroutines(owner: type) -> Iterator[str]:
    for name, method in list(vars(owner).items()):
        if not name.startswith("_") and inspect.iscoroutinefunction(method):
            yield name


def _named(name: str, *_: Any, **__: Any) -> list[str]:
    return [name]


def _batch_names(points: Points, requests: Sequence[tuple[str, Sequence[Any]]]) -> list[str]:
    return list(dict.fromkeys(points.request_name(method, params) for method, params in requests))


def _wrap(owner: type, name: str, points: Points, what: str, names_of: Callable[..., list[str]]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    async def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
        names = names_of(*arguments, **options)
        points.both(what, names, "before")
        result = await original(self, *arguments, **options)
        points.both(what, names, "after")
        return result

    setattr(owner, name, wrapped)


def _wrap_commits(points: Points) -> None:
    """Pass points where a commit becomes durable: in the writer's thread, on both sides of SQLite's COMMIT."""
    handed_in: deque[list[str]] = deque()
    original, connect = Journal.commit, sqlite3.connect

    def commit(self: Journal, records: Sequence[Record]) -> tuple[int, "asyncio.Future[None]"]:
        handed_in.append(points.record_names(records))
        return original(self, records)

    class Disk(sqlite3.Connection):
        """The writer's connection. Commits come in the order in which they were handed in."""

        _names: list[str] | None = None

        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            if sql.startswith("INSERT INTO commits"):
                self._names = handed_in.popleft()
            if sql != "COMMIT" or self._names is None:
                return super().execute(sql, *arguments)
            names, self._names = self._names, None
            points.both("commit", names, "before")
            cursor = super().execute(sql, *arguments)
            points.both("commit", names, "after")
            return cursor

    def connect_to(database: Any, *arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(database, *arguments, **{"factory": Disk, **options})

    Journal.commit = commit  # type: ignore[method-assign]
    gateway.journal.sqlite3.connect = connect_to  # type: ignore[attr-defined,assignment]


def _wrap_receipts(points: Points) -> None:
    publish, acknowledge = DeviceLink.publish_receipts, DeviceLink.acknowledge

    async def publish_receipts(self: DeviceLink, receipts: Sequence[tuple[str, bytes]]) -> None:
        if receipts:
            points.reach("receipts before")
        await publish(self, receipts)
        if receipts:
            points.reach("receipts after")

    def acknowledging(self: DeviceLink, frames: Sequence[Any]) -> None:
        if frames:
            points.reach("ack before")
        acknowledge(self, frames)
        if frames:
            points.reach("ack after")

    DeviceLink.publish_receipts = publish_receipts  # type: ignore[method-assign]
    DeviceLink.acknowledge = acknowledging  # type: ignore[method-assign]


async def run_inside(config_path: Path, data: Path, port: int, block_ms: int) -> int:
    """Run the gateway with the embedded layer in its own process, until SIGTERM."""
    config = load_config(config_path)
    listener = bind(port, "port")
    chain = open_chain(data, config.chain.chain_id, ())
    layer = JsonRpcLayer(InProcessTransport(chain), expected_chain_id=config.chain.chain_id)
    gateway_ = Gateway(config, open_keys(config), layer)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    served = [asyncio.ensure_future(serve(application(chain), listener))]
    served.append(asyncio.ensure_future(produce_blocks(chain, block_ms)))
    await gateway_.start()
    work = [asyncio.ensure_future(gateway_.run()), asyncio.ensure_future(serve_control(gateway_))]
    stopping = asyncio.ensure_future(stop.wait())
    done, _ = await asyncio.wait((*served, *work, stopping), return_when=asyncio.FIRST_COMPLETED)
    for task in (*work, stopping):
        task.cancel()
    await asyncio.gather(*work, stopping, return_exceptions=True)
    if stopping not in done:
        for task in done:
            task.result()  # a fault: raised as it is
    await gateway_.stop()
    for task in served:
        task.cancel()
    await asyncio.gather(*served, return_exceptions=True)
    chain.close()
    return 0


def live(life: dict[str, Any]) -> int:
    """Be the gateway until the end of this life; returns the exit code."""
    log = os.open(life["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    instrument(Points(life["point"], life["at"]))
    inside = life["inside"]
    if inside is None:
        return metergate(life["arguments"])
    return asyncio.run(run_inside(Path(inside["config"]), Path(inside["data"]), inside["port"], inside["block_ms"]))


def main() -> None:
    """Serve lives until stdin is closed."""
    for line in sys.stdin:
        life = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 70
            try:
                code = live(life)
            except SystemExit as leaving:
                code = int(leaving.code or 0)
            finally:
                sys.stderr.flush()
                if (error := sys.exception()) is not None:
                    sys.excepthook(type(error), error, error.__traceback__)
                os._exit(code)
        os.write(1, f"pid {child}\n".encode())
        _, status = os.waitpid(child, 0)
        os.write(1, f"end {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
