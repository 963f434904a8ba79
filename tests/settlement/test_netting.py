"""Netting: sums conserved to the unit, limits kept, and nothing left to do when it is applied and run again."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from settlement.netting import (
    AccountPosition,
    ChannelPosition,
    ClaimTarget,
    Netting,
    PartyPosition,
    PayoutTarget,
    Totals,
    net,
    net_party,
)

amounts = st.integers(0, 1_000) | st.integers(0, 2**100)


def identifier(number: int) -> bytes:
    return number.to_bytes(32, "big")


def address(number: int) -> bytes:
    return number.to_bytes(20, "big")


@st.composite
def channel_positions(draw: st.DrawFn, number: int) -> ChannelPosition:
    claimed = draw(amounts)
    committed = claimed + draw(st.just(0) | amounts)
    owed = committed + draw(st.just(0) | amounts)
    return ChannelPosition(
        id=identifier(number),
        lane=draw(st.integers(0, 3)),
        owed=owed,
        committed=committed,
        claimed=claimed,
        limit=draw(st.just(owed) | st.integers(0, owed + 10)),
        offset=draw(amounts),
        proven=draw(st.booleans()),
    )


@st.composite
def party_positions(draw: st.DrawFn, number: int) -> PartyPosition:
    channels = [draw(channel_positions(number * 100 + index)) for index in range(draw(st.integers(0, 5)))]
    accounts = [
        AccountPosition(identifier(number * 100 + 50 + index), draw(amounts), draw(amounts))
        for index in range(draw(st.integers(0, 4)))
    ]
    signed = draw(st.integers(0, sum(account.net for account in accounts)))
    return PartyPosition(address(number), tuple(channels), tuple(accounts), signed)


@st.composite
def all_parties(draw: st.DrawFn) -> list[PartyPosition]:
    return [draw(party_positions(number)) for number in range(draw(st.integers(0, 4)))]


def applied(party: PartyPosition, result: Netting) -> PartyPosition:
    """Return the party after the offsets, with every claim mined and every payout signed: the next cycle's input."""
    (own,) = (entry for entry in result.parties if entry.address == party.address)
    channel_offsets, account_offsets = dict(own.channel_offsets), dict(own.account_offsets)
    claims = {claim.id: claim.total_claimed for claim in own.claims}
    channels = []
    for channel in party.channels:
        taken = channel_offsets.get(channel.id, channel.offset) - channel.offset
        claimed = claims.get(channel.id, channel.claimed)
        channels.append(
            replace(
                channel,
                owed=channel.owed - taken,
                offset=channel.offset + taken,
                claimed=claimed,
                committed=max(channel.committed, claimed),
            )
        )
    accounts = []
    for account in party.accounts:
        taken = account_offsets.get(account.id, account.offset) - account.offset
        accounts.append(replace(account, net=account.net - taken, offset=account.offset + taken))
    signed = party.signed if own.payout is None else own.payout.cumulative
    return PartyPosition(party.address, tuple(channels), tuple(accounts), signed)


@given(all_parties())
@settings(deadline=None, max_examples=300)
def test_conserves_every_unit(parties: list[PartyPosition]) -> None:
    result = net(parties)
    for party, own in zip(parties, result.parties, strict=True):
        assert own.address == party.address
        offsets = {channel.id: channel.offset for channel in party.channels}
        on_channels = sum(offset - offsets[key] for key, offset in own.channel_offsets)
        offsets = {account.id: account.offset for account in party.accounts}
        on_accounts = sum(offset - offsets[key] for key, offset in own.account_offsets)
        assert on_channels == on_accounts == own.offset
        paid = own.payout.amount if own.payout is not None else 0
        assert party.payable == own.offset + paid
        if own.payout is not None:
            assert own.payout == PayoutTarget(party.address, party.signed + paid, paid)
            assert paid > 0
    assert result.totals == Totals(
        claim=sum(claim.amount for claim in result.claims),
        offset=sum(own.offset for own in result.parties),
        payout=sum(payout.amount for payout in result.payouts),
    )


@given(all_parties())
@settings(deadline=None, max_examples=300)
def test_keeps_every_limit(parties: list[PartyPosition]) -> None:
    result = net(parties)
    for party, own in zip(parties, result.parties, strict=True):
        new_offsets, claims = dict(own.channel_offsets), {claim.id: claim for claim in own.claims}
        assert own.offset <= party.payable
        for channel in party.channels:
            taken = new_offsets.get(channel.id, channel.offset) - channel.offset
            assert 0 <= taken <= channel.owed - channel.committed
            assert channel.proven or taken == 0
            owed = channel.owed - taken
            assert owed >= channel.committed
            claim = claims.get(channel.id)
            if claim is None:
                assert min(owed, channel.limit) <= channel.claimed
            else:
                assert claim.total_claimed == min(owed, channel.limit)
                assert claim.amount == claim.total_claimed - channel.claimed > 0
                assert claim.lane == channel.lane
        for account in party.accounts:
            taken = dict(own.account_offsets).get(account.id, account.offset) - account.offset
            assert 0 <= taken <= account.net
        # One side only: what is still free to offset and what is paid out are never both left.
        left = sum(
            channel.free - new_offsets.get(channel.id, channel.offset) + channel.offset for channel in party.channels
        )
        assert left == 0 or own.payout is None


