//! Parallel execution equals sequential execution: outcomes, logs, gas, state and root, on any number of
//! threads, for random and for adversarial blocks. PARALLEL_EVM_CASES sets how many seeds are tried,
//! PARALLEL_EVM_SEED the first one.

mod common;

use alloy_primitives::{Address, TxKind, U256, hex};
use common::{Random, account, code, coinbase, context, contract, seeds, state, transfer_data, tx};
use parallel_evm::{
    ecrecover::RecoverCache,
    exec::{BlockContext, BlockOutcome, Job, Outcome, block_stm, parallel, sequential},
    roots::Tries,
    state::{Diff, State},
    tx::SignedTx,
};
use std::{collections::HashMap, sync::Arc};

const THREADS: [usize; 4] = [1, 2, 4, 8];

/// What kinds of transactions a block holds, and among how many accounts.
#[derive(Clone, Copy, Debug)]
struct Shape {
    txs: usize,
    senders: u64,
    receivers: u64,
    /// Chances in a hundred of: token transfer, counter, anything else by index.
    token: usize,
    hot: usize,
    block_gas: u64,
}

fn random_shape(random: &mut Random) -> Shape {
    Shape {
        txs: 1 + random.below(160),
        senders: [1, 2, 5, 40, 400][random.below(5)],
        receivers: [1, 2, 16, 400][random.below(4)],
        token: [0, 30, 70, 100][random.below(4)],
        hot: [0, 5, 50][random.below(3)],
        block_gas: [1_000_000_000, 1_000_000_000, 3_000_000, 400_000][random.below(4)],
    }
}

/// Nonces per sender, rising; now and then one is left out or repeated, and a sender is poor.
struct Senders(HashMap<u64, u64>);

impl Senders {
    fn nonce(&mut self, sender: u64, random: &mut Random) -> u64 {
        let next = self.0.entry(sender).or_default();
        match random.below(60) {
            0 => *next + 1,
            1 => next.saturating_sub(1),
            _ => {
                *next += 1;
                *next - 1
            }
        }
    }
}

fn random_tx(shape: &Shape, senders: &mut Senders, random: &mut Random) -> Arc<SignedTx> {
    let sender = random.next() % shape.senders;
    let nonce = senders.nonce(sender, random);
    let receiver = account(random.next() % shape.receivers);
    let tip = [0, 1, 1_000_000_000][random.below(3)];
    let from = account(sender);
    let kind = random.below(100);
    if kind < shape.token {
        let data = transfer_data(receiver, 1 + random.next() % 400);
        return tx(from, nonce, TxKind::Call(contract(0)), 0, data, 100_000, tip);
    }
    if kind < shape.token + shape.hot {
        return tx(from, nonce, TxKind::Call(contract(1)), 0, Vec::new(), 90_000, tip);
    }
    let init = hex::decode(code::INITS[random.below(code::INITS.len())]).unwrap();
    let (to, value, data) = match random.below(14) {
        0 => (TxKind::Call(receiver), 1 + random.next() % 1_000, Vec::new()),
        1 => (TxKind::Call(receiver), common::COIN as u64 / 2, Vec::new()),
        2 => (TxKind::Call(coinbase()), random.next() % 3, Vec::new()),
        3 => (TxKind::Create, random.next() % 3, init),
        4 => (TxKind::Call(contract(6)), random.next() % 3, init),
        5 => (TxKind::Call(contract(7)), random.next() % 3, init),
        6 => (TxKind::Call(contract(9)), 0, coinbase().into_word().to_vec()),
        7 => (TxKind::Call(contract(9)), 0, receiver.into_word().to_vec()),
        // A precompile, and an account that does not exist.
        8 => (TxKind::Call(Address::with_last_byte(2)), 0, vec![1, 2, 3]),
        9 => (TxKind::Call(account(9_000 + random.next() % 3)), random.next() % 2, Vec::new()),
        other => (TxKind::Call(contract(2 + (other - 10) % 7)), random.next() % 3, Vec::new()),
    };
    let gas = [30_000, 60_000, 120_000, 250_000][random.below(4)];
    tx(from, nonce, to, value, data, gas, tip)
}

/// What remains of a difference when entries that change nothing are left out.
fn effective(state: &State, diff: &Diff) -> Diff {
    Diff {
        infos: diff.infos.iter().filter(|(at, info)| state.info(at) != **info).map(|(at, info)| (*at, *info)).collect(),
        slots: diff
            .slots
            .iter()
            .filter(|(at, value)| state.slot(at) != **value)
            .map(|(at, value)| (*at, *value))
            .collect(),
        codes: diff
            .codes
            .iter()
            .filter(|(hash, _)| state.code(hash).is_none())
            .map(|(hash, code)| (*hash, code.clone()))
            .collect(),
    }
}

