"""Compile the contracts: `python -m settlement.contracts.compile [--check]`.

Without `--check` the artifacts are written; with it they are compiled afresh and compared byte for byte with what is
committed. The only module that needs the compiler (vyper, a development dependency).
"""

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import vyper  # type: ignore[import-untyped]
from vyper.compiler.input_bundle import FilesystemInputBundle  # type: ignore[import-untyped]
from vyper.utils import method_id  # type: ignore[import-untyped]

from settlement.contracts import CONTRACTS
from settlement.contracts.abi_entries import entries_beyond_vyper, named

HERE = Path(__file__).parent
EVM_VERSION = "cancun"
_FORMATS = ["abi", "bytecode", "bytecode_runtime", "layout", "method_identifiers"]


def _canonical(parameter: dict[str, Any]) -> str:
    kind: str = parameter["type"]
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(_canonical(part) for part in parameter['components'])}){kind.removeprefix('tuple')}"


def signature_of(entry: dict[str, Any]) -> str:
    """Canonical signature of an ABI function or error, whose hash begins with its selector."""
    return f"{entry['name']}({','.join(_canonical(parameter) for parameter in entry['inputs'])})"


def build(name: str) -> str:
    """Compile one contract and return its artifact as the JSON text that is committed."""
    source = (HERE / f"{name}.vy").read_text(encoding="utf-8")
    modules = [
        (HERE / f"{module}.vy").read_text(encoding="utf-8")
        for module in re.findall(r"^import (\w+)$", source, re.MULTILINE)
    ]
    compiled = vyper.compile_code(
        source,
        contract_path=f"{name}.vy",
        input_bundle=FilesystemInputBundle([HERE]),
        output_formats=_FORMATS,
    )
    # The fallback is how functions with overloads or nested arrays are reached, not one that clients may call.
    abi = [named(name, entry) for entry in compiled["abi"] if entry["type"] != "fallback"]
    abi += entries_beyond_vyper(name)
    functions = [signature_of(entry) for entry in abi if entry["type"] == "function"]
    artifact = {
        "contract": name,
        "compiler": vyper.__long_version__,
        "evmVersion": EVM_VERSION,
        "abi": abi,
        "bytecode": compiled["bytecode"],
        "runtime": compiled["bytecode_runtime"],
        "storageLayout": compiled["layout"].get("storage_layout", {}),
        "methodIdentifiers": {text: "0x" + method_id(text).hex() for text in functions},
        "sourceSha256": hashlib.sha256("".join([source, *modules]).encode()).hexdigest(),
    }
    return json.dumps(artifact, indent=2) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the artifacts, or with `--check` report those that differ; the exit code is 1 if one does."""
    parser = argparse.ArgumentParser(prog="python -m settlement.contracts.compile", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed artifacts instead")
    check = parser.parse_args(arguments).check
    stale = []
    for name in CONTRACTS:
        path = HERE / "artifacts" / f"{name}.json"
        text = build(name)
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"stale: {', '.join(stale)}; run python -m settlement.contracts.compile", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
