//! Where the executor's threads can be held up and put in order: nothing in use, any schedule in tests.

use std::time::Instant;

/// Told of every step of a thread that other threads can notice, and asked for the time.
pub trait Pace: Sync {
    /// Called before the threads start.
    fn begin(&self, _threads: usize) {}

    /// Called before a step; the thread goes on when this returns. It may hold the ledger, never another lock.
    fn step(&self, _thread: usize) {}

    /// Called by a thread that finds nothing to do. True: it looks again; false: it sleeps until there may be
    /// something.
    fn idle(&self, _thread: usize) -> bool {
        false
    }

    /// Called once by each thread when it ends, also when it panics.
    fn leave(&self, _thread: usize) {}

    /// Nanoseconds since some moment: what decides whether speculation pays.
    fn now_ns(&self) -> u64;
}

/// As fast as they can.
pub struct Free(Instant);

impl Default for Free {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Pace for Free {
    fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}
