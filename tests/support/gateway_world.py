"""A whole gateway over an embedded chain, with devices in memory: the chain mines when told, or at once."""

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import cbor2
import parallel_evm

from channels.signatures import key_address
from channels.state import Account, Channel
from channels.types import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, Address, Authorization, ChannelConfig
from devices.messages import Receipt
from devices.receipts import decode_receipt
from gateway.audit import take_snapshot
from gateway.bookkeeping import Bookkeeper
from gateway.config import (
    ChainConfig,
    Config,
    MqttConfig,
    OfferConfig,
    PipelineConfig,
    ServiceConfig,
    SettlementConfig,
)
from gateway.journal import read_commits
from gateway.keys import KeyRing, key_ring
from gateway.ledger import Ledger
from gateway.reconciliation import disagreements, evidence
from gateway.records import CycleEnded
from gateway.service import Gateway
from settlement import calls
from settlement.client import JsonRpcLayer
from settlement.genesis import PAYOUTS_ADDRESS, TOKEN_ADDRESS, genesis
from settlement.transactions import Transaction, sign_transaction
from settlement.transports import InProcessTransport, Transport
from tests.support.gateway_devices import Earner, Payer, secret, to_json
from tests.support.gateway_link import MemoryLink

CHAIN_ID = 31402
EPOCH = 1_760_000_000
SEED = bytes(range(32))
COIN = 10**18
TOKEN = 10**6
# Some thousand awaits at most; only a wait for what never comes takes this long.
PATIENCE_S = 60.0

SERVICES = {
    "grid-power": ServiceConfig(unit="Wh", price="150000000000"),
    "ev-charging": ServiceConfig(unit="Wh", price="250000000000"),
    "data": ServiceConfig(unit="B", price="333333333", max_step=2**53 - 1),
    "solar-export": ServiceConfig(unit="Wh", price="80000000000", direction="earn"),
    "air-quality": ServiceConfig(unit="reading", price="333333333", direction="earn"),
}


class Crash(Exception):
    """What a test raises where the power is cut."""


class _Miner:
    """The chain as the layer sees it; every transaction is mined at once while `auto`."""

    def __init__(self, chain: parallel_evm.Chain) -> None:
        self.chain = chain
        self.auto = True
        self.now = EPOCH

    def rpc(self, body: bytes) -> bytes:
        answer = self.chain.rpc(body)
        if self.auto and self.chain.pending_count:
            self.mine()
        return answer

    def mine(self, seconds: int = 0) -> None:
        self.now += seconds
        self.chain.produce_block(self.now)


Hook = Callable[..., Awaitable[None]]


class Tap:
    """An execution layer with hooks before and after its methods; a hook may await, wait for ever or raise."""

    def __init__(self, inner: JsonRpcLayer) -> None:
        self._inner = inner
        self.before: dict[str, list[Hook]] = {}
        self.after: dict[str, list[Hook]] = {}
        self.asked: list[str] = []
        self.every: Hook | None = None  # called with ("before" or "after", method) at every call

    def once_before(self, method: str, hook: Hook) -> None:
        """Call `hook(*arguments)` before the next call of `method`."""
        self.before.setdefault(method, []).append(hook)

    def once_after(self, method: str, hook: Hook) -> None:
        """Call `hook(*arguments)` after the next call of `method`, before its caller has the answer."""
        self.after.setdefault(method, []).append(hook)

    def __getattr__(self, method: str) -> Any:
        inner = getattr(self._inner, method)

        async def call(*arguments: Any, **named: Any) -> Any:
            self.asked.append(method)
            if self.every is not None:
                await self.every("before", method)
            if self.before.get(method):
                await self.before[method].pop(0)(*arguments)
            answer = await inner(*arguments, **named)
            if self.after.get(method):
                await self.after[method].pop(0)(*arguments)
            if self.every is not None:
                await self.every("after", method)
            return answer

        return call


