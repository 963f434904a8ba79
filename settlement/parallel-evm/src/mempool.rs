//! Transactions that wait for a block: per sender by nonce, across senders by arrival.

use crate::{
    error::{Result, RpcError},
    state::Info,
    tx::SignedTx,
};
use alloy_primitives::{
    Address, B256,
    map::{AddressMap, B256Map},
};
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
};

/// Several full blocks of plain transfers; each takes about 600 bytes beside its data.
pub const POOL_TXS_MAX: usize = 131_072;
/// Raw bytes of all waiting transactions.
pub const POOL_BYTES_MAX: usize = 128 * 1024 * 1024;
/// One sender may not fill the pool.
pub const SENDER_TXS_MAX: usize = 65_536;
/// Arrivals remembered for pollers; a slower one misses some.
const RECENT_MAX: usize = 8_192;
/// geth's rule: a replacement pays at least this many percent of the old fees.
const REPLACE_PERCENT: u128 = 110;

struct Entry {
    tx: Arc<SignedTx>,
    /// Position among the executable ones; None while a nonce before it is missing.
    order: Option<u64>,
}

#[derive(Default)]
struct Queue {
    txs: BTreeMap<u64, Entry>,
    /// The first nonce that neither the state nor the pool has.
    next: u64,
}

/// The pool. Not thread-safe by itself.
#[derive(Default)]
pub struct Pool {
    queues: AddressMap<Queue>,
    ready: BTreeMap<u64, Arc<SignedTx>>,
    by_hash: B256Map<(Address, u64)>,
    bytes: usize,
    next_order: u64,
    /// Hashes as they arrived, for filters on pending transactions.
    recent: VecDeque<B256>,
    arrived: u64,
}

impl Pool {
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    pub fn ready_count(&self) -> usize {
        self.ready.len()
    }

    pub fn get(&self, hash: &B256) -> Option<&Arc<SignedTx>> {
        let (sender, nonce) = self.by_hash.get(hash)?;
        Some(&self.queues.get(sender)?.txs.get(nonce)?.tx)
    }

    /// The nonce that the sender's next transaction needs.
    pub fn next_nonce(&self, sender: &Address, account_nonce: u64) -> u64 {
        self.queues.get(sender).map_or(account_nonce, |queue| queue.next.max(account_nonce))
    }

    /// How many transactions ever arrived.
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Hashes of those that arrived after the first `count`, as far as they are remembered.
    pub fn arrived_since(&self, count: u64) -> Vec<B256> {
        let fresh = usize::try_from(self.arrived.saturating_sub(count)).unwrap_or(usize::MAX);
        let skipped = self.recent.len().saturating_sub(fresh);
        self.recent.iter().skip(skipped).copied().collect()
    }

    fn note_arrival(&mut self, hash: B256) {
        self.arrived += 1;
        self.recent.push_back(hash);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
    }

    /// Whether a transaction would be taken in; its fields were checked against the chain already.
    ///
    /// Errors: nonce too low, insufficient funds, already known, replacement underpriced, pool full.
    pub fn check(&self, tx: &SignedTx, account: &Info) -> Result<()> {
        let nonce = tx.nonce();
        if self.by_hash.contains_key(&tx.hash) {
            return Err(RpcError::server("already known"));
        }
        if nonce < account.nonce {
            return Err(RpcError::server(format!("nonce too low: next nonce {}, tx nonce {nonce}", account.nonce)));
        }
        check_funds(tx, account)?;
        let held = self.queues.get(&tx.sender);
        if let Some(entry) = held.and_then(|queue| queue.txs.get(&nonce)) {
            return check_replacement(&entry.tx, tx);
        }
        if self.by_hash.len() >= POOL_TXS_MAX || self.bytes + tx.raw.len() > POOL_BYTES_MAX {
            return Err(RpcError::server("txpool is full"));
        }
        if held.is_some_and(|queue| queue.txs.len() >= SENDER_TXS_MAX) {
            return Err(RpcError::server(format!("account limit exceeded: {SENDER_TXS_MAX} transactions wait")));
        }
        Ok(())
    }

