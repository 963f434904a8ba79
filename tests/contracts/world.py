"""The contract tests' small world: keys, channels and signatures, and the contracts at their addresses."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import vyper
from coincurve import PrivateKey
from eth_abi.abi import encode
from x402.mechanisms.evm.batch_settlement.encoding import build_erc3009_collector_data, build_erc3009_deposit_nonce
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig

from settlement.contracts import (
    COLLECTOR_ADDRESS,
    MULTICALL3_ADDRESS,
    SETTLEMENT_ADDRESS,
    artifact,
    token_genesis_storage,
)
from tests.contracts.chain import CHAIN_ID, ZERO, Chain, Contract, keccak, to_hex

TOKEN_ADDRESS = bytes.fromhex("7e57" * 10)
PAYOUTS_ADDRESS = bytes.fromhex("9a1d" * 10)
NETWORK = f"eip155:{CHAIN_ID}"
DELAY = 86_400
FUNDS = 10**12
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
FOREVER = 2**63


@dataclass(frozen=True, slots=True)
class Key:
    """A key pair made from a label."""

    secret: bytes
    address: bytes

    @staticmethod
    @cache
    def of(label: str) -> "Key":
        secret = keccak(label.encode())
        public = PrivateKey(secret).public_key.format(compressed=False)
        return Key(secret, keccak(public[1:])[12:])

    def sign(self, digest: bytes) -> bytes:
        signature = PrivateKey(self.secret).sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([27 + signature[64]])


PAYER = Key.of("payer")
SIGNER = Key.of("payer's authorizer")
RECEIVER = Key.of("receiver")
AUTHORIZER = Key.of("receiver's authorizer")
OTHER = Key.of("somebody else")
OWNER = Key.of("the token's owner")


def high_s(signature: bytes) -> bytes:
    """The other signature of the same key and digest, whose s is above half the curve's order."""
    s = CURVE_ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


@dataclass(frozen=True, slots=True)
class Channel:
    """The seven fields of a ChannelConfig in their order."""

    payer: bytes = PAYER.address
    payer_authorizer: bytes = SIGNER.address
    receiver: bytes = RECEIVER.address
    receiver_authorizer: bytes = AUTHORIZER.address
    token: bytes = TOKEN_ADDRESS
    withdraw_delay: int = DELAY
    salt: bytes = bytes(32)

    def args(self) -> tuple[object, ...]:
        return (
            self.payer, self.payer_authorizer, self.receiver, self.receiver_authorizer, self.token,
            self.withdraw_delay, self.salt,
        )  # fmt: skip

    def x402(self) -> ChannelConfig:
        """The same channel as the stock client's type."""
        return ChannelConfig(
            payer=to_hex(self.payer),
            payer_authorizer=to_hex(self.payer_authorizer),
            receiver=to_hex(self.receiver),
            receiver_authorizer=to_hex(self.receiver_authorizer),
            token=to_hex(self.token),
            withdraw_delay=self.withdraw_delay,
            salt=to_hex(self.salt),
        )

    def with_(self, **changes: Any) -> "Channel":
        return replace(self, **changes)


def channel_number(number: int, **changes: Any) -> Channel:
    return Channel(salt=number.to_bytes(32, "big"), **changes)


@cache
def attacker(name: str) -> dict[str, Any]:
    """ABI and runtime code of a helper contract of these tests, compiled once a session."""
    source = (Path(__file__).parent / "attackers" / f"{name}.vy").read_text(encoding="utf-8")
    compiled: dict[str, Any] = vyper.compile_code(source, output_formats=["abi", "bytecode_runtime"])
    return compiled


