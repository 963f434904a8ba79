//! Execution of one block's transactions: the job, its outcome, and the executors.
//!
//! `sequential` is the reference. `parallel` is what the chain uses: `lanes` says what depends on what, `schedule`
//! hands out chunks, `chunk` executes one, `versions` holds what chunks have written, and `pace` lets tests draw the
//! schedule of the threads. `block_stm` is there to be compared with.

pub mod block_stm;
mod chunk;
pub mod evm;
mod lanes;
pub mod overlay;
pub mod pace;
pub mod parallel;
mod schedule;
pub mod sequential;
mod versions;

use crate::{
    ecrecover::RecoverCache,
    state::{Diff, State, Writes},
    tx::SignedTx,
};
use alloy_primitives::{Address, B256, Bytes, Log, U256, map::HashMap};
use revm::{
    context::{BlockEnv, CfgEnv},
    context_interface::block::BlobExcessGasAndPrice,
    primitives::hardfork::SpecId,
};
use std::sync::Arc;

/// Everything about the block that its transactions can see.
#[derive(Clone, Debug)]
pub struct BlockContext {
    pub chain_id: u64,
    pub spec: SpecId,
    pub number: u64,
    pub timestamp: u64,
    pub gas_limit: u64,
    pub base_fee: u64,
    pub coinbase: Address,
    pub prevrandao: B256,
    /// Hashes of up to 256 ancestors, for BLOCKHASH.
    pub ancestors: Arc<HashMap<u64, B256>>,
}

/// Memory that one transaction's frames may take together; beyond it the frame halts as out of gas.
/// Gas alone would allow about 700 MB at the site chain's block gas limit.
pub const EVM_MEMORY_BYTES_MAX: u64 = 128 * 1024 * 1024;

impl BlockContext {
    pub fn block_env(&self) -> BlockEnv {
        BlockEnv {
            number: U256::from(self.number),
            beneficiary: self.coinbase,
            timestamp: U256::from(self.timestamp),
            gas_limit: self.gas_limit,
            basefee: self.base_fee,
            difficulty: U256::ZERO,
            prevrandao: Some(self.prevrandao),
            blob_excess_gas_and_price: Some(BlobExcessGasAndPrice { excess_blob_gas: 0, blob_gasprice: 1 }),
            slot_num: 0,
        }
    }

    pub fn cfg_env(&self) -> CfgEnv {
        let mut cfg = CfgEnv::new_with_spec(self.spec);
        cfg.chain_id = self.chain_id;
        cfg.memory_limit = EVM_MEMORY_BYTES_MAX;
        cfg
    }
}

/// A block to execute on top of a state.
pub struct Job<'a> {
    pub state: &'a State,
    pub block: &'a BlockContext,
    pub txs: &'a [Arc<SignedTx>],
    pub recover: &'a RecoverCache,
}

/// The result of one executed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    pub success: bool,
    pub gas_used: u64,
    pub logs: Vec<Log>,
    pub created: Option<Address>,
    /// Return or revert data.
    pub output: Bytes,
    /// What the fee recipient earns.
    pub reward: U256,
    pub writes: Writes,
}

/// What became of a transaction offered for a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Executed(Box<Executed>),
    /// It cannot be executed now (nonce or funds); it stays where it was.
    Skipped(String),
}

/// How an executor fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExecStats {
    /// Executions of transactions in all, with the repeated ones and those that came to nothing.
    pub executions: u64,
    /// Transactions that were executed again because they had read stale values.
    pub reexecuted: u64,
    /// Chunks that turned out stale when they were to be committed.
    pub aborted: u64,
    /// True when speculation did not pay and the rest of the block went sequentially.
    pub fell_back: bool,
    /// Threads that were used: never more than the block has senders.
    pub threads: u32,
    /// Time that the threads spent executing, together: over the wall time, the parallelism reached.
    pub busy_us: u64,
}

/// A block's outcomes, in order. Shorter than the job where the block's gas ran out.
#[derive(Debug, Default)]
pub struct BlockOutcome {
    pub outcomes: Vec<Outcome>,
    pub diff: Diff,
    pub gas_used: u64,
    pub stats: ExecStats,
}
