"""Arguments, and the one place where errors become a sentence and an exit code.

Exit codes: 0 done; 1 the command ran and the answer is no (books that do not balance, nothing settled); 2 the
set-up is wrong, and the one line on stderr says how to mend it; 3 a fault, after which the process stopped
rather than guess.
"""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeAlias

from channels.invariants import InvariantViolation
from channels.machine import Contradiction
from devices.link import LinkUnavailable
from gateway import __version__, logs
from gateway.cli import backups, books, operate, operators, setup, statements
from gateway.cli import chain as chains
from gateway.cli import completion as completions
from gateway.cli import doctor as doctors
from gateway.cli import top as tops
from gateway.cli.examples import CODES, teach
from gateway.errors import JournalFault, SetupError
from gateway.web.access import Scope
from settlement.errors import ChainError

CONFIG = "metergate.toml"
FAULTS = (JournalFault, InvariantViolation, Contradiction, ChainError)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    quiet = "warning" if getattr(options, "json", False) else "info"
    # Commands that end by themselves speak to whoever typed them; those that run for years to a log as well.
    logs.set_up(getattr(options, "log_level", None) or quiet, getattr(options, "log_format", "human"))
    try:
        outcome = options.run(options)
        return asyncio.run(_finish(outcome)) if isinstance(outcome, Coroutine) else int(outcome)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nothing more to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BaseExceptionGroup as group:
        return _explain(_first(group))
    except (SetupError, LinkUnavailable, *FAULTS) as error:
        return _explain(error)


async def _finish(work: Coroutine[Any, Any, int]) -> int:
    return await work


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group that is not the mere cancelling of the others."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            error = _first(error)
        if not isinstance(error, asyncio.CancelledError):
            return error
    return group


