"""What one key has outstanding: per nonce one call, under one or more signed transactions that differ in their fee.

No I/O here. `Sender` signs, `Follower` sends and looks what was mined; both work on these.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from channels.signatures import key_address
from channels.types import Address
from settlement.errors import ChainRefused
from settlement.port import Call, Fees, TxReceipt
from settlement.transactions import Transaction, read_transaction, sign_transaction, transaction_hash

# What a key's usual transaction needs is told by the most expensive one of so many.
USUAL_OF = 32
# Before a key has sent anything: a claim of a dozen rows, or a payout to five new payees.
USUAL_GAS_MIN = 500_000
# Mined transactions of a key remembered with all their variants, in case a reorganisation drops them before the books
# are put back; 100 kB each at most.
REMEMBERED_MAX = 32


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A signed transaction that may have been sent: what a journal keeps of it.

    `tx_hash` is the hash by which the chain knows it, made once: of a hundred claims it takes a fifth of a millisecond.
    """

    sender: Address
    nonce: int
    purpose: str
    raw: bytes
    attached: tuple[Any, ...] = field(default=(), compare=False, repr=False)  # of its call, to be persisted with it
    tx_hash: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tx_hash", transaction_hash(self.raw))


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the transactions that carry a call: its hash and what it offers."""

    outgoing: Outgoing
    tx_hash: bytes
    fees: Fees

    @property
    def raw(self) -> bytes:
        """The bytes that are sent."""
        return self.outgoing.raw


@dataclass(slots=True, eq=False)
class Outstanding:
    """One nonce: the call that it carries, every variant signed for it, and what is known of them.

    Times are seconds of the follower's clock.
    """

    sender: Address
    nonce: int
    purpose: str
    call: Call
    gas_limit: int
    offered_at: float  # when the newest variant was signed, or taken up at a start
    offered_block: int | None = None  # the chain's head then, if it is known
    resumed: bool = False  # signed in an earlier run: a restored journal may lack later variants
    variants: list[Variant] = field(default_factory=list)  # fees rise
    held: bool = False  # the chain has one of the variants, as far as is known
    sending: bool = False
    sent_at: float = 0.0
    refused: ChainRefused | None = None  # why the chain does not take it
    refusals: int = 0  # in a row
    fee_too_low: bool = False
    look_at: float = 0.0  # no replacement is thought of before
    passed_at: float | None = None  # since when its nonce is used without a receipt of ours
    passed_polls: int = 0
    receipt: TxReceipt | None = None  # final, and in the books
    lost: bool = False  # another transaction was mined under its nonce: it can never be

    @property
    def newest(self) -> Variant:
        """The variant that offers most."""
        return self.variants[-1]

    @property
    def cost(self) -> int:
        """The most that it can cost, wei."""
        return self.gas_limit * self.newest.fees.max_fee_per_gas + self.call.value

    def take(self, outgoing: Outgoing, fees: Fees) -> None:
        """Add a variant, unless it is known."""
        tx_hash = outgoing.tx_hash
        if all(variant.tx_hash != tx_hash for variant in self.variants):
            self.variants.append(Variant(outgoing, tx_hash, fees))
            self.variants.sort(key=lambda variant: variant.fees.max_fee_per_gas)

    def send_again(self) -> None:
        """Forget that the chain has it."""
        self.held = False
        self.receipt = None
        self.passed_at, self.passed_polls = None, 0


class Stream:
    """One key: its next nonce and what it has outstanding, by nonce.

    `next_nonce` is never below one more than any nonce that was journaled; `asked` tells that the chain was asked,
    too.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.address: Address = key_address(key)
        self.next_nonce = 0
        self.asked = False
        self.outstanding: dict[int, Outstanding] = {}
        self.gap_at: float | None = None  # since when the chain lacks a nonce before the first outstanding one
        self._mined: dict[int, Outstanding] = {}
        self._gas_limits: deque[int] = deque(maxlen=USUAL_OF)

    def __iter__(self) -> Iterator[Outstanding]:
        """Yield what is outstanding in the order of nonces."""
        for nonce in sorted(self.outstanding):
            yield self.outstanding[nonce]

    @property
    def first(self) -> Outstanding | None:
        """The one that all others wait behind."""
        return self.outstanding[min(self.outstanding)] if self.outstanding else None

    @property
    def usual_gas(self) -> int:
        """The gas limit that this key's transactions usually stay below."""
        return max((USUAL_GAS_MIN, *self._gas_limits))

    @property
    def cost(self) -> int:
        """The most that everything outstanding can cost, wei: nodes want it covered by the key's coins."""
        return sum(entry.cost for entry in self.outstanding.values())

    def sign(self, chain_id: int, nonce: int, call: Call, gas_limit: int, fees: Fees) -> bytes:
        """Return the signed transaction of a call, ready to be persisted."""
        transaction = Transaction(
            chain_id=chain_id,
            nonce=nonce,
            max_priority_fee_per_gas=fees.max_priority_fee_per_gas,
            max_fee_per_gas=fees.max_fee_per_gas,
            gas_limit=gas_limit,
            to=call.to,
            value=call.value,
            data=call.data,
        )
        return sign_transaction(transaction, self._key).raw

    def find(self, call: Call) -> Outstanding | None:
        """Return what carries this very call already."""
        return next((entry for entry in self.outstanding.values() if entry.call == call), None)

    def refusal(self, after: int) -> ChainRefused | None:
        """Return why the chain does not take the first one, once it refused `after` times in a row."""
        first = self.first
        if first is None or first.held or first.refusals < after:
            return None
        return first.refused

    def take(self, outgoing: Outgoing, now: float, *, resumed: bool = False) -> Outstanding:
        """Take up a persisted transaction: of this run or an earlier one, new, known, or mined and dropped again.

        Raises ValueError for bytes that are no transaction of this nonce.
        """
        read = read_transaction(outgoing.raw)
        if read.nonce != outgoing.nonce:
            raise ValueError(f"a transaction of nonce {read.nonce} in the place of nonce {outgoing.nonce}")
        entry = self.outstanding.get(outgoing.nonce) or self._mined.pop(outgoing.nonce, None)
        if entry is None:
            call = Call(self.address, read.to, read.data, read.value)
            entry = Outstanding(
                self.address, outgoing.nonce, outgoing.purpose, call, read.gas_limit, offered_at=now, resumed=resumed
            )
        entry.take(outgoing, Fees(read.max_fee_per_gas, read.max_priority_fee_per_gas))
        self.outstanding[entry.nonce] = entry
        self._gas_limits.append(entry.gas_limit)
        self.next_nonce = max(self.next_nonce, entry.nonce + 1)
        return entry

    def mined(self, entry: Outstanding, receipt: TxReceipt) -> None:
        """One of its variants is final and in the books."""
        entry.receipt = receipt
        self.outstanding.pop(entry.nonce, None)
        self._mined[entry.nonce] = entry
        if len(self._mined) > REMEMBERED_MAX:
            del self._mined[min(self._mined)]

    def lose(self, entry: Outstanding) -> None:
        """It can never be mined, and that is in the books."""
        entry.lost = True
        self.outstanding.pop(entry.nonce, None)

    def revive(self, nonce: int) -> Outstanding | None:
        """Take up again what was mined and is not on the chain any more; None when it is not remembered."""
        entry = self._mined.pop(nonce, None)
        if entry is not None:
            entry.send_again()
            self.outstanding[nonce] = entry
        return entry
