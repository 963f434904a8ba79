"""What tests of the sender share: a journal in memory, faults by count, a clock that tests set."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from settlement.errors import ChainRefused
from settlement.jsonrpc import Request
from settlement.port import TxReceipt
from settlement.streams import Outgoing
from settlement.transports import Transport
from settlement.waiting import Waiting
from tests.support.layers import Site
from tests.support.scripted import FaultyTransport

Fault = Callable[[str], str | Exception | None]

QUICK = Waiting(
    poll_seconds_min=0.01,
    poll_seconds_max=0.05,
    resend_seconds=0.05,
    taken_seconds=0.05,
    gap_seconds=0.05,
    fill_seconds=0.2,
    timeout_seconds=20,
)
SHORT = Waiting(poll_seconds_min=0.01, poll_seconds_max=0.02, resend_seconds=0.05, timeout_seconds=0.5)


@dataclass
class Journal:
    """What was persisted and booked, in order, one list for each commit; `before` runs first and may fail."""

    commits: list[list[Outgoing]] = field(default_factory=list)
    mined: list[tuple[Outgoing, TxReceipt | None]] = field(default_factory=list)
    before: Callable[[], None] = lambda: None

    async def persist(self, signed: Sequence[Outgoing]) -> None:
        await asyncio.sleep(0)
        self.before()
        self.commits.append(list(signed))

    async def booked(self, ended: Sequence[tuple[Outgoing, TxReceipt | None]]) -> None:
        await asyncio.sleep(0)
        self.mined += ended

    @property
    def entries(self) -> list[Outgoing]:
        """Everything persisted."""
        return [outgoing for commit in self.commits for outgoing in commit]

    @property
    def outstanding(self) -> list[Outgoing]:
        """What a restart finds: persisted, and nothing of its nonce booked."""
        ended = {(outgoing.sender, outgoing.nonce) for outgoing, _ in self.mined}
        return [outgoing for outgoing in self.entries if (outgoing.sender, outgoing.nonce) not in ended]


@dataclass
class Clock:
    """A clock that stands still until a test moves it."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Overriding:
    """A transport with some answers replaced: `answers[method]` gets the parameters and the true answer."""

    inner: Transport
    answers: dict[str, Callable[[Sequence[Any], Any], Any]] = field(default_factory=dict)

    async def call(self, method: str, params: Sequence[Any]) -> Any:
        (answer,) = await self.batch([(method, params)])
        if isinstance(answer, ChainRefused):
            raise answer
        return answer

    async def batch(self, requests: Sequence[Request]) -> list[Any | ChainRefused]:
        answers = await self.inner.batch(requests)
        return [
            self.answers[method](params, answer) if method in self.answers else answer
            for (method, params), answer in zip(requests, answers, strict=True)
        ]

    async def close(self) -> None:
        await self.inner.close()


def line(site: Site, fault: Fault = lambda method: None) -> FaultyTransport:
    """A faulty line to a real layer."""
    return FaultyTransport(site.transport, fault)


def first(count: int, method: str, fault: str | Exception) -> Fault:
    """Return a fault for the first `count` requests of one method."""
    left = count

    def decide(asked: str) -> str | Exception | None:
        nonlocal left
        if asked != method or left == 0:
            return None
        left -= 1
        return fault

    return decide


async def eventually(holds: Callable[[], bool], patience_s: float = 60.0) -> None:
    """Let the others work until it holds; only what never comes takes as long as the bound."""
    until = asyncio.get_running_loop().time() + patience_s
    while not holds():
        if asyncio.get_running_loop().time() > until:
            raise TimeoutError("it does not come to hold")
        await asyncio.sleep(0.001)
