//! JSON-RPC 2.0 in process: bytes in, bytes out. Bad input is answered, never raised.

mod access;
mod batch;
mod call;
mod chain_reads;
mod dev;
mod fees;
mod filters;
mod logs;
mod params;
mod render;
mod request;

pub use call::simple_call;
pub use filters::Filters;

use crate::{
    chain::Chain,
    error::{INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR, Result, RpcError},
};
use params::Params;
use serde_json::{Value, json};

/// Several raw transactions of the largest size fit; more is refused unread.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// geth's bound on the requests of a batch.
pub const BATCH_MAX: usize = 1_000;
/// A batch stops being answered in full beyond this many bytes.
pub const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Nested arrays and objects beyond this are refused before they are parsed.
pub const DEPTH_MAX: usize = 32;

/// Answers one request or batch. Empty when the body holds nothing but notifications.
pub fn handle(chain: &Chain, filters: &Filters, body: &[u8]) -> Vec<u8> {
    if body.len() > BODY_BYTES_MAX {
        let message = format!("request body of {} bytes is above the limit of {BODY_BYTES_MAX}", body.len());
        return failure(Value::Null, &RpcError::new(INVALID_REQUEST, message));
    }
    if nesting(body) > DEPTH_MAX {
        let message = format!("request is nested deeper than {DEPTH_MAX}");
        return failure(Value::Null, &RpcError::new(INVALID_REQUEST, message));
    }
    match serde_json::from_slice::<Value>(body) {
        Err(error) => failure(Value::Null, &RpcError::new(PARSE_ERROR, format!("invalid JSON: {error}"))),
        Ok(Value::Array(requests)) => batch::answer(chain, filters, requests),
        Ok(request) => Incoming::read(request).answer(chain, filters).unwrap_or_default(),
    }
}

/// The deepest nesting of brackets outside strings; cheap, and right for every valid text.
fn nesting(body: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0usize);
    let mut rest = body;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => rest = behind_string(after),
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// What follows the quote that ends a string.
fn behind_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        let quote = rest[at] == b'"';
        rest = rest.get(at + if quote { 1 } else { 2 }..).unwrap_or_default();
        if quote {
            return rest;
        }
    }
    &[]
}

/// One request as it came in.
enum Incoming {
    /// Not a request at all; it is answered whether it has an id or not.
    Invalid { id: Value, message: &'static str },
    /// Without an id it is a notification: done, and not answered.
    Call { id: Option<Value>, method: String, params: Result<Params> },
}

impl Incoming {
    fn read(request: Value) -> Self {
        let invalid = |id: Value, message| Self::Invalid { id, message };
        let Value::Object(mut request) = request else {
            return invalid(Value::Null, "a request is a JSON object");
        };
        let id = request.remove("id");
        if !matches!(id, None | Some(Value::Null | Value::Number(_) | Value::String(_))) {
            return invalid(Value::Null, "id must be a number, a string or null");
        }
        if request.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return invalid(id.unwrap_or_default(), "jsonrpc must be \"2.0\"");
        }
        let Some(Value::String(method)) = request.remove("method") else {
            return invalid(id.unwrap_or_default(), "method must be a string");
        };
        let params = match request.remove("params") {
            None | Some(Value::Null) => Ok(Params::new(Vec::new())),
            Some(Value::Array(params)) => Ok(Params::new(params)),
            Some(_) => Err(RpcError::params("params must be an array")),
        };
        Self::Call { id, method, params }
    }

    /// Does what is asked; None for a notification.
    fn answer(self, chain: &Chain, filters: &Filters) -> Option<Vec<u8>> {
        match self {
            Self::Invalid { id, message } => Some(failure(id, &RpcError::new(INVALID_REQUEST, message))),
            Self::Call { id, method, params } => {
                render_result(id, params.and_then(|params| dispatch(chain, filters, &method, params)))
            }
        }
    }
}

