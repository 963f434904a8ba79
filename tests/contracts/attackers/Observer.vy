# pragma version 0.4.3
# pragma evm-version cancun
"""
@notice A token for tests that moves nothing and notes what CumulativePayouts has on record while it is called.
"""

interface CumulativePayouts:
    def paid(sender: address, token: address, payee: address) -> uint128: view

payouts: public(address)
seen: public(uint128)


@external
def watch(payouts: address):
    self.payouts = payouts


@external
def transferFrom(sender: address, receiver: address, amount: uint256) -> bool:
    self.seen = staticcall CumulativePayouts(self.payouts).paid(sender, self, receiver)
    return True
