//! Seeded fuzzing of what outsiders can reach: the transaction decoder, the JSON-RPC parser, stored bytes.
//! PARALLEL_EVM_CASES and PARALLEL_EVM_SEED choose how many inputs are tried, and which.

mod common;

use alloy_consensus::{SignableTransaction, TxEip1559, TxEip2930, TxLegacy};
use alloy_eips::{
    eip2718::Encodable2718,
    eip2930::{AccessList, AccessListItem},
};
use alloy_primitives::{Address, B256, Signature, TxKind, U256, hex, map::B256Map};
use common::{Random, account, contract, seeds};
use parallel_evm::{
    chain::Chain,
    genesis::Genesis,
    rpc::{self, Filters},
    store::codec,
    tx::{Envelope, RAW_BYTES_MAX, SignedTx},
};
use secp256k1::{Message, SECP256K1, SecretKey};
use serde_json::{Value, json};

fn sign(hash: B256) -> Signature {
    let secret = SecretKey::from_byte_array([9; 32]).unwrap();
    let (id, rs) = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(hash.0), &secret).serialize_compact();
    Signature::from_bytes_and_parity(&rs, i32::from(id) == 1)
}

fn valid(kind: usize) -> Vec<u8> {
    let list = AccessList(vec![AccessListItem { address: account(1), storage_keys: vec![B256::ZERO; 2] }]);
    let to = TxKind::Call(account(2));
    let (value, input) = (U256::from(5), vec![1, 2, 3, 0, 0].into());
    let envelope = match kind {
        0 => {
            let tx = TxLegacy { chain_id: Some(31402), nonce: 0, gas_price: 9, gas_limit: 30_000, to, value, input };
            let signature = sign(tx.signature_hash());
            Envelope::Legacy(tx.into_signed(signature))
        }
        1 => {
            let tx = TxEip2930 {
                chain_id: 31402,
                nonce: 1,
                gas_price: 9,
                gas_limit: 40_000,
                to,
                value,
                access_list: list,
                input,
            };
            let signature = sign(tx.signature_hash());
            Envelope::Eip2930(tx.into_signed(signature))
        }
        _ => {
            let tx = TxEip1559 {
                chain_id: 31402,
                nonce: 2,
                gas_limit: 50_000,
                max_fee_per_gas: 9,
                max_priority_fee_per_gas: 1,
                to: TxKind::Create,
                value,
                access_list: list,
                input,
            };
            let signature = sign(tx.signature_hash());
            Envelope::Eip1559(tx.into_signed(signature))
        }
    };
    envelope.encoded_2718()
}

/// A few bytes changed, removed, doubled, or the end cut off.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0, 0x7f, 0x80, 0xb8, 0xbf, 0xc0, 0xf7, 0xf8, 0xff][random.below(9)],
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, random.next() as u8),
            4 => bytes.truncate(at),
            _ => {
                let copy = bytes[at..].to_vec();
                bytes.extend_from_slice(&copy);
            }
        }
    }
}

#[test]
fn valid_transactions_decode_to_their_sender() {
    let senders: Vec<Address> = (0..3).map(|kind| SignedTx::decode(&valid(kind), 31402).unwrap().sender).collect();
    assert!(senders.iter().all(|sender| *sender == senders[0]));
}

#[test]
fn random_bytes_are_never_transactions() {
    for seed in seeds(10_000) {
        let mut random = Random::new(seed);
        let length = [0, 1, 2, 40, 120, 300][random.below(6)];
        let mut raw: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        if let Some(first) = raw.first_mut() {
            *first = [*first, 1, 2, 0xf8, 0xc0][random.below(5)];
        }
        assert!(SignedTx::decode(&raw, 31402).is_err(), "seed {seed}");
    }
    assert!(SignedTx::decode(&vec![0xf9; RAW_BYTES_MAX + 1], 31402).is_err());
}

/// A mutated transaction is refused, or it is a different one that is encoded exactly so.
#[test]
fn mutated_transactions_are_refused_or_exact() {
    let mut accepted = 0;
    for seed in seeds(10_000) {
        let mut random = Random::new(seed ^ 0xbad);
        let mut raw = valid(random.below(3));
        let sender = SignedTx::decode(&raw, 31402).unwrap().sender;
        let before = raw.clone();
        mutate(&mut raw, &mut random);
        if raw == before {
            continue;
        }
        if let Ok(tx) = SignedTx::decode(&raw, 31402) {
            accepted += 1;
            assert_ne!(tx.sender, sender, "seed {seed}: the signature does not cover the change");
            assert_eq!(tx.envelope.encoded_2718(), raw, "seed {seed}: two encodings of one transaction");
        }
    }
    println!("{accepted} mutations were transactions of somebody else");
}

