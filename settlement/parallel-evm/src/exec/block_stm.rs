//! Block-STM, after Gelashvili et al. (PPoPP 2023): every thread executes or validates single transactions,
//! an abort sends the validation back, and the block is finished when nothing is left to do.
//!
//! Kept to be measured against `parallel`, which the chain uses: README, "Which algorithm". It shares the
//! multi-version memory and compares values where the paper compares versions. A block that reads the fee
//! recipient's account goes sequentially.

use super::{
    BlockOutcome, ExecStats, Job, Outcome,
    chunk::{ChunkResult, ChunkRunner},
    schedule::Chunk,
    sequential,
    versions::MultiVersion,
};
use crate::chain::lock;
use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Ready,
    Executing,
    Executed,
    Aborting,
}

enum Task {
    Execute(usize),
    Validate(usize),
}

struct Scheduler {
    count: usize,
    execute: AtomicUsize,
    validate: AtomicUsize,
    /// Rises with each decrease of the two, so that nobody declares a moving target done.
    decreases: AtomicUsize,
    active: AtomicUsize,
    done: AtomicBool,
    status: Vec<Mutex<Status>>,
}

impl Scheduler {
    fn new(count: usize) -> Self {
        Self {
            count,
            execute: AtomicUsize::new(0),
            validate: AtomicUsize::new(0),
            decreases: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            done: AtomicBool::new(false),
            status: (0..count).map(|_| Mutex::new(Status::Ready)).collect(),
        }
    }

    fn lower(&self, index: &AtomicUsize, to: usize) {
        index.fetch_min(to, SeqCst);
        self.decreases.fetch_add(1, SeqCst);
    }

    fn check_done(&self) {
        let before = self.decreases.load(SeqCst);
        let least = self.execute.load(SeqCst).min(self.validate.load(SeqCst));
        if least >= self.count && self.active.load(SeqCst) == 0 && before == self.decreases.load(SeqCst) {
            self.done.store(true, SeqCst);
        }
    }

    fn try_execute(&self, tx: usize) -> Option<Task> {
        if tx < self.count {
            let mut status = lock(&self.status[tx]);
            if *status == Status::Ready {
                *status = Status::Executing;
                return Some(Task::Execute(tx));
            }
        }
        self.active.fetch_sub(1, SeqCst);
        None
    }

    fn next(&self) -> Option<Task> {
        let validate = self.validate.load(SeqCst) < self.execute.load(SeqCst);
        let index = if validate { &self.validate } else { &self.execute };
        if index.load(SeqCst) >= self.count {
            self.check_done();
            return None;
        }
        self.active.fetch_add(1, SeqCst);
        let tx = index.fetch_add(1, SeqCst);
        if !validate {
            return self.try_execute(tx);
        }
        if tx < self.count && *lock(&self.status[tx]) == Status::Executed {
            return Some(Task::Validate(tx));
        }
        self.active.fetch_sub(1, SeqCst);
        None
    }

    /// Nothing marks values that are about to change (the paper's estimates), so all later transactions are
    /// validated again after each execution.
    fn executed(&self, tx: usize) -> Option<Task> {
        *lock(&self.status[tx]) = Status::Executed;
        if self.validate.load(SeqCst) > tx {
            self.lower(&self.validate, tx);
        }
        self.active.fetch_sub(1, SeqCst);
        None
    }

    fn try_abort(&self, tx: usize) -> bool {
        let mut status = lock(&self.status[tx]);
        let was = *status == Status::Executed;
        if was {
            *status = Status::Aborting;
        }
        was
    }

    fn validated(&self, tx: usize, aborted: bool) -> Option<Task> {
        if aborted {
            *lock(&self.status[tx]) = Status::Ready;
            self.lower(&self.validate, tx + 1);
            if self.execute.load(SeqCst) > tx {
                return self.try_execute(tx);
            }
        }
        self.active.fetch_sub(1, SeqCst);
        None
    }
}

struct Shared<'a> {
    job: &'a Job<'a>,
    memory: &'a MultiVersion<'a>,
    scheduler: Scheduler,
    results: Vec<Mutex<Option<Box<ChunkResult>>>>,
    executions: AtomicU64,
    aborted: AtomicU64,
}

/// Executes the job on several threads; equal to the sequential executor in everything but speed.
pub fn execute(job: &Job<'_>, threads: usize) -> BlockOutcome {
    let memory = MultiVersion::new(job.state, job.block.coinbase);
    memory.reserve(job.txs.len() * 2);
    let shared = Shared {
        job,
        memory: &memory,
        scheduler: Scheduler::new(job.txs.len()),
        results: job.txs.iter().map(|_| Mutex::default()).collect(),
        executions: AtomicU64::new(0),
        aborted: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| shared.work());
        }
        shared.work();
    });
    let stats = ExecStats {
        executions: shared.executions.load(SeqCst),
        reexecuted: shared.executions.load(SeqCst).saturating_sub(job.txs.len() as u64),
        aborted: shared.aborted.load(SeqCst),
        threads: threads as u32,
        ..ExecStats::default()
    };
    let results = shared.results;
    finish(job, memory, results, stats)
}

fn finish(
    job: &Job<'_>,
    memory: MultiVersion<'_>,
    results: Vec<Mutex<Option<Box<ChunkResult>>>>,
    stats: ExecStats,
) -> BlockOutcome {
    let mut outcome = BlockOutcome { stats, ..BlockOutcome::default() };
    let mut taken = 0;
    for (tx, result) in job.txs.iter().zip(results) {
        let Some(mut result) = result.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) else { break };
        if result.touches(&job.block.coinbase) {
            return sequential::execute(job);
        }
        if outcome.gas_used.saturating_add(tx.gas_limit()) > job.block.gas_limit {
            break;
        }
        if let Some(Outcome::Executed(executed)) = result.outcomes.first() {
            outcome.gas_used += executed.gas_used;
            memory.commit_reward(&result.writes[0], executed.reward);
        }
        outcome.outcomes.append(&mut result.outcomes);
        taken += 1;
    }
    outcome.diff = memory.into_diff(taken);
    outcome
}

impl Shared<'_> {
    fn work(&self) {
        let mut runner = ChunkRunner::new(self.job, self.memory);
        let mut task = None;
        while !self.scheduler.done.load(SeqCst) {
            task = match task.take().or_else(|| self.scheduler.next()) {
                Some(Task::Execute(tx)) => self.execute(&mut runner, tx),
                Some(Task::Validate(tx)) => self.validate(tx),
                None => {
                    std::hint::spin_loop();
                    None
                }
            };
        }
    }

    fn execute(&self, runner: &mut ChunkRunner<'_>, tx: usize) -> Option<Task> {
        self.executions.fetch_add(1, SeqCst);
        let chunk = Chunk { txs: tx..tx + 1, horizon: tx };
        let result = runner.run(&chunk, &[], || true)?;
        let mut slot = lock(&self.results[tx]);
        if let Some(old) = slot.take() {
            self.memory.retract(tx, &old.writes);
        }
        self.memory.publish(tx, &result.writes, &[0]);
        *slot = Some(Box::new(result));
        drop(slot);
        self.scheduler.executed(tx)
    }

    fn validate(&self, tx: usize) -> Option<Task> {
        let stale = lock(&self.results[tx]).as_ref().is_some_and(|result| result.first_stale(self.memory).is_some());
        let aborted = stale && self.scheduler.try_abort(tx);
        if aborted {
            self.aborted.fetch_add(1, SeqCst);
        }
        self.scheduler.validated(tx, aborted)
    }
}
