//! What speculation costs in processor time: the same block sequentially, and with its bookkeeping on one
//! and on two threads. Needs no quiet machine.

#[path = "../tests/common/mod.rs"]
mod common;

use alloy_primitives::TxKind;
use common::{account, context, contract, state, transfer_data, tx};
use parallel_evm::{
    ecrecover::RecoverCache,
    exec::{BlockOutcome, Job, block_stm, parallel, sequential},
};

fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

fn main() {
    const TXS: u64 = 4_000;
    let runs = 60;
    let (state, context, recover) = (state(2 * TXS), context(1_000_000_000), RecoverCache::default());
    for (name, receivers) in [("free", TXS), ("hot16", 16), ("hot1", 1)] {
        let txs: Vec<_> = (0..TXS)
            .map(|n| {
                let data = transfer_data(account(TXS + n % receivers), 1);
                tx(account(n), 0, TxKind::Call(contract(0)), 0, data, 100_000, 1)
            })
            .collect();
        let job = Job { state: &state, block: &context, txs: &txs, recover: &recover };
        let modes: [(&str, &dyn Fn() -> BlockOutcome); 5] = [
            ("sequential", &|| sequential::execute(&job)),
            ("one thread", &|| parallel::speculate(&job, 1)),
            ("two threads", &|| parallel::speculate(&job, 2)),
            ("stm, one", &|| block_stm::execute(&job, 1)),
            ("stm, two", &|| block_stm::execute(&job, 2)),
        ];
        for (mode, execute) in modes {
            let started = processor_seconds();
            let (mut again, mut best) = (0, f64::MAX);
            for _ in 0..runs {
                let run = std::time::Instant::now();
                again += execute().stats.reexecuted;
                best = best.min(run.elapsed().as_secs_f64());
            }
            let spent = processor_seconds() - started;
            let (cpu, wall) = (spent * 1e6 / (runs * TXS) as f64, best * 1e6 / TXS as f64);
            println!("{name:<6} {mode:<12} cpu {cpu:>5.2} us/tx, best wall {wall:>5.2} us/tx, again {}", again / runs);
        }
    }
}
