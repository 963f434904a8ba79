//! Blocks for tests: unsigned stand-ins for transactions, small contracts, seeded randomness.
#![allow(dead_code)]

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex, keccak256};
use parallel_evm::{
    exec::BlockContext,
    state::{Diff, Info, State},
    tx::{Envelope, SignedTx},
};
use revm::{bytecode::Bytecode, primitives::hardfork::SpecId};
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
    pub const ALL: [&str; 10] = [
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
    ];

    /// Init codes: destroy at once, to the fee recipient, deploy a coinbase reader, deploy nothing, revert.
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

/// Call data of the token.
pub fn transfer_data(to: Address, amount: u64) -> Vec<u8> {
    let mut data = to.into_word().to_vec();
    data.extend_from_slice(&U256::from(amount).to_be_bytes::<32>());
    data
}
