# pragma version 0.4.3
# pragma evm-version cancun
"""
@notice A token for tests whose transfers answer or behave oddly: 1 returns false, 2 returns nothing, 3 returns one
        byte, 4 keeps a fee of 1, 5 makes a call of its own first, 6 returns the number two, 7 moves nothing.
"""

REFUSES: constant(uint256) = 1
NOTHING: constant(uint256) = 2
SHORT: constant(uint256) = 3
FEE: constant(uint256) = 4
CALLS: constant(uint256) = 5
TWO: constant(uint256) = 6
STILL: constant(uint256) = 7

mode: public(uint256)
target: public(address)
payload: public(Bytes[8192])
succeeded: public(bool)
answer: public(Bytes[64])
balanceOf: public(HashMap[address, uint256])


@external
def behave(mode: uint256):
    self.mode = mode


@external
def arm(target: address, payload: Bytes[8192]):
    self.mode = CALLS
    self.target = target
    self.payload = payload


@external
def give(holder: address, amount: uint256):
    self.balanceOf[holder] += amount


@external
@raw_return
def transfer(receiver: address, amount: uint256) -> Bytes[32]:
    return self._move(msg.sender, receiver, amount)


@external
@raw_return
def transferFrom(sender: address, receiver: address, amount: uint256) -> Bytes[32]:
    return self._move(sender, receiver, amount)


@external
def receiveWithAuthorization(
    owner: address,
    to: address,
    amount: uint256,
    validAfter: uint256,
    validBefore: uint256,
    nonce: bytes32,
    signature: Bytes[2048],
):
    """
    @notice The ERC-3009 form without its checks; the tokens move as in any mode.
    """
    mode: uint256 = self.mode
    if mode != FEE and mode != STILL:
        self.mode = 0
    self._move(owner, to, amount)
    self.mode = mode


@internal
def _move(sender: address, receiver: address, amount: uint256) -> Bytes[32]:
    if self.mode == CALLS:
        self.succeeded, self.answer = raw_call(self.target, self.payload, max_outsize=64, revert_on_failure=False)
    if self.mode != STILL:
        self.balanceOf[sender] -= amount
        self.balanceOf[receiver] += amount
    if self.mode == FEE:
        self.balanceOf[receiver] -= 1
    if self.mode == REFUSES:
        return abi_encode(False)
    if self.mode == NOTHING:
        return b""
    if self.mode == SHORT:
        return b"\x01"
    if self.mode == TWO:
        return abi_encode(empty(uint256) + 2)
    return abi_encode(True)
