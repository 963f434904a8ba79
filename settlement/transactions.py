"""EIP-1559 transactions: RLP, signature and hash; and reading back what was signed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from channels.digests import keccak
from channels.signatures import key_address, sign
from channels.types import Address

RlpItem: TypeAlias = "bytes | int | Sequence[RlpItem]"
_Decoded: TypeAlias = "bytes | tuple[_Decoded, ...]"

_TYPE_1559 = b"\x02"


@dataclass(frozen=True, slots=True)
class Transaction:
    """An unsigned EIP-1559 transaction; `to` is None for a creation. Fees are wei per gas, value is wei."""

    chain_id: int
    nonce: int
    max_priority_fee_per_gas: int
    max_fee_per_gas: int
    gas_limit: int
    to: Address | None
    value: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A transaction ready for the chain: its bytes, its hash and who pays for it."""

    raw: bytes
    tx_hash: bytes
    sender: Address
    nonce: int


def rlp(item: RlpItem) -> bytes:
    """Return the RLP encoding. Integers are encoded without leading zeros; negative ones raise ValueError."""
    if isinstance(item, int):
        if item < 0:
            raise ValueError("RLP has no negative integers")
        item = item.to_bytes((item.bit_length() + 7) // 8, "big")
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _length(len(item), 0x80) + item
    body = b"".join(rlp(part) for part in item)
    return _length(len(body), 0xC0) + body


def _length(length: int, base: int) -> bytes:
    if length < 56:
        return bytes((base + length,))
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((base + 55 + len(digits),)) + digits


def sign_transaction(transaction: Transaction, private_key: bytes) -> SignedTransaction:
    """Sign with a 32-byte private key. Deterministic: the same transaction gives the same bytes."""
    fields: tuple[RlpItem, ...] = (
        transaction.chain_id,
        transaction.nonce,
        transaction.max_priority_fee_per_gas,
        transaction.max_fee_per_gas,
        transaction.gas_limit,
        transaction.to or b"",
        transaction.value,
        transaction.data,
        (),  # access list
    )
    signature = sign(keccak(_TYPE_1559 + rlp(fields)), private_key)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    raw = _TYPE_1559 + rlp((*fields, signature[64] - 27, r, s))
    return SignedTransaction(raw, keccak(raw), key_address(private_key), transaction.nonce)


def read_transaction(raw: bytes) -> Transaction:
    """Return what a signed EIP-1559 transaction says; its signature is not looked at.

    Raises ValueError for bytes that `sign_transaction` cannot have made.
    """
    item, end = _item(raw, 1) if raw[:1] == _TYPE_1559 else ((), 0)
    if end != len(raw) or isinstance(item, bytes) or len(item) != 12 or item[8] != ():
        raise ValueError("not a signed EIP-1559 transaction without an access list")
    fields = [field for field in (*item[:8], *item[9:]) if isinstance(field, bytes)]
    if len(fields) != 11:
        raise ValueError("a transaction with lists among its fields")
    chain_id, nonce, priority, fee, gas, value = (int.from_bytes(fields[index], "big") for index in (0, 1, 2, 3, 4, 6))
    signature = (int.from_bytes(field, "big") for field in fields[8:])
    to = fields[5] or None
    made: RlpItem = (chain_id, nonce, priority, fee, gas, to or b"", value, fields[7], (), *signature)
    if _TYPE_1559 + rlp(made) != raw or len(fields[5]) not in (0, 20):
        raise ValueError("a transaction that is not in canonical form")
    return Transaction(chain_id, nonce, priority, fee, gas, to, value, fields[7])


def _item(data: bytes, start: int) -> tuple["bytes | tuple[_Decoded, ...]", int]:
    """Return the RLP item at `start` and where it ends. Raises ValueError when the data end before it does."""
    if start >= len(data):
        raise ValueError("RLP that is cut short")
    kind = data[start]
    if kind < 0x80:
        return data[start : start + 1], start + 1
    base = 0x80 if kind < 0xC0 else 0xC0
    length, body = kind - base, start + 1
    if length > 55:
        body += length - 55
        length = int.from_bytes(data[start + 1 : body], "big")
    end = body + length
    if end > len(data):
        raise ValueError("RLP that is cut short")
    if base == 0x80:
        return data[body:end], end
    parts: list[_Decoded] = []
    while body < end:
        part, body = _item(data[:end], body)
        parts.append(part)
    return tuple(parts), end


def transaction_hash(raw: bytes) -> bytes:
    """Return the hash by which the chain knows a signed transaction."""
    return keccak(raw)


def creation_address(sender: Address, nonce: int) -> Address:
    """Return the address of the contract that `sender` creates with this nonce."""
    return keccak(rlp((sender, nonce)))[12:]
