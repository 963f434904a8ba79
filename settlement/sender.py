"""One key, one stream of transactions: nonces, gas, signature, durable before sent, and mined for certain.

Every transaction is handed to `persist` before the chain sees it. From then on it is outstanding: its nonce is
taken, and it is sent again, byte by byte the same, until it is mined. A lost reply therefore needs no guess,
and a node that refuses it today may take it tomorrow. After a restart `resume` takes up what was persisted.

The key must be used by one Sender alone (docs/protocol.md 2): nonces are counted here, and the node is asked
for them only at the start.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from channels.signatures import key_address
from channels.types import Address
from settlement.errors import ChainRefused, ChainUnavailable, NonceTaken
from settlement.port import Call, ExecutionLayer, Fees, Revert, TxReceipt
from settlement.transactions import Transaction, sign_transaction, transaction_hash

# Tight, because some chains charge the limit and not the use. An estimate is exact for the state that it saw;
# until the transaction is mined a payee may have emptied its account, which makes its row 17,100 gas dearer.
# 1/16 covers that for one row in five. Should it not suffice, the transaction moves nothing and is planned again.
GAS_MARGIN_DIVISOR = 16

# Persist(raw, nonce, purpose): must return only when the transaction is durable.
Persist = Callable[[bytes, int, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A signed transaction that may have been sent: what a journal keeps of it."""

    raw: bytes
    nonce: int
    purpose: str

    @property
    def tx_hash(self) -> bytes:
        """The hash by which the chain knows it."""
        return transaction_hash(self.raw)


@dataclass(frozen=True, slots=True)
class Waiting:
    """How a Sender waits: polls from `poll_seconds_min` on, each later by half, up to `poll_seconds_max`.

    After `resend_polls` polls without a receipt the transaction is sent again; `failed_resends` in a row end the
    wait. `taken_polls` polls in a row must find its nonce used and no receipt before that is believed: nodes
    behind a balancer lag. `timeout_seconds` bounds the whole wait.
    """

    poll_seconds_min: float = 0.05
    poll_seconds_max: float = 2.0
    resend_polls: int = 8
    failed_resends: int = 4
    taken_polls: int = 5
    timeout_seconds: float = 120.0


