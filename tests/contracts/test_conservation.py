"""Random histories of channels beside the auditor: same answers, same books, not a unit lost, on both layers."""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from eth_abi.abi import decode
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from settlement.contracts import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS
from tests.contracts.auditor import Account, Auditor, Row
from tests.contracts.chain import Contract
from tests.contracts.world import (
    AUTHORIZER,
    DELAY,
    FUNDS,
    OTHER,
    PAYER,
    RECEIVER,
    SIGNER,
    Channel,
    Key,
    World,
    channel_number,
)

KEYS = {key.address: key for key in (PAYER, SIGNER, RECEIVER, AUTHORIZER, OTHER)}
# Two receivers, two authorizers, a channel whose payer signs, and one whose receiver is its payer.
CHANNELS = (
    channel_number(1),
    channel_number(2, payer_authorizer=bytes(20)),
    channel_number(3, receiver=OTHER.address, withdraw_delay=900),
    channel_number(4, receiver=PAYER.address, receiver_authorizer=OTHER.address),
)
channels = st.sampled_from(CHANNELS)
keys = st.sampled_from(list(KEYS.values()))
# Small numbers meet each other often; the large one is the "all of it" of a refund.
amounts = st.integers(0, 12)
# Most calls are right, so that histories get somewhere; Hypothesis would else make most of them refusals.
rarely = st.sampled_from([False] * 11 + [True])


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[Channel, int, int, bool]]:
    """Rows as (channel, rise over what is claimed, ceiling over the claim, genuine)."""
    row = st.tuples(
        st.sampled_from([*CHANNELS[:3] * 6, CHANNELS[3]]),
        st.integers(-1, 6),
        st.sampled_from([0, 0, 0, 0, 0, 0, 1, 5, -1]),
        rarely.map(lambda forged: not forged),
    )
    return draw(st.lists(row, min_size=0 if draw(rarely) else 1, max_size=4))


# What one part of a multicall does: its name and what it is about. All parts have one sender.
parts = st.one_of(
    st.tuples(st.just("deposit"), channels, st.integers(0, 9)),
    st.tuples(st.just("claim"), batches(), st.none()),
    st.tuples(st.just("settle"), keys, st.none()),
    st.tuples(st.just("refund"), channels, amounts),
    st.tuples(st.just("initiateWithdraw"), channels, amounts),
    st.tuples(st.just("finalizeWithdraw"), channels, st.none()),
)


