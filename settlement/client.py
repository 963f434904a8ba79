"""The execution-layer port over Ethereum JSON-RPC: the one adapter, whatever the transport.

Views are read through Multicall3, many in one `eth_call`, so that a list is always read at one block. Every
answer is checked for type, range and count before it is believed.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from channels.digests import domain_separator
from channels.types import SETTLEMENT_ADDRESS, Address, ChannelId, TokenDomain
from settlement import answers, calls
from settlement.abi import decode
from settlement.errors import ChainMisbehaved, ChainRefused, ChainUnavailable
from settlement.event_abi import EVENT_TOPICS, TRANSFER_TOPIC, decode_transfer, settlement_events
from settlement.events import ChainEvent, Transfer
from settlement.jsonrpc import Request, block_tag, data_of, hex_of, quantity
from settlement.log_queries import RECEIPTS_APART, Filter, LogQueries, read_apart
from settlement.port import Block, Call, ChannelView, Fees, ReceiverView, Revert, TxReceipt
from settlement.transactions import transaction_hash
from settlement.transports import Transport

# Our own Multicall3 takes 128 calls. A view costs about 7k gas, so a call stays far below what nodes grant.
VIEWS_PER_CALL = 120
# Public nodes serve logs of 100 to 10,000 blocks at once; a refusal halves the range anyway.
LOG_BLOCKS_MAX = 1_000
# An estimate runs its call a dozen times: 100 rows take a quarter of a second, and nodes answer within 30 s or not.
ESTIMATES_PER_BATCH = 16
# Two full base-fee doublings take eleven blocks of full use: offering twice the base fee outlasts six.
BASE_FEE_MULTIPLE = 2

View = tuple[Address, bytes]  # target and call data


class JsonRpcLayer:
    """`settlement.port.ExecutionLayer` over a transport.

    `expected_chain_id`: a chain that says otherwise raises ChainMisbehaved before anything is sent to it.
    `settlement` and `multicall` are the addresses of the contracts.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        expected_chain_id: int | None = None,
        settlement: Address = SETTLEMENT_ADDRESS,
        multicall: Address = calls.MULTICALL3_ADDRESS,
        views_per_call: int = VIEWS_PER_CALL,
        log_blocks_max: int = LOG_BLOCKS_MAX,
    ) -> None:
        self._transport = transport
        self._expected = expected_chain_id
        self._settlement = settlement
        self._multicall = multicall
        self._views_per_call = views_per_call
        self._logs = LogQueries(transport, log_blocks_max)
        self._chain_id: int | None = None

    async def chain_id(self) -> int:
        """Return the chain id, asked once."""
        if self._chain_id is None:
            answer = quantity(await self._ask("eth_chainId"), 64)
            if self._expected is not None and answer != self._expected:
                raise ChainMisbehaved(f"the node is on chain {answer}, not {self._expected}")
            self._chain_id = answer
        return self._chain_id

    async def head(self) -> Block:
        """Return the latest block."""
        block = answers.block_of(await self._ask("eth_getBlockByNumber", "latest", False))
        if block is None:
            raise ChainMisbehaved("the node has no latest block")
        return block

    async def block(self, number: int) -> Block | None:
        """Return a block by number, or None."""
        block = answers.block_of(await self._ask("eth_getBlockByNumber", hex(number), False))
        if block is not None and block.number != number:
            raise ChainMisbehaved(f"asked for block {number}, got {block.number}")
        return block

    async def channels(self, ids: Sequence[ChannelId], block: int | None = None) -> list[ChannelView]:
        """Return channels with their pending withdrawals."""
        views: list[View] = []
        for identifier in ids:
            views.append((self._settlement, calls.channels_view(identifier)))
            views.append((self._settlement, calls.withdrawal_view(identifier)))
        results = await self._views(views, block)
        return [
            ChannelView(
                *decode(calls.CHANNEL_RESULT, results[index]),
                *decode(calls.WITHDRAWAL_RESULT, results[index + 1]),
            )
            for index in range(0, len(results), 2)
        ]

    async def receivers(self, pairs: Sequence[tuple[Address, Address]], block: int | None = None) -> list[ReceiverView]:
        """Return totals of (receiver, token) pairs."""
        views = [(self._settlement, calls.receivers_view(*pair)) for pair in pairs]
        results = await self._views(views, block)
        return [ReceiverView(*decode(calls.RECEIVER_RESULT, result)) for result in results]

    async def token_balances(self, token: Address, owners: Sequence[Address], block: int | None = None) -> list[int]:
        """Return ERC-20 balances."""
        return await self._integers([(token, calls.balance_view(owner)) for owner in owners], block)

    async def native_balances(self, owners: Sequence[Address], block: int | None = None) -> list[int]:
        """Return coin balances."""
        if len(owners) > 1 and block is None:
            block = (await self.head()).number
        requests = [("eth_getBalance", (hex_of(owner), block_tag(block))) for owner in owners]
        return [quantity(_accepted(result)) for result in await self._batch(requests)]

    async def allowance(self, token: Address, owner: Address, spender: Address) -> int:
        """Return an ERC-20 allowance."""
        (amount,) = await self._integers([(token, calls.allowance_view(owner, spender))], None)
        return amount

    async def token_domain(self, token: Address, decimals: int = 6) -> TokenDomain:
        """Return the token's EIP-712 domain, checked against what it publishes."""
        names = ("name", "version", "decimals", "DOMAIN_SEPARATOR")
        views = [(token, calls.text_view(name)) for name in names]
        shown = f"token {hex_of(token)}"
        if not await self.has_code(token):
            raise ChainMisbehaved(f"{shown} is not a contract on this chain")
        results = await self._aggregate(views, None, allow_failure=True)
        for name, (ok, _) in zip(names[:3], results[:3], strict=True):
            if not ok:
                raise ChainMisbehaved(f"{shown} has no {name}()")
        (name,) = decode(calls.STRING_RESULT, results[0][1])
        (version,) = decode(calls.STRING_RESULT, results[1][1])
        (found,) = decode(calls.UINT_RESULT, results[2][1])
        if found != decimals:
            raise ChainMisbehaved(f"{shown} has {found} decimals, not {decimals}")
        ok, published = results[3]
        if ok:  # it is not part of ERC-3009 that a token publishes it
            separator = domain_separator(name, version, await self.chain_id(), token)
            if decode(calls.BYTES32_RESULT, published) != (separator,):
                raise ChainMisbehaved(f"{shown} signs under another domain than {name!r} version {version!r}")
        return TokenDomain(token, name, version)

    async def authorization_used(self, token: Address, payer: Address, nonce: bytes) -> bool:
        """Tell whether an ERC-3009 authorization was used or cancelled."""
        (result,) = await self._views([(token, calls.authorization_view(payer, nonce))], None)
        (used,) = decode(calls.BOOL_RESULT, result)
        return bool(used)

    async def paid(
        self,
        payouts: Address,
        sender: Address,
        token: Address,
        payees: Sequence[Address],
        block: int | None = None,
    ) -> list[int]:
        """Return cumulative payouts."""
        views = [(payouts, calls.paid_view(sender, token, payee)) for payee in payees]
        return await self._integers(views, block)

    async def refund_nonces(self, ids: Sequence[ChannelId], block: int | None = None) -> list[int]:
        """Return the next refund nonces."""
        return await self._integers([(self._settlement, calls.refund_nonce_view(each)) for each in ids], block)

    async def nonce(self, address: Address, *, pending: bool) -> int:
        """Return the sender's next nonce."""
        tag = "pending" if pending else "latest"
        return quantity(await self._ask("eth_getTransactionCount", hex_of(address), tag), 64)

    async def nonces(self, addresses: Sequence[Address]) -> list[int]:
        """Return next nonces after mined transactions."""
        requests = [("eth_getTransactionCount", (hex_of(address), "latest")) for address in addresses]
        return [quantity(_accepted(result), 64) for result in await self._batch(requests)]

    async def has_code(self, address: Address) -> bool:
        """Tell whether a contract is at this address."""
        return data_of(await self._ask("eth_getCode", hex_of(address), "latest")) != b""

    async def simulate(self, call: Call, block: int | None = None) -> Revert | None:
        """Run a call without sending it."""
        result = await self._run("eth_call", answers.call_object(call), block_tag(block))
        if isinstance(result, Revert):
            return result
        data_of(result)
        return None

    async def estimate_gas(self, call: Call) -> int | Revert:
        """Return the gas limit that this call needs, or its revert."""
        result = await self._run("eth_estimateGas", answers.call_object(call))
        return result if isinstance(result, Revert) else quantity(result, 64)

    async def estimate_all(self, wanted: Sequence[Call]) -> list[int | Revert | ChainRefused]:
        """Return for each call its gas limit, its revert or the node's refusal."""
        results: list[Any | ChainRefused] = []
        for start in range(0, len(wanted), ESTIMATES_PER_BATCH):
            part = wanted[start : start + ESTIMATES_PER_BATCH]
            results += await self._batch([("eth_estimateGas", (answers.call_object(call),)) for call in part])
        return [_estimate(result) for result in results]

    async def fees(self) -> Fees:
        """Return twice the base fee and the node's tip."""
        head, tip = await asyncio.gather(self.head(), self._ask("eth_maxPriorityFeePerGas"))
        priority = quantity(tip, 128)
        return Fees(BASE_FEE_MULTIPLE * head.base_fee + priority, priority)

    async def send_raw(self, raw: bytes) -> bytes:
        """Hand over a signed transaction; one that the chain holds already is a success."""
        await self.chain_id()
        tx_hash = transaction_hash(raw)
        try:
            answer = await self._ask("eth_sendRawTransaction", hex_of(raw))
        except ChainRefused as refused:
            # The words for "already known" or "nonce too low" differ from node to node, the fact does not.
            if await self._ask("eth_getTransactionByHash", hex_of(tx_hash)) is None:
                raise refused
            return tx_hash
        if data_of(answer, 32) != tx_hash:
            raise ChainMisbehaved("the node names another hash for the transaction")
        return tx_hash

    async def send_all(self, raws: Sequence[bytes]) -> list[ChainRefused | ChainUnavailable | None]:
        """Hand over signed transactions in this order; None for each that the chain holds."""
        await self.chain_id()
        hashes = [transaction_hash(raw) for raw in raws]
        results = await self._batch([("eth_sendRawTransaction", (hex_of(raw),)) for raw in raws])
        taken: list[ChainRefused | ChainUnavailable | None] = []
        for tx_hash, result in zip(hashes, results, strict=True):
            if isinstance(result, ChainRefused):
                taken.append(ChainUnavailable(str(result)) if answers.is_transient(result) else result)
                continue
            if data_of(result, 32) != tx_hash:
                raise ChainMisbehaved("the node names another hash for the transaction")
            taken.append(None)
        # The words for "already known" or "nonce too low" differ from node to node, the fact does not.
        unsure = [index for index, result in enumerate(taken) if isinstance(result, ChainRefused)]
        looked_up = await self._batch([("eth_getTransactionByHash", (hex_of(hashes[index]),)) for index in unsure])
        for index, found in zip(unsure, looked_up, strict=True):
            if not isinstance(found, ChainRefused) and found is not None:
                taken[index] = None
        return taken

    async def receipts(self, tx_hashes: Sequence[bytes]) -> list[TxReceipt | None]:
        """Return the receipt of each mined transaction, None for the others."""
        results = await self._batch([("eth_getTransactionReceipt", (hex_of(each),)) for each in tx_hashes])
        return await read_apart(_receipts, list(zip(results, tx_hashes, strict=True)), RECEIPTS_APART)

    async def receipt(self, tx_hash: bytes) -> TxReceipt | None:
        """Return the receipt of a mined transaction, or None."""
        return _receipt(await self._ask("eth_getTransactionReceipt", hex_of(tx_hash)), tx_hash)

    async def events(self, from_block: int, to_block: int, block_hash: bytes | None = None) -> list[ChainEvent]:
        """Return all events of the settlement contract in a range of blocks, or in one block by its hash."""
        wanted = Filter(self._settlement, (EVENT_TOPICS,))
        logs = await self._logs.between(from_block, to_block, wanted, block_hash)
        return await read_apart(lambda logs: settlement_events(logs, self._settlement), logs)

    async def transfers_to(
        self,
        token: Address,
        receivers: Sequence[Address],
        from_block: int,
        to_block: int,
        block_hash: bytes | None = None,
    ) -> list[Transfer]:
        """Return the token's transfers to some addresses in a range of blocks."""
        if not receivers:
            return []  # as a filter, an empty list means any
        to = tuple(receiver.rjust(32, b"\0") for receiver in receivers)
        wanted = Filter(token, ((TRANSFER_TOPIC,), (), to))
        logs = await self._logs.between(from_block, to_block, wanted, block_hash)
        transfers = await read_apart(lambda logs: [decode_transfer(log) for log in logs], logs)
        if any(log.address != token for log in logs) or any(entry.receiver not in receivers for entry in transfers):
            raise ChainMisbehaved("asked for some transfers, got others")
        return transfers

    async def close(self) -> None:
        """Close the transport."""
        await self._transport.close()

    async def _ask(self, method: str, *params: Any) -> Any:
        try:
            return await self._transport.call(method, params)
        except ChainRefused as refused:
            _raise_rate_limit(refused)
            raise

    async def _batch(self, requests: Sequence[Request]) -> list[Any | ChainRefused]:
        """Ask many at once; a node that takes no batches is asked one by one."""
        try:
            return await self._transport.batch(requests)
        except ChainRefused as refused:
            _raise_rate_limit(refused)
            if len(requests) < 2:
                raise
        results: list[Any | ChainRefused] = []
        for method, params in requests:
            try:
                results.append(await self._transport.call(method, params))
            except ChainRefused as refused:
                results.append(refused)
        return results

    async def _run(self, method: str, *params: Any) -> Any | Revert:
        try:
            return await self._ask(method, *params)
        except ChainRefused as refused:
            revert = answers.revert_in(refused)
            if revert is None:
                raise
            return revert

    async def _integers(self, views: Sequence[View], block: int | None) -> list[int]:
        results = await self._views(views, block)
        return [decode(calls.UINT_RESULT, result)[0] for result in results]

    async def _views(self, views: Sequence[View], block: int | None) -> list[bytes]:
        results = await self._aggregate(views, block, allow_failure=False)
        return [data for _, data in results]

    async def _aggregate(
        self, views: Sequence[View], block: int | None, *, allow_failure: bool
    ) -> list[tuple[bool, bytes]]:
        if len(views) > self._views_per_call and block is None:
            block = (await self.head()).number  # all chunks from one block
        chunks = [views[start : start + self._views_per_call] for start in range(0, len(views), self._views_per_call)]
        requests = []
        for chunk in chunks:
            data = calls.aggregate3(chunk, allow_failure=allow_failure)
            request = answers.call_object(Call(bytes(20), self._multicall, data))
            requests.append(("eth_call", (request, block_tag(block))))
        results: list[tuple[bool, bytes]] = []
        for chunk, answer in zip(chunks, await self._batch(requests), strict=True):
            if isinstance(answer, ChainRefused) and (revert := answers.revert_in(answer)) is not None:
                raise ChainMisbehaved(f"a view reverted: {revert.reason}")
            results += calls.aggregate3_results(data_of(_accepted(answer)), len(chunk))
        return results


def _receipt(answer: Any, tx_hash: bytes) -> TxReceipt | None:
    if answer is None:
        return None
    receipt = answers.receipt_of(answer)
    if receipt.tx_hash != tx_hash:
        raise ChainMisbehaved("a receipt of another transaction")
    return receipt


def _receipts(answered: Iterable[tuple[Any | ChainRefused, bytes]]) -> list[TxReceipt | None]:
    return [_receipt(_accepted(result), tx_hash) for result, tx_hash in answered]


def _estimate(result: Any | ChainRefused) -> int | Revert | ChainRefused:
    if not isinstance(result, ChainRefused):
        return quantity(result, 64)
    _raise_rate_limit(result)
    return answers.revert_in(result) or result


def _accepted(result: Any | ChainRefused) -> Any:
    if isinstance(result, ChainRefused):
        _raise_rate_limit(result)
        raise result
    return result


def _raise_rate_limit(refused: ChainRefused) -> None:
    if answers.is_transient(refused):
        raise ChainUnavailable(str(refused)) from refused
