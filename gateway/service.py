"""One running gateway: everything wired, started in order, stopped in order."""

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import Awaitable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from channels.types import SETTLEMENT_ADDRESS, U256_MAX, Address, Network, TokenDomain
from devices.client import DeviceLink
from devices.enrolment import EnrolmentPolicy
from devices.offer_book import OfferRejected
from devices.offers import OfferInvalid
from devices.registry import Registry
from gateway.backup import Backups
from gateway.books import Books
from gateway.broker_login import link_settings
from gateway.closings import Closings
from gateway.config import Config
from gateway.cycle import Cycle, Vouch
from gateway.data_dir import lock_data_dir
from gateway.errors import SetupError
from gateway.gas import GasKeeper
from gateway.journal import Journal
from gateway.keys import KeyRing
from gateway.ledger import Ledger
from gateway.openings import Openings
from gateway.pipeline import Pipeline
from gateway.records import CycleEnded, Founded
from gateway.reorgs import at_block
from gateway.rescue import Rescue
from gateway.sending import Outbox
from gateway.settler import Settler, claim_policy
from gateway.statements import Statements
from gateway.terms import TermsBook, delays_of, wanted_terms
from gateway.watcher import Watcher
from settlement.bidding import Bidding
from settlement.calls import approve
from settlement.errors import ChainMisbehaved, ChainRefused, ChainUnavailable
from settlement.port import Call, ExecutionLayer, ReceiverView, Revert

T = TypeVar("T")

log = logging.getLogger("metergate")

# A lapsed offer stops sales; half of its life is left when it is renewed, so once an hour is often enough.
RENEW_EVERY_S = 3600.0
# Half of what an allowance without bound starts with: renewed long before it can run out.
ALLOWANCE_MIN = 2**127
GWEI = 10**9


