"""What others do on the chain: the books stay conserved to the unit (docs/protocol.md 6 and 7)."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from channels.digests import channel_id, deposit_digest, voucher_digest
from channels.refusals import Refusal
from channels.signatures import key_address, sign
from channels.state import Phase
from channels.types import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, Authorization, ChannelConfig, Network, TokenDomain
from gateway.config import ChainConfig, OfferConfig, ServiceConfig, SettlementConfig
from gateway.errors import SetupError
from gateway.keys import key_ring
from gateway.records import CashReceived, ForeignClaimed
from settlement import calls
from settlement.calls import VoucherClaim
from settlement.contracts import artifact, token_genesis_storage
from settlement.errors import ChainUnavailable
from settlement.genesis import PAYOUTS_ADDRESS, TOKEN_ADDRESS
from tests.support.gateway_devices import FOREVER, Payer, secret, to_json
from tests.support.gateway_world import CHAIN_ID, SERVICES, TOKEN, World, states, until

Make = Callable[..., Awaitable[World]]
WORTHLESS = b"WorthlessToken" + bytes(5) + b"\1"
NETWORK = Network(CHAIN_ID)


def hexed(value: bytes) -> str:
    """Return 0x-hex."""
    return "0x" + value.hex()


def worthless_token() -> dict[str, Any]:
    """A second token in genesis, all of it the stranger's."""
    storage = token_genesis_storage({key_address(secret("stranger")): 10**30})
    return {
        hexed(WORTHLESS): {
            "balance": "0x0",
            "nonce": "0x1",
            "code": hexed(artifact("TestUSD").runtime),
            "storage": {hexed(slot): hexed(value) for slot, value in storage.items()},
        }
    }


class Foreigner:
    """A channel of the stranger to one of our lanes, which the stranger claims itself."""

    def __init__(self, world: World, *, token: bytes = TOKEN_ADDRESS, salt: int = 1, lane: int = 0) -> None:
        self.world = world
        key = world.stranger_key
        stranger = key_address(key)
        self.config = ChannelConfig(
            stranger, stranger, world.keys.lanes[lane].address, stranger, token, 900, salt.to_bytes(32, "big")
        )
        self.id = channel_id(self.config, NETWORK)

    async def deposit(self, amount: int, salt: int = 1) -> None:
        """Pay in."""
        token = TokenDomain(self.config.token, "USD Coin", "2")
        digest = deposit_digest(self.id, self.config.payer, amount, 0, FOREVER, salt, token, CHAIN_ID)
        authorization = Authorization(0, FOREVER, salt, sign(digest, self.world.stranger_key))
        await self.world.deposit(self.config, amount, authorization)

    async def claim(self, total: int) -> None:
        """Claim for our lane."""
        signature = sign(voucher_digest(self.id, total, NETWORK), self.world.stranger_key)
        data = calls.claim([VoucherClaim(self.config, total, signature, total)])
        await self.world.transact(self.world.stranger_key, SETTLEMENT_ADDRESS, data)


async def flow(world: World) -> Payer:
    """A channel and an account with something to settle."""
    payer = await world.opened()
    earner = await world.joined()
    await world.pay(payer, 1_000)
    await world.earn(earner, 100)
    return payer


async def balanced(world: World) -> None:
    """The books hold now, after a settlement, and after a restart."""
    await world.seen()
    assert await world.faults() == []
    await world.gateway.settler.settle()
    assert await world.faults() == []
    before = states(world.ledger)
    await world.restart()
    assert await world.faults() == []
    await world.seen()
    after = states(world.ledger)
    for kind in ("channel", "account", "party", "foreign"):
        assert after[kind] == before[kind], kind
    assert world.ledger.totals.received == before["totals"][b""].received
    assert world.ledger.totals.settled == before["totals"][b""].settled


async def test_a_strangers_deposit_is_the_channels(world: World) -> None:
    payer = await flow(world)
    await world.deposit(payer.config, 700_000, payer.authorization(700_000, 9))
    await balanced(world)
    assert world.channel(payer).balance == 5_700_000
    assert (await world.pay(payer)).balance == 5_700_000


