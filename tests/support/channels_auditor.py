"""An independent model of the books, for comparison with `channels`.

It keeps a list of facts and derives every figure from the whole list, each time it is asked: exact sums are
rationals, the phase is read off what happened since the last opening, and a reading is judged by collecting
all rules that it breaks and taking the lowest number. It calls nothing of `channels`.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import floor
from typing import Any

U128 = 2**128 - 1


class Revert(Exception):
    """The simulated contract refuses a call; the message is the name of its error."""


@dataclass
class Event:
    """One log of the simulated contract. `total` is the new balance or the new totalClaimed."""

    kind: str
    position: int
    amount: int
    total: int = 0


@dataclass
class Contract:
    """One channel in the settlement contract, by the rules of docs/protocol.md 1; signatures left out."""

    balance: int = 0
    claimed: int = 0
    pending: int = 0  # a pending withdrawal's amount; zero when there is none
    block: int = 1
    log: list[Event] = field(default_factory=list)

    def _emit(self, kind: str, amount: int, total: int = 0) -> None:
        self.block += 1
        self.log.append(Event(kind, self.block * 2**32 + len(self.log) % 3, amount, total))

    def deposit(self, amount: int) -> None:
        if amount == 0:
            raise Revert("ZeroDeposit")
        if self.balance + amount > U128:
            raise Revert("DepositOverflow")
        self.balance += amount
        self._emit("deposit", amount, self.balance)

    def claim(self, ceiling: int, total: int) -> None:
        if total <= self.claimed:
            return
        if total > ceiling:
            raise Revert("ClaimExceedsCeiling")
        if total > self.balance:
            raise Revert("ClaimExceedsBalance")
        before, self.claimed = self.claimed, total
        self._emit("claim", total - before, total)

    def initiate_withdraw(self, amount: int) -> None:
        if amount == 0:
            raise Revert("NothingToWithdraw")
        if self.pending:
            raise Revert("WithdrawalAlreadyPending")
        if amount > self.balance - self.claimed:
            raise Revert("WithdrawAmountExceedsAvailable")
        self.pending = amount
        self._emit("initiated", amount)

    def withdrawable(self) -> int:
        return min(self.pending, self.balance - self.claimed)

    def finalize_withdraw(self) -> None:
        if not self.pending:
            raise Revert("WithdrawalNotPending")
        amount = self.withdrawable()
        self.pending = 0
        self.balance -= amount
        self._emit("finalized", amount)

    def refund(self, requested: int) -> None:
        if requested == 0:
            raise Revert("ZeroRefund")
        amount = min(requested, self.balance - self.claimed)
        if amount == 0:
            return
        self.balance -= amount
        self.pending = max(0, self.pending - amount)
        self._emit("refund", amount)


@dataclass
class ChannelAuditor:
    """The books of one channel, as the list of everything that happened to it."""

    facts: list[tuple[str, Any]] = field(default_factory=list)

    def note(self, kind: str, data: Any = None) -> None:
        self.facts.append((kind, data))

    def all(self, *kinds: str) -> list[Any]:
        return [data for kind, data in self.facts if kind in kinds]

    @property
    def opening(self) -> dict[str, Any]:
        """What the first `open` brought with it."""
        found: dict[str, Any] = self.all("open")[0]
        return found

    # --- readings ---

    def steps(self) -> list[int]:
        """What each accepted reading added to the register."""
        marks = [self.opening["register"], *(reading["register"] for reading in self.all("reading"))]
        return [after - before for before, after in pairwise(marks)]

    def exact(self) -> Fraction:
        prices = [Fraction(reading["price"], 10**9) for reading in self.all("reading")]
        metered = sum((units * price for units, price in zip(self.steps(), prices, strict=True)), Fraction(0))
        return self.opening["claimed"] + metered

    def charged(self) -> int:
        return floor(self.exact())

    def seqs(self) -> list[int]:
        return [0] + [reading["seq"] for reading in self.all("reading")]

    def last(self, key: str) -> Any:
        return [self.opening[key], *(reading[key] for reading in self.all("reading"))][-1]

    def held(self) -> tuple[int, bytes]:
        best = max(self.all("reading"), key=lambda reading: reading["ceiling"], default=None)
        return (best["ceiling"], best["signature"]) if best and best["ceiling"] else (0, b"")

    def owed(self) -> int:
        return self.charged() - self.offset() - self.forgiven()

    def judge(self, reading: dict[str, Any]) -> int:
        """The number of the refusal, 0 for an accepted reading: the lowest of all rules it breaks."""
        broken = set()
        if reading["device"] != self.opening["device"]:
            broken.add(4)
        if not reading["signed"]:
            broken.add(5)
        if reading["seq"] in self.seqs()[1:][-1024:]:
            broken.add(6)
        if reading["seq"] <= max(self.seqs()):
            broken.add(7)
        if reading["seq"] - max(self.seqs()) > 1_048_576:
            broken.add(8)
        if self.phase() not in ("OPEN", "WITHDRAWING"):
            broken.add(9)
        if reading["price"] is None:
            broken.add(10)
        else:
            broken |= self._judge_price(reading)
        return min(broken, default=0)

    def _judge_price(self, reading: dict[str, Any]) -> set[int]:
        broken = set()
        if reading["expired"]:
            broken.add(11)
        if reading["serial"] < self.last("serial"):
            broken.add(12)
        units = reading["register"] - self.last("register")
        if units < 0:
            broken.add(13)
        if units > reading["max_step"]:
            broken.add(14)
        after = floor(self.exact() + Fraction(units * reading["price"], 10**9))
        if after > U128:
            broken.add(15)
        owed = after - self.offset() - self.forgiven()
        if reading["ceiling"] < owed:
            broken.add(16)
        if reading["ceiling"] > self.usable():
            broken.add(17)
        if reading["ceiling"] - owed > reading["max_ahead"]:
            broken.add(18)
        if reading["stale"]:
            broken.add(19)
        return broken

    # --- the gateway's own acts ---

    def offset(self) -> int:
        return max(self.all("offset"), default=0)

    def forgiven(self) -> int:
        return max(self.all("forgive"), default=0)

    def committed(self) -> int:
        return max([self.opening["claimed"], *self.all("sign")])

    def free(self) -> int:
        """What neither a claim that may still land nor an offset has taken."""
        return self.owed() - self.committed()

    # --- the chain ---

    def chain(self, *kinds: str) -> list[Event]:
        return [event for event in self.all("chain") if event.kind in kinds]

    def claimed(self) -> int:
        return max([self.opening["claimed"], *(event.total for event in self.chain("claim"))])

    def balance(self) -> int:
        came = self.opening["balance"] + sum(event.amount for event in self.chain("deposit"))
        return came - sum(event.amount for event in self.chain("finalized", "refund"))

    def pending(self) -> int:
        left: int = self.opening["withdrawing"]
        for event in self.chain("initiated", "finalized", "refund"):
            if event.kind == "initiated":
                left = event.amount
            else:
                left = 0 if event.kind == "finalized" else max(0, left - event.amount)
        return left

    def usable(self) -> int:
        """What stays of the balance should the pending withdrawal end now."""
        return self.balance() - min(self.pending(), self.balance() - self.claimed())

    def phase(self) -> str:
        start = max(n for n, (kind, _) in enumerate(self.facts) if kind in ("open", "reopen"))
        since = self.facts[start:]
        kinds = [kind for kind, _ in since]
        if "closed" in kinds:
            return "CLOSED"
        if "close" in kinds:
            return "CLOSING"
        if not since[0][1]["funded"] and not any(kind == "chain" and data.kind == "deposit" for kind, data in since):
            return "OPENING"
        return "WITHDRAWING" if self.pending() else "OPEN"

    def books(self) -> dict[str, Any]:
        """Every figure that the machine's channel must show, by the names of its fields."""
        exact = self.exact()
        ceiling, signature = self.held()
        return {
            "device": self.opening["device"],
            "phase": self.phase(),
            "seq": max(self.seqs()),
            "register": self.last("register"),
            "first_register": self.opening["register"],
            "units": sum(self.steps()),
            "remainder": (exact - floor(exact)) * 10**9,
            "offer": self.last("offer"),
            "offer_serial": self.last("serial"),
            "charged": floor(exact),
            "offset": self.offset(),
            "forgiven": self.forgiven(),
            "ceiling": ceiling,
            "ceiling_signature": signature,
            "committed": self.committed(),
            "claimed": self.claimed(),
            "balance": self.balance(),
            "withdrawing": self.pending(),
            "withdrawn": sum(event.amount for event in self.chain("finalized")),
            "refunded": sum(event.amount for event in self.chain("refund")),
            "position": max([self.opening["position"], *(e.position for e in self.all("chain"))]),
            "usable_balance": self.usable(),
            "owed": self.owed(),
            "unclaimed": self.owed() - self.claimed(),
            "deposited": self.opening["balance"] + sum(e.amount for e in self.chain("deposit")),
        }


