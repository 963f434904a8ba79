"""The port to an execution layer: all that the gateway asks of an EVM chain, and nothing else.

One adapter implements it over Ethereum JSON-RPC (`settlement.client.JsonRpcLayer`), with an HTTP or an
in-process transport. Conventions:

- Addresses are 20 bytes, hashes and ids 32 bytes, token amounts base units, coin amounts wei, times chain
  seconds: plain `bytes` and `int`.
- `block` is a block number, or None for the latest. One call answers from one block, however many requests it
  is split into, and answers come in the order of what was asked.
- Every method may raise ChainUnavailable (nothing is known, ask again), ChainRefused (the node's own no) or
  ChainMisbehaved (a fault). See `settlement.errors`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from channels.types import Address, ChannelId, TokenDomain
from settlement.errors import ChainRefused, ChainUnavailable
from settlement.events import ChainEvent, Log, Transfer


@dataclass(frozen=True, slots=True)
class Block:
    """A block's header, as far as money needs it."""

    number: int
    hash: bytes
    parent_hash: bytes
    timestamp: int  # chain seconds
    base_fee: int  # wei per gas; 0 on a chain without one
    gas_limit: int = 0  # of the block; 0: not told


@dataclass(frozen=True, slots=True)
class ChannelView:
    """A channel as the settlement contract holds it; an unknown channel is all zeros."""

    balance: int  # deposited − withdrawn − refunded
    total_claimed: int
    withdrawing: int  # amount of the pending withdrawal, 0 without one
    withdraw_initiated_at: int  # chain seconds, 0 without one


@dataclass(frozen=True, slots=True)
class ReceiverView:
    """What was claimed for and settled to one receiver in one token, over all time."""

    total_claimed: int
    total_settled: int

    @property
    def unsettled(self) -> int:
        """What the next `settle` moves."""
        return self.total_claimed - self.total_settled


