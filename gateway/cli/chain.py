"""`metergate chain`: the embedded execution layer alone, served over HTTP."""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from parallel_evm import Chain

from channels.types import Address
from gateway.chain_server import application, bind, produce_blocks, serve
from gateway.errors import SetupError
from settlement.genesis import genesis

# What a funded address begins with: enough for a first hour of anything.
FUND_TOKENS = 1_000 * 10**6
FUND_COINS = 10 * 10**18
GENESIS = "genesis.json"


async def chain(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; what was acknowledged by then is on disk."""
    listener = bind(options.port, "--port")
    layer = open_chain(options.data, options.chain_id, tuple(options.fund))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(
        f"chain id {layer.chain_id}, block {layer.block_number}, JSON-RPC on http://127.0.0.1:{options.port}; "
        f"data in {options.data}; Ctrl-C ends it",
        file=sys.stderr,
        flush=True,
    )
    stopping = asyncio.ensure_future(stop.wait())
    work = [
        asyncio.ensure_future(serve(application(layer), listener)),
        asyncio.ensure_future(produce_blocks(layer, options.block_ms)),
    ]
    done, pending = await asyncio.wait((*work, stopping), return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    layer.close()
    for task in done:
        await task  # a fault of the layer, such as a full disk, is raised as it is
    return 0


def open_chain(data: Path, chain_id: int, funded: tuple[Address, ...]) -> Chain:
    """Return the chain in a directory, made on first use. Raises SetupError when it is not this one or damaged."""
    path = data / GENESIS
    try:
        data.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write(path, {"chainId": chain_id, "genesis": _genesis(funded)})
        first = json.loads(path.read_text(encoding="utf-8"))
        known, alloc = int(first["chainId"]), first["genesis"]["alloc"]
    except OSError as error:
        raise SetupError(f"cannot use the data directory {data}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SetupError(f"{path} is damaged: restore it from a backup of {data}.") from error
    if known != chain_id:
        raise SetupError(f"the chain in {data} has id {known}: give --chain-id {known}, or another --data.")
    for address in funded:
        if f"0x{address.hex()}" not in alloc:
            raise SetupError(
                f"0x{address.hex()} is not in the genesis of {data}, which never changes: use a new --data."
            )
    try:
        return Chain(chain_id=chain_id, genesis=json.dumps(first["genesis"]), path=data / "blocks")
    except (OSError, ValueError) as error:
        raise SetupError(f"the chain in {data} cannot be opened: {error}.") from error


def _genesis(funded: tuple[Address, ...]) -> dict[str, Any]:
    return genesis(dict.fromkeys(funded, FUND_TOKENS), dict.fromkeys(funded, FUND_COINS), timestamp=int(time.time()))


def _write(path: Path, value: dict[str, Any]) -> None:
    """Write a file so that a power cut leaves it whole or absent."""
    draft = path.with_suffix(".new")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
