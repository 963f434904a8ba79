//! Optimistic parallel execution: contiguous chunks, handed out by lane, validated and committed in block order.
//!
//! Threads execute chunks (`schedule` says which, and what they see) and publish what they write. Whoever
//! finishes the next chunk to commit compares its reads with the committed values: equal values mean an equal
//! result, so it is committed as it is; otherwise it is executed again from the first stale transaction on, now
//! on final values. A sender's transactions never run side by side, so lanes that share nothing never repeat
//! anything, whatever the timing. Chunks shrink while conflicts are frequent and grow while there are none; when
//! speculation does not pay, the rest of the block goes sequentially.

use super::{
    BlockOutcome, ExecStats, Job, Outcome,
    chunk::{ChunkResult, ChunkRunner, Tally},
    lanes::Lanes,
    overlay::Overlay,
    pace::{Free, Pace},
    schedule::{CHUNK_TXS_MAX, Schedule},
    sequential,
    versions::MultiVersion,
};
use crate::chain::lock;
use std::{
    panic::resume_unwind,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// Below this there is less work than starting threads costs.
const TXS_MIN: usize = 4;
/// Committed transactions after which the chunk size is thought over.
const WINDOW_TXS: u64 = 32;
/// What speculation adds to executing a transaction and a chunk, and what committing takes (examples/exec_cost.rs).
const TX_OVERHEAD_NS: u64 = 500;
const CHUNK_OVERHEAD_NS: u64 = 2_000;
const COMMIT_TX_NS: u64 = 300;
const COMMIT_CHUNK_NS: u64 = 500;
/// Speculation goes on while it takes less than this part of what one thread would take.
const PAYS_BELOW: f64 = 0.9;
/// Threads that the lanes must be able to keep busy for speculation to be tried at all.
const PARALLELISM_MIN: f64 = 1.1;

/// What has been committed; held by the thread that commits.
#[derive(Default)]
struct Ledger {
    next_tx: usize,
    outcomes: Vec<Outcome>,
    gas_used: u64,
    full: bool,
    reexecuted: u64,
    aborted: u64,
    window: Window,
}

/// Figures of the latest committed chunks.
#[derive(Default)]
struct Window {
    chunks: u64,
    txs: u64,
    stale: u64,
    /// Time of first executions with their publication, and of repeated ones.
    first_ns: u64,
    again_ns: u64,
}

struct Shared<'a, P> {
    job: &'a Job<'a>,
    memory: &'a MultiVersion<'a>,
    schedule: Schedule,
    /// Finished chunks by their first transaction, until they are committed.
    finished: Vec<Mutex<Option<Box<ChunkResult>>>>,
    ledger: Mutex<Ledger>,
    executions: AtomicU64,
    busy_ns: AtomicU64,
    pace: &'a P,
}

/// Lets the others end when a thread panics, so that the panic comes out instead of waiting for ever.
struct Presence<'a, P: Pace> {
    schedule: &'a Schedule,
    pace: &'a P,
    thread: usize,
}

impl<P: Pace> Drop for Presence<'_, P> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.schedule.stop();
        }
        self.pace.leave(self.thread);
    }
}

/// Executes the job on several threads; equal to the sequential executor in everything but speed.
pub fn execute(job: &Job<'_>, threads: usize) -> BlockOutcome {
    if threads < 2 || job.txs.len() < TXS_MIN {
        return sequential::execute(job);
    }
    let lanes = Lanes::of(job);
    if lanes.parallelism() < PARALLELISM_MIN {
        return sequential::execute(job);
    }
    run(job, lanes, threads, &Free::default())
}

/// Speculative execution whatever the block; with one thread it shows what the bookkeeping costs.
pub fn speculate(job: &Job<'_>, threads: usize) -> BlockOutcome {
    speculate_at(job, threads, &Free::default())
}

