# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Counter
@license Apache-2.0
@notice What the stock clients deploy and use: a constructor argument, a view, an event, and both kinds of revert.
"""

event Counted:
    by: indexed(address)
    amount: uint256
    total: uint256

total: public(uint256)

@deploy
def __init__(start: uint256):
    self.total = start

@external
def add(amount: uint256) -> uint256:
    if amount > 1000:
        raw_revert(abi_encode(amount, convert(1000, uint256), method_id=method_id("TooMuch(uint256,uint256)")))
    assert amount != 0, "nothing to add"
    self.total += amount
    log Counted(by=msg.sender, amount=amount, total=self.total)
    return self.total
