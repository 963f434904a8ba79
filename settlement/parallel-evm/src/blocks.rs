//! Recent blocks, found by number, by hash and by transaction.

use crate::block::Block;
use alloy_primitives::{
    B256,
    map::{B256Map, HashMap},
};
use std::{collections::VecDeque, sync::Arc};

/// Blocks kept in memory: about 1 kB for an empty one.
pub const BLOCKS_MAX: usize = 65_536;
/// Transactions kept in memory with their receipts: about 1.5 kB for a token transfer.
pub const TXS_MAX: usize = 262_144;
/// BLOCKHASH reaches this far back.
const ANCESTORS: u64 = 256;

/// How much history is kept. The last block always is.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Blocks that are held and found again after a restart.
    pub blocks: usize,
    /// Their transactions: the older blocks go when there are more.
    pub txs: usize,
    /// Log files are never deleted, not even those of blocks that are no longer held.
    pub keep_logs: bool,
}

impl Default for Retention {
    fn default() -> Self {
        Self { blocks: BLOCKS_MAX, txs: TXS_MAX, keep_logs: false }
    }
}

/// A contiguous run of blocks that ends at the head.
#[derive(Clone, Default)]
pub struct Blocks {
    retention: Retention,
    blocks: VecDeque<Arc<Block>>,
    by_hash: B256Map<u64>,
    txs: B256Map<(u64, u32)>,
    /// Kept beyond the bodies, for BLOCKHASH.
    hashes: VecDeque<(u64, B256)>,
}

impl Blocks {
    pub fn new(retention: Retention) -> Self {
        Self { retention, ..Self::default() }
    }

    pub fn push(&mut self, block: Arc<Block>) {
        let number = block.number();
        self.by_hash.insert(block.hash, number);
        self.txs.extend(block.txs.iter().enumerate().map(|(index, tx)| (tx.hash, (number, index as u32))));
        self.hashes.push_back((number, block.hash));
        if self.hashes.len() as u64 > ANCESTORS {
            self.hashes.pop_front();
        }
        self.blocks.push_back(block);
        let Retention { blocks, txs, .. } = self.retention;
        while self.blocks.len() > 1 && (self.blocks.len() > blocks || self.txs.len() > txs) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(old) = self.blocks.pop_front() {
            self.by_hash.remove(&old.hash);
            for tx in &old.txs {
                self.txs.remove(&tx.hash);
            }
        }
    }

    /// Takes hashes of blocks whose bodies are not held (older than the run), oldest first.
    pub fn remember_hashes(&mut self, hashes: impl IntoIterator<Item = (u64, B256)>) {
        self.hashes.extend(hashes);
        while self.hashes.len() as u64 > ANCESTORS {
            self.hashes.pop_front();
        }
    }

    pub fn hashes(&self) -> impl Iterator<Item = &(u64, B256)> {
        self.hashes.iter()
    }

    pub fn latest(&self) -> &Arc<Block> {
        self.blocks.back().expect("genesis is pushed before anything is read")
    }

    pub fn oldest_number(&self) -> u64 {
        self.blocks.front().map_or(0, |block| block.number())
    }

    pub fn get(&self, number: u64) -> Option<&Arc<Block>> {
        let index = number.checked_sub(self.oldest_number())?;
        self.blocks.get(usize::try_from(index).ok()?)
    }

    pub fn by_hash(&self, hash: &B256) -> Option<&Arc<Block>> {
        self.get(*self.by_hash.get(hash)?)
    }

    /// The block that holds a transaction, and its position.
    pub fn find_tx(&self, hash: &B256) -> Option<(&Arc<Block>, usize)> {
        let (number, index) = self.txs.get(hash)?;
        Some((self.get(*number)?, *index as usize))
    }

    /// Hashes of the last 256 blocks by number.
    pub fn ancestors(&self) -> Arc<HashMap<u64, B256>> {
        Arc::new(self.hashes.iter().copied().collect())
    }
}
