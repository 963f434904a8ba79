"""Digests and signatures against two oracles nobody here wrote: x402[evm] and eth-account."""

from random import Random

import pytest
from eth_account import Account as EthAccount
from eth_account.messages import encode_typed_data
from eth_utils import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig as OracleConfig
from x402.mechanisms.evm.batch_settlement.utils import compute_channel_id

from firmware_sim import digests
from firmware_sim.digests import COLLECTOR, SETTLEMENT, ChannelConfig
from firmware_sim.keys import ORDER, Key, derive_key, keccak, recover

addresses = st.binary(min_size=20, max_size=20)
words = st.binary(min_size=32, max_size=32)
chains = st.integers(1, 2**53)
configs = st.builds(
    ChannelConfig, addresses, addresses, addresses, addresses, addresses, st.integers(0, 2**40 - 1), words
)
few = settings(max_examples=40, deadline=None)


def typed(domain: dict, primary: str, fields: list[tuple[str, str]], message: dict) -> bytes:
    signable = encode_typed_data(
        domain_data=domain,
        message_types={primary: [{"name": name, "type": type_} for name, type_ in fields]},
        message_data=message,
    )
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def domain(name: str, version: str, chain: int, contract: bytes) -> dict:
    return {
        "name": name,
        "version": version,
        "chainId": chain,
        "verifyingContract": to_checksum_address(contract),
    }


@few
@given(configs, chains)
def test_channel_id_is_x402s(config: ChannelConfig, chain: int) -> None:
    oracle = OracleConfig(
        payer="0x" + config.payer.hex(),
        payer_authorizer="0x" + config.payer_authorizer.hex(),
        receiver="0x" + config.receiver.hex(),
        receiver_authorizer="0x" + config.receiver_authorizer.hex(),
        token="0x" + config.token.hex(),
        withdraw_delay=config.withdraw_delay,
        salt="0x" + config.salt.hex(),
    )
    assert "0x" + digests.channel_id(chain, config).hex() == compute_channel_id(oracle, chain)


@few
@given(words, st.integers(0, 2**128 - 1), chains)
def test_voucher(channel: bytes, ceiling: int, chain: int) -> None:
    expected = typed(
        domain("x402 Batch Settlement", "1", chain, SETTLEMENT),
        "Voucher",
        [("channelId", "bytes32"), ("maxClaimableAmount", "uint128")],
        {"channelId": channel, "maxClaimableAmount": ceiling},
    )
    assert digests.voucher_digest(chain, channel, ceiling) == expected


@few
@given(
    words,
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**128 - 1),
)
def test_reading(id_: bytes, seq: int, register: int, time: int, offer: bytes, ceiling: int) -> None:
    expected = typed(
        domain("Metergate", "1", 31402, SETTLEMENT),
        "Reading",
        [
            ("id", "bytes32"),
            ("seq", "uint64"),
            ("register", "uint64"),
            ("time", "uint64"),
            ("offer", "bytes16"),
            ("maxClaimableAmount", "uint128"),
        ],
        {"id": id_, "seq": seq, "register": register, "time": time, "offer": offer, "maxClaimableAmount": ceiling},
    )
    assert digests.reading_digest(31402, id_, seq, register, time, offer, ceiling) == expected


@few
@given(words, st.text(max_size=64), st.text(max_size=64), st.text(max_size=64), st.integers(0, 2**64 - 1))
def test_open(channel: bytes, gateway: str, device: str, service: str, register: int) -> None:
    expected = typed(
        domain("Metergate", "1", 1, SETTLEMENT),
        "Open",
        [
            ("channelId", "bytes32"),
            ("gateway", "string"),
            ("device", "string"),
            ("service", "string"),
            ("register", "uint64"),
        ],
        {"channelId": channel, "gateway": gateway, "device": device, "service": service, "register": register},
    )
    assert digests.open_digest(1, channel, gateway, device, service, register) == expected


@few
@given(st.text(max_size=64), st.text(max_size=64), st.text(max_size=64), addresses, addresses, words)
def test_earner(gateway: str, device: str, service: str, payee: bytes, meter_key: bytes, salt: bytes) -> None:
    expected = typed(
        domain("Metergate", "1", 31402, SETTLEMENT),
        "Earner",
        [
            ("gateway", "string"),
            ("device", "string"),
            ("service", "string"),
            ("payee", "address"),
            ("meterKey", "address"),
            ("salt", "bytes32"),
        ],
        {
            "gateway": gateway,
            "device": device,
            "service": service,
            "payee": to_checksum_address(payee),
            "meterKey": to_checksum_address(meter_key),
            "salt": salt,
        },
    )
    assert digests.earner_digest(31402, gateway, device, service, payee, meter_key, salt) == expected


@few
@given(addresses, addresses, st.integers(0, 2**128 - 1), st.integers(0, 2**40), words, words)
def test_deposit_authorization(
    token: bytes, payer: bytes, amount: int, before: int, channel: bytes, salt: bytes
) -> None:
    nonce = digests.deposit_nonce(channel, salt)
    assert nonce == keccak(channel + salt)
    expected = typed(
        domain("USD Coin", "2", 31402, token),
        "ReceiveWithAuthorization",
        [
            ("from", "address"),
            ("to", "address"),
            ("value", "uint256"),
            ("validAfter", "uint256"),
            ("validBefore", "uint256"),
            ("nonce", "bytes32"),
        ],
        {
            "from": to_checksum_address(payer),
            "to": to_checksum_address(COLLECTOR),
            "value": amount,
            "validAfter": 0,
            "validBefore": before,
            "nonce": nonce,
        },
    )
    assert digests.receive_digest(31402, (token, "USD Coin", "2"), payer, amount, 0, before, nonce) == expected


def test_signatures_are_eth_accounts_byte_for_byte() -> None:
    seed = 20240
    print(f"seed {seed}")
    random = Random(seed)
    for _ in range(50):
        secret = random.randrange(1, ORDER).to_bytes(32, "big")
        digest = random.randbytes(32)
        key, oracle = Key(secret), EthAccount.from_key(secret)
        assert "0x" + key.address.hex() == oracle.address.lower()
        signature = key.sign(digest)
        assert signature == bytes(oracle.unsafe_sign_hash(digest).signature)
        assert recover(digest, signature) == key.address


def test_a_signature_that_a_contract_refuses_is_refused() -> None:
    key, digest = derive_key(1, "meter"), keccak(b"digest")
    good = key.sign(digest)
    s = int.from_bytes(good[32:64], "big")
    high = good[:32] + (ORDER - s).to_bytes(32, "big") + bytes([55 - good[64]])
    assert recover(digest, high) is None
    assert recover(digest, good[:64] + bytes([good[64] - 27])) is None
    assert recover(digest, good[:64]) is None
    assert recover(digest, bytes(64) + b"\x1b") is None
    other = recover(digest, good[:64] + bytes([55 - good[64]]))
    assert other != key.address


@pytest.mark.parametrize("purpose", ["meter/home-001", "owner/home-001"])
def test_keys_depend_on_seed_and_purpose_alone(purpose: str) -> None:
    assert derive_key(7, purpose).address == derive_key(7, purpose).address
    assert derive_key(7, purpose).address != derive_key(8, purpose).address
    assert derive_key(7, purpose).address != derive_key(7, purpose + "x").address
