"""Keys: derivation by the public vectors of BIP-32, and the seed at rest."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from channels.signatures import key_address
from gateway.errors import SetupError
from gateway.keys import Role, derive, key_ring, new_seed, read_seed, write_seed

PASSPHRASE = b"correct horse battery"
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def private_of(xprv: str) -> bytes:
    """Return the key in a serialised extended private key; its checksum is checked."""
    number = 0
    for digit in xprv:
        number = number * 58 + _ALPHABET.index(digit)
    data = number.to_bytes(82, "big")
    assert sha256(sha256(data[:78]).digest()).digest()[:4] == data[78:], "a mistyped vector"
    assert data[:4] == bytes.fromhex("0488ade4")
    return data[46:78]


# The public test vectors of BIP-32, as far as their steps are hardened.
VECTORS = [
    (
        "000102030405060708090a0b0c0d0e0f",
        (),
        "xprv9s21ZrQH143K3QTDL4LXw2F7HEK3wJUD2nW2nRk4stbPy6cq3jPPqjiChkVvvNKmPGJxWUtg6LnF5kejMRNNU3TGtRBeJgk33yuGBxrMPHi",
    ),
    (
        "000102030405060708090a0b0c0d0e0f",
        (0,),
        "xprv9uHRZZhk6KAJC1avXpDAp4MDc3sQKNxDiPvvkX8Br5ngLNv1TxvUxt4cV1rGL5hj6KCesnDYUhd7oWgT11eZG7XnxHrnYeSvkzY7d2bhkJ7",
    ),
    (  # a key with leading zeros
        "4b381541583be4423346c643850da4b320e46a87ae3d2a4e6da11eba819cd4acba45d239319ac14f863b8d5ab5a0d0c64d2e8a1e7d1457df2e5a3c51c73235be",
        (),
        "xprv9s21ZrQH143K25QhxbucbDDuQ4naNntJRi4KUfWT7xo4EKsHt2QJDu7KXp1A3u7Bi1j8ph3EGsZ9Xvz9dGuVrtHHs7pXeTzjuxBrCmmhgC6",
    ),
    (
        "4b381541583be4423346c643850da4b320e46a87ae3d2a4e6da11eba819cd4acba45d239319ac14f863b8d5ab5a0d0c64d2e8a1e7d1457df2e5a3c51c73235be",
        (0,),
        "xprv9uPDJpEQgRQfDcW7BkF7eTya6RPxXeJCqCJGHuCJ4GiRVLzkTXBAJMu2qaMWPrS7AANYqdq6vcBcBUdJCVVFceUvJFjaPdGZ2y9WACViL4L",
    ),
    (
        "3ddd5602285899a946114506157c7997e5444528f3003f6134712147db19b678",
        (),
        "xprv9s21ZrQH143K48vGoLGRPxgo2JNkJ3J3fqkirQC2zVdk5Dgd5w14S7fRDyHH4dWNHUgkvsvNDCkvAwcSHNAQwhwgNMgZhLtQC63zxwhQmRv",
    ),
    (
        "3ddd5602285899a946114506157c7997e5444528f3003f6134712147db19b678",
        (0,),
        "xprv9vB7xEWwNp9kh1wQRfCCQMnZUEG21LpbR9NPCNN1dwhiZkjjeGRnaALmPXCX7SgjFTiCTT6bXes17boXtjq3xLpcDjzEuGLQBM5ohqkao9G",
    ),
    (
        "3ddd5602285899a946114506157c7997e5444528f3003f6134712147db19b678",
        (0, 1),
        "xprv9xJocDuwtYCMNAo3Zw76WENQeAS6WGXQ55RCy7tDJ8oALr4FWkuVoHJeHVAcAqiZLE7Je3vZJHxspZdFHfnBEjHqU5hG1Jaj32dVoS6XLT1",
    ),
]


@pytest.mark.parametrize(("seed", "path", "expected"), VECTORS)
def test_derivation_by_the_public_vectors(seed: str, path: tuple[int, ...], expected: str) -> None:
    assert derive(bytes.fromhex(seed), path) == private_of(expected)


def test_roles_and_lanes_have_keys_of_their_own() -> None:
    seed = bytes(range(32))
    ring = key_ring(seed, 64)
    keys = [*ring.lanes, ring.authorizer, ring.treasury, ring.operator]
    assert len({key.private for key in keys}) == 67
    assert ring.addresses == {key.address for key in keys}
    assert all(key_address(key.private) == key.address for key in keys)
    assert ring.lanes[3].private == derive(seed, (44, 60, Role.LANE, 3))
    # More lanes leave those that there were; another seed has nothing in common.
    assert key_ring(seed, 2).lanes == ring.lanes[:2]
    assert not key_ring(new_seed(), 64).addresses & ring.addresses


def test_the_path_is_never_changed() -> None:
    """Addresses of a fixed seed: another derivation would lose the money of every gateway."""
    assert [(role.name, role.value) for role in Role] == [
        ("AUTHORIZER", 0), ("LANE", 1), ("TREASURY", 2), ("OPERATOR", 3),
    ]  # fmt: skip
    seed = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
    ring = key_ring(seed, 1)
    assert ring.treasury.private == derive(seed, (44, 60, 2, 0))
    assert ring.operator.private == derive(seed, (44, 60, 3, 0))
    assert ring.authorizer.private == derive(seed, (44, 60, 0, 0))


def test_a_key_is_never_printed() -> None:
    ring = key_ring(bytes(range(32)), 2)
    for text in (repr(ring), str(ring.treasury), f"{ring.lanes[0]}"):
        assert "0x" in text
        for key in (*ring.lanes, ring.treasury):
            assert key.private.hex() not in text
            assert repr(key.private) not in text


def test_a_seed_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    seed = new_seed()
    write_seed(path, seed, PASSPHRASE)
    assert len(seed) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert seed.hex() not in path.read_text()
    assert read_seed(path, PASSPHRASE) == seed
    other = tmp_path / "other.json"
    write_seed(other, seed, PASSPHRASE)
    assert other.read_text() != path.read_text(), "salt and nonce are used twice"


@pytest.mark.parametrize("wrong", [b"", b"correct horse batter", b"correct horse battery ", b"\xff"])
def test_a_wrong_passphrase_opens_nothing(tmp_path: Path, wrong: bytes) -> None:
    path = tmp_path / "keys.json"
    write_seed(path, new_seed(), PASSPHRASE)
    with pytest.raises(SetupError, match="passphrase does not open"):
        read_seed(path, wrong)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o666])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.json"
    write_seed(path, new_seed(), PASSPHRASE)
    path.chmod(mode)
    with pytest.raises(SetupError, match="chmod 600"):
        read_seed(path, PASSPHRASE)
    path.chmod(0o400)
    assert len(read_seed(path, PASSPHRASE)) == 32


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_seed(path, new_seed(), PASSPHRASE)
    before = path.read_bytes()
    with pytest.raises(SetupError, match="never overwritten"):
        write_seed(path, new_seed(), PASSPHRASE)
    assert path.read_bytes() == before
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "nowhere.json")
    with pytest.raises(SetupError):
        write_seed(link, new_seed(), PASSPHRASE)
    assert not (tmp_path / "nowhere.json").exists()


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="missing"):
        read_seed(tmp_path / "keys.json", PASSPHRASE)
    with pytest.raises(SetupError, match="cannot read"):
        read_seed(tmp_path, PASSPHRASE)
    with pytest.raises(SetupError):
        write_seed(tmp_path / "nowhere" / "keys.json", new_seed(), PASSPHRASE)


def _private(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"5", b"null", b'"text"', b"\xff\xfe", b'{"kdf": 5, "cipher": 6}',
        b'{"kdf": {"salt": "zz"}, "cipher": {"nonce": "", "sealed": ""}}',
        b'{"kdf": {"salt": 5}, "cipher": {"nonce": "00", "sealed": "00"}}',
        b'{"kdf": {"salt": "00"}, "cipher": {"nonce": "", "sealed": ""}}',
        b'{"kdf": {"salt": "00"}, "cipher": {"nonce": "00", "sealed": "00"}}',
    ],
)  # fmt: skip
def test_what_is_no_key_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SetupError):
        read_seed(_private(tmp_path / "keys.json", content), PASSPHRASE)


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_seed(path, new_seed(), PASSPHRASE)
    text = path.read_text()
    body = json.loads(text)
    for part, name in (("kdf", "salt"), ("cipher", "nonce"), ("cipher", "sealed")):
        value = body[part][name]
        for at in (0, len(value) - 1):
            other = value[:at] + ("0" if value[at] != "0" else "1") + value[at + 1 :]
            damaged = body | {part: body[part] | {name: other}}
            with pytest.raises(SetupError, match="does not open"):
                read_seed(_private(tmp_path / "damaged.json", json.dumps(damaged).encode()), PASSPHRASE)
    for cut in (1, len(text) // 2, len(text) - 2):
        with pytest.raises(SetupError):
            read_seed(_private(tmp_path / "damaged.json", text[:cut].encode()), PASSPHRASE)
