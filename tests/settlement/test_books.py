"""The books: a sound snapshot has no faults, and every identity notices a change of one unit."""

from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as change

from channels.state import Account, Channel, Meter, Phase
from channels.types import ChannelConfig
from settlement.books import Books, LaneBook, PartyBook, SupplyBook, faults, secured, warnings
from settlement.port import ChannelView

LANES = (b"\x01" * 20, b"\x02" * 20)
PARTY, PAYER = b"\x0a" * 20, b"\x0b" * 20
METER = Meter(5, 100, 0, b"\x0f" * 16, 1)


def channel(number: int, payer: bytes, lane: int, **fields: Any) -> Channel:
    config = ChannelConfig(payer, b"\x0c" * 20, LANES[lane], b"\x0d" * 20, b"\x0e" * 20, 900, bytes(32))
    values: dict[str, Any] = {"ceiling": 1_000, "ceiling_signature": b"s" * 65, "balance": 2_000, "proven": True}
    return Channel(bytes([number]) * 32, config, f"d{number}", "grid-power", lane, Phase.OPEN, METER, **values | fields)


CHANNELS = (
    # The party owes 900, of which 300 were offset and 400 claimed.
    channel(1, PARTY, 0, charged=900, offset=300, committed=500, claimed=400),
    # Another payer: 700 charged, 20 forgiven, 650 claimed; it withdrew 100 and got 50 back.
    channel(2, PAYER, 1, charged=700, forgiven=20, committed=650, claimed=650, withdrawn=100, refunded=50),
)
ACCOUNTS = (
    Account(b"\x21" * 32, "d3", "solar-export", PARTY, b"\x0c" * 20, METER, earned=1_000, fee=10, offset=200),
    Account(b"\x22" * 32, "d4", "air-quality", PARTY, b"\x0c" * 20, METER, earned=150, fee=0, offset=100),
)
# 1,050 own and 30 foreign claims, 500 injected, 7 donated = 600 paid + 40 taken out + 747 held + 200 unsettled.
BOOKS = Books(
    channels=CHANNELS,
    accounts=ACCOUNTS,
    parties={PARTY: PartyBook(paid=600, signed=700)},
    lanes=(
        LaneBook(LANES[0], total_claimed=430, total_settled=330, held=47, foreign=30),
        LaneBook(LANES[1], total_claimed=650, total_settled=550, held=0),
    ),
    treasury_held=700,
    injected=500,
    donated=7,
    operator_out=40,
    deposited={CHANNELS[0].id: 2_000, CHANNELS[1].id: 2_150},
    on_chain={entry.id: ChannelView(entry.balance, entry.claimed, 0, 0) for entry in CHANNELS},
    supply=SupplyBook(settlement_balance=3_156, escrow=2_950, unsettled=200, donations=6),
)


def first(**fields: Any) -> dict[str, Any]:
    return {"channels": (change(CHANNELS[0], **fields), CHANNELS[1])}


def lane(**fields: Any) -> dict[str, Any]:
    return {"lanes": (replace(BOOKS.lanes[0], **fields), BOOKS.lanes[1])}


def test_sound_books_have_no_faults() -> None:
    assert faults(BOOKS) == []
    assert warnings(BOOKS) == []
    assert (BOOKS.held, BOOKS.unsettled, BOOKS.paid, BOOKS.payable) == (747, 200, 600, 240)
    assert faults(replace(BOOKS, deposited=None, on_chain=None, supply=None)) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (first(balance=399), "0 ≤ claimed ≤ balance"),
        (first(balance=2_001), "deposited is 2000"),
        (first(balance=2_001), "balance on chain is 2000, in the journal 2001"),
        (first(claimed=401), "claimed on chain is 400, in the journal 401"),
        (first(claimed=401), "totalClaimed is 430, own and foreign claims 431: they differ by -1"),
        (first(claimed=401), "cash"),
        (first(offset=301), "offset on its channels is 301, on its accounts 300"),
        (first(proven=False), "its payer is not proven"),
        (first(config=replace(CHANNELS[0].config, receiver=b"\x09" * 20)), "which is no lane"),
        ({"accounts": (ACCOUNTS[0],)}, "offset on its channels is 300, on its accounts 200"),
        ({"accounts": (change(ACCOUNTS[0], fee=1_001), ACCOUNTS[1])}, "0 ≤ fee ≤ earned"),
        ({"parties": {PARTY: PartyBook(601, 700)}}, "cash: claimed + foreign + injected + donated is 1587"),
        ({"parties": {PARTY: PartyBook(600, 599)}}, "600 was paid and 599 signed"),
        ({"parties": {PARTY: PartyBook(600, 841)}}, "payouts of 841 were signed and it earned 840"),
        ({"parties": {PARTY: PartyBook(600, 700), PAYER: PartyBook(0, 1)}}, "payouts of 1 were signed"),
        ({"parties": {}}, "cash"),
        (lane(foreign=31), "own and foreign claims 431"),
        (lane(total_settled=329), "cash"),
        (lane(total_settled=431), "431 settled of 430 claimed"),
        (lane(held=46), "cash"),
        ({"treasury_held": 701}, "they differ by -1"),
        ({"injected": 501}, "they differ by 1"),
        ({"donated": 8}, "they differ by 1"),
        ({"operator_out": 41}, "they differ by -1"),
        ({"on_chain": {}}, "was not read from the chain"),
        ({"deposited": {}}, "deposited is 0"),
        ({"supply": replace(BOOKS.supply, settlement_balance=3_155)}, "the settlement contract holds is 3155"),
        ({"supply": replace(BOOKS.supply, escrow=2_951)}, "escrow"),
        ({"supply": replace(BOOKS.supply, unsettled=199)}, "unsettled"),
        ({"supply": replace(BOOKS.supply, donations=5)}, "donations"),
    ],
)
def test_every_identity_notices_one_unit(fields: dict[str, Any], words: str) -> None:
    found = faults(replace(BOOKS, **fields))
    assert any(words in fault for fault in found), found


def test_warns_when_cash_in_sight_falls_short() -> None:
    """In sight: 747 held, 200 unsettled, 200 and 30 secured in the channels."""
    assert [secured(entry) for entry in CHANNELS] == [200, 30]
    more = change(ACCOUNTS[0], earned=1_000 + 1_177 - 240)
    assert BOOKS.held + BOOKS.unsettled + 230 == 1_177
    assert warnings(replace(BOOKS, accounts=(more, ACCOUNTS[1]))) == []
    more = change(more, earned=more.earned + 1)
    (text,) = warnings(replace(BOOKS, accounts=(more, ACCOUNTS[1])))
    assert "due 1178" in text
    assert "only 1177" in text


def test_a_pending_withdrawal_secures_less() -> None:
    assert secured(change(CHANNELS[0], withdrawing=1_500)) == 100
    assert secured(change(CHANNELS[0], withdrawing=1_600)) == 0
    assert secured(change(CHANNELS[0], withdrawing=2_000)) == 0
