"""The channel state machine by tables: every cell of the transition table, replays, faults, opening."""

from typing import Any

import pytest
from msgspec.structs import replace

from channels.invariants import channel_faults
from channels.machine import (
    TRANSITIONS,
    Contradiction,
    open_channel,
    reopen,
    transition,
)
from channels.refusals import Refusal
from channels.state import (
    Account,
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
    Meter,
    Phase,
    ReceiveClose,
    ReceiveReading,
)
from tests.support.channels_build import (
    BLOCK,
    OFFER,
    OTHER_DEVICE,
    SERVICE,
    SIGNATURE,
    applied,
    make_channel,
    make_close,
    make_meter,
    make_open,
    make_reading,
)

NEXT = 11 * BLOCK  # the position of the next chain event of make_channel()

# ------------------------------------------------------------------ the table of transitions

PHASES = list(Phase)
CHAIN: list[type] = [
    ContractReceiveDeposit,
    ContractReceiveClaim,
    ContractReceiveWithdrawInitiated,
    ContractReceiveWithdrawFinalized,
    ContractReceiveRefund,
    ContractReceiveForeseen,
    ContractReceiveReverted,
]
MESSAGES = (ReceiveReading, ReceiveClose)  # they use up a seq, so the same one again is refused
MONEY: list[type] = [ActionOffset, ActionSignClaim, ActionForgive]
CHANGES: list[type] = [ReceiveReading, ReceiveClose, ActionClose, ActionClosed, *MONEY, *CHAIN]

# (phase, change) -> the fields that it changes; a pair that is missing here is missing in the machine
N, P, W, C, D = Phase.OPENING, Phase.OPEN, Phase.WITHDRAWING, Phase.CLOSING, Phase.CLOSED
TAKEN = {
    "meter": Meter(6, 110, 0, OFFER, 3),
    "charged": 60,
    "ceiling": 60,
    "ceiling_signature": SIGNATURE,
}
DEPOSITED = {"balance": 1_500, "position": NEXT}
CLAIMED = {"claimed": 20, "position": NEXT}
INITIATED = {"withdrawing": 300, "withdraw_after": 77, "position": NEXT}
FINALIZED = {"balance": 900, "withdrawn": 100, "withdrawing": 0, "position": NEXT}
REFUNDED = {"balance": 950, "refunded": 50, "position": NEXT}
REVERT = ContractReceiveReverted(800, 5, 300, 2, 1, 9 * BLOCK, 66)
REVERTED = {
    "balance": 800, "claimed": 5, "withdrawing": 300, "withdrawn": 2, "refunded": 1, "position": 9 * BLOCK,
    "withdraw_after": 66,
}  # fmt: skip