class Sender:
    """Sends for one private key, one transaction after the other; several may wait to be mined at once.

    `confirmations` is the number of blocks that must lie on top of a transaction's own. `fee_cap` bounds what is
    offered per gas in wei; None leaves it to the chain's suggestion.
    """

    def __init__(
        self,
        layer: ExecutionLayer,
        private_key: bytes,
        persist: Persist,
        *,
        confirmations: int = 0,
        fee_cap: int | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        self._layer = layer
        self._key = private_key
        self._persist = persist
        self._confirmations = confirmations
        self._fee_cap = fee_cap
        self._waiting = waiting or Waiting()
        self._next_nonce: int | None = None
        self._stream = asyncio.Lock()
        self._sending: set[asyncio.Task[Outgoing | Revert]] = set()
        # Outstanding and not known to have reached the chain, by nonce. At most one after the other: nothing
        # new is signed while one is here.
        self._unsent: dict[int, Outgoing] = {}
        self.address: Address = key_address(private_key)

    async def resume(self, persisted: Iterable[Outgoing]) -> None:
        """Send transactions of an earlier run again, in the order of their nonces; call it before `send`.

        What the chain does not take now stays outstanding. Raises ChainUnavailable when the chain does not
        tell the sender's nonce.
        """
        async with self._stream:
            nonce = await self._layer.nonce(self.address, pending=False)
            for outgoing in sorted(persisted, key=lambda entry: entry.nonce):
                await self._transmit(outgoing)
                nonce = max(nonce, outgoing.nonce + 1)
            self._next_nonce = nonce

    async def send(
        self, to: Address | None, data: bytes, purpose: str, *, value: int = 0, gas_limit: int | None = None
    ) -> Outgoing | Revert:
        """Sign, persist and send one transaction; returns it without waiting for it to be mined.

        `to` is None for a creation. `gas_limit` skips the estimate: for a call that depends on one not mined
        yet. A call that would revert is returned as its Revert; nothing was persisted or sent then.

        Raises what the chain raises before anything is persisted, and ChainUnavailable while an earlier
        transaction has not reached the chain. Once persisted, a node that is away or refuses is no error here:
        `wait` sends again.
        """
        # A caller that gives up must not cut off between persisting and counting the nonce.
        task = asyncio.ensure_future(self._send(Call(self.address, to, data, value), purpose, gas_limit))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return await asyncio.shield(task)

    async def wait(self, outgoing: Outgoing) -> TxReceipt:
        """Return the receipt once the transaction is mined and has its confirmations, still on the chain.

        Raises ChainUnavailable when that takes longer than the time-out, or when the node does not take the
        transaction (its words are in the message); waiting may be taken up again. Raises NonceTaken when
        another transaction was mined in its place.
        """
        try:
            async with asyncio.timeout(self._waiting.timeout_seconds):
                return await self._mined(outgoing)
        except TimeoutError:
            raise ChainUnavailable(
                f"{outgoing.purpose}: 0x{outgoing.tx_hash.hex()} was not final within"
                f" {self._waiting.timeout_seconds:g} s; it is outstanding"
            ) from None

    async def execute(self, to: Address | None, data: bytes, purpose: str, *, value: int = 0) -> TxReceipt | Revert:
        """Send one transaction and wait for it. A revert in simulation is a Revert, one on chain a receipt."""
        outgoing = await self.send(to, data, purpose, value=value)
        return outgoing if isinstance(outgoing, Revert) else await self.wait(outgoing)

    async def _send(self, call: Call, purpose: str, gas_limit: int | None) -> Outgoing | Revert:
        async with self._stream:
            await self._flush()
            limit = gas_limit if gas_limit is not None else await self._gas_limit(call)
            if isinstance(limit, Revert):
                return limit
            outgoing = await self._signed(call, limit, purpose)
            await self._persist(outgoing.raw, outgoing.nonce, purpose)
            self._next_nonce = outgoing.nonce + 1
            await self._transmit(outgoing)
            return outgoing

    async def _transmit(self, outgoing: Outgoing) -> str | None:
        """Hand a transaction to the chain. Returns why that failed; None when the chain holds it."""
        try:
            await self._layer.send_raw(outgoing.raw)
        except (ChainUnavailable, ChainRefused) as error:
            self._unsent[outgoing.nonce] = outgoing
            return str(error)
        self._unsent.pop(outgoing.nonce, None)
        return None

    async def _flush(self) -> None:
        """Get earlier transactions to the chain before a new one is signed."""
        for nonce, outgoing in sorted(self._unsent.items()):
            failure = await self._transmit(outgoing)
            if failure is None:
                continue
            if not await self._passed(nonce):
                raise ChainUnavailable(f"{outgoing.purpose}, sent before, is outstanding: {failure}")
            self._unsent.pop(nonce, None)  # mined after all, or replaced: `wait` tells which

    async def _gas_limit(self, call: Call) -> int | Revert:
        estimate = await self._layer.estimate_gas(call)
        return estimate if isinstance(estimate, Revert) else estimate + estimate // GAS_MARGIN_DIVISOR

    async def _signed(self, call: Call, gas_limit: int, purpose: str) -> Outgoing:
        chain_id = await self._layer.chain_id()
        fees = self._capped(await self._layer.fees())
        nonce = self._next_nonce
        if nonce is None:
            nonce = await self._layer.nonce(self.address, pending=False)
        signed = sign_transaction(
            Transaction(
                chain_id=chain_id,
                nonce=nonce,
                max_priority_fee_per_gas=fees.max_priority_fee_per_gas,
                max_fee_per_gas=fees.max_fee_per_gas,
                gas_limit=gas_limit,
                to=call.to,
                value=call.value,
                data=call.data,
            ),
            self._key,
        )
        return Outgoing(signed.raw, nonce, purpose)

    def _capped(self, fees: Fees) -> Fees:
        if self._fee_cap is None:
            return fees
        most = min(fees.max_fee_per_gas, self._fee_cap)
        return Fees(most, min(fees.max_priority_fee_per_gas, most))

    async def _mined(self, outgoing: Outgoing) -> TxReceipt:
        pause = self._waiting.poll_seconds_min
        polls = failed = taken = 0
        while True:
            try:
                receipt = await self._layer.receipt(outgoing.tx_hash)
                if receipt is None:
                    polls += 1
                    taken = taken + 1 if await self._passed(outgoing.nonce) else 0
                else:
                    taken = 0
                    self._unsent.pop(outgoing.nonce, None)
                    if await self._final(receipt):
                        return receipt
            except ChainUnavailable:  # nothing is known; the time-out bounds how often this is asked
                receipt = None
            if taken >= self._waiting.taken_polls:
                raise NonceTaken(f"{outgoing.purpose}: nonce {outgoing.nonce} was used by another transaction")
            due = outgoing.nonce in self._unsent or (polls + 1) % self._waiting.resend_polls == 0
            if receipt is None and not taken and due:
                failure = await self._transmit(outgoing)
                failed = failed + 1 if failure else 0
                if failed >= self._waiting.failed_resends:
                    raise ChainUnavailable(f"{outgoing.purpose} is outstanding: {failure}")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, self._waiting.poll_seconds_max)

    async def _final(self, receipt: TxReceipt) -> bool:
        if self._confirmations == 0:
            return True
        head = await self._layer.head()
        if head.number < receipt.block_number + self._confirmations:
            return False
        block = await self._layer.block(receipt.block_number)
        return block is not None and block.hash == receipt.block_hash

    async def _passed(self, nonce: int) -> bool:
        return await self._layer.nonce(self.address, pending=False) > nonce
