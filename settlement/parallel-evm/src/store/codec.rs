//! Bytes of stored things: fixed widths, little-endian counts, every read bounded.

use crate::{
    block::{Block, Receipt},
    state::{Diff, Info},
    tx::SignedTx,
};
use alloy_consensus::Header;
use alloy_primitives::{Address, B256, Bytes, Log, U256, map::B256Map};
use alloy_rlp::{Decodable, Encodable};
use revm::bytecode::Bytecode;
use std::sync::Arc;

/// Why stored bytes cannot be read.
pub type Malformed = &'static str;

#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Length first.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.raw(bytes);
    }

    pub fn word(&mut self, value: &U256) {
        self.raw(&value.to_be_bytes::<32>());
    }

    pub fn info(&mut self, info: &Info) {
        self.u64(info.nonce);
        self.word(&info.balance);
        self.raw(info.code_hash.as_slice());
    }
}

pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn raw(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("it ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.raw(1)?[0])
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.raw(4)?.try_into().map_err(|_| "it ends too early")?))
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.raw(8)?.try_into().map_err(|_| "it ends too early")?))
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        self.raw(length)
    }

    pub fn hash(&mut self) -> Result<B256, Malformed> {
        Ok(B256::from_slice(self.raw(32)?))
    }

    pub fn address(&mut self) -> Result<Address, Malformed> {
        Ok(Address::from_slice(self.raw(20)?))
    }

    pub fn word(&mut self) -> Result<U256, Malformed> {
        Ok(U256::from_be_slice(self.raw(32)?))
    }

    pub fn info(&mut self) -> Result<Info, Malformed> {
        Ok(Info { nonce: self.u64()?, balance: self.word()?, code_hash: self.hash()? })
    }

    pub fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err("it has bytes left over") }
    }
}

pub fn put_header(out: &mut Writer, header: &Header) {
    let mut encoded = Vec::with_capacity(700);
    header.encode(&mut encoded);
    out.bytes(&encoded);
}

pub fn get_header(from: &mut Reader<'_>) -> Result<Header, Malformed> {
    let mut encoded = from.bytes()?;
    Header::decode(&mut encoded).map_err(|_| "a header cannot be decoded")
}

pub fn encode_tx(tx: &SignedTx) -> Vec<u8> {
    let mut out = Writer::default();
    out.raw(tx.sender.as_slice());
    out.raw(&tx.raw);
    out.0
}

pub fn decode_tx(payload: &[u8]) -> Result<SignedTx, Malformed> {
    let mut from = Reader(payload);
    let sender = from.address()?;
    SignedTx::from_stored(Bytes::copy_from_slice(from.0), sender).map_err(|_| "a transaction cannot be decoded")
}

/// A block without the bytes of its transactions, which the log holds already, and what it changed.
pub fn encode_block(block: &Block, diff: &Diff) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(1_000 + block.txs.len() * 400 + diff.len() * 90));
    put_header(&mut out, &block.header);
    out.u32(block.txs.len() as u32);
    for (tx, receipt) in block.txs.iter().zip(&block.receipts) {
        out.raw(tx.hash.as_slice());
        put_receipt(&mut out, receipt);
    }
    put_diff(&mut out, diff);
    out.0
}

/// Decodes a block, taking its transactions from `txs`. The caller compares the hash.
pub fn decode_block(payload: &[u8], txs: &mut B256Map<Arc<SignedTx>>) -> Result<(Block, Diff), Malformed> {
    let mut from = Reader(payload);
    let header = get_header(&mut from)?;
    let count = from.u32()? as usize;
    let (mut included, mut receipts) = (Vec::new(), Vec::new());
    let (mut gas_before, mut first_log) = (0, 0);
    for _ in 0..count {
        let hash = from.hash()?;
        included.push(txs.remove(&hash).ok_or("a block names a transaction that is not in the log")?);
        let receipt = get_receipt(&mut from, gas_before, first_log)?;
        gas_before = receipt.cumulative_gas_used;
        first_log += receipt.logs.len() as u64;
        receipts.push(receipt);
    }
    let diff = get_diff(&mut from)?;
    from.end()?;
    let hash = header.hash_slow();
    Ok((Block { header, hash, txs: included, receipts }, diff))
}

fn put_receipt(out: &mut Writer, receipt: &Receipt) {
    out.u8(u8::from(receipt.success) | if receipt.created.is_some() { 2 } else { 0 });
    out.u64(receipt.gas_used);
    out.raw(&receipt.effective_price.to_le_bytes());
    if let Some(created) = &receipt.created {
        out.raw(created.as_slice());
    }
    out.u32(receipt.logs.len() as u32);
    for log in &receipt.logs {
        out.raw(log.address.as_slice());
        out.u8(log.data.topics().len() as u8);
        for topic in log.data.topics() {
            out.raw(topic.as_slice());
        }
        out.bytes(&log.data.data);
    }
}

fn get_receipt(from: &mut Reader<'_>, gas_before: u64, first_log: u64) -> Result<Receipt, Malformed> {
    let flags = from.u8()?;
    let gas_used = from.u64()?;
    let price = from.raw(16)?.try_into().map_err(|_| "it ends too early")?;
    let created = if flags & 2 != 0 { Some(from.address()?) } else { None };
    let count = from.u32()?;
    let mut logs = Vec::new();
    for _ in 0..count {
        let address = from.address()?;
        let topics = from.u8()?;
        let topics = (0..topics).map(|_| from.hash()).collect::<Result<Vec<_>, _>>()?;
        let data = Bytes::copy_from_slice(from.bytes()?);
        logs.push(Log::new(address, topics, data).ok_or("a log has too many topics")?);
    }
    Ok(Receipt {
        success: flags & 1 != 0,
        gas_used,
        cumulative_gas_used: gas_before + gas_used,
        effective_price: u128::from_le_bytes(price),
        created,
        logs,
        first_log,
    })
}

fn put_diff(out: &mut Writer, diff: &Diff) {
    out.u32(diff.infos.len() as u32);
    for (address, info) in &diff.infos {
        out.raw(address.as_slice());
        out.u8(u8::from(info.is_some()));
        if let Some(info) = info {
            out.info(info);
        }
    }
    out.u32(diff.slots.len() as u32);
    for ((address, key), value) in &diff.slots {
        out.raw(address.as_slice());
        out.word(key);
        out.word(value);
    }
    out.u32(diff.codes.len() as u32);
    for code in diff.codes.values() {
        out.bytes(&code.original_bytes());
    }
}

fn get_diff(from: &mut Reader<'_>) -> Result<Diff, Malformed> {
    let mut diff = Diff::default();
    for _ in 0..from.u32()? {
        let address = from.address()?;
        let info = if from.u8()? == 1 { Some(from.info()?) } else { None };
        diff.infos.insert(address, info);
    }
    for _ in 0..from.u32()? {
        let slot = (from.address()?, from.word()?);
        diff.slots.insert(slot, from.word()?);
    }
    for _ in 0..from.u32()? {
        let code = Bytecode::new_legacy(Bytes::copy_from_slice(from.bytes()?));
        diff.codes.insert(code.hash_slow(), code);
    }
    Ok(diff)
}
