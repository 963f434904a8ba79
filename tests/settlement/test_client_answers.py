"""A node that lies, stumbles or limits: every answer is checked before it is believed."""

from typing import Any

import pytest

from channels.digests import keccak
from channels.types import SETTLEMENT_ADDRESS
from settlement.abi import encode
from settlement.client import JsonRpcLayer
from settlement.errors import AnswerTooLarge, ChainError, ChainMisbehaved, ChainRefused, ChainUnavailable
from settlement.event_abi import EVENT_TOPICS, TRANSFER_TOPIC, settlement_events
from settlement.events import Deposited, Log, Settled, position_of
from settlement.genesis import TOKEN_ADDRESS
from settlement.port import Call, ChannelView, Fees, Revert
from settlement.reverts import REASON_LENGTH_MAX, REVERT_DATA_MAX, revert_of
from tests.support.scripted import ScriptedTransport

HASH = "0x" + "ab" * 32
OTHER = "0x" + "cd" * 32
SETTLEMENT = "0x" + SETTLEMENT_ADDRESS.hex()
BLOCK = {"number": "0x5", "hash": HASH, "parentHash": OTHER, "timestamp": "0x64", "baseFeePerGas": "0x7"}
SETTLED_TOPIC = "0x" + keccak(b"Settled(address,address,address,uint128)").hex()
LOG = {
    "address": SETTLEMENT,
    "topics": [SETTLED_TOPIC, *("0x" + "00" * 12 + "11" * 20,) * 3],
    "data": "0x" + encode("uint128", 9).hex(),
    "blockNumber": "0x5",
    "logIndex": "0x2",
    "blockHash": HASH,
    "transactionHash": OTHER,
}
RECEIPT = {
    "transactionHash": OTHER,
    "status": "0x1",
    "blockNumber": "0x5",
    "blockHash": HASH,
    "gasUsed": "0x5208",
    "effectiveGasPrice": "0x7",
    "contractAddress": None,
    "logs": [LOG],
}
CALL = Call(bytes(20), bytes(20), b"")


def layer(**answers: Any) -> JsonRpcLayer:
    return JsonRpcLayer(ScriptedTransport({"eth_chainId": "0x7aaa", **answers}))


async def test_a_sound_block_is_read() -> None:
    head = await layer(eth_getBlockByNumber=BLOCK).head()
    assert (head.number, head.timestamp, head.base_fee) == (5, 100, 7)
    without = {key: value for key, value in BLOCK.items() if key != "baseFeePerGas"}
    assert (await layer(eth_getBlockByNumber=without).head()).base_fee == 0
    assert head.gas_limit == 0, "not told"
    assert (await layer(eth_getBlockByNumber=BLOCK | {"gasLimit": "0x9"}).head()).gas_limit == 9


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "0x5",
        [],
        {},
        {**BLOCK, "number": 5},
        {**BLOCK, "number": "5"},
        {**BLOCK, "number": "0x05"},
        {**BLOCK, "number": "0x"},
        {**BLOCK, "number": "-0x5"},
        {**BLOCK, "number": "0x1" + "0" * 16},
        {**BLOCK, "timestamp": None},
        {**BLOCK, "hash": HASH[:-2]},
        {**BLOCK, "hash": HASH[:-1]},
        {**BLOCK, "hash": "0x" + "zz" * 32},
        {**BLOCK, "parentHash": None},
        {**BLOCK, "baseFeePerGas": "0x" + "f" * 33},
        {**BLOCK, "baseFeePerGas": "0x" + "f" * 100},
    ],
)
async def test_unsound_blocks_are_faults(answer: Any) -> None:
    with pytest.raises(ChainMisbehaved):
        await layer(eth_getBlockByNumber=answer).head()


