"""Reorganisations and withdrawals at first sight, as single changes of a channel."""

from typing import Any

import pytest
from msgspec.structs import replace

from channels.invariants import channel_faults
from channels.machine import Contradiction, open_channel, transition
from channels.refusals import Refusal
from channels.state import (
    ActionForgive,
    ActionOffset,
    Channel,
    ContractReceiveClaim,
    ContractReceiveDeposit,
    ContractReceiveForeseen,
    ContractReceiveReverted,
    ContractReceiveWithdrawInitiated,
    Phase,
)
from tests.support.channels_build import BLOCK, applied, make_channel, make_open, make_reading

NEXT = 11 * BLOCK


def revert(channel: Channel, **fields: Any) -> ContractReceiveReverted:
    """The change that leaves the chain's side as it is, but for `fields`."""
    values: dict[str, Any] = {name: getattr(channel, name) for name in ContractReceiveReverted.__struct_fields__[:-1]}
    return ContractReceiveReverted(**values | fields)


# ------------------------------------------------------------------ foreseen withdrawals


@pytest.mark.parametrize(
    ("withdrawing", "foreseen", "usable"),
    [(0, 0, 1_000), (0, 300, 700), (200, 300, 700), (300, 200, 700), (0, 5_000, 10), (0, 990, 10), (0, 989, 11)],
)
def test_what_is_foreseen_is_not_usable(withdrawing: int, foreseen: int, usable: int) -> None:
    channel = applied(make_channel(withdrawing=withdrawing), ContractReceiveForeseen(foreseen, 9 if foreseen else 0))
    assert channel.usable_balance == usable
    assert channel_faults(channel) == []


def test_a_foreseen_withdrawal_stops_readings_that_reach_into_it_at_once() -> None:
    channel = applied(make_channel(), ContractReceiveForeseen(941, 9))
    assert transition(channel, make_reading()) is Refusal.CEILING_ABOVE_BALANCE
    assert channel.phase is Phase.OPEN
    channel = applied(channel, ContractReceiveForeseen(940, 9))
    assert applied(channel, make_reading()).charged == 60


def test_one_that_is_gone_again_leaves_no_trace() -> None:
    channel = make_channel()
    foreseen = applied(channel, ContractReceiveForeseen(300, 9))
    assert foreseen.position == channel.position
    assert applied(foreseen, ContractReceiveForeseen(0, 0)) == channel


@pytest.mark.parametrize(
    ("fields", "ends"),
    [
        ({}, 0),
        ({"withdrawing": 5, "withdraw_after": 70}, 70),
        ({"withdrawing": 5, "withdraw_after": 0}, 0),  # of which the end is not known
        ({"foreseen": 5, "foreseen_after": 60}, 60),
        ({"withdrawing": 5, "withdraw_after": 70, "foreseen": 9, "foreseen_after": 60}, 60),
        ({"withdrawing": 5, "withdraw_after": 70, "foreseen": 9, "foreseen_after": 80}, 70),
    ],
)
def test_the_end_that_counts_is_the_earliest(fields: dict[str, Any], ends: int) -> None:
    assert make_channel(**fields).finalize_after == ends


# ------------------------------------------------------------------ blocks taken back

GOES_BACK: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("a deposit", {}, {"balance": 400}),
    ("the only deposit", {"claimed": 0}, {"balance": 0}),
    ("a claim", {}, {"claimed": 0}),
    ("a refund", {"refunded": 50}, {"refunded": 0, "balance": 1_050}),
    ("the end of a withdrawal", {"withdrawn": 50}, {"withdrawn": 0, "balance": 1_050}),
    ("everything", {"withdrawn": 5, "refunded": 5}, {"withdrawn": 0, "refunded": 0, "balance": 0, "claimed": 0}),
]


