//! The chain: one head that many threads read, one pool, one block producer at a time.
//!
//! Locks are always taken in this order: producer, pool, head. A block is executed while holding only
//! the producer's lock and a shared one on the head; the head is locked for writing just to apply it.

mod produce;
mod saved;

use crate::{
    block::{self, Block, Frame, Roots},
    blocks::{Blocks, Retention},
    ecrecover::RecoverCache,
    error::{Result, RpcError},
    exec::{BlockContext, ExecStats},
    genesis::{Genesis, prevrandao},
    history::{Undos, View},
    intake,
    mempool::Pool,
    roots::Tries,
    state::State,
    store::{self, Begun, Expected, OpenError, Recovered, Store},
    trie::EMPTY_ROOT,
    tx::SignedTx,
};
use alloy_primitives::{Address, B256, Bloom, keccak256, map::AddressMap};
use revm::primitives::hardfork::SpecId;
use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{SystemTime, UNIX_EPOCH},
};

/// The least gas that a transaction takes: bounds how many a block can hold.
const TX_GAS_MIN: u64 = 21_000;

/// What is fixed for the life of a chain.
#[derive(Clone, Debug)]
pub struct Config {
    pub chain_id: u64,
    pub spec: SpecId,
    pub gas_limit: u64,
    pub coinbase: Address,
    /// The base fee stays at genesis' value; otherwise it follows EIP-1559.
    pub fixed_base_fee: bool,
    pub auto_mine: bool,
    /// Serves the evm_ methods.
    pub dev: bool,
    /// Threads that execute a block; 1 is the sequential mode.
    pub threads: usize,
}

/// What readers see.
#[derive(Clone)]
pub struct Head {
    pub state: State,
    pub blocks: Blocks,
    undos: Undos,
}

impl Head {
    /// The state after a block; None if it is older than what is kept.
    pub fn view(&self, number: u64) -> Option<View<'_>> {
        View::at(&self.state, &self.undos, number, self.blocks.latest().number())
    }
}

/// What only the block producer touches.
#[derive(Clone)]
struct Producer {
    tries: Tries,
    next_timestamp: Option<u64>,
}

/// A saved chain, for tests.
struct Saved {
    id: u64,
    head: Head,
    producer: Producer,
}

/// Snapshots hold whole states, so few are kept.
const SNAPSHOTS_MAX: usize = 16;

/// One produced block, in figures.
#[derive(Clone, Debug, Default)]
pub struct BlockStats {
    pub number: u64,
    pub hash: B256,
    pub timestamp: u64,
    pub transactions: u64,
    pub skipped: u64,
    pub gas_used: u64,
    pub exec: ExecStats,
    pub execute_us: u64,
    pub root_us: u64,
    pub persist_us: u64,
    pub total_us: u64,
}

pub struct Chain {
    pub config: Config,
    pub recover: RecoverCache,
    producer: Mutex<Producer>,
    pool: Mutex<Pool>,
    head: RwLock<Head>,
    saved: Mutex<Vec<Saved>>,
    last_stats: Mutex<BlockStats>,
    storage: Mutex<Storage>,
}

/// A panic while a lock was held is a bug; the data behind it is replaced as a whole, so it stays usable.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Where a chain keeps what must survive.
enum Storage {
    Memory,
    Disk(Arc<Store>),
    Closed,
}

fn genesis_block(config: &Config, genesis: &Genesis, root: B256) -> Arc<Block> {
    let context = BlockContext {
        chain_id: config.chain_id,
        spec: config.spec,
        number: 0,
        timestamp: genesis.timestamp,
        gas_limit: config.gas_limit,
        base_fee: genesis.base_fee,
        coinbase: config.coinbase,
        prevrandao: B256::ZERO,
        ancestors: Arc::default(),
    };
    let roots = Roots { state: root, transactions: EMPTY_ROOT, receipts: EMPTY_ROOT, logs_bloom: Bloom::ZERO };
    let frame = Frame { parent_hash: B256::ZERO, extra_data: genesis.extra_data.clone() };
    Arc::new(block::seal(frame, &context, Vec::new(), Vec::new(), roots))
}

/// Names all that the first block is made from.
fn genesis_digest(config: &Config, genesis: &Genesis) -> B256 {
    let Genesis { timestamp, base_fee, extra_data, .. } = genesis;
    let fields = format!("{} {timestamp} {} {base_fee} {extra_data}", config.coinbase, config.gas_limit);
    keccak256([genesis.alloc_digest().as_slice(), fields.as_bytes()].concat())
}

