# pragma version 0.4.3
# pragma evm-version cancun
"""
@notice A wallet contract for tests (EIP-1271). The last 65 bytes of a signature are its owner's, what comes before is
        padding. Modes: 1 the wrong magic, 2 reverts, 3 answers four bytes only, 4 magic with more data behind it.
"""

MAGIC: constant(bytes4) = 0x1626ba7e

owner: public(address)
mode: public(uint256)


@external
def set_up(owner: address, mode: uint256):
    self.owner = owner
    self.mode = mode


@external
@view
@raw_return
def isValidSignature(digest: bytes32, signature: Bytes[4096]) -> Bytes[64]:
    if self.mode == 2:
        raise "no"
    if len(signature) < 65:
        return abi_encode(empty(bytes4))
    own: Bytes[65] = slice(signature, len(signature) - 65, 65)
    v: uint256 = convert(slice(own, 64, 1), uint256)
    signer: address = ecrecover(digest, v, extract32(own, 0, output_type=uint256), extract32(own, 32, output_type=uint256))
    if signer != self.owner or self.mode == 1:
        return abi_encode(empty(bytes4))
    if self.mode == 3:
        return concat(MAGIC, b"")
    if self.mode == 4:
        return abi_encode(MAGIC, max_value(uint256))
    return abi_encode(MAGIC)
