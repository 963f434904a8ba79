//! Random and adversarial blocks, from a seed: each has a kind of trouble that prevails, and some of the others.

use super::{COIN, Random, account, code, coinbase, contract, state, transfer_data, tx};
use alloy_primitives::{Address, TxKind, U256, hex};
use parallel_evm::{
    state::{Diff, Info, State},
    tx::SignedTx,
};
use std::{collections::HashMap, sync::Arc};

/// What a transaction is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Adds to a word: of the sender's own payee, of one for all, or of one of a few.
    ClaimOwn,
    ClaimOne,
    ClaimFew,
    Token,
    /// Pays on what the one before paid.
    Chain,
    Value,
    /// Reverts, halts, or runs out of gas.
    Fail,
    Create,
    /// Calls, pays or looks at what may have been created before, or sends from there.
    Created,
    /// Reads, pays, or is sent by the fee recipient.
    FeeRecipient,
    Precompile,
    /// From and to accounts that cannot pay for themselves.
    Poor,
    /// Nonces too high and too low.
    Nonce,
}

pub const KINDS: [Kind; 13] = [
    Kind::ClaimOwn,
    Kind::ClaimOne,
    Kind::ClaimFew,
    Kind::Token,
    Kind::Chain,
    Kind::Value,
    Kind::Fail,
    Kind::Create,
    Kind::Created,
    Kind::FeeRecipient,
    Kind::Precompile,
    Kind::Poor,
    Kind::Nonce,
];

/// In which order the senders come.
#[derive(Clone, Copy, Debug)]
enum Order {
    InTurn,
    /// All of the first, then all of the second, …
    InOrder,
    Shuffled,
}

/// What a block is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub kind: Kind,
    /// Transactions in a hundred that are of any other kind.
    others: usize,
    pub txs: usize,
    pub senders: u64,
    order: Order,
    /// Gas limits so high that a chunk holds one transaction.
    heavy: bool,
    pub block_gas: u64,
}

impl Shape {
    /// Kinds come in turn; everything else is drawn.
    pub fn of(seed: u64, random: &mut Random) -> Self {
        let txs_max = [12, 30, 40, 160][random.below(4)];
        Self {
            kind: KINDS[(seed % KINDS.len() as u64) as usize],
            others: [0, 0, 10, 60][random.below(4)],
            txs: 1 + random.below(txs_max),
            senders: [1, 2, 3, 5, 8, 40][random.below(6)],
            order: [Order::InTurn, Order::InOrder, Order::Shuffled][random.below(3)],
            heavy: random.below(2) == 0,
            block_gas: [AMPLE, AMPLE, AMPLE, 3_000_000, 400_000][random.below(5)],
        }
    }

    /// The same with gas for all its transactions.
    pub fn whole(self) -> Self {
        Self { block_gas: AMPLE, ..self }
    }
}

/// Block gas for everything.
pub const AMPLE: u64 = 1_000_000_000;
const ACCOUNTS: u64 = 40;
const POOR: u64 = 10_000;
const POOR_ACCOUNTS: usize = 4;

/// Where the factories put what the call's data deploys.
fn created(factory: usize) -> Address {
    contract(factory).create2_from_code([0; 32], hex::decode(code::MORTAL).expect("hex"))
}

/// The state that the blocks run on.
pub fn world() -> State {
    let mut state = state(ACCOUNTS);
    let mut diff = Diff::default();
    let funded = |balance: u128| Some(Info { balance: U256::from(balance), ..Info::default() });
    diff.infos.insert(coinbase(), funded(COIN));
    // As a sender it has no code; after a transaction of its own nothing can be created there any more.
    diff.infos.insert(created(7), funded(COIN));
    for number in 0..POOR_ACCOUNTS as u64 / 2 {
        diff.infos.insert(account(POOR + number), funded(50_000_000_000_000));
    }
    state.apply(&diff);
    state
}

/// Makes the transactions of one block, or of several in a row.
#[derive(Default)]
pub struct Maker {
    nonces: HashMap<Address, u64>,
    /// The account at the end of the chain of payments.
    link: u64,
    /// Contracts that senders created themselves.
    own: Vec<Address>,
}

struct Draft {
    from: Address,
    to: TxKind,
    value: u64,
    data: Vec<u8>,
    gas: u64,
}

impl Maker {
    pub fn block(&mut self, shape: &Shape, random: &mut Random) -> Vec<Arc<SignedTx>> {
        (0..shape.txs)
            .map(|index| {
                let other = random.below(100) < shape.others;
                let kind = if other { KINDS[random.below(KINDS.len())] } else { shape.kind };
                let sender = match shape.order {
                    Order::InTurn => index as u64 % shape.senders,
                    Order::InOrder => index as u64 * shape.senders / shape.txs as u64,
                    Order::Shuffled => random.next() % shape.senders,
                };
                let mut draft = self.draft(kind, account(sender), random);
                if shape.heavy && !matches!(draft.to, TxKind::Call(to) if to == contract(4)) {
                    draft.gas = draft.gas.max(1_500_000);
                }
                self.sign(kind, draft, random)
            })
            .collect()
    }

    fn sign(&mut self, kind: Kind, draft: Draft, random: &mut Random) -> Arc<SignedTx> {
        let next = self.nonces.entry(draft.from).or_default();
        let wrong = random.below(if kind == Kind::Nonce { 3 } else { 80 }) == 0;
        let nonce = match random.below(3) {
            0 if wrong => *next + 1,
            1 if wrong => next.saturating_sub(1),
            2 if wrong => u64::MAX - 1,
            _ => {
                *next += 1;
                *next - 1
            }
        };
        let tip = [0, 1, 1_000_000_000][random.below(3)];
        tx(draft.from, nonce, draft.to, draft.value, draft.data, draft.gas, tip)
    }

