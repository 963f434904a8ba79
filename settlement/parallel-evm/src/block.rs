//! Sealed blocks: headers, receipts, the roots over them, and their hashes.

use crate::{
    exec::{BlockContext, Executed},
    tx::SignedTx,
};
use alloy_consensus::{Header, Typed2718, constants::EMPTY_OMMER_ROOT_HASH};
use alloy_primitives::{Address, B64, B256, Bloom, BloomInput, Bytes, Log, U256};
use alloy_rlp::{BufMut, Encodable};
use alloy_trie::{EMPTY_ROOT_HASH, root::ordered_trie_root_encoded};
use std::sync::Arc;

/// What a transaction left in its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub success: bool,
    pub gas_used: u64,
    pub cumulative_gas_used: u64,
    pub effective_price: u128,
    pub created: Option<Address>,
    pub logs: Vec<Log>,
    /// Position of the first log in its block.
    pub first_log: u64,
}

impl Receipt {
    /// The bloom over the logs: made when it is asked for, as 256 bytes are more than most logs take.
    pub fn bloom(&self) -> Bloom {
        let mut bloom = Bloom::ZERO;
        for log in &self.logs {
            bloom.accrue(BloomInput::Raw(log.address.as_slice()));
            for topic in log.data.topics() {
                bloom.accrue(BloomInput::Raw(topic.as_slice()));
            }
        }
        bloom
    }
}

/// A block with its transactions and receipts.
#[derive(Clone, Debug)]
pub struct Block {
    pub header: Header,
    pub hash: B256,
    pub txs: Vec<Arc<SignedTx>>,
    pub receipts: Vec<Receipt>,
}

impl Block {
    pub fn number(&self) -> u64 {
        self.header.number
    }

    /// Bytes of the block's RLP, as eth_getBlockBy… reports them (header and raw transactions).
    pub fn size(&self) -> usize {
        self.header.length() + self.txs.iter().map(|tx| tx.raw.len()).sum::<usize>()
    }
}

/// The fields of a header that are known before execution.
pub struct Frame {
    pub parent_hash: B256,
    pub extra_data: Bytes,
}

/// Builds receipts from what ran, in order.
pub fn receipts(txs: &[Arc<SignedTx>], executed: Vec<Executed>, base_fee: u64) -> Vec<Receipt> {
    let (mut cumulative, mut first_log) = (0, 0);
    txs.iter()
        .zip(executed)
        .map(|(tx, executed)| {
            cumulative += executed.gas_used;
            let receipt = Receipt {
                success: executed.success,
                gas_used: executed.gas_used,
                cumulative_gas_used: cumulative,
                effective_price: tx.effective_price(base_fee),
                created: executed.created,
                logs: executed.logs,
                first_log,
            };
            first_log += receipt.logs.len() as u64;
            receipt
        })
        .collect()
}

/// Root over the transactions of a block.
pub fn transactions_root(txs: &[Arc<SignedTx>]) -> B256 {
    let raw: Vec<&[u8]> = txs.iter().map(|tx| tx.raw.as_ref()).collect();
    ordered_trie_root_encoded(&raw)
}

/// Root over the receipts of a block, and the bloom over all their logs.
pub fn receipts_root(txs: &[Arc<SignedTx>], receipts: &[Receipt]) -> (B256, Bloom) {
    let mut all = Bloom::ZERO;
    let encoded: Vec<Vec<u8>> = txs
        .iter()
        .zip(receipts)
        .map(|(tx, receipt)| {
            let bloom = receipt.bloom();
            all |= bloom;
            encode_receipt(tx.envelope.ty(), receipt, &bloom)
        })
        .collect();
    (ordered_trie_root_encoded(&encoded), all)
}

fn encode_receipt(kind: u8, receipt: &Receipt, bloom: &Bloom) -> Vec<u8> {
    let mut payload = Vec::with_capacity(320 + receipt.logs.len() * 160);
    receipt.success.encode(&mut payload);
    receipt.cumulative_gas_used.encode(&mut payload);
    bloom.encode(&mut payload);
    receipt.logs.encode(&mut payload);
    let mut out = Vec::with_capacity(payload.len() + 5);
    if kind != 0 {
        out.put_u8(kind);
    }
    alloy_rlp::Header { list: true, payload_length: payload.len() }.encode(&mut out);
    out.extend_from_slice(&payload);
    out
}

/// What a header says of a block's body and of the state after it.
pub struct Roots {
    pub state: B256,
    pub transactions: B256,
    pub receipts: B256,
    pub logs_bloom: Bloom,
}

/// Puts a block together.
pub fn seal(
    frame: Frame,
    context: &BlockContext,
    txs: Vec<Arc<SignedTx>>,
    receipts: Vec<Receipt>,
    roots: Roots,
) -> Block {
    let header = Header {
        parent_hash: frame.parent_hash,
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        beneficiary: context.coinbase,
        state_root: roots.state,
        transactions_root: roots.transactions,
        receipts_root: roots.receipts,
        logs_bloom: roots.logs_bloom,
        difficulty: U256::ZERO,
        number: context.number,
        gas_limit: context.gas_limit,
        gas_used: receipts.last().map_or(0, |receipt| receipt.cumulative_gas_used),
        timestamp: context.timestamp,
        extra_data: frame.extra_data,
        mix_hash: context.prevrandao,
        nonce: B64::ZERO,
        base_fee_per_gas: Some(context.base_fee),
        withdrawals_root: Some(EMPTY_ROOT_HASH),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        ..Header::default()
    };
    let hash = header.hash_slow();
    Block { header, hash, txs, receipts }
}
