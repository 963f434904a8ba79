"""What the decision to claim is about (pure): channels, the operator's terms, reasons and outcomes.

Amounts and costs are token base units, times chain seconds.
"""

from dataclasses import dataclass
from enum import StrEnum

from channels.types import Address, ChannelId
from settlement.planning import CLAIM_ROWS_MAX

WEI_PER_COIN = 10**18


class Reason(StrEnum):
    """Why a channel is claimed or held. Values are shown to operators and scripts: never renamed."""

    WITHDRAWAL_URGENT = "withdrawal_urgent"
    WITHDRAWAL_DEADLINE = "withdrawal_deadline"
    CLOSING = "closing"
    EXPOSURE_CHANNEL = "exposure_channel"
    WORTH_IT = "worth_it"
    CASH_NEEDED = "cash_needed"
    EXPOSURE_TOTAL = "exposure_total"
    EXPOSURE_PARTY = "exposure_party"
    DUST = "dust"
    DUST_DEADLINE = "dust_deadline"
    WAITING = "waiting"
    NOTHING = "nothing"

    @property
    def claims(self) -> bool:
        """True for a reason to claim, False for one to hold."""
        return self not in _HOLDS


_HOLDS = frozenset({Reason.DUST, Reason.DUST_DEADLINE, Reason.WAITING, Reason.NOTHING})


@dataclass(frozen=True, slots=True)
class Claimable:
    """A channel that netting would claim, and what the decision needs to know of it.

    `amount` is what a claim would add, `since` the chain second at which the channel was last claimed or, if that
    was later, began to owe. With a withdrawal pending, `finalize_after` is the chain second from which its payer
    can end it, and `at_stake` the part of `amount` that would be gone then.
    """

    id: ChannelId
    party: Address
    lane: int
    amount: int
    since: int
    finalize_after: int | None = None
    at_stake: int = 0
    closing: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.at_stake <= self.amount or (self.at_stake and self.finalize_after is None):
            raise ValueError(f"channel 0x{self.id.hex()} breaks 0 ≤ at stake in a withdrawal ≤ amount: {self}")


@dataclass(frozen=True, slots=True)
class GasUse:
    """Gas of settling: of a claim's row, of a claim transaction without rows, of a lane's settlement and sweep.

    The defaults are what the contracts use on any EVM chain (`tests/settlement/test_claiming.py` measures them);
    a chain that charges call data separately needs higher ones.
    """

    row: int = 19_250
    batch: int = 30_100
    lane: int = 91_400

    def of_row(self, rows: int, rows_max: int) -> int:
        """Return a row's gas with its share of the rest, in a lane that claims `rows` rows in all.

        It never rises with `rows`: batches count as filled once a lane has enough rows for one.
        """
        return self.row + -(-self.batch // min(rows, rows_max)) + -(-self.lane // rows)


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's terms. Bounds of exposure are base units, 0 is no bound.

    `coin_price` is what 10¹⁸ wei cost in base units; 0: gas is not weighed, and all that is owed is claimed.
    `risk_ppm_per_day` is what holding is taken to cost. A channel with a withdrawal pending is claimed
    `withdraw_margin_s` before that can end, and earlier if the decision would come up again only after that: in
    `again_s` at the latest.
    """

    coin_price: int = 0
    risk_ppm_per_day: int = 1_000
    exposure_channel_max: int = 0
    exposure_party_max: int = 0
    exposure_total_max: int = 0
    withdraw_margin_s: int = 0
    again_s: int = 0
    rows_max: int = CLAIM_ROWS_MAX
    gas: GasUse = GasUse()

    def cost(self, gas: int, gas_price: int) -> int:
        """Return what gas costs in base units, rounded up; `gas_price` is wei per gas."""
        return -(-gas * gas_price * self.coin_price // WEI_PER_COIN)

    def least(self, gas_price: int) -> int:
        """Return what a row in a full batch costs: to lose less than that to a withdrawal is cheaper than to claim."""
        return self.cost(self.gas.row + -(-self.gas.batch // self.rows_max), gas_price)


@dataclass(frozen=True, slots=True)
class Situation:
    """What the decision depends on beside the channels.

    `now` is chain time, `gas_price` wei per gas. `cash_needed` is what payouts need beyond the treasury's cash.
    """

    now: int
    gas_price: int
    cash_needed: int = 0


@dataclass(frozen=True, slots=True)
class Exposure:
    """What is owed and not claimed: the most on one channel, the most of one party, and in all."""

    channel_max: int = 0
    party_max: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one channel. `words` is one sentence for the operator.

    `cost` is what its row costs in base units, or would cost. `due` is the chain second at which a waiting channel
    pays at the latest at this gas price; None when it does not wait, or would for ever.
    """

    row: Claimable
    reason: Reason
    cost: int
    due: int | None
    words: str

    @property
    def claims(self) -> bool:
        """True when the channel is claimed now."""
        return self.reason.claims


@dataclass(frozen=True, slots=True)
class Claiming:
    """Every decision, in the order of the rows, and the channels to claim.

    `cost` is that of settling all claims, `exposure` what remains held. All amounts are base units.
    """

    decisions: tuple[Decision, ...]
    claims: frozenset[ChannelId]
    claimed: int
    held: int
    cost: int
    exposure: Exposure
