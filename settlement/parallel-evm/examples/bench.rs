//! Transactions per second from raw signed bytes to receipts and state root, for several thread counts.
//!
//! Usage: bench ARTIFACTS_DIR [--runs N] [--scale PERCENT] [--threads 1,2] [--json]
//! ARTIFACTS_DIR holds TestUSD.json and BatchSettlement.json. `rate` is the whole way, `exec` the executor alone
//! with senders known.

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, address, hex, keccak256};
use parallel_evm::{
    chain::{BlockStats, Chain, Config},
    ecrecover::recover_address,
    genesis::Genesis,
    tx::Envelope,
};
use revm::primitives::hardfork::SpecId;
use secp256k1::{Message, SECP256K1, SecretKey};
use serde_json::{Map, Value, json};
use std::time::Instant;

const CHAIN_ID: u64 = 31402;
const TOKEN: Address = address!("00000000000000000000000000000000000aaaaa");
const SETTLEMENT: Address = address!("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003");
const ROWS: u64 = 100;
const LANES: u64 = 8;

struct Key {
    secret: SecretKey,
    address: Address,
}

fn key(number: u64) -> Key {
    let secret = SecretKey::from_byte_array(keccak256(number.to_be_bytes()).0).expect("a valid key");
    let public = secret.public_key(SECP256K1).serialize_uncompressed();
    Key { secret, address: Address::from_slice(&keccak256(&public[1..])[12..]) }
}

fn sign(key: &Key, digest: &B256) -> ([u8; 64], u8) {
    let (id, rs) = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), &key.secret).serialize_compact();
    (rs, i32::from(id) as u8)
}

fn signed(key: &Key, nonce: u64, to: Address, gas_limit: u64, input: Vec<u8>) -> Vec<u8> {
    let tx = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit,
        max_fee_per_gas: 3_000_000_000,
        max_priority_fee_per_gas: 1,
        to: TxKind::Call(to),
        value: U256::ZERO,
        access_list: Default::default(),
        input: Bytes::from(input),
    };
    let (rs, recid) = sign(key, &tx.signature_hash());
    let signature = Signature::from_bytes_and_parity(&rs, recid == 1);
    Envelope::Eip1559(tx.into_signed(signature)).encoded_2718()
}

fn words(parts: &[U256]) -> Vec<u8> {
    parts.iter().flat_map(|word| word.to_be_bytes::<32>()).collect()
}

fn word(address: Address) -> U256 {
    U256::from_be_slice(address.as_slice())
}

/// Vyper's place of a mapping's value.
fn slot(base: U256, key: U256) -> U256 {
    keccak256(words(&[base, key])).into()
}

#[derive(Default)]
struct World {
    alloc: Map<String, Value>,
    storage: Map<String, Value>,
    settlement: Map<String, Value>,
}

impl World {
    fn fund(&mut self, account: Address) {
        self.alloc.insert(hex::encode(account), json!({"balance": "0xd3c21bcecceda1000000"}));
        let at = slot(U256::ZERO, word(account));
        self.storage.insert(format!("{at:#x}"), json!("0xffffffffffff"));
    }

    fn genesis(mut self, artifacts: &str) -> Genesis {
        let code = |name: &str| {
            let text = std::fs::read_to_string(format!("{artifacts}/{name}.json")).expect("artifact");
            serde_json::from_str::<Value>(&text).expect("JSON")["runtime"].clone()
        };
        let storage = (std::mem::take(&mut self.storage), std::mem::take(&mut self.settlement));
        self.alloc.insert(hex::encode(TOKEN), json!({"code": code("TestUSD"), "storage": storage.0}));
        self.alloc.insert(hex::encode(SETTLEMENT), json!({"code": code("BatchSettlement"), "storage": storage.1}));
        Genesis::parse(&json!({"alloc": self.alloc}).to_string()).expect("genesis")
    }
}

struct Case {
    name: &'static str,
    raws: Vec<Vec<u8>>,
    genesis: Genesis,
    /// Signatures inside the transactions: (digest, rs, recid, signer).
    inner: Vec<(B256, [u8; 64], u8, Address)>,
    primed: bool,
}

fn transfers(name: &'static str, artifacts: &str, count: u64, to: impl Fn(u64) -> Address) -> Case {
    let mut world = World::default();
    let raws = (0..count)
        .map(|index| {
            let sender = key(index);
            world.fund(sender.address);
            let mut data = hex!("a9059cbb").to_vec();
            data.extend(words(&[word(to(index)), U256::from(1)]));
            signed(&sender, 0, TOKEN, 100_000, data)
        })
        .collect();
    Case { name, raws, genesis: world.genesis(artifacts), inner: Vec::new(), primed: false }
}

