"""Coins for gas: every sending key is watched, and refilled from the operator's key before it runs dry.

How much is enough follows the present fees: a mark is what is configured, or so many of the key's own usual
transactions at what they would offer now, whichever is more. So a gas price that rises moves the marks along.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from channels.types import Address
from gateway.keys import KeyRing
from gateway.sending import Outbox
from settlement.bidding import Bidding
from settlement.errors import ChainRefused, ChainUnavailable
from settlement.port import Call, ExecutionLayer
from settlement.streams import Outstanding, Stream

COIN = 10**18
# A plain transfer of coins.
TRANSFER_GAS = 21_000
# A lane's share of a cycle is three transactions (claim, settle, sweep): with fewer left it might stop half-way.
LOW_TRANSACTIONS = 4
# A refill lasts some cycles, so that it costs little beside them.
REFILL_TRANSACTIONS = 16
# Balances move by some transactions in a cycle, and cycles are minutes apart.
CHECK_EVERY_S = 30.0
# The same warning is repeated after this long.
WARN_AGAIN_S = 3600.0


@dataclass(frozen=True, slots=True)
class Marks:
    """When a key is refilled, and how far: wei. `usual` is what one of its usual transactions may cost now."""

    low: int
    refill_to: int
    usual: int


@dataclass(frozen=True, slots=True)
class KeyGas:
    """One key's coins, wei, beside its marks."""

    name: str
    address: Address
    coins: int
    marks: Marks

    @property
    def transactions(self) -> int:
        """How many of its usual transactions the coins cover at present fees."""
        return self.coins // max(self.marks.usual, 1)


def marks_of(stream: Stream, fee: int, low: int, refill_to: int) -> Marks:
    """Return a key's marks at `fee` wei per gas; `low` and `refill_to` are the configured ones.

    What is outstanding comes on top: it may still be paid for.
    """
    usual = stream.usual_gas * fee
    return Marks(
        max(low, LOW_TRANSACTIONS * usual) + stream.cost,
        max(refill_to, REFILL_TRANSACTIONS * usual) + stream.cost,
        usual,
    )


def plan_refills(keys: Sequence[KeyGas], available: int, transfer_cost: int) -> list[tuple[KeyGas, int]]:
    """Return (key, wei) for the keys below their low marks, the neediest first; the sum and its costs are at most
    `available`.

    The last one may get less than its refill if that still pays for one of its transactions.
    """
    refills: list[tuple[KeyGas, int]] = []
    for key in sorted(keys, key=lambda key: (key.transactions, key.name)):
        if key.coins >= key.marks.low:
            continue
        wanted = key.marks.refill_to - key.coins
        amount = min(wanted, available - transfer_cost)
        if amount < min(wanted, key.marks.usual) or amount <= 0:
            break
        refills.append((key, amount))
        available -= amount + transfer_cost
    return refills


