"""Proving the books: the ledger beside what the chain says at one block (docs/protocol.md 7)."""

from channels.types import SETTLEMENT_ADDRESS, Address
from gateway.books import Books
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


async def audit(
    books: Books, layer: ExecutionLayer, watcher: Watcher, *, whole_chain: bool = False
) -> tuple[list[str], list[str]]:
    """Return (faults, warnings) of the books at the last final block; no faults means conserved.

    `whole_chain` also counts every channel on the chain against the settlement contract's tokens: for the
    embedded layer, which is small enough to be read whole. Raises Unsteady when the chain does not hold still.
    """
    for _ in range(ATTEMPTS):
        await watcher.step()
        block = watcher.block
        # A channel taken at a later block is compared with the chain once the watcher is there too.
        if all(channel.position >> 32 <= block for channel in books.ledger.channels.values()):
            snapshot = await _snapshot(books, layer, block, whole_chain)
            return identities.faults(snapshot), identities.warnings(snapshot)
    raise Unsteady("the chain moved on during every attempt to prove the books; try again")


async def _snapshot(books: Books, layer: ExecutionLayer, block: int, whole_chain: bool) -> identities.Books:
    ledger = books.ledger
    founded = ledger.founded
    assert founded is not None, "a running gateway has founded its journal"
    channels = tuple(ledger.channels.values())
    accounts = tuple(ledger.accounts.values())
    parties = dict(ledger.parties)
    totals = ledger.totals
    foreign = dict(ledger.foreign)
    token = founded.token
    payees = sorted(parties)
    paid = await layer.paid(founded.payouts, founded.treasury, token, payees, block)
    receivers = await layer.receivers([(lane, token) for lane in founded.lanes], block)
    held = await layer.token_balances(token, [founded.treasury, *founded.lanes], block)
    views = await layer.channels([channel.id for channel in channels], block)
    lanes = tuple(
        identities.LaneBook(lane, view.total_claimed, view.total_settled, balance, foreign.get(lane, 0))
        for lane, view, balance in zip(founded.lanes, receivers, held[1:], strict=True)
    )
    return identities.Books(
        channels=channels,
        accounts=accounts,
        parties={
            payee: identities.PartyBook(amount - parties[payee].base, parties[payee].signed)
            for payee, amount in zip(payees, paid, strict=True)
        },
        lanes=lanes,
        treasury_held=held[0],
        injected=totals.received,
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