class Channels(RuleBasedStateMachine):
    world: World
    answers: Counter[tuple[str, bool]]  # by function, and whether it was allowed

    def __init__(self) -> None:
        super().__init__()
        self.chain = self.world.chain
        self.snapshot = self.chain.rpc("evm_snapshot")
        self.world.token.send("approve", self.world.bringer.address, FUNDS, sender=PAYER.address)
        self.ids = {channel: self.world.channel_id(channel) for channel in CHANNELS}
        self.auditor = Auditor({channel: Account() for channel in CHANNELS}, self.chain.now)
        self.auditor.tokens[PAYER.address] = FUNDS
        for channel in CHANNELS:
            self.deposit(channel, 20, OTHER)

    def teardown(self) -> None:
        self.chain.rpc("evm_revert", self.snapshot)

    def agree(self, expected: str | None, name: str, *arguments: object, sender: bytes) -> None:
        """The contract must answer as the auditor does, and do it if it is allowed."""
        self.agree_on(self.world.settlement, expected, name, *arguments, sender=sender)

    def agree_on(self, contract: Contract, expected: str | None, name: str, *arguments: object, sender: bytes) -> None:
        data = contract.data(name, *arguments)
        assert contract.refusal_of(data, sender) == expected, name
        self.answers[name, expected is None] += 1
        if expected is None:
            self.chain.set_next_time(self.auditor.now + 1)
            assert self.chain.send(contract.address, data, sender).ok
            self.auditor.now += 1

    def rows(self, batch: list[tuple[Channel, int, int, bool]], auditor: Auditor | None = None) -> list[Row]:
        accounts = (auditor or self.auditor).accounts
        total = {channel: account.claimed for channel, account in accounts.items()}
        rows = []
        for channel, rise, slack, genuine in batch:
            claimed = max(0, total[channel] + rise)
            rows.append(Row(channel, claimed, max(0, claimed + slack), genuine))
            total[channel] = max(total[channel], claimed)
        return rows

    def encoded(self, row: Row) -> tuple[Any, ...]:
        signer = KEYS[row.channel.payer_authorizer if any(row.channel.payer_authorizer) else row.channel.payer]
        return self.world.row(row.channel, row.claimed, row.ceiling, signer if row.genuine else OTHER)

    @rule(channel=channels, amount=st.integers(0, 40), sender=keys)
    def deposit(self, channel: Channel, amount: int, sender: Key) -> None:
        expected = self.auditor.deposit(channel, amount)
        bringer = self.world.bringer.address
        self.agree(expected, "deposit", channel.args(), amount, bringer, b"", sender=sender.address)

    @rule(channel=channels, amount=st.integers(0, 9), salt=st.integers(0, 5), forged=rarely, sender=keys)
    def deposit_authorized(self, channel: Channel, amount: int, salt: int, forged: bool, sender: Key) -> None:
        """Anyone submits the payer's authorization; used, cancelled and forged ones bring nothing."""
        expected = self.auditor.deposit_authorized(channel, amount, salt, not forged)
        data = self.world.collector_data(channel, amount, salt, OTHER if forged else PAYER)
        self.agree(expected, "deposit", channel.args(), amount, COLLECTOR_ADDRESS, data, sender=sender.address)

    @rule(channel=channels, salt=st.integers(0, 5), sender=keys)
    def cancel_an_authorization(self, channel: Channel, salt: int, sender: Key) -> None:
        expected = self.auditor.cancel(channel, salt)
        nonce = self.world.deposit_nonce(channel, salt)
        text, types = b"CancelAuthorization(address authorizer,bytes32 nonce)", ["address", "bytes32"]
        signature = PAYER.sign(self.world.token_digest(text, types, PAYER.address, nonce))
        name = "cancelAuthorization(address,bytes32,bytes)"
        self.agree_on(self.world.token, expected, name, PAYER.address, nonce, signature, sender=sender.address)

    @rule(amount=st.integers(0, 9), sender=keys)
    def give(self, amount: int, sender: Key) -> None:
        expected = self.auditor.give(amount, sender.address)
        self.agree_on(self.world.token, expected, "transfer", SETTLEMENT_ADDRESS, amount, sender=sender.address)

    @rule(several=st.lists(parts, max_size=4), sender=st.sampled_from([PAYER, RECEIVER, AUTHORIZER, SIGNER, OTHER]))
    def multicall(self, several: list[tuple[str, Any, Any]], sender: Key) -> None:
        """Several calls of one sender: all of them, or none and the refusal of the first that is refused."""
        trial = deepcopy(self.auditor)
        calls, refusal = [], None
        for name, about, amount in several:
            outcome, arguments = self.part(trial, name, about, amount, sender.address)
            calls.append(self.world.settlement.data(name, *arguments))
            refusal = refusal if refusal is not None else outcome
        if refusal is None:
            self.auditor = trial
        self.agree(refusal, "multicall", calls, sender=sender.address)

    def part(
        self, auditor: Auditor, name: str, about: Any, amount: Any, sender: bytes
    ) -> tuple[str | None, tuple[Any, ...]]:
        token = self.world.token.address
        if name == "deposit":
            return auditor.deposit(about, amount), (about.args(), amount, self.world.bringer.address, b"")
        if name == "claim":
            rows = self.rows(about, auditor)
            return auditor.claim(rows, sender), ([self.encoded(row) for row in rows],)
        if name == "settle":
            return auditor.settle(about.address, token), (about.address, token)
        if name == "finalizeWithdraw":
            return auditor.finalize_withdraw(about, sender), (about.args(),)
        act: Callable[[Channel, int, bytes], str | None] = (
            auditor.refund if name == "refund" else auditor.initiate_withdraw
        )
        return act(about, amount, sender), (about.args(), amount)

    @rule(batch=batches(), stranger=rarely, sender=keys)
    def claim(self, batch: list[tuple[Channel, int, int, bool]], stranger: bool, sender: Key) -> None:
        rows = self.rows(batch)
        caller = sender if stranger else AUTHORIZER
        expected = self.auditor.claim(rows, caller.address)
        self.agree(expected, "claim", [self.encoded(row) for row in rows], sender=caller.address)

    @rule(batch=batches(), stranger=rarely, key=keys)
    def claim_with_signature(self, batch: list[tuple[Channel, int, int, bool]], stranger: bool, key: Key) -> None:
        rows = self.rows(batch)
        signer = key if stranger else AUTHORIZER
        expected = self.auditor.claim_with_signature(rows, signer.address)
        encoded = [self.encoded(row) for row in rows]
        signature = self.world.batch_signature(encoded, signer)
        self.agree(expected, "claimWithSignature", encoded, signature, sender=OTHER.address)

    @rule(receiver=keys)
    def settle(self, receiver: Key) -> None:
        token = self.world.token.address
        expected = self.auditor.settle(receiver.address, token)
        self.agree(expected, "settle", receiver.address, token, sender=OTHER.address)

    @rule(channel=channels, amount=amounts, sender=st.sampled_from([PAYER] * 8 + [SIGNER, OTHER]))
    def initiate_withdraw(self, channel: Channel, amount: int, sender: Key) -> None:
        expected = self.auditor.initiate_withdraw(channel, amount, sender.address)
        self.agree(expected, "initiateWithdraw", channel.args(), amount, sender=sender.address)

    @rule(channel=channels, sender=st.sampled_from([PAYER] * 8 + [SIGNER, RECEIVER]))
    def finalize_withdraw(self, channel: Channel, sender: Key) -> None:
        expected = self.auditor.finalize_withdraw(channel, sender.address)
        self.agree(expected, "finalizeWithdraw", channel.args(), sender=sender.address)

    @rule(channel=channels, amount=st.one_of(amounts, st.just(2**128 - 1)), stranger=rarely, sender=keys)
    def refund(self, channel: Channel, amount: int, stranger: bool, sender: Key) -> None:
        caller = sender.address if stranger else channel.receiver
        expected = self.auditor.refund(channel, amount, caller)
        self.agree(expected, "refund", channel.args(), amount, sender=caller)

    @rule(channel=channels, amount=amounts, skew=st.sampled_from([0] * 10 + [1, -1]), stranger=rarely, key=keys)
    def refund_with_signature(self, channel: Channel, amount: int, skew: int, stranger: bool, key: Key) -> None:
        signer = key if stranger else KEYS[channel.receiver_authorizer]
        nonce = max(0, self.auditor.accounts[channel].nonce + skew)
        signature = self.world.refund_signature(channel, nonce, amount, signer)
        expected = self.auditor.refund_with_signature(channel, amount, nonce, signer.address)
        self.agree(expected, "refundWithSignature", channel.args(), amount, nonce, signature, sender=OTHER.address)

    @rule(channel=st.sampled_from(CHANNELS[:3]), left=st.integers(0, 3), in_time=st.booleans())
    def overtake(self, channel: Channel, left: int, in_time: bool) -> None:
        """Claim so much that less is left than a pending withdrawal asks for."""
        account = self.auditor.accounts[channel]
        if not account.initiated_at:
            self.initiate_withdraw(channel, max(1, account.free), PAYER)
        claimed = max(account.claimed, account.balance - left)
        row = Row(channel, claimed, claimed, True)
        expected = self.auditor.claim([row], AUTHORIZER.address)
        self.agree(expected, "claim", [self.encoded(row)], sender=AUTHORIZER.address)
        if account.initiated_at and in_time:
            self.finalize_about_when_ripe(channel, 0)

    @rule(channel=channels, beside=st.sampled_from([-1, 0, 0, 1]))
    def refund_about_what_is_pending(self, channel: Channel, beside: int) -> None:
        """Lower a withdrawal to one unit, or clear it."""
        account = self.auditor.accounts[channel]
        if not account.initiated_at and account.free:
            self.initiate_withdraw(channel, max(1, account.free // 2), PAYER)
        amount = max(0, account.pending + beside)
        expected = self.auditor.refund(channel, amount, channel.receiver)
        self.agree(expected, "refund", channel.args(), amount, sender=channel.receiver)

    @precondition(lambda self: any(account.initiated_at for account in self.auditor.accounts.values()))
    @rule(data=st.data(), spare=st.sampled_from([-DELAY, -1, 0, 0, 1, DELAY]))
    def finalize_in_time(self, data: st.DataObject, spare: int) -> None:
        """Finalise a pending withdrawal about when it is ripe."""
        pending = [channel for channel in CHANNELS if self.auditor.accounts[channel].initiated_at]
        self.finalize_about_when_ripe(data.draw(st.sampled_from(pending)), spare)

    def finalize_about_when_ripe(self, channel: Channel, spare: int) -> None:
        ripe = self.auditor.accounts[channel].initiated_at + channel.withdraw_delay
        if ripe + spare > self.auditor.now:
            self.auditor.now = ripe + spare
            self.chain.set_next_time(self.auditor.now)
            self.chain.mine()
        self.finalize_withdraw(channel, PAYER)

    @invariant()
    def the_books_agree(self) -> None:
        self.auditor.check()
        settlement, token = self.world.settlement, self.world.token
        reads: list[tuple[Any, str, tuple[object, ...], list[str], tuple[int, ...]]] = []
        for channel, account in self.auditor.accounts.items():
            key, pair = (self.ids[channel],), ["uint128", "uint128"]
            reads.append((settlement, "channels", key, pair, (account.balance, account.claimed)))
            reads.append((settlement, "pendingWithdrawals", key, pair, (account.pending, account.initiated_at)))
            reads.append((settlement, "refundNonce", key, ["uint256"], (account.nonce,)))
        for address in KEYS:
            lane = address, token.address
            sums = self.auditor.claimed[lane], self.auditor.settled[lane]
            reads.append((settlement, "receivers", lane, ["uint128", "uint128"], sums))
            reads.append((token, "balanceOf", (address,), ["uint256"], (self.auditor.tokens[address],)))
        reads.append((token, "balanceOf", (SETTLEMENT_ADDRESS,), ["uint256"], (self.auditor.held,)))
        reads.append((token, "totalSupply", (), ["uint256"], (FUNDS,)))
        calls = [(contract.address, contract.data(name, *arguments)) for contract, name, arguments, _, _ in reads]
        _, answers = self.world.multicall3.read("aggregate", calls)
        for (_, name, arguments, types, expected), answer in zip(reads, answers, strict=True):
            assert decode(types, answer) == expected, (name, arguments)


# Nothing due is no error, so `settle` is refused to nobody.
FUNCTIONS = (
    "deposit", "claim", "claimWithSignature", "initiateWithdraw", "finalizeWithdraw", "refund", "refundWithSignature",
    "multicall",
)  # fmt: skip


def run_histories(world: World, *, histories: int, steps: int) -> None:
    answers: Counter[tuple[str, bool]] = Counter()
    machine = type("ChannelsOnAChain", (Channels,), {"world": world, "answers": answers})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=histories,
            # Without shrinking: on a chain it takes minutes, and some dozen steps are read soon enough.
            phases=[Phase.generate],
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert answers["settle", True]
    lacking = [(name, allowed) for name in FUNCTIONS for allowed in (True, False) if not answers[name, allowed]]
    assert not lacking, f"these histories prove nothing about {lacking}"


def test_conservation_on_the_embedded_layer(embedded_world: World) -> None:
    run_histories(embedded_world, histories=40, steps=35)


def test_conservation_on_anvil(world: World) -> None:
    run_histories(world, histories=10, steps=25)


def test_every_state_change_of_the_contract_is_a_rule(world: World) -> None:
    """What the machine never calls it cannot prove."""
    changing = {
        entry["name"]
        for entry in world.settlement.abi
        if entry["type"] == "function" and entry["stateMutability"] == "nonpayable"
    }
    assert changing == {*FUNCTIONS, "settle"}
