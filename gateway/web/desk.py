"""Everything that the operator's view shows of one running gateway, kept together and up to date once a second.

The desk never touches the pipeline: it is told of each batch once, reads the ledger without an await, and asks the
journal's file through read-only connections in threads.
"""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

from parallel_evm import Chain

from channels.types import Address
from devices.messages import Receipt
from gateway import __version__
from gateway.backup import last_backup
from gateway.service import Gateway
from gateway.web.activity import Activity
from gateway.web.baselines import Baselines, Sums
from gateway.web.blocks import BlockLog
from gateway.web.cycles import CycleLog
from gateway.web.devices_index import DeviceIndex
from gateway.web.listing import Listing
from gateway.web.repairs import repairs
from gateway.web.series import Point, Reading, SeriesStore
from gateway.web.shapes import BackupState
from gateway.web.shapes_money import CycleRow, Repair
from gateway.web.stream import Hub
from gateway.web.tiles import cycle_row, enrolment, tiles
from settlement.errors import ChainRefused, ChainUnavailable

TICK_S = 1.0
# What the treasury holds changes with settlements, minutes apart.
CASH_EVERY_S = 30.0
# Repairs look at the disk and at every key.
REPAIRS_EVERY_S = 5.0
# Devices named in one message of the stream.
NAMED_MAX = 20