async def test_withdrawals(world: World) -> None:
    payer = await flow(world)
    key = payer.payer_key
    await world.transact(key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 4_000_000))
    await world.seen()
    channel = world.channel(payer)
    assert (channel.phase, channel.withdrawing, channel.usable_balance) == (Phase.WITHDRAWING, 4_000_000, 1_000_000)
    assert await world.faults() == []
    await world.pay(payer, 1_000)
    await world.gateway.settler.settle()
    assert world.channel(payer).claimed == payer.charged
    world.mine(900)
    await world.transact(key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))
    await balanced(world)
    channel = world.channel(payer)
    assert (channel.phase, channel.withdrawing, channel.withdrawn) == (Phase.OPEN, 0, 4_000_000)
    assert channel.balance == 1_000_000
    await world.pay(payer, 10)


async def test_a_payer_who_withdraws_everything_owes_and_is_not_served(world: World) -> None:
    """The contract caps to what is unclaimed: claims that came before are safe, vouchers alone are not."""
    payer = await flow(world)
    await world.gateway.settler.settle()
    await world.pay(payer, 1_000)
    owed = world.channel(payer).owed
    rest = 5_000_000 - world.channel(payer).claimed
    world.settles_when_told()
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, rest))
    world.mine(900)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))
    await world.seen()
    channel = world.channel(payer)
    assert (channel.balance, channel.claimed) == (150_000, 150_000)
    assert channel.owed == owed == 300_000
    answer = await world.ask("meter-1", "usage", to_json(payer.usage(1)))
    assert answer.reason is Refusal.CEILING_ABOVE_BALANCE
    await balanced(world)
    # It pays in again: what it owed is claimed after all.
    answer = await world.ask("meter-1", "open", to_json(payer.open(1_000_000, salt=2)))
    assert (answer.status, answer.balance) == (0, 1_150_000)
    await world.gateway.settler.settle()
    assert world.channel(payer).claimed == owed
    await balanced(world)


async def test_a_withdrawal_overtakes_a_claim(world: World) -> None:
    """The cycle is under way when the payer takes its money out: the claim reverts, the next cycle knows better."""
    payer = await flow(world)
    other = await world.opened("meter-2")
    await world.pay(other, 1_000)
    world.settles_when_told()
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 5_000_000))
    world.mine(900)

    async def overtake(*_: Any) -> None:
        await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(payer.config))

    world.layer.once_before("estimate_all", overtake)
    for _ in range(2):
        before = world.channel(payer).claimed + world.channel(other).claimed
        ended = await world.gateway.settler.settle()
        moved = world.channel(payer).claimed + world.channel(other).claimed - before
        assert ended is None or ended.claimed == moved, "the cycle tells more than it moved"
    assert world.troubles
    assert world.channel(other).claimed == other.charged
    assert world.channel(payer).claimed == 0
    assert world.channel(payer).owed == payer.charged
    await balanced(world)


async def test_one_bad_row_starves_no_other(world: World) -> None:
    """Rows of one transaction stand or fall together: the rest of the lane is claimed in the same cycle."""
    payers = [await world.opened(f"meter-{number}") for number in range(1, 9)]
    lane = max(world.keys.lanes, key=lambda key: sum(payer.config.receiver == key.address for payer in payers)).address
    bad, *others = [payer for payer in payers if payer.config.receiver == lane]
    assert len(others) >= 3
    for payer in payers:
        await world.pay(payer, 100)
    world.settles_when_told()
    await world.transact(bad.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(bad.config, 5_000_000))
    world.mine(900)

    async def overtake(*_: Any) -> None:
        await world.transact(bad.payer_key, SETTLEMENT_ADDRESS, calls.finalize_withdraw(bad.config))

    world.layer.once_before("estimate_all", overtake)
    ended = await world.gateway.settler.settle()
    assert ended is not None
    assert ended.claimed == 7 * 15_000
    assert [world.channel(payer).claimed for payer in (bad, *others)] == [0] + [15_000] * len(others)
    await balanced(world)


@pytest.mark.parametrize("holder", ["lane", "treasury", "settlement", "operator", "authorizer", "collector", "payouts"])
async def test_gifts(world: World, holder: str) -> None:
    await flow(world)
    keys = world.keys
    to = {
        "lane": keys.lanes[1].address,
        "treasury": keys.treasury.address,
        "settlement": SETTLEMENT_ADDRESS,
        "operator": keys.operator.address,
        "authorizer": keys.authorizer.address,
        "collector": COLLECTOR_ADDRESS,
        "payouts": PAYOUTS_ADDRESS,
    }[holder]
    await world.give(to, 12_345)
    await world.give(to, 1)
    await balanced(world)
    await world.give(to, 7)
    await balanced(world)
    received = world.ledger.totals.received - 1_000 * TOKEN
    assert received == (12_353 if holder in ("lane", "treasury") else 0)


