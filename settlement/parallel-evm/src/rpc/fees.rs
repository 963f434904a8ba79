//! Prices: what to offer, and what was paid.

use super::{
    params::{Params, u64_of},
    render,
};
use crate::{
    block::Block,
    chain::Chain,
    error::{Result, RpcError},
};
use serde_json::{Value, json};

/// geth's bound.
const HISTORY_BLOCKS_MAX: u64 = 1_024;
const PERCENTILES_MAX: usize = 100;
/// Suggested tip: the base fee again, at most this.
const TIP_MAX: u64 = 1_000_000_000;

fn suggested_tip(base_fee: u64) -> u64 {
    base_fee.min(TIP_MAX)
}

pub fn gas_price(chain: &Chain) -> Result<Value> {
    let base_fee = chain.next_base_fee(chain.head().blocks.latest());
    Ok(render::quantity(base_fee.saturating_add(suggested_tip(base_fee))))
}

pub fn priority_fee(chain: &Chain) -> Result<Value> {
    Ok(render::quantity(suggested_tip(chain.next_base_fee(chain.head().blocks.latest()))))
}

pub fn history(chain: &Chain, params: Params) -> Result<Value> {
    let count = u64_of(params.need(0, "block count")?)?.min(HISTORY_BLOCKS_MAX);
    let percentiles = percentiles(params.get(2))?;
    let head = chain.head();
    let newest = params.block(1)?.need(&head)?.number();
    let oldest = (newest + 1).saturating_sub(count).max(head.blocks.oldest_number());
    if count == 0 {
        return Ok(json!({"oldestBlock": "0x0", "gasUsedRatio": [], "baseFeePerGas": []}));
    }
    let blocks: Vec<_> = (oldest..=newest).filter_map(|number| head.blocks.get(number)).collect();
    let mut base_fees: Vec<Value> =
        blocks.iter().map(|block| render::quantity(block.header.base_fee_per_gas.unwrap_or_default())).collect();
    base_fees.extend(blocks.last().map(|block| render::quantity(chain.next_base_fee(block))));
    // A ratio for display, as the method defines it: no amount is computed from it.
    let ratios: Vec<f64> =
        blocks.iter().map(|block| block.header.gas_used as f64 / block.header.gas_limit as f64).collect();
    let blob_fees = vec!["0x1"; base_fees.len()];
    let blob_ratios = vec![0.0; ratios.len()];
    let mut answer = json!({
        "oldestBlock": render::quantity(oldest),
        "baseFeePerGas": base_fees,
        "gasUsedRatio": ratios,
        "baseFeePerBlobGas": blob_fees,
        "blobGasUsedRatio": blob_ratios,
    });
    if let Some(percentiles) = percentiles {
        answer["reward"] = blocks.iter().map(|block| rewards(block, &percentiles)).collect();
    }
    Ok(answer)
}

/// Percentiles in hundredths of a percent, rising.
fn percentiles(value: Option<&Value>) -> Result<Option<Vec<u64>>> {
    let Some(value) = value else { return Ok(None) };
    let invalid = || RpcError::params("invalid reward percentiles: at most 100 rising numbers from 0 to 100");
    let list = value.as_array().filter(|list| list.len() <= PERCENTILES_MAX).ok_or_else(invalid)?;
    let mut parsed = Vec::with_capacity(list.len());
    for item in list {
        let percent = item.as_f64().filter(|percent| (0.0..=100.0).contains(percent)).ok_or_else(invalid)?;
        parsed.push((percent * 100.0) as u64);
    }
    if !parsed.is_sorted() {
        return Err(invalid());
    }
    Ok(Some(parsed))
}

/// The tips below which these shares of the block's gas were spent.
fn rewards(block: &Block, percentiles: &[u64]) -> Value {
    let base_fee = u128::from(block.header.base_fee_per_gas.unwrap_or_default());
    let mut paid: Vec<(u128, u64)> = block
        .receipts
        .iter()
        .map(|receipt| (receipt.effective_price.saturating_sub(base_fee), receipt.gas_used))
        .collect();
    paid.sort_unstable();
    let tip_at = |share: u64| {
        let wanted = u128::from(block.header.gas_used) * u128::from(share) / 10_000;
        let mut spent = 0u128;
        for (tip, gas) in &paid {
            spent += u128::from(*gas);
            if spent >= wanted {
                return *tip;
            }
        }
        0
    };
    percentiles.iter().map(|share| render::quantity_128(tip_at(*share))).collect()
}
