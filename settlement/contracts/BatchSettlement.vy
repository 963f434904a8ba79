# pragma version 0.4.3
# pragma evm-version cancun
"""
@title BatchSettlement
@license Apache-2.0
@notice Escrow for unidirectional payment channels, to the public interface of the x402 `batch-settlement`
        scheme (docs/protocol.md 1). A payer deposits once and signs cumulative vouchers off the chain; the
        receiver side claims many channels at once and has its claims paid out in one transfer per token.
@dev    - No constructor, no immutables: the code may be put at its address by genesis. The EIP-712 domain is
          computed from chain.id and self whenever it is needed.
        - Two uint128 values share a storage word (low half first), so claiming a funded channel for the
          first time rewrites a word that exists already instead of paying for a new one.
        - `claim`, `claimWithSignature`, `getClaimBatchDigest` and `multicall` take nested dynamic arrays.
          A typed parameter would reserve memory for the longest signature times the most rows in every
          call, so `__default__` dispatches these four by selector and reads the calldata row by row. Their
          encoding is the standard one and their ABI entries are appended by compile.py.
        - One lock covers everything that changes state. `multicall` holds no lock itself, its parts do.
          A call refused by the lock reverts without data.
"""

from ethereum.ercs import IERC20

import signatures

interface IDepositCollector:
    def collect(
        payer: address, token: address, amount: uint256, channelId: bytes32, collectorData: Bytes[MAX_COLLECTOR_DATA]
    ): nonpayable

struct ChannelConfig:
    payer: address
    payerAuthorizer: address
    receiver: address
    receiverAuthorizer: address
    token: address
    withdrawDelay: uint40
    salt: bytes32

# The head of one VoucherClaim as it lies in calldata.
struct ClaimRow:
    channel: ChannelConfig
    maxClaimableAmount: uint128
    signatureAt: uint256
    totalClaimed: uint128

event ChannelCreated:
    channelId: indexed(bytes32)
    config: ChannelConfig

event ChannelClosed:
    channelId: indexed(bytes32)
    config: ChannelConfig

event Deposited:
    channelId: indexed(bytes32)
    sender: indexed(address)
    amount: uint128
    newBalance: uint128

event Claimed:
    channelId: indexed(bytes32)
    sender: indexed(address)
    claimAmount: uint128
    newTotalClaimed: uint128

event Settled:
    receiver: indexed(address)
    token: indexed(address)
    sender: indexed(address)
    amount: uint128

event Refunded:
    channelId: indexed(bytes32)
    sender: indexed(address)
    amount: uint128

event WithdrawInitiated:
    channelId: indexed(bytes32)
    amount: uint128
    finalizeAfter: uint40

event WithdrawFinalized:
    channelId: indexed(bytes32)
    sender: indexed(address)
    amount: uint128

MIN_WITHDRAW_DELAY: public(constant(uint40)) = 900
MAX_WITHDRAW_DELAY: public(constant(uint40)) = 2_592_000

CHANNEL_CONFIG_TYPEHASH: public(constant(bytes32)) = keccak256(
    "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
)
VOUCHER_TYPEHASH: public(constant(bytes32)) = keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)")
REFUND_TYPEHASH: public(constant(bytes32)) = keccak256("Refund(bytes32 channelId,uint256 nonce,uint128 amount)")
CLAIM_ENTRY_TYPEHASH: public(constant(bytes32)) = keccak256(
    "ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
)
CLAIM_BATCH_TYPEHASH: public(constant(bytes32)) = keccak256(
    "ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
)
NAME: constant(String[21]) = "x402 Batch Settlement"
VERSION: constant(String[1]) = "1"

IDENTITY: constant(address) = 0x0000000000000000000000000000000000000004
LOW_HALF: constant(uint256) = 2 ** 128 - 1

