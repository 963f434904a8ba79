//! Public key recovery, and a bounded cache of its results.
//!
//! Recovery is a pure function of (digest, signature), so its result may be reused wherever the same
//! input appears again: when a transaction is executed a second time after a conflict, when a call was
//! estimated before it is sent, and when the process that embeds the chain has verified the very same
//! signature already.

use alloy_primitives::{Address, B256, U256, keccak256_uncached, map::HashMap};
use secp256k1::{
    Message, SECP256K1,
    ecdsa::{RecoverableSignature, RecoveryId},
};
use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

/// Half of the curve order: a larger s is the malleable twin that EIP-2 forbids.
pub const HALF_ORDER: U256 = U256::from_be_slice(&[
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x5d, 0x57, 0x6e,
    0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
]);

/// 16 locks keep eight threads from waiting for each other.
const SHARDS: usize = 16;
/// Entries of one generation of one shard: 2 generations x 16 shards x 4,096 x ~150 bytes = 20 MB at most.
const GENERATION_ENTRIES: usize = 4_096;

type Key = [u8; 97];

#[derive(Default)]
struct Shard {
    young: HashMap<Key, Option<Address>>,
    old: HashMap<Key, Option<Address>>,
}

/// Recovery results, kept for two generations per shard.
pub struct RecoverCache {
    shards: [Mutex<Shard>; SHARDS],
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Default for RecoverCache {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(Shard::default())),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }
}

fn key_of(digest: &B256, rs: &[u8; 64], recid: u8) -> Key {
    let mut key = [0u8; 97];
    key[..32].copy_from_slice(digest.as_slice());
    key[32..96].copy_from_slice(rs);
    key[96] = recid;
    key
}

impl RecoverCache {
    /// The signer's address, or None where no key can be recovered.
    pub fn recover(&self, digest: &B256, rs: &[u8; 64], recid: u8) -> Option<Address> {
        let key = key_of(digest, rs, recid);
        if let Some(known) = self.look_up(&key) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return known;
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let address = recover_address(digest, rs, recid);
        self.store(key, address);
        address
    }

    /// Stores a result that the caller vouches for.
    pub fn prime(&self, digest: &B256, rs: &[u8; 64], recid: u8, address: Address) {
        self.store(key_of(digest, rs, recid), Some(address));
    }

    /// (hits, misses) since the start.
    pub fn counters(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    fn shard(&self, key: &Key) -> std::sync::MutexGuard<'_, Shard> {
        // The digest is a hash, so any of its bytes spreads evenly.
        let index = key[31] as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn look_up(&self, key: &Key) -> Option<Option<Address>> {
        let mut shard = self.shard(key);
        if let Some(found) = shard.young.get(key) {
            return Some(*found);
        }
        let found = shard.old.remove(key)?;
        shard.insert(*key, found);
        Some(found)
    }

    fn store(&self, key: Key, address: Option<Address>) {
        self.shard(&key).insert(key, address);
    }
}

impl Shard {
    fn insert(&mut self, key: Key, address: Option<Address>) {
        if self.young.len() >= GENERATION_ENTRIES {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, address);
    }
}

/// Recovers without any cache; None for an invalid signature.
pub fn recover_address(digest: &B256, rs: &[u8; 64], recid: u8) -> Option<Address> {
    let id = RecoveryId::try_from(i32::from(recid)).ok()?;
    let signature = RecoverableSignature::from_compact(rs, id).ok()?;
    let public = SECP256K1.recover_ecdsa(Message::from_digest(digest.0), &signature).ok()?;
    // Not through the cache of hashes: keys of senders would only drive out what blocks hash again and again.
    let hash = keccak256_uncached(&public.serialize_uncompressed()[1..]);
    Some(Address::from_slice(&hash[12..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::keccak256;
    use secp256k1::SecretKey;

    fn sign(seed: u8, digest: &B256) -> ([u8; 64], u8, Address) {
        let secret = SecretKey::from_byte_array([seed; 32]).unwrap();
        let (id, rs) = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), &secret).serialize_compact();
        let public = secret.public_key(SECP256K1).serialize_uncompressed();
        (rs, i32::from(id) as u8, Address::from_slice(&keccak256(&public[1..])[12..]))
    }

    #[test]
    fn recovers_signer_and_its_high_s_twin() {
        let digest = keccak256(b"reading");
        let (rs, recid, signer) = sign(7, &digest);
        assert_eq!(recover_address(&digest, &rs, recid), Some(signer));
        let order = alloy_primitives::U256::from_be_bytes(secp256k1::constants::CURVE_ORDER);
        let s = alloy_primitives::U256::from_be_slice(&rs[32..]);
        let mut high = rs;
        high[32..].copy_from_slice(&(order - s).to_be_bytes::<32>());
        assert_eq!(recover_address(&digest, &high, recid ^ 1), Some(signer));
        assert_ne!(recover_address(&digest, &high, recid), Some(signer));
        assert_eq!(recover_address(&digest, &[0; 64], 0), None);
    }

    #[test]
    fn cache_answers_as_recovery_does_and_stays_bounded() {
        let cache = RecoverCache::default();
        let digest = keccak256(b"voucher");
        let (rs, recid, signer) = sign(9, &digest);
        assert_eq!(cache.recover(&digest, &rs, recid), Some(signer));
        assert_eq!(cache.recover(&digest, &rs, recid), Some(signer));
        assert_eq!(cache.counters(), (1, 1));
        for n in 0..150_000u32 {
            cache.prime(&keccak256(n.to_be_bytes()), &rs, 0, signer);
        }
        let held: usize = cache
            .shards
            .iter()
            .map(|shard| {
                let shard = shard.lock().unwrap();
                shard.young.len() + shard.old.len()
            })
            .sum();
        assert!(held <= 2 * SHARDS * GENERATION_ENTRIES);
    }
}
