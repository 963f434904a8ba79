//! Production of one block: choose, execute, seal, store, append.

use super::{BlockStats, Chain, Head, Producer, TX_GAS_MIN, lock, wall_clock};
use crate::{
    block::{self, Block, Frame, Receipt, Roots},
    error::{Result, RpcError},
    exec::{BlockContext, Executed, Job, Outcome, parallel},
    state::{Diff, State},
    tx::SignedTx,
};
use alloy_primitives::Bytes;
use std::{sync::Arc, time::Instant};

/// Roots over fewer transactions and changed values than this are computed on the calling thread.
const PARALLEL_ENTRIES_MIN: usize = 128;

impl Chain {
    /// The next block's time, which never falls.
    fn pick_timestamp(&self, wanted: Option<u64>, planned: Option<u64>, parent: u64) -> Result<u64> {
        match wanted.or(planned) {
            Some(timestamp) if timestamp < parent => {
                Err(RpcError::params(format!("timestamp {timestamp} is below the parent block's {parent}")))
            }
            Some(timestamp) => Ok(timestamp),
            None => Ok(wall_clock().max(parent)),
        }
    }

    /// Sets the time of the next block that is produced without one.
    pub fn set_next_timestamp(&self, timestamp: u64) -> Result<()> {
        let mut producer = lock(&self.producer);
        let parent = self.head().blocks.latest().header.timestamp;
        producer.next_timestamp = Some(self.pick_timestamp(Some(timestamp), None, parent)?);
        Ok(())
    }

    /// The time that a block produced now would have.
    pub fn pending_timestamp(&self, head: &Head) -> u64 {
        wall_clock().max(head.blocks.latest().header.timestamp)
    }

    /// Executes the pool's executable transactions and appends a block, empty where there are none.
    pub fn produce_block(&self, timestamp: Option<u64>) -> Result<BlockStats> {
        let started = Instant::now();
        let mut producer = lock(&self.producer);
        let (context, candidates) = {
            let pool = self.pool();
            let head = self.head();
            let parent = head.blocks.latest().header.timestamp;
            let timestamp = self.pick_timestamp(timestamp, producer.next_timestamp, parent)?;
            let context = self.next_context(&head, timestamp);
            let count = (context.gas_limit / TX_GAS_MIN) as usize;
            let candidates = pool.executable(context.base_fee, count);
            (context, candidates)
        };
        let store = self.store()?;
        let (block, diff, mut stats) = self.execute(&mut producer, &context, &candidates);
        if let Some(store) = &store {
            let persisting = Instant::now();
            if let Err(error) = store.append_block(&block, &diff) {
                let head = self.head();
                producer.tries.update(&head.state, &head.state.inverse(&diff), self.config.threads);
                return Err(error);
            }
            stats.persist_us = persisting.elapsed().as_micros() as u64;
        }
        producer.next_timestamp = None;
        self.append(Arc::new(block), &diff);
        if let Some(store) = store
            && store.is_due()
        {
            let pool = self.pool();
            // A snapshot that cannot be written costs nothing but a longer log.
            let _ = store.rotate(&self.head(), pool.in_order().into_iter());
        }
        stats.total_us = started.elapsed().as_micros() as u64;
        *lock(&self.last_stats) = stats.clone();
        Ok(stats)
    }

    fn execute(
        &self,
        producer: &mut Producer,
        context: &BlockContext,
        txs: &[Arc<SignedTx>],
    ) -> (Block, Diff, BlockStats) {
        let head = self.head();
        let started = Instant::now();
        let job = Job { state: &head.state, block: context, txs, recover: &self.recover };
        let outcome = parallel::execute(&job, self.config.threads);
        let execute_us = started.elapsed().as_micros() as u64;
        let mut included = Vec::with_capacity(txs.len());
        let mut executed: Vec<Executed> = Vec::with_capacity(txs.len());
        let mut skipped = 0;
        for (tx, outcome) in txs.iter().zip(outcome.outcomes) {
            match outcome {
                Outcome::Executed(result) => {
                    included.push(tx.clone());
                    executed.push(*result);
                }
                Outcome::Skipped(_) => skipped += 1,
            }
        }
        let started = Instant::now();
        let (receipts, roots) = self.roots(producer, context, &head.state, &included, executed, &outcome.diff);
        let frame = Frame { parent_hash: head.blocks.latest().hash, extra_data: Bytes::new() };
        let block = block::seal(frame, context, included, receipts, roots);
        let stats = BlockStats {
            number: context.number,
            hash: block.hash,
            timestamp: context.timestamp,
            transactions: block.txs.len() as u64,
            skipped,
            gas_used: outcome.gas_used,
            exec: outcome.stats,
            execute_us,
            root_us: started.elapsed().as_micros() as u64,
            persist_us: 0,
            total_us: 0,
        };
        (block, outcome.diff, stats)
    }

    /// Receipts, and the roots of a block; the state's beside the others where that pays.
    fn roots(
        &self,
        producer: &mut Producer,
        context: &BlockContext,
        state: &State,
        txs: &[Arc<SignedTx>],
        executed: Vec<Executed>,
        diff: &Diff,
    ) -> (Vec<Receipt>, Roots) {
        let (tries, threads) = (&mut producer.tries, self.config.threads);
        let body = || {
            let receipts = block::receipts(txs, executed, context.base_fee);
            let roots = (block::transactions_root(txs), block::receipts_root(txs, &receipts));
            (receipts, roots)
        };
        let (state, (receipts, (transactions, (of_receipts, logs_bloom)))) =
            if threads > 1 && txs.len() + diff.len() >= PARALLEL_ENTRIES_MIN {
                std::thread::scope(|scope| {
                    let tries = scope.spawn(|| tries.update(state, diff, threads.div_ceil(2)));
                    let body = body();
                    (tries.join().expect("the trie does not panic"), body)
                })
            } else {
                (tries.update(state, diff, 1), body())
            };
        (receipts, Roots { state, transactions, receipts: of_receipts, logs_bloom })
    }

    /// Makes a block the head and takes its transactions out of the pool.
    fn append(&self, block: Arc<Block>, diff: &Diff) {
        let mut pool = self.pool();
        let mut head = self.head_mut();
        let undo = head.state.apply(diff);
        head.undos.push(block.number(), undo);
        head.blocks.push(block.clone());
        for tx in &block.txs {
            let nonce = head.state.info(&tx.sender).map_or(0, |info| info.nonce);
            pool.settle(tx.sender, nonce);
        }
    }
}
