//! An append-only file of checksummed records.
//!
//! A record is: magic, length, how much of the file was known to be durable when it was written, a checksum
//! of these, a checksum of the body, the body. The durable length tells a write that a crash cut short
//! (dropped: nobody was told of it) from damage to what had been acknowledged (refused).

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

const MAGIC: [u8; 4] = *b"PEv1";
const HEAD: usize = 24;
/// A block of 47,000 transfers takes about 25 MB.
const BODY_BYTES_MAX: usize = 512 * 1024 * 1024;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tx = 1,
    Block = 2,
}

/// Opened for appending.
pub struct LogFile {
    pub path: PathBuf,
    file: File,
    length: u64,
    durable: u64,
    /// Set once the file can no longer be trusted to take records.
    broken: Option<String>,
}

fn frame(out: &mut Vec<u8>, kind: Kind, payload: &[u8], durable: u64) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&(payload.len() as u32 + 1).to_le_bytes());
    out.extend_from_slice(&durable.to_le_bytes());
    let head_sum = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&head_sum.to_le_bytes());
    let mut body_sum = crc32fast::Hasher::new();
    body_sum.update(&[kind as u8]);
    body_sum.update(payload);
    out.extend_from_slice(&body_sum.finalize().to_le_bytes());
    out.push(kind as u8);
    out.extend_from_slice(payload);
}

impl LogFile {
    /// Opens at a length that was found to be valid; what is beyond it is cut off.
    pub fn open(path: &Path, length: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(path)?;
        if file.metadata()?.len() != length {
            file.set_len(length)?;
            file.sync_all()?;
        }
        let mut opened = Self { path: path.to_path_buf(), file, length, durable: length, broken: None };
        opened.file.seek(SeekFrom::Start(length))?;
        Ok(opened)
    }

    /// Creates a file with first records, durable under its final name when this returns.
    pub fn create(path: &Path, records: &[(Kind, Vec<u8>)]) -> io::Result<Self> {
        let mut content = Vec::new();
        for (kind, payload) in records {
            frame(&mut content, *kind, payload, 0);
        }
        super::write_durably(path, &mut |file| file.write_all(&content))?;
        Self::open(path, content.len() as u64)
    }

    pub fn len(&self) -> u64 {
        self.length
    }

    /// Appends records as one write; they are durable after `sync`. After an error the file is as it was.
    pub fn append(&mut self, records: &[(Kind, Vec<u8>)]) -> Result<(), String> {
        if let Some(reason) = &self.broken {
            return Err(reason.clone());
        }
        let mut content = Vec::with_capacity(records.iter().map(|(_, payload)| payload.len() + HEAD + 1).sum());
        for (kind, payload) in records {
            if payload.len() >= BODY_BYTES_MAX {
                return Err(format!("a record of {} bytes is too large to store", payload.len()));
            }
            frame(&mut content, *kind, payload, self.durable);
        }
        if let Err(error) = self.file.write_all(&content) {
            let reason = format!("cannot write {}: {error}", self.path.display());
            let undone = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
            if let Err(error) = undone {
                self.broken = Some(format!("{reason}; and cannot take the write back: {error}"));
            }
            return Err(reason);
        }
        self.length += content.len() as u64;
        Ok(())
    }

    /// A second handle for syncing without holding up appends, and the length that the sync will cover.
    pub fn sync_handle(&self) -> io::Result<(File, u64)> {
        Ok((self.file.try_clone()?, self.length))
    }

    pub fn durable(&self) -> u64 {
        self.durable
    }

    pub fn note_durable(&mut self, length: u64) {
        self.durable = self.durable.max(length);
    }

    /// After a failed sync nobody knows what is on the disk: no record is taken any more.
    pub fn note_broken(&mut self, reason: &str) {
        self.broken.get_or_insert_with(|| reason.to_string());
    }

    pub fn broken(&self) -> Option<&String> {
        self.broken.as_ref()
    }
}

/// A record found in a file.
pub struct Record<'a> {
    pub kind: Kind,
    pub payload: &'a [u8],
}

enum Found<'a> {
    Record(Record<'a>, u64, usize),
    /// The bytes end before the record does.
    Short,
    Bad(&'static str),
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn record_at(content: &[u8], offset: usize) -> Found<'_> {
    let bytes = &content[offset..];
    if bytes.len() < HEAD {
        return Found::Short;
    }
    if bytes[..4] != MAGIC || crc32fast::hash(&bytes[..16]) != u32_at(bytes, 16) {
        return Found::Bad("the head of a record is wrong");
    }
    let length = u32_at(bytes, 4) as usize;
    let durable = u64::from(u32_at(bytes, 8)) | u64::from(u32_at(bytes, 12)) << 32;
    let Some(body) = bytes.get(HEAD..HEAD + length) else { return Found::Short };
    if crc32fast::hash(body) != u32_at(bytes, 20) {
        return Found::Bad("the checksum of a record is wrong");
    }
    let kind = match body.first() {
        Some(1) => Kind::Tx,
        Some(2) => Kind::Block,
        _ => return Found::Bad("a record is of an unknown kind"),
    };
    Found::Record(Record { kind, payload: &body[1..] }, durable, offset + HEAD + length)
}

/// Calls `each` for every record and returns the valid length.
///
/// `may_be_torn` says whether the file's end may have been cut by a crash: only in the newest file.
/// Errors: offset and reason of the first damage.
pub fn scan<'a>(
    content: &'a [u8],
    may_be_torn: bool,
    mut each: impl FnMut(Record<'a>) -> Result<(), &'static str>,
) -> Result<usize, (usize, String)> {
    let mut offset = 0;
    while offset < content.len() {
        match record_at(content, offset) {
            Found::Record(record, _, next) => {
                each(record).map_err(|reason| (offset, reason.to_string()))?;
                offset = next;
            }
            Found::Short if may_be_torn && !was_durable(content, offset) => return Ok(offset),
            Found::Short => return Err((offset, "the file ends within a record".into())),
            Found::Bad(_) if may_be_torn && never_written(content, offset) => return Ok(offset),
            Found::Bad(reason) => return Err((offset, reason.into())),
        }
    }
    Ok(offset)
}

/// Whether a later record says that the file was durable beyond `offset` when it was written.
fn was_durable(content: &[u8], offset: usize) -> bool {
    let mut at = offset + 1;
    while let Some(found) = content.get(at..).and_then(|rest| rest.windows(4).position(|window| window == MAGIC)) {
        at += found;
        if let Found::Record(_, durable, _) = record_at(content, at)
            && durable > offset as u64
        {
            return true;
        }
        at += 1;
    }
    false
}

/// A power cut can leave the length of a write without its bytes: they read as zeros to the end.
fn never_written(content: &[u8], offset: usize) -> bool {
    const SECTOR: usize = 512;
    let tail = &content[offset..];
    let last = &tail[tail.len().saturating_sub(SECTOR)..];
    last.iter().all(|byte| *byte == 0) && !was_durable(content, offset)
}
