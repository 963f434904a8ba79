//! A contiguous run of a block's transactions, executed by one thread in order.

use super::{
    Executed, Job, Outcome,
    evm::{SiteEvm, account_info, build, run_tx},
    overlay::credited,
    schedule::Chunk,
    sequential::settle,
    versions::{MultiVersion, View},
};
use crate::state::{Info, Slot, Writes};
use alloy_primitives::{
    Address, B256, U256,
    map::{AddressMap, B256Map, HashMap},
};
use revm::{Database, bytecode::Bytecode, state::AccountInfo};
use std::{convert::Infallible, ops::Range, time::Instant};

/// A value that came from outside the chunk, and the first transaction of the chunk that saw it.
#[derive(Clone, Debug)]
enum Read {
    Info(Address, Option<Info>, usize),
    Slot(Slot, U256, usize),
}

/// What a chunk did.
pub struct ChunkResult {
    pub txs: Range<usize>,
    pub outcomes: Vec<Outcome>,
    /// Per transaction; empty where it was skipped.
    pub writes: Vec<Writes>,
    reads: Vec<Read>,
    /// What it took to execute it for the first time and to publish it.
    pub spent_ns: u64,
}

impl ChunkResult {
    /// The first transaction that saw what is no longer true; None if the chunk may be committed.
    pub fn first_stale(&self, memory: &MultiVersion<'_>) -> Option<usize> {
        let view = View::all(self.txs.start);
        self.reads
            .iter()
            .filter_map(|read| match read {
                Read::Info(address, seen, tx) => (memory.info(address, &view) != *seen).then_some(*tx),
                Read::Slot(slot, seen, tx) => (memory.slot(slot, &view) != *seen).then_some(*tx),
            })
            .min()
    }

    /// Whether the account was read: writing it takes a read.
    pub fn touches(&self, account: &Address) -> bool {
        self.reads.iter().any(|read| matches!(read, Read::Info(address, _, _) if address == account))
    }

    /// Forgets everything from a transaction on.
    pub fn truncate(&mut self, from: usize) {
        let kept = from - self.txs.start;
        self.txs.end = from;
        self.outcomes.truncate(kept);
        self.writes.truncate(kept);
        self.reads.retain(|read| match read {
            Read::Info(_, _, tx) | Read::Slot(_, _, tx) => *tx < from,
        });
    }
}

/// The block's memory as one chunk sees it, with the chunk's own writes on top.
pub struct ChunkDb<'a> {
    job: &'a Job<'a>,
    memory: &'a MultiVersion<'a>,
    view: View,
    tx: usize,
    infos: AddressMap<Option<Info>>,
    slots: HashMap<Slot, U256>,
    codes: B256Map<Bytecode>,
    /// Rewards of the chunk's own transactions since it wrote the fee recipient's account.
    rewards: U256,
    reads: Vec<Read>,
}

impl ChunkDb<'_> {
    fn info(&mut self, address: Address) -> Option<Info> {
        let info = match self.infos.get(&address) {
            Some(info) => *info,
            None => {
                let info = self.memory.info(&address, &self.view);
                self.reads.push(Read::Info(address, info, self.tx));
                self.infos.insert(address, info);
                info
            }
        };
        if address == self.job.block.coinbase { credited(info, self.rewards) } else { info }
    }

    fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.codes.get(hash).cloned().or_else(|| self.memory.code(hash))
    }

    fn reset(&mut self, view: View) {
        self.view = view;
        self.infos.clear();
        self.slots.clear();
        self.codes.clear();
        self.rewards = U256::ZERO;
        self.reads = Vec::new();
    }

    fn apply(&mut self, writes: &Writes, reward: U256) {
        if writes.infos.iter().any(|(address, _)| *address == self.job.block.coinbase) {
            self.rewards = U256::ZERO;
        }
        self.infos.extend(writes.infos.iter().copied());
        self.slots.extend(writes.slots.iter().copied());
        self.codes.extend(writes.codes.iter().cloned());
        self.rewards += reward;
    }
}

impl Database for ChunkDb<'_> {
    type Error = Infallible;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, Infallible> {
        let info = self.info(address);
        Ok(info.map(|info| {
            let code = if info.has_code() { self.code(&info.code_hash) } else { None };
            account_info(info, code)
        }))
    }

    fn code_by_hash(&mut self, hash: B256) -> Result<Bytecode, Infallible> {
        Ok(self.code(&hash).unwrap_or_default())
    }

    fn storage(&mut self, address: Address, key: U256) -> Result<U256, Infallible> {
        let slot = (address, key);
        if let Some(value) = self.slots.get(&slot) {
            return Ok(*value);
        }
        let value = self.memory.slot(&slot, &self.view);
        self.reads.push(Read::Slot(slot, value, self.tx));
        self.slots.insert(slot, value);
        Ok(value)
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, Infallible> {
        Ok(self.job.block.ancestors.get(&number).copied().unwrap_or_default())
    }
}