fn begin(config: &Config, genesis: &Genesis) -> Result<Begun> {
    let mut state = State::default();
    state.absorb(genesis.alloc()?);
    let (tries, root) = Tries::of(&state, config.threads);
    Ok(Begun { block: genesis_block(config, genesis, root), state, tries })
}

impl Chain {
    /// Opens a chain with the usual retention; see `open_with`.
    pub fn open(config: Config, genesis: &Genesis, path: Option<&Path>) -> std::result::Result<Self, OpenError> {
        Self::open_with(config, Retention::default(), genesis, path)
    }

    /// Opens a chain: in memory, or in a directory that is created, or continued where it was left.
    pub fn open_with(
        config: Config,
        retention: Retention,
        genesis: &Genesis,
        path: Option<&Path>,
    ) -> std::result::Result<Self, OpenError> {
        crate::bound_hash_cache();
        let (found, storage) = match path {
            None => {
                let Begun { block, state, tries } = begin(&config, genesis).map_err(OpenError::Genesis)?;
                let mut blocks = Blocks::new(retention);
                blocks.push(block);
                (Recovered { state, tries: Some(tries), blocks, waiting: Vec::new() }, Storage::Memory)
            }
            Some(path) => {
                let begin = || begin(&config, genesis);
                let digest = genesis_digest(&config, genesis);
                let expected = Expected { digest, begin, retention, threads: config.threads };
                let (store, found) = store::open(path, expected)?;
                (found, Storage::Disk(Arc::new(store)))
            }
        };
        let tries = match found.tries {
            Some(tries) => tries,
            None => {
                let (tries, root) = Tries::of(&found.state, config.threads);
                let block = found.blocks.latest();
                if root != block.header.state_root {
                    let (path, wanted) = (path.unwrap_or(Path::new("")).display(), block.header.state_root);
                    let at = block.number();
                    return Err(
                        format!("{path} is damaged: the state has root {root}, block {at} says {wanted}").into()
                    );
                }
                tries
            }
        };
        let head = Head { state: found.state, blocks: found.blocks, undos: Undos::default() };
        let waiting = found.waiting;
        let mut pool = Pool::default();
        for tx in waiting {
            let nonce = head.state.info(&tx.sender).map_or(0, |info| info.nonce);
            if tx.nonce() >= nonce {
                pool.insert(tx, nonce);
            }
        }
        Ok(Self {
            config,
            recover: RecoverCache::default(),
            producer: Mutex::new(Producer { tries, next_timestamp: None }),
            pool: Mutex::new(pool),
            head: RwLock::new(head),
            saved: Mutex::default(),
            last_stats: Mutex::default(),
            storage: Mutex::new(storage),
        })
    }

    fn store(&self) -> Result<Option<Arc<Store>>> {
        match &*lock(&self.storage) {
            Storage::Memory => Ok(None),
            Storage::Disk(store) => Ok(Some(store.clone())),
            Storage::Closed => Err(RpcError::server("the chain is closed")),
        }
    }

    /// Syncs to the disk since the chain was opened, snapshots aside.
    pub fn syncs(&self) -> u64 {
        match &*lock(&self.storage) {
            Storage::Disk(store) => store.syncs(),
            Storage::Memory | Storage::Closed => 0,
        }
    }

    /// Writes a snapshot of the state and begins a new log, so that the next start has little to read.
    pub fn compact(&self) -> Result<()> {
        let _producer = lock(&self.producer);
        let Some(store) = self.store()? else {
            return Err(RpcError::server("the chain is in memory only"));
        };
        let pool = self.pool();
        let written = store.rotate(&self.head(), pool.in_order().into_iter());
        written.map_err(|error| RpcError::server(format!("cannot write a snapshot: {error}")))
    }

    /// Releases the directory. Reads go on; nothing is taken in any more.
    pub fn close(&self) {
        let _producer = lock(&self.producer);
        let _pool = self.pool();
        *lock(&self.storage) = Storage::Closed;
    }

