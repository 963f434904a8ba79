"""What is still to be sent for a closing channel, by tables and over random lives in which strangers act too."""

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from settlement.closing import (
    CHANNELS_PER_MULTICALL,
    REFUNDS_MAX,
    ClosingPosition,
    FinalStep,
    Refund,
    closing_batches,
    next_step,
)

ID = bytes(31) + b"\1"


def position(**fields: Any) -> ClosingPosition:
    """50 owed, 20 of it signed for, 10 claimed, 1,000 on the chain, no refund ever signed."""
    values: dict[str, Any] = {
        "id": ID, "lane": 2, "owed": 50, "committed": 20, "claimed": 10, "ceiling": 55, "balance": 1_000,
        "withdrawing": 0, "nonce": 0,
    }  # fmt: skip
    return ClosingPosition(**values | fields)


STEPS: list[tuple[str, dict[str, Any], tuple[int | None, Refund | None] | None]] = [
    ("the rest is claimed and refunded at once", {}, (50, Refund(0, 950))),
    ("never used", {"owed": 0, "committed": 0, "claimed": 0, "ceiling": 0}, (None, Refund(0, 1_000))),
    ("all is claimed already", {"claimed": 50, "committed": 50}, (None, Refund(0, 950))),
    ("nothing to refund", {"balance": 50}, (50, None)),
    ("nothing at all", {"balance": 50, "claimed": 50, "committed": 50}, None),
    ("nothing was ever there", {"owed": 0, "committed": 0, "claimed": 0, "ceiling": 0, "balance": 0}, None),
    ("more owed than there is", {"balance": 30}, (30, None)),
    ("more owed than there is, and that is claimed", {"balance": 30, "claimed": 30, "committed": 30}, None),
    ("signed for more than there is", {"balance": 15, "committed": 50}, (15, None)),
    ("the next nonce", {"nonce": 7}, (50, Refund(7, 950))),
    ("a withdrawal is pending: claim first", {"withdrawing": 100}, (50, None)),
    ("and then refund", {"withdrawing": 100, "claimed": 50, "committed": 50}, (None, Refund(0, 950))),
    ("a signed one is sent as it was signed", {"signed": (Refund(0, 900),)}, (50, Refund(0, 900))),
    ("but beside a withdrawal after the claim", {"signed": (Refund(0, 900),), "withdrawing": 5}, (50, None)),
    (
        "also when nothing is left to return",
        {"signed": (Refund(0, 900),), "balance": 50, "claimed": 50, "committed": 50},
        (None, Refund(0, 900)),
    ),
    (
        "used up, by whomever",
        {"signed": (Refund(0, 950),), "nonce": 1, "balance": 50, "refunds": 1},
        (50, None),
    ),
    (
        "used up, and all claimed",
        {"signed": (Refund(0, 950),), "nonce": 1, "balance": 50, "claimed": 50, "committed": 50, "refunds": 1},
        None,
    ),
    (
        "a deposit came after the refund was signed",
        {"signed": (Refund(0, 950),), "nonce": 1, "balance": 80, "claimed": 50, "committed": 50, "refunds": 1},
        (None, Refund(1, 30)),
    ),
    (
        "one signed for a nonce to come: claim first",
        {"signed": (Refund(1, 950),), "refunds": 1},
        (50, None),
    ),
    (
        "and then all before it",
        {"signed": (Refund(1, 950),), "claimed": 50, "committed": 50, "refunds": 1},
        (None, Refund(0, 950)),
    ),
    (
        "and then that one",
        {
            "signed": (Refund(1, 950), Refund(0, 950)),
            "nonce": 1,
            "balance": 50,
            "claimed": 50,
            "committed": 50,
            "refunds": 2,
        },
        (None, Refund(1, 950)),
    ),
    (
        "two for one nonce: the last one",
        {"signed": (Refund(0, 900), Refund(0, 950)), "claimed": 50, "committed": 50},
        (None, Refund(0, 950)),
    ),
    (
        "deposits that never end",
        {"signed": (Refund(2, 5),), "nonce": 3, "balance": 80, "claimed": 50, "committed": 50, "refunds": REFUNDS_MAX},
        None,
    ),
    (
        "the last refund is still sent",
        {"signed": (Refund(2, 5),), "nonce": 2, "balance": 80, "claimed": 50, "committed": 50, "refunds": REFUNDS_MAX},
        (None, Refund(2, 5)),
    ),
]


