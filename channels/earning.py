"""Earner accounts: readings that the gateway pays for (docs/protocol.md 4 and 6)."""

from msgspec.structs import replace

from channels.machine import Contradiction
from channels.pricing import fee
from channels.readings import metered, sequence_refusal
from channels.refusals import Refusal
from channels.state import Account, ReceiveReading


def earn(account: Account, reading: ReceiveReading, fee_basis_points: int) -> Account | Refusal:
    """Apply an earning reading: the gross amount and the operator's fee on it, remainders carried.

    The first reading of an account with a past adds nothing: metering begins at its register, and not at the one of
    `open`, which may be from before what was paid already (docs/protocol.md 6).
    """
    refusal = sequence_refusal(account.meter, account.device, reading)
    if refusal is not None:
        return refusal
    if account.past and account.meter.seq == 0:
        begin = max(account.first_register, reading.register)
        account = replace(account, meter=replace(account.meter, register=begin), first_register=begin)
    priced = metered(account.meter, account.earned, reading)
    if isinstance(priced, Refusal):
        return priced
    meter, added = priced
    fee_added, fee_remainder = fee(account.fee_remainder, added, fee_basis_points)
    return replace(
        account,
        meter=meter,
        earned=account.earned + added,
        fee=account.fee + fee_added,
        fee_remainder=fee_remainder,
    )


def offset_account(account: Account, offset: int) -> Account:
    """Settle part of what is due by netting; `offset` is cumulative, so a lower one is a replay."""
    if offset <= account.offset:
        return account
    if offset > account.earned - account.fee:
        raise Contradiction(f"offset {offset} with {account.earned - account.fee} earned")
    return replace(account, offset=offset)
