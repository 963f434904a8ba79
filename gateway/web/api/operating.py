"""Repairs and enrolment: what is wrong and the buttons for it; the permit-join window and who waits at it."""

import io

import segno
from starlette.responses import Response

from gateway.backup import Made
from gateway.enrolment import add_device
from gateway.errors import SetupError
from gateway.web.access import Scope
from gateway.web.api.common import hex_bytes, not_found, supervised
from gateway.web.desk import Desk
from gateway.web.endpoints import Asked, Endpoint, Page, Problem
from gateway.web.repairs import CODES
from gateway.web.shapes_money import Backup, Enrolment, Repair, Repaired, WindowRequest
from gateway.web.tiles import enrolment, joining_uri
from settlement.errors import ChainRefused, ChainUnavailable


class Operating:
    """The handlers of one desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._gateway = desk.gateway
        self._joining = desk.gateway.openings.joining

    def endpoints(self) -> list[Endpoint]:
        """Return the rows of this subject."""
        read, operate, window, tag = Scope.READ, Scope.OPERATE, "/enrolment/window", "enrolment"
        return [
            Endpoint("GET", "/repairs", read, self.repairs, Page[Repair], "What is wrong now", "repairs"),
            Endpoint(
                "POST", "/repairs/{code}", operate, self.repair, Repaired, "Mend what the gateway can mend", "repairs",
                errors=(503,),
            ),
            Endpoint("POST", "/backup", operate, self.backup, Backup, "Make a backup", "backup", status=201),
            Endpoint("GET", "/enrolment", read, self.enrolment, Enrolment, "The permit-join window", tag),
            Endpoint("GET", "/enrolment/qr.svg", read, self.qr, None, "The code that a device scans, as SVG", tag),
            Endpoint("POST", window, operate, self.open, Enrolment, "Open the window", tag, WindowRequest),
            Endpoint("DELETE", window, operate, self.close, Enrolment, "Close the window", tag),
            Endpoint("POST", "/enrolment/{id}/accept", operate, self.accept, Enrolment, "Let a device in", tag),
            Endpoint("POST", "/enrolment/{id}/reject", operate, self.reject, Enrolment, "Turn a device away", tag),
        ]  # fmt: skip

    async def repairs(self, asked: Asked) -> Page[Repair]:
        """Return what is wrong now."""
        self._desk.look_at_repairs()
        return Page(self._desk.repairs, None, len(self._desk.repairs))

    async def repair(self, asked: Asked) -> Repaired:
        """Press the button of a repair."""
        code = asked.path["code"]
        gateway = self._gateway
        if code not in CODES:
            raise not_found("such repair")
        match code:
            case "low_gas":
                await gateway.supervised(gateway.gas.step(), ChainUnavailable, ChainRefused)
                words = gateway.gas.warning or "every key was looked at; refills that were due are on their way"
            case "chain_silent":
                await gateway.supervised(gateway.watcher.step(), ChainUnavailable, ChainRefused)
                words = f"the chain is at block {0 if gateway.watcher.head is None else gateway.watcher.head.number}"
            case "rows_aside":
                gateway.settler.wake()
                words = "a settlement begins; rows whose time has come are tried again"
            case "backup_old":
                words = f"the backup is in {(await self._back_up()).file}"
            case _:
                raise Problem(409, "by_hand", "the gateway cannot mend this by itself: see what to do by hand")
        self._desk.look_at_repairs()
        return Repaired(words=words, repairs=self._desk.repairs)

    async def backup(self, asked: Asked) -> Backup:
        """Make a backup beside the journal, or where the configuration says."""
        made = await self._back_up()
        return Backup(file=made.file, at=made.at, commit=made.commit, bytes=made.bytes)

    async def _back_up(self) -> Made:
        try:
            return await self._gateway.backups.make()
        except SetupError as error:
            raise Problem(409, "no_backup", str(error)) from error

    async def enrolment(self, asked: Asked) -> Enrolment:
        """Return the window and who waits."""
        return enrolment(self._desk)

    async def qr(self, asked: Asked) -> Response:
        """Return the QR code."""
        out = io.BytesIO()
        segno.make(joining_uri(self._desk), error="m").save(out, kind="svg", scale=4, dark="#000", light="#fff")
        return Response(out.getvalue(), media_type="image/svg+xml")

    async def open(self, asked: Asked) -> Enrolment:
        """Open the window."""
        body: WindowRequest = asked.body
        self._joining.open(body.seconds)
        return enrolment(self._desk)

    async def close(self, asked: Asked) -> Enrolment:
        """Close the window."""
        self._joining.close()
        return enrolment(self._desk)

    async def accept(self, asked: Asked) -> Enrolment:
        """Enrol a device that waits, with what it asked for."""
        identifier = hex_bytes(asked.path["id"], 32, "an id")
        who = self._joining.find(identifier)
        if who is None:
            raise not_found("device that waits under this id")
        await supervised(self._gateway, add_device(self._gateway.books, self._gateway.registry, who.enrolment()))
        self._joining.accepted(identifier)
        self._desk.index.refresh()
        return enrolment(self._desk)

    async def reject(self, asked: Asked) -> Enrolment:
        """Turn a device away."""
        if not self._joining.reject(hex_bytes(asked.path["id"], 32, "an id")):
            raise not_found("device that waits under this id")
        return enrolment(self._desk)
