"""An independent model of the books, for comparison with `channels`.

It keeps a list of facts and derives every figure from the whole list, each time it is asked: exact sums are
rationals, the phase is read off what happened since the last opening, and a reading is judged by collecting
all rules that it breaks and taking the lowest number. It calls nothing of `channels`.
"""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from math import floor
from typing import Any

U128 = 2**128 - 1
EVENTS = ("deposit", "claim", "initiated", "finalized", "refund")


class Revert(Exception):
    """The simulated contract refuses a call; the message is the name of its error."""


@dataclass
class Event:
    """One log of the simulated contract. `total` is the new balance or the new totalClaimed."""

    kind: str
    position: int
    amount: int
    total: int = 0
    ends: int = 0  # the time from which a withdrawal can be taken


@dataclass
class Contract:
    """One channel in the settlement contract, by the rules of docs/protocol.md 1; signatures left out."""

    balance: int = 0
    claimed: int = 0
    pending: int = 0  # a pending withdrawal's amount; zero when there is none
    ends: int = 0  # when it can be taken
    block: int = 1
    log: list[Event] = field(default_factory=list)
    past: list["Contract"] = field(default_factory=list)  # as it was before each log

    def _emit(self, kind: str, amount: int, total: int = 0, ends: int = 0) -> None:
        self.block += 1
        self.log.append(Event(kind, self.block * 2**32 + len(self.log) % 3, amount, total, ends))

    def _keep(self) -> None:
        del self.past[len(self.log) :]
        self.past.append(replace(self, log=[], past=[]))

    def replace_blocks(self, kept: int) -> None:
        """A reorganisation: only the first `kept` logs were ever written."""
        if kept == len(self.log):
            return
        then = self.past[kept]
        self.balance, self.claimed, self.block = then.balance, then.claimed, then.block
        self.pending, self.ends = then.pending, then.ends
        del self.log[kept:], self.past[kept:]

    def deposit(self, amount: int) -> None:
        if amount == 0:
            raise Revert("ZeroDeposit")
        if self.balance + amount > U128:
            raise Revert("DepositOverflow")
        self._keep()
        self.balance += amount
        self._emit("deposit", amount, self.balance)

    def claim(self, ceiling: int, total: int) -> None:
        if total <= self.claimed:
            return
        if total > ceiling:
            raise Revert("ClaimExceedsCeiling")
        if total > self.balance:
            raise Revert("ClaimExceedsBalance")
        self._keep()
        before, self.claimed = self.claimed, total
        self._emit("claim", total - before, total)

    def initiate_withdraw(self, amount: int) -> None:
        if amount == 0:
            raise Revert("NothingToWithdraw")
        if self.pending:
            raise Revert("WithdrawalAlreadyPending")
        if amount > self.balance - self.claimed:
            raise Revert("WithdrawAmountExceedsAvailable")
        self._keep()
        self.pending, self.ends = amount, self.block + 900
        self._emit("initiated", amount, ends=self.ends)

    def withdrawable(self) -> int:
        return min(self.pending, self.balance - self.claimed)

    def finalize_withdraw(self) -> None:
        if not self.pending:
            raise Revert("WithdrawalNotPending")
        self._keep()
        amount = self.withdrawable()
        self.pending = self.ends = 0
        self.balance -= amount
        self._emit("finalized", amount)

    def refund(self, requested: int) -> None:
        if requested == 0:
            raise Revert("ZeroRefund")
        amount = min(requested, self.balance - self.claimed)
        if amount == 0:
            return
        self._keep()
        self.balance -= amount
        self.pending = max(0, self.pending - amount)
        self.ends = self.ends if self.pending else 0
        self._emit("refund", amount)


