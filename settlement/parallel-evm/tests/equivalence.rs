//! Parallel execution equals sequential execution: outcomes, logs, gas, state and root, on 1, 2, 4 and 8 threads,
//! for random and for adversarial blocks, with the threads running free and in drawn schedules.
//! PARALLEL_EVM_CASES sets how many seeds are tried, PARALLEL_EVM_SEED the first one.

mod common;

use alloy_primitives::{Address, TxKind, U256};
use common::{
    Random, account,
    blocks::{AMPLE, KINDS, Maker, Shape, world},
    context, contract, seeds, state, transfer_data,
    turns::Turns,
    tx,
};
use parallel_evm::{
    ecrecover::RecoverCache,
    exec::{BlockContext, BlockOutcome, ExecStats, Job, Outcome, block_stm, parallel, sequential},
    roots::Tries,
    state::{Diff, State},
    tx::SignedTx,
};
use std::{cell::Cell, collections::HashMap, sync::Arc};

const THREADS: [usize; 4] = [1, 2, 4, 8];

/// Says how to repeat a case that fails, also when the executor itself panics.
struct Replay<'a> {
    test: &'a str,
    seed: u64,
    what: String,
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { test, seed, what } = self;
            eprintln!("seed {seed} failed: {what}");
            eprintln!(
                "again: PARALLEL_EVM_SEED={seed} PARALLEL_EVM_CASES=1 cargo test --release --test equivalence {test}"
            );
        }
    }
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

/// A state with its tries, to execute blocks on.
struct Ground {
    state: State,
    tries: Tries,
    /// Runs in turns: all of them, those that repeated something, those that gave speculation up.
    runs: [Cell<u64>; 3],
}

impl Ground {
    fn of(state: State) -> Self {
        let (tries, _) = Tries::of(&state, 1);
        Self { state, tries, runs: Default::default() }
    }

    /// Executes a block in every way, with schedules drawn from the seed, and returns what all came to.
    fn compare(&self, context: &BlockContext, txs: &[Arc<SignedTx>], seed: u64, what: &str) -> BlockOutcome {
        let recover = RecoverCache::default();
        let job = Job { state: &self.state, block: context, txs, recover: &recover };
        let wanted = sequential::execute(&job);
        let wanted_diff = effective(&self.state, &wanted.diff);
        let root = self.tries.clone().update(&self.state, &wanted.diff, 1);
        let check = |name: &str, threads: usize, got: BlockOutcome| {
            let at = format!("{what}: {name}, {threads} threads");
            assert_eq!(got.outcomes.len(), wanted.outcomes.len(), "{at}: number of outcomes");
            for (index, (got, wanted)) in got.outcomes.iter().zip(&wanted.outcomes).enumerate() {
                assert!(got == wanted, "{at}: transaction {index}: {got:?} instead of {wanted:?}");
            }
            assert_eq!(got.gas_used, wanted.gas_used, "{at}: gas");
            let got_diff = effective(&self.state, &got.diff);
            assert!(got_diff == wanted_diff, "{at}: state: {got_diff:?} instead of {wanted_diff:?}");
            assert_eq!(self.tries.clone().update(&self.state, &got.diff, threads), root, "{at}: root");
        };
        for threads in THREADS {
            check("free", threads, parallel::execute(&job, threads));
            let turns = Turns::new(seed ^ (threads as u64) << 56);
            let got = parallel::speculate_at(&job, threads, &turns);
            let counts = [true, got.stats.reexecuted > 0, got.stats.fell_back];
            self.runs.iter().zip(counts).for_each(|(runs, counts)| runs.set(runs.get() + u64::from(counts)));
            check("in turns", threads, got);
        }
        check("block-stm", 2, block_stm::execute(&job, 2));
        wanted
    }
}

