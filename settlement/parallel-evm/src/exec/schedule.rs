//! Who executes what: chunks of a block, handed out so that no two threads have one lane at a time.
//!
//! A transaction is ready when its sender's one before it has been executed and published, or when there is
//! none. A thread takes the first ready transaction and as many of its successors as are ready too and a chunk
//! may hold; where one lane is so long that it decides when the block is finished, that lane goes first.

use super::lanes::Lanes;
use crate::chain::lock;
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    ops::Range,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// Transactions in a chunk at most: bounds what one conflict can waste.
pub const CHUNK_TXS_MAX: usize = 32;
const CHUNK_TXS_START: usize = 8;
/// Gas limits in a chunk at most, so that heavy transactions spread over the threads one by one.
const CHUNK_GAS_MAX: u64 = 2_000_000;

/// A contiguous run of transactions for one thread, and what it may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub txs: Range<usize>,
    /// Writes of chunks that begin here or later are hidden from it, unless they are of its own lanes.
    pub horizon: usize,
}

struct Progress {
    /// For each transaction that was taken, where its chunk begins.
    chunk: Vec<Option<u32>>,
    published: Vec<bool>,
    untaken: usize,
    untaken_gas: u64,
    first_untaken: usize,
    /// Lanes that have transactions left to take.
    live_lanes: usize,
    heads_taken: usize,
    /// Ready because the one before was published; may have been taken since.
    woken: BinaryHeap<Reverse<usize>>,
    /// The next transaction to take of each long lane.
    long: Vec<Option<usize>>,
    sleepers: usize,
}

/// Hands out the chunks of one block.
pub struct Schedule {
    pub lanes: Lanes,
    threads: usize,
    progress: Mutex<Progress>,
    changed: Condvar,
    chunk_txs: AtomicUsize,
    stop: AtomicBool,
}

impl Schedule {
    pub fn new(lanes: Lanes, threads: usize) -> Self {
        let count = lanes.txs();
        let progress = Progress {
            chunk: vec![None; count],
            published: vec![false; count],
            untaken: count,
            untaken_gas: lanes.total_gas(),
            first_untaken: 0,
            live_lanes: lanes.lanes(),
            heads_taken: 0,
            woken: BinaryHeap::new(),
            long: lanes.long(4 * threads as u64).into_iter().map(Some).collect(),
            sleepers: 0,
        };
        Self {
            lanes,
            threads,
            progress: Mutex::new(progress),
            changed: Condvar::new(),
            chunk_txs: AtomicUsize::new(CHUNK_TXS_START.min(count.div_ceil(threads * 4)).max(1)),
            stop: AtomicBool::new(false),
        }
    }

    /// The next chunk; None when there is no more, or no more is wanted. A thread that finds none ready asks
    /// `idle` whether to look again at once, and sleeps otherwise.
    pub fn take(&self, idle: impl Fn() -> bool) -> Option<Chunk> {
        let mut progress = lock(&self.progress);
        loop {
            if self.stopped() || progress.untaken == 0 {
                return None;
            }
            if let Some(chunk) = self.take_ready(&mut progress) {
                return Some(chunk);
            }
            drop(progress);
            if idle() {
                progress = lock(&self.progress);
                continue;
            }
            progress = lock(&self.progress);
            // What was published meanwhile woke nobody, so look again before sleeping.
            if self.lowest(&mut progress).is_none() && progress.untaken > 0 && !self.stopped() {
                progress.sleepers += 1;
                progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
                progress.sleepers -= 1;
            }
        }
    }

    fn take_ready(&self, progress: &mut Progress) -> Option<Chunk> {
        let head = self.critical(progress).or_else(|| self.lowest(progress))?;
        Some(self.cut(progress, head))
    }

    /// Says that a chunk's writes can be read now, so that its lanes may go on.
    pub fn publish(&self, txs: Range<usize>) {
        let mut progress = lock(&self.progress);
        let mut woken = 0;
        for tx in txs {
            progress.published[tx] = true;
            if let Some(next) = self.lanes.next(tx).filter(|next| progress.chunk[*next].is_none()) {
                progress.woken.push(Reverse(next));
                woken += 1;
            }
        }
        for _ in 0..progress.sleepers.min(woken) {
            self.changed.notify_one();
        }
    }

