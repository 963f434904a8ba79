//! The state root: Ethereum's, a trie over accounts, each with the root of a trie over its storage.

use crate::{
    state::{Diff, Info, Slot, State},
    trie::{EMPTY_ROOT, Trie, Update},
};
use alloy_primitives::{Address, B256, U256, keccak256_uncached, map::AddressMap};
use alloy_rlp::{Encodable, Header};

/// All tries of one state.
#[derive(Clone, Default)]
pub struct Tries {
    accounts: Trie,
    storage: AddressMap<(Trie, B256)>,
}

/// Storage updates of one account, unhashed.
type SlotUpdates = Vec<(U256, U256)>;

/// Fewer keys than this are hashed on the calling thread.
const PARALLEL_KEYS_MIN: usize = 256;

impl Tries {
    /// Tries over a whole state, and its root.
    pub fn of(state: &State, threads: usize) -> (Self, B256) {
        let mut tries = Self::default();
        tries.update_storage(state.slots(), threads);
        let accounts: Vec<_> = state.accounts().map(|(address, info)| (*address, Some(*info))).collect();
        let root = tries.update_accounts(&accounts, threads);
        (tries, root)
    }

    /// Takes a block's difference in and returns the new root. `state` is as it was before the block.
    pub fn update(&mut self, state: &State, diff: &Diff, threads: usize) -> B256 {
        let written = self.update_storage(diff.slots.iter(), threads);
        let mut accounts: Vec<_> = diff.infos.iter().map(|(address, info)| (*address, *info)).collect();
        let unnamed = written.into_iter().filter(|address| !diff.infos.contains_key(address));
        accounts.extend(unnamed.map(|address| (address, state.info(&address))));
        self.update_accounts(&accounts, threads)
    }

    /// Returns the accounts whose storage was written.
    fn update_storage<'a>(
        &mut self,
        slots: impl Iterator<Item = (&'a Slot, &'a U256)>,
        threads: usize,
    ) -> Vec<Address> {
        let mut by_account: AddressMap<SlotUpdates> = AddressMap::default();
        for ((address, key), value) in slots {
            by_account.entry(*address).or_default().push((*key, *value));
        }
        let mut written = Vec::with_capacity(by_account.len());
        for (address, updates) in by_account {
            let (trie, root) = self.storage.entry(address).or_insert_with(|| (Trie::default(), EMPTY_ROOT));
            *root = trie.update(slot_updates(updates, threads), threads);
            if trie.is_empty() {
                self.storage.remove(&address);
            }
            written.push(address);
        }
        written
    }

    fn update_accounts(&mut self, accounts: &[(Address, Option<Info>)], threads: usize) -> B256 {
        let updates = mapped(accounts, threads, |(address, info)| {
            let storage = self.storage.get(address).map_or(EMPTY_ROOT, |(_, root)| *root);
            (keccak256_uncached(address), info.map(|info| encode_account(&info, storage)))
        });
        self.accounts.update(updates, threads)
    }
}

fn slot_updates(updates: SlotUpdates, threads: usize) -> Vec<Update> {
    mapped(&updates, threads, |(key, value)| {
        let encoded = (!value.is_zero()).then(|| alloy_rlp::encode(value).into_boxed_slice());
        (keccak256_uncached(key.to_be_bytes::<32>()), encoded)
    })
}

/// Maps in order, on several threads where that pays.
fn mapped<T: Sync, U: Send>(items: &[T], threads: usize, one: impl Fn(&T) -> U + Sync) -> Vec<U> {
    if threads < 2 || items.len() < PARALLEL_KEYS_MIN {
        return items.iter().map(one).collect();
    }
    let share = items.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let handles: Vec<_> = items
            .chunks(share)
            .map(|part| {
                let one = &one;
                scope.spawn(move || part.iter().map(one).collect::<Vec<U>>())
            })
            .collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("hashing does not panic")).collect()
    })
}

fn encode_account(info: &Info, storage_root: B256) -> Box<[u8]> {
    let mut payload = Vec::with_capacity(112);
    info.nonce.encode(&mut payload);
    info.balance.encode(&mut payload);
    storage_root.encode(&mut payload);
    info.code_hash.encode(&mut payload);
    let mut out = Vec::with_capacity(payload.len() + 3);
    Header { list: true, payload_length: payload.len() }.encode(&mut out);
    out.extend_from_slice(&payload);
    out.into_boxed_slice()
}
