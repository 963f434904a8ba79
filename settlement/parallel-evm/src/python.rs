//! The Python module: a thin layer that releases the GIL around everything that takes time.

use crate::{
    blocks::{BLOCKS_MAX, Retention},
    chain::{BlockStats, Chain, Config},
    error::RpcError as Refusal,
    genesis::Genesis,
    rpc::{self, Filters},
    store::OpenError,
};
use alloy_primitives::{Address, B256, U256};
use pyo3::{
    create_exception,
    exceptions::{PyException, PyOSError, PyOverflowError, PyValueError},
    prelude::*,
    types::{PyBytes, PyDict, PyInt, PyList},
};
use revm::primitives::hardfork::SpecId;
use std::path::PathBuf;

create_exception!(
    parallel_evm,
    RpcError,
    PyException,
    "A refusal: code (JSON-RPC error code), message, and data (revert data as bytes, or None)."
);

fn fault(py: Python<'_>, error: &Refusal) -> PyErr {
    let raised = RpcError::new_err((error.code, error.message.clone()));
    let value = raised.value(py);
    let data = error.data.as_ref().map(|data| PyBytes::new(py, data));
    let set = value
        .setattr("code", error.code)
        .and_then(|()| value.setattr("message", &error.message))
        .and_then(|()| value.setattr("data", data));
    match set {
        Ok(()) => raised,
        Err(other) => other,
    }
}

fn address(raw: &[u8]) -> PyResult<Address> {
    Address::try_from(raw).map_err(|_| PyValueError::new_err("an address has 20 bytes"))
}

/// A Python int from 0 to 2^256 - 1.
fn u256(value: &Bound<'_, PyInt>) -> PyResult<U256> {
    let raw = value
        .call_method1("to_bytes", (32, "big"))
        .map_err(|_| PyOverflowError::new_err("expected an int from 0 to 2**256 - 1"))?;
    Ok(U256::from_be_slice(raw.cast::<PyBytes>()?.as_bytes()))
}

fn to_int<'py>(py: Python<'py>, value: U256) -> PyResult<Bound<'py, PyAny>> {
    let raw = PyBytes::new(py, &value.to_be_bytes::<32>());
    py.get_type::<PyInt>().call_method1("from_bytes", (raw, "big"))
}

/// Figures of one produced block; times in microseconds.
#[pyclass(frozen, get_all, name = "BlockStats", module = "parallel_evm")]
struct PyBlockStats {
    number: u64,
    hash: Py<PyBytes>,
    timestamp: u64,
    transactions: u64,
    skipped: u64,
    gas_used: u64,
    executions: u64,
    reexecuted: u64,
    aborted: u64,
    fell_back: bool,
    threads: u32,
    busy_us: u64,
    execute_us: u64,
    root_us: u64,
    persist_us: u64,
    total_us: u64,
}

#[pymethods]
impl PyBlockStats {
    fn __repr__(&self) -> String {
        format!(
            "BlockStats(number={}, transactions={}, gas_used={}, executions={}, reexecuted={}, threads={}, total_us={})",
            self.number,
            self.transactions,
            self.gas_used,
            self.executions,
            self.reexecuted,
            self.threads,
            self.total_us
        )
    }
}

fn stats_object(py: Python<'_>, stats: BlockStats) -> PyBlockStats {
    PyBlockStats {
        number: stats.number,
        hash: PyBytes::new(py, stats.hash.as_slice()).unbind(),
        timestamp: stats.timestamp,
        transactions: stats.transactions,
        skipped: stats.skipped,
        gas_used: stats.gas_used,
        executions: stats.exec.executions,
        reexecuted: stats.exec.reexecuted,
        aborted: stats.exec.aborted,
        fell_back: stats.exec.fell_back,
        threads: stats.exec.threads,
        busy_us: stats.exec.busy_us,
        execute_us: stats.execute_us,
        root_us: stats.root_us,
        persist_us: stats.persist_us,
        total_us: stats.total_us,
    }
}