fn compare(state: &State, context: &BlockContext, txs: &[Arc<SignedTx>], what: &str) -> BlockOutcome {
    let recover = RecoverCache::default();
    let job = Job { state, block: context, txs, recover: &recover };
    let wanted = sequential::execute(&job);
    let (tries, _) = Tries::of(state, 1);
    let root = tries.clone().update(state, &wanted.diff, 1);
    let runs = THREADS.iter().map(|threads| (*threads, parallel::execute(&job, *threads)));
    let measured = [2, 4].iter().map(|threads| (*threads, block_stm::execute(&job, *threads)));
    for (threads, got) in runs.chain(measured) {
        assert_eq!(got.outcomes.len(), wanted.outcomes.len(), "{what}: {threads} threads: number of outcomes");
        for (index, (got, wanted)) in got.outcomes.iter().zip(&wanted.outcomes).enumerate() {
            assert!(got == wanted, "{what}: {threads} threads: transaction {index}");
        }
        assert_eq!(got.gas_used, wanted.gas_used, "{what}: {threads} threads: gas");
        let (got_diff, wanted_diff) = (effective(state, &got.diff), effective(state, &wanted.diff));
        assert!(got_diff == wanted_diff, "{what}: {threads} threads: state");
        assert_eq!(tries.clone().update(state, &got.diff, threads), root, "{what}: {threads} threads: root");
    }
    wanted
}

#[test]
fn random_blocks() {
    let (mut executed, mut skipped, mut failed) = (0, 0, 0);
    for seed in seeds(400) {
        let mut random = Random::new(seed);
        let shape = random_shape(&mut random);
        let state = state(shape.senders.max(40));
        let mut senders = Senders(HashMap::new());
        let txs: Vec<_> = (0..shape.txs).map(|_| random_tx(&shape, &mut senders, &mut random)).collect();
        let outcome = compare(&state, &context(shape.block_gas), &txs, &format!("seed {seed} {shape:?}"));
        for outcome in &outcome.outcomes {
            match outcome {
                Outcome::Executed(result) if result.success => executed += 1,
                Outcome::Executed(_) => failed += 1,
                Outcome::Skipped(_) => skipped += 1,
            }
        }
    }
    println!("executed {executed}, reverted or halted {failed}, skipped {skipped}");
    assert!(executed > 0 && failed > 0 && skipped > 0, "the generator reaches all outcomes");
}

/// Several blocks on top of each other, each state taken from the parallel executor.
#[test]
fn chains_of_blocks() {
    for seed in seeds(40) {
        let mut random = Random::new(seed ^ 0xc0ffee);
        let mut state = state(60);
        let mut nonces = Senders(HashMap::new());
        let shape = Shape { txs: 60, senders: 60, receivers: 60, token: 50, hot: 10, block_gas: 1_000_000_000 };
        for block in 0..4 {
            let txs: Vec<_> = (0..shape.txs).map(|_| random_tx(&shape, &mut nonces, &mut random)).collect();
            let outcome = compare(&state, &context(shape.block_gas), &txs, &format!("seed {seed} block {block}"));
            state.apply(&outcome.diff);
        }
    }
}

fn token_block(count: u64, from: impl Fn(u64) -> u64, to: impl Fn(u64) -> u64) -> Vec<Arc<SignedTx>> {
    let mut nonces: HashMap<u64, u64> = HashMap::new();
    (0..count)
        .map(|index| {
            let sender = from(index);
            let nonce = nonces.entry(sender).or_default();
            *nonce += 1;
            let data = transfer_data(account(to(index)), 1);
            tx(account(sender), *nonce - 1, TxKind::Call(contract(0)), 0, data, 100_000, 1)
        })
        .collect()
}

#[test]
fn named_shapes() {
    let state = state(2_000);
    let context = context(1_000_000_000);
    let blocks = [
        ("disjoint", token_block(600, |n| n, |n| 1_000 + n)),
        ("sixteen hot receivers", token_block(600, |n| n, |n| 1_000 + n % 16)),
        ("one hot receiver", token_block(600, |n| n, |_| 1_000)),
        ("one sender, many nonces", token_block(600, |_| 1, |n| 1_000 + n)),
        ("dependent chain", token_block(600, |n| n, |n| n + 1)),
        ("eight senders in turn", token_block(600, |n| n % 8, |n| 1_000 + n)),
    ];
    for (name, txs) in blocks {
        let outcome = compare(&state, &context, &txs, name);
        assert_eq!(outcome.outcomes.len(), 600);
        assert!(
            outcome.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Executed(result) if result.success)),
            "{name}"
        );
    }
}

/// What disjoint transactions must not do: conflict.
#[test]
fn disjoint_blocks_never_reexecute() {
    let state = state(2_000);
    let context = context(1_000_000_000);
    let recover = RecoverCache::default();
    let txs = token_block(900, |n| n, |n| 1_000 + n);
    let job = Job { state: &state, block: &context, txs: &txs, recover: &recover };
    for threads in [2, 4, 8] {
        let outcome = parallel::execute(&job, threads);
        assert_eq!((outcome.stats.reexecuted, outcome.stats.fell_back), (0, false), "{threads} threads");
    }
}

/// A transaction that reads the fee recipient's balance sees what all earlier ones paid.
#[test]
fn fee_recipient_is_exact() {
    let state = state(300);
    let mut txs = token_block(200, |n| n, |n| n + 1);
    let reader = tx(account(250), 0, TxKind::Call(contract(2)), 0, Vec::new(), 100_000, 5);
    txs.insert(150, reader);
    let outcome = compare(&state, &context(1_000_000_000), &txs, "fee recipient");
    let paid: U256 = outcome.outcomes[..150]
        .iter()
        .map(|outcome| match outcome {
            Outcome::Executed(result) => result.reward,
            Outcome::Skipped(_) => U256::ZERO,
        })
        .fold(U256::ZERO, |sum, reward| sum + reward);
    let word = U256::from_be_slice(account(250).as_slice());
    assert_eq!(outcome.diff.slots.get(&(contract(2), word)), Some(&paid));
}
