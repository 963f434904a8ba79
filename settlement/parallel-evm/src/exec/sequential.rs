//! One transaction after the other: the reference for every other executor.

use super::{
    BlockOutcome, ExecStats, Executed, Job, Outcome,
    evm::{SiteError, account_info, build, run_tx},
    overlay::Overlay,
};
use alloy_primitives::{Address, B256, U256};
use revm::{Database, bytecode::Bytecode, context::result::EVMError, state::AccountInfo};
use std::{convert::Infallible, sync::Arc, time::Instant};

/// The overlay as revm sees it.
pub struct OverlayDb<'a> {
    pub overlay: Overlay<'a>,
    ancestors: Arc<alloy_primitives::map::HashMap<u64, B256>>,
}

impl Database for OverlayDb<'_> {
    type Error = Infallible;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, Infallible> {
        let overlay = &self.overlay;
        Ok(overlay.info(&address).map(|info| {
            let code = if info.has_code() { overlay.code(&info.code_hash) } else { None };
            account_info(info, code)
        }))
    }

    fn code_by_hash(&mut self, hash: B256) -> Result<Bytecode, Infallible> {
        Ok(self.overlay.code(&hash).unwrap_or_default())
    }

    fn storage(&mut self, address: Address, key: U256) -> Result<U256, Infallible> {
        Ok(self.overlay.slot(&(address, key)))
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, Infallible> {
        Ok(self.ancestors.get(&number).copied().unwrap_or_default())
    }
}

/// Executes the job's transactions in order until the block's gas runs out.
pub fn execute(job: &Job<'_>) -> BlockOutcome {
    execute_from(job, Overlay::new(job.state, job.block.coinbase), 0, 0)
}

/// The same from a transaction on, above what the earlier ones did; `gas_used` is theirs.
pub fn execute_from(job: &Job<'_>, overlay: Overlay<'_>, first: usize, mut gas_used: u64) -> BlockOutcome {
    let db = OverlayDb { overlay, ancestors: job.block.ancestors.clone() };
    let mut evm = build(db, job.block.block_env(), job.block.cfg_env(), job.recover);
    let mut outcomes = Vec::with_capacity(job.txs.len() - first);
    let mut executions = 0;
    let started = Instant::now();
    for tx in &job.txs[first..] {
        if gas_used.saturating_add(tx.gas_limit()) > job.block.gas_limit {
            break;
        }
        executions += 1;
        let result = run_tx(&mut evm, tx.to_env(), tx.effective_price(job.block.base_fee), job.block);
        match settle::<OverlayDb<'_>>(result) {
            Ok(mut executed) => {
                gas_used += executed.gas_used;
                let writes = std::mem::take(&mut executed.writes);
                evm.ctx.journaled_state.database.overlay.apply(writes, executed.reward);
                outcomes.push(Outcome::Executed(Box::new(executed)));
            }
            Err(reason) => outcomes.push(Outcome::Skipped(reason)),
        }
    }
    let busy_us = started.elapsed().as_micros() as u64;
    let stats = ExecStats { executions, threads: 1, busy_us, ..ExecStats::default() };
    let diff = evm.ctx.journaled_state.database.overlay.finish();
    BlockOutcome { outcomes, diff, gas_used, stats }
}

/// Splits what ran from what may not run now. A database that cannot fail leaves no third case.
pub fn settle<DB: Database>(result: Result<Executed, SiteError<DB>>) -> Result<Executed, String> {
    match result {
        Ok(executed) => Ok(executed),
        Err(EVMError::Transaction(invalid)) => Err(invalid.to_string()),
        Err(other) => Err(other.to_string()),
    }
}
