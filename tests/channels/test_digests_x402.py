"""Digests and signatures against two oracles that share no code with us: x402's client and eth-account."""

from dataclasses import replace
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_keys.datatypes import Signature as OracleSignature
from eth_utils import keccak as oracle_keccak
from eth_utils import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st
from x402.mechanisms.evm.batch_settlement.authorizer_signer import (
    LocalAuthorizerSigner,
    sign_claim_batch,
    sign_refund,
)
from x402.mechanisms.evm.batch_settlement.client.eip3009 import (
    create_batch_settlement_eip3009_deposit_payload,
)
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
from x402.mechanisms.evm.batch_settlement.constants import (
    BATCH_SETTLEMENT_ADDRESS,
    CHANNEL_CONFIG_TYPES,
    CLAIM_BATCH_TYPES,
    ERC3009_DEPOSIT_COLLECTOR_ADDRESS,
    MAX_WITHDRAW_DELAY,
    MIN_WITHDRAW_DELAY,
    RECEIVE_AUTHORIZATION_TYPES,
    REFUND_TYPES,
    VOUCHER_TYPES,
)
from x402.mechanisms.evm.batch_settlement.encoding import build_erc3009_deposit_nonce
from x402.mechanisms.evm.batch_settlement.facilitator.utils import verify_batch_settlement_voucher_typed_data
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig as OracleConfig
from x402.mechanisms.evm.batch_settlement.types import VoucherClaim
from x402.mechanisms.evm.batch_settlement.utils import compute_channel_id
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.schemas import PaymentRequirements

from channels import digests, types
from channels.signatures import HALF_ORDER, ORDER, is_signed_by, key_address, recover, sign
from channels.types import ChannelConfig, Network, TokenDomain
from tests.support.channels_build import CHANNEL_ID, CONFIG, DEVICE_KEY, NETWORK, PAYER_KEY

U64, U128, U256 = 2**64 - 1, 2**128 - 1, 2**256 - 1

oracle = settings(max_examples=100, deadline=None, print_blob=True)

addresses = st.binary(min_size=20, max_size=20)
words = st.binary(min_size=32, max_size=32)
keys = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big"))
chain_ids = st.one_of(st.sampled_from([1, 8453, 31337, 31402]), st.integers(1, 2**63))
networks = st.builds(Network, chain_ids)
amounts = st.one_of(st.sampled_from([0, 1, 2**63, 2**64, U128]), st.integers(0, U128))
configs = st.builds(
    ChannelConfig,
    payer=addresses,
    payer_authorizer=st.one_of(st.just(types.ZERO_ADDRESS), addresses),
    receiver=addresses,
    receiver_authorizer=addresses,
    token=addresses,
    withdraw_delay=st.integers(0, types.U40_MAX),
    salt=words,
)
texts = st.text(max_size=70)


def hexed(value: bytes) -> str:
    return "0x" + value.hex()


def bytes_of(value: str) -> bytes:
    return bytes.fromhex(value.removeprefix("0x"))


def as_oracle(config: ChannelConfig) -> OracleConfig:
    return OracleConfig(
        payer=hexed(config.payer),
        payer_authorizer=hexed(config.payer_authorizer),
        receiver=hexed(config.receiver),
        receiver_authorizer=hexed(config.receiver_authorizer),
        token=hexed(config.token),
        withdraw_delay=config.withdraw_delay,
        salt=hexed(config.salt),
    )


def caip2(network: Network) -> str:
    return f"eip155:{network.chain_id}"


def typed_digest(
    name: str, version: str, chain_id: int, contract: bytes, fields: dict[str, Any], message: dict[str, Any]
) -> bytes:
    """The EIP-712 digest as eth-account computes it."""
    domain = {
        "name": name,
        "version": version,
        "chainId": chain_id,
        "verifyingContract": to_checksum_address(contract),
    }
    signable = encode_typed_data(domain_data=domain, message_types=fields, message_data=message)
    return oracle_keccak(b"\x19" + signable.version + signable.header + signable.body)


def settlement_digest(network: Network, fields: dict[str, Any], message: dict[str, Any]) -> bytes:
    return typed_digest("x402 Batch Settlement", "1", network.chain_id, network.settlement, fields, message)


def metergate_digest(network: Network, kind: str, fields: str, message: dict[str, Any]) -> bytes:
    """Our own messages; `fields` is the list inside the parentheses of the type."""
    members = [dict(zip(("type", "name"), field.split(" "), strict=True)) for field in fields.split(",")]
    return typed_digest("Metergate", "1", network.chain_id, network.settlement, {kind: members}, message)


