# pragma version 0.4.3
# pragma evm-version cancun
"""
@notice A deposit collector for tests that brings tokens of its own, whoever the payer is: gifts into any channel.
"""

from ethereum.ercs import IERC20


@external
def collect(payer: address, token: address, amount: uint256, channelId: bytes32, collectorData: Bytes[4096]):
    extcall IERC20(token).transfer(msg.sender, amount)
