"""The gateway's control interface: HTTP with JSON over a Unix socket in the data directory.

Whoever may open the socket (mode 0600: the gateway's own user) operates the gateway. The commands of
`metergate` use it; amounts are decimal strings.
"""

import asyncio
import json
import os
import socket
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.audit import Unsteady, audit
from gateway.chain_server import serve
from gateway.enrolment import BadRequest, add_device, parse_device
from gateway.errors import SetupError
from gateway.queries import last_readings
from gateway.service import Gateway
from gateway.views import device_list, device_view, status
from settlement.errors import ChainRefused, ChainUnavailable

SOCKET = "control.sock"
# A device with sixteen payers and a note takes about one kilobyte.
BODY_MAX = 16_384
# A cycle over a slow chain may take minutes; the command waits, the cycle goes on if it does not.
SETTLE_WAIT_S = 600.0


def application(gateway: Gateway) -> Starlette:
    """Return the control application of a running gateway."""

    async def get_status(request: Request) -> Response:
        return JSONResponse(status(gateway))

    async def post_settle(request: Request) -> Response:
        try:
            work = gateway.supervised(gateway.settler.settle(), ChainUnavailable, ChainRefused)
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

    async def get_devices(request: Request) -> Response:
        return JSONResponse({"devices": device_list(gateway.ledger)})

    async def get_device(request: Request) -> Response:
        name = request.path_params["device"]
        view = device_view(gateway.ledger, name)
        if view is None:
            return JSONResponse({"error": f"no device {name!r} is known"}, 404)
        view["readings"] = await last_readings(gateway.books.journal.path, gateway.ledger, name)
        return JSONResponse(view)

    async def post_device(request: Request) -> Response:
        body = await request.body()
        if len(body) > BODY_MAX:
            return JSONResponse({"error": f"a request has at most {BODY_MAX} bytes"}, 413)
        try:
            record = parse_device(json.loads(body))
            await gateway.supervised(add_device(gateway.books, gateway.registry, record), BadRequest)
        except (ValueError, RecursionError) as error:  # BadRequest, no JSON, or JSON nested without end
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"device": record.device}, 201)

    async def get_books(request: Request) -> Response:
        try:
            proof = audit(gateway.books, gateway.layer, gateway.watcher)
            faults, warnings = await gateway.supervised(proof, ChainUnavailable, ChainRefused, Unsteady)
        except (ChainUnavailable, ChainRefused, Unsteady) as error:
            return JSONResponse({"error": str(error)}, 503)
        return JSONResponse({"faults": faults, "warnings": warnings})

    return Starlette(
        routes=[
            Route("/v1/status", get_status),
            Route("/v1/settle", post_settle, methods=["POST"]),
            Route("/v1/devices", get_devices),
            Route("/v1/devices", post_device, methods=["POST"]),
            Route("/v1/devices/{device}", get_device),
            Route("/v1/books", get_books),
        ]
    )


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