fn typed(parts: &[B256]) -> B256 {
    keccak256(parts.iter().flat_map(|part| part.0).collect::<Vec<u8>>())
}

fn digest(hash: B256) -> B256 {
    let domain = typed(&[
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
        keccak256("x402 Batch Settlement"),
        keccak256("1"),
        U256::from(CHAIN_ID).into(),
        SETTLEMENT.into_word(),
    ]);
    keccak256([&[0x19, 0x01], domain.as_slice(), hash.as_slice()].concat())
}

const CONFIG: &str = "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)";

/// In which order the lanes' claims come: one of each in turn, or all of the first, then all of the second, …
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    InTurn,
    InOrder,
}

/// Claim transactions of 100 rows; `receiver` says who is paid by lane.
fn claims(name: &'static str, artifacts: &str, count: u64, order: Order, receiver: impl Fn(u64) -> Address) -> Case {
    let mut world = World::default();
    let mut inner = Vec::new();
    let authorizers: Vec<Key> = (0..64).map(|number| key(1_000_000 + number)).collect();
    let mut raws = Vec::new();
    let mut nonces = [0; LANES as usize];
    for index in 0..count {
        let number = if order == Order::InTurn { index % LANES } else { index * LANES / count };
        let lane = key(2_000_000 + number);
        world.fund(lane.address);
        let payee = receiver(number);
        let funded = slot(slot(U256::from(2), word(payee)), word(TOKEN));
        world.settlement.insert(format!("{funded:#x}"), json!("0x1"));
        let mut rows: Vec<Vec<u8>> = Vec::new();
        for row in 0..ROWS {
            let authorizer = &authorizers[(row % 64) as usize];
            let config = [
                word(key(3).address),
                word(authorizer.address),
                word(payee),
                word(lane.address),
                word(TOKEN),
                U256::from(86_400),
                U256::from(index * ROWS + row),
            ];
            let mut hashed = vec![keccak256(CONFIG)];
            hashed.extend(config.iter().map(|part| B256::from(*part)));
            let channel = digest(typed(&hashed));
            let amount = U256::from(500);
            let voucher =
                typed(&[keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)"), channel, amount.into()]);
            let voucher = digest(voucher);
            let (rs, recid) = sign(authorizer, &voucher);
            inner.push((voucher, rs, recid, authorizer.address));
            world.settlement.insert(format!("{:#x}", slot(U256::ZERO, channel.into())), json!("0xf4240"));
            let mut encoded = words(&config);
            encoded.extend(words(&[amount, U256::from(320), amount, U256::from(65)]));
            encoded.extend_from_slice(&rs);
            encoded.push(27 + recid);
            encoded.extend_from_slice(&[0; 31]);
            rows.push(encoded);
        }
        let mut data = hex!("29237b0c").to_vec();
        data.extend(words(&[U256::from(32), U256::from(ROWS)]));
        let mut offset = 32 * ROWS;
        for row in &rows {
            data.extend(words(&[U256::from(offset)]));
            offset += row.len() as u64;
        }
        rows.iter().for_each(|row| data.extend_from_slice(row));
        raws.push(signed(&lane, nonces[number as usize], SETTLEMENT, 6_000_000, data));
        nonces[number as usize] += 1;
    }
    Case { name, raws, genesis: world.genesis(artifacts), inner, primed: false }
}

struct Figure {
    seconds: f64,
    processor: f64,
    stats: BlockStats,
}

fn run(case: &Case, threads: usize) -> Figure {
    let config = Config {
        chain_id: CHAIN_ID,
        spec: SpecId::CANCUN,
        gas_limit: case.genesis.gas_limit,
        coinbase: Address::repeat_byte(0xfe),
        fixed_base_fee: true,
        auto_mine: false,
        dev: false,
        threads,
    };
    let chain = Chain::open(config, &case.genesis, None).expect("a chain in memory");
    if case.primed {
        for (digest, rs, recid, signer) in &case.inner {
            chain.recover.prime(digest, rs, *recid, *signer);
        }
    }
    let raws: Vec<&[u8]> = case.raws.iter().map(Vec::as_slice).collect();
    let (started, processor) = (Instant::now(), processor_seconds());
    for result in chain.send_raw_many(&raws) {
        result.expect("accepted");
    }
    let stats = chain.produce_block(None).expect("a block");
    let seconds = started.elapsed().as_secs_f64();
    let processor = processor_seconds() - processor;
    assert_eq!(stats.transactions, raws.len() as u64, "{}: all in one block", case.name);
    let head = chain.head();
    assert!(head.blocks.latest().receipts.iter().all(|receipt| receipt.success), "{}: all succeed", case.name);
    Figure { seconds, processor, stats }
}

/// Plain recoveries per second on this many threads.
fn bare_recovery(case: &Case, threads: usize) -> f64 {
    let started = Instant::now();
    let share = case.inner.len().div_ceil(threads);
    std::thread::scope(|scope| {
        for part in case.inner.chunks(share) {
            scope.spawn(move || {
                for (digest, rs, recid, signer) in part {
                    assert_eq!(recover_address(digest, rs, *recid), Some(*signer));
                }
            });
        }
    });
    case.inner.len() as f64 / started.elapsed().as_secs_f64()
}

/// Processor time of this process so far, all threads: what a busy machine cannot stretch.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

fn option(name: &str, default: &str) -> String {
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|arg| arg == name);
    at.and_then(|at| args.get(at + 1).cloned()).unwrap_or_else(|| default.to_string())
}