async def test_money_between_own_keys_is_internal(world: World) -> None:
    await flow(world)
    keys = world.keys
    before = world.ledger.totals.received
    for sender, receiver in ((keys.treasury, keys.lanes[0]), (keys.lanes[0], keys.lanes[1])):
        await world.transact(sender.private, TOKEN_ADDRESS, calls.transfer(receiver.address, 5_000))
        await world.seen()
        assert await world.faults() == []
    assert world.ledger.totals.received == before


async def test_anybody_may_settle_a_lane(world: World) -> None:
    payer = await flow(world)
    lane = payer.config.receiver
    sent = False

    async def settle_first(*_: Any) -> None:
        nonlocal sent
        if not sent:
            sent = True
            await world.transact(world.stranger_key, SETTLEMENT_ADDRESS, calls.settle(lane, TOKEN_ADDRESS))

    world.layer.once_after("receivers", settle_first)
    world.layer.once_after("receivers", settle_first)
    ended = await world.gateway.settler.settle()
    assert ended is not None
    assert sent
    await balanced(world)
    assert world.ledger.totals.settled == payer.charged


@pytest.mark.parametrize("seen_between", [False, True])
async def test_foreign_channels_and_their_claims(world: World, seen_between: bool) -> None:
    payer = await flow(world)
    for salt, lane in ((1, 0), (2, 1)):
        foreign = Foreigner(world, salt=salt, lane=lane)
        await foreign.deposit(1_000_000)
        if seen_between:
            await world.seen()
        await foreign.claim(100_000)
        await foreign.claim(250_000)
        await world.seen()
        assert await world.faults() == []
        assert world.ledger.foreign[world.keys.lanes[lane].address] == 250_000
    await balanced(world)
    await Foreigner(world, salt=1).claim(300_000)
    await balanced(world)
    assert sum(world.ledger.foreign.values()) == 550_000
    await world.pay(payer)


async def test_a_foreign_channel_in_another_token_is_none_of_ours(make_world: Make) -> None:
    world = await make_world(extra_alloc=worthless_token())
    await flow(world)
    foreign = Foreigner(world, token=WORTHLESS)
    await foreign.deposit(10**20)
    await foreign.claim(10**19)
    await world.transact(
        world.stranger_key, SETTLEMENT_ADDRESS, calls.settle(foreign.config.receiver, foreign.config.token)
    )
    await world.give(world.keys.treasury.address, 10**9, token=WORTHLESS)
    await balanced(world)
    assert not world.ledger.foreign


async def test_a_foreign_channel_from_before_the_journal(make_world: Make) -> None:
    """The lane addresses are known from an earlier life of this gateway."""
    world = await make_world(start=False)
    foreign = Foreigner(world)
    await foreign.deposit(1_000_000)
    await foreign.claim(100_000)
    await world.transact(
        world.stranger_key, SETTLEMENT_ADDRESS, calls.settle(world.keys.lanes[0].address, TOKEN_ADDRESS)
    )
    await foreign.claim(110_000)
    await world.give(world.keys.lanes[1].address, 5_000)
    await world.start()
    assert await world.faults() == []
    await flow(world)
    await balanced(world)
    await foreign.claim(150_000)
    await balanced(world)


async def test_channels_of_others_to_others_do_not_matter(world: World) -> None:
    await flow(world)
    foreign = Foreigner(world)
    object.__setattr__(foreign.config, "receiver", key_address(secret("another gateway")))
    foreign.id = channel_id(foreign.config, NETWORK)
    await foreign.deposit(1_000_000)
    await foreign.claim(400_000)
    await balanced(world)
    assert not world.ledger.foreign


async def test_events_while_the_gateway_is_away(world: World) -> None:
    payer = await flow(world)
    await world.stop()
    await world.deposit(payer.config, 700_000, payer.authorization(700_000, 9))
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, 123_456))
    foreign = Foreigner(world)
    await foreign.deposit(1_000_000)
    await foreign.claim(9)
    await world.give(world.keys.lanes[0].address, 77)
    for _ in range(50):
        world.mine(1)
    await world.start()
    assert (world.channel(payer).balance, world.channel(payer).withdrawing) == (5_700_000, 123_456)
    await balanced(world)
    assert world.ledger.totals.received == 1_000 * TOKEN + 77


