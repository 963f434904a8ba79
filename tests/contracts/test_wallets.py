"""Signatures by contracts (EIP-1271), where the interface lets a contract sign."""

import pytest

from settlement.contracts import COLLECTOR_ADDRESS
from tests.contracts.chain import Contract
from tests.contracts.world import (
    AUTHORIZER,
    NOBODY,
    OTHER,
    PAYER,
    RECEIVER,
    SIGNER,
    Channel,
    Key,
    World,
    channel_number,
)

WALLET = b"\x1a" * 20
OWNER = Key.of("the wallet's owner")
WRONG_MAGIC, REVERTS, FOUR_BYTES, MORE_DATA = range(1, 5)
CHANNEL = Channel(payer=WALLET, payer_authorizer=NOBODY)


@pytest.fixture
def wallet(world: World) -> Contract:
    found = world.place("Wallet", WALLET)
    found.send("set_up", OWNER.address, 0, sender=OTHER.address)
    world.token.send("transfer", WALLET, 10_000, sender=PAYER.address)
    return found


@pytest.fixture
def funded(world: World, wallet: Contract) -> World:
    data = world.collector_data(CHANNEL, 1000, signer=OWNER)
    world.settlement.send("deposit", CHANNEL.args(), 1000, COLLECTOR_ADDRESS, data, sender=OTHER.address)
    return world


def padded(world: World, claimed: int, size: int, channel: Channel = CHANNEL) -> tuple[object, ...]:
    """A row with a wallet's signature of any size: padding, and the owner's signature at its end."""
    signature = world.voucher(channel, claimed, OWNER).rjust(size, b"\x5a")
    return (channel.args(), claimed), signature, claimed


def test_a_wallet_deposits_through_the_collector(funded: World) -> None:
    assert funded.state(CHANNEL) == (1000, 0)
    assert funded.balance(WALLET) == 9000


@pytest.mark.parametrize("size", [65, 66, 96, 97, 320, 700, 1024, 2047, 2048])
def test_a_wallets_voucher_of_any_size(funded: World, size: int) -> None:
    funded.claim(padded(funded, 10, size))
    assert funded.state(CHANNEL) == (1000, 10)


def test_a_voucher_above_the_bound_is_refused(funded: World) -> None:
    for size in (2049, 4096, 20_000):
        rows = [padded(funded, 10, size)]
        assert funded.settlement.refusal("claim", rows, sender=AUTHORIZER.address) == "InvalidSignature"


def test_wallets_and_keys_in_one_batch(funded: World) -> None:
    plain = channel_number(1)
    funded.fund(plain, 100)
    rows = [padded(funded, 10, 700), funded.row(plain, 5), padded(funded, 20, 65), padded(funded, 30, 2048)]
    funded.settlement.send("claimWithSignature", rows, funded.batch_signature(rows), sender=OTHER.address)
    assert (funded.state(CHANNEL), funded.state(plain)) == ((1000, 30), (100, 5))


@pytest.mark.parametrize(
    ("mode", "refusal"),
    [
        (WRONG_MAGIC, "InvalidSignature"),
        (REVERTS, "InvalidSignature"),
        (FOUR_BYTES, "InvalidSignature"),
        (MORE_DATA, None),
    ],
    ids=["wrong magic", "reverts", "four bytes", "more data"],
)
def test_a_wallets_answers(funded: World, wallet: Contract, mode: int, refusal: str | None) -> None:
    rows = [padded(funded, 10, 65)]
    wallet.send("set_up", OWNER.address, mode, sender=OTHER.address)
    assert funded.settlement.refusal("claim", rows, sender=AUTHORIZER.address) == refusal


def test_the_owner_of_another_wallet_is_refused(funded: World) -> None:
    rows = [funded.row(CHANNEL, 10, signer=OTHER)]
    assert funded.settlement.refusal("claim", rows, sender=AUTHORIZER.address) == "InvalidSignature"


def test_a_payer_with_code_does_not_sign_by_key(world: World) -> None:
    """Also a payer that got code later on, as EIP-7702 allows."""
    channel = Channel(payer_authorizer=NOBODY)
    world.fund(channel, 1000)
    rows = [world.row(channel, 10, signer=PAYER)]
    assert world.settlement.refusal("claim", rows, sender=AUTHORIZER.address) is None
    world.place("Wallet", PAYER.address)
    assert world.settlement.refusal("claim", rows, sender=AUTHORIZER.address) == "InvalidSignature"


def test_a_payer_authorizer_signs_by_key_whatever_its_code(world: World) -> None:
    channel = Channel()
    world.fund(channel, 1000)
    rows = [world.row(channel, 10)]
    wallet = world.place("Wallet", SIGNER.address)
    wallet.send("set_up", OWNER.address, 0, sender=OTHER.address)
    assert world.settlement.refusal("claim", rows, sender=AUTHORIZER.address) is None
    by_owner = [world.row(channel, 10, signer=OWNER)]
    assert world.settlement.refusal("claim", by_owner, sender=AUTHORIZER.address) == "InvalidSignature"


def test_a_wallet_as_receiver_authorizer(world: World, wallet: Contract) -> None:
    channel = Channel(receiver_authorizer=WALLET)
    world.fund(channel, 1000)
    rows = [world.row(channel, 300)]
    for signature, refusal in (
        (world.batch_signature(rows, OWNER), None),
        (world.batch_signature(rows, OWNER).rjust(2048, b"\1"), None),
        (world.batch_signature(rows, AUTHORIZER), "InvalidSignature"),
    ):
        assert world.settlement.refusal("claimWithSignature", rows, signature) == refusal
    world.settlement.send("claimWithSignature", rows, world.batch_signature(rows, OWNER), sender=OTHER.address)
    signature = world.refund_signature(channel, 0, 50, OWNER)
    refund = channel.args(), 50, 0
    stranger = world.refund_signature(channel, 0, 50, RECEIVER)
    assert world.settlement.refusal("refundWithSignature", *refund, stranger) == "InvalidSignature"
    world.settlement.send("refundWithSignature", *refund, signature.rjust(1500, b"\1"), sender=OTHER.address)
    assert world.state(channel) == (950, 300)


def test_a_wallet_withdraws_by_calling(funded: World) -> None:
    funded.settlement.send("initiateWithdraw", CHANNEL.args(), 1000, sender=WALLET)
    funded.chain.advance(CHANNEL.withdraw_delay)
    funded.settlement.send("finalizeWithdraw", CHANNEL.args(), sender=WALLET)
    assert funded.balance(WALLET) == 10_000
