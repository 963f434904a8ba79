//! Blocks for tests: unsigned stand-ins for transactions, small contracts, seeded randomness.
#![allow(dead_code)]

pub mod blocks;
pub mod turns;

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex, keccak256};
use parallel_evm::{
    chain::{Chain, Config},
    exec::BlockContext,
    genesis::Genesis,
    state::{Diff, Info, State},
    tx::{Envelope, SignedTx},
};
use revm::{bytecode::Bytecode, primitives::hardfork::SpecId};
use secp256k1::{Message, SECP256K1, SecretKey};
use std::sync::Arc;

/// xorshift64*: seeded, without dependencies.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// The seeds to try: `quick` of them, or as many as the environment asks for.
pub fn seeds(quick: u64) -> std::ops::Range<u64> {
    let count = std::env::var("PARALLEL_EVM_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(quick);
    let first = std::env::var("PARALLEL_EVM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("seeds {first}..{}", first + count);
    first..first + count
}

pub const COIN: u128 = 1_000_000_000_000_000_000;

pub fn account(number: u64) -> Address {
    Address::from_word(keccak256(number.to_be_bytes()))
}

pub fn coinbase() -> Address {
    Address::repeat_byte(0xfe)
}

/// Contracts, assembled by hand; each does one thing that can trouble a parallel executor.
pub mod code {
    /// (to, amount): moves the caller's balance (slot = address), logs, reverts when it is too small.
    pub const TOKEN: &str = "6020353354818110602257819003335\
55f35805482019055\
5f525f353360205fa2005b5f5ffd";
    /// Adds one to slot 0 and marks the slot that the old value names.
    pub const COUNTER: &str = "5f54806001015f5560019055";
    /// Stores the fee recipient's balance under the caller.
    pub const COINBASE_READER: &str = "41313355";
    /// Sends the call's value on to the fee recipient.
    pub const COINBASE_PAYER: &str = "5f5f5f5f34415af1";
    /// Loops until the gas is gone.
    pub const BURNER: &str = "5b5f56";
    /// Writes, then reverts with a word.
    pub const REVERTER: &str = "60015f55602a5f5260205ffd";
    /// Creates a contract from the call's data and notes its address under the caller.
    pub const FACTORY: &str = "365f5f37365f34f03355";
    /// The same with CREATE2 and salt 0, so that addresses collide.
    pub const FACTORY2: &str = "365f5f375f365f34f53355";
    /// Destroys itself in favour of the caller (since Cancun: only sends the balance).
    pub const SELF_DESTROYER: &str = "33ff";
    /// Notes the balance of the address in the call's data.
    pub const BALANCE_READER: &str = "5f35313355";
    /// (key, amount): adds to the word under the key, counts the caller's calls, logs; like a claim for a receiver.
    pub const CLAIMS: &str = "6020355f3554015f355533546001013355\
5f5fa0";
    /// Creates with CREATE2 and salt 0 from the call's data, and calls what it created.
    pub const KILLER: &str = "365f5f375f365f34f55f5f5f5f5f855af1013355";
    /// Notes the size and the hash of the code at the address in the call's data.
    pub const CODE_READER: &str = "5f353b5f353f013355";
    pub const ALL: [&str; 13] = [
        TOKEN,
        COUNTER,
        COINBASE_READER,
        COINBASE_PAYER,
        BURNER,
        REVERTER,
        FACTORY,
        FACTORY2,
        SELF_DESTROYER,
        BALANCE_READER,
        CLAIMS,
        KILLER,
        CODE_READER,
    ];

    /// Init codes: destroy at once, to the fee recipient, deploy a coinbase reader, deploy nothing, revert.
    /// Deploys what counts its calls in slot 0 and then destroys itself in favour of the caller.
    pub const MORTAL: &str = "6860015f54015f5533ff5f5260096017f3";
    pub const INITS: [&str; 5] = ["33ff", "41ff", "63413133555f526004601cf3", "00", "5f5ffd"];
}

pub fn contract(index: usize) -> Address {
    Address::with_last_byte(0x40 + index as u8)
}

/// A state with funded accounts that also hold tokens, and the contracts.
pub fn state(accounts: u64) -> State {
    let mut diff = Diff::default();
    for number in 0..accounts {
        let info = Info { balance: U256::from(COIN), ..Info::default() };
        diff.infos.insert(account(number), Some(info));
        let word = U256::from_be_slice(account(number).as_slice());
        diff.slots.insert((contract(0), word), U256::from(1_000));
    }
    for (index, text) in code::ALL.iter().enumerate() {
        let code = Bytecode::new_raw(hex::decode(text).expect("hex").into());
        let info = Info { nonce: 1, balance: U256::from(7), code_hash: code.hash_slow() };
        diff.infos.insert(contract(index), Some(info));
        diff.codes.insert(info.code_hash, code);
    }
    let mut state = State::default();
    state.apply(&diff);
    state
}

pub fn context(gas_limit: u64) -> BlockContext {
    BlockContext {
        chain_id: 31402,
        spec: SpecId::CANCUN,
        number: 1,
        timestamp: 1_700_000_000,
        gas_limit,
        base_fee: 7,
        coinbase: coinbase(),
        prevrandao: B256::repeat_byte(3),
        ancestors: Arc::default(),
    }
}

/// A transaction whose sender is simply said: its signature is a placeholder.
pub fn tx(
    sender: Address,
    nonce: u64,
    to: TxKind,
    value: u64,
    input: Vec<u8>,
    gas_limit: u64,
    tip: u128,
) -> Arc<SignedTx> {
    let fields = TxEip1559 {
        chain_id: 31402,
        nonce,
        gas_limit,
        max_fee_per_gas: 7 + tip,
        max_priority_fee_per_gas: tip,
        to,
        value: U256::from(value),
        access_list: Default::default(),
        input: input.into(),
    };
    let signature = Signature::new(U256::from(1), U256::from_be_slice(sender.as_slice()), false);
    let envelope = Envelope::Eip1559(fields.into_signed(signature));
    let raw: Bytes = envelope.encoded_2718().into();
    Arc::new(SignedTx { hash: keccak256(&raw), envelope, sender, raw })
}

/// A key, and the address that it signs for.
pub fn signer(number: u64) -> (SecretKey, Address) {
    let secret = SecretKey::from_byte_array(keccak256(number.to_le_bytes()).0).expect("a valid key");
    let public = secret.public_key(SECP256K1).serialize_uncompressed();
    (secret, Address::from_slice(&keccak256(&public[1..])[12..]))
}

/// Raw bytes of a signed transfer of coins, for a base fee of 1 gwei.
pub fn signed_transfer(number: u64, nonce: u64, to: Address, value: u64) -> Vec<u8> {
    let fields = TxEip1559 {
        chain_id: 31402,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 2_000_000_000,
        max_priority_fee_per_gas: 1,
        to: TxKind::Call(to),
        value: U256::from(value),
        access_list: Default::default(),
        input: Bytes::new(),
    };
    let digest = Message::from_digest(fields.signature_hash().0);
    let (id, rs) = SECP256K1.sign_ecdsa_recoverable(digest, &signer(number).0).serialize_compact();
    let signature = Signature::from_bytes_and_parity(&rs, i32::from(id) == 1);
    Envelope::Eip1559(fields.into_signed(signature)).encoded_2718()
}

/// A genesis document in which the first signers hold a coin each.
pub fn signers_genesis(signers: u64) -> Genesis {
    let alloc: serde_json::Map<String, serde_json::Value> = (0..signers)
        .map(|number| (hex::encode(signer(number).1), serde_json::json!({"balance": "0xde0b6b3a7640000"})))
        .collect();
    Genesis::parse(&serde_json::json!({"alloc": alloc}).to_string()).expect("a genesis")
}

pub fn config(genesis: &Genesis) -> Config {
    Config {
        chain_id: 31402,
        spec: SpecId::CANCUN,
        gas_limit: genesis.gas_limit,
        coinbase: Address::ZERO,
        fixed_base_fee: true,
        auto_mine: false,
        dev: false,
        threads: 2,
    }
}

/// Hashes of what waits: the executable ones in their order, and all of them sorted.
pub fn waiting(chain: &Chain) -> (Vec<B256>, Vec<B256>) {
    let pool = chain.pool();
    let executable = pool.executable(1_000_000_000, usize::MAX).iter().map(|tx| tx.hash).collect();
    let mut all: Vec<B256> = pool.in_order().iter().map(|tx| tx.hash).collect();
    all.sort_unstable();
    (executable, all)
}

/// Call data of the token.
pub fn transfer_data(to: Address, amount: u64) -> Vec<u8> {
    let mut data = to.into_word().to_vec();
    data.extend_from_slice(&U256::from(amount).to_be_bytes::<32>());
    data
}