/// An execution layer in this process.
#[pyclass(frozen, name = "Chain", module = "parallel_evm")]
struct PyChain {
    chain: Chain,
    filters: Filters,
}

fn hardfork_of(name: &str) -> PyResult<SpecId> {
    match name {
        "cancun" => Ok(SpecId::CANCUN),
        other => Err(PyValueError::new_err(format!("hardfork {other:?} is not supported: use \"cancun\""))),
    }
}

#[pymethods]
impl PyChain {
    #[new]
    #[pyo3(signature = (*, chain_id=31402, genesis="{}", hardfork="cancun", auto_mine=false, dev=false, threads=None,
                        coinbase=None, fixed_base_fee=true, path=None, history_blocks=BLOCKS_MAX, keep_logs=false))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only options of a constructor")]
    fn new(
        py: Python<'_>,
        chain_id: u64,
        genesis: &str,
        hardfork: &str,
        auto_mine: bool,
        dev: bool,
        threads: Option<usize>,
        coinbase: Option<&[u8]>,
        fixed_base_fee: bool,
        path: Option<PathBuf>,
        history_blocks: usize,
        keep_logs: bool,
    ) -> PyResult<Self> {
        if !(1..=BLOCKS_MAX).contains(&history_blocks) {
            return Err(PyValueError::new_err(format!("history_blocks must be from 1 to {BLOCKS_MAX}")));
        }
        let retention = Retention { blocks: history_blocks, keep_logs, ..Retention::default() };
        let spec = hardfork_of(hardfork)?;
        let coinbase = coinbase.map(address).transpose()?;
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |count| count.get()));
        if !(1..=64).contains(&threads) {
            return Err(PyValueError::new_err("threads must be from 1 to 64"));
        }
        let genesis = Genesis::parse(genesis).map_err(|error| PyValueError::new_err(error.message))?;
        let built = py.detach(|| {
            let config = Config {
                chain_id,
                spec,
                gas_limit: genesis.gas_limit,
                coinbase: coinbase.or(genesis.coinbase).unwrap_or_default(),
                fixed_base_fee,
                auto_mine,
                dev,
                threads,
            };
            Chain::open_with(config, retention, &genesis, path.as_deref())
        });
        let chain = built.map_err(|error| match error {
            OpenError::Genesis(refused) => PyValueError::new_err(refused.message),
            OpenError::Storage(sentence) => PyOSError::new_err(sentence),
        })?;
        Ok(Self { chain, filters: Filters::default() })
    }

    /// Answers one JSON-RPC 2.0 request or batch; never raises for what the body says.
    fn rpc<'py>(&self, py: Python<'py>, body: &[u8]) -> Bound<'py, PyBytes> {
        let answer = py.detach(|| rpc::handle(&self.chain, &self.filters, body));
        PyBytes::new(py, &answer)
    }

    /// Takes a signed transaction in and returns its hash; raises RpcError.
    fn send_raw_transaction<'py>(&self, py: Python<'py>, raw: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let sent = py.detach(|| self.chain.send_raw(raw));
        let hash = sent.map_err(|error| fault(py, &error))?;
        Ok(PyBytes::new(py, hash.as_slice()))
    }

    /// Takes many in, senders recovered in parallel; per item its hash or the RpcError that refused it.
    fn send_raw_transactions<'py>(
        &self,
        py: Python<'py>,
        raws: Vec<Bound<'py, PyBytes>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let slices: Vec<&[u8]> = raws.iter().map(|raw| raw.as_bytes()).collect();
        let sent = py.detach(|| self.chain.send_raw_many(&slices));
        let results = PyList::empty(py);
        for result in sent {
            match result {
                Ok(hash) => results.append(PyBytes::new(py, hash.as_slice()))?,
                Err(error) => results.append(fault(py, &error).into_value(py))?,
            }
        }
        Ok(results)
    }

    /// Appends a block with all executable transactions; its time is the wall clock, never below the parent's.
    #[pyo3(signature = (timestamp=None))]
    fn produce_block(&self, py: Python<'_>, timestamp: Option<u64>) -> PyResult<PyBlockStats> {
        let produced = py.detach(|| self.chain.produce_block(timestamp));
        let stats = produced.map_err(|error| fault(py, &error))?;
        Ok(stats_object(py, stats))
    }

    /// Runs a call against the latest state and returns its output; raises RpcError with the revert data.
    #[pyo3(signature = (to, data, *, sender=None, value=None))]
    fn call<'py>(
        &self,
        py: Python<'py>,
        to: &[u8],
        data: &[u8],
        sender: Option<&[u8]>,
        value: Option<&Bound<'py, PyInt>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (to, sender) = (address(to)?, sender.map(address).transpose()?.unwrap_or_default());
        let value = value.map(u256).transpose()?.unwrap_or_default();
        let done = py.detach(|| rpc::simple_call(&self.chain, sender, to, value, data));
        let output = done.map_err(|error| fault(py, &error))?;
        Ok(PyBytes::new(py, &output))
    }

    /// The balance in wei at the head.
    fn balance<'py>(&self, py: Python<'py>, account: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let account = address(account)?;
        let held = py.detach(|| self.chain.head().state.info(&account).map(|info| info.balance));
        to_int(py, held.unwrap_or_default())
    }

    /// The account's nonce at the head; with pending=True the one its next transaction needs.
    #[pyo3(signature = (account, *, pending=false))]
    fn nonce(&self, py: Python<'_>, account: &[u8], pending: bool) -> PyResult<u64> {
        let account = address(account)?;
        Ok(py.detach(|| {
            let pool = self.chain.pool();
            let nonce = self.chain.head().state.info(&account).map_or(0, |info| info.nonce);
            if pending { pool.next_nonce(&account, nonce) } else { nonce }
        }))
    }

    /// The account's code at the head.
    fn code<'py>(&self, py: Python<'py>, account: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let account = address(account)?;
        let code = py.detach(|| {
            let head = self.chain.head();
            let info = head.state.info(&account)?;
            head.state.code(&info.code_hash).map(|code| code.original_bytes())
        });
        Ok(PyBytes::new(py, &code.unwrap_or_default()))
    }

    /// A storage word at the head.
    fn storage_at<'py>(
        &self,
        py: Python<'py>,
        account: &[u8],
        slot: &Bound<'py, PyInt>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (account, slot) = (address(account)?, u256(slot)?);
        to_int(py, py.detach(|| self.chain.head().state.slot(&(account, slot))))
    }

    /// Sets the time of the next block that is produced without one.
    fn set_next_timestamp(&self, py: Python<'_>, timestamp: u64) -> PyResult<()> {
        let set = py.detach(|| self.chain.set_next_timestamp(timestamp));
        set.map_err(|error| fault(py, &error))
    }

    /// Saves the chain (without waiting transactions) and returns a number for revert().
    fn snapshot(&self, py: Python<'_>) -> PyResult<u64> {
        let taken = py.detach(|| self.chain.snapshot());
        taken.map_err(|error| fault(py, &error))
    }

    /// Goes back to a snapshot, using it up; waiting transactions are dropped.
    fn revert(&self, py: Python<'_>, snapshot: u64) -> PyResult<()> {
        let done = py.detach(|| self.chain.revert(snapshot));
        done.map_err(|error| fault(py, &error))
    }

    /// Stores (digest, signature, address) triples that this process verified, so that contracts' ecrecover
    /// need not compute them again. The caller vouches for them: a wrong one makes this chain wrong.
    fn prime_ecrecover(&self, py: Python<'_>, verified: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>) -> PyResult<()> {
        for (digest, signature, signer) in &verified {
            if digest.len() != 32 || signature.len() != 65 || signer.len() != 20 {
                return Err(PyValueError::new_err("expected (32 bytes digest, 65 bytes signature, 20 bytes address)"));
            }
            if !matches!(signature[64], 0 | 1 | 27 | 28) {
                return Err(PyValueError::new_err("the signature's last byte must be 0, 1, 27 or 28"));
            }
        }
        py.detach(|| {
            for (digest, signature, signer) in &verified {
                let mut rs = [0u8; 64];
                rs.copy_from_slice(&signature[..64]);
                let recid = signature[64] % 27;
                self.chain.recover.prime(&B256::from_slice(digest), &rs, recid, Address::from_slice(signer));
            }
        });
        Ok(())
    }

    /// Writes a snapshot of the state and begins a new log, so that the next start has little to read.
    fn compact(&self, py: Python<'_>) -> PyResult<()> {
        let done = py.detach(|| self.chain.compact());
        done.map_err(|error| fault(py, &error))
    }

    /// Releases the data directory; reads go on, nothing is taken in any more.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.chain.close());
    }

    /// Counters: block, transactions waiting, accounts, slots, ecrecover cache hits and misses, syncs to the disk.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (waiting, ready, head) = py.detach(|| {
            let pool = self.chain.pool();
            let head = self.chain.head();
            let counts = (head.blocks.latest().number(), head.state.account_count(), head.state.slot_count());
            (pool.len(), pool.ready_count(), counts)
        });
        let (hits, misses) = self.chain.recover.counters();
        let counters = PyDict::new(py);
        counters.set_item("block_number", head.0)?;
        counters.set_item("pending", waiting)?;
        counters.set_item("executable", ready)?;
        counters.set_item("accounts", head.1)?;
        counters.set_item("slots", head.2)?;
        counters.set_item("ecrecover_hits", hits)?;
        counters.set_item("ecrecover_misses", misses)?;
        counters.set_item("syncs", py.detach(|| self.chain.syncs()))?;
        counters.set_item("threads", self.chain.config.threads)?;
        Ok(counters)
    }

    /// What each sender took of a block: (address, transactions, gas), the heaviest first.
    fn block_lanes<'py>(&self, py: Python<'py>, number: u64) -> PyResult<Vec<(Bound<'py, PyBytes>, u64, u64)>> {
        let lanes = py.detach(|| self.chain.block_lanes(number)).map_err(|error| fault(py, &error))?;
        Ok(lanes.into_iter().map(|(sender, txs, gas)| (PyBytes::new(py, sender.as_slice()), txs, gas)).collect())
    }

    /// Figures of the last produced block.
    fn last_block_stats(&self, py: Python<'_>) -> PyBlockStats {
        stats_object(py, self.chain.last_stats())
    }

    #[getter]
    fn chain_id(&self) -> u64 {
        self.chain.config.chain_id
    }

    #[getter]
    fn block_number(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.chain.head().blocks.latest().number())
    }

    #[getter]
    fn block_timestamp(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.chain.head().blocks.latest().header.timestamp)
    }

    #[getter]
    fn state_root<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let root = py.detach(|| self.chain.head().blocks.latest().header.state_root);
        PyBytes::new(py, root.as_slice())
    }

    #[getter]
    fn pending_count(&self, py: Python<'_>) -> usize {
        py.detach(|| self.chain.pool().len())
    }
}

/// An embedded EVM execution layer for one site: see Chain.
#[pymodule]
fn parallel_evm(module: &Bound<'_, PyModule>) -> PyResult<()> {
    crate::bound_hash_cache();
    module.add_class::<PyChain>()?;
    module.add_class::<PyBlockStats>()?;
    module.add_function(wrap_pyfunction!(crate::signers::recover_signers, module)?)?;
    module.add("RpcError", module.py().get_type::<RpcError>())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
