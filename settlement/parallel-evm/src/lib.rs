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
pub mod state;
pub mod store;
pub mod trie;
pub mod tx;
