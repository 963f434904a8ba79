"""`metergate backup` and `metergate restore`."""

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gateway import archive
from gateway.archive import Archive, open_archive
from gateway.backup import make_backup, note
from gateway.cli.asking import ask
from gateway.config import Config, load_config, parse_config
from gateway.data_dir import lock_data_dir
from gateway.errors import SetupError
from gateway.restore import Proof, prove, put_in_place
from gateway.summary import tokens
from settlement.client import JsonRpcLayer
from settlement.transports import HttpTransport

# Copying gigabytes on a slow card.
ANSWER_S = 6 * 3600.0


def backup(options: argparse.Namespace) -> int:
    """`metergate backup`: by the running gateway, or from the data directory of a stopped one."""
    config = load_config(options.config)
    file: Path = options.file.absolute()
    keys = options.config.absolute() if options.with_keys else None
    body = {"file": str(file)} | ({"config": str(keys)} if keys is not None else {})
    told = ask(config, "POST", "/v1/backup", body, timeout_s=ANSWER_S)
    if told is None:
        made = make_backup(config, file, config_file=keys)
        note(config, made)
        told = made.view()
    if options.json:
        print(json.dumps(told))
        return 0
    print(f"wrote {told['file']}: {told['bytes']:,} bytes, gateway {told['gateway']}, commit {told['commit']}")
    if not told["keys"]:
        print("the keys are not in it: keep keys.json and its passphrase apart, or give --with-keys")
    print(f"`metergate restore {told['file']} --check` proves it")
    return 0


def restore(options: argparse.Namespace) -> int:
    """`metergate restore`: prove a backup and, without --check, put it in place."""
    found = open_archive(options.file)
    config = _config(options, found)
    data_dir = _data_dir(options, config)
    journal = data_dir / archive.JOURNAL
    present = journal if journal.exists() else None
    with tempfile.TemporaryDirectory(prefix="metergate-restore-") as place:
        proof = asyncio.run(_prove(found, config, Path(place), present))
    if options.check:
        print(json.dumps(proof.view()) if options.json else "\n".join(_told(proof)))
        return 0 if proof.usable else 1
    if not options.json:
        print("\n".join(_told(proof)))
    if proof.faults:
        raise SetupError(f"{options.file} is damaged and was not restored: use another one.")
    if not options.force:
        _refuse(options.file, proof)
    lock = lock_data_dir(data_dir, restoring=True)
    try:
        aside = put_in_place(found, data_dir)
        written = _restore_keys(options, found, config, data_dir)
    except OSError as error:
        raise SetupError(f"cannot restore into {data_dir}: {error.strerror}. Run it again.") from error
    finally:
        os.close(lock)
    if options.json:
        told = {"restored": str(data_dir), "aside": aside and str(aside), "written": [str(path) for path in written]}
        print(json.dumps(proof.view() | told))
        return 0
    print(f"restored {data_dir} as of commit {proof.manifest.commit}")
    for path in written:
        print(f"wrote {path}")
    if aside is not None:
        print(f"the old files are kept in {aside}")
    print("devices offer again what they still have; `metergate doctor` checks all before the start")
    return 0


def _refuse(file: Path, proof: Proof) -> None:
    if proof.behind:
        raise SetupError(
            f"a gateway on {file} would stop at its start: {'; '.join(proof.behind)}. Take a newer backup;"
            " --force restores it all the same."
        )
    if proof.present is not None and proof.present.newer:
        raise SetupError(
            f"{proof.present.journal} holds what {file} does not: --force replaces it, and keeps it aside."
        )


def _config(options: argparse.Namespace, found: Archive) -> Config | None:
    if options.config.exists() or options.to is None:
        return load_config(options.config)
    if not found.has(archive.CONFIG):
        return None
    with tempfile.TemporaryDirectory(prefix="metergate-restore-") as place:
        found.extract(archive.CONFIG, path := Path(place) / archive.CONFIG)
        return parse_config(path.read_text(encoding="utf-8"), f"{archive.CONFIG} in {options.file}")


def _data_dir(options: argparse.Namespace, config: Config | None) -> Path:
    if options.to is not None:
        to: Path = options.to.absolute()
        return to
    assert config is not None, "without --to the configuration was read"
    return Path(config.data_dir)


async def _prove(found: Archive, config: Config | None, place: Path, present: Path | None) -> Proof:
    if config is None:
        return await prove(found, None, None, place, present)
    layer = JsonRpcLayer(HttpTransport(config.chain.url), expected_chain_id=config.chain.chain_id)
    try:
        return await prove(found, config, layer, place, present)
    finally:
        await layer.close()


def _restore_keys(options: argparse.Namespace, found: Archive, config: Config | None, data_dir: Path) -> list[Path]:
    """Write configuration and keys where there are none yet; never over any."""
    if not found.has(archive.KEYS):
        return []
    if config is not None and options.config.exists():
        targets = {archive.KEYS: Path(config.key_file)}
    else:
        targets = {archive.CONFIG: data_dir / archive.CONFIG, archive.KEYS: data_dir / archive.KEYS}
    written = [(name, path) for name, path in targets.items() if not path.exists()]
    for name, path in written:
        found.extract(name, path)
    return [path for _, path in written]


# -- words --


def _told(proof: Proof) -> Iterator[str]:
    manifest = msgspec.structs.asdict(proof.manifest)
    made = datetime.fromtimestamp(proof.manifest.made_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    yield f"backup     gateway {manifest['gateway']}, chain {manifest['chain_id']}, commit {manifest['commit']}, {made}"
    yield f"files      {', '.join(f'{entry.name} ({entry.size:,} bytes)' for entry in proof.manifest.files)}"
    for text in proof.faults:
        yield f"DAMAGED    {text}"
    if proof.faults:
        return
    yield "books      replayed, every invariant holds, postings = states"
    for text in proof.behind:
        yield f"BEHIND     {text}"
    for text in proof.warnings:
        yield f"warning    {text}"
    if proof.unchecked:
        yield f"chain      not compared: {proof.unchecked}"
    elif proof.block is not None and not proof.behind:
        yield f"chain      agrees at block {proof.block}, to the unit"
    yield from _told_present(proof)


def _told_present(proof: Proof) -> Iterator[str]:
    present = proof.present
    if present is None:
        yield "present    there is no journal to compare it with"
    elif present.unreadable:
        yield f"present    {present.journal} cannot be read, so nobody can say what would be lost: {present.unreadable}"
    elif not present.newer:
        yield f"present    {present.journal} holds nothing that the backup lacks: nothing would be lost"
    else:
        lost = present.lost
        yield (
            f"LOST       commits {present.common + 1} to {present.commit} of {present.journal}: {lost['readings']}"
            f" readings, {tokens(lost['charged'])} charged, {tokens(lost['earned'])} earned, unless devices offer"
            " them again"
        )
        also = ", ".join(f"{lost[name]} {name}" for name in ("devices", "channels", "accounts", "cycles") if lost[name])
        if also:
            yield f"LOST       also {also}"
        if present.common < proof.manifest.commit:
            yield f"warning    the two part after commit {present.common}: one of them is not this gateway's only life"
