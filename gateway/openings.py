"""Opening and topping up channels, and opening earner accounts, from a device's `open`.

An `open` that passes every check that needs no chain is journaled as an intent with the batch it came in, and
acknowledged. Then, outside the pipeline: the chain is asked what only it knows, the channel is bound, the
gateway submits the deposit (the device needs no gas), and the device is answered when the watcher has journaled
the deposit as final. A restart takes journaled intents up again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from msgspec.structs import replace

from channels.refusals import Refusal
from channels.state import Account, ActionOpen, Channel, Meter, Phase
from channels.types import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, Address, ChannelId
from devices.codec import decode
from devices.enrolment import (
    AlreadyOpen,
    EarnerGrant,
    EnrolmentPolicy,
    OpenGrant,
    check_open,
    check_open_earner,
    earner_id,
    offer_network,
    open_id,
)
from devices.messages import Open, OpenEarner, Receipt, Status
from devices.receipts import encode_receipt
from devices.registry import Registry
from gateway.books import Books
from gateway.joining import Joining, Waiting
from gateway.receipts import account_receipt, bare_refusal, channel_receipt
from gateway.records import AccountOpened, ChannelTaken, OpenEnded, OpenReceived, Record
from gateway.reorgs import withdraw_after
from gateway.sending import Outbox
from gateway.terms import TermsBook
from gateway.watcher import Watcher
from settlement import calls
from settlement.errors import ChainRefused, ChainUnavailable
from settlement.port import Call, ExecutionLayer, Revert

log = logging.getLogger("metergate")

# A deposit waits for a block or two and holds a few kilobytes; more at once are asked to come again.
IN_FLIGHT_MAX = 256
# While the chain cannot be reached, an open waits and tries again this often.
RETRY_S = 2.0

# Whoever pays for a deposit's gas is us, and whoever decides how much it takes is the payer: if its key has code
# (EIP-7702), the token asks that about the signature. A plain first deposit is estimated at 157,000 gas, a top-up at
# 120,000 (measured on the embedded layer with TestUSD; code that says yes at once is 3,000 cheaper). Six times that
# leaves room for code that verifies a signature of another curve (about 330,000 in Solidity), for dearer tokens, and
# for chains that count the costs of their data as gas.
PLAIN_DEPOSIT_GAS = 157_000
DEPOSIT_GAS_MAX = 6 * PLAIN_DEPOSIT_GAS

Answer = Callable[[str, bytes], Awaitable[None]]

# What asks everything of an `open` but that the operator enrolled the device.
_ANYBODY = EnrolmentPolicy(demo=True)


@dataclass(frozen=True, slots=True)
class _Granted:
    device: str
    message: Open
    grant: OpenGrant
    resumed: bool = False


class Openings:
    """Decides on `open` messages and carries the granted ones out."""

    def __init__(
        self,
        books: Books,
        registry: Registry,
        terms: TermsBook,
        policy: EnrolmentPolicy,
        layer: ExecutionLayer,
        watcher: Watcher,
        outbox: Outbox,
        operator: Address,
        *,
        gateway: str,
        own: frozenset[Address],
        answer: Answer,
        spawn: Callable[[Awaitable[None]], None],
    ) -> None:
        self._books = books
        self._registry = registry
        self._terms = terms
        self._policy = policy
        self._layer = layer
        self._watcher = watcher
        self._outbox = outbox
        self._operator = operator
        self._gateway = gateway
        self._own = own
        self._answer = answer
        self._spawn = spawn
        self._granted: list[_Granted] = []
        self._in_flight = 0
        self.joining = Joining()
        self.on_refused: Callable[[Refusal], None] = lambda refusal: None
        self.on_ended: Callable[[str, Receipt], None] = lambda device, receipt: None

    # -- in the pipeline: no await --

    def receive(
        self, device: str, message: Open | OpenEarner, payload: bytes, records: list[Record], number: int
    ) -> Receipt | None:
        """Decide on one `open`; what it changes is applied and put into `records` of commit `number`.

        Returns the receipt, or None when the deposit goes to the chain and is answered later.
        """
        if isinstance(message, OpenEarner):
            return self._receive_earner(device, message, records, number)
        current = number if records else number - 1  # the commit that holds the state as it is now
        now = self._terms.clock()
        decision = check_open(message, device, self._terms.book, self._registry, self._policy, now)
        if decision is Refusal.NOT_ENROLLED:
            decision = self._at_the_door(message, device, now)
        if isinstance(decision, OpenGrant) and self._in_flight + len(self._granted) >= IN_FLIGHT_MAX:
            decision = Refusal.BUSY
        if isinstance(decision, OpenGrant) and self._closing(decision.id):
            decision = Refusal.NOT_OPEN  # the deposit would arrive when the rest is paid back already
        if isinstance(decision, AlreadyOpen):
            channel = self._books.ledger.channels[decision.id]
            return _duplicate(channel_receipt(channel, 0, message.answers, current))
        if isinstance(decision, Refusal):
            return self._refused(device, message, decision, current)
        record = OpenReceived(device, payload, now)
        self._books.ledger.apply(record, number)
        records.append(record)
        self._registry.begin_deposit(device, decision.id, decision.service, decision.nonce)
        self._granted.append(_Granted(device, message, decision))
        return None

    def _at_the_door(self, message: Open, device: str, now: int) -> Refusal:
        """Let a device that nobody enrolled wait for the operator, if all else about its `open` is right."""
        if not self.joining.left_s:
            return Refusal.NOT_ENROLLED
        decision = check_open(message, device, self._terms.book, self._registry, _ANYBODY, now)
        if isinstance(decision, OpenGrant):
            return self.joining.knock(
                Waiting(
                    decision.id, device, decision.service, decision.config.payer, decision.register, decision.amount
                )
            )
        return decision if isinstance(decision, Refusal) else Refusal.NOT_ENROLLED

    def _earner_at_the_door(self, message: OpenEarner, device: str) -> Refusal:
        """The same for an earner account."""
        if not self.joining.left_s:
            return Refusal.NOT_ENROLLED
        decision = check_open_earner(message, device, self._terms.book, self._registry, _ANYBODY, self._terms.clock())
        if isinstance(decision, EarnerGrant) and decision.payee not in self._own:
            return self.joining.knock(
                Waiting(decision.id, device, decision.service, decision.payee, decision.register, earner=True)
            )
        return decision if isinstance(decision, Refusal) else Refusal.CONFIG_MISMATCH

    def _closing(self, identifier: ChannelId) -> bool:
        channel = self._books.ledger.channels.get(identifier)
        return channel is not None and channel.phase is Phase.CLOSING

    def _receive_earner(self, device: str, message: OpenEarner, records: list[Record], number: int) -> Receipt:
        ledger = self._books.ledger
        decision = check_open_earner(
            message, device, self._terms.book, self._registry, self._policy, self._terms.clock()
        )
        if decision is Refusal.NOT_ENROLLED:
            decision = self._earner_at_the_door(message, device)
        if isinstance(decision, EarnerGrant) and decision.payee in self._own:
            decision = Refusal.CONFIG_MISMATCH  # paying ourselves would count as paid what never left
        if isinstance(decision, AlreadyOpen):
            current = number if records else number - 1
            return _duplicate(account_receipt(ledger.accounts[decision.id], 0, message.answers, current))
        if isinstance(decision, Refusal):
            network = offer_network(self._terms.current)
            identifier = earner_id(message, self._gateway, device, network)
            return bare_refusal(decision, message.answers, identifier, 0, account=True)
        meter = Meter(0, decision.register, 0, decision.offer, decision.offer_serial)
        account = Account(
            decision.id, device, decision.service, decision.payee, decision.meter_key, meter,
            first_register=decision.register, past=ledger.founded is not None and ledger.founded.past,
        )  # fmt: skip
        record = AccountOpened(account)
        ledger.apply(record, number)
        records.append(record)
        self._registry.bind_account(decision.id, device, decision.service)
        return account_receipt(account, 0, message.answers, number)

    def committed(self) -> None:
        """The batch with the granted intents is on disk: carry them out."""
        granted, self._granted = self._granted, []
        for each in granted:
            self._in_flight += 1
            self._spawn(self._carry_out(each))

    def resume(self) -> None:
        """Take up the intents that a restart found in the journal; after own transactions were resumed."""
        for record in list(self._books.ledger.opens.values()):
            message = decode("open", record.payload)
            assert isinstance(message, Open), "only decoded opens are journaled"
            decision = check_open(message, record.device, self._terms.book, self._registry, self._policy, record.at)
            if isinstance(decision, OpenGrant):
                self._registry.begin_deposit(record.device, decision.id, decision.service, decision.nonce)
                self._granted.append(_Granted(record.device, message, decision, resumed=True))
            else:  # the rules have changed since, or the deposit was remembered
                outcome = decision if isinstance(decision, Refusal) else Status.DUPLICATE
                self._spawn(self._end(record.device, message, outcome))
        self.committed()

    # -- on the chain --

    async def _carry_out(self, granted: _Granted) -> None:
        try:
            while True:
                try:
                    outcome = await self._deposit(granted.grant)
                    break
                except ChainUnavailable:
                    await asyncio.sleep(RETRY_S)
                except ChainRefused as error:
                    # The node will not do it for us, most likely for want of coins: the device may ask again.
                    log.warning("the deposit of %s cannot be submitted: %s", granted.device, error)
                    outcome = Refusal.BUSY
                    break
            if granted.resumed and outcome is Status.DUPLICATE:
                outcome = Status.ACCEPTED  # by ourselves, before the restart
            if isinstance(outcome, Refusal):
                self._registry.deposit_failed(granted.device)
            else:
                self._registry.deposit_final(granted.device)
            await self._end(granted.device, granted.message, outcome, granted.grant.nonce)
        finally:
            self._in_flight -= 1

    async def _deposit(self, grant: OpenGrant) -> Refusal | Status:
        """Bring the channel to its deposit: ACCEPTED when it is final, DUPLICATE when it was before, or why not."""
        # In this order: a deposit that was used before `head` is in any balance read later.
        used = await self._used(grant)
        head = await self._layer.head()
        if not used and isinstance(await self._layer.simulate(self._deposit_call(grant)), Revert):
            if not await self._used(grant):
                return Refusal.DEPOSIT_INVALID
            return await self._deposit(grant)  # somebody else has just submitted it
        known = self._books.ledger.channels.get(grant.id)
        if used and known is not None and known.phase is not Phase.CLOSED:
            await self._watcher.passed(head.number)
            return self._arrived(grant, 0, Status.DUPLICATE)
        refusal = await self._take(grant, known, used)
        if refusal is not None:
            return refusal
        if used:
            return Status.ACCEPTED
        receipt = await self._outbox.execute(self._deposit_call(grant), f"deposit {grant.device}")
        if isinstance(receipt, Revert):
            log.warning("the deposit of %s is not submitted: %s", grant.device, receipt.reason)
        else:
            await self._watcher.passed(receipt.block_number)
            if receipt.succeeded:
                return Status.ACCEPTED
        # Reverted: either somebody else was faster with the very same authorization, or it is void now.
        if not await self._used(grant):
            return Refusal.DEPOSIT_INVALID
        await self._watcher.passed((await self._layer.head()).number)
        before = 0 if known is None else known.deposited
        return self._arrived(grant, before + grant.amount, Status.ACCEPTED)

    def _arrived(self, grant: OpenGrant, deposited: int, outcome: Status) -> Refusal | Status:
        """Return `outcome` if the money has arrived: a used authorization may be one that its payer cancelled.

        `deposited` is what the channel must have got over all time, as far as that is known.
        """
        channel = self._books.ledger.channels[grant.id]
        if channel.phase is Phase.OPENING or channel.deposited < deposited:
            return Refusal.DEPOSIT_INVALID
        return outcome

    async def _used(self, grant: OpenGrant) -> bool:
        return await self._layer.authorization_used(grant.config.token, grant.config.payer, grant.nonce)

    def _deposit_call(self, grant: OpenGrant) -> Call:
        data = calls.deposit(grant.config, grant.amount, COLLECTOR_ADDRESS, calls.collector_data(grant.authorization))
        return Call(self._operator, SETTLEMENT_ADDRESS, data, gas_max=DEPOSIT_GAS_MAX)

    async def _take(self, grant: OpenGrant, known: Channel | None, funded: bool) -> Refusal | None:
        """Bind the channel, as the chain has it at the last final block, unless it is bound and open already."""
        if known is not None and known.phase is not Phase.CLOSED:
            return Refusal.NOT_OPEN if known.phase is Phase.CLOSING else None
        if funded:  # wait until that deposit is final
            await self._watcher.passed((await self._layer.head()).number)
        block, (view,) = await self._watcher.at_final(lambda at: self._layer.channels([grant.id], at))
        # Money that is there, whoever put it there, opens the channel at once.
        spendable = view.balance > view.total_claimed
        if funded and not spendable:
            return Refusal.DEPOSIT_INVALID  # the authorised money was spent, taken back or never sent
        action = ActionOpen(
            id=grant.id,
            config=grant.config,
            device=grant.device,
            service=grant.service,
            lane=grant.lane,
            register=grant.register,
            offer=grant.offer,
            offer_serial=grant.offer_serial,
            balance=view.balance,
            claimed=view.total_claimed,
            withdrawing=view.withdrawing,
            position=(block + 1 << 32) - 1,  # every event up to and in this block is in these amounts
            funded=spendable,
            withdraw_after=withdraw_after(view, grant.config.withdraw_delay),
        )
        self._registry.bind_channel(grant.id, grant.device, grant.service)
        await self._books.write([*self._watcher.seen(), ChannelTaken(action, self._watcher.chain_time)])
        return None

    async def _end(self, device: str, message: Open, outcome: Refusal | Status, nonce: bytes = b"") -> None:
        refusal = outcome if isinstance(outcome, Refusal) else None
        identifier = open_id(message, offer_network(self._terms.current))
        number = self._books.next_number
        if refusal is not None:
            ended = OpenEnded(device, int(refusal))
        else:
            ended = OpenEnded(device, 0, identifier, nonce)
        written = self._books.write([ended])
        # Built in the same step: the receipt tells the state as of this commit, not of later ones.
        if refusal is not None:
            receipt = self._refused(device, message, refusal, number)
            self.on_refused(refusal)
        else:
            channel = self._books.ledger.channels[identifier]
            receipt = channel_receipt(channel, 0, message.answers, number)
            if outcome is Status.DUPLICATE:
                receipt = _duplicate(receipt)
        await written
        self.on_ended(device, receipt)
        await self._answer(device, encode_receipt(receipt, message.encoding))

    def _refused(self, device: str, message: Open, refusal: Refusal, number: int) -> Receipt:
        identifier = open_id(message, offer_network(self._terms.current))
        channel = self._books.ledger.channels.get(identifier)
        if channel is None or channel.device != device:
            return bare_refusal(refusal, message.answers, identifier, 0)
        return channel_receipt(channel, 0, message.answers, number, refusal)


def _duplicate(receipt: Receipt) -> Receipt:
    return replace(receipt, status=Status.DUPLICATE)
