"""What `--help` teaches: examples for every command, each of which a test parses."""

import argparse
from collections.abc import Iterator

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "demo": (
        ("metergate demo", "devices, payments and settlement on this machine, until Ctrl-C"),
        ("metergate demo --devices 200 --rate 100 --duration 60", "a larger fleet for a minute"),
    ),
    "run": (("metergate run --config site/metergate.toml", "until Ctrl-C or SIGTERM"),),
    "init": (
        ("metergate init --dir site", "a configuration and new keys in site/"),
        ("metergate init --dir site --broker broker.example", "and the files of a mosquitto with TLS"),
    ),
    "chain": (("metergate chain --data site/chain --port 8545", "an execution layer of your own"),),
    "device add": (
        ("metergate device add pump-7 --payer 0x19e7e376e7c213b7e7e7e46cc70a5dd086daff2a", "one that pays"),
        ("metergate device add pump-7 --credentials pump-7.json", "and its password for the broker, once"),
    ),
    "device list": (("metergate device list --json", "all of them, for a program"),),
    "device show": (("metergate device show pump-7", "its channels and last readings"),),
    "device close": (("metergate device close pump-7", "claim what is owed, give the rest back"),),
    "settle": (
        ("metergate settle --explain", "what would be claimed or held, and why"),
        ("metergate settle --now", "settle what is worth its gas"),
    ),
    "status": (("metergate status --json", "sums, broker, chain, gas, last backup"),),
    "top": (
        ("metergate top", "live, also over SSH; q or Ctrl-C ends it"),
        ("metergate top --once", "one look, for a log"),
    ),
    "doctor": (("metergate doctor --config site/metergate.toml", "what is wrong, and how to mend it"),),
    "ledger": (
        ("metergate ledger --check", "postings = states = chain, to the unit"),
        ("metergate ledger --export csv --postings", "every posting"),
    ),
    "statement": (("metergate statement 0x19e7e376e7c213b7e7e7e46cc70a5dd086daff2a", "what this party is told"),),
    "verify": (("metergate verify june.json", "offline, anywhere"),),
    "backup": (
        ("metergate backup /mnt/usb/gw1.tar", "while it runs, or not"),
        ("metergate backup /mnt/usb/gw1.tar --with-keys", "with the encrypted keys"),
    ),
    "restore": (
        ("metergate restore gw1.tar --check", "prove it, and say what would be lost"),
        ("metergate restore gw1.tar", "put it in place of a stopped gateway's journal"),
    ),
    "operator add": (("metergate operator add ada", "asks for a password, and Ada may log in to the dashboard"),),
    "operator reset": (("metergate operator reset ada", "another password; her sessions end"),),
    "operator list": (("metergate operator list --json", "operators and tokens"),),
    "operator remove": (("metergate operator remove ada", "her sessions and tokens end with her"),),
    "operator token add": (("metergate operator token add grafana --scope read", "shown once"),),
    "operator token revoke": (("metergate operator token revoke 3f2a", "by the id that the list shows"),),
    "completion": (
        ("metergate completion bash > ~/.local/share/bash-completion/completions/metergate", "for bash"),
        ("metergate completion fish > ~/.config/fish/completions/metergate.fish", "for fish"),
    ),
}
# What 1 means where a command has it: it ran to its end, and the answer is no.
NO = {
    "demo": "nothing was charged or settled, or the books do not hold",
    "device close": "it has not ended within ten minutes; it goes on",
    "doctor": "a check failed",
    "ledger": "--check found a difference",
    "restore": "--check found that no gateway could go on with it",
    "verify": "a statement does not hold",
}
CODES = "exit codes: 0 done, 1 the answer is no, 2 the set-up or command line is wrong, 3 a fault, 130 interrupted"


def teach(parser: argparse.ArgumentParser) -> None:
    """Put the examples of each command below its help."""
    for name, command in commands(parser):
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        if name in EXAMPLES:
            shown = (f"  {line}\n      {meaning}" for line, meaning in EXAMPLES[name])
            command.epilog = "\n".join(("examples:", *shown, "", codes(name)))


def codes(name: str) -> str:
    """Return the exit codes of a command in words."""
    no = f" 1 {NO[name]}," if name in NO else ""
    return f"exit codes: 0 done,{no} 2 the set-up or command line is wrong, 3 a fault, 130 interrupted"


def commands(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield (name, parser) of every command; `device add` is one."""
    for name, command in subcommands(parser).items():
        inner = subcommands(command)
        if not inner:
            yield prefix + name, command
        yield from commands(command, f"{prefix}{name} ")


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the commands right below a parser, by name."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(action.choices)
    return found