#[test]
fn random_blocks() {
    let ground = Ground::of(world());
    let mut counts = HashMap::new();
    for seed in seeds(4_000) {
        let mut random = Random::new(seed);
        let shape = Shape::of(seed, &mut random);
        let _replay = Replay { test: "random_blocks", seed, what: format!("{shape:?}") };
        let txs = Maker::default().block(&shape, &mut random);
        let outcome = ground.compare(&context(shape.block_gas), &txs, seed, &format!("seed {seed}"));
        let count: &mut [u64; 4] = counts.entry(format!("{:?}", shape.kind)).or_default();
        for outcome in &outcome.outcomes {
            match outcome {
                Outcome::Executed(result) if result.success => count[0] += 1,
                Outcome::Executed(_) => count[1] += 1,
                Outcome::Skipped(_) => count[2] += 1,
            }
        }
        count[3] += (txs.len() - outcome.outcomes.len()) as u64;
    }
    println!("by prevailing kind: [executed, reverted or halted, skipped, beyond the block's gas]");
    counts.iter().for_each(|(kind, count)| println!("{kind}: {count:?}"));
    let [runs, repeated, gave_up] = ground.runs.each_ref().map(Cell::get);
    println!("in turns: {runs} runs, {repeated} repeated something, {gave_up} gave speculation up");
    if runs > 1_000 {
        assert!(repeated > runs / 20 && gave_up > runs / 400, "the schedules reach what they should");
        assert_eq!(counts.len(), KINDS.len(), "all kinds are reached");
        for at in 0..4 {
            assert!(counts.values().any(|count| count[at] > 0), "the generator reaches all outcomes: {counts:?}");
        }
    }
}

/// Several blocks on top of each other, each state taken from the parallel executor.
#[test]
fn chains_of_blocks() {
    for seed in seeds(150) {
        let mut random = Random::new(seed ^ 0x00c0_ffee);
        let mut ground = Ground::of(world());
        let mut maker = Maker::default();
        for block in 0..4 {
            let shape = Shape::of(seed + block, &mut random).whole();
            let _replay = Replay { test: "chains_of_blocks", seed, what: format!("block {block}: {shape:?}") };
            let txs = maker.block(&shape, &mut random);
            let context = context(shape.block_gas);
            ground.compare(&context, &txs, seed, &format!("seed {seed} block {block}"));
            let recover = RecoverCache::default();
            let job = Job { state: &ground.state, block: &context, txs: &txs, recover: &recover };
            let diff = parallel::speculate_at(&job, 4, &Turns::new(seed)).diff;
            ground.tries.update(&ground.state, &diff, 1);
            ground.state.apply(&diff);
        }
    }
}

/// Transactions of a contract by (sender, data), with rising nonces.
fn calls(to: Address, gas: u64, calls: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Vec<Arc<SignedTx>> {
    let mut nonces: HashMap<u64, u64> = HashMap::new();
    calls
        .into_iter()
        .map(|(sender, data)| {
            let nonce = nonces.entry(sender).or_default();
            *nonce += 1;
            tx(account(sender), *nonce - 1, TxKind::Call(to), 0, data, gas, 1)
        })
        .collect()
}

fn token_block(count: u64, from: impl Fn(u64) -> u64, to: impl Fn(u64) -> u64) -> Vec<Arc<SignedTx>> {
    calls(contract(0), 100_000, (0..count).map(|n| (from(n), transfer_data(account(to(n)), 1))))
}

#[test]
fn named_shapes() {
    let ground = Ground::of(state(2_000));
    let context = context(AMPLE);
    let blocks = [
        ("disjoint", token_block(600, |n| n, |n| 1_000 + n)),
        ("sixteen hot receivers", token_block(600, |n| n, |n| 1_000 + n % 16)),
        ("one hot receiver", token_block(600, |n| n, |_| 1_000)),
        ("one sender, many nonces", token_block(600, |_| 1, |n| 1_000 + n)),
        ("dependent chain", token_block(600, |n| n, |n| n + 1)),
        ("eight senders in turn", token_block(600, |n| n % 8, |n| 1_000 + n)),
        ("eight senders in order", token_block(600, |n| n / 75, |n| 1_000 + n)),
    ];
    for (seed, (name, txs)) in (0..).zip(blocks) {
        let outcome = ground.compare(&context, &txs, seed, name);
        assert_eq!(outcome.outcomes.len(), 600);
        assert!(
            outcome.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Executed(result) if result.success)),
            "{name}"
        );
    }
}