def x402_takes(signature: bytes, signer: bytes, amount: int = 5, chain_id: int = NETWORK.chain_id) -> bool:
    """Ask x402's verifier about a voucher of CHANNEL_ID."""
    return verify_batch_settlement_voucher_typed_data(
        None, hexed(CHANNEL_ID), str(amount), hexed(signer), hexed(signer), hexed(signature), chain_id
    )


# --- constants ---


def test_addresses_and_bounds_are_those_of_x402() -> None:
    assert to_checksum_address(types.SETTLEMENT_ADDRESS) == BATCH_SETTLEMENT_ADDRESS
    assert to_checksum_address(types.COLLECTOR_ADDRESS) == ERC3009_DEPOSIT_COLLECTOR_ADDRESS
    assert (types.WITHDRAW_DELAY_MIN, types.WITHDRAW_DELAY_MAX) == (MIN_WITHDRAW_DELAY, MAX_WITHDRAW_DELAY)


def test_the_largest_values_of_the_types() -> None:
    assert (types.U40_MAX, types.U64_MAX) == (1_099_511_627_775, 18_446_744_073_709_551_615)
    assert (int("f" * 32, 16), int("f" * 64, 16)) == (types.U128_MAX, types.U256_MAX)
    assert bytes(20) == types.ZERO_ADDRESS


@given(st.binary(max_size=300))
def test_keccak(data: bytes) -> None:
    assert digests.keccak(data) == oracle_keccak(data)


# --- digests ---


@oracle
@given(configs, networks)
def test_channel_ids(config: ChannelConfig, network: Network) -> None:
    assert hexed(digests.channel_id(config, network)) == compute_channel_id(as_oracle(config), caip2(network))


@oracle
@given(configs, chain_ids, addresses)
def test_channel_ids_on_another_contract(config: ChannelConfig, chain_id: int, contract: bytes) -> None:
    # x402 knows one contract only, so eth-account is the oracle here.
    network = Network(chain_id, contract)
    message = {
        "payer": to_checksum_address(config.payer),
        "payerAuthorizer": to_checksum_address(config.payer_authorizer),
        "receiver": to_checksum_address(config.receiver),
        "receiverAuthorizer": to_checksum_address(config.receiver_authorizer),
        "token": to_checksum_address(config.token),
        "withdrawDelay": config.withdraw_delay,
        "salt": config.salt,
    }
    ours = digests.channel_id(config, network)
    assert ours == settlement_digest(network, CHANNEL_CONFIG_TYPES, message)
    if contract != types.SETTLEMENT_ADDRESS:
        assert ours != digests.channel_id(config, Network(chain_id))


@oracle
@given(words, amounts, chain_ids, addresses)
def test_voucher_digests(channel: bytes, amount: int, chain_id: int, contract: bytes) -> None:
    for network in (Network(chain_id), Network(chain_id, contract)):
        message = {"channelId": channel, "maxClaimableAmount": amount}
        assert digests.voucher_digest(channel, amount, network) == settlement_digest(network, VOUCHER_TYPES, message)


@oracle
@given(st.lists(st.tuples(words, amounts, amounts), max_size=5), chain_ids)
def test_claim_batch_digests(rows: list[tuple[bytes, int, int]], chain_id: int) -> None:
    entries = [
        {"channelId": channel, "maxClaimableAmount": ceiling, "totalClaimed": claimed}
        for channel, ceiling, claimed in rows
    ]
    network = Network(chain_id)
    assert digests.claim_batch_digest(rows, network) == settlement_digest(
        network, CLAIM_BATCH_TYPES, {"claims": entries}
    )


@oracle
@given(words, st.integers(0, U256), amounts, chain_ids)
def test_refund_digests(channel: bytes, nonce: int, amount: int, chain_id: int) -> None:
    network = Network(chain_id)
    assert digests.refund_digest(channel, nonce, amount, network) == settlement_digest(
        network, REFUND_TYPES, {"channelId": channel, "nonce": nonce, "amount": amount}
    )


@given(words, st.integers(0, U256))
def test_deposit_nonces(channel: bytes, salt: int) -> None:
    assert hexed(digests.deposit_nonce(channel, salt)) == build_erc3009_deposit_nonce(hexed(channel), hex(salt))


