// Generated from gateway/web/shapes*.py by `python -m tests.web_ui.api_types`; a test compares.

/** Token base units (or wei) as a decimal string. */
export type Amount = string;
/** 0x and hex digits. */
export type Hex = string;

/** One page of a list. */
export interface Page<T> {
  items: T[];
  next: string | null;
  total: number | null;
}

/** Something that is not as it should be: a stable code (one of the repairs), and a sentence. */
export interface Trouble {
  code: string;
  words: string;
}

/** `state` is "ok", "warning" or "fault". */
export interface Health {
  state: string;
  problems: Trouble[];
}

/** From a message's arrival to its receipt handed over, over the last minute, ms; null without messages. */
export interface Latency {
  p50: number | null;
  p99: number | null;
}

/** Seconds until the next cycle on schedule, and why one runs earlier: "schedule", "closing", "withdrawal". */
export interface NextSettlement {
  in_s: number | null;
  reason: string;
  running: boolean;
}

/** The last ended cycle. */
export interface LastSettlement {
  number: number;
  at: number;
  claimed: string;
  offset: string;
  paid: string;
}

/** One sending key's coins, wei. `low`: below this it is refilled. `transactions`: how many more they pay for. */
export interface KeyCoins {
  name: string;
  address: string;
  coins: string;
  low: string;
  transactions: number;
  is_low: boolean;
}

/** Coins for gas. `refills`: how many the operator's key still covers; `warning`: what to do, or "". */
export interface Gas {
  refills: number;
  warning: string;
  keys: KeyCoins[];
}

/** Devices by what is known of them; `refused_recently`: within ten minutes. */
export interface DeviceCounts {
  total: number;
  online: number;
  refused_recently: number;
  without_deposit: number;
}

/** Where the chain stands. `lag_s`: seconds since it last showed a block; null before it did. */
export interface ChainState {
  id: number;
  embedded: boolean;
  block: number | null;
  time: number | null;
  lag_s: number | null;
  stale: boolean;
}

/** The connection to the broker. `queued`: messages that wait for the pipeline. */
export interface BrokerState {
  host: string;
  port: number;
  connected: boolean;
  queued: number;
}

/** When the last backup was made; null: never, as far as is known. */
export interface BackupState {
  last_at: number | null;
}

/** What changes all the time; also the stream's event `overview`. */
export interface Tiles {
  at: number;
  earned_today: string | null;
  earned_since_settlement: string | null;
  charged_today: string | null;
  charged: string;
  exposure: string;
  payable: string;
  payments: number;
  payments_per_s: number;
  refused: number;
  receipt_ms: Latency;
  next_settlement: NextSettlement;
  last_settlement: LastSettlement | null;
  devices: DeviceCounts;
  channels: number;
  health: Health;
  chain: ChainState;
  broker: BrokerState;
}

/** The token that everything is counted in. */
export interface Asset {
  name: string;
  address: string;
  decimals: number;
}

/** How the gateway stands. */
export interface Overview {
  gateway: string;
  version: string;
  demo: boolean;
  asset: Asset;
  services: Record<string, ServiceLine>;
  tiles: Tiles;
  gas: Gas;
  backup: BackupState;
}

/** A service of the current offer; the price is 10⁻⁹ base units per register unit. */
export interface ServiceLine {
  unit: string;
  price: string;
  direction: string;
}

/** Columns for a chart: `t` Unix seconds, and one column of values per name in `names`; null where nothing was. */
export interface Series {
  names: string[];
  t: number[];
  v: ((number | null)[])[];
}

/** The last refusal of a device since the gateway's start, and how many there were in a row. */
export interface LastRefusal {
  reason: string;
  at: number;
  times: number;
}

/** A device in the list. */
export interface DeviceRow {
  device: string;
  note: string;
  enrolled: boolean;
  status: string;
  problem: string;
  services: string[];
  channels: number;
  accounts: number;
  register: number;
  charged: string;
  earned: string;
  unclaimed: string;
  balance: string;
  fill: number | null;
  rate: string;
  last_receipt_at: number | null;
  last_refusal: LastRefusal | null;
}

/** One payment channel, with the voucher that is held for it (`ceiling` and its signature). */
export interface ChannelShape {
  channel_id: string;
  service: string;
  unit: string;
  phase: string;
  payer: string;
  payer_authorizer: string;
  lane: number;
  last_seq: number;
  register: number;
  first_register: number;
  charged: string;
  offset: string;
  forgiven: string;
  claimed: string;
  owed: string;
  unclaimed: string;
  ceiling: string;
  voucher: string;
  balance: string;
  usable_balance: string;
  deposited: string;
  refunded: string;
  withdrawn: string;
  withdrawing: string;
  withdraw_after: number | null;
  fill: number | null;
  set_aside: string;
}

