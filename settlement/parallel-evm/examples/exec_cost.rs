//! What speculation costs in processor time: the same block sequentially, and with its bookkeeping on one thread
//! and on more. Processor time needs no quiet machine. Usage: exec_cost [RUNS [NAME]]; only rows with that
//! name, as in "free: one thread".

#[path = "../tests/common/mod.rs"]
mod common;

use alloy_primitives::TxKind;
use common::{account, context, contract, state, transfer_data, tx};
use parallel_evm::{
    ecrecover::RecoverCache,
    exec::{BlockOutcome, Job, block_stm, parallel, sequential},
    tx::SignedTx,
};
use std::{collections::HashMap, sync::Arc, time::Instant};

fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

/// One transfer of the token per transaction: who pays whom, by its place in the block.
struct Case {
    name: &'static str,
    from: fn(u64) -> u64,
    to: fn(u64) -> u64,
}

const TXS: u64 = 4_000;

const CASES: [Case; 8] = [
    Case { name: "free", from: |n| n, to: |n| TXS + n },
    Case { name: "hot400", from: |n| n, to: |n| TXS + (n * 7_919) % 400 },
    Case { name: "hot16", from: |n| n, to: |n| TXS + n % 16 },
    Case { name: "hot1", from: |n| n, to: |_| TXS },
    Case { name: "chain", from: |n| n, to: |n| n + 1 },
    Case { name: "8 lanes in turn", from: |n| n % 8, to: |n| TXS + n },
    Case { name: "8 lanes in order", from: |n| n * 8 / TXS, to: |n| TXS + n },
    Case { name: "one sender", from: |_| 0, to: |n| TXS + n },
];

impl Case {
    fn txs(&self) -> Vec<Arc<SignedTx>> {
        let mut nonces: HashMap<u64, u64> = HashMap::new();
        let mut transfer = |n| {
            let nonce = nonces.entry((self.from)(n)).or_default();
            *nonce += 1;
            let data = transfer_data(account((self.to)(n)), 1);
            tx(account((self.from)(n)), *nonce - 1, TxKind::Call(contract(0)), 0, data, 100_000, 1)
        };
        (0..TXS).map(&mut transfer).collect()
    }
}

fn main() {
    let runs: u64 = std::env::args().nth(1).map_or(60, |text| text.parse().expect("a number of runs"));
    let only = std::env::args().nth(2).unwrap_or_default();
    let (state, context, recover) = (state(2 * TXS), context(1_000_000_000), RecoverCache::default());
    println!(
        "{:<16} {:<12} {:>9} {:>10} {:>9} {:>6} {:>5}",
        "block", "executor", "cpu us/tx", "wall us/tx", "best wall", "again", "seq"
    );
    for case in CASES {
        let txs = case.txs();
        let job = Job { state: &state, block: &context, txs: &txs, recover: &recover };
        let modes: [(&str, &dyn Fn() -> BlockOutcome); 6] = [
            ("sequential", &|| sequential::execute(&job)),
            ("one thread", &|| parallel::speculate(&job, 1)),
            ("two threads", &|| parallel::execute(&job, 2)),
            ("four threads", &|| parallel::execute(&job, 4)),
            ("stm, one", &|| block_stm::execute(&job, 1)),
            ("stm, two", &|| block_stm::execute(&job, 2)),
        ];
        for (mode, execute) in modes {
            if !format!("{}: {mode}", case.name).contains(&only) {
                continue;
            }
            let (mut walls, mut again, mut fell_back) = (Vec::new(), 0, 0);
            let started = processor_seconds();
            for _ in 0..runs {
                let run = Instant::now();
                let stats = execute().stats;
                walls.push(run.elapsed().as_secs_f64() * 1e6 / TXS as f64);
                again += stats.reexecuted;
                fell_back += u64::from(stats.fell_back);
            }
            let spent = (processor_seconds() - started) * 1e6 / (runs * TXS) as f64;
            walls.sort_by(f64::total_cmp);
            println!(
                "{:<16} {:<12} {spent:>9.2} {:>10.2} {:>9.2} {:>6} {:>4}%",
                case.name,
                mode,
                walls[walls.len() / 2],
                walls[0],
                again / runs,
                fell_back * 100 / runs
            );
        }
    }
}
