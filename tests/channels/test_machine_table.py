"""The channel state machine by tables: refusals in check order, every cell of the transition table, faults."""

from itertools import combinations
from typing import Any

import pytest
from msgspec.structs import replace

from channels.invariants import channel_faults
from channels.machine import (
    TRANSITIONS,
    Contradiction,
    open_channel,
    reopen,
    required_ceiling,
    transition,
)
from channels.readings import SEQ_AHEAD_MAX
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
    ContractReceiveRefund,
    ContractReceiveWithdrawFinalized,
    ContractReceiveWithdrawInitiated,
    Meter,
    Phase,
    ReceiveReading,
)
from channels.types import U64_MAX, U128_MAX
from tests.support.channels_build import (
    BLOCK,
    OFFER,
    OLD_SIGNATURE,
    OTHER_DEVICE,
    SERVICE,
    SIGNATURE,
    applied,
    make_channel,
    make_meter,
    make_open,
    make_reading,
    make_terms,
)

NEXT = 11 * BLOCK  # the position of the next chain event of make_channel()

# ------------------------------------------------------------------ refusals of a reading, in check order

# reason -> what to change in the channel, in the reading and in its terms so that exactly this rule breaks
BREAKS: dict[Refusal, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    Refusal.WRONG_DEVICE: ({}, {"device": OTHER_DEVICE}, {}),
    Refusal.BAD_SIGNATURE: ({}, {"signed": False}, {}),
    Refusal.SEQ_CONFLICT: ({}, {"repeats_seq": True}, {}),
    Refusal.SEQ_OLD: ({}, {"seq": 4}, {}),
    Refusal.SEQ_JUMP: ({}, {"seq": 5 + SEQ_AHEAD_MAX + 1}, {}),
    Refusal.NOT_OPEN: ({"phase": Phase.CLOSING}, {}, {}),
    Refusal.OFFER_UNKNOWN: ({}, {"terms": None}, {}),
    Refusal.OFFER_EXPIRED: ({}, {}, {"expired": True}),
    Refusal.OFFER_REGRESSED: ({}, {}, {"serial": 2}),
    Refusal.REGISTER_LOWER: ({}, {"register": 99}, {}),
    Refusal.REGISTER_JUMP: ({}, {"register": 151, "ceiling": 101}, {}),
    Refusal.OVERFLOW: ({"charged": U128_MAX - 9, "offset": U128_MAX - 59}, {}, {}),
    Refusal.CEILING_TOO_LOW: ({}, {"ceiling": 59}, {}),
    Refusal.CEILING_ABOVE_BALANCE: ({"balance": 58}, {}, {}),
    Refusal.CEILING_TOO_FAR: ({}, {"ceiling": 81}, {}),
    Refusal.CHAIN_STALE: ({}, {"chain_stale": True}, {}),
}
# Pairs that one reading cannot break together: they are about one field in opposite directions.
EXCLUSIVE = {
    (Refusal.SEQ_OLD, Refusal.SEQ_JUMP),
    (Refusal.OFFER_UNKNOWN, Refusal.OFFER_EXPIRED),
    (Refusal.OFFER_UNKNOWN, Refusal.OFFER_REGRESSED),
    (Refusal.REGISTER_LOWER, Refusal.REGISTER_JUMP),
    (Refusal.REGISTER_LOWER, Refusal.OVERFLOW),
    (Refusal.REGISTER_JUMP, Refusal.CEILING_TOO_LOW),
    (Refusal.REGISTER_JUMP, Refusal.CEILING_TOO_FAR),
    (Refusal.CEILING_TOO_LOW, Refusal.CEILING_TOO_FAR),
}
PAIRS = [pair for pair in combinations(BREAKS, 2) if pair not in EXCLUSIVE]


def broken(*reasons: Refusal) -> tuple[Channel, ReceiveReading]:
    """A channel and a reading that break these rules and no other."""
    of_channel: dict[str, Any] = {}
    of_reading: dict[str, Any] = {}
    of_terms: dict[str, Any] = {}
    for reason in reasons:
        channel, reading, terms = BREAKS[reason]
        of_channel |= channel
        of_reading |= reading
        of_terms |= terms
    return make_channel(**of_channel), make_reading(**({"terms": make_terms(**of_terms)} | of_reading))


