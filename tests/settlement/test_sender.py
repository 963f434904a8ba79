"""The sender: durable before sent, nothing sent twice, nothing guessed, on every layer and over a faulty line."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from channels.signatures import key_address
from channels.types import SETTLEMENT_ADDRESS
from settlement import calls
from settlement.client import JsonRpcLayer
from settlement.errors import ChainRefused, ChainUnavailable, NonceTaken
from settlement.genesis import TOKEN_ADDRESS
from settlement.port import Revert
from settlement.sender import GAS_MARGIN_DIVISOR, Outgoing, Sender, Waiting
from tests.support.layers import COINS, LANE_KEY, POOR_KEY, RELAY_KEY, TREASURY_KEY, Site, call_of, config, mining, row
from tests.support.scripted import FaultyTransport

LANE, RELAY, TREASURY = map(key_address, (LANE_KEY, RELAY_KEY, TREASURY_KEY))
QUICK = Waiting(poll_seconds_min=0.01, poll_seconds_max=0.05, resend_polls=4, timeout_seconds=20)
SHORT = Waiting(poll_seconds_min=0.01, poll_seconds_max=0.02, resend_polls=3, timeout_seconds=0.5)


@dataclass
class Journal:
    """What was persisted, in order; `before` runs first and may fail."""

    entries: list[Outgoing] = field(default_factory=list)
    before: Callable[[], None] = lambda: None

    async def persist(self, raw: bytes, nonce: int, purpose: str) -> None:
        await asyncio.sleep(0)
        self.before()
        self.entries.append(Outgoing(raw, nonce, purpose))


def line(site: Site, fault: Callable[[str], str | Exception | None] = lambda method: None) -> FaultyTransport:
    return FaultyTransport(site.transport, fault)


def first(count: int, method: str, fault: str | Exception) -> Callable[[str], str | Exception | None]:
    """Return a fault for the first `count` requests of one method."""
    left = count

    def decide(asked: str) -> str | Exception | None:
        nonlocal left
        if asked != method or left == 0:
            return None
        left -= 1
        return fault

    return decide


async def test_is_persisted_before_the_chain_sees_it(site: Site) -> None:
    transport, journal = line(site), Journal()
    sent_then: list[int] = []
    journal.before = lambda: sent_then.append(sum(method == "eth_sendRawTransaction" for method, _ in transport.asked))
    sender = Sender(JsonRpcLayer(transport), RELAY_KEY, journal.persist, waiting=QUICK)
    outgoing = await sender.send(LANE, b"", "gift", value=5)
    assert sent_then == [0]
    assert journal.entries == [outgoing]
    assert isinstance(outgoing, Outgoing)
    assert (outgoing.nonce, outgoing.purpose) == (0, "gift")
    async with mining(site):
        receipt = await sender.wait(outgoing)
    assert receipt.succeeded
    assert receipt.tx_hash == outgoing.tx_hash


async def test_many_of_one_key_are_in_flight_together(site: Site) -> None:
    journal = Journal()
    sender = Sender(site.layer, RELAY_KEY, journal.persist, waiting=QUICK)
    sent = await asyncio.gather(*(sender.send(LANE, b"", f"gift {value}", value=value) for value in range(1, 21)))
    assert await site.layer.nonce(RELAY, pending=True) == 20
    site.mine(1)
    receipts = await asyncio.gather(*(sender.wait(entry) for entry in sent if isinstance(entry, Outgoing)))
    assert [receipt.status for receipt in receipts] == [1] * 20
    assert [entry.nonce for entry in journal.entries] == list(range(20))
    assert await site.layer.native_balances([LANE]) == [COINS[LANE] + 210]


async def test_a_call_that_would_revert_leaves_no_trace(site: Site) -> None:
    journal = Journal()
    sender = Sender(site.layer, LANE_KEY, journal.persist, waiting=QUICK)
    result = await sender.execute(SETTLEMENT_ADDRESS, calls.claim([row(config(), 10, 10)]), "claim")
    assert isinstance(result, Revert)
    assert result.reason == "ClaimExceedsBalance"
    assert journal.entries == []
    assert await site.layer.nonce(LANE, pending=True) == 0


async def test_gas_limit_is_the_estimate_and_its_margin(site: Site) -> None:
    await site.deposit(config(), 500)
    data = calls.claim([row(config(), 10, 10)])
    estimate = await site.layer.estimate_gas(call_of(LANE_KEY, data))
    assert isinstance(estimate, int)
    sender = Sender(site.layer, LANE_KEY, Journal().persist, waiting=QUICK)
    outgoing = await sender.send(SETTLEMENT_ADDRESS, data, "claim")
    assert isinstance(outgoing, Outgoing)
    transaction = await site.transport.call("eth_getTransactionByHash", ["0x" + outgoing.tx_hash.hex()])
    assert int(transaction["gas"], 16) == estimate + estimate // GAS_MARGIN_DIVISOR


async def test_a_given_gas_limit_skips_the_estimate(site: Site) -> None:
    """A settlement behind a claim that is not mined yet."""
    await site.deposit(config(), 500)
    sender = Sender(site.layer, LANE_KEY, Journal().persist, waiting=QUICK)
    claim = await sender.send(SETTLEMENT_ADDRESS, calls.claim([row(config(), 10, 10)]), "claim")
    settle = await sender.send(SETTLEMENT_ADDRESS, calls.settle(LANE, TOKEN_ADDRESS), "settle", gas_limit=150_000)
    site.mine(1)
    for outgoing in (claim, settle):
        assert isinstance(outgoing, Outgoing)
        assert (await sender.wait(outgoing)).succeeded
    assert await site.layer.token_balances(TOKEN_ADDRESS, [LANE]) == [10]


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_a_lost_message_is_looked_up_not_guessed(site: Site, lost: str) -> None:
    transport, journal = line(site, first(2, "eth_sendRawTransaction", lost)), Journal()
    sender = Sender(JsonRpcLayer(transport), RELAY_KEY, journal.persist, waiting=QUICK)
    async with mining(site):
        receipt = await sender.execute(LANE, b"", "gift", value=5)
    assert not isinstance(receipt, Revert)
    assert receipt.succeeded
    # After a lost reply the receipt may be found before the second attempt.
    assert transport.faults["eth_sendRawTransaction"] in ((2,) if lost == "request" else (1, 2))
    assert len(journal.entries) == 1
    assert await site.layer.native_balances([LANE]) == [COINS[LANE] + 5]
    assert await site.layer.nonce(RELAY, pending=True) == 1


async def test_an_outage_while_waiting_passes(site: Site) -> None:
    transport = line(site, first(5, "eth_getTransactionReceipt", "reply"))
    sender = Sender(JsonRpcLayer(transport), RELAY_KEY, Journal().persist, waiting=QUICK)
    async with mining(site):
        receipt = await sender.execute(LANE, b"", "gift", value=5)
    assert not isinstance(receipt, Revert)
    assert transport.faults == {"eth_getTransactionReceipt": 5}


async def test_nothing_new_is_signed_while_an_earlier_one_did_not_arrive(site: Site) -> None:
    transport, journal = line(site, first(2, "eth_sendRawTransaction", "request")), Journal()
    sender = Sender(JsonRpcLayer(transport), RELAY_KEY, journal.persist, waiting=QUICK)
    await sender.send(LANE, b"", "first", value=1)
    with pytest.raises(ChainUnavailable, match=r"first.*outstanding"):
        await sender.send(LANE, b"", "second", value=2)
    assert [entry.purpose for entry in journal.entries] == ["first"]
    await sender.send(LANE, b"", "second", value=2)
    assert await site.layer.nonce(RELAY, pending=True) == 2
    site.mine(1)
    assert await site.layer.native_balances([LANE]) == [COINS[LANE] + 3]


async def test_one_that_is_mined_meanwhile_holds_nothing_up(site: Site) -> None:
    """The node refuses it as too old, and no longer knows it: its nonce has passed, so the stream goes on."""
    refusal = ChainRefused(-32000, "nonce too low")
    transport = line(site, first(1, "eth_sendRawTransaction", "request"))
    sender = Sender(JsonRpcLayer(transport), RELAY_KEY, Journal().persist, waiting=QUICK)
    outgoing = await sender.send(LANE, b"", "first", value=1)
    assert isinstance(outgoing, Outgoing)
    await site.layer.send_raw(outgoing.raw)
    site.mine(1)
    transport.fault = first(1, "eth_sendRawTransaction", refusal)
    hidden = first(1, "eth_getTransactionByHash", ChainUnavailable("gone"))
    refuse = transport.fault
    transport.fault = lambda method: refuse(method) or hidden(method)
    second = await sender.send(LANE, b"", "second", value=2)
    assert transport.faults == {"eth_sendRawTransaction": 2, "eth_getTransactionByHash": 1}
    assert isinstance(second, Outgoing)
    assert second.nonce == 1


async def test_a_refusal_leaves_it_outstanding_and_tells_why(site: Site) -> None:
    journal = Journal()
    sender = Sender(site.layer, POOR_KEY, journal.persist, waiting=QUICK)
    outgoing = await sender.send(LANE, b"", "gift", value=1, gas_limit=21_000)
    assert journal.entries == [outgoing]
    assert isinstance(outgoing, Outgoing)
    with pytest.raises(ChainUnavailable, match="gift is outstanding: the node refused"):
        await sender.wait(outgoing)
    await site.execute(RELAY_KEY, key_address(POOR_KEY), b"", value=10**18)
    async with mining(site):
        assert (await sender.wait(outgoing)).succeeded


async def test_waiting_ends_with_the_time_out_and_can_go_on(site: Site) -> None:
    sender = Sender(site.layer, RELAY_KEY, Journal().persist, waiting=SHORT)
    outgoing = await sender.send(LANE, b"", "gift", value=1)
    assert isinstance(outgoing, Outgoing)
    with pytest.raises(ChainUnavailable, match="it is outstanding"):
        await sender.wait(outgoing)
    site.mine(1)
    assert (await sender.wait(outgoing)).succeeded


async def test_a_restart_sends_the_same_bytes(site: Site) -> None:
    journal = Journal()
    transport = line(site, lambda method: "request" if method == "eth_sendRawTransaction" else None)
    before = Sender(JsonRpcLayer(transport), RELAY_KEY, journal.persist, waiting=QUICK)
    await before.send(LANE, b"", "first", value=1)
    assert await site.layer.nonce(RELAY, pending=True) == 0
    after = Sender(site.layer, RELAY_KEY, journal.persist, waiting=QUICK)
    await after.resume(journal.entries)
    outgoing = await after.send(LANE, b"", "second", value=2)
    assert isinstance(outgoing, Outgoing)
    assert outgoing.nonce == 1
    site.mine(1)
    receipts = [await after.wait(entry) for entry in journal.entries]
    assert [receipt.tx_hash for receipt in receipts] == [entry.tx_hash for entry in journal.entries]
    assert await site.layer.native_balances([LANE]) == [COINS[LANE] + 3]
    again = Sender(site.layer, RELAY_KEY, journal.persist, waiting=QUICK)
    await again.resume(reversed(journal.entries))
    site.mine(1)
    assert await site.layer.native_balances([LANE]) == [COINS[LANE] + 3]


async def test_a_restart_without_the_chain_keeps_what_is_outstanding(site: Site) -> None:
    journal = Journal()
    signed = site.sign(RELAY_KEY, LANE, b"", value=1)
    journal.entries.append(Outgoing(signed.raw, 0, "first"))
    transport = line(site, first(1, "eth_sendRawTransaction", "request"))
    sender = Sender(JsonRpcLayer(transport), RELAY_KEY, journal.persist, waiting=QUICK)
    await sender.resume(journal.entries)
    assert transport.faults == {"eth_sendRawTransaction": 1}
    async with mining(site):
        assert (await sender.wait(journal.entries[0])).succeeded


async def test_a_nonce_taken_by_another_is_a_fault(site: Site) -> None:
    transport = line(site, lambda method: "request" if method == "eth_sendRawTransaction" else None)
    sender = Sender(JsonRpcLayer(transport), RELAY_KEY, Journal().persist, waiting=QUICK)
    outgoing = await sender.send(LANE, b"", "gift", value=1)
    assert isinstance(outgoing, Outgoing)
    await site.execute(RELAY_KEY, TREASURY, b"", value=9)
    with pytest.raises(NonceTaken, match="nonce 0"):
        await sender.wait(outgoing)


async def test_a_failed_journal_keeps_the_nonce_free(site: Site) -> None:
    journal = Journal()
    sender = Sender(site.layer, RELAY_KEY, journal.persist, waiting=QUICK)

    def fail() -> None:
        raise OSError("disk full")

    journal.before = fail
    with pytest.raises(OSError, match="disk full"):
        await sender.send(LANE, b"", "gift", value=1)
    assert await site.layer.nonce(RELAY, pending=True) == 0
    journal.before = lambda: None
    outgoing = await sender.send(LANE, b"", "gift", value=1)
    assert isinstance(outgoing, Outgoing)
    assert outgoing.nonce == 0


async def test_a_caller_that_gives_up_does_not_tear_the_stream(site: Site) -> None:
    journal = Journal()
    sender = Sender(site.layer, RELAY_KEY, journal.persist, waiting=QUICK)
    journal.before = lambda: task.cancel() and None
    task = asyncio.create_task(sender.send(LANE, b"", "first", value=1))
    with pytest.raises(asyncio.CancelledError):
        await task
    journal.before = lambda: None
    outgoing = await sender.send(LANE, b"", "second", value=2)
    assert isinstance(outgoing, Outgoing)
    assert outgoing.nonce == 1
    site.mine(1)
    assert await site.layer.native_balances([LANE]) == [COINS[LANE] + 3]


async def test_confirmations_are_waited_for(site: Site) -> None:
    sender = Sender(site.layer, RELAY_KEY, Journal().persist, confirmations=3, waiting=SHORT)
    outgoing = await sender.send(LANE, b"", "gift", value=1)
    assert isinstance(outgoing, Outgoing)
    for _ in range(3):
        site.mine(1)
    with pytest.raises(ChainUnavailable, match="not final"):
        await sender.wait(outgoing)
    site.mine(1)
    assert (await sender.wait(outgoing)).succeeded


async def test_the_fee_cap_holds(site: Site) -> None:
    sender = Sender(site.layer, RELAY_KEY, Journal().persist, fee_cap=1_234_567_891, waiting=QUICK)
    outgoing = await sender.send(LANE, b"", "gift", value=1)
    assert isinstance(outgoing, Outgoing)
    transaction = await site.transport.call("eth_getTransactionByHash", ["0x" + outgoing.tx_hash.hex()])
    fees = await site.layer.fees()
    assert int(transaction["maxFeePerGas"], 16) == min(1_234_567_891, fees.max_fee_per_gas)
    assert int(transaction["maxPriorityFeePerGas"], 16) <= int(transaction["maxFeePerGas"], 16)


async def test_a_reorganisation_is_survived(site: Site) -> None:
    """The block that held the transaction is gone before it is final: it is sent again and mined once."""
    sender = Sender(site.layer, RELAY_KEY, Journal().persist, confirmations=2, waiting=QUICK)
    go_back = site.snapshot()
    outgoing = await sender.send(LANE, b"", "gift", value=1)
    assert isinstance(outgoing, Outgoing)
    site.mine(1)
    dropped = await site.layer.receipt(outgoing.tx_hash)
    assert dropped is not None
    waiting = asyncio.create_task(sender.wait(outgoing))
    await asyncio.sleep(0.05)
    go_back()
    assert await site.layer.receipt(outgoing.tx_hash) is None
    site.mine(5)
    async with mining(site):
        receipt = await waiting
    assert receipt.succeeded
    assert receipt.block_hash != dropped.block_hash
    assert await site.layer.native_balances([LANE]) == [COINS[LANE] + 1]
