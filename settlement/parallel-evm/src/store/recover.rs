//! Opening a data directory: creating it, or reading back what was durable.

use super::{
    Store, damaged, failed,
    log::LogFile,
    log_path,
    segments::{self, Segment, Wanted, follows},
    snapshot::{self, Origin, Snapshot},
    snapshot_path,
};
use crate::{
    block::Block,
    blocks::{Blocks, Retention},
    error::RpcError,
    roots::Tries,
    state::State,
    tx::SignedTx,
};
use alloy_consensus::Header;
use alloy_primitives::B256;
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicU64},
};

/// Why a chain cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The genesis document: what is wrong with it.
    Genesis(RpcError),
    /// One sentence that names the file at fault.
    Storage(String),
}

impl From<String> for OpenError {
    fn from(sentence: String) -> Self {
        Self::Storage(sentence)
    }
}

/// A chain at its first block.
pub struct Begun {
    pub block: Arc<Block>,
    pub state: State,
    pub tries: Tries,
}

/// The chain that a directory must hold.
pub struct Expected<F> {
    /// Names the genesis document. A directory that was made from the same text needs not see it again.
    pub digest: B256,
    pub begin: F,
    pub retention: Retention,
    pub threads: usize,
}

/// What was found.
pub struct Recovered {
    pub state: State,
    /// None where the state was read and its root is still to be compared.
    pub tries: Option<Tries>,
    pub blocks: Blocks,
    /// Accepted and in no block, in the order of arrival.
    pub waiting: Vec<Arc<SignedTx>>,
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

/// Opens a directory for the chain that is expected; creates it where it is empty.
pub fn open<F>(dir: &Path, expected: Expected<F>) -> Result<(Store, Recovered), OpenError>
where
    F: FnOnce() -> Result<Begun, RpcError>,
{
    let lock = lock_dir(dir)?;
    remove_unfinished(dir).map_err(|error| failed(dir, &error))?;
    let snapshots = numbered(dir, "state-", ".snap").map_err(|error| failed(dir, &error))?;
    let logs = numbered(dir, "log-", ".bin").map_err(|error| failed(dir, &error))?;
    let Some((base, path)) = snapshots.last() else {
        let begun = logs.iter().find(|(_, path)| fs::metadata(path).map_or(true, |file| file.len() > 0));
        if let Some((_, path)) = begun {
            return Err(format!("{} has {} but no state-*.snap to start from", dir.display(), path.display()).into());
        }
        return create(dir, lock, expected);
    };
    let wanted = Wanted { base: *base, retention: expected.retention };
    let (snapshot, segments) = std::thread::scope(|scope| {
        let segments = scope.spawn(|| segments::read(&logs, &wanted, expected.threads));
        let snapshot = read_snapshot(path, *base);
        (snapshot, segments.join().expect("reading does not panic"))
    });
    let (mut snapshot, snapshot_bytes) = snapshot?;
    let origin = origin_of(dir, &snapshot, expected.digest, expected.begin)?;
    let mut segments = segments?;
    let newest = segments.last_mut().map(|segment| {
        let waiting = std::mem::take(&mut segment.waiting);
        (segment.path.clone(), segment.length, waiting)
    });
    let (path, length, waiting) = match newest {
        Some(newest) => newest,
        None => {
            let path = log_path(dir, *base);
            LogFile::create(&path, &[]).map_err(|error| failed(&path, &error))?;
            (path, 0, Vec::new())
        }
    };
    let blocks = join(&mut snapshot, &origin, segments, expected.retention)?;
    let log = LogFile::open(&path, length).map_err(|error| failed(&path, &error))?;
    let store = Store {
        dir: dir.to_path_buf(),
        origin,
        log: Mutex::new(log),
        syncing: Mutex::default(),
        syncs: AtomicU64::new(0),
        snapshot_bytes: Mutex::new(snapshot_bytes),
        keep_logs: expected.retention.keep_logs,
        _lock: lock,
    };
    Ok((store, Recovered { state: snapshot.state, tries: None, blocks, waiting }))
}

/// Files that a crash kept from getting their name.
fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for prefix in ["state-", "log-"] {
        for (_, path) in numbered(dir, prefix, ".tmp")? {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn read_snapshot(path: &Path, number: u64) -> Result<(Snapshot, u64), String> {
    let content = fs::read(path).map_err(|error| failed(path, &error))?;
    let found = snapshot::read(&content).map_err(|reason| damaged(path, reason))?;
    if found.header.number != number {
        return Err(damaged(path, "it holds another block than its name says"));
    }
    Ok((found, content.len() as u64))
}

/// The chain's first block. It is computed from the document only where the text is not the one known.
fn origin_of(
    dir: &Path,
    found: &Snapshot,
    digest: B256,
    begin: impl FnOnce() -> Result<Begun, RpcError>,
) -> Result<Origin, OpenError> {
    if let Some(origin) = &found.origin
        && origin.digest == digest
    {
        return Ok(origin.clone());
    }
    let genesis = begin().map_err(OpenError::Genesis)?.block;
    if found.genesis != genesis.hash {
        let (theirs, ours) = (found.genesis, genesis.hash);
        return Err(format!("{} belongs to another chain: its genesis is {theirs}, not {ours}", dir.display()).into());
    }
    Ok(Origin { digest, header: genesis.header.clone() })
}

fn create<F>(dir: &Path, lock: File, expected: Expected<F>) -> Result<(Store, Recovered), OpenError>
where
    F: FnOnce() -> Result<Begun, RpcError>,
{
    let begun = (expected.begin)().map_err(OpenError::Genesis)?;
    let origin = Origin { digest: expected.digest, header: begun.block.header.clone() };
    let mut blocks = Blocks::new(expected.retention);
    blocks.push(begun.block.clone());
    // The log first: a directory with an empty log and no snapshot is begun anew.
    let path = log_path(dir, 0);
    let log = LogFile::create(&path, &[]).map_err(|error| failed(&path, &error))?;
    let path = snapshot_path(dir, 0);
    let size =
        snapshot::write(&path, &origin, &begun.block, &blocks, &begun.state).map_err(|error| failed(&path, &error))?;
    let store = Store {
        dir: dir.to_path_buf(),
        origin,
        log: Mutex::new(log),
        syncing: Mutex::default(),
        syncs: AtomicU64::new(0),
        snapshot_bytes: Mutex::new(size),
        keep_logs: expected.retention.keep_logs,
        _lock: lock,
    };
    Ok((store, Recovered { state: begun.state, tries: Some(begun.tries), blocks, waiting: Vec::new() }))
}

/// Brings the snapshot's state to the last block, and puts the blocks that are held together.
fn join(
    snapshot: &mut Snapshot,
    origin: &Origin,
    segments: Vec<Segment>,
    retention: Retention,
) -> Result<Blocks, String> {
    let (base, genesis) = (known_by_header(&snapshot.header), known_by_header(&origin.header));
    let first = segments.iter().find_map(|segment| Some((&segment.path, segment.blocks.first()?.0.number())));
    let mut blocks = Blocks::new(retention);
    let (opening, oldest) = match first {
        Some((path, number)) if number > base.number() + 1 => {
            return Err(damaged(path, "its first block does not follow the snapshot"));
        }
        Some((_, 1)) => (Some(genesis.clone()), 0),
        Some((_, number)) => (None, number),
        // Nothing but the snapshot: its block is known by its header only.
        None => (Some(base.clone()), base.number()),
    };
    let hashes = std::mem::take(&mut snapshot.hashes);
    blocks.remember_hashes(hashes.into_iter().filter(|(number, _)| *number < oldest));
    if let Some(block) = opening {
        blocks.push(block);
    }
    let mut end = None;
    for Segment { path, blocks: held, .. } in segments {
        for (block, diff) in held {
            let fits = match block.number() {
                number if number == base.number() => block.hash == base.hash,
                number if number == base.number() + 1 => follows(&block, &base),
                number => number != 1 || follows(&block, &genesis),
            };
            if !fits {
                return Err(damaged(&path, &format!("block {} is not of the snapshot's chain", block.number())));
            }
            if let Some(diff) = diff {
                snapshot.state.absorb(diff);
            }
            blocks.push(block);
        }
        end = Some(path);
    }
    match end {
        Some(path) if blocks.latest().number() < base.number() => Err(damaged(&path, "it ends before the snapshot")),
        _ => Ok(blocks),
    }
}

fn known_by_header(header: &Header) -> Arc<Block> {
    Arc::new(Block { hash: header.hash_slow(), header: header.clone(), txs: Vec::new(), receipts: Vec::new() })
}
