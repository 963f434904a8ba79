"""What is wrong and can be mended: each with words, what to do by hand, and a button where the gateway can do it."""

import shutil
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateway.gas import shown
from gateway.summary import tokens
from gateway.web.shapes_money import Repair, RepairAction

if TYPE_CHECKING:
    from gateway.web.desk import Desk

# Deposits carry times: a clock this far off makes devices and chain disagree about them.
CLOCK_SKEW_MAX_S = 60
# Journals grow by about a kilobyte a reading at worst: below this a busy gateway has hours left.
DISK_FREE_MIN = 500 * 2**20
# Chains make a block every few seconds; the embedded layer one a second.
CHAIN_SILENT_S = 120.0
BACKUP_OLD_S = 7 * 86_400

CODES = (
    "broker_down",
    "chain_silent",
    "clock_off",
    "disk_low",
    "low_gas",
    "treasury_short",
    "rows_aside",
    "no_deposit",
    "backup_old",
)


def repairs(desk: "Desk") -> list[Repair]:
    """Return what is wrong now, faults first."""
    found = [*_surroundings(desk), *_money(desk), *_backup(desk)]
    return sorted(found, key=lambda each: (each.severity != "fault", CODES.index(each.code)))


def _surroundings(desk: "Desk") -> Iterator[Repair]:
    gateway = desk.gateway
    mqtt = gateway.config.mqtt
    if not gateway.link.connected:
        yield Repair(
            code="broker_down",
            severity="fault",
            title="The broker cannot be reached",
            words=f"{mqtt.host}:{mqtt.port} does not answer, so no readings come in. Devices keep theirs for later.",
            how="Start the broker, or mend [mqtt] in the configuration. The gateway connects again by itself.",
            link="",
            action=None,
        )
    silence = gateway.watcher.silence_s
    if silence > CHAIN_SILENT_S:
        since = "since the start" if silence == float("inf") else f"for {silence:.0f} s"
        yield Repair(
            code="chain_silent",
            severity="fault" if gateway.terms.chain_stale else "warning",
            title="The chain is silent",
            words=f"{gateway.config.chain.url} has shown no block that can be read {since}. Nothing settles meanwhile.",
            how="See that the node runs and is in step with its network, or name another one in [chain] url.",
            link="/layer",
            action=_button("chain_silent", "Ask it again now"),
        )
    head = gateway.watcher.head
    if head is not None and silence < CLOCK_SKEW_MAX_S:
        skew = int(time.time()) - head.timestamp
        if abs(skew) > CLOCK_SKEW_MAX_S:
            yield Repair(
                code="clock_off",
                severity="warning",
                title="The clock is off",
                words=f"This machine's clock and the chain's differ by {abs(skew)} s; deposits may be refused.",
                how="Set the clock (`timedatectl set-ntp true`), or see why the chain's is behind.",
                link="/layer",
                action=None,
            )
    free = shutil.disk_usage(gateway.config.data_dir).free
    if free < DISK_FREE_MIN:
        yield Repair(
            code="disk_low",
            severity="warning",
            title="The disk is nearly full",
            words=f"{free >> 20} MiB are free. Without room nothing can be written, and the gateway stops.",
            how=f"Make room on the disk that holds {gateway.config.data_dir}, or move it to a larger one.",
            link="",
            action=None,
        )


def _money(desk: "Desk") -> Iterator[Repair]:
    gateway = desk.gateway
    low = [key for key in gateway.gas.keys if key.coins < key.marks.low]
    if gateway.gas.warning or low:
        told = ", ".join(f"{key.name} has {shown(key.coins)}" for key in low)
        yield Repair(
            code="low_gas",
            severity="fault" if any(not key.transactions for key in low) else "warning",
            title="Coins for gas run low",
            words=gateway.gas.warning or f"{told}.",
            how="Send coins to the operator's key; lanes and treasury are refilled from it.",
            link="/settlement",
            action=_button("low_gas", "Refill now"),
        )
    held = desk.treasury_held
    payable, exposure = desk.index.payable, desk.index.sums["unclaimed"]
    if held is not None and payable > held + exposure:
        yield Repair(
            code="treasury_short",
            severity="warning",
            title="The treasury is short of tokens",
            words=f"Earners are due {tokens(payable)}; {tokens(held)} are held, and {tokens(exposure)} can come in.",
            how=f"Send tokens to the treasury 0x{gateway.keys.treasury.address.hex()}; payouts wait for them.",
            link="/settlement",
            action=None,
        )
    aside = gateway.ledger.aside
    if aside:
        reasons = sorted({each.reason for each in aside.values()})
        yield Repair(
            code="rows_aside",
            severity="warning",
            title=f"{len(aside)} rows of settlements were set aside",
            words=f"The chain refused them alone: {', '.join(reasons[:3])}. They are tried again, later and later.",
            how="See the cycle for each row and its reason.",
            link="/settlement",
            action=_button("rows_aside", "Settle everything now"),
        )
    without = desk.index.problems.get("no_deposit", 0)
    if without:
        yield Repair(
            code="no_deposit",
            severity="warning",
            title=f"{without} enrolled devices have no deposit",
            words="They cannot pay before their payer has put a deposit into a channel.",
            how="See that each device is on and its payer has tokens; it then opens its channel by itself.",
            link="/devices?problem=no_deposit",
            action=None,
        )


def _backup(desk: "Desk") -> Iterator[Repair]:
    if desk.gateway.config.demo:
        return
    last = desk.last_backup()
    if last is None or time.time() - last > BACKUP_OLD_S:
        yield Repair(
            code="backup_old",
            severity="warning",
            title="There is no recent backup",
            words="No backup was made yet."
            if last is None
            else f"The last one is {int(time.time() - last) // 86_400} days old.",
            how="Run `metergate backup FILE`, and keep the file on another machine.",
            link="",
            action=_button("backup_old", "Make one now"),
        )


def _button(code: str, label: str) -> RepairAction:
    return RepairAction(method="POST", path=f"/api/v1/repairs/{code}", label=label)