/// The same at a given pace, as tests have it.
pub fn speculate_at(job: &Job<'_>, threads: usize, pace: &impl Pace) -> BlockOutcome {
    run(job, Lanes::of(job), threads, pace)
}

fn run(job: &Job<'_>, lanes: Lanes, threads: usize, pace: &impl Pace) -> BlockOutcome {
    let memory = MultiVersion::new(job.state, job.block.coinbase);
    let threads = threads.min(lanes.lanes()).max(1);
    let shared = Shared {
        job,
        memory: &memory,
        schedule: Schedule::new(lanes, threads),
        finished: job.txs.iter().map(|_| Mutex::default()).collect(),
        ledger: Mutex::new(Ledger { outcomes: Vec::with_capacity(job.txs.len()), ..Ledger::default() }),
        executions: AtomicU64::new(0),
        busy_ns: AtomicU64::new(0),
        pace,
    };
    pace.begin(threads);
    std::thread::scope(|scope| {
        let shared = &shared;
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || shared.work(thread))).collect();
        shared.work(0);
        others.into_iter().for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
    });
    let ledger = shared.ledger.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let stats = ExecStats {
        executions: shared.executions.into_inner(),
        reexecuted: ledger.reexecuted,
        aborted: ledger.aborted,
        fell_back: false,
        threads: threads as u32,
        busy_us: shared.busy_ns.into_inner() / 1_000,
    };
    finish(job, memory, ledger, stats)
}