def _explain(error: BaseException) -> int:
    if isinstance(error, (SetupError, LinkUnavailable)):
        print(f"metergate: {error}", file=sys.stderr)
        return 2
    if isinstance(error, FAULTS):
        print(f"metergate: stopped by a fault, nothing after the last commit was acted on: {error}", file=sys.stderr)
        return 3
    raise error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="metergate",
        description="Payment gateway for machines: metered MQTT readings become micropayments, netted and settled.",
        epilog=f"Begin with `metergate demo`, or with `metergate init` for a gateway of your own. {CODES}.",
    )
    parser.add_argument("--version", action="version", version=f"metergate {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _demo(commands)
    _gateway(commands)
    _chain(commands)
    _devices(commands)
    _asking(commands)
    _books(commands)
    _operators(commands)
    _backups(commands)
    _shell(commands)
    teach(parser)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _demo(commands: Commands) -> None:
    demo = commands.add_parser("demo", help="show the whole path on this machine, with simulated devices")
    demo.add_argument("--devices", type=_whole(1, 20_000), default=25, help="simulated devices (default 25)")
    demo.add_argument("--rate", type=_rate, default="16", help="readings per second of the whole fleet (default 16)")
    demo.add_argument("--duration", type=_whole(1, 10**7), metavar="S", help="seconds to run (default: until Ctrl-C)")
    demo.add_argument("--replay", type=Path, metavar="FILE", help="play real meter readings instead of the fleet")
    demo.add_argument("--seed", type=_whole(0, 2**63), default=1, help="makes devices and loads (default 1)")
    demo.add_argument("--mqtt-port", type=_whole(1, 65_535), default=1883, help="port of the broker (default 1883)")
    demo.add_argument("--rpc-port", type=_whole(1, 65_535), default=8545, help="port of JSON-RPC (default 8545)")
    demo.add_argument("--http-port", type=_whole(1, 65_535), default=8402,
                      help="port of the dashboard (default 8402)")  # fmt: skip
    demo.add_argument("--fund", type=_address, action="append", default=[], metavar="ADDRESS",
                      help="give this address 1,000 tokens and 10 coins (may be repeated)")  # fmt: skip
    demo.add_argument("--json", action="store_true", help="progress on stderr, one JSON object on stdout at the end")
    _logs(demo)
    demo.set_defaults(run=operate.demo)


def _gateway(commands: Commands) -> None:
    run = commands.add_parser("run", help="run a gateway")
    _config(run)
    _logs(run)
    run.set_defaults(run=operate.run)

    init = commands.add_parser("init", help="write a commented configuration and new keys")
    init.add_argument("--dir", type=Path, default=Path(), help="where to (default: here)")
    init.add_argument("--gateway", default="gw1", help="the gateway's id (default gw1)")
    init.add_argument("--passphrase-file", type=Path, metavar="FILE",
                      help="its content opens the keys (default: METERGATE_PASSPHRASE, or a prompt)")  # fmt: skip
    init.add_argument("--broker", metavar="HOST",
                      help="also the files of a mosquitto there: TLS, passwords, rights")  # fmt: skip
    _json(init)
    init.set_defaults(run=setup.init)


def _chain(commands: Commands) -> None:
    chain = commands.add_parser("chain", help="run the embedded execution layer alone, served by JSON-RPC")
    chain.add_argument("--port", type=_whole(1, 65_535), default=8545, help="port of JSON-RPC (default 8545)")
    chain.add_argument("--data", type=Path, required=True, metavar="DIR", help="where blocks and state are kept")
    chain.add_argument("--block-ms", type=_whole(1, 60_000), default=250, help="between blocks (default 250)")
    chain.add_argument("--chain-id", type=_whole(1, 2**53 - 1), default=31402, help="chain id (default 31402)")
    chain.add_argument("--fund", type=_address, action="append", default=[], metavar="ADDRESS",
                       help="1,000 tokens and 10 coins in genesis (may be repeated)")  # fmt: skip
    _logs(chain)
    chain.set_defaults(run=chains.chain)


def _devices(commands: Commands) -> None:
    device = commands.add_parser("device", help="enrol and look at devices").add_subparsers(
        required=True, metavar="ACTION"
    )
    add = device.add_parser("add", help="enrol a device")
    add.add_argument("device")
    add.add_argument("--payer", type=_address, action="append", default=[], metavar="ADDRESS",
                     help="a payer whose channels it may open without a binding (may be repeated)")  # fmt: skip
    add.add_argument("--account", type=_identifier, action="append", default=[], metavar="ID",
                     help="an earner account that it may open (may be repeated)")  # fmt: skip
    add.add_argument("--note", default="", help="whose it is, where it is")
    add.add_argument("--credentials", type=Path, metavar="FILE",
                     help="write a new password for the broker into this new file, once")  # fmt: skip
    _json(add)
    _config(add)
    add.set_defaults(run=operate.device_add)
    listing = device.add_parser("list", help="list all devices")
    _config(listing)
    _json(listing)
    listing.set_defaults(run=operate.device_list)
    show = device.add_parser("show", help="show one device with its channels and last readings")
    show.add_argument("device")
    _config(show)
    _json(show)
    show.set_defaults(run=operate.device_show)
    close = device.add_parser("close", help="close its channels: claim what is owed, refund the rest")
    close.add_argument("device")
    close.add_argument("--channel", type=_channel, metavar="ID", help="only this one (default: all that are open)")
    _config(close)
    _json(close)
    close.set_defaults(run=operate.device_close)


def _asking(commands: Commands) -> None:
    settle = commands.add_parser("settle", help="settle the running gateway, or show what that would do")
    what = settle.add_mutually_exclusive_group(required=True)
    what.add_argument("--now", action="store_true", help="settle now what is worth its gas, whatever the schedule says")
    what.add_argument("--all", action="store_true", help="settle everything now, whatever it costs")
    what.add_argument("--explain", action="store_true", help="show each channel's decision and why; settle nothing")
    _config(settle)
    _json(settle)
    settle.set_defaults(run=operate.settle)

    status = commands.add_parser("status", help="show how the gateway stands")
    _config(status)
    _json(status)
    status.set_defaults(run=operate.status)

    doctor = commands.add_parser("doctor", help="check configuration, keys, disk, broker, chain, clock and books")
    _config(doctor)
    _json(doctor)
    doctor.set_defaults(run=doctors.doctor)


def _books(commands: Commands) -> None:
    ledger = commands.add_parser("ledger", help="print the double-entry books")
    what = ledger.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="prove them: postings = states = chain, to the unit")
    what.add_argument("--export", choices=("csv", "json"), help="write the accounts by subject to standard output")
    ledger.add_argument("--postings", action="store_true", help="with --export: every posting instead")
    _config(ledger)
    _json(ledger)
    ledger.set_defaults(run=books.ledger)

    statement = commands.add_parser("statement", help="write a party's signed statement as JSON")
    statement.add_argument("party", type=_address, help="the address that pays or earns")
    which = statement.add_mutually_exclusive_group()
    which.add_argument("--cycle", type=_whole(1, 2**63 - 1), metavar="N", help="of this cycle (default: the newest)")
    which.add_argument("--all", action="store_true", help="all that are kept, as an array")
    _config(statement)
    _json(statement)
    statement.set_defaults(run=statements.statement)

    verify = commands.add_parser("verify", help="check statements offline, and show what they say")
    verify.add_argument("files", nargs="+", metavar="FILE", help="a statement or an array of them; - is standard input")
    verify.add_argument("--signer", type=_address, metavar="ADDRESS", help="the gateway key that must have signed")
    _json(verify)
    verify.set_defaults(run=statements.verify)


