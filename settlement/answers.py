"""Reading of Ethereum's JSON objects: blocks, logs, receipts, reverts; and writing of call objects."""

from typing import Any

from settlement.errors import ChainMisbehaved, ChainRefused
from settlement.events import Log, position_of
from settlement.jsonrpc import data_of, hex_of, list_of, object_of, quantity
from settlement.port import Block, Call, Revert, TxReceipt
from settlement.reverts import revert_of

# "execution error" of EIP-1474's successor: a revert with its data.
REVERT_CODE = 3
# How nodes word a failed execution without code 3; compared in lower case.
_FAILED_EXECUTION = (
    "revert",
    "invalid opcode",
    "invalidfeopcode",
    "out of gas",
    "gas required exceeds",  # geth: more than a block, or than the node, grants
    "stack underflow",
)
# What providers answer instead of HTTP status 429 or 503: nothing is known, ask again.
_TRANSIENT_CODES = frozenset({429, -32005, -32016, -32029})
_TRANSIENT_WORDS = (
    "rate limit",
    "too many requests",
    "request limit",
    "timed out",
    "timeout",
    "header not found",  # by a replica that lags behind
)


def call_object(call: Call) -> dict[str, str]:
    """Return the call object of eth_call and eth_estimateGas."""
    made = {"from": hex_of(call.sender), "data": hex_of(call.data)}
    if call.to is not None:
        made["to"] = hex_of(call.to)
    if call.value:
        made["value"] = hex(call.value)
    return made


def block_of(answer: Any) -> Block | None:
    """Read a block; null is None."""
    if answer is None:
        return None
    block = object_of(answer)
    return Block(
        quantity(block.get("number"), 64),
        data_of(block.get("hash"), 32),
        data_of(block.get("parentHash"), 32),
        quantity(block.get("timestamp"), 64),
        quantity(block.get("baseFeePerGas", "0x0"), 128),
        quantity(block.get("gasLimit", "0x0"), 64),
    )


def log_of(answer: Any) -> Log:
    """Read a log of a mined block. One that a reorganisation removed, or of no block yet, is a fault."""
    log = object_of(answer)
    if log.get("removed") is True:
        raise ChainMisbehaved("a removed log in an answer about the canonical chain")
    topics = list_of(log.get("topics"))
    if len(topics) > 4:
        raise ChainMisbehaved(f"a log with {len(topics)} topics")
    return Log(
        data_of(log.get("address"), 20),
        tuple(data_of(topic, 32) for topic in topics),
        data_of(log.get("data")),
        position_of(quantity(log.get("blockNumber"), 64), quantity(log.get("logIndex"), 32)),
        data_of(log.get("blockHash"), 32),
        data_of(log.get("transactionHash"), 32),
    )


def receipt_of(answer: Any) -> TxReceipt:
    """Read a receipt of a mined transaction."""
    receipt = object_of(answer)
    created = receipt.get("contractAddress")
    made = TxReceipt(
        tx_hash=data_of(receipt.get("transactionHash"), 32),
        status=quantity(receipt.get("status"), 1),
        block_number=quantity(receipt.get("blockNumber"), 64),
        block_hash=data_of(receipt.get("blockHash"), 32),
        gas_used=quantity(receipt.get("gasUsed"), 64),
        effective_gas_price=quantity(receipt.get("effectiveGasPrice"), 128),
        logs=tuple(log_of(log) for log in list_of(receipt.get("logs"))),
        contract_address=None if created is None else data_of(created, 20),
    )
    for log in made.logs:
        if (log.tx_hash, log.block_hash, log.block_number) != (
            made.tx_hash,
            made.block_hash,
            made.block_number,
        ):
            raise ChainMisbehaved("a receipt with a log of another transaction or block")
    return made


def is_transient(refused: ChainRefused) -> bool:
    """Tell whether a refusal says nothing about the request: a limit of the node's, or a replica that lags."""
    if refused.code == REVERT_CODE or refused.data:
        return False  # a contract's own words
    words = refused.message.lower()
    return refused.code in _TRANSIENT_CODES or any(text in words for text in _TRANSIENT_WORDS)


def revert_in(refused: ChainRefused) -> Revert | None:
    """Return the revert that a refusal of eth_call or eth_estimateGas tells of; None when it is something else."""
    if refused.data is not None and refused.data:
        return revert_of(refused.data)
    words = refused.message.lower()
    if refused.code == REVERT_CODE or any(word in words for word in _FAILED_EXECUTION):
        return Revert("no reason given" if words == "execution reverted" else refused.message)
    return None