    pub fn stop(&self) {
        let _progress = lock(&self.progress);
        self.stop.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn threads(&self) -> usize {
        self.threads
    }

    pub fn chunk_txs(&self) -> usize {
        self.chunk_txs.load(Ordering::Relaxed)
    }

    /// Sets how many transactions a chunk may hold.
    pub fn resize(&self, chunk_txs: usize) {
        self.chunk_txs.store(chunk_txs.clamp(1, CHUNK_TXS_MAX), Ordering::Relaxed);
    }

    /// Transactions that are left to take, and how many threads their lanes can keep busy.
    pub fn outlook(&self) -> (usize, f64) {
        let progress = lock(&self.progress);
        let longest = progress.long.iter().flatten().map(|tx| self.lanes.rest_gas(*tx)).max().unwrap_or_default();
        let threads = self.threads as f64;
        let busy = if longest == 0 { threads } else { threads.min(progress.untaken_gas as f64 / longest as f64) };
        (progress.untaken, busy)
    }

    fn is_ready(&self, progress: &Progress, tx: usize) -> bool {
        self.lanes.prev(tx).is_none_or(|prev| progress.published[prev])
    }

    /// The next of a long lane, if the lane takes at least as long as everything that is left shared out evenly.
    fn critical(&self, progress: &Progress) -> Option<usize> {
        let ready = progress.long.iter().flatten().copied().filter(|tx| self.is_ready(progress, *tx));
        let head = ready.max_by_key(|tx| (self.lanes.rest_gas(*tx), Reverse(*tx)))?;
        let longest = self.lanes.rest_gas(head).saturating_mul(self.threads as u64);
        (longest >= progress.untaken_gas).then_some(head)
    }

    /// The first ready transaction of the block.
    fn lowest(&self, progress: &mut Progress) -> Option<usize> {
        let heads = self.lanes.heads();
        while heads.get(progress.heads_taken).is_some_and(|head| progress.chunk[*head as usize].is_some()) {
            progress.heads_taken += 1;
        }
        while progress.woken.peek().is_some_and(|Reverse(tx)| progress.chunk[*tx].is_some()) {
            progress.woken.pop();
        }
        let head = heads.get(progress.heads_taken).map(|head| *head as usize);
        let woken = progress.woken.peek().map(|Reverse(tx)| *tx);
        head.into_iter().chain(woken).min()
    }

    fn cut(&self, progress: &mut Progress, head: usize) -> Chunk {
        let most_txs = self.chunk_txs();
        // The other threads find lanes to work on, too.
        let most_lanes = (progress.live_lanes / self.threads).max(1);
        let (mut end, mut gas, mut lanes) = (head, 0u64, 0);
        while end < self.lanes.txs() && end - head < most_txs && progress.chunk[end].is_none() {
            let prev = self.lanes.prev(end);
            if prev.is_none_or(|prev| prev < head) {
                lanes += 1;
                if lanes > most_lanes || !self.is_ready(progress, end) {
                    break;
                }
            }
            let own = self.lanes.gas(end);
            gas = gas.saturating_add(own);
            if end > head && gas > CHUNK_GAS_MAX {
                break;
            }
            end += 1;
        }
        let horizon = self.horizon(progress, head);
        for tx in head..end {
            self.mark_taken(progress, tx, head);
        }
        if progress.untaken == 0 {
            self.changed.notify_all();
        }
        Chunk { txs: head..end, horizon }
    }

    /// The chunks before this one are taken as still running, as many as there are other threads, whether they
    /// are or not: so what has to be repeated does not depend on luck with the timing.
    fn horizon(&self, progress: &Progress, head: usize) -> usize {
        let mut at = head.min(progress.first_untaken);
        for _ in 1..self.threads {
            let Some(before) = at.checked_sub(1) else { break };
            at = progress.chunk[before].map_or(before, |start| start as usize);
        }
        at
    }

    fn mark_taken(&self, progress: &mut Progress, tx: usize, head: usize) {
        progress.chunk[tx] = Some(head as u32);
        progress.untaken -= 1;
        progress.untaken_gas = progress.untaken_gas.saturating_sub(self.lanes.gas(tx));
        let next = self.lanes.next(tx);
        if next.is_none() {
            progress.live_lanes -= 1;
        }
        for place in &mut progress.long {
            if *place == Some(tx) {
                *place = next;
            }
        }
        while progress.chunk.get(progress.first_untaken).is_some_and(Option::is_some) {
            progress.first_untaken += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{Address, U160};

    /// A schedule of transactions that are given by their senders; each as heavy as a chunk may be.
    fn schedule(senders: &[u64], threads: usize, gas: u64) -> Schedule {
        let txs = senders.iter().map(|sender| (Address::from(U160::from(*sender)), gas));
        Schedule::new(Lanes::new(txs), threads)
    }

    /// Runs threads in equal steps, a step per transaction, and returns how many steps it took. Checks that each
    /// transaction is run once, and none beside or before another of its sender.
    fn steps(senders: &[u64], threads: usize, gas: u64) -> usize {
        let schedule = schedule(senders, threads, gas);
        let mut running: Vec<Option<(Range<usize>, usize)>> = vec![None; threads];
        let (mut now, mut published) = (0, vec![false; senders.len()]);
        while published.contains(&false) {
            for thread in &mut running {
                if thread.is_none() {
                    *thread = schedule.take_ready(&mut lock(&schedule.progress)).map(|chunk| {
                        let end = now + chunk.txs.len();
                        (chunk.txs, end)
                    });
                    let txs = thread.iter().flat_map(|(txs, _)| txs.clone());
                    for (tx, prev) in txs.filter_map(|tx| Some((tx, schedule.lanes.prev(tx)?))) {
                        let within = thread.as_ref().is_some_and(|(txs, _)| txs.contains(&prev));
                        assert!(within || published[prev], "{tx} runs before {prev} is published");
                    }
                }
            }
            now += 1;
            for thread in &mut running {
                if let Some((txs, _)) = thread.take_if(|(_, end)| *end == now) {
                    for tx in txs.clone() {
                        assert!(!std::mem::replace(&mut published[tx], true), "{tx} runs twice");
                    }
                    schedule.publish(txs);
                }
            }
        }
        assert!(schedule.take(|| unreachable!("nothing to wait for")).is_none());
        now
    }

    fn in_turn(lanes: u64, each: u64) -> Vec<u64> {
        (0..lanes * each).map(|n| n % lanes).collect()
    }

    fn in_order(lanes: u64, each: u64) -> Vec<u64> {
        (0..lanes * each).map(|n| n / each).collect()
    }

    #[test]
    fn heavy_lanes_take_no_longer_than_they_must() {
        let heavy = CHUNK_GAS_MAX;
        for (senders, threads, wanted) in [
            (in_turn(8, 12), 2, 48),
            (in_order(8, 12), 2, 48),
            (in_turn(3, 12), 2, 18),
            (in_order(3, 12), 2, 18),
            (in_order(8, 12), 8, 12),
            (in_order(1, 12), 4, 12),
            (vec![0, 1, 2, 3, 3, 3, 3, 3], 2, 5),
            (vec![3, 3, 3, 3, 3, 0, 1, 2], 2, 5),
        ] {
            assert_eq!(steps(&senders, threads, heavy), wanted, "{threads} threads: {senders:?}");
        }
    }

    #[test]
    fn light_lanes_are_shared_out() {
        for threads in [2, 4] {
            for senders in [in_turn(8, 100), in_order(8, 100), (0..800).collect()] {
                let took = steps(&senders, threads, 21_000);
                assert!(took <= 800 / threads + 3 * CHUNK_TXS_MAX, "{threads} threads: {took}");
            }
        }
    }

    #[test]
    fn any_mixture_keeps_the_order_of_senders() {
        let mut random = 1u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..500 {
            let (lanes, count) = (1 + draw(12), 1 + draw(90));
            let senders: Vec<u64> = (0..count).map(|_| draw(lanes)).collect();
            let gas = [21_000, 700_000, CHUNK_GAS_MAX][draw(3) as usize];
            steps(&senders, 1 + draw(8) as usize, gas);
        }
    }

    #[test]
    fn running_chunks_are_behind_the_horizon() {
        let schedule = schedule(&in_turn(4, 3), 3, CHUNK_GAS_MAX);
        let mut horizons = Vec::new();
        for _ in 0..8 {
            let chunk = schedule.take_ready(&mut lock(&schedule.progress)).expect("the lanes before are published");
            horizons.push(chunk.horizon);
            schedule.publish(chunk.txs);
        }
        assert_eq!(horizons, [0, 0, 0, 1, 2, 3, 4, 5]);
    }
}
