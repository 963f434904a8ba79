# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Multicall3
@license Apache-2.0
@notice Many calls in one, to the interface stock clients look for at 0xcA11bde05977b3631167028862bE2a173976CA11.
@dev    - Made for reads by eth_call. Bounds, each far above what a batch of reads needs: 128 calls, 64 KiB of
          calldata in all, 1 KiB of return data a call. Above them the whole call reverts.
        - The six functions that take an array of calls are dispatched by selector in `__default__`: a typed
          parameter would reserve the largest calldata for every possible call. Their encoding is the standard
          one and their ABI entries are appended by compile.py.
        - As in that interface, value sent along with anything but aggregate3Value is not passed on: do not.
"""

struct Result:
    success: bool
    returnData: Bytes[MAX_BUFFER]

MAX_CALLS: constant(uint256) = 128
MAX_CALLDATA: constant(uint256) = 65536
MAX_RESULT: constant(uint256) = 1024
# One word more than a result may have, so that a longer one is noticed instead of cut.
MAX_BUFFER: constant(uint256) = MAX_RESULT + 32
MAX_RETURN: constant(uint256) = 128 + MAX_CALLS * (128 + MAX_BUFFER)
IDENTITY: constant(address) = 0x0000000000000000000000000000000000000004


@external
@view
def getBlockNumber() -> uint256:
    """
    @notice The number of the current block.
    """
    return block.number


@external
@view
def getBlockHash(blockNumber: uint256) -> bytes32:
    """
    @notice The hash of one of the last 256 blocks, zero for any other.
    """
    return self._block_hash(blockNumber)


@external
@view
def getLastBlockHash() -> bytes32:
    """
    @notice The hash of the block before the current one.
    """
    return self._block_hash(unsafe_sub(block.number, 1))


@external
@view
def getCurrentBlockTimestamp() -> uint256:
    """
    @notice The time of the current block, in seconds.
    """
    return block.timestamp


@external
@view
def getCurrentBlockDifficulty() -> uint256:
    """
    @notice What the difficulty opcode yields: the beacon's randomness since the merge.
    """
    return convert(block.prevrandao, uint256)


@external
@view
def getCurrentBlockGasLimit() -> uint256:
    """
    @notice The gas limit of the current block.
    """
    return block.gaslimit


@external
@view
def getCurrentBlockCoinbase() -> address:
    """
    @notice The fee recipient of the current block.
    """
    return block.coinbase


@external
@view
def getBasefee() -> uint256:
    """
    @notice The base fee of the current block, in wei a unit of gas.
    """
    return block.basefee


@external
@view
def getChainId() -> uint256:
    """
    @notice The id of this chain.
    """
    return chain.id


@external
@view
def getEthBalance(addr: address) -> uint256:
    """
    @notice The native balance of an account, in wei.
    """
    return addr.balance


@external
@payable
@raw_return
def __default__() -> Bytes[MAX_RETURN]:
    """
    @dev The functions that take calls, by selector; anything else reverts.
    """
    selector: bytes4 = convert(slice(msg.data, 0, 4), bytes4)
    if selector == method_id("aggregate((address,bytes)[])", output_type=bytes4):
        return self._aggregate()
    if selector == method_id("tryAggregate(bool,(address,bytes)[])", output_type=bytes4):
        return abi_encode(self._run(36, 2, not self._flag(4)))
    if selector == method_id("tryBlockAndAggregate(bool,(address,bytes)[])", output_type=bytes4):
        return abi_encode(block.number, empty(bytes32), self._run(36, 2, not self._flag(4)))
    if selector == method_id("blockAndAggregate((address,bytes)[])", output_type=bytes4):
        return abi_encode(block.number, empty(bytes32), self._run(4, 2, False))
    if selector == method_id("aggregate3((address,bool,bytes)[])", output_type=bytes4):
        return abi_encode(self._run(4, 3, False))
    if selector == method_id("aggregate3Value((address,bool,uint256,bytes)[])", output_type=bytes4):
        return abi_encode(self._run(4, 4, False))
    raise "Multicall3: unknown function"


@internal
@payable
def _aggregate() -> Bytes[MAX_RETURN]:
    results: DynArray[Result, MAX_CALLS] = self._run(4, 2, False)
    data: DynArray[Bytes[MAX_BUFFER], MAX_CALLS] = []
    for result: Result in results:
        data.append(result.returnData)
    return abi_encode(block.number, data)


@internal
@payable
def _run(head: uint256, fields: uint256, tolerant: bool) -> DynArray[Result, MAX_CALLS]:
    """
    @dev Makes the calls of the array whose offset stands at `head`. A call has two fields (target, data), three
         (target, allowFailure, data) or four (target, allowFailure, value, data); with two, `tolerant` says
         whether it may fail. The identity precompile brings the calldata into memory, where slices may be of
         any length.
    """
    results: DynArray[Result, MAX_CALLS] = []
    array_at: uint256 = 4 + self._calldata_word(head)
    calldata: Bytes[MAX_CALLDATA] = raw_call(IDENTITY, msg.data, max_outsize=MAX_CALLDATA, is_static_call=True)
    spent: uint256 = 0
    for i: uint256 in range(self._calldata_word(array_at), bound=MAX_CALLS):
        call_at: uint256 = array_at + 32 + self._calldata_word(array_at + 32 + 32 * i)
        data_at: uint256 = call_at + self._calldata_word(call_at + 32 * (fields - 1))
        amount: uint256 = 0
        may_fail: bool = tolerant
        if fields > 2:
            may_fail = self._flag(call_at + 32)
        if fields > 3:
            amount = self._calldata_word(call_at + 64)
            spent += amount
        success: bool = False
        answer: Bytes[MAX_BUFFER] = b""
        success, answer = raw_call(
            convert(self._calldata_word(call_at), address),
            slice(calldata, data_at + 32, self._calldata_word(data_at)),
            max_outsize=MAX_BUFFER,
            value=amount,
            revert_on_failure=False,
        )
        assert success or may_fail, "Multicall3: call failed"
        assert len(answer) <= MAX_RESULT or not success, "Multicall3: return data too long"
        results.append(Result(success=success, returnData=answer))
    assert fields < 4 or spent == msg.value, "Multicall3: value mismatch"
    return results


@internal
@view
def _calldata_word(at: uint256) -> uint256:
    return convert(slice(msg.data, at, 32), uint256)


@internal
@view
def _flag(at: uint256) -> bool:
    return self._calldata_word(at) != 0


@internal
@view
def _block_hash(number: uint256) -> bytes32:
    if number >= block.number or block.number - number > 256:
        return empty(bytes32)
    return blockhash(number)
