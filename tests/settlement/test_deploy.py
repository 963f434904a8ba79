"""Genesis, and what a public chain is given by transactions instead."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from channels.signatures import key_address
from channels.types import U256_MAX
from settlement import calls
from settlement.abi import decode
from settlement.client import JsonRpcLayer
from settlement.deploy import DeploymentFailed, deploy_payouts
from settlement.errors import ChainMisbehaved
from settlement.genesis import CODE_AT, PAYOUTS_ADDRESS, TOKEN_ADDRESS, alloc, genesis
from settlement.port import Call, Revert, TxReceipt
from settlement.sender import Sender
from settlement.streams import Outgoing
from settlement.transactions import creation_address
from settlement.waiting import Waiting
from tests.support.layers import COINS, LANE_KEY, TOKENS, TREASURY_KEY, Site, mining
from tests.support.scripted import ScriptedTransport

TREASURY = key_address(TREASURY_KEY)
PAYEE = b"\x99" * 20


async def journal(signed: Sequence[Outgoing]) -> None:
    """These tests do not restart."""


def sender(site: Site, key: bytes = TREASURY_KEY) -> Sender:
    return Sender(site.layer, [key], journal, waiting=Waiting(poll_seconds_min=0.01, poll_seconds_max=0.05))


async def test_genesis_holds_code_money_and_supply(site: Site) -> None:
    for address in CODE_AT:
        assert await site.layer.has_code(address)
    assert await site.layer.token_balances(TOKEN_ADDRESS, list(TOKENS)) == list(TOKENS.values())
    assert await site.layer.native_balances(list(COINS)) == list(COINS.values())
    supply = await site.transport.call(
        "eth_call", [{"to": "0x" + TOKEN_ADDRESS.hex(), "data": "0x" + calls.text_view("totalSupply").hex()}, "latest"]
    )
    assert decode("(uint256)", bytes.fromhex(supply[2:])) == (sum(TOKENS.values()),)


def test_genesis_is_plain_json_with_fixed_widths() -> None:
    made = genesis({PAYEE: 5}, {PAYEE: 7, TREASURY: 0}, timestamp=255, gas_limit=10**9, base_fee=7)
    assert (made["timestamp"], made["gasLimit"], made["baseFeePerGas"]) == ("0xff", "0x3b9aca00", "0x7")
    accounts: Mapping[str, Mapping[str, Any]] = made["alloc"]
    assert accounts["0x" + PAYEE.hex()] == {"balance": "0x7"}
    token = accounts["0x" + TOKEN_ADDRESS.hex()]
    assert {len(text) for pair in token["storage"].items() for text in pair} == {66}
    assert [accounts["0x" + address.hex()]["nonce"] for address in CODE_AT] == ["0x1"] * len(CODE_AT)
    with pytest.raises(ValueError, match="-1 wei"):
        alloc({}, {PAYEE: -1})


async def test_payouts_are_deployed_approved_and_used(site: Site) -> None:
    treasury = sender(site)
    async with mining(site):
        address = await deploy_payouts(site.layer, treasury)
        assert address == creation_address(TREASURY, 0) != PAYOUTS_ADDRESS
        call = Call(TREASURY, TOKEN_ADDRESS, calls.approve(address, U256_MAX))
        approval = await treasury.execute(call, "approve")
        assert isinstance(approval, TxReceipt)
        assert approval.succeeded
        receipt = await treasury.execute(Call(TREASURY, address, calls.pay(TOKEN_ADDRESS, [(PAYEE, 70)])), "pay")
    assert isinstance(receipt, TxReceipt)
    assert receipt.succeeded
    assert await site.layer.paid(address, TREASURY, TOKEN_ADDRESS, [PAYEE]) == [70]
    assert await site.layer.allowance(TOKEN_ADDRESS, TREASURY, address) >= U256_MAX - 70


class Scripted(Sender):
    """A sender whose transactions end as the test wants."""

    def __init__(self, result: TxReceipt | Revert) -> None:
        super().__init__(JsonRpcLayer(ScriptedTransport({})), [LANE_KEY], journal)
        self.result = result

    async def execute(self, call: Call, purpose: str) -> TxReceipt | Revert:
        return self.result


def receipt(status: int, contract: bytes | None = None) -> TxReceipt:
    return TxReceipt(bytes(32), status, 1, bytes(32), 1, 1, (), contract)


async def test_failed_deployments_are_told() -> None:
    layer = JsonRpcLayer(
        ScriptedTransport(
            {"eth_getCode": "0x", "eth_call": "0x" + calls.encode("((bool,bytes)[])", (((True, bytes(32)),),)).hex()}
        )
    )
    with pytest.raises(DeploymentFailed, match="cannot be deployed: why"):
        await deploy_payouts(layer, Scripted(Revert("why")))
    with pytest.raises(DeploymentFailed, match="reverted"):
        await deploy_payouts(layer, Scripted(receipt(0)))
    with pytest.raises(ChainMisbehaved, match="no contract"):
        await deploy_payouts(layer, Scripted(receipt(1)))
    with pytest.raises(ChainMisbehaved, match="no contract"):
        await deploy_payouts(layer, Scripted(receipt(1, PAYEE)))
