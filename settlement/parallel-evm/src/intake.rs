//! Checks on a transaction that need no account, and decoding of many at once.

use crate::{
    error::{Result, RpcError},
    tx::SignedTx,
};
use alloy_consensus::Transaction;

/// EIP-3860.
const INITCODE_BYTES_MAX: usize = 49_152;
/// Fewer than this are decoded on the calling thread: one recovery takes about 30 us, a thread 20.
const PARALLEL_MIN: usize = 8;

/// Decodes and recovers in order, on several threads where that pays.
pub fn decode_many(raws: &[&[u8]], chain_id: u64, threads: usize) -> Vec<Result<SignedTx>> {
    let one = |raw: &&[u8]| SignedTx::decode(raw, chain_id);
    if threads < 2 || raws.len() < PARALLEL_MIN {
        return raws.iter().map(one).collect();
    }
    let share = raws.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let handles: Vec<_> =
            raws.chunks(share).map(|part| scope.spawn(move || part.iter().map(one).collect::<Vec<_>>())).collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("decoding does not panic")).collect()
    })
}

/// Refuses what could never be executed. `base_fee` is given where it does not move.
pub fn check(tx: &SignedTx, block_gas_limit: u64, base_fee: Option<u64>) -> Result<()> {
    if tx.gas_limit() > block_gas_limit {
        return Err(RpcError::server("exceeds block gas limit"));
    }
    if tx.envelope.is_create() && tx.envelope.input().len() > INITCODE_BYTES_MAX {
        let size = tx.envelope.input().len();
        return Err(RpcError::server(format!(
            "max initcode size exceeded: code size {size}, limit {INITCODE_BYTES_MAX}"
        )));
    }
    let needed = intrinsic_gas(tx);
    if tx.gas_limit() < needed {
        return Err(RpcError::server(format!(
            "intrinsic gas too low: gas {}, minimum needed {needed}",
            tx.gas_limit()
        )));
    }
    if tx.tip_cap() > tx.fee_cap() {
        return Err(RpcError::server("max priority fee per gas higher than max fee per gas"));
    }
    if tx.nonce() == u64::MAX {
        return Err(RpcError::server("nonce has max value"));
    }
    match base_fee {
        Some(base_fee) if tx.fee_cap() < u128::from(base_fee) => Err(RpcError::server(format!(
            "max fee per gas less than block base fee: maxFeePerGas {}, baseFee {base_fee}",
            tx.fee_cap()
        ))),
        _ => Ok(()),
    }
}

/// Gas before the first instruction: EIP-2028, EIP-2930, EIP-3860.
pub fn intrinsic_gas(tx: &SignedTx) -> u64 {
    let input = tx.envelope.input();
    let zeros = input.iter().filter(|byte| **byte == 0).count() as u64;
    let mut gas = 21_000 + 4 * zeros + 16 * (input.len() as u64 - zeros);
    if tx.envelope.is_create() {
        gas += 32_000 + 2 * (input.len() as u64).div_ceil(32);
    }
    if let Some(list) = tx.envelope.access_list() {
        gas += list.iter().map(|item| 2_400 + 1_900 * item.storage_keys.len() as u64).sum::<u64>();
    }
    gas
}
