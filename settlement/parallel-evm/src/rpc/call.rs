//! Execution that leaves nothing behind: eth_call, eth_estimateGas, eth_createAccessList.

use super::{
    access,
    params::{BlockId, Params},
    render,
    request::{Overrides, Request, parse_overrides, parse_request},
};
use crate::{
    chain::{Chain, Head},
    error::{EXECUTION_REVERTED, Result, RpcError},
    exec::{
        BlockContext,
        evm::{account_info, build, run},
    },
    history::View,
    state::Info,
};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, map::HashMap};
use revm::{
    Database,
    bytecode::Bytecode,
    context::{
        CfgEnv,
        result::{EVMError, ExecutionResult, HaltReason, InvalidTransaction},
    },
    state::{AccountInfo, EvmState},
};
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc};

/// About half a second of execution, during which no block can be appended.
pub const CALL_GAS_MAX: u64 = 200_000_000;
/// Gas that one estimation may burn in all; a call dearer than a part of it gets a bound that is less tight.
const ESTIMATE_GAS_MAX: u64 = 600_000_000;
/// A view of the state with overrides, as revm sees it.
struct CallDb<'a> {
    view: &'a View<'a>,
    overrides: &'a Overrides,
    ancestors: Arc<HashMap<u64, B256>>,
}

impl Database for CallDb<'_> {
    type Error = Infallible;

    fn basic(&mut self, address: Address) -> std::result::Result<Option<AccountInfo>, Infallible> {
        let held = self.view.info(&address);
        let Some(over) = self.overrides.get(&address) else {
            return Ok(held.map(|info| {
                let code = if info.has_code() { self.view.code(&info.code_hash) } else { None };
                account_info(info, code)
            }));
        };
        let mut info: Info = held.unwrap_or_default();
        info.balance = over.balance.unwrap_or(info.balance);
        info.nonce = over.nonce.unwrap_or(info.nonce);
        let code = match &over.code {
            Some(code) => {
                info.code_hash = code.hash_slow();
                Some(code.clone())
            }
            None if info.has_code() => self.view.code(&info.code_hash),
            None => None,
        };
        Ok(Some(account_info(info, code)))
    }

    fn code_by_hash(&mut self, hash: B256) -> std::result::Result<Bytecode, Infallible> {
        Ok(self.view.code(&hash).unwrap_or_default())
    }

    fn storage(&mut self, address: Address, key: U256) -> std::result::Result<U256, Infallible> {
        if let Some(over) = self.overrides.get(&address) {
            if let Some(value) = over.slots.get(&key) {
                return Ok(*value);
            }
            if over.whole_storage {
                return Ok(U256::ZERO);
            }
        }
        Ok(self.view.slot(&(address, key)))
    }

    fn block_hash(&mut self, number: u64) -> std::result::Result<B256, Infallible> {
        Ok(self.ancestors.get(&number).copied().unwrap_or_default())
    }
}

/// One prepared simulation; it may be run several times with different gas.
struct Simulation<'a> {
    chain: &'a Chain,
    view: View<'a>,
    overrides: Overrides,
    block: BlockContext,
    request: Request,
}

impl<'a> Simulation<'a> {
    fn prepare(chain: &'a Chain, head: &'a Head, params: &Params) -> Result<Self> {
        let request = parse_request(params.need(0, "call")?)?;
        let id = params.block(1)?;
        let overrides = parse_overrides(params.get(2))?;
        let view = access::view(head, id)?;
        let mut block = chain.next_context(head, chain.pending_timestamp(head));
        if id != BlockId::Pending {
            let header = &id.need(head)?.header;
            block.number = header.number;
            block.timestamp = header.timestamp;
            block.base_fee = header.base_fee_per_gas.unwrap_or_default();
            block.prevrandao = header.mix_hash;
        }
        Ok(Self { chain, view, overrides, block, request })
    }

    fn cfg(&self) -> CfgEnv {
        let mut cfg = self.block.cfg_env();
        cfg.disable_block_gas_limit = true;
        cfg.disable_eip3607 = true;
        cfg.disable_nonce_check = self.request.nonce.is_none();
        cfg.disable_base_fee = !self.request.priced;
        cfg.tx_gas_limit_cap = Some(u64::MAX);
        cfg
    }

