"""Each identity is broken once, to show that the check sees it."""

from typing import Any

import pytest
from msgspec.structs import replace

from channels.invariants import InvariantViolation, account_faults, channel_faults, check
from channels.state import Phase
from channels.types import U128_MAX
from tests.support.channels_build import make_account, make_channel, make_meter

CHANNEL_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"claimed": 1_001, "committed": 1_001, "charged": 1_001}, "0 ≤ claimed ≤ balance"),
    ({"claimed": -1}, "0 ≤ claimed ≤ balance"),
    ({"charged": 9, "committed": 10}, "unclaimed, all ≥ 0"),
    ({"offset": -1}, "offset and forgiven ≥ 0"),
    ({"forgiven": -1}, "offset and forgiven ≥ 0"),
    ({"committed": 9}, "claimed ≤ committed ≤ owed"),
    ({"committed": 51}, "claimed ≤ committed ≤ owed"),
    ({"charged": 56}, "covered by a ceiling or was signed for"),
    ({"withdrawing": 1_001}, "0 ≤ withdrawing ≤ balance"),
    ({"withdrawing": -1}, "0 ≤ withdrawing ≤ balance"),
    ({"foreseen": -1}, "foreseen is a u128"),
    ({"foreseen": U128_MAX + 1}, "foreseen is a u128"),
    ({"withdraw_after": 1}, "only a withdrawal has an end"),
    ({"foreseen_after": 1}, "only a withdrawal has an end"),
    ({"meter": make_meter(remainder=10**9)}, "0 ≤ remainder < 10⁹"),
    ({"meter": make_meter(remainder=-1)}, "0 ≤ remainder < 10⁹"),
    ({"charged": U128_MAX + 1, "offset": U128_MAX - 40}, "u128"),
    ({"balance": U128_MAX + 1}, "u128"),
    ({"ceiling": U128_MAX + 1}, "u128"),
    ({"ceiling_signature": b""}, "with its signature"),
    ({"ceiling": 0, "charged": 10, "committed": 10}, "with its signature"),
    ({"phase": Phase.WITHDRAWING, "withdrawing": 0}, "withdrawing means a pending amount"),
]

ACCOUNT_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"fee": -1}, "0 ≤ fee ≤ earned"),
    ({"fee": 51}, "0 ≤ fee ≤ earned"),
    ({"offset": -1}, "0 ≤ offset ≤ earned − fee"),
    ({"offset": 46}, "0 ≤ offset ≤ earned − fee"),
    ({"meter": make_meter(remainder=10**9)}, "0 ≤ remainder < 10⁹"),
    ({"fee_remainder": 10_000}, "0 ≤ fee remainder < 10⁴"),
    ({"fee_remainder": -1}, "0 ≤ fee remainder < 10⁴"),
    ({"earned": U128_MAX + 1}, "u128"),
]


def test_sound_books_have_no_faults() -> None:
    assert channel_faults(make_channel()) == []
    assert account_faults(make_account()) == []
    check([make_channel()], [make_account()])
    check([], [])


@pytest.mark.parametrize(
    "fields",
    [
        {"charged": 0, "committed": 0, "claimed": 0, "balance": 0, "ceiling": 0, "ceiling_signature": b""},
        {"charged": 1_000, "committed": 1_000, "claimed": 1_000, "ceiling": 1_000},
        {"charged": 10, "committed": 10, "ceiling": 0, "ceiling_signature": b""},
        {"committed": 10},
        {"committed": 50},
        {"charged": 55},
        {"withdrawing": 1_000, "phase": Phase.WITHDRAWING},
        {"withdrawing": 1, "phase": Phase.WITHDRAWING},
        {"withdrawing": 1, "phase": Phase.WITHDRAWING, "withdraw_after": 9, "foreseen": 2_000, "foreseen_after": 9},
        {"charged": 30, "committed": 30, "claimed": 0, "ceiling": 0, "ceiling_signature": b""},
        {"charged": U128_MAX, "ceiling": U128_MAX, "balance": U128_MAX},
        {"meter": make_meter(remainder=10**9 - 1)},
    ],
)
def test_a_channel_at_the_bounds_is_sound(fields: dict[str, Any]) -> None:
    assert channel_faults(make_channel(**fields)) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"earned": 0, "fee": 0},
        {"fee": 0, "offset": 50},
        {"fee": 50, "offset": 0},
        {"offset": 45},
        {"earned": U128_MAX},
        {"fee_remainder": 9_999, "meter": make_meter(remainder=10**9 - 1)},
    ],
)
def test_an_account_at_the_bounds_is_sound(fields: dict[str, Any]) -> None:
    assert account_faults(make_account(**fields)) == []


@pytest.mark.parametrize(("fields", "text"), CHANNEL_FAULTS)
def test_each_identity_of_a_channel(fields: dict[str, Any], text: str) -> None:
    channel = make_channel(**fields)
    assert [fault for fault in channel_faults(channel) if text in fault], channel_faults(channel)
    with pytest.raises(InvariantViolation, match=f"channel 0x{channel.id.hex()}"):
        check([make_channel(), channel], [])


@pytest.mark.parametrize(("fields", "text"), ACCOUNT_FAULTS)
def test_each_identity_of_an_account(fields: dict[str, Any], text: str) -> None:
    account = make_account(**fields)
    assert [fault for fault in account_faults(account) if text in fault], account_faults(account)
    with pytest.raises(InvariantViolation, match=f"account 0x{account.id.hex()}"):
        check([make_channel()], [make_account(), account])


def test_the_first_offender_is_named_with_all_its_faults() -> None:
    first = make_channel(id=bytes(31) + b"\1", offset=-1, ceiling_signature=b"")
    second = replace(first, id=bytes(31) + b"\2")
    with pytest.raises(InvariantViolation) as caught:
        check([first, second], [])
    assert first.id.hex() in str(caught.value)
    assert second.id.hex() not in str(caught.value)
    assert all(fault in str(caught.value) for fault in channel_faults(first))
