"""What settling, paying and closing do to the ledger. Every amount is cumulative, so a record twice is one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from channels.earning import offset_account
from channels.machine import Contradiction
from channels.state import ActionClose, ActionClosed, ActionOffset, ActionSignClaim, ReceiveClose
from gateway import records as r
from gateway.entries import Aside, Closing, Party, Refunds, SignedRefund

if TYPE_CHECKING:
    from gateway.ledger import Ledger

# Shown to the operator; the journal holds all of them.
ENDED_KEPT = 100


def apply_cycle_started(ledger: "Ledger", record: r.CycleStarted, number: int) -> None:
    """A cycle nets, and plans claims: each is signed for with its transaction."""
    for identifier, offset in record.channel_offsets:
        ledger.change(identifier, ActionOffset(offset))
    for identifier, offset in record.account_offsets:
        ledger.put_account(offset_account(ledger.accounts[identifier], offset))
    ledger.cycles[record.number.to_bytes(8, "big")] = record
    ledger.set_totals(cycles=record.number)


def apply_cycle_ended(ledger: "Ledger", record: r.CycleEnded, number: int) -> None:
    """A cycle is done."""
    key = record.number.to_bytes(8, "big")
    # A cycle that a crash cut short is taken up by the next one, and ends with it.
    for started in [started for started in ledger.cycles if started <= key]:
        del ledger.cycles[started]
    ledger.ended[key] = record
    ledger.count(settlements=1)
    if len(ledger.ended) > ENDED_KEPT:
        del ledger.ended[min(ledger.ended)]


def apply_rows_set_aside(ledger: "Ledger", record: r.RowsSetAside, number: int) -> None:
    """Rows reverted alone, and others before them went through."""
    for _, key in record.cleared:
        ledger.aside.pop(key, None)
    for name, key, reason in record.rows:
        before = ledger.aside.get(key)
        ledger.aside[key] = Aside(name, reason, record.cycle, 1 if before is None else before.times + 1)


# -- payouts --


def apply_payouts_signed(ledger: "Ledger", record: r.PayoutsSigned, number: int) -> None:
    """Payouts are about to be signed."""
    for payee, cumulative in record.rows:
        party = ledger.party(payee)
        due = sum(ledger.accounts[account].net for account in ledger.by_payee.get(payee, ()))
        if cumulative > due:
            raise Contradiction(f"payout of {cumulative} to 0x{payee.hex()} with {due} due")
        ledger.parties[payee] = replace(party, signed=max(party.signed, cumulative))


def apply_payees_met(ledger: "Ledger", record: r.PayeesMet, number: int) -> None:
    """Payees before their first payout."""
    for payee, base in record.rows:
        ledger.parties[payee] = Party(base=base)


def apply_payouts_paid(ledger: "Ledger", record: r.PayoutsPaid, number: int) -> None:
    """Payouts are on the chain."""
    for payee, cumulative in record.rows:
        party = ledger.party(payee)
        if cumulative > party.signed:
            raise Contradiction(f"0x{payee.hex()} was paid {cumulative}, {party.signed} was signed")
        ledger.parties[payee] = replace(party, paid=max(party.paid, cumulative))


# -- closing --


def apply_channel_closing(ledger: "Ledger", record: r.ChannelClosing, number: int) -> None:
    """A device or the operator closes a channel."""
    channel = ledger.channels[record.id]
    if record.seq:
        ledger.change(record.id, ReceiveClose(record.seq, channel.device, True))
        ledger.note(record.id, record.seq, number)
    else:
        ledger.change(record.id, ActionClose())
    begun = ledger.closings.get(record.id) or Closing(0, b"", False, channel.claimed, channel.refunded)
    if record.seq:  # the operator's leaves a device that asked before with its answer
        begun = replace(begun, seq=record.seq, answers=record.answers, cbor=record.cbor)
    ledger.closings[record.id] = begun


def apply_claims_signed(ledger: "Ledger", record: r.ClaimsSigned, number: int) -> None:
    """Claims are signed for, by a transaction of the same commit."""
    for identifier, total in record.rows:
        ledger.change(identifier, ActionSignClaim(total))
        ledger.since[identifier] = ledger.totals.block_time


def apply_refund_signed(ledger: "Ledger", record: r.RefundSigned, number: int) -> None:
    """A refund is about to be signed."""
    channel, closing = ledger.channels[record.id], ledger.closings[record.id]
    free = channel.balance - max(channel.owed, channel.committed)
    if not 0 < record.amount <= free:
        raise Contradiction(f"refund of {record.amount} of 0x{record.id.hex()} with {free} free")
    ledger.closings[record.id] = replace(
        closing, refund_nonce=record.nonce, refund_amount=record.amount, refunds=closing.refunds + 1
    )
    known = ledger.refunds.get(record.id) or Refunds()
    signed = SignedRefund(record.nonce, record.amount, channel.refunded)
    ledger.refunds[record.id] = replace(known, signed=(*known.signed, signed))


def apply_channel_closed(ledger: "Ledger", record: r.ChannelClosed, number: int) -> None:
    """A closing is done."""
    ledger.change(record.id, ActionClosed())
    ledger.closed[record.id] = replace(ledger.closings.pop(record.id), block=record.block)
    known = ledger.refunds.get(record.id) or Refunds()
    if record.refund_nonce > known.nonce:
        ledger.refunds[record.id] = replace(known, nonce=record.refund_nonce)
    ledger.aside.pop(record.id, None)


HANDLERS: dict[type, Callable[["Ledger", Any, int], None]] = {
    r.CycleStarted: apply_cycle_started,
    r.CycleEnded: apply_cycle_ended,
    r.RowsSetAside: apply_rows_set_aside,
    r.PayoutsSigned: apply_payouts_signed,
    r.PayeesMet: apply_payees_met,
    r.PayoutsPaid: apply_payouts_paid,
    r.ChannelClosing: apply_channel_closing,
    r.ClaimsSigned: apply_claims_signed,
    r.RefundSigned: apply_refund_signed,
    r.ChannelClosed: apply_channel_closed,
}
