"""secp256k1 signatures as the settlement contract takes them: 65 bytes r, s, v with v 27 or 28 and low s.

Recovery runs in libsecp256k1 and releases the GIL, so a batch verifies in parallel on threads. Signing is
deterministic (RFC 6979): no randomness.
"""

from collections.abc import Callable

from coincurve import PrivateKey, PublicKey

from channels.digests import keccak
from channels.types import Address, Digest, Signature

ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
HALF_ORDER = ORDER // 2


def address_of(public_key: PublicKey) -> Address:
    """Return the Ethereum address of a public key."""
    return keccak(public_key.format(compressed=False)[1:])[12:]


def key_address(private_key: bytes) -> Address:
    """Return the address of a 32-byte private key. Raises ValueError for a key outside the group."""
    return address_of(PrivateKey(private_key).public_key)


def recover(digest: Digest, signature: Signature) -> Address | None:
    """Return the signer's address, or None for a signature that the contract would refuse.

    Refused are a wrong length, v outside 27 and 28, high s (EIP-2), r or s outside the group, and points that
    are not on the curve. The public x402 verifier accepts high s, the contract does not: we side with the one
    that pays.
    """
    if len(signature) != 65 or signature[64] not in (27, 28):
        return None
    s = int.from_bytes(signature[32:64], "big")
    if not 0 < s <= HALF_ORDER:
        return None
    try:
        key = PublicKey.from_signature_and_message(signature[:64] + bytes((signature[64] - 27,)), digest, hasher=None)
    except ValueError:  # libsecp256k1 could not parse the signature or found no point
        return None
    return address_of(key)


def is_signed_by(digest: Digest, signature: Signature, signer: Address) -> bool:
    """Tell whether `signer` made this signature, by the contract's rules."""
    return recover(digest, signature) == signer


def sign(digest: Digest, private_key: bytes) -> Signature:
    """Return the 65-byte signature of a digest by a 32-byte private key; s is low and v is 27 or 28."""
    return signer(private_key)(digest)


def signer(private_key: bytes) -> Callable[[Digest], Signature]:
    """Return what signs with this key as `sign` does: for many digests, as preparing a key costs a signature."""
    key = PrivateKey(private_key)

    def sign_digest(digest: Digest) -> Signature:
        made = key.sign_recoverable(digest, hasher=None)
        return bytes(made[:64]) + bytes((made[64] + 27,))

    return sign_digest