async def test_another_block_than_asked_for_is_a_fault() -> None:
    assert await layer(eth_getBlockByNumber=BLOCK).block(5) is not None
    with pytest.raises(ChainMisbehaved, match="asked for block 6"):
        await layer(eth_getBlockByNumber=BLOCK).block(6)


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "0x2"},
        {"status": None},
        {"transactionHash": HASH},
        {"transactionHash": HASH, "logs": []},
        {"blockHash": OTHER},
        {"blockNumber": None},
        {"gasUsed": "0x" + "f" * 17},
        {"contractAddress": "0x12"},
        {"logs": None},
        {"logs": [{**LOG, "removed": True}]},
        {"logs": [{**LOG, "topics": [HASH] * 5}]},
        {"logs": [{**LOG, "topics": ["0x12"]}]},
        {"logs": [{**LOG, "blockNumber": "0x6"}]},
        {"logs": [{**LOG, "transactionHash": HASH}]},
        {"logs": [{**LOG, "logIndex": "0x1" + "0" * 8}]},
    ],
)
async def test_unsound_receipts_are_faults(fields: dict[str, Any]) -> None:
    with pytest.raises(ChainMisbehaved):
        await layer(eth_getTransactionReceipt={**RECEIPT, **fields}).receipt(bytes.fromhex(OTHER[2:]))


async def test_a_sound_receipt_is_read() -> None:
    receipt = await layer(eth_getTransactionReceipt=RECEIPT).receipt(bytes.fromhex(OTHER[2:]))
    assert receipt is not None
    assert (receipt.succeeded, receipt.fee, receipt.contract_address) == (True, 147_000, None)
    (event,) = settlement_events(receipt.logs, SETTLEMENT_ADDRESS)
    assert isinstance(event, Settled)
    assert (event.amount, event.position, event.block_number) == (9, position_of(5, 2), 5)
    assert receipt.logs[0].block_number == 5


async def test_the_hash_of_a_sent_transaction_must_be_its_own() -> None:
    with pytest.raises(ChainMisbehaved, match="another hash"):
        await layer(eth_sendRawTransaction=HASH).send_raw(b"\x02raw")
    assert await layer(eth_sendRawTransaction="0x" + keccak(b"\x02raw").hex()).send_raw(b"\x02raw") == keccak(
        b"\x02raw"
    )


@pytest.mark.parametrize("message", ["already known", "nonce too low", "ALREADY_EXISTS: already known", "anything"])
async def test_a_refused_transaction_is_looked_up(message: str) -> None:
    refused = ChainRefused(-32000, message)
    known = layer(eth_sendRawTransaction=refused, eth_getTransactionByHash={"hash": "any"})
    assert await known.send_raw(b"\x02raw") == keccak(b"\x02raw")
    unknown = layer(eth_sendRawTransaction=refused, eth_getTransactionByHash=None)
    with pytest.raises(ChainRefused, match=message):
        await unknown.send_raw(b"\x02raw")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-32005, "slow down"),
        (429, "slow down"),
        (-32016, "slow down"),
        (-32007, "slow down: 50/second request limit reached"),
        (-32002, "slow down: request timed out"),
        (-32000, "slow down: header not found"),
    ],
)
async def test_a_rate_limit_is_no_refusal(code: int, words: str) -> None:
    limited = ChainRefused(code, words)
    asked = [
        layer(eth_getCode=limited).has_code(bytes(20)),
        layer(eth_getBalance=limited).native_balances([bytes(20)]),
        layer(eth_getLogs=limited, eth_getBlockByNumber=limited).events(1, 4),
        layer(eth_call=limited).refund_nonces([bytes(32)]),
        layer(eth_sendRawTransaction=limited).send_raw(b""),
        layer(eth_estimateGas=limited).estimate_all([CALL]),
        layer(eth_getTransactionReceipt=limited).receipts([bytes(32)]),
        layer(eth_getTransactionCount=limited).nonces([bytes(20)]),
    ]
    for waiting in asked:
        with pytest.raises(ChainUnavailable, match="slow down"):
            await waiting


async def test_a_contract_may_use_any_words() -> None:
    """A revert that speaks of a time-out is a revert all the same."""
    for refused in (
        ChainRefused(3, "execution reverted: timeout"),
        ChainRefused(-32000, "execution reverted: timeout", bytes.fromhex("08c379a0")),
    ):
        assert isinstance(await layer(eth_call=refused).simulate(CALL), Revert)
        assert isinstance((await layer(eth_estimateGas=refused).estimate_all([CALL]))[0], Revert)


