"""Readings by tables: each refusal, the order of any two, and the bounds on both sides."""

from itertools import combinations
from typing import Any

import pytest
from msgspec.structs import replace

from channels.invariants import channel_faults
from channels.machine import (
    required_ceiling,
    transition,
)
from channels.readings import SEQ_AHEAD_MAX
from channels.refusals import Refusal
from channels.state import (
    Channel,
    Meter,
    Phase,
    ReceiveReading,
)
from channels.types import U64_MAX, U128_MAX
from tests.support.channels_build import (
    OFFER,
    OLD_SIGNATURE,
    OTHER_DEVICE,
    SIGNATURE,
    applied,
    make_channel,
    make_meter,
    make_reading,
    make_terms,
)

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


# A channel that was claimed up to 300 before it was taken up here, at register 100. A reading of 140 costs 40.
PAST: list[tuple[str, dict[str, Any], int | Refusal, int]] = [
    ("the whole price is covered", {"ceiling": 340}, 340, 340),
    ("and some ahead", {"ceiling": 360}, 340, 360),
    ("but too far", {"ceiling": 361}, Refusal.CEILING_TOO_FAR, 0),
    ("one less than the price: some of it may be ahead", {"ceiling": 339}, 319, 339),
    ("as far ahead as may be", {"ceiling": 321}, 301, 321),
    ("nothing is proved", {"ceiling": 320}, 300, 320),
    ("what is claimed and no more", {"ceiling": 300}, 300, 300),
    ("less than what is claimed", {"ceiling": 299}, Refusal.CEILING_TOO_LOW, 0),
    ("more than one reading may add", {"register": 151, "ceiling": 339}, Refusal.REGISTER_JUMP, 0),
    ("from before", {"register": 99, "ceiling": 339}, Refusal.REGISTER_LOWER, 0),
]


@pytest.mark.parametrize(("reading", "charged", "ceiling"), [row[1:] for row in PAST], ids=[row[0] for row in PAST])
def test_the_first_reading_of_a_channel_with_a_past(
    reading: dict[str, Any], charged: int | Refusal, ceiling: int
) -> None:
    """The register of `open` may be from before what was claimed: no more is charged than the ceiling proves."""
    meter = make_meter(seq=0, register=100)
    fields = {"charged": 300, "committed": 300, "claimed": 300, "ceiling": 0, "ceiling_signature": b""}
    taken = make_channel(meter=meter, **fields)
    first = make_reading(**{"seq": 1, "register": 140} | reading)
    after = transition(taken, first)
    if isinstance(charged, Refusal):
        assert after is charged
        if charged is Refusal.CEILING_TOO_LOW:
            assert required_ceiling(taken, first) == 300
        return
    assert isinstance(after, Channel)
    assert required_ceiling(taken, first) == after.owed == charged
    assert (after.ceiling, after.meter) == (ceiling, Meter(1, 140, 0, OFFER, 3))
    assert channel_faults(after) == []
    # From then on it is a channel like any other.
    assert transition(after, make_reading(seq=2, register=150, ceiling=charged + 9)) is Refusal.CEILING_TOO_LOW
    assert applied(after, make_reading(seq=2, register=150, ceiling=charged + 10)).charged == charged + 10


def test_a_first_reading_of_a_channel_without_a_past_is_charged_whole() -> None:
    taken = make_channel(meter=make_meter(seq=0, register=100), charged=0, committed=0, claimed=0)
    assert transition(taken, make_reading(seq=1, ceiling=9)) is Refusal.CEILING_TOO_LOW
    assert applied(taken, make_reading(seq=1, ceiling=10)).charged == 10


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
