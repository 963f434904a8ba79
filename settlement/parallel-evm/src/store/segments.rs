//! The logs of a directory, read back: each is decoded by itself, several at a time, the newest first.

use super::{
    codec, damaged, failed,
    log::{Kind, Record, scan},
};
use crate::{block::Block, blocks::Retention, chain::lock, state::Diff, tx::SignedTx};
use alloy_primitives::{B256, map::B256Map};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// What one log holds. It needs no other: those that waited when it was begun are its first records.
pub struct Segment {
    pub path: PathBuf,
    /// Rising without a gap. What it changed is kept for blocks after the base only.
    pub blocks: Vec<(Arc<Block>, Option<Diff>)>,
    /// In no block of this log, in the order of arrival.
    pub waiting: Vec<Arc<SignedTx>>,
    /// Bytes up to the last whole record.
    pub length: u64,
}

/// How far back the logs are read.
pub struct Wanted {
    /// The block of the snapshot that is started from.
    pub base: u64,
    pub retention: Retention,
}

/// Which log comes next, and what was found so far.
struct Progress {
    next: usize,
    blocks: usize,
    txs: usize,
    found: Vec<(usize, Result<Segment, String>)>,
}

/// Reads every log that the state needs, and older ones until the history that is kept is complete. `logs` are
/// sorted by number. The result is sorted too.
///
/// Errors: one sentence that names the log at fault.
pub fn read(logs: &[(u64, PathBuf)], wanted: &Wanted, threads: usize) -> Result<Vec<Segment>, String> {
    let needed = logs.iter().rposition(|(number, _)| *number <= wanted.base).unwrap_or(0);
    let progress = Mutex::new(Progress { next: logs.len(), blocks: 0, txs: 0, found: Vec::new() });
    let take = || {
        let mut progress = lock(&progress);
        // As many transactions as are kept leave room for older blocks without any.
        let complete = progress.blocks >= wanted.retention.blocks || progress.txs > wanted.retention.txs;
        progress.next = if complete && progress.next <= needed { 0 } else { progress.next };
        progress.next.checked_sub(1).inspect(|index| progress.next = *index)
    };
    let work = || {
        while let Some(index) = take() {
            let segment = read_one(&logs[index].1, logs.get(index + 1).map(|(number, _)| *number), wanted.base);
            let mut progress = lock(&progress);
            if let Ok(segment) = &segment {
                progress.blocks += segment.blocks.len();
                progress.txs += segment.blocks.iter().map(|(block, _)| block.txs.len()).sum::<usize>();
            }
            progress.found.push((index, segment));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(logs.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut found = lock(&progress).found.drain(..).collect::<Vec<_>>();
    found.sort_unstable_by_key(|(index, _)| *index);
    let segments = found.into_iter().map(|(_, segment)| segment).collect::<Result<Vec<_>, _>>()?;
    follow_each_other(&segments)?;
    Ok(segments)
}

fn follow_each_other(segments: &[Segment]) -> Result<(), String> {
    for pair in segments.windows(2) {
        if let (Some((last, _)), Some((first, _))) = (pair[0].blocks.last(), pair[1].blocks.first())
            && !follows(first, last)
        {
            let reason = format!("its first block does not follow the last one of {}", pair[0].path.display());
            return Err(damaged(&pair[1].path, &reason));
        }
    }
    Ok(())
}

pub fn follows(block: &Block, parent: &Block) -> bool {
    block.number() == parent.number() + 1 && block.header.parent_hash == parent.hash
}

/// `end` is the block after which the next log was begun; None for the newest.
fn read_one(path: &Path, end: Option<u64>, base: u64) -> Result<Segment, String> {
    let content = fs::read(path).map_err(|error| failed(path, &error))?;
    let mut reading = Reading { base, txs: B256Map::default(), order: Vec::new(), blocks: Vec::new() };
    let length = scan(&content, end.is_none(), |record| reading.take(record))
        .map_err(|(offset, reason)| damaged(path, &format!("{reason}, at byte {offset}")))?;
    let Reading { mut txs, order, blocks, .. } = reading;
    if let Some(end) = end
        && blocks.last().is_none_or(|(last, _)| last.number() != end)
    {
        let found = blocks.last().map_or("none".to_string(), |(last, _)| last.number().to_string());
        let what = "is damaged, or a log behind it is missing";
        return Err(format!("{} {what}: its last block is {found}, the next log begins after {end}", path.display()));
    }
    let waiting = order.iter().filter_map(|hash| txs.remove(hash)).collect();
    Ok(Segment { path: path.to_path_buf(), blocks, waiting, length: length as u64 })
}

/// One log while it is read.
struct Reading {
    base: u64,
    txs: B256Map<Arc<SignedTx>>,
    /// Arrival order of `txs`; those that went into blocks are skipped at the end.
    order: Vec<B256>,
    blocks: Vec<(Arc<Block>, Option<Diff>)>,
}

impl Reading {
    fn take(&mut self, record: Record<'_>) -> Result<(), &'static str> {
        match record.kind {
            Kind::Tx => {
                let tx = Arc::new(codec::decode_tx(record.payload)?);
                self.order.push(tx.hash);
                self.txs.insert(tx.hash, tx);
            }
            Kind::Block => {
                let (block, diff) = codec::decode_block(record.payload, &mut self.txs)?;
                if self.blocks.last().is_some_and(|(last, _)| !follows(&block, last)) {
                    return Err("a block does not follow the one before it");
                }
                let diff = (block.number() > self.base).then_some(diff);
                self.blocks.push((Arc::new(block), diff));
            }
        }
        Ok(())
    }
}