CELLS: dict[tuple[Phase, type], tuple[Change, dict[str, Any] | Refusal]] = {
    (N, ReceiveReading): (make_reading(), Refusal.NOT_OPEN),
    (P, ReceiveReading): (make_reading(), TAKEN),
    (W, ReceiveReading): (make_reading(), TAKEN),
    (C, ReceiveReading): (make_reading(), Refusal.NOT_OPEN),
    (D, ReceiveReading): (make_reading(), Refusal.NOT_OPEN),
    (N, ReceiveClose): (make_close(), Refusal.NOT_OPEN),
    **{(phase, ReceiveClose): (make_close(), {"phase": C, "meter": make_meter(seq=6)}) for phase in (P, W, C)},
    (D, ReceiveClose): (make_close(), Refusal.NOT_OPEN),
    (P, ActionClose): (ActionClose(), {"phase": C}),
    (W, ActionClose): (ActionClose(), {"phase": C}),
    (C, ActionClose): (ActionClose(), {}),
    (C, ActionClosed): (ActionClosed(), {"phase": D}),
    (D, ActionClosed): (ActionClosed(), {}),
    **{(phase, ActionOffset): (ActionOffset(30), {"offset": 30}) for phase in PHASES},
    **{(phase, ActionSignClaim): (ActionSignClaim(50), {"committed": 50}) for phase in PHASES},
    **{(phase, ActionForgive): (ActionForgive(30), {"forgiven": 30}) for phase in PHASES},
    **{(phase, ContractReceiveDeposit): (ContractReceiveDeposit(NEXT, 1_500), DEPOSITED) for phase in (P, W, C, D)},
    (N, ContractReceiveDeposit): (ContractReceiveDeposit(NEXT, 1_500), DEPOSITED | {"phase": P}),
    **{(phase, ContractReceiveClaim): (ContractReceiveClaim(NEXT, 20), CLAIMED) for phase in PHASES},
    **{
        (phase, ContractReceiveWithdrawInitiated): (ContractReceiveWithdrawInitiated(NEXT, 300, 77), INITIATED)
        for phase in (N, C, D)
    },
    (P, ContractReceiveWithdrawInitiated): (
        ContractReceiveWithdrawInitiated(NEXT, 300, 77),
        INITIATED | {"phase": W},
    ),
    (W, ContractReceiveWithdrawInitiated): (ContractReceiveWithdrawInitiated(NEXT, 300, 77), INITIATED),
    **{
        (phase, ContractReceiveWithdrawFinalized): (ContractReceiveWithdrawFinalized(NEXT, 100), FINALIZED)
        for phase in (N, P, C, D)
    },
    (W, ContractReceiveWithdrawFinalized): (
        ContractReceiveWithdrawFinalized(NEXT, 100),
        FINALIZED | {"phase": P},
    ),
    **{(phase, ContractReceiveRefund): (ContractReceiveRefund(NEXT, 50), REFUNDED) for phase in (N, P, C, D)},
    **{
        (phase, ContractReceiveForeseen): (ContractReceiveForeseen(400, 88), {"foreseen": 400, "foreseen_after": 88})
        for phase in PHASES
    },
    **{(phase, ContractReceiveReverted): (REVERT, REVERTED) for phase in (N, W, C, D)},
    (P, ContractReceiveReverted): (REVERT, REVERTED | {"phase": W}),
    # a refund comes out of the pending withdrawal
    (W, ContractReceiveRefund): (ContractReceiveRefund(NEXT, 50), REFUNDED | {"withdrawing": 150}),
}


def cell_id(cell: tuple[Phase, type]) -> str:
    return f"{cell[0].name}-{cell[1].__name__}"


def before_in(phase: Phase) -> Channel:
    return make_channel(phase=phase)


def test_the_machine_has_exactly_the_cells_of_this_table() -> None:
    assert set(TRANSITIONS) == set(CELLS)
    assert {change for _, change in TRANSITIONS} == set(CHANGES)


@pytest.mark.parametrize("cell", CELLS, ids=cell_id)
def test_each_cell(cell: tuple[Phase, type]) -> None:
    change, expected = CELLS[cell]
    before = before_in(cell[0])
    after = transition(before, change)
    assert before == before_in(cell[0])
    if isinstance(expected, Refusal):
        assert after is expected
    elif expected:
        assert after == replace(before, **expected)
        assert after != before
    else:
        assert after is before
    if isinstance(after, Channel):
        assert channel_faults(after) == []


EXAMPLES: dict[type, Change] = {change: CELLS[(P, change)][0] for change in CHANGES if (P, change) in CELLS}
EXAMPLES[ActionClosed] = ActionClosed()
ABSENT = [(phase, change) for phase in PHASES for change in CHANGES if (phase, change) not in CELLS]


@pytest.mark.parametrize("cell", ABSENT, ids=cell_id)
def test_every_pair_that_is_not_in_the_table_is_refused(cell: tuple[Phase, type]) -> None:
    assert transition(before_in(cell[0]), EXAMPLES[cell[1]]) is Refusal.NOT_OPEN


def test_the_absent_pairs_are_these() -> None:
    assert len(CELLS) + len(ABSENT) == len(PHASES) * len(CHANGES)
    assert {(phase.name, change.__name__) for phase, change in ABSENT} == {
        ("OPENING", "ActionClose"),
        ("OPENING", "ActionClosed"),
        ("OPEN", "ActionClosed"),
        ("WITHDRAWING", "ActionClosed"),
        ("CLOSED", "ActionClose"),
    }


# ------------------------------------------------------------------ rules of single changes


