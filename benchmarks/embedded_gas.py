"""Gas of a claim on the embedded layer, for the rows that `benchmarks.claim_gas` measures on anvil as "first"."""

import json

from parallel_evm import Chain

from benchmarks.claim_gas import BALANCE, ROWS
from benchmarks.frame import BenchmarkFailed
from channels.digests import channel_id, keccak, voucher_digest
from channels.signatures import key_address, sign
from channels.types import SETTLEMENT_ADDRESS, ChannelConfig, Network
from settlement.calls import VoucherClaim, claim
from settlement.contracts import artifact, mapping_slot
from settlement.genesis import alloc
from settlement.transactions import Transaction, sign_transaction

CHAIN_ID = 31402
AUTHORIZER_KEY = keccak(b"benchmark authorizer")
CEILING = 1_000_000
GAS_LIMIT = 25_000_000
GWEI = 10**9


def claim_gas_per_row() -> dict[int, int]:
    """Return rows → gas per row of the first claim of funded channels for a receiver that never received."""
    authorizer = key_address(AUTHORIZER_KEY)
    sizes = {count: _rows(count, authorizer) for count in ROWS}
    accounts = alloc({}, {authorizer: 10**21})
    slot = artifact("BatchSettlement").storage_layout["channel_words"]
    accounts[f"0x{SETTLEMENT_ADDRESS.hex()}"]["storage"] = {
        f"0x{mapping_slot(slot, channel_id(row.config, Network(CHAIN_ID))).hex()}": f"0x{BALANCE:064x}"
        for rows in sizes.values()
        for row in rows
    }
    chain = Chain(chain_id=CHAIN_ID, genesis=json.dumps({"alloc": accounts}))
    return {count: _claim(chain, nonce, rows) // count for nonce, (count, rows) in enumerate(sizes.items())}


def _rows(count: int, authorizer: bytes) -> list[VoucherClaim]:
    rows = []
    for index in range(count):
        seed = b"channel %d of %d" % (index, count)
        key = keccak(seed)
        config = ChannelConfig(
            payer=key[:20],
            payer_authorizer=key_address(key),
            receiver=keccak(b"receiver %d" % count)[:20],
            receiver_authorizer=authorizer,
            token=b"\x70" * 20,
            withdraw_delay=86_400,
            salt=key,
        )
        digest = voucher_digest(channel_id(config, Network(CHAIN_ID)), CEILING, Network(CHAIN_ID))
        rows.append(VoucherClaim(config, CEILING, sign(digest, key), CEILING))
    return rows


def _claim(chain: Chain, nonce: int, rows: list[VoucherClaim]) -> int:
    transaction = Transaction(CHAIN_ID, nonce, GWEI, 10 * GWEI, GAS_LIMIT, SETTLEMENT_ADDRESS, 0, claim(rows))
    sent = chain.send_raw_transaction(sign_transaction(transaction, AUTHORIZER_KEY).raw)
    chain.produce_block()
    body = {"jsonrpc": "2.0", "id": 1, "method": "eth_getTransactionReceipt", "params": [f"0x{sent.hex()}"]}
    receipt = json.loads(chain.rpc(json.dumps(body).encode()))["result"]
    if receipt["status"] != "0x1" or len(receipt["logs"]) != len(rows):
        raise BenchmarkFailed(f"the claim of {len(rows)} rows failed on the embedded layer")
    return int(receipt["gasUsed"], 16)