async def test_each_transaction_has_its_own_answer() -> None:
    refusals = {
        "0x0201": ChainRefused(-32000, "nonce too low"),
        "0x0202": ChainRefused(-32005, "slow down"),
        "0x0203": ChainRefused(-32000, "already known"),
    }
    hashes = {raw: "0x" + keccak(bytes.fromhex(raw[2:])).hex() for raw in ("0x0200", *refusals)}
    asked: list[str] = []

    def found(tx_hash: str) -> Any:
        asked.append(tx_hash)
        return {} if tx_hash == hashes["0x0203"] else None

    node = layer(eth_sendRawTransaction=lambda raw: refusals.get(raw, hashes[raw]), eth_getTransactionByHash=found)
    answers = await node.send_all([bytes.fromhex(raw[2:]) for raw in hashes])
    assert answers[0] is answers[3] is None
    assert answers[1] is refusals["0x0201"]
    assert isinstance(answers[2], ChainUnavailable)
    assert asked == [hashes["0x0201"], hashes["0x0203"]]
    with pytest.raises(ChainMisbehaved, match="another hash"):
        await layer(eth_sendRawTransaction=HASH).send_all([b"\x02"])


async def test_a_node_without_batches_is_asked_one_by_one() -> None:
    class Single(ScriptedTransport):
        async def batch(self, requests: Any) -> Any:
            raise ChainRefused(-32600, "batches are not supported")

    refused = ChainRefused(-32000, "no")
    node = JsonRpcLayer(Single({"eth_getTransactionCount": lambda address, tag: hex(int(address, 16))}))
    assert await node.nonces([bytes(19) + b"\x05", bytes(19) + b"\x07"]) == [5, 7]
    with pytest.raises(ChainRefused, match="batches"):
        await node.nonces([bytes(20)])
    node = JsonRpcLayer(Single({"eth_estimateGas": refused}))
    assert await node.estimate_all([CALL, CALL]) == [refused, refused]

    class Limited(ScriptedTransport):
        async def batch(self, requests: Any) -> Any:
            raise ChainRefused(429, "slow down")

    with pytest.raises(ChainUnavailable, match="slow down"):
        await JsonRpcLayer(Limited({})).nonces([bytes(20), bytes(20)])


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (ChainRefused(3, "execution reverted", revert_of(b"").data), "no reason given"),
        (ChainRefused(3, "execution reverted: some words"), "execution reverted: some words"),
        (ChainRefused(-32000, "VM Exception: revert"), "VM Exception: revert"),
        (ChainRefused(-32000, "out of gas: gas required exceeds: 5"), "out of gas: gas required exceeds: 5"),
        (ChainRefused(-32000, "gas required exceeds allowance (9)"), "gas required exceeds allowance (9)"),
        (ChainRefused(-32000, "x", bytes.fromhex("08c379a0") + encode("(string)", ("why",))), "why"),
        (ChainRefused(3, "x", bytes.fromhex("4e487b71") + encode("(uint256)", (17,))), "panic 0x11"),
        (ChainRefused(3, "x", keccak(b"ZeroRefund()")[:4]), "ZeroRefund"),
        (ChainRefused(3, "x", bytes.fromhex("12345678")), "0x12345678"),
        (ChainRefused(3, "x", bytes.fromhex("08c379a0ff")), "0x08c379a0"),
    ],
)
async def test_reverts_are_told_from_refusals(refused: ChainRefused, reason: str) -> None:
    result = await layer(eth_call=refused).simulate(CALL)
    assert isinstance(result, Revert)
    assert result.reason == reason
    assert await layer(eth_estimateGas=refused).estimate_gas(CALL) == result
    with pytest.raises(ChainMisbehaved, match="view reverted"):
        await layer(eth_call=refused).refund_nonces([bytes(32)])


async def test_other_refusals_stay_refusals() -> None:
    refused = ChainRefused(-32000, "insufficient funds for gas * price + value")
    with pytest.raises(ChainRefused, match="insufficient"):
        await layer(eth_estimateGas=refused).estimate_gas(CALL)
    with pytest.raises(ChainRefused, match="insufficient"):
        await layer(eth_call=refused).refund_nonces([bytes(32)])