async def test_a_restart_reads_no_event_twice(world: World) -> None:
    await flow(world)
    await world.give(world.keys.lanes[0].address, 77)
    await world.seen()
    for _ in range(4):
        await world.restart()
        await world.seen()
        assert world.ledger.totals.received == 1_000 * TOKEN + 77
    cursor = world.ledger.totals.block
    for _ in range(10):
        world.mine(1)
    await world.seen()
    assert world.gateway.watcher.block == world.head
    assert world.ledger.totals.block == cursor, "empty blocks are not journaled one by one"


async def test_long_gaps_are_read_in_steps(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.block_logs.BLOCKS_PER_STEP", 7)
    monkeypatch.setattr("gateway.watcher.SEEN_EVERY_BLOCKS", 20)
    world = await make_world()
    payer = await flow(world)
    await world.stop()
    for number in range(60):
        world.mine(1)
        if number % 20 == 3:
            await world.give(world.keys.lanes[0].address, 1)
    world.layer.asked.clear()
    await world.start()
    assert world.layer.asked.count("events") >= 9
    assert world.ledger.totals.received == 1_000 * TOKEN + 3
    assert world.ledger.totals.block > world.head - 20
    await world.pay(payer)
    await balanced(world)


async def test_only_final_blocks_count(make_world: Make) -> None:
    chain = ChainConfig(
        url="http://127.0.0.1:1", chain_id=CHAIN_ID, asset=hexed(TOKEN_ADDRESS), payouts=hexed(PAYOUTS_ADDRESS),
        poll_ms=20, confirmations=3,
    )  # fmt: skip
    world = await make_world(start=False, chain=chain)
    for _ in range(5):
        world.mine(1)
    starting = asyncio.create_task(world.start())
    while not starting.done():  # its own first transaction has to become final, too
        world.mine(1)
        await asyncio.sleep(0.005)
    await starting
    payer = world.payer()
    payload = to_json(payer.open())
    await world.link.send("meter-1", "open", payload)
    await until(lambda: world.miner.chain.nonce(world.keys.operator.address) > 0)
    mined = world.head
    for depth in range(1, 4):
        await world.seen()
        assert world.link.published == [], f"answered {depth - 1} blocks after the deposit"
        world.mine(1)
    assert world.head == mined + 3
    receipt = await world.link.receipt("meter-1", payload)
    assert b'"accepted"' in receipt
    await world.give(world.keys.lanes[0].address, 5)
    await world.seen()
    assert world.ledger.totals.received == 1_000 * TOKEN
    for _ in range(3):
        world.mine(1)
    await world.seen()
    assert world.ledger.totals.received == 1_000 * TOKEN + 5
    assert await world.faults() == []


async def test_a_young_chain_with_confirmations(make_world: Make) -> None:
    """Fewer blocks than confirmations: nothing is final yet, which is no reason for a traceback."""
    chain = ChainConfig(
        url="http://127.0.0.1:1", chain_id=CHAIN_ID, asset=hexed(TOKEN_ADDRESS), payouts=hexed(PAYOUTS_ADDRESS),
        poll_ms=20, confirmations=12,
    )  # fmt: skip
    world = await make_world(start=False, chain=chain)
    starting = asyncio.create_task(world.start())
    while not starting.done():
        world.mine(1)
        await asyncio.sleep(0.005)
    await starting
    assert await world.faults() == []


async def test_the_watcher_outlives_a_flaky_line(world: World) -> None:
    payer = await flow(world)

    async def away(*_: Any) -> None:
        raise ChainUnavailable("the cable is out")

    for method in ("head", "transfers_to"):
        world.layer.once_before(method, away)
    for method in ("events", "block"):
        world.layer.once_after(method, away)
    await world.give(world.keys.lanes[0].address, 77)
    await until(lambda: world.ledger.totals.received == 1_000 * TOKEN + 77 or not world.running)
    assert world.running
    await world.pay(payer)
    await balanced(world)


async def test_random_doings_of_everybody_keep_the_books(make_world: Make) -> None:
    seed = 1_234
    print(f"seed {seed}")
    rng = random.Random(seed)
    world = await make_world(extra_alloc=worthless_token())
    payers = [await world.opened(f"meter-{number}", 2_000_000) for number in range(1, 5)]
    earners = [await world.joined(f"solar-{number}", payee_key=payers[number - 1].payer_key) for number in (1, 2)]
    earners.append(await world.joined("solar-9"))
    foreign = Foreigner(world)
    await foreign.deposit(1_000_000)
    salt = claimed = 0
    for step in range(120):
        payer = rng.choice(payers)
        channel = world.channel(payer)
        payer.settled_elsewhere = channel.offset
        doing = rng.randrange(12)
        if doing < 4 and channel.usable_balance > channel.owed + 200_000:
            await world.pay(payer, rng.randrange(1, 1_000))
        elif doing < 6:
            await world.earn(rng.choice(earners), rng.randrange(1, 1_000))
        elif doing == 6:
            salt += 1
            amount = rng.randrange(1, 10**6)
            await world.deposit(payer.config, amount, payer.authorization(amount, 100 + salt))
        elif doing == 7:
            view = await world.view(payer.id)
            if view.withdrawing:
                world.mine(900)
                data = calls.finalize_withdraw(payer.config)
                if view.balance > view.total_claimed:
                    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, data)
            elif view.balance - view.total_claimed > 10:
                amount = rng.randrange(1, view.balance - view.total_claimed)
                data = calls.initiate_withdraw(payer.config, amount)
                await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, data)
        elif doing == 8:
            claimed += rng.randrange(1, 1_000)
            await foreign.claim(claimed)
        elif doing == 9:
            to = rng.choice([*world.keys.lanes, world.keys.treasury]).address
            await world.give(rng.choice((to, SETTLEMENT_ADDRESS)), rng.randrange(1, 1_000))
        elif doing == 10:
            await world.gateway.settler.settle()
        elif rng.random() < 0.3:
            await world.restart()
        await world.seen()
        if step % 10 == 9:
            assert await world.faults() == [], f"seed {seed}, step {step}"
    await world.gateway.settler.settle()
    assert await world.faults() == [], f"seed {seed}"
    assert world.ledger.totals.cycles > 3