class Gateway:
    """A gateway over an execution layer. `start`, then `run` until cancelled, then `stop`."""

    def __init__(self, config: Config, keys: KeyRing, layer: ExecutionLayer) -> None:
        self.config = config
        self.keys = keys
        self.layer = layer
        self.token: Address = bytes.fromhex(config.chain.asset[2:])
        self.payouts: Address = bytes.fromhex(config.chain.payouts[2:])
        self.network = Network(config.chain.chain_id, SETTLEMENT_ADDRESS)
        self._lock = lock_data_dir(Path(config.data_dir))
        self.books = Books(Journal(Path(config.data_dir) / "journal.sqlite"))
        self.terms = TermsBook(config.offer.withdraw_delay, config.withdraw_margin_s)
        self.backups = Backups(config)
        self.registry = Registry()
        self.link = DeviceLink(link_settings(config))
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._token_domain: TokenDomain | None = None
        # Set by whoever runs an embedded layer in this process: it then need not verify the same vouchers again.
        self.vouch: Vouch = lambda verified: None

    @property
    def ledger(self) -> Ledger:
        """The states in memory."""
        return self.books.ledger

    async def start(self) -> None:
        """Replay, check the chain, take up what was under way, connect to the broker, publish the offer.

        Raises SetupError for what the operator can mend, JournalFault and the like for damage.
        """
        with _kept_for_good():
            replayed = self.books.replay(self.terms.terms_then, self.terms.observe)
            fill_registry(self.registry, self.ledger)
        if replayed:
            log.info("replayed %d records of the journal", replayed)
        try:
            await self._start_chain()
        except ChainUnavailable as error:
            raise SetupError(f"the chain at {self.config.chain.url} cannot be reached: {error}.") from error
        except (ChainMisbehaved, ChainRefused) as error:
            raise SetupError(f"the chain at {self.config.chain.url} does not fit: {error}.") from error
        self._wire_devices()
        self._wire_settlement()
        await self._renew_offer()
        await self.statements.issue()  # of a cycle that ended just before a crash
        await self.link.start()
        self.link.publish_offer(self.terms.current.payload)

    async def _start_chain(self) -> None:
        chain_id = await self.layer.chain_id()
        if chain_id != self.config.chain.chain_id:
            raise ChainMisbehaved(f"it has chain id {chain_id}, the configuration says {self.config.chain.chain_id}")
        self._token_domain = await self.layer.token_domain(self.token)
        for address, name in ((SETTLEMENT_ADDRESS, "settlement"), (self.payouts, "payouts")):
            if not await self.layer.has_code(address):
                raise ChainMisbehaved(f"there is no {name} contract at 0x{address.hex()}")
        await self._found()
        self.watcher = Watcher(
            self.books,
            self.layer,
            self.token,
            (key.address for key in self.keys.lanes),
            self.keys.cash_addresses,
            settlement=SETTLEMENT_ADDRESS,
            confirmations=self.config.chain.confirmations,
            poll_s=self.config.chain.poll_ms / 1000,
        )
        self.terms.clock = lambda: self.watcher.chain_time
        self.terms.silence = lambda: self.watcher.heads.unread_s
        self.terms.delays = lambda: delays_of(self.ledger.channels.values())
        chain, gas = self.config.chain, self.config.gas
        bidding = Bidding(chain.fee_max_gwei * GWEI or None, chain.replace_after_s)
        self.outbox = Outbox(self.books, self.layer, self.keys, chain.confirmations, bidding=bidding)
        self.outbox.on_trouble = log.warning
        self.watcher.on_reverted = self.outbox.resend
        self.gas = GasKeeper(
            self.layer,
            self.outbox,
            self.keys,
            low=int(gas.low),
            refill_to=int(gas.refill_to),
            warn_refills=gas.warn_refills,
            bidding=bidding,
        )
        self.gas.on_trouble = log.warning
        await self.watcher.recognise()
        await self.outbox.resume()
        await self.watcher.step()
        await self._approve_payouts()

    async def _approve_payouts(self) -> None:
        """Let CumulativePayouts take the treasury's tokens: it does so only in `pay`, and only for its caller."""
        treasury = self.keys.treasury.address
        if await self.layer.allowance(self.token, treasury, self.payouts) >= ALLOWANCE_MIN:
            return
        coins, spare = await self.layer.native_balances([treasury, self.keys.operator.address])
        if coins == 0 and spare:
            await self.gas.step(wait=True)
            (coins,) = await self.layer.native_balances([treasury])
        if coins == 0:
            raise SetupError(
                f"the treasury 0x{treasury.hex()} has no coins for gas, and the operator's key"
                f" 0x{self.keys.operator.address.hex()} has not enough to refill it: send that key some."
            )
        call = Call(treasury, self.token, approve(self.payouts, U256_MAX))
        outcome = await self.outbox.execute(call, "approve CumulativePayouts")
        if isinstance(outcome, Revert) or not outcome.succeeded:
            raise ChainMisbehaved("the token refuses the treasury's approval of the payouts contract")

    async def _found(self) -> None:
        """Write the journal's first record, or check that the journal is of this gateway."""
        lanes = tuple(key.address for key in self.keys.lanes)
        founded = self.ledger.founded
        if founded is None:
            block = max(0, (await self.layer.head()).number - self.config.chain.confirmations)
            treasury = self.keys.treasury.address

            async def ask() -> tuple[list[int], list[ReceiverView]]:
                held = await self.layer.token_balances(self.token, [treasury, *lanes], block)
                return held, await self.layer.receivers([(lane, self.token) for lane in lanes], block)

            seen, (held, views) = await at_block(self.layer, block, ask)
            (sent,) = await self.layer.nonces([treasury])
            await self.books.write(
                [
                    Founded(
                        gateway=self.config.gateway,
                        chain_id=self.config.chain.chain_id,
                        token=self.token,
                        payouts=self.payouts,
                        treasury=treasury,
                        lanes=lanes,
                        block=block,
                        held=sum(held),
                        lane_totals=tuple((view.total_claimed, view.total_settled) for view in views),
                        balances=tuple(held),
                        hash=seen.hash,
                        timestamp=seen.timestamp,
                        past=sent > 0,
                    )
                ]
            )
            return
        expected = (self.config.gateway, self.config.chain.chain_id, self.token, self.payouts, lanes)
        known = (founded.gateway, founded.chain_id, founded.token, founded.payouts, founded.lanes)
        lanes_differ = "the keys" if len(founded.lanes) == len(lanes) else "lanes"
        names = ("gateway", "chain.chain_id", "chain.asset", "chain.payouts", lanes_differ)
        differ = [name for name, before, now in zip(names, known, expected, strict=True) if before != now]
        if differ:
            raise SetupError(
                f"the journal in {self.config.data_dir} was made with another value of {', '.join(differ)}: put back"
                " what it was, as this journal's channels and money belong to it. Use another data_dir for a new start."
            )

    def _wire_devices(self) -> None:
        config = self.config
        self.openings = Openings(
            self.books,
            self.registry,
            self.terms,
            EnrolmentPolicy(demo=config.demo),
            self.layer,
            self.watcher,
            self.outbox,
            self.keys.operator.address,
            gateway=config.gateway,
            own=self.keys.addresses,
            answer=self.link.publish_receipt,
            spawn=self._spawn,
        )
        self.closings = Closings(
            self.books,
            self.registry,
            self.layer,
            self.watcher,
            self.keys,
            self.network,
            answer=self.link.publish_receipt,
            spawn=self._spawn,
        )
        self.pipeline = Pipeline(
            self.books,
            self.link,
            self.terms,
            self.openings,
            self.closings,
            self.network,
            gateway=config.gateway,
            fee_basis_points=config.settlement.fee_bps,
            readings_signed=not (config.demo or config.mqtt.authenticated_devices),
            batch_max=config.pipeline.batch_max,
            window_s=config.pipeline.window_ms / 1000,
        )

    def _wire_settlement(self) -> None:
        config = self.config
        self.statements = Statements(
            self.books, self.terms, self.keys.authorizer, self.network, kept=config.settlement.statements_kept
        )
        cycle = Cycle(
            self.books,
            self.layer,
            self.watcher,
            self.outbox,
            self.keys,
            self.closings,
            self.network,
            self.token,
            self.payouts,
            rows_max=config.settlement.rows_max,
            vouch=self.vouch,
        )
        rescue = Rescue(self.outbox, cycle.claim_call, cycle.netting, config.settlement.rows_max)
        cycle.on_trouble = rescue.on_trouble = log.warning
        self.settler = Settler(
            self.books,
            self.layer,
            self.watcher,
            cycle,
            self.closings,
            rescue,
            self.keys,
            self.token,
            claim_policy(config),
            payout_min=int(config.settlement.payout_min),
            every_s=config.settlement.every_s,
        )
        self.settler.on_cycle = self._cycle_ended
        self.closings.on_close = self.settler.wake
        self.watcher.on_withdrawal = self.settler.alert
        self.watcher.on_reverted = self._reverted
        self.settler.on_trouble = log.warning

    async def run(self) -> None:
        """Work until cancelled. Any fault ends it: the process stops rather than guess."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self.watcher.run(log.warning))
            group.create_task(self.pipeline.run())
            group.create_task(self.settler.run())
            group.create_task(self.settler.guard())
            group.create_task(self.outbox.run())
            group.create_task(self.gas.run())
            group.create_task(self._renew())
            group.create_task(self.backups.run())
            self.openings.resume()
            self.closings.resume()

    async def stop(self) -> None:
        """Say goodbye to the broker, store every state and close the journal."""
        await self.link.stop()
        await self.books.close()
        os.close(self._lock)

    def _reverted(self) -> None:
        self.outbox.resend()
        self.closings.resume()

    async def _cycle_ended(self, ended: CycleEnded) -> None:
        await self.statements.issue()

    def _spawn(self, work: Awaitable[None]) -> None:
        assert self._group is not None, "openings begin while the gateway runs"

        async def run() -> None:
            await work

        self._group.create_task(run())

    async def supervised(self, work: Coroutine[Any, Any, T], *expected: type[Exception]) -> T:
        """Run work for somebody outside as a part of the gateway: a fault in it ends the gateway too.

        Exceptions named as `expected` are the caller's to answer.
        """
        assert self._group is not None, "the gateway runs"
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                result = await work
            except expected as error:
                if not outcome.done():
                    outcome.set_exception(error)
            else:
                if not outcome.done():
                    outcome.set_result(result)

        self._group.create_task(run())
        return await outcome

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            await self._renew_offer()
            self.link.publish_offer(self.terms.current.payload)

    async def _renew_offer(self) -> None:
        assert self._token_domain is not None, "the chain was asked at start"
        wanted = wanted_terms(self.config, self.keys, self._token_domain, self.watcher.chain_time)
        try:
            issued = self.terms.renew(wanted, self.keys.authorizer.private)
            if issued is not None:
                self.terms.observe(issued)  # checked before it is journaled: a journal must replay
        except (OfferInvalid, OfferRejected) as error:
            raise SetupError(f"the configured offer cannot be issued: {error}.") from error
        if issued is not None:
            await self.books.write([issued])


@contextlib.contextmanager
def _kept_for_good() -> Iterator[None]:
    """Leave what is made here alone: the states of 100,000 channels take a second to look through for garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()


def fill_registry(registry: Registry, ledger: Ledger) -> None:
    """Register what the ledger holds, at the start."""
    for key, device in ledger.devices.items():
        registry.add_device(key.decode(), device.note)
        for payer in device.payers:
            registry.enrol_payer(key.decode(), payer)
        for account_id in device.accounts:
            registry.enrol_account(account_id)
    for channel in ledger.channels.values():
        registry.bind_channel(channel.id, channel.device, channel.service)
    for identifier, nonces in ledger.deposits.items():
        for nonce in nonces:
            registry.remember_deposit(identifier, nonce)
    for account in ledger.accounts.values():
        registry.bind_account(account.id, account.device, account.service)
