"""Backups: made under load, killed, damaged, restored; what an older one would lose, and going on from it."""

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from channels.refusals import Refusal
from gateway import archive, backup
from gateway.archive import open_archive
from gateway.backup import Backups, make_backup
from gateway.cli import backups as command
from gateway.config import BackupConfig
from gateway.data_dir import RESTORING
from gateway.errors import SetupError
from settlement.transports import InProcessTransport
from tests.gateway.test_cli_books import Desk
from tests.support.gateway_devices import to_json
from tests.support.gateway_world import World, until

Make = Callable[..., Awaitable[World]]


@pytest.fixture
async def desk(world: World, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Desk]:
    """A desk at a running gateway, whose commands reach its chain."""
    made = Desk(world, capsys)
    await made.serve()
    with mock.patch.object(command, "HttpTransport", side_effect=lambda url: InProcessTransport(world.miner)):
        yield made
    await made.close()


async def crash(desk: Desk) -> None:
    await desk.close()
    await desk.world.crash()


async def go_on(desk: Desk) -> None:
    await desk.world.start()
    await desk.serve()


async def test_a_backup_under_load_is_of_one_commit_and_holds_nobody_up(desk: Desk, tmp_path: Path) -> None:
    world, file = desk.world, tmp_path / "b.tar"
    payer = await world.opened(amount=90_000_000)
    for _ in range(20):
        await world.pay(payer, 1)
    before = world.gateway.books.journal.number
    with mock.patch.object(backup, "PAGES_PER_STEP", 1):
        making = asyncio.create_task(desk.json("backup", str(file), "--json"))
        paid = 0
        while not making.done():
            await world.pay(payer, 1)
            paid += 1
        told = await making
    assert before <= told["commit"] < world.gateway.books.journal.number, "it went on while the copy was made"
    assert paid > 3
    assert told["keys"] is False
    assert file.stat().st_mode & 0o777 == 0o600
    assert not [name for name in os.listdir(tmp_path) if ".part" in name]
    proof = await desk.json("restore", str(file), "--check", "--json")
    assert (proof["usable"], proof["commit"], proof["unchecked"]) == (True, told["commit"], "")
    assert proof["block"] is not None
    assert json.loads((Path(world.config.data_dir) / backup.RESULT).read_text()) == told
    with tarfile.open(file) as found:  # any tar reads it
        assert found.getnames() == [archive.MANIFEST, archive.JOURNAL, archive.SEAL]


async def test_of_a_stopped_gateway_too_with_keys_only_when_asked(desk: Desk, tmp_path: Path) -> None:
    world, file = desk.world, tmp_path / "b.tar"
    await world.pay(await world.opened(), 10)
    (world.path / "keys.json").write_text('{"sealed": true}')
    await desk.close()
    await world.stop()
    assert "the keys are not in it" in await desk.type("backup", str(file))
    assert not open_archive(file).has(archive.KEYS)
    told = await desk.json("backup", str(file), "--with-keys", "--json")
    assert told["keys"] is True
    assert [member.entry.name for member in open_archive(file).members] == [
        archive.JOURNAL,
        "metergate.toml",
        "keys.json",
    ]
    # On a machine that has nothing yet.
    desk.config.unlink()
    (tmp_path / "site").mkdir()
    told = await desk.json("restore", str(file), "--to", str(tmp_path / "site"), "--json")
    assert told["aside"] is None
    assert (tmp_path / "site" / "keys.json").read_text() == '{"sealed": true}'
    assert (tmp_path / "site" / "keys.json").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in (tmp_path / "site").iterdir()} >= {"journal.sqlite", "metergate.toml"}


async def test_what_is_no_backup_is_never_written_over(desk: Desk, tmp_path: Path) -> None:
    await desk.world.opened()
    letter = tmp_path / "letter.txt"
    letter.write_text("dear all")
    assert "is no backup" in await desk.type("backup", str(letter), code=2)
    assert letter.read_text() == "dear all"
    assert "no directory" in await desk.type("backup", str(tmp_path / "nowhere" / "b.tar"), code=2)
    assert "is no backup" in await desk.type("backup", str(tmp_path), code=2)
    for body in (b"[]", b'{"file": "b.tar"}', b'{"else": 1}', b'{"config": "../x"}', b"x"):
        with pytest.raises(ValueError):
            desk_body(body)


def desk_body(body: bytes) -> Any:
    from gateway.control import parse_backup

    return parse_backup(body)


