"""The sender: durable before sent, nothing sent twice, nothing guessed, on every layer and over a faulty line."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from channels.signatures import key_address
from channels.types import SETTLEMENT_ADDRESS, Address
from settlement import calls
from settlement.client import JsonRpcLayer
from settlement.errors import ChainRefused, ChainUnavailable, NonceTaken
from settlement.following import FILL_PURPOSE
from settlement.genesis import TOKEN_ADDRESS
from settlement.port import Call, Revert, TxReceipt
from settlement.sender import GAS_MARGIN_DIVISOR, UNKNOWN_NONCES_MAX, Sender
from settlement.streams import Outgoing, Outstanding
from tests.support.layers import (
    COINS,
    LANE_KEY,
    POOR_KEY,
    RELAY_KEY,
    TREASURY_KEY,
    Site,
    call_of,
    config,
    mining,
    row,
)
from tests.support.scripted import ScriptedTransport
from tests.support.sending import QUICK, SHORT, Clock, Journal, Overriding, eventually, first, line

LANE, RELAY, TREASURY, POOR = map(key_address, (LANE_KEY, RELAY_KEY, TREASURY_KEY, POOR_KEY))
# Where it is the line that fails, one layer behind it is enough.
EMBEDDED = pytest.mark.parametrize("site", ["embedded"], indirect=True)


def gift(value: int, sender: bytes = RELAY) -> tuple[Call, str]:
    return Call(sender, LANE, b"", value), f"gift {value}"


async def given(site: Site) -> int:
    """What the lane was given."""
    (coins,) = await site.layer.native_balances([LANE])
    return coins - COINS[LANE]


async def send(sender: Sender, value: int, key: bytes = RELAY) -> Outstanding:
    (entry,) = await sender.send_all([gift(value, key)])
    assert isinstance(entry, Outstanding)
    return entry


async def wait(sender: Sender, entry: Outstanding) -> TxReceipt:
    (receipt,) = await sender.wait_all([entry])
    assert isinstance(receipt, TxReceipt)
    return receipt


async def test_is_persisted_before_the_chain_sees_it(site: Site) -> None:
    transport, journal = line(site), Journal()
    sent_then: list[int] = []
    journal.before = lambda: sent_then.append(sum(method == "eth_sendRawTransaction" for method, _ in transport.asked))
    sender = Sender(JsonRpcLayer(transport), [RELAY_KEY], journal.persist, waiting=QUICK)
    entry = await send(sender, 5)
    assert sent_then == [0]
    assert journal.entries == [entry.newest.outgoing]
    assert (entry.nonce, entry.purpose) == (0, "gift 5")
    async with mining(site):
        receipt = await wait(sender, entry)
    assert receipt.succeeded
    assert receipt.tx_hash == journal.entries[0].tx_hash


async def test_many_are_one_commit_one_batch_and_one_question_per_poll(site: Site) -> None:
    transport, journal = line(site), Journal()
    keys = [RELAY_KEY, TREASURY_KEY]
    sender = Sender(JsonRpcLayer(transport), keys, journal.persist, booked=journal.booked, waiting=QUICK)
    orders = [gift(value, (RELAY, TREASURY)[value % 2]) for value in range(1, 101)]
    batches: list[list[str]] = []
    batch = transport.batch

    async def counted(requests):  # type: ignore[no-untyped-def]
        batches.append([method for method, _ in requests])
        return await batch(requests)

    transport.batch = counted  # type: ignore[method-assign]
    sent = await sender.send_all(orders)
    assert [len(commit) for commit in journal.commits] == [100]
    asked = [(batch[0], len(batch)) for batch in batches if len(batch) > 2]
    assert asked == [("eth_estimateGas", 16)] * 6 + [("eth_estimateGas", 4), ("eth_sendRawTransaction", 100)]
    assert [await site.layer.nonce(address, pending=True) for address in (RELAY, TREASURY)] == [50, 50]
    entries = [entry for entry in sent if isinstance(entry, Outstanding)]
    assert [entry.nonce for entry in entries] == [index // 2 for index in range(100)]
    batches.clear()
    waiting = asyncio.create_task(sender.wait_all(entries))
    await eventually(lambda: any(batch[0] == "eth_getTransactionReceipt" for batch in batches))
    site.mine(1)
    receipts = await waiting
    assert [receipt.status for receipt in receipts if isinstance(receipt, TxReceipt)] == [1] * 100
    assert {len(batch) for batch in batches if batch[0] == "eth_getTransactionReceipt"} == {100}
    assert len(journal.mined) == 100
    assert await given(site) == 5050


@EMBEDDED
async def test_callers_at_the_same_time_are_signed_together(site: Site) -> None:
    journal = Journal()
    sender = Sender(site.layer, [RELAY_KEY], journal.persist, waiting=QUICK)
    waiting = [asyncio.create_task(sender.execute(*gift(value))) for value in range(1, 21)]
    await eventually(lambda: len(journal.entries) == 20)
    assert len(journal.commits) <= 2, "the first alone at most, the others in one go"
    async with mining(site):
        receipts = await asyncio.gather(*waiting)
    assert all(isinstance(receipt, TxReceipt) and receipt.succeeded for receipt in receipts)
    assert [entry.nonce for entry in journal.entries] == list(range(20))
    assert await given(site) == 210


async def test_a_call_that_would_revert_leaves_no_trace(site: Site) -> None:
    journal = Journal()
    sender = Sender(site.layer, [LANE_KEY], journal.persist, waiting=QUICK)
    bad = call_of(LANE_KEY, calls.claim([row(config(), 10, 10)]))
    result = await sender.execute(bad, "claim")
    assert isinstance(result, Revert)
    assert result.reason == "ClaimExceedsBalance"
    assert journal.entries == []
    assert await site.layer.nonce(LANE, pending=True) == 0


async def test_each_call_has_its_own_outcome(site: Site) -> None:
    await site.deposit(config(1), 500)
    journal = Journal()
    sender = Sender(site.layer, [LANE_KEY, RELAY_KEY], journal.persist, waiting=QUICK)
    claims = [call_of(LANE_KEY, calls.claim([row(config(number), 10, 10)])) for number in (1, 2)]
    async with mining(site):
        outcomes = await sender.execute_all([(claims[1], "bad"), (claims[0], "good"), gift(3)])
    assert isinstance(outcomes[0], Revert)
    assert [outcome.status for outcome in outcomes[1:] if isinstance(outcome, TxReceipt)] == [1, 1]
    assert [entry.purpose for entry in journal.entries] == ["good", "gift 3"]
    assert await sender.execute_all([]) == []


async def test_gas_limit_is_the_estimate_and_its_margin(site: Site) -> None:
    await site.deposit(config(), 500)
    call = call_of(LANE_KEY, calls.claim([row(config(), 10, 10)]))
    estimate = await site.layer.estimate_gas(call)
    assert isinstance(estimate, int)
    sender = Sender(site.layer, [LANE_KEY], Journal().persist, waiting=QUICK)
    (entry,) = await sender.send_all([(call, "claim")])
    assert isinstance(entry, Outstanding)
    transaction = await site.transport.call("eth_getTransactionByHash", ["0x" + entry.newest.tx_hash.hex()])
    assert int(transaction["gas"], 16) == entry.gas_limit == estimate + estimate // GAS_MARGIN_DIVISOR


@EMBEDDED
@pytest.mark.parametrize(("block", "limit"), [(100_000, 100_000), (106_250, 106_250), (106_251, 106_250), (0, 106_250)])
async def test_gas_limit_is_never_above_the_blocks(site: Site, block: int, limit: int) -> None:
    """Too much even for a whole block is a revert like any other: half of the rows may fit."""
    estimated = 100_000
    transport = Overriding(site.transport, {"eth_estimateGas": lambda params, answer: hex(estimated)})
    transport.answers["eth_getBlockByNumber"] = lambda params, answer: answer | {"gasLimit": hex(block)}
    journal = Journal()
    sender = Sender(JsonRpcLayer(transport), [RELAY_KEY], journal.persist, waiting=QUICK)
    assert (await send(sender, 1)).gas_limit == limit
    if block:
        estimated = block + 1
        (refused,) = await sender.send_all([gift(2)])
        assert isinstance(refused, Revert)
        assert str(block) in refused.reason
        assert len(journal.entries) == 1


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_a_lost_message_is_looked_up_not_guessed(site: Site, lost: str) -> None:
    transport, journal = line(site, first(2, "eth_sendRawTransaction", lost)), Journal()
    sender = Sender(JsonRpcLayer(transport), [RELAY_KEY], journal.persist, waiting=QUICK)
    async with mining(site):
        receipt = await sender.execute(*gift(5))
    assert isinstance(receipt, TxReceipt)
    assert receipt.succeeded
    # After a lost reply the receipt may be found before the second attempt.
    assert transport.faults["eth_sendRawTransaction"] in ((2,) if lost == "request" else (1, 2))
    assert len(journal.entries) == 1
    assert await given(site) == 5
    assert await site.layer.nonce(RELAY, pending=True) == 1


REFUSALS = {
    "429": ChainUnavailable("HTTP status 429"),
    "rate": ChainRefused(-32005, "project ID request rate exceeded"),
    "provider": ChainRefused(-32016, "over rate limit"),
    "words": ChainRefused(-32007, "50/second request limit reached"),
    "5xx": ChainUnavailable("HTTP status 503"),
    "time-out": ChainUnavailable("no answer within 30 s"),
    "known": ChainRefused(-32000, "already known"),
    "nonce": ChainRefused(-32000, "nonce too low"),
    "replacement": ChainRefused(-32000, "replacement transaction underpriced"),
    "fee": ChainRefused(-32000, "max fee per gas less than block base fee"),
    "funds": ChainRefused(-32000, "insufficient funds for gas * price + value"),
    "pool": ChainRefused(-32000, "txpool is full"),
    "odd": ChainRefused(-32603, "internal error"),
}


@EMBEDDED
@pytest.mark.parametrize("name", REFUSALS)
async def test_whatever_the_node_says_it_is_sent_once(site: Site, name: str) -> None:
    """Two of three attempts end like that, whether the transaction had arrived or not."""
    transport, journal = line(site, first(3, "eth_sendRawTransaction", REFUSALS[name])), Journal()
    sender = Sender(JsonRpcLayer(transport), [RELAY_KEY], journal.persist, booked=journal.booked, waiting=QUICK)
    entry = await send(sender, 5)
    if name in ("known", "nonce", "replacement"):  # said by a node that has it
        await site.layer.send_raw(entry.newest.raw)
    async with mining(site):
        receipt = await wait(sender, entry)
    assert receipt.succeeded
    assert len({outgoing.nonce for outgoing in journal.entries}) == 1
    assert {outgoing.tx_hash for outgoing, _ in journal.mined} == {receipt.tx_hash}
    assert await given(site) == 5
    assert await site.layer.nonce(RELAY, pending=True) == 1
    assert (await sender.execute_all([]), sender.stream(RELAY).first) == ([], None)


@EMBEDDED
@pytest.mark.parametrize(
    "method", ["eth_estimateGas", "eth_getBlockByNumber", "eth_maxPriorityFeePerGas", "eth_getTransactionCount"]
)
async def test_an_outage_before_signing_leaves_no_trace(site: Site, method: str) -> None:
    transport, journal = line(site, first(1, method, "reply")), Journal()
    sender = Sender(JsonRpcLayer(transport), [RELAY_KEY], journal.persist, waiting=QUICK)
    with pytest.raises(ChainUnavailable, match="lost"):
        await sender.send_all([gift(1)])
    assert journal.entries == []
    assert (await send(sender, 1)).nonce == 0


@EMBEDDED
@pytest.mark.parametrize(
    ("method", "fault"),
    [
        ("eth_getTransactionReceipt", "reply"),
        ("eth_getTransactionReceipt", ChainRefused(-32000, "transaction indexing is in progress")),
        ("eth_getTransactionCount", "request"),
    ],
)
async def test_an_outage_while_waiting_passes_and_is_told(site: Site, method: str, fault: str | Exception) -> None:
    transport = line(site)
    sender = Sender(JsonRpcLayer(transport), [RELAY_KEY], Journal().persist, waiting=QUICK)
    told: list[str] = []
    sender.on_trouble = told.append
    entry = await send(sender, 5)
    transport.fault = first(5, method, fault)
    waiting = asyncio.create_task(sender.wait_all([entry]))
    await eventually(lambda: transport.faults.get(method, 0) == 5)
    site.mine(1)
    (receipt,) = await waiting
    assert isinstance(receipt, TxReceipt)
    assert len(told) == 1
    assert told[0].startswith("1 transactions are outstanding")


async def test_nothing_new_is_signed_while_an_earlier_one_may_not_have_arrived(site: Site) -> None:
    transport, journal = line(site, first(2, "eth_sendRawTransaction", "request")), Journal()
    sender = Sender(JsonRpcLayer(transport), [RELAY_KEY], journal.persist, waiting=QUICK)
    await send(sender, 1)
    with pytest.raises(ChainUnavailable, match=r"gift 1.*outstanding"):
        await sender.send_all([gift(2)])
    assert [entry.purpose for entry in journal.entries] == ["gift 1"]
    await send(sender, 2)
    assert await site.layer.nonce(RELAY, pending=True) == 2
    site.mine(1)
    assert await given(site) == 3


async def test_one_that_is_mined_meanwhile_holds_nothing_up(site: Site) -> None:
    """The node refuses it in words that nobody knows, and has forgotten it: its nonce has passed, so others go on."""
    transport = line(site, first(1, "eth_sendRawTransaction", "request"))
    sender = Sender(JsonRpcLayer(transport), [RELAY_KEY], Journal().persist, waiting=QUICK)
    entry = await send(sender, 1)
    await site.layer.send_raw(entry.newest.raw)
    site.mine(1)
    refuse = first(1, "eth_sendRawTransaction", ChainRefused(-32000, "schon gesehen"))
    hidden = first(1, "eth_getTransactionByHash", ChainRefused(-32000, "gone"))
    transport.fault = lambda method: refuse(method) or hidden(method)
    assert (await send(sender, 2)).nonce == 1
    assert transport.faults == {"eth_sendRawTransaction": 2, "eth_getTransactionByHash": 1}


async def test_a_refusal_holds_up_its_own_key_only_and_is_told(site: Site) -> None:
    journal = Journal()
    sender = Sender(site.layer, [POOR_KEY, RELAY_KEY], journal.persist, booked=journal.booked, waiting=QUICK)
    told: list[str] = []
    sender.on_trouble = told.append
    transport = Overriding(site.transport, {"eth_estimateGas": lambda params, answer: hex(21_000)})
    sender._layer = JsonRpcLayer(transport)  # a node that judges without looking at coins, as most do
    async with mining(site):
        outcomes = await sender.execute_all([gift(1, POOR), gift(2, POOR), gift(3)])
        assert isinstance(outcomes[2], TxReceipt)
        for outcome in outcomes[:2]:
            assert isinstance(outcome, ChainRefused)
            assert "nsufficient funds" in outcome.message
        assert any(text.startswith("gift 1 (nonce 0) is outstanding: the node refused") for text in told)
        (later,) = await sender.execute_all([gift(4, POOR)])
        assert isinstance(later, ChainRefused), "nothing is signed behind one that the node refuses"
        assert [entry.purpose for entry in journal.entries] == ["gift 1", "gift 2", "gift 3"]
        running = asyncio.create_task(sender.run())
        site.nonces[RELAY_KEY] = 1
        await site.layer.send_raw(site.sign(RELAY_KEY, POOR, b"", value=10**18).raw)
        await eventually(lambda: len(journal.mined) == 3)
        running.cancel()
        assert isinstance((await sender.execute_all([gift(4, POOR)]))[0], TxReceipt)
    assert await given(site) == 1 + 2 + 3 + 4


@EMBEDDED
async def test_waiting_ends_with_the_time_out_and_can_go_on(site: Site) -> None:
    sender = Sender(site.layer, [RELAY_KEY], Journal().persist, waiting=SHORT)
    entry = await send(sender, 1)
    with pytest.raises(ChainUnavailable, match=r"gift 1: not final.*outstanding"):
        await sender.wait_all([entry])
    site.mine(1)
    assert (await wait(sender, entry)).succeeded


@EMBEDDED
async def test_whoever_waits_longer_goes_on_polling_for_the_others(site: Site) -> None:
    sender = Sender(site.layer, [RELAY_KEY], Journal().persist, waiting=QUICK)
    entries = [await send(sender, value) for value in (1, 2, 3)]
    waiting = [asyncio.create_task(sender.wait_all([entry])) for entry in entries]
    await asyncio.sleep(0.02)
    waiting[0].cancel()  # the one that polls
    await asyncio.sleep(0.02)
    site.mine(1)
    for task in waiting[1:]:
        assert isinstance((await task)[0], TxReceipt)


async def test_the_very_call_that_is_outstanding_is_not_signed_again(site: Site) -> None:
    journal = Journal()
    sender = Sender(site.layer, [RELAY_KEY], journal.persist, waiting=QUICK)
    entry = await send(sender, 1)
    assert await sender.send_all([gift(1), gift(2), gift(2)]) == [entry, *[sender.stream(RELAY).outstanding[1]] * 2]
    after = Sender(site.layer, [RELAY_KEY], journal.persist, waiting=QUICK)
    after.resume(journal.outstanding)
    async with mining(site):
        receipts = await after.execute_all([gift(2), gift(1), gift(3)])
    assert [entry.nonce for entry in journal.entries] == [0, 1, 2]
    assert all(isinstance(receipt, TxReceipt) and receipt.succeeded for receipt in receipts)
    assert await given(site) == 6


async def test_a_restart_sends_the_same_bytes(site: Site) -> None:
    journal = Journal()
    transport = line(site, lambda method: "request" if method == "eth_sendRawTransaction" else None)
    before = Sender(JsonRpcLayer(transport), [RELAY_KEY], journal.persist, waiting=QUICK)
    await send(before, 1)
    assert await site.layer.nonce(RELAY, pending=True) == 0
    after = Sender(site.layer, [RELAY_KEY], journal.persist, booked=journal.booked, waiting=QUICK)
    after.resume(journal.outstanding)
    assert (await send(after, 2)).nonce == 1
    site.mine(1)
    await after.wait_all([*after.stream(RELAY)])
    assert [outgoing.tx_hash for outgoing, _ in journal.mined] == [entry.tx_hash for entry in journal.entries]
    assert await given(site) == 3
    again = Sender(site.layer, [RELAY_KEY], journal.persist, booked=journal.booked, waiting=QUICK)
    again.resume(reversed(journal.entries))  # a journal that lost what was booked
    await again.wait_all([*again.stream(RELAY)])
    site.mine(1)
    assert await given(site) == 3


@EMBEDDED
async def test_a_restart_without_the_chain_keeps_what_is_outstanding(site: Site) -> None:
    signed = site.sign(RELAY_KEY, LANE, b"", value=1)
    transport = line(site, first(3, "eth_getTransactionReceipt", "request"))
    sender = Sender(JsonRpcLayer(transport), [RELAY_KEY], Journal().persist, waiting=QUICK)
    sender.resume([Outgoing(RELAY, 0, "gift 1", signed.raw)])
    await sender.look()
    assert transport.faults == {"eth_getTransactionReceipt": 1}
    entry = sender.stream(RELAY).first
    assert entry is not None
    async with mining(site):
        assert (await wait(sender, entry)).succeeded


@EMBEDDED
async def test_a_stale_nonce_after_a_restart_does_no_harm(site: Site) -> None:
    """The node lags: it does not know yet what was mined and booked before."""
    journal = Journal()
    before = Sender(site.layer, [RELAY_KEY], journal.persist, booked=journal.booked, waiting=QUICK)
    async with mining(site):
        await before.execute_all([gift(1), gift(2)])
    stale = Overriding(site.transport, {"eth_getTransactionCount": lambda params, answer: "0x0"})
    after = Sender(JsonRpcLayer(stale), [RELAY_KEY], journal.persist, booked=journal.booked, waiting=QUICK)
    after.resume(journal.outstanding, {RELAY: 2})
    async with mining(site):
        assert isinstance(await after.execute(*gift(3)), TxReceipt)
    assert [entry.nonce for entry in journal.entries] == [0, 1, 2]
    assert await given(site) == 6


@EMBEDDED
async def test_a_nonce_beyond_the_journals_must_be_told_twice(site: Site) -> None:
    answers = iter(["0x9", "0x9", "0x0", "0x0"])
    strange = Overriding(site.transport, {"eth_getTransactionCount": lambda params, answer: next(answers, answer)})
    journal = Journal()
    sender = Sender(JsonRpcLayer(strange), [RELAY_KEY], journal.persist, waiting=QUICK)
    with pytest.raises(ChainUnavailable, match="two next nonces"):
        await sender.send_all([gift(1)])
    assert journal.entries == []
    assert (await send(sender, 1)).nonce == 0
    await site.execute(TREASURY_KEY, LANE, b"", value=1)
    other = Sender(site.layer, [TREASURY_KEY], journal.persist, waiting=QUICK)
    assert (await send(other, 2, TREASURY)).nonce == 1, "a key that was used before this journal"


async def test_a_call_that_needs_more_gas_than_it_is_worth_is_not_sent(site: Site) -> None:
    journal = Journal()
    sender = Sender(site.layer, [RELAY_KEY], journal.persist, booked=journal.booked, waiting=QUICK)
    call = Call(RELAY, LANE, b"", 1, gas_max=20_999)
    (outcome,) = await sender.send_all([(call, "dear")])
    assert outcome == Revert("it needs 21000 gas, and 20999 is the most that it is worth")
    assert journal.entries == []
    async with mining(site):
        assert isinstance(await sender.execute(Call(RELAY, LANE, b"", 1, gas_max=21_000), "fair"), TxReceipt)
    assert await given(site) == 1


async def test_a_key_that_cannot_be_used_yet_holds_up_no_other_key(site: Site) -> None:
    """Its next nonce is in doubt: two answers differ."""
    answers = {RELAY: iter([7, 8])}
    journal = Journal()
    layer = JsonRpcLayer(site.transport)
    honest = layer.nonces

    async def nonces(addresses: Sequence[Address]) -> list[int]:
        said = zip(addresses, await honest(addresses), strict=True)
        return [next(answers.get(address, iter(())), each) for address, each in said]

    layer.nonces = nonces  # type: ignore[method-assign]
    sender = Sender(layer, [RELAY_KEY, TREASURY_KEY], journal.persist, booked=journal.booked, waiting=QUICK)
    doubt, sent = await sender.try_all([gift(1), gift(2, TREASURY)])
    assert isinstance(doubt, ChainUnavailable)
    assert "two next nonces" in str(doubt)
    assert isinstance(sent, Outstanding)
    assert [entry.purpose for entry in journal.entries] == ["gift 2"]
    async with mining(site):
        first, second = await sender.execute_all([gift(1), gift(2, TREASURY)])
    assert isinstance(first, TxReceipt)
    assert isinstance(second, TxReceipt)
    assert [entry.purpose for entry in journal.entries] == ["gift 2", "gift 1"], "none was signed twice"


def naming(site: Site, mined: int, waiting: int) -> Overriding:
    """A node that makes up next nonces."""

    def name(params: Sequence[Any], answer: Any) -> str:
        return hex(waiting if params[1] == "pending" else mined)

    return Overriding(site.transport, {"eth_getTransactionCount": name})


@EMBEDDED
async def test_a_nonce_far_beyond_the_journals_must_be_said_for_a_while(site: Site) -> None:
    journal, clock = Journal(), Clock()
    far = 1 + UNKNOWN_NONCES_MAX + 1
    node = naming(site, far, far)
    sender = Sender(JsonRpcLayer(node), [RELAY_KEY], journal.persist, waiting=QUICK, clock=clock)
    sender.resume([], {RELAY: 1})
    words = f"names {far} as the next nonce of 0x{RELAY.hex()} and the journal 1"
    for _ in range(3):
        with pytest.raises(ChainUnavailable, match=words):
            await sender.send_all([gift(1)])
    clock.now += 2 * QUICK.gap_seconds
    node.answers = naming(site, far + 1, far + 1).answers
    with pytest.raises(ChainUnavailable, match=f"names {far + 1} as"):
        await sender.send_all([gift(1)])
    clock.now += QUICK.gap_seconds / 2
    with pytest.raises(ChainUnavailable, match=f"names {far + 1} as"):
        await sender.send_all([gift(1)])
    assert journal.entries == []
    clock.now += QUICK.gap_seconds
    assert (await send(sender, 1)).nonce == far + 1, "it is a key that was used elsewhere"


@EMBEDDED
@pytest.mark.parametrize("named", [(2_000, 0), (0, 2_000), (2_000, 1_999)])
async def test_a_nonce_far_ahead_that_is_not_mined_is_never_believed(site: Site, named: tuple[int, int]) -> None:
    """What waits and what is mined differ: one of them is made up, or much waits that will be mined soon."""
    journal, clock = Journal(), Clock()
    node = naming(site, *named)
    sender = Sender(JsonRpcLayer(node), [RELAY_KEY], journal.persist, waiting=QUICK, clock=clock)
    for _ in range(3):
        with pytest.raises(ChainUnavailable, match="names 2000 as the next nonce"):
            await sender.send_all([gift(1)])
        clock.now += 2 * QUICK.gap_seconds
    node.answers.clear()
    assert (await send(sender, 1)).nonce == 0


@EMBEDDED
async def test_a_nonce_a_little_beyond_the_journals_is_believed_at_once(site: Site) -> None:
    journal = Journal()
    near = naming(site, 0, UNKNOWN_NONCES_MAX)
    sender = Sender(JsonRpcLayer(near), [RELAY_KEY], journal.persist, waiting=QUICK)
    assert (await send(sender, 1)).nonce == UNKNOWN_NONCES_MAX


async def test_a_nonce_taken_by_another_is_a_fault(site: Site) -> None:
    transport = line(site, lambda method: "request" if method == "eth_sendRawTransaction" else None)
    sender = Sender(JsonRpcLayer(transport), [RELAY_KEY], Journal().persist, waiting=QUICK)
    entry = await send(sender, 1)
    await site.execute(RELAY_KEY, TREASURY, b"", value=9)
    with pytest.raises(NonceTaken, match="nonce 0"):
        await sender.wait_all([entry])
    with pytest.raises(NonceTaken, match="nonce 0"):
        await sender.wait_all([entry])


async def test_what_a_restored_journal_holds_may_have_been_overtaken(site: Site) -> None:
    """Its backup was taken before the transaction was replaced; the replacement was mined."""
    signed = site.sign(RELAY_KEY, LANE, b"", value=1)
    site.nonces.clear()
    await site.execute(RELAY_KEY, TREASURY, b"", value=9)
    journal = Journal([[Outgoing(RELAY, 0, "gift 1", signed.raw)]])
    sender = Sender(site.layer, [RELAY_KEY], journal.persist, booked=journal.booked, waiting=QUICK)
    told: list[str] = []
    sender.on_trouble = told.append
    sender.resume(journal.outstanding)
    entry = sender.stream(RELAY).first
    assert entry is not None
    (outcome,) = await sender.wait_all([entry])
    assert isinstance(outcome, ChainRefused)
    assert "another transaction" in outcome.message
    assert journal.mined == [(journal.entries[0], None)]
    assert "given up" in told[0]
    assert (await send(sender, 2)).nonce == 1


@EMBEDDED
async def test_a_failed_journal_keeps_the_nonce_free(site: Site) -> None:
    journal = Journal()
    sender = Sender(site.layer, [RELAY_KEY], journal.persist, waiting=QUICK)

    def fail() -> None:
        raise OSError("disk full")

    journal.before = fail
    with pytest.raises(OSError, match="disk full"):
        await sender.send_all([gift(1)])
    assert await site.layer.nonce(RELAY, pending=True) == 0
    journal.before = lambda: None
    assert (await send(sender, 1)).nonce == 0


@EMBEDDED
async def test_a_caller_that_gives_up_does_not_tear_the_stream(site: Site) -> None:
    journal = Journal()
    sender = Sender(site.layer, [RELAY_KEY], journal.persist, waiting=QUICK)
    journal.before = lambda: task.cancel() and None
    task = asyncio.create_task(sender.send_all([gift(1)]))
    with pytest.raises(asyncio.CancelledError):
        await task
    journal.before = lambda: None
    assert (await send(sender, 2)).nonce == 1
    site.mine(1)
    assert await given(site) == 3


@EMBEDDED
async def test_confirmations_are_waited_for(site: Site) -> None:
    journal = Journal()
    sender = Sender(site.layer, [RELAY_KEY], journal.persist, booked=journal.booked, confirmations=3, waiting=SHORT)
    entry = await send(sender, 1)
    for _ in range(3):
        site.mine(1)
    with pytest.raises(ChainUnavailable, match="not final"):
        await sender.wait_all([entry])
    assert journal.mined == []
    site.mine(1)
    assert (await wait(sender, entry)).succeeded
    assert len(journal.mined) == 1


async def test_a_reorganisation_before_it_is_final_is_survived(site: Site) -> None:
    """The block that held the transaction is gone: it is sent again and mined once."""
    sender = Sender(site.layer, [RELAY_KEY], Journal().persist, confirmations=2, waiting=QUICK)
    go_back = site.snapshot()
    entry = await send(sender, 1)
    site.mine(1)
    dropped = await site.layer.receipt(entry.newest.tx_hash)
    assert dropped is not None
    waiting = asyncio.create_task(wait(sender, entry))
    await asyncio.sleep(0.05)
    go_back()
    assert await site.layer.receipt(entry.newest.tx_hash) is None
    site.mine(5)
    async with mining(site):
        receipt = await waiting
    assert receipt.succeeded
    assert receipt.block_hash != dropped.block_hash
    assert await given(site) == 1


async def test_what_was_booked_and_dropped_is_sent_again(site: Site) -> None:
    """By itself, when a later one waits behind the gap; or because it is resumed after a reorganisation."""
    journal = Journal()
    sender = Sender(site.layer, [RELAY_KEY], journal.persist, booked=journal.booked, waiting=QUICK)
    go_back = site.snapshot()
    entries = [await send(sender, value) for value in (1, 2)]
    site.mine(1)
    await sender.wait_all(entries)
    go_back()
    site.mine(1)
    assert await given(site) == 0
    async with mining(site):
        assert isinstance(await sender.execute(*gift(4)), TxReceipt)
    assert await given(site) == 7
    assert [outgoing.purpose for outgoing, _ in journal.mined] == ["gift 1", "gift 2", "gift 1", "gift 2", "gift 4"]
    sender.resume(journal.entries[1:2])
    await sender.wait_all([*sender.stream(RELAY)])
    assert await given(site) == 7
    assert len(journal.entries) == 3


async def test_nonces_that_a_node_made_up_are_filled(site: Site) -> None:
    """It names too high a nonce twice, so what is signed waits behind nonces that nobody has."""
    journal = Journal()
    sender = Sender(site.layer, [RELAY_KEY], journal.persist, booked=journal.booked, waiting=QUICK)
    sender.stream(RELAY).next_nonce = 3
    sender.stream(RELAY).asked = True
    async with mining(site):
        assert isinstance(await sender.execute(*gift(4)), TxReceipt)
    assert await given(site) == 4
    filled = [(outgoing.nonce, outgoing.purpose) for outgoing, _ in journal.mined]
    assert sorted(filled) == [(0, FILL_PURPOSE), (1, FILL_PURPOSE), (2, FILL_PURPOSE), (3, "gift 4")]
    assert len(journal.entries) == 4, "each was signed once"


@EMBEDDED
async def test_run_follows_what_nobody_waits_for(site: Site) -> None:
    journal = Journal()
    sender = Sender(site.layer, [RELAY_KEY], journal.persist, booked=journal.booked, waiting=QUICK)
    running = asyncio.create_task(sender.run())
    async with mining(site):
        for value in (1, 2):
            await send(sender, value)
            await eventually(lambda value=value: len(journal.mined) == value)
    running.cancel()
    assert await given(site) == 3


@EMBEDDED
async def test_a_fault_ends_run(site: Site) -> None:
    transport = line(site, lambda method: "request" if method == "eth_sendRawTransaction" else None)
    sender = Sender(JsonRpcLayer(transport), [RELAY_KEY], Journal().persist, waiting=QUICK)
    await send(sender, 1)
    await site.execute(RELAY_KEY, TREASURY, b"", value=9)
    with pytest.raises(NonceTaken, match="nonce 0"):
        await asyncio.wait_for(sender.run(), 60)


def test_strange_bytes_are_no_transaction_of_ours() -> None:
    sender = Sender(JsonRpcLayer(ScriptedTransport({})), [RELAY_KEY], Journal().persist)
    with pytest.raises(ValueError, match="not a signed"):
        sender.resume([Outgoing(RELAY, 0, "x", b"\x01\x02")])
    with pytest.raises(KeyError):
        sender.resume([Outgoing(LANE, 0, "x", b"\x01\x02")])


@EMBEDDED
async def test_a_settlement_goes_through_claim_and_settle(site: Site) -> None:
    await site.deposit(config(), 500)
    journal = Journal()
    sender = Sender(site.layer, [LANE_KEY], journal.persist, waiting=QUICK)
    async with mining(site):
        for data, name in ((calls.claim([row(config(), 10, 10)]), "claim"), (calls.settle(LANE, TOKEN_ADDRESS), "s")):
            receipt = await sender.execute(Call(LANE, SETTLEMENT_ADDRESS, data), name)
            assert isinstance(receipt, TxReceipt)
            assert receipt.succeeded
    assert await site.layer.token_balances(TOKEN_ADDRESS, [LANE]) == [10]