class World:
    """A chain with our contracts in place, a funded payer, and short names for what tests do most."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.settlement = self._placed("BatchSettlement", SETTLEMENT_ADDRESS)
        self.collector = self._placed("Erc3009DepositCollector", COLLECTOR_ADDRESS)
        self.multicall3 = self._placed("Multicall3", MULTICALL3_ADDRESS)
        self.payouts = self._placed("CumulativePayouts", PAYOUTS_ADDRESS)
        self.token = self._placed("TestUSD", TOKEN_ADDRESS)
        for slot, word in token_genesis_storage({PAYER.address: FUNDS}, OWNER.address).items():
            chain.set_storage(TOKEN_ADDRESS, slot, word)
        self.bringer = self.place("Collector", bytes.fromhex("c011" * 10))

    def _placed(self, name: str, address: bytes) -> Contract:
        compiled = artifact(name)
        self.chain.set_code(address, compiled.runtime)
        return Contract(self.chain, address, compiled.abi)

    def place(self, name: str, address: bytes) -> Contract:
        """Put a helper contract of tests/contracts/attackers at an address."""
        compiled = attacker(name)
        self.chain.set_code(address, bytes.fromhex(compiled["bytecode_runtime"][2:]))
        return Contract(self.chain, address, compiled["abi"])

    # -- channels

    def channel_id(self, channel: Channel) -> bytes:
        found: bytes = self.settlement.read("getChannelId", channel.args())
        return found

    def state(self, channel: Channel) -> tuple[int, int]:
        """(balance, totalClaimed)"""
        found: tuple[int, int] = self.settlement.read("channels", self.channel_id(channel))
        return found

    def pending(self, channel: Channel) -> tuple[int, int]:
        """(amount, initiatedAt)"""
        found: tuple[int, int] = self.settlement.read("pendingWithdrawals", self.channel_id(channel))
        return found

    def balance(self, holder: bytes) -> int:
        found: int = self.token.read("balanceOf", holder)
        return found

    def collector_data(
        self,
        channel: Channel,
        amount: int,
        salt: int = 0,
        signer: Key = PAYER,
        valid_after: int = 0,
        valid_before: int = FOREVER,
    ) -> bytes:
        """What the stock client hands the collector, with the payer's signature over it."""
        nonce = self.deposit_nonce(channel, salt)
        digest = self.receive_digest(channel.payer, COLLECTOR_ADDRESS, amount, valid_after, valid_before, nonce)
        return build_erc3009_collector_data(str(valid_after), str(valid_before), hex(salt), to_hex(signer.sign(digest)))

    def deposit_nonce(self, channel: Channel, salt: int) -> bytes:
        """The ERC-3009 nonce that binds an authorization to its channel."""
        return bytes.fromhex(build_erc3009_deposit_nonce(to_hex(self.channel_id(channel)), hex(salt))[2:])

    def receive_digest(self, *fields: object) -> bytes:
        """EIP-712 digest of a ReceiveWithAuthorization of the test token."""
        return self.token_digest(
            b"ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
            b"bytes32 nonce)",
            ["address", "address", "uint256", "uint256", "uint256", "bytes32"],
            *fields,
        )

    def token_digest(self, type_text: bytes, types: list[str], *fields: object) -> bytes:
        separator: bytes = self.token.read("DOMAIN_SEPARATOR")
        struct = keccak(encode(["bytes32", *types], [keccak(type_text), *fields]))
        return keccak(b"\x19\x01" + separator + struct)

    def fund(self, channel: Channel, amount: int, salt: int = 0) -> None:
        """Deposit through the ERC-3009 collector."""
        data = self.collector_data(channel, amount, salt)
        self.settlement.send("deposit", channel.args(), amount, COLLECTOR_ADDRESS, data, sender=OTHER.address)

    def voucher(self, channel: Channel, ceiling: int, signer: Key = SIGNER) -> bytes:
        digest = self.settlement.read("getVoucherDigest", self.channel_id(channel), ceiling)
        return signer.sign(digest)

    def row(self, channel: Channel, claimed: int, ceiling: int | None = None, signer: Key = SIGNER) -> tuple[Any, ...]:
        """A VoucherClaim; its ceiling is what is claimed unless another one is given."""
        ceiling = claimed if ceiling is None else ceiling
        return (channel.args(), ceiling), self.voucher(channel, ceiling, signer), claimed

    def batch_signature(self, rows: list[tuple[Any, ...]], signer: Key = AUTHORIZER) -> bytes:
        return signer.sign(self.settlement.read("getClaimBatchDigest", rows))

    def refund_signature(self, channel: Channel, nonce: int, amount: int, signer: Key = AUTHORIZER) -> bytes:
        return signer.sign(self.settlement.read("getRefundDigest", self.channel_id(channel), nonce, amount))

    def claim(self, *rows: tuple[Any, ...]) -> None:
        self.settlement.send("claim", list(rows), sender=AUTHORIZER.address)


NOBODY = ZERO
