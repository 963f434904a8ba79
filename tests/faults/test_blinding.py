"""What keeps a gateway from seeing its chain: blocks too full for one answer, no log index, a node that stands still.

A gateway that cannot see must say so (`chain_stale`) before a withdrawal could end unseen; a stranger must not be able
to blind it at all.
"""

import asyncio
import time
from dataclasses import dataclass

import pytest

from channels.refusals import Refusal
from channels.signatures import key_address
from channels.state import Phase
from channels.types import SETTLEMENT_ADDRESS
from settlement import calls
from settlement.genesis import TOKEN_ADDRESS
from settlement.transactions import Transaction, sign_transaction
from tests.support.gateway_devices import Payer, to_json
from tests.support.proof_fixtures import Make
from tests.support.proof_grounds import CHAIN_ID
from tests.support.proof_world import ProofWorld

LOGS, OF_BLOCK, OF_TRANSACTION = "eth_getLogs", "eth_getBlockReceipts", "eth_getTransactionReceipt"
ALWAYS = 10**9
# One more than the embedded layer, as most nodes, returns for one query.
TOO_MANY = 10_001
SPAMMER, TOY = b"Spam".ljust(20, b"\1"), b"Toy".ljust(20, b"\1")
# (count, call data…): calls the address behind `PUSH20` with the call data, `count` times.
REPEAT = "36602090038060206000376000355b8015603c5760006000836000600073{to}5af15060019003600e565b00"
# A token whose balance grows by 1 with every call but `balanceOf`: who deposits it needs no money.
TOY_CODE = bytes.fromhex("60003560e01c6370a0823114601957600160005401600055005b60005460005260206000f3")


def repeating(to: bytes) -> bytes:
    """Return the code of a contract that calls `to` again and again."""
    return bytes.fromhex(REPEAT.format(to=to.hex()))


async def spam(world: ProofWorld, data: bytes, gas: int) -> int:
    """Let a stranger call something too often in one block; returns that block."""
    sender = key_address(world.stranger_key)
    nonce = int(world.ground.rpc("eth_getTransactionCount", "0x" + sender.hex(), "latest"), 16)
    counted = TOO_MANY.to_bytes(32, "big") + data
    made = Transaction(CHAIN_ID, nonce, 10**9, 10**11, gas, SPAMMER, 0, counted)
    signed = sign_transaction(made, world.stranger_key)
    tx_hash = await asyncio.to_thread(world.ground.rpc, "eth_sendRawTransaction", "0x" + signed.raw.hex())
    receipt = await asyncio.to_thread(world.ground.receipt, tx_hash)
    assert receipt is not None
    assert receipt["status"] == "0x1"
    assert len(receipt["logs"]) >= TOO_MANY
    return int(receipt["blockNumber"], 16)


async def goes_on(world: ProofWorld, payer: Payer, block: int) -> None:
    """The block is read, a withdrawal after it is seen, what is owed is claimed, and all adds up."""
    await world.until(lambda: world.gateway.watcher.block >= block)
    data = calls.initiate_withdraw(payer.config, 5_000_000)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, data)
    await world.until(lambda: world.ledger.channels[payer.id].phase is Phase.WITHDRAWING)
    await world.settle_until(lambda: world.observer.claimed(payer.id) == payer.charged)
    assert await world.audited() == []  # the auditor of the tests reads logs only


async def test_a_block_full_of_transfers_of_nothing(make_world: Make) -> None:
    world = await make_world(codes={SPAMMER: repeating(TOKEN_ADDRESS)})
    payer = await world.opened()
    await world.pay(payer, 1_000)
    before = world.ledger.totals.received
    block = await spam(world, calls.transfer(world.keys.treasury.address, 0), 80_000_000)
    with pytest.raises(RuntimeError, match="more than 10000 results"):
        world.ground.rpc(LOGS, {"fromBlock": hex(block), "toBlock": hex(block)})
    await goes_on(world, payer, block)
    assert world.ledger.totals.received == before
    journal = world.gateway.books.journal
    sizes = [len(journal.records(number)) for number in range(1, journal.number + 1)]
    assert max(sizes) < 100, "nothing is written about nothing"


async def test_a_block_full_of_strangers_deposits(make_world: Make) -> None:
    world = await make_world(codes={SPAMMER: repeating(SETTLEMENT_ADDRESS), TOY: TOY_CODE})
    payer = await world.opened()
    await world.pay(payer, 1_000)
    config = payer.config
    theirs = type(config)(SPAMMER, SPAMMER, SPAMMER, SPAMMER, TOY, config.withdraw_delay, config.salt)
    block = await spam(world, calls.deposit(theirs, 1, TOY, b""), 400_000_000)
    await goes_on(world, payer, block)


async def test_full_blocks_that_are_not_final_yet(make_world: Make) -> None:
    """They are read for withdrawals, one by one; of what else is in them nothing is kept."""
    world = await make_world(
        codes={SPAMMER: repeating(SETTLEMENT_ADDRESS), TOY: TOY_CODE}, start=False, confirmations=3
    )
    await world.mine_on(True)
    await world.start()
    payer = await world.opened()
    await world.mine_on(False)
    config = payer.config
    theirs = type(config)(SPAMMER, SPAMMER, SPAMMER, SPAMMER, TOY, config.withdraw_delay, config.salt)
    block = await spam(world, calls.deposit(theirs, 1, TOY, b""), 400_000_000)
    data = calls.initiate_withdraw(payer.config, 4_000_000)
    await world.transact(payer.payer_key, SETTLEMENT_ADDRESS, data)
    await world.until(lambda: world.ledger.channels[payer.id].foreseen == 4_000_000)
    assert world.gateway.watcher.block < block
    assert sum(len(events) for _, events in world.gateway.watcher._logs._zone.values()) < 10
    await world.mine_on(True)
    await world.until(lambda: world.ledger.channels[payer.id].phase is Phase.WITHDRAWING)