class World:
    """One gateway's world. `start` a gateway, `stop` or `crash` it, start another one on the same data and chain."""

    def __init__(
        self,
        path: Path,
        *,
        tokens: Mapping[Address, int] | None = None,
        coins: Mapping[Address, int] | None = None,
        float_tokens: int = 1_000 * TOKEN,
        extra_alloc: Mapping[str, Any] | None = None,
        **changed: Any,
    ) -> None:
        self.path = path
        self.keys: KeyRing = key_ring(SEED, 2)
        self.config = config(path, **changed)
        self.stranger_key = secret("stranger")
        own = dict.fromkeys(self.keys.addresses, 1_000 * COIN)
        holders = {key_address(self.stranger_key): 1_000 * TOKEN, self.keys.treasury.address: float_tokens}
        for name in DEVICES:
            holders[key_address(secret(f"payer of {name}"))] = 100 * TOKEN
            own[key_address(secret(f"payer of {name}"))] = COIN
        own[key_address(self.stranger_key)] = COIN
        body = genesis(holders | dict(tokens or {}), own | dict(coins or {}), timestamp=EPOCH)
        body["alloc"].update(extra_alloc or {})
        self.miner, transport = self._chain(body)
        self.miner.mine()
        self.layer = Tap(JsonRpcLayer(transport, expected_chain_id=CHAIN_ID))
        self.troubles: list[str] = []
        self.silent_s = 0.0  # how long, by the wall clock, the chain has been as it is
        self._task: asyncio.Task[None] | None = None

    def wall(self) -> float:
        """Return the time of a wall clock that goes with the chain's, which begins at EPOCH and waits for the test."""
        return self.gateway.watcher.chain_time + self.silent_s

    def _chain(self, body: dict[str, Any]) -> tuple[Any, Transport]:
        """Return a chain with this genesis, and the way to it."""
        miner = _Miner(parallel_evm.Chain(chain_id=CHAIN_ID, genesis=json.dumps(body)))
        return miner, InProcessTransport(miner)

    # -- the gateway's life --

    async def start(self, *, run: bool = True, keys: KeyRing | None = None) -> Gateway:
        """Start a gateway on what is there, and let it run."""
        self.link = MemoryLink(Path(self.config.data_dir) / "journal.sqlite")
        with mock.patch("gateway.service.DeviceLink", return_value=self.link):
            self.gateway = Gateway(self.config, keys or self.keys, self.layer)  # type: ignore[arg-type]
        # These tests are about what is written; those of the journal pull the plug.
        self.gateway.books.journal._db.execute("PRAGMA synchronous = OFF")
        try:
            await self.gateway.start()
        except BaseException:
            await self._close()
            raise
        self.gateway.watcher.heads.wall = self.wall
        self.gateway.settler.on_trouble = self.troubles.append
        self.gateway.settler._cycle.on_trouble = self.troubles.append
        self.gateway.outbox.on_trouble = self.troubles.append
        if run:
            self.run()
        return self.gateway

    def run(self) -> None:
        """Let a started gateway run."""
        self._task = asyncio.create_task(self.gateway.run())

    async def stop(self) -> None:
        """End the gateway in order."""
        await self._cancel()
        await self.gateway.stop()

    async def crash(self) -> BaseException | None:
        """Cut the power: nothing is stored or said any more. Returns the fault that ended it before, if any."""
        fault = await self._cancel()
        await self._close()
        return fault

    async def fault(self) -> BaseException:
        """Wait for the gateway to stop by itself; returns the first error that is not a cancellation."""
        assert self._task is not None
        await asyncio.wait([self._task], timeout=PATIENCE_S)
        assert self._task.done(), "the gateway goes on"
        error = self._task.exception()
        assert error is not None
        return _first(error)

    def settles_when_told(self) -> None:
        """From here on nothing presses this gateway's settler, whatever the chain does."""

        async def calm() -> bool:
            return False

        self.gateway.settler.pressing = calm  # type: ignore[method-assign]

    async def settle(self) -> CycleEnded | None:
        """Settle as a part of the gateway: a fault that ends the gateway meanwhile is raised here."""
        assert self._task is not None
        cycle = asyncio.ensure_future(self.gateway.settler.settle())
        await asyncio.wait((cycle, self._task), return_when=asyncio.FIRST_COMPLETED)
        if cycle.done():
            return cycle.result()
        cycle.cancel()
        raise await self.fault()

    async def restart(self, **options: Any) -> Gateway:
        """Crash and start again."""
        await self.crash()
        return await self.start(**options)

    @property
    def running(self) -> bool:
        """True while no fault has ended the gateway."""
        return self._task is not None and not self._task.done()

    async def _cancel(self) -> BaseException | None:
        task, self._task = self._task, None
        if task is None:
            return None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            try:
                await task
            except BaseExceptionGroup as group:
                return _first(group)
        return None

    async def _close(self) -> None:
        await self.gateway.books.journal.close()
        os.close(self.gateway._lock)

    # -- devices --

    @property
    def ledger(self) -> Ledger:
        """The gateway's states."""
        return self.gateway.ledger

    def payer(self, device: str = "meter-1", **options: Any) -> Payer:
        """Return a device that pays, provisioned with the current offer."""
        return Payer(device, self.gateway.terms.current, **options)

    def earner(self, device: str = "solar-1", **options: Any) -> Earner:
        """Return a device that earns, provisioned with the current offer."""
        return Earner(device, self.gateway.terms.current, **options)

    async def ask(self, device: str, leaf: str, payload: bytes) -> Receipt:
        """Publish and wait for the receipt."""
        return decode_receipt(await self.ask_raw(device, leaf, payload))

    async def ask_raw(self, device: str, leaf: str, payload: bytes) -> bytes:
        """Publish and wait for the receipt as it is on the wire."""
        since = len(self.link.published)
        await self.link.send(device, leaf, payload)
        return await self.link.receipt(device, payload, since)

    async def fields(self, device: str, leaf: str, payload: bytes) -> dict[Any, Any]:
        """Publish and return the receipt's fields: by JSON name, or by CBOR key."""
        raw = await self.ask_raw(device, leaf, payload)
        fields: dict[Any, Any] = json.loads(raw) if raw[:1] == b"{" else cbor2.loads(raw)
        return fields

    async def opened(self, device: str = "meter-1", amount: int = 5_000_000, **options: Any) -> Payer:
        """Return a device whose channel is open."""
        payer = self.payer(device, **options)
        receipt = await self.ask(device, "open", to_json(payer.open(amount)))
        assert receipt.reason is None, receipt
        assert receipt.balance == amount
        return payer

    async def joined(self, device: str = "solar-1", **options: Any) -> Earner:
        """Return a device whose earner account is open."""
        earner = self.earner(device, **options)
        receipt = await self.ask(device, "open", to_json(earner.open()))
        assert receipt.reason is None, receipt
        return earner

    async def pay(self, payer: Payer, units: int = 10, **options: Any) -> Receipt:
        """Let a device pay; the reading must be accepted."""
        receipt = await self.ask(payer.device, "usage", payer.next_usage(units, **options))
        assert receipt.status == 0, receipt
        return receipt

    async def earn(self, earner: Earner, units: int = 10) -> Receipt:
        """Let a device earn; the reading must be accepted."""
        receipt = await self.ask(earner.device, "earn", earner.next_earn(units))
        assert receipt.status == 0, receipt
        return receipt

    def channel(self, payer: Payer) -> Channel:
        """Return a channel as the gateway has it."""
        return self.ledger.channels[payer.id]

    def account(self, earner: Earner) -> Account:
        """Return an account as the gateway has it."""
        return self.ledger.accounts[earner.id]

    # -- the chain --

    def mine(self, seconds: int = 0) -> None:
        """Make a block, so many chain seconds later."""
        self.miner.mine(seconds)

    @property
    def head(self) -> int:
        """The chain's latest block."""
        return int(self.miner.chain.block_number)

    async def seen(self) -> None:
        """Wait until the gateway has journaled all that is on the chain."""
        await self.gateway.watcher.step()

    async def transact(
        self, key: bytes, to: bytes | None, data: bytes, *, value: int = 0, succeeds: bool = True
    ) -> Any:
        """Send a transaction of anybody and mine it; returns the receipt."""
        sender = key_address(key)
        nonce = self.miner.chain.nonce(sender)
        signed = sign_transaction(Transaction(CHAIN_ID, nonce, 0, 1_000, 5_000_000, to, value, data), key)
        inner = self.layer._inner
        assert await inner.send_raw(signed.raw) == signed.tx_hash
        if not self.miner.auto:
            self.mine()
        receipt = await self._receipt(signed.tx_hash)
        assert receipt is not None
        assert receipt.succeeded is succeeds
        return receipt

    async def _receipt(self, tx_hash: bytes) -> Any:
        return await self.layer._inner.receipt(tx_hash)

    async def deposit(self, config: ChannelConfig, amount: int, authorization: Authorization) -> Any:
        """Let a stranger submit a deposit."""
        data = calls.deposit(config, amount, COLLECTOR_ADDRESS, calls.collector_data(authorization))
        return await self.transact(self.stranger_key, SETTLEMENT_ADDRESS, data)

    async def give(self, to: Address, amount: int, *, token: Address = TOKEN_ADDRESS) -> Any:
        """Let a stranger send tokens."""
        return await self.transact(self.stranger_key, token, calls.transfer(to, amount))

    async def balance(self, owner: Address) -> int:
        """Return a token balance."""
        (amount,) = await self.layer._inner.token_balances(TOKEN_ADDRESS, [owner])
        return amount

    async def view(self, identifier: bytes) -> Any:
        """Return a channel as the chain has it."""
        (view,) = await self.layer._inner.channels([identifier])
        return view

    async def faults(self) -> list[str]:
        """Prove the books against the whole chain, by the states and by the journal's postings; what does not hold."""
        gateway = self.gateway
        snapshot = await take_snapshot(gateway.books, self.layer, gateway.watcher, whole_chain=True)  # type: ignore[arg-type]
        await gateway.books.journal.durable()
        keeper = Bookkeeper()
        for number, records in read_commits(gateway.books.journal.path, 0, snapshot.states.commit):
            keeper.take(number, records)
        return disagreements(keeper, evidence(snapshot))


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what nothing announces: the event loop and the threads behind it get their turns until it holds."""
    for _ in range(int(PATIENCE_S / 0.001)):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError("it does not come to hold")


# The devices whose payers have money in genesis.
DEVICES = tuple(f"meter-{number}" for number in range(1, 9))


def config(path: Path, **changed: Any) -> Config:
    """Return a configuration for tests: the demo's rules, nothing settles by itself."""
    values: dict[str, Any] = {
        "gateway": "gw1",
        "data_dir": str(path / "data"),
        "key_file": str(path / "keys.json"),
        "mqtt": MqttConfig(),
        "chain": ChainConfig(
            url="http://127.0.0.1:1",
            chain_id=CHAIN_ID,
            asset=f"0x{TOKEN_ADDRESS.hex()}",
            payouts=f"0x{PAYOUTS_ADDRESS.hex()}",
            poll_ms=20,
        ),
        "services": SERVICES,
        "lanes": 2,
        "offer": OfferConfig(withdraw_delay=900, max_ahead="1000000"),
        "settlement": SettlementConfig(every_s=86_400, fee_bps=100),
        "pipeline": PipelineConfig(window_ms=0),
        "demo": True,
    }
    return Config(**values | changed)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        others = [each for each in error.exceptions if not isinstance(each, asyncio.CancelledError)]
        error = others[0]
    return error


def states(ledger: Ledger) -> dict[str, Any]:
    """Return every state of a ledger, comparable: tables, histories and what is derived."""
    tables = {kind: dict(table) for kind, table in ledger._tables.items() if kind != "history"}
    tables["totals"] = {b"": ledger.totals}  # with what was counted since somebody asked
    return {
        **tables,
        "founded": ledger.founded,
        "histories": {key: history.blocks for key, history in ledger._histories.items()},
        "withdrawing": sorted(ledger.withdrawing),
        "by_payee": {payee: sorted(ids) for payee, ids in ledger.by_payee.items()},
    }