/// The answer to a call; None for a notification.
fn render_result(id: Option<Value>, result: Result<Value>) -> Option<Vec<u8>> {
    let id = id?;
    Some(match result {
        Ok(value) => render_answer(&json!({"jsonrpc": "2.0", "id": id, "result": value})),
        Err(error) => failure(id, &error),
    })
}

fn failure(id: Value, error: &RpcError) -> Vec<u8> {
    let mut object = json!({"code": error.code, "message": error.message});
    if let Some(data) = &error.data {
        object["data"] = render::bytes(data);
    }
    render_answer(&json!({"jsonrpc": "2.0", "id": id, "error": object}))
}

fn render_answer(answer: &Value) -> Vec<u8> {
    answer.to_string().into_bytes()
}

fn dispatch(chain: &Chain, filters: &Filters, method: &str, params: Params) -> Result<Value> {
    match method {
        "eth_chainId" => Ok(render::quantity(chain.config.chain_id)),
        "net_version" => Ok(json!(chain.config.chain_id.to_string())),
        "net_listening" => Ok(json!(true)),
        "net_peerCount" => Ok(json!("0x0")),
        "web3_clientVersion" => Ok(json!(concat!("parallel-evm/", env!("CARGO_PKG_VERSION")))),
        "web3_sha3" => chain_reads::sha3(params),
        "eth_accounts" => Ok(json!([])),
        "eth_syncing" => Ok(json!(false)),
        "eth_blockNumber" => Ok(render::quantity(chain.head().blocks.latest().number())),
        "eth_getBlockByNumber" => chain_reads::block_by_number(chain, params),
        "eth_getBlockByHash" => chain_reads::block_by_hash(chain, params),
        "eth_getBlockTransactionCountByNumber" => chain_reads::tx_count_by_number(chain, params),
        "eth_getBlockTransactionCountByHash" => chain_reads::tx_count_by_hash(chain, params),
        "eth_getTransactionByHash" => chain_reads::transaction(chain, params),
        "eth_getTransactionByBlockHashAndIndex" => chain_reads::transaction_in_hash(chain, params),
        "eth_getTransactionByBlockNumberAndIndex" => chain_reads::transaction_in_number(chain, params),
        "eth_getRawTransactionByHash" => chain_reads::raw_transaction(chain, params),
        "eth_getTransactionReceipt" => chain_reads::receipt(chain, params),
        "eth_getBlockReceipts" => chain_reads::block_receipts(chain, params),
        "eth_getTransactionCount" => access::nonce(chain, params),
        "eth_getBalance" => access::balance(chain, params),
        "eth_getCode" => access::code(chain, params),
        "eth_getStorageAt" => access::storage(chain, params),
        "eth_call" => call::call(chain, params),
        "eth_estimateGas" => call::estimate_gas(chain, params),
        "eth_createAccessList" => call::access_list(chain, params),
        "eth_gasPrice" => fees::gas_price(chain),
        "eth_maxPriorityFeePerGas" => fees::priority_fee(chain),
        "eth_blobBaseFee" => Ok(json!("0x1")),
        "eth_feeHistory" => fees::history(chain, params),
        batch::SEND_RAW => chain_reads::send_raw(chain, params),
        "eth_getLogs" => logs::get(chain, params),
        "eth_newFilter" => filters::new_log(chain, filters, params),
        "eth_newBlockFilter" => filters::new_block(chain, filters),
        "eth_newPendingTransactionFilter" => filters::new_pending(chain, filters),
        "eth_getFilterChanges" => filters::changes(chain, filters, params),
        "eth_getFilterLogs" => filters::all_logs(chain, filters, params),
        "eth_uninstallFilter" => filters::uninstall(filters, params),
        _ if chain.config.dev => dev::dispatch(chain, method, params),
        _ => Err(unknown(method)),
    }
}

/// The refusal of a method that does not exist, or is not opened.
fn unknown(method: &str) -> RpcError {
    let shown: String = method.chars().take(64).collect();
    RpcError::new(METHOD_NOT_FOUND, format!("the method {shown} does not exist/is not available"))
}
