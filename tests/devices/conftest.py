from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mosquitto import Mosquitto


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running mosquitto with the settings that docs/protocol.md asks of a broker."""
    found = Mosquitto(tmp_path)
    found.start()
    try:
        yield found
    finally:
        found.kill()


@pytest.fixture(params=["fast", "paho"])
def loop_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with either loop: what the link promises holds for both."""
    monkeypatch.setattr("tests.devices.test_client.FAST_LOOP", request.param == "fast")
