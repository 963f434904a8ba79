"""A running demo that outsiders join: each gets a device id and a funded payer of its own."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator

from eth_account.signers.local import LocalAccount

from tests.support.demo_process import Demo
from tests.support.outsider import Outsider
from tests.support.outsider_link import Connection
from tests.support.outsider_signing import key

TOKEN = 10**6
FUNDED_TOKENS = 1_000 * TOKEN
FUNDED_COINS = 10 * 10**18


class Site:
    """One demo for a module. Payers are funded from the start, and every joining device takes the next one."""

    def __init__(self, name: str, payers: int, *options: str) -> None:
        self.accounts = [key("payer", name, number) for number in range(payers)]
        funds = [word for account in self.accounts for word in ("--fund", account.address)]
        self._spare: Iterator[LocalAccount] = iter(self.accounts)
        self._numbers = itertools.count(1)
        self._devices: list[Outsider] = []
        self._connections: list[Connection] = []  # of all devices that ever were
        self.demo = Demo("--json", "--devices", "4", "--rate", "6", *options, *funds)

    def payer(self) -> LocalAccount:
        """Return a funded account that nobody uses yet."""
        return next(self._spare)

    def join(self, label: str = "dev", *, encoding: str = "json", payer: LocalAccount | None = None) -> Outsider:
        """Connect a new device; the site closes it."""
        device = f"{re.sub('[^A-Za-z0-9_-]', '-', label)[:50]}-{next(self._numbers)}"
        connection = Connection(self.demo.mqtt_port, device)
        self._connections.append(connection)
        outsider = Outsider(connection, payer or self.payer(), encoding)
        self._devices.append(outsider)
        return outsider

    def told(self) -> Counter[str]:
        """Count the refusals that all devices were told, by reason."""
        return Counter(receipt["reason"] for each in self._connections for receipt in each.refusals())

    def leave(self) -> None:
        """Disconnect the devices of a test."""
        for device in self._devices:
            device.connection.close()
        self._devices.clear()

    def end(self) -> None:
        """End everything."""
        self.leave()
        self.demo.end()