@dataclass
class EarnerAuditor:
    """The books of one earner account, the same way: a list of readings, fees and offsets."""

    device: str
    register: int
    serial: int
    readings: list[dict[str, Any]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def exact(self, upto: int | None = None) -> Fraction:
        total, register = Fraction(0), self.register
        for reading in self.readings[:upto]:
            total += Fraction((reading["register"] - register) * reading["price"], 10**9)
            register = reading["register"]
        return total

    def exact_fee(self) -> Fraction:
        whole = [floor(self.exact(n)) for n in range(len(self.readings) + 1)]
        return sum(
            (Fraction((whole[n + 1] - whole[n]) * reading["bps"], 10_000) for n, reading in enumerate(self.readings)),
            Fraction(0),
        )

    def last(self, key: str, first: int) -> int:
        found: int = [first, *(reading[key] for reading in self.readings)][-1]
        return found

    def judge(self, reading: dict[str, Any]) -> int:
        """The number of the refusal, 0 for an accepted reading."""
        seqs = [known["seq"] for known in self.readings]
        top = max(seqs, default=0)
        units = reading["register"] - self.last("register", self.register)
        broken = {
            4: reading["device"] != self.device,
            5: not reading["signed"],
            6: reading["seq"] in seqs,
            7: reading["seq"] <= top,
            8: reading["seq"] > top + 2**20,
            10: reading["price"] is None,
            11: reading["expired"],
            12: reading["serial"] < self.last("serial", self.serial),
            13: units < 0,
            14: units > reading["max_step"],
            15: reading["price"] is not None and floor(self.exact() + Fraction(units * reading["price"], 10**9)) > U128,
        }
        return min((number for number, broke in broken.items() if broke), default=0)

    def books(self) -> dict[str, Any]:
        """Every figure that the account must show, by the names of its fields."""
        earned, fee = floor(self.exact()), floor(self.exact_fee())
        offset = max(self.offsets, default=0)
        return {
            "seq": self.last("seq", 0),
            "register": self.last("register", self.register),
            "remainder": (self.exact() - earned) * 10**9,
            "offer_serial": self.last("serial", self.serial),
            "earned": earned,
            "fee": fee,
            "fee_remainder": (self.exact_fee() - fee) * 10**4,
            "offset": offset,
            "net": earned - fee - offset,
        }
