"""A process of its own whose memory tells what accounts cost: `python -m benchmarks.execution_child` prints JSON.

A contract pays one wei each to addresses that nobody had, so that the accounts are made by blocks, without a
genesis document or signatures whose memory would be counted too.
"""

import json
import os
import sys
from pathlib import Path

from parallel_evm import Chain

from benchmarks.execution_loads import CHAIN_ID, COINS, account, signed

ACCOUNTS = 100_000
IN_ONE_BLOCK = 20_000
# An account costs some 36,500 gas; a block has a billion.
GAS = 900_000_000
# Far above the precompiles.
FIRST = 1 << 100
PAYER = b"\xca" * 20
# for (i = calldata[0]; i != calldata[0] + calldata[32]; i++) call(to = i, value = 1)
PAY_EACH = bytes.fromhex("5f35 602035 8101 5b 5f5f5f5f 6001 86 5f f1 50 90 6001 01 90 81 81 03 6007 57 00")


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure() -> dict[str, int]:
    """Return resident bytes before and after, and how many of the accounts exist; all as counts."""
    key, sender = account(0)
    accounts = {
        f"0x{sender.hex()}": {"balance": hex(COINS)},
        f"0x{PAYER.hex()}": {"balance": hex(COINS), "code": f"0x{PAY_EACH.hex()}"},
    }
    chain = Chain(chain_id=CHAIN_ID, genesis=json.dumps({"alloc": accounts, "baseFeePerGas": "0x7"}))
    chain.produce_block()
    before = _resident_bytes()
    for nonce, start in enumerate(range(FIRST, FIRST + ACCOUNTS, IN_ONE_BLOCK)):
        data = start.to_bytes(32, "big") + IN_ONE_BLOCK.to_bytes(32, "big")
        chain.send_raw_transaction(signed(key, nonce, PAYER, GAS, data))
        chain.produce_block()
    after = _resident_bytes()
    made = sum(chain.balance(number.to_bytes(20, "big")) for number in range(FIRST, FIRST + ACCOUNTS))
    return {"before": before, "after": after, "made": made}


if __name__ == "__main__":
    json.dump(measure(), sys.stdout)