fn chain() -> Chain {
    let alloc = json!({
        hex::encode(account(0)): {"balance": "0xde0b6b3a7640000"},
        hex::encode(contract(1)): {"code": common::code::COUNTER, "storage": {"0x00": "0x07"}},
        hex::encode(contract(4)): {"code": common::code::BURNER},
    });
    let genesis = Genesis::parse(&json!({"alloc": alloc}).to_string()).unwrap();
    let chain = Chain::open(common::config(&genesis), &genesis, None).unwrap();
    for _ in 0..3 {
        chain.produce_block(None).unwrap();
    }
    chain
}

const METHODS: [&str; 32] = [
    "eth_chainId",
    "eth_blockNumber",
    "eth_getBlockByNumber",
    "eth_getBlockByHash",
    "eth_getTransactionByHash",
    "eth_getTransactionReceipt",
    "eth_getBlockReceipts",
    "eth_getTransactionCount",
    "eth_getBalance",
    "eth_getCode",
    "eth_getStorageAt",
    "eth_call",
    "eth_estimateGas",
    "eth_createAccessList",
    "eth_gasPrice",
    "eth_maxPriorityFeePerGas",
    "eth_feeHistory",
    "eth_sendRawTransaction",
    "eth_getLogs",
    "eth_newFilter",
    "eth_newBlockFilter",
    "eth_newPendingTransactionFilter",
    "eth_getFilterChanges",
    "eth_getFilterLogs",
    "eth_uninstallFilter",
    "eth_accounts",
    "eth_syncing",
    "net_version",
    "web3_sha3",
    "evm_mine",
    "evm_revert",
    "eth_getTransactionByBlockNumberAndIndex",
];

fn value(random: &mut Random, depth: usize) -> Value {
    let keys = [
        "to",
        "from",
        "data",
        "input",
        "value",
        "gas",
        "gasPrice",
        "maxFeePerGas",
        "maxPriorityFeePerGas",
        "nonce",
        "accessList",
        "address",
        "topics",
        "fromBlock",
        "toBlock",
        "blockHash",
        "blockNumber",
        "balance",
        "code",
        "stateDiff",
        "storageKeys",
    ];
    match random.below(if depth > 3 { 9 } else { 12 }) {
        0 => Value::Null,
        1 => json!(random.below(2) == 0),
        2 => json!(random.next()),
        3 => json!(-1.5),
        4 => json!(
            ["latest", "pending", "earliest", "safe", "0x0", "0x2", "0xffffffffffffffff", "0x", "zz", ""]
                [random.below(10)]
        ),
        5 => json!(format!("{:#x}", account(random.next() % 2))),
        6 => json!(hex::encode_prefixed(contract([1, 4][random.below(2)]))),
        7 => json!(format!("0x{}", "ab".repeat(random.below(40)))),
        8 => json!(hex::encode_prefixed(U256::MAX.to_be_bytes::<32>())),
        9 => Value::Array((0..random.below(4)).map(|_| value(random, depth + 1)).collect()),
        _ => {
            let fields = random.below(6);
            (0..fields).map(|_| (keys[random.below(keys.len())].to_string(), value(random, depth + 1))).collect()
        }
    }
}

/// Whatever the body, the answer is JSON, and nothing has changed.
#[test]
fn rpc_bodies_change_nothing() {
    let (chain, filters) = (chain(), Filters::default());
    let root = chain.head().blocks.latest().header.state_root;
    let (mut answered, cases) = (0, seeds(6_000));
    for seed in cases.clone() {
        let mut random = Random::new(seed ^ 0x4bc);
        let params: Vec<Value> = (0..random.below(4)).map(|_| value(&mut random, 0)).collect();
        let method = METHODS[random.below(METHODS.len())];
        // Endless loops are tried elsewhere: here they would only burn time.
        let mut body =
            json!({"jsonrpc": "2.0", "id": seed, "method": method, "params": params}).to_string().into_bytes();
        if random.below(3) == 0 {
            mutate(&mut body, &mut random);
        }
        if random.below(40) == 0 {
            body = (0..random.below(200)).map(|_| random.next() as u8).collect();
        }
        let answer = rpc::handle(&chain, &filters, &body);
        if answer.is_empty() {
            continue;
        }
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_else(|_| panic!("seed {seed}: not JSON"));
        answered += usize::from(answer.get("result").is_some());
    }
    assert!(answered > cases.count() / 8, "only {answered} requests were good ones");
    let head = chain.head();
    assert_eq!((head.blocks.latest().number(), head.blocks.latest().header.state_root), (3, root));
    drop(head);
    assert!(chain.pool().is_empty());
}