def test_the_unbroken_reading_is_accepted() -> None:
    before = make_channel()
    after = applied(before, make_reading())
    assert after == replace(
        before,
        meter=Meter(6, 110, 0, OFFER, 3),
        charged=60,
        ceiling=60,
        ceiling_signature=SIGNATURE,
    )
    assert channel_faults(after) == []


def test_the_table_has_all_reasons_that_the_machine_can_give_to_a_reading() -> None:
    assert list(BREAKS) == [Refusal(number) for number in range(4, 20)]


@pytest.mark.parametrize("reason", BREAKS, ids=lambda reason: reason.wire_name)
def test_each_rule_names_its_refusal(reason: Refusal) -> None:
    channel, reading = broken(reason)
    assert transition(channel, reading) is reason


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].wire_name}-{pair[1].wire_name}")
def test_the_earlier_of_two_broken_rules_names_the_refusal(pair: tuple[Refusal, Refusal]) -> None:
    channel, reading = broken(*pair)
    assert transition(channel, reading) is min(pair)


@pytest.mark.parametrize("phase", [Phase.OPENING, Phase.CLOSING, Phase.CLOSED], ids=lambda phase: phase.name)
@pytest.mark.parametrize("reason", BREAKS, ids=lambda reason: reason.wire_name)
def test_a_channel_that_is_not_open_checks_sender_and_sequence_first(phase: Phase, reason: Refusal) -> None:
    channel, reading = broken(reason)
    assert transition(replace(channel, phase=phase), reading) is min(reason, Refusal.NOT_OPEN)


# ------------------------------------------------------------------ bounds: the last accepted, the first refused

BOUNDS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], Refusal | None]] = [
    ("the same seq as the last", {}, {"seq": 5}, {}, Refusal.SEQ_CONFLICT),
    ("seq 0", {}, {"seq": 0}, {}, Refusal.SEQ_OLD),
    ("the longest gap of seq", {}, {"seq": 5 + SEQ_AHEAD_MAX}, {}, None),
    ("the same register", {}, {"register": 100, "ceiling": 50}, {}, None),
    ("the largest step", {}, {"register": 150, "ceiling": 100}, {}, None),
    ("the same offer serial", {}, {}, {"serial": 3}, None),
    ("a later offer serial", {}, {}, {"serial": 4}, None),
    ("the whole of u128", {"charged": U128_MAX - 10, "offset": U128_MAX - 60}, {}, {}, None),
    ("one above the tight ceiling", {}, {"ceiling": 61}, {}, None),
    ("one below the tight ceiling", {}, {"ceiling": 59}, {}, Refusal.CEILING_TOO_LOW),
    ("the furthest ceiling", {}, {"ceiling": 80}, {}, None),
    ("one further", {}, {"ceiling": 81}, {}, Refusal.CEILING_TOO_FAR),
    ("the whole balance", {"balance": 60}, {}, {}, None),
    ("one above the balance", {"balance": 59}, {}, {}, Refusal.CEILING_ABOVE_BALANCE),
    ("what a withdrawal leaves", {"phase": Phase.WITHDRAWING, "withdrawing": 940}, {}, {}, None),
    (
        "one above what a withdrawal leaves",
        {"phase": Phase.WITHDRAWING, "withdrawing": 941},
        {},
        {},
        Refusal.CEILING_ABOVE_BALANCE,
    ),
    (
        "a withdrawal that can take nothing any more",
        {"phase": Phase.WITHDRAWING, "withdrawing": 1_000, "claimed": 60, "committed": 60, "charged": 60},
        {"register": 100},
        {},
        None,
    ),
    ("less owed after an offset", {"offset": 30}, {"ceiling": 30}, {}, None),
    ("less owed after forgiving", {"forgiven": 30}, {"ceiling": 30}, {}, None),
]


@pytest.mark.parametrize(
    ("fields", "reading", "terms", "refusal"), [row[1:] for row in BOUNDS], ids=[row[0] for row in BOUNDS]
)
def test_bounds(
    fields: dict[str, Any], reading: dict[str, Any], terms: dict[str, Any], refusal: Refusal | None
) -> None:
    after = transition(make_channel(**fields), make_reading(terms=make_terms(**terms), **reading))
    if refusal is None:
        assert isinstance(after, Channel)
        assert after.meter.seq == reading.get("seq", 6)
    else:
        assert after is refusal


