# pragma version 0.4.3
# pragma evm-version cancun
"""
@title TestUSD
@license Apache-2.0
@notice A stablecoin for sites, demos and tests: ERC-20 with six decimals, ERC-2612 permits and ERC-3009
        authorizations, signed under the EIP-712 name and version that USDC uses. It has no value.
@dev    - No constructor: genesis writes balances, totalSupply and the owner straight into storage. The slots
          are in the artifact's storage layout and stay in the order below.
        - ERC-3009 and permits come in two forms, (v, r, s) and `bytes signature`. Vyper has no overloads, so
          `__default__` dispatches the second form and compile.py appends its ABI entries.
        - A signature by an account with code is checked by EIP-1271, any other by its key (low s, v 27 or 28).
"""

from ethereum.ercs import IERC20

import signatures

implements: IERC20

# What one ERC-3009 authorization signs, after its type hash.
struct Authorization:
    holder: address
    receiver: address
    amount: uint256
    validAfter: uint256
    validBefore: uint256
    nonce: bytes32

event Transfer:
    sender: indexed(address)
    receiver: indexed(address)
    value: uint256

event Approval:
    owner: indexed(address)
    spender: indexed(address)
    value: uint256

event AuthorizationUsed:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

event AuthorizationCanceled:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

name: public(constant(String[8])) = "USD Coin"
symbol: public(constant(String[5])) = "tUSDC"
decimals: public(constant(uint8)) = 6
version: public(constant(String[1])) = "2"

PERMIT_TYPEHASH: public(constant(bytes32)) = keccak256(
    "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
)
TRANSFER_WITH_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
RECEIVE_WITH_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
CANCEL_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "CancelAuthorization(address authorizer,bytes32 nonce)"
)
MAX_SIGNATURE: constant(uint256) = signatures.MAX_SIGNATURE
# Seven words, a length and a signature behind a selector.
MAX_CALLDATA: constant(uint256) = 4 + 32 * 8 + MAX_SIGNATURE
IDENTITY: constant(address) = 0x0000000000000000000000000000000000000004

balanceOf: public(HashMap[address, uint256])
totalSupply: public(uint256)
owner: public(address)
allowance: public(HashMap[address, HashMap[address, uint256]])
nonces: public(HashMap[address, uint256])
authorizationState: public(HashMap[address, HashMap[bytes32, bool]])


# ------------------------------------------------------------------------------------------------ ERC-20

@external
def transfer(receiver: address, amount: uint256) -> bool:
    """
    @notice Moves `amount` of the caller's tokens.
    """
    self._move(msg.sender, receiver, amount)
    return True


@external
def transferFrom(sender: address, receiver: address, amount: uint256) -> bool:
    """
    @notice Moves `amount` out of the caller's allowance; an allowance of 2**256 - 1 is never used up.
    """
    allowed: uint256 = self.allowance[sender][msg.sender]
    if allowed != max_value(uint256):
        assert amount <= allowed, "transfer amount exceeds allowance"
        self.allowance[sender][msg.sender] = allowed - amount
    self._move(sender, receiver, amount)
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    """
    @notice Lets `spender` move `amount` of the caller's tokens.
    """
    self._approve(msg.sender, spender, amount)
    return True


@external
def mint(receiver: address, amount: uint256):
    """
    @notice Creates tokens; only the owner of genesis may, and a zero owner is nobody.
    """
    assert msg.sender == self.owner, "caller is not the owner"
    assert receiver != empty(address), "transfer to the zero address"
    self.totalSupply += amount
    self.balanceOf[receiver] += amount
    log Transfer(sender=empty(address), receiver=receiver, value=amount)


# -------------------------------------------------------------------------------------- permit, ERC-3009

@external
@view
def DOMAIN_SEPARATOR() -> bytes32:
    """
    @notice The EIP-712 domain separator of this address on this chain.
    """
    return self._domain_separator()


@external
def permit(holder: address, spender: address, amount: uint256, deadline: uint256, v: uint8, r: bytes32, s: bytes32):
    """
    @notice Approves by the holder's signature (ERC-2612).
    """
    self._permit(holder, spender, amount, deadline, self._joined(v, r, s))


@external
def transferWithAuthorization(
    holder: address,
    receiver: address,
    amount: uint256,
    validAfter: uint256,
    validBefore: uint256,
    nonce: bytes32,
    v: uint8,
    r: bytes32,
    s: bytes32,
):
    """
    @notice Moves tokens by the holder's signature; anyone may submit it.
    """
    authorization: Authorization = Authorization(
        holder=holder, receiver=receiver, amount=amount, validAfter=validAfter, validBefore=validBefore, nonce=nonce
    )
    self._redeem(TRANSFER_WITH_AUTHORIZATION_TYPEHASH, authorization, self._joined(v, r, s))


@external
def receiveWithAuthorization(
    holder: address,
    receiver: address,
    amount: uint256,
    validAfter: uint256,
    validBefore: uint256,
    nonce: bytes32,
    v: uint8,
    r: bytes32,
    s: bytes32,
):
    """
    @notice Moves tokens by the holder's signature; only the receiver may submit it.
    """
    authorization: Authorization = Authorization(
        holder=holder, receiver=receiver, amount=amount, validAfter=validAfter, validBefore=validBefore, nonce=nonce
    )
    self._receive(authorization, self._joined(v, r, s))


@external
def cancelAuthorization(authorizer: address, nonce: bytes32, v: uint8, r: bytes32, s: bytes32):
    """
    @notice Makes an unused nonce unusable, by its authorizer's signature.
    """
    self._cancel(authorizer, nonce, self._joined(v, r, s))