@oracle
@given(
    channel=words,
    payer=addresses,
    numbers=st.tuples(*[st.integers(0, U256)] * 4),
    token=st.builds(TokenDomain, addresses, texts, texts),
    chain_id=chain_ids,
)
def test_deposit_digests(
    channel: bytes, payer: bytes, numbers: tuple[int, int, int, int], token: TokenDomain, chain_id: int
) -> None:
    amount, valid_after, valid_before, salt = numbers
    message = {
        "from": to_checksum_address(payer),
        "to": ERC3009_DEPOSIT_COLLECTOR_ADDRESS,
        "value": amount,
        "validAfter": valid_after,
        "validBefore": valid_before,
        "nonce": bytes_of(build_erc3009_deposit_nonce(hexed(channel), hex(salt))),
    }
    expected = typed_digest(token.name, token.version, chain_id, token.address, RECEIVE_AUTHORIZATION_TYPES, message)
    assert expected == digests.deposit_digest(channel, payer, amount, valid_after, valid_before, salt, token, chain_id)


@oracle
@given(words, texts, texts, texts, st.integers(0, U64), chain_ids, addresses)
def test_open_digests(
    channel: bytes, gateway: str, device: str, service: str, register: int, chain_id: int, contract: bytes
) -> None:
    network = Network(chain_id, contract)
    expected = metergate_digest(
        network,
        "Open",
        "bytes32 channelId,string gateway,string device,string service,uint64 register",
        {
            "channelId": channel,
            "gateway": gateway,
            "device": device,
            "service": service,
            "register": register,
        },
    )
    assert digests.open_digest(channel, gateway, device, service, register, network) == expected


@oracle
@given(
    identifier=words,
    numbers=st.tuples(*[st.integers(0, U64)] * 3),
    offer=st.binary(min_size=16, max_size=16),
    ceiling=amounts,
    chain_id=chain_ids,
)
def test_reading_digests(
    identifier: bytes, numbers: tuple[int, int, int], offer: bytes, ceiling: int, chain_id: int
) -> None:
    seq, register, time = numbers
    network = Network(chain_id)
    expected = metergate_digest(
        network,
        "Reading",
        "bytes32 id,uint64 seq,uint64 register,uint64 time,bytes16 offer,uint128 maxClaimableAmount",
        {
            "id": identifier,
            "seq": seq,
            "register": register,
            "time": time,
            "offer": offer,
            "maxClaimableAmount": ceiling,
        },
    )
    assert digests.reading_digest(identifier, seq, register, time, offer, ceiling, network) == expected


@oracle
@given(texts, texts, texts, addresses, addresses, words, chain_ids)
def test_account_ids(
    gateway: str, device: str, service: str, payee: bytes, meter_key: bytes, salt: bytes, chain_id: int
) -> None:
    network = Network(chain_id)
    expected = metergate_digest(
        network,
        "Earner",
        "string gateway,string device,string service,address payee,address meterKey,bytes32 salt",
        {
            "gateway": gateway,
            "device": device,
            "service": service,
            "payee": to_checksum_address(payee),
            "meterKey": to_checksum_address(meter_key),
            "salt": salt,
        },
    )
    assert digests.account_id(gateway, device, service, payee, meter_key, salt, network) == expected


def test_a_digest_is_of_one_kind_only() -> None:
    """The same numbers under another type or domain are another digest: nothing signed can be used twice."""
    zero = bytes(32)
    made = [
        digests.channel_id(CONFIG, NETWORK),
        digests.voucher_digest(zero, 0, NETWORK),
        digests.refund_digest(zero, 0, 0, NETWORK),
        digests.claim_batch_digest([], NETWORK),
        digests.claim_batch_digest([(zero, 0, 0)], NETWORK),
        digests.open_digest(zero, "", "", "", 0, NETWORK),
        digests.reading_digest(zero, 0, 0, 0, bytes(16), 0, NETWORK),
        digests.account_id("", "", "", bytes(20), bytes(20), zero, NETWORK),
        digests.deposit_digest(zero, bytes(20), 0, 0, 0, 0, TokenDomain(bytes(20), "", ""), 31402),
        digests.settlement_separator(NETWORK),
        digests.metergate_separator(NETWORK),
    ]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("field", ["payer", "payer_authorizer", "receiver", "receiver_authorizer", "token"])
@pytest.mark.parametrize("length", [0, 19, 21, 32])
def test_a_config_refuses_addresses_of_another_length(field: str, length: int) -> None:
    with pytest.raises(ValueError, match="20 bytes"):
        replace(CONFIG, **{field: bytes(length)})


@pytest.mark.parametrize("salt", [b"", bytes(31), bytes(33)])
def test_a_config_refuses_salts_of_another_length(salt: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        replace(CONFIG, salt=salt)


@pytest.mark.parametrize("delay", [-1, types.U40_MAX + 1])
def test_a_config_refuses_delays_that_are_no_uint40(delay: int) -> None:
    with pytest.raises(ValueError, match="uint40"):
        replace(CONFIG, withdraw_delay=delay)


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
