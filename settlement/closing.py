"""Closing a channel for good (pure): which final claim and which refund are still to be sent (docs/protocol.md 6).

A refund is signed by receiverAuthorizer for one nonce and may be submitted by anyone from the moment it is seen.
These rules keep it harmless:

- It never covers what is owed, so a refund that somebody sends without the claim takes nothing of the receiver's.
- While a withdrawal is pending it is signed, and sent, only after the claim is on the chain: the two together
  could take what is owed.
- A signed one is sent until its nonce is used up, even when there is nothing left to return. Otherwise it could
  be kept, and take money out of the same channel after it was opened again.
- None is signed beside another, of whatever nonce, before all that can be claimed is on the chain: each leaves what
  is owed, but two of them, one after the other, do not. From then on any number of them take only what is the payer's.
- One that was signed for a nonce still to come (a node had made it up) is remembered for good. It is valid only after
  refunds for all nonces before it, and these are signed in a closing, which goes on until it is used up, too.

Amounts are token base units.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from channels.types import ChannelId

# One multicall takes 16 parts (docs/protocol.md 1): a claim of all its channels, and a refund for each of them.
CHANNELS_PER_MULTICALL = 14
# A deposit that arrives after the refund was signed gets a refund of its own. More than this many in one closing are
# somebody's game for our gas: what comes later stays in the channel, and is its payer's to withdraw or to open with.
REFUNDS_MAX = 3


@dataclass(frozen=True, slots=True)
class Refund:
    """A refund signed, or about to be: for the channel's `nonce` and no other."""

    nonce: int
    amount: int


@dataclass(frozen=True, slots=True)
class ClosingPosition:
    """A closing channel at one block; amounts are cumulative but `balance` and `withdrawing`.

    `nonce` is the channel's next refund nonce on the chain, `signed` every refund that was signed and may be valid
    still, now or when its nonce comes; the ones signed last are last.
    """

    id: ChannelId
    lane: int
    owed: int  # charged − offset − forgiven
    committed: int  # the highest totalClaimed ever signed
    claimed: int  # totalClaimed on chain
    ceiling: int  # the highest voucher held
    balance: int  # on chain
    withdrawing: int  # amount of a pending withdrawal, seen or foreseen
    nonce: int
    signed: tuple[Refund, ...] = ()
    refunds: int = 0  # how many were signed in this closing


@dataclass(frozen=True, slots=True)
class FinalStep:
    """What one transaction does for one channel; `total_claimed` None: no claim, `refund` None: no refund."""

    id: ChannelId
    lane: int
    total_claimed: int | None
    refund: Refund | None


def next_step(position: ClosingPosition, *, claim_first: bool = False) -> FinalStep | None:
    """Return what is to be sent next, or None when the channel is settled for good.

    `claim_first`: the refund waits until the claim is on the chain, so that it cannot hold it up.
    """
    target = min(position.owed, position.ceiling, position.balance)
    if target > position.claimed:
        beside = any(refund.nonce != position.nonce for refund in position.signed)
        waits = claim_first or beside or position.withdrawing > 0
        return FinalStep(position.id, position.lane, target, None if waits else _refund(position))
    refund = _refund(position)
    return None if refund is None else FinalStep(position.id, position.lane, None, refund)


def _refund(position: ClosingPosition) -> Refund | None:
    for refund in reversed(position.signed):
        if refund.nonce == position.nonce:
            return refund
    rest = position.balance - max(position.owed, position.committed)
    return Refund(position.nonce, rest) if rest > 0 and position.refunds < REFUNDS_MAX else None


def closing_batches(steps: Iterable[FinalStep], rows_max: int = CHANNELS_PER_MULTICALL) -> list[tuple[FinalStep, ...]]:
    """Cut steps into transactions: by lane, then channel id, at most `rows_max` in one."""
    by_lane: dict[int, list[FinalStep]] = {}
    for step in sorted(steps, key=lambda step: (step.lane, step.id)):
        by_lane.setdefault(step.lane, []).append(step)
    return [
        tuple(of_lane[start : start + rows_max])
        for of_lane in by_lane.values()
        for start in range(0, len(of_lane), rows_max)
    ]
