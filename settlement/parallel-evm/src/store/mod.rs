//! A chain on disk: `state-N.snap` holds the state after block N, `log-N.bin` the transactions taken in and
//! the blocks produced since. A transaction is durable before it is acknowledged, a block before it is
//! seen. Files are only ever appended to or replaced as a whole.

pub mod codec;
mod log;
mod recover;
mod segments;
mod snapshot;

pub use recover::{Begun, Expected, OpenError, Recovered, open};

use crate::{
    block::Block,
    chain::{Head, lock},
    error::{Result, RpcError},
    state::Diff,
    tx::SignedTx,
};
use log::{Kind, LogFile};
use snapshot::Origin;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// The log is read at every start: a snapshot makes it short again. Larger states are written less often.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The newest and the one before it, which is used when the newest cannot be read.
const SNAPSHOTS_KEPT: usize = 2;

/// The files of an open chain.
pub struct Store {
    dir: PathBuf,
    origin: Origin,
    log: Mutex<LogFile>,
    /// One sync at a time; the others find that it covered their records too.
    syncing: Mutex<()>,
    syncs: AtomicU64,
    snapshot_bytes: Mutex<u64>,
    keep_logs: bool,
    /// Held for the life of the store: one process per directory.
    _lock: File,
}

fn failed(path: &Path, error: &io::Error) -> String {
    format!("cannot open {}: {error}", path.display())
}

fn damaged(path: &Path, reason: &str) -> String {
    format!("{} is damaged: {reason}", path.display())
}

fn stopped(reason: &str) -> RpcError {
    RpcError::server(format!("storage failed, nothing is taken in: {reason}"))
}

/// Writes a file under a temporary name and renames it when it is durable.
pub(crate) fn write_durably(path: &Path, fill: &mut dyn FnMut(&mut File) -> io::Result<()>) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    let written = fill(&mut file).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    fs::rename(&temporary, path)?;
    sync_dir(path)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn snapshot_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("state-{number:012}.snap"))
}

fn log_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log-{number:012}.bin"))
}

impl Store {
    /// Writes accepted transactions behind each other; `sync` makes them durable.
    pub fn append_txs(&self, txs: &[Arc<SignedTx>]) -> Result<()> {
        let records: Vec<_> = txs.iter().map(|tx| (Kind::Tx, codec::encode_tx(tx))).collect();
        lock(&self.log).append(&records).map_err(|reason| stopped(&reason))
    }

    /// Writes a block and makes it durable, with everything before it.
    pub fn append_block(&self, block: &Block, diff: &Diff) -> Result<()> {
        let record = (Kind::Block, codec::encode_block(block, diff));
        lock(&self.log).append(&[record]).map_err(|reason| stopped(&reason))?;
        self.sync()
    }

    /// Returns when everything appended before the call is durable.
    pub fn sync(&self) -> Result<()> {
        let wanted = lock(&self.log).len();
        let _turn = lock(&self.syncing);
        let (file, covers) = {
            let log = lock(&self.log);
            if let Some(reason) = log.broken() {
                return Err(stopped(reason));
            }
            // A rotation replaced the file by one that was durable from the start.
            if log.durable() >= wanted.min(log.len()) {
                return Ok(());
            }
            log.sync_handle().map_err(|error| stopped(&error.to_string()))?
        };
        let synced = file.sync_data();
        self.syncs.fetch_add(1, Ordering::Relaxed);
        let mut log = lock(&self.log);
        match synced {
            Ok(()) => {
                log.note_durable(covers);
                Ok(())
            }
            Err(error) => {
                let reason = format!("cannot make {} durable: {error}", log.path.display());
                log.note_broken(&reason);
                Err(stopped(&reason))
            }
        }
    }

    /// Syncs of the log since it was opened.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Whether the log has grown enough for a new snapshot.
    pub fn is_due(&self) -> bool {
        let least = LOG_BYTES_MAX.max(2 * *lock(&self.snapshot_bytes));
        lock(&self.log).len() > least
    }

    /// Writes a snapshot of the head and starts a new log with the transactions that wait. The caller holds
    /// the producer's and the pool's locks, so nothing is appended meanwhile.
    pub fn rotate<'a>(&self, head: &Head, waiting: impl Iterator<Item = &'a Arc<SignedTx>>) -> io::Result<()> {
        let block = head.blocks.latest();
        let _turn = lock(&self.syncing);
        // Where this fails (a full disk), the next attempt waits until the log has grown again.
        *lock(&self.snapshot_bytes) = lock(&self.log).len();
        let path = snapshot_path(&self.dir, block.number());
        let size = snapshot::write(&path, &self.origin, block, &head.blocks, &head.state)?;
        let records: Vec<_> = waiting.map(|tx| (Kind::Tx, codec::encode_tx(tx))).collect();
        let fresh = LogFile::create(&log_path(&self.dir, block.number()), &records)?;
        *lock(&self.log) = fresh;
        *lock(&self.snapshot_bytes) = size;
        self.prune(head.blocks.oldest_number())
    }

    /// Deletes snapshots that newer ones replace, and logs that neither the oldest of these nor the history that
    /// is held needs. The oldest goes first, and for good, so that a crash leaves no gap.
    fn prune(&self, oldest_held: u64) -> io::Result<()> {
        let mut snapshots = recover::numbered(&self.dir, "state-", ".snap")?;
        let kept = snapshots.split_off(snapshots.len().saturating_sub(SNAPSHOTS_KEPT));
        for (_, path) in snapshots {
            fs::remove_file(path)?;
        }
        let logs = recover::numbered(&self.dir, "log-", ".bin")?;
        let Some((base, _)) = kept.first().filter(|_| !self.keep_logs) else { return Ok(()) };
        for pair in logs.windows(2) {
            // A log's last block is the one that the next is named after.
            let ((_, path), (last, _)) = (&pair[0], &pair[1]);
            if last > base || *last >= oldest_held {
                break;
            }
            fs::remove_file(path)?;
            sync_dir(path)?;
        }
        Ok(())
    }
}
