"""Transports that misbehave on purpose: scripted answers, and a real layer behind a faulty line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from settlement.errors import ChainRefused, ChainUnavailable
from settlement.jsonrpc import Request
from settlement.transports import Transport


@dataclass
class ScriptedTransport:
    """Answers by method name: a value, an exception to raise, or a function of the parameters."""

    answers: dict[str, Any]
    asked: list[str] = field(default_factory=list)

    async def call(self, method: str, params: Sequence[Any]) -> Any:
        self.asked.append(method)
        answer = self.answers[method]
        if callable(answer):
            answer = answer(*params)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def batch(self, requests: Sequence[Request]) -> list[Any | ChainRefused]:
        results = []
        for method, params in requests:
            try:
                results.append(await self.call(method, params))
            except ChainRefused as refused:
                results.append(refused)
        return results

    async def close(self) -> None:
        self.asked.append("close")


@dataclass
class FaultyTransport:
    """Passes requests on to `inner`, unless `fault` names one for this method.

    `fault(method)` returns None to pass, "request" to lose the request, "reply" to pass it and lose the
    answer, or an exception to raise instead. `faults` counts what really happened.
    """

    inner: Transport
    fault: Callable[[str], str | Exception | None] = lambda method: None
    faults: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    async def call(self, method: str, params: Sequence[Any]) -> Any:
        self.asked.append((method, tuple(params)))
        fault = self.fault(method)
        if fault is not None:
            self.faults[method] = self.faults.get(method, 0) + 1
        if fault == "reply":
            await self.inner.call(method, params)
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            raise ChainUnavailable(f"{method}: the {fault} was lost")
        return await self.inner.call(method, params)

    async def batch(self, requests: Sequence[Request]) -> list[Any | ChainRefused]:
        """Ask `fault` for each request; a lost one loses the whole batch, a refused one only itself."""
        faults = []
        for method, params in requests:
            self.asked.append((method, tuple(params)))
            fault = self.fault(method)
            if fault is not None:
                self.faults[method] = self.faults.get(method, 0) + 1
            faults.append(fault)
        lost = next((fault for fault in faults if fault is not None and not isinstance(fault, ChainRefused)), None)
        if isinstance(lost, Exception):
            raise lost
        if lost == "request":
            raise ChainUnavailable("the request was lost")
        passed = [
            request for request, fault in zip(requests, faults, strict=True) if not isinstance(fault, ChainRefused)
        ]
        answers = iter(await self.inner.batch(passed))
        if lost == "reply":
            raise ChainUnavailable("the reply was lost")
        return [fault if isinstance(fault, ChainRefused) else next(answers) for fault in faults]

    async def close(self) -> None:
        await self.inner.close()
