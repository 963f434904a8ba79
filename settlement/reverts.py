"""Names for what contracts revert with."""

from settlement.abi import decode, selector
from settlement.errors import ChainMisbehaved
from settlement.port import Revert

# Without arguments, as the public settlement contract and ours use them (docs/protocol.md 1).
SETTLEMENT_ERRORS = (
    "InvalidChannel",
    "ZeroDeposit",
    "DepositOverflow",
    "InvalidSignature",
    "NotReceiverAuthorizer",
    "NotAuthorizedToClaim",
    "NotAuthorizedToRefund",
    "ClaimExceedsCeiling",
    "ClaimExceedsBalance",
    "WithdrawalAlreadyPending",
    "WithdrawalNotPending",
    "NotAuthorizedToFinalizeWithdraw",
    "WithdrawDelayNotElapsed",
    "NothingToWithdraw",
    "WithdrawAmountExceedsAvailable",
    "WithdrawDelayOutOfRange",
    "EmptyBatch",
    "DepositCollectionFailed",
    "InvalidCollector",
    "InvalidRefundNonce",
    "ZeroRefund",
)

_NAMES = {selector(f"{name}()"): name for name in SETTLEMENT_ERRORS}
_ERROR_STRING = selector("Error(string)")
_PANIC = selector("Panic(uint256)")

# Reasons are shown to people and kept in journals; a contract of others may revert with any amount of data.
REASON_LENGTH_MAX = 200
REVERT_DATA_MAX = 1024


def revert_of(data: bytes) -> Revert:
    """Return the revert that this data stands for; never raises, whatever the data is."""
    kept = data[:REVERT_DATA_MAX]
    head, body = data[:4], data[4:]
    if head in _NAMES:
        return Revert(_NAMES[head], kept)
    try:
        if head == _ERROR_STRING:
            (text,) = decode("(string)", body)
            printable = "".join(char if char.isprintable() else "?" for char in text[:REASON_LENGTH_MAX])
            return Revert(printable or "no reason given", kept)
        if head == _PANIC:
            (code,) = decode("(uint256)", body)
            return Revert(f"panic 0x{code:02x}", kept)
    except ChainMisbehaved:  # the selector of a known error before other bytes: named by its selector below
        pass
    return Revert(f"0x{head.hex()}" if head else "no reason given", kept)
