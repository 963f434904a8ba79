# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Erc3009DepositCollector
@license Apache-2.0
@notice Brings a payer's tokens into BatchSettlement by an ERC-3009 authorization, so that the payer needs no
        gas and whoever holds the signature may submit the deposit (docs/protocol.md 1).
@dev    ERC-3009 lets only the named recipient redeem a receive authorization. That is this contract, and it
        acts for the settlement contract alone. The authorization's nonce is bound to the channel, so it
        cannot be spent on another one. No state of its own.
"""

from ethereum.ercs import IERC20

import signatures

# The bytes form: it also carries the signature of a wallet contract.
interface IERC3009:
    def receiveWithAuthorization(
        owner: address,
        to: address,
        amount: uint256,
        validAfter: uint256,
        validBefore: uint256,
        nonce: bytes32,
        signature: Bytes[MAX_SIGNATURE],
    ): nonpayable

SETTLEMENT: constant(address) = 0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003

MAX_SIGNATURE: constant(uint256) = signatures.MAX_SIGNATURE
# As in BatchSettlement.
MAX_COLLECTOR_DATA: constant(uint256) = 4096


@external
@view
def x402BatchSettlement() -> address:
    """
    @notice The one contract that may call `collect`.
    """
    return SETTLEMENT


@external
def collect(
    payer: address, token: address, amount: uint256, channelId: bytes32, collectorData: Bytes[MAX_COLLECTOR_DATA]
):
    """
    @notice Redeems the authorization in `collectorData` and passes the tokens on.
    @param collectorData abi.encode(uint256 validAfter, uint256 validBefore, uint256 salt, bytes signature)
    """
    if msg.sender != SETTLEMENT:
        raw_revert(method_id("OnlyX402BatchSettlement()"))
    valid_after: uint256 = 0
    valid_before: uint256 = 0
    salt: uint256 = 0
    signature: Bytes[MAX_SIGNATURE] = b""
    valid_after, valid_before, salt, signature = abi_decode(
        collectorData, (uint256, uint256, uint256, Bytes[MAX_SIGNATURE])
    )
    extcall IERC3009(token).receiveWithAuthorization(
        payer, self, amount, valid_after, valid_before, keccak256(abi_encode(channelId, salt)), signature
    )
    if not extcall IERC20(token).transfer(SETTLEMENT, amount, default_return_value=True):
        raw_revert(abi_encode(token, method_id=method_id("SafeERC20FailedOperation(address)")))
