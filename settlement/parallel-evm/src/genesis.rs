//! The first block from a geth-like JSON document.

use crate::{
    error::{Result, RpcError},
    state::{Diff, Info},
};
use alloy_primitives::{Address, B256, Bytes, U256, hex, map::AddressMap};
use revm::bytecode::Bytecode;
use serde::Deserialize;
use serde_json::{Map, Value, error::Category, value::RawValue};
use std::collections::BTreeMap;

/// The block gas limit where genesis names none: the site chain's.
pub const DEFAULT_GAS_LIMIT: u64 = 1_000_000_000;
/// 1 gwei, as geth starts.
pub const DEFAULT_BASE_FEE: u64 = 1_000_000_000;

/// What the document says. Accounts are kept as text: a chain that goes on where it was left does not need them.
#[derive(Debug)]
pub struct Genesis {
    alloc: String,
    pub timestamp: u64,
    pub gas_limit: u64,
    pub base_fee: u64,
    pub coinbase: Option<Address>,
    pub extra_data: Bytes,
}

fn bad(path: &str, wanted: &str) -> RpcError {
    RpcError::params(format!("genesis: {path} must be {wanted}"))
}

fn not_json(error: serde_json::Error) -> RpcError {
    RpcError::params(format!("genesis: not JSON: {error}"))
}

fn parsed(raw: &RawValue) -> Result<Value> {
    Value::deserialize(raw).map_err(not_json)
}

/// A number as JSON number, decimal string or 0x-hex.
fn number(value: &Value, path: &str) -> Result<U256> {
    let parsed = match value {
        Value::Number(number) => number.as_u64().map(U256::from),
        Value::String(text) => match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some("") => Some(U256::ZERO),
            Some(digits) => U256::from_str_radix(digits, 16).ok(),
            None => U256::from_str_radix(text, 10).ok(),
        },
        _ => None,
    };
    parsed.ok_or_else(|| bad(path, "a number or a 0x-hex string"))
}

fn small(value: &Value, path: &str) -> Result<u64> {
    u64::try_from(number(value, path)?).map_err(|_| bad(path, "below 2^64"))
}

fn bytes(value: &Value, path: &str) -> Result<Vec<u8>> {
    let text = value.as_str().ok_or_else(|| bad(path, "a 0x-hex string"))?;
    hex::decode(text).map_err(|_| bad(path, "a 0x-hex string of whole bytes"))
}

/// Accepts any length up to 32 bytes, as geth does.
fn word(text: &str, path: &str) -> Result<U256> {
    let digits = text.strip_prefix("0x").unwrap_or(text).as_bytes();
    let mut padded = [b'0'; 64];
    let start = padded.len().checked_sub(digits.len()).ok_or_else(|| bad(path, "at most 32 bytes"))?;
    padded[start..].copy_from_slice(digits);
    let mut word = [0; 32];
    hex::decode_to_slice(padded, &mut word).map_err(|_| bad(path, "0x-hex of at most 32 bytes"))?;
    Ok(U256::from_be_bytes(word))
}

impl Genesis {
    /// Parses the document but for its accounts. Errors name the key at fault.
    pub fn parse(text: &str) -> Result<Self> {
        let top: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(|error| match error.classify() {
            Category::Data => bad("the document", "a JSON object"),
            _ => not_json(error),
        })?;
        let value = |name: &str| top.get(name).map(|raw| parsed(raw)).transpose();
        let field = |name: &str, default: u64| value(name)?.map_or(Ok(default), |value| small(&value, name));
        let gas_limit = field("gasLimit", DEFAULT_GAS_LIMIT)?;
        if gas_limit < 21_000 {
            return Err(bad("gasLimit", "at least 21000"));
        }
        let coinbase = match value("coinbase")? {
            Some(value) => Some(
                Address::try_from(bytes(&value, "coinbase")?.as_slice()).map_err(|_| bad("coinbase", "20 bytes"))?,
            ),
            None => None,
        };
        let extra_data = value("extraData")?.map_or(Ok(Vec::new()), |value| bytes(&value, "extraData"))?;
        if extra_data.len() > 32 {
            return Err(bad("extraData", "at most 32 bytes"));
        }
        Ok(Self {
            alloc: top.get("alloc").map_or("{}", |raw| raw.get()).to_string(),
            timestamp: field("timestamp", 0)?,
            gas_limit,
            base_fee: field("baseFeePerGas", DEFAULT_BASE_FEE)?,
            coinbase,
            extra_data: extra_data.into(),
        })
    }

