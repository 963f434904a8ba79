//! The whole state after one block, in one checksummed file.

use super::codec::{Malformed, Reader, Writer, get_header, put_header};
use crate::{block::Block, blocks::Blocks, state::State};
use alloy_consensus::Header;
use alloy_primitives::{
    B256, Bytes,
    map::{AddressMap, B256Map, HashMap},
};
use revm::bytecode::Bytecode;
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

const MAGIC: &[u8; 8] = b"PEvSnap2";
/// The form before it named the genesis by its hash only.
const MAGIC_1: &[u8; 8] = b"PEvSnap1";
/// Address, nonce, balance, code hash.
const ACCOUNT_BYTES: usize = 20 + 8 + 32 + 32;
/// Address, key, value.
const SLOT_BYTES: usize = 20 + 32 + 32;
/// Written out in pieces of this size, so that a large state needs no second copy in memory.
const PIECE: usize = 1 << 20;

/// The first block of the chain, and the document that it was made from.
#[derive(Clone)]
pub struct Origin {
    pub digest: B256,
    pub header: Header,
}

/// What a snapshot holds.
pub struct Snapshot {
    pub genesis: B256,
    /// None in the older form.
    pub origin: Option<Origin>,
    pub header: Header,
    /// Hashes of the blocks before it and its own, for BLOCKHASH.
    pub hashes: Vec<(u64, B256)>,
    pub state: State,
}

struct Summed<W> {
    inner: W,
    sum: crc32fast::Hasher,
    written: u64,
}

impl<W: Write> Summed<W> {
    fn flush_piece(&mut self, piece: &mut Writer, least: usize) -> io::Result<()> {
        if piece.0.len() >= least {
            self.sum.update(&piece.0);
            self.inner.write_all(&piece.0)?;
            self.written += piece.0.len() as u64;
            piece.0.clear();
        }
        Ok(())
    }
}

/// Writes the state after the head block, durable when this returns. Returns the size.
pub fn write(path: &Path, origin: &Origin, head: &Block, blocks: &Blocks, state: &State) -> io::Result<u64> {
    let mut size = 0;
    super::write_durably(path, &mut |file: &mut File| {
        let mut out = Summed { inner: BufWriter::new(file), sum: crc32fast::Hasher::new(), written: 0 };
        let mut piece = Writer(Vec::with_capacity(PIECE + 1024));
        piece.raw(MAGIC);
        piece.raw(origin.digest.as_slice());
        put_header(&mut piece, &origin.header);
        put_header(&mut piece, &head.header);
        let hashes: Vec<_> = blocks.hashes().collect();
        piece.u32(hashes.len() as u32);
        for (number, hash) in hashes {
            piece.u64(*number);
            piece.raw(hash.as_slice());
        }
        piece.u64(state.account_count() as u64);
        for (address, info) in state.accounts() {
            piece.raw(address.as_slice());
            piece.info(info);
            out.flush_piece(&mut piece, PIECE)?;
        }
        piece.u64(state.slot_count() as u64);
        for ((address, key), value) in state.slots() {
            piece.raw(address.as_slice());
            piece.word(key);
            piece.word(value);
            out.flush_piece(&mut piece, PIECE)?;
        }
        let codes: Vec<_> = state.codes().collect();
        piece.u64(codes.len() as u64);
        for (_, code) in codes {
            piece.bytes(&code.original_bytes());
            out.flush_piece(&mut piece, PIECE)?;
        }
        out.flush_piece(&mut piece, 0)?;
        let sum = out.sum.clone().finalize();
        out.inner.write_all(&sum.to_le_bytes())?;
        size = out.written + 4;
        out.inner.flush()
    })?;
    Ok(size)
}

/// Reads a snapshot back. Errors: what is wrong with the content.
pub fn read(content: &[u8]) -> Result<Snapshot, Malformed> {
    let (body, sum) = content.split_last_chunk::<4>().ok_or("it is too short")?;
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return Err("its checksum is wrong");
    }
    let mut from = Reader(body);
    let origin = match from.raw(8)?.first_chunk() {
        Some(MAGIC) => Some(Origin { digest: from.hash()?, header: get_header(&mut from)? }),
        Some(MAGIC_1) => None,
        _ => return Err("it is not a snapshot of this version"),
    };
    let genesis = match &origin {
        Some(origin) => origin.header.hash_slow(),
        None => from.hash()?,
    };
    let header = get_header(&mut from)?;
    let hashes = (0..from.u32()?).map(|_| Ok((from.u64()?, from.hash()?))).collect::<Result<_, Malformed>>()?;
    let state = get_state(&mut from)?;
    from.end()?;
    Ok(Snapshot { genesis, origin, header, hashes, state })
}

fn get_state(from: &mut Reader<'_>) -> Result<State, Malformed> {
    // What is left of the file bounds the room that a count may ask for.
    let room = |count: u64, from: &Reader<'_>, each: usize| (count as usize).min(from.0.len() / each);
    let (mut accounts, mut slots, mut codes) = (AddressMap::default(), HashMap::default(), B256Map::default());
    let count = from.u64()?;
    accounts.reserve(room(count, from, ACCOUNT_BYTES));
    for _ in 0..count {
        let address = from.address()?;
        accounts.insert(address, from.info()?);
    }
    let count = from.u64()?;
    slots.reserve(room(count, from, SLOT_BYTES));
    for _ in 0..count {
        let slot = (from.address()?, from.word()?);
        slots.insert(slot, from.word()?);
    }
    for _ in 0..from.u64()? {
        let code = Bytecode::new_legacy(Bytes::copy_from_slice(from.bytes()?));
        codes.insert(code.hash_slow(), code);
    }
    Ok(State::of(accounts, slots, codes))
}