# Bounds. Only one signature is in memory at a time: 2 KiB instead of 1 cost a claim 330 gas. Collector data holds
# one or two of them. 128 rows are 2.6 million gas; 256 would make every claim 2,300 dearer. A multicall is read
# whole: 32 KiB carry a claim of 60 rows with a refund, and cost 29,000 gas over the parts; 64 KiB would cost 65,000.
MAX_SIGNATURE: constant(uint256) = signatures.MAX_SIGNATURE
MAX_SIGNATURE_WORDS: constant(uint256) = MAX_SIGNATURE // 32
MAX_COLLECTOR_DATA: constant(uint256) = 4096
MAX_ROWS: constant(uint256) = 128
ROW_HEAD: constant(uint256) = 320
MAX_CALLS: constant(uint256) = 16
MAX_CALLS_DATA: constant(uint256) = 32768
MAX_CALL_RESULT: constant(uint256) = 512
MAX_RETURN: constant(uint256) = 64 + MAX_CALLS * (64 + MAX_CALL_RESULT)

# balance | totalClaimed << 128, by channel id
channel_words: HashMap[bytes32, uint256]
# amount | initiatedAt << 128, by channel id; initiatedAt is zero when nothing is pending
withdrawal_words: HashMap[bytes32, uint256]
# totalClaimed | totalSettled << 128, by receiver and token
receiver_words: HashMap[address, HashMap[address, uint256]]
refundNonce: public(HashMap[bytes32, uint256])


# ---------------------------------------------------------------------------------------------- deposits

@external
@nonreentrant
def deposit(config: ChannelConfig, amount: uint128, collector: address, collectorData: Bytes[MAX_COLLECTOR_DATA]):
    """
    @notice Adds `amount` to the channel of `config`. The collector brings the tokens; anyone may call.
    @dev Credited only when this contract's balance has risen by exactly `amount`, so a token that takes a
         fee, or a collector that brings too little or too much, reverts.
    """
    if (
        config.payer == empty(address)
        or config.receiver == empty(address)
        or config.receiverAuthorizer == empty(address)
        or config.token == empty(address)
    ):
        raw_revert(method_id("InvalidChannel()"))
    if config.withdrawDelay < MIN_WITHDRAW_DELAY or config.withdrawDelay > MAX_WITHDRAW_DELAY:
        raw_revert(method_id("WithdrawDelayOutOfRange()"))
    if amount == 0:
        raw_revert(method_id("ZeroDeposit()"))
    if collector == empty(address):
        raw_revert(method_id("InvalidCollector()"))

    channel_id: bytes32 = self._channel_id(config, self._domain_separator())
    balance: uint128 = 0
    claimed: uint128 = 0
    balance, claimed = self._halves(self.channel_words[channel_id])
    if amount > max_value(uint128) - balance:
        raw_revert(method_id("DepositOverflow()"))
    new_balance: uint128 = balance + amount

    held: uint256 = staticcall IERC20(config.token).balanceOf(self)
    extcall IDepositCollector(collector).collect(
        config.payer, config.token, convert(amount, uint256), channel_id, collectorData
    )
    if staticcall IERC20(config.token).balanceOf(self) != held + convert(amount, uint256):
        raw_revert(method_id("DepositCollectionFailed()"))

    self.channel_words[channel_id] = self._word_of(new_balance, claimed)
    # Claims never exceed the balance: where it was zero, nothing was ever claimed.
    if balance == 0:
        log ChannelCreated(channelId=channel_id, config=config)
    log Deposited(channelId=channel_id, sender=msg.sender, amount=amount, newBalance=new_balance)


# ------------------------------------------------------------------------------------- claims, settlement

@internal
@nonreentrant
def _claim():
    """
    @dev claim(VoucherClaim[] voucherClaims), by the receiver or receiverAuthorizer of every row.
    """
    count: uint256 = 0
    rows_at: uint256 = 0
    count, rows_at = self._array_at(4)
    if count == 0:
        raw_revert(method_id("EmptyBatch()"))
    domain: bytes32 = self._domain_separator()
    for i: uint256 in range(count, bound=MAX_ROWS):
        row: ClaimRow = self._row(rows_at, i)
        if msg.sender != row.channel.receiverAuthorizer and msg.sender != row.channel.receiver:
            raw_revert(method_id("NotAuthorizedToClaim()"))
        self._claim_row(row, domain)