    fn draft(&mut self, kind: Kind, from: Address, random: &mut Random) -> Draft {
        let receiver = account(random.next() % ACCOUNTS);
        let amount = 1 + random.next() % 9;
        let claim = |payee: Address| {
            let data = transfer_data(payee, amount);
            Draft { from, to: TxKind::Call(contract(10)), value: 0, data, gas: 120_000 }
        };
        match kind {
            Kind::ClaimOwn => claim(from),
            Kind::ClaimOne => claim(account(0)),
            Kind::ClaimFew => claim(account(u64::from(from[19] % 3))),
            Kind::Token => {
                let data = transfer_data(receiver, 1 + random.next() % 400);
                Draft { from, to: TxKind::Call(contract(0)), value: 0, data, gas: 100_000 }
            }
            Kind::Chain => {
                let (from, to) = (account(self.link % ACCOUNTS), account((self.link + 1) % ACCOUNTS));
                self.link += 1;
                let data = transfer_data(to, 1_000 + self.link);
                // The first one can pay a thousand only, so now and then the chain begins anew.
                let data = if random.below(12) == 0 { transfer_data(to, 900) } else { data };
                Draft { from, to: TxKind::Call(contract(0)), value: 0, data, gas: 100_000 }
            }
            Kind::Value | Kind::Nonce => {
                let to = [receiver, from, account(9_000 + random.next() % 3)][random.below(3)];
                let value = [0, 1 + random.next() % 1_000, COIN as u64 / 2][random.below(3)];
                Draft { from, to: TxKind::Call(to), value, data: Vec::new(), gas: 21_000 + random.next() % 2 * 9_000 }
            }
            Kind::Fail => {
                let (to, data, gas) = match random.below(5) {
                    0 => (contract(5), Vec::new(), 90_000),
                    1 => (contract(4), Vec::new(), 22_000 + random.next() % 40_000),
                    2 => (contract(0), transfer_data(receiver, 1_000_000), 100_000),
                    3 => (contract(10), transfer_data(from, 1), 22_000 + random.next() % 60_000),
                    // Not even what a transaction takes by itself.
                    _ => (contract(1), Vec::new(), 20_000 + random.next() % 3_000),
                };
                Draft { from, to: TxKind::Call(to), value: random.next() % 2, data, gas }
            }
            Kind::Create => self.create(from, random),
            Kind::Created => self.created(from, random),
            Kind::FeeRecipient => fee_recipient(from, random),
            Kind::Precompile => {
                let data = (0..random.below(5) * 32).map(|_| random.next() as u8).collect();
                let to = Address::with_last_byte(1 + random.below(10) as u8);
                Draft { from, to: TxKind::Call(to), value: random.next() % 2, data, gas: 60_000 }
            }
            Kind::Poor => {
                let poor = account(POOR + random.next() % POOR_ACCOUNTS as u64);
                let (from, to) = if random.below(3) > 0 { (poor, receiver) } else { (from, poor) };
                let value = [1, 40_000_000_000_000][random.below(2)];
                Draft { from, to: TxKind::Call(to), value, data: Vec::new(), gas: [21_000, 60_000][random.below(2)] }
            }
        }
    }

    fn create(&mut self, from: Address, random: &mut Random) -> Draft {
        let mortal = random.below(2) == 0;
        let init = if mortal { code::MORTAL } else { code::INITS[random.below(code::INITS.len())] };
        let to = match random.below(4) {
            0 => {
                let nonce = self.nonces.get(&from).copied().unwrap_or_default();
                self.own.push(from.create(nonce));
                TxKind::Create
            }
            1 => TxKind::Call(contract(6)),
            2 => TxKind::Call(contract(7)),
            _ => TxKind::Call(contract(11)),
        };
        let gas = [90_000, 250_000, 400_000][random.below(3)];
        Draft { from, to, value: random.next() % 3, data: hex::decode(init).expect("hex"), gas }
    }

    fn created(&mut self, from: Address, random: &mut Random) -> Draft {
        let mut places = vec![created(7), created(11)];
        places.extend(self.own.last());
        let place = places[random.below(places.len())];
        let reader = contract([9, 12][random.below(2)]);
        let look = place.into_word().to_vec();
        let (from, to, data) = match random.below(8) {
            0..3 => (from, place, Vec::new()),
            3..5 => (from, reader, look),
            5 => (created(7), account(1), Vec::new()),
            _ => return self.create(from, random),
        };
        Draft { from, to: TxKind::Call(to), value: random.next() % 3, data, gas: 120_000 }
    }
}

fn fee_recipient(from: Address, random: &mut Random) -> Draft {
    let look = coinbase().into_word().to_vec();
    let (from, to, data) = match random.below(7) {
        0 => (from, contract(2), Vec::new()),
        1 => (from, contract(3), Vec::new()),
        2 => (from, coinbase(), Vec::new()),
        3 => (from, contract(9), look),
        4 => (coinbase(), account(2), Vec::new()),
        5 => (coinbase(), contract(10), transfer_data(coinbase(), 1)),
        _ => (from, contract(7), hex::decode(code::INITS[1]).expect("hex")),
    };
    Draft { from, to: TxKind::Call(to), value: random.next() % 3, data, gas: 120_000 }
}
