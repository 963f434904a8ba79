# pragma version 0.4.3
# pragma evm-version cancun
"""
@title CumulativePayouts
@license Apache-2.0
@notice Pays many payees in one transaction, each up to a cumulative total (docs/protocol.md 1).
@dev    A row names what its payee shall have received from this sender in all, not what to send now. So a
        batch may be sent twice, late, or overlapping another one, and nobody is ever paid twice. The sender
        keeps the tokens and approves this contract.
"""

from ethereum.ercs import IERC20

struct Payout:
    payee: address
    cumulative: uint128

event Paid:
    sender: indexed(address)
    token: indexed(address)
    payee: indexed(address)
    amount: uint128
    cumulative: uint128

# 256 rows take 16 KiB of memory (2,000 gas) and about 9 million gas when every payee is new.
MAX_ROWS: constant(uint256) = 256

# What each payee has received, by sender, token and payee.
paid: public(HashMap[address, HashMap[address, HashMap[address, uint128]]])


@external
@nonreentrant
def pay(token: address, payouts: DynArray[Payout, MAX_ROWS]):
    """
    @notice Brings every payee's total up to its row's; rows at or below what is paid already are skipped.
    @dev Reverts as a whole when one transfer fails. Each row is recorded before its tokens move.
    """
    for payout: Payout in payouts:
        before: uint128 = self.paid[msg.sender][token][payout.payee]
        if payout.cumulative <= before:
            continue
        amount: uint128 = payout.cumulative - before
        self.paid[msg.sender][token][payout.payee] = payout.cumulative
        # A token may return nothing, but it must have code and must not return false.
        if not extcall IERC20(token).transferFrom(
            msg.sender, payout.payee, convert(amount, uint256), default_return_value=True
        ):
            raw_revert(abi_encode(token, method_id=method_id("SafeERC20FailedOperation(address)")))
        log Paid(
            sender=msg.sender, token=token, payee=payout.payee, amount=amount, cumulative=payout.cumulative
        )
