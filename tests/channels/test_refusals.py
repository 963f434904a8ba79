"""Numbers, names, order and transience of the refusals are on the wire and in journals: frozen here."""

import pytest

from channels.refusals import Refusal

# number, name, transient (docs/protocol.md 5)
FROZEN = [
    (1, "too_large", False),
    (2, "malformed", False),
    (3, "unknown_channel", False),
    (4, "wrong_device", False),
    (5, "bad_signature", False),
    (6, "seq_conflict", False),
    (7, "seq_old", False),
    (8, "seq_jump", False),
    (9, "not_open", False),
    (10, "offer_unknown", False),
    (11, "offer_expired", False),
    (12, "offer_regressed", False),
    (13, "register_lower", False),
    (14, "register_jump", False),
    (15, "overflow", False),
    (16, "ceiling_too_low", False),
    (17, "ceiling_above_balance", False),
    (18, "ceiling_too_far", False),
    (19, "chain_stale", True),
    (20, "deposit_pending", True),
    (21, "deposit_invalid", False),
    (22, "config_mismatch", False),
    (23, "service_unknown", False),
    (24, "deposit_too_small", False),
    (25, "not_enrolled", False),
    (26, "busy", True),
    (27, "limit", False),
    (28, "channel_taken", False),
]


def test_the_whole_table_in_order() -> None:
    assert [(int(reason), reason.wire_name, reason.transient) for reason in Refusal] == FROZEN


def test_members_have_no_aliases() -> None:
    assert len(Refusal.__members__) == len(FROZEN)


@pytest.mark.parametrize(("number", "name", "transient"), FROZEN)
def test_each_is_found_by_its_number(number: int, name: str, transient: bool) -> None:
    assert Refusal(number).wire_name == name
    assert Refusal(number).transient is transient


@pytest.mark.parametrize("number", [0, 29])
def test_other_numbers_name_nothing(number: int) -> None:
    with pytest.raises(ValueError):
        Refusal(number)
