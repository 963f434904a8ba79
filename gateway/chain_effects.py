"""What the chain does to the ledger, and how a reorganisation takes it back.

The last blocks of a chain may be replaced by others. For every block within reach the ledger keeps what the chain
changed in it: each channel's side of the chain as it was before, the sums that its logs added to, and which own
transactions it holds. `ChainReverted` puts all of that back at once, and checks it against what the chain itself
says of the last block that stays. What the gateway decided (charges, offsets, what it signed) never goes back.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from channels.machine import Contradiction
from channels.state import Channel, ContractReceiveForeseen, ContractReceiveReverted
from channels.types import ChannelId
from gateway import records as r
from gateway.entries import Image, Mark, Mined, Reorganisation, SumsBefore

if TYPE_CHECKING:
    from gateway.ledger import Ledger

# Twice what Ethereum needs until a block is final, and as far back as a full node remembers the states of blocks,
# which are asked for. What is kept for it is bounded by what fits into so many blocks.
REORG_BLOCKS_MAX = 128
# Shown to the operator; the journal holds all of them.
REORGS_KEPT = 20


def block_key(number: int) -> bytes:
    """Return the key of a block's entries; keys sort as blocks do."""
    return number.to_bytes(8, "big")


def block_of(key: bytes) -> int:
    """Return the block that a key begins with."""
    return int.from_bytes(key[:8], "big")


# -- events --


def apply_founded(ledger: "Ledger", record: r.Founded, number: int) -> None:
    """Take the journal's first record in."""
    if ledger.founded is not None:
        raise Contradiction("a journal is founded once")
    ledger.found(record)
    # Lanes with a past: what was claimed and settled before is nobody's we know, so that the books balance.
    before = sum(settled for _, settled in record.lane_totals)
    ledger.set_totals(received=record.held - before, settled=before, block=record.block)
    if record.past:
        # Cycles begin once in some seconds at most: no number of theirs was used by the earlier journal, so that no
        # two statements of one cycle are ever signed.
        ledger.set_totals(cycles=record.timestamp)
    if record.hash:
        ledger.marks[block_key(record.block)] = Mark(record.hash, record.timestamp)
    for lane, (claimed, _) in zip(record.lanes, record.lane_totals, strict=True):
        if claimed:
            ledger.foreign[lane] = claimed


def apply_chain_changed(ledger: "Ledger", record: r.ChainChanged, number: int) -> None:
    """One of our channels changed."""
    channel = ledger.channels[record.id]
    position = record.change.position
    if position > channel.position:
        ledger.undo.setdefault(block_key(position >> 32) + record.id, Image(chain_side(channel)))
    ledger.change(record.id, record.change)


def apply_withdrawal_foreseen(ledger: "Ledger", record: r.WithdrawalForeseen, number: int) -> None:
    """A withdrawal is in a block that is not final yet, or is there no more."""
    ledger.change(record.id, ContractReceiveForeseen(record.amount, record.finalize_after))


def apply_foreign_claimed(ledger: "Ledger", record: r.ForeignClaimed, number: int) -> None:
    """Strangers' channels brought a lane something; a lane's own total tells it again after a reorganisation."""
    _keep_sums(ledger)
    ledger.foreign[record.lane] = record.total


def apply_cash(ledger: "Ledger", record: r.CashReceived, number: int) -> None:
    """Tokens arrived from outside."""
    _keep_sums(ledger)
    ledger.count(received=record.amount)


def apply_lane_settled(ledger: "Ledger", record: r.LaneSettled, number: int) -> None:
    """Tokens moved from the contract to a lane."""
    _keep_sums(ledger)
    ledger.count(settled=record.amount)


def apply_chain_seen(ledger: "Ledger", record: r.ChainSeen, number: int) -> None:
    """Move the cursor, and forget what no reorganisation reaches any more."""
    ledger.set_totals(block=record.number, block_hash=record.hash, block_time=record.timestamp)
    ledger.marks[block_key(record.number)] = Mark(record.hash, record.timestamp)
    # The newest mark out of reach stays: it is where the deepest reorganisation leads back to.
    *forgotten, last = sorted(key for key in ledger.marks if block_of(key) <= record.number - REORG_BLOCKS_MAX) or [b""]
    if not forgotten:
        return
    for mark in forgotten:
        del ledger.marks[mark]
    ledger.undo.forget(block_of(last))
    ledger.sums_before.forget(block_of(last))
    for each in [key for key, mined in ledger.mined.items() if mined.block <= block_of(last)]:
        del ledger.mined[each]


def note_taken(ledger: "Ledger", identifier: ChannelId, position: int) -> None:
    """A channel was taken up as the chain had it at a block: of what it was before, nothing is known."""
    ledger.undo[block_key(position >> 32) + identifier] = Image(None)


def _keep_sums(ledger: "Ledger") -> None:
    # Not of the log's own block: what is read in one step comes in no order of blocks, and goes back as a whole.
    totals = ledger.totals
    ledger.sums_before.setdefault(block_key(totals.block + 1), SumsBefore(totals.received, totals.settled))


