"""Signatures both ways between us, x402's client and eth-account, and all that we refuse."""

import pytest
from eth_account import Account
from eth_keys.datatypes import Signature as OracleSignature
from eth_utils import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st
from parallel_evm import recover_signers
from x402.mechanisms.evm.batch_settlement.authorizer_signer import (
    LocalAuthorizerSigner,
    sign_claim_batch,
    sign_refund,
)
from x402.mechanisms.evm.batch_settlement.client.eip3009 import (
    create_batch_settlement_eip3009_deposit_payload,
)
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
from x402.mechanisms.evm.batch_settlement.types import VoucherClaim
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.schemas import PaymentRequirements

from channels import digests, signatures, types
from channels.signatures import HALF_ORDER, ORDER, is_signed_by, key_address, sign
from channels.types import Address, ChannelConfig, Digest, Network, Signature, TokenDomain
from tests.support.channels_build import CHANNEL_ID, CONFIG, DEVICE_KEY, NETWORK, PAYER_KEY
from tests.support.channels_oracle import (
    U256,
    amounts,
    as_oracle,
    bytes_of,
    caip2,
    configs,
    hexed,
    keys,
    networks,
    oracle,
    words,
    x402_takes,
)


def recover(digest: Digest, signature: Signature) -> Address | None:
    """Recover with the core's own function; the embedded layer's, which the pipeline uses, must say the same."""
    found = signatures.recover(digest, signature)
    assert recover_signers([(digest, signature)]) == [found]
    return found


# --- signatures, both ways ---


@oracle
@given(keys, words)
def test_signing_equals_eth_account_byte_for_byte(key: bytes, digest: bytes) -> None:
    ours = sign(digest, key)
    account = Account.from_key(key)
    assert to_checksum_address(key_address(key)) == account.address
    assert bytes(account.unsafe_sign_hash(digest).signature) == ours
    assert recover(digest, ours) == key_address(key)
    assert int.from_bytes(ours[32:64], "big") <= HALF_ORDER
    assert ours[64] in (27, 28)


@pytest.mark.parametrize("key", [bytes(32), ORDER.to_bytes(32, "big"), b"\xff" * 32])
def test_keys_outside_the_group_are_refused(key: bytes) -> None:
    with pytest.raises(ValueError):
        key_address(key)


@oracle
@given(keys, amounts, networks)
def test_x402_takes_our_vouchers_and_we_take_its(key: bytes, amount: int, network: Network) -> None:
    signer = key_address(key)
    digest = digests.voucher_digest(CHANNEL_ID, amount, network)
    assert x402_takes(sign(digest, key), signer, amount, network.chain_id)
    theirs = sign_voucher(EthAccountSigner(Account.from_key(key)), hexed(CHANNEL_ID), amount, caip2(network))
    assert is_signed_by(digest, bytes_of(theirs.signature), signer)


@oracle
@given(keys, st.lists(st.tuples(configs, amounts, amounts), max_size=3), networks)
def test_we_take_the_claim_batches_of_x402(
    key: bytes, rows: list[tuple[ChannelConfig, int, int]], network: Network
) -> None:
    claims = [VoucherClaim(as_oracle(config), str(ceiling), "0x", str(claimed)) for config, ceiling, claimed in rows]
    signature = sign_claim_batch(LocalAuthorizerSigner(Account.from_key(key)), claims, caip2(network))
    ours = [(digests.channel_id(config, network), ceiling, claimed) for config, ceiling, claimed in rows]
    assert is_signed_by(digests.claim_batch_digest(ours, network), bytes_of(signature), key_address(key))


@oracle
@given(keys, words, amounts, st.integers(0, U256), networks)
def test_we_take_the_refunds_of_x402(key: bytes, channel: bytes, amount: int, nonce: int, network: Network) -> None:
    authorizer = LocalAuthorizerSigner(Account.from_key(key))
    signature = sign_refund(authorizer, hexed(channel), amount, nonce, caip2(network))
    digest = digests.refund_digest(channel, nonce, amount, network)
    assert is_signed_by(digest, bytes_of(signature), key_address(key))