/** One earner account. */
export interface AccountShape {
  account_id: string;
  service: string;
  unit: string;
  payee: string;
  meter_key: string;
  last_seq: number;
  register: number;
  first_register: number;
  earned: string;
  fee: string;
  offset: string;
  net: string;
  paid: string;
}

/** Everything about one device. */
export interface DevicePage {
  row: DeviceRow;
  payers: string[];
  enrolled_accounts: string[];
  channels: ChannelShape[];
  accounts: AccountShape[];
}

/** An accepted reading. `time` is the device's clock, Unix ms, advisory; `amount` is cumulative. */
export interface ReadingShape {
  id: string;
  service: string;
  seq: number;
  register: number;
  time: number;
  amount: string;
  commit: number;
}

/** A device to enrol, or what to add to a known one. */
export interface NewDevice {
  device: string;
  payers: string[];
  accounts: string[];
  note: string;
}

/** What to add to a device: payers and accounts are added, a note replaces the one before. */
export interface DeviceChange {
  payers: string[];
  accounts: string[];
  note: string;
}

/** Which channel to close; null: all that are open. */
export interface CloseRequest {
  channel: string | null;
}

/** A channel that closes: what this closing has claimed and given back so far. */
export interface ClosingRow {
  channel_id: string;
  service: string;
  phase: string;
  payer: string;
  claimed: string;
  refunded: string;
  unclaimed: string;
}

/** Where a closing stands; `closed` once all is claimed and refunded. It goes on by itself. */
export interface Closed {
  closed: boolean;
  channels: ClosingRow[];
}

/** Something that happened. `kind`: "refusal", "cycle", "chain", "enrolment", "channel", "broker", "trouble". */
export interface Event {
  id: number;
  at: number;
  kind: string;
  words: string;
  device: string;
  reason: string;
  subject: string;
  times: number;
}

/** Why a message is refused: what it means, what the device does, what the operator can do. */
export interface RefusalReason {
  number: number;
  name: string;
  transient: boolean;
  cause: string;
  device_does: string;
  operator_does: string;
  seen: number;
}

/** A settlement cycle. `state`: "ended" or "running". Amounts are what it moved. */
export interface CycleRow {
  number: number;
  state: string;
  at: number;
  offset: string;
  claimed: string;
  settled: string;
  paid: string;
  rows: number;
  gas_used: number;
}

/** A transaction of a cycle. `state`: "mined", "failed" or "outstanding"; `fee` is wei. */
export interface CycleTransaction {
  hash: string;
  purpose: string;
  key: string;
  nonce: number;
  state: string;
  block: number | null;
  gas_used: number | null;
  fee: string | null;
}

/** One sending key's part in a cycle. */
export interface CycleLane {
  key: string;
  claims: number;
  amount: string;
  transactions: number;
  gas_used: number;
}

/** A claim of a cycle: the cumulative amount, and what it added. */
export interface CycleClaim {
  channel_id: string;
  device: string;
  lane: number;
  total_claimed: string;
}

/** A payout of a cycle, cumulative. */
export interface CyclePayout {
  payee: string;
  cumulative: string;
}

/** One cycle. `speed_up`: work over elapsed time in the blocks that held it, on the embedded layer; else null. */
export interface CycleDetail {
  row: CycleRow;
  started_at: number | null;
  complete: boolean;
  claims: CycleClaim[];
  claims_total: number;
  payouts: CyclePayout[];
  offsets: number;
  transactions: CycleTransaction[];
  lanes: CycleLane[];
  blocks: BlockRow[];
  speed_up: number | null;
  set_aside: AsideRow[];
}

/** A row that reverted alone, and the chain's reason. */
export interface AsideRow {
  name: string;
  subject: string;
  reason: string;
  cycle: number;
  times: number;
  retry_cycle: number;
}

/** A signed statement that can be downloaded at /statements/{party}?cycle={cycle}. */
export interface StatementRow {
  party: string;
  cycle: number;
}

/** What settling now would do with a channel, and why. */
export interface Decision {
  channel_id: string;
  device: string;
  payer: string;
  lane: number;
  amount: string;
  claim: boolean;
  reason: string;
  words: string;
  cost: string;
  due: number | null;
}

/** What stays unclaimed afterwards. */
export interface ExposureAfter {
  channel_max: string;
  party_max: string;
  total: string;
}

/** What a settlement now would do. Of `decisions` the largest 200 are told; `decisions_total` counts all. */
export interface Preview {
  at: number;
  gas_price: string;
  claim: string;
  hold: string;
  claim_cost: string;
  offset: string;
  pay: string;
  pay_later: string;
  exposure_after: ExposureAfter;
  decisions: Decision[];
  decisions_total: number;
}

