"""`metergate completion`: a script for the shell, written from the parser itself."""

import argparse
import shlex
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gateway.cli.examples import subcommands

SHELLS = ("bash", "zsh", "fish")


class Node(NamedTuple):
    """What may follow some words of a command line."""

    words: tuple[str, ...]
    commands: dict[str, str]  # with their help
    options: dict[str, str]
    valued: frozenset[str]  # options whose value comes next
    choices: tuple[str, ...]  # of what is not an option


def completion(options: argparse.Namespace) -> int:
    """Write the script of a shell to standard output."""
    parser: argparse.ArgumentParser = options.parser()
    print(_WRITERS[options.shell](list(_nodes(parser, ()))), end="")
    return 0


def _nodes(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[Node]:
    inner = subcommands(parser)
    helps: dict[str, str] = {}
    options: dict[str, str] = {}
    valued: set[str] = set()
    choices: list[str] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps |= {each.dest: each.help or "" for each in action._choices_actions}
        elif action.option_strings:
            for option in (each for each in action.option_strings if each.startswith("--")):
                options[option] = (action.help or "").replace("%%", "%")
                if action.nargs != 0:
                    valued.add(option)
        elif action.choices is not None:
            choices += map(str, action.choices)
    yield Node(words, {name: helps.get(name, "") for name in inner}, options, frozenset(valued), tuple(choices))
    for name, command in inner.items():
        yield from _nodes(command, (*words, name))


def _bash(nodes: list[Node]) -> str:
    cases = []
    for node in nodes:
        key = " ".join(node.words)
        follow = " ".join((*node.commands, *node.choices, *node.options))
        cases.append(f'    "{key}") words="{follow}"; valued=" {" ".join(sorted(node.valued))} ";;')
    known = " ".join(f'["{" ".join(node.words)}"]=1' for node in nodes if node.words)
    body = "\n".join(cases)
    return f"""\
# bash completion of metergate; made by `metergate completion bash`
_metergate() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" path="" words="" valued="" i
  local -A known=({known})
  for ((i = 1; i < COMP_CWORD; i++)); do
    local next="${{path:+$path }}${{COMP_WORDS[i]}}"
    [[ -n "${{known[$next]:-}}" ]] && path="$next"
  done
  case "$path" in
{body}
  esac
  COMPREPLY=()
  if [[ "$valued" == *" $previous "* ]]; then
    COMPREPLY=($(compgen -f -- "$current" || true))
  else
    COMPREPLY=($(compgen -W "$words" -- "$current" || true))
    if [[ "$current" != -* && ${{#COMPREPLY[@]}} -eq 0 ]]; then COMPREPLY=($(compgen -f -- "$current" || true)); fi
  fi
}}
complete -o filenames -F _metergate metergate
"""


def _zsh(nodes: list[Node]) -> str:
    """Zsh runs the script of bash by its own means."""
    return (
        "#compdef metergate\n# zsh completion of metergate; made by `metergate completion zsh`\n"
        f"autoload -U +X bashcompinit && bashcompinit\n{_bash(nodes)}"
    )


def _fish(nodes: list[Node]) -> str:
    lines = ["# fish completion of metergate; made by `metergate completion fish`"]
    for node in nodes:
        seen = [f"__fish_seen_subcommand_from {word}" for word in node.words]
        if node.commands:
            seen.append(f"not __fish_seen_subcommand_from {' '.join(node.commands)}")
        condition = f"-n {shlex.quote('; and '.join(seen))} " if seen else ""
        for name, text in node.commands.items():
            lines.append(f"complete -c metergate -f {condition}-a {name} -d {shlex.quote(text)}")
        for name in node.choices:
            lines.append(f"complete -c metergate -f {condition}-a {name}")
        for option, text in node.options.items():
            value = "-r " if option in node.valued else ""
            lines.append(f"complete -c metergate {condition}{value}-l {option[2:]} -d {shlex.quote(text)}")
    return "\n".join(lines) + "\n"


_WRITERS: dict[str, Callable[[list[Node]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
