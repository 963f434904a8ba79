"""`metergate operator`: who may log in to the dashboard, and tokens for programs. Works beside a running gateway."""

import argparse
import asyncio
import getpass
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from gateway.config import Config, load_config
from gateway.errors import SetupError
from gateway.web.access import Access, BadCredentials, Scope
from gateway.web.store import OperatorStore, TooMany

T = TypeVar("T")

DAY_S = 86_400


def add(options: argparse.Namespace) -> int:
    """`metergate operator add NAME`: a new one, or a new password and scope."""
    password = _password(options)
    _with(options, lambda access: access.put_operator(options.name, password, Scope(options.scope)))
    told = {"name": options.name, "scope": options.scope}
    return _say(options, told, f"operator {options.name} may log in with the scope {options.scope}")


def reset(options: argparse.Namespace) -> int:
    """`metergate operator reset NAME`: another password; sessions under the old one end."""
    password = _password(options)

    async def change(access: Access) -> str:
        known = await access.store.operator(options.name)
        if known is None:
            raise SetupError(f"there is no operator {options.name!r}: `metergate operator list` shows them.")
        await access.put_operator(options.name, password, Scope(known.scope))
        return known.scope

    told = {"name": options.name, "scope": _with(options, change)}
    return _say(options, told, f"operator {options.name} has another password; its sessions have ended")


def remove(options: argparse.Namespace) -> int:
    """`metergate operator remove NAME`."""
    if not _with(options, lambda access: access.store.remove_operator(options.name)):
        raise SetupError(f"there is no operator {options.name!r}: `metergate operator list` shows them.")
    told = {"name": options.name, "removed": True}
    return _say(options, told, f"operator {options.name} is removed; its sessions have ended")


def listing(options: argparse.Namespace) -> int:
    """`metergate operator list`: operators and tokens."""

    async def read(access: Access) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]]]:
        operators = [(each.name, each.scope) for each in await access.store.operators()]
        return operators, [(each.id, each.name, each.scope) for each in await access.store.tokens()]

    operators, tokens = _with(options, read)
    if options.json:
        told = {
            "operators": [{"name": name, "scope": scope} for name, scope in operators],
            "tokens": [{"id": identifier, "name": name, "scope": scope} for identifier, name, scope in tokens],
        }
        print(json.dumps(told))
        return 0
    for name, scope in operators:
        print(f"operator  {name:<32} {scope}")
    for identifier, name, scope in tokens:
        print(f"token     {name:<32} {scope:<8} {identifier}")
    if not operators:
        print("there is no operator yet: `metergate operator add NAME`, or the link that `metergate run` prints")
    return 0


def token_add(options: argparse.Namespace) -> int:
    """`metergate operator token add NAME`: prints the secret, once."""
    life_s = options.days * DAY_S
    secret, token = _with(
        options, lambda access: access.new_token(options.name, Scope(options.scope), "the command line", life_s)
    )
    told = {"id": token.id, "name": token.name, "scope": token.scope, "token": secret}
    return _say(options, told, secret)


def token_revoke(options: argparse.Namespace) -> int:
    """`metergate operator token revoke ID`."""
    if not _with(options, lambda access: access.store.revoke_token(options.id)):
        raise SetupError(f"there is no token {options.id!r}: `metergate operator list` shows them.")
    return _say(options, {"id": options.id, "revoked": True}, f"token {options.id} is revoked")


def _say(options: argparse.Namespace, told: dict[str, Any], words: str) -> int:
    print(json.dumps(told) if options.json else words)
    return 0


def _with(options: argparse.Namespace, work: Callable[[Access], Awaitable[T]]) -> T:
    config = load_config(options.config)

    async def run() -> T:
        store = OperatorStore(_directory(config))
        await store.open()
        try:
            return await work(Access(store))
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except (BadCredentials, TooMany) as error:
        raise SetupError(f"{error}.") from error


def _directory(config: Config) -> Path:
    directory = Path(config.data_dir)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SetupError(f"cannot use the data directory {directory}: {error.strerror}.") from error
    return directory


def _password(options: argparse.Namespace) -> str:
    if options.password_file is not None:
        try:
            return str(options.password_file.read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise SetupError(f"cannot read {options.password_file}: {error}.") from error
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    first = getpass.getpass("password: ")
    if getpass.getpass("again: ") != first:
        raise SetupError("the two passwords differ.")
    return first