# -- the start --


async def test_the_journal_is_of_one_gateway(make_world: Make) -> None:
    import msgspec

    world = await make_world()
    await world.opened()
    await world.stop()
    good = world.config
    for name, changed in (("gateway", {"gateway": "gw2"}), ("lanes", {"lanes": 3})):
        world.config = msgspec.structs.replace(good, **changed)
        keys = key_ring(bytes(range(32)), world.config.lanes)
        with pytest.raises(SetupError, match=f"another value of {name}: put back"):
            await world.start(keys=keys)
    world.config = good
    with pytest.raises(SetupError, match="another value of the keys: put back"):
        await world.start(keys=key_ring(b"\1" * 32, 2))
    await world.start()
    assert await world.faults() == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"chain_id": 5}, "chain"),
        ({"asset": hexed(bytes(19) + b"\5")}, "not a contract"),
        ({"asset": hexed(SETTLEMENT_ADDRESS)}, "token"),
        ({"payouts": hexed(bytes(19) + b"\5")}, "no payouts contract"),
    ],
)
async def test_a_chain_that_does_not_fit_is_said_so(make_world: Make, changed: dict[str, Any], words: str) -> None:
    import msgspec

    world = await make_world(start=False)
    chain = msgspec.structs.replace(world.config.chain, **changed)
    world.config = msgspec.structs.replace(world.config, chain=chain)
    with pytest.raises(SetupError, match=words) as caught:
        await world.start()
    assert "does not fit" in str(caught.value)
    # Nothing was founded on it: with the right configuration the same directory is as good as new.
    world.config = msgspec.structs.replace(world.config, chain=msgspec.structs.replace(
        chain, chain_id=CHAIN_ID, asset=hexed(TOKEN_ADDRESS), payouts=hexed(PAYOUTS_ADDRESS)))  # fmt: skip
    await world.start()


async def test_an_unreachable_chain_is_said_so(make_world: Make) -> None:
    world = await make_world(start=False)

    async def away(*_: Any) -> None:
        raise ChainUnavailable("nobody answers")

    world.layer.once_before("chain_id", away)
    with pytest.raises(SetupError, match="cannot be reached"):
        await world.start()
    await world.start()


