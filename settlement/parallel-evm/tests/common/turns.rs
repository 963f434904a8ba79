//! Any schedule of an executor's threads, from a seed: one thread moves at a time, and who is next is drawn.
//! A block and a seed always come to the same schedule, so that a failure can be repeated.

use super::Random;
use parallel_evm::exec::pace::Pace;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

const THREADS_MAX: usize = 8;

struct Table {
    random: Random,
    /// Threads that wait for their turn; None: the thread has left.
    waiting: Vec<Option<bool>>,
    turn: Option<usize>,
    now_ns: u64,
}

/// How the next thread is drawn.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Evenly,
    /// Mostly the one that had the last turn.
    Sticky,
    /// This one hardly ever, as if it had been put to sleep.
    Starving(usize),
}

/// A pace at which threads take turns.
pub struct Turns {
    manner: Manner,
    table: Mutex<Table>,
    called: [Condvar; THREADS_MAX],
}

impl Turns {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x7475_726e);
        let manner = match random.below(4) {
            0 => Manner::Evenly,
            1 => Manner::Sticky,
            other => Manner::Starving(random.below(2 * other)),
        };
        let table = Table { random, waiting: Vec::new(), turn: None, now_ns: 0 };
        Self { manner, table: Mutex::new(table), called: Default::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the next turn, once everybody waits for it.
    fn draw(&self, table: &mut Table, last: Option<usize>) {
        if table.turn.is_some() || table.waiting.contains(&Some(false)) {
            return;
        }
        let ready: Vec<usize> = (0..table.waiting.len()).filter(|at| table.waiting[*at] == Some(true)).collect();
        if ready.is_empty() {
            return;
        }
        let mut next = ready[table.random.below(ready.len())];
        match self.manner {
            Manner::Evenly => {}
            Manner::Sticky if table.random.below(10) > 0 => next = last.filter(|at| ready.contains(at)).unwrap_or(next),
            Manner::Sticky => {}
            Manner::Starving(victim) if next == victim && table.random.below(30) > 0 => {
                next = ready[table.random.below(ready.len())];
            }
            Manner::Starving(_) => {}
        }
        // Mostly short, now and then long: what is measured decides whether speculation goes on.
        let step_ns = [500, 5_000, 500_000][table.random.below(20) / 9];
        table.now_ns += 100 + table.random.below(step_ns) as u64;
        table.turn = Some(next);
        self.called[next].notify_one();
    }
}

impl Pace for Turns {
    fn begin(&self, threads: usize) {
        assert!(threads <= THREADS_MAX);
        self.table().waiting = vec![Some(false); threads];
    }

    fn step(&self, thread: usize) {
        let mut table = self.table();
        table.waiting[thread] = Some(true);
        let last = table.turn.take_if(|turn| *turn == thread);
        self.draw(&mut table, last);
        while table.turn != Some(thread) {
            table = self.called[thread].wait(table).unwrap_or_else(PoisonError::into_inner);
        }
        table.waiting[thread] = Some(false);
    }

    fn idle(&self, thread: usize) -> bool {
        self.step(thread);
        true
    }

    fn leave(&self, thread: usize) {
        let mut table = self.table();
        table.waiting[thread] = None;
        let last = table.turn.take_if(|turn| *turn == thread);
        self.draw(&mut table, last);
    }

    fn now_ns(&self) -> u64 {
        self.table().now_ns
    }
}
