"""Shared helpers: funded keys, a chain, and web3.py over the chain's in-process JSON-RPC."""

import json
from collections.abc import Callable

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from parallel_evm import Chain
from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

CHAIN_ID = 31402
COIN = 10**18


class InProcess(JSONBaseProvider):
    """A stock web3.py provider whose transport is a function call."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.chain = chain

    def make_request(self, method: RPCEndpoint, params: object) -> RPCResponse:
        return self.decode_rpc_response(self.chain.rpc(self.encode_rpc_request(method, params)))


def key(number: int) -> LocalAccount:
    """A deterministic test key."""
    return Account.from_key(number.to_bytes(32, "big"))


def genesis(*accounts: LocalAccount, **extra: object) -> str:
    """A document that gives each account a hundred coins."""
    alloc = {account.address: {"balance": hex(100 * COIN)} for account in accounts}
    return json.dumps({"alloc": alloc, "timestamp": hex(1_700_000_000), **extra})


@pytest.fixture
def alice() -> LocalAccount:
    return key(0xA11CE)


@pytest.fixture
def bob() -> LocalAccount:
    return key(0xB0B)


@pytest.fixture
def chain(alice: LocalAccount, bob: LocalAccount) -> Chain:
    return Chain(genesis=genesis(alice, bob))


@pytest.fixture
def rpc(chain: Chain) -> Callable[..., dict[str, object]]:
    """Sends one request and returns the whole answer."""

    def send(method: str, *params: object) -> dict[str, object]:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})
        answer: dict[str, object] = json.loads(chain.rpc(body.encode()))
        return answer

    return send


def transfer(sender: LocalAccount, nonce: int, to: str, value: int = 1, **fields: object) -> bytes:
    """A signed EIP-1559 transfer."""
    tx = {
        "type": 2,
        "chainId": CHAIN_ID,
        "nonce": nonce,
        "to": to,
        "value": value,
        "gas": 21_000,
        "maxFeePerGas": 3 * 10**9,
        "maxPriorityFeePerGas": 10**9,
        **fields,
    }
    return bytes(sender.sign_transaction(tx).raw_transaction)