@dataclass(frozen=True, slots=True)
class Call:
    """A message call; `to` is None for the creation of a contract from `data`.

    `gas_max` is the most gas that it is worth; 0: no bound but the block's. The chain does not see it, and calls that
    differ in it alone are the same one. So it is with `attached`: what signing it means to whoever persists
    transactions, persisted with the first one that carries this call.
    """

    sender: Address
    to: Address | None
    data: bytes
    value: int = 0
    gas_max: int = field(default=0, compare=False)
    attached: tuple[Any, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Revert:
    """A contract said no.

    `reason` is the name of a known custom error ("ClaimExceedsCeiling"), the text of a `revert("…")`, the
    selector in hex of an unknown error, or "no reason given". `data` is the raw revert data (bounded).
    """

    reason: str
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Fees:
    """What an EIP-1559 transaction should offer now, wei per gas."""

    max_fee_per_gas: int
    max_priority_fee_per_gas: int


@dataclass(frozen=True, slots=True)
class TxReceipt:
    """A mined transaction. `status` is 1 for success, 0 for a revert."""

    tx_hash: bytes
    status: int
    block_number: int
    block_hash: bytes
    gas_used: int
    effective_gas_price: int  # wei per gas
    logs: tuple[Log, ...]
    contract_address: Address | None = None  # of a creation

    @property
    def succeeded(self) -> bool:
        """True when the transaction did not revert."""
        return self.status == 1

    @property
    def fee(self) -> int:
        """What the sender paid for gas, wei."""
        return self.gas_used * self.effective_gas_price


class ExecutionLayer(Protocol):
    """An EVM chain with the settlement contract on it."""

    async def chain_id(self) -> int:
        """Return the chain id. Asked once and remembered."""
        ...

    async def head(self) -> Block:
        """Return the latest block."""
        ...

    async def block(self, number: int) -> Block | None:
        """Return a block by number, or None when the chain has none of that height."""
        ...

    async def channels(self, ids: Sequence[ChannelId], block: int | None = None) -> list[ChannelView]:
        """Return the state of channels, in the order asked."""
        ...

    async def receivers(self, pairs: Sequence[tuple[Address, Address]], block: int | None = None) -> list[ReceiverView]:
        """Return totals of (receiver, token) pairs, in the order asked."""
        ...

    async def token_balances(self, token: Address, owners: Sequence[Address], block: int | None = None) -> list[int]:
        """Return ERC-20 balances, base units."""
        ...

    async def native_balances(self, owners: Sequence[Address], block: int | None = None) -> list[int]:
        """Return coin balances, wei."""
        ...

    async def allowance(self, token: Address, owner: Address, spender: Address) -> int:
        """Return what `spender` may take of `owner`'s tokens, base units."""
        ...

    async def token_domain(self, token: Address, decimals: int = 6) -> TokenDomain:
        """Return the token's EIP-712 domain from its `name()` and `version()`.

        Raises ChainMisbehaved when there is no such contract, when it has other `decimals`, or when it
        publishes a DOMAIN_SEPARATOR that is not the one of that domain (deposits would be refused).
        """
        ...

    async def authorization_used(self, token: Address, payer: Address, nonce: bytes) -> bool:
        """Tell whether an ERC-3009 authorization (32-byte nonce) was used or cancelled."""
        ...

    async def paid(
        self,
        payouts: Address,
        sender: Address,
        token: Address,
        payees: Sequence[Address],
        block: int | None = None,
    ) -> list[int]:
        """Return the cumulative amounts that `sender` has paid through the CumulativePayouts at `payouts`."""
        ...

    async def refund_nonces(self, ids: Sequence[ChannelId], block: int | None = None) -> list[int]:
        """Return the nonces that the next signed refunds of these channels must carry, in the order asked."""
        ...

    async def nonce(self, address: Address, *, pending: bool) -> int:
        """Return the sender's next nonce: after mined transactions, or after waiting ones too (`pending`)."""
        ...

    async def nonces(self, addresses: Sequence[Address]) -> list[int]:
        """Return the next nonces after mined transactions, in the order asked."""
        ...

    async def has_code(self, address: Address) -> bool:
        """Tell whether a contract is at this address."""
        ...

    async def simulate(self, call: Call, block: int | None = None) -> Revert | None:
        """Run a call without sending it. Returns None when it would succeed."""
        ...

    async def estimate_gas(self, call: Call) -> int | Revert:
        """Return the gas limit that this call needs now, or why it would revert."""
        ...

    async def estimate_all(self, wanted: Sequence[Call]) -> list[int | Revert | ChainRefused]:
        """Return for each call what `estimate_gas` returns, or the node's refusal, in the order asked.

        Each is judged by the present state, as if the others were not made.
        """
        ...

    async def fees(self) -> Fees:
        """Return what to offer for inclusion within the next blocks."""
        ...

    async def send_raw(self, raw: bytes) -> bytes:
        """Hand a signed transaction to the chain; returns its hash.

        One that the chain already holds, waiting or mined, is a success: sending again is harmless.
        """
        ...

    async def send_all(self, raws: Sequence[bytes]) -> list[ChainRefused | ChainUnavailable | None]:
        """Hand signed transactions to the chain, in this order.

        For each: None when the chain holds it (waiting or mined, by this or an earlier call), the node's refusal,
        or ChainUnavailable when it is not known whether it arrived.
        """
        ...

    async def receipts(self, tx_hashes: Sequence[bytes]) -> list[TxReceipt | None]:
        """Return for each hash what `receipt` returns, in the order asked."""
        ...

    async def receipt(self, tx_hash: bytes) -> TxReceipt | None:
        """Return the receipt of a mined transaction, or None while it is not mined or not known."""
        ...

    async def events(self, from_block: int, to_block: int, block_hash: bytes | None = None) -> list[ChainEvent]:
        """Return all events of the settlement contract in these blocks, both ends included, by position.

        A node that does not know the last blocks yet may leave their events out without a word. With `block_hash`,
        the hash of the one block asked for, it answers of that very block or raises ChainRefused.
        """
        ...

    async def transfers_to(
        self,
        token: Address,
        receivers: Sequence[Address],
        from_block: int,
        to_block: int,
        block_hash: bytes | None = None,
    ) -> list[Transfer]:
        """Return the token's transfers to any of these addresses, both blocks included, by position.

        `block_hash` as in `events`.
        """
        ...

    async def close(self) -> None:
        """Release connections. Further calls raise ChainUnavailable."""
        ...
