"""RLP, signed transactions and hashes against eth-account and rlp."""

import pytest
import rlp as oracle_rlp
from eth_account import Account
from eth_utils import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.signatures import key_address
from settlement.transactions import (
    Transaction,
    creation_address,
    read_transaction,
    rlp,
    sign_transaction,
    transaction_hash,
)

items = st.recursive(
    st.binary(max_size=80) | st.integers(0, 2**256 - 1),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@given(items)
@settings(deadline=None)
def test_rlp_is_the_oracles(item: object) -> None:
    assert rlp(item) == oracle_rlp.encode(item)  # type: ignore[arg-type]


def test_rlp_has_no_negative_integers() -> None:
    with pytest.raises(ValueError, match="negative"):
        rlp(-1)


@given(
    key=st.binary(min_size=32, max_size=32).filter(lambda key: 0 < int.from_bytes(key, "big") < 2**255),
    nonce=st.integers(0, 2**63),
    fee=st.integers(0, 2**100),
    gas=st.integers(0, 2**40),
    to=st.none() | st.binary(min_size=20, max_size=20),
    value=st.integers(0, 2**128),
    data=st.binary(max_size=300),
)
@settings(deadline=None, max_examples=100)
def test_signed_transactions_are_the_oracles(
    key: bytes, nonce: int, fee: int, gas: int, to: bytes | None, value: int, data: bytes
) -> None:
    transaction = Transaction(31402, nonce, fee // 2, fee, gas, to, value, data)
    signed = sign_transaction(transaction, key)
    assert read_transaction(signed.raw) == transaction
    expected = Account.sign_transaction(
        {
            "type": 2,
            "chainId": 31402,
            "nonce": nonce,
            "maxPriorityFeePerGas": fee // 2,
            "maxFeePerGas": fee,
            "gas": gas,
            "to": b"" if to is None else to_checksum_address(to),
            "value": value,
            "data": data,
        },
        key,
    )
    assert signed.raw == bytes(expected.raw_transaction)
    assert signed.tx_hash == bytes(expected.hash) == transaction_hash(signed.raw)
    assert (signed.sender, signed.nonce) == (key_address(key), nonce)


RAW = sign_transaction(Transaction(31402, 7, 1, 2, 21_000, b"\x11" * 20, 5, b"data" * 20), b"\x22" * 32).raw


@given(st.binary(max_size=200) | st.binary(min_size=1, max_size=9).map(lambda tail: RAW + tail))
def test_other_bytes_are_no_transaction(raw: bytes) -> None:
    with pytest.raises(ValueError):
        read_transaction(raw)


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_a_changed_byte_is_another_transaction_or_none(position: int, change: int) -> None:
    changed = RAW[:position] + bytes((RAW[position] ^ change,)) + RAW[position + 1 :]
    try:
        read = read_transaction(changed)
    except ValueError:
        return
    # What is read is what the bytes say, and they are its only encoding; the last ones are the signature.
    assert read != read_transaction(RAW) or changed[-68:] != RAW[-68:]


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 10, len(RAW) - 1])
def test_a_transaction_that_is_cut_short_is_none(cut: int) -> None:
    with pytest.raises(ValueError):
        read_transaction(RAW[:cut])


@pytest.mark.parametrize(
    "fields",
    [
        (31402, 7, 1, 2, 21_000, b"\x11" * 19, 5, b"", (), 1, 2, 3),  # half an address
        (31402, 7, 1, 2, 21_000, b"\x11" * 20, 5, b"", ((b"\x11" * 20, ()),), 1, 2, 3),  # an access list
        (31402, 7, 1, 2, 21_000, b"\x11" * 20, 5, b"", (), 1, 2),
        (31402, 7, 1, 2, 21_000, b"\x11" * 20, 5, (), (), 1, 2, 3),
        (31402, b"\0\7", 1, 2, 21_000, b"\x11" * 20, 5, b"", (), 1, 2, 3),  # a leading zero
    ],
)
def test_what_we_never_sign_is_no_transaction_of_ours(fields: tuple[object, ...]) -> None:
    with pytest.raises(ValueError):
        read_transaction(b"\x02" + rlp(fields))  # type: ignore[arg-type]


def test_creation_address_is_the_documented_one() -> None:
    # The example that circulates with the formula: the first contracts of one account.
    sender = bytes.fromhex("6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0")
    expected = (
        "cd234a471b72ba2f1ccf0a70fcaba648a5eecd8d",
        "343c43a37d37dff08ae8c4a11544c718abb4fcf8",
        "f778b86fa74e846c4f0a1fbd1335fe81c00a0c91",
    )
    assert tuple(creation_address(sender, nonce).hex() for nonce in range(3)) == expected
