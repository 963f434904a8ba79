"""Call data of every contract function in use, and the shapes of what views return (docs/protocol.md 1).

Addresses are 20 bytes, ids and salts 32, amounts token base units. Each function returns call data, ready for
a transaction or `eth_call`. Values that do not fit the contract's types raise ValueError.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from channels.types import Address, Authorization, ChannelConfig, ChannelId, Signature
from settlement.abi import call_data, decode, encode
from settlement.errors import ChainMisbehaved

MULTICALL3_ADDRESS = bytes.fromhex("cA11bde05977b3631167028862bE2a173976CA11")

CONFIG = "(address,address,address,address,address,uint40,bytes32)"
VOUCHER_CLAIM = f"(({CONFIG},uint128),bytes,uint128)"

# What views return, for `decode`.
CHANNEL_RESULT = "(uint128,uint128)"
WITHDRAWAL_RESULT = "(uint128,uint40)"
RECEIVER_RESULT = "(uint128,uint128)"
UINT_RESULT = "(uint256)"
BOOL_RESULT = "(bool)"
STRING_RESULT = "(string)"
BYTES32_RESULT = "(bytes32)"


@dataclass(frozen=True, slots=True)
class VoucherClaim:
    """One row of a claim: the voucher as the payer signed it, and the new cumulative amount to claim."""

    config: ChannelConfig
    max_claimable: int
    signature: Signature
    total_claimed: int


def _config(config: ChannelConfig) -> tuple[Any, ...]:
    return (
        config.payer,
        config.payer_authorizer,
        config.receiver,
        config.receiver_authorizer,
        config.token,
        config.withdraw_delay,
        config.salt,
    )


def _rows(rows: Sequence[VoucherClaim]) -> tuple[Any, ...]:
    return tuple(((_config(row.config), row.max_claimable), row.signature, row.total_claimed) for row in rows)


def collector_data(authorization: Authorization) -> bytes:
    """Return `collectorData` of the ERC-3009 deposit collector."""
    return encode(
        "(uint256,uint256,uint256,bytes)",
        (
            authorization.valid_after,
            authorization.valid_before,
            authorization.salt,
            authorization.signature,
        ),
    )


def deposit(config: ChannelConfig, amount: int, collector: Address, data: bytes) -> bytes:
    """Pay `amount` into the channel through a deposit collector."""
    return call_data(f"deposit({CONFIG},uint128,address,bytes)", _config(config), amount, collector, data)


def claim(rows: Sequence[VoucherClaim]) -> bytes:
    """Claim by the receiver or the receiver's authorizer of every row."""
    return call_data(f"claim({VOUCHER_CLAIM}[])", _rows(rows))


def claim_with_signature(rows: Sequence[VoucherClaim], signature: Signature) -> bytes:
    """Claim by anyone, with the receiver authorizer's signature over the whole batch."""
    return call_data(f"claimWithSignature({VOUCHER_CLAIM}[],bytes)", _rows(rows), signature)


def settle(receiver: Address, token: Address) -> bytes:
    """Move what was claimed for `receiver` to it."""
    return call_data("settle(address,address)", receiver, token)


def refund(config: ChannelConfig, amount: int) -> bytes:
    """Give `amount` back to the payer, by the receiver's side."""
    return call_data(f"refund({CONFIG},uint128)", _config(config), amount)


def refund_with_signature(config: ChannelConfig, amount: int, nonce: int, signature: Signature) -> bytes:
    """Give `amount` back to the payer, by anyone with the receiver authorizer's signature."""
    return call_data(f"refundWithSignature({CONFIG},uint128,uint256,bytes)", _config(config), amount, nonce, signature)


def multicall(parts: Sequence[bytes]) -> bytes:
    """Run several calls of the settlement contract in one transaction; one that reverts reverts all."""
    return call_data("multicall(bytes[])", tuple(parts))


def initiate_withdraw(config: ChannelConfig, amount: int) -> bytes:
    """Start a withdrawal, by the payer's side."""
    return call_data(f"initiateWithdraw({CONFIG},uint128)", _config(config), amount)


def finalize_withdraw(config: ChannelConfig) -> bytes:
    """End a withdrawal whose delay is over, by the payer's side."""
    return call_data(f"finalizeWithdraw({CONFIG})", _config(config))


def pay(token: Address, rows: Sequence[tuple[Address, int]]) -> bytes:
    """Pay each (payee, cumulative amount) the part not paid before (CumulativePayouts)."""
    return call_data("pay(address,(address,uint128)[])", token, tuple(rows))


def transfer(to: Address, amount: int) -> bytes:
    """ERC-20 `transfer`."""
    return call_data("transfer(address,uint256)", to, amount)


def approve(spender: Address, amount: int) -> bytes:
    """ERC-20 `approve`."""
    return call_data("approve(address,uint256)", spender, amount)


def channels_view(channel: ChannelId) -> bytes:
    """View of (balance, totalClaimed): CHANNEL_RESULT."""
    return call_data("channels(bytes32)", channel)


def withdrawal_view(channel: ChannelId) -> bytes:
    """View of (amount, initiatedAt) of the pending withdrawal: WITHDRAWAL_RESULT."""
    return call_data("pendingWithdrawals(bytes32)", channel)


def receivers_view(receiver: Address, token: Address) -> bytes:
    """View of (totalClaimed, totalSettled): RECEIVER_RESULT."""
    return call_data("receivers(address,address)", receiver, token)


def refund_nonce_view(channel: ChannelId) -> bytes:
    """View of the next refund nonce: UINT_RESULT."""
    return call_data("refundNonce(bytes32)", channel)


def channel_id_view(config: ChannelConfig) -> bytes:
    """View of a configuration's channel id: BYTES32_RESULT."""
    return call_data(f"getChannelId({CONFIG})", _config(config))


def paid_view(sender: Address, token: Address, payee: Address) -> bytes:
    """View of what `sender` has paid `payee` over all time (CumulativePayouts): UINT_RESULT."""
    return call_data("paid(address,address,address)", sender, token, payee)


def balance_view(owner: Address) -> bytes:
    """ERC-20 `balanceOf`: UINT_RESULT."""
    return call_data("balanceOf(address)", owner)


def allowance_view(owner: Address, spender: Address) -> bytes:
    """ERC-20 `allowance`: UINT_RESULT."""
    return call_data("allowance(address,address)", owner, spender)


def authorization_view(payer: Address, nonce: bytes) -> bytes:
    """ERC-3009 `authorizationState`: BOOL_RESULT."""
    return call_data("authorizationState(address,bytes32)", payer, nonce)


def text_view(name: str) -> bytes:
    """A view without arguments, such as `name`, `version`, `decimals` or `DOMAIN_SEPARATOR`."""
    return call_data(f"{name}()")


def aggregate3(parts: Sequence[tuple[Address, bytes]], *, allow_failure: bool) -> bytes:
    """Multicall3: run several (target, call data) in one call."""
    return call_data(
        "aggregate3((address,bool,bytes)[])",
        tuple((target, allow_failure, data) for target, data in parts),
    )


def aggregate3_results(data: bytes, count: int) -> list[tuple[bool, bytes]]:
    """Return (success, return data) of each part. Raises ChainMisbehaved unless there are `count` of them."""
    (results,) = decode("((bool,bytes)[])", data)
    if len(results) != count:
        raise ChainMisbehaved(f"Multicall3 answered {len(results)} of {count} calls")
    return list(results)
