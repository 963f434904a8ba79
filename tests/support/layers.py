"""Execution layers to test against: anvil over HTTP and the embedded layer in process, under one handle.

Both begin with the contracts in place, the same funded keys and mining by hand, so that a test decides what is
mined and when.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from channels.digests import channel_id, deposit_digest, voucher_digest
from channels.signatures import key_address, sign
from channels.types import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, Authorization, ChannelConfig, Network, TokenDomain
from settlement import calls
from settlement.client import JsonRpcLayer
from settlement.genesis import TOKEN_ADDRESS, alloc, genesis
from settlement.port import Call, TxReceipt
from settlement.transactions import SignedTransaction, Transaction, sign_transaction
from settlement.transports import HttpTransport, InProcessTransport, Transport
from tests.support.anvil import CHAIN_ID, place_contracts, start_anvil

PAYER_KEY = b"\x11" * 32
LANE_KEY = b"\x22" * 32
AUTHORIZER_KEY = b"\x33" * 32
DEVICE_KEY = b"\x44" * 32
TREASURY_KEY = b"\x55" * 32
RELAY_KEY = b"\x66" * 32
POOR_KEY = b"\x77" * 32

TOKENS = {key_address(key): 1_000_000_000 for key in (PAYER_KEY, TREASURY_KEY)}
COINS = {key_address(key): 10**19 for key in (PAYER_KEY, LANE_KEY, AUTHORIZER_KEY, DEVICE_KEY, TREASURY_KEY, RELAY_KEY)}
DOMAIN = TokenDomain(TOKEN_ADDRESS, "USD Coin", "2")
NETWORK = Network(CHAIN_ID)
GAS = 1_000_000


@dataclass(slots=True)
class Site:
    """A layer under test. `mine(seconds)` makes one block, so many chain seconds after the last one."""

    name: str
    transport: Transport
    layer: JsonRpcLayer
    mine: Callable[[int], None]
    snapshot: Callable[[], Callable[[], None]]  # saves the chain; calling what it returns goes back there
    nonces: dict[bytes, int] = field(default_factory=dict)

    def sign(self, key: bytes, to: bytes | None, data: bytes, *, value: int = 0, gas: int = GAS) -> SignedTransaction:
        """Sign with the key's next nonce, without asking the layer."""
        nonce = self.nonces.get(key, 0)
        self.nonces[key] = nonce + 1
        return sign_transaction(Transaction(CHAIN_ID, nonce, 10**9, 10**11, gas, to, value, data), key)

    async def execute(self, key: bytes, to: bytes | None, data: bytes, *, value: int = 0) -> TxReceipt:
        """Send a transaction, mine a block and return the receipt."""
        signed = self.sign(key, to, data, value=value)
        assert await self.layer.send_raw(signed.raw) == signed.tx_hash
        self.mine(1)
        receipt = await self.layer.receipt(signed.tx_hash)
        assert receipt is not None
        return receipt

    async def deposit(self, config: ChannelConfig, amount: int, salt: int = 1) -> TxReceipt:
        """Deposit by the payer's authorization; the relay submits it."""
        data = calls.deposit(
            config, amount, COLLECTOR_ADDRESS, calls.collector_data(authorization(config, amount, salt))
        )
        return await self.execute(RELAY_KEY, SETTLEMENT_ADDRESS, data)


def config(number: int = 1) -> ChannelConfig:
    """A channel's configuration; `number` tells channels apart."""
    return ChannelConfig(
        payer=key_address(PAYER_KEY),
        payer_authorizer=key_address(DEVICE_KEY),
        receiver=key_address(LANE_KEY),
        receiver_authorizer=key_address(AUTHORIZER_KEY),
        token=TOKEN_ADDRESS,
        withdraw_delay=900,
        salt=number.to_bytes(32, "big"),
    )


def authorization(channel: ChannelConfig, amount: int, salt: int) -> Authorization:
    """The payer's signature for a deposit."""
    identifier = channel_id(channel, NETWORK)
    digest = deposit_digest(identifier, channel.payer, amount, 0, 2**40, salt, DOMAIN, CHAIN_ID)
    return Authorization(0, 2**40, salt, sign(digest, PAYER_KEY))


def row(channel: ChannelConfig, ceiling: int, total: int) -> calls.VoucherClaim:
    """A claim row with the device's signature under its voucher."""
    digest = voucher_digest(channel_id(channel, NETWORK), ceiling, NETWORK)
    return calls.VoucherClaim(channel, ceiling, sign(digest, DEVICE_KEY), total)


def call_of(key: bytes, data: bytes, to: bytes = SETTLEMENT_ADDRESS) -> Call:
    """A call of the settlement contract by one of the keys."""
    return Call(key_address(key), to, data)


def _require(reverted: object) -> None:
    assert reverted is not False, "the snapshot is gone"


@asynccontextmanager
async def anvil_site() -> AsyncIterator[Site]:
    """Anvil over HTTP, the contracts placed by anvil_setCode."""
    anvil = start_anvil(arguments=("--no-mining", "--timestamp", "1700000000"))
    try:
        place_contracts(anvil, alloc(TOKENS, COINS))
        transport = HttpTransport(anvil.url)

        def mine(seconds: int) -> None:
            anvil.rpc("evm_increaseTime", seconds)
            anvil.rpc("evm_mine")

        def snapshot() -> Callable[[], None]:
            saved = anvil.rpc("evm_snapshot")
            return lambda: _require(anvil.rpc("evm_revert", saved))

        yield Site("anvil", transport, JsonRpcLayer(transport, expected_chain_id=CHAIN_ID), mine, snapshot)
        await transport.close()
    finally:
        anvil.stop()


@asynccontextmanager
async def embedded_site() -> AsyncIterator[Site]:
    """The embedded layer in this process, the contracts in its genesis."""
    import parallel_evm

    clock = 1_700_000_000
    chain = parallel_evm.Chain(
        chain_id=CHAIN_ID, genesis=json.dumps(genesis(TOKENS, COINS, timestamp=clock)), auto_mine=False
    )
    transport = InProcessTransport(chain)

    def mine(seconds: int) -> None:
        nonlocal clock
        clock += seconds
        chain.produce_block(clock)

    def snapshot() -> Callable[[], None]:
        saved = chain.snapshot()
        return lambda: _require(chain.revert(saved))

    yield Site("embedded", transport, JsonRpcLayer(transport, expected_chain_id=CHAIN_ID), mine, snapshot)
    await transport.close()


SITES = {"anvil": anvil_site, "embedded": embedded_site}


@asynccontextmanager
async def mining(site: Site, pause: float = 0.05) -> AsyncIterator[None]:
    """Mine a block every `pause` seconds meanwhile."""

    async def run() -> None:
        while True:
            await asyncio.to_thread(site.mine, 1)
            await asyncio.sleep(pause)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