@internal
@nonreentrant
def _claim_with_signature():
    """
    @dev claimWithSignature(VoucherClaim[] voucherClaims, bytes authorizerSignature), by anyone; one
         receiverAuthorizer for all rows, whose signature covers the whole batch.
    """
    count: uint256 = 0
    rows_at: uint256 = 0
    count, rows_at = self._array_at(4)
    if count == 0:
        raw_revert(method_id("EmptyBatch()"))
    domain: bytes32 = self._domain_separator()
    first: ClaimRow = self._row(rows_at, 0)
    authorizer: address = first.channel.receiverAuthorizer
    digest: bytes32 = self._claim_batch_digest(count, rows_at, domain)
    if not signatures.signed_by(authorizer, digest, self._signature_at(4 + self._calldata_word(36))):
        raw_revert(method_id("InvalidSignature()"))
    for i: uint256 in range(count, bound=MAX_ROWS):
        row: ClaimRow = self._row(rows_at, i)
        if row.channel.receiverAuthorizer != authorizer:
            raw_revert(method_id("NotReceiverAuthorizer()"))
        self._claim_row(row, domain)


@internal
def _claim_row(row: ClaimRow, domain: bytes32):
    channel_id: bytes32 = self._channel_id(row.channel, domain)
    balance: uint128 = 0
    claimed: uint128 = 0
    balance, claimed = self._halves(self.channel_words[channel_id])
    # What is claimed already may be claimed again: a replayed row, or one overtaken by a later one, is nothing.
    if row.totalClaimed <= claimed:
        return
    if row.totalClaimed > row.maxClaimableAmount:
        raw_revert(method_id("ClaimExceedsCeiling()"))
    if row.totalClaimed > balance:
        raw_revert(method_id("ClaimExceedsBalance()"))

    digest: bytes32 = self._voucher_digest(channel_id, row.maxClaimableAmount, domain)
    signature: Bytes[MAX_SIGNATURE] = self._signature_at(row.signatureAt)
    valid: bool = False
    if row.channel.payerAuthorizer != empty(address):
        valid = signatures.recover(digest, signature) == row.channel.payerAuthorizer
    else:
        valid = signatures.signed_by(row.channel.payer, digest, signature)
    if not valid:
        raw_revert(method_id("InvalidSignature()"))

    delta: uint128 = row.totalClaimed - claimed
    self.channel_words[channel_id] = self._word_of(balance, row.totalClaimed)
    total: uint128 = 0
    settled: uint128 = 0
    total, settled = self._halves(self.receiver_words[row.channel.receiver][row.channel.token])
    self.receiver_words[row.channel.receiver][row.channel.token] = self._word_of(total + delta, settled)
    log Claimed(channelId=channel_id, sender=msg.sender, claimAmount=delta, newTotalClaimed=row.totalClaimed)


@external
@nonreentrant
def settle(receiver: address, token: address):
    """
    @notice Pays the receiver everything claimed for it and not paid yet. Anyone may call; nothing due is no error.
    """
    total: uint128 = 0
    settled: uint128 = 0
    total, settled = self._halves(self.receiver_words[receiver][token])
    amount: uint128 = total - settled
    if amount == 0:
        return
    self.receiver_words[receiver][token] = self._word_of(total, total)
    self._transfer(token, receiver, amount)
    log Settled(receiver=receiver, token=token, sender=msg.sender, amount=amount)


# ------------------------------------------------------------------------------------ withdrawals, refunds

@external
@nonreentrant
def initiateWithdraw(config: ChannelConfig, amount: uint128):
    """
    @notice The payer side announces a withdrawal; it can be finalised once the channel's delay is over.
    @dev Vouchers that were not claimed yet reserve nothing.
    """
    if msg.sender != config.payer and msg.sender != config.payerAuthorizer:
        raw_revert(method_id("InvalidChannel()"))
    if amount == 0:
        raw_revert(method_id("NothingToWithdraw()"))
    channel_id: bytes32 = self._channel_id(config, self._domain_separator())
    if self.withdrawal_words[channel_id] != 0:
        raw_revert(method_id("WithdrawalAlreadyPending()"))
    balance: uint128 = 0
    claimed: uint128 = 0
    balance, claimed = self._halves(self.channel_words[channel_id])
    if amount > balance - claimed:
        raw_revert(method_id("WithdrawAmountExceedsAvailable()"))

    now: uint40 = convert(block.timestamp, uint40)
    self.withdrawal_words[channel_id] = self._word_of(amount, convert(now, uint128))
    log WithdrawInitiated(channelId=channel_id, amount=amount, finalizeAfter=now + config.withdrawDelay)


