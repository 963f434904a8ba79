//! Parameters of JSON-RPC methods, read strictly.

use crate::{
    block::Block,
    chain::Head,
    error::{Result, RpcError},
};
use alloy_primitives::{Address, B256, Bytes, U256, hex};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The positional parameters of one request.
pub struct Params(Vec<Value>);

impl Params {
    pub fn new(values: Vec<Value>) -> Self {
        Self(values)
    }

    /// The parameter, None where it is absent or null.
    pub fn get(&self, index: usize) -> Option<&Value> {
        self.0.get(index).filter(|value| !value.is_null())
    }

    pub fn need(&self, index: usize, what: &str) -> Result<&Value> {
        self.get(index).ok_or_else(|| RpcError::params(format!("missing value for required argument {index}: {what}")))
    }

    pub fn address(&self, index: usize) -> Result<Address> {
        address(self.need(index, "address")?)
    }

    pub fn hash(&self, index: usize) -> Result<B256> {
        hash(self.need(index, "hash")?)
    }

    pub fn bytes(&self, index: usize) -> Result<Bytes> {
        bytes(self.need(index, "data")?)
    }

    pub fn number(&self, index: usize) -> Result<u64> {
        u64_of(self.need(index, "number")?)
    }

    pub fn flag(&self, index: usize) -> Result<bool> {
        match self.get(index) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(RpcError::params(format!("argument {index} must be a boolean"))),
        }
    }

    pub fn block(&self, index: usize) -> Result<BlockId> {
        self.get(index).map_or(Ok(BlockId::Latest), block_id)
    }
}

/// A block as a client names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockId {
    /// Also safe and finalized: a block of a single authority is final at once.
    Latest,
    Pending,
    Number(u64),
    Hash(B256),
}

impl BlockId {
    /// The block, None where it does not exist.
    pub fn find<'a>(&self, head: &'a Head) -> Option<&'a Arc<Block>> {
        match self {
            Self::Latest | Self::Pending => Some(head.blocks.latest()),
            Self::Number(number) => head.blocks.get(*number),
            Self::Hash(hash) => head.blocks.by_hash(hash),
        }
    }

    /// The block; an error that says why where there is none.
    pub fn need<'a>(&self, head: &'a Head) -> Result<&'a Arc<Block>> {
        self.find(head).ok_or_else(|| match self {
            Self::Number(number) if *number < head.blocks.oldest_number() => pruned(*number, head),
            _ => RpcError::server("header not found"),
        })
    }
}

/// The refusal for a block that existed but is no longer held.
pub fn pruned(number: u64, head: &Head) -> RpcError {
    RpcError::server(format!("block {number} is no longer held, the oldest is {}", head.blocks.oldest_number()))
}

fn text<'a>(value: &'a Value, what: &str) -> Result<&'a str> {
    value.as_str().ok_or_else(|| RpcError::params(format!("invalid argument: {what} must be a string")))
}

fn digits<'a>(value: &'a Value, what: &str) -> Result<&'a str> {
    let text = text(value, what)?;
    text.strip_prefix("0x").ok_or_else(|| RpcError::params(format!("invalid argument: {what} needs a 0x prefix")))
}

pub fn bytes(value: &Value) -> Result<Bytes> {
    let digits = digits(value, "hex data")?;
    hex::decode(digits).map(Bytes::from).map_err(|_| RpcError::params("invalid argument: not hex data of whole bytes"))
}

pub fn address(value: &Value) -> Result<Address> {
    let raw = bytes(value)?;
    Address::try_from(raw.as_ref()).map_err(|_| RpcError::params("invalid argument: an address has 20 bytes"))
}

pub fn hash(value: &Value) -> Result<B256> {
    let raw = bytes(value)?;
    B256::try_from(raw.as_ref()).map_err(|_| RpcError::params("invalid argument: a hash has 32 bytes"))
}

/// A quantity; leading zeros are tolerated, as web3 libraries send them.
pub fn u256(value: &Value) -> Result<U256> {
    if let Some(number) = value.as_u64() {
        return Ok(U256::from(number));
    }
    let digits = digits(value, "a quantity")?;
    let invalid = || RpcError::params("invalid argument: not a hex quantity of at most 256 bits");
    if digits.is_empty() || digits.len() > 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(invalid());
    }
    U256::from_str_radix(digits, 16).map_err(|_| invalid())
}

pub fn u64_of(value: &Value) -> Result<u64> {
    u64::try_from(u256(value)?).map_err(|_| RpcError::params("invalid argument: quantity above 64 bits"))
}

pub fn u128_of(value: &Value) -> Result<u128> {
    u128::try_from(u256(value)?).map_err(|_| RpcError::params("invalid argument: quantity above 128 bits"))
}

pub fn block_id(value: &Value) -> Result<BlockId> {
    match value {
        Value::String(tag) => match tag.as_str() {
            "latest" | "safe" | "finalized" => Ok(BlockId::Latest),
            "pending" => Ok(BlockId::Pending),
            "earliest" => Ok(BlockId::Number(0)),
            hash_text if hash_text.len() == 66 => hash(value).map(BlockId::Hash),
            _ => u64_of(value).map(BlockId::Number),
        },
        Value::Number(_) => u64_of(value).map(BlockId::Number),
        Value::Object(object) => block_object(object),
        _ => Err(RpcError::params("invalid argument: a block is a tag, a number or an object")),
    }
}

/// EIP-1898.
fn block_object(object: &Map<String, Value>) -> Result<BlockId> {
    match (object.get("blockHash"), object.get("blockNumber")) {
        (Some(value), None) => hash(value).map(BlockId::Hash),
        (None, Some(value)) => u64_of(value).map(BlockId::Number),
        _ => Err(RpcError::params("invalid argument: give either blockHash or blockNumber")),
    }
}
