//! A call as clients ask for it, and the state overrides that may come with it.

use super::params;
use crate::error::{Result, RpcError};
use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_primitives::{
    Address, Bytes, TxKind, U256,
    map::{AddressMap, HashMap},
};
use revm::{bytecode::Bytecode, context::TxEnv};
use serde_json::{Map, Value};

/// Accounts that one call may override.
const OVERRIDES_MAX: usize = 256;

/// Values that a call sees instead of the state's.
#[derive(Clone, Default)]
pub struct Override {
    pub balance: Option<U256>,
    pub nonce: Option<u64>,
    pub code: Option<Bytecode>,
    /// All other slots read zero.
    pub whole_storage: bool,
    pub slots: HashMap<U256, U256>,
}

pub type Overrides = AddressMap<Override>;

/// A call as a client asks for it.
pub struct Request {
    pub tx: TxEnv,
    pub gas: Option<u64>,
    pub nonce: Option<u64>,
    pub priced: bool,
}

pub fn parse_request(value: &Value) -> Result<Request> {
    let object = value.as_object().ok_or_else(|| RpcError::params("a call is an object"))?;
    let field = |key: &str| object.get(key).filter(|value| !value.is_null());
    let price = field("gasPrice").map(params::u128_of).transpose()?;
    let cap = field("maxFeePerGas").map(params::u128_of).transpose()?;
    let tip = field("maxPriorityFeePerGas").map(params::u128_of).transpose()?;
    if price.is_some() && (cap.is_some() || tip.is_some()) {
        return Err(RpcError::params("both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified"));
    }
    let data = match (field("input"), field("data")) {
        (Some(input), Some(data)) if params::bytes(input)? != params::bytes(data)? => {
            return Err(RpcError::params("both \"data\" and \"input\" are set and not equal"));
        }
        (Some(data), _) | (None, Some(data)) => params::bytes(data)?,
        (None, None) => Bytes::new(),
    };
    let gas_price = price.or(cap).unwrap_or_default();
    let access_list = field("accessList").map_or(Ok(AccessList::default()), access_list_of)?;
    let tx = TxEnv {
        tx_type: if tip.is_some() || cap.is_some() { 2 } else { u8::from(!access_list.is_empty()) },
        caller: field("from").map_or(Ok(Address::ZERO), params::address)?,
        gas_limit: 0,
        gas_price,
        kind: field("to").map_or(Ok(TxKind::Create), |to| params::address(to).map(TxKind::Call))?,
        value: field("value").map_or(Ok(U256::ZERO), params::u256)?,
        data,
        nonce: 0,
        chain_id: None,
        access_list,
        gas_priority_fee: (tip.is_some() || cap.is_some()).then(|| tip.unwrap_or_default().min(gas_price)),
        blob_hashes: Vec::new(),
        max_fee_per_blob_gas: 0,
        authorization_list: Vec::new(),
    };
    Ok(Request {
        tx,
        gas: field("gas").map(params::u64_of).transpose()?,
        nonce: field("nonce").map(params::u64_of).transpose()?,
        priced: gas_price > 0,
    })
}

fn access_list_of(value: &Value) -> Result<AccessList> {
    let items = value.as_array().ok_or_else(|| RpcError::params("accessList is an array"))?;
    let item = |item: &Value| -> Result<AccessListItem> {
        let keys = item.get("storageKeys").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(AccessListItem {
            address: params::address(item.get("address").unwrap_or(&Value::Null))?,
            storage_keys: keys.iter().map(params::hash).collect::<Result<_>>()?,
        })
    };
    Ok(AccessList(items.iter().map(item).collect::<Result<_>>()?))
}

pub fn parse_overrides(value: Option<&Value>) -> Result<Overrides> {
    let Some(value) = value else { return Ok(Overrides::default()) };
    let object = value.as_object().ok_or_else(|| RpcError::params("state overrides are an object"))?;
    if object.len() > OVERRIDES_MAX {
        return Err(RpcError::limit(format!("at most {OVERRIDES_MAX} accounts can be overridden")));
    }
    object
        .iter()
        .map(|(key, value)| Ok((params::address(&Value::String(key.clone()))?, parse_override(value)?)))
        .collect()
}

fn parse_override(value: &Value) -> Result<Override> {
    let object: &Map<String, Value> = value.as_object().ok_or_else(|| RpcError::params("an override is an object"))?;
    let field = |key: &str| object.get(key).filter(|value| !value.is_null());
    let (whole, part) = (field("state"), field("stateDiff"));
    if whole.is_some() && part.is_some() {
        return Err(RpcError::params("an account has both 'state' and 'stateDiff'"));
    }
    let mut slots = HashMap::default();
    if let Some(values) = whole.or(part) {
        let values = values.as_object().ok_or_else(|| RpcError::params("overridden slots are an object"))?;
        for (slot, value) in values {
            slots.insert(params::u256(&Value::String(slot.clone()))?, params::u256(value)?);
        }
    }
    Ok(Override {
        balance: field("balance").map(params::u256).transpose()?,
        nonce: field("nonce").map(params::u64_of).transpose()?,
        code: field("code").map(params::bytes).transpose()?.map(Bytecode::new_legacy),
        whole_storage: whole.is_some(),
        slots,
    })
}
