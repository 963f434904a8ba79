//! The world state in memory, and the differences that blocks make to it.
//!
//! Storage is one flat map: an account without code never has storage here (genesis refuses it, and since
//! Cancun only an account created in the same transaction can be destroyed), so nothing is ever wiped.

use alloy_primitives::{
    Address, B256, KECCAK256_EMPTY, U256,
    map::{AddressMap, B256Map, HashMap},
};
use revm::{
    bytecode::Bytecode,
    state::{AccountInfo, EvmState},
};

/// (account, storage slot)
pub type Slot = (Address, U256);

/// What an account holds besides its storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    pub nonce: u64,
    pub balance: U256,
    pub code_hash: B256,
}

impl Default for Info {
    fn default() -> Self {
        Self { nonce: 0, balance: U256::ZERO, code_hash: KECCAK256_EMPTY }
    }
}

impl Info {
    /// Empty in the sense of EIP-161: such an account does not exist.
    pub fn is_empty(&self) -> bool {
        self.nonce == 0 && self.balance.is_zero() && self.code_hash == KECCAK256_EMPTY
    }

    pub fn has_code(&self) -> bool {
        self.code_hash != KECCAK256_EMPTY
    }
}

impl From<&AccountInfo> for Info {
    fn from(info: &AccountInfo) -> Self {
        Self { nonce: info.nonce, balance: info.balance, code_hash: info.code_hash }
    }
}

/// New values of accounts and slots; also the old values, when a block is undone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// None: the account does not exist.
    pub infos: AddressMap<Option<Info>>,
    pub slots: HashMap<Slot, U256>,
    pub codes: B256Map<Bytecode>,
}

impl Diff {
    /// Number of entries, as a measure of memory.
    pub fn len(&self) -> usize {
        self.infos.len() + self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn absorb(&mut self, writes: Writes) {
        self.infos.extend(writes.infos);
        self.slots.extend(writes.slots);
        self.codes.extend(writes.codes);
    }
}

/// What one transaction writes, in the order of no importance: each key appears once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    pub infos: Vec<(Address, Option<Info>)>,
    pub slots: Vec<(Slot, U256)>,
    pub codes: Vec<(B256, Bytecode)>,
}

impl Writes {
    /// Extracts the changes of one executed transaction by the rules of EIP-161 and EIP-6780.
    pub fn from_evm(state: &EvmState) -> Self {
        let mut writes = Self::default();
        for (address, account) in state {
            if !account.is_touched() {
                continue;
            }
            let info = Info::from(&account.info);
            if account.is_selfdestructed() {
                writes.infos.push((*address, None));
                continue;
            }
            if info.is_empty() {
                if account.is_changed() {
                    writes.infos.push((*address, None));
                }
                continue;
            }
            if account.is_changed() {
                writes.infos.push((*address, Some(info)));
                if account.original_info().code_hash != info.code_hash
                    && let Some(code) = &account.info.code
                {
                    writes.codes.push((info.code_hash, code.clone()));
                }
            }
            for (key, slot) in &account.storage {
                if slot.is_changed() {
                    writes.slots.push(((*address, *key), slot.present_value));
                }
            }
        }
        writes
    }
}

/// The latest state.
#[derive(Clone, Debug, Default)]
pub struct State {
    accounts: AddressMap<Info>,
    slots: HashMap<Slot, U256>,
    codes: B256Map<Bytecode>,
}

impl State {
    pub fn of(accounts: AddressMap<Info>, slots: HashMap<Slot, U256>, codes: B256Map<Bytecode>) -> Self {
        Self { accounts, slots, codes }
    }

    /// The present values of everything that a difference names.
    pub fn inverse(&self, diff: &Diff) -> Diff {
        Diff {
            infos: diff.infos.keys().map(|address| (*address, self.info(address))).collect(),
            slots: diff.slots.keys().map(|slot| (*slot, self.slot(slot))).collect(),
            ..Diff::default()
        }
    }

    pub fn info(&self, address: &Address) -> Option<Info> {
        self.accounts.get(address).copied()
    }

    pub fn slot(&self, slot: &Slot) -> U256 {
        self.slots.get(slot).copied().unwrap_or_default()
    }

    pub fn code(&self, hash: &B256) -> Option<&Bytecode> {
        self.codes.get(hash)
    }

    pub fn accounts(&self) -> impl Iterator<Item = (&Address, &Info)> {
        self.accounts.iter()
    }

    pub fn slots(&self) -> impl Iterator<Item = (&Slot, &U256)> {
        self.slots.iter()
    }

    pub fn codes(&self) -> impl Iterator<Item = (&B256, &Bytecode)> {
        self.codes.iter()
    }

    pub fn account_count(&self) -> usize {
        self.accounts.len()
    }

    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// Applies new values for good.
    pub fn absorb(&mut self, diff: Diff) {
        for (address, info) in diff.infos {
            match info {
                Some(info) => drop(self.accounts.insert(address, info)),
                None => drop(self.accounts.remove(&address)),
            }
        }
        for (slot, value) in diff.slots {
            if value.is_zero() {
                self.slots.remove(&slot);
            } else {
                self.slots.insert(slot, value);
            }
        }
        self.codes.extend(diff.codes);
    }

    /// Applies new values and returns the old ones. Codes stay: they are named by their hash.
    pub fn apply(&mut self, diff: &Diff) -> Diff {
        let mut undo = Diff::default();
        undo.infos.reserve(diff.infos.len());
        undo.slots.reserve(diff.slots.len());
        for (address, info) in &diff.infos {
            let old = match info {
                Some(info) => self.accounts.insert(*address, *info),
                None => self.accounts.remove(address),
            };
            undo.infos.insert(*address, old);
        }
        for (slot, value) in &diff.slots {
            let old = if value.is_zero() { self.slots.remove(slot) } else { self.slots.insert(*slot, *value) };
            undo.slots.insert(*slot, old.unwrap_or_default());
        }
        for (hash, code) in &diff.codes {
            self.codes.entry(*hash).or_insert_with(|| code.clone());
        }
        undo
    }
}