@given(all_parties(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_the_input_does_not_matter(parties: list[PartyPosition], rng: random.Random) -> None:
    shuffled = [
        replace(
            party,
            channels=tuple(rng.sample(party.channels, len(party.channels))),
            accounts=tuple(rng.sample(party.accounts, len(party.accounts))),
        )
        for party in rng.sample(parties, len(parties))
    ]
    assert net(shuffled) == net(parties)


@given(all_parties())
@settings(deadline=None)
def test_running_again_after_applying_does_nothing(parties: list[PartyPosition]) -> None:
    result = net(parties)
    again = net([applied(party, result) for party in parties])
    assert again.totals == Totals(0, 0, 0)
    assert again.claims == again.payouts == ()
    assert all(own.channel_offsets == own.account_offsets == () for own in again.parties)


def channel(number: int, owed: int, *, committed: int = 0, claimed: int = 0, limit: int = 10**9) -> ChannelPosition:
    return ChannelPosition(identifier(number), 0, owed, committed, claimed, limit, 0, True)


def test_a_net_payer_is_claimed_for_the_net_only() -> None:
    party = PartyPosition(address(1), (channel(1, 700),), (AccountPosition(identifier(9), 300, 40),))
    own = net_party(party)
    assert own.channel_offsets == ((identifier(1), 300),)
    assert own.account_offsets == ((identifier(9), 340),)
    assert own.claims == (ClaimTarget(identifier(1), 0, 400, 400),)
    assert own.payout is None


def test_a_net_earner_is_paid_the_net_only() -> None:
    party = PartyPosition(address(1), (channel(1, 300),), (AccountPosition(identifier(9), 1_000, 0),), signed=250)
    own = net_party(party)
    assert own.offset == 300
    assert own.claims == ()
    assert own.payout == PayoutTarget(address(1), 700, 450)


def test_a_claim_in_flight_is_not_offset() -> None:
    party = PartyPosition(
        address(1), (channel(1, 500, committed=450, claimed=100),), (AccountPosition(identifier(9), 1_000, 0),)
    )
    own = net_party(party)
    assert own.offset == 50
    assert own.claims == (ClaimTarget(identifier(1), 0, 450, 350),)


def test_an_unproven_channel_is_claimed_and_never_netted() -> None:
    unproven = replace(channel(1, 500), proven=False)
    own = net_party(PartyPosition(address(1), (unproven,), (AccountPosition(identifier(9), 500, 0),)))
    assert own.offset == 0
    assert own.claims == (ClaimTarget(identifier(1), 0, 500, 500),)
    assert own.payout == PayoutTarget(address(1), 500, 500)


def test_offsets_go_where_they_save_most() -> None:
    """First what cannot be claimed, then the smallest that need no claim afterwards, then the rest."""
    channels = (
        channel(1, 900),
        channel(2, 100),
        channel(3, 150, committed=120),  # its claim is in flight: no row to save
        channel(4, 500, limit=300),  # 200 of it is beyond the balance
    )
    own = net_party(PartyPosition(address(1), channels, (AccountPosition(identifier(9), 610, 0),)))
    assert own.channel_offsets == ((identifier(1), 10), (identifier(2), 100), (identifier(4), 500))
    assert [claim.id for claim in own.claims] == [identifier(1), identifier(3)]


def test_what_is_owed_beyond_the_limit_waits() -> None:
    own = net_party(PartyPosition(address(1), (channel(1, 500, claimed=50, committed=50, limit=300),)))
    assert own.claims == (ClaimTarget(identifier(1), 0, 300, 250),)
    assert net_party(PartyPosition(address(1), (channel(1, 500, limit=0),))).claims == ()


def test_claims_and_payouts_are_ordered() -> None:
    lanes = [1, 0, 1, 0]
    parties = [
        PartyPosition(
            address(10 - number),
            (replace(channel(number, 5), lane=lane),),
            (AccountPosition(identifier(50 + number), 9, 0),),
        )
        for number, lane in enumerate(lanes)
    ]
    unproven = [
        replace(party, channels=tuple(replace(entry, proven=False) for entry in party.channels)) for party in parties
    ]
    result = net(unproven)
    assert [claim.id for claim in result.claims] == [identifier(number) for number in (1, 3, 0, 2)]
    assert [payout.payee for payout in result.payouts] == [address(number) for number in (7, 8, 9, 10)]


@pytest.mark.parametrize(
    "build",
    [
        lambda: channel(1, 10, committed=11),
        lambda: channel(1, 10, committed=4, claimed=5),
        lambda: channel(1, 10, limit=-1),
        lambda: replace(channel(1, 10), offset=-1),
        lambda: AccountPosition(identifier(1), -1, 0),
        lambda: AccountPosition(identifier(1), 0, -1),
        lambda: PartyPosition(address(1), (), (), signed=1),
        lambda: PartyPosition(address(1), (), (), signed=-1),
        lambda: net([PartyPosition(address(1)), PartyPosition(address(1))]),
        lambda: net([PartyPosition(address(1), (channel(1, 1), channel(1, 2)))]),
        lambda: net([PartyPosition(address(1), (), (AccountPosition(identifier(1), 0, 0),) * 2)]),
    ],
)
def test_refuses_input_that_cannot_be(build: object) -> None:
    with pytest.raises(ValueError, match=r"0x|twice"):
        build()  # type: ignore[operator]