def _backups(commands: Commands) -> None:
    backup = commands.add_parser("backup", help="write journal, statements and operators into one proved file")
    backup.add_argument("file", type=Path, metavar="FILE", help="the backup; an older one of that name is replaced")
    backup.add_argument("--with-keys", action="store_true", help="put the configuration and the encrypted keys in, too")
    _config(backup)
    _json(backup)
    backup.set_defaults(run=backups.backup)

    restore = commands.add_parser("restore", help="prove a backup, and put it in the place of the journal")
    restore.add_argument("file", type=Path, metavar="FILE", help="what `metergate backup` wrote")
    restore.add_argument("--check", action="store_true", help="only prove it, and say what would be lost")
    restore.add_argument("--to", type=Path, metavar="DIR", help="this data directory (default: the configured one)")
    restore.add_argument("--force", action="store_true", help="replace a newer journal too, which is kept aside")
    _config(restore)
    _json(restore)
    restore.set_defaults(run=backups.restore)


def _operators(commands: Commands) -> None:
    operator = commands.add_parser(
        "operator", help="who may use the dashboard, and tokens for programs"
    ).add_subparsers(required=True, metavar="ACTION")
    scopes = [scope.value for scope in Scope]
    for name, run, words in (
        ("add", operators.add, "let somebody log in"),
        ("reset", operators.reset, "set another password"),
    ):
        put = operator.add_parser(name, help=words)
        put.add_argument("name")
        if name == "add":
            put.add_argument("--scope", choices=scopes, default="admin", help="what they may do (default admin)")
        put.add_argument("--password-file", type=Path, metavar="FILE",
                         help="holds the password (default: a prompt, or standard input)")  # fmt: skip
        _config(put)
        _json(put)
        put.set_defaults(run=run)
    remove = operator.add_parser("remove", help="remove somebody")
    remove.add_argument("name")
    _config(remove)
    _json(remove)
    remove.set_defaults(run=operators.remove)
    listing = operator.add_parser("list", help="list operators and tokens")
    _config(listing)
    _json(listing)
    listing.set_defaults(run=operators.listing)
    token = operator.add_parser("token", help="tokens for programs").add_subparsers(required=True, metavar="ACTION")
    make = token.add_parser("add", help="make a token; its secret is printed once")
    make.add_argument("name", help="what it is for")
    make.add_argument("--scope", choices=scopes, default="read", help="what it may do (default read)")
    make.add_argument("--days", type=_whole(0, 3660), default=0, help="how long it is good (default 0: until revoked)")
    _config(make)
    _json(make)
    make.set_defaults(run=operators.token_add)
    revoke = token.add_parser("revoke", help="revoke a token")
    revoke.add_argument("id")
    _config(revoke)
    _json(revoke)
    revoke.set_defaults(run=operators.token_revoke)


def _shell(commands: Commands) -> None:
    top = commands.add_parser("top", help="watch the running gateway on this terminal")
    top.add_argument("--every", type=_whole(1, 3600), default=1, metavar="S", help="seconds between looks (default 1)")
    top.add_argument("--once", action="store_true", help="one look; so it is too when this is no terminal")
    _config(top)
    _json(top)
    top.set_defaults(run=tops.top)

    completion = commands.add_parser("completion", help="write a script that completes commands in your shell")
    completion.add_argument("shell", choices=completions.SHELLS)
    completion.set_defaults(run=completions.completion, parser=_parser)


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path(CONFIG), help=f"configuration (default {CONFIG})")


def _logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log-level", choices=logs.LEVELS, help="what is logged to stderr (default info)")
    parser.add_argument("--log-format", choices=logs.FORMATS, default="auto",
                        help="auto: lines for a person on a terminal, JSON elsewhere (default auto)")  # fmt: skip


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


class _whole:
    """A whole number between two bounds, as an argparse type."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def __call__(self, text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not self._low <= int(text) <= self._high:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from {self._low} to {self._high}")
        return int(text)


def _rate(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text, re.ASCII) or not text.strip("0."):
        raise argparse.ArgumentTypeError(f"{text!r}: expected readings per second, like 16 or 0.5, at most 9999")
    return text


def _address(text: str) -> bytes:
    return _hex(text, 20, "an address")


def _identifier(text: str) -> bytes:
    return _hex(text, 32, "an account id")


def _channel(text: str) -> bytes:
    return _hex(text, 32, "a channel id")


def _hex(text: str, size: int, what: str) -> bytes:
    if not re.fullmatch(rf"0x[0-9a-fA-F]{{{2 * size}}}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r}: expected {what}, 0x and {2 * size} hex digits")
    return bytes.fromhex(text[2:])
