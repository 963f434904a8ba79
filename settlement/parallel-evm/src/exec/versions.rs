//! What the chunks of a block have written so far, by chunk, for readers on every thread.
//!
//! A chunk reads the newest value that an earlier chunk has published, committed or not. Nothing here
//! says whether that value is final: every read is compared again when its chunk is committed.

use super::overlay::credited;
use crate::state::{Diff, Info, Slot, State, Writes};
use alloy_primitives::{
    Address, B256, U256,
    map::{AddressMap, B256Map, DefaultHashBuilder, HashMap},
};
use revm::bytecode::Bytecode;
use std::{
    hash::BuildHasher,
    sync::{Mutex, RwLock},
};

/// Enough that eight threads rarely meet at one lock.
const SHARDS: usize = 64;

/// Values of one key by the chunk that wrote them. Most keys have one, which needs no allocation.
struct Versions<V> {
    last: Option<(usize, V)>,
    /// Rising, all below `last`.
    older: Vec<(usize, V)>,
}

impl<V> Default for Versions<V> {
    fn default() -> Self {
        Self { last: None, older: Vec::new() }
    }
}

impl<V: Copy> Versions<V> {
    fn newest(&self, before: usize) -> Option<V> {
        let earlier = || self.older.iter().rev().find(|(chunk, _)| *chunk < before);
        self.last.as_ref().filter(|(chunk, _)| *chunk < before).or_else(earlier).map(|(_, value)| *value)
    }

    fn put(&mut self, chunk: usize, value: V) {
        match &mut self.last {
            None => self.last = Some((chunk, value)),
            Some((held, old)) if *held == chunk => *old = value,
            Some(last) if last.0 < chunk => {
                self.older.push(*last);
                *last = (chunk, value);
            }
            Some(_) => match self.older.binary_search_by_key(&chunk, |(held, _)| *held) {
                Ok(at) => self.older[at].1 = value,
                Err(at) => self.older.insert(at, (chunk, value)),
            },
        }
    }

    fn retract(&mut self, chunk: usize) {
        if self.last.as_ref().is_some_and(|(held, _)| *held == chunk) {
            self.last = self.older.pop();
        } else {
            self.older.retain(|(held, _)| *held != chunk);
        }
    }
}

#[derive(Default)]
struct Shard {
    infos: AddressMap<Versions<Option<Info>>>,
    slots: HashMap<Slot, Versions<U256>>,
}

/// The fee recipient's account as of the last committed transaction.
#[derive(Clone, Copy, Debug, Default)]
struct Coinbase {
    info: Option<Info>,
    rewards: U256,
}

/// The multi-version memory of one block.
pub struct MultiVersion<'a> {
    state: &'a State,
    coinbase: Address,
    earned: Mutex<Coinbase>,
    shards: Box<[RwLock<Shard>]>,
    codes: RwLock<B256Map<Bytecode>>,
    hasher: DefaultHashBuilder,
}

