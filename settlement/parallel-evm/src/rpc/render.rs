//! Chain objects as JSON, in the form that Ethereum clients expect.

use crate::{
    block::{Block, Receipt},
    tx::SignedTx,
};
use alloy_consensus::{Transaction, Typed2718};
use alloy_primitives::{B256, Bytes, Log, U256, hex};
use serde_json::{Map, Value, json};

pub fn quantity(number: u64) -> Value {
    Value::String(format!("{number:#x}"))
}

pub fn quantity_128(number: u128) -> Value {
    Value::String(format!("{number:#x}"))
}

pub fn quantity_256(number: &U256) -> Value {
    Value::String(format!("{number:#x}"))
}

pub fn bytes(data: &[u8]) -> Value {
    Value::String(hex::encode_prefixed(data))
}

pub fn block(block: &Block, full: bool) -> Value {
    let header = &block.header;
    let txs: Vec<Value> = if full {
        (0..block.txs.len()).map(|index| mined_tx(block, index)).collect()
    } else {
        block.txs.iter().map(|tx| bytes(tx.hash.as_slice())).collect()
    };
    json!({
        "number": quantity(header.number),
        "hash": bytes(block.hash.as_slice()),
        "parentHash": bytes(header.parent_hash.as_slice()),
        "nonce": bytes(header.nonce.as_slice()),
        "sha3Uncles": bytes(header.ommers_hash.as_slice()),
        "logsBloom": bytes(header.logs_bloom.as_slice()),
        "transactionsRoot": bytes(header.transactions_root.as_slice()),
        "stateRoot": bytes(header.state_root.as_slice()),
        "receiptsRoot": bytes(header.receipts_root.as_slice()),
        "miner": bytes(header.beneficiary.as_slice()),
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "extraData": bytes(&header.extra_data),
        "size": quantity(block.size() as u64),
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "mixHash": bytes(header.mix_hash.as_slice()),
        "baseFeePerGas": quantity(header.base_fee_per_gas.unwrap_or_default()),
        "withdrawalsRoot": header.withdrawals_root.map(|root| bytes(root.as_slice())),
        "withdrawals": [],
        "blobGasUsed": "0x0",
        "excessBlobGas": "0x0",
        "parentBeaconBlockRoot": header.parent_beacon_block_root.map(|root| bytes(root.as_slice())),
        "uncles": [],
        "transactions": txs,
    })
}

/// A transaction that is in a block.
pub fn mined_tx(block: &Block, index: usize) -> Value {
    let tx = &block.txs[index];
    let mut object = tx_object(tx);
    object.insert("blockHash".into(), bytes(block.hash.as_slice()));
    object.insert("blockNumber".into(), quantity(block.number()));
    object.insert("transactionIndex".into(), quantity(index as u64));
    let price = tx.effective_price(block.header.base_fee_per_gas.unwrap_or_default());
    object.insert("gasPrice".into(), quantity_128(price));
    Value::Object(object)
}

/// A transaction that waits.
pub fn waiting_tx(tx: &SignedTx) -> Value {
    let mut object = tx_object(tx);
    for key in ["blockHash", "blockNumber", "transactionIndex"] {
        object.insert(key.into(), Value::Null);
    }
    object.insert("gasPrice".into(), quantity_128(tx.fee_cap()));
    Value::Object(object)
}

fn tx_object(tx: &SignedTx) -> Map<String, Value> {
    let envelope = &tx.envelope;
    let signature = envelope.signature();
    let parity = u64::from(signature.v());
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.into(), value);
    put("hash", bytes(tx.hash.as_slice()));
    put("type", quantity(u64::from(envelope.ty())));
    put("from", bytes(tx.sender.as_slice()));
    put("to", envelope.to().map_or(Value::Null, |to| bytes(to.as_slice())));
    put("nonce", quantity(envelope.nonce()));
    put("gas", quantity(envelope.gas_limit()));
    put("value", quantity_256(&envelope.value()));
    put("input", bytes(envelope.input()));
    put("r", quantity_256(&signature.r()));
    put("s", quantity_256(&signature.s()));
    put("chainId", envelope.chain_id().map_or(Value::Null, quantity));
    if envelope.ty() == 0 {
        put(
            "v",
            quantity(envelope.chain_id().map_or(27 + parity, |id| id.saturating_mul(2).saturating_add(35 + parity))),
        );
        return object;
    }
    put("v", quantity(parity));
    put("yParity", quantity(parity));
    let list = envelope.access_list().into_iter().flat_map(|list| list.iter());
    let list: Vec<Value> = list
        .map(|item| {
            let keys: Vec<Value> = item.storage_keys.iter().map(|key| bytes(key.as_slice())).collect();
            json!({"address": bytes(item.address.as_slice()), "storageKeys": keys})
        })
        .collect();
    put("accessList", Value::Array(list));
    if let Some(tip) = envelope.max_priority_fee_per_gas() {
        put("maxFeePerGas", quantity_128(envelope.max_fee_per_gas()));
        put("maxPriorityFeePerGas", quantity_128(tip));
    }
    object
}

pub fn receipt(block: &Block, index: usize) -> Value {
    let (tx, receipt): (&SignedTx, &Receipt) = (&block.txs[index], &block.receipts[index]);
    let logs: Vec<Value> = (0..receipt.logs.len()).map(|at| log(block, index, at)).collect();
    json!({
        "type": quantity(u64::from(tx.envelope.ty())),
        "status": quantity(u64::from(receipt.success)),
        "transactionHash": bytes(tx.hash.as_slice()),
        "transactionIndex": quantity(index as u64),
        "blockHash": bytes(block.hash.as_slice()),
        "blockNumber": quantity(block.number()),
        "from": bytes(tx.sender.as_slice()),
        "to": tx.envelope.to().map(|to| bytes(to.as_slice())),
        "cumulativeGasUsed": quantity(receipt.cumulative_gas_used),
        "gasUsed": quantity(receipt.gas_used),
        "effectiveGasPrice": quantity_128(receipt.effective_price),
        "contractAddress": receipt.created.map(|address| bytes(address.as_slice())),
        "logs": logs,
        "logsBloom": bytes(receipt.bloom().as_slice()),
    })
}

/// One log of a block: the transaction's index, and the log's position in its receipt.
pub fn log(block: &Block, index: usize, at: usize) -> Value {
    let receipt = &block.receipts[index];
    let log: &Log = &receipt.logs[at];
    let topics: Vec<Value> = log.data.topics().iter().map(|topic| bytes(topic.as_slice())).collect();
    let data: &Bytes = &log.data.data;
    let tx_hash: &B256 = &block.txs[index].hash;
    json!({
        "address": bytes(log.address.as_slice()),
        "topics": topics,
        "data": bytes(data),
        "blockNumber": quantity(block.number()),
        "blockHash": bytes(block.hash.as_slice()),
        "blockTimestamp": quantity(block.header.timestamp),
        "transactionHash": bytes(tx_hash.as_slice()),
        "transactionIndex": quantity(index as u64),
        "logIndex": quantity(receipt.first_log + at as u64),
        "removed": false,
    })
}
