"""secp256k1 keys of a device and of its owner: derive, sign, recover. 65-byte r‖s‖v signatures, v 27/28, low s."""

from coincurve import PrivateKey, PublicKey
from sha3 import keccak_256

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SIGNATURE_BYTES = 65


def keccak(data: bytes) -> bytes:
    """Keccak-256 of `data`, 32 bytes."""
    digest: bytes = keccak_256(data).digest()
    return digest


class Key:
    """A private key with its 20-byte address."""

    __slots__ = ("_private", "address")

    def __init__(self, secret: bytes) -> None:
        self._private = PrivateKey(secret)
        self.address = keccak(self._private.public_key.format(compressed=False)[1:])[12:]

    def sign(self, digest: bytes) -> bytes:
        """65-byte signature of a 32-byte digest; libsecp256k1 always gives the low s."""
        signature = self._private.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([signature[64] + 27])


def derive_key(seed: int, purpose: str) -> Key:
    """The key of `purpose` in the fleet `seed`: anyone who knows the seed knows it, so it is for test money only."""
    secret = int.from_bytes(keccak(f"firmware-sim/{seed}/{purpose}".encode()), "big") % (ORDER - 1) + 1
    return Key(secret.to_bytes(32, "big"))


def recover(digest: bytes, signature: bytes) -> bytes | None:
    """The 20-byte address that made a 65-byte signature of `digest`; None for a malformed or high-s one."""
    if len(signature) != SIGNATURE_BYTES or signature[64] not in (27, 28):
        return None
    if int.from_bytes(signature[32:64], "big") > ORDER // 2:
        return None
    try:
        public = PublicKey.from_signature_and_message(signature[:64] + bytes([signature[64] - 27]), digest, hasher=None)
    except ValueError:
        return None
    return keccak(public.format(compressed=False)[1:])[12:]
