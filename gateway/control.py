"""The gateway's control interface: HTTP with JSON over a Unix socket in the data directory.

Whoever may open the socket (mode 0600: the gateway's own user) operates the gateway. The commands of
`metergate` use it; amounts are decimal strings.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.audit import Snapshot, Unsteady, audit, take_snapshot
from gateway.chain_server import serve
from gateway.closings import parse_close
from gateway.durable import ShownWhenDurable
from gateway.enrolment import BadRequest, add_device, parse_device
from gateway.errors import JournalFault, SetupError
from gateway.queries import last_readings
from gateway.reconciliation import evidence
from gateway.reconciliation import to_json as evidence_to_json
from gateway.service import Gateway
from gateway.views import closing_view, device_list, device_view, outlook_view, status
from settlement.errors import ChainRefused, ChainUnavailable

SOCKET = "control.sock"
# A device with sixteen payers and a note takes about one kilobyte.
BODY_MAX = 16_384
# A cycle over a slow chain may take minutes; the command waits, the cycle goes on if it does not.
SETTLE_WAIT_S = 600.0
# Closing takes a cycle or two; it goes on when nobody waits for it any more.
CLOSE_WAIT_S = 600.0


class Control:
    """What each route does."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def get_status(self, request: Request) -> Response:
        """How the gateway is."""
        return JSONResponse(status(self._gateway))

    async def get_outlook(self, request: Request) -> Response:
        """What a settlement now would do, and why."""
        try:
            outlook = await self._gateway.supervised(self._gateway.settler.outlook(), ChainUnavailable, ChainRefused)
        except (ChainUnavailable, ChainRefused) as error:
            return JSONResponse({"error": str(error)}, 503)
        return JSONResponse(outlook_view(outlook))

    async def post_settle(self, request: Request) -> Response:
        """Settle now, and wait for the end."""
        whatever = request.query_params.get("whatever_it_costs") == "yes"
        try:
            cycle = self._gateway.settler.settle(whatever_it_costs=whatever)
            work = self._gateway.supervised(cycle, ChainUnavailable, ChainRefused)
            ended = await asyncio.wait_for(work, SETTLE_WAIT_S)
        except (ChainUnavailable, ChainRefused) as error:
            return JSONResponse({"error": f"this settlement stopped, the next one takes it up: {error}"}, 503)
        except TimeoutError:
            return JSONResponse({"error": f"not ended after {SETTLE_WAIT_S:.0f} s; it goes on"}, 503)
        if ended is None:
            return JSONResponse({"settled": False})
        return JSONResponse(
            {
                "settled": True,
                "cycle": ended.number,
                "rows": ended.rows,
                "claimed": str(ended.claimed),
                "offset": str(ended.offset),
                "moved": str(ended.settled),
                "paid": str(ended.paid),
                "gas_used": ended.gas_used,
            }
        )

    async def get_devices(self, request: Request) -> Response:
        """Every device."""
        return JSONResponse({"devices": device_list(self._gateway.ledger)})

    async def get_device(self, request: Request) -> Response:
        """One device with its last readings."""
        name = request.path_params["device"]
        view = device_view(self._gateway.ledger, name)
        if view is None:
            return JSONResponse({"error": f"no device {name!r} is known"}, 404)
        view["readings"] = await last_readings(self._gateway.books.journal.path, self._gateway.ledger, name)
        return JSONResponse(view)

    async def post_device(self, request: Request) -> Response:
        """Enrol a device."""
        body = await request.body()
        if len(body) > BODY_MAX:
            return JSONResponse({"error": f"a request has at most {BODY_MAX} bytes"}, 413)
        try:
            record = parse_device(json.loads(body))
            await self._gateway.supervised(add_device(self._gateway.books, self._gateway.registry, record), BadRequest)
        except (ValueError, RecursionError) as error:  # BadRequest, no JSON, or JSON nested without end
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"device": record.device}, 201)

    async def post_close(self, request: Request) -> Response:
        """Close a device's channels, and wait for the end."""
        body = await request.body()
        if len(body) > BODY_MAX:
            return JSONResponse({"error": f"a request has at most {BODY_MAX} bytes"}, 413)
        try:
            channel = parse_close(json.loads(body))
            closing = self._gateway.closings.close(request.path_params["device"], channel)
            ids = await self._gateway.supervised(closing, BadRequest)
        except (ValueError, RecursionError) as error:  # BadRequest, no JSON, or JSON nested without end
            return JSONResponse({"error": str(error)}, 400)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gateway.closings.ended(ids), CLOSE_WAIT_S)
        return JSONResponse(closing_view(self._gateway.ledger, ids))

    async def get_books(self, request: Request) -> Response:
        """Prove the books against the chain."""
        try:
            proof = audit(self._gateway.books, self._gateway.layer, self._gateway.watcher)
            faults, warnings = await self._gateway.supervised(proof, ChainUnavailable, ChainRefused, Unsteady)
        except (ChainUnavailable, ChainRefused, Unsteady) as error:
            return JSONResponse({"error": str(error)}, 503)
        return JSONResponse({"faults": faults, "warnings": warnings})

    async def get_ledger(self, request: Request) -> Response:
        """The evidence for the accounts, for a proof elsewhere."""
        try:
            found = await self._gateway.supervised(_evidence(self._gateway), ChainUnavailable, ChainRefused, Unsteady)
        except (ChainUnavailable, ChainRefused, Unsteady) as error:
            return JSONResponse({"error": str(error)}, 503)
        body = await asyncio.to_thread(lambda: json.dumps(evidence_to_json(evidence(found))))
        return Response(body, media_type="application/json")

    async def get_statements(self, request: Request) -> Response:
        """Statements of a party."""
        party, query = request.path_params["party"], request.query_params
        numbers = {name: query[name] for name in ("cycle", "after") if name in query}
        if not re.fullmatch(r"0x[0-9a-fA-F]{40}", party) or not all(map(_is_number, numbers.values())):
            return JSONResponse({"error": "expected an address, and a number for cycle or after"}, 400)
        asked = {name: int(number) for name, number in numbers.items()}
        try:
            found = await self._gateway.statements.read(bytes.fromhex(party[2:]), **asked)
        except JournalFault as error:
            return JSONResponse({"error": str(error)}, 500)
        return JSONResponse({"statements": found})

    async def post_backup(self, request: Request) -> Response:
        """Make a backup."""
        try:
            target, config_file = parse_backup(await request.body())
            made = await self._gateway.backups.make(target, config_file=config_file)
        except (ValueError, RecursionError, SetupError) as error:
            return JSONResponse({"error": str(error).removesuffix(".")}, 400)
        return JSONResponse(made.view(), 201)