@pytest.mark.parametrize(("fields", "expected"), [row[1:] for row in STEPS], ids=[row[0] for row in STEPS])
def test_steps(fields: dict[str, Any], expected: tuple[int | None, Refund | None] | None) -> None:
    assert next_step(position(**fields)) == (None if expected is None else FinalStep(ID, 2, *expected))


def test_a_channel_that_failed_claims_alone_and_then_refunds() -> None:
    assert next_step(position(), claim_first=True) == FinalStep(ID, 2, 50, None)
    claimed = position(claimed=50, committed=50)
    assert next_step(claimed, claim_first=True) == FinalStep(ID, 2, None, Refund(0, 950))
    signed = position(signed=(Refund(0, 950),))
    assert next_step(signed, claim_first=True) == FinalStep(ID, 2, 50, None), "signed before or not"


def test_batches_are_of_one_lane_and_fit_a_multicall() -> None:
    steps = [FinalStep(number.to_bytes(32, "big"), number % 3, 1, None) for number in range(100)]
    Random(5).shuffle(steps)
    batches = closing_batches(steps)
    assert sorted(step.id for batch in batches for step in batch) == sorted(step.id for step in steps)
    for batch in batches:
        assert 0 < len(batch) <= CHANNELS_PER_MULTICALL == 14
        assert len({step.lane for step in batch}) == 1
        assert [step.id for step in batch] == sorted(step.id for step in batch)
    assert [len(batch) for batch in closing_batches(steps[:5], 1)] == [1] * 5
    assert closing_batches([]) == []


# ------------------------------------------------------------------ random lives


@dataclass
class Chain:
    """The contract's side of one channel, written from docs/protocol.md 1.2."""

    balance: int
    claimed: int = 0
    pending: int = 0
    nonce: int = 0
    returned: int = 0  # to the payer

    def claim(self, total: int) -> bool:
        if total > self.balance:
            return False
        self.claimed = max(self.claimed, total)
        return True

    def refund(self, refund: Refund) -> bool:
        if refund.nonce != self.nonce:
            return False
        self.nonce += 1
        amount = min(refund.amount, self.balance - self.claimed)
        self.balance -= amount
        self.returned += amount
        self.pending = max(0, self.pending - amount)
        return True

    def withdraw(self) -> None:
        amount = min(self.pending, self.balance - self.claimed)
        self.balance -= amount
        self.returned += amount
        self.pending = 0


@dataclass
class Life:
    """A closing channel whose gateway sees the chain at once, and strangers who see every signature at once."""

    owed: int
    chain: Chain
    committed: int = 0
    signed: list[Refund] = field(default_factory=list)
    reverted: int = 0
    begun: int = 0  # how many were signed before this closing

    def step(self, lie: int = 0) -> FinalStep | None:
        """Return the next step as it is seen by a node that names a nonce `lie` too high."""
        chain = self.chain
        return next_step(
            position(
                owed=self.owed, committed=self.committed, claimed=chain.claimed, ceiling=self.owed + 3,
                balance=chain.balance, withdrawing=chain.pending, nonce=chain.nonce + lie,
                signed=tuple(self.signed), refunds=len(self.signed) - self.begun,
            ),
            claim_first=self.reverted > 0,
        )  # fmt: skip

    def sign(self, step: FinalStep) -> None:
        self.committed = max(self.committed, step.total_claimed or 0)
        if step.refund is not None and step.refund not in self.signed:
            assert step.refund.amount <= self.chain.balance - max(self.owed, self.committed)
            self.signed.append(step.refund)

    def mine(self, step: FinalStep) -> None:
        """All of it or nothing, as a multicall."""
        before = replace(self.chain)
        claimed = step.total_claimed is None or self.chain.claim(step.total_claimed)
        if claimed and (step.refund is None or self.chain.refund(step.refund)):
            self.reverted = 0
            return
        self.chain = before
        self.reverted += 1


