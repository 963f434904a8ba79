"""The oracles for digests and signatures: x402's client and eth-account, which share no code with us."""

from typing import Any

from eth_account.messages import encode_typed_data
from eth_utils import keccak as oracle_keccak
from eth_utils import to_checksum_address
from hypothesis import settings
from hypothesis import strategies as st
from x402.mechanisms.evm.batch_settlement.facilitator.utils import verify_batch_settlement_voucher_typed_data
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig as OracleConfig

from channels import types
from channels.signatures import ORDER
from channels.types import ChannelConfig, Network
from tests.support.channels_build import CHANNEL_ID, NETWORK

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