@external
def __default__():
    """
    @dev The forms with `bytes signature`, by selector; anything else reverts. The identity precompile brings
         the calldata into memory, where it can be decoded; what lies beyond the longest call is dropped.
    """
    calldata: Bytes[MAX_CALLDATA] = raw_call(IDENTITY, msg.data, max_outsize=MAX_CALLDATA, is_static_call=True)
    selector: bytes4 = convert(slice(calldata, 0, 4), bytes4)
    arguments: Bytes[MAX_CALLDATA] = slice(calldata, 4, len(calldata) - 4)
    authorization: Authorization = empty(Authorization)
    signature: Bytes[MAX_SIGNATURE] = b""
    holder: address = empty(address)
    if selector == method_id(
        "receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)", output_type=bytes4
    ):
        authorization, signature = self._authorization(arguments)
        self._receive(authorization, signature)
    elif selector == method_id(
        "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)", output_type=bytes4
    ):
        authorization, signature = self._authorization(arguments)
        self._redeem(TRANSFER_WITH_AUTHORIZATION_TYPEHASH, authorization, signature)
    elif selector == method_id("cancelAuthorization(address,bytes32,bytes)", output_type=bytes4):
        nonce: bytes32 = empty(bytes32)
        holder, nonce, signature = abi_decode(arguments, (address, bytes32, Bytes[MAX_SIGNATURE]))
        self._cancel(holder, nonce, signature)
    elif selector == method_id("permit(address,address,uint256,uint256,bytes)", output_type=bytes4):
        spender: address = empty(address)
        amount: uint256 = 0
        deadline: uint256 = 0
        holder, spender, amount, deadline, signature = abi_decode(
            arguments, (address, address, uint256, uint256, Bytes[MAX_SIGNATURE])
        )
        self._permit(holder, spender, amount, deadline, signature)
    else:
        raise "unknown function"


# ---------------------------------------------------------------------------------------------- internals

@internal
def _move(sender: address, receiver: address, amount: uint256):
    assert receiver != empty(address), "transfer to the zero address"
    held: uint256 = self.balanceOf[sender]
    assert amount <= held, "transfer amount exceeds balance"
    self.balanceOf[sender] = held - amount
    self.balanceOf[receiver] += amount
    log Transfer(sender=sender, receiver=receiver, value=amount)


@internal
def _approve(holder: address, spender: address, amount: uint256):
    assert spender != empty(address), "approve to the zero address"
    self.allowance[holder][spender] = amount
    log Approval(owner=holder, spender=spender, value=amount)


@internal
def _permit(
    holder: address, spender: address, amount: uint256, deadline: uint256, signature: Bytes[MAX_SIGNATURE]
):
    assert block.timestamp <= deadline, "permit is expired"
    nonce: uint256 = self.nonces[holder]
    struct_hash: bytes32 = keccak256(abi_encode(PERMIT_TYPEHASH, holder, spender, amount, nonce, deadline))
    self.nonces[holder] = nonce + 1
    self._require_signed(holder, struct_hash, signature)
    self._approve(holder, spender, amount)


@internal
def _receive(authorization: Authorization, signature: Bytes[MAX_SIGNATURE]):
    assert msg.sender == authorization.receiver, "caller is not the payee"
    self._redeem(RECEIVE_WITH_AUTHORIZATION_TYPEHASH, authorization, signature)


@internal
def _redeem(type_hash: bytes32, authorization: Authorization, signature: Bytes[MAX_SIGNATURE]):
    assert block.timestamp > authorization.validAfter, "authorization is not yet valid"
    assert block.timestamp < authorization.validBefore, "authorization is expired"
    self._use_up(authorization.holder, authorization.nonce)
    self._require_signed(authorization.holder, keccak256(abi_encode(type_hash, authorization)), signature)
    log AuthorizationUsed(authorizer=authorization.holder, nonce=authorization.nonce)
    self._move(authorization.holder, authorization.receiver, authorization.amount)


@internal
def _cancel(authorizer: address, nonce: bytes32, signature: Bytes[MAX_SIGNATURE]):
    self._use_up(authorizer, nonce)
    self._require_signed(
        authorizer, keccak256(abi_encode(CANCEL_AUTHORIZATION_TYPEHASH, authorizer, nonce)), signature
    )
    log AuthorizationCanceled(authorizer=authorizer, nonce=nonce)


@internal
def _use_up(authorizer: address, nonce: bytes32):
    """
    @dev Written before the signature is checked: a wallet contract that is asked for it finds the nonce used.
    """
    assert not self.authorizationState[authorizer][nonce], "authorization is used or canceled"
    self.authorizationState[authorizer][nonce] = True


@internal
@pure
def _authorization(arguments: Bytes[MAX_CALLDATA]) -> (Authorization, Bytes[MAX_SIGNATURE]):
    a: Authorization = empty(Authorization)
    signature: Bytes[MAX_SIGNATURE] = b""
    a.holder, a.receiver, a.amount, a.validAfter, a.validBefore, a.nonce, signature = abi_decode(
        arguments, (address, address, uint256, uint256, uint256, bytes32, Bytes[MAX_SIGNATURE])
    )
    return a, signature


@internal
@pure
def _joined(v: uint8, r: bytes32, s: bytes32) -> Bytes[65]:
    return concat(r, s, convert(v, bytes1))


@internal
@view
def _domain_separator() -> bytes32:
    return signatures.domain_separator(keccak256(name), keccak256(version))


@internal
@view
def _require_signed(signer: address, struct_hash: bytes32, signature: Bytes[MAX_SIGNATURE]):
    digest: bytes32 = signatures.digest(self._domain_separator(), struct_hash)
    assert signatures.signed_by(signer, digest, signature), "invalid signature"
