"""A channel's life as rules: what devices, gateway, payer and chain may do, checked after every step.

The chain runs ahead of what the gateway has seen, as it does in life: contract calls append to a log, and
another rule delivers the log in order. After every step all figures of machine and auditor are equal, the
shared invariants hold, and no money was taken twice.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import floor
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from channels.machine import open_channel, reopen, required_ceiling
from channels.refusals import Refusal
from channels.state import (
    ActionClose,
    ActionClosed,
    ActionForgive,
    ActionOffset,
    ActionSignClaim,
    Change,
    Channel,
    ContractReceiveClaim,
    ContractReceiveDeposit,
    ContractReceiveForeseen,
    ContractReceiveRefund,
    ContractReceiveReverted,
    ContractReceiveWithdrawFinalized,
    ContractReceiveWithdrawInitiated,
    ReceiveClose,
    ReceiveReading,
    Terms,
)
from tests.support.channels_auditor import EVENTS, U128, Event, Revert
from tests.support.channels_build import DEVICE, OTHER_DEVICE, make_open
from tests.support.channels_checked import CheckedLife

# What may be wrong with a reading; several at once show that the first check names the refusal.
FLAWS = ["device", "unsigned", "repeat", "old", "jump", "unknown", "expired", "regressed", "lower", "step"]
FLAWS += ["low", "far", "balance", "stale", "huge price"]
CLOSE_FLAWS = ["device", "unsigned", "repeat", "old", "jump"]
flaws = st.one_of(
    st.sampled_from(FLAWS).map(lambda flaw: [flaw]),
    st.sampled_from(FLAWS).map(lambda flaw: [flaw]),
    st.lists(st.sampled_from(FLAWS), max_size=3, unique=True),
)
prices = st.one_of(st.integers(0, 5 * 10**9), st.sampled_from([0, 1, 10**9, 333_333_333, 999_999_999]))
shares = st.sampled_from([0, 2, 5, 9, 10, 10, 11])  # tenths
TAKEN = ["", "", "", "device", "service"]  # what another device, or service, tries to open again
seldom = st.sampled_from([False, False, False, False, False, True])


def change_of(event: Event) -> Change:
    """What the chain follower makes of a log."""
    match event.kind:
        case "deposit":
            return ContractReceiveDeposit(event.position, event.total)
        case "claim":
            return ContractReceiveClaim(event.position, event.total)
        case "initiated":
            return ContractReceiveWithdrawInitiated(event.position, event.amount, event.ends)
        case "finalized":
            return ContractReceiveWithdrawFinalized(event.position, event.amount)
    assert event.kind == "refund"
    return ContractReceiveRefund(event.position, event.amount)


def attempt(call: Callable[..., None], *args: int) -> str | None:
    """Make a contract call; returns the name of the error that it reverts with."""
    try:
        call(*args)
    except Revert as error:
        return str(error)
    return None


class ChannelLife(CheckedLife):
    """One channel from its opening on."""

    # --- opening ---

    @initialize(
        register=st.integers(0, 1_000),
        deposit=st.one_of(st.integers(300, 3_000), st.integers(300, 3_000), st.sampled_from([0, 1, U128])),
        claimed=st.one_of(st.just(0), st.integers(0, 300), st.integers(U128 - 50, U128)),
        withdrawal=st.sampled_from([0, 0, 0, 50, 5_000]),
        funded=st.sampled_from([True, True, True, False]),
    )
    def start(self, register: int, deposit: int, claimed: int, withdrawal: int, funded: bool) -> None:
        """A channel may have lived on chain before this gateway ever heard of it."""
        if deposit:
            self.contract.deposit(deposit)
            self.contract.claim(deposit, min(claimed, deposit))
            free = self.contract.balance - self.contract.claimed
            if min(withdrawal, free):
                self.contract.initiate_withdraw(min(withdrawal, free))
        funded = funded and deposit > 0
        self.seen = self.base = len(self.contract.log)
        change = make_open(
            register=register,
            balance=self.contract.balance,
            claimed=self.contract.claimed,
            withdrawing=self.contract.pending,
            position=self.contract.block * 2**32 + 2**32 - 1,
            funded=funded,
            withdraw_after=self.contract.ends,
        )
        self.channel = open_channel(change)
        opening = {name: getattr(change, name) for name in change.__struct_fields__}
        self.audit.note("open", opening | {"serial": change.offer_serial})

    # --- readings ---

    @rule(price=prices, units=st.lists(st.integers(0, 30), min_size=1, max_size=5), ahead=st.integers(0, 10))
    def good_readings(self, price: int, units: list[int], ahead: int) -> None:
        """Some readings as an honest device sends them; in a poor channel the last may be too dear."""
        for count in units:
            self.reading((), price, count, 1, ahead, 10, 60, 0, b"good")

    @rule(
        price=prices,
        units=st.lists(st.integers(0, 30), min_size=1, max_size=5),
        tenths=st.tuples(shares, shares, shares),
        order=st.permutations(["offset", "forgive", "claim"]),
        landing=st.booleans(),
        watched=st.booleans(),
    )
    def ordinary_day(
        self,
        price: int,
        units: list[int],
        tenths: tuple[int, int, int],
        order: list[str],
        landing: bool,
        watched: bool,
    ) -> None:
        """Money where there is too little, readings, netting and a claim: what the other rules then disturb."""
        if self.audit.phase() == "OPENING" or self.audit.usable() - self.audit.owed() < 500:
            self.deposit(1_500)
            self.deliver(len(self.contract.log))
        self.good_readings(price, units, 2)
        for act, share in zip(order[:2], tenths, strict=False):
            match act:
                case "offset":
                    self.offset(share, 0)
                case "forgive":
                    self.forgive(share // 2, 0)
                case _:
                    self.sign_claim(share, 0, landing)
        if watched:
            self.deliver(len(self.contract.log))

    @rule(
        flaws=flaws,
        price=prices,
        units=st.integers(0, 60),
        skip=st.integers(1, 3),
        ahead=st.integers(0, 30),
        max_ahead=st.integers(0, 30),
        max_step=st.integers(40, 60),
        newer=st.integers(0, 2),
        unique=st.binary(min_size=1, max_size=4),
    )
    def reading(
        self,
        flaws: Sequence[str],
        price: int,
        units: int,
        skip: int,
        ahead: int,
        max_ahead: int,
        max_step: int,
        newer: int,
        unique: bytes,
    ) -> None:
        audit = self.audit
        seqs = audit.seqs()
        if "huge price" in flaws:
            price, units = 2**64 - 1, units or 1
        raw: dict[str, Any] = {
            "device": OTHER_DEVICE if "device" in flaws else DEVICE,
            "signed": "unsigned" not in flaws,
            "seq": max(seqs) + skip,
            "register": audit.last("register") + units,
            "price": price,
            "serial": audit.last("serial") + newer,
            "offer": bytes(12) + (audit.last("serial") + newer).to_bytes(4, "big"),
            "expired": "expired" in flaws,
            "max_step": max_step,
            "max_ahead": max_ahead,
            "stale": "stale" in flaws,
            "signature": unique.rjust(65, b"\1"),
        }
        if "repeat" in flaws:
            raw["seq"] = seqs[-1 - skip % len(seqs)]
        if "old" in flaws:
            raw["seq"] = max(0, max(seqs) - skip)
        if "jump" in flaws:
            raw["seq"] = max(seqs) + 2**20 + 1 - units % 2
        if "regressed" in flaws:
            raw["serial"] = audit.last("serial") - 1
        if "lower" in flaws:
            raw["register"] = max(0, audit.last("register") - skip)
        if "step" in flaws:
            raw["register"] = audit.last("register") + max_step + skip % 2
        gain = Fraction((raw["register"] - audit.last("register")) * price, 10**9)
        owed = floor(audit.exact() + gain) - audit.offset() - audit.forgiven()
        raw["ceiling"] = max(0, owed, min(owed + min(ahead, max_ahead), audit.usable()))
        if "low" in flaws:
            raw["ceiling"] = max(0, owed - skip)
        if "far" in flaws:
            raw["ceiling"] = owed + max_ahead + skip % 2
        if "balance" in flaws:
            raw["ceiling"] = audit.usable() + skip % 2
        if "unknown" in flaws:
            raw["price"] = None
        if audit.opening["claimed"] and seqs == [0] and raw["ceiling"] < owed:  # the first one shows what was before
            owed = max(audit.owed(), raw["ceiling"] - max_ahead)
        self.judge(raw, owed)

    def judge(self, raw: dict[str, Any], owed: int) -> None:
        terms = None
        if raw["price"] is not None:
            terms = Terms(
                raw["offer"],
                raw["serial"],
                raw["price"],
                raw["max_step"],
                raw["max_ahead"],
                raw["expired"],
            )
        reading = ReceiveReading(
            seq=raw["seq"],
            register=raw["register"],
            time=0,
            offer=raw["offer"],
            ceiling=raw["ceiling"],
            signature=raw["signature"],
            device=raw["device"],
            signed=raw["signed"],
            terms=terms,
            repeats_seq=raw["seq"] in self.audit.seqs()[1:],
            chain_stale=raw["stale"],
        )
        number = self.audit.judge(raw)
        required = required_ceiling(self.channel, reading)
        after = self.next(reading)
        if number:
            assert after is Refusal(number)
            if number == Refusal.CEILING_TOO_LOW:
                assert required == owed > raw["ceiling"]
            return
        assert isinstance(after, Channel), f"refused as {after.wire_name}"
        self.channel = after
        self.accepted.append(reading)
        self.audit.note("reading", raw)
        assert required == owed == self.audit.owed()

    @precondition(lambda self: self.accepted)
    @rule(which=st.integers(0, 1_000))
    def resend(self, which: int) -> None:
        """An accepted reading again never charges a second time, even if its caller forgot that it was."""
        reading = self.accepted[which % len(self.accepted)]
        assert self.next(reading) in (Refusal.SEQ_CONFLICT, Refusal.SEQ_OLD)

    # --- the gateway's own acts ---

    @rule(share=shares, extra=st.integers(-1, 1))
    def offset(self, share: int, extra: int) -> None:
        amount = self.audit.free() * share // 10 + extra
        new = max(0, self.audit.offset() + amount)
        change = ActionOffset(new)
        if self.act(change, amount <= self.audit.free(), replay=new <= self.audit.offset()):
            self.audit.note("offset", new)

    @rule(share=shares, extra=st.integers(-1, 1))
    def forgive(self, share: int, extra: int) -> None:
        amount = self.audit.free() * share // 10 + extra
        new = max(0, self.audit.forgiven() + amount)
        if self.act(ActionForgive(new), amount <= self.audit.free(), replay=new <= self.audit.forgiven()):
            self.audit.note("forgive", new)

    @rule(share=shares, extra=st.integers(-1, 1), landing=st.booleans())
    def sign_claim(self, share: int, extra: int, landing: bool) -> None:
        """Sign for a share of what is owed, wrongly also for more, and perhaps submit at once."""
        total = max(0, self.audit.committed() + self.audit.free() * share // 10 + extra)
        fine = total <= min(self.audit.owed(), self.audit.held()[0])
        if self.act(ActionSignClaim(total), fine, replay=total <= self.audit.committed()):
            self.signed.append((self.audit.held()[0], total))
            self.audit.note("sign", total)
            if landing:
                self.claim(-1)

    @precondition(lambda self: self.signed)
    @rule(which=st.integers(-3, 3))
    def claim(self, which: int) -> None:
        """Any claim ever signed may land, late ones too; above the balance it reverts."""
        ceiling, total = self.signed[which % len(self.signed)]
        reverted = attempt(self.contract.claim, ceiling, total)
        assert reverted == ("ClaimExceedsBalance" if total > self.contract.balance else None)

    # --- the chain ---

    @rule(amount=st.integers(1, 400))
    def deposit(self, amount: int) -> None:
        full = amount > U128 - self.contract.balance
        assert attempt(self.contract.deposit, amount) == ("DepositOverflow" if full else None)

    @rule(share=st.sampled_from([0, 1, 3, 10, 11]))
    def initiate_withdraw(self, share: int) -> None:
        """The payer may ask for any part of what is unclaimed; for nothing, too much, or twice, it reverts."""
        free = self.contract.balance - self.contract.claimed
        attempt(self.contract.initiate_withdraw, free * share // 10)

    @precondition(lambda self: self.contract.pending)
    @rule()
    def finalize_withdraw(self) -> None:
        self.contract.finalize_withdraw()

    @rule(amount=st.one_of(st.integers(1, 40), st.integers(1, 900)))
    def refund(self, amount: int) -> None:
        """The gateway refunds when it closes a channel, but the contract allows it at any time."""
        self.contract.refund(amount)

    @precondition(lambda self: self.seen < len(self.contract.log))
    @rule(count=st.integers(1, 8))
    def deliver(self, count: int) -> None:
        for event in self.contract.log[self.seen : self.seen + count]:
            after = self.next(change_of(event))
            assert isinstance(after, Channel)
            assert after is not self.channel
            self.channel = after
            self.audit.note("chain", event)
            self.seen += 1

    @precondition(lambda self: self.seen)
    @rule(which=st.integers(0, 1_000))
    def redeliver(self, which: int) -> None:
        event = self.contract.log[which % self.seen]
        assert self.next(change_of(event)) is self.channel

    # --- blocks that are not final ---

    @rule(now=st.booleans())
    def foresee(self, now: bool) -> None:
        """What is not delivered yet is seen: withdrawals count at once. Or it is forgotten again."""
        undelivered = self.contract.log[self.seen :]
        gone = sum(event.amount for event in undelivered if event.kind in ("finalized", "refund"))
        payers = any(event.kind in ("initiated", "finalized") for event in undelivered)
        foreseen = (gone + self.contract.pending, self.contract.ends) if now and payers else (0, 0)
        if foreseen[0] == 0:
            foreseen = (0, 0)
        known = foreseen == self.audit.foreseen()
        after = self.next(ContractReceiveForeseen(*foreseen))
        assert isinstance(after, Channel)
        assert (after is self.channel) == known
        self.channel = after
        self.audit.note("foreseen", foreseen)
        if foreseen[0]:
            # What is usable stays, whatever of it becomes final.
            assert after.usable_balance <= self.contract.balance - self.contract.withdrawable()

    @rule(depth=st.integers(1, 6), closing=st.booleans())
    def reorganise(self, depth: int, closing: bool) -> None:
        """The chain replaces its last blocks; what was delivered of them is taken back."""
        kept = max(self.base, len(self.contract.log) - depth)
        self.contract.replace_blocks(kept)
        if kept >= self.seen:
            return
        self.seen = kept
        audit = self.audit
        audit.note("reverted", {"kept": kept - self.base, "closing": closing})
        change = ContractReceiveReverted(
            balance=audit.balance(),
            claimed=audit.claimed(),
            withdrawing=audit.pending(),
            withdrawn=sum(event.amount for event in audit.chain("finalized")),
            refunded=sum(event.amount for event in audit.chain("refund")),
            position=max([audit.opening["position"], *(event.position for event in audit.chain(*EVENTS))]),
            withdraw_after=audit.ends(),
            closing=closing,
        )
        after = self.next(change)
        assert isinstance(after, Channel)
        assert after is not self.channel
        self.channel = after
        assert self.next(change) is after

    # --- the end, and again from there ---

    @rule(now=seldom, flaw=st.sampled_from([*CLOSE_FLAWS, None, None, None]), skip=st.integers(1, 3))
    def ask_to_close(self, now: bool, flaw: str | None, skip: int) -> None:
        """A device's own close; it uses up a seq like a reading."""
        if not now and flaw is None and self.audit.phase() in ("OPEN", "WITHDRAWING"):
            return
        seqs = self.audit.seqs()
        raw = {
            "device": OTHER_DEVICE if flaw == "device" else DEVICE,
            "signed": flaw != "unsigned",
            "seq": max(seqs) + skip,
        }
        if flaw == "repeat":
            raw["seq"] = seqs[-1 - skip % len(seqs)]
        if flaw == "old":
            raw["seq"] = max(0, max(seqs) - skip)
        if flaw == "jump":
            raw["seq"] = max(seqs) + 2**20 + skip
        number = self.audit.judge_close(raw)
        used = raw["seq"] in seqs[1:]
        after = self.next(ReceiveClose(raw["seq"], raw["device"], raw["signed"], repeats_seq=used))
        if number:
            assert after is Refusal(number)
            return
        assert isinstance(after, Channel), f"refused as {after.wire_name}"
        self.channel = after
        self.audit.note("close", raw["seq"])

    @rule(now=seldom)
    def close(self, now: bool) -> None:
        phase = self.audit.phase()
        if not now and phase != "CLOSED":
            return
        after = self.next(ActionClose())
        if phase in ("OPENING", "CLOSED"):
            assert after is Refusal.NOT_OPEN
            return
        assert isinstance(after, Channel)
        assert (after is self.channel) == (phase == "CLOSING")
        self.channel = after
        self.audit.note("close")

    @rule(now=seldom)
    def closed(self, now: bool) -> None:
        phase = self.audit.phase()
        if not now and phase != "CLOSING":
            return
        after = self.next(ActionClosed())
        if phase not in ("CLOSING", "CLOSED"):
            assert after is Refusal.NOT_OPEN
            return
        assert isinstance(after, Channel)
        assert (after is self.channel) == (phase == "CLOSED")
        self.channel = after
        self.audit.note("closed")

    @rule(amount=st.integers(1, 900), by_another=st.booleans(), taken=st.sampled_from(TAKEN))
    def open_again(self, amount: int, by_another: bool, taken: str) -> None:
        """Re-opening resumes; the deposit may already be on chain, sent by someone else."""
        change = make_open(funded=by_another, **({taken: "another"} if taken else {}))
        if taken:
            assert reopen(self.channel, change) is Refusal.CHANNEL_TAKEN
            return
        if self.audit.phase() != "CLOSED":
            assert reopen(self.channel, change) is Refusal.NOT_OPEN
            return
        self.deposit(amount)
        after = reopen(self.channel, change)
        assert isinstance(after, Channel)
        self.channel = after
        self.audit.note("reopen", {"funded": by_another})
