"""A device's close by tables: each refusal, the order of any two, and the seq that it uses up."""

from itertools import combinations
from typing import Any

import pytest
from msgspec.structs import replace

from channels.invariants import channel_faults
from channels.machine import reopen, transition
from channels.readings import SEQ_AHEAD_MAX
from channels.refusals import Refusal
from channels.state import ActionClosed, Channel, Phase, ReceiveClose
from channels.types import U64_MAX
from tests.support.channels_build import (
    OTHER_DEVICE,
    applied,
    make_channel,
    make_close,
    make_meter,
    make_open,
    make_reading,
)

# reason -> what to change in the channel and in the close so that exactly this rule breaks, in check order
BREAKS: dict[Refusal, tuple[dict[str, Any], dict[str, Any]]] = {
    Refusal.WRONG_DEVICE: ({}, {"device": OTHER_DEVICE}),
    Refusal.BAD_SIGNATURE: ({}, {"signed": False}),
    Refusal.SEQ_CONFLICT: ({}, {"repeats_seq": True}),
    Refusal.SEQ_OLD: ({}, {"seq": 4}),
    Refusal.SEQ_JUMP: ({}, {"seq": 5 + SEQ_AHEAD_MAX + 1}),
    Refusal.NOT_OPEN: ({"phase": Phase.CLOSED}, {}),
}
PAIRS = [pair for pair in combinations(BREAKS, 2) if pair != (Refusal.SEQ_OLD, Refusal.SEQ_JUMP)]


def broken(*reasons: Refusal) -> tuple[Channel, ReceiveClose]:
    """A channel and a close that break these rules and no other."""
    of_channel: dict[str, Any] = {}
    of_close: dict[str, Any] = {}
    for reason in reasons:
        channel, close = BREAKS[reason]
        of_channel |= channel
        of_close |= close
    return make_channel(**of_channel), make_close(**of_close)


@pytest.mark.parametrize("phase", [Phase.OPEN, Phase.WITHDRAWING, Phase.CLOSING], ids=lambda phase: phase.name)
def test_an_unbroken_close_uses_up_its_seq_and_changes_no_money(phase: Phase) -> None:
    before = make_channel(phase=phase)
    after = applied(before, make_close(seq=9))
    assert after == replace(before, phase=Phase.CLOSING, meter=make_meter(seq=9))
    assert channel_faults(after) == []


@pytest.mark.parametrize("reason", BREAKS, ids=lambda reason: reason.wire_name)
def test_each_rule_names_its_refusal(reason: Refusal) -> None:
    channel, close = broken(reason)
    assert transition(channel, close) is reason


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].wire_name}-{pair[1].wire_name}")
def test_the_earlier_of_two_broken_rules_names_the_refusal(pair: tuple[Refusal, Refusal]) -> None:
    channel, close = broken(*pair)
    assert transition(channel, close) is min(pair)


@pytest.mark.parametrize("phase", [Phase.OPENING, Phase.CLOSED], ids=lambda phase: phase.name)
def test_what_is_not_open_cannot_be_closed(phase: Phase) -> None:
    assert transition(make_channel(phase=phase), make_close()) is Refusal.NOT_OPEN
    assert transition(make_channel(phase=phase), make_close(seq=5)) is Refusal.SEQ_CONFLICT


@pytest.mark.parametrize(
    ("seq", "refusal"),
    [
        (0, Refusal.SEQ_OLD),
        (4, Refusal.SEQ_OLD),
        (5, Refusal.SEQ_CONFLICT),
        (6, None),
        (5 + SEQ_AHEAD_MAX, None),
        (6 + SEQ_AHEAD_MAX, Refusal.SEQ_JUMP),
    ],
)
def test_the_bounds_of_the_sequence(seq: int, refusal: Refusal | None) -> None:
    after = transition(make_channel(), make_close(seq=seq))
    assert after is refusal if refusal else isinstance(after, Channel)


def test_the_last_seq_there_is_can_close() -> None:
    near = make_channel(meter=make_meter(seq=U64_MAX - 1))
    assert applied(near, make_close(seq=U64_MAX)).meter.seq == U64_MAX
    assert transition(near, make_close(seq=U64_MAX + 1)) is Refusal.SEQ_JUMP


def test_a_close_closes_once_also_after_the_channel_was_opened_again() -> None:
    close = make_close()
    closing = applied(make_channel(), close)
    assert transition(closing, close) is Refusal.SEQ_CONFLICT
    assert transition(closing, make_reading(seq=7)) is Refusal.NOT_OPEN
    again = reopen(applied(closing, ActionClosed()), make_open(funded=True))
    assert isinstance(again, Channel)
    assert again.phase is Phase.OPEN
    assert transition(again, close) is Refusal.SEQ_CONFLICT
    paid = applied(again, make_reading(seq=7))
    assert transition(paid, close) is Refusal.SEQ_OLD


def test_a_second_close_of_a_closing_channel_is_taken_too() -> None:
    """Its device lost its memory, or the operator was faster: it still gets its answer at the end."""
    closing = applied(make_channel(), make_close(seq=6))
    assert applied(closing, make_close(seq=8)).meter.seq == 8
    assert transition(applied(closing, make_close(seq=8)), make_close(seq=7)) is Refusal.SEQ_OLD
