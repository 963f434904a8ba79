"""Coins for gas: refilled from the operator's key in time, once, and asked for long before they run dry."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import GasConfig, parse_config
from gateway.errors import SetupError
from gateway.gas import LOW_TRANSACTIONS, TRANSFER_GAS, KeyGas, Marks, marks_of, plan_refills, shown
from gateway.records import TransactionSigned
from settlement.bidding import Bidding
from settlement.errors import ChainRefused, ChainUnavailable
from settlement.port import Block, Fees
from settlement.streams import USUAL_GAS_MIN, Outgoing, Stream
from settlement.transactions import Transaction, sign_transaction
from tests.support.gateway_world import COIN, World, until

Make = Callable[..., Awaitable[World]]
MILLI = COIN // 1000
LOW, REFILL_TO = int(GasConfig().low), int(GasConfig().refill_to)


def others(world: World) -> list[bytes]:
    return [*(key.address for key in world.keys.lanes), world.keys.treasury.address]


async def coins(world: World, addresses: list[bytes]) -> list[int]:
    return list(await world.layer._inner.native_balances(addresses))


async def made(make_world: Make, **options: Any) -> World:
    """A world in which only the operator has coins, as many as `operator` says; started, and not running."""
    operator = options.pop("operator", 10 * COIN)
    keys = (await make_world(start=False)).keys
    addresses = [*(key.address for key in keys.lanes), keys.treasury.address]
    given = dict.fromkeys(addresses, 0) | {keys.operator.address: operator} | options.pop("coins", {})
    return await make_world(start=False, coins=given, **options)


def signed(world: World) -> list[TransactionSigned]:
    return [record for record in world.ledger.transactions.values() if record.purpose.startswith("refill")]


def suggest(world: World, fee: int) -> None:
    async def fees() -> Fees:
        return Fees(fee, 1)

    world.layer._inner.fees = fees  # type: ignore[method-assign]


# -- how much and to whom --

keys = st.builds(
    lambda name, coins, usual, low, more: KeyGas(
        f"lane {name}", bytes([name] * 20), coins, Marks(max(low, 4 * usual), max(low, 4 * usual) + more, usual)
    ),
    st.integers(0, 9), st.integers(0, 200), st.integers(0, 20), st.integers(0, 100), st.integers(1, 100),
)  # fmt: skip


@given(st.lists(keys, max_size=6, unique_by=lambda key: key.name), st.integers(-50, 500), st.integers(0, 9))
def test_refills_stay_within_what_there_is(keys: list[KeyGas], available: int, cost: int) -> None:
    refills = plan_refills(keys, available, cost)
    assert sum(wei + cost for _, wei in refills) <= max(available, 0)
    for index, (key, wei) in enumerate(refills):
        assert key.coins < key.marks.low
        wanted = key.marks.refill_to - key.coins
        assert max(min(key.marks.usual, wanted), 1) <= wei <= wanted
        if index < len(refills) - 1:
            assert key.coins + wei == key.marks.refill_to, "only the last one may get less"
    chosen = [key for key, _ in refills]
    assert len({key.address for key in chosen}) == len(chosen)
    left_out = [key for key in keys if key.coins < key.marks.low and key not in chosen]
    if left_out and chosen:
        assert max(key.transactions for key in chosen) <= min(key.transactions for key in left_out)
    if left_out:
        left = available - sum(wei + cost for _, wei in refills)
        neediest = min(left_out, key=lambda key: (key.transactions, key.name))
        assert left - cost < max(min(neediest.marks.usual, neediest.marks.refill_to - neediest.coins), 1)


@given(st.integers(0, 10**13), st.integers(0, COIN), st.integers(0, COIN))
def test_marks_follow_the_fees(fee: int, low: int, refill_to: int) -> None:
    stream = Stream(b"\x01" * 32)
    marks = marks_of(stream, fee, low, refill_to)
    assert marks.low >= low
    assert marks.low >= LOW_TRANSACTIONS * marks.usual
    assert marks.refill_to >= refill_to
    dearer = marks_of(stream, 2 * fee, low, refill_to)
    assert (dearer.low, dearer.refill_to) >= (marks.low, marks.refill_to)


def test_marks_count_what_is_outstanding_and_what_is_usual() -> None:
    stream = Stream(b"\x01" * 32)
    assert marks_of(stream, 10, 0, 0) == Marks(4 * USUAL_GAS_MIN * 10, 16 * USUAL_GAS_MIN * 10, USUAL_GAS_MIN * 10)
    raw = sign_transaction(Transaction(1, 0, 1, 7, 2_000_000, bytes(20), 5, b""), b"\x01" * 32).raw
    stream.take(Outgoing(stream.address, 0, "claim", raw), 0.0)
    outstanding = 2_000_000 * 7 + 5
    assert marks_of(stream, 10, 0, 0) == Marks(80_000_000 + outstanding, 320_000_000 + outstanding, 20_000_000)


@pytest.mark.parametrize(
    ("wei", "text"),
    [
        (0, "0 wei"),
        (999_999_999_999, "999999999999 wei"),
        (10**12, "0.000001 coins"),
        (10**12 + 1, "0.000002 coins"),
        (COIN, "1 coins"),
        (COIN * 3 // 2, "1.5 coins"),
        (1234 * COIN, "1234 coins"),
    ],
)
def test_amounts_are_shown_rounded_up(wei: int, text: str) -> None:
    assert shown(wei) == text


# -- on a chain --


async def test_the_operators_coins_are_enough_to_begin(make_world: Make) -> None:
    """Only one key needs coins from outside: the first start refills the others before it needs them."""
    world = await made(make_world)
    await world.start()
    (key,) = [key for key in world.gateway.gas.keys if key.name == "treasury"]
    assert key.coins == 0
    assert not signed(world)
    balances = await coins(world, others(world))
    assert balances[:2] == [REFILL_TO] * 2
    assert REFILL_TO - MILLI < balances[2] <= REFILL_TO, "the treasury has paid for its approval"
    await world.gateway.gas.step()
    assert not signed(world)
    figures = world.gateway.gas.figures()
    assert [each["name"] for each in figures["keys"]] == ["operator", "lane 0", "lane 1", "treasury"]
    assert figures["keys"][1] == {
        "name": "lane 0",
        "address": f"0x{world.keys.lanes[0].address.hex()}",
        "coins": str(REFILL_TO),
        "low": str(LOW),
        "transactions": REFILL_TO // (USUAL_GAS_MIN * (await world.layer.fees()).max_fee_per_gas),
    }
    assert figures["warning"] == ""
    assert figures["refills"] == world.gateway.gas.refills > 2_000
    assert world.miner.chain.nonce(world.keys.operator.address) == 3


async def test_a_start_without_any_coins_says_which_key_needs_some(make_world: Make) -> None:
    world = await made(make_world, operator=1_000)
    with pytest.raises(SetupError, match=f"operator's key 0x{world.keys.operator.address.hex()} has not enough"):
        await world.start()


async def test_a_rich_gateway_is_left_alone(world: World) -> None:
    await world.gateway.gas.step()
    assert world.miner.chain.nonce(world.keys.operator.address) == 0
    assert (world.gateway.gas.warning, world.troubles) == ("", [])


@pytest.mark.parametrize("restart", [False, True], ids=["live", "restarted"])
async def test_one_refill_of_a_key_at_a_time(make_world: Make, restart: bool) -> None:
    world = await made(make_world)
    await world.start()
    world.gateway.gas._refill_to = world.gateway.gas._low = COIN
    world.miner.auto = False
    await world.gateway.gas.step()
    assert len(signed(world)) == 3
    if restart:
        await world.restart()
        world.gateway.gas._refill_to = world.gateway.gas._low = COIN
    for _ in range(3):
        await world.gateway.gas.step()
    assert len(signed(world)) == 3
    world.mine()
    await until(lambda: not world.ledger.transactions)
    await world.gateway.gas.step()
    assert not signed(world)
    assert min(await coins(world, others(world))) == COIN


async def test_balances_that_lag_are_no_reason_for_a_second_refill(make_world: Make) -> None:
    world = await made(make_world)
    await world.start()
    gas = world.gateway.gas
    gas._refill_to = gas._low = COIN
    stale: Block = await world.layer._inner.head()
    await gas.step()
    await until(lambda: not world.ledger.transactions)
    head = world.layer._inner.head

    async def lagging() -> Block:
        return stale

    world.layer._inner.head = lagging  # type: ignore[method-assign]
    await gas.step()
    assert gas.keys[1].coins < COIN, "the replica does not know the refill yet"
    assert not signed(world)
    world.layer._inner.head = head  # type: ignore[method-assign]
    await gas.step()
    assert not signed(world)
    assert min(await coins(world, others(world))) == COIN


async def test_a_gas_price_that_rises_moves_the_marks(make_world: Make) -> None:
    world = await made(make_world)
    await world.start()
    fee = 50 * 10**9
    suggest(world, fee)
    await world.gateway.gas.step()
    await until(lambda: not world.ledger.transactions)
    assert await coins(world, others(world)) == [16 * USUAL_GAS_MIN * fee] * 3
    assert world.gateway.gas.keys[1].transactions == 0, "at that price the old refill was not worth much"
    await world.gateway.gas.step()
    assert [key.transactions for key in world.gateway.gas.keys[1:]] == [16] * 3


async def test_marks_follow_the_ceiling_not_a_price_that_is_never_paid(make_world: Make) -> None:
    world = await made(make_world)
    await world.start()
    suggest(world, 10**15)
    world.gateway.gas._bidding = Bidding(10**9)
    await world.gateway.gas.step()
    assert world.gateway.gas.keys[1].marks.low == 4 * USUAL_GAS_MIN * 10**9


async def test_the_operator_is_asked_long_before_its_coins_run_dry(make_world: Make) -> None:
    world = await made(make_world, operator=3 * REFILL_TO + 10 * (REFILL_TO - LOW) + LOW + MILLI)
    told: list[str] = []
    await world.start()
    gas = world.gateway.gas
    gas.on_trouble = told.append
    await gas.step()
    assert gas.refills == 10
    assert (gas.warning, told) == ("", [])
    operator = world.keys.operator
    spent = REFILL_TO - LOW
    await world.transact(operator.private, others(world)[0], b"", value=spent)
    await gas.step()
    assert gas.refills == 9
    assert f"0x{operator.address.hex()}" in gas.warning
    assert "enough for 9 more refills" in gas.warning
    assert told == [gas.warning]
    wanted = 20 * (REFILL_TO - LOW + TRANSFER_GAS * (await world.layer.fees()).max_fee_per_gas) + LOW
    assert gas.warning.endswith(f"send it {shown(wanted - (await coins(world, [operator.address]))[0])}")
    await gas.step()
    assert len(told) == 1, "not again before it gets less, or an hour later"
    await world.transact(operator.private, others(world)[0], b"", value=spent)
    await gas.step()
    assert "enough for 8 more refills" in told[1]
    gas._said = {about: (left, at - 3601) for about, (left, at) in gas._said.items()}
    await gas.step()
    assert len(told) == 3
    await world.transact(world.stranger_key, operator.address, b"", value=COIN // 2)
    await gas.step()
    assert (gas.warning, len(told)) == ("", 3)


async def test_what_is_asked_for_is_enough(make_world: Make) -> None:
    world = await made(make_world, operator=4 * REFILL_TO)
    await world.start()
    gas = world.gateway.gas
    await gas.step()
    assert gas.refills < 10
    amount = gas.warning.rsplit(" ", 2)[1]
    whole, _, part = amount.partition(".")
    await world.transact(world.stranger_key, world.keys.operator.address, b"", value=int(whole + part.ljust(18, "0")))
    await gas.step()
    assert (gas.refills, gas.warning) == (20, "")


async def test_the_neediest_key_comes_first_and_a_dry_one_is_told(make_world: Make) -> None:
    """The operator's coins are enough for one and a half refills; its own mark stays with it."""
    keys = (await make_world(start=False)).keys
    lanes = [key.address for key in keys.lanes]
    given = {lanes[0]: LOW // 2, lanes[1]: LOW // 3, keys.treasury.address: 2 * LOW}
    world = await made(make_world, coins=given, operator=LOW + REFILL_TO + REFILL_TO // 2)
    told: list[str] = []
    await world.start(run=False)
    world.gateway.gas.on_trouble = told.append
    await world.gateway.gas.step()
    assert {record.purpose for record in signed(world)} == {"refill lane 0", "refill lane 1"}
    await world.gateway.gas.step(wait=True)
    balances = await coins(world, lanes)
    assert balances[1] == REFILL_TO
    assert LOW < balances[0] < REFILL_TO
    (left,) = await coins(world, [world.keys.operator.address])
    assert left >= LOW
    await world.transact(keys.treasury.private, bytes(20), b"", value=LOW * 3 // 2)
    await world.gateway.gas.step()
    (text,) = [text for text in told if text.startswith("treasury")]
    assert f"0x{keys.treasury.address.hex()}" in text
    assert "send it" in text
    assert text in world.gateway.gas.warning


async def test_without_refills_keys_are_only_watched(make_world: Make) -> None:
    keys = (await make_world(start=False)).keys
    given = {keys.treasury.address: LOW - 1, keys.lanes[0].address: LOW}
    world = await made(make_world, coins=given, gas=GasConfig(refill_to="0"))
    told: list[str] = []
    await world.start(run=False)
    world.gateway.gas.on_trouble = told.append
    await world.gateway.gas.step()
    assert not signed(world)
    assert [text.split(" holds ")[0].rsplit(" ", 1)[0] for text in told] == ["lane 1", "treasury"]
    assert "lane 1 0x" in told[0]
    assert "holds 0 wei, enough for 0 transactions; send it 0.002 coins" in told[0]
    assert world.gateway.gas.refills == 0


async def test_it_goes_on_when_the_chain_is_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.gas.CHECK_EVERY_S", 0.001)
    gas = world.gateway.gas
    told: list[str] = []
    gas.on_trouble = told.append

    async def away(*_: Any) -> None:
        raise ChainUnavailable("the cable is out")

    world.layer.once_before("native_balances", away)
    running = asyncio.create_task(gas.run())
    await until(lambda: not world.layer.before["native_balances"])
    gas.keys = ()
    await until(lambda: bool(gas.keys))
    running.cancel()
    assert told == ["the keys' coins for gas could not be looked after: the cable is out"]


async def test_a_refill_that_the_node_refuses_is_told(make_world: Make) -> None:
    world = await made(make_world)
    told: list[str] = []
    await world.start(run=False)
    gas = world.gateway.gas
    gas.on_trouble = told.append
    gas._low = gas._refill_to = COIN

    inner = world.layer._inner.estimate_all

    async def no(wanted: list[Any]) -> list[Any]:
        return [ChainRefused(-32000, "not now") for _ in wanted]

    world.layer._inner.estimate_all = no  # type: ignore[method-assign]
    await gas.step()
    assert told == [f"{key.name} cannot be refilled: the node refused (-32000): not now" for key in gas.keys[1:]]
    world.layer._inner.estimate_all = inner  # type: ignore[method-assign]
    await gas.step(wait=True)
    assert min(await coins(world, others(world))) == COIN


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('low = "5"\nrefill_to = "5"', "more than gas.low"),
        ('low = "-1"', "gas.low"),
        ("low = 5", "gas.low"),
        ("warn_refills = -1", "gas.warn_refills"),
    ],
)
def test_wrong_marks_are_refused(line: str, expected: str) -> None:
    text = (
        'gateway = "gw"\ndata_dir = "d"\nkey_file = "k"\n[mqtt]\n[chain]\nurl = "http://h"\nchain_id = 1\n'
        f'asset = "0x{"11" * 20}"\npayouts = "0x{"22" * 20}"\n[services.a]\nunit = "Wh"\nprice = "1"\n[gas]\n{line}\n'
    )
    with pytest.raises(SetupError, match=expected):
        parse_config(text, "metergate.toml")