@pytest.mark.parametrize(("fields", "back"), [row[1:] for row in GOES_BACK], ids=[row[0] for row in GOES_BACK])
@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.name)
def test_what_the_chain_did_goes_back_and_what_was_decided_stays(
    phase: Phase, fields: dict[str, Any], back: dict[str, Any]
) -> None:
    before = make_channel(phase=phase, withdrawing=0, **fields)
    if phase is Phase.WITHDRAWING:
        before = replace(before, phase=Phase.OPEN)
    after = applied(before, revert(before, position=9 * BLOCK, **back))
    assert after == replace(before, position=9 * BLOCK, **back)
    assert channel_faults(after) == []


def test_a_withdrawal_comes_and_goes_with_its_blocks() -> None:
    before = make_channel()
    begun = applied(before, ContractReceiveWithdrawInitiated(NEXT, 300, 70))
    assert applied(begun, revert(before)) == before
    assert applied(before, revert(begun)) == begun
    assert begun.phase is Phase.WITHDRAWING


def test_events_of_the_blocks_that_came_instead_apply() -> None:
    """The same claim in another block, at a position that had been passed already."""
    before = make_channel()
    claimed = applied(before, ContractReceiveClaim(NEXT, 20))
    back = applied(claimed, revert(before))
    assert (back.claimed, back.committed) == (10, 20)
    again = applied(back, ContractReceiveClaim(NEXT - 1, 20))
    assert again == replace(claimed, position=NEXT - 1)


def test_money_signed_for_stays_out_of_reach_while_its_claim_is_gone() -> None:
    """The claim may land again at any time, so an offset or forgiving must not take the same money."""
    back = applied(make_channel(claimed=20), revert(make_channel(claimed=0)))
    assert (back.claimed, back.committed, back.owed) == (0, 20, 50)
    for change in (ActionOffset(31), ActionForgive(31)):
        with pytest.raises(Contradiction):
            transition(back, change)
    assert applied(back, ActionOffset(30)).owed == 20


def test_a_channel_that_was_claimed_before_this_gateway_may_lose_that() -> None:
    """Taken up with 300 claimed; those blocks go: it still was charged for, and the claim may come again."""
    taken = open_channel(make_open(balance=400, claimed=300, position=NEXT, funded=True))
    back = applied(taken, revert(taken, claimed=0, position=9 * BLOCK))
    assert (back.charged, back.committed, back.claimed, back.owed) == (300, 300, 0, 300)
    assert channel_faults(back) == []
    paid = applied(back, make_reading(seq=1, register=17, ceiling=310))
    assert (paid.owed, paid.ceiling) == (310, 310)
    assert channel_faults(paid) == []


def test_a_channel_that_still_waits_for_its_deposit_goes_on_waiting() -> None:
    waiting = make_channel(phase=Phase.OPENING, balance=0, claimed=0, committed=0, charged=0)
    after = applied(waiting, revert(waiting, position=9 * BLOCK))
    assert after.phase is Phase.OPENING
    assert applied(after, ContractReceiveDeposit(NEXT, 500)).phase is Phase.OPEN


@pytest.mark.parametrize(
    ("phase", "closing", "after"),
    [
        (Phase.CLOSED, True, Phase.CLOSING),
        (Phase.CLOSED, False, Phase.CLOSED),
        (Phase.CLOSING, True, Phase.CLOSING),
        (Phase.CLOSING, False, Phase.CLOSING),
        (Phase.OPEN, True, Phase.OPEN),
    ],
)
def test_a_closing_whose_end_is_gone_goes_on(phase: Phase, closing: bool, after: Phase) -> None:
    before = make_channel(phase=phase, refunded=50)
    assert applied(before, revert(before, refunded=0, balance=1_050, closing=closing)).phase is after


def test_the_same_twice_is_the_very_same_channel() -> None:
    before = make_channel(phase=Phase.CLOSED)
    once = applied(before, revert(before, balance=900, closing=True))
    assert transition(once, revert(before, balance=900, closing=True)) is once
    assert transition(before, revert(before)) is before


def test_a_claim_above_all_that_was_signed_is_a_fault_here_too() -> None:
    with pytest.raises(Contradiction, match="21 claimed before the blocks taken back, with 20 signed"):
        transition(make_channel(), revert(make_channel(), claimed=21))
