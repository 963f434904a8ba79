"""The command `firmware-sim`: fleet, addresses, vectors."""

import argparse
import json
import os
import re
import selectors
import sys
from pathlib import Path
from random import Random

from paho.mqtt.enums import MQTTProtocolVersion

from firmware_sim import __version__, plan, snapshot
from firmware_sim.counters import Counters
from firmware_sim.device import Device
from firmware_sim.feeds import Feed, Replayed, Simulated
from firmware_sim.flash import Flash
from firmware_sim.identity import Provisioning
from firmware_sim.link import Link
from firmware_sim.replay import ReplayError, Track, read_tracks
from firmware_sim.report import figures
from firmware_sim.runner import Clock, Limits, Runner
from firmware_sim.vectors import check_directory

DEVICES_DEFAULT = 25
DEVICES_MAX = 20_000  # one socket each; more needs more processes
RATE_DEFAULT = "12"
SPEEDUP_DEFAULT = 120  # a minute shows two hours, twelve minutes a whole day
PRICE_DEFAULT = 150_000_000_000  # 10⁻⁹ base units per Wh: what a replay expects when it sizes its deposits
# Readings in flight over a whole replay: below the 1,000 that a stock mosquitto queues for one subscriber.
REPLAY_IN_FLIGHT = 512

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RATE = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except BrokenPipeError:
        return 1
    except (OSError, ReplayError, ValueError) as error:
        print(f"firmware-sim: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="firmware-sim", description="Simulated devices that pay and earn over MQTT.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    fleet = commands.add_parser("fleet", help="run many devices in one process")
    _who(fleet)
    fleet.add_argument("--gateway", type=_name, default="gw1", help="gateway id (default gw1)")
    fleet.add_argument("--host", default="127.0.0.1", help="broker (default 127.0.0.1)")
    fleet.add_argument("--port", type=_count(1, 65_535), default=1883, help="broker port (default 1883)")
    fleet.add_argument("--rate", type=_rate, default=_rate(RATE_DEFAULT), metavar="R",
                       help=f"readings per second of the whole fleet (default {RATE_DEFAULT})")  # fmt: skip
    fleet.add_argument("--duration", type=_count(1, 10**7), metavar="S",
                       help="seconds from the first opened device (default: until a signal)")  # fmt: skip
    fleet.add_argument("--speedup", type=_count(1, 100_000), default=SPEEDUP_DEFAULT,
                       help=f"simulated seconds per second (default {SPEEDUP_DEFAULT})")  # fmt: skip
    fleet.add_argument("--window", type=_count(1, 1024), help="readings without receipt per device")
    fleet.add_argument("--state-dir", type=Path, help="keep each device's state in a file here")
    fleet.add_argument("--sync", action="store_true", help="with --state-dir: survive a power cut")
    fleet.add_argument("--sign-readings", action="store_true", help="sign paying readings too")
    fleet.add_argument("--no-binding", action="store_true", help="open channels without a binding")
    fleet.add_argument("--authorizer", type=_address, help="receiverAuthorizer whose offers to believe")
    fleet.add_argument("--network", help="network to believe, like eip155:31402")
    fleet.add_argument("--asset", type=_address, help="token to believe")
    fleet.add_argument("--trust-first-offer", action=argparse.BooleanOptionalAction, default=None,
                       help="pin the first offer's authorizer (default: unless --authorizer is given)")  # fmt: skip
    fleet.add_argument("--mqtt-version", choices=("3.1.1", "5"), default="3.1.1")
    fleet.add_argument("--start-timeout", type=_count(1, 3600), default=60, metavar="S",
                       help="give up when no device is open after this long (default 60)")  # fmt: skip
    fleet.add_argument("--close-at-end", action="store_true",
                       help="at the end close every channel and wait for the refunds")  # fmt: skip
    fleet.add_argument("--with-parent", action="store_true", help="end when the process that started it has ended")
    fleet.add_argument("--json", action="store_true", help="print one JSON object at the end")
    fleet.add_argument("--progress-json", action="store_true", help="print a JSON object every second")
    fleet.set_defaults(run=_fleet)

    addresses = commands.add_parser("addresses", help="print who needs money before the fleet starts")
    _who(addresses)
    addresses.set_defaults(run=_addresses)

    vectors = commands.add_parser("vectors", help="check golden vectors")
    vectors.add_argument("directory", type=Path)
    vectors.set_defaults(run=_vectors)
    return parser


def _who(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=_count(1, DEVICES_MAX), default=DEVICES_DEFAULT,
                        help=f"number of devices (default {DEVICES_DEFAULT})")  # fmt: skip
    parser.add_argument("--seed", type=_count(0, 2**63), default=1, help="makes keys and loads (default 1)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="play real meter readings instead")
    parser.add_argument("--price", type=_count(0, 2**64 - 1), default=PRICE_DEFAULT,
                        help="price that sizes the deposits of a replay, in 1e-9 base units per Wh")  # fmt: skip


class _count:
    """An integer between two bounds, as an argparse type."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def __call__(self, text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not self._low <= int(text) <= self._high:
            raise argparse.ArgumentTypeError(f"{text!r}: an integer from {self._low} to {self._high}")
        return int(text)


def _rate(text: str) -> int:
    """Thousandths of a reading per second."""
    if not _RATE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: readings per second, like 12 or 0.5")
    whole, _, part = text.partition(".")
    milli = int(whole) * 1000 + int(part.ljust(3, "0") or 0)
    if not 1 <= milli <= 100_000_000:
        raise argparse.ArgumentTypeError(f"{text!r}: from 0.001 to 100000")
    return milli


def _address(text: str) -> bytes:
    if not _ADDRESS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: an address of 20 bytes in 0x-hex")
    return bytes.fromhex(text[2:])


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: letters, digits, _ and -, at most 64")
    return text


def _members(options: argparse.Namespace) -> tuple[list[plan.Member], list[Track]]:
    if options.replay is None:
        return plan.fleet(options.devices, options.seed), []
    tracks = read_tracks(options.replay)
    return plan.replay_fleet(tracks, options.price), tracks


def _addresses(options: argparse.Namespace) -> int:
    members, _ = _members(options)
    print(json.dumps(plan.addresses(members, options.seed), indent=1))
    return 0


def _vectors(options: argparse.Namespace) -> int:
    counts, failures = check_directory(options.directory)
    if not counts:
        raise ValueError(f"{options.directory}: no vector files (*.json) here")
    for name, count in counts.items():
        print(f"{name}: {count} cases")
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"{sum(counts.values())} cases, {len(failures)} failed")
    return 1 if failures else 0


def _fleet(options: argparse.Namespace) -> int:
    members, tracks = _members(options)
    options.members = len(members)
    counters = Counters()
    clock = Clock()
    with selectors.DefaultSelector() as selector:
        limits = Limits(
            duration_us=options.duration * 1_000_000 if options.duration and not tracks else None,
            start_us=options.start_timeout * 1_000_000,
            stall=bool(tracks),
            parent=os.getppid() if options.with_parent else None,
            close=options.close_at_end,
        )
        runner = Runner([], selector, clock, counters, limits, progress_json=options.progress_json)
        runner.links = [_link(member, options, runner, selector, clock, counters) for member in members]
        feed: Feed
        if tracks:
            feed = Replayed(list(zip(runner.links, tracks, strict=True)))
        else:
            meters = [plan.meter_of(member, options.seed) for member in members]
            feed = Simulated(list(zip(runner.links, meters, strict=True)), options.rate, options.speedup, clock())
        with runner.interruptible():
            runner.run(feed)
    return _conclude(options, runner, counters, feed)


def _link(
    member: plan.Member,
    options: argparse.Namespace,
    runner: Runner,
    selector: selectors.BaseSelector,
    clock: Clock,
    counters: Counters,
) -> Link:
    trust = options.trust_first_offer
    choices = plan.Options(options.gateway, options.seed, options.sign_readings, not options.no_binding)
    window = options.window or (max(1, min(64, REPLAY_IN_FLIGHT // options.members)) if options.replay else 4)
    device = Device(
        plan.identity_of(member, choices),
        Provisioning(
            trust_first=options.authorizer is None if trust is None else trust,
            authorizer=options.authorizer,
            network=options.network,
            asset=options.asset,
        ),
        counters,
        depth=window,
        queue=window if options.replay else 64,
    )
    flash = None
    if options.state_dir is not None:
        options.state_dir.mkdir(parents=True, exist_ok=True)
        flash = Flash(options.state_dir / f"{member.device}.flash", sync=options.sync)
        saved = flash.load()
        if saved is not None:
            snapshot.restore(device, saved)
    v5 = options.mqtt_version == "5"
    return Link(
        device,
        (options.host, options.port),
        selector,
        clock,
        Random(f"{options.seed}/{member.device}/reconnect"),
        flash=flash,
        protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
        wants_flush=runner.wants_flush,
    )


def _conclude(options: argparse.Namespace, runner: Runner, counters: Counters, feed: Feed) -> int:
    report = figures(runner.links, counters, runner.elapsed_us)
    stopped = report["stopped"]
    complete = feed.finished() or not isinstance(feed, Replayed)
    good = not runner.problem and not stopped and report["opened"] == report["devices"] and complete
    final = {**report, "seed": options.seed, "complete": complete, "problem": runner.problem, "ok": good}
    if options.progress_json:
        print(json.dumps({"type": "summary", **final}), flush=True)
    elif options.json:
        print(json.dumps(final), flush=True)
    print(_closing_lines(final), file=sys.stderr, flush=True)
    return 0 if good else 1


def _closing_lines(final: dict[str, object]) -> str:
    lines = [
        *([f"{final['closed']} channels closed, {final['refunded']} base units given back"] if final["closed"] else []),
        f"{final['opened']} of {final['devices']} devices opened; {final['accepted']} of {final['readings']} "
        f"readings accepted, {final['duplicates']} duplicates, refused: {final['refused'] or 'none'}",
        f"charged {final['charged']}, earned {final['earned']} base units",
    ]
    stopped = final["stopped"]
    if isinstance(stopped, dict):
        lines += [f"{device} stopped: {why}" for device, why in list(stopped.items())[:10]]
    if final["problem"]:
        lines.append(f"firmware-sim: {final['problem']}")
    return "\n".join(lines)
