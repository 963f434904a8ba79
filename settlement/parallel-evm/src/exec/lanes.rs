//! Which transactions of a block certainly depend on each other: those of one sender, by their nonces. A sender's
//! transactions, in block order, are a lane.

use super::Job;
use alloy_primitives::{Address, map::AddressMap};

/// No transaction.
const NONE: u32 = u32::MAX;

/// The lanes of a block, by transaction. Gas limits stand for work, which nobody knows beforehand.
pub struct Lanes {
    /// The lane of each transaction, numbered by first appearance.
    lane: Vec<u32>,
    prev: Vec<u32>,
    next: Vec<u32>,
    rest_gas: Vec<u64>,
    /// The first transaction of each lane: rising.
    heads: Vec<u32>,
    total_gas: u64,
}

impl Lanes {
    pub fn of(job: &Job<'_>) -> Self {
        Self::new(job.txs.iter().map(|tx| (tx.sender, tx.gas_limit())))
    }

    /// From each transaction's sender and gas limit.
    pub fn new(txs: impl ExactSizeIterator<Item = (Address, u64)>) -> Self {
        let count = txs.len();
        assert!(count < NONE as usize, "a block's gas bounds its transactions far below this");
        let mut last: AddressMap<u32> = AddressMap::default();
        last.reserve(count);
        let (mut lane, mut heads) = (Vec::with_capacity(count), Vec::new());
        let (mut prev, mut next) = (Vec::with_capacity(count), vec![NONE; count]);
        let mut rest_gas = Vec::with_capacity(count);
        for (index, (sender, gas)) in (0..).zip(txs) {
            let before = last.insert(sender, index).unwrap_or(NONE);
            prev.push(before);
            rest_gas.push(gas);
            if before == NONE {
                lane.push(heads.len() as u32);
                heads.push(index);
            } else {
                next[before as usize] = index;
                lane.push(lane[before as usize]);
            }
        }
        let mut total_gas = 0u64;
        for index in (0..count).rev() {
            total_gas = total_gas.saturating_add(rest_gas[index]);
            let later = rest_gas.get(next[index] as usize).copied().unwrap_or_default();
            rest_gas[index] = rest_gas[index].saturating_add(later);
        }
        Self { lane, prev, next, rest_gas, heads, total_gas }
    }

    pub fn txs(&self) -> usize {
        self.lane.len()
    }

    pub fn lanes(&self) -> usize {
        self.heads.len()
    }

    pub fn heads(&self) -> &[u32] {
        &self.heads
    }

    pub fn total_gas(&self) -> u64 {
        self.total_gas
    }

    /// The lanes of a range of transactions.
    pub fn of_txs(&self, txs: std::ops::Range<usize>) -> &[u32] {
        &self.lane[txs]
    }

    /// The sender's transaction before this one.
    pub fn prev(&self, tx: usize) -> Option<usize> {
        let prev = self.prev[tx];
        (prev != NONE).then_some(prev as usize)
    }

    /// The sender's transaction after this one.
    pub fn next(&self, tx: usize) -> Option<usize> {
        let next = self.next[tx];
        (next != NONE).then_some(next as usize)
    }

    pub fn gas(&self, tx: usize) -> u64 {
        self.rest_gas[tx].saturating_sub(self.next(tx).map_or(0, |next| self.rest_gas[next]))
    }

    /// Gas of this transaction and of all that follow it in its lane.
    pub fn rest_gas(&self, tx: usize) -> u64 {
        self.rest_gas[tx]
    }

    /// How many threads the lanes could keep busy: all the work over that of the longest lane.
    pub fn parallelism(&self) -> f64 {
        let longest = self.heads.iter().map(|head| self.rest_gas[*head as usize]).max().unwrap_or_default();
        if longest == 0 { 1.0 } else { self.total_gas as f64 / longest as f64 }
    }

    /// First transactions of the lanes that hold at least this part of the block's work: at most `parts` lanes.
    pub fn long(&self, parts: u64) -> Vec<usize> {
        let heads = self.heads.iter().map(|head| *head as usize);
        heads.filter(|head| self.rest_gas[*head].saturating_mul(parts) >= self.total_gas).collect()
    }
}
