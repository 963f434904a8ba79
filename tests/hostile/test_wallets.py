"""Payers that are contracts: a device opens no channel for one, and what one does on the chain harms nobody."""

from dataclasses import replace
from typing import Any

import pytest
from eth_abi import encode

from channels.digests import channel_id, deposit_digest
from channels.refusals import Refusal
from channels.signatures import key_address, sign
from channels.types import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, Address, Authorization, TokenDomain
from settlement import calls
from settlement.genesis import TOKEN_ADDRESS
from tests.contracts.chain import keccak
from tests.contracts.world import attacker
from tests.support.gateway_devices import FOREVER, Payer, secret, to_json
from tests.support.proof_fixtures import Make
from tests.support.proof_grounds import CHAIN_ID
from tests.support.proof_world import TOKEN, ProofWorld

LAYERS = pytest.mark.parametrize("layer", ["embedded", "anvil"])
DEPOSIT = 2_000_000
WALLET = b"Wallet".ljust(20, b"\1")
OWNER = secret("the wallet's owner")


def wallet_code() -> bytes:
    """A wallet contract that takes its owner's signatures (EIP-1271)."""
    return bytes.fromhex(attacker("Wallet")["bytecode_runtime"][2:])


def set_up() -> bytes:
    """The call that names the wallet's owner."""
    owner = "0x" + key_address(OWNER).hex()
    return keccak(b"set_up(address,uint256)")[:4] + encode(["address", "uint256"], [owner, 0])


class WalletPayer(Payer):
    """A device whose payer is the wallet; `authorizer` signs its vouchers."""

    payer: Address = WALLET  # type: ignore[misc]  # a class attribute for what is derived from a key otherwise


def wallet_device(world: ProofWorld, **changed: Any) -> WalletPayer:
    """Return a device that was provisioned for the wallet."""
    device = WalletPayer("meter-1", world.gateway.terms.current)
    device.config = replace(device.config, **changed)
    device.id = channel_id(device.config, device.network)
    return device


def owners_authorization(device: Payer, amount: int, salt: int = 1) -> Authorization:
    """The owner's signature, which the token takes for the wallet's."""
    token = TokenDomain(TOKEN_ADDRESS, "USD Coin", "2")
    digest = deposit_digest(device.id, WALLET, amount, 0, FOREVER, salt, token, CHAIN_ID)
    return Authorization(0, FOREVER, salt, sign(digest, OWNER))


async def wallet_world(make_world: Make, layer: str) -> ProofWorld:
    world = await make_world(layer, codes={WALLET: wallet_code()}, tokens={WALLET: 10 * TOKEN})
    await world.transact(world.stranger_key, WALLET, set_up())
    return world


@LAYERS
async def test_a_wallet_with_a_plain_authorizer(make_world: Make, layer: str) -> None:
    """The chain takes its deposit; the gateway, which cannot judge the signature, serves nobody on it and says why."""
    world = await wallet_world(make_world, layer)
    honest = await world.opened("meter-2")
    device = wallet_device(world)
    given = owners_authorization(device, DEPOSIT)
    fields = device.open(DEPOSIT, authorization=given)
    answer = await world.ask("meter-1", "open", to_json(fields))
    assert answer.reason is Refusal.DEPOSIT_INVALID
    assert world.observer.channel(device.id) == (0, 0)
    # It deposits by itself, and asks again; then it reads out as if it had been opened.
    data = calls.deposit(device.config, DEPOSIT, COLLECTOR_ADDRESS, calls.collector_data(given))
    await world.transact(world.stranger_key, SETTLEMENT_ADDRESS, data)
    assert world.observer.channel(device.id) == (DEPOSIT, 0)
    answer = await world.ask("meter-1", "open", to_json(fields))
    assert answer.reason is Refusal.DEPOSIT_INVALID
    answer = await world.ask("meter-1", "usage", to_json(device.usage(10)))
    assert answer.reason is Refusal.UNKNOWN_CHANNEL
    await world.pay(honest, 100)
    await world.settle_all()
    await world.prove()


@LAYERS
async def test_a_zero_authorizer_is_refused(make_world: Make, layer: str) -> None:
    """Its payer would sign the vouchers, and a contract could take that back at any moment."""
    world = await wallet_world(make_world, layer)
    for payer in (WALLET, key_address(secret("payer of meter-1"))):
        device = wallet_device(world, payer=payer, payer_authorizer=bytes(20))
        answer = await world.ask("meter-1", "open", to_json(device.open(DEPOSIT)))
        assert answer.reason is Refusal.CONFIG_MISMATCH
        assert world.observer.channel(device.id) == (0, 0)
    await world.prove()


async def test_a_payer_that_becomes_a_contract(make_world: Make) -> None:
    """EIP-7702 lets a plain key get code later: its vouchers stay its authorizer's, so what is owed is claimed."""
    world = await make_world("anvil")
    payer, other = await world.opened("meter-1"), await world.opened("meter-2")
    await world.pay(payer, 100)
    world.ground.rpc("anvil_setCode", "0x" + payer.payer.hex(), "0x" + wallet_code().hex())
    await world.pay(payer, 100)
    await world.pay(other, 100)
    await world.settle_all()
    await world.prove()
    # Its key signs no deposits any more, and the gateway loses nothing by trying.
    answer = await world.ask("meter-1", "open", to_json(payer.open(DEPOSIT, salt=2)))
    assert answer.reason is Refusal.DEPOSIT_INVALID
    await world.pay(payer, 100)
    await world.settle_all()
    await world.prove()
    await world.honoured()
