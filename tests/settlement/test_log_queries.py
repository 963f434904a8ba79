"""Logs of a block for which a node refuses eth_getLogs: from receipts, and the same ones."""

from typing import Any

import pytest

from channels.types import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS
from settlement import calls
from settlement.client import JsonRpcLayer
from settlement.errors import AnswerTooLarge, ChainError, ChainMisbehaved, ChainRefused, ChainUnavailable
from settlement.event_abi import EVENT_TOPICS, TRANSFER_TOPIC
from settlement.events import Deposited, position_of
from settlement.genesis import TOKEN_ADDRESS
from settlement.log_queries import RECEIPTS_AT_ONCE, Filter, LogQueries
from tests.support.layers import (
    PAYER_KEY,
    RELAY_KEY,
    Site,
    authorization,
    config,
)
from tests.support.scripted import FaultyTransport, ScriptedTransport

TOO_MUCH = ChainRefused(-32005, "query returned more than 10000 results")
PAYEE = b"\x42" * 20


async def full_block(site: Site) -> int:
    """Mine one block with deposits, wanted and other transfers, one that reverts, and coins; return its number."""
    raws = []
    for number in range(1, 4):
        channel = config(number)
        data = calls.deposit(
            channel, 1_000 + number, COLLECTOR_ADDRESS, calls.collector_data(authorization(channel, 1_000 + number, 1))
        )
        raws.append(site.sign(RELAY_KEY, SETTLEMENT_ADDRESS, data).raw)
        raws.append(site.sign(PAYER_KEY, TOKEN_ADDRESS, calls.transfer(PAYEE, number)).raw)
        raws.append(site.sign(PAYER_KEY, TOKEN_ADDRESS, calls.transfer(b"\x43" * 20, number)).raw)
    raws.append(site.sign(PAYER_KEY, TOKEN_ADDRESS, calls.transfer(PAYEE, 10**30)).raw)
    raws += [site.sign(RELAY_KEY, PAYEE, b"", value=1).raw for _ in range(RECEIPTS_AT_ONCE)]
    assert await site.layer.send_all(raws) == [None] * len(raws)
    site.mine(1)
    return (await site.layer.head()).number


@pytest.mark.parametrize("refused", [{"eth_getLogs"}, {"eth_getLogs", "eth_getBlockReceipts"}])
async def test_receipts_have_the_same_logs(site: Site, refused: set[str]) -> None:
    number = await full_block(site)
    site.mine(1)
    block = await site.layer.block(number)
    assert block is not None
    transport = FaultyTransport(site.transport, lambda method: TOO_MUCH if method in refused else None)
    layer = JsonRpcLayer(transport)
    for by_hash in (None, block.hash):
        events = await layer.events(number, number, by_hash)
        assert events == await site.layer.events(number, number, by_hash)
        assert [type(event) for event in events].count(Deposited) == 3
        transfers = await layer.transfers_to(TOKEN_ADDRESS, [PAYEE], number, number, by_hash)
        assert transfers == await site.layer.transfers_to(TOKEN_ADDRESS, [PAYEE], number, number, by_hash)
        assert [each.amount for each in transfers] == [1, 2, 3]
    # A range is halved down to its blocks, of which only the full one is asked for receipts.
    assert await layer.events(0, number + 1) == await site.layer.events(0, number + 1)
    assert all(transport.faults[method] for method in refused)


async def test_a_block_that_is_not_there_stays_refused(site: Site) -> None:
    transport = FaultyTransport(site.transport, lambda method: TOO_MUCH if method == "eth_getLogs" else None)
    site.mine(1)
    for number, by_hash in ((1, b"\x77" * 32), (1_000, None)):
        with pytest.raises(ChainUnavailable, match="more than 10000 results"):
            await JsonRpcLayer(transport).events(number, number, by_hash)


BLOCK, TX = b"\x11" * 32, (b"\x01" * 32, b"\x02" * 32)
WANTED = Filter(TOKEN_ADDRESS, ((TRANSFER_TOPIC,), (), (PAYEE.rjust(32, b"\0"),)))


def hexed(value: bytes) -> str:
    return "0x" + value.hex()


def log(tx: bytes, index: int, **changed: Any) -> dict[str, Any]:
    """Return a wanted log of a transaction in block 5."""
    return {
        "address": hexed(TOKEN_ADDRESS),
        "topics": [hexed(TRANSFER_TOPIC), "0x" + "00" * 32, hexed(PAYEE.rjust(32, b"\0"))],
        "data": "0x" + "00" * 32,
        "blockNumber": "0x5",
        "blockHash": hexed(BLOCK),
        "transactionHash": hexed(tx),
        "logIndex": hex(index),
    } | changed