async def test_two_gateways_on_one_directory(make_world: Make) -> None:
    world = await make_world()
    from gateway.service import Gateway

    with pytest.raises(SetupError, match="another Metergate is running"):
        Gateway(world.config, world.keys, world.layer)  # type: ignore[arg-type]


async def test_after_the_start_nothing_is_outstanding(world: World) -> None:
    """The approval of the payouts contract is mined, and its gas is in the books."""
    assert not world.ledger.transactions
    assert world.ledger.totals.gas_used > 0


@pytest.mark.parametrize("changed", [{"unit": "kWh"}, {"direction": "earn"}])
async def test_a_service_cannot_change_its_unit_or_direction(make_world: Make, changed: dict[str, str]) -> None:
    import msgspec

    world = await make_world()
    payer = await world.opened()
    await world.stop()
    good = world.config
    other = msgspec.structs.replace(SERVICES["grid-power"], **changed)
    world.config = msgspec.structs.replace(good, services=SERVICES | {"grid-power": other})
    for _ in range(2):
        with pytest.raises(SetupError, match="grid-power"):
            await world.start()
    world.config = good
    await world.start()
    await world.pay(payer)


async def test_offers_are_renewed_when_terms_change_or_time_runs_out(make_world: Make) -> None:
    import msgspec

    world = await make_world()
    first = world.gateway.terms.current
    assert world.link.offers == [first.payload]
    await world.restart()
    assert world.gateway.terms.current.id == first.id, "a restart alone is no new offer"
    world.mine(15 * 86_400 + 1)
    await world.restart()
    second = world.gateway.terms.current
    assert (second.serial, second.valid_from) == (2, first.valid_from + 15 * 86_400 + 1)
    await world.stop()
    world.config = msgspec.structs.replace(world.config, offer=OfferConfig(withdraw_delay=900, max_ahead="5"))
    await world.start()
    third = world.gateway.terms.current
    assert (third.serial, third.max_ahead) == (3, 5)
    assert world.link.offers == [third.payload]
    await world.restart()
    assert world.gateway.terms.current.serial == 3
    assert set(world.gateway.terms.book.known) == {first.id, second.id, third.id}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"offer": OfferConfig(min_deposit="0")}, "min"),
        ({"services": {"a": ServiceConfig(unit="b", price=str(2**64))}}, "price"),
    ],
)
async def test_terms_that_no_device_would_take_are_said_so(
    make_world: Make, changed: dict[str, Any], words: str
) -> None:
    """Should the configuration's own checks miss something, it is still one clear sentence."""
    world = await make_world(start=False, **changed)
    with pytest.raises(SetupError, match=words):
        await world.start()


def test_settlement_is_due_well_within_the_withdrawal_delay() -> None:
    """A payer must not be able to withdraw between two cycles what it owes (docs/protocol.md 6)."""
    from gateway.config import parse_config

    text = f"""
gateway = "gw1"
data_dir = "data"
key_file = "keys.json"
[mqtt]
[chain]
url = "http://127.0.0.1:8545"
chain_id = 31402
asset = "{hexed(TOKEN_ADDRESS)}"
payouts = "{hexed(PAYOUTS_ADDRESS)}"
[services.grid-power]
unit = "Wh"
price = "150000000000"
[offer]
withdraw_delay = 1000
[settlement]
every_s = """
    assert parse_config(text + "500", "x").settlement == SettlementConfig(every_s=500)
    with pytest.raises(SetupError, match="every_s"):
        parse_config(text + "501", "x")


async def test_records_name_what_happened(world: World) -> None:
    """The journal explains every unit: who gave cash, and which foreign channel brought what."""
    await world.give(world.keys.lanes[0].address, 5)
    foreign = Foreigner(world)
    await foreign.deposit(100)
    await foreign.claim(7)
    await world.seen()
    journal = world.gateway.books.journal
    records = [record for number in range(1, journal.number + 1) for record in journal.records(number)]
    cash = [record for record in records if isinstance(record, CashReceived)]
    assert [(record.holder, record.sender, record.amount) for record in cash] == [
        (world.keys.lanes[0].address, key_address(world.stranger_key), 5)
    ]
    lane = world.keys.lanes[0].address
    assert [record for record in records if isinstance(record, ForeignClaimed)] == [ForeignClaimed(lane, 7)]
