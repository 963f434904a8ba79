"""The channel machine against the auditor, over random lives of a channel on a simulated contract."""

from collections.abc import Callable
from random import Random

from hypothesis import Phase, settings

from channels.machine import TRANSITIONS
from channels.refusals import Refusal
from tests.support.channels_auditor import U128
from tests.support.channels_life import CLOSE_FLAWS, FLAWS, TAKEN, ChannelLife

TestChannelLife = ChannelLife.TestCase
TestChannelLife.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)


# --- the same rules, drawn evenly from a seed: longer and more varied lives than Hypothesis makes ---

SEED = 20_26_11
LIVES = 100
STEPS = 120


def random_step(life: ChannelLife, draw: Random) -> None:
    """One rule with random arguments; what is commoner in life has the higher weight."""
    tenths = [0, 2, 5, 9, 10, 10, 11]

    def share() -> int:
        return draw.choice(tenths)

    def price() -> int:
        return draw.choice([draw.randint(0, 5 * 10**9), draw.randint(0, 5 * 10**9), 0, 333_333_333])

    def wrong() -> None:
        life.reading(
            draw.sample(FLAWS, draw.choice([0, 1, 1, 2, 3])),
            price(),
            draw.randint(0, 60),
            draw.randint(1, 3),
            draw.randint(0, 30),
            draw.randint(0, 30),
            draw.randint(40, 60),
            draw.randint(0, 2),
            draw.randbytes(4),
        )

    steps: list[tuple[int, Callable[[], None]]] = [
        (8, wrong),
        (3, lambda: life.good_readings(price(), [draw.randint(0, 30)], draw.randint(0, 10))),
        (
            3,
            lambda: life.ordinary_day(
                price(),
                [draw.randint(0, 30) for _ in range(3)],
                (share(), share(), share()),
                draw.sample(["offset", "forgive", "claim"], 3),
                draw.random() < 0.7,
                draw.random() < 0.7,
            ),
        ),
        (2, lambda: life.offset(share(), draw.randint(-1, 1))),
        (1, lambda: life.forgive(share(), draw.randint(-1, 1))),
        (2, lambda: life.sign_claim(share(), draw.randint(-1, 1), draw.random() < 0.5)),
        (2, lambda: life.deposit(draw.randint(1, 1_500))),
        (2, lambda: life.initiate_withdraw(draw.choice([0, 1, 3, 10, 11]))),
        (1, lambda: life.refund(draw.choice([draw.randint(1, 40), draw.randint(1, 900)]))),
        (6, lambda: life.deliver(draw.randint(1, 8))),
        (1, lambda: life.foresee(draw.random() < 0.7)),
        (1, lambda: life.reorganise(draw.randint(1, 6), draw.random() < 0.5)),
        (1, lambda: life.close(draw.random() < 0.15)),
        (1, lambda: life.ask_to_close(draw.random() < 0.15, draw.choice([*CLOSE_FLAWS, None]), draw.randint(1, 3))),
        (1, lambda: life.closed(draw.random() < 0.2)),
        (1, lambda: life.open_again(draw.randint(1, 900), draw.random() < 0.5, draw.choice(TAKEN))),
    ]
    if life.signed:
        steps.append((2, lambda: life.claim(draw.randint(-3, 3))))
    if life.contract.pending:
        steps.append((1, life.finalize_withdraw))
    if life.accepted:
        steps.append((1, lambda: life.resend(draw.randint(0, 1_000))))
    if life.seen:
        steps.append((1, lambda: life.redeliver(draw.randint(0, 1_000))))
    draw.choices([step for _, step in steps], [weight for weight, _ in steps])[0]()


def run_life(seed: int, steps: int = STEPS) -> ChannelLife:
    draw = Random(seed)
    life = ChannelLife()
    life.start(
        draw.randint(0, 1_000),
        draw.choice([draw.randint(300, 3_000), 0, U128]),
        draw.choice([0, draw.randint(0, 300), U128 - draw.randint(0, 50)]),
        draw.choice([0, 0, 50, 5_000]),
        draw.random() < 0.7,
    )
    for _ in range(steps):
        random_step(life, draw)
        life.machine_and_auditor_agree()
        life.shared_invariants_hold()
        life.the_books_of_the_channel_balance()
        life.once_all_is_delivered_the_chain_is_known()
    return life


def test_random_lives_agree_and_go_everywhere() -> None:
    """Also asked: did every cell of the table and every refusal of a reading occur in them?"""
    outcomes: set[tuple[str, str, str]] = set()
    for seed in range(SEED, SEED + LIVES):
        print(f"seed {seed}")
        outcomes |= run_life(seed).outcomes
    cells = {(phase.name, change.__name__) for phase, change in TRANSITIONS}
    assert cells - {(phase, change) for phase, change, _ in outcomes} == set()
    given = {came for _, change, came in outcomes if change == "ReceiveReading"}
    assert {Refusal(number).wire_name for number in range(4, 20)} - given == set()
    moves = {(before, after) for before, _, after in outcomes if before != after and after.isupper()}
    assert moves == {
        ("OPENING", "OPEN"),
        ("OPENING", "WITHDRAWING"),
        ("OPEN", "WITHDRAWING"),
        ("OPEN", "CLOSING"),
        ("WITHDRAWING", "OPEN"),
        ("WITHDRAWING", "CLOSING"),
        ("CLOSING", "CLOSED"),
        ("CLOSED", "CLOSING"),
    }