def application(gateway: Gateway) -> Starlette:
    """Return the control application of a running gateway."""
    control = Control(gateway)
    return Starlette(
        routes=[
            Route("/v1/status", control.get_status),
            Route("/v1/settle", control.get_outlook),
            Route("/v1/settle", control.post_settle, methods=["POST"]),
            Route("/v1/devices", control.get_devices),
            Route("/v1/devices", control.post_device, methods=["POST"]),
            Route("/v1/devices/{device}", control.get_device),
            Route("/v1/devices/{device}/close", control.post_close, methods=["POST"]),
            Route("/v1/backup", control.post_backup, methods=["POST"]),
            Route("/v1/books", control.get_books),
            Route("/v1/ledger", control.get_ledger),
            Route("/v1/statements/{party}", control.get_statements),
        ],
        middleware=[Middleware(ShownWhenDurable, journal=gateway.books.journal)],
    )


async def _evidence(gateway: Gateway) -> Snapshot:
    """Return the states beside the chain, when the commit that they are of is on disk."""
    snapshot = await take_snapshot(gateway.books, gateway.layer, gateway.watcher)
    await gateway.books.journal.durable()
    return snapshot


def parse_backup(body: bytes) -> tuple[Path | None, Path | None]:
    """Return where a backup goes (None: a name of its own) and the configuration to put in. Raises ValueError."""
    asked = json.loads(body or b"{}")
    if len(body) > BODY_MAX or not isinstance(asked, dict) or not asked.keys() <= {"file", "config"}:
        raise ValueError("expected an object with file and config")
    paths = [Path(asked[name]) if isinstance(asked.get(name), str) else None for name in ("file", "config")]
    if any(path is not None and not path.is_absolute() for path in paths):
        raise ValueError("expected absolute paths")
    return paths[0], paths[1]


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,18}", text) is not None  # what SQLite holds


async def serve_control(gateway: Gateway) -> None:
    """Serve the control interface until cancelled."""
    path = Path(gateway.config.data_dir) / SOCKET
    path.unlink(missing_ok=True)  # the data directory is locked: this one is of a gateway that died
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        raise SetupError(f"cannot make the control socket {path}: {error}.") from error
    finally:
        os.umask(umask)
    listener.listen(16)
    listener.setblocking(False)
    try:
        await serve(application(gateway), listener)
    finally:
        path.unlink(missing_ok=True)