# -- own transactions --


def apply_transaction_signed(ledger: "Ledger", record: r.TransactionSigned, number: int) -> None:
    """A transaction is outstanding. One that it replaces, of the same sender and nonce, may be mined all the same."""
    ledger.transactions[record.hash] = record
    ledger.nonces[record.sender] = max(ledger.nonces.get(record.sender, 0), record.nonce + 1)


def apply_transaction_mined(ledger: "Ledger", record: r.TransactionMined, number: int) -> None:
    """A transaction is mined, so that no other one of its sender and nonce can be."""
    signed = ledger.transactions.get(record.hash)
    if signed is None:
        return
    others = tuple(each for each in _take_nonce(ledger, signed) if each.hash != signed.hash)
    ledger.mined[record.hash] = Mined(
        signed, record.block, record.gas_used, record.fee, record.succeeded, record.block_hash, others
    )
    ledger.count(gas_used=record.gas_used, gas_fee=record.fee)


def apply_transaction_unmined(ledger: "Ledger", record: r.TransactionUnmined, number: int) -> None:
    """The block that held a transaction is not on the chain: it is outstanding again."""
    _put_back(ledger, record.hash)


def apply_transaction_lost(ledger: "Ledger", record: r.TransactionLost, number: int) -> None:
    """A nonce was used by a transaction that is not in this journal."""
    lost = ledger.transactions.get(record.hash)
    if lost is not None:
        _take_nonce(ledger, lost)


def _take_nonce(ledger: "Ledger", of: r.TransactionSigned) -> list[r.TransactionSigned]:
    same = [each for each in ledger.transactions.values() if (each.sender, each.nonce) == (of.sender, of.nonce)]
    for each in same:
        del ledger.transactions[each.hash]
    return same


def _put_back(ledger: "Ledger", tx_hash: bytes) -> None:
    mined = ledger.mined.pop(tx_hash, None)
    if mined is None:
        return
    for each in (mined.transaction, *mined.others):
        ledger.transactions[each.hash] = each
    ledger.count(gas_used=-mined.gas_used, gas_fee=-mined.fee)


# -- reorganisations --


def chain_side(channel: Channel) -> ContractReceiveReverted:
    """Return the change that puts the chain's side of a channel back to what it is now."""
    return ContractReceiveReverted(
        balance=channel.balance,
        claimed=channel.claimed,
        withdrawing=channel.withdrawing,
        withdrawn=channel.withdrawn,
        refunded=channel.refunded,
        position=channel.position,
        withdraw_after=channel.withdraw_after,
    )


def touched(ledger: "Ledger", block: int) -> dict[ChannelId, ContractReceiveReverted | None]:
    """Return the channels that later blocks than `block` changed, each with what it was at that block.

    It is None for a channel that was taken up in a later block. Channels whose closing ended later are among them.
    """
    found: dict[ChannelId, ContractReceiveReverted | None] = {}
    for key in sorted(ledger.undo.after(block)):
        found.setdefault(key[8:], ledger.undo[key].before)
    for identifier, closing in ledger.closed.items():
        if closing.block > block:
            found.setdefault(identifier, chain_side(ledger.channels[identifier]))
    return found


def highest_effect(ledger: "Ledger") -> int:
    """Return the last block that the ledger holds anything of."""
    blocks = [ledger.totals.block, *ledger.undo.blocks, *ledger.sums_before.blocks]
    blocks += [mined.block for mined in ledger.mined.values()]
    return max((*blocks, *(closing.block for closing in ledger.closed.values())))


def differences(ledger: "Ledger", record: r.ChainReverted) -> list[str]:
    """Return in words what the ledger would be after this record and the chain is not; empty when they agree."""
    expected = touched(ledger, record.number)
    if {row.id for row in record.channels} != expected.keys():
        return ["other channels were read than were changed"]
    found = []
    for row in record.channels:
        before = expected[row.id]
        read = (row.balance, row.claimed, row.withdrawing)
        if before is not None and read != (before.balance, before.claimed, before.withdrawing):
            kept = (before.balance, before.claimed, before.withdrawing)
            found.append(f"channel 0x{row.id.hex()}: balance, claimed, withdrawing are {read}, kept was {kept}")
        if row.claimed > ledger.channels[row.id].committed:
            found.append(f"channel 0x{row.id.hex()}: {row.claimed} is claimed and less was signed")
    return found + _lane_differences(ledger, record, expected) + _party_differences(ledger, record)


def _lane_differences(
    ledger: "Ledger", record: r.ChainReverted, expected: Mapping[ChannelId, ContractReceiveReverted | None]
) -> list[str]:
    if not record.lanes:
        return ["the lanes were not read"] if expected or _sums_after(ledger, record.number) is not None else []
    settled = settled_after(ledger, record.number)
    read = sum(row.total_settled for row in record.lanes)
    found = [] if read == settled else [f"{read} was settled to the lanes, kept was {settled}"]
    return found + [
        f"lane 0x{lane.hex()}: its own channels' claims exceed its total by {-foreign}"
        for lane, foreign in _foreign_after(ledger, record).items()
        if foreign < 0
    ]