    /// The accounts. Errors name the key at fault.
    pub fn alloc(&self) -> Result<Diff> {
        let value: Value = serde_json::from_str(&self.alloc).map_err(not_json)?;
        alloc(value.as_object().ok_or_else(|| bad("alloc", "an object"))?)
    }

    /// Names the text of the accounts: equal digests mean equal accounts, while the reverse need not be true.
    pub fn alloc_digest(&self) -> B256 {
        alloy_primitives::keccak256(&self.alloc)
    }
}

fn alloc(entries: &Map<String, Value>) -> Result<Diff> {
    let mut diff = Diff::default();
    let mut infos: AddressMap<Option<Info>> = AddressMap::default();
    for (key, value) in entries {
        let path = format!("alloc.{key}");
        let raw = hex::decode(key).map_err(|_| bad(&path, "keyed by an address"))?;
        let address = Address::try_from(raw.as_slice()).map_err(|_| bad(&path, "keyed by 20 bytes"))?;
        let entry = value.as_object().ok_or_else(|| bad(&path, "an object"))?;
        let mut info = Info::default();
        if let Some(balance) = entry.get("balance") {
            info.balance = number(balance, &format!("{path}.balance"))?;
        }
        if let Some(nonce) = entry.get("nonce") {
            info.nonce = small(nonce, &format!("{path}.nonce"))?;
        }
        if let Some(code) = entry.get("code") {
            let code = bytes(code, &format!("{path}.code"))?;
            if !code.is_empty() {
                let code = Bytecode::new_legacy(code.into());
                info.code_hash = code.hash_slow();
                diff.codes.insert(info.code_hash, code);
            }
        }
        if let Some(storage) = entry.get("storage") {
            let path = format!("{path}.storage");
            let storage = storage.as_object().ok_or_else(|| bad(&path, "an object"))?;
            if !storage.is_empty() && !info.has_code() {
                return Err(bad(&path, "absent for an account without code"));
            }
            for (slot, value) in storage {
                let text = value.as_str().ok_or_else(|| bad(&path, "of 0x-hex strings"))?;
                let value = word(text, &path)?;
                if !value.is_zero() {
                    diff.slots.insert((address, word(slot, &path)?), value);
                }
            }
        }
        if !info.is_empty() && infos.insert(address, Some(info)).is_some() {
            return Err(bad(&path, "named once"));
        }
    }
    diff.infos = infos;
    Ok(diff)
}

/// PREVRANDAO of a block: there is no beacon, so it is derived from the parent, and nobody may rely on it.
pub fn prevrandao(parent_hash: &B256) -> B256 {
    alloy_primitives::keccak256(parent_hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_full_document() {
        let text = r#"{"alloc":{"0x00000000000000000000000000000000000000AA":{"balance":"0x10","nonce":"1","code":"0x6001",
            "storage":{"0x01":"0x02","0x3":"0x0"}},"00000000000000000000000000000000000000bb":{}},
            "timestamp":"0x64","gasLimit":30000000,"baseFeePerGas":"0x7"}"#;
        let genesis = Genesis::parse(text).unwrap();
        let alloc = genesis.alloc().unwrap();
        assert_eq!((genesis.timestamp, genesis.gas_limit, genesis.base_fee), (100, 30_000_000, 7));
        assert_eq!(alloc.infos.len(), 1);
        assert_eq!(alloc.slots.len(), 1);
        assert_eq!(alloc.codes.len(), 1);
    }

    #[test]
    fn names_the_key_at_fault() {
        for (text, part) in [
            ("{", "not JSON"),
            ("[]", "the document"),
            (r#"{"gasLimit":1e999}"#, "not JSON"),
            (r#"{"alloc":{"0x1":{"balance":"\ud800"}}}"#, "not JSON"),
            (r#"{"gasLimit":"x"}"#, "gasLimit"),
            (r#"{"gasLimit":1}"#, "gasLimit"),
            (r#"{"timestamp":"0x1ffffffffffffffff"}"#, "timestamp"),
            (r#"{"alloc":[]}"#, "alloc must"),
            (r#"{"alloc":{"0x1":{}}}"#, "alloc.0x1"),
            (r#"{"alloc":{"0x00000000000000000000000000000000000000aa":{"storage":{"0x1":"0x1"}}}}"#, "storage"),
            (r#"{"alloc":{"0x00000000000000000000000000000000000000aa":{"balance":"-1"}}}"#, "balance"),
        ] {
            let error = Genesis::parse(text).and_then(|genesis| genesis.alloc()).unwrap_err();
            assert!(error.message.contains(part), "{text}: {error}");
        }
    }
}