/** `whatever_it_costs`: claim and pay everything, not only what is worth its gas. */
export interface SettleRequest {
  whatever_it_costs: boolean;
}

/** `settled` is false when there was nothing to settle; `running`: it goes on, and ends by itself. */
export interface Settled {
  settled: boolean;
  running: boolean;
  cycle: CycleRow | null;
}

/** The execution layer. `threads`, `executed` and `speed_up` are told by the embedded one only. */
export interface LayerState {
  chain_id: number;
  embedded: boolean;
  url: string;
  head: number | null;
  time: number | null;
  lag_s: number | null;
  final: number;
  confirmations: number;
  block_time_s: number | null;
  outstanding: number;
  reorgs: number;
  settlement: string;
  token: string;
  payouts: string;
  threads: number | null;
  transactions: number | null;
  executed: number | null;
  reexecuted: number | null;
  speed_up: number | null;
}

/** One lane of a block's execution: the sender's transactions and their gas. */
export interface LaneLoad {
  key: string;
  transactions: number;
  gas_used: number;
}

/** A block. On a remote layer only our own transactions are counted; what the embedded one alone knows is null. */
export interface BlockRow {
  number: number;
  time: number;
  transactions: number;
  gas_used: number | null;
  executed: number | null;
  reexecuted: number | null;
  speed_up: number | null;
  execute_us: number | null;
  total_us: number | null;
  threads: number | null;
  lanes: LaneLoad[];
}

/** The button: send this request. */
export interface RepairAction {
  method: string;
  path: string;
  label: string;
}

/** A problem. `severity`: "warning" or "fault"; `how`: what to do by hand; `link`: a page's path, or "". */
export interface Repair {
  code: string;
  severity: string;
  title: string;
  words: string;
  how: string;
  link: string;
  action: RepairAction | null;
}

/** What the button did, as a sentence; and what is still wrong. */
export interface Repaired {
  words: string;
  repairs: Repair[];
}

/** A backup that was made, on the gateway's machine. */
export interface Backup {
  file: string;
  at: number;
  commit: number;
  bytes: number;
}

/** A device that asks to join. `kind`: "open" (pays from a channel) or "earner"; `id`: the channel's or account's. */
export interface Waiting {
  id: string;
  kind: string;
  device: string;
  service: string;
  party: string;
  deposit: string;
  register: number;
  known: boolean;
  seen_at: number;
  asked: number;
}

/** The permit-join window. `open_until` null: closed. `automatic`: the demo lets everybody with a deposit in. */
export interface Enrolment {
  open_until: number | null;
  left_s: number;
  automatic: boolean;
  waiting: Waiting[];
  qr_text: string;
  qr_path: string;
}

/** For how long devices may ask to join. */
export interface WindowRequest {
  seconds: number;
}

/** One account of the double-entry books. `side`: "debit" or "credit". */
export interface BookAccountRow {
  account: string;
  name: string;
  side: string;
  balance: string;
}

/** The books as of a commit: debits equal credits. */
export interface TrialBalance {
  commit: number;
  accounts: BookAccountRow[];
  debit: string;
  credit: string;
}

/** Whether the books agree with the chain, to the unit: no faults means they do. */
export interface BooksCheck {
  good: boolean;
  faults: string[];
  warnings: string[];
}

/** Who asks. `via`: "session", "token", "demo" or "nobody"; `csrf` goes into X-CSRF-Token of every action. */
export interface SessionState {
  name: string;
  scope: string | null;
  scopes: string[];
  via: string;
  csrf: string;
  demo: boolean;
  relaxed: string[];
  setup_needed: boolean;
  gateway: string;
}

/** Name and password. */
export interface Login {
  name: string;
  password: string;
}

/** The code of the set-up link, and the first operator's name and password. */
export interface SetupRequest {
  code: string;
  name: string;
  password: string;
}

/** An operator to add, or whose password and scope to set. */
export interface NewOperator {
  name: string;
  password: string;
  scope: string;
}

/** Somebody who may log in. */
export interface OperatorRow {
  name: string;
  scope: string;
  created_at: number;
}

/** A token to make; `life_s` 0: until it is revoked. */
export interface NewToken {
  name: string;
  scope: string;
  life_s: number;
}

/** A token; its secret is told once, when it is made. `expires_at` null: never; `used_at` null: not yet. */
export interface TokenRow {
  id: string;
  name: string;
  scope: string;
  created_by: string;
  created_at: number;
  expires_at: number | null;
  used_at: number | null;
}

/** A new token with its secret. */
export interface MadeToken {
  token: TokenRow;
  secret: string;
}

/** One action. `outcome`: "done", "failed", or the code of the error. */
export interface AuditRow {
  id: number;
  at: number;
  who: string;
  address: string;
  action: string;
  target: string;
  outcome: string;
}
