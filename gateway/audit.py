"""Proving the books: the ledger beside what the chain says at one block (docs/protocol.md 7)."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from channels.state import Account, Channel
from channels.types import SETTLEMENT_ADDRESS, Address
from gateway.books import Books
from gateway.entries import Party, Totals
from gateway.records import Founded
from gateway.reorgs import at_block
from gateway.watcher import Watcher
from settlement import books as identities
from settlement.events import ChannelCreated, Deposited
from settlement.port import ExecutionLayer

# Devices join all the time; each attempt catches up with the chain.
ATTEMPTS = 20
# Blocks per query when all channels of an embedded layer are counted.
SCAN_BLOCKS = 1_000


class Unsteady(Exception):
    """The chain or the ledger moved on during every attempt: nothing was proved either way."""


@dataclass(frozen=True, slots=True)
class States:
    """The ledger at one commit: states are frozen, so copying its tables copies it."""

    commit: int
    founded: Founded
    channels: tuple[Channel, ...]
    accounts: tuple[Account, ...]
    parties: Mapping[Address, Party]
    foreign: Mapping[Address, int]
    totals: Totals


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The ledger beside what the chain says at a final block whose events are all in it."""

    states: States
    block: int
    books: identities.Books


def states_of(books: Books) -> States:
    """Return the states as of the last commit handed in; without an await, so of that commit alone."""
    ledger = books.ledger
    assert ledger.founded is not None, "these books have a founded journal"
    return States(
        commit=books.journal.number,
        founded=ledger.founded,
        channels=tuple(ledger.channels.values()),
        accounts=tuple(ledger.accounts.values()),
        parties=dict(ledger.parties),
        foreign=dict(ledger.foreign),
        totals=ledger.totals,
    )


async def audit(
    books: Books, layer: ExecutionLayer, watcher: Watcher, *, whole_chain: bool = False
) -> tuple[list[str], list[str]]:
    """Return (faults, warnings) of the books at the last final block; no faults means conserved.

    `whole_chain` also counts every channel on the chain against the settlement contract's tokens: for the
    embedded layer, which is small enough to be read whole. Raises Unsteady when the chain does not hold still.
    """
    snapshot = await take_snapshot(books, layer, watcher, whole_chain=whole_chain)
    return identities.faults(snapshot.books), identities.warnings(snapshot.books)


async def take_snapshot(
    books: Books, layer: ExecutionLayer, watcher: Watcher, *, whole_chain: bool = False
) -> Snapshot:
    """Return the books and the chain at one final block. Raises Unsteady when the chain does not hold still."""
    for _ in range(ATTEMPTS):
        await watcher.step()
        block = watcher.block
        # A channel taken at a later block is compared with the chain once the watcher is there too.
        if watcher.applied != block or any(
            channel.position >> 32 > block for channel in books.ledger.channels.values()
        ):
            continue
        states, known = states_of(books), watcher.hash_of(block)
        beside = functools.partial(_beside_chain, states, layer, block, whole_chain)
        seen, found = await at_block(layer, block, beside)
        if known in (None, seen.hash):  # else the chain has replaced the block of which the states are
            return Snapshot(states, block, found)
    raise Unsteady("the chain moved on during every attempt to prove the books; try again")


async def _beside_chain(states: States, layer: ExecutionLayer, block: int, whole_chain: bool) -> identities.Books:
    founded, channels, parties = states.founded, states.channels, states.parties
    token = founded.token
    payees = sorted(parties)
    paid = await layer.paid(founded.payouts, founded.treasury, token, payees, block)
    receivers = await layer.receivers([(lane, token) for lane in founded.lanes], block)
    held = await layer.token_balances(token, [founded.treasury, *founded.lanes], block)
    views = await layer.channels([channel.id for channel in channels], block)
    lanes = tuple(
        identities.LaneBook(lane, view.total_claimed, view.total_settled, balance, states.foreign.get(lane, 0))
        for lane, view, balance in zip(founded.lanes, receivers, held[1:], strict=True)
    )
    return identities.Books(
        channels=channels,
        accounts=states.accounts,
        parties={
            payee: identities.PartyBook(amount - parties[payee].base, parties[payee].signed)
            for payee, amount in zip(payees, paid, strict=True)
        },
        lanes=lanes,
        treasury_held=held[0],
        injected=states.totals.received,
        on_chain={channel.id: view for channel, view in zip(channels, views, strict=True)},
        supply=await _supply(layer, token, block) if whole_chain else None,
    )


async def _supply(layer: ExecutionLayer, token: Address, block: int) -> identities.SupplyBook:
    """Count every channel and receiver of this token on the chain."""
    configs = {}
    deposited = 0
    arrived = 0
    for first in range(0, block + 1, SCAN_BLOCKS):
        last = min(block, first + SCAN_BLOCKS - 1)
        for event in await layer.events(first, last):
            if isinstance(event, ChannelCreated) and event.config.token == token:
                configs[event.channel_id] = event.config
            elif isinstance(event, Deposited) and event.channel_id in configs:
                deposited += event.amount
        arrived += sum(
            transfer.amount for transfer in await layer.transfers_to(token, [SETTLEMENT_ADDRESS], first, last)
        )
    views = await layer.channels(list(configs), block)
    receivers = sorted({config.receiver for config in configs.values()})
    totals = await layer.receivers([(receiver, token) for receiver in receivers], block)
    (balance,) = await layer.token_balances(token, [SETTLEMENT_ADDRESS], block)
    return identities.SupplyBook(
        settlement_balance=balance,
        escrow=sum(view.balance - view.total_claimed for view in views),
        unsettled=sum(view.unsettled for view in totals),
        donations=arrived - deposited,
    )
