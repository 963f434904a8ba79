"""Devices: the list, one device with its readings and charts, enrolling, changing and closing."""

import time

from channels.state import Account, Channel
from devices.topics import is_id
from gateway.enrolment import add_device, parse_device
from gateway.records import DeviceAdded
from gateway.views import closing_view
from gateway.web.access import Scope
from gateway.web.api.common import before, hex_bytes, not_found, supervised
from gateway.web.desk import Desk
from gateway.web.devices_index import fill_of
from gateway.web.endpoints import PAGING, Asked, Endpoint, Page, Query, one_of, whole
from gateway.web.listing import ORDERS, PROBLEMS, STATUSES, Wish
from gateway.web.readings import Holder, last_readings, series
from gateway.web.shapes import (
    AccountShape,
    ChannelShape,
    Closed,
    CloseRequest,
    ClosingRow,
    DeviceChange,
    DevicePage,
    DeviceRow,
    Event,
    NewDevice,
    ReadingShape,
    Series,
)

RANGES = {"10m": 600, "24h": 86_400, "all": None}
_LIST = (
    Query("search", {"type": "string", "maxLength": 64}, "part of the name or note"),
    Query("status", {"type": "string", "enum": list(STATUSES)}, "only these"),
    Query("service", {"type": "string", "maxLength": 64}, "only with this service"),
    Query("problem", {"type": "string", "enum": list(PROBLEMS)}, "only with this problem; any: with one"),
    Query("sort", {"type": "string", "enum": list(ORDERS), "default": "device"}, "rising; with - falling"),
    *PAGING,
)