@external
@nonreentrant
def finalizeWithdraw(config: ChannelConfig):
    """
    @notice Pays out a pending withdrawal after its delay, capped to what is unclaimed by then.
    """
    if msg.sender != config.payer and msg.sender != config.payerAuthorizer:
        raw_revert(method_id("NotAuthorizedToFinalizeWithdraw()"))
    channel_id: bytes32 = self._channel_id(config, self._domain_separator())
    requested: uint128 = 0
    initiated_at: uint128 = 0
    requested, initiated_at = self._halves(self.withdrawal_words[channel_id])
    if initiated_at == 0:
        raw_revert(method_id("WithdrawalNotPending()"))
    if block.timestamp < convert(initiated_at, uint256) + convert(config.withdrawDelay, uint256):
        raw_revert(method_id("WithdrawDelayNotElapsed()"))

    balance: uint128 = 0
    claimed: uint128 = 0
    balance, claimed = self._halves(self.channel_words[channel_id])
    amount: uint128 = min(requested, balance - claimed)
    self.withdrawal_words[channel_id] = 0
    self.channel_words[channel_id] = self._word_of(balance - amount, claimed)
    log WithdrawFinalized(channelId=channel_id, sender=msg.sender, amount=amount)
    if balance == amount:
        log ChannelClosed(channelId=channel_id, config=config)
    if amount != 0:
        self._transfer(config.token, config.payer, amount)


@external
@nonreentrant
def refund(config: ChannelConfig, amount: uint128):
    """
    @notice The receiver side returns unclaimed escrow to the payer.
    """
    if msg.sender != config.receiverAuthorizer and msg.sender != config.receiver:
        raw_revert(method_id("NotAuthorizedToRefund()"))
    self._refund(self._channel_id(config, self._domain_separator()), config, amount)


@external
@nonreentrant
def refundWithSignature(
    config: ChannelConfig, amount: uint128, nonce: uint256, receiverAuthorizerSignature: Bytes[MAX_SIGNATURE]
):
    """
    @notice As refund, by anyone who holds receiverAuthorizer's signature for the channel's current nonce.
    """
    domain: bytes32 = self._domain_separator()
    channel_id: bytes32 = self._channel_id(config, domain)
    if nonce != self.refundNonce[channel_id]:
        raw_revert(method_id("InvalidRefundNonce()"))
    digest: bytes32 = self._refund_digest(channel_id, nonce, amount, domain)
    if not signatures.signed_by(config.receiverAuthorizer, digest, receiverAuthorizerSignature):
        raw_revert(method_id("InvalidSignature()"))
    self._refund(channel_id, config, amount)


@internal
def _refund(channel_id: bytes32, config: ChannelConfig, requested: uint128):
    """
    @dev Every refund moves the nonce, also one that finds nothing left to return.
    """
    if requested == 0:
        raw_revert(method_id("ZeroRefund()"))
    self.refundNonce[channel_id] = unsafe_add(self.refundNonce[channel_id], 1)
    balance: uint128 = 0
    claimed: uint128 = 0
    balance, claimed = self._halves(self.channel_words[channel_id])
    amount: uint128 = min(requested, balance - claimed)
    if amount == 0:
        return
    self.channel_words[channel_id] = self._word_of(balance - amount, claimed)

    pending: uint128 = 0
    initiated_at: uint128 = 0
    pending, initiated_at = self._halves(self.withdrawal_words[channel_id])
    if initiated_at != 0:
        if amount >= pending:
            self.withdrawal_words[channel_id] = 0
        else:
            self.withdrawal_words[channel_id] = self._word_of(pending - amount, initiated_at)

    log Refunded(channelId=channel_id, sender=msg.sender, amount=amount)
    if balance == amount:
        log ChannelClosed(channelId=channel_id, config=config)
    self._transfer(config.token, config.payer, amount)