@oracle
@given(amounts, networks, st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=5))
def test_we_take_the_deposits_of_a_stock_client(amount: int, network: Network, name: str, version: str) -> None:
    requirements = PaymentRequirements(
        scheme="batch-settlement",
        network=caip2(network),
        asset=hexed(CONFIG.token),
        amount=str(amount),
        pay_to=hexed(CONFIG.receiver),
        max_timeout_seconds=600,
        extra={"name": name, "version": version},
    )
    payload = create_batch_settlement_eip3009_deposit_payload(
        EthAccountSigner(Account.from_key(PAYER_KEY)),
        requirements,
        as_oracle(CONFIG),
        amount,
        amount,
        EthAccountSigner(Account.from_key(DEVICE_KEY)),
    )
    assert payload.voucher is not None
    assert payload.deposit is not None
    authorization = payload.deposit.authorization.erc3009_authorization
    assert authorization is not None
    channel = digests.channel_id(CONFIG, network)
    deposit = digests.deposit_digest(
        channel,
        CONFIG.payer,
        amount,
        int(authorization.valid_after),
        int(authorization.valid_before),
        int(authorization.salt, 16),
        TokenDomain(CONFIG.token, name, version),
        network.chain_id,
    )
    assert is_signed_by(deposit, bytes_of(authorization.signature), CONFIG.payer)
    voucher = digests.voucher_digest(channel, amount, network)
    assert is_signed_by(voucher, bytes_of(payload.voucher.signature), CONFIG.payer_authorizer)


# --- what we refuse ---

SIGNER = key_address(DEVICE_KEY)
DIGEST = digests.voucher_digest(CHANNEL_ID, 5, NETWORK)
GOOD = sign(DIGEST, DEVICE_KEY)


def with_v(v: int) -> bytes:
    return GOOD[:64] + bytes((v,))


def parts(r: int, s: int, v: int = 27) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes((v,))


GOOD_R = int.from_bytes(GOOD[:32], "big")
GOOD_S = int.from_bytes(GOOD[32:64], "big")
HIGH_S = parts(GOOD_R, ORDER - GOOD_S, 55 - GOOD[64])


def test_the_good_one_is_taken_by_both() -> None:
    assert is_signed_by(DIGEST, GOOD, SIGNER)
    assert x402_takes(GOOD, SIGNER)


@oracle
@given(keys, words)
def test_high_s_is_refused(key: bytes, digest: bytes) -> None:
    good = sign(digest, key)
    twin = good[:32] + (ORDER - int.from_bytes(good[32:64], "big")).to_bytes(32, "big") + bytes((55 - good[64],))
    assert recover(digest, twin) is None


def test_x402s_verifier_takes_high_s_which_the_contract_refuses() -> None:
    assert recover(DIGEST, HIGH_S) is None
    assert x402_takes(HIGH_S, SIGNER)


def test_s_is_low_up_to_half_the_order() -> None:
    """Any s makes a signature of someone: at the bound it is still taken, one above it no longer."""
    at_bound = parts(GOOD_R, HALF_ORDER)
    key = OracleSignature(at_bound[:64] + b"\0").recover_public_key_from_msg_hash(DIGEST)
    assert recover(DIGEST, at_bound) == key.to_canonical_address()
    assert recover(DIGEST, parts(GOOD_R, HALF_ORDER + 1)) is None
    assert recover(DIGEST, parts(GOOD_R, 1)) is not None


@pytest.mark.parametrize("v", [v for v in range(256) if v not in (27, 28)])
def test_every_other_v_is_refused(v: int) -> None:
    assert recover(DIGEST, with_v(v)) is None


def test_x402s_verifier_takes_v_below_27_and_from_35_on() -> None:
    """It reads 0 and 1, and 35 and up as EIP-155 would; the contract takes 27 and 28 alone."""
    taken = {v for v in range(256) if x402_takes(with_v(v), SIGNER)}
    parity = GOOD[64] - 27
    assert taken == {parity, 27 + parity, *range(35 + parity, 256, 2)}


