"""A device's state as bytes for its flash, and back."""

from typing import Any

import cbor2

from firmware_sim.account import Account
from firmware_sim.books import Position
from firmware_sim.closing import CloseRequest, Closing
from firmware_sim.deposits import Request
from firmware_sim.device import Device
from firmware_sim.digests import ChannelConfig
from firmware_sim.window import Flight, Raw, Signed
from firmware_sim.wire import Authorization, answers_of

_VERSION = 1


def save(device: Device) -> bytes:
    """Everything that must survive a restart; signed readings whole, because they are resent unchanged.

    What made the device stop is left out: a restart is the operator's way to try again.
    """
    account, books, deposits, tariffs = device.account, device.books, device.deposits, device.tariffs
    request = deposits.request
    config = account.config if account else None
    state: dict[str, object] = {
        "v": _VERSION,
        "key": device.identity.meter_key.address,
        "account": [account.chain_id, _fields(config) if config else None] if account else None,
        "base": _position(books.base) if books.base else None,
        "money": [books.offset, books.balance, books.commit, books.next_seq],
        "deposits": [deposits.count, deposits.spent, deposits.returned],
        "opening": _deposit(deposits.opening),
        "request": [request.payload, request.offer, _deposit(request.deposit)] if request else None,
        "raw": [[raw.register, raw.time_ms, raw.offer, raw.sent_us] for raw in device.window.raw],
        "signed": [_signed(entry) for entry in device.window.signed],
        "meter": [device.meter, device.taken, device.session],
        "opened": device.opened,
        "closing": _closing(device.closing),
        "pins": [tariffs.authorizer, tariffs.network, tariffs.asset],
        "serial": tariffs.serial,
    }
    return cbor2.dumps(state)


def restore(device: Device, data: bytes) -> bool:
    """Put saved state into a new device; False, and nothing changed, if it is of another version or key."""
    state: dict[str, Any] = cbor2.loads(data)
    if state.get("v") != _VERSION or state.get("key") != device.identity.meter_key.address:
        return False
    if state["account"] is not None:
        chain_id, config = state["account"]
        device.account = Account(device.identity, chain_id, ChannelConfig(*config) if config else None)
    books, deposits, tariffs = device.books, device.deposits, device.tariffs
    books.base = Position(*state["base"]) if state["base"] else None
    books.offset, books.balance, books.commit, books.next_seq = state["money"]
    deposits.count, deposits.spent, *returned = state["deposits"]
    deposits.returned = sum(returned)  # states of before devices could close have none
    deposits.opening = Authorization(*state["opening"]) if state["opening"] else None
    if state["request"]:
        payload, offer, deposit = state["request"]
        deposits.request = Request(payload, answers_of(payload), offer, Authorization(*deposit) if deposit else None)
    device.window.raw.extend(Raw(*raw) for raw in state["raw"])
    for entry in state["signed"]:
        device.window.add(_unsigned(entry))
    device.meter, device.taken, session = state["meter"]
    device.session = session + 1
    device.opened = state["opened"]
    _resume_closing(device, state.get("closing"))
    authorizer, network, asset = state["pins"]
    tariffs.authorizer = tariffs.authorizer or authorizer
    tariffs.network = tariffs.network or network
    tariffs.asset = tariffs.asset or asset
    tariffs.serial = state["serial"]
    return True


def _closing(closing: Closing) -> list[object]:
    request = closing.request
    return [closing.wanted, closing.done, closing.refunded, [request.payload, request.seq] if request else None]


def _resume_closing(device: Device, fields: list[Any] | None) -> None:
    """Go on closing; a device whose channel was closed opens it again, with a new deposit."""
    if fields is None:
        return
    wanted, done, refunded, request = fields
    if done and not device.identity.earns:
        device.opened = False
        device.deposits.opening = None
    if done:
        return
    device.closing = Closing(wanted, done, refunded)
    if request:
        payload, seq = request
        device.closing.request = CloseRequest(payload, answers_of(payload), seq)


def _fields(config: ChannelConfig) -> list[object]:
    return [
        config.payer,
        config.payer_authorizer,
        config.receiver,
        config.receiver_authorizer,
        config.token,
        config.withdraw_delay,
        config.salt,
    ]


def _position(position: Position) -> list[int]:
    return [position.seq, position.register, position.exact]


def _deposit(deposit: Authorization | None) -> list[object] | None:
    if deposit is None:
        return None
    return [deposit.amount, deposit.valid_after, deposit.valid_before, deposit.salt, deposit.signature]


def _signed(entry: Signed) -> list[object]:
    denied = entry.flight is Flight.DENIED
    return [
        _position(entry.position), entry.price, entry.offer, entry.time_ms, entry.payload, entry.sent_us, denied,
        entry.reason,
    ]  # fmt: skip


def _unsigned(fields: list[Any]) -> Signed:
    position, price, offer, time_ms, payload, sent_us, denied, reason = fields
    # What was not refused may have been accepted while the device was off: resent unchanged, first of all.
    flight = Flight.DENIED if denied else Flight.UNKNOWN if sent_us else Flight.READY
    return Signed(Position(*position), price, offer, time_ms, payload, answers_of(payload), flight, sent_us, reason)
