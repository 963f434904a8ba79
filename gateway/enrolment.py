"""Enrolling devices: what the operator says, checked, journaled and registered."""

import re
from collections.abc import Mapping
from typing import Any

from devices.registry import PAYERS_PER_DEVICE_MAX, Registry, RegistryError
from devices.topics import is_id
from gateway.books import Books
from gateway.records import DeviceAdded

NOTE_MAX = 200
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)


class BadRequest(ValueError):
    """What was asked for cannot be; the text says what was expected."""


def parse_device(body: Any) -> DeviceAdded:
    """Return the record for {"device", "payers"?, "note"?}. Raises BadRequest."""
    if not isinstance(body, Mapping) or not isinstance(body.get("device"), str) or not is_id(body["device"]):
        raise BadRequest("device: expected 1 to 64 of A-Z a-z 0-9 _ -")
    payers = body.get("payers", [])
    note = body.get("note", "")
    if not isinstance(payers, list) or len(payers) > PAYERS_PER_DEVICE_MAX:
        raise BadRequest(f"payers: expected a list of at most {PAYERS_PER_DEVICE_MAX} addresses")
    for payer in payers:
        if not isinstance(payer, str) or not _ADDRESS.fullmatch(payer):
            raise BadRequest(f"payers: {payer!r} is not 0x and 40 hex digits")
    if not isinstance(note, str) or len(note) > NOTE_MAX or not note.isprintable():
        raise BadRequest(f"note: expected at most {NOTE_MAX} printable characters")
    return DeviceAdded(body["device"], tuple(bytes.fromhex(payer[2:]) for payer in payers), note)


async def add_device(books: Books, registry: Registry, record: DeviceAdded) -> None:
    """Enrol a device, or replace what was said about it. Raises BadRequest when a bound is reached."""
    known = registry.device(record.device)
    held = set() if known is None else known.payers
    if len(held | set(record.payers)) > PAYERS_PER_DEVICE_MAX:
        raise BadRequest(f"device {record.device} would have more than {PAYERS_PER_DEVICE_MAX} payers")
    try:
        registry.add_device(record.device, record.note)
        for payer in record.payers:
            registry.enrol_payer(record.device, payer)
    except RegistryError as error:
        raise BadRequest(str(error)) from error
    payers = tuple(sorted(held | set(record.payers)))
    await books.write([DeviceAdded(record.device, payers, record.note)])