# -------------------------------------------------------------------------------------------------- views

@external
@view
def channels(channelId: bytes32) -> (uint128, uint128):
    """
    @return balance (deposited, less what was withdrawn and refunded) and totalClaimed, which never falls
    """
    return self._halves(self.channel_words[channelId])


@external
@view
def pendingWithdrawals(channelId: bytes32) -> (uint128, uint40):
    """
    @return amount and initiatedAt, both zero when nothing is pending
    """
    amount: uint128 = 0
    initiated_at: uint128 = 0
    amount, initiated_at = self._halves(self.withdrawal_words[channelId])
    return amount, convert(initiated_at, uint40)


@external
@view
def receivers(receiver: address, token: address) -> (uint128, uint128):
    """
    @return totalClaimed and totalSettled
    """
    return self._halves(self.receiver_words[receiver][token])


@external
@view
def getChannelId(config: ChannelConfig) -> bytes32:
    """
    @notice The channel's id: the EIP-712 digest of its configuration.
    """
    return self._channel_id(config, self._domain_separator())


@external
@view
def getVoucherDigest(channelId: bytes32, maxClaimableAmount: uint128) -> bytes32:
    """
    @notice What the payer side signs.
    """
    return self._voucher_digest(channelId, maxClaimableAmount, self._domain_separator())


@external
@view
def getRefundDigest(channelId: bytes32, nonce: uint256, amount: uint128) -> bytes32:
    """
    @notice What receiverAuthorizer signs for refundWithSignature.
    """
    return self._refund_digest(channelId, nonce, amount, self._domain_separator())


@external
@view
def eip712Domain() -> (bytes1, String[21], String[1], uint256, address, bytes32, DynArray[uint256, 1]):
    """
    @notice The signing domain, as EIP-5267 reports it (0x0f: name, version, chainId, verifyingContract).
    """
    extensions: DynArray[uint256, 1] = []
    return 0x0f, NAME, VERSION, chain.id, self, empty(bytes32), extensions


# ------------------------------------------------------------------------------- functions by raw calldata

@external
@raw_return
def __default__() -> Bytes[MAX_RETURN]:
    """
    @dev The four functions with nested dynamic parameters, by selector; anything else reverts.
    """
    selector: bytes4 = convert(slice(msg.data, 0, 4), bytes4)
    if selector == method_id(
        "claim((((address,address,address,address,address,uint40,bytes32),uint128),bytes,uint128)[])", output_type=bytes4
    ):
        self._claim()
        return b""
    if selector == method_id(
        "claimWithSignature((((address,address,address,address,address,uint40,bytes32),uint128),bytes,uint128)[],bytes)",
        output_type=bytes4,
    ):
        self._claim_with_signature()
        return b""
    if selector == method_id(
        "getClaimBatchDigest((((address,address,address,address,address,uint40,bytes32),uint128),bytes,uint128)[])",
        output_type=bytes4,
    ):
        count: uint256 = 0
        rows_at: uint256 = 0
        count, rows_at = self._array_at(4)
        return abi_encode(self._claim_batch_digest(count, rows_at, self._domain_separator()))
    if selector == method_id("multicall(bytes[])", output_type=bytes4):
        # Each part is a call of this contract by the same sender; all of them or none. Written out here, because
        # the frame of an internal function would lie below this one's and its buffers be paid by every call.
        results: DynArray[Bytes[MAX_CALL_RESULT], MAX_CALLS] = []
        count: uint256 = 0
        parts_at: uint256 = 0
        count, parts_at = self._array_at(4)
        # The identity precompile brings the calldata into memory, where slices may be of any length.
        payload: Bytes[MAX_CALLS_DATA] = raw_call(
            IDENTITY, msg.data, max_outsize=MAX_CALLS_DATA, is_static_call=True
        )
        for i: uint256 in range(count, bound=MAX_CALLS):
            at: uint256 = parts_at + self._calldata_word(parts_at + 32 * i)
            result: Bytes[MAX_CALL_RESULT] = raw_call(
                self,
                slice(payload, at + 32, self._calldata_word(at)),
                max_outsize=MAX_CALL_RESULT,
                is_delegate_call=True,
            )
            assert len(result) < MAX_CALL_RESULT  # it may have been cut there
            results.append(result)
        return abi_encode(results)
    raise


