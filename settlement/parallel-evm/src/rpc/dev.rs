//! Methods for tests, served only by a chain that was opened for development.

use super::{params::Params, render, unknown};
use crate::{chain::Chain, error::Result};
use serde_json::{Value, json};

pub fn dispatch(chain: &Chain, method: &str, params: Params) -> Result<Value> {
    match method {
        "evm_mine" => {
            let timestamp = params.get(0).map(super::params::u64_of).transpose()?;
            chain.produce_block(timestamp)?;
            Ok(json!("0x0"))
        }
        "evm_setNextBlockTimestamp" => {
            chain.set_next_timestamp(params.number(0)?)?;
            Ok(Value::Null)
        }
        "evm_snapshot" => Ok(render::quantity(chain.snapshot()?)),
        "evm_revert" => Ok(json!(chain.revert(params.number(0)?).is_ok())),
        _ => Err(unknown(method)),
    }
}
