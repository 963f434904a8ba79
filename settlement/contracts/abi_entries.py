"""What a client's ABI needs and the compiler does not write, as compile.py's tables.

Three things: functions that a contract dispatches in `__default__`, custom errors, and names that Vyper reserves
(`from`, `value`) or leaves out (those of results and of getters' keys).
"""

from typing import Any

Entry = dict[str, Any]

_STRUCTS = {
    "ChannelConfig": (
        "address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,"
        "uint40 withdrawDelay,bytes32 salt"
    ),
    "Voucher": "ChannelConfig channel,uint128 maxClaimableAmount",
    "VoucherClaim": "Voucher voucher,bytes signature,uint128 totalClaimed",
    "Call": "address target,bytes callData",
    "Call3": "address target,bool allowFailure,bytes callData",
    "Call3Value": "address target,bool allowFailure,uint256 value,bytes callData",
    "Result": "bool success,bytes returnData",
}

_AUTHORIZATION = "address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce"
_TOKEN_FAILED = ("SafeERC20FailedOperation", "address token")

# Functions reached through `__default__`: name, parameters, results, mutability.
_FUNCTIONS = {
    "BatchSettlement": (
        ("claim", "VoucherClaim[] voucherClaims", "", "nonpayable"),
        ("claimWithSignature", "VoucherClaim[] voucherClaims,bytes authorizerSignature", "", "nonpayable"),
        ("getClaimBatchDigest", "VoucherClaim[] voucherClaims", "bytes32 ", "view"),
        ("multicall", "bytes[] data", "bytes[] results", "nonpayable"),
    ),
    "TestUSD": (
        ("permit", "address owner,address spender,uint256 value,uint256 deadline,bytes signature", "", "nonpayable"),
        ("transferWithAuthorization", f"{_AUTHORIZATION},bytes signature", "", "nonpayable"),
        ("receiveWithAuthorization", f"{_AUTHORIZATION},bytes signature", "", "nonpayable"),
        ("cancelAuthorization", "address authorizer,bytes32 nonce,bytes signature", "", "nonpayable"),
    ),
    "Multicall3": (
        ("aggregate", "Call[] calls", "uint256 blockNumber,bytes[] returnData", "payable"),
        ("tryAggregate", "bool requireSuccess,Call[] calls", "Result[] returnData", "payable"),
        (
            "tryBlockAndAggregate",
            "bool requireSuccess,Call[] calls",
            "uint256 blockNumber,bytes32 blockHash,Result[] returnData",
            "payable",
        ),
        (
            "blockAndAggregate",
            "Call[] calls",
            "uint256 blockNumber,bytes32 blockHash,Result[] returnData",
            "payable",
        ),
        ("aggregate3", "Call3[] calls", "Result[] returnData", "payable"),
        ("aggregate3Value", "Call3Value[] calls", "Result[] returnData", "payable"),
    ),
}

# Errors raised by their selectors: name, parameters.
_ERRORS = {
    "BatchSettlement": (
        *(
            (name, "")
            for name in (
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
        ),
        _TOKEN_FAILED,
    ),
    "Erc3009DepositCollector": (("OnlyX402BatchSettlement", ""), _TOKEN_FAILED),
    "CumulativePayouts": (_TOKEN_FAILED,),
}

# Names of a compiled entry's inputs and outputs where Vyper's differ; an empty list leaves them as they are.
_NAMES: dict[str, dict[str, tuple[list[str], list[str]]]] = {
    "BatchSettlement": {
        "channels": ([], ["balance", "totalClaimed"]),
        "pendingWithdrawals": ([], ["amount", "initiatedAt"]),
        "receivers": ([], ["totalClaimed", "totalSettled"]),
        "refundNonce": (["channelId"], []),
        "eip712Domain": (
            [],
            ["fields", "name", "version", "chainId", "verifyingContract", "salt", "extensions"],
        ),
    },
    "CumulativePayouts": {"paid": (["sender", "token", "payee"], [])},
    "TestUSD": {
        "Transfer": (["from", "to", "value"], []),
        "transfer": (["to", "value"], []),
        "transferFrom": (["from", "to", "value"], []),
        "approve": (["spender", "value"], []),
        "mint": (["to", "value"], []),
        "permit": (["owner", "spender", "value", "deadline", "v", "r", "s"], []),
        "transferWithAuthorization": (
            ["from", "to", "value", "validAfter", "validBefore", "nonce", "v", "r", "s"],
            [],
        ),
        "receiveWithAuthorization": (
            ["from", "to", "value", "validAfter", "validBefore", "nonce", "v", "r", "s"],
            [],
        ),
        "balanceOf": (["account"], []),
        "allowance": (["owner", "spender"], []),
        "nonces": (["owner"], []),
        "authorizationState": (["authorizer", "nonce"], []),
    },
    "Multicall3": {
        "getBlockNumber": ([], ["blockNumber"]),
        "getBlockHash": ([], ["blockHash"]),
        "getLastBlockHash": ([], ["blockHash"]),
        "getCurrentBlockTimestamp": ([], ["timestamp"]),
        "getCurrentBlockDifficulty": ([], ["difficulty"]),
        "getCurrentBlockGasLimit": ([], ["gaslimit"]),
        "getCurrentBlockCoinbase": ([], ["coinbase"]),
        "getBasefee": ([], ["basefee"]),
        "getChainId": ([], ["chainid"]),
        "getEthBalance": ([], ["balance"]),
    },
}


def _parameters(text: str) -> list[Entry]:
    """ABI parameters of a list like "address to,Call[] calls"; struct names become tuples."""
    parameters: list[Entry] = []
    for item in filter(None, text.split(",")):
        kind, _, name = item.partition(" ")
        struct = kind.removesuffix("[]")
        parameter: Entry = {"name": name, "type": kind}
        if struct in _STRUCTS:
            parameter["type"] = "tuple" + kind.removeprefix(struct)
            parameter["components"] = _parameters(_STRUCTS[struct])
        parameters.append(parameter)
    return parameters


def entries_beyond_vyper(contract: str) -> list[Entry]:
    """ABI entries of the functions dispatched in `__default__` and of the custom errors."""
    functions = [
        {
            "stateMutability": mutability,
            "type": "function",
            "name": name,
            "inputs": _parameters(inputs),
            "outputs": _parameters(outputs),
        }
        for name, inputs, outputs, mutability in _FUNCTIONS.get(contract, ())
    ]
    errors = [
        {"type": "error", "name": name, "inputs": _parameters(inputs)} for name, inputs in _ERRORS.get(contract, ())
    ]
    return functions + errors


def named(contract: str, entry: Entry) -> Entry:
    """A compiled entry with the names that clients know its inputs and outputs by."""
    inputs, outputs = _NAMES.get(contract, {}).get(entry["name"], ([], []))
    renamed = dict(entry)
    for key, names in (("inputs", inputs), ("outputs", outputs)):
        if names:
            renamed[key] = [part | {"name": name} for part, name in zip(entry[key], names, strict=True)]
    return renamed