def begin(draw: Random) -> Life:
    """Return a channel that somebody closes."""
    balance = draw.randint(0, 60)
    life = Life(draw.randint(0, balance), Chain(balance))
    life.chain.claim(draw.randint(0, life.owed))
    life.committed = life.chain.claimed
    if draw.random() < 0.4:
        life.chain.pending = draw.randint(0, balance - life.chain.claimed)
    return life


def close(draw: Random, life: Life, lies: int = 0) -> Life:
    """Close a channel while strangers deposit and send signed refunds, and the payer starts withdrawals.

    In some of the looks, `lies` at most, the node names too high a nonce.
    """
    in_vain = 0
    for _ in range(200):
        lie = draw.randint(1, 2) if lies and draw.random() < 0.3 else 0
        lies -= bool(lie)
        step = life.step(lie)
        if step is None:
            if lie:
                continue  # an end is believed only when it is certain
            return life
        life.sign(step)
        if life.signed and draw.random() < 0.3:
            life.chain.refund(draw.choice(life.signed))  # anybody, any signature that was ever seen
        if draw.random() < 0.1:
            life.chain.balance += draw.randint(1, 9)
        if life.chain.pending == 0 and draw.random() < 0.2:
            life.chain.pending = draw.randint(0, life.chain.balance - life.chain.claimed)
        if in_vain < 20 and draw.random() < 0.3:
            in_vain += 1  # the transaction was not mined at all
            continue
        life.mine(step)
    raise AssertionError("it never ends")


def test_whatever_strangers_send_nothing_that_is_owed_is_lost() -> None:
    """Within the delay no withdrawal ends, so all that is owed must be claimed, and no signature be left over."""
    for seed in range(4_000):
        draw = Random(seed)
        life = close(draw, begin(draw))
        shown = f"seed {seed}: {life}"
        assert life.chain.claimed == life.owed, shown
        assert all(refund.nonce < life.chain.nonce for refund in life.signed), shown
        assert len(life.signed) <= REFUNDS_MAX, shown
        if len(life.signed) < REFUNDS_MAX:
            assert life.chain.balance == life.chain.claimed, f"{shown}: the payer did not get back the rest"


def test_refunds_for_nonces_that_were_made_up_reach_nothing_that_is_owed() -> None:
    """Neither while it closes nor after it was opened again, nor while it closes again."""
    stray = 0
    for seed in range(4_000):
        draw = Random(seed)
        life = close(draw, begin(draw), lies=4)
        shown = f"seed {seed}: {life}"
        assert life.chain.claimed == life.owed, shown
        for _ in range(2):
            left = [refund for refund in life.signed if refund.nonce >= life.chain.nonce]
            stray += len(left)
            life.signed, life.begun = left, len(left)
            deposit = draw.randint(1, 60)
            life.chain.balance += deposit
            life.owed += draw.randint(0, deposit)
            before = replace(life.chain)
            assert not any(life.chain.refund(refund) for refund in draw.sample(left, len(left))), shown
            assert life.chain == before, shown
            close(draw, life, lies=2)
            assert life.chain.claimed == life.owed, f"seed {seed}: {life}"
    assert stray > 0, "some were left for a nonce that did not come"


def test_a_withdrawal_that_ends_takes_no_more_than_without_a_refund() -> None:
    """A pending withdrawal ends at the worst moment: with the refund the payer gets nothing that is owed."""
    worst = 0
    for seed in range(2_000):
        draw = Random(seed)
        balance = draw.randint(10, 60)
        life = Life(draw.randint(1, balance), Chain(balance))
        life.chain.pending = draw.randint(1, balance)
        alone = max(0, life.owed - (balance - life.chain.pending))  # what the payer can take of it anyway
        step = life.step()
        assert step is not None
        life.sign(step)
        # Before anything of ours is mined the delay is over, and the payer sends all that was signed, in any order.
        withdrawing_first = draw.random() < 0.5
        if withdrawing_first:
            life.chain.withdraw()
        for refund in life.signed:
            life.chain.refund(refund)
        if not withdrawing_first:
            life.chain.withdraw()
        while (step := life.step()) is not None:
            life.sign(step)
            life.mine(step)
        lost = life.owed - life.chain.claimed
        assert lost == alone, f"seed {seed}"
        worst = max(worst, lost)
    assert worst > 0, "some withdrawals reached what was owed"