_KILLED = """
import os, signal, sys, time
from pathlib import Path
from gateway import backup
from gateway.config import load_config
part, config, target = sys.argv[1:]
def die(*ignored):
    os.kill(os.getpid(), signal.SIGKILL)
if part == "copying":
    backup.PAGES_PER_STEP, backup.time.sleep = 3, die
backup.make_backup(load_config(Path(config)), Path(target), on_part=lambda name: die() if name == part else None)
"""


async def test_killed_at_each_part_it_leaves_the_older_one_whole(desk: Desk, tmp_path: Path) -> None:
    world = desk.world
    payer = await world.opened()
    (tmp_path / "to").mkdir()
    file = tmp_path / "to" / "b.tar"
    await desk.type("backup", str(file))
    for part in ("journal", "copying", "check", "archive", "rename"):
        older = file.read_bytes()
        await world.pay(payer, 1)
        killed = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", _KILLED, part, str(desk.config), str(file)],
            check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert file.read_bytes() == older, part
        open_archive(file)
        told = await desk.json("backup", str(file), "--json")
        assert told["commit"] == world.gateway.books.journal.number
        assert list((tmp_path / "to").iterdir()) == [file], "what was begun is gone"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small whole backup, of a gateway with operators."""
    path = tmp_path_factory.mktemp("made")

    async def make() -> Path:
        world = World(path)
        await world.start()
        await world.pay(await world.opened(), 10)
        make_operators(Path(world.config.data_dir))
        await world.stop()
        return Path(make_backup(world.config, path / "b.tar").file)

    return asyncio.run(make())


def make_operators(data_dir: Path) -> None:
    import sqlite3

    with sqlite3.connect(data_dir / archive.OPERATORS) as db:
        db.execute("CREATE TABLE operators (name TEXT)")
    db.close()


def test_a_damaged_archive_is_refused_whichever_byte_it_is(made: Path, tmp_path: Path) -> None:
    whole = made.read_bytes()
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    other = tmp_path / "b.tar"
    for block in range(len(whole) // archive.BLOCK):
        if block > 40 and block < len(whole) // archive.BLOCK - 12 and block % 5:
            continue  # the middle of the journal is one region
        at = block * archive.BLOCK + chance.randrange(archive.BLOCK)
        bad = bytearray(whole)
        bad[at] ^= 1 << chance.randrange(8)
        other.write_bytes(bad)
        assert "is not a whole backup" in refusal(other), f"seed {seed}: byte {at} may be changed"
    for size in (0, 1, 511, 512, 4096, len(whole) - 512, len(whole) - 1, len(whole) // 2):
        other.write_bytes(whole[:size])
        with pytest.raises(SetupError):
            open_archive(other)
    other.write_bytes(whole + bytes(512))
    with pytest.raises(SetupError):
        open_archive(other)
    assert open_archive(made).has(archive.OPERATORS)


def refusal(path: Path) -> str:
    try:
        open_archive(path)
    except SetupError as error:
        return str(error)
    return ""


def sealed(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """Write an archive with a right seal over whatever members."""
    body = b"".join(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % archive.BLOCK) for info, data in members)
    path.write_bytes(body + archive._seal(hashlib.sha256(body).hexdigest(), 0))
    return path


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode, info.linkname = (
        len(data),
        kind,
        0o600,
        "/etc/passwd" if kind == tarfile.SYMTYPE else "",
    )
    return info, data


@pytest.mark.parametrize(
    "names",
    [["../journal.sqlite"], ["/tmp/journal.sqlite"], ["journal.sqlite", "../../evil"],
     ["journal.sqlite", "journal.sqlite"], ["keys.json"], ["journal.sqlite", "control.sock"],
     ["keys.json", "journal.sqlite"], []],
)  # fmt: skip
def test_no_name_leads_out_of_its_directory(made: Path, tmp_path: Path, names: list[str]) -> None:
    data = b"x" * 700
    entries = [archive.FileEntry(name, len(data), hashlib.sha256(data).hexdigest()) for name in names]
    manifest = msgspec.structs.replace(open_archive(made).manifest, files=tuple(entries), made_at=0)
    body = msgspec.json.encode(manifest)
    path = sealed(tmp_path / "b.tar", [member("manifest.json", body), *(member(name, data) for name in names)])
    with pytest.raises(SetupError, match="holds files that no backup has"):
        open_archive(path)


def test_a_link_or_another_name_behind_a_right_manifest(made: Path, tmp_path: Path) -> None:
    data = b"x" * 700
    digest = hashlib.sha256(data).hexdigest()
    manifest = msgspec.structs.replace(
        open_archive(made).manifest, files=(archive.FileEntry("journal.sqlite", 700, digest),), made_at=0
    )
    first = member("manifest.json", msgspec.json.encode(manifest))
    for bad in (member("journal.sqlite", data, tarfile.SYMTYPE), member("../journal.sqlite", data),
                member("journal.sqlite", data[:-1])):  # fmt: skip
        with pytest.raises(SetupError, match="plain file"):
            open_archive(sealed(tmp_path / "b.tar", [first, bad]))
    good = (member("journal.sqlite", data), first)
    with pytest.raises(SetupError, match="holds more"):
        open_archive(sealed(tmp_path / "b.tar", [first, good[0], member("extra", b"")]))
    open_archive(sealed(tmp_path / "b.tar", [first, good[0]]))  # the frame is right, only its journal is none


async def test_an_older_backup_says_what_is_lost_and_devices_bring_it_back(desk: Desk, tmp_path: Path) -> None:
    world, file = desk.world, tmp_path / "b.tar"
    payer, earner = await world.opened(), await world.joined()
    await world.pay(payer, 100)
    await world.earn(earner, 10)
    await desk.type("backup", str(file))
    at = world.gateway.books.journal.number
    assert "nothing would be lost" in await desk.type("restore", str(file), "--check")
    charged, earned = world.channel(payer).charged, world.account(earner).earned
    kept = [payer.usage(7)]
    payer.took(kept[0])
    kept.append(payer.usage(9))
    payer.took(kept[1])
    late = earner.earn(5)
    for fields in kept:
        assert (await world.ask(payer.device, "usage", to_json(fields))).status == 0
    assert (await world.ask(earner.device, "earn", to_json(late))).status == 0
    whole = world.channel(payer).charged
    proof = await desk.json("restore", str(file), "--check", "--json")
    lost = proof["present"]["lost"]
    assert proof["usable"]
    assert proof["present"]["common"] == at == proof["commit"]
    assert (lost["commits"], lost["readings"]) == (world.gateway.books.journal.number - at, 3)
    assert int(lost["charged"]) == whole - charged
    assert int(lost["earned"]) == world.account(earner).earned - earned > 0
    told = await desk.type("restore", str(file), "--check")
    assert f"LOST       commits {at + 1} to" in told
    assert "3 readings, 0.002400 charged" in told

    assert "another Metergate is running" in await desk.type("restore", str(file), "--force", code=2)
    await crash(desk)
    assert "--force replaces it" in await desk.type("restore", str(file), code=2)
    told = await desk.type("restore", str(file), "--force")
    assert f"as of commit {at}" in told
    (aside,) = (name for name in os.listdir(world.config.data_dir) if name.startswith("replaced-"))
    assert archive.JOURNAL in os.listdir(Path(world.config.data_dir) / aside)
    await go_on(desk)
    assert world.channel(payer).charged == charged
    for fields in kept:  # a device that keeps what was not final sends it again
        assert (await world.ask(payer.device, "usage", to_json(fields))).status == 0
    assert (await world.ask(earner.device, "earn", to_json(late))).status == 0
    assert world.channel(payer).charged == whole
    await world.pay(payer, 1)
    assert (await world.settle()) is not None
    assert await world.faults() == []


async def test_a_backup_from_before_a_claim_is_behind_the_chain(desk: Desk, tmp_path: Path) -> None:
    world, file = desk.world, tmp_path / "b.tar"
    payer = await world.opened()
    await world.pay(payer, 100)
    await desk.type("backup", str(file))
    await world.settle()
    await world.seen()
    told = await desk.type("restore", str(file), "--check", code=1)
    assert "BEHIND     1 channels were claimed for 15000 base units more than it knows of" in told
    assert "LOST       also 1 cycles" in told
    await crash(desk)
    assert "would stop at its start" in await desk.type("restore", str(file), code=2)
    assert world.path.exists()
    await go_on(desk)
    assert await world.faults() == [], "nothing was touched"
    await desk.type("backup", str(file))
    assert "agrees at block" in await desk.type("restore", str(file), "--check")


async def test_on_new_books_devices_open_their_channels_again(desk: Desk, tmp_path: Path) -> None:
    """What is left when every backup is behind the chain."""
    world = desk.world
    payer = await world.opened()
    first = payer.open(5_000_000)
    await world.pay(payer, 100)
    await world.settle()
    await world.seen()
    claimed = world.channel(payer).claimed
    await world.pay(payer, 10)  # lost: nobody claimed it
    await crash(desk)
    (Path(world.config.data_dir) / "journal.sqlite").rename(tmp_path / "gone.sqlite")
    for log in ("journal.sqlite-wal", "journal.sqlite-shm"):
        (Path(world.config.data_dir) / log).unlink(missing_ok=True)
    await go_on(desk)
    answer = await world.ask(payer.device, "usage", to_json(payer.usage(1)))
    assert answer.reason is Refusal.UNKNOWN_CHANNEL
    first["register"] = payer.register
    reopened = await world.ask(payer.device, "open", to_json(first))
    assert reopened.reason is None, reopened
    channel = world.channel(payer)
    assert (channel.claimed, channel.charged - claimed) == (claimed, 0)
    assert await world.faults() == []


async def test_what_a_power_cut_leaves_of_a_restore_is_ended_by_the_next(desk: Desk, tmp_path: Path) -> None:
    world, file = desk.world, tmp_path / "b.tar"
    payer = await world.opened()
    await world.pay(payer, 100)
    await desk.type("backup", str(file))
    await crash(desk)
    real, moves = Path.rename, 0
    data = Path(world.config.data_dir)
    for count in range(1, 4):

        def cut(self: Path, target: Path) -> Path:
            nonlocal moves
            moves += 1
            if moves == count:  # noqa: B023
                raise OSError(5, "cut")
            return real(self, target)

        moves = 0
        with mock.patch.object(Path, "rename", cut):
            told = await desk.type("restore", str(file), code=2)
        assert "Run it again" in told
        assert (data / RESTORING).exists()
        with pytest.raises(SetupError, match="did not end"):
            await world.start()
    await desk.type("restore", str(file))
    await go_on(desk)
    await world.pay(payer, 1)
    assert await world.faults() == []


async def test_of_another_gateway(desk: Desk, made: Path) -> None:
    text = desk.config.read_text().replace('"gw1"', '"gw2"')
    desk.config.write_text(text)
    assert "is of gateway 'gw1'" in await desk.type("restore", str(made), "--check", code=2)


# -- by the clock --


async def test_backups_by_the_clock_keep_the_last_ones(make_world: Make, tmp_path: Path) -> None:
    clock = BackupConfig(every_hours=1, dir=str(tmp_path / "backups"), keep=2)
    world = await make_world(backup=clock)
    await world.opened()
    backups = world.gateway.backups
    await until(lambda: backups.view()["last"] is not None)  # by the gateway's own clock: there was none
    names = set()
    for count in range(1, 5):
        made = await backups.make()
        names.add(made.file)
        assert len(names) == count
    assert backups.due_at() > time.time() + 3500
    for path in (tmp_path / "backups").iterdir():
        os.utime(path, (0, 0))
    (tmp_path / "backups" / ".metergate-gw1-x.tar.part").mkdir()
    assert backups.due_at() < time.time()
    task = asyncio.create_task(backups.run())
    try:
        await until(lambda: len(list((tmp_path / "backups").iterdir())) == 2)
    finally:
        task.cancel()
    newest = max((tmp_path / "backups").iterdir())
    assert str(newest) not in names
    assert backups.view()["last"]["file"] == str(newest)
    open_archive(newest)


async def test_a_failing_one_stops_nothing_and_is_shown(make_world: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    world = await make_world(backup=BackupConfig(every_hours=1, dir=str(tmp_path / "file" / "backups")))
    await until(lambda: bool(world.gateway.backups.failed))
    payer = await world.opened()
    await world.pay(payer, 1)
    assert world.running
    from gateway.views import status

    assert "cannot use backup.dir" in status(world.gateway)["backup"]["failed"]


def test_there_is_always_room_left_for_the_journal(made: Path, tmp_path: Path) -> None:
    world_config = World(tmp_path).config
    data = Path(world_config.data_dir)
    data.mkdir(parents=True)
    open_archive(made).extract(archive.JOURNAL, data / archive.JOURNAL)
    with (
        mock.patch("gateway.backup.shutil.disk_usage", return_value=mock.Mock(free=backup.RESERVE_BYTES)),
        pytest.raises(SetupError, match="make room"),
    ):
        make_backup(world_config, tmp_path / "b.tar")
    damaged = bytearray((data / archive.JOURNAL).read_bytes())
    at = damaged.rindex(b"founded")
    damaged[at] ^= 1
    (data / archive.JOURNAL).write_bytes(damaged)
    with pytest.raises(SetupError, match="no backup was made, the journal cannot be copied"):
        make_backup(world_config, tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()
    assert isinstance(Backups(world_config).due_at(), float)