def test_revert_data_of_any_size_and_content_is_shown_bounded() -> None:
    text = "\x1b[31mboom\n" * 1000
    revert = revert_of(bytes.fromhex("08c379a0") + encode("(string)", (text,)))
    assert len(revert.reason) == REASON_LENGTH_MAX
    assert revert.reason.isprintable()
    assert len(revert.data) == REVERT_DATA_MAX
    assert revert_of(bytes.fromhex("08c379a0") + encode("(string)", ("",))).reason == "no reason given"


async def test_call_results_must_be_bytes() -> None:
    assert await layer(eth_call="0x").simulate(CALL) is None
    with pytest.raises(ChainMisbehaved):
        await layer(eth_call=None).simulate(CALL)
    with pytest.raises(ChainMisbehaved):
        await layer(eth_estimateGas="0x" + "f" * 17).estimate_gas(CALL)


def aggregated(*results: bytes) -> str:
    return "0x" + encode("((bool,bytes)[])", (tuple((True, result) for result in results),)).hex()


async def test_views_of_the_wrong_count_or_shape_are_faults() -> None:
    two = aggregated(encode("(uint128,uint128)", (7, 3)), encode("(uint128,uint40)", (1, 2)))
    assert await layer(eth_call=two).channels([bytes(32)]) == [ChannelView(7, 3, 1, 2)]
    for answer in (aggregated(encode("(uint128,uint128)", (7, 3))), aggregated(b"", b""), "0x", "0x12", None):
        with pytest.raises(ChainMisbehaved):
            await layer(eth_call=answer).channels([bytes(32)])
    huge = aggregated(encode("(uint256,uint256)", (2**128, 0)), encode("(uint128,uint40)", (0, 0)))
    with pytest.raises(ChainMisbehaved, match="range"):
        await layer(eth_call=huge).channels([bytes(32)])


async def test_a_token_that_signs_under_another_domain_is_a_fault() -> None:
    values = (encode("(string)", ("USD Coin",)), encode("(string)", ("2",)), encode("(uint256)", (6,)), bytes(32))
    with pytest.raises(ChainMisbehaved, match="another domain"):
        await layer(eth_getCode="0x60", eth_call=aggregated(*values)).token_domain(TOKEN_ADDRESS)
    unpublished = (
        "0x"
        + encode("((bool,bytes)[])", (((True, values[0]), (True, values[1]), (True, values[2]), (False, b"")),)).hex()
    )
    domain = await layer(eth_getCode="0x60", eth_call=unpublished).token_domain(TOKEN_ADDRESS)
    assert (domain.name, domain.version) == ("USD Coin", "2")


async def test_a_refused_range_of_logs_is_halved() -> None:
    asked: list[tuple[int, int]] = []

    def logs(query: dict[str, Any]) -> Any:
        first, last = int(query["fromBlock"], 16), int(query["toBlock"], 16)
        assert query["address"] == SETTLEMENT
        assert len(query["topics"][0]) == len(EVENT_TOPICS) == 8
        asked.append((first, last))
        if last - first >= 3:
            return ChainRefused(-32602, "range too large") if first % 2 else AnswerTooLarge("too many")
        return [LOG] if first <= 5 <= last else []

    events = await JsonRpcLayer(ScriptedTransport({"eth_getLogs": logs}), log_blocks_max=8).events(0, 20)
    assert [event.position for event in events] == [position_of(5, 2)]
    answered = [pair for pair in asked if pair[1] - pair[0] < 3]
    assert [block for first, last in answered for block in range(first, last + 1)] == list(range(21))
    assert max(last - first for first, last in asked) == 7


