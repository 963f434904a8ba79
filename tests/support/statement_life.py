"""A party's life in states, and the statements that a gateway would issue about it, cycle by cycle."""

import random
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from msgspec.structs import replace

from channels.signatures import key_address, sign
from channels.state import Account, Channel, Meter, Phase
from channels.types import Address, ChannelConfig, Network
from settlement.statements import (
    FIRST,
    AccountLine,
    ChannelLine,
    Issue,
    Link,
    Signed,
    Statement,
    add_up,
    draft,
    link,
    statement_digest,
)

GATEWAY_KEY = sha256(b"receiverAuthorizer").digest()
GATEWAY = key_address(GATEWAY_KEY)
NETWORK = Network(31402)
TOKEN = bytes.fromhex("aa" * 20)
PARTY = bytes.fromhex("be" * 20)
UNITS = {"grid-power": "Wh", "data": "B", "solar-export": "Wh"}
OFFER = bytes(16)


class Life:
    """One party with some channels and accounts; `cycle` lets time pass and returns the statement, if there is one."""

    def __init__(self, seed: int, *, party: Address = PARTY, channels: int = 2, accounts: int = 2) -> None:
        self.rng = random.Random(seed)
        self.party = party
        self.channels = [self._channel(number) for number in range(channels)]
        self.accounts = [self._account(number) for number in range(accounts)]
        self.signed = self.paid = 0
        self.number = self.commit = self.block = self.reorgs = 0
        self.last: Link = FIRST

    def cycle(self) -> Signed | None:
        """Meter, net, claim and pay something, then issue."""
        self.channels = [self._used(channel) for channel in self.channels]
        self.accounts = [self._earned(account) for account in self.accounts]
        self._net()
        self.channels = [self._claimed(channel) for channel in self.channels]
        due = sum(account.net for account in self.accounts)
        self.signed = self.rng.randint(self.signed, due)
        self.paid = self.rng.randint(self.paid, self.signed)
        return self.issue()

    def issue(self) -> Signed | None:
        """Issue the statement of a cycle that ends now."""
        self.number += self.rng.randint(1, 3)
        self.commit += self.rng.randint(1, 500)
        self.block += self.rng.randint(0, 50)
        issue = Issue(
            NETWORK, "gw1", TOKEN, GATEWAY, self.number, self.commit, self.block,
            self.rng.randbytes(32), 1_760_000_000 + 2 * self.block, self.reorgs,
        )  # fmt: skip
        payouts = (self.signed, self.paid)
        drafted = draft(issue, self.party, self.channels, self.accounts, payouts, UNITS.__getitem__, self.last)
        if drafted is None:
            return None
        statement, figures = drafted
        digest = statement_digest(statement)
        self.last = link(statement, digest, figures)
        return Signed(statement, sign(digest, GATEWAY_KEY))

    def cycles(self, count: int) -> list[Signed]:
        """Let so many cycles pass."""
        return [signed for signed in (self.cycle() for _ in range(count)) if signed is not None]

    # -- what happens --

    def _channel(self, number: int) -> Channel:
        identifier = sha256(b"channel %d" % number).digest()
        config = ChannelConfig(self.party, self.party, b"\3" * 20, GATEWAY, TOKEN, 900, number.to_bytes(32, "big"))
        register = self.rng.randrange(10**6)
        return Channel(
            identifier, config, f"meter-{number}", self.rng.choice(("grid-power", "data")), 0, Phase.OPEN,
            Meter(0, register, 0, OFFER, 1), balance=10**12, proven=True, first_register=register,
        )  # fmt: skip

    def _account(self, number: int) -> Account:
        identifier = sha256(b"account %d" % number).digest()
        register = self.rng.randrange(10**6)
        meter = Meter(0, register, 0, OFFER, 1)
        return Account(
            identifier, f"roof-{number}", "solar-export", self.party, b"\4" * 20, meter, first_register=register
        )

    def _metered(self, meter: Meter) -> tuple[Meter, int]:
        units = self.rng.choice((0, 1, 77, 5_000))
        added, remainder = divmod(meter.remainder + units * 333_333_333, 10**9)
        return replace(meter, seq=meter.seq + 1, register=meter.register + units, remainder=remainder), added

    def _used(self, channel: Channel) -> Channel:
        meter, added = self._metered(channel.meter)
        charged = channel.charged + added
        ceiling = max(channel.ceiling, charged - channel.offset - channel.forgiven + self.rng.randrange(100))
        return replace(channel, meter=meter, charged=charged, ceiling=ceiling, ceiling_signature=bytes(65))

    def _earned(self, account: Account) -> Account:
        meter, added = self._metered(account.meter)
        fee, remainder = divmod(account.fee_remainder + added * 33, 10**4)
        return replace(
            account, meter=meter, earned=account.earned + added, fee=account.fee + fee, fee_remainder=remainder
        )

    def _net(self) -> None:
        """Offset at most what both sides have, on any of the lines."""
        free = sum(account.net for account in self.accounts) - self.signed
        amount = self.rng.randint(0, min(free, sum(channel.owed - channel.committed for channel in self.channels)))
        self.channels, left = self._spread(self.channels, amount, lambda channel: channel.owed - channel.committed)
        assert left == 0
        self.accounts, left = self._spread(self.accounts, amount, lambda account: account.net)
        assert left == 0

    @staticmethod
    def _spread(holders: list[Any], amount: int, free: Any) -> tuple[list[Any], int]:
        after = []
        for holder in holders:
            part = min(amount, free(holder))
            after.append(replace(holder, offset=holder.offset + part))
            amount -= part
        return after, amount

    def _claimed(self, channel: Channel) -> Channel:
        claimed = self.rng.randint(channel.committed, max(channel.committed, channel.owed))
        withdrawn = self.rng.choice((0, 0, 5))
        return replace(
            channel, claimed=claimed, committed=claimed, balance=channel.balance - withdrawn,
            withdrawn=channel.withdrawn + withdrawn,
        )  # fmt: skip


def altered(signed: Signed, changes: Mapping[str, Any], *, key: bytes = GATEWAY_KEY, sums: bool = True) -> Signed:
    """Return a statement with other fields, signed by a key. `channels.charged` is of the first line.

    With `sums` its totals are made to fit its lines again: only the fault meant is in it.
    """
    statement = signed.statement
    for name, value in changes.items():
        part, _, member = name.partition(".")
        if not member:
            statement = replace(statement, **{part: value})
        elif part == "totals":
            statement = replace(statement, totals=replace(statement.totals, **{member: value}))
        else:
            lines: tuple[ChannelLine | AccountLine, ...] = getattr(statement, part)
            statement = replace(statement, **{part: (replace(lines[0], **{member: value}), *lines[1:])})
    if sums:
        given = statement.totals
        statement = replace(statement, totals=add_up(statement.channels, statement.accounts, given.signed, given.paid))
    return signed_by(statement, key)


def signed_by(statement: Statement, key: bytes = GATEWAY_KEY) -> Signed:
    """Sign a statement."""
    return Signed(statement, sign(statement_digest(statement), key))
