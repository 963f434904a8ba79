"""Transactions that wait for too long: replaced at a higher fee, journaled first, and mined once whichever it is."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from channels.signatures import key_address
from settlement.bidding import Bidding
from settlement.client import JsonRpcLayer
from settlement.errors import ChainRefused
from settlement.port import Call, TxReceipt
from settlement.sender import Sender
from settlement.streams import Outstanding
from settlement.transactions import read_transaction
from tests.support.layers import COINS, LANE_KEY, RELAY_KEY, TREASURY_KEY, Site, mining
from tests.support.sending import QUICK, Clock, Journal, Overriding, eventually, first, line

LANE, RELAY, TREASURY = map(key_address, (LANE_KEY, RELAY_KEY, TREASURY_KEY))
EMBEDDED = pytest.mark.parametrize("site", ["embedded"], indirect=True)
ANVIL = pytest.mark.parametrize("site", ["anvil"], indirect=True)
GWEI = 10**9
# Sent again only after it would have been replaced, so that each attempt in a test is the one that it means.
WAITING = replace(QUICK, resend_seconds=120.0)


class Scene:
    """A sender whose clock stands still, over a chain whose suggestions the test may raise."""

    def __init__(
        self, site: Site, *, ceiling: int | None = None, keys: Sequence[bytes] = (RELAY_KEY,), **faults: Any
    ) -> None:
        self.site = site
        self.journal = Journal()
        self.clock = Clock()
        self.told: list[str] = []
        self.asked = Overriding(line(site, faults.get("fault", lambda method: None)))
        self.sender = self.start(keys, ceiling)

    def start(self, keys: Sequence[bytes], ceiling: int | None) -> Sender:
        sender = Sender(
            JsonRpcLayer(self.asked),
            keys,
            self.journal.persist,
            booked=self.journal.booked,
            bidding=Bidding(ceiling, 60.0),
            waiting=WAITING,
            clock=self.clock,
        )
        sender.on_trouble = self.told.append
        return sender

    def suggest(self, priority: int) -> None:
        """Let the chain suggest this tip, wei per gas."""
        self.asked.answers["eth_maxPriorityFeePerGas"] = lambda params, answer: hex(priority)

    async def send(self, *values: int, sender: bytes = RELAY) -> list[Outstanding]:
        sent = await self.sender.send_all([(Call(sender, LANE, b"", value), f"gift {value}") for value in values])
        return [entry for entry in sent if isinstance(entry, Outstanding)]

    async def later(self, seconds: float) -> None:
        """Look once, so many seconds later."""
        self.clock.now += seconds
        await self.sender.look()

    async def mined(self, entries: Sequence[Outstanding]) -> list[TxReceipt]:
        """Mine and return the receipts; each nonce is booked once, and nothing is outstanding then."""
        async with mining(self.site):
            receipts = [each for each in await self.sender.wait_all(entries) if isinstance(each, TxReceipt)]
        assert [receipt.status for receipt in receipts] == [1] * len(entries)
        nonces = [(outgoing.sender, outgoing.nonce) for outgoing, _ in self.journal.mined]
        assert len(nonces) == len(set(nonces))
        return receipts

    async def given(self) -> int:
        (coins,) = await self.site.layer.native_balances([LANE])
        return coins - COINS[LANE]

    async def waits(self, entry: Outstanding) -> list[bool]:
        """For each variant: the chain knows it."""
        return [await self.known(variant.tx_hash) for variant in entry.variants]

    async def known(self, tx_hash: bytes) -> bool:
        return await self.site.transport.call("eth_getTransactionByHash", ["0x" + tx_hash.hex()]) is not None


async def test_is_replaced_when_the_chain_asks_for_more(site: Site) -> None:
    scene = Scene(site)
    scene.suggest(GWEI)
    (entry,) = await scene.send(5)
    offered = entry.newest.fees
    scene.suggest(3 * GWEI)
    await scene.later(59)
    assert len(entry.variants) == 1, "not before its time"
    await scene.later(1)
    assert [len(commit) for commit in scene.journal.commits] == [1, 1]
    old, new = (read_transaction(outgoing.raw) for outgoing in scene.journal.entries)
    assert (new.nonce, new.to, new.value, new.data, new.gas_limit) == (
        old.nonce, old.to, old.value, old.data, old.gas_limit
    )  # fmt: skip
    assert new.max_priority_fee_per_gas == 3 * GWEI
    assert new.max_fee_per_gas == offered.max_fee_per_gas + 2 * GWEI
    assert await scene.waits(entry) == [False, True]
    (receipt,) = await scene.mined([entry])
    assert receipt.tx_hash == entry.newest.tx_hash
    assert await scene.given() == 5
    assert await site.layer.nonce(RELAY, pending=True) == 1


@ANVIL
async def test_a_rising_base_fee_is_followed(site: Site) -> None:
    """A real chain whose blocks pass over it."""
    scene = Scene(site)
    entries = await scene.send(1, 2, 3)
    fee = entries[0].newest.fees.max_fee_per_gas
    await site.transport.call("anvil_setNextBlockBaseFeePerGas", [hex(3 * fee)])
    site.mine(1)
    assert await site.layer.receipts([entry.newest.tx_hash for entry in entries]) == [None] * 3
    await scene.later(60)
    assert [len(commit) for commit in scene.journal.commits] == [3, 3], "those behind the first one with it"
    receipts = await scene.mined(entries)
    assert [receipt.tx_hash for receipt in receipts] == [entry.newest.tx_hash for entry in entries]
    assert all(receipt.effective_gas_price > fee for receipt in receipts)
    assert await scene.given() == 6


@ANVIL
async def test_at_the_ceiling_it_waits_and_says_so(site: Site) -> None:
    scene = Scene(site)
    (entry,) = await scene.send(5)
    fee = entry.newest.fees.max_fee_per_gas
    scene = Scene(site, ceiling=2 * fee)
    scene.sender.resume([entry.newest.outgoing])
    (entry,) = scene.sender.stream(RELAY)
    for _ in range(4):
        await site.transport.call("anvil_setNextBlockBaseFeePerGas", [hex(3 * fee)])
        site.mine(1)
        await scene.later(60)
    assert [variant.fees.max_fee_per_gas for variant in entry.variants] == [fee, 2 * fee]
    (told,) = [text for text in scene.told if "ceiling" in text]
    assert f"offers {2 * fee} wei per gas" in told
    (outcome,) = await scene.sender.wait_all([entry])
    assert isinstance(outcome, ChainRefused), "anvil does not even keep it: whoever waits is told"
    await site.transport.call("anvil_setNextBlockBaseFeePerGas", [hex(fee // 2)])
    site.mine(1)
    await scene.later(60)
    await scene.mined([entry])
    assert await scene.given() == 5


async def test_is_kept_while_it_offers_enough(site: Site) -> None:
    """A chain that makes no blocks is no reason to offer more, however long that takes."""
    scene = Scene(site)
    scene.suggest(GWEI)
    (entry,) = await scene.send(5)
    for _ in range(10):
        await scene.later(60)
    assert len(entry.variants) == 1
    scene.asked.answers["eth_getBlockByNumber"] = lambda params, answer: (
        answer | {"number": hex(9)} if params[0] == "latest" else answer
    )
    await scene.later(60)
    assert len(entry.variants) == 2, "blocks pass over it: patience ends"
    await scene.later(60)
    assert len(entry.variants) == 2, "and begins anew"
    await scene.mined([entry])
    assert await scene.given() == 5


async def test_those_behind_the_first_are_replaced_with_it_if_they_are_late(site: Site) -> None:
    scene = Scene(site, keys=[RELAY_KEY, TREASURY_KEY])
    scene.suggest(GWEI)
    early = await scene.send(1, 2, 3)
    scene.clock.now += 30
    late = await scene.send(4)
    other = await scene.send(5, sender=TREASURY)
    scene.suggest(2 * GWEI)
    await scene.later(30)
    assert [len(entry.variants) for entry in (*early, *late, *other)] == [2, 2, 2, 1, 1]
    assert [len(commit) for commit in scene.journal.commits] == [3, 1, 1, 3]
    await scene.mined([*early, *late, *other])
    assert await scene.given() == 15
    assert await site.layer.nonce(RELAY, pending=True) == 4


async def test_one_that_has_its_turn_only_now_is_replaced_at_once(site: Site) -> None:
    scene = Scene(site)
    scene.suggest(GWEI)
    first_one, second = await scene.send(1, 2)
    scene.suggest(2 * GWEI)
    scene.clock.now += 60
    first_one.offered_at = scene.clock.now  # replaced just now
    await scene.sender.look()
    assert [len(entry.variants) for entry in (first_one, second)] == [1, 1]
    await scene.later(60)
    assert [len(entry.variants) for entry in (first_one, second)] == [2, 2]
    await scene.mined([first_one, second])


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_whichever_is_mined_ends_the_wait(site: Site, lost: str) -> None:
    """The replacement may not have arrived; then the first one is mined, and the replacement never is."""
    scene = Scene(site)
    scene.suggest(GWEI)
    (entry,) = await scene.send(5)
    scene.suggest(2 * GWEI)
    scene.asked.inner.fault = first(1, "eth_sendRawTransaction", lost)  # type: ignore[attr-defined]
    await scene.later(60)
    assert await scene.waits(entry) == ([True, False] if lost == "request" else [False, True])
    site.mine(1)
    (receipt,) = await scene.sender.wait_all([entry])
    assert isinstance(receipt, TxReceipt)
    assert receipt.tx_hash == entry.variants[lost == "reply"].tx_hash
    assert [outgoing.tx_hash for outgoing, _ in scene.journal.mined] == [receipt.tx_hash]
    for variant in entry.variants:
        try:
            await site.layer.send_raw(variant.raw)
        except ChainRefused as refused:
            assert "nonce" in refused.message  # noqa: PT017
    site.mine(1)
    assert await scene.given() == 5
    assert await site.layer.nonce(RELAY, pending=True) == 1


@pytest.mark.parametrize("mined", [0, 1, 2])
async def test_after_a_restart_all_variants_are_known(site: Site, mined: int) -> None:
    scene = Scene(site)
    scene.suggest(GWEI)
    (entry,) = await scene.send(5)
    refusal = ChainRefused(-32000, "replacement transaction underpriced")
    for priority in (2, 3):
        scene.suggest(priority * GWEI)
        scene.asked.inner.fault = first(9, "eth_sendRawTransaction", refusal)  # type: ignore[attr-defined]
        await scene.later(60)
    scene.asked.inner.fault = lambda method: None  # type: ignore[attr-defined]
    variants = [variant.outgoing for variant in entry.variants]
    assert scene.journal.outstanding == variants
    assert await scene.waits(entry) == [True, False, False]
    # What is mined while the gateway is down:
    if mined:
        await site.layer.send_raw(variants[mined].raw)
    site.mine(1)
    scene.sender = scene.start([RELAY_KEY], None)
    scene.sender.resume(reversed(variants))
    (again,) = scene.sender.stream(RELAY)
    assert [variant.outgoing for variant in again.variants] == variants
    (receipt,) = await scene.sender.wait_all([again])
    assert isinstance(receipt, TxReceipt)
    assert receipt.tx_hash == variants[mined].tx_hash
    assert len(scene.journal.mined) == 1
    assert [entry.nonce for entry in await scene.send(6)] == [1]
    site.mine(1)
    assert await scene.given() == 11


async def test_a_restart_goes_on_replacing(site: Site) -> None:
    scene = Scene(site)
    scene.suggest(GWEI)
    await scene.send(5)
    scene.sender = scene.start([RELAY_KEY], None)
    scene.sender.resume(scene.journal.outstanding)
    (entry,) = scene.sender.stream(RELAY)
    scene.suggest(2 * GWEI)
    await scene.later(0)
    await scene.later(60)
    assert await scene.waits(entry) == [False, True]
    await scene.mined([entry])
    assert await scene.given() == 5


@EMBEDDED
async def test_one_that_the_chain_finds_too_cheap_is_raised_at_once(site: Site) -> None:
    scene = Scene(site)
    scene.suggest(GWEI)
    refusal = ChainRefused(-32000, "max fee per gas less than block base fee")
    scene.asked.inner.fault = first(1, "eth_sendRawTransaction", refusal)  # type: ignore[attr-defined]
    (entry,) = await scene.send(5)
    scene.suggest(2 * GWEI)
    # The very look that finds it refused once more also replaces it.
    scene.asked.inner.fault = first(1, "eth_sendRawTransaction", refusal)  # type: ignore[attr-defined]
    await scene.later(1)
    assert await scene.waits(entry) == [False, True]
    await scene.mined([entry])
    assert await scene.given() == 5


@EMBEDDED
@pytest.mark.parametrize("words", ["replacement transaction underpriced", "insufficient funds for gas * price + value"])
async def test_a_replacement_that_is_refused_leaves_the_first_one(site: Site, words: str) -> None:
    scene = Scene(site)
    scene.suggest(GWEI)
    (entry,) = await scene.send(5)
    scene.suggest(2 * GWEI)
    fault = first(1, "eth_sendRawTransaction", ChainRefused(-32000, words))
    scene.asked.inner.fault = fault  # type: ignore[attr-defined]
    await scene.later(60)
    assert await scene.waits(entry) == [True, False]
    assert entry.held
    assert scene.sender.stream(RELAY).refusal(1) is None
    (later,) = await scene.send(6)
    assert later.nonce == 1, "the key goes on"
    await scene.mined([entry, later])
    assert await scene.given() == 11


@ANVIL
async def test_a_key_too_poor_for_a_replacement_waits_with_the_first_one(site: Site) -> None:
    scene = Scene(site)
    scene.suggest(GWEI)
    (entry,) = await scene.send(5)
    await site.transport.call("anvil_setBalance", ["0x" + RELAY.hex(), hex(entry.cost + 1)])
    scene.suggest(100 * GWEI)
    await scene.later(60)
    assert await scene.waits(entry) == [True, False]
    (receipt,) = await scene.mined([entry])
    assert receipt.tx_hash == entry.variants[0].tx_hash
    assert await scene.given() == 5


@ANVIL
async def test_what_a_node_forgets_is_sent_again(site: Site) -> None:
    scene = Scene(site)
    entries = await scene.send(1, 2)
    for entry in entries:
        await site.transport.call("anvil_dropTransaction", ["0x" + entry.newest.tx_hash.hex()])
    assert [await scene.waits(entry) for entry in entries] == [[False], [False]]
    await scene.later(WAITING.resend_seconds)
    assert [await scene.waits(entry) for entry in entries] == [[True], [True]]
    await scene.mined(entries)
    assert await scene.given() == 3


@EMBEDDED
async def test_a_replacement_is_on_disk_before_it_is_sent(site: Site) -> None:
    scene = Scene(site)
    scene.suggest(GWEI)
    (entry,) = await scene.send(5)
    scene.suggest(2 * GWEI)

    def fail() -> None:
        raise OSError("disk full")

    scene.journal.before = fail
    scene.clock.now += 60
    with pytest.raises(OSError, match="disk full"):
        await scene.sender.wait_all([entry])
    assert await scene.waits(entry) == [True]
    site.mine(1)
    assert await scene.given() == 5


@EMBEDDED
async def test_suggestions_cannot_be_had(site: Site) -> None:
    """A node that does not tell its fees is asked again; what waits is still waited for."""
    scene = Scene(site)
    (entry,) = await scene.send(5)
    refused = ChainRefused(-32601, "the method does not exist")
    scene.asked.inner.fault = lambda method: refused if method == "eth_maxPriorityFeePerGas" else None  # type: ignore[attr-defined]
    scene.clock.now += 60
    waiting = asyncio.create_task(scene.sender.wait_all([entry]))
    await eventually(lambda: len(scene.told) == 1)
    assert "the method does not exist" in scene.told[0]
    site.mine(1)
    assert isinstance((await waiting)[0], TxReceipt)