@pytest.mark.parametrize("layer", ["embedded", "anvil"])
@pytest.mark.parametrize("broken", [(LOGS,), (LOGS, OF_BLOCK)])
async def test_a_node_without_a_log_index(make_world: Make, layer: str, broken: tuple[str, ...]) -> None:
    """Everything is in the receipts, too."""
    world = await make_world(layer)
    world.proxy.inject("errors", *broken, times=ALWAYS)
    payer, earner = await world.opened(), await world.joined()
    await world.pay(payer, 1_000)
    await world.earn(earner, 1_000)
    await world.settle_until(lambda: not world.books.unsettled())
    await world.prove()
    assert all(world.proxy.struck["errors", method] for method in broken)


# -- chain_stale --


@dataclass
class Clock:
    """In the place of `time`: the monotonic clock of this machine, moved on."""

    ahead: float = 0.0

    def monotonic(self) -> float:
        """Return what time.monotonic would."""
        return time.monotonic() + self.ahead

    def time(self) -> float:
        """Return what time.time does; the world has a wall clock of its own."""
        return time.time()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which silence is told."""
    made = Clock()
    monkeypatch.setattr("gateway.heads.time", made)
    return made


async def is_stale(world: ProofWorld, payer: Payer) -> bool:
    """Send a reading; tell whether it is refused because the chain is not known."""
    answer = await world.ask(payer.device, "usage", to_json(payer.usage(1)))
    assert answer.reason in (None, Refusal.CHAIN_STALE), answer
    return answer.reason is Refusal.CHAIN_STALE


def has_read_all(world: ProofWorld) -> bool:
    """Tell whether the gateway is at the chain's last block."""
    return world.gateway.watcher.block == int(world.ground.rpc("eth_blockNumber"), 16)


def blind(world: ProofWorld, times: int = ALWAYS) -> None:
    """Let the node show its blocks and nothing that is in them."""
    world.proxy.inject("errors", LOGS, OF_BLOCK, OF_TRANSACTION, "eth_getBlockByHash", times=times)


async def test_heads_without_what_is_in_them_make_the_chain_stale(make_world: Make, clock: Clock) -> None:
    world = await make_world()
    payer = await world.opened()
    await world.pay(payer, 1)
    await world.until(lambda: has_read_all(world))
    read = world.gateway.watcher.block
    blind(world)
    for _ in range(5):
        clock.ahead += 130.0
        world.ground.mine(1)
        assert not await is_stale(world, payer)
        payer.next_usage(1)
    clock.ahead += 130.0  # 780 s of the 900 s that a withdrawal takes; 225 s are the margin
    world.ground.mine(1)
    assert await is_stale(world, payer)
    assert world.gateway.watcher.block == read
    world.proxy.clear()
    await world.until(lambda: has_read_all(world))
    await world.until(lambda: not world.gateway.terms.chain_stale)
    await world.pay(payer, 1)


async def test_chain_time_that_runs_ahead_of_what_is_read_makes_it_stale(make_world: Make) -> None:
    """By the clocks of this machine it has only just begun to be blind."""
    world = await make_world()
    payer = await world.opened()
    await world.pay(payer, 1)
    blind(world)
    world.ground.mine(670)
    asked = world.proxy.asked["eth_getBlockByNumber"]
    await world.until(lambda: world.proxy.asked["eth_getBlockByNumber"] > asked + 4)
    assert not await is_stale(world, payer)
    payer.next_usage(1)
    world.ground.mine(10)
    world.ground.mine(10)
    await world.until(lambda: world.gateway.terms.chain_stale)
    assert await is_stale(world, payer)
    world.proxy.clear()
    await world.until(lambda: not world.gateway.terms.chain_stale)
    await world.pay(payer, 1)


@pytest.mark.parametrize("layer", ["embedded", "anvil"])
async def test_a_chain_that_stands_still_is_stale_after_a_restart_too(
    make_world: Make, clock: Clock, layer: str
) -> None:
    world = await make_world(layer)
    payer = await world.opened()
    await world.pay(payer, 1)
    clock.ahead, world.silent_s = 600.0, 600.0
    assert not await is_stale(world, payer)
    payer.next_usage(1)
    clock.ahead, world.silent_s = 700.0, 700.0
    assert await is_stale(world, payer)
    await world.crash()
    await world.start()  # no block has come
    assert world.gateway.watcher.silence_s < 600
    assert await is_stale(world, payer)
    world.silent_s = 0.0
    world.ground.mine(700)
    await world.until(lambda: not world.gateway.terms.chain_stale)
    await world.pay(payer, 1)


async def test_a_node_that_catches_up_is_stale_until_it_has(make_world: Make) -> None:
    """Blocks come again, and they are those of long ago: a withdrawal may have ended in one that is still to come."""
    world = await make_world()
    payer = await world.opened()
    await world.pay(payer, 1)
    world.silent_s = 2_000.0
    for _ in range(4):
        assert await is_stale(world, payer)
        block = world.gateway.watcher.block
        world.ground.mine(340)
        world.silent_s -= 340
        await world.until(lambda block=block: world.gateway.watcher.block > block)  # type: ignore[misc]
    assert not await is_stale(world, payer)
