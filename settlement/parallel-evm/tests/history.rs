//! What a chain on disk holds after any sequence of blocks, compactions and restarts: the same as a chain in memory
//! that was never closed. PARALLEL_EVM_CASES and PARALLEL_EVM_SEED choose how many seeds are tried, and which.

mod common;

use common::{Random, account, config, seeds, signed_transfer, signers_genesis, waiting};
use parallel_evm::{blocks::Retention, chain::Chain, genesis::Genesis};
use std::{
    fs,
    path::{Path, PathBuf},
};

const SIGNERS: u64 = 3;

/// A directory that is gone when the test ends.
struct Directory(PathBuf);

impl Directory {
    fn new(seed: u64) -> Self {
        let path = std::env::temp_dir().join(format!("parallel-evm-history-{}-{seed}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn opened(genesis: &Genesis, retention: Retention, path: Option<&Path>) -> Chain {
    Chain::open_with(config(genesis), retention, genesis, path).expect("it opens")
}

fn assert_same(stored: &Chain, held: &Chain, seed: u64) {
    let (a, b) = (stored.head(), held.head());
    let (oldest, latest) = (b.blocks.oldest_number(), b.blocks.latest().number());
    assert_eq!((a.blocks.oldest_number(), a.blocks.latest().number()), (oldest, latest), "seed {seed}");
    for number in oldest..=latest {
        let (a, b) = (a.blocks.get(number).unwrap(), b.blocks.get(number).unwrap());
        assert_eq!((a.hash, &a.header, &a.receipts), (b.hash, &b.header, &b.receipts), "seed {seed}: block {number}");
        assert!(a.txs.iter().map(|tx| &tx.raw).eq(b.txs.iter().map(|tx| &tx.raw)), "seed {seed}: block {number}");
    }
    assert_eq!(a.blocks.ancestors(), b.blocks.ancestors(), "seed {seed}");
    drop((a, b));
    assert_eq!(waiting(stored), waiting(held), "seed {seed}");
}

fn numbers(path: &Path, prefix: &str) -> Vec<u64> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<u64> =
        names.filter_map(|name| name.strip_prefix(prefix)?.split('.').next()?.parse().ok()).collect();
    found.sort_unstable();
    found
}

/// Exactly the logs from which the state of both snapshots and the blocks that are held can be read.
fn assert_pruned(path: &Path, chain: &Chain, retention: Retention, begun: &[u64], seed: u64) {
    let (snapshots, logs) = (numbers(path, "state-"), numbers(path, "log-"));
    assert!((1..=2).contains(&snapshots.len()), "seed {seed}: {snapshots:?}");
    let oldest = chain.head().blocks.oldest_number();
    let wanted = |(at, _): &(usize, &u64)| match begun.get(at + 1) {
        Some(end) => retention.keep_logs || *end > snapshots[0] || *end >= oldest,
        None => true,
    };
    let wanted: Vec<u64> = begun.iter().enumerate().filter(wanted).map(|(_, number)| *number).collect();
    assert_eq!(logs, wanted, "seed {seed}: logs were begun at {begun:?}, snapshots {snapshots:?}, oldest {oldest}");
}

#[test]
fn a_restart_changes_nothing() {
    let genesis = signers_genesis(SIGNERS);
    for seed in seeds(60) {
        let mut random = Random::new(seed ^ 0x415);
        let retention = Retention {
            blocks: [1, 2, 5, 1_000][random.below(4)],
            txs: [1, 4, 12, 1_000][random.below(4)],
            keep_logs: random.below(4) == 0,
        };
        let directory = Directory::new(seed);
        let path = Some(directory.0.as_path());
        let held = opened(&genesis, retention, None);
        let mut stored = opened(&genesis, retention, path);
        // Where logs were begun, that no newer one of the same number replaced.
        let mut begun = vec![0];
        let mut nonces = [0; SIGNERS as usize];
        for _ in 0..random.below(60) {
            match random.below(10) {
                0..=3 => {
                    let sender = random.below(SIGNERS as usize);
                    // Sometimes ahead of what is next, so that it waits.
                    let nonce = nonces[sender] + u64::from(random.below(6) == 0);
                    nonces[sender] += u64::from(nonce == nonces[sender]);
                    let raw = signed_transfer(sender as u64, nonce, account(random.next() % 4), 1 + random.next() % 9);
                    let sent = [&held, &stored].map(|chain| chain.send_raw(&raw).ok());
                    assert_eq!(sent[0], sent[1], "seed {seed}");
                }
                4..=6 => {
                    let time = Some(held.head().blocks.latest().header.timestamp + 1);
                    let hashes = [&held, &stored].map(|chain| chain.produce_block(time).unwrap().hash);
                    assert_eq!(hashes[0], hashes[1], "seed {seed}");
                }
                7 | 8 => {
                    stored.compact().unwrap();
                    let head = held.head().blocks.latest().number();
                    begun.retain(|number| *number != head);
                    begun.push(head);
                    assert_pruned(&directory.0, &held, retention, &begun, seed);
                }
                _ => {
                    drop(stored);
                    stored = opened(&genesis, retention, path);
                    assert_same(&stored, &held, seed);
                }
            }
        }
        drop(stored);
        assert_same(&opened(&genesis, retention, path), &held, seed);
    }
}
