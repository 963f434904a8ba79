//! Blocks, transactions and receipts; and the one write, a raw transaction.

use super::{
    params::{BlockId, Params},
    render,
};
use crate::{
    block::Block,
    chain::{Chain, Head},
    error::Result,
};
use alloy_primitives::keccak256;
use serde_json::Value;
use std::sync::Arc;

pub fn sha3(params: Params) -> Result<Value> {
    Ok(render::bytes(keccak256(params.bytes(0)?).as_slice()))
}

pub fn send_raw(chain: &Chain, params: Params) -> Result<Value> {
    let hash = chain.send_raw(&params.bytes(0)?)?;
    Ok(render::bytes(hash.as_slice()))
}

/// A named block; null where it was never produced, an error where it is no longer held.
fn find(head: &Head, id: BlockId) -> Result<Option<Arc<Block>>> {
    if let BlockId::Number(number) = id
        && number < head.blocks.oldest_number()
    {
        return id.need(head).cloned().map(Some);
    }
    Ok(id.find(head).cloned())
}

fn with_block(chain: &Chain, id: BlockId, show: impl FnOnce(&Block) -> Value) -> Result<Value> {
    let block = find(&chain.head(), id)?;
    Ok(block.map_or(Value::Null, |block| show(&block)))
}

pub fn block_by_number(chain: &Chain, params: Params) -> Result<Value> {
    params.need(0, "block number")?;
    let full = params.flag(1)?;
    with_block(chain, params.block(0)?, |block| render::block(block, full))
}

pub fn block_by_hash(chain: &Chain, params: Params) -> Result<Value> {
    let full = params.flag(1)?;
    with_block(chain, BlockId::Hash(params.hash(0)?), |block| render::block(block, full))
}

pub fn tx_count_by_number(chain: &Chain, params: Params) -> Result<Value> {
    with_block(chain, params.block(0)?, |block| render::quantity(block.txs.len() as u64))
}

pub fn tx_count_by_hash(chain: &Chain, params: Params) -> Result<Value> {
    with_block(chain, BlockId::Hash(params.hash(0)?), |block| render::quantity(block.txs.len() as u64))
}

pub fn transaction(chain: &Chain, params: Params) -> Result<Value> {
    let hash = params.hash(0)?;
    if let Some(tx) = chain.pool().get(&hash) {
        return Ok(render::waiting_tx(tx));
    }
    let found = chain.head().blocks.find_tx(&hash).map(|(block, index)| (block.clone(), index));
    Ok(found.map_or(Value::Null, |(block, index)| render::mined_tx(&block, index)))
}

fn tx_at(chain: &Chain, id: BlockId, index: u64) -> Result<Value> {
    with_block(chain, id, |block| match usize::try_from(index) {
        Ok(index) if index < block.txs.len() => render::mined_tx(block, index),
        _ => Value::Null,
    })
}

pub fn transaction_in_hash(chain: &Chain, params: Params) -> Result<Value> {
    tx_at(chain, BlockId::Hash(params.hash(0)?), params.number(1)?)
}

pub fn transaction_in_number(chain: &Chain, params: Params) -> Result<Value> {
    tx_at(chain, params.block(0)?, params.number(1)?)
}

pub fn raw_transaction(chain: &Chain, params: Params) -> Result<Value> {
    let hash = params.hash(0)?;
    if let Some(tx) = chain.pool().get(&hash) {
        return Ok(render::bytes(&tx.raw));
    }
    let head = chain.head();
    Ok(head.blocks.find_tx(&hash).map_or(Value::Null, |(block, index)| render::bytes(&block.txs[index].raw)))
}

pub fn receipt(chain: &Chain, params: Params) -> Result<Value> {
    let hash = params.hash(0)?;
    let found = chain.head().blocks.find_tx(&hash).map(|(block, index)| (block.clone(), index));
    Ok(found.map_or(Value::Null, |(block, index)| render::receipt(&block, index)))
}

pub fn block_receipts(chain: &Chain, params: Params) -> Result<Value> {
    params.need(0, "block")?;
    with_block(chain, params.block(0)?, |block| {
        Value::Array((0..block.txs.len()).map(|index| render::receipt(block, index)).collect())
    })
}
