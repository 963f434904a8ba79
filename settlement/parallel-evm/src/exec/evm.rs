//! The revm instance: mainnet rules, ecrecover through the cache, and no reward to the fee recipient
//! (executors add it themselves, so that it is no conflict between transactions).

use super::{BlockContext, Executed};
use crate::{
    ecrecover::RecoverCache,
    state::{Info, Writes},
};
use alloy_primitives::{Address, Bytes, U256, address};
use revm::{
    Context, Database, MainContext,
    context::{
        BlockEnv, CfgEnv, ContextSetters, ContextTr, Evm, FrameStack, JournalTr, TxEnv,
        result::{EVMError, ExecutionResult, HaltReason, InvalidTransaction, Output},
    },
    handler::{
        EthFrame, EthPrecompiles, FrameResult, Handler, MainnetContext, PrecompileProvider,
        instructions::EthInstructions,
    },
    interpreter::{CallInputs, Gas, InstructionResult, InterpreterResult, interpreter::EthInterpreter},
    primitives::{AddressSet, hardfork::SpecId},
    state::{AccountInfo, EvmState},
};
use std::marker::PhantomData;

const ECRECOVER: Address = address!("0000000000000000000000000000000000000001");
const ECRECOVER_GAS: u64 = 3_000;

/// The precompiles of the hardfork; ecrecover asks the cache first.
pub struct CachedPrecompiles<'c> {
    inner: EthPrecompiles,
    recover: &'c RecoverCache,
}

impl<CTX: ContextTr<Cfg = CfgEnv>> PrecompileProvider<CTX> for CachedPrecompiles<'_> {
    type Output = InterpreterResult;

    fn set_spec(&mut self, spec: SpecId) -> bool {
        <EthPrecompiles as PrecompileProvider<CTX>>::set_spec(&mut self.inner, spec)
    }

    fn run(&mut self, context: &mut CTX, inputs: &CallInputs) -> Result<Option<InterpreterResult>, String> {
        if inputs.bytecode_address != ECRECOVER || inputs.gas_limit < ECRECOVER_GAS {
            return <EthPrecompiles as PrecompileProvider<CTX>>::run(&mut self.inner, context, inputs);
        }
        let output = recover(self.recover, &inputs.input.as_bytes(context));
        let mut gas = Gas::new(inputs.gas_limit);
        let _ = gas.record_regular_cost(ECRECOVER_GAS);
        Ok(Some(InterpreterResult::new(InstructionResult::Return, output, gas)))
    }

    fn warm_addresses(&self) -> &AddressSet {
        self.inner.warm_addresses()
    }
}

/// The precompile at address 1: digest, v (27 or 28), r, s, each 32 bytes; nothing for a bad signature.
fn recover(cache: &RecoverCache, input: &[u8]) -> Bytes {
    let mut padded = [0u8; 128];
    let taken = input.len().min(128);
    padded[..taken].copy_from_slice(&input[..taken]);
    if padded[32..63].iter().any(|byte| *byte != 0) || !matches!(padded[63], 27 | 28) {
        return Bytes::new();
    }
    let digest = alloy_primitives::B256::from_slice(&padded[..32]);
    let mut rs = [0u8; 64];
    rs.copy_from_slice(&padded[64..]);
    match cache.recover(&digest, &rs, padded[63] - 27) {
        Some(signer) => Bytes::copy_from_slice(signer.into_word().as_slice()),
        None => Bytes::new(),
    }
}

pub type SiteEvm<'c, DB> = Evm<
    MainnetContext<DB>,
    (),
    EthInstructions<EthInterpreter, MainnetContext<DB>>,
    CachedPrecompiles<'c>,
    EthFrame<EthInterpreter>,
>;

pub type SiteError<DB> = EVMError<<DB as Database>::Error, InvalidTransaction>;

/// Builds an EVM over a database.
pub fn build<DB: Database>(db: DB, block: BlockEnv, cfg: CfgEnv, recover: &RecoverCache) -> SiteEvm<'_, DB> {
    let spec = cfg.spec;
    let ctx = Context::mainnet().with_db(db).with_block(block).with_cfg(cfg);
    Evm {
        ctx,
        inspector: (),
        instruction: EthInstructions::new_mainnet_with_spec(spec),
        precompiles: CachedPrecompiles { inner: EthPrecompiles::new(spec), recover },
        frame_stack: FrameStack::new_prealloc(8),
    }
}

struct SiteHandler<'c, DB>(PhantomData<(&'c (), DB)>);

impl<'c, DB: Database> Handler for SiteHandler<'c, DB> {
    type Evm = SiteEvm<'c, DB>;
    type Error = SiteError<DB>;
    type HaltReason = HaltReason;

    fn reward_beneficiary(&self, _: &mut Self::Evm, _: &mut FrameResult) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// Runs one transaction; the journal is empty afterwards, whatever the result.
pub fn run<DB: Database>(evm: &mut SiteEvm<'_, DB>, tx: TxEnv) -> Result<(ExecutionResult, EvmState), SiteError<DB>> {
    evm.ctx.set_tx(tx);
    let result = SiteHandler(PhantomData).run(evm);
    let state = evm.ctx.journal_mut().finalize();
    Ok((result?, state))
}

/// Runs one transaction of a block and takes apart what it did.
pub fn run_tx<DB: Database>(
    evm: &mut SiteEvm<'_, DB>,
    tx: TxEnv,
    price: u128,
    block: &BlockContext,
) -> Result<Executed, SiteError<DB>> {
    let (result, state) = run(evm, tx)?;
    let writes = Writes::from_evm(&state);
    let gas_used = result.tx_gas_used();
    let tip = price.saturating_sub(u128::from(block.base_fee));
    let reward = U256::from(tip) * U256::from(gas_used);
    let executed = match result {
        ExecutionResult::Success { logs, output, .. } => {
            let created = match &output {
                Output::Create(_, address) => *address,
                Output::Call(_) => None,
            };
            Executed { success: true, gas_used, logs, created, output: output.into_data(), reward, writes }
        }
        ExecutionResult::Revert { output, .. } => {
            Executed { success: false, gas_used, logs: Vec::new(), created: None, output, reward, writes }
        }
        ExecutionResult::Halt { .. } => {
            Executed { success: false, gas_used, logs: Vec::new(), created: None, output: Bytes::new(), reward, writes }
        }
    };
    Ok(executed)
}

/// The form of an account that revm loads; code is fetched by hash only when it is needed.
pub fn account_info(info: Info, code: Option<revm::bytecode::Bytecode>) -> AccountInfo {
    AccountInfo { balance: info.balance, nonce: info.nonce, code_hash: info.code_hash, account_id: None, code }
}
