//! Checks on a transaction that need no account, and decoding of many at once.

use crate::{
    error::{Result, RpcError},
    tx::SignedTx,
};
use alloy_consensus::Transaction;
use std::sync::{
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

/// EIP-3860.
const INITCODE_BYTES_MAX: usize = 49_152;
/// Fewer than this are decoded on the calling thread: one recovery takes about 40 us, a thread 20.
const PARALLEL_MIN: usize = 8;
/// Transactions that a thread decodes at a time: about a millisecond of transfers.
const PART_TXS_MAX: usize = 32;

/// Decodes and recovers senders, on several threads where that pays. Hands the results on in order, on the
/// calling thread, a part at a time while later ones are still being decoded.
pub fn decode_many(raws: &[&[u8]], chain_id: u64, threads: usize, mut take: impl FnMut(Vec<Result<SignedTx>>)) {
    let decode = |part: &[&[u8]]| {
        let mut scratch = Vec::new();
        part.iter().map(|raw| SignedTx::decode_with(raw, chain_id, &mut scratch)).collect()
    };
    if threads < 2 || raws.len() < PARALLEL_MIN {
        return take(decode(raws));
    }
    let parts: Vec<&[&[u8]]> = raws.chunks((raws.len() / (threads * 8)).clamp(1, PART_TXS_MAX)).collect();
    let cursor = AtomicUsize::new(0);
    let next = || {
        let index = cursor.fetch_add(1, Ordering::Relaxed);
        parts.get(index).map(|part| (index, decode(part)))
    };
    let mut waiting: Vec<Option<Vec<Result<SignedTx>>>> = parts.iter().map(|_| None).collect();
    let mut handed_on = 0;
    let mut keep = |(index, part): (usize, Vec<Result<SignedTx>>)| {
        waiting[index] = Some(part);
        while let Some(part) = waiting.get_mut(handed_on).and_then(Option::take) {
            handed_on += 1;
            take(part);
        }
    };
    std::thread::scope(|scope| {
        let (done, finished) = mpsc::channel();
        for _ in 1..threads {
            let done = done.clone();
            scope.spawn(move || std::iter::from_fn(next).try_for_each(|part| done.send(part)));
        }
        drop(done);
        while let Some(part) = next() {
            keep(part);
            finished.try_iter().for_each(&mut keep);
        }
        finished.iter().for_each(&mut keep);
    });
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
    let zeros = zeros(input);
    let mut gas = 21_000 + 4 * zeros + 16 * (input.len() as u64 - zeros);
    if tx.envelope.is_create() {
        gas += 32_000 + 2 * (input.len() as u64).div_ceil(32);
    }
    if let Some(list) = tx.envelope.access_list() {
        gas += list.iter().map(|item| 2_400 + 1_900 * item.storage_keys.len() as u64).sum::<u64>();
    }
    gas
}

/// Counts in pieces whose counter is a byte, which compilers turn into vector instructions: claims carry 45 kB.
fn zeros(input: &[u8]) -> u64 {
    input.chunks(255).map(|part| u64::from(part.iter().map(|byte| u8::from(*byte == 0)).sum::<u8>())).sum()
}