/// One request of a batch: a transaction, good, known, mutated or no hex; a read; a notification; no request at all.
fn batch_part(random: &mut Random, raws: &[Vec<u8>]) -> Value {
    let mut raw = raws[random.below(raws.len())].clone();
    let (method, params) = match random.below(8) {
        0..=3 => {
            if random.below(4) == 0 {
                mutate(&mut raw, random);
            }
            ("eth_sendRawTransaction", json!([hex::encode_prefixed(&raw)]))
        }
        4 => ("eth_sendRawTransaction", value(random, 2)),
        5 => ("eth_getTransactionCount", json!([hex::encode_prefixed(common::signer(random.next() % 2).1), "pending"])),
        6 => (METHODS[random.below(METHODS.len())], (0..random.below(3)).map(|_| value(random, 0)).collect()),
        _ => return value(random, 1),
    };
    let mut request = json!({"jsonrpc": "2.0", "id": random.below(9), "method": method, "params": params});
    match random.below(12) {
        0 => request["id"] = [json!("a"), Value::Null, json!([])][random.below(3)].clone(),
        1 => request["jsonrpc"] = json!("1.0"),
        2 | 3 => drop(request.as_object_mut().and_then(|fields| fields.remove("id"))),
        _ => {}
    }
    request
}

fn answered(chain: &Chain, filters: &Filters, body: &Value) -> Option<Value> {
    let answer = rpc::handle(chain, filters, body.to_string().as_bytes());
    (!answer.is_empty()).then(|| serde_json::from_slice(&answer).expect("JSON"))
}

/// A batch is answered as its requests are by themselves, one after the other, and leaves the same behind.
#[test]
fn batches_are_answered_as_single_requests_are() {
    let genesis = common::signers_genesis(2);
    let chain = || (Chain::open(common::config(&genesis), &genesis, None).unwrap(), Filters::default());
    let no_request =
        json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "a request is a JSON object"}});
    let (mut taken_in, cases) = (0, seeds(1_000));
    for seed in cases.clone() {
        let mut random = Random::new(seed ^ 0xba7c);
        let raws: Vec<Vec<u8>> = (0..8)
            .map(|at| common::signed_transfer(at % 2, random.next() % 5, account(at), random.next() % 9))
            .collect();
        let parts: Vec<Value> = (0..1 + random.below(40)).map(|_| batch_part(&mut random, &raws)).collect();
        let ((together, its_filters), (single, filters)) = (chain(), chain());
        let answers = answered(&together, &its_filters, &json!(parts));
        let wanted: Vec<Value> = parts
            .iter()
            .filter_map(|part| match part {
                Value::Array(_) => Some(no_request.clone()),
                part => answered(&single, &filters, part),
            })
            .collect();
        assert_eq!(answers, (!wanted.is_empty()).then(|| json!(wanted)), "seed {seed}");
        assert_eq!(common::waiting(&together), common::waiting(&single), "seed {seed}");
        taken_in += together.pool().len();
    }
    assert!(taken_in > cases.count(), "only {taken_in} transactions were good ones");
}

#[test]
fn stored_bytes_are_refused_without_panic() {
    for seed in seeds(5_000) {
        let mut random = Random::new(seed ^ 0x57);
        let payload: Vec<u8> = (0..random.below(400)).map(|_| random.next() as u8).collect();
        assert!(codec::decode_block(&payload, &mut B256Map::default()).is_err(), "seed {seed}");
        let mut tx = vec![0; 20];
        tx.extend(valid(random.below(3)));
        mutate(&mut tx, &mut random);
        // Decodes or is refused; the log's checksum is what tells damage.
        let _ = codec::decode_tx(&tx);
    }
}