def test_a_first_reading_may_not_have_seq_0() -> None:
    channel = make_channel(meter=make_meter(seq=0))
    assert transition(channel, make_reading(seq=0)) is Refusal.SEQ_OLD
    assert applied(channel, make_reading(seq=1)).meter.seq == 1
    assert applied(channel, make_reading(seq=SEQ_AHEAD_MAX)).meter.seq == SEQ_AHEAD_MAX


def test_no_seq_above_u64() -> None:
    channel = make_channel(meter=make_meter(seq=U64_MAX - 1))
    assert applied(channel, make_reading(seq=U64_MAX)).meter.seq == U64_MAX
    assert transition(channel, make_reading(seq=U64_MAX + 1)) is Refusal.SEQ_JUMP


def test_a_lower_ceiling_than_the_one_held_charges_and_keeps_what_is_held() -> None:
    before = make_channel(ceiling=75)
    after = applied(before, make_reading(ceiling=70))
    assert (after.charged, after.ceiling, after.ceiling_signature) == (60, 75, OLD_SIGNATURE)
    equal = applied(before, make_reading(ceiling=75))
    assert (equal.ceiling, equal.ceiling_signature) == (75, OLD_SIGNATURE)


def test_the_remainder_carries_into_the_next_reading_and_over_a_change_of_price() -> None:
    channel = make_channel()
    half, third = make_terms(price=500_000_000), make_terms(price=333_333_333, serial=4)
    channel = applied(channel, make_reading(seq=6, register=101, ceiling=50, terms=half))
    assert (channel.charged, channel.meter.remainder) == (50, 500_000_000)
    channel = applied(channel, make_reading(seq=7, register=102, ceiling=50, terms=third))
    assert (channel.charged, channel.meter.remainder) == (50, 833_333_333)
    assert transition(channel, make_reading(seq=8, register=103, ceiling=50, terms=third)) is (Refusal.CEILING_TOO_LOW)
    channel = applied(channel, make_reading(seq=8, register=103, ceiling=51, terms=third))
    assert (channel.charged, channel.meter.remainder) == (51, 166_666_666)


def test_the_meter_keeps_the_offer_that_the_reading_was_priced_under() -> None:
    other = bytes.fromhex("0e" * 16)
    after = applied(make_channel(), make_reading(offer=other, terms=make_terms(offer=other, serial=9)))
    assert (after.meter.offer, after.meter.offer_serial) == (other, 9)


@pytest.mark.parametrize(
    ("fields", "reading", "expected"),
    [
        ({}, {}, 60),
        ({"offset": 10, "forgiven": 5}, {}, 45),
        ({}, {"ceiling": 0}, 60),
        ({}, {"register": 100}, 50),
        ({}, {"terms": None}, 0),
        ({}, {"register": 99}, 0),
    ],
)
def test_the_required_ceiling_is_what_is_owed_after_the_reading(
    fields: dict[str, Any], reading: dict[str, Any], expected: int
) -> None:
    assert required_ceiling(make_channel(**fields), make_reading(**reading)) == expected


# ------------------------------------------------------------------ the table of transitions

PHASES = list(Phase)
CHAIN: list[type] = [
    ContractReceiveDeposit,
    ContractReceiveClaim,
    ContractReceiveWithdrawInitiated,
    ContractReceiveWithdrawFinalized,
    ContractReceiveRefund,
]
MONEY: list[type] = [ActionOffset, ActionSignClaim, ActionForgive]
CHANGES: list[type] = [ReceiveReading, ActionClose, ActionClosed, *MONEY, *CHAIN]

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
INITIATED = {"withdrawing": 300, "position": NEXT}
FINALIZED = {"balance": 900, "withdrawn": 100, "withdrawing": 0, "position": NEXT}
REFUNDED = {"balance": 950, "refunded": 50, "position": NEXT}

