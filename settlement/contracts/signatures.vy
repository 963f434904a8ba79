# pragma version 0.4.3
# pragma evm-version cancun
"""
@title signatures
@license Apache-2.0
@notice How BatchSettlement and TestUSD check signatures; a module, not a contract of its own.
"""

# A wallet contract's signature is seldom above 1 KiB (passkeys, multisigs); this is twice that.
MAX_SIGNATURE: constant(uint256) = 2048

# Signatures above this order have a twin below it: only the lower one counts.
HALF_CURVE_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168
EIP1271_MAGIC: constant(bytes32) = 0x1626ba7e00000000000000000000000000000000000000000000000000000000
DOMAIN_TYPEHASH: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)


@internal
@view
def domain_separator(name_hash: bytes32, version_hash: bytes32) -> bytes32:
    """
    @dev Of this contract on this chain, computed each time: there is no constructor to keep it.
    """
    return keccak256(abi_encode(DOMAIN_TYPEHASH, name_hash, version_hash, chain.id, self))


@internal
@pure
def digest(domain: bytes32, struct_hash: bytes32) -> bytes32:
    """
    @dev What is signed, by EIP-712.
    """
    return keccak256(concat(x"1901", domain, struct_hash))


@internal
@pure
def recover(digest: bytes32, signature: Bytes[MAX_SIGNATURE]) -> address:
    """
    @dev The key's address; zero for anything but r, s, v of 65 bytes with a low s and v of 27 or 28.
    """
    if len(signature) != 65:
        return empty(address)
    s: uint256 = extract32(signature, 32, output_type=uint256)
    v: uint256 = convert(slice(signature, 64, 1), uint256)
    if s > HALF_CURVE_ORDER or (v != 27 and v != 28):
        return empty(address)
    return ecrecover(digest, v, extract32(signature, 0, output_type=uint256), s)


@internal
@view
def signed_by(signer: address, digest: bytes32, signature: Bytes[MAX_SIGNATURE]) -> bool:
    """
    @dev An account with code answers for itself by EIP-1271, any other by its key; never both.
    """
    if signer.codesize == 0:
        return signer != empty(address) and self.recover(digest, signature) == signer
    success: bool = False
    answer: Bytes[32] = b""
    success, answer = raw_call(
        signer,
        abi_encode(digest, signature, method_id=method_id("isValidSignature(bytes32,bytes)")),
        max_outsize=32,
        is_static_call=True,
        revert_on_failure=False,
    )
    return success and len(answer) == 32 and convert(answer, bytes32) == EIP1271_MAGIC
