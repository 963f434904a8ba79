"""What always holds (docs/protocol.md 7). Live code, replay, `metergate doctor` and the tests share these."""

from collections.abc import Iterable

from channels.pricing import BASIS_POINTS, NANO
from channels.state import Account, Channel, Phase
from channels.types import U128_MAX


class InvariantViolation(Exception):
    """The books do not add up: the process stops rather than guess."""


def channel_faults(channel: Channel) -> list[str]:
    """Return every identity that this channel breaks, in words; an empty list when all hold."""
    checks = (
        (0 <= channel.claimed <= channel.balance, "0 ≤ claimed ≤ balance"),
        (channel.unclaimed >= 0, "charged = claimed + offset + forgiven + unclaimed, all ≥ 0"),
        (channel.offset >= 0 and channel.forgiven >= 0, "offset and forgiven ≥ 0"),
        (channel.claimed <= channel.committed <= channel.owed, "claimed ≤ committed ≤ owed"),
        (
            channel.owed <= max(channel.ceiling, channel.committed),
            "owed is covered by a ceiling or was signed for before",
        ),
        (0 <= channel.withdrawing <= channel.balance, "0 ≤ withdrawing ≤ balance"),
        (0 <= channel.foreseen <= U128_MAX, "foreseen is a u128"),
        (
            (channel.withdrawing > 0 or channel.withdraw_after == 0)
            and (channel.foreseen > 0 or channel.foreseen_after == 0),
            "only a withdrawal has an end",
        ),
        (0 <= channel.meter.remainder < NANO, "0 ≤ remainder < 10⁹"),
        (max(channel.charged, channel.balance, channel.ceiling) <= U128_MAX, "amounts are u128"),
        (
            (channel.ceiling == 0) == (channel.ceiling_signature == b""),
            "a ceiling is held with its signature",
        ),
        (
            channel.phase is not Phase.WITHDRAWING or channel.withdrawing > 0,
            "withdrawing means a pending amount",
        ),
    )
    return [text for holds, text in checks if not holds]


def account_faults(account: Account) -> list[str]:
    """Return every identity that this earner account breaks."""
    checks = (
        (0 <= account.fee <= account.earned, "0 ≤ fee ≤ earned"),
        (0 <= account.offset <= account.earned - account.fee, "0 ≤ offset ≤ earned − fee"),
        (0 <= account.meter.remainder < NANO, "0 ≤ remainder < 10⁹"),
        (0 <= account.fee_remainder < BASIS_POINTS, "0 ≤ fee remainder < 10⁴"),
        (account.earned <= U128_MAX, "amounts are u128"),
    )
    return [text for holds, text in checks if not holds]


def check(channels: Iterable[Channel], accounts: Iterable[Account]) -> None:
    """Raise InvariantViolation, naming the first offender, unless every identity holds for all."""
    for channel in channels:
        if faults := channel_faults(channel):
            raise InvariantViolation(f"channel 0x{channel.id.hex()}: {'; '.join(faults)}")
    for account in accounts:
        if faults := account_faults(account):
            raise InvariantViolation(f"account 0x{account.id.hex()}: {'; '.join(faults)}")
