"""The contract's ids, digests and domain against the stock x402 client's own functions."""

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from x402.mechanisms.evm.batch_settlement import constants
from x402.mechanisms.evm.batch_settlement.authorizer_signer import (
    LocalAuthorizerSigner,
    sign_claim_batch,
    sign_refund,
)
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
from x402.mechanisms.evm.batch_settlement.types import VoucherClaim
from x402.mechanisms.evm.batch_settlement.utils import compute_channel_id, get_batch_settlement_eip712_domain
from x402.mechanisms.evm.signers import EthAccountSigner

from settlement.contracts import SETTLEMENT_ADDRESS
from tests.contracts.chain import CHAIN_ID, keccak, to_hex
from tests.contracts.world import AUTHORIZER, NETWORK, SIGNER, Channel, World, channel_number

accounts = st.binary(min_size=20, max_size=20).filter(any)
amounts = st.one_of(st.integers(0, 2**128 - 1), st.sampled_from([0, 1, 2**127, 2**128 - 1]))
configs = st.builds(
    Channel,
    payer=accounts,
    payer_authorizer=st.one_of(accounts, st.just(bytes(20))),
    receiver=accounts,
    receiver_authorizer=accounts,
    token=accounts,
    withdraw_delay=st.integers(0, 2**40 - 1),
    salt=st.binary(min_size=32, max_size=32),
)
# The fixture's chain is only read here, so one for all examples is right.
reading = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def typed_digest(types: dict[str, list[dict[str, str]]], message: dict[str, object]) -> bytes:
    signable = encode_typed_data(get_batch_settlement_eip712_domain(CHAIN_ID), types, message)
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


@reading
@given(config=configs)
def test_channel_id(world: World, config: Channel) -> None:
    assert to_hex(world.channel_id(config)) == compute_channel_id(config.x402(), CHAIN_ID)


@reading
@given(channel_id=st.binary(min_size=32, max_size=32), nonce=st.integers(0, 2**256 - 1), amount=amounts)
def test_voucher_and_refund_digests(world: World, channel_id: bytes, nonce: int, amount: int) -> None:
    voucher = {"channelId": channel_id, "maxClaimableAmount": amount}
    assert world.settlement.read("getVoucherDigest", channel_id, amount) == typed_digest(
        constants.VOUCHER_TYPES, voucher
    )
    refund = {"channelId": channel_id, "nonce": nonce, "amount": amount}
    assert world.settlement.read("getRefundDigest", channel_id, nonce, amount) == typed_digest(
        constants.REFUND_TYPES, refund
    )


@reading
@given(rows=st.lists(st.tuples(configs, amounts, amounts, st.binary(max_size=100)), max_size=6))
def test_claim_batch_digest(world: World, rows: list[tuple[Channel, int, int, bytes]]) -> None:
    claims = [((config.args(), ceiling), signature, claimed) for config, ceiling, claimed, signature in rows]
    entries = [
        {
            "channelId": bytes.fromhex(compute_channel_id(config.x402(), CHAIN_ID)[2:]),
            "maxClaimableAmount": ceiling,
            "totalClaimed": claimed,
        }
        for config, ceiling, claimed, _ in rows
    ]
    expected = typed_digest(constants.CLAIM_BATCH_TYPES, {"claims": entries})
    assert world.settlement.read("getClaimBatchDigest", claims) == expected


def test_claim_batch_digest_of_the_most_rows(world: World) -> None:
    claims = [((channel_number(n).args(), n), b"", n) for n in range(128)]
    entries = [
        {
            "channelId": bytes.fromhex(compute_channel_id(channel_number(n).x402(), CHAIN_ID)[2:]),
            "maxClaimableAmount": n,
            "totalClaimed": n,
        }
        for n in range(128)
    ]
    expected = typed_digest(constants.CLAIM_BATCH_TYPES, {"claims": entries})
    assert world.settlement.read("getClaimBatchDigest", claims) == expected
    assert world.settlement.refusal("getClaimBatchDigest", [*claims, claims[0]]) == ""


def test_signatures_of_the_stock_client_are_ours(world: World) -> None:
    channel = Channel()
    channel_id = compute_channel_id(channel.x402(), NETWORK)
    client = EthAccountSigner(Account.from_key(SIGNER.secret))
    voucher = sign_voucher(client, channel_id, 1234, NETWORK)
    assert voucher.signature == to_hex(world.voucher(channel, 1234))

    authorizer = LocalAuthorizerSigner(to_hex(AUTHORIZER.secret))
    claim = VoucherClaim(channel.x402(), "1234", voucher.signature, "1000")
    signed = sign_claim_batch(authorizer, [claim], NETWORK)
    assert signed == to_hex(world.batch_signature([world.row(channel, 1000, 1234)]))
    assert sign_refund(authorizer, channel_id, 77, 3, NETWORK) == to_hex(world.refund_signature(channel, 3, 77))


def test_domain_follows_the_chain_and_the_address(world: World) -> None:
    name, version = constants.BATCH_SETTLEMENT_DOMAIN_NAME, constants.BATCH_SETTLEMENT_DOMAIN_VERSION
    domain = (b"\x0f", name, version, CHAIN_ID, SETTLEMENT_ADDRESS, bytes(32), ())
    assert world.settlement.read("eip712Domain") == domain
    channel = Channel()
    here = world.channel_id(channel)
    world.chain.rpc("anvil_setChainId", 1)
    try:
        elsewhere = world.channel_id(channel)
        assert to_hex(elsewhere) == compute_channel_id(channel.x402(), 1)
    finally:
        world.chain.rpc("anvil_setChainId", CHAIN_ID)
    assert elsewhere != here == world.channel_id(channel)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CHANNEL_CONFIG_TYPEHASH", constants.CHANNEL_CONFIG_TYPE_STRING),
        ("VOUCHER_TYPEHASH", "Voucher(bytes32 channelId,uint128 maxClaimableAmount)"),
        ("REFUND_TYPEHASH", "Refund(bytes32 channelId,uint256 nonce,uint128 amount)"),
        (
            "CLAIM_ENTRY_TYPEHASH",
            "ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)",
        ),
        (
            "CLAIM_BATCH_TYPEHASH",
            "ClaimBatch(ClaimEntry[] claims)"
            "ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)",
        ),
    ],
)
def test_type_hashes(world: World, name: str, text: str) -> None:
    assert world.settlement.read(name) == keccak(text.encode())


def test_delay_bounds_are_the_stock_clients(world: World) -> None:
    assert world.settlement.read("MIN_WITHDRAW_DELAY") == constants.MIN_WITHDRAW_DELAY
    assert world.settlement.read("MAX_WITHDRAW_DELAY") == constants.MAX_WITHDRAW_DELAY


def test_token_domain_is_usdcs(world: World) -> None:
    separator = keccak(
        keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
        + keccak(b"USD Coin")
        + keccak(b"2")
        + CHAIN_ID.to_bytes(32, "big")
        + world.token.address.rjust(32, b"\0")
    )
    assert world.token.read("DOMAIN_SEPARATOR") == separator