def _party_differences(ledger: "Ledger", record: r.ChainReverted) -> list[str]:
    return [
        f"0x{payee.hex()} was paid {paid}, {ledger.party(payee).signed} was signed"
        for payee, paid in record.paid
        if not 0 <= paid <= ledger.party(payee).signed
    ]


def settled_after(ledger: "Ledger", block: int) -> int:
    """Return what was settled to the lanes up to and in a block, as far back as the ledger remembers."""
    sums = _sums_after(ledger, block)
    return ledger.totals.settled if sums is None else sums.settled


def _sums_after(ledger: "Ledger", block: int) -> SumsBefore | None:
    first = min(ledger.sums_before.after(block), default=None)
    return None if first is None else ledger.sums_before[first]


def _foreign_after(ledger: "Ledger", record: r.ChainReverted) -> dict[bytes, int]:
    read = {row.id: row.claimed for row in record.channels}
    foreign = {row.lane: row.total_claimed for row in record.lanes}
    for channel in ledger.channels.values():
        if channel.config.receiver in foreign:
            foreign[channel.config.receiver] -= read.get(channel.id, channel.claimed)
    return foreign


def apply_chain_reverted(ledger: "Ledger", record: r.ChainReverted, number: int) -> None:
    """Take back everything that the chain did in blocks after `record.number`."""
    if found := differences(ledger, record):
        raise Contradiction(f"the chain went back to block {record.number}: {'; '.join(found)}")
    sums = _sums_after(ledger, record.number)
    taken = [identifier for identifier, before in touched(ledger, record.number).items() if before is None]
    mined = [key for key, each in ledger.mined.items() if each.block > record.number]
    _note_reorganisation(ledger, record, sums, len(mined))
    for lane, foreign in _foreign_after(ledger, record).items():
        if foreign != ledger.foreign.get(lane, 0):
            ledger.foreign[lane] = foreign
    for identifier, change in _changes(ledger, record):
        ledger.change(identifier, change)
        if change.closing:
            ledger.closings[identifier] = replace(ledger.closed.pop(identifier), block=0)
    if sums is not None:
        ledger.set_totals(received=sums.received, settled=sums.settled)
    for payee, paid in record.paid:
        ledger.parties[payee] = replace(ledger.party(payee), paid=paid)
    for tx_hash in mined:
        _put_back(ledger, tx_hash)
    for table in (ledger.undo, ledger.sums_before):
        for key in list(table.after(record.number)):
            del table[key]
    for identifier in taken:  # what they are now was read of this block: of earlier ones, nothing is known still
        ledger.undo[block_key(record.number) + identifier] = Image(None)
    for key in [key for key in ledger.marks if block_of(key) > record.number]:
        del ledger.marks[key]
    ledger.marks[block_key(record.number)] = Mark(record.hash, record.timestamp)
    ledger.set_totals(block=record.number, block_hash=record.hash, block_time=record.timestamp)


def _changes(ledger: "Ledger", record: r.ChainReverted) -> Iterator[tuple[ChannelId, ContractReceiveReverted]]:
    expected = touched(ledger, record.number)
    for row in record.channels:
        before = expected[row.id]
        if before is None:  # taken up in a block that is gone; every event up to this one is in what was read
            position = (record.number + 1 << 32) - 1
            before = ContractReceiveReverted(
                row.balance, row.claimed, row.withdrawing, 0, 0, position, row.withdraw_after
            )
        closed = ledger.closed.get(row.id)
        yield row.id, replace(before, closing=closed is not None and closed.block > record.number)


def _note_reorganisation(ledger: "Ledger", record: r.ChainReverted, sums: SumsBefore | None, mined: int) -> None:
    # Also when only the cursor moves: statements tell by this count why one is of a lower block than the last.
    count = ledger.totals.reorgs + 1
    ledger.set_totals(reorgs=count)
    ledger.reorgs[block_key(count)] = Reorganisation(
        from_block=record.was,
        to_block=record.number,
        at=record.at,
        channels=len(record.channels),
        transactions=mined,
        received=0 if sums is None else ledger.totals.received - sums.received,
        settled=0 if sums is None else ledger.totals.settled - sums.settled,
        missed=record.missed,
    )
    if len(ledger.reorgs) > REORGS_KEPT:
        del ledger.reorgs[min(ledger.reorgs)]


HANDLERS: dict[type, Callable[["Ledger", Any, int], None]] = {
    r.Founded: apply_founded,
    r.ChainChanged: apply_chain_changed,
    r.WithdrawalForeseen: apply_withdrawal_foreseen,
    r.ForeignClaimed: apply_foreign_claimed,
    r.CashReceived: apply_cash,
    r.LaneSettled: apply_lane_settled,
    r.ChainSeen: apply_chain_seen,
    r.ChainReverted: apply_chain_reverted,
    r.TransactionSigned: apply_transaction_signed,
    r.TransactionMined: apply_transaction_mined,
    r.TransactionUnmined: apply_transaction_unmined,
    r.TransactionLost: apply_transaction_lost,
}