def receipt(tx: bytes, *logs: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return what of a receipt is read."""
    return {
        "transactionHash": hexed(tx),
        "blockHash": hexed(BLOCK),
        "blockNumber": "0x5",
        "logs": list(logs),
    } | changed


RECEIPTS = [receipt(TX[0], log(TX[0], 0), log(TX[0], 1)), receipt(TX[1], log(TX[1], 2))]
STATED = {"number": "0x5", "hash": hexed(BLOCK), "transactions": [hexed(each) for each in TX]}


def queries(refused: ChainError = TOO_MUCH, **answers: Any) -> LogQueries:
    """Return queries of a node that refuses block 5's logs and has its receipts."""
    usual = {
        "eth_getLogs": refused,
        "eth_getBlockByHash": STATED,
        "eth_getBlockByNumber": STATED,
        "eth_getBlockReceipts": RECEIPTS,
    }
    return LogQueries(ScriptedTransport(usual | answers), 100)


@pytest.mark.parametrize("refused", [TOO_MUCH, ChainRefused(-32602, "too many logs"), AnswerTooLarge("above 16 MiB")])
async def test_whatever_the_refusal(refused: ChainError) -> None:
    for by_hash in (BLOCK, None):
        found = await queries(refused).between(5, 5, WANTED, by_hash)
        assert [(each.position, each.tx_hash) for each in found] == [
            (position_of(5, 0), TX[0]),
            (position_of(5, 1), TX[0]),
            (position_of(5, 2), TX[1]),
        ]


@pytest.mark.parametrize(
    "other",
    [
        {"address": hexed(SETTLEMENT_ADDRESS)},
        {"address": hexed(SETTLEMENT_ADDRESS), "topics": []},
        {"topics": []},
        {"topics": [hexed(EVENT_TOPICS[0]), "0x" + "00" * 32, hexed(PAYEE.rjust(32, b"\0"))]},
        {"topics": [hexed(TRANSFER_TOPIC), "0x" + "00" * 32, "0x" + "00" * 32]},
        {"topics": [hexed(TRANSFER_TOPIC), "0x" + "00" * 32]},
    ],
)
async def test_other_logs_count_and_are_left_out(other: dict[str, Any]) -> None:
    """Addresses may be written in capitals, and a node may number each receipt's logs from 0."""
    mixed = log(TX[1], 0, address="0x" + TOKEN_ADDRESS.hex().upper())
    receipts = [receipt(TX[0], log(TX[0], 0, **other), log(TX[0], 1, **other)), receipt(TX[1], mixed)]
    (found,) = await queries(eth_getBlockReceipts=receipts).between(5, 5, WANTED, BLOCK)
    assert (found.position, found.tx_hash) == (position_of(5, 2), TX[1])


async def test_a_receipt_without_a_transaction_is_read_too() -> None:
    """Some chains append what the chain itself did to a block's receipts."""
    more = [*RECEIPTS, receipt(b"\x03" * 32, log(b"\x03" * 32, 3))]
    assert len(await queries(eth_getBlockReceipts=more).between(5, 5, WANTED, BLOCK)) == 4


async def test_a_block_without_transactions_has_no_logs() -> None:
    empty = STATED | {"transactions": []}
    assert await queries(eth_getBlockByHash=empty, eth_getBlockReceipts=None).between(5, 5, WANTED, BLOCK) == []


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        # Half an answer, or one of a block that was replaced meanwhile, is none.
        ({"eth_getBlockReceipts": RECEIPTS[:1]}, ChainUnavailable),
        ({"eth_getBlockReceipts": RECEIPTS[::-1]}, ChainUnavailable),
        ({"eth_getBlockReceipts": [receipt(TX[0], blockHash=hexed(TX[0])), RECEIPTS[1]]}, ChainUnavailable),
        ({"eth_getBlockReceipts": None, "eth_getTransactionReceipt": None}, ChainUnavailable),
        ({"eth_getBlockByHash": None}, ChainUnavailable),  # the refusal, which may pass
        ({"eth_getBlockByHash": ChainRefused(-32601, "no such method")}, ChainUnavailable),
        ({"eth_getBlockReceipts": None, "eth_getTransactionReceipt": AnswerTooLarge("16 MiB")}, ChainUnavailable),
        ({"eth_getBlockByHash": STATED | {"hash": hexed(TX[0])}}, ChainMisbehaved),
        ({"eth_getBlockByHash": STATED | {"number": "0x6"}}, ChainMisbehaved),
        ({"eth_getBlockReceipts": [receipt(TX[0], log(TX[1], 0)), RECEIPTS[1]]}, ChainMisbehaved),
        (
            {"eth_getBlockReceipts": [receipt(TX[0], log(TX[0], 0, blockHash=hexed(TX[0]))), RECEIPTS[1]]},
            ChainMisbehaved,
        ),
        ({"eth_getBlockReceipts": [receipt(TX[0], logs=None), RECEIPTS[1]]}, ChainMisbehaved),
        ({"eth_getBlockReceipts": "0x"}, ChainMisbehaved),
    ],
)
async def test_what_cannot_be_relied_on(answers: dict[str, Any], error: type[ChainError]) -> None:
    with pytest.raises(error) as raised:
        await queries(**answers).between(5, 5, WANTED, BLOCK)
    assert type(raised.value) is error


async def test_receipts_that_are_too_much_together_are_asked_for_one_by_one() -> None:
    asked: list[str] = []

    class Narrow(ScriptedTransport):
        async def batch(self, requests: Any) -> list[Any]:
            if len(requests) > 1:
                raise AnswerTooLarge("above 16 MiB")
            asked.append(requests[0][1][0])
            return await super().batch(requests)

    by_hash = {each["transactionHash"]: each for each in RECEIPTS}
    usual = {
        "eth_getLogs": TOO_MUCH,
        "eth_getBlockByHash": STATED,
        "eth_getBlockReceipts": AnswerTooLarge("above 16 MiB"),
        "eth_getTransactionReceipt": by_hash.__getitem__,
    }
    found = await LogQueries(Narrow(usual), 100).between(5, 5, WANTED, BLOCK)
    assert [each.position for each in found] == [position_of(5, index) for index in range(3)]
    assert asked == [hexed(each) for each in TX]


async def test_too_much_in_several_blocks_is_to_be_asked_for_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("settlement.log_queries.LOGS_AT_ONCE", 2)
    logs = [log(TX[0], index) for index in range(3)]
    with pytest.raises(AnswerTooLarge, match="more than 2 logs in blocks 5 to 6"):
        await queries(eth_getLogs=logs).between(5, 6, WANTED, None)
    assert len(await queries(eth_getLogs=logs).between(5, 5, WANTED, None)) == 3
    assert len(await queries(eth_getLogs=logs).between(5, 5, WANTED, BLOCK)) == 3
