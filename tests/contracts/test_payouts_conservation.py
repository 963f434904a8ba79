"""Random histories of CumulativePayouts beside an independent model: nobody is paid twice, and nobody else's money."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from eth_abi.abi import decode
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.contracts.world import FUNDS, NOBODY, OTHER, PAYER, PAYOUTS_ADDRESS, RECEIVER, SIGNER, Key, World

WITHOUT_BOUND = 2**256 - 1
SENDERS = (PAYER, SIGNER, OTHER)
# A sender may be its own payee, and the contract itself one by mistake.
PAYEES = (RECEIVER.address, OTHER.address, PAYER.address, PAYOUTS_ADDRESS, b"\x01" * 20)
START = 60  # of the senders but the first, who has the rest

Rows = Sequence[tuple[bytes, int]]
senders = st.sampled_from(SENDERS)
rows = st.lists(
    st.tuples(st.sampled_from([*PAYEES * 5, NOBODY]), st.one_of(st.just(0), st.integers(0, 40))), max_size=5
)


@dataclass(slots=True)
class Model:
    """Balances, allowances and payouts, from docs/protocol.md 1.3: a row names a total, and totals only rise."""

    tokens: Counter[bytes] = field(default_factory=Counter)
    allowed: Counter[bytes] = field(default_factory=Counter)
    paid: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)

    def pay(self, sender: bytes, batch: Rows) -> str | None:
        """All rows or none: the first that cannot be paid says why."""
        tokens, allowed, paid = Counter(self.tokens), Counter(self.allowed), Counter(self.paid)
        for payee, total in batch:
            amount = total - paid[sender, payee]
            if amount <= 0:
                continue
            if amount > allowed[sender]:
                return "transfer amount exceeds allowance"
            if payee == NOBODY:
                return "transfer to the zero address"
            if amount > tokens[sender]:
                return "transfer amount exceeds balance"
            if allowed[sender] != WITHOUT_BOUND:
                allowed[sender] -= amount
            tokens[sender] -= amount
            tokens[payee] += amount
            paid[sender, payee] = total
        self.tokens, self.allowed, self.paid = tokens, allowed, paid
        return None

    def transfer(self, sender: bytes, receiver: bytes, amount: int) -> str | None:
        """Tokens move outside of the contract."""
        if amount > self.tokens[sender]:
            return "transfer amount exceeds balance"
        self.tokens[sender] -= amount
        self.tokens[receiver] += amount
        return None


class Payouts(RuleBasedStateMachine):
    world: World
    answers: Counter[str | None]  # of `pay`, by refusal

    def __init__(self) -> None:
        super().__init__()
        self.chain = self.world.chain
        self.snapshot = self.chain.rpc("evm_snapshot")
        self.model = Model()
        self.model.tokens[PAYER.address] = FUNDS
        for sender in SENDERS[1:]:
            self.transfer(PAYER, sender.address, START)

    def teardown(self) -> None:
        self.chain.rpc("evm_revert", self.snapshot)

    @rule(sender=senders, amount=st.sampled_from([0, 5, 50, 500, WITHOUT_BOUND]))
    def approve(self, sender: Key, amount: int) -> None:
        self.model.allowed[sender.address] = amount
        self.world.token.send("approve", PAYOUTS_ADDRESS, amount, sender=sender.address)

    @rule(sender=senders, batch=rows, times=st.integers(1, 2))
    def pay(self, sender: Key, batch: Rows, times: int) -> None:
        """Pay, and perhaps again: the same batch a second time moves nothing."""
        for _ in range(times):
            expected = self.model.pay(sender.address, batch)
            data = self.world.payouts.data("pay", self.world.token.address, batch)
            assert self.world.payouts.refusal_of(data, sender.address) == expected
            self.answers[expected] += 1
            assert self.chain.send(PAYOUTS_ADDRESS, data, sender.address).ok is (expected is None)

    @rule(sender=senders, receiver=st.sampled_from(PAYEES), amount=st.integers(0, 30))
    def transfer(self, sender: Key, receiver: bytes, amount: int) -> None:
        expected = self.model.transfer(sender.address, receiver, amount)
        data = self.world.token.data("transfer", receiver, amount)
        assert self.world.token.refusal_of(data, sender.address) == expected
        assert self.chain.send(self.world.token.address, data, sender.address).ok is (expected is None)

    @invariant()
    def the_books_agree(self) -> None:
        token, payouts = self.world.token, self.world.payouts
        reads = []
        for sender in SENDERS:
            for payee in (*PAYEES, NOBODY):
                total = self.model.paid[sender.address, payee]
                reads.append((payouts, "paid", (sender.address, token.address, payee), total))
            reads.append((token, "allowance", (sender.address, PAYOUTS_ADDRESS), self.model.allowed[sender.address]))
        for holder in {*PAYEES, *(sender.address for sender in SENDERS)}:
            reads.append((token, "balanceOf", (holder,), self.model.tokens[holder]))
        calls = [(contract.address, contract.data(name, *arguments)) for contract, name, arguments, _ in reads]
        _, answers = self.world.multicall3.read("aggregate", calls)
        for (_, name, arguments, expected), answer in zip(reads, answers, strict=True):
            assert decode(["uint256"], answer) == (expected,), (name, arguments)
        assert sum(self.model.tokens.values()) == FUNDS


def run_histories(world: World, *, histories: int, steps: int) -> None:
    answers: Counter[str | None] = Counter()
    machine = type("PayoutsOnAChain", (Payouts,), {"world": world, "answers": answers})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=histories,
            phases=[Phase.generate],  # as in test_conservation
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert answers[None]
    assert answers["transfer amount exceeds allowance"]


def test_payouts_on_the_embedded_layer(embedded_world: World) -> None:
    run_histories(embedded_world, histories=50, steps=30)


def test_payouts_on_anvil(world: World) -> None:
    run_histories(world, histories=12, steps=20)
