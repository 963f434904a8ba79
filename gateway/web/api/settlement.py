"""Settlement: cycles, what settling now would do, doing it, and statements."""

import asyncio

import msgspec
from starlette.responses import Response

from gateway import records as r
from gateway.journal import parties_with_statements
from gateway.outlook import Outlook
from gateway.views import outlook_view
from gateway.web.access import Scope
from gateway.web.api.common import before, hex_bytes, not_found
from gateway.web.cycles import Found
from gateway.web.desk import Desk
from gateway.web.endpoints import PAGING, Asked, Endpoint, Page, Problem, Query, one_of, whole
from gateway.web.shapes_money import (
    AsideRow,
    CycleClaim,
    CycleDetail,
    CycleLane,
    CyclePayout,
    CycleRow,
    CycleTransaction,
    Decision,
    ExposureAfter,
    Json,
    Preview,
    Settled,
    SettleRequest,
    StatementRow,
)
from gateway.web.tiles import cycle_row
from settlement.errors import ChainRefused, ChainUnavailable

# A browser waits that long; the cycle goes on all the same.
SETTLE_WAIT_S = 60.0
ROWS_SHOWN = 200


class Settlement:
    """The handlers of one desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._gateway = desk.gateway

    def endpoints(self) -> list[Endpoint]:
        """Return the rows of this subject."""
        whatever = Query("whatever_it_costs", {"type": "string", "enum": ["yes", "no"]}, "as if gas were free")
        cycle = Query(
            "cycle", {"type": "integer", "minimum": 1, "maximum": 2**53 - 1}, "of this cycle; else the newest"
        )
        tag = "settlement"
        return [
            Endpoint("GET", "/cycles", Scope.READ, self.all, Page[CycleRow], "List cycles", tag, queries=PAGING),
            Endpoint("GET", "/cycles/{number}", Scope.READ, self.show, CycleDetail, "One cycle", tag),
            Endpoint(
                "GET", "/cycles/{number}/statements", Scope.READ, self.statements, Page[StatementRow],
                "Statements issued after a cycle", tag, queries=PAGING,
            ),
            Endpoint(
                "GET", "/statements/{party}", Scope.READ, self.statement, Json, "Download a signed statement", tag,
                queries=(cycle,),
            ),
            Endpoint(
                "GET", "/settlement/preview", Scope.READ, self.preview, Preview, "What settling now would do", tag,
                queries=(whatever,), errors=(503,),
            ),
            Endpoint(
                "POST", "/settlement", Scope.OPERATE, self.settle, Settled, "Settle now", tag, SettleRequest,
                errors=(503,),
            ),
        ]  # fmt: skip

    async def all(self, asked: Asked) -> Page[CycleRow]:
        """Return cycles, newest first."""
        behind, limit = before(asked), asked.limit()
        ledger = self._gateway.ledger
        keys = sorted({*ledger.ended, *ledger.cycles}, reverse=True)
        numbers = [int.from_bytes(key, "big") for key in keys]
        wanted = [number for number in numbers if behind is None or number < behind][: limit + 1]
        rows = [row for number in wanted[:limit] if (row := cycle_row(self._desk, number)) is not None]
        return Page(rows, str(wanted[limit - 1]) if len(wanted) > limit else None, len(numbers))

    async def show(self, asked: Asked) -> CycleDetail:
        """Return one cycle."""
        number = whole(asked.path, "number", 0, 1, 2**53 - 1)
        row = cycle_row(self._desk, number)
        if row is None:
            raise not_found("such cycle any more")
        found = await self._desk.cycles.read(number, self._gateway.books.journal.number)
        return self._detail(row, found)

    async def statements(self, asked: Asked) -> Page[StatementRow]:
        """Return the parties that got a statement after a cycle."""
        number = whole(asked.path, "number", 0, 1, 2**53 - 1)
        cursor, limit = asked.query.get("cursor", ""), asked.limit()
        behind = hex_bytes(cursor, 20, "the cursor") if cursor else b""
        path = self._gateway.books.journal.path
        found = await asyncio.to_thread(parties_with_statements, path, number, behind, limit + 1)
        rows = [StatementRow(party=f"0x{party.hex()}", cycle=number) for party in found[:limit]]
        return Page(rows, rows[-1].party if len(found) > limit else None)

    async def statement(self, asked: Asked) -> Response:
        """Return a party's statement as a file."""
        party = hex_bytes(asked.path["party"], 20, "an address")
        cycle = whole(asked.query, "cycle", 0, 1, 2**53 - 1) or None
        found = await self._gateway.statements.read(party, cycle=cycle)
        if not found:
            raise not_found("statement of this party (any more)")
        # The name is made of hex digits and a number: nothing of it comes from a device.
        name = f"statement-{party.hex()}-{cycle or 'newest'}.json"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(msgspec.json.encode(found[0]), 200, headers, "application/json")

    async def preview(self, asked: Asked) -> Preview:
        """Return what a settlement now would do."""
        whatever = one_of(asked.query, "whatever_it_costs", ("yes", "no")) == "yes"
        work = self._gateway.settler.outlook(whatever_it_costs=whatever)
        return self._preview(await self._gateway.supervised(work, ChainUnavailable, ChainRefused))

    async def settle(self, asked: Asked) -> Settled:
        """Settle now."""
        body: SettleRequest = asked.body
        cycle = self._gateway.settler.settle(whatever_it_costs=body.whatever_it_costs)
        work = self._gateway.supervised(cycle, ChainUnavailable, ChainRefused)
        try:
            ended = await asyncio.wait_for(work, SETTLE_WAIT_S)
        except (ChainUnavailable, ChainRefused) as error:
            words = f"this settlement stopped, the next one takes it up: {error}"
            raise Problem(503, "chain_unavailable", words) from error
        except TimeoutError:
            return Settled(settled=True, running=True, cycle=None)
        if ended is None:
            return Settled(settled=False, running=False, cycle=None)
        return Settled(settled=True, running=False, cycle=cycle_row(self._desk, ended.number))

    # -- inside --

    def _detail(self, row: CycleRow, found: Found | None) -> CycleDetail:
        ledger = self._gateway.ledger
        found_or_none = found or Found()
        started = found_or_none.started
        claims = dict(started.claims) if started else {}
        claims |= found_or_none.claims
        transactions = [self._transaction(signed, found_or_none) for signed in found_or_none.signed.values()]
        blocks = self._desk.blocks.of({each.block for each in transactions if each.block is not None})
        work = sum((each.speed_up or 0) * (each.execute_us or 0) for each in blocks)
        elapsed = sum(each.execute_us or 0 for each in blocks)
        aside = [(name, key, reason) for name, key, reason in found_or_none.aside]
        return CycleDetail(
            row=row,
            started_at=started.at if started else None,
            complete=started is not None,
            claims=[
                self._claim(key, total) for key, total in list(claims.items())[:ROWS_SHOWN] if key in ledger.channels
            ],
            claims_total=len(claims),
            payouts=[
                CyclePayout(payee=f"0x{payee.hex()}", cumulative=str(amount))
                for payee, amount in list(found_or_none.payouts.items())[:ROWS_SHOWN]
            ],
            offsets=len(started.channel_offsets) if started else 0,
            transactions=transactions[:ROWS_SHOWN],
            lanes=self._lanes(claims, transactions),
            blocks=blocks,
            speed_up=round(work / elapsed, 3) if elapsed else None,
            set_aside=[
                AsideRow(
                    name=name,
                    subject=f"0x{key.hex()}",
                    reason=reason,
                    cycle=row.number,
                    times=now.times if (now := ledger.aside.get(key)) else 1,
                    retry_cycle=now.retry_cycle if now else row.number + 1,
                )
                for name, key, reason in aside
            ],
        )

    def _claim(self, key: bytes, total: int) -> CycleClaim:
        channel = self._gateway.ledger.channels[key]
        return CycleClaim(
            channel_id=f"0x{key.hex()}", device=channel.device, lane=channel.lane, total_claimed=str(total)
        )

    def _transaction(self, signed: r.TransactionSigned, found: Found) -> CycleTransaction:
        mined = found.mined.get(signed.hash)
        state = "outstanding" if mined is None else "mined" if mined.succeeded else "failed"
        return CycleTransaction(
            hash=f"0x{signed.hash.hex()}",
            purpose=signed.purpose,
            key=self._desk.blocks.name(signed.sender),
            nonce=signed.nonce,
            state=state,
            block=mined.block if mined else None,
            gas_used=mined.gas_used if mined else None,
            fee=str(mined.fee) if mined else None,
        )

    def _lanes(self, claims: dict[bytes, int], transactions: "list[CycleTransaction]") -> "list[CycleLane]":
        """Return what each key did; a lane's amount is the cumulative total of its claims."""
        channels = self._gateway.ledger.channels
        known = [channels[key] for key in claims if key in channels]
        names = {f"lane {channel.lane}" for channel in known} | {each.key for each in transactions}
        return [
            CycleLane(
                key=name,
                claims=sum(1 for channel in known if f"lane {channel.lane}" == name),
                amount=str(sum(claims[channel.id] for channel in known if f"lane {channel.lane}" == name)),
                transactions=sum(1 for each in transactions if each.key == name),
                gas_used=sum(each.gas_used or 0 for each in transactions if each.key == name),
            )
            for name in sorted(names)
        ]

    def _preview(self, outlook: Outlook) -> Preview:
        view = outlook_view(outlook, ROWS_SHOWN)
        channels = self._gateway.ledger.channels
        return Preview(
            at=view["at"],
            gas_price=str(view["gas_price"]),
            **{name: view[name] for name in ("claim", "hold", "claim_cost", "offset", "pay", "pay_later")},
            exposure_after=ExposureAfter(**view["exposure_after"]),
            decisions=[
                Decision(
                    channel_id=row["channelId"],
                    device=channels[bytes.fromhex(row["channelId"][2:])].device,
                    **{
                        name: row[name]
                        for name in ("payer", "lane", "amount", "claim", "reason", "words", "cost", "due")
                    },
                )
                for row in view["decisions"]
            ],
            decisions_total=len(outlook.claiming.decisions),
        )
