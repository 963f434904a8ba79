//! Optimistic parallel execution: contiguous chunks, validated and committed in block order.
//!
//! Threads take chunks in order and execute them against what is visible. Whoever finishes the next
//! chunk to commit compares its reads with the committed values: equal values mean an equal result, so it
//! is committed as it is; otherwise it is executed again from the first stale transaction on, now on
//! final values. Chunks shrink while conflicts are frequent and grow while there are none; when speculation
//! loses time even with single transactions, the rest of the block goes sequentially.

use super::{
    BlockOutcome, ExecStats, Job, Outcome,
    chunk::{ChunkResult, ChunkRunner},
    overlay::Overlay,
    sequential,
    versions::MultiVersion,
};
use crate::chain::lock;
use std::{
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

/// Below this there is less work than starting threads costs.
const TXS_MIN: usize = 4;
/// Transactions in a chunk at most: bounds what one conflict can waste.
const CHUNK_TXS_MAX: usize = 32;
const CHUNK_TXS_START: usize = 8;
/// Gas limits in a chunk at most, so that heavy transactions spread over the threads one by one.
const CHUNK_GAS_MAX: u64 = 2_000_000;
/// Committed transactions after which the chunk size is thought over.
const WINDOW_TXS: u64 = 32;

/// Hands out chunks in order.
struct Cursor {
    next_tx: usize,
    next_chunk: usize,
}

/// What has been committed; held by the thread that commits.
struct Ledger {
    next_chunk: usize,
    next_tx: usize,
    outcomes: Vec<Outcome>,
    gas_used: u64,
    full: bool,
    executions: u64,
    reexecuted: u64,
    aborted: u64,
    busy_ns: u64,
    window_txs: u64,
    window_stale: u64,
    /// Time of first executions, and of repeated ones, in the window.
    window_first_ns: u64,
    window_again_ns: u64,
}

struct Shared<'a> {
    job: &'a Job<'a>,
    memory: &'a MultiVersion<'a>,
    cursor: Mutex<Cursor>,
    /// Finished chunks by their number, until they are committed.
    finished: Vec<Mutex<Option<Box<ChunkResult>>>>,
    ledger: Mutex<Ledger>,
    chunk_txs: AtomicUsize,
    stop: AtomicBool,
    threads: u64,
}

/// Executes the job on several threads; equal to the sequential executor in everything but speed.
pub fn execute(job: &Job<'_>, threads: usize) -> BlockOutcome {
    if threads < 2 || job.txs.len() < TXS_MIN {
        return sequential::execute(job);
    }
    speculate(job, threads)
}

/// Speculative execution whatever the block; with one thread it shows what the bookkeeping costs.
pub fn speculate(job: &Job<'_>, threads: usize) -> BlockOutcome {
    let memory = MultiVersion::new(job.state, job.block.coinbase, job.txs.len() * 2);
    let ledger = Ledger {
        next_chunk: 0,
        next_tx: 0,
        outcomes: Vec::with_capacity(job.txs.len()),
        gas_used: 0,
        full: false,
        executions: 0,
        reexecuted: 0,
        aborted: 0,
        busy_ns: 0,
        window_txs: 0,
        window_stale: 0,
        window_first_ns: 0,
        window_again_ns: 0,
    };
    let shared = Shared {
        job,
        memory: &memory,
        cursor: Mutex::new(Cursor { next_tx: 0, next_chunk: 0 }),
        finished: (0..job.txs.len()).map(|_| Mutex::default()).collect(),
        ledger: Mutex::new(ledger),
        chunk_txs: AtomicUsize::new(CHUNK_TXS_START.min(job.txs.len().div_ceil(threads * 4)).max(1)),
        stop: AtomicBool::new(false),
        threads: threads as u64,
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| shared.work());
        }
        shared.work();
    });
    let ledger = shared.ledger.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    finish(job, memory, ledger, threads)
}

/// Executes what speculation left over, and puts the outcome together.
fn finish(job: &Job<'_>, memory: MultiVersion<'_>, ledger: Ledger, threads: usize) -> BlockOutcome {
    let mut stats = ExecStats {
        executions: ledger.executions,
        reexecuted: ledger.reexecuted,
        aborted: ledger.aborted,
        fell_back: false,
        threads: threads as u32,
        busy_us: ledger.busy_ns / 1_000,
    };
    let diff = memory.into_diff(ledger.next_chunk);
    let mut outcome = BlockOutcome { outcomes: ledger.outcomes, diff, gas_used: ledger.gas_used, stats };
    if !ledger.full && ledger.next_tx < job.txs.len() {
        let before = std::mem::take(&mut outcome.diff);
        let overlay = Overlay::resume(job.state, before, job.block.coinbase);
        let rest = sequential::execute_from(job, overlay, ledger.next_tx, ledger.gas_used);
        stats.executions += rest.stats.executions;
        stats.fell_back = true;
        stats.busy_us += rest.stats.busy_us;
        outcome.outcomes.extend(rest.outcomes);
        outcome.diff = rest.diff;
        outcome.gas_used = rest.gas_used;
        outcome.stats = stats;
    }
    outcome
}