def test_a_deposit_under_a_pending_withdrawal_opens_the_channel_as_withdrawing() -> None:
    before = make_channel(phase=Phase.OPENING, withdrawing=40)
    assert applied(before, ContractReceiveDeposit(NEXT, 1_001)).phase is Phase.WITHDRAWING


def test_a_withdrawal_that_ends_with_nothing_opens_the_channel_again() -> None:
    before = make_channel(phase=Phase.WITHDRAWING, withdrawing=90, balance=50, claimed=50, committed=50)
    after = applied(before, ContractReceiveWithdrawFinalized(NEXT, 0))
    assert (after.phase, after.balance, after.withdrawing, after.withdrawn) == (Phase.OPEN, 50, 0, 0)


@pytest.mark.parametrize(("amount", "left", "phase"), [(199, 1, W), (200, 0, P), (990, 0, P)])
def test_a_refund_reduces_or_clears_a_pending_withdrawal(amount: int, left: int, phase: Phase) -> None:
    after = applied(make_channel(phase=Phase.WITHDRAWING), ContractReceiveRefund(NEXT, amount))
    assert (after.withdrawing, after.phase, after.balance) == (left, phase, 1_000 - amount)


def test_a_refund_leaves_the_rest_of_a_withdrawal_armed_even_above_what_is_unclaimed() -> None:
    """990 asked for, 900 claimed since: a refund of 5 leaves 985 armed, which reaches into a later deposit."""
    before = make_channel(
        phase=Phase.WITHDRAWING, withdrawing=990, claimed=900, committed=900, charged=900, ceiling=900
    )
    refunded = applied(before, ContractReceiveRefund(NEXT, 5))
    assert (refunded.balance, refunded.withdrawing, refunded.usable_balance) == (995, 985, 900)
    topped_up = applied(refunded, ContractReceiveDeposit(NEXT + 1, 1_995))
    assert topped_up.usable_balance == 1_995 - 985


def test_the_usable_balance_is_what_stays_should_the_withdrawal_end_now() -> None:
    assert make_channel().usable_balance == 1_000
    assert make_channel(phase=Phase.WITHDRAWING, withdrawing=200).usable_balance == 800
    assert make_channel(withdrawing=200, foreseen=300).usable_balance == 700
    assert make_channel(withdrawing=995, claimed=20).usable_balance == 20


def test_the_numbers_of_the_phases_are_in_journals() -> None:
    assert [(phase.name, int(phase)) for phase in Phase] == [
        ("OPENING", 1),
        ("OPEN", 2),
        ("WITHDRAWING", 3),
        ("CLOSING", 4),
        ("CLOSED", 5),
    ]


def test_a_bare_channel_and_a_bare_account_hold_nothing() -> None:
    bare = make_open()
    channel = Channel(bare.id, bare.config, bare.device, bare.service, 0, Phase.OPENING, make_meter())
    account = Account(bytes(32), bare.device, bare.service, bytes(20), bytes(20), make_meter())
    for thing in (channel, account):
        names = thing.__struct_fields__[-len(thing.__struct_defaults__) :]
        assert {name: getattr(thing, name) for name in names if getattr(thing, name)} == {}


def test_derived_figures() -> None:
    channel = make_channel(offset=7, forgiven=5, withdrawn=30, refunded=4)
    assert (channel.owed, channel.unclaimed, channel.deposited) == (38, 28, 1_034)
    assert channel.units == 70
    assert applied(channel, make_reading(ceiling=48)).units == 80


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_offsets_and_forgiveness_share_what_no_claim_was_signed_for(phase: Phase) -> None:
    channel = applied(make_channel(phase=phase), ActionOffset(10))
    channel = applied(channel, ActionForgive(20))
    assert (channel.owed, channel.committed) == (20, 20)
    for change in (ActionOffset(11), ActionForgive(21), ActionSignClaim(21)):
        with pytest.raises(Contradiction):
            transition(channel, change)


def test_a_claim_is_signed_up_to_what_is_owed_and_held() -> None:
    assert applied(make_channel(), ActionSignClaim(50)).committed == 50
    with pytest.raises(Contradiction):
        transition(make_channel(), ActionSignClaim(51))
    with pytest.raises(Contradiction):
        transition(make_channel(ceiling=40), ActionSignClaim(41))