@pytest.mark.parametrize("error", [ChainRefused(-32000, "no logs"), AnswerTooLarge("too many")])
async def test_logs_of_one_block_that_are_refused_stay_refused(error: ChainError) -> None:
    """Unless the node has the block's receipts, as tests/settlement/test_log_queries.py shows."""
    with pytest.raises(type(error)):
        await layer(eth_getLogs=error, eth_getBlockByNumber=None).events(3, 9)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        [{**LOG, "blockNumber": "0x9"}],
        [{**LOG, "removed": True}],
        [LOG, LOG],
        [LOG, {**LOG, "logIndex": "0x1"}],
        [{**LOG, "topics": LOG["topics"][:3]}],
        [{**LOG, "topics": [*LOG["topics"][:3], HASH]}],
        [{**LOG, "data": "0x"}],
        [{**LOG, "data": "0x" + "f" * 64}],
    ],
)
async def test_unsound_logs_are_faults(answer: Any) -> None:
    with pytest.raises(ChainMisbehaved):
        await layer(eth_getLogs=answer).events(5, 6)


@pytest.mark.parametrize("fields", [{"blockHash": "0x" + "33" * 32}, {"blockNumber": "0x6"}])
async def test_logs_of_another_block_than_the_one_named_are_faults(fields: dict[str, Any]) -> None:
    block_hash = bytes.fromhex(LOG["blockHash"][2:])
    (event,) = await layer(eth_getLogs=[LOG]).events(5, 5, block_hash)
    assert event.block_hash == block_hash
    with pytest.raises(ChainMisbehaved):
        await layer(eth_getLogs=[{**LOG, **fields}]).events(5, 5, block_hash)


async def test_a_node_that_limits_questions_by_hash_is_asked_later() -> None:
    limited = ChainRefused(-32005, "slow down")
    with pytest.raises(ChainUnavailable, match="slow down"):
        await layer(eth_getLogs=limited, eth_getBlockByHash=limited).events(5, 5, bytes(32))


TRANSFER = {
    **LOG,
    "address": "0x" + TOKEN_ADDRESS.hex(),
    "topics": ["0x" + TRANSFER_TOPIC.hex(), *("0x" + "00" * 12 + "11" * 20,) * 2],
}


@pytest.mark.parametrize(
    "fields",
    [
        {"address": SETTLEMENT},
        {"topics": [TRANSFER["topics"][0], TRANSFER["topics"][1], "0x" + "00" * 32]},
        {"topics": LOG["topics"]},
        {"topics": []},
    ],
)
async def test_other_transfers_than_asked_for_are_faults(fields: dict[str, Any]) -> None:
    receiver = b"\x11" * 20
    (transfer,) = await layer(eth_getLogs=[TRANSFER]).transfers_to(TOKEN_ADDRESS, [receiver], 5, 5)
    assert (transfer.receiver, transfer.amount) == (receiver, 9)
    with pytest.raises(ChainMisbehaved):
        await layer(eth_getLogs=[{**TRANSFER, **fields}]).transfers_to(TOKEN_ADDRESS, [receiver], 5, 5)


def test_logs_of_others_and_unknown_ones_are_left_out() -> None:
    def log(address: bytes, *topics: bytes) -> Log:
        return Log(address, topics, b"", 1, bytes(32), bytes(32))

    logs = [log(bytes(20), EVENT_TOPICS[0]), log(SETTLEMENT_ADDRESS), log(SETTLEMENT_ADDRESS, bytes(32))]
    assert settlement_events(logs, SETTLEMENT_ADDRESS) == []
    topic = keccak(b"Deposited(bytes32,address,uint128,uint128)")
    data = encode("(uint128,uint128)", (5, 8))
    deposited = Log(SETTLEMENT_ADDRESS, (topic, b"\x01" * 32, bytes(32)), data, 7, b"b" * 32, b"t" * 32)
    assert settlement_events([deposited], SETTLEMENT_ADDRESS) == [
        Deposited(7, b"b" * 32, b"t" * 32, b"\x01" * 32, bytes(20), 5, 8)
    ]


async def test_fees_follow_the_base_fee() -> None:
    fees = await layer(eth_getBlockByNumber=BLOCK, eth_maxPriorityFeePerGas="0x2").fees()
    assert fees == Fees(16, 2)


async def test_close_closes_the_transport() -> None:
    transport = ScriptedTransport({})
    await JsonRpcLayer(transport).close()
    assert transport.asked == ["close"]
