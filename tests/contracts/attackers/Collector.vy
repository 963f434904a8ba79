# pragma version 0.4.3
# pragma evm-version cancun
"""
@notice A deposit collector for tests: brings an allowance's tokens, more or fewer than asked for when told so, and
        makes one call of its own while the settlement contract waits for it.
"""

from ethereum.ercs import IERC20

more: public(uint256)
fewer: public(uint256)
target: public(address)
payload: public(Bytes[8192])
instead: public(bool)
# Whether the call was made, whether it succeeded, and how its return data began.
called: public(bool)
succeeded: public(bool)
answer: public(Bytes[64])


@external
def skew(more: uint256, fewer: uint256):
    self.more = more
    self.fewer = fewer


@external
def arm(target: address, payload: Bytes[8192], instead: bool):
    """
    @notice Call `target` during the next collection; with `instead`, bring nothing more if that succeeds, so that
            what the call brought would count twice.
    """
    self.instead = instead
    self.target = target
    self.payload = payload


@external
def collect(payer: address, token: address, amount: uint256, channelId: bytes32, collectorData: Bytes[4096]):
    if self.target != empty(address):
        target: address = self.target
        self.target = empty(address)
        self.called = True
        self.succeeded, self.answer = raw_call(target, self.payload, max_outsize=64, revert_on_failure=False)
        if self.succeeded and self.instead:
            return
    extcall IERC20(token).transferFrom(payer, msg.sender, amount + self.more - self.fewer)