    /// Takes in what `check` allowed. One at the same nonce is replaced.
    pub fn insert(&mut self, tx: Arc<SignedTx>, account_nonce: u64) {
        let (sender, nonce) = (tx.sender, tx.nonce());
        self.note_arrival(tx.hash);
        self.bytes += tx.raw.len();
        self.by_hash.insert(tx.hash, (sender, nonce));
        let queue = self.queues.entry(sender).or_default();
        let order = queue.txs.get(&nonce).and_then(|old| old.order);
        if let Some(order) = order {
            self.ready.insert(order, tx.clone());
        }
        if let Some(old) = queue.txs.insert(nonce, Entry { tx, order }) {
            self.bytes -= old.tx.raw.len();
            self.by_hash.remove(&old.tx.hash);
        }
        self.promote(sender, account_nonce);
    }

    /// Everything that waits: what is executable in its order, then the rest.
    pub fn in_order(&self) -> Vec<&Arc<SignedTx>> {
        let mut entries: Vec<&Entry> = self.queues.values().flat_map(|queue| queue.txs.values()).collect();
        entries.sort_by_key(|entry| (entry.order.unwrap_or(u64::MAX), entry.tx.nonce()));
        entries.into_iter().map(|entry| &entry.tx).collect()
    }

    /// Gives every transaction without a gap before it its place in the order.
    fn promote(&mut self, sender: Address, account_nonce: u64) {
        let Some(queue) = self.queues.get_mut(&sender) else { return };
        queue.next = queue.next.max(account_nonce);
        while let Some(entry) = queue.txs.get_mut(&queue.next) {
            if entry.order.is_none() {
                entry.order = Some(self.next_order);
                self.ready.insert(self.next_order, entry.tx.clone());
                self.next_order += 1;
            }
            queue.next += 1;
        }
    }

    /// Up to `count` executable transactions, in order; they stay in the pool.
    pub fn executable(&self, base_fee: u64, count: usize) -> Vec<Arc<SignedTx>> {
        let mut waiting: HashSet<Address> = HashSet::new();
        let mut taken = Vec::with_capacity(count.min(self.ready.len()));
        for tx in self.ready.values() {
            if taken.len() >= count {
                break;
            }
            // A transaction below the base fee holds back the later ones of its sender.
            if tx.fee_cap() < u128::from(base_fee) {
                waiting.insert(tx.sender);
            }
            if waiting.is_empty() || !waiting.contains(&tx.sender) {
                taken.push(tx.clone());
            }
        }
        taken
    }

    /// Drops what the state has passed: called with each sender's new account nonce.
    pub fn settle(&mut self, sender: Address, account_nonce: u64) {
        let Some(queue) = self.queues.get_mut(&sender) else { return };
        while let Some(first) = queue.txs.first_entry() {
            if *first.key() >= account_nonce {
                break;
            }
            let entry = first.remove();
            self.bytes -= entry.tx.raw.len();
            self.by_hash.remove(&entry.tx.hash);
            if let Some(order) = entry.order {
                self.ready.remove(&order);
            }
        }
        if queue.txs.is_empty() {
            self.queues.remove(&sender);
        } else {
            self.promote(sender, account_nonce);
        }
    }

    /// Removes everything, for a chain that was set back.
    pub fn clear(&mut self) {
        *self = Self { arrived: self.arrived, ..Self::default() };
    }
}

fn check_replacement(old: &SignedTx, tx: &SignedTx) -> Result<()> {
    let raised = |new: u128, old: u128| new >= old.saturating_mul(REPLACE_PERCENT).div_ceil(100);
    let higher = tx.fee_cap() > old.fee_cap() && (tx.tip_cap() > old.tip_cap() || old.tip_cap() == 0);
    if higher && raised(tx.fee_cap(), old.fee_cap()) && raised(tx.tip_cap(), old.tip_cap()) {
        Ok(())
    } else {
        Err(RpcError::server("replacement transaction underpriced"))
    }
}

fn check_funds(tx: &SignedTx, account: &Info) -> Result<()> {
    match tx.max_cost() {
        Some(cost) if cost <= account.balance => Ok(()),
        Some(cost) => Err(RpcError::server(format!(
            "insufficient funds for gas * price + value: balance {}, tx cost {cost}, overshot {}",
            account.balance,
            cost - account.balance
        ))),
        None => Err(RpcError::server("insufficient funds for gas * price + value: tx cost above 2^256")),
    }
}
