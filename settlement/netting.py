"""Netting: what each party owes and earns becomes one amount on one side (docs/protocol.md 6).

Pure: the result depends on the input alone, whatever its order, and sums are conserved to the unit.

A party is an address. What it owes on its channels is offset against what its accounts earned, within limits
that make it impossible for a claim in flight, a payout in flight and an offset to take the same money twice:

- a channel gives at most `owed − committed`, and nothing unless its payer was proven;
- a party's accounts give together at most `payable` = Σ (earned − fee − offset) − the highest payout signed.

What then remains owed is claimed, what remains payable is paid. All results are cumulative, so applying them
twice, or again after a crash, changes nothing. Amounts are token base units.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from channels.types import AccountId, Address, ChannelId


@dataclass(frozen=True, slots=True)
class ChannelPosition:
    """A channel as netting sees it; amounts are cumulative.

    `limit` is the highest totalClaimed that the contract would take: the lower of the ceiling held and the
    balance on chain. What is owed above it cannot be claimed now, but it can be offset.
    """

    id: ChannelId
    lane: int
    owed: int  # charged − offset − forgiven
    committed: int  # the highest totalClaimed ever signed
    claimed: int  # totalClaimed on chain
    limit: int
    offset: int  # settled by netting so far
    proven: bool  # the gateway verified the payer's own signature for this channel

    def __post_init__(self) -> None:
        if not 0 <= self.claimed <= self.committed <= self.owed or self.offset < 0 or self.limit < 0:
            raise ValueError(f"channel 0x{self.id.hex()} breaks 0 ≤ claimed ≤ committed ≤ owed: {self}")

    @property
    def free(self) -> int:
        """What an offset may take."""
        return self.owed - self.committed if self.proven else 0


@dataclass(frozen=True, slots=True)
class AccountPosition:
    """An earner account as netting sees it: `net` = earned − fee − offset; `offset` is cumulative."""

    id: AccountId
    net: int
    offset: int

    def __post_init__(self) -> None:
        if self.net < 0 or self.offset < 0:
            raise ValueError(f"account 0x{self.id.hex()} is overdrawn: {self}")


@dataclass(frozen=True, slots=True)
class PartyPosition:
    """One address with all channels that it pays for and all accounts that it earns on.

    `signed` is the highest cumulative payout ever signed to this address, over all its accounts.
    """

    address: Address
    channels: tuple[ChannelPosition, ...] = ()
    accounts: tuple[AccountPosition, ...] = ()
    signed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.signed <= sum(account.net for account in self.accounts):
            raise ValueError(f"party 0x{self.address.hex()} was paid {self.signed}, more than it earned")

    @property
    def payable(self) -> int:
        """What the gateway owes this party and has not signed a payout for."""
        return sum(account.net for account in self.accounts) - self.signed


@dataclass(frozen=True, slots=True)
class ClaimTarget:
    """Claim this channel up to `total_claimed` (cumulative); `amount` is what that adds on chain."""

    id: ChannelId
    lane: int
    total_claimed: int
    amount: int


@dataclass(frozen=True, slots=True)
class PayoutTarget:
    """Pay this payee up to `cumulative`; `amount` is what that adds to what was signed before."""

    payee: Address
    cumulative: int
    amount: int


@dataclass(frozen=True, slots=True)
class PartyNet:
    """What netting decides for one party. Offsets are the new cumulative amounts of those that change."""

    address: Address
    channel_offsets: tuple[tuple[ChannelId, int], ...]
    account_offsets: tuple[tuple[AccountId, int], ...]
    claims: tuple[ClaimTarget, ...]
    payout: PayoutTarget | None
    offset: int  # newly offset, the same on both sides


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all parties, base units."""

    claim: int
    offset: int
    payout: int


@dataclass(frozen=True, slots=True)
class Netting:
    """The result for all parties, ordered by address."""

    parties: tuple[PartyNet, ...]
    totals: Totals

    @property
    def claims(self) -> tuple[ClaimTarget, ...]:
        """All claims, by lane and channel id."""
        rows = (claim for party in self.parties for claim in party.claims)
        return tuple(sorted(rows, key=lambda row: (row.lane, row.id)))

    @property
    def payouts(self) -> tuple[PayoutTarget, ...]:
        """All payouts, by payee."""
        return tuple(party.payout for party in self.parties if party.payout is not None)


def net(parties: Iterable[PartyPosition]) -> Netting:
    """Net all parties. Raises ValueError when an address, channel or account appears twice."""
    ordered = sorted(parties, key=lambda party: party.address)
    _require_unique([party.address for party in ordered])
    _require_unique([channel.id for party in ordered for channel in party.channels])
    _require_unique([account.id for party in ordered for account in party.accounts])
    results = tuple(net_party(party) for party in ordered)
    totals = Totals(
        claim=sum(claim.amount for result in results for claim in result.claims),
        offset=sum(result.offset for result in results),
        payout=sum(result.payout.amount for result in results if result.payout is not None),
    )
    return Netting(results, totals)


def net_party(party: PartyPosition) -> PartyNet:
    """Net one party: offset first, then claim what is still owed and pay what is still payable."""
    offset = min(sum(channel.free for channel in party.channels), party.payable)
    channels = sorted(party.channels, key=_offset_order)
    accounts = sorted(party.accounts, key=lambda account: account.id)
    from_channels = _spread(offset, [channel.free for channel in channels])
    from_accounts = _spread(offset, [account.net for account in accounts])
    owed = {channel.id: channel.owed - taken for channel, taken in zip(channels, from_channels, strict=True)}
    remaining = party.payable - offset
    return PartyNet(
        address=party.address,
        channel_offsets=tuple(
            sorted(
                (channel.id, channel.offset + taken)
                for channel, taken in zip(channels, from_channels, strict=True)
                if taken
            )
        ),
        account_offsets=tuple(
            (account.id, account.offset + taken)
            for account, taken in zip(accounts, from_accounts, strict=True)
            if taken
        ),
        claims=_claims(party.channels, owed),
        payout=PayoutTarget(party.address, party.signed + remaining, remaining) if remaining else None,
        offset=offset,
    )


def _offset_order(channel: ChannelPosition) -> tuple[bool, bool, int, ChannelId]:
    """Return what is offset first: money that cannot be claimed, then whatever leaves the fewest claims.

    A channel with a claim in flight stays in the next claim anyway, so its row is not saved. Among the others
    the smallest go first: that clears the most channels.
    """
    claimable = channel.owed <= channel.limit
    return claimable, channel.committed > channel.claimed, channel.free, channel.id


def _spread(amount: int, capacities: Sequence[int]) -> list[int]:
    """Take `amount` from the capacities, in order; they hold at least that much together."""
    taken = []
    for capacity in capacities:
        part = min(amount, capacity)
        taken.append(part)
        amount -= part
    assert amount == 0, "an offset exceeds what its side holds"
    return taken


def _claims(channels: Iterable[ChannelPosition], owed: dict[ChannelId, int]) -> tuple[ClaimTarget, ...]:
    rows = []
    for channel in sorted(channels, key=lambda channel: channel.id):
        target = min(owed[channel.id], channel.limit)
        if target > channel.claimed:
            rows.append(ClaimTarget(channel.id, channel.lane, target, target - channel.claimed))
    return tuple(rows)


def _require_unique(ids: Sequence[bytes]) -> None:
    if len(set(ids)) != len(ids):
        raise ValueError("an address, channel or account appears twice in one netting")
