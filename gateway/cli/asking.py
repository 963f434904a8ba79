"""Asking the running gateway over its control socket."""

from pathlib import Path
from typing import Any

import httpx

from gateway.config import Config
from gateway.control import SOCKET
from gateway.errors import SetupError


def ask(
    config: Config, method: str, path: str, body: dict[str, Any] | None = None, timeout_s: float = 30.0
) -> dict[str, Any] | None:
    """Return the gateway's answer, or None when none runs. Raises SetupError with what it refused."""
    socket = Path(config.data_dir) / SOCKET
    if not socket.exists():
        return None
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=timeout_s) as client:
            response = client.request(method, f"http://metergate{path}", json=body)
    except httpx.ConnectError:
        return None  # the socket of a gateway that died
    except httpx.HTTPError as error:
        raise SetupError(f"the running gateway does not answer: {error}.") from error
    answer: dict[str, Any] = response.json()
    if response.status_code >= 400:
        raise SetupError(f"{answer.get('error', 'the gateway refused')}.")
    return answer
