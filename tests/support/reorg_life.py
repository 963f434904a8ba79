"""A gateway's books over a model chain that replaces blocks at any moment: seeded lives, and what must hold in them."""

import random
from pathlib import Path
from typing import Any

from channels.digests import channel_id
from channels.state import ActionOpen, Channel, Phase
from channels.types import SETTLEMENT_ADDRESS, Address, ChannelConfig, ChannelId
from gateway import records as r
from gateway.books import Books
from gateway.chain_effects import REORG_BLOCKS_MAX, differences
from gateway.journal import Journal
from gateway.reorgs import known_blocks, read_reverted, withdraw_after
from gateway.terms import TermsBook
from gateway.watcher import Watcher
from settlement.errors import ChainUnavailable
from tests.support.channels_auditor import Revert
from tests.support.gateway_records import EPOCH, KEYS, NETWORK, PAYERS, TOKEN, Script
from tests.support.gateway_world import states
from tests.support.model_chain import DELAY, ModelChain, State

LANES = tuple(key.address for key in KEYS.lanes)
CASH = frozenset((*LANES, KEYS.treasury.address))
GAS = 50_000
FOUNDED = 3  # the block at which the journal begins


class ReorgLife:
    """Books, a watcher and a chain; `step` does something at random, `check` compares with the chain itself."""

    def __init__(self, path: Path, seed: int, confirmations: int) -> None:
        self.path = path
        self.rng = random.Random(seed)
        self.confirmations = confirmations
        # The lane's past before the journal, as the script founds it.
        self.chain = ModelChain(State(lane_claimed={LANES[0]: 10**6}, lane_settled={LANES[0]: 10**6 - 5}))
        for _ in range(FOUNDED):
            self.chain.mine()
        self.restless = False  # the chain replaces blocks while it is asked
        self.chain.chaos = self._chaos
        self.strangers = 0
        self.nonce = 0
        self.mempool: dict[bytes, tuple[str, Any]] = {}  # own transactions: hash → what they do
        self.withdrawals: list[ChannelId] = []
        self.configs: dict[ChannelId, ChannelConfig] = {}
        self._open()

    def _open(self) -> None:
        self.books = Books(Journal(self.path))
        self.books.journal._db.execute("PRAGMA synchronous = OFF")
        self.terms = TermsBook(DELAY, 225)
        self.books.replay(self.terms.terms_then, self.terms.observe)
        self.script = Script(self.books, self.terms, self.rng.randrange(2**32))
        self.terms.clock = lambda: EPOCH

    async def found(self) -> None:
        """Write the first records."""
        await self.script.found(FOUNDED, self.chain.blocks[FOUNDED].block.hash)
        self._watch()

    def _watch(self) -> None:
        self.watcher = Watcher(
            self.books,
            self.chain,  # type: ignore[arg-type]
            TOKEN,
            LANES,
            CASH,
            settlement=SETTLEMENT_ADDRESS,
            confirmations=self.confirmations,
            poll_s=0.01,
        )
        self.watcher.on_withdrawal = self.withdrawals.append

    async def crash(self) -> None:
        """Cut the power, compare what a replay leads to, and go on with that."""
        live = states(self.books.ledger)
        if self.books._storing is not None:
            await self.books._storing
        await self.books.journal.close()
        self.reopen()
        assert states(self.books.ledger) == live
        await self._asking(self.watcher.recognise)

    def reopen(self) -> None:
        """Replay the journal and go on with what comes out."""
        self._open()
        self.script.resume()
        self.terms.clock = lambda: EPOCH
        self._watch()

    async def close(self) -> None:
        """End it."""
        if self.books._storing is not None:
            await self.books._storing
        await self.books.journal.close()

    # -- the chain moves --

    async def _chaos(self) -> None:
        if self.restless and self.rng.random() < 0.03:
            self.fork(self.rng.randrange(1, 5))

    def fork(self, depth: int) -> None:
        """Drop blocks; transactions of ours that were in them wait to be mined again, or are lost on the way."""
        depth = min(depth, self.chain.tip - FOUNDED)
        if depth < 1:
            return
        self.chain.drop(depth)
        for _ in range(depth + 1 if self.rng.random() < 0.7 else 1):
            self.mine()

    def mine(self) -> None:
        """Make a block with some of our transactions in it."""
        for tx_hash, (kind, what) in list(self.mempool.items()):
            if tx_hash in self.chain.pending.mined or self.rng.random() < 0.5:
                continue
            if kind == "claim":
                for identifier, total in what:
                    if identifier in self.chain.pending.channels:
                        contract = self.chain.pending.channels[identifier]
                        if total <= contract.balance:
                            self.chain.act(identifier, "claim", total, total)
            else:
                for payee, cumulative in what:
                    paid = self.chain.pending.paid
                    paid[payee] = max(paid.get(payee, 0), cumulative)
            self.chain.pending.mined[tx_hash] = len(self.chain.blocks)
        self.chain.mine()

    def act(self) -> None:
        """Something happens on the chain that is not our doing."""
        chain, rng = self.chain, self.rng
        kind = rng.randrange(8)
        if kind == 0:
            chain.give(rng.choice(sorted(CASH)), rng.randrange(1, 1_000))
        elif kind == 1:
            chain.settle(rng.choice(LANES), TOKEN)
        elif kind == 2 and not self.strangers:
            self.strangers += 1
            chain.create(b"\x77" * 32, LANES[0])
            chain.act(b"\x77" * 32, "deposit", 10**6)
        elif kind == 3 and b"\x77" * 32 in chain.pending.channels:
            contract = chain.pending.channels[b"\x77" * 32]
            chain.act(b"\x77" * 32, "claim", 10**6, min(contract.balance, contract.claimed + rng.randrange(1, 99)))
        else:
            self._payer_acts()

    def _payer_acts(self) -> None:
        chain, rng = self.chain, self.rng
        ours = sorted(identifier for identifier in chain.pending.channels if identifier != b"\x77" * 32)
        if not ours:
            return
        identifier = rng.choice(ours)
        contract = chain.pending.channels[identifier]
        try:
            match rng.randrange(4):
                case 0 | 1:
                    chain.act(identifier, "deposit", rng.randrange(1, 10**5))
                case 2:
                    free = contract.balance - contract.claimed
                    chain.act(identifier, "initiate_withdraw", rng.randrange(free + 1))
                case _:
                    chain.act(identifier, "finalize_withdraw")
        except Revert:
            pass

    # -- the gateway decides --

    def announce(self) -> ChannelId:
        """Make a channel that the gateway does not know yet."""
        self.script.salt += 1
        payer = self.rng.choice(PAYERS)
        lane = int.from_bytes(payer, "big") % 2
        config = ChannelConfig(
            payer, payer, LANES[lane], KEYS.authorizer.address, TOKEN, DELAY, self.script.salt.to_bytes(32, "big")
        )
        identifier = channel_id(config, NETWORK)
        self.configs[identifier] = config
        self.chain.create(identifier, LANES[lane])
        return identifier

    async def bind(self, identifier: ChannelId) -> bool:
        """Take a channel up as the chain has it at the last final block; tells whether that was possible."""
        try:
            block, (view,) = await self.watcher.at_final(lambda at: self.chain.channels([identifier], at))
        except ChainUnavailable:
            return False
        config, offer = self.configs[identifier], self.terms.current
        past = self.books.ledger.foreign.get(config.receiver, 0)
        if view.total_claimed > past or self.chain.pending.channels[identifier].claimed != view.total_claimed:
            return False  # what an earlier life of this gateway signed is final before the next one begins
        action = ActionOpen(
            identifier, config, f"meter-{identifier.hex()[:8]}", "pay", LANES.index(config.receiver), 7, offer.id,
            offer.serial, view.balance, view.total_claimed, view.withdrawing, (block + 1 << 32) - 1,
            view.balance > view.total_claimed, withdraw_after(view, DELAY),
        )  # fmt: skip
        await self.books.write([*self.watcher.seen(), r.ChannelTaken(action)])
        return True

    @property
    def only(self) -> Channel:
        """The first channel."""
        return next(iter(self.books.ledger.channels.values()))

    def act_all(self, *acts: str) -> None:
        """Call the first channel's contract: a name, and an amount if there is one."""
        for act in acts:
            name, *amounts = act.split()
            if name == "claim":
                amounts *= 2
            self.chain.act(self.only.id, name, *map(int, amounts))

    async def take(self) -> None:
        """Take a channel up, as an `open` does: with a deposit that is there, or is still to come."""
        rng = self.rng
        identifier = self.announce()
        if rng.random() < 0.7:
            self.chain.act(identifier, "deposit", rng.randrange(1, 10**6))
            contract = self.chain.pending.channels[identifier]
            if rng.random() < 0.3:  # an earlier life of this gateway claimed some of it
                self.chain.act(identifier, "claim", contract.balance, rng.randrange(1, contract.balance + 1))
            if rng.random() < 0.2 and contract.balance > contract.claimed:
                self.chain.act(identifier, "initiate_withdraw", contract.balance - contract.claimed)
            self.mine()
            if rng.random() < 0.7:
                await self._asking(self.watcher.step)
        await self.bind(identifier)

    async def decide(self) -> None:
        """Readings, a cycle with its transactions, or the end of one."""
        ledger = self.books.ledger
        if not any(channel.phase in (Phase.OPEN, Phase.WITHDRAWING) for channel in ledger.channels.values()):
            return
        if len(ledger.accounts) < 3:
            await self.books.write([self.script._account()])
            return
        if self.rng.random() < 0.6:
            await self.script._readings()
            return
        before = ledger.totals.cycles
        signed = {payee: party.signed for payee, party in ledger.parties.items()}
        await self.script.start_cycle()
        cycle = next(each for each in ledger.cycles.values() if each.number == before + 1)
        if cycle.claims:
            await self._sign("claim", LANES[0], cycle.claims)
        payouts = [
            (payee, party.base + party.signed)
            for payee, party in ledger.parties.items()
            if party.signed > signed.get(payee, 0)
        ]
        for payee, party in ledger.parties.items():  # the script met payees with a past
            for state in (self.chain.pending, *(each.state for each in self.chain.blocks)):
                state.paid.setdefault(payee, party.base)
        if payouts:
            await self._sign("pay", KEYS.treasury.address, payouts)
        ended = r.CycleEnded(before + 1, EPOCH, 0, 0, 0, 0, 0, 0)
        await self.books.write([ended])

    async def _sign(self, kind: str, sender: Address, what: Any) -> None:
        self.nonce += 1
        tx_hash = self.nonce.to_bytes(32, "big")
        claims = [r.ClaimsSigned(tuple(what))] if kind == "claim" else []
        await self.books.write([*claims, r.TransactionSigned(tx_hash, sender, self.nonce, kind, b"raw")])
        self.mempool[tx_hash] = (kind, what)

    async def book(self) -> None:
        """Book transactions that are mined, in whatever block that is at this moment."""
        records: list[r.Record] = []
        for tx_hash in self.books.ledger.transactions:
            block = self.chain.blocks[-1].state.mined.get(tx_hash)
            if block is not None and block <= self.chain.tip - self.confirmations:
                found = self.chain.blocks[block].block.hash
                records.append(r.TransactionMined(tx_hash, True, block, GAS, 7 * GAS, found))
        if records:
            await self.books.write(records)

    async def look_at_payouts(self) -> None:
        """What the settler does at the end of a cycle."""
        founded = self.books.ledger.founded
        assert founded is not None
        payees = sorted(self.books.ledger.parties)
        try:
            _, paid = await self.watcher.at_final(
                lambda at: self.chain.paid(founded.payouts, founded.treasury, TOKEN, payees, at)
            )
        except ChainUnavailable:
            return
        rows = [(payee, total - self.books.ledger.party(payee).base) for payee, total in zip(payees, paid, strict=True)]
        await self.books.write([*self.watcher.seen(), r.PayoutsPaid(tuple(rows))])

    async def _asking(self, ask: Any) -> bool:
        """Tell whether there was an answer; there is none while a chain changes too fast, or is shorter than it was."""
        try:
            await ask()
        except ChainUnavailable:
            return False
        return True

    # -- lives --

    async def step(self) -> None:
        """Do something."""
        kind = self.rng.choices(
            ["act", "mine", "fork", "watch", "take", "decide", "book", "paid", "crash"],
            [8, 8, 2, 8, 1 + 4 * (len(self.books.ledger.channels) < 4), 5, 3, 1, 0.4],
        )[0]
        match kind:
            case "act":
                self.act()
            case "mine":
                self.mine()
            case "fork":
                self.fork(self.rng.randrange(1, 8))
            case "watch":
                self.restless = self.rng.random() < 0.5
                seen = await self._asking(self.watcher.step)
                # A chain that is only shorter than it was says nothing, so the watcher waits.
                if seen and not self.restless and self.watcher.head == self.chain.blocks[-1].block:
                    self.check()
                    await self.check_ways_back()
                self.restless = False
            case "take":
                await self.take()
            case "decide":
                await self.decide()
            case "book":
                await self.book()
            case "paid":
                await self.look_at_payouts()
            case _:
                await self.crash()

    async def settle_down(self) -> None:
        """Let the chain hold still, everything be mined, seen and booked."""
        self.restless = False
        while any(tx_hash not in self.chain.blocks[-1].state.mined for tx_hash in self.mempool):
            self.mine()
        known = 0 if self.watcher.head is None else self.watcher.head.number
        while self.chain.tip <= max(self.watcher.block, known) + self.confirmations:
            self.mine()
        for _ in range(self.confirmations + 1):
            self.mine()
        while True:
            await self.watcher.step()
            await self.book()
            if not self.books.ledger.transactions:
                break
        await self.watcher.step()
        await self.look_at_payouts()

    # -- what must hold --

    def check(self) -> None:
        """The ledger's side of the chain is what the chain itself has at the last block that is final."""
        ledger = self.books.ledger
        final = self.chain.blocks[self.watcher.block]
        state = final.state
        claimed = dict.fromkeys(LANES, 0)
        taken = self._taken()
        for channel in ledger.channels.values():
            self._check_channel(channel, taken[channel.id])
            claimed[channel.config.receiver] += channel.claimed
        for lane in LANES:
            assert ledger.foreign.get(lane, 0) == state.lane_claimed.get(lane, 0) - claimed[lane]
        assert ledger.totals.received == state.received + 10**9 - (10**6 - 5)
        assert ledger.totals.settled == sum(state.lane_settled.values())

    def _check_channel(self, channel: Channel, taken: int) -> None:
        contract = self.chain.blocks[self.watcher.block].state.channels[channel.id]
        events = [
            event
            for each in self.chain.blocks[taken + 1 : self.watcher.block + 1]
            for event in each.events
            if getattr(event, "channel_id", None) == channel.id
        ]
        assert (channel.balance, channel.claimed, channel.withdrawing, channel.withdraw_after) == (
            contract.balance,
            contract.claimed,
            contract.pending,
            contract.ends,
        )
        gone = {
            kind: sum(e.amount for e in events if type(e).__name__ == kind)
            for kind in ("WithdrawFinalized", "Refunded")
        }  # type: ignore[attr-defined]
        assert (channel.withdrawn, channel.refunded) == (gone["WithdrawFinalized"], gone["Refunded"])
        assert channel.position == max((event.position for event in events), default=(taken + 1 << 32) - 1)
        if channel.phase is not Phase.OPENING:
            assert channel.phase is (Phase.WITHDRAWING if contract.pending else Phase.OPEN)
        zone = [event for each in self.chain.blocks[self.watcher.block + 1 :] for event in each.events]
        if not any(getattr(event, "channel_id", None) == channel.id for event in zone):
            assert channel.foreseen == 0

    def _taken(self) -> dict[ChannelId, int]:
        """Return for each channel the block as of which its events count."""
        taken: dict[ChannelId, int] = {}
        for record in self.records():
            if isinstance(record, r.ChannelTaken):
                taken[record.action.id] = record.action.position >> 32
            if isinstance(record, r.ChainReverted):
                taken = {identifier: min(block, record.number) for identifier, block in taken.items()}
        return taken

    def check_at_rest(self) -> None:
        """Also own transactions and payouts, when all is mined and booked."""
        self.check()
        ledger = self.books.ledger
        state = self.chain.blocks[self.watcher.block].state
        assert not ledger.transactions
        assert ledger.totals.gas_used == GAS * self.nonce
        mined = {tx_hash: each.block for tx_hash, each in ledger.mined.items()}
        assert mined.items() <= state.mined.items()
        within_reach = self.watcher.block - REORG_BLOCKS_MAX
        assert {tx_hash for tx_hash, block in state.mined.items() if block > within_reach} <= mined.keys()
        for payee, party in ledger.parties.items():
            assert party.base + party.paid == state.paid[payee]
        for identifier, channel in ledger.channels.items():
            assert channel.foreseen == 0, identifier.hex()
            assert channel.claimed <= channel.committed <= channel.owed

    async def check_ways_back(self) -> None:
        """From every block that the journal remembers the chain says what the ledger would go back to."""
        for number in known_blocks(self.books.ledger):
            fork = await self.chain.block(number)
            assert fork is not None
            record = await read_reverted(self.chain, self.books.ledger, fork, was=self.watcher.block, at=EPOCH)  # type: ignore[arg-type]
            assert record is not None
            assert differences(self.books.ledger, record) == []

    def records(self) -> list[r.Record]:
        """Return everything that was journaled."""
        journal = self.books.journal
        rows = journal._db.execute("SELECT number FROM commits ORDER BY number").fetchall()
        return [record for (number,) in rows for record in journal.records(number)]
