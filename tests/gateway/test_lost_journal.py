"""A new data_dir with the same keys (docs/operating.md, Backups): nobody pays twice, and nobody is paid twice."""

from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from channels.refusals import Refusal
from channels.state import Phase
from gateway.statements import read_statements
from settlement.statement_checks import verify
from tests.support.gateway_devices import to_json
from tests.support.gateway_world import World

Make = Callable[..., Awaitable[World]]


async def start_anew(world: World, name: str = "anew") -> None:
    """Stop, lose the journal, and start with the same keys."""
    await world.stop()
    world.config = msgspec.structs.replace(world.config, data_dir=str(Path(world.config.data_dir).parent / name))
    await world.start()


@pytest.mark.parametrize("register", [0, 20_000], ids=["the same open", "from the last receipt on"])
async def test_an_earner_is_not_paid_twice(world: World, register: int) -> None:
    earner = await world.joined("solar-1")
    await world.earn(earner, 20_000)  # 1.6 tokens
    await world.settle()
    paid = await world.balance(earner.payee)
    assert paid == 1_600_000 * 99 // 100
    await start_anew(world)
    answer = await world.ask("solar-1", "open", to_json(earner.open() | {"register": register}))
    assert (answer.reason, answer.cumulative, answer.last_register) == (None, 0, register)
    await world.restart()
    receipt = await world.earn(earner, 1_000)
    assert (receipt.cumulative, receipt.last_register) == (0, 21_000)
    await world.settle()
    assert await world.balance(earner.payee) == paid
    await world.restart()
    receipt = await world.earn(earner, 1_000)
    assert (receipt.cumulative, receipt.last_register) == (80_000, 22_000)
    account = world.account(earner)
    assert (account.first_register, account.earned) == (21_000, 80_000)
    await world.settle()
    assert await world.balance(earner.payee) == paid + 80_000 * 99 // 100
    assert await world.faults() == []


async def test_an_earner_of_the_first_journal_is_paid_from_its_open_on(world: World) -> None:
    earner = await world.joined("solar-1")
    receipt = await world.earn(earner, 1_000)
    assert receipt.cumulative == 80_000
    assert world.ledger.founded is not None
    assert not world.ledger.founded.past
    await world.settle()
    assert sorted(record for record in world.ledger.ended) == [bytes(7) + b"\1"], "cycles begin with 1"


async def test_what_was_netted_is_not_earned_twice(world: World) -> None:
    """A party that never got a payout: its earnings went into its debts."""
    payer = await world.opened()
    earner = await world.joined("solar-1", payee_key=payer.payer_key)
    await world.pay(payer, 1_000)
    await world.earn(earner, 1_000)
    await world.settle()
    assert await world.balance(earner.payee) == await world.balance(payer.payer)
    await start_anew(world)
    await world.ask("solar-1", "open", to_json(earner.open()))
    assert (await world.earn(earner, 10)).cumulative == 0


@pytest.mark.parametrize("unclaimed", [0, 2_000])
async def test_a_payer_is_not_charged_twice(world: World, unclaimed: int) -> None:
    payer = await world.opened(amount=9_000_000)
    await world.pay(payer, 20_000)  # 3 tokens
    await world.settle()
    if unclaimed:
        await world.pay(payer, unclaimed)  # 0.3 more, which the lost journal had not claimed
    await start_anew(world)
    refused = await world.ask("meter-1", "usage", to_json(payer.usage(1_000)))
    assert refused.reason is Refusal.UNKNOWN_CHANNEL
    answer = await world.ask("meter-1", "open", to_json(payer.open(9_000_000)))  # as it was
    assert (answer.reason, answer.cumulative, answer.last_register) == (None, 3_000_000, 0)
    # By its own arithmetic: 3.15 tokens, or 3.45; a ceiling may be one token ahead, so none of that is proved.
    fields = payer.usage(1_000)
    receipt = await world.ask("meter-1", "usage", to_json(fields))
    payer.took(fields)
    assert (receipt.reason, receipt.cumulative, receipt.last_register) == (None, 3_000_000, 21_000 + unclaimed)
    await world.restart()
    for further in (150_000, 300_000):
        assert (await world.pay(payer, 1_000)).cumulative == 3_000_000 + further
    await world.settle()
    view = await world.view(payer.id)
    assert view.total_claimed == 3_300_000 <= payer.charged
    assert await world.faults() == []
    await world.gateway.closings.close("meter-1", None)
    for _ in range(3):
        await world.settle()
    assert world.channel(payer).phase is Phase.CLOSED
    assert (await world.view(payer.id)).balance == 3_300_000


async def test_a_payer_that_proves_more_is_charged_more(world: World) -> None:
    """What was not claimed is more than a ceiling may be ahead: the rest of it is owed."""
    payer = await world.opened(amount=9_000_000)
    await world.pay(payer, 10_000)  # 1.5 tokens
    await world.settle()
    await world.pay(payer, 20_000)  # 3 tokens, not claimed
    await start_anew(world)
    await world.ask("meter-1", "open", to_json(payer.open(9_000_000)))
    receipt = await world.ask("meter-1", "usage", to_json(payer.usage(1_000)))
    assert (receipt.reason, receipt.ceiling, receipt.cumulative) == (None, 4_650_000, 3_650_000)
    assert await world.faults() == []


async def test_a_payer_that_names_the_register_of_its_last_receipt_loses_nothing(world: World) -> None:
    payer = await world.opened(amount=9_000_000)
    await world.pay(payer, 20_000)
    await world.settle()
    await start_anew(world)
    answer = await world.ask("meter-1", "open", to_json(payer.open(9_000_000, register=20_000)))
    assert (answer.reason, answer.cumulative, answer.last_register) == (None, 3_000_000, 20_000)
    receipt = await world.ask("meter-1", "usage", to_json(payer.usage(1_000)))
    assert (receipt.reason, receipt.cumulative) == (None, 3_150_000)


async def test_no_two_statements_are_of_one_cycle(world: World) -> None:
    """Over two journals that were lost. A party with two accounts, one of which has its first reading late."""
    earner = await world.joined("solar-1")
    idle = await world.joined("solar-2", payee_key=earner.payee_key)
    told: list[int] = []
    for name in ("second", "third", "fourth"):
        for settlement in range(3):
            await world.earn(earner, 1_000)
            if settlement == 2:
                await world.earn(idle, 500)
            await world.settle()
        await world.gateway.books.journal.durable()
        statements = read_statements(world.gateway.books.journal.path, earner.payee, after=-1)
        told += [int(statement["message"]["cycle"]) for statement in statements]
        assert verify(statements, world.keys.authorizer.address) == [], "each journal's are a chain of their own"
        if name == "fourth":
            break
        world.mine(60)
        await start_anew(world, name)
        for each in (earner, idle):
            each.offer = world.gateway.terms.current
            assert (await world.ask(each.device, "open", to_json(each.open()))).reason is None
    assert len(told) == 3 + 2 + 2, "the first reading of a new journal earns nothing, so there is nothing to tell"
    assert all(before < after for before, after in pairwise(told)), told