fn run(state: &State, txs: &[Arc<SignedTx>], threads: usize, seed: u64) -> ExecStats {
    let (context, recover) = (context(AMPLE), RecoverCache::default());
    let job = Job { state, block: &context, txs, recover: &recover };
    let outcome = parallel::speculate_at(&job, threads, &Turns::new(seed));
    assert_eq!(outcome.outcomes.len(), txs.len());
    outcome.stats
}

/// Claims over lanes, each with a payee of its own, in any order and any schedule: nothing is repeated.
#[test]
fn lanes_never_repeat() {
    let state = world();
    for seed in seeds(600) {
        let _replay = Replay { test: "lanes_never_repeat", seed, what: String::new() };
        let mut random = Random::new(seed ^ 0x001a_9e50);
        let lanes = 1 + random.next() % 9;
        let count = 1 + random.next() % 64;
        let order = random.below(3);
        let sender = |n: u64, random: &mut Random| match order {
            0 => n % lanes,
            1 => n * lanes / count,
            _ => random.next() % lanes,
        };
        let claims = (0..count).map(|n| {
            let sender = sender(n, &mut random);
            (sender, transfer_data(account(sender), 5))
        });
        let txs = calls(contract(10), [120_000, 600_000, 1_500_000][(seed % 3) as usize], claims);
        for threads in THREADS {
            let stats = run(&state, &txs, threads, seed);
            assert_eq!((stats.reexecuted, stats.aborted), (0, 0), "{threads} threads, {lanes} lanes: {stats:?}");
            assert!(stats.fell_back || stats.executions == count, "{stats:?}");
        }
    }
}

/// The same claims for one payee: each is repeated but the first, whatever the schedule.
#[test]
fn one_receiver_repeats_all_but_the_first() {
    let state = world();
    for seed in seeds(200) {
        let _replay = Replay { test: "one_receiver_repeats_all_but_the_first", seed, what: String::new() };
        let lanes = 2 + seed % 7;
        // Fewer than it takes to think speculation over; a chunk holds one of them.
        let count = lanes + seed % 20;
        let txs = calls(contract(10), 1_500_000, (0..count).map(|n| (n % lanes, transfer_data(account(30), 5))));
        for threads in [2, 4, 8] {
            let stats = run(&state, &txs, threads, seed);
            assert_eq!((stats.reexecuted, stats.aborted), (count - 1, count - 1), "{threads} threads, {lanes} lanes");
            assert_eq!(stats.executions, 2 * count - 1);
        }
    }
}

/// A seed stands for one schedule, so that what it shows can be repeated.
#[test]
fn schedules_are_repeatable() {
    let state = world();
    for seed in seeds(100) {
        let _replay = Replay { test: "schedules_are_repeatable", seed, what: String::new() };
        let mut random = Random::new(seed);
        let txs = Maker::default().block(&Shape::of(seed, &mut random).whole(), &mut random);
        let stats = || ExecStats { busy_us: 0, ..run(&state, &txs, 4, seed) };
        assert_eq!(stats(), stats());
    }
}

/// Senders that share nothing repeat nothing, with threads that run free.
#[test]
fn disjoint_blocks_never_reexecute() {
    let state = state(2_000);
    let context = context(AMPLE);
    let recover = RecoverCache::default();
    let txs = token_block(900, |n| n, |n| 1_000 + n);
    let job = Job { state: &state, block: &context, txs: &txs, recover: &recover };
    for threads in [2, 4, 8] {
        let outcome = parallel::execute(&job, threads);
        assert_eq!((outcome.stats.reexecuted, outcome.stats.aborted), (0, 0), "{threads} threads");
    }
}

/// A transaction that reads the fee recipient's balance sees what all earlier ones paid.
#[test]
fn fee_recipient_is_exact() {
    let ground = Ground::of(state(300));
    let mut txs = token_block(200, |n| n, |n| n + 1);
    let reader = tx(account(250), 0, TxKind::Call(contract(2)), 0, Vec::new(), 100_000, 5);
    txs.insert(150, reader);
    let outcome = ground.compare(&context(AMPLE), &txs, 1, "fee recipient");
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
