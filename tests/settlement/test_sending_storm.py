"""Everything at once, by seed: lost messages, refusals, lagging answers, rising fees, forgotten pools, small
reorganisations and power cuts. In the end every purpose was executed exactly once."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from channels.signatures import key_address
from settlement.bidding import Bidding
from settlement.client import JsonRpcLayer
from settlement.errors import ChainRefused, ChainUnavailable
from settlement.port import Call, TxReceipt
from settlement.sender import Sender
from settlement.streams import Outgoing, Outstanding
from tests.support.layers import COINS, LANE_KEY, RELAY_KEY, TREASURY_KEY, Site, embedded_site
from tests.support.scripted import FaultyTransport
from tests.support.sending import QUICK, Clock, Journal, Overriding

KEYS = (RELAY_KEY, TREASURY_KEY, LANE_KEY)
ADDRESSES = [key_address(key) for key in KEYS]
GWEI = 10**9
# Nobody outside can end these tests' patience; a nonce of ours is never taken by another, so that is never believed.
WAITING = replace(QUICK, poll_seconds_min=0.001, poll_seconds_max=0.005, taken_seconds=1e9, timeout_seconds=None)
FAULTS: tuple[str | Exception, ...] = (
    "request",
    "reply",
    ChainUnavailable("HTTP status 503"),
    ChainRefused(-32005, "slow down"),
)
SEND_FAULTS = (
    *FAULTS,
    ChainRefused(-32000, "already known"),
    ChainRefused(-32000, "nonce too low"),
    ChainRefused(-32000, "replacement transaction underpriced"),
    ChainRefused(-32000, "max fee per gas less than block base fee"),
    ChainRefused(-32000, "txpool is full"),
    ChainRefused(-32603, "internal error"),
)


class Storm:
    """One seed's world: a real layer behind a line with faults, and a sender that dies and comes back."""

    def __init__(self, site: Site, seed: int, *, reorganised: bool) -> None:
        self.site = site
        self.rng = random.Random(seed)
        self.reorganised = reorganised
        self.calm = False
        self.journal = Journal()
        self.clock = Clock()
        self.tip = GWEI
        self.line = FaultyTransport(site.transport, self.fault)
        self.asked = Overriding(self.line, {"eth_maxPriorityFeePerGas": lambda params, answer: hex(self.tip)})
        self.asked.answers["eth_getTransactionCount"] = self.nonce
        self.purposes: dict[bytes, int] = {}  # receiver: wei
        self.work: set[asyncio.Task[Any]] = set()
        self.sender = self.born()

    def fault(self, method: str) -> str | Exception | None:
        sending = method == "eth_sendRawTransaction"
        if self.calm or self.rng.random() > (0.2 if sending else 0.04):
            return None
        return self.rng.choice(SEND_FAULTS if sending else FAULTS)

    def nonce(self, params: Sequence[Any], answer: Any) -> Any:
        """A replica lags by some transactions, but never at the first question of a life."""
        if self.calm or isinstance(answer, ChainRefused) or self.rng.random() > 0.1:
            return answer
        return hex(max(0, int(answer, 16) - self.rng.randrange(3)))

    def born(self) -> Sender:
        sender = Sender(
            JsonRpcLayer(self.asked),
            KEYS,
            self.journal.persist,
            booked=self.booked,
            bidding=Bidding(1_000 * GWEI, 3.0),
            waiting=WAITING,
            clock=self.clock,
        )
        nonces: dict[bytes, int] = {}
        for outgoing in self.journal.entries:
            nonces[outgoing.sender] = max(nonces.get(outgoing.sender, 0), outgoing.nonce + 1)
        sender.resume(self.journal.outstanding, nonces)
        self.work.add(asyncio.create_task(sender.run()))
        return sender

    async def booked(self, ended: Sequence[tuple[Outgoing, TxReceipt | None]]) -> None:
        """As the books do: what is booked already was sent once more in vain."""
        known = {outgoing.tx_hash for outgoing in self.journal.outstanding}
        await self.journal.booked([each for each in ended if each[0].tx_hash in known])

    async def execute(self, calls: list[Call]) -> None:
        """What a caller does: again and again, until it has its receipts; a call may be outstanding by then."""
        while calls:
            orders = [(call, f"gift to {call.to!r}") for call in calls]
            try:
                tried = await self.sender.try_all(orders)
                sent = [each for each in tried if isinstance(each, Outstanding)]
                ends = dict(zip(sent, await self.sender.wait_all(sent), strict=True))
            except ChainUnavailable:
                await asyncio.sleep(0.002)
                continue
            refused = [
                call
                for call, each in zip(calls, tried, strict=True)
                if not (isinstance(each, Outstanding) and isinstance(ends[each], TxReceipt))
            ]
            # A gift is not cumulative: one that is outstanding, or was mined meanwhile, must not be asked for again.
            known = {outgoing.purpose for outgoing in self.journal.entries}
            calls = [call for call in refused if f"gift to {call.to!r}" not in known]
            await asyncio.sleep(0.002)

    def order(self) -> None:
        calls = []
        for _ in range(self.rng.randrange(1, 6)):
            receiver = (1_000 + len(self.purposes)).to_bytes(20, "big")
            self.purposes[receiver] = self.rng.randrange(1, 10**6)
            calls.append(Call(self.rng.choice(ADDRESSES), receiver, b"", self.purposes[receiver]))
        self.work.add(asyncio.create_task(self.execute(calls)))

    async def die(self) -> None:
        """Cut the power; what was ordered and not journaled is ordered again, as a planner would."""
        for task in self.work:
            task.cancel()
        await asyncio.wait(self.work)
        for task in self.work:
            if not task.cancelled():
                task.result()
        self.work.clear()
        await asyncio.gather(*self.sender._batches, return_exceptions=True)
        known = {outgoing.purpose for outgoing in self.journal.entries}
        self.sender = self.born()
        missing = [
            Call(self.rng.choice(ADDRESSES), receiver, b"", wei)
            for receiver, wei in self.purposes.items()
            if f"gift to {receiver!r}" not in known
        ]
        if missing:
            self.work.add(asyncio.create_task(self.execute(missing)))

    async def reorganise(self) -> None:
        """Drop the last block, and say so: as the watcher does when it has put the books back."""
        go_back = self.site.snapshot()
        self.site.mine(1)
        await asyncio.sleep(self.rng.choice((0, 0.001, 0.01)))
        self.site.mine(1)
        await asyncio.sleep(self.rng.choice((0, 0.001, 0.01)))
        go_back()
        # Only what is in no block any more is outstanding again.
        dropped = []
        for outgoing, receipt in self.journal.mined:
            if receipt is not None and await self.site.layer.receipt(receipt.tx_hash) is None:
                dropped.append((outgoing, receipt))
        nonces = {(outgoing.sender, outgoing.nonce) for outgoing, _ in dropped}
        self.journal.mined = [each for each in self.journal.mined if (each[0].sender, each[0].nonce) not in nonces]
        self.sender.resume([each for each in self.journal.entries if (each.sender, each.nonce) in nonces])

    async def rage(self, steps: int) -> None:
        for _ in range(steps):
            doing = self.rng.choices(("order", "mine", "time", "die", "reorganise"), (3, 2, 6, 1, 1))[0]
            if doing == "order":
                self.order()
            elif doing == "mine":
                self.site.mine(1)
            elif doing == "time":
                self.clock.now += self.rng.choice((1, 4, 13))
                self.tip = max(GWEI, self.tip * self.rng.choice((1, 2, 3)) // self.rng.choice((1, 1, 3)))
            elif doing == "die":
                await self.die()
            elif self.reorganised:
                await self.reorganise()
            await asyncio.sleep(self.rng.choice((0, 0.002, 0.006)))

    async def end(self) -> None:
        """The line is good again: everything comes to its end."""
        self.calm = True
        await self.die()
        while len(self.journal.mined) < len(self.purposes) or self.sender._follower.outstanding():
            self.site.mine(1)
            self.clock.now += 1
            for task in [task for task in self.work if task.done()]:
                self.work.remove(task)
                task.result()
            await asyncio.sleep(0.002)
        await self.die()
        for task in self.work:
            task.cancel()

    async def judge(self) -> None:
        given = await self.site.layer.native_balances(list(self.purposes))
        assert given == list(self.purposes.values()), "not each exactly once"
        for address in ADDRESSES:
            mined = [outgoing for outgoing, _ in self.journal.mined if outgoing.sender == address]
            assert sorted(outgoing.nonce for outgoing in mined) == list(range(len(mined)))
            assert await self.site.layer.nonce(address, pending=False) == len(mined)
        assert len({outgoing.purpose for outgoing, _ in self.journal.mined}) == len(self.journal.mined)
        coins = await self.site.layer.native_balances(ADDRESSES)
        fees = sum(receipt.fee for _, receipt in self.journal.mined if receipt is not None)
        assert sum(coins) == sum(COINS[address] for address in ADDRESSES) - fees - sum(given)


@pytest.mark.parametrize("reorganised", [False, True], ids=["stable", "reorganised"])
@pytest.mark.parametrize("seed", range(6))
async def test_every_purpose_is_executed_exactly_once(seed: int, reorganised: bool) -> None:
    print(f"seed {seed}")
    async with embedded_site() as site:
        storm = Storm(site, seed, reorganised=reorganised)
        await storm.rage(120)
        async with asyncio.timeout(60):
            await storm.end()
        await storm.judge()