def test_the_other_v_names_another_signer() -> None:
    other = recover(DIGEST, with_v(55 - GOOD[64]))
    assert other is not None
    assert other != SIGNER


@pytest.mark.parametrize("length", [0, 1, 63, 64, 66, 130])
def test_wrong_lengths_are_refused_by_both(length: int) -> None:
    signature = (GOOD * 2)[:length]
    assert recover(DIGEST, signature) is None
    assert not x402_takes(signature, SIGNER)


@pytest.mark.parametrize(
    ("r", "s"),
    [
        (0, GOOD_S),
        (ORDER, GOOD_S),
        (ORDER + 1, GOOD_S),
        (U256, GOOD_S),
        (GOOD_R, 0),
        (GOOD_R, ORDER),
        (GOOD_R, ORDER + 1),
        (GOOD_R, U256),
        (0, 0),
        (5, GOOD_S),  # no point of the curve has x = 5
    ],
)
@pytest.mark.parametrize("v", [27, 28])
def test_r_and_s_outside_the_group_or_off_the_curve_are_refused_by_both(r: int, s: int, v: int) -> None:
    signature = parts(r, s, v)
    assert recover(DIGEST, signature) is None
    assert not x402_takes(signature, SIGNER)


def test_a_signature_of_the_point_at_infinity_is_refused() -> None:
    # With R = 1·G and digest = s, the recovered key is r⁻¹(s·G − s·G): no key at all.
    base_x = 0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798
    assert recover((12_345).to_bytes(32, "big"), parts(base_x, 12_345)) is None
    assert recover((12_346).to_bytes(32, "big"), parts(base_x, 12_345)) is not None


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_digest_of_another_length_recovers_nobody(length: int) -> None:
    assert recover(bytes(length), GOOD) is None


@pytest.mark.parametrize("signer", [key_address(PAYER_KEY), types.ZERO_ADDRESS, b""])
def test_another_signer_is_refused(signer: bytes) -> None:
    assert not is_signed_by(DIGEST, GOOD, signer)


def test_nobody_has_signed_a_bad_signature() -> None:
    assert not is_signed_by(DIGEST, bytes(65), types.ZERO_ADDRESS)


@pytest.mark.parametrize(
    "digest",
    [
        digests.voucher_digest(CHANNEL_ID, 6, NETWORK),
        digests.voucher_digest(bytes(32), 5, NETWORK),
        digests.voucher_digest(CHANNEL_ID, 5, Network(31403)),
        digests.voucher_digest(CHANNEL_ID, 5, Network(31402, types.COLLECTOR_ADDRESS)),
        digests.refund_digest(CHANNEL_ID, 0, 5, NETWORK),
    ],
    ids=["amount", "channel", "chain", "contract", "type"],
)
def test_a_signature_is_for_one_amount_channel_chain_and_contract(digest: bytes) -> None:
    assert digest != DIGEST
    assert not is_signed_by(digest, GOOD, SIGNER)


def test_x402_refuses_another_amount_or_chain_as_we_do() -> None:
    assert not x402_takes(GOOD, SIGNER, amount=6)
    assert not x402_takes(GOOD, SIGNER, chain_id=31403)
    assert not x402_takes(GOOD, key_address(PAYER_KEY))


@settings(max_examples=200, deadline=None, print_blob=True)
@given(st.binary(max_size=70), words)
def test_random_bytes_never_raise(signature: bytes, digest: bytes) -> None:
    found = recover(digest, signature)
    assert found is None or len(found) == 20


@settings(max_examples=200, deadline=None, print_blob=True)
@given(st.integers(0, 64 * 8 - 1))
def test_one_flipped_bit_is_another_signature(bit: int) -> None:
    broken = bytearray(GOOD)
    broken[bit // 8] ^= 1 << bit % 8
    assert not is_signed_by(DIGEST, bytes(broken), SIGNER)