/// Executes what speculation left over, and puts the outcome together.
fn finish(job: &Job<'_>, memory: MultiVersion<'_>, ledger: Ledger, mut stats: ExecStats) -> BlockOutcome {
    let diff = memory.into_diff(ledger.next_tx);
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

impl<P: Pace> Shared<'_, P> {
    fn work(&self, thread: usize) {
        let _presence = Presence { schedule: &self.schedule, pace: self.pace, thread };
        let step = || self.pace.step(thread);
        let mut runner = ChunkRunner::new(self.job, self.memory);
        step();
        while let Some(chunk) = self.schedule.take(|| self.pace.idle(thread)) {
            let go_on = || {
                step();
                !self.schedule.stopped()
            };
            let started = self.pace.now_ns();
            let lanes = self.schedule.lanes.of_txs(chunk.txs.clone());
            let result = runner.run(&chunk, lanes, go_on);
            self.book(&mut runner);
            let Some(mut result) = result else { break };
            step();
            self.publish(&result);
            result.spent_ns = self.pace.now_ns().saturating_sub(started);
            *lock(&self.finished[chunk.txs.start]) = Some(Box::new(result));
            self.schedule.publish(chunk.txs);
            step();
            self.commit_ready(&mut runner, &step);
        }
    }

    /// Adds up what the thread has done since it last did so.
    fn book(&self, runner: &mut ChunkRunner<'_>) {
        let Tally { executions, busy_ns } = std::mem::take(&mut runner.tally);
        self.executions.fetch_add(executions, Ordering::Relaxed);
        self.busy_ns.fetch_add(busy_ns, Ordering::Relaxed);
    }

    fn publish(&self, result: &ChunkResult) {
        let lanes = self.schedule.lanes.of_txs(result.txs.clone());
        self.memory.publish(result.txs.start, &result.writes, lanes);
    }

    fn is_finished(&self, tx: usize) -> bool {
        self.finished.get(tx).is_some_and(|slot| lock(slot).is_some())
    }

    /// Commits all finished chunks that are next in order, unless another thread is at it.
    fn commit_ready(&self, runner: &mut ChunkRunner<'_>, step: &impl Fn()) {
        loop {
            let Ok(mut ledger) = self.ledger.try_lock() else { return };
            while !self.schedule.stopped() {
                let Some(slot) = self.finished.get(ledger.next_tx) else { break };
                let Some(result) = lock(slot).take() else { break };
                step();
                self.commit(&mut ledger, *result, runner, step);
            }
            let next = ledger.next_tx;
            drop(ledger);
            step();
            // A chunk that was finished while the ledger was held has nobody else to commit it.
            if self.schedule.stopped() || !self.is_finished(next) {
                return;
            }
        }
    }

    fn commit(&self, ledger: &mut Ledger, mut result: ChunkResult, runner: &mut ChunkRunner<'_>, step: &impl Fn()) {
        ledger.window.chunks += 1;
        ledger.window.txs += result.txs.len() as u64;
        ledger.window.first_ns += result.spent_ns;
        if let Some(stale) = result.first_stale(self.memory) {
            let again = (result.txs.end - stale) as u64;
            let started = self.pace.now_ns();
            self.memory.retract(result.txs.start, &result.writes);
            result = runner.rerun(result, stale, step);
            self.book(runner);
            self.publish(&result);
            ledger.window.again_ns += self.pace.now_ns().saturating_sub(started);
            ledger.reexecuted += again;
            ledger.aborted += 1;
            ledger.window.stale += again;
        }
        self.enter(ledger, result);
        if ledger.window.txs >= WINDOW_TXS {
            let uncommitted = self.job.txs.len() - ledger.next_tx;
            self.adapt(&std::mem::take(&mut ledger.window), uncommitted);
        }
    }

    /// Enters a true chunk into the ledger, as far as the block's gas goes.
    fn enter(&self, ledger: &mut Ledger, mut result: ChunkResult) {
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
            self.memory.retract(result.txs.start, &result.writes);
            result.truncate(fits);
            self.publish(&result);
            ledger.full = true;
            self.schedule.stop();
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

    /// Shrinks or grows the chunks, and gives speculation up where it does not pay, now or with the least chunks.
    fn adapt(&self, window: &Window, uncommitted: usize) {
        let (untaken, threads) = self.schedule.outlook();
        let size = self.schedule.chunk_txs();
        let conflicts = window.stale * 10 > window.txs;
        let pays = if conflicts && size > 1 {
            window.with_least_chunks().pays(untaken, uncommitted, threads)
        } else {
            window.pays(untaken, uncommitted, threads)
        };
        if !pays && self.schedule.threads() > 1 {
            self.schedule.stop();
        } else if conflicts {
            self.schedule.resize(1);
        } else if window.stale == 0 && size < CHUNK_TXS_MAX {
            self.schedule.resize(size * 2);
            self.memory.reserve(self.job.txs.len() * 2);
        }
    }
}

impl Window {
    /// Whether speculation is quicker than one thread alone. First executions and commits share as many threads
    /// as the lanes allow, repeated executions run one after the other; one thread alone needs no bookkeeping,
    /// but begins at the last committed transaction. (A repeated claim finds its signatures in the cache, so that
    /// speculation can pay even where everything conflicts.)
    fn pays(&self, untaken: usize, uncommitted: usize, threads: f64) -> bool {
        let alone = self.alone_ns() as f64;
        let shared = (self.first_ns + COMMIT_TX_NS * self.txs + COMMIT_CHUNK_NS * self.chunks) as f64;
        // A thread that was put to sleep while it repeated something says nothing about the work.
        let again = self.again_ns.min(self.first_ns * self.stale / self.txs) as f64;
        shared / threads * untaken as f64 + again * uncommitted as f64 <= alone * PAYS_BELOW * uncommitted as f64
    }

    fn alone_ns(&self) -> u64 {
        self.first_ns.saturating_sub(TX_OVERHEAD_NS * self.txs + CHUNK_OVERHEAD_NS * self.chunks)
    }

    /// The same work in chunks of one transaction, at best: without conflicts.
    fn with_least_chunks(&self) -> Self {
        let first_ns = self.alone_ns() + (TX_OVERHEAD_NS + CHUNK_OVERHEAD_NS) * self.txs;
        Self { chunks: self.txs, txs: self.txs, stale: 0, first_ns, again_ns: 0 }
    }
}