    pub fn head(&self) -> RwLockReadGuard<'_, Head> {
        self.head.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn head_mut(&self) -> RwLockWriteGuard<'_, Head> {
        self.head.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn pool(&self) -> MutexGuard<'_, Pool> {
        lock(&self.pool)
    }

    pub fn last_stats(&self) -> BlockStats {
        lock(&self.last_stats).clone()
    }

    /// Each sender's transactions and gas in a block, the heaviest first: how evenly lanes were loaded.
    pub fn block_lanes(&self, number: u64) -> Result<Vec<(Address, u64, u64)>> {
        let block = self.head().blocks.get(number).cloned();
        let block = block.ok_or_else(|| RpcError::server(format!("block {number} is not held")))?;
        let mut lanes: AddressMap<(u64, u64)> = AddressMap::default();
        for (tx, receipt) in block.txs.iter().zip(&block.receipts) {
            let lane = lanes.entry(tx.sender).or_default();
            *lane = (lane.0 + 1, lane.1 + receipt.gas_used);
        }
        let mut lanes: Vec<_> = lanes.into_iter().map(|(sender, (txs, gas))| (sender, txs, gas)).collect();
        lanes.sort_unstable_by_key(|(sender, _, gas)| (std::cmp::Reverse(*gas), *sender));
        Ok(lanes)
    }

    /// The base fee of the block after `parent`.
    pub fn next_base_fee(&self, parent: &Block) -> u64 {
        let current = parent.header.base_fee_per_gas.unwrap_or_default();
        if self.config.fixed_base_fee {
            return current;
        }
        parent.header.next_block_base_fee(alloy_eips::eip1559::BaseFeeParams::ethereum()).unwrap_or(current)
    }

    /// The context in which the block after the head would run now.
    pub fn next_context(&self, head: &Head, timestamp: u64) -> BlockContext {
        let parent = head.blocks.latest();
        BlockContext {
            chain_id: self.config.chain_id,
            spec: self.config.spec,
            number: parent.number() + 1,
            timestamp,
            gas_limit: self.config.gas_limit,
            base_fee: self.next_base_fee(parent),
            coinbase: self.config.coinbase,
            prevrandao: prevrandao(&parent.hash),
            ancestors: head.blocks.ancestors(),
        }
    }

    /// Takes a signed transaction in and returns its hash. It is durable then; with auto_mine, in a block.
    pub fn send_raw(&self, raw: &[u8]) -> Result<B256> {
        self.send_raw_many(&[raw]).pop().unwrap_or_else(|| Err(RpcError::server("nothing was sent")))
    }

    /// Takes many in, recovering their senders on several threads. Order is kept.
    pub fn send_raw_many(&self, raws: &[&[u8]]) -> Vec<Result<B256>> {
        let store = match self.store() {
            Ok(store) => store,
            Err(error) => return raws.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut results: Vec<Result<B256>> = Vec::with_capacity(raws.len());
        intake::decode_many(raws, self.config.chain_id, self.config.threads, |decoded| {
            let mut pool = self.pool();
            let head = self.head();
            results.extend(decoded.into_iter().map(|tx| self.admit(&mut pool, &head, store.as_deref(), tx?)));
        });
        // A block makes what it holds durable by itself.
        let done = if !results.iter().any(Result::is_ok) {
            Ok(())
        } else if self.config.auto_mine {
            self.produce_block(None).map(drop)
        } else {
            store.map_or(Ok(()), |store| store.sync())
        };
        match done {
            Ok(()) => results,
            Err(error) => results.into_iter().map(|result| result.and(Err(error.clone()))).collect(),
        }
    }

    fn admit(&self, pool: &mut Pool, head: &Head, store: Option<&Store>, tx: SignedTx) -> Result<B256> {
        let base_fee = self.config.fixed_base_fee.then(|| self.next_base_fee(head.blocks.latest()));
        intake::check(&tx, self.config.gas_limit, base_fee)?;
        let account = head.state.info(&tx.sender).unwrap_or_default();
        if account.has_code() {
            return Err(RpcError::server("sender not an eoa"));
        }
        if head.blocks.find_tx(&tx.hash).is_some() {
            return Err(RpcError::server("already known"));
        }
        pool.check(&tx, &account)?;
        let tx = Arc::new(tx);
        if let Some(store) = store {
            store.append_txs(std::slice::from_ref(&tx))?;
        }
        let hash = tx.hash;
        pool.insert(tx, account.nonce);
        Ok(hash)
    }
}
