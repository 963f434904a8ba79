//! Accounts and storage, at the head or at one of the blocks whose state is kept.

use super::{
    params::{BlockId, Params},
    render,
};
use crate::{
    chain::{Chain, Head},
    error::{Result, RpcError},
    history::{View, WINDOW_BLOCKS},
};
use alloy_primitives::{U256, hex};
use serde_json::Value;

/// The state after a named block, or a refusal: never the state of another block.
pub fn view(head: &Head, id: BlockId) -> Result<View<'_>> {
    let number = id.need(head)?.number();
    head.view(number).ok_or_else(|| {
        RpcError::server(format!(
            "missing trie node: the state of block {number} is not held (at most the last {WINDOW_BLOCKS} are)"
        ))
    })
}

pub fn nonce(chain: &Chain, params: Params) -> Result<Value> {
    let (address, id) = (params.address(0)?, params.block(1)?);
    let pool = (id == BlockId::Pending).then(|| chain.pool());
    let head = chain.head();
    let nonce = view(&head, id)?.info(&address).map_or(0, |info| info.nonce);
    Ok(render::quantity(pool.map_or(nonce, |pool| pool.next_nonce(&address, nonce))))
}

pub fn balance(chain: &Chain, params: Params) -> Result<Value> {
    let (address, id) = (params.address(0)?, params.block(1)?);
    let head = chain.head();
    let balance = view(&head, id)?.info(&address).map_or(U256::ZERO, |info| info.balance);
    Ok(render::quantity_256(&balance))
}

pub fn code(chain: &Chain, params: Params) -> Result<Value> {
    let (address, id) = (params.address(0)?, params.block(1)?);
    let head = chain.head();
    let view = view(&head, id)?;
    let code = view.info(&address).and_then(|info| view.code(&info.code_hash));
    Ok(code.map_or_else(|| "0x".into(), |code| Value::String(hex::encode_prefixed(code.original_bytes()))))
}

pub fn storage(chain: &Chain, params: Params) -> Result<Value> {
    let address = params.address(0)?;
    let slot = super::params::u256(params.need(1, "slot")?)?;
    let id = params.block(2)?;
    let head = chain.head();
    let value = view(&head, id)?.slot(&(address, slot));
    Ok(render::bytes(&value.to_be_bytes::<32>()))
}