class GasKeeper:
    """Watches the coins of lanes, treasury and operator. The authorizer sends nothing and needs none.

    `low` and `refill_to` are wei; with a `refill_to` of 0 nothing is refilled, and keys that run low are warned of.
    Below `warn_refills` refills left, the operator is asked for coins.
    """

    def __init__(
        self,
        layer: ExecutionLayer,
        outbox: Outbox,
        keys: KeyRing,
        *,
        low: int,
        refill_to: int,
        warn_refills: int,
        bidding: Bidding | None = None,
    ) -> None:
        self._layer = layer
        self._outbox = outbox
        self._operator = keys.operator.address
        self._names = {key.address: f"lane {index}" for index, key in enumerate(keys.lanes)}
        self._names[keys.treasury.address] = "treasury"
        self._low = low
        self._refill_to = refill_to
        self._warn_refills = warn_refills
        self._bidding = bidding or Bidding()
        self._last: dict[Address, Outstanding] = {}  # each key's last refill
        self._said: dict[str, tuple[int, float]] = {}
        self.keys: tuple[KeyGas, ...] = ()  # the operator's first, as of the last look
        self.refills = 0  # how many the operator's coins cover
        self.warning = ""  # what the operator should do, while there is something
        self.on_trouble: Callable[[str], None] = lambda text: None

    async def run(self) -> None:
        """Look every half minute; a chain that is away or refuses is asked again, all else is a fault and raised."""
        while True:
            try:
                await self.step()
            except (ChainUnavailable, ChainRefused) as error:
                self.on_trouble(f"the keys' coins for gas could not be looked after: {error}")
            await asyncio.sleep(CHECK_EVERY_S)

    async def step(self, *, wait: bool = False) -> None:
        """Look at every key once and send the refills that are due; `wait` until all of them are mined, too."""
        addresses = (self._operator, *self._names)
        head = await self._layer.head()
        coins = dict(zip(addresses, await self._layer.native_balances(addresses, head.number), strict=True))
        fee = self._bidding.first(await self._layer.fees()).max_fee_per_gas
        marks = {
            address: marks_of(self._outbox.stream(address), fee, self._low, self._refill_to) for address in addresses
        }
        self.keys = tuple(
            KeyGas(self._names.get(address, "operator"), address, coins[address], marks[address])
            for address in addresses
        )
        transfer_cost = TRANSFER_GAS * fee
        # The operator's own mark stays with it: without coins it could neither refill nor submit deposits.
        available = coins[self._operator] - marks[self._operator].low
        self._judge(available, transfer_cost)
        if self._refill_to:
            await self._refill(available, transfer_cost, head.number)
        if wait:
            await self._outbox.wait_all(
                [entry for entry in self._outbox.stream(self._operator) if entry.call.to in self._names]
            )

    async def _refill(self, available: int, transfer_cost: int, head: int) -> None:
        calm = [key for key in self.keys[1:] if not self._in_flight(key.address, head)]
        refills = plan_refills(calm, available, transfer_cost)
        orders = [(Call(self._operator, key.address, b"", wei), f"refill {key.name}") for key, wei in refills]
        if not orders:
            return
        sent = await self._outbox.send_all(orders)
        for (key, _), each in zip(refills, sent, strict=True):
            if isinstance(each, Outstanding):
                self._last[key.address] = each
            else:
                self.on_trouble(f"{key.name} cannot be refilled: {each}")

    def figures(self) -> Mapping[str, Any]:
        """Return what the last look showed as JSON values: coins in wei, as decimal strings."""
        return {
            "refills": self.refills,
            "warning": self.warning,
            "keys": [
                {
                    "name": key.name,
                    "address": f"0x{key.address.hex()}",
                    "coins": str(key.coins),
                    "low": str(key.marks.low),
                    "transactions": key.transactions,
                }
                for key in self.keys
            ],
        }

    def _in_flight(self, address: Address, head: int) -> bool:
        """Tell whether a refill of this key is under way, or newer than the balances that were read."""
        if any(entry.call.to == address for entry in self._outbox.stream(self._operator)):
            return True
        last = self._last.get(address)
        return last is not None and last.receipt is not None and last.receipt.block_number > head

    def _judge(self, available: int, transfer_cost: int) -> None:
        """Count what the operator's coins are good for, and warn in time."""
        others = self.keys[1:]
        typical = sum(key.marks.refill_to - key.marks.low for key in others) // len(others) + transfer_cost
        self.refills = max(available, 0) // max(typical, 1) if self._refill_to else 0
        texts: list[str] = []
        if self._refill_to and self.refills < self._warn_refills:
            operator = self.keys[0]
            wanted = 2 * self._warn_refills * typical + operator.marks.low - operator.coins
            text = (
                f"the operator's key 0x{operator.address.hex()} holds {shown(operator.coins)},"
                f" enough for {self.refills} more refills of lanes and treasury; send it {shown(wanted)}"
            )
            texts.append(text)
            self._tell("operator", self.refills, text)
        for key in others:
            helpless = not self._refill_to or available - transfer_cost < max(key.marks.usual, 1)
            if key.coins < key.marks.low and helpless:
                text = (
                    f"{key.name} 0x{key.address.hex()} holds {shown(key.coins)}, enough for {key.transactions}"
                    f" transactions; send it {shown(max(key.marks.refill_to, 2 * key.marks.low) - key.coins)}"
                )
                texts.append(text)
                self._tell(key.name, key.transactions, text)
        self.warning = "; ".join(texts)

    def _tell(self, about: str, left: int, text: str) -> None:
        """Say it when there is less left than at the last time, or long after it."""
        before, at = self._said.get(about, (left + 1, 0.0))
        if left < before or time.monotonic() - at >= WARN_AGAIN_S:
            self._said[about] = (left, time.monotonic())
            self.on_trouble(text)


def shown(wei: int) -> str:
    """Write wei as coins, rounded up to a millionth; less than that as wei."""
    if wei < COIN // 10**6:
        return f"{wei} wei"
    whole, part = divmod(-(-wei // 10**12), 10**6)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".") + " coins"