# ------------------------------------------------------------------ replays

REPLAYS: list[tuple[str, dict[str, Any], Change]] = [
    *(
        (f"{change.__name__} at {where}", {}, change(position, 700))
        for change in (
            ContractReceiveDeposit,
            ContractReceiveClaim,
            ContractReceiveWithdrawInitiated,
            ContractReceiveWithdrawFinalized,
            ContractReceiveRefund,
        )
        for where, position in (("the last position", 10 * BLOCK), ("an earlier one", 3 * BLOCK + 9))
    ),
    ("the same offset", {"offset": 9}, ActionOffset(9)),
    ("a lower offset", {"offset": 9}, ActionOffset(8)),
    ("no offset", {}, ActionOffset(0)),
    ("the same claim", {}, ActionSignClaim(20)),
    ("a lower claim", {}, ActionSignClaim(19)),
    ("the same forgiveness", {"forgiven": 9}, ActionForgive(9)),
    ("less forgiveness", {"forgiven": 9}, ActionForgive(1)),
]


@pytest.mark.parametrize(("fields", "change"), [row[1:] for row in REPLAYS], ids=[row[0] for row in REPLAYS])
def test_a_replay_returns_the_very_same_channel(fields: dict[str, Any], change: Change) -> None:
    for phase in PHASES:
        if (phase, type(change)) in CELLS:
            before = make_channel(phase=phase, **fields)
            assert transition(before, change) is before


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell[1] not in MESSAGES], ids=cell_id)
def test_every_change_is_a_no_op_the_second_time(cell: tuple[Phase, type]) -> None:
    change, _ = CELLS[cell]
    once = applied(before_in(cell[0]), change)
    if cell[1] is ActionClosed or (once.phase, cell[1]) in CELLS:
        assert transition(once, change) is once


def test_the_very_first_reading_again_is_a_conflict() -> None:
    first = make_reading(seq=1)
    once = applied(make_channel(meter=make_meter(seq=0)), first)
    assert transition(once, first) is Refusal.SEQ_CONFLICT


def test_a_reading_never_counts_twice() -> None:
    """The caller answers an equal one from its store; the machine refuses it all the same."""
    reading = make_reading()
    once = applied(make_channel(), reading)
    assert transition(once, reading) is Refusal.SEQ_CONFLICT
    twice = applied(once, make_reading(seq=7, register=111, ceiling=61))
    assert transition(twice, reading) is Refusal.SEQ_OLD
    assert transition(twice, replace(reading, repeats_seq=True)) is Refusal.SEQ_CONFLICT


# ------------------------------------------------------------------ contradictions

CONTRADICTIONS: list[tuple[str, dict[str, Any], Change]] = [
    ("a deposit that adds nothing", {}, ContractReceiveDeposit(NEXT, 1_000)),
    ("a deposit that lowers the balance", {}, ContractReceiveDeposit(NEXT, 999)),
    ("a claim above all that was signed", {}, ContractReceiveClaim(NEXT, 21)),
    ("a claim that adds nothing", {}, ContractReceiveClaim(NEXT, 10)),
    ("a claim that falls", {}, ContractReceiveClaim(NEXT, 9)),
    ("a withdrawal of claimed money", {}, ContractReceiveWithdrawInitiated(NEXT, 991)),
    ("a payout of claimed money", {}, ContractReceiveWithdrawFinalized(NEXT, 991)),
    ("a refund of claimed money", {}, ContractReceiveRefund(NEXT, 991)),
    ("an offset of money signed for", {}, ActionOffset(31)),
    ("an offset of more than is owed", {"committed": 10}, ActionOffset(51)),
    ("forgiving money signed for", {}, ActionForgive(31)),
    ("a claim of more than is owed", {}, ActionSignClaim(51)),
    ("a claim of more than is held", {"ceiling": 49}, ActionSignClaim(50)),
]


@pytest.mark.parametrize(
    ("fields", "change"), [row[1:] for row in CONTRADICTIONS], ids=[row[0] for row in CONTRADICTIONS]
)
def test_a_contradiction_stops(fields: dict[str, Any], change: Change) -> None:
    for phase in PHASES:
        if (phase, type(change)) in CELLS:
            with pytest.raises(Contradiction):
                transition(make_channel(phase=phase, **fields), change)


