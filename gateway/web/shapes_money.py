"""The answers about settlement, the execution layer, repairs and enrolment."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway.web.endpoints import Amount, Hex


class _Shape(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of all shapes."""


# -- settlement --


class CycleRow(_Shape, frozen=True, kw_only=True):
    """A settlement cycle. `state`: "ended" or "running". Amounts are what it moved."""

    number: int
    state: str
    at: int
    offset: Amount
    claimed: Amount
    settled: Amount
    paid: Amount
    rows: int
    gas_used: int


class CycleTransaction(_Shape, frozen=True, kw_only=True):
    """A transaction of a cycle. `state`: "mined", "failed" or "outstanding"; `fee` is wei."""

    hash: Hex
    purpose: str
    key: str
    nonce: int
    state: str
    block: int | None
    gas_used: int | None
    fee: Amount | None


class CycleLane(_Shape, frozen=True, kw_only=True):
    """One sending key's part in a cycle."""

    key: str
    claims: int
    amount: Amount
    transactions: int
    gas_used: int


class CycleClaim(_Shape, frozen=True, kw_only=True):
    """A claim of a cycle: the cumulative amount, and what it added."""

    channel_id: Hex
    device: str
    lane: int
    total_claimed: Amount


class CyclePayout(_Shape, frozen=True, kw_only=True):
    """A payout of a cycle, cumulative."""

    payee: Hex
    cumulative: Amount


class CycleDetail(_Shape, frozen=True, kw_only=True):
    """One cycle. `speed_up`: work over elapsed time in the blocks that held it, on the embedded layer; else null.

    `complete` is false when the journal's part could not be found any more: then only `row` is told.
    """

    row: CycleRow
    started_at: int | None
    complete: bool
    claims: list[CycleClaim]
    claims_total: int
    payouts: list[CyclePayout]
    offsets: int
    transactions: list[CycleTransaction]
    lanes: list[CycleLane]
    blocks: list["BlockRow"]
    speed_up: float | None
    set_aside: list["AsideRow"]


class AsideRow(_Shape, frozen=True, kw_only=True):
    """A row that reverted alone, and the chain's reason."""

    name: str
    subject: Hex
    reason: str
    cycle: int
    times: int
    retry_cycle: int


class StatementRow(_Shape, frozen=True, kw_only=True):
    """A signed statement that can be downloaded at /statements/{party}?cycle={cycle}."""

    party: Hex
    cycle: int


class Decision(_Shape, frozen=True, kw_only=True):
    """What settling now would do with a channel, and why."""

    channel_id: Hex
    device: str
    payer: Hex
    lane: int
    amount: Amount
    claim: bool
    reason: str
    words: str
    cost: Amount
    due: int | None


class ExposureAfter(_Shape, frozen=True, kw_only=True):
    """What stays unclaimed afterwards."""

    channel_max: Amount
    party_max: Amount
    total: Amount


class Preview(_Shape, frozen=True, kw_only=True):
    """What a settlement now would do. Of `decisions` the largest 200 are told; `decisions_total` counts all."""

    at: int
    gas_price: Amount
    claim: Amount
    hold: Amount
    claim_cost: Amount
    offset: Amount
    pay: Amount
    pay_later: Amount
    exposure_after: ExposureAfter
    decisions: list[Decision]
    decisions_total: int


class SettleRequest(_Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`whatever_it_costs`: claim and pay everything, not only what is worth its gas."""

    whatever_it_costs: bool = False


class Settled(_Shape, frozen=True, kw_only=True):
    """`settled` is false when there was nothing to settle; `running`: it goes on, and ends by itself."""

    settled: bool
    running: bool
    cycle: CycleRow | None


# -- execution layer --


class LayerState(_Shape, frozen=True, kw_only=True):
    """The execution layer. `threads`, `executed` and `speed_up` are told by the embedded one only."""

    chain_id: int
    embedded: bool
    url: str
    head: int | None
    time: int | None
    lag_s: float | None
    final: int
    confirmations: int
    block_time_s: float | None
    outstanding: int
    reorgs: int
    settlement: Hex
    token: Hex
    payouts: Hex
    threads: int | None
    transactions: int | None
    executed: int | None
    reexecuted: int | None
    speed_up: float | None


class LaneLoad(_Shape, frozen=True, kw_only=True):
    """One lane of a block's execution: the sender's transactions and their gas."""

    key: str
    transactions: int
    gas_used: int


class BlockRow(_Shape, frozen=True, kw_only=True):
    """A block. On a remote layer only our own transactions are counted; what the embedded one alone knows is null."""

    number: int
    time: int
    transactions: int
    gas_used: int | None
    executed: int | None
    reexecuted: int | None
    speed_up: float | None
    execute_us: int | None
    total_us: int | None
    threads: int | None
    lanes: list[LaneLoad]


# -- repairs --


class RepairAction(_Shape, frozen=True, kw_only=True):
    """The button: send this request."""

    method: str
    path: str
    label: str


class Repair(_Shape, frozen=True, kw_only=True):
    """A problem. `severity`: "warning" or "fault"; `how`: what to do by hand; `link`: a page's path, or ""."""

    code: str
    severity: str
    title: str
    words: str
    how: str
    link: str
    action: RepairAction | None


class Repaired(_Shape, frozen=True, kw_only=True):
    """What the button did, as a sentence; and what is still wrong."""

    words: str
    repairs: list[Repair]


class Backup(_Shape, frozen=True, kw_only=True):
    """A backup that was made, on the gateway's machine."""

    file: str
    at: int
    commit: int
    bytes: int


# -- enrolment --


class Waiting(_Shape, frozen=True, kw_only=True):
    """A device that asks to join. `kind`: "open" (pays from a channel) or "earner"; `id`: the channel's or account's.

    `party`: the payer or payee. `signed_by_payer`: the payer's own key vouches for the deposit.
    """

    id: Hex
    kind: str
    device: str
    service: str
    party: Hex
    deposit: Amount
    register: int
    known: bool
    seen_at: int
    asked: int


class Enrolment(_Shape, frozen=True, kw_only=True):
    """The permit-join window. `open_until` null: closed. `automatic`: the demo lets everybody with a deposit in."""

    open_until: int | None
    left_s: int
    automatic: bool
    waiting: list[Waiting]
    qr_text: str
    qr_path: str


class WindowRequest(_Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how long devices may ask to join."""

    seconds: Annotated[int, Meta(ge=1, le=3600)]


# -- ledger --


class BookAccountRow(_Shape, frozen=True, kw_only=True):
    """One account of the double-entry books. `side`: "debit" or "credit"."""

    account: str
    name: str
    side: str
    balance: Amount


class TrialBalance(_Shape, frozen=True, kw_only=True):
    """The books as of a commit: debits equal credits."""

    commit: int
    accounts: list[BookAccountRow]
    debit: Amount
    credit: Amount


class BooksCheck(_Shape, frozen=True, kw_only=True):
    """Whether the books agree with the chain, to the unit: no faults means they do."""

    good: bool
    faults: list[str]
    warnings: list[str]


Json = dict[str, Any]
