"""Vouchers that are too high, too old, for another channel or signed the wrong way; channels that are opened again."""

import pytest
from eth_abi import decode

from channels.digests import voucher_digest
from channels.refusals import Refusal
from channels.signatures import sign
from channels.state import Phase
from channels.types import SETTLEMENT_ADDRESS
from devices.messages import Status
from tests.contracts.chain import keccak
from tests.contracts.world import high_s
from tests.support.chain_observer import SETTLEMENT
from tests.support.gateway_devices import Payer, to_json
from tests.support.proof_fixtures import Make
from tests.support.proof_world import ProofWorld

LAYERS = pytest.mark.parametrize("layer", ["embedded", "anvil"])
DEPOSIT = 2_000_000


@LAYERS
async def test_a_voucher_above_the_balance(make_world: Make, layer: str) -> None:
    world = await make_world(layer)
    payer = await world.opened("meter-1", DEPOSIT)
    answer = await world.refused(payer, payer.usage(10, ceiling=DEPOSIT + 1))
    assert answer.reason is Refusal.CEILING_ABOVE_BALANCE
    # To the last unit: the charge that fits, and not the one that does not.
    units = DEPOSIT * 10**9 // payer.price
    await world.pay(payer, units - 2_000)
    answer = await world.refused(payer, payer.usage(2_001))
    assert answer.reason is Refusal.CEILING_ABOVE_BALANCE
    await world.pay(payer, 1_999, ahead=DEPOSIT - payer.charged - 1_999 * payer.price // 10**9)
    await world.settle_all()
    assert world.observer.claimed(payer.id) == payer.charged <= DEPOSIT
    await world.prove()
    await world.honoured()


@LAYERS
async def test_signatures_that_the_contract_would_not_take(make_world: Make, layer: str) -> None:
    """One of them in a batch would hold up every other row: none gets that far."""
    world = await make_world(layer)
    payer, other = await world.opened("meter-1"), await world.opened("meter-2")
    await world.pay(other, 100)
    fields = payer.usage(10)
    good = fields["signature"]
    bad = {
        "high s": high_s(good),
        "v of 0 or 1": good[:64] + bytes([good[64] - 27]),
        "the other v": good[:64] + bytes([55 - good[64]]),
        "another channel's": sign(
            voucher_digest(other.id, fields["maxClaimableAmount"], payer.network), payer.device_key
        ),
        "another ceiling's": sign(voucher_digest(payer.id, 10**12, payer.network), payer.device_key),
        "the payer's": sign(voucher_digest(payer.id, fields["maxClaimableAmount"], payer.network), payer.payer_key),
        "zeros": bytes(65),
    }
    for name, signature in bad.items():
        answer = await world.ask("meter-1", "usage", to_json(fields | {"signature": signature}))
        assert answer.reason in (Refusal.BAD_SIGNATURE, Refusal.MALFORMED), name
        assert world.ledger.channels[payer.id].charged == 0, name
    await world.pay(payer, 10)
    await world.settle_all()
    await world.prove()


async def closed(world: ProofWorld, payer: Payer) -> bytes:
    """Let a device close its channel; returns the message, once it is answered."""
    fields = payer.close()
    payload = to_json(fields)
    await world.link.send(payer.device, "close", payload)
    await world.settle_until(lambda: world.ledger.channels[payer.id].phase is Phase.CLOSED)
    await world.until(lambda: bool(world.link.receipts_to(payer.device, payload)))
    payer.seq = fields["seq"]
    return payload


@LAYERS
async def test_a_channel_that_is_opened_again_with_everything_old_played_back(make_world: Make, layer: str) -> None:
    world = await make_world(layer)
    payer = await world.opened("meter-1", DEPOSIT)
    for units in (100, 200, 300):
        await world.pay(payer, units)
    before = list(world.accepted)
    old_voucher = payer.usage(0)["maxClaimableAmount"]
    close = await closed(world, payer)
    settled = payer.charged
    assert world.observer.channel(payer.id) == (settled, settled)
    refund = _refund_of(world)
    answer = await world.ask("meter-1", "open", to_json(payer.open(DEPOSIT, salt=2)))
    assert (answer.reason, answer.balance) == (None, DEPOSIT + settled)
    await world.pay(payer, 50)
    charged = payer.charged
    for device, leaf, payload, _ in before:
        again = await world.ask(device, leaf, payload)
        assert again.status is Status.DUPLICATE, (leaf, again)
    again = await world.ask("meter-1", "close", close)
    assert again.status is Status.DUPLICATE
    assert world.ledger.channels[payer.id].phase is Phase.OPEN
    refused = await world.refused(payer, payer.usage(10, ceiling=old_voucher))
    assert refused.reason is Refusal.CEILING_TOO_LOW
    # The refund that the gateway signed is on the chain for everybody to send again: its nonce is used up.
    await world.transact(world.stranger_key, SETTLEMENT_ADDRESS, refund, succeeds=False)
    assert world.observer.channel(payer.id)[0] == DEPOSIT + settled
    assert payer.charged == charged
    await world.pay(payer, 10)
    await world.settle_all()
    await world.prove()
    await closed(world, payer)
    assert world.observer.channel(payer.id) == (payer.charged, payer.charged)
    await world.prove()


def _refund_of(world: ProofWorld) -> bytes:
    """Return the call `refundWithSignature` of the last refund on the chain, out of the multicall that carried it."""
    topic = "0x" + keccak(b"Refunded(bytes32,address,uint128)").hex()
    logs = world.ground.rpc(
        "eth_getLogs", {"address": SETTLEMENT, "fromBlock": "0x0", "toBlock": "latest", "topics": [topic]}
    )
    transaction = world.ground.rpc("eth_getTransactionByHash", logs[-1]["transactionHash"])
    data = bytes.fromhex(transaction["input"][2:])
    selector = keccak(
        b"refundWithSignature((address,address,address,address,address,uint40,bytes32),uint128,uint256,bytes)"
    )[:4]
    if data[:4] == selector:
        return data
    (parts,) = decode(["bytes[]"], data[4:])
    (refund,) = [part for part in parts if part[:4] == selector]
    return bytes(refund)


@LAYERS
async def test_a_device_that_signs_no_more_than_it_must(make_world: Make, layer: str) -> None:
    """After netting, a voucher need only reach what is still owed: the old, higher one is held and not exceeded."""
    world = await make_world(layer)
    payer = await world.opened("meter-1", DEPOSIT)
    earner = await world.joined("solar-1", payee_key=payer.payer_key)
    await world.pay(payer, 500)
    await world.earn(earner, 400)
    await world.settle_all()
    await world.pay(payer, 1)  # its receipt tells the offset
    assert payer.settled_elsewhere > 0
    await world.pay(payer, 500)
    await world.settle_all()
    await world.prove()
    await world.honoured()