/// What has been done: executions of transactions, and the time they took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub executions: u64,
    pub busy_ns: u64,
}

/// One thread's EVM, used for chunk after chunk.
pub struct ChunkRunner<'a> {
    job: &'a Job<'a>,
    evm: SiteEvm<'a, ChunkDb<'a>>,
    pub tally: Tally,
}

impl<'a> ChunkRunner<'a> {
    pub fn new(job: &'a Job<'a>, memory: &'a MultiVersion<'a>) -> Self {
        let db = ChunkDb {
            job,
            memory,
            view: View::default(),
            tx: 0,
            infos: AddressMap::default(),
            slots: HashMap::default(),
            codes: B256Map::default(),
            rewards: U256::ZERO,
            reads: Vec::new(),
        };
        Self { job, evm: build(db, job.block.block_env(), job.block.cfg_env(), job.recover), tally: Tally::default() }
    }

    /// Executes a chunk against what it sees now. `go_on` is asked before each transaction.
    pub fn run(&mut self, chunk: &Chunk, lanes: &[u32], go_on: impl Fn() -> bool) -> Option<ChunkResult> {
        let Range { start, end } = chunk.txs;
        self.evm.ctx.journaled_state.database.reset(View::of(start, chunk.horizon, lanes));
        let mut result = ChunkResult {
            txs: start..start,
            outcomes: Vec::with_capacity(end - start),
            writes: Vec::with_capacity(end - start),
            reads: Vec::new(),
            spent_ns: 0,
        };
        self.extend(&mut result, end, go_on).then_some(result)
    }

    /// Executes a chunk again from its first stale transaction on, now on final values. `step` is called before
    /// each transaction.
    pub fn rerun(&mut self, mut result: ChunkResult, from: usize, step: impl Fn()) -> ChunkResult {
        let Range { start, end } = result.txs;
        result.truncate(from);
        let db = &mut self.evm.ctx.journaled_state.database;
        db.reset(View::all(start));
        // Reads of the part that stays were just found to be true.
        for read in &result.reads {
            match read {
                Read::Info(address, seen, _) => drop(db.infos.insert(*address, *seen)),
                Read::Slot(slot, seen, _) => drop(db.slots.insert(*slot, *seen)),
            }
        }
        for (outcome, writes) in result.outcomes.iter().zip(&result.writes) {
            if let Outcome::Executed(executed) = outcome {
                db.apply(writes, executed.reward);
            }
        }
        db.reads = std::mem::take(&mut result.reads);
        let go_on = || {
            step();
            true
        };
        self.extend(&mut result, end, go_on);
        result
    }

    /// Executes transactions after those of the result, up to `end`; false if it was told to stop before.
    fn extend(&mut self, result: &mut ChunkResult, end: usize, go_on: impl Fn() -> bool) -> bool {
        let started = Instant::now();
        let whole = self.extend_untimed(result, end, go_on);
        self.tally.busy_ns += started.elapsed().as_nanos() as u64;
        whole
    }

    fn extend_untimed(&mut self, result: &mut ChunkResult, end: usize, go_on: impl Fn() -> bool) -> bool {
        for index in result.txs.end..end {
            if !go_on() {
                return false;
            }
            let tx = &self.job.txs[index];
            self.tally.executions += 1;
            self.evm.ctx.journaled_state.database.tx = index;
            let ran = run_tx(&mut self.evm, tx.to_env(), tx.effective_price(self.job.block.base_fee), self.job.block);
            let (outcome, writes) = match settle::<ChunkDb<'_>>(ran) {
                Ok(mut executed) => {
                    let writes = std::mem::take(&mut executed.writes);
                    self.evm.ctx.journaled_state.database.apply(&writes, executed.reward);
                    (Outcome::Executed(Box::<Executed>::new(executed)), writes)
                }
                Err(reason) => (Outcome::Skipped(reason), Writes::default()),
            };
            result.outcomes.push(outcome);
            result.writes.push(writes);
            result.txs.end = index + 1;
        }
        result.reads = std::mem::take(&mut self.evm.ctx.journaled_state.database.reads);
        true
    }
}