@internal
@view
def _calldata_word(at: uint256) -> uint256:
    return convert(slice(msg.data, at, 32), uint256)


@internal
@view
def _array_at(head: uint256) -> (uint256, uint256):
    """
    @dev Length of the array whose offset stands at `head`, and where its elements' offsets begin.
    """
    at: uint256 = 4 + self._calldata_word(head)
    return self._calldata_word(at), at + 32


@internal
@view
def _row(rows_at: uint256, index: uint256) -> ClaimRow:
    at: uint256 = rows_at + self._calldata_word(rows_at + 32 * index)
    row: ClaimRow = abi_decode(slice(msg.data, at, ROW_HEAD), ClaimRow)
    row.signatureAt += at
    return row


@internal
@view
def _signature_at(at: uint256) -> Bytes[MAX_SIGNATURE]:
    size: uint256 = self._calldata_word(at)
    if size == 65:
        return slice(msg.data, at + 32, 65)
    if size > MAX_SIGNATURE:
        raw_revert(method_id("InvalidSignature()"))
    words: DynArray[bytes32, MAX_SIGNATURE_WORDS] = []
    for i: uint256 in range((size + 31) // 32, bound=MAX_SIGNATURE_WORDS):
        words.append(convert(slice(msg.data, at + 32 + 32 * i, 32), bytes32))
    return convert(slice(abi_encode(words), 64, size), Bytes[MAX_SIGNATURE])


# ----------------------------------------------------------------------------------- digests

@internal
@view
def _domain_separator() -> bytes32:
    return signatures.domain_separator(keccak256(NAME), keccak256(VERSION))


@internal
@pure
def _channel_id(config: ChannelConfig, domain: bytes32) -> bytes32:
    return signatures.digest(domain, keccak256(abi_encode(CHANNEL_CONFIG_TYPEHASH, config)))


@internal
@pure
def _voucher_digest(channel_id: bytes32, ceiling: uint128, domain: bytes32) -> bytes32:
    return signatures.digest(domain, keccak256(abi_encode(VOUCHER_TYPEHASH, channel_id, ceiling)))


@internal
@pure
def _refund_digest(channel_id: bytes32, nonce: uint256, amount: uint128, domain: bytes32) -> bytes32:
    return signatures.digest(domain, keccak256(abi_encode(REFUND_TYPEHASH, channel_id, nonce, amount)))


@internal
@view
def _claim_batch_digest(count: uint256, rows_at: uint256, domain: bytes32) -> bytes32:
    entries: DynArray[bytes32, MAX_ROWS] = []
    for i: uint256 in range(count, bound=MAX_ROWS):
        row: ClaimRow = self._row(rows_at, i)
        entries.append(
            keccak256(
                abi_encode(
                    CLAIM_ENTRY_TYPEHASH,
                    self._channel_id(row.channel, domain),
                    row.maxClaimableAmount,
                    row.totalClaimed,
                )
            )
        )
    # An array hashes as its elements side by side: past the offset and the length of their encoding.
    root: bytes32 = keccak256(slice(abi_encode(entries), 64, 32 * count))
    return signatures.digest(domain, keccak256(abi_encode(CLAIM_BATCH_TYPEHASH, root)))


# ---------------------------------------------------------------------------------------- words and tokens

@internal
@pure
def _halves(word: uint256) -> (uint128, uint128):
    return convert(word & LOW_HALF, uint128), convert(word >> 128, uint128)


@internal
@pure
def _word_of(low: uint128, high: uint128) -> uint256:
    return convert(low, uint256) | (convert(high, uint256) << 128)


@internal
def _transfer(token: address, to: address, amount: uint128):
    """
    @dev A token may return nothing, but it must have code and must not return false.
    """
    if not extcall IERC20(token).transfer(to, convert(amount, uint256), default_return_value=True):
        raw_revert(abi_encode(token, method_id=method_id("SafeERC20FailedOperation(address)")))
