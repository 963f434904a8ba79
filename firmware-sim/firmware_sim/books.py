"""What a device believes about its money, and when it believes the gateway (docs/protocol.md 3 and 4)."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from firmware_sim.wire import Receipt

NANO = 10**9

# A seq may run this far ahead of the last accepted one (docs/protocol.md 3, key 2).
SEQ_AHEAD_MAX = 1 << 20

# A late copy comes back within a reconnect; a few windows' worth is plenty.
RETIRED_MAX = 64


@dataclass(frozen=True, slots=True)
class Position:
    """State after a reading: register in register units, exact = the whole price in 10⁻⁹ token base units."""

    seq: int
    register: int
    exact: int

    @property
    def charged(self) -> int:
        """Cumulative price in whole base units; the rest of `exact` is the remainder that carries."""
        return self.exact // NANO

    def after(self, seq: int, register: int, price: int) -> "Position":
        """The position one reading later, at `price` 10⁻⁹ base units per register unit."""
        return Position(seq, register, self.exact + (register - self.register) * price)


def claimed_position(receipt: Receipt) -> Position | None:
    """The state that a receipt names, if it carries all of it."""
    if (
        receipt.last_seq is None
        or receipt.last_register is None
        or receipt.charged is None
        or receipt.last_remainder is None
        or receipt.last_remainder >= NANO
    ):
        return None
    return Position(receipt.last_seq, receipt.last_register, receipt.charged * NANO + receipt.last_remainder)


@dataclass(slots=True)
class Books:
    """Last accepted position, offset and balance in base units. base is None until the account is open.

    retired: positions that were signed, refused and signed anew under another seq. A late copy of one may
    still be accepted, and then the gateway prices the next reading from it.
    """

    earns: bool
    base: Position | None = None
    offset: int = 0
    balance: int = 0
    commit: int = 0
    next_seq: int = 1
    retired: list[Position] = field(default_factory=list)

    def owed(self, position: Position) -> int:
        """The tight ceiling at `position`: charged less what netting has settled, never below zero."""
        return max(position.charged - self.offset, 0)

    def news(self, receipt: Receipt) -> bool:
        """Whether no later commit than the receipt's was seen."""
        return receipt.commit is None or receipt.commit >= self.commit

    def learn(self, receipt: Receipt) -> None:
        """Take balance and offset from a receipt unless it is old news; the offset only rises."""
        if not self.news(receipt):
            return
        self.commit = receipt.commit or self.commit
        if receipt.balance is not None:
            self.balance = receipt.balance
        if receipt.offset is not None and receipt.offset > self.offset:
            self.offset = receipt.offset

    def accepted(self, position: Position, price: int, receipt: Receipt) -> str | None:
        """Book the receipt that accepts `position`, signed at `price`; a sentence if it is not to be believed."""
        theirs = claimed_position(receipt)
        if theirs is None or theirs.seq != position.seq or theirs == position:
            self.accept(position)
            return None
        if theirs.register != position.register:
            return f"accepted register {theirs.register} for the reading of {position.register}"
        late = any(theirs == copy.after(position.seq, position.register, price) for copy in self.retired)
        if not late and self.earns and theirs.exact < position.exact:
            return f"credited {theirs.charged} where the own price is {position.charged}"
        if not late and not self.earns and theirs.exact > position.exact:
            return f"charged {theirs.charged} where the own price is {position.charged}"
        self.accept(theirs)
        return None

    def retire(self, positions: Iterable[Position]) -> None:
        """Remember refused positions that are about to be signed anew."""
        self.retired = [*self.retired, *positions][-RETIRED_MAX:]

    def accept(self, position: Position) -> None:
        """Make `position` the last accepted one, unless a later one already is."""
        if self.base is None or position.seq > self.base.seq:
            self.base = position

    def adopt(self, theirs: Position, receipt: Receipt) -> None:
        """Believe the gateway's state as it stands; later readings number and price from it."""
        self.base = theirs
        self.offset = receipt.offset or 0
        self.commit = receipt.commit or 0
        if receipt.balance is not None:
            self.balance = receipt.balance
        self._keep_in_reach()

    def _keep_in_reach(self) -> None:
        base = self.base
        if base is not None and not base.seq < self.next_seq <= base.seq + SEQ_AHEAD_MAX:
            self.next_seq = base.seq + 1

    def start(self, receipt: Receipt, opening_register: int, proved: bool) -> str | None:
        """First state from the answer to `open`, for a device without records; a sentence if it cannot be.

        proved: the receipt's ceiling carries this device's own signature. Without that proof a charge is not
        adopted: paying restarts at zero, which is all a device without chain access knows to be claimed.
        """
        theirs = claimed_position(receipt)
        if theirs is None:
            theirs = Position(0, opening_register, 0)
        if self.earns or (theirs.seq == 0 and theirs.exact == 0 and theirs.register >= opening_register):
            self.adopt(theirs, receipt)
            return None
        if theirs.seq == 0 and theirs.exact == 0:
            return f"the gateway opened at register {theirs.register}, below the opening {opening_register}"
        ceiling = receipt.ceiling or 0
        if proved and theirs.charged - (receipt.offset or 0) <= ceiling:
            self.adopt(theirs, receipt)
        else:
            self.adopt(Position(theirs.seq, max(theirs.register, opening_register), 0), receipt)
            self.offset = 0
        return None

    def reconcile(self, receipt: Receipt, own: Iterable[Position], meter: int, price: int, proved: bool) -> str | None:
        """Adopt the gateway's state where it costs no more than the own records; else say why not.

        own: positions of signed readings that may have been accepted. meter: the highest register read.
        price: the present one, for registers that the records do not name.
        """
        theirs = claimed_position(receipt)
        self._keep_in_reach()
        if self.base is None or theirs is None or theirs == self.base:
            return None
        own = list(own)
        if theirs in own or theirs in self.retired:
            self.accept(theirs)
            return None
        if theirs.register > meter:
            return f"the gateway holds register {theirs.register}, the meter never went past {meter}"
        offset = receipt.offset or 0
        if theirs.seq >= self.next_seq and not self.earns:
            # The records are older than what this key signed (flash rolled back): only the signature proves.
            if not proved or offset < self.offset or theirs.charged - offset > (receipt.ceiling or 0):
                return f"the gateway holds seq {theirs.seq} and shows no voucher that this device signed for it"
        else:
            mine = self.base.exact + (theirs.register - self.base.register) * price
            for position in own:
                if position.register == theirs.register:
                    mine = position.exact
            if self.earns and theirs.exact < mine:
                return f"the gateway credits {theirs.charged}, the own records say {mine // NANO}"
            if not self.earns and theirs.exact - offset * NANO > mine - self.offset * NANO:
                return f"the gateway charges {theirs.charged}, the own records say {max(mine, 0) // NANO}"
        self.adopt(theirs, receipt)
        return None
