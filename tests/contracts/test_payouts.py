"""CumulativePayouts: totals, not amounts; replayed, late and overlapping batches pay nobody twice."""

import random

import pytest

from settlement.contracts import artifact, mapping_slot
from tests.contracts.chain import Contract
from tests.contracts.world import FUNDS, NOBODY, OTHER, PAYER, PAYOUTS_ADDRESS, RECEIVER, SIGNER, Key, World

REFUSES, NOTHING, SHORT, FEE, CALLS, TWO = range(1, 7)


def approved(world: World, amount: int = FUNDS) -> None:
    world.token.send("approve", PAYOUTS_ADDRESS, amount, sender=PAYER.address)


def pay(world: World, *rows: tuple[bytes, int]) -> list[tuple[str, dict[str, object]]]:
    receipt = world.payouts.send("pay", world.token.address, list(rows), sender=PAYER.address)
    return world.payouts.events(receipt)


def paid(world: World, payee: bytes, sender: Key = PAYER) -> int:
    found: int = world.payouts.read("paid", sender.address, world.token.address, payee)
    return found


def event(world: World, payee: bytes, amount: int, cumulative: int) -> tuple[str, dict[str, object]]:
    return "Paid", {
        "sender": PAYER.address,
        "token": world.token.address,
        "payee": payee,
        "amount": amount,
        "cumulative": cumulative,
    }


def test_pays_up_to_the_total(world: World) -> None:
    approved(world)
    a, b = RECEIVER.address, OTHER.address
    assert pay(world, (a, 30), (b, 5)) == [event(world, a, 30, 30), event(world, b, 5, 5)]
    assert pay(world, (a, 30), (b, 4)) == []
    assert pay(world, (a, 31), (b, 5), (a, 40), (a, 35)) == [event(world, a, 1, 31), event(world, a, 9, 40)]
    assert (world.balance(a), world.balance(b)) == (40, 5)
    assert (paid(world, a), paid(world, b)) == (40, 5)
    assert world.balance(PAYER.address) == FUNDS - 45
    assert world.balance(PAYOUTS_ADDRESS) == 0
    assert pay(world) == []


def test_senders_and_tokens_are_apart(world: World) -> None:
    approved(world)
    pay(world, (RECEIVER.address, 30))
    world.token.send("transfer", SIGNER.address, 100, sender=PAYER.address)
    world.token.send("approve", PAYOUTS_ADDRESS, 100, sender=SIGNER.address)
    world.payouts.send("pay", world.token.address, [(RECEIVER.address, 30)], sender=SIGNER.address)
    assert world.balance(RECEIVER.address) == 60
    assert (paid(world, RECEIVER.address), paid(world, RECEIVER.address, SIGNER)) == (30, 30)
    odd = world.place("OddToken", b"\x0d" * 20)
    odd.send("give", PAYER.address, 30, sender=OTHER.address)
    world.payouts.send("pay", odd.address, [(RECEIVER.address, 30)], sender=PAYER.address)
    assert odd.read("balanceOf", RECEIVER.address) == 30
    slot = mapping_slot(
        artifact("CumulativePayouts").storage_layout["paid"], PAYER.address, odd.address, RECEIVER.address
    )
    assert int.from_bytes(world.chain.storage(PAYOUTS_ADDRESS, slot), "big") == 30


def test_a_row_that_fails_undoes_the_batch(world: World) -> None:
    approved(world, 100)
    rows = [(RECEIVER.address, 60), (OTHER.address, 41)]
    refusal = world.payouts.refusal("pay", world.token.address, rows, sender=PAYER.address)
    assert refusal == "transfer amount exceeds allowance"
    assert (world.balance(RECEIVER.address), paid(world, RECEIVER.address)) == (0, 0)
    refusal = world.payouts.refusal("pay", world.token.address, [(NOBODY, 1)], sender=PAYER.address)
    assert refusal == "transfer to the zero address"


@pytest.mark.parametrize(
    ("mode", "refusal"),
    [(REFUSES, "SafeERC20FailedOperation"), (SHORT, ""), (TWO, ""), (NOTHING, None), (0, None)],
    ids=["false", "one byte", "two", "nothing", "true"],
)
def test_what_a_transfer_may_answer(world: World, mode: int, refusal: str | None) -> None:
    odd = world.place("OddToken", b"\x0d" * 20)
    odd.send("give", PAYER.address, 100, sender=OTHER.address)
    odd.send("behave", mode, sender=OTHER.address)
    rows = [(RECEIVER.address, 60), (OTHER.address, 40)]
    assert world.payouts.refusal("pay", odd.address, rows, sender=PAYER.address) == refusal
    if refusal is None:
        world.payouts.send("pay", odd.address, rows, sender=PAYER.address)
        assert odd.read("balanceOf", RECEIVER.address) == 60


def test_a_token_without_code_is_refused(world: World) -> None:
    rows = [(RECEIVER.address, 60)]
    assert world.payouts.refusal("pay", b"\x77" * 20, rows, sender=PAYER.address) == ""


def test_a_token_that_re_enters_is_paid_once(world: World) -> None:
    """The token is its own sender in the inner call, with rows that would pay if it came through."""
    odd = world.place("OddToken", b"\x0d" * 20)
    for holder in (PAYER.address, odd.address):
        odd.send("give", holder, 100, sender=OTHER.address)
    inner = world.payouts.data("pay", odd.address, [(RECEIVER.address, 7)])
    assert world.payouts.refusal_of(inner, odd.address) is None
    odd.send("arm", PAYOUTS_ADDRESS, inner, sender=OTHER.address)
    world.payouts.send("pay", odd.address, [(RECEIVER.address, 60)], sender=PAYER.address)
    assert not odd.read("succeeded")
    assert odd.read("balanceOf", RECEIVER.address) == 60


def test_the_record_is_written_before_the_tokens_move(world: World) -> None:
    """A token that asks during the transfer already finds the payee paid."""
    observer: Contract = world.place("Observer", b"\x0e" * 20)
    observer.send("watch", PAYOUTS_ADDRESS, sender=OTHER.address)
    world.payouts.send("pay", observer.address, [(RECEIVER.address, 60)], sender=PAYER.address)
    assert observer.read("seen") == 60


def test_the_most_rows(world: World) -> None:
    approved(world)
    rows = [(number.to_bytes(20, "big"), number) for number in range(1, 258)]
    assert world.payouts.refusal("pay", world.token.address, rows, sender=PAYER.address) == ""
    assert len(pay(world, *rows[:256])) == 256
    assert world.balance(PAYER.address) == FUNDS - sum(number for _, number in rows[:256])


def test_random_batches_against_a_model(world: World) -> None:
    seed = 20
    print(f"seed {seed}")
    rng = random.Random(seed)
    approved(world)
    payees = [bytes([number]) * 20 for number in range(1, 6)]
    totals = dict.fromkeys(payees, 0)
    for _ in range(30):
        rows = [(rng.choice(payees), rng.randrange(200)) for _ in range(rng.randrange(6))]
        expected = []
        for payee, cumulative in rows:
            if cumulative > totals[payee]:
                expected.append(event(world, payee, cumulative - totals[payee], cumulative))
                totals[payee] = cumulative
        assert pay(world, *rows) == expected
    assert {payee: world.balance(payee) for payee in payees} == totals
