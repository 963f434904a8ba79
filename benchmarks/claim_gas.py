"""Gas of a claim, per row, at 1, 10 and 100 rows: `measure(rpc_url)` on an anvil that this run may write to.

"first" rows claim a funded channel that was never claimed, for a receiver that never received; "repeat" rows raise the
claim of the same channels. The channels are written into storage, so that only the claim is measured.
"""

import sys
from collections.abc import Sequence
from typing import Any

import httpx
import sha3
from coincurve import PrivateKey
from eth_abi.abi import encode

from settlement.contracts import SETTLEMENT_ADDRESS, artifact, mapping_slot

ROWS = (1, 10, 100)
GAS_LIMIT = 25_000_000
TOKEN = bytes.fromhex("70" * 20)
RECEIVER_AUTHORIZER = bytes.fromhex("a0" * 20)
BALANCE = 10**9
CONFIG = "(address,address,address,address,address,uint40,bytes32)"
CLAIM = f"claim((({CONFIG},uint128),bytes,uint128)[])"


def measure(rpc_url: str) -> list[dict[str, object]]:
    """Gas per row as a list of {"name", "value", "unit"}; the chain is left as it was found."""
    with httpx.Client(base_url=rpc_url, timeout=60) as http:
        chain = _Chain(http)
        snapshot = chain("evm_snapshot")
        try:
            return _measure(chain)
        finally:
            chain("evm_revert", snapshot)


class _Chain:
    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def __call__(self, method: str, *params: object) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = self._http.post("", json=body).json()
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]


def _keccak(data: bytes) -> bytes:
    return sha3.keccak_256(data).digest()


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _row(chain: _Chain, seed: bytes, receiver: bytes, ceiling: int) -> tuple[object, ...]:
    """One VoucherClaim of the channel that `seed` names, and its balance put into storage."""
    key = PrivateKey(_keccak(seed))
    signer = _keccak(key.public_key.format(compressed=False)[1:])[12:]
    config = (_keccak(seed)[:20], signer, receiver, RECEIVER_AUTHORIZER, TOKEN, 86_400, _keccak(seed))
    channel_id = _view(chain, f"getChannelId({CONFIG})", [CONFIG], [config])
    digest = _view(chain, "getVoucherDigest(bytes32,uint128)", ["bytes32", "uint128"], [channel_id, ceiling])
    signature = key.sign_recoverable(digest, hasher=None)
    return (config, ceiling), signature[:64] + bytes([27 + signature[64]]), ceiling


def _fund(chain: _Chain, channel_id: bytes) -> None:
    slot = mapping_slot(artifact("BatchSettlement").storage_layout["channel_words"], channel_id)
    chain("anvil_setStorageAt", _hex(SETTLEMENT_ADDRESS), _hex(slot), _hex(BALANCE.to_bytes(32, "big")))


def _view(chain: _Chain, signature: str, types: Sequence[str], values: Sequence[object]) -> bytes:
    data = _keccak(signature.encode())[:4] + encode(types, values)
    answer: str = chain("eth_call", {"to": _hex(SETTLEMENT_ADDRESS), "data": _hex(data)}, "latest")
    return bytes.fromhex(answer[2:])


def _claim_gas(chain: _Chain, rows: list[tuple[object, ...]]) -> int:
    data = _keccak(CLAIM.encode())[:4] + encode([f"(({CONFIG},uint128),bytes,uint128)[]"], [rows])
    sent = {
        "from": _hex(RECEIVER_AUTHORIZER),
        "to": _hex(SETTLEMENT_ADDRESS),
        "data": _hex(data),
        "gas": hex(GAS_LIMIT),
    }
    transaction = chain("eth_sendTransaction", sent)
    chain("evm_mine")  # anvil mines by itself too, but only some time after it has answered
    receipt = chain("eth_getTransactionReceipt", transaction)
    if receipt["status"] != "0x1" or len(receipt["logs"]) != len(rows):
        raise RuntimeError(f"the claim of {len(rows)} rows failed")
    return int(receipt["gasUsed"], 16)


def _measure(chain: _Chain) -> list[dict[str, object]]:
    chain("anvil_setCode", _hex(SETTLEMENT_ADDRESS), _hex(artifact("BatchSettlement").runtime))
    chain("anvil_setBalance", _hex(RECEIVER_AUTHORIZER), hex(10**24))
    chain("anvil_impersonateAccount", _hex(RECEIVER_AUTHORIZER))
    results: list[dict[str, object]] = []
    for count in ROWS:
        receiver = _keccak(b"receiver %d" % count)[:20]
        seeds = [b"channel %d of %d" % (index, count) for index in range(count)]
        for kind, ceiling in (("first", 1_000_000), ("repeat", 2_000_000)):
            rows = [_row(chain, seed, receiver, ceiling) for seed in seeds]
            if kind == "first":
                for row in rows:
                    config = row[0][0]  # type: ignore[index]
                    _fund(chain, _view(chain, f"getChannelId({CONFIG})", [CONFIG], [config]))
            gas = _claim_gas(chain, rows)
            results.append({"name": f"claim_gas_per_row_{kind}_{count}", "value": round(gas / count), "unit": "gas"})
    return results


if __name__ == "__main__":
    for result in measure(sys.argv[1]):
        print(f"{result['name']:<34}{result['value']:>8} {result['unit']}")
