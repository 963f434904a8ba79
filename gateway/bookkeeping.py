"""Double-entry books from the journal: every record becomes balanced postings.

This is a walk over the records by a small model of its own. It asks neither the ledger nor the state machines,
so that books and states that agree were come by in two ways. What a record tells cumulatively is posted as its
difference to what was posted before.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from channels.pricing import fee
from channels.state import (
    ContractReceiveClaim,
    ContractReceiveDeposit,
    ContractReceiveRefund,
    ContractReceiveWithdrawFinalized,
    ContractReceiveWithdrawInitiated,
)
from channels.types import SETTLEMENT_ADDRESS, AccountId, Address, ChannelId
from gateway import records as r
from settlement.abi import selector
from settlement.accounts import GAS_ACCOUNTS, TOKEN_ACCOUNTS, BookAccount, Books, Entry, Leg
from settlement.transactions import read_transaction

# Far more than a reorganisation reaches (gateway/chain_effects.py), even between two records of the cursor.
KEPT_BLOCKS = 8_192
_TRANSFER = selector("transfer(address,uint256)")

# Records that move no money; every other kind has a handler below.
WITHOUT_POSTINGS = frozenset(
    {
        r.OfferIssued,
        r.DeviceAdded,
        r.OpenReceived,
        r.OpenEnded,
        r.WithdrawalForeseen,
        r.PayoutsSigned,
        r.PayeesMet,
        r.CycleEnded,
        r.RowsSetAside,
        r.ChannelClosing,
        r.ClaimsSigned,
        r.RefundSigned,
        r.ChannelClosed,
    }
)


@dataclass(frozen=True, slots=True)
class _Arrival:
    """Cash that came into lanes or treasury in one block: a reorganisation may take it back."""

    block: int
    legs: tuple[Leg, ...]


@dataclass(frozen=True, slots=True)
class _Mined:
    """A mined transaction, all that were signed for its nonce, and its legs in the books of tokens and of gas."""

    block: int
    variants: tuple[r.TransactionSigned, ...]
    moved: tuple[Leg, ...]
    gas: tuple[Leg, ...]


class Bookkeeper:
    """The books as of the last commit taken in. `on_entry` sees every entry, with the books that it is in."""

    def __init__(self, on_entry: Callable[[Books, Entry], None] | None = None) -> None:
        self.token = Books("base units", TOKEN_ACCOUNTS)
        self.gas = Books("wei", GAS_ACCOUNTS)
        self.commit = 0
        self.founded: r.Founded | None = None
        self._on_entry = on_entry
        self._lanes: dict[ChannelId, Address] = {}  # of each channel
        self._positions: dict[ChannelId, int] = {}  # the last chain event of each channel
        self._payees: dict[AccountId, Address] = {}
        self._fee_remainders: dict[AccountId, int] = {}
        self._paid: dict[Address, int] = {}
        self._outstanding: dict[bytes, r.TransactionSigned] = {}
        self._mined: dict[bytes, _Mined] = {}
        self._arrivals: list[_Arrival] = []

    def take(self, number: int, records: Iterable[r.Record]) -> None:
        """Post one commit. Raises Unbalanced for one that leaves something in a clearing account."""
        self.commit = number
        for record in records:
            handler = _HANDLERS.get(type(record))
            if handler is not None:
                handler(self, record)
        self.token.check_cleared(number)

    def outstanding_transfers(self, sender: Address) -> Iterator[tuple[Address, int]]:
        """Yield (receiver, amount) of the token transfers that a key has signed and that are not booked, in order."""
        by_nonce = {each.nonce: each for each in self._outstanding.values() if each.sender == sender}
        for nonce in sorted(by_nonce):
            if (transfer := self._transfer(by_nonce[nonce].raw)) is not None:
                yield transfer

    def cash_account(self, holder: Address) -> BookAccount | None:
        """Return the account of an own address that holds the gateway's tokens; None for any other."""
        assert self.founded is not None, "the first record founds the journal"
        if holder == self.founded.treasury:
            return BookAccount.TREASURY
        return BookAccount.LANES if holder in self.founded.lanes else None

    # -- posting --

    def _post(self, books: Books, cause: str, legs: tuple[Leg, ...]) -> tuple[Leg, ...]:
        legs = tuple(leg for leg in legs if leg.amount)
        if legs:
            entry = Entry(self.commit, cause, legs)
            books.post(entry)
            if self._on_entry is not None:
                self._on_entry(books, entry)
        return legs

    def _token(self, cause: str, *legs: Leg) -> tuple[Leg, ...]:
        return self._post(self.token, cause, legs)

    def _arrived(self, position: int, cause: str, *legs: Leg) -> None:
        self._arrivals.append(_Arrival(position >> 32, self._token(cause, *legs)))

    def _reverse(self, books: Books, legs: Iterable[Leg]) -> None:
        self._post(books, "reorganisation", tuple(Leg(leg.account, leg.subject, -leg.amount) for leg in legs))

    # -- what a channel stands at, by its postings --

    def _charged(self, channel: ChannelId) -> int:
        return -self.token.balance(BookAccount.SALES, channel)

    def _claimed(self, channel: ChannelId) -> int:
        left = self.token.balance(BookAccount.OFFSET, channel) + self.token.balance(BookAccount.UNCLAIMED, channel)
        return self._charged(channel) - left

    def _balance(self, channel: ChannelId) -> int:
        return self.token.balance(BookAccount.ESCROW, channel) + self._claimed(channel)

    def _claim_legs(self, channel: ChannelId, total: int) -> tuple[Leg, ...]:
        amount = total - self._claimed(channel)
        return (
            Leg(BookAccount.UNSETTLED, self._lanes[channel], amount),
            Leg(BookAccount.UNCLAIMED, channel, -amount),
            Leg(BookAccount.PAYERS, channel, amount),
            Leg(BookAccount.ESCROW, channel, -amount),
        )

    def _balance_legs(self, channel: ChannelId, balance: int) -> tuple[Leg, ...]:
        amount = balance - self._balance(channel)
        return Leg(BookAccount.ESCROW, channel, amount), Leg(BookAccount.PAYERS, channel, -amount)

    def _foreign_legs(self, lane: Address, total: int) -> tuple[Leg, ...]:
        amount = total + self.token.balance(BookAccount.FOREIGN, lane)
        return Leg(BookAccount.UNSETTLED, lane, amount), Leg(BookAccount.FOREIGN, lane, -amount)

    # -- records: the gateway's own --

    def _founded(self, record: r.Founded) -> None:
        self.founded = record
        balances = record.balances or (record.held, *(0 for _ in record.lanes))
        settled = sum(settled for _, settled in record.lane_totals)
        legs = [Leg(BookAccount.TREASURY, record.treasury, balances[0])]
        for lane, held, (claimed, moved) in zip(record.lanes, balances[1:], record.lane_totals, strict=True):
            legs.append(Leg(BookAccount.LANES, lane, held))
            legs.append(Leg(BookAccount.UNSETTLED, lane, claimed - moved))
            legs.append(Leg(BookAccount.FOREIGN, lane, -claimed))
        # What was settled before is in the foreign claims; the rest of the cash is the operator's.
        self._token("founding", *legs, Leg(BookAccount.FLOAT, record.treasury, settled - record.held))

    def _account_opened(self, record: r.AccountOpened) -> None:
        self._payees[record.account.id] = record.account.payee

    def _channel_taken(self, record: r.ChannelTaken) -> None:
        action = record.action
        if action.id in self._lanes:
            return  # it is opened again, and goes on as it was
        lane = self._lanes[action.id] = action.config.receiver
        self._positions[action.id] = action.position
        # What was claimed on it before was charged before, and is no stranger's claim any more.
        self._token(
            "opening",
            *self._balance_legs(action.id, action.balance - action.claimed),
            Leg(BookAccount.SALES, action.id, -action.claimed),
            Leg(BookAccount.FOREIGN, lane, action.claimed),
        )

    def _reading(self, record: r.Charged) -> None:
        added = record.charged - self._charged(record.id)
        self._token("reading", Leg(BookAccount.UNCLAIMED, record.id, added), Leg(BookAccount.SALES, record.id, -added))

    def _earning(self, record: r.Earned) -> None:
        added = record.earned - self.token.balance(BookAccount.EARNINGS, record.id)
        share, remainder = fee(self._fee_remainders.get(record.id, 0), added, record.fee_basis_points)
        self._fee_remainders[record.id] = remainder
        self._token(
            "earning",
            Leg(BookAccount.EARNINGS, record.id, added),
            Leg(BookAccount.FEES, record.id, -share),
            Leg(BookAccount.EARNERS, self._payees[record.id], share - added),
        )

    def _cycle_started(self, record: r.CycleStarted) -> None:
        for channel, offset in record.channel_offsets:
            more = max(0, offset - self.token.balance(BookAccount.OFFSET, channel))
            self._token("netting", Leg(BookAccount.OFFSET, channel, more), Leg(BookAccount.UNCLAIMED, channel, -more))
        for account, offset in record.account_offsets:
            more = max(0, offset + self.token.balance(BookAccount.OFFSET, account))
            payee = self._payees[account]
            self._token("netting", Leg(BookAccount.EARNERS, payee, more), Leg(BookAccount.OFFSET, account, -more))

    def _payouts_paid(self, record: r.PayoutsPaid) -> None:
        for payee, cumulative in record.rows:
            self._pay("payout", payee, max(cumulative, self._paid.get(payee, 0)))

    def _pay(self, cause: str, payee: Address, cumulative: int) -> None:
        assert self.founded is not None, "the first record founds the journal"
        more = cumulative - self._paid.get(payee, 0)
        self._paid[payee] = cumulative
        treasury = self.founded.treasury
        self._token(cause, Leg(BookAccount.EARNERS, payee, more), Leg(BookAccount.TREASURY, treasury, -more))

    # -- records: the chain's --

    def _chain_changed(self, record: r.ChainChanged) -> None:
        channel, change = record.id, record.change
        if change.position <= self._positions[channel]:
            return
        self._positions[channel] = change.position
        match change:
            case ContractReceiveDeposit():
                self._token("deposit", *self._balance_legs(channel, change.balance))
            case ContractReceiveClaim():
                self._token("claim", *self._claim_legs(channel, change.total_claimed))
            case ContractReceiveWithdrawFinalized():
                self._token("withdrawal", *self._balance_legs(channel, self._balance(channel) - change.amount))
            case ContractReceiveRefund():
                self._token("refund", *self._balance_legs(channel, self._balance(channel) - change.amount))
            case ContractReceiveWithdrawInitiated():
                pass  # no money moves yet

    def _foreign_claimed(self, record: r.ForeignClaimed) -> None:
        self._token("foreign claim", *self._foreign_legs(record.lane, record.total))

    def _cash_received(self, record: r.CashReceived) -> None:
        account = self.cash_account(record.holder)
        assert account is not None, "only transfers to own addresses are journaled"
        # The operator pays into the treasury. What comes to a lane, or out of the contract by a stranger's doing,
        # was not asked for.
        given = account is BookAccount.LANES or record.sender == SETTLEMENT_ADDRESS
        cause, source = ("gift", BookAccount.DONATED) if given else ("float", BookAccount.FLOAT)
        self._arrived(
            record.position,
            cause,
            Leg(account, record.holder, record.amount),
            Leg(source, record.sender, -record.amount),
        )

    def _lane_settled(self, record: r.LaneSettled) -> None:
        self._arrived(
            record.position,
            "settlement",
            Leg(BookAccount.LANES, record.lane, record.amount),
            Leg(BookAccount.UNSETTLED, record.lane, -record.amount),
        )

    def _chain_seen(self, record: r.ChainSeen) -> None:
        kept = record.number - KEPT_BLOCKS
        if self._arrivals and self._arrivals[0].block <= kept:
            self._arrivals = [arrival for arrival in self._arrivals if arrival.block > kept]
        for tx_hash in [tx_hash for tx_hash, mined in self._mined.items() if mined.block <= kept]:
            del self._mined[tx_hash]

    # -- records: own transactions --

    def _transaction_signed(self, record: r.TransactionSigned) -> None:
        self._outstanding[record.hash] = record

    def _transaction_mined(self, record: r.TransactionMined) -> None:
        signed = self._outstanding.get(record.hash)
        if signed is None:
            return
        moved: tuple[Leg, ...] = ()
        if record.succeeded and (transfer := self._transfer(signed.raw)) is not None:
            moved = self._token("transfer", *self._transfer_legs(signed.sender, *transfer))
        purpose = signed.purpose.split(" ")[0].encode()
        gas = self._post(
            self.gas,
            "gas",
            (Leg(BookAccount.GAS, purpose, record.fee), Leg(BookAccount.COINS, signed.sender, -record.fee)),
        )
        self._mined[record.hash] = _Mined(record.block, self._take_nonce(signed), moved, gas)

    def _transaction_lost(self, record: r.TransactionLost) -> None:
        if (signed := self._outstanding.get(record.hash)) is not None:
            self._take_nonce(signed)

    def _transaction_unmined(self, record: r.TransactionUnmined) -> None:
        mined = self._mined.pop(record.hash, None)
        if mined is not None:
            self._reverse(self.token, mined.moved)
            self._reverse(self.gas, mined.gas)
            self._outstanding |= {each.hash: each for each in mined.variants}

    def _take_nonce(self, signed: r.TransactionSigned) -> tuple[r.TransactionSigned, ...]:
        """Return and forget what was signed for a nonce: one is mined, so none of the others can be."""
        at = (signed.sender, signed.nonce)
        variants = tuple(each for each in self._outstanding.values() if (each.sender, each.nonce) == at)
        for each in variants:
            del self._outstanding[each.hash]
        return variants

    def _transfer(self, raw: bytes) -> tuple[Address, int] | None:
        """Return (receiver, amount) of a signed transfer of the token; None for anything else."""
        assert self.founded is not None, "the first record founds the journal"
        try:
            transaction = read_transaction(raw)
        except ValueError:
            return None
        data = transaction.data
        if transaction.to != self.founded.token or data[:4] != _TRANSFER or len(data) != 68:
            return None
        return data[16:36], int.from_bytes(data[36:], "big")

    def _transfer_legs(self, sender: Address, receiver: Address, amount: int) -> tuple[Leg, ...]:
        source, target = self.cash_account(sender), self.cash_account(receiver)
        if source is None:
            return ()  # not out of the cash; into it, the watcher sees it arrive
        return Leg(target or BookAccount.OPERATOR_OUT, receiver, amount), Leg(source, sender, -amount)

    # -- reorganisations --

    def _chain_reverted(self, record: r.ChainReverted) -> None:
        """Take back what later blocks than `record.number` did: channels, lanes and payouts as they were read."""
        last = (record.number + 1 << 32) - 1
        for arrival in self._arrivals:
            if arrival.block > record.number:
                self._reverse(self.token, arrival.legs)
        self._arrivals = [arrival for arrival in self._arrivals if arrival.block <= record.number]
        for row in record.channels:
            self._token("reorganisation", *self._claim_legs(row.id, row.claimed))
            self._token("reorganisation", *self._balance_legs(row.id, row.balance))
            self._positions[row.id] = min(self._positions[row.id], last)
        for tx_hash in [tx_hash for tx_hash, mined in self._mined.items() if mined.block > record.number]:
            self._transaction_unmined(r.TransactionUnmined(tx_hash))
        claimed = dict.fromkeys((lane.lane for lane in record.lanes), 0)
        for channel, lane in self._lanes.items():
            if lane in claimed:
                claimed[lane] += self._claimed(channel)
        for read in record.lanes:
            self._token("reorganisation", *self._foreign_legs(read.lane, read.total_claimed - claimed[read.lane]))
        for payee, paid in record.paid:
            self._pay("reorganisation", payee, paid)


_HANDLERS: dict[type, Callable[[Bookkeeper, Any], None]] = {
    r.Founded: Bookkeeper._founded,
    r.AccountOpened: Bookkeeper._account_opened,
    r.ChannelTaken: Bookkeeper._channel_taken,
    r.Charged: Bookkeeper._reading,
    r.Earned: Bookkeeper._earning,
    r.CycleStarted: Bookkeeper._cycle_started,
    r.PayoutsPaid: Bookkeeper._payouts_paid,
    r.ChainChanged: Bookkeeper._chain_changed,
    r.ForeignClaimed: Bookkeeper._foreign_claimed,
    r.CashReceived: Bookkeeper._cash_received,
    r.LaneSettled: Bookkeeper._lane_settled,
    r.ChainSeen: Bookkeeper._chain_seen,
    r.ChainReverted: Bookkeeper._chain_reverted,
    r.TransactionSigned: Bookkeeper._transaction_signed,
    r.TransactionMined: Bookkeeper._transaction_mined,
    r.TransactionLost: Bookkeeper._transaction_lost,
    r.TransactionUnmined: Bookkeeper._transaction_unmined,
}
