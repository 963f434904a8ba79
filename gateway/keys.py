"""The gateway's keys: one seed, encrypted at rest, from which every key is derived.

Derivation is BIP-32 with hardened steps only, m/44'/60'/role'/index', so that one backup of one seed brings
back every lane for ever, and no public material reveals a sibling.
"""

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from channels.signatures import ORDER, key_address
from channels.types import Address
from gateway.errors import SetupError

_HARDENED = 1 << 31
# 32 MiB and about 0.1 s on a PC, 1 s on a Raspberry Pi: once per start.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**15, 8, 1


class Role(IntEnum):
    """What a derived key is for. Numbers are part of the derivation path: never renumbered."""

    AUTHORIZER = 0  # receiverAuthorizer: signs offers, claims by signature and refunds
    LANE = 1  # receivers of channels, one serialised sender each
    TREASURY = 2  # pays earners
    OPERATOR = 3  # submits deposits


@dataclass(frozen=True, slots=True)
class Key:
    """A private key with its address; never printed."""

    private: bytes
    address: Address

    def __repr__(self) -> str:
        return f"Key(0x{self.address.hex()})"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Every key of one gateway."""

    authorizer: Key
    lanes: tuple[Key, ...]
    treasury: Key
    operator: Key

    @property
    def addresses(self) -> frozenset[Address]:
        """All own addresses: money between them is internal."""
        return frozenset(key.address for key in (*self.lanes, self.authorizer, self.treasury, self.operator))

    @property
    def cash_addresses(self) -> frozenset[Address]:
        """Where the gateway's tokens are: lanes and treasury. Only these are in the books of cash."""
        return frozenset((self.treasury.address, *(key.address for key in self.lanes)))


def derive(seed: bytes, path: tuple[int, ...]) -> bytes:
    """Return the private key at a path of hardened BIP-32 steps."""
    node = hmac.digest(b"Bitcoin seed", seed, hashlib.sha512)
    for step in path:
        data = b"\0" + node[:32] + (step + _HARDENED).to_bytes(4, "big")
        child = hmac.digest(node[32:], data, hashlib.sha512)
        key = (int.from_bytes(child[:32], "big") + int.from_bytes(node[:32], "big")) % ORDER
        if key == 0 or int.from_bytes(child[:32], "big") >= ORDER:
            raise SetupError("this seed has no key at that path (odds of 2⁻¹²⁷): make another with `metergate init`")
        node = key.to_bytes(32, "big") + child[32:]
    return node[:32]


def key_ring(seed: bytes, lanes: int) -> KeyRing:
    """Return the keys of a gateway with `lanes` lanes."""

    def key(role: Role, index: int = 0) -> Key:
        private = derive(seed, (44, 60, role, index))
        return Key(private, key_address(private))

    return KeyRing(
        authorizer=key(Role.AUTHORIZER),
        lanes=tuple(key(Role.LANE, index) for index in range(lanes)),
        treasury=key(Role.TREASURY),
        operator=key(Role.OPERATOR),
    )


def new_seed() -> bytes:
    """Return 32 random bytes."""
    return secrets.token_bytes(32)


def write_seed(path: Path, seed: bytes, passphrase: bytes) -> None:
    """Write the seed encrypted with the passphrase (scrypt, AES-256-GCM), mode 0600; never over an older file."""
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    sealed = AESGCM(_stretch(passphrase, salt)).encrypt(nonce, seed, b"metergate seed 1")
    body = {
        "format": "metergate seed 1",
        "kdf": {"name": "scrypt", "n": _SCRYPT_N, "r": _SCRYPT_R, "p": _SCRYPT_P, "salt": salt.hex()},
        "cipher": {"name": "AES-256-GCM", "nonce": nonce.hex(), "sealed": sealed.hex()},
    }
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise SetupError(f"{path} exists; a key file is never overwritten. Move it away first.") from error
    except OSError as error:
        raise SetupError(f"cannot write the key file {path}: {error.strerror}.") from error
    with os.fdopen(descriptor, "w") as file:
        json.dump(body, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def read_seed(path: Path, passphrase: bytes) -> bytes:
    """Return the seed in a key file. Raises SetupError for a missing, damaged, open or wrongly unlocked file."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SetupError(
            f"the key file {path} is missing. `metergate init` makes one; a lost one needs its backup."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"cannot read the key file {path}: {error}.") from error
    if mode & 0o077:
        raise SetupError(f"the key file {path} is open to other users: `chmod 600 {path}`.")
    try:
        body = json.loads(text)
        salt = bytes.fromhex(body["kdf"]["salt"])
        nonce, sealed = bytes.fromhex(body["cipher"]["nonce"]), bytes.fromhex(body["cipher"]["sealed"])
    except (ValueError, KeyError, TypeError) as error:
        raise SetupError(f"{path} is not a Metergate key file.") from error
    try:
        return AESGCM(_stretch(passphrase, salt)).decrypt(nonce, sealed, b"metergate seed 1")
    except (InvalidTag, ValueError) as error:
        raise SetupError(f"the passphrase does not open {path}.") from error


def _stretch(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P).derive(passphrase)
