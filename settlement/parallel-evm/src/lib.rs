//! An embedded EVM execution layer for one site.
//!
//! `chain` ties the parts together: `tx` and `intake` take transactions in, `mempool` holds them, `exec`
//! runs a block of them over `state`, `roots` commits to the result, `block` seals it, `blocks` and
//! `history` keep what readers ask for, `rpc` answers them and `python` is the module's surface.

pub mod block;
pub mod blocks;
pub mod chain;
pub mod ecrecover;
pub mod error;
pub mod exec;
pub mod genesis;
pub mod history;
pub mod intake;
pub mod mempool;
mod python;
pub mod roots;
pub mod rpc;
pub mod signers;
pub mod state;
pub mod store;
pub mod trie;
pub mod tx;

/// Hashes of short inputs that are kept, 128 bytes each: the storage slots and topics that a block hashes again
/// and again. They stay within a core's cache.
const HASHES_KEPT: usize = 1_024;

/// Bounds the cache of hashes, which the process has one of; without effect once something was hashed.
pub(crate) fn bound_hash_cache() {
    let _ = alloy_primitives::init_keccak_cache(HASHES_KEPT);
}
