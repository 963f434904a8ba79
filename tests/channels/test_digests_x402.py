"""Digests against two oracles that share no code with us: x402's client and eth-account."""

from dataclasses import replace

import pytest
from eth_utils import keccak as oracle_keccak
from eth_utils import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st
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
from x402.mechanisms.evm.batch_settlement.utils import compute_channel_id

from channels import digests, types
from channels.types import ChannelConfig, Network, TokenDomain
from tests.support.channels_build import CONFIG, NETWORK
from tests.support.channels_oracle import (
    U64,
    U256,
    addresses,
    amounts,
    as_oracle,
    bytes_of,
    caip2,
    chain_ids,
    configs,
    hexed,
    metergate_digest,
    networks,
    oracle,
    settlement_digest,
    texts,
    typed_digest,
    words,
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
@given(words, texts, texts, st.integers(0, U64), chain_ids, addresses)
def test_close_digests(channel: bytes, gateway: str, device: str, seq: int, chain_id: int, contract: bytes) -> None:
    network = Network(chain_id, contract)
    expected = metergate_digest(
        network,
        "Close",
        "bytes32 channelId,string gateway,string device,uint64 seq",
        {"channelId": channel, "gateway": gateway, "device": device, "seq": seq},
    )
    assert digests.close_digest(channel, gateway, device, seq, network) == expected


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
        digests.close_digest(zero, "", "", 0, NETWORK),
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
