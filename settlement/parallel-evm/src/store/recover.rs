//! Opening a data directory: creating it, or reading back what was durable.

use super::{
    Store, codec,
    log::{Kind, LogFile, Record, scan},
    log_path, snapshot,
    snapshot::Snapshot,
    snapshot_path,
};
use crate::{
    block::Block,
    blocks::Blocks,
    state::{Diff, State},
    tx::SignedTx,
};
use alloy_primitives::{B256, map::B256Map};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// What was found.
pub struct Recovered {
    pub state: State,
    pub blocks: Blocks,
    /// Accepted and in no block, in the order of arrival.
    pub waiting: Vec<Arc<SignedTx>>,
}

fn failed(path: &Path, error: &io::Error) -> String {
    format!("cannot open {}: {error}", path.display())
}

fn damaged(path: &Path, reason: &str) -> String {
    format!("{} is damaged: {reason}", path.display())
}

/// Files `prefix<number>suffix` of a directory, by number.
pub fn numbered(dir: &Path, prefix: &str, suffix: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
        if let Some(number) = number.and_then(|digits| digits.parse().ok()) {
            found.push((number, path.clone()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn lock_dir(dir: &Path) -> Result<File, String> {
    fs::create_dir_all(dir).map_err(|error| failed(dir, &error))?;
    let path = dir.join("LOCK");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| failed(&path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(format!("{} is in use by another process", dir.display())),
        Err(TryLockError::Error(error)) => Err(failed(&path, &error)),
    }
}

/// Opens a directory for the chain with this genesis; creates it where it is empty.
///
/// Errors: one sentence that names the file at fault.
pub fn open(dir: &Path, genesis: &Arc<Block>, alloc: State) -> Result<(Store, Recovered), String> {
    let lock = lock_dir(dir)?;
    let snapshots = numbered(dir, "state-", ".snap").map_err(|error| failed(dir, &error))?;
    let logs = numbered(dir, "log-", ".bin").map_err(|error| failed(dir, &error))?;
    let Some((base, path)) = snapshots.last() else {
        let begun = logs.iter().find(|(_, path)| fs::metadata(path).map_or(true, |file| file.len() > 0));
        if let Some((_, path)) = begun {
            return Err(format!("{} has {} but no state-*.snap to start from", dir.display(), path.display()));
        }
        return create(dir, lock, genesis, alloc);
    };
    let content = fs::read(path).map_err(|error| failed(path, &error))?;
    let found = snapshot::read(&content).map_err(|reason| damaged(path, reason))?;
    if found.genesis != genesis.hash {
        return Err(format!(
            "{} belongs to another chain: its genesis is {}, not {}",
            dir.display(),
            found.genesis,
            genesis.hash
        ));
    }
    if found.header.number != *base {
        return Err(damaged(path, "it holds another block than its name says"));
    }
    let mut replay = Replay::new(found, genesis);
    let snapshot_bytes = content.len() as u64;
    drop(content);
    // The log before the base is read for its blocks, as far as they are still wanted.
    let first = logs.iter().rposition(|(number, _)| number <= base).unwrap_or(0).saturating_sub(1);
    let mut newest = None;
    for (index, (_, path)) in logs.iter().enumerate().skip(first) {
        let content = fs::read(path).map_err(|error| failed(path, &error))?;
        let is_newest = index + 1 == logs.len();
        let length = scan(&content, is_newest, |record| replay.take(record))
            .map_err(|(offset, reason)| damaged(path, &format!("{reason}, at byte {offset}")))?;
        newest = Some((path.clone(), length as u64));
    }
    let log = match newest {
        Some((path, length)) => LogFile::open(&path, length).map_err(|error| failed(&path, &error))?,
        None => {
            let path = log_path(dir, *base);
            LogFile::create(&path, &[]).map_err(|error| failed(&path, &error))?
        }
    };
    let recovered = replay.finish().map_err(|reason| damaged(dir, reason))?;
    let store = Store {
        dir: dir.to_path_buf(),
        genesis: genesis.hash,
        log: Mutex::new(log),
        syncing: Mutex::default(),
        snapshot_bytes: Mutex::new(snapshot_bytes),
        _lock: lock,
    };
    Ok((store, recovered))
}

fn create(dir: &Path, lock: File, genesis: &Arc<Block>, state: State) -> Result<(Store, Recovered), String> {
    let mut blocks = Blocks::default();
    blocks.push(genesis.clone());
    // The log first: a directory with an empty log and no snapshot is begun anew.
    let path = log_path(dir, 0);
    let log = LogFile::create(&path, &[]).map_err(|error| failed(&path, &error))?;
    let path = snapshot_path(dir, 0);
    let size = snapshot::write(&path, genesis.hash, genesis, &blocks, &state).map_err(|error| failed(&path, &error))?;
    let store = Store {
        dir: dir.to_path_buf(),
        genesis: genesis.hash,
        log: Mutex::new(log),
        syncing: Mutex::default(),
        snapshot_bytes: Mutex::new(size),
        _lock: lock,
    };
    Ok((store, Recovered { state, blocks, waiting: Vec::new() }))
}

/// Rebuilds the chain from a snapshot and the records of the logs around it.
struct Replay {
    snapshot: Snapshot,
    txs: B256Map<Arc<SignedTx>>,
    /// Arrival order of `txs`; those that went into blocks are skipped at the end.
    order: Vec<B256>,
    blocks: Vec<Arc<Block>>,
    genesis: Arc<Block>,
}

impl Replay {
    fn new(snapshot: Snapshot, genesis: &Arc<Block>) -> Self {
        Self { snapshot, txs: B256Map::default(), order: Vec::new(), blocks: Vec::new(), genesis: genesis.clone() }
    }

    fn take(&mut self, record: Record<'_>) -> Result<(), &'static str> {
        match record.kind {
            Kind::Tx => {
                let tx = Arc::new(codec::decode_tx(record.payload)?);
                self.order.push(tx.hash);
                self.txs.insert(tx.hash, tx);
                Ok(())
            }
            Kind::Block => {
                let (block, diff) = codec::decode_block(record.payload, &mut self.txs)?;
                self.append(block, &diff)
            }
        }
    }

    fn append(&mut self, block: Block, diff: &Diff) -> Result<(), &'static str> {
        if let Some(last) = self.blocks.last()
            && (block.number() != last.number() + 1 || block.header.parent_hash != last.hash)
        {
            return Err("a block does not follow the one before it");
        }
        if block.number() > self.snapshot.header.number {
            let follows = match self.blocks.last() {
                Some(_) => true,
                None => block.header.parent_hash == self.snapshot.header.hash_slow(),
            };
            if !follows {
                return Err("a block does not follow the snapshot");
            }
            self.snapshot.state.apply(diff);
        }
        self.blocks.push(Arc::new(block));
        Ok(())
    }

    fn finish(self) -> Result<Recovered, &'static str> {
        let base = self.snapshot.header.number;
        let mut blocks = Blocks::default();
        let first = self.blocks.first().map_or(base + 1, |block| block.number());
        blocks.remember_hashes(self.snapshot.hashes.iter().filter(|(number, _)| *number < first).copied());
        if first == 1 {
            blocks.forget_hash(0);
            blocks.push(self.genesis.clone());
        }
        match self.blocks.last() {
            Some(last) if last.number() < base => return Err("its log ends before its snapshot"),
            Some(_) => self.blocks.iter().for_each(|block| blocks.push(block.clone())),
            // Nothing but the snapshot: its block is known by its header only.
            None if base == 0 => {}
            None => {
                blocks.forget_hash(base);
                blocks.push(Arc::new(Block {
                    hash: self.snapshot.header.hash_slow(),
                    header: self.snapshot.header.clone(),
                    txs: Vec::new(),
                    receipts: Vec::new(),
                }));
            }
        }
        let mut txs = self.txs;
        let waiting = self.order.iter().filter_map(|hash| txs.remove(hash)).collect();
        Ok(Recovered { state: self.snapshot.state, blocks, waiting })
    }
}