def test_the_largest_changes_that_are_no_contradiction() -> None:
    channel = make_channel()
    assert applied(channel, ContractReceiveWithdrawInitiated(NEXT, 990)).withdrawing == 990
    assert applied(channel, ContractReceiveWithdrawFinalized(NEXT, 990)).balance == 10
    assert applied(channel, ContractReceiveRefund(NEXT, 990)).balance == 10
    assert applied(channel, ActionOffset(30)).owed == 20
    assert applied(channel, ActionForgive(30)).owed == 20


# ------------------------------------------------------------------ opening and opening again


@pytest.mark.parametrize(
    ("funded", "withdrawing", "phase"),
    [(False, 0, N), (False, 5, N), (True, 0, P), (True, 5, W)],
)
def test_an_unknown_channel_with_history_starts_at_what_was_claimed(
    funded: bool, withdrawing: int, phase: Phase
) -> None:
    ends = 55 if withdrawing else 0
    change = make_open(
        balance=400, claimed=300, withdrawing=withdrawing, position=9, funded=funded, withdraw_after=ends
    )
    channel = open_channel(change)
    assert channel.phase is phase
    assert (channel.charged, channel.claimed, channel.committed, channel.owed) == (300, 300, 300, 300)
    assert (channel.unclaimed, channel.balance, channel.deposited) == (0, 400, 400)
    assert (channel.withdrawing, channel.position, channel.lane) == (withdrawing, 9, 1)
    assert channel.finalize_after == ends
    assert channel.meter == Meter(0, 7, 0, OFFER, 3)
    assert (channel.first_register, channel.units) == (7, 0)
    assert (channel.ceiling, channel.ceiling_signature) == (0, b"")
    assert channel.proven
    assert channel_faults(channel) == []


def test_history_is_never_claimed_offset_or_forgiven_again() -> None:
    channel = open_channel(make_open(balance=400, claimed=300, funded=True))
    assert transition(channel, ActionSignClaim(300)) is channel
    for change in (ActionOffset(1), ActionForgive(1), ActionSignClaim(301)):
        with pytest.raises(Contradiction):
            transition(channel, change)
    paid = applied(channel, make_reading(seq=1, register=17, ceiling=310))
    assert (paid.charged, paid.unclaimed, paid.ceiling) == (310, 10, 310)


def test_a_new_channel_opens_with_its_deposit() -> None:
    channel = open_channel(make_open())
    assert (channel.phase, channel.balance) == (Phase.OPENING, 0)
    channel = applied(channel, ContractReceiveDeposit(2 * BLOCK, 500))
    assert (channel.phase, channel.balance, channel.deposited) == (Phase.OPEN, 500, 500)


@pytest.mark.parametrize(("funded", "withdrawing", "phase"), [(False, 0, N), (False, 3, N), (True, 0, P), (True, 3, W)])
def test_a_closed_channel_resumes_where_it_was(funded: bool, withdrawing: int, phase: Phase) -> None:
    closed = make_channel(
        phase=Phase.CLOSED,
        meter=make_meter(remainder=123),
        offset=4,
        forgiven=3,
        withdrawing=withdrawing,
        withdrawn=2,
        refunded=1,
        proven=False,
    )
    change = make_open(register=0, balance=1, claimed=0, position=1, funded=funded)
    assert reopen(closed, change) == replace(closed, phase=phase, proven=True)


@pytest.mark.parametrize("phase", [N, P, W, C], ids=lambda phase: phase.name)
def test_only_a_closed_channel_is_opened_again(phase: Phase) -> None:
    assert reopen(make_channel(phase=phase), make_open()) is Refusal.NOT_OPEN


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
@pytest.mark.parametrize("other", [{"device": OTHER_DEVICE}, {"service": "water"}])
def test_a_channel_stays_with_its_device_and_service(phase: Phase, other: dict[str, str]) -> None:
    assert reopen(make_channel(phase=phase), make_open(**other)) is Refusal.CHANNEL_TAKEN
    assert SERVICE != "water"
