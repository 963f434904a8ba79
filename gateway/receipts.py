"""Receipts from states and records (docs/protocol.md 3)."""

from msgspec.structs import replace

from channels.refusals import Refusal
from channels.state import Account, Channel
from devices.messages import Receipt, Status
from gateway.records import Charged, Earned


def channel_receipt(
    channel: Channel,
    seq: int,
    answers: bytes,
    commit: int,
    refusal: Refusal | None = None,
    required_ceiling: int | None = None,
) -> Receipt:
    """Return the receipt about a channel of the sender, in the state after the message."""
    return Receipt(
        status=Status.ACCEPTED if refusal is None else Status.REFUSED,
        reason=refusal,
        answers=answers,
        id=channel.id,
        seq=seq,
        ceiling=channel.ceiling,
        signature=channel.ceiling_signature or None,
        cumulative=channel.charged,
        balance=channel.usable_balance,
        required_ceiling=required_ceiling,
        commit=commit,
        last_seq=channel.meter.seq,
        last_register=channel.meter.register,
        last_remainder=channel.meter.remainder,
        last_offer=channel.meter.offer,
        offset=channel.offset,
    )


def closed_receipt(channel: Channel, seq: int, answers: bytes, commit: int, status: Status) -> Receipt:
    """Return the answer to a close: the channel as it is now, and all that its payer ever got back."""
    receipt = channel_receipt(channel, seq, answers, commit)
    return replace(receipt, status=status, refunded=channel.refunded)


def account_receipt(account: Account, seq: int, answers: bytes, commit: int, refusal: Refusal | None = None) -> Receipt:
    """Return the receipt about an earner account of the sender, in the state after the message."""
    return Receipt(
        status=Status.ACCEPTED if refusal is None else Status.REFUSED,
        reason=refusal,
        answers=answers,
        account=True,
        id=account.id,
        seq=seq,
        cumulative=account.earned,
        commit=commit,
        last_seq=account.meter.seq,
        last_register=account.meter.register,
        last_remainder=account.meter.remainder,
        last_offer=account.meter.offer,
        offset=account.offset,
    )


def stored_receipt(record: Charged | Earned, commit: int, answers: bytes) -> Receipt:
    """Return the receipt that an accepted reading got, for its replay: all as it was then, but the status."""
    if isinstance(record, Charged):
        return Receipt(
            status=Status.DUPLICATE,
            answers=answers,
            id=record.id,
            seq=record.seq,
            ceiling=record.held_ceiling,
            signature=(record.held_signature or record.signature) if record.held_ceiling else None,
            cumulative=record.charged,
            balance=record.balance,
            commit=commit,
            last_seq=record.seq,
            last_register=record.register,
            last_remainder=record.remainder,
            last_offer=record.offer,
            offset=record.offset,
        )
    return Receipt(
        status=Status.DUPLICATE,
        answers=answers,
        account=True,
        id=record.id,
        seq=record.seq,
        cumulative=record.earned,
        commit=commit,
        last_seq=record.seq,
        last_register=record.register,
        last_remainder=record.remainder,
        last_offer=record.offer,
        offset=record.offset,
    )


def bare_refusal(
    refusal: Refusal,
    answers: bytes,
    identifier: bytes | None = None,
    seq: int | None = None,
    account: bool = False,
) -> Receipt:
    """Return a refusal that tells nothing of any state: about an unknown channel, another's, or none."""
    return Receipt(status=Status.REFUSED, reason=refusal, answers=answers, id=identifier, seq=seq, account=account)
