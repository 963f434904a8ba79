"""The answers about money and devices: one struct each, from which the JSON and its documentation come.

Amounts are decimal strings in token base units (coins: wei), ids and addresses 0x-hex, times Unix seconds.
"""

import msgspec

from gateway.web.endpoints import Amount, Hex


class _Shape(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of all shapes."""


# -- overview --


class Trouble(_Shape, frozen=True, kw_only=True):
    """Something that is not as it should be: a stable code (one of the repairs), and a sentence."""

    code: str
    words: str


class Health(_Shape, frozen=True, kw_only=True):
    """`state` is "ok", "warning" or "fault"."""

    state: str
    problems: list[Trouble]


class Latency(_Shape, frozen=True, kw_only=True):
    """From a message's arrival to its receipt handed over, over the last minute, ms; null without messages."""

    p50: float | None
    p99: float | None


class NextSettlement(_Shape, frozen=True, kw_only=True):
    """Seconds until the next cycle on schedule, and why one runs earlier: "schedule", "closing", "withdrawal"."""

    in_s: int | None
    reason: str
    running: bool


class LastSettlement(_Shape, frozen=True, kw_only=True):
    """The last ended cycle."""

    number: int
    at: int
    claimed: Amount
    offset: Amount
    paid: Amount


class KeyCoins(_Shape, frozen=True, kw_only=True):
    """One sending key's coins, wei. `low`: below this it is refilled. `transactions`: how many more they pay for."""

    name: str
    address: Hex
    coins: Amount
    low: Amount
    transactions: int
    is_low: bool


class Gas(_Shape, frozen=True, kw_only=True):
    """Coins for gas. `refills`: how many the operator's key still covers; `warning`: what to do, or ""."""

    refills: int
    warning: str
    keys: list[KeyCoins]


class DeviceCounts(_Shape, frozen=True, kw_only=True):
    """Devices by what is known of them; `refused_recently`: within ten minutes."""

    total: int
    online: int
    refused_recently: int
    without_deposit: int


class ChainState(_Shape, frozen=True, kw_only=True):
    """Where the chain stands. `lag_s`: seconds since it last showed a block; null before it did."""

    id: int
    embedded: bool
    block: int | None
    time: int | None
    lag_s: float | None
    stale: bool


class BrokerState(_Shape, frozen=True, kw_only=True):
    """The connection to the broker. `queued`: messages that wait for the pipeline."""

    host: str
    port: int
    connected: bool
    queued: int


class BackupState(_Shape, frozen=True, kw_only=True):
    """When the last backup was made; null: never, as far as is known."""

    last_at: int | None


class Tiles(_Shape, frozen=True, kw_only=True):
    """What changes all the time; also the stream's event `overview`.

    `earned` is what payers were charged less what earners are due for it.
    """

    at: int
    earned_today: Amount | None
    earned_since_settlement: Amount | None
    charged_today: Amount | None
    charged: Amount
    exposure: Amount
    payable: Amount
    payments: int
    payments_per_s: float
    refused: int
    receipt_ms: Latency
    next_settlement: NextSettlement
    last_settlement: LastSettlement | None
    devices: DeviceCounts
    channels: int
    health: Health
    chain: ChainState
    broker: BrokerState


class Asset(_Shape, frozen=True, kw_only=True):
    """The token that everything is counted in."""

    name: str
    address: Hex
    decimals: int


class Overview(_Shape, frozen=True, kw_only=True):
    """How the gateway stands."""

    gateway: str
    version: str
    demo: bool
    asset: Asset
    services: dict[str, "ServiceLine"]
    tiles: Tiles
    gas: Gas
    backup: BackupState


class ServiceLine(_Shape, frozen=True, kw_only=True):
    """A service of the current offer; the price is 10⁻⁹ base units per register unit."""

    unit: str
    price: Amount
    direction: str


class Series(_Shape, frozen=True, kw_only=True):
    """Columns for a chart: `t` Unix seconds, and one column of values per name in `names`; null where nothing was."""

    names: list[str]
    t: list[int]
    v: list[list[float | None]]


# -- devices --


class LastRefusal(_Shape, frozen=True, kw_only=True):
    """The last refusal of a device since the gateway's start, and how many there were in a row."""

    reason: str
    at: int
    times: int


class DeviceRow(_Shape, frozen=True, kw_only=True):
    """A device in the list.

    `status`: "online" (heard of within five minutes), "quiet", "never" (not since the start), "unknown" (not enrolled
    and nothing open). `problem`: "", "refused", "no_deposit", "deposit_low", "withdrawing", "owes", "closed".
    `fill`: how much of its deposits is used up, 0 to 1, null without one. `rate`: base units per hour, lately.
    """

    device: str
    note: str
    enrolled: bool
    status: str
    problem: str
    services: list[str]
    channels: int
    accounts: int
    register: int
    charged: Amount
    earned: Amount
    unclaimed: Amount
    balance: Amount
    fill: float | None
    rate: Amount
    last_receipt_at: int | None
    last_refusal: LastRefusal | None


class ChannelShape(_Shape, frozen=True, kw_only=True):
    """One payment channel, with the voucher that is held for it (`ceiling` and its signature)."""

    channel_id: Hex
    service: str
    unit: str
    phase: str
    payer: Hex
    payer_authorizer: Hex
    lane: int
    last_seq: int
    register: int
    first_register: int
    charged: Amount
    offset: Amount
    forgiven: Amount
    claimed: Amount
    owed: Amount
    unclaimed: Amount
    ceiling: Amount
    voucher: Hex
    balance: Amount
    usable_balance: Amount
    deposited: Amount
    refunded: Amount
    withdrawn: Amount
    withdrawing: Amount
    withdraw_after: int | None
    fill: float | None
    set_aside: str


class AccountShape(_Shape, frozen=True, kw_only=True):
    """One earner account."""

    account_id: Hex
    service: str
    unit: str
    payee: Hex
    meter_key: Hex
    last_seq: int
    register: int
    first_register: int
    earned: Amount
    fee: Amount
    offset: Amount
    net: Amount
    paid: Amount


class DevicePage(_Shape, frozen=True, kw_only=True):
    """Everything about one device."""

    row: DeviceRow
    payers: list[Hex]
    enrolled_accounts: list[Hex]
    channels: list[ChannelShape]
    accounts: list[AccountShape]


class ReadingShape(_Shape, frozen=True, kw_only=True):
    """An accepted reading. `time` is the device's clock, Unix ms, advisory; `amount` is cumulative."""

    id: Hex
    service: str
    seq: int
    register: int
    time: int
    amount: Amount
    commit: int


class NewDevice(_Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device to enrol, or what to add to a known one."""

    device: str
    payers: list[str] = msgspec.field(default_factory=list)
    accounts: list[str] = msgspec.field(default_factory=list)
    note: str = ""


class DeviceChange(_Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to add to a device: payers and accounts are added, a note replaces the one before."""

    payers: list[str] = msgspec.field(default_factory=list)
    accounts: list[str] = msgspec.field(default_factory=list)
    note: str = ""


class CloseRequest(_Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which channel to close; null: all that are open."""

    channel: str | None = None


class ClosingRow(_Shape, frozen=True, kw_only=True):
    """A channel that closes: what this closing has claimed and given back so far."""

    channel_id: Hex
    service: str
    phase: str
    payer: Hex
    claimed: Amount
    refunded: Amount
    unclaimed: Amount


class Closed(_Shape, frozen=True, kw_only=True):
    """Where a closing stands; `closed` once all is claimed and refunded. It goes on by itself."""

    closed: bool
    channels: list[ClosingRow]


# -- events --


class Event(_Shape, frozen=True, kw_only=True):
    """Something that happened. `kind`: "refusal", "cycle", "chain", "enrolment", "channel", "broker", "trouble".

    A refusal has a `reason`; equal ones of a device that follow each other within a minute are one, with `times`.
    """

    id: int
    at: int
    kind: str
    words: str
    device: str = ""
    reason: str = ""
    subject: str = ""
    times: int = 1


class RefusalReason(_Shape, frozen=True, kw_only=True):
    """Why a message is refused: what it means, what the device does, what the operator can do."""

    number: int
    name: str
    transient: bool
    cause: str
    device_does: str
    operator_does: str
    seen: int