    fn run(&self, gas: u64) -> Result<(ExecutionResult, EvmState)> {
        let db = CallDb { view: &self.view, overrides: &self.overrides, ancestors: self.block.ancestors.clone() };
        let mut tx = self.request.tx.clone();
        tx.gas_limit = gas;
        tx.nonce = self.request.nonce.unwrap_or_default();
        // Calls with fees or an access list are of a type that is valid on one chain only.
        tx.chain_id = Some(self.chain.config.chain_id);
        let mut evm = build(db, self.block.block_env(), self.cfg(), &self.chain.recover);
        run(&mut evm, tx).map_err(refusal)
    }

    /// Return data, or the refusal that the failure stands for.
    fn output(&self) -> Result<Bytes> {
        match self.run(self.gas_ceiling()?)?.0 {
            ExecutionResult::Success { output, .. } => Ok(output.into_data()),
            ExecutionResult::Revert { output, .. } => Err(reverted(output)),
            ExecutionResult::Halt { reason, .. } => Err(halted(&reason)),
        }
    }

    /// The most gas that may be used: the request's, the cap, and what the sender can pay for.
    fn gas_ceiling(&self) -> Result<u64> {
        let mut ceiling = self.request.gas.unwrap_or(CALL_GAS_MAX).min(CALL_GAS_MAX);
        if self.request.priced {
            let caller = self.request.tx.caller;
            let overridden = self.overrides.get(&caller).and_then(|over| over.balance);
            let balance = overridden.or_else(|| self.view.info(&caller).map(|info| info.balance)).unwrap_or_default();
            let left = balance
                .checked_sub(self.request.tx.value)
                .ok_or_else(|| RpcError::server("insufficient funds for gas * price + value"))?;
            let affordable = left / U256::from(self.request.tx.gas_price);
            ceiling = ceiling.min(u64::try_from(affordable).unwrap_or(u64::MAX));
        }
        Ok(ceiling)
    }
}

fn refusal(error: EVMError<Infallible, InvalidTransaction>) -> RpcError {
    match error {
        EVMError::Transaction(InvalidTransaction::LackOfFundForMaxFee { fee, balance }) => RpcError::server(format!(
            "insufficient funds for gas * price + value: balance {balance}, tx cost {fee}, overshot {}",
            fee.saturating_sub(*balance)
        )),
        EVMError::Transaction(InvalidTransaction::CallGasCostMoreThanGasLimit { initial_gas, gas_limit }) => {
            RpcError::server(format!("intrinsic gas too low: gas {gas_limit}, minimum needed {initial_gas}"))
        }
        EVMError::Transaction(InvalidTransaction::NonceTooLow { tx, state }) => {
            RpcError::server(format!("nonce too low: next nonce {state}, tx nonce {tx}"))
        }
        EVMError::Transaction(InvalidTransaction::NonceTooHigh { tx, state }) => {
            RpcError::server(format!("nonce too high: next nonce {state}, tx nonce {tx}"))
        }
        other => RpcError::server(other.to_string()),
    }
}

/// The selector of Error(string).
const ERROR_STRING: [u8; 4] = [0x08, 0xc3, 0x79, 0xa0];

/// The answer to a revert: code 3, the reason where there is a text, and the data.
fn reverted(data: Bytes) -> RpcError {
    let message = match reason(&data) {
        Some(reason) => format!("execution reverted: {reason}"),
        None => "execution reverted".to_string(),
    };
    RpcError { code: EXECUTION_REVERTED, message, data: Some(data) }
}

fn reason(data: &[u8]) -> Option<String> {
    let body = data.strip_prefix(&ERROR_STRING)?;
    let length = usize::try_from(U256::from_be_slice(body.get(32..64)?)).ok()?;
    let text = body.get(64..)?.get(..length)?;
    String::from_utf8(text.to_vec()).ok()
}

fn halted(reason: &HaltReason) -> RpcError {
    match reason {
        HaltReason::OutOfGas(_) => RpcError::server("out of gas"),
        HaltReason::InvalidFEOpcode | HaltReason::OpcodeNotFound => RpcError::server("invalid opcode"),
        HaltReason::StackUnderflow => RpcError::server("stack underflow"),
        HaltReason::InvalidJump => RpcError::server("invalid jump destination"),
        other => RpcError::server(format!("execution halted: {other:?}")),
    }
}