CELLS: dict[tuple[Phase, type], tuple[Change, dict[str, Any] | Refusal]] = {
    (N, ReceiveReading): (make_reading(), Refusal.NOT_OPEN),
    (P, ReceiveReading): (make_reading(), TAKEN),
    (W, ReceiveReading): (make_reading(), TAKEN),
    (C, ReceiveReading): (make_reading(), Refusal.NOT_OPEN),
    (D, ReceiveReading): (make_reading(), Refusal.NOT_OPEN),
    (N, ActionClose): (ActionClose(), {"phase": C}),
    (P, ActionClose): (ActionClose(), {"phase": C}),
    (W, ActionClose): (ActionClose(), {"phase": C}),
    (C, ActionClose): (ActionClose(), {}),
    (C, ActionClosed): (ActionClosed(), {"phase": D}),
    (D, ActionClosed): (ActionClosed(), {}),
    **{(phase, ActionOffset): (ActionOffset(30), {"offset": 30}) for phase in (P, W, C)},
    **{(phase, ActionSignClaim): (ActionSignClaim(50), {"committed": 50}) for phase in (P, W, C)},
    **{(phase, ActionForgive): (ActionForgive(30), {"forgiven": 30}) for phase in (P, W, C)},
    **{(phase, ContractReceiveDeposit): (ContractReceiveDeposit(NEXT, 1_500), DEPOSITED) for phase in (P, W, C, D)},
    (N, ContractReceiveDeposit): (ContractReceiveDeposit(NEXT, 1_500), DEPOSITED | {"phase": P}),
    **{(phase, ContractReceiveClaim): (ContractReceiveClaim(NEXT, 20), CLAIMED) for phase in PHASES},
    **{
        (phase, ContractReceiveWithdrawInitiated): (ContractReceiveWithdrawInitiated(NEXT, 300), INITIATED)
        for phase in (N, C, D)
    },
    (P, ContractReceiveWithdrawInitiated): (
        ContractReceiveWithdrawInitiated(NEXT, 300),
        INITIATED | {"phase": W},
    ),
    (W, ContractReceiveWithdrawInitiated): (ContractReceiveWithdrawInitiated(NEXT, 300), INITIATED),
    **{
        (phase, ContractReceiveWithdrawFinalized): (ContractReceiveWithdrawFinalized(NEXT, 100), FINALIZED)
        for phase in (N, P, C, D)
    },
    (W, ContractReceiveWithdrawFinalized): (
        ContractReceiveWithdrawFinalized(NEXT, 100),
        FINALIZED | {"phase": P},
    ),
    **{(phase, ContractReceiveRefund): (ContractReceiveRefund(NEXT, 50), REFUNDED) for phase in (N, P, C, D)},
    (W, ContractReceiveRefund): (
        ContractReceiveRefund(NEXT, 990),
        {"phase": P, "balance": 10, "refunded": 990, "withdrawing": 0, "position": NEXT},
    ),
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
        ("OPENING", "ActionClosed"),
        ("OPENING", "ActionOffset"),
        ("OPENING", "ActionSignClaim"),
        ("OPENING", "ActionForgive"),
        ("OPEN", "ActionClosed"),
        ("WITHDRAWING", "ActionClosed"),
        ("CLOSED", "ActionClose"),
        ("CLOSED", "ActionOffset"),
        ("CLOSED", "ActionSignClaim"),
        ("CLOSED", "ActionForgive"),
    }


# ------------------------------------------------------------------ rules of single changes


def test_a_deposit_under_a_pending_withdrawal_opens_the_channel_as_withdrawing() -> None:
    before = make_channel(phase=Phase.OPENING, withdrawing=40)
    assert applied(before, ContractReceiveDeposit(NEXT, 1_001)).phase is Phase.WITHDRAWING


def test_a_withdrawal_that_ends_with_nothing_opens_the_channel_again() -> None:
    before = make_channel(phase=Phase.WITHDRAWING, withdrawing=90, balance=50, claimed=50, committed=50)
    after = applied(before, ContractReceiveWithdrawFinalized(NEXT, 0))
    assert (after.phase, after.balance, after.withdrawing, after.withdrawn) == (Phase.OPEN, 50, 0, 0)


def test_the_usable_balance_is_what_stays_should_the_withdrawal_end_now() -> None:
    assert make_channel().usable_balance == 1_000
    assert make_channel(phase=Phase.WITHDRAWING, withdrawing=200).usable_balance == 800
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


@pytest.mark.parametrize("phase", [P, W, C], ids=lambda phase: phase.name)
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


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell[1] is not ReceiveReading], ids=cell_id)
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
    change = make_open(balance=400, claimed=300, withdrawing=withdrawing, position=9, funded=funded)
    channel = open_channel(change)
    assert channel.phase is phase
    assert (channel.charged, channel.claimed, channel.committed, channel.owed) == (300, 300, 300, 300)
    assert (channel.unclaimed, channel.balance, channel.deposited) == (0, 400, 400)
    assert (channel.withdrawing, channel.position, channel.lane) == (withdrawing, 9, 1)
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