class Devices:
    """The handlers of one desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._gateway = desk.gateway

    def endpoints(self) -> list[Endpoint]:
        """Return the rows of this subject."""
        one, read, operate, tag = "/devices/{device}", Scope.READ, Scope.OPERATE, "devices"
        chart = (
            Query("range", {"type": "string", "enum": list(RANGES), "default": "24h"}, "how far back"),
            Query("service", {"type": "string", "maxLength": 64}, "which service; else the first one"),
        )
        return [
            Endpoint("GET", "/devices", read, self.all, Page[DeviceRow], "List devices", "devices", queries=_LIST),
            Endpoint("POST", "/devices", operate, self.enrol, DevicePage, "Enrol a device", tag, NewDevice, status=201),
            Endpoint("GET", one, read, self.show, DevicePage, "One device", "devices"),
            Endpoint("PATCH", one, operate, self.change, DevicePage, "Add to a device", tag, DeviceChange),
            Endpoint(
                "POST", f"{one}/close", operate, self.close, Closed, "Close channels of a device", "devices",
                CloseRequest, status=202,
            ),
            Endpoint(
                "GET", f"{one}/readings", read, self.readings, Page[ReadingShape],
                "Accepted readings, newest first; of each channel and account the last thousand", "devices",
                queries=PAGING,
            ),
            Endpoint("GET", f"{one}/series", read, self.series, Series, "Register and amount", tag, queries=chart),
            Endpoint(
                "GET", f"{one}/refusals", read, self.refusals, Page[Event], "Refusals since the start", "devices",
                queries=PAGING,
            ),
        ]  # fmt: skip

    async def all(self, asked: Asked) -> Page[DeviceRow]:
        """Return a page of devices."""
        query = asked.query
        wish = Wish(
            search=query.get("search", "")[:64],
            status=one_of(query, "status", STATUSES),
            service=query.get("service", "")[:64],
            problem=one_of(query, "problem", PROBLEMS),
            sort=one_of(query, "sort", ORDERS, "device") or "device",
        )
        return Page(*await self._desk.listing.page(wish, query.get("cursor", ""), asked.limit()))

    async def show(self, asked: Asked) -> DevicePage:
        """Return one device."""
        return self._page(asked.path["device"])

    async def enrol(self, asked: Asked) -> DevicePage:
        """Enrol a device."""
        body: NewDevice = asked.body
        return await self._add(body.device, body.payers, body.accounts, body.note)

    async def change(self, asked: Asked) -> DevicePage:
        """Add to a device; one that is known by its channels only is enrolled by that."""
        body: DeviceChange = asked.body
        device = asked.path["device"]
        if self._gateway.registry.device(device) is None:
            raise not_found("such device")
        return await self._add(device, body.payers, body.accounts, body.note)

    async def close(self, asked: Asked) -> Closed:
        """Begin to close channels; it goes on by itself."""
        body: CloseRequest = asked.body
        device = asked.path["device"]
        if self._gateway.registry.device(device) is None:
            raise not_found("such device")
        channel = None if body.channel is None else hex_bytes(body.channel, 32, "a channel id")
        ids = await supervised(self._gateway, self._gateway.closings.close(device, channel))
        view = closing_view(self._gateway.ledger, ids)
        rows = [
            ClosingRow(
                channel_id=row["channelId"],
                **{name: row[name] for name in ("service", "phase", "payer", "claimed", "refunded", "unclaimed")},
            )
            for row in view["channels"]
        ]
        return Closed(closed=view["closed"], channels=rows)

    async def readings(self, asked: Asked) -> Page[ReadingShape]:
        """Return accepted readings, newest first."""
        cursor = asked.query.get("cursor", "")
        commit, _, seq = cursor.partition(".")
        behind = None
        if cursor:
            numbers = {"commit": commit, "seq": seq}
            behind = tuple(whole(numbers, name, 0, 0, 2**63 - 1) for name in ("commit", "seq"))
        limit = asked.limit()
        channels, accounts = self._holders(asked.path["device"])
        gateway = self._gateway
        found = await last_readings(
            gateway.books.journal.path,
            gateway.ledger,
            [*channels, *accounts],
            None if behind is None else (behind[0], behind[1]),
            limit + 1,
        )
        items = found[:limit]
        return Page(items, f"{items[-1].commit}.{items[-1].seq}" if len(found) > limit else None)

    async def series(self, asked: Asked) -> Series:
        """Return the chart of one service of a device."""
        seconds = RANGES[one_of(asked.query, "range", tuple(RANGES), "24h") or "24h"]
        service = asked.query.get("service", "")
        channels, accounts = self._holders(asked.path["device"])
        both: tuple[Holder, ...] = (*channels[::-1], *accounts)
        holders = [each for each in both if not service or each.service == service]
        if not holders:
            return Series(names=["register", "amount"], t=[], v=[[], []])
        since = None if seconds is None else int((time.time() - seconds) * 1000)
        return await series(self._gateway.books.journal.path, self._gateway.ledger, holders[0], since)

    async def refusals(self, asked: Asked) -> Page[Event]:
        """Return the refusals of a device; one that nobody knows may have some, too."""
        device, limit = asked.path["device"], asked.limit()
        if not is_id(device):
            raise not_found("such device")
        found = self._desk.activity.newest(before(asked), limit + 1, kind="refusal", device=device)
        return Page(found[:limit], str(found[limit - 1].id) if len(found) > limit else None)

    # -- inside --

    async def _add(self, device: str, payers: list[str], accounts: list[str], note: str) -> DevicePage:
        async def add() -> None:
            record: DeviceAdded = parse_device({"device": device, "payers": payers, "accounts": accounts, "note": note})
            await add_device(self._gateway.books, self._gateway.registry, record)

        await supervised(self._gateway, add())
        return self._page(device)

    def _holders(self, device: str) -> tuple[list[Channel], list[Account]]:
        known = self._gateway.registry.device(device)
        if known is None:
            raise not_found("such device")
        ledger = self._gateway.ledger
        channels = [ledger.channels[key] for key in known.channels if key in ledger.channels]
        return channels, [ledger.accounts[key] for key in known.accounts if key in ledger.accounts]

    def _page(self, device: str) -> DevicePage:
        channels, accounts = self._holders(device)
        self._desk.index.refresh()
        row = self._desk.index.rows[device]
        enrolled = self._gateway.ledger.devices.get(device.encode())
        return DevicePage(
            row=self._desk.listing.shape(row),
            payers=[f"0x{payer.hex()}" for payer in enrolled.payers] if enrolled else [],
            enrolled_accounts=[f"0x{account.hex()}" for account in enrolled.accounts] if enrolled else [],
            channels=[self._channel(channel) for channel in channels],
            accounts=[self._account(account) for account in accounts],
        )

    def _unit(self, service: str) -> str:
        known = self._gateway.terms.book.service(service)
        return known[0] if known else ""

    def _channel(self, channel: Channel) -> ChannelShape:
        aside = self._gateway.ledger.aside.get(channel.id)
        return ChannelShape(
            channel_id=f"0x{channel.id.hex()}",
            service=channel.service,
            unit=self._unit(channel.service),
            phase=channel.phase.name.lower(),
            payer=f"0x{channel.config.payer.hex()}",
            payer_authorizer=f"0x{channel.config.payer_authorizer.hex()}",
            lane=channel.lane,
            last_seq=channel.meter.seq,
            register=channel.meter.register,
            first_register=channel.first_register,
            charged=str(channel.charged),
            offset=str(channel.offset),
            forgiven=str(channel.forgiven),
            claimed=str(channel.claimed),
            owed=str(channel.owed),
            unclaimed=str(channel.unclaimed),
            ceiling=str(channel.ceiling),
            voucher=f"0x{channel.ceiling_signature.hex()}",
            balance=str(channel.balance),
            usable_balance=str(channel.usable_balance),
            deposited=str(channel.deposited),
            refunded=str(channel.refunded),
            withdrawn=str(channel.withdrawn),
            withdrawing=str(channel.withdrawable),
            withdraw_after=channel.finalize_after or None,
            fill=fill_of(channel),
            set_aside="" if aside is None else aside.reason,
        )

    def _account(self, account: Account) -> AccountShape:
        ledger = self._gateway.ledger
        return AccountShape(
            account_id=f"0x{account.id.hex()}",
            service=account.service,
            unit=self._unit(account.service),
            payee=f"0x{account.payee.hex()}",
            meter_key=f"0x{account.meter_key.hex()}",
            last_seq=account.meter.seq,
            register=account.meter.register,
            first_register=account.first_register,
            earned=str(account.earned),
            fee=str(account.fee),
            offset=str(account.offset),
            net=str(account.net),
            paid=str(ledger.party(account.payee).paid),
        )
