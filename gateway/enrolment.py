"""Enrolling devices: what the operator says, checked, journaled and registered."""

import re
from collections.abc import Mapping
from typing import Any

from devices.registry import ACCOUNTS_PER_DEVICE_MAX, PAYERS_PER_DEVICE_MAX, Registry, RegistryError
from devices.topics import is_id
from gateway.books import Books
from gateway.records import DeviceAdded

NOTE_MAX = 200


class BadRequest(ValueError):
    """What was asked for cannot be; the text says what was expected."""


def parse_device(body: Any) -> DeviceAdded:
    """Return the record for {"device", "payers"?, "accounts"?, "note"?}. Raises BadRequest."""
    if not isinstance(body, Mapping) or not isinstance(body.get("device"), str) or not is_id(body["device"]):
        raise BadRequest("device: expected 1 to 64 of A-Z a-z 0-9 _ -")
    note = body.get("note", "")
    if not isinstance(note, str) or len(note) > NOTE_MAX or not note.isprintable():
        raise BadRequest(f"note: expected at most {NOTE_MAX} printable characters")
    return DeviceAdded(
        device=body["device"],
        payers=_hex_list(body, "payers", 20, PAYERS_PER_DEVICE_MAX),
        note=note,
        accounts=_hex_list(body, "accounts", 32, ACCOUNTS_PER_DEVICE_MAX),
    )


def _hex_list(body: Mapping[str, Any], name: str, size: int, most: int) -> tuple[bytes, ...]:
    values = body.get(name, [])
    if not isinstance(values, list) or len(values) > most:
        raise BadRequest(f"{name}: expected a list of at most {most}")
    for value in values:
        if not isinstance(value, str) or not re.fullmatch(rf"0x[0-9a-fA-F]{{{2 * size}}}", value, re.ASCII):
            raise BadRequest(f"{name}: {value!r} is not 0x and {2 * size} hex digits")
    return tuple(bytes.fromhex(value[2:]) for value in values)


async def add_device(books: Books, registry: Registry, record: DeviceAdded) -> None:
    """Enrol a device, or add to what it may open. Raises BadRequest when a bound is reached."""
    known = books.ledger.devices.get(record.device.encode())
    payers = set(record.payers) | set(known.payers if known else ())
    accounts = set(record.accounts) | set(known.accounts if known else ())
    if len(payers) > PAYERS_PER_DEVICE_MAX:
        raise BadRequest(f"device {record.device} would have more than {PAYERS_PER_DEVICE_MAX} payers")
    if len(accounts) > ACCOUNTS_PER_DEVICE_MAX:
        raise BadRequest(f"device {record.device} would have more than {ACCOUNTS_PER_DEVICE_MAX} accounts")
    try:
        registry.add_device(record.device, record.note)
        for payer in record.payers:
            registry.enrol_payer(record.device, payer)
        for account in record.accounts:
            registry.enrol_account(account)
    except RegistryError as error:
        raise BadRequest(str(error)) from error
    note = record.note or (known.note if known else "")
    await books.write([DeviceAdded(record.device, tuple(sorted(payers)), note, tuple(sorted(accounts)))])