fn main() {
    let artifacts = std::env::args().nth(1).expect("usage: bench ARTIFACTS_DIR");
    let runs: usize = option("--runs", "3").parse().expect("a number");
    let scale: u64 = option("--scale", "100").parse().expect("a number");
    let only = option("--only", "");
    let threads: Vec<usize> =
        option("--threads", "1,2").split(',').map(|text| text.parse().expect("a number")).collect();
    let (plain, heavy) = (8_000 * scale / 100, 96 * scale / 100);
    // On a machine that others use too, the best run is the one that was disturbed least.
    let best = std::env::args().any(|arg| arg == "--best");
    let at = |runs: usize| if best { 0 } else { runs / 2 };
    let one = |_: u64| Address::repeat_byte(0x77);
    let own = |lane: u64| key(2_000_000 + lane).address;
    let cases = [
        transfers("transfers_free", &artifacts, plain, |n| key(5_000_000 + n).address),
        transfers("transfers_hot16", &artifacts, plain, |n| Address::with_last_byte(0x80 + (n % 16) as u8)),
        transfers("transfers_hot1", &artifacts, plain, |_| Address::repeat_byte(0x88)),
        transfers("transfers_chain", &artifacts, plain, |n| key(n + 1).address),
        claims("claims_lanes", &artifacts, heavy, Order::InTurn, own),
        claims("claims_in_order", &artifacts, heavy, Order::InOrder, own),
        claims("claims_one_receiver", &artifacts, heavy, Order::InTurn, one),
        Case { primed: true, ..claims("claims_primed", &artifacts, heavy, Order::InTurn, own) },
    ];
    println!(
        "{:<20} {:>7} {:>9} {:>6} {:>9} {:>6} {:>8} {:>8} {:>6} {:>7}",
        "case", "threads", "rate/s", "x", "exec/s", "x", "again", "root ms", "seq", "cpu us"
    );
    for case in cases.iter().filter(|case| case.name.contains(&only)) {
        let mut base: Option<(f64, f64)> = None;
        for threads in &threads {
            let mut figures: Vec<Figure> = (0..runs).map(|_| run(case, *threads)).collect();
            let processor: f64 = figures.iter().map(|figure| figure.processor).sum::<f64>() / runs as f64;
            figures.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
            let figure = &figures[at(runs)];
            let mut executions: Vec<u64> = figures.iter().map(|figure| figure.stats.execute_us).collect();
            executions.sort_unstable();
            let count = case.raws.len() as f64;
            let (rate, exec) = (count / figure.seconds, count * 1e6 / executions[at(runs)] as f64);
            let (rate1, exec1) = *base.get_or_insert((rate, exec));
            println!(
                "{:<20} {:>7} {:>9.0} {:>6.2} {:>9.0} {:>6.2} {:>8} {:>8.1} {:>6} {:>7.1}",
                case.name,
                threads,
                rate,
                rate / rate1,
                exec,
                exec / exec1,
                figure.stats.exec.reexecuted,
                figure.stats.root_us as f64 / 1e3,
                figure.stats.exec.fell_back,
                processor * 1e6 / count
            );
        }
        if !case.inner.is_empty() && !case.primed {
            for threads in &threads {
                println!(
                    "  bare recovery, {threads} threads: {:.0} rows/s (claims: {} rows each)",
                    bare_recovery(case, *threads),
                    ROWS
                );
            }
        }
    }
}