pub fn call(chain: &Chain, params: Params) -> Result<Value> {
    let head = chain.head();
    let simulation = Simulation::prepare(chain, &head, &params)?;
    Ok(render::bytes(&simulation.output()?))
}

/// A call against the latest state, for callers in this process.
pub fn simple_call(chain: &Chain, from: Address, to: Address, value: U256, data: &[u8]) -> Result<Bytes> {
    let request = json!({
        "from": render::bytes(from.as_slice()),
        "to": render::bytes(to.as_slice()),
        "value": render::quantity_256(&value),
        "data": render::bytes(data),
    });
    let head = chain.head();
    let simulation = Simulation::prepare(chain, &head, &Params::new(vec![request]))?;
    simulation.output()
}

/// The least gas with which the call succeeds, found by bisection.
pub fn estimate_gas(chain: &Chain, params: Params) -> Result<Value> {
    let head = chain.head();
    let simulation = Simulation::prepare(chain, &head, &params)?;
    let ceiling = simulation.gas_ceiling()?.min(chain.config.gas_limit);
    let used = match simulation.run(ceiling)?.0 {
        ExecutionResult::Success { gas, .. } => gas.tx_gas_used(),
        ExecutionResult::Revert { output, .. } => return Err(reverted(output)),
        ExecutionResult::Halt { reason: HaltReason::OutOfGas(_), .. } => {
            return Err(RpcError::server(format!("gas required exceeds allowance ({ceiling})")));
        }
        ExecutionResult::Halt { reason, .. } => return Err(halted(&reason)),
    };
    let mut spent = used;
    let enough = |gas: u64| simulation.run(gas).is_ok_and(|(result, _)| result.is_success());
    // Most calls need exactly what they used: one run instead of a bisection.
    let (mut low, mut high) = (used.saturating_sub(1), ceiling);
    if enough(used) {
        return Ok(render::quantity(used));
    }
    // EIP-150 holds back one part in 64 per frame, so a little more than was used suffices as a rule.
    let guess = used.saturating_add(used / 32).saturating_add(5_000).min(ceiling);
    if enough(guess) {
        high = guess;
    }
    low = low.max(used);
    while low + 1 < high && spent < ESTIMATE_GAS_MAX {
        spent = spent.saturating_add(used);
        let middle = low + (high - low) / 2;
        if enough(middle) { high = middle } else { low = middle }
    }
    Ok(render::quantity(high))
}

/// The accounts and slots that the call touches, beside its sender, target and the precompiles.
pub fn access_list(chain: &Chain, params: Params) -> Result<Value> {
    let head = chain.head();
    let simulation = Simulation::prepare(chain, &head, &params)?;
    let (result, state) = simulation.run(simulation.gas_ceiling()?)?;
    let target = match simulation.request.tx.kind {
        TxKind::Call(to) => to,
        TxKind::Create => Address::ZERO,
    };
    let own = [simulation.request.tx.caller, target, simulation.block.coinbase];
    let mut items: Vec<(Address, Vec<B256>)> = state
        .into_iter()
        .map(|(address, account)| {
            let mut keys: Vec<B256> = account.storage.keys().map(|key| B256::from(*key)).collect();
            keys.sort_unstable();
            (address, keys)
        })
        .filter(|(address, keys)| !keys.is_empty() || !(own.contains(address) || is_precompile(address)))
        .collect();
    items.sort_unstable();
    let list: Vec<Value> = items
        .iter()
        .map(|(address, keys)| {
            let keys: Vec<Value> = keys.iter().map(|key| render::bytes(key.as_slice())).collect();
            json!({"address": render::bytes(address.as_slice()), "storageKeys": keys})
        })
        .collect();
    let mut answer = json!({"accessList": list, "gasUsed": render::quantity(result.tx_gas_used())});
    if !result.is_success() {
        answer["error"] = json!("execution reverted");
    }
    Ok(answer)
}

fn is_precompile(address: &Address) -> bool {
    address[..19].iter().all(|byte| *byte == 0)
}
