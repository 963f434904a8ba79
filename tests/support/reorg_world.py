"""Worlds whose chain replaces its last blocks: the embedded layer by its snapshots, anvil by `anvil_reorg`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from channels.types import Address
from gateway.config import ChainConfig, OfferConfig
from settlement.genesis import PAYOUTS_ADDRESS, TOKEN_ADDRESS
from settlement.transports import HttpTransport, Transport
from tests.support.anvil import AnvilProcess, place_contracts, start_anvil
from tests.support.gateway_world import CHAIN_ID, EPOCH, PATIENCE_S, World

# So often blocks come by themselves where something waits for confirmations.
TICK_S = 0.01


def chain_config(confirmations: int) -> ChainConfig:
    """Return a chain's configuration for a world."""
    return ChainConfig(
        url="http://127.0.0.1:1",
        chain_id=CHAIN_ID,
        asset=f"0x{TOKEN_ADDRESS.hex()}",
        payouts=f"0x{PAYOUTS_ADDRESS.hex()}",
        poll_ms=20,
        confirmations=confirmations,
    )


class ForkWorld(World):
    """A world over the embedded layer that can go back to where `keep` was called, and on from there differently."""

    def __init__(self, path: Path, *, confirmations: int = 0, **options: Any) -> None:
        # Ceilings far ahead, so that a reading can reach into money that a reorganisation takes away.
        offer = OfferConfig(withdraw_delay=900, max_ahead="10000000")
        super().__init__(path, **{"chain": chain_config(confirmations), "offer": offer} | options)
        self._kept: list[Any] = []

    def keep(self) -> int:
        """Remember this block; returns its number."""
        self._kept.append((self.miner.chain.snapshot(), self.head))
        return self.head

    def drop(self, *, more: int = 1) -> int:
        """Replace every block since `keep` by empty ones, and add `more` to them; returns how many are gone."""
        saved, number = self._kept.pop()
        gone = self.head - number
        self.miner.chain.revert(saved)
        for _ in range(gone + more):
            self.mine(1)
        return gone

    async def begin(self) -> None:
        """Start a gateway; blocks come meanwhile, as its own first transaction has to become final."""
        async with self.ticking():
            await self.start()

    async def deep(self) -> None:
        """Let all that is on the chain become final and be seen."""
        for _ in range(self.config.chain.confirmations):
            self.mine(1)
        await self.seen()

    @asynccontextmanager
    async def ticking(self) -> AsyncIterator[None]:
        """Let blocks come by themselves meanwhile."""

        async def run() -> None:
            while True:
                self.mine(1)
                await asyncio.sleep(TICK_S)

        task = asyncio.create_task(run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


class _AnvilChain:
    """What a world asks of its chain, asked of anvil."""

    def __init__(self, anvil: AnvilProcess) -> None:
        self._anvil = anvil

    @property
    def block_number(self) -> int:
        return int(self._anvil.rpc("eth_blockNumber"), 16)

    def nonce(self, address: Address) -> int:
        return int(self._anvil.rpc("eth_getTransactionCount", f"0x{address.hex()}", "latest"), 16)


class _AnvilMiner:
    """Mines every transaction at once, as anvil does by itself, and further blocks when told."""

    def __init__(self, anvil: AnvilProcess) -> None:
        self.anvil = anvil
        self.chain = _AnvilChain(anvil)
        self.auto = True

    def mine(self, seconds: int = 0) -> None:
        self.anvil.rpc("evm_increaseTime", max(seconds, 1))
        self.anvil.rpc("evm_mine")


class AnvilWorld(ForkWorld):
    """A world over an anvil of its own; end it with `end`."""

    def _chain(self, body: dict[str, Any]) -> tuple[Any, Transport]:
        self.anvil = start_anvil(
            chain_id=CHAIN_ID,
            arguments=("--timestamp", str(EPOCH), "--block-base-fee-per-gas", "0", "--disable-min-priority-fee"),
        )
        place_contracts(self.anvil, body["alloc"])
        return _AnvilMiner(self.anvil), HttpTransport(self.anvil.url)

    how = "reorg"  # how blocks are dropped: "reorg", "rollback" or "revert", as anvil calls it

    def keep(self) -> int:
        """Remember this block; returns its number."""
        saved = self.anvil.rpc("evm_snapshot") if self.how == "revert" else None
        self._kept.append((saved, self.head))
        return self.head

    def drop(self, *, more: int = 1) -> int:
        """Replace every block since `keep` by empty ones, and add `more` to them; returns how many are gone."""
        saved, number = self._kept.pop()
        gone = self.head - number
        if self.how == "reorg":
            self.anvil.rpc("anvil_reorg", gone, [])
        elif self.how == "rollback":
            self.anvil.rpc("anvil_rollback", gone)
        else:
            assert self.anvil.rpc("evm_revert", saved)
        while self.head < number + gone + more:
            self.mine(1)
        return gone

    async def _receipt(self, tx_hash: bytes) -> Any:
        """Anvil answers when it has a transaction, and mines it by itself soon after."""
        for _ in range(int(PATIENCE_S / TICK_S)):
            receipt = await super()._receipt(tx_hash)
            if receipt is not None:
                return receipt
            await asyncio.sleep(TICK_S)
        return None

    async def end(self) -> None:
        """Release the connection and end anvil."""
        await self.layer._inner.close()
        self.anvil.stop()
