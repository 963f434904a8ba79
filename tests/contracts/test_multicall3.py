"""Multicall3: the interface stock clients look for, and its bounds."""

from typing import Any

import pytest
from eth_abi.abi import decode
from eth_account import Account
from x402.mechanisms.evm.constants import MULTICALL3_ADDRESS as X402_MULTICALL3
from x402.mechanisms.evm.multicall import MulticallCall, multicall
from x402.mechanisms.evm.signers import FacilitatorWeb3Signer

from settlement.contracts import MULTICALL3_ADDRESS
from tests.contracts.chain import CHAIN_ID, from_hex, keccak, to_hex
from tests.contracts.world import OTHER, PAYER, Channel, World


def block(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.chain.rpc("eth_getBlockByNumber", "latest", False)
    return found


def good(world: World) -> tuple[bytes, bytes]:
    return world.token.address, world.token.data("balanceOf", PAYER.address)


def bad(world: World) -> tuple[bytes, bytes]:
    return world.settlement.address, world.settlement.data("refund", Channel().args(), 1)


def test_views_of_the_block(world: World) -> None:
    world.chain.mine()
    world.chain.rpc("anvil_setBalance", to_hex(OTHER.address), hex(123))
    latest, read = block(world), world.multicall3.read
    assert read("getBlockNumber") == int(latest["number"], 16)
    assert read("getCurrentBlockTimestamp") == int(latest["timestamp"], 16)
    assert read("getCurrentBlockGasLimit") == int(latest["gasLimit"], 16)
    assert read("getCurrentBlockCoinbase") == from_hex(latest["miner"])
    assert read("getCurrentBlockDifficulty") == int(latest["mixHash"], 16)
    assert read("getBasefee") == 0
    assert read("getChainId") == CHAIN_ID
    assert read("getEthBalance", OTHER.address) == 123
    assert read("getLastBlockHash") == from_hex(latest["parentHash"])
    number = int(latest["number"], 16)
    assert read("getBlockHash", number - 1) == from_hex(latest["parentHash"])
    for outside in (number, number + 1, 2**256 - 1):
        assert read("getBlockHash", outside) == bytes(32)


def test_a_hash_of_more_than_256_blocks_ago_is_zero(world: World) -> None:
    world.chain.rpc("anvil_mine", hex(300))
    number = world.multicall3.read("getBlockNumber")
    old = world.chain.rpc("eth_getBlockByNumber", hex(number - 256), False)["hash"]
    assert world.multicall3.read("getBlockHash", number - 256) == from_hex(old)
    assert world.multicall3.read("getBlockHash", number - 257) == bytes(32)


def test_aggregate(world: World) -> None:
    number, answers = world.multicall3.read("aggregate", [good(world)] * 3)
    assert number == int(block(world)["number"], 16)
    assert answers == (world.chain.call(*good(world)),) * 3
    assert world.multicall3.read("aggregate", [])[1] == ()
    assert world.multicall3.refusal("aggregate", [good(world), bad(world)]) == "Multicall3: call failed"


def test_try_aggregate(world: World) -> None:
    results = world.multicall3.read("tryAggregate", False, [bad(world), good(world), (b"\x77" * 20, b"")])
    assert [success for success, _ in results] == [False, True, True]
    assert results[0][1] == keccak(b"NotAuthorizedToRefund()")[:4]
    assert results[1][1] == world.chain.call(*good(world))
    assert results[2][1] == b""
    both = [good(world), bad(world)]
    assert world.multicall3.refusal("tryAggregate", True, both) == "Multicall3: call failed"
    assert world.multicall3.refusal("tryAggregate", True, both[:1]) is None


def test_with_the_block(world: World) -> None:
    number = int(block(world)["number"], 16)
    answer = world.chain.call(*good(world))
    both = [good(world), bad(world)]
    found, block_hash, results = world.multicall3.read("tryBlockAndAggregate", False, both)
    assert (found, block_hash, [success for success, _ in results]) == (number, bytes(32), [True, False])
    assert results[0][1] == answer
    expected = (number, bytes(32), ((True, answer),))
    assert world.multicall3.read("blockAndAggregate", both[:1]) == expected
    assert world.multicall3.read("tryBlockAndAggregate", True, both[:1]) == expected
    assert world.multicall3.refusal("blockAndAggregate", both) == "Multicall3: call failed"
    assert world.multicall3.refusal("tryBlockAndAggregate", True, both) == "Multicall3: call failed"


def test_aggregate3(world: World) -> None:
    (target, data), (other, fails) = good(world), bad(world)
    results = world.multicall3.read("aggregate3", [(other, True, fails), (target, False, data)])
    assert [success for success, _ in results] == [False, True]
    assert results[1][1] == world.chain.call(target, data)
    calls = [(target, True, data), (other, False, fails)]
    assert world.multicall3.refusal("aggregate3", calls) == "Multicall3: call failed"


def test_aggregate3_value(world: World) -> None:
    world.chain.rpc("anvil_setBalance", to_hex(PAYER.address), hex(10**18))
    receivers = [b"\x51" * 20, b"\x52" * 20]
    calls = [(receivers[0], False, 3, b""), (receivers[1], True, 4, b""), (world.token.address, True, 5, b"")]
    send = {"sender": PAYER.address, "value": 12}
    results = world.multicall3.read("aggregate3Value", calls, **send)
    assert [success for success, _ in results] == [True, True, False]
    world.multicall3.send("aggregate3Value", calls, **send)
    assert [world.multicall3.read("getEthBalance", receiver) for receiver in receivers] == [3, 4]
    for value in (7, 11, 13):
        refusal = world.multicall3.refusal("aggregate3Value", calls, sender=PAYER.address, value=value)
        assert refusal in ("Multicall3: value mismatch", "Multicall3: call failed")


def test_calls_take_effect_in_order(world: World) -> None:
    world.token.send("approve", MULTICALL3_ADDRESS, 10, sender=PAYER.address)
    pull = world.token.data("transferFrom", PAYER.address, OTHER.address, 6)
    calls = [(world.token.address, pull), (world.token.address, pull)]
    receipt = world.multicall3.send("tryAggregate", False, calls, sender=OTHER.address)
    assert receipt.ok
    assert world.balance(OTHER.address) == 6


def test_bounds(world: World) -> None:
    call = good(world)
    assert len(world.multicall3.read("tryAggregate", False, [call] * 128)) == 128
    assert world.multicall3.refusal("tryAggregate", False, [call] * 129) == ""
    assert len(world.multicall3.read("aggregate", [call] * 128)[1]) == 128
    identity = (4).to_bytes(20, "big")
    assert world.multicall3.read("aggregate", [(identity, b"\x07" * 1024)])[1] == (b"\x07" * 1024,)
    too_long = "Multicall3: return data too long"
    assert world.multicall3.refusal("aggregate", [(identity, b"\x07" * 1025)]) == too_long
    largest = [(b"\x77" * 20, bytes(32_000))] * 2
    assert world.multicall3.refusal("tryAggregate", False, largest) is None
    assert world.multicall3.refusal("tryAggregate", False, [*largest, (b"\x77" * 20, bytes(2_000))]) == ""


def test_calldata_that_is_cut_or_points_astray_is_refused(world: World) -> None:
    data = world.multicall3.data("tryAggregate", False, [good(world), good(world)])
    assert world.multicall3.refusal_of(data) is None
    for cut in range(0, len(data) - 28, 7):  # the last 28 bytes only pad
        assert world.multicall3.refusal_of(data[:cut]) is not None, cut
    for at in (36, 68, 100, 132, 196, 228):
        for value in (2**256 - 1, 2**255, 2**32, len(data)):
            astray = data[:at] + value.to_bytes(32, "big") + data[at + 32 :]
            assert world.multicall3.refusal_of(astray) is not None, (at, value)
    assert world.multicall3.refusal_of(bytes.fromhex("deadbeef")) == "Multicall3: unknown function"


@pytest.fixture
def stock_client(world: World) -> FacilitatorWeb3Signer:
    return FacilitatorWeb3Signer(to_hex(Account.from_key(OTHER.secret).key), world.chain.url)


def test_the_stock_client_reads_through_it(world: World, stock_client: FacilitatorWeb3Signer) -> None:
    assert from_hex(X402_MULTICALL3) == MULTICALL3_ADDRESS
    calls = [
        MulticallCall(to_hex(world.token.address), list(world.token.abi), "balanceOf", (to_hex(PAYER.address),)),
        MulticallCall(to_hex(bad(world)[0]), call_data=bad(world)[1]),
    ]
    first, second = multicall(stock_client, calls)
    assert first.result == decode(["uint256"], world.chain.call(*good(world)))[0]
    assert not second.success