impl Shared<'_> {
    fn work(&self) {
        let mut runner = ChunkRunner::new(self.job, self.memory);
        while let Some((chunk, txs)) = self.take() {
            let go_on = || !self.stop.load(Ordering::Relaxed);
            let Some(result) = runner.run(chunk, txs, go_on) else { return };
            self.memory.publish(chunk, &result.writes);
            *lock(&self.finished[chunk]) = Some(Box::new(result));
            self.commit_ready(&mut runner);
        }
    }

    /// The next chunk: its number and its transactions.
    fn take(&self) -> Option<(usize, Range<usize>)> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let most = self.chunk_txs.load(Ordering::Relaxed);
        let mut cursor = lock(&self.cursor);
        let start = cursor.next_tx;
        if start >= self.job.txs.len() {
            return None;
        }
        let mut end = start;
        let mut gas = 0u64;
        while end < self.job.txs.len() && end - start < most {
            gas = gas.saturating_add(self.job.txs[end].gas_limit());
            if end > start && gas > CHUNK_GAS_MAX {
                break;
            }
            end += 1;
        }
        let chunk = cursor.next_chunk;
        cursor.next_tx = end;
        cursor.next_chunk += 1;
        Some((chunk, start..end))
    }

    fn is_finished(&self, chunk: usize) -> bool {
        self.finished.get(chunk).is_some_and(|slot| lock(slot).is_some())
    }

    /// Commits all finished chunks that are next in order, unless another thread is at it.
    fn commit_ready(&self, runner: &mut ChunkRunner<'_>) {
        loop {
            let Ok(mut ledger) = self.ledger.try_lock() else { return };
            while !self.stop.load(Ordering::Relaxed) {
                let Some(slot) = self.finished.get(ledger.next_chunk) else { break };
                let Some(result) = lock(slot).take() else { break };
                self.commit(&mut ledger, *result, runner);
            }
            let next = ledger.next_chunk;
            drop(ledger);
            // A chunk that was finished while the ledger was held has nobody else to commit it.
            if self.stop.load(Ordering::Relaxed) || !self.is_finished(next) {
                return;
            }
        }
    }

    fn commit(&self, ledger: &mut Ledger, mut result: ChunkResult, runner: &mut ChunkRunner<'_>) {
        let chunk = ledger.next_chunk;
        let count = (result.txs.end - result.txs.start) as u64;
        ledger.executions += count;
        ledger.window_txs += count;
        ledger.busy_ns += result.spent_ns;
        ledger.window_first_ns += result.spent_ns;
        if let Some(stale) = result.first_stale(self.memory, chunk) {
            let again = (result.txs.end - stale) as u64;
            self.memory.retract(chunk, &result.writes);
            let started = Instant::now();
            result = runner.rerun(chunk, result, stale);
            let spent = started.elapsed().as_nanos() as u64;
            ledger.busy_ns += spent;
            ledger.window_again_ns += spent;
            self.memory.publish(chunk, &result.writes);
            ledger.executions += again;
            ledger.reexecuted += again;
            ledger.aborted += 1;
            ledger.window_stale += again;
        }
        self.enter(ledger, chunk, result);
        ledger.next_chunk += 1;
        if ledger.window_txs >= WINDOW_TXS {
            self.adapt(ledger);
        }
    }

    /// Enters a true chunk into the ledger, as far as the block's gas goes.
    fn enter(&self, ledger: &mut Ledger, chunk: usize, mut result: ChunkResult) {
        let mut used = ledger.gas_used;
        let mut fits = result.txs.start;
        for (tx, outcome) in self.job.txs[result.txs.clone()].iter().zip(&result.outcomes) {
            if used.saturating_add(tx.gas_limit()) > self.job.block.gas_limit {
                break;
            }
            if let Outcome::Executed(executed) = outcome {
                used += executed.gas_used;
            }
            fits += 1;
        }
        if fits < result.txs.end {
            self.memory.retract(chunk, &result.writes);
            result.truncate(fits);
            self.memory.publish(chunk, &result.writes);
            ledger.full = true;
            self.stop.store(true, Ordering::Relaxed);
        }
        for (outcome, writes) in result.outcomes.iter().zip(&result.writes) {
            if let Outcome::Executed(executed) = outcome {
                self.memory.commit_reward(writes, executed.reward);
            }
        }
        ledger.gas_used = used;
        ledger.next_tx = result.txs.end;
        ledger.outcomes.append(&mut result.outcomes);
    }

    /// Shrinks or grows the chunks. Gives speculation up when it costs more than it brings: first executions
    /// share the threads, repeated ones run one after the other. (A repeated claim finds its signatures in
    /// the cache, so that speculation can pay even where everything conflicts.)
    fn adapt(&self, ledger: &mut Ledger) {
        let size = self.chunk_txs.load(Ordering::Relaxed);
        let stale_percent = ledger.window_stale * 100 / ledger.window_txs;
        let loses = ledger.window_again_ns * self.threads > ledger.window_first_ns * (self.threads - 1);
        match stale_percent {
            0 => self.chunk_txs.store((size * 2).min(CHUNK_TXS_MAX), Ordering::Relaxed),
            1..=10 => {}
            _ if size > 1 => self.chunk_txs.store(1, Ordering::Relaxed),
            _ if loses => self.stop.store(true, Ordering::Relaxed),
            _ => {}
        }
        ledger.window_txs = 0;
        ledger.window_stale = 0;
        ledger.window_first_ns = 0;
        ledger.window_again_ns = 0;
    }
}
