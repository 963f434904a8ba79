//! What the chunks of a block have written so far, by chunk, for readers on every thread.
//!
//! A chunk reads the newest value that its view shows, committed or not. Nothing here says whether that value
//! is final: every read is compared again when its chunk is committed.

use super::overlay::credited;
use crate::state::{Diff, Info, Slot, State, Writes};
use alloy_primitives::{
    Address, B256, U256,
    map::{AddressMap, B256Map, HashMap},
};
use revm::bytecode::Bytecode;
use std::sync::{Mutex, RwLock};

/// Enough that eight threads rarely meet at one lock.
const SHARDS: usize = 64;

/// Which of the values written so far a reader sees. A chunk is named by its first transaction.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Nothing of this chunk and of later ones.
    before: usize,
    /// Of chunks from here on only what these lanes wrote.
    horizon: usize,
    lanes: Vec<u32>,
}

impl View {
    /// Everything before a chunk.
    pub fn all(before: usize) -> Self {
        Self { before, horizon: before, lanes: Vec::new() }
    }

    /// Everything before the horizon, and from there up to the chunk what its own lanes wrote.
    pub fn of(before: usize, horizon: usize, lanes: &[u32]) -> Self {
        Self { before, horizon, lanes: lanes.to_vec() }
    }

    fn shows<V>(&self, version: &Version<V>) -> bool {
        version.chunk < self.horizon || self.lanes.contains(&version.lane)
    }
}

/// A value, the chunk that wrote it, and the lane of the transaction that did.
#[derive(Clone, Copy)]
struct Version<V> {
    chunk: usize,
    lane: u32,
    value: V,
}

/// Values of one key. Most keys have one, which needs no allocation.
struct Versions<V> {
    last: Option<Version<V>>,
    /// Rising by chunk, all below `last`.
    older: Vec<Version<V>>,
}

impl<V> Default for Versions<V> {
    fn default() -> Self {
        Self { last: None, older: Vec::new() }
    }
}

impl<V: Copy> Versions<V> {
    fn newest(&self, view: &View) -> Option<V> {
        let last = self.last.as_ref()?;
        if last.chunk < view.before && view.shows(last) {
            return Some(last.value);
        }
        let earlier = &self.older[..self.older.partition_point(|version| version.chunk < view.before)];
        earlier.iter().rev().find(|version| view.shows(version)).map(|version| version.value)
    }

    fn put(&mut self, version: Version<V>) {
        match &mut self.last {
            None => self.last = Some(version),
            Some(last) if last.chunk == version.chunk => *last = version,
            Some(last) if last.chunk < version.chunk => {
                self.older.push(*last);
                *last = version;
            }
            Some(_) => match self.older.binary_search_by_key(&version.chunk, |held| held.chunk) {
                Ok(at) => self.older[at] = version,
                Err(at) => self.older.insert(at, version),
            },
        }
    }

    fn retract(&mut self, chunk: usize) {
        if self.last.as_ref().is_some_and(|last| last.chunk == chunk) {
            self.last = self.older.pop();
        } else if let Ok(at) = self.older.binary_search_by_key(&chunk, |held| held.chunk) {
            self.older.remove(at);
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
}

impl<'a> MultiVersion<'a> {
    pub fn new(state: &'a State, coinbase: Address) -> Self {
        Self {
            state,
            coinbase,
            earned: Mutex::new(Coinbase { info: state.info(&coinbase), rewards: U256::ZERO }),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            codes: RwLock::default(),
        }
    }

    /// Makes room for about this many accounts, and slots, in all: a map that grows step by step costs more.
    pub fn reserve(&self, keys: usize) {
        let room = keys / SHARDS + 4;
        for shard in &self.shards {
            let mut shard = shard.write().expect("no panic holds a shard");
            let (infos, slots) = (room.saturating_sub(shard.infos.len()), room.saturating_sub(shard.slots.len()));
            shard.infos.reserve(infos);
            shard.slots.reserve(slots);
        }
    }

    /// Addresses and the slots of mappings are hashes already, and a bad spread only makes threads wait.
    fn account_shard(&self, address: &Address) -> &RwLock<Shard> {
        &self.shards[usize::from(address[19]) % SHARDS]
    }

    fn slot_shard(&self, (address, key): &Slot) -> &RwLock<Shard> {
        &self.shards[(usize::from(address[19]) ^ key.as_limbs()[0] as usize) % SHARDS]
    }

    /// The account as it is seen now.
    pub fn info(&self, address: &Address, view: &View) -> Option<Info> {
        if *address == self.coinbase {
            let earned = crate::chain::lock(&self.earned);
            return credited(earned.info, earned.rewards);
        }
        let shard = self.account_shard(address).read().expect("no panic holds a shard");
        let found = shard.infos.get(address).and_then(|versions| versions.newest(view));
        drop(shard);
        found.unwrap_or_else(|| self.state.info(address))
    }

    /// The storage word as it is seen now.
    pub fn slot(&self, slot: &Slot, view: &View) -> U256 {
        let shard = self.slot_shard(slot).read().expect("no panic holds a shard");
        let found = shard.slots.get(slot).and_then(|versions| versions.newest(view));
        drop(shard);
        found.unwrap_or_else(|| self.state.slot(slot))
    }

    pub fn code(&self, hash: &B256) -> Option<Bytecode> {
        if let Some(code) = self.state.code(hash) {
            return Some(code.clone());
        }
        self.codes.read().expect("no panic holds the codes").get(hash).cloned()
    }

    /// Makes the writes of a chunk's transactions, in their order and of these lanes, visible to later chunks.
    pub fn publish(&self, chunk: usize, writes: &[Writes], lanes: &[u32]) {
        writes.iter().zip(lanes).for_each(|(writes, lane)| self.publish_one(chunk, *lane, writes));
    }

    fn publish_one(&self, chunk: usize, lane: u32, writes: &Writes) {
        for (address, info) in &writes.infos {
            if *address != self.coinbase {
                let mut shard = self.account_shard(address).write().expect("no panic holds a shard");
                shard.infos.entry(*address).or_default().put(Version { chunk, lane, value: *info });
            }
        }
        for (slot, value) in &writes.slots {
            let mut shard = self.slot_shard(slot).write().expect("no panic holds a shard");
            shard.slots.entry(*slot).or_default().put(Version { chunk, lane, value: *value });
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
            let mut shard = self.account_shard(address).write().expect("no panic holds a shard");
            if let Some(versions) = shard.infos.get_mut(address) {
                versions.retract(chunk);
            }
        }
        for (slot, _) in &writes.slots {
            let mut shard = self.slot_shard(slot).write().expect("no panic holds a shard");
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

    /// The block's difference up to a chunk or transaction, rewards included.
    pub fn into_diff(mut self, before: usize) -> Diff {
        let view = View::all(before);
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
                if let Some(info) = versions.newest(&view) {
                    diff.infos.insert(address, info);
                }
            }
            for (slot, versions) in shard.slots {
                if let Some(value) = versions.newest(&view) {
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