impl<'a> MultiVersion<'a> {
    /// `keys` is about how many accounts, and how many slots, will be written.
    pub fn new(state: &'a State, coinbase: Address, keys: usize) -> Self {
        let room = keys / SHARDS + 4;
        let shard = || {
            let mut shard = Shard::default();
            shard.infos.reserve(room);
            shard.slots.reserve(room);
            RwLock::new(shard)
        };
        Self {
            state,
            coinbase,
            earned: Mutex::new(Coinbase { info: state.info(&coinbase), rewards: U256::ZERO }),
            shards: (0..SHARDS).map(|_| shard()).collect(),
            codes: RwLock::default(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    fn shard(&self, key: impl std::hash::Hash) -> &RwLock<Shard> {
        &self.shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS]
    }

    /// The account as chunk `before` sees it now.
    pub fn info(&self, address: &Address, before: usize) -> Option<Info> {
        if *address == self.coinbase {
            let earned = crate::chain::lock(&self.earned);
            return credited(earned.info, earned.rewards);
        }
        let shard = self.shard(address).read().expect("no panic holds a shard");
        let found = shard.infos.get(address).and_then(|versions| versions.newest(before));
        drop(shard);
        found.unwrap_or_else(|| self.state.info(address))
    }

    /// The storage word as chunk `before` sees it now.
    pub fn slot(&self, slot: &Slot, before: usize) -> U256 {
        let shard = self.shard(slot).read().expect("no panic holds a shard");
        let found = shard.slots.get(slot).and_then(|versions| versions.newest(before));
        drop(shard);
        found.unwrap_or_else(|| self.state.slot(slot))
    }

    pub fn code(&self, hash: &B256) -> Option<Bytecode> {
        if let Some(code) = self.state.code(hash) {
            return Some(code.clone());
        }
        self.codes.read().expect("no panic holds the codes").get(hash).cloned()
    }

    /// Makes the writes of a chunk's transactions, in their order, visible to later chunks.
    pub fn publish(&self, chunk: usize, writes: &[Writes]) {
        writes.iter().for_each(|writes| self.publish_one(chunk, writes));
    }

    fn publish_one(&self, chunk: usize, writes: &Writes) {
        for (address, info) in &writes.infos {
            if *address != self.coinbase {
                let mut shard = self.shard(address).write().expect("no panic holds a shard");
                shard.infos.entry(*address).or_default().put(chunk, *info);
            }
        }
        for (slot, value) in &writes.slots {
            let mut shard = self.shard(slot).write().expect("no panic holds a shard");
            shard.slots.entry(*slot).or_default().put(chunk, *value);
        }
        if !writes.codes.is_empty() {
            let mut codes = self.codes.write().expect("no panic holds the codes");
            codes.extend(writes.codes.iter().cloned());
        }
    }

    /// Takes back what a chunk published.
    pub fn retract(&self, chunk: usize, writes: &[Writes]) {
        writes.iter().for_each(|writes| self.retract_one(chunk, writes));
    }

    fn retract_one(&self, chunk: usize, writes: &Writes) {
        for (address, _) in &writes.infos {
            let mut shard = self.shard(address).write().expect("no panic holds a shard");
            if let Some(versions) = shard.infos.get_mut(address) {
                versions.retract(chunk);
            }
        }
        for (slot, _) in &writes.slots {
            let mut shard = self.shard(slot).write().expect("no panic holds a shard");
            if let Some(versions) = shard.slots.get_mut(slot) {
                versions.retract(chunk);
            }
        }
    }

    /// Accounts for a committed transaction's effect on the fee recipient; called in block order.
    pub fn commit_reward(&self, writes: &Writes, reward: U256) {
        let written = writes.infos.iter().find(|(address, _)| *address == self.coinbase);
        if written.is_none() && reward.is_zero() {
            return;
        }
        let mut earned = crate::chain::lock(&self.earned);
        if let Some((_, info)) = written {
            *earned = Coinbase { info: *info, rewards: U256::ZERO };
        }
        earned.rewards += reward;
    }

    /// The block's difference after the first `chunks` chunks, rewards included.
    pub fn into_diff(mut self, chunks: usize) -> Diff {
        let mut diff = Diff::default();
        let sizes = self.shards.iter_mut().map(|shard| {
            let shard = shard.get_mut().expect("no panic holds a shard");
            (shard.infos.len(), shard.slots.len())
        });
        let (infos, slots) = sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1));
        diff.infos.reserve(infos);
        diff.slots.reserve(slots);
        for shard in self.shards {
            let shard = shard.into_inner().expect("no panic holds a shard");
            for (address, versions) in shard.infos {
                if let Some(info) = versions.newest(chunks) {
                    diff.infos.insert(address, info);
                }
            }
            for (slot, versions) in shard.slots {
                if let Some(value) = versions.newest(chunks) {
                    diff.slots.insert(slot, value);
                }
            }
        }
        let codes = self.codes.into_inner().expect("no panic holds the codes");
        if !codes.is_empty() {
            // Speculation that was taken back may have left codes that nobody has.
            let held = diff.infos.values().flatten().map(|info| info.code_hash);
            diff.codes = held
                .filter(|hash| self.state.code(hash).is_none())
                .filter_map(|hash| Some((hash, codes.get(&hash)?.clone())))
                .collect();
        }
        let earned = self.earned.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let info = credited(earned.info, earned.rewards);
        if info != self.state.info(&self.coinbase) {
            diff.infos.insert(self.coinbase, info);
        }
        diff
    }
}
