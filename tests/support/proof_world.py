"""A whole gateway in this process on a real chain, behind a chain proxy, with devices in memory and an auditor.

The gateway is the real one; its link to devices is `MemoryLink`, which the gateway's own tests hold to the contract
of the real one. The auditor (`books`) asks the chain, past the proxy and without the gateway's code.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from channels.signatures import key_address
from channels.types import Address
from devices.messages import Receipt
from devices.receipts import decode_receipt
from gateway.audit import audit
from gateway.config import ChainConfig, Config
from gateway.keys import KeyRing, key_ring
from gateway.ledger import Ledger
from gateway.service import Gateway
from settlement.client import JsonRpcLayer
from settlement.errors import ChainRefused, ChainUnavailable
from settlement.genesis import PAYOUTS_ADDRESS, TOKEN_ADDRESS
from settlement.transports import HttpTransport
from tests.support.chain_observer import Observer
from tests.support.chain_proxy import ChainProxy
from tests.support.gateway_devices import Earner, Payer, secret, to_json
from tests.support.gateway_link import MemoryLink
from tests.support.gateway_world import config as world_config
from tests.support.proof_books import ProofBooks
from tests.support.proof_grounds import CHAIN_ID, GROUNDS, Ground

SEED = bytes(range(32))
COIN = 10**18
TOKEN = 10**6
FLOAT = 1_000 * TOKEN
NAMES = tuple(f"meter-{number}" for number in range(1, 9))
# Faults are retried with pauses of some seconds; only what never comes takes this long.
PATIENCE_S = 120.0


class ProofWorld:
    """One gateway's world on one chain. Make it with `make_proof_world`; `end` ends everything."""

    def __init__(
        self,
        path: Path,
        layer: str = "embedded",
        *,
        seed: int = 0,
        tokens: Mapping[Address, int] | None = None,
        coins: Mapping[Address, int] | None = None,
        codes: Mapping[Address, bytes] | None = None,
        confirmations: int = 0,
        timeout_s: float = 5.0,
        **changed: Any,
    ) -> None:
        self.keys: KeyRing = key_ring(SEED, 2)
        self.stranger_key = secret("stranger")
        holders = {self.keys.treasury.address: FLOAT, key_address(self.stranger_key): FLOAT}
        coin_holders = dict.fromkeys((*self.keys.addresses, key_address(self.stranger_key)), 1_000 * COIN)
        for name in NAMES:
            holders[key_address(secret(f"payer of {name}"))] = 100 * TOKEN
            coin_holders[key_address(secret(f"payer of {name}"))] = COIN
        self.ground: Ground = GROUNDS[layer](
            holders | dict(tokens or {}), coin_holders | dict(coins or {}), codes or {}
        )
        self.proxy = ChainProxy(self.ground.upstream, seed=seed)
        self.proxy.__enter__()
        self.observer = Observer(self.ground.rpc, TOKEN_ADDRESS, PAYOUTS_ADDRESS)
        self._timeout_s = timeout_s
        base = world_config(path)
        chain = ChainConfig(
            url=self.proxy.url,
            chain_id=CHAIN_ID,
            asset=base.chain.asset,
            payouts=base.chain.payouts,
            confirmations=confirmations,
            poll_ms=20,
        )
        self.config: Config = msgspec.structs.replace(base, **({"chain": chain} | changed))
        fee = self.config.settlement.fee_bps
        self.books = ProofBooks(self.observer, self.keys.treasury.address, fee)
        self.troubles: list[str] = []
        self.accepted: list[tuple[str, str, bytes, bytes]] = []  # device, leaf, payload, receipt
        self.silent_s = 0.0  # how long, by the wall clock, the chain has been as it is
        self._top_ups = 0
        self._task: asyncio.Task[None] | None = None
        self._miner: asyncio.Task[None] | None = None

    # -- the gateway's life --

    async def start(self) -> Gateway:
        """Start a gateway on what is there, and let it run."""
        self.link = MemoryLink(Path(self.config.data_dir) / "journal.sqlite")
        transport = HttpTransport(self.config.chain.url, timeout_seconds=self._timeout_s)
        self.layer = JsonRpcLayer(transport, expected_chain_id=CHAIN_ID)
        with mock.patch("gateway.service.DeviceLink", return_value=self.link):
            self.gateway = Gateway(self.config, self.keys, self.layer)
        try:
            await self.gateway.start()
        except BaseException:
            await self._close()
            raise
        self.gateway.watcher.heads.wall = self.wall
        self._task = asyncio.create_task(self.gateway.run())
        return self.gateway

    def wall(self) -> float:
        """Return the time of a wall clock that goes with the chain's, which begins at EPOCH and waits for the test."""
        return self.gateway.watcher.chain_time + self.silent_s

    async def stop(self) -> None:
        """End the gateway in order."""
        await self._cancel()
        await self.gateway.stop()
        await self.layer.close()

    async def crash(self) -> None:
        """Cut the power: nothing is stored or said any more. Raises the fault that ended it before, if any."""
        try:
            await self._cancel()
        finally:
            await self._close()

    async def end(self) -> None:
        """End everything; raises the fault that ended the gateway before, if any."""
        try:
            if self._task is not None:
                await self.crash()
        finally:
            await self.mine_on(False)
            self.proxy.__exit__(None, None, None)
            self.ground.stop()

    async def _cancel(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _close(self) -> None:
        await self.gateway.books.journal.close()
        await self.layer.close()
        os.close(self.gateway._lock)

    async def fault(self) -> BaseException:
        """Wait for the gateway to stop by itself; returns the first error that is not a cancellation."""
        assert self._task is not None
        task, self._task = self._task, None
        await asyncio.wait([task], timeout=PATIENCE_S)
        assert task.done(), "the gateway goes on"
        error = task.exception()
        while isinstance(error, BaseExceptionGroup):
            error = next(each for each in error.exceptions if not isinstance(each, asyncio.CancelledError))
        assert error is not None
        return error

    @property
    def ledger(self) -> Ledger:
        """The gateway's states."""
        return self.gateway.ledger

    # -- the chain --

    async def mine_on(self, on: bool = True, *, seconds: int = 1, every_s: float = 0.03) -> None:
        """Make a block again and again meanwhile, or no more."""
        if self._miner is not None:
            self._miner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._miner
            self._miner = None
        if on:

            async def run() -> None:
                while True:
                    await asyncio.to_thread(self.ground.mine, seconds)
                    await asyncio.sleep(every_s)

            self._miner = asyncio.create_task(run())

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what nothing announces, as the chain or the ledger has it, while the gateway runs."""
        async with asyncio.timeout(PATIENCE_S):
            while not await asyncio.to_thread(holds):
                if self._task is not None and self._task.done():
                    self._task.result()
                await asyncio.sleep(0.02)

    async def transact(
        self, key: bytes, to: bytes | None, data: bytes, *, value: int = 0, succeeds: bool = True
    ) -> Any:
        """Let anybody send a transaction; returns its receipt once it is mined."""
        tx_hash = await asyncio.to_thread(self.ground.send, key, key_address(key), to, data, value=value)
        # Mined at once, and yet anvil may take a moment to know it.
        await self.until(lambda: self.ground.receipt(tx_hash) is not None)
        receipt = self.ground.receipt(tx_hash)
        assert receipt is not None
        assert (receipt["status"] == "0x1") is succeeds, receipt
        return receipt

    # -- devices --

    def payer(self, device: str = "meter-1", **options: Any) -> Payer:
        """Return a device that pays, known to the auditor from now on."""
        payer = Payer(device, self.gateway.terms.current, **options)
        self.books.payers.append(payer)
        return payer

    def earner(self, device: str = "solar-1", **options: Any) -> Earner:
        """Return a device that earns, known to the auditor from now on."""
        earner = Earner(device, self.gateway.terms.current, **options)
        self.books.earners.append(earner)
        return earner

    async def ask(self, device: str, leaf: str, payload: bytes) -> Receipt:
        """Publish and wait for the receipt; a gateway that stops meanwhile is an error here."""
        assert self._task is not None, "no gateway runs"
        since = len(self.link.published)
        await self.link.send(device, leaf, payload)
        async with asyncio.timeout(PATIENCE_S):
            while not (found := self.link.receipts_to(device, payload, since)):
                if self._task.done():
                    self._task.result()
                await asyncio.sleep(0.005)
        receipt = decode_receipt(found[0])
        if receipt.reason is None:
            self.accepted.append((device, leaf, payload, found[0]))
        return receipt

    async def ask_again(self, device: str, leaf: str, payload: bytes) -> Receipt:
        """Publish, again after refusals that say that they pass by themselves, as devices do."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                receipt = await self.ask(device, leaf, payload)
                if receipt.reason is None or not receipt.reason.transient:
                    return receipt
                await asyncio.sleep(0.1)

    async def refused(self, payer: Payer, fields: dict[str, Any]) -> Receipt:
        """Let a device send a reading that must be refused, and change nothing."""
        before = self.ledger.channels[payer.id]
        receipt = await self.ask(payer.device, "usage", to_json(fields))
        assert receipt.reason is not None, receipt
        assert self.ledger.channels[payer.id].charged == before.charged
        return receipt

    async def top_up(self, payer: Payer, amount: int) -> Receipt:
        """Pay more into an open channel."""
        self._top_ups += 1
        payload = to_json(payer.open(amount, salt=1_000 + self._top_ups))
        receipt = await self.ask_again(payer.device, "open", payload)
        assert receipt.reason is None, receipt
        return receipt

    async def opened(self, device: str = "meter-1", amount: int = 5_000_000, **options: Any) -> Payer:
        """Return a device whose channel is open."""
        payer = self.payer(device, **options)
        receipt = await self.ask_again(device, "open", to_json(payer.open(amount)))
        assert receipt.reason is None, receipt
        return payer

    async def joined(self, device: str = "solar-1", **options: Any) -> Earner:
        """Return a device whose earner account is open."""
        earner = self.earner(device, **options)
        receipt = await self.ask_again(device, "open", to_json(earner.open()))
        assert receipt.reason is None, receipt
        return earner

    async def pay(self, payer: Payer, units: int = 100, **options: Any) -> Receipt:
        """Let a device pay; the reading must be accepted, and charged by its own arithmetic."""
        receipt = await self.ask(payer.device, "usage", payer.next_usage(units, **options))
        assert receipt.status == 0, receipt
        assert receipt.cumulative == payer.charged
        payer.settled_elsewhere = receipt.offset or 0
        return receipt

    async def earn(self, earner: Earner, units: int = 100) -> Receipt:
        """Let a device earn; the reading must be accepted, and counted by its own arithmetic."""
        receipt = await self.ask(earner.device, "earn", earner.next_earn(units))
        assert receipt.status == 0, receipt
        assert receipt.cumulative == earner.earned
        return receipt

    # -- settling and proving --

    async def settle(self) -> None:
        """Run one cycle; one that the chain's absence stops is taken up by the next, as the schedule would."""
        assert self._task is not None, "no gateway runs"
        settling = asyncio.ensure_future(self.gateway.settler.settle())
        done, _ = await asyncio.wait((settling, self._task), timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        if settling not in done:
            settling.cancel()
            if self._task in done:
                self._task.result()
            raise TimeoutError(f"a cycle has not ended; {self.proxy.asked}")
        try:
            settling.result()
        except (ChainUnavailable, ChainRefused) as error:
            self.troubles.append(str(error))

    async def settle_until(self, holds: Callable[[], bool]) -> None:
        """Settle again and again, as the schedule would, until the chain or the ledger has it so."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await self.settle()
                if await asyncio.to_thread(holds):
                    return
                await asyncio.sleep(0.02)

    async def settle_all(self) -> None:
        """Settle until the chain says exactly what the meters say."""
        try:
            await self.settle_until(lambda: not self.books.unsettled())
        except TimeoutError:
            raise AssertionError(f"{self.books.unsettled()}; troubles: {self.troubles[-3:]}") from None

    async def prove(self) -> None:
        """Nothing lost, nothing twice: the gateway's own proof, and the auditor's."""
        found = await self.audited()
        assert not found, found
        found = await asyncio.to_thread(self.books.faults)
        assert not found, found
        assert self.link.not_durable == [], "a receipt told what was not on disk"

    async def audited(self) -> list[str]:
        """Return what the gateway's own audit finds; it is asked again while the chain is away."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(ChainUnavailable, ChainRefused):
                    whole = self.ground.name == "embedded"
                    found, _ = await audit(self.gateway.books, self.layer, self.gateway.watcher, whole_chain=whole)
                    return found
                await asyncio.sleep(0.05)

    async def honoured(self) -> None:
        """Every receipt stands: the same message again is answered by it, or shown to be known."""
        for device, leaf, payload, before in list(self.accepted):
            again = await self.ask(device, leaf, payload)
            first = decode_receipt(before)
            assert again.reason is None, (leaf, again)
            assert again.status in (0, 1), (leaf, again)
            if leaf != "open":
                assert (again.seq, again.cumulative) == (first.seq, first.cumulative), (leaf, first, again)
