"""An independent model of the settlement contract, written from docs/protocol.md 1 alone.

It says what each call must answer, and what every channel, receiver and token balance must be afterwards.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.contracts.world import Channel


@dataclass(slots=True)
class Account:
    """One channel as its history: everything but the pending withdrawal only rises."""

    deposited: int = 0
    returned: int = 0
    claimed: int = 0
    pending: int = 0
    initiated_at: int = 0
    nonce: int = 0

    @property
    def balance(self) -> int:
        return self.deposited - self.returned

    @property
    def free(self) -> int:
        return self.balance - self.claimed


@dataclass(frozen=True, slots=True)
class Row:
    channel: Channel
    claimed: int
    ceiling: int
    genuine: bool


@dataclass(slots=True)
class Auditor:
    """Methods named after the contract's functions return the error it must answer, or None and take effect."""

    accounts: dict[Channel, Account]
    now: int
    claimed: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)
    settled: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)
    tokens: Counter[bytes] = field(default_factory=Counter)
    spent: set[tuple[Channel, int]] = field(default_factory=set)  # deposit authorizations used or cancelled, by salt
    given: int = 0  # tokens sent to the contract outside of a deposit

    def deposit(self, channel: Channel, amount: int) -> str | None:
        if amount == 0:
            return "ZeroDeposit"
        if amount > self.tokens[channel.payer]:
            return "transfer amount exceeds balance"
        self.accounts[channel].deposited += amount
        self.tokens[channel.payer] -= amount
        return None

    def deposit_authorized(self, channel: Channel, amount: int, salt: int, genuine: bool) -> str | None:
        """A deposit through the ERC-3009 collector: the token checks the authorization before it moves anything."""
        if amount == 0:
            return "ZeroDeposit"
        if (channel, salt) in self.spent:
            return "authorization is used or canceled"
        if not genuine:
            return "invalid signature"
        refusal = self.deposit(channel, amount)
        if refusal is None:
            self.spent.add((channel, salt))
        return refusal

    def cancel(self, channel: Channel, salt: int) -> str | None:
        """The payer takes an authorization back that was not used."""
        if (channel, salt) in self.spent:
            return "authorization is used or canceled"
        self.spent.add((channel, salt))
        return None

    def give(self, amount: int, sender: bytes) -> str | None:
        """Tokens sent to the contract by mistake belong to no channel, for ever."""
        if amount > self.tokens[sender]:
            return "transfer amount exceeds balance"
        self.tokens[sender] -= amount
        self.given += amount
        return None

    def claim(self, rows: Sequence[Row], sender: bytes) -> str | None:
        if not rows:
            return "EmptyBatch"
        total = {row.channel: self.accounts[row.channel].claimed for row in rows}
        for row in rows:
            if sender not in (row.channel.receiver, row.channel.receiver_authorizer):
                return "NotAuthorizedToClaim"
            if refusal := self._row(row, total):
                return refusal
        return self._record(total)

    def claim_with_signature(self, rows: Sequence[Row], signer: bytes) -> str | None:
        if not rows:
            return "EmptyBatch"
        if rows[0].channel.receiver_authorizer != signer:
            return "InvalidSignature"
        total = {row.channel: self.accounts[row.channel].claimed for row in rows}
        for row in rows:
            if row.channel.receiver_authorizer != signer:
                return "NotReceiverAuthorizer"
            if refusal := self._row(row, total):
                return refusal
        return self._record(total)

    def _row(self, row: Row, total: dict[Channel, int]) -> str | None:
        if row.claimed <= total[row.channel]:
            return None
        if row.claimed > row.ceiling:
            return "ClaimExceedsCeiling"
        if row.claimed > self.accounts[row.channel].balance:
            return "ClaimExceedsBalance"
        if not row.genuine:
            return "InvalidSignature"
        total[row.channel] = row.claimed
        return None

    def _record(self, total: dict[Channel, int]) -> None:
        for channel, claimed in total.items():
            account = self.accounts[channel]
            self.claimed[channel.receiver, channel.token] += claimed - account.claimed
            account.claimed = claimed

    def settle(self, receiver: bytes, token: bytes) -> str | None:
        due = self.claimed[receiver, token] - self.settled[receiver, token]
        self.settled[receiver, token] += due
        self.tokens[receiver] += due
        return None

    def initiate_withdraw(self, channel: Channel, amount: int, sender: bytes) -> str | None:
        account = self.accounts[channel]
        if sender not in (channel.payer, channel.payer_authorizer):
            return "InvalidChannel"
        if amount == 0:
            return "NothingToWithdraw"
        if account.initiated_at:
            return "WithdrawalAlreadyPending"
        if amount > account.free:
            return "WithdrawAmountExceedsAvailable"
        account.pending, account.initiated_at = amount, self.now + 1
        return None

    def finalize_withdraw(self, channel: Channel, sender: bytes) -> str | None:
        account = self.accounts[channel]
        if sender not in (channel.payer, channel.payer_authorizer):
            return "NotAuthorizedToFinalizeWithdraw"
        if not account.initiated_at:
            return "WithdrawalNotPending"
        if self.now < account.initiated_at + channel.withdraw_delay:
            return "WithdrawDelayNotElapsed"
        self._return(channel, min(account.pending, account.free))
        account.pending = account.initiated_at = 0
        return None

    def refund(self, channel: Channel, amount: int, sender: bytes) -> str | None:
        if sender not in (channel.receiver, channel.receiver_authorizer):
            return "NotAuthorizedToRefund"
        return self._refund(channel, amount)

    def refund_with_signature(self, channel: Channel, amount: int, nonce: int, signer: bytes) -> str | None:
        if nonce != self.accounts[channel].nonce:
            return "InvalidRefundNonce"
        if signer != channel.receiver_authorizer:
            return "InvalidSignature"
        return self._refund(channel, amount)

    def _refund(self, channel: Channel, requested: int) -> str | None:
        account = self.accounts[channel]
        if requested == 0:
            return "ZeroRefund"
        account.nonce += 1
        amount = min(requested, account.free)
        self._return(channel, amount)
        if amount and account.initiated_at:
            account.pending = max(0, account.pending - amount)
            account.initiated_at = account.initiated_at if account.pending else 0
        return None

    def _return(self, channel: Channel, amount: int) -> None:
        self.accounts[channel].returned += amount
        self.tokens[channel.payer] += amount

    @property
    def held(self) -> int:
        """What the contract must hold: unclaimed escrow, claims that were not settled yet, and gifts."""
        escrow = sum(account.free for account in self.accounts.values())
        return escrow + sum(self.claimed.values()) - sum(self.settled.values()) + self.given

    def check(self) -> None:
        """Identities that hold in any history (docs/protocol.md 7)."""
        for account in self.accounts.values():
            assert 0 <= account.claimed <= account.balance
            assert account.deposited == account.balance + account.returned
        for pair, claimed in self.claimed.items():
            own = sum(a.claimed for c, a in self.accounts.items() if (c.receiver, c.token) == pair)
            assert claimed == own
            assert 0 <= self.settled[pair] <= claimed