class Desk:
    """The operator's view of a started gateway. `chain`: the embedded layer of this process, if there is one."""

    def __init__(self, gateway: Gateway, chain: Chain | None = None) -> None:
        self.gateway = gateway
        self.version = __version__
        keys = gateway.keys
        self.key_names: dict[Address, str] = {key.address: f"lane {index}" for index, key in enumerate(keys.lanes)}
        self.key_names |= {keys.treasury.address: "treasury", keys.operator.address: "operator"}
        ledger, journal = gateway.ledger, gateway.books.journal
        self.index = DeviceIndex(ledger, gateway.registry)
        self.activity = Activity()
        self.activity.known = self.index.rows.__contains__
        self.listing = Listing(self.index, self.activity)
        self.blocks = BlockLog(gateway.layer, ledger, self.key_names, chain)
        self.cycles = CycleLog(ledger, journal.path, journal.number)
        self.series = SeriesStore()
        self.hub = Hub()
        self.treasury_held: int | None = None
        self.repairs: list[Repair] = repairs(self)
        last = max((cycle.number for cycle in ledger.ended.values()), default=0)
        self.baselines = Baselines(Path(gateway.config.data_dir), last, self.sums)
        self._closing, self._closed = ledger.closings.follow(), ledger.closed.follow()
        self._enrolment_changed = False
        self._repairs_at = self._cash_at = float("-inf")
        self._was: dict[str, Any] = {}
        self._told = (0, 0)
        gateway.pipeline.on_handled = self.activity.handled
        gateway.openings.on_ended = self._open_ended
        gateway.openings.joining.on_change = self._joining_changed
        self._log = _Troubles(self.activity)

    # -- the clockwork --

    async def run(self) -> None:
        """Keep everything up to date until cancelled."""
        logging.getLogger("metergate").addHandler(self._log)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._look_at_cash())
                while True:
                    self.tick()
                    await asyncio.sleep(TICK_S)
        finally:
            logging.getLogger("metergate").removeHandler(self._log)
            self.hub.close()

    def tick(self) -> None:
        """Take in what happened since the last one, and tell those who listen."""
        now = time.time()
        self.index.refresh()
        changed, self.index.changed = self.index.changed, set()
        self.activity.tick(now)
        self.baselines.tick(self.sums)
        self._watch_surroundings()
        self._watch_closings()
        begun, ended = self._watch_cycles()
        point = self.series.take(self._reading())
        if time.monotonic() - self._repairs_at > REPAIRS_EVERY_S:
            self._repairs_at = time.monotonic()
            self.look_at_repairs()
        if self.hub.listeners:
            self._publish(changed, point, [*begun, *ended])
        self._enrolment_changed = False

    def _publish(self, changed: set[str], point: Point | None, cycles: list[CycleRow]) -> None:
        self.hub.publish("overview", tiles(self))
        if point is not None:
            self.hub.publish("series", {**_told(point), "exposure": str(point.exposure)})
        for row in cycles:
            self.hub.publish("cycle", row)
        events, samples = self.activity.fresh()
        payments, refused = self.counts()
        if events or samples:
            receipts = [
                {
                    "device": each.device,
                    "service": self._service(each.identifier),
                    "amount": str(each.amount),
                    "at": int(each.at),
                }
                for each in samples
            ]
            self.hub.publish(
                "activity",
                {
                    "events": events,
                    "receipts": receipts,
                    "payments": payments - self._told[0],
                    "refused": refused - self._told[1],
                },
            )
        self._told = (payments, refused)
        blocks = self.blocks.fresh()
        if blocks:
            self.hub.publish("block", {"blocks": blocks})
        if self._enrolment_changed:
            self.hub.publish("enrolment", enrolment(self))
        if changed:
            self.hub.publish("device", {"devices": sorted(changed)[:NAMED_MAX], "more": len(changed) > NAMED_MAX})

    def _service(self, identifier: bytes) -> str:
        ledger = self.gateway.ledger
        holder = ledger.channels.get(identifier) or ledger.accounts.get(identifier)
        return "" if holder is None else holder.service

    # -- what changed --

    def _watch_surroundings(self) -> None:
        gateway = self.gateway
        for name, kind, state, words in (
            (
                "broker",
                "broker",
                gateway.link.connected,
                ("the connection to the broker is lost", "the broker is there again"),
            ),
            (
                "chain",
                "chain",
                not gateway.terms.chain_stale,
                ("the chain is silent: readings are refused", "the chain is there again"),
            ),
        ):
            if self._was.setdefault(name, state) != state:
                self.activity.note(kind, words[int(state)])
            self._was[name] = state
        reorgs = gateway.ledger.totals.reorgs
        if self._was.setdefault("reorgs", reorgs) != reorgs:
            self.activity.note("chain", "the chain replaced blocks; what they did was taken back and read again")
        self._was["reorgs"] = reorgs

    def _watch_closings(self) -> None:
        ledger = self.gateway.ledger
        for keys, words in ((self._closing, "closes"), (self._closed, "is closed")):
            table = ledger.closings if keys is self._closing else ledger.closed
            for key in keys:
                if key in table:
                    channel = ledger.channels[key]
                    self.activity.note("channel", f"channel of {channel.service} {words}", channel.device, "", key)
            keys.clear()

    def _watch_cycles(self) -> tuple[list[CycleRow], list[CycleRow]]:
        begun, ended = self.cycles.refresh(self.gateway.books.journal.number)
        begun_rows = [
            row for number in begun if (row := cycle_row(self, number)) is not None and row.state == "running"
        ]
        ended_rows = [row for number in ended if (row := cycle_row(self, number)) is not None]
        for row in ended_rows:
            self.activity.note("cycle", f"settlement {row.number} ended: {row.rows} channels claimed")
            self.baselines.cycle_ended(row.number, self.sums)
        return begun_rows, ended_rows

    def look_at_repairs(self) -> None:
        """Look what is wrong now."""
        before = [each.code for each in self.repairs]
        self.repairs = repairs(self)
        codes = [each.code for each in self.repairs]
        if codes != before:
            self.hub.publish("repair", {"codes": codes})

    async def _look_at_cash(self) -> None:
        gateway = self.gateway
        owners = [gateway.keys.treasury.address, *(key.address for key in gateway.keys.lanes)]
        while True:
            try:
                self.treasury_held = sum(await gateway.layer.token_balances(gateway.token, owners))
            except (ChainUnavailable, ChainRefused):
                self.treasury_held = None
            await asyncio.sleep(CASH_EVERY_S)

    def _open_ended(self, device: str, receipt: Receipt) -> None:
        if receipt.reason is not None:
            self.activity.refused(device, receipt.reason.wire_name, receipt.id or b"", time.time())
        else:
            self.activity.note("channel", "channel opened", device, "", receipt.id or b"")

    def _joining_changed(self, words: str) -> None:
        self._enrolment_changed = True
        self.activity.note("enrolment", words)

    # -- figures --

    @property
    def sums(self) -> Sums:
        """What payers were charged and earners are due, over all time."""
        sums = self.index.sums
        return Sums(sums["charged"], sums["earned"] - sums["fee"])

    def counts(self) -> tuple[int, int]:
        """Return accepted payments over all time, and refusals since the start."""
        return self.gateway.ledger.totals.payments, self.gateway.pipeline.counters.refused.total()

    def _reading(self) -> Reading:
        payments, refused = self.counts()
        return Reading(
            at=time.monotonic(),
            time=int(time.time()),
            payments=payments,
            refused=refused,
            charged=self.index.sums["charged"],
            exposure=self.index.sums["unclaimed"],
            latency=tuple(self.activity.latency.counts),
        )

    def last_backup(self) -> int | None:
        """Return when the last backup was made, as far as is known; Unix seconds."""
        told = last_backup(self.gateway.config)
        return None if told is None else int(told["at"])

    def backup_state(self) -> BackupState:
        """Return that for the API."""
        return BackupState(last_at=self.last_backup())


def _told(point: Point) -> dict[str, Any]:
    return {
        name: getattr(point, name)
        for name in ("t", "payments_per_s", "refused_per_s", "charged_per_s", "p50_ms", "p99_ms")
    }


class _Troubles(logging.Handler):
    """Warnings of the gateway become events, whatever thread they come from."""

    def __init__(self, activity: Activity) -> None:
        super().__init__(logging.WARNING)
        self._activity = activity
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        """Take one."""
        self._loop.call_soon_threadsafe(self._activity.trouble, record.getMessage())