@dataclass
class ChannelAuditor:
    """The books of one channel, as the list of everything that happened to it."""

    facts: list[tuple[str, Any]] = field(default_factory=list)
    _there: tuple[int, list[Event]] = (0, [])

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
        total = Fraction(self.opening["claimed"])
        for units, reading in zip(self.steps(), self.all("reading"), strict=True):
            first = reading["seq"] == self.seqs()[1]
            total = self._after(total, units, reading, first)
        return total

    def _after(self, total: Fraction, units: int, reading: dict[str, Any], first: bool) -> Fraction:
        """The exact sum after a reading. The first message of a channel with a past may show that less is owed."""
        after = total + Fraction(units * reading["price"], 10**9)
        past: int = self.opening["claimed"]
        if first and past and reading["ceiling"] < floor(after):
            return Fraction(max(past, reading["ceiling"] - reading["max_ahead"]))
        return after

    def charged(self) -> int:
        return floor(self.exact())

    def seqs(self) -> list[int]:
        """Every seq that was used up, by readings and by closes of the device's own, in order."""
        used = [data["seq"] if kind == "reading" else data for kind, data in self.facts if kind in ("reading", "close")]
        return [0] + [seq for seq in used if seq is not None]

    def last(self, key: str) -> Any:
        return [self.opening[key], *(reading[key] for reading in self.all("reading"))][-1]

    def held(self) -> tuple[int, bytes]:
        best = max(self.all("reading"), key=lambda reading: reading["ceiling"], default=None)
        return (best["ceiling"], best["signature"]) if best and best["ceiling"] else (0, b"")

    def owed(self) -> int:
        return self.charged() - self.offset() - self.forgiven()

    def _judge_sequence(self, message: dict[str, Any]) -> set[int]:
        broken = set()
        if message["device"] != self.opening["device"]:
            broken.add(4)
        if not message["signed"]:
            broken.add(5)
        if message["seq"] in self.seqs()[1:][-1024:]:
            broken.add(6)
        if message["seq"] <= max(self.seqs()):
            broken.add(7)
        if message["seq"] - max(self.seqs()) > 1_048_576:
            broken.add(8)
        return broken

    def judge_close(self, close: dict[str, Any]) -> int:
        """The number of the refusal, 0 for an accepted close."""
        broken = self._judge_sequence(close)
        if self.phase() in ("OPENING", "CLOSED"):
            broken.add(9)
        return min(broken, default=0)

    def judge(self, reading: dict[str, Any]) -> int:
        """The number of the refusal, 0 for an accepted reading: the lowest of all rules it breaks."""
        broken = self._judge_sequence(reading)
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
        exact = self.exact()
        if floor(exact + Fraction(units * reading["price"], 10**9)) > U128:
            broken.add(15)
        after = floor(self._after(exact, units, reading, self.seqs() == [0]))
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
        """The logs delivered that are on the chain: all but those that a reorganisation took back."""
        if self._there[0] != len(self.facts):  # derived once per fact, as every figure needs it
            there: list[Event] = []
            for kind, data in self.facts:
                if kind == "chain":
                    there.append(data)
                if kind == "reverted":
                    del there[data["kept"] :]
            self._there = (len(self.facts), there)
        return [event for event in self._there[1] if event.kind in kinds]

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

    def ends(self) -> int:
        """The time from which the pending withdrawal can be taken."""
        began = [event.ends for event in self.chain("initiated")]
        found: int = [self.opening["withdraw_after"], *began][-1]
        return found if self.pending() else 0

    def foreseen(self) -> tuple[int, int]:
        """What withdrawals that are not final yet can take, and from when on."""
        found: tuple[int, int] = [(0, 0), *self.all("foreseen")][-1]
        return found

    def usable(self) -> int:
        """What stays of the balance should the withdrawal, pending or foreseen, end now."""
        leaves = max(self.pending(), self.foreseen()[0])
        return self.balance() - min(leaves, self.balance() - self.claimed())

    def phase(self) -> str:
        start = max(n for n, (kind, _) in enumerate(self.facts) if kind in ("open", "reopen"))
        since = self.facts[start:]
        kinds = [kind for kind, _ in since]
        ends = [kind for kind, data in since if kind == "closed" or (kind == "reverted" and data["closing"])]
        if ends and ends[-1] == "closed":
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
            "position": max([self.opening["position"], *(e.position for e in self.chain(*EVENTS))]),
            "withdraw_after": self.ends(),
            "foreseen": self.foreseen()[0],
            "foreseen_after": self.foreseen()[1],
            "finalize_after": min(
                [end for amount, end in ((self.pending(), self.ends()), self.foreseen()) if amount], default=0
            ),
            "usable_balance": self.usable(),
            "owed": self.owed(),
            "unclaimed": self.owed() - self.claimed(),
            "deposited": self.opening["balance"] + sum(e.amount for e in self.chain("deposit")),
        }


@dataclass
class EarnerAuditor:
    """The books of one earner account, the same way: a list of readings, fees and offsets.

    With a `past`, nobody knows what was paid before the first reading: it earns nothing.
    """

    device: str
    register: int
    serial: int
    past: bool = False
    readings: list[dict[str, Any]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    @property
    def begins(self) -> int:
        """The register from which on it earns."""
        begins: int = self.readings[0]["register"] if self.past and self.readings else self.register
        return begins

    def exact(self, upto: int | None = None) -> Fraction:
        total, register = Fraction(0), self.begins
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
        if self.past and not self.readings:
            units = min(units, 0)
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
            "first_register": self.begins,
            "remainder": (self.exact() - earned) * 10**9,
            "offer_serial": self.last("serial", self.serial),
            "earned": earned,
            "fee": fee,
            "fee_remainder": (self.exact_fee() - fee) * 10**4,
            "offset": offset,
            "net": earned - fee - offset,
        }
