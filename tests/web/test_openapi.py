"""The document and the routes are one: held against each other, and tried by schemathesis against a real gateway."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from starlette.routing import Route

from gateway.config import WebConfig
from gateway.web.app import PREFIX, routes_of
from gateway.web.server import WebServer
from tests.support.gateway_world import World
from tests.support.mosquitto import free_port
from tests.support.web_site import WebSite

# Never ends, is a file or an image, or would settle for minutes.
NOT_TRIED = "/api/v1/stream|/api/v1/enrolment/qr.svg"
# The demo lets everybody in (test_access_table.py is about that), and cursors and ids that fit the document may name
# nothing.
NOT_CHECKED = [ignored_auth, positive_data_acceptance]
EXAMPLES = 4
START_S = 30.0


async def test_the_document_and_the_routes_are_one(demo: WebSite) -> None:
    document = (await demo.client().get(f"{PREFIX}/openapi.json")).json()
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert told == set(routes_of(demo.site.endpoints))
    served = {
        (method, re.sub(r":\w+}", "}", route.path))
        for route in demo.site.app.routes
        if isinstance(route, Route) and route.path.startswith(PREFIX)
        for method in (route.methods or ()) - {"HEAD"}
    }
    assert told == served
    operations = [each for methods in document["paths"].values() for each in methods.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    assert all(each["summary"] and each["tags"] for each in operations)
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= document["components"]["schemas"].keys()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway with a device that paid, in a thread with an event loop of its own."""
    port, path = free_port(), tmp_path_factory.mktemp("openapi")
    ready, stop, faults = threading.Event(), threading.Event(), []
    thread = threading.Thread(target=lambda: faults.extend(asyncio.run(_serve(path, port, ready, stop))))
    thread.start()
    assert ready.wait(START_S)
    yield f"http://127.0.0.1:{port}"
    stop.set()
    thread.join()
    assert faults == []


async def _serve(path: Path, port: int, ready: threading.Event, stop: threading.Event) -> list[BaseException]:
    world = World(path)
    await world.start()
    payer = await world.opened()
    await world.pay(payer, 100)
    await world.joined()
    await world.settle()
    server = WebServer(world.gateway, WebConfig(port=port), chain=world.miner.chain)
    task = asyncio.create_task(server.serve())
    while not stop.is_set() and not task.done():
        await asyncio.sleep(0.05)
        ready.set()
    task.cancel()
    ended = await asyncio.gather(task, return_exceptions=True)
    fault = await world.crash()
    return [each for each in (*ended, fault) if each is not None and not isinstance(each, asyncio.CancelledError)]


def test_what_the_document_says_is_what_is_done(url: str) -> None:
    """Valid and invalid requests of every route: no server error, and only what the document tells of."""
    deadline = time.monotonic() + START_S
    schema: Any = None
    while schema is None:
        try:
            schema = schemathesis.openapi.from_url(f"{url}{PREFIX}/openapi.json")
        except schemathesis.errors.LoaderError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    tried = 0
    for result in schema.exclude(path_regex=NOT_TRIED).get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            strategy = operation.as_strategy(generation_mode=mode)

            @settings(
                max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
                phases=[Phase.generate], suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=strategy)
            def attempt(case: Any) -> None:
                nonlocal tried
                tried += 1
                case.call_and_validate(timeout=30, excluded_checks=NOT_CHECKED)

            try:
                attempt()
            except Unsatisfiable:  # a route without parameters or body has no invalid request
                assert mode is GenerationMode.NEGATIVE
                assert not operation.definition.raw.get("parameters")
    assert tried > 150
